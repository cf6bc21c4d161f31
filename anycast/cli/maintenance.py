"""The verbs that take the node or a VIP out of service and back: maintenance, drain."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, urlencode

from anycast.cli import client, text
from anycast.cli.exits import ExitCode
from anycast.cli.table import printable, wants_colour

LEEWAY = 1.0  # seconds by which the clocks of two readings may differ
POLL = 0.5  # seconds between two looks with --wait
POLL_QUEUED = 1.0  # seconds between two looks from a place in the queue
RESTART = 60.0  # seconds that an agent has to be started again while a place in the queue is kept
ASKED = 202  # the other nodes are being asked
GIVEN_UP = 0  # no answer of the agent: the place in the queue was given up


def run(path: Path, args: argparse.Namespace) -> int:
    """Raises client.UnreachableError."""
    if args.verb == "drain":
        return _begin(path, args, scope="", temporary=True)
    match args.act:
        case "status":
            return _status(path, args.vip, as_json=args.json)
        case "off":
            return _end(path, args)
        case _:
            return _begin(path, args, scope=args.vip or "", temporary=False)


def _status(path: Path, vip: str | None, *, as_json: bool) -> int:
    answer = client.ask(path, "GET", "/maintenance")
    if not answer.ok:
        return refused(answer)
    entries = [entry for entry in answer.body["maintenance"] if vip is None or entry["scope"] == vip]
    if vip is not None and not entries:
        known = client.read(path, f"/vips/{quote(vip, safe='')}")
        if known.code == 404:
            return refused(known)
    if as_json:
        print_json({"maintenance": entries})
    elif entries:
        print(text.maintenance(entries, colour=wants_colour(sys.stdout)), end="")
    else:
        print("no maintenance" if vip is None else f"{vip}: no maintenance")
    return ExitCode.OK


def _end(path: Path, args: argparse.Namespace) -> int:
    scope = args.vip or ""
    answer = client.command(path, "/maintenance", {"scope": scope, "on": False})
    if not answer.ok:
        return refused(answer)
    code = said(answer, as_json=args.json)
    held = [one for one in answer.body["maintenance"] if one["scope"] == scope]
    for one in held:
        print(f"anycast: {printable(text.still(one))}", file=sys.stderr)
    return code or (ExitCode.NEGATIVE if held else ExitCode.OK)


def _begin(path: Path, args: argparse.Namespace, *, scope: str, temporary: bool) -> int:
    body: dict[str, Any] = {"scope": scope, "on": True, "reason": args.reason}
    if args.now:
        body["now"] = True
    if temporary:
        body["temporary"] = True
    elif args.for_s is not None:
        body["for_s"] = args.for_s
    elif args.until is not None:
        body["until"] = args.until
    if not temporary and args.on_expiry is not None:
        body["on_expiry"] = args.on_expiry
    for option in ("wait_turn", "force"):
        if getattr(args, option, False):
            body[option] = True
    began = time.monotonic()
    answer = client.command(path, "/maintenance", body)
    if answer.code == ASKED:
        answer = Turn(path, body, answer, stream=sys.stderr).wait(args.timeout)
    if not answer.ok:
        return _not_let_go(answer, args)
    if args.timeout is not None:
        args.timeout = max(0.0, args.timeout - (time.monotonic() - began))
    if not args.wait:
        return said(answer, as_json=args.json)
    code = ExitCode.OK
    if not args.json:
        code = said(answer, as_json=False)
        sys.stdout.flush()
    source = "stop" if temporary else "command"
    waited, last = _wait(path, scope, source, timeout=args.timeout, stream=sys.stderr)
    if args.json:
        code = said(client.Answer(code=answer.code, body={**answer.body, **last}), as_json=True)
    return waited or code


def _not_let_go(answer: client.Answer, args: argparse.Namespace) -> int:
    code = refused(answer) if answer.code != GIVEN_UP else ExitCode(answer.body["exit"])
    if answer.code == 409 and not getattr(args, "force", False):
        waits = "" if args.wait_turn else "--wait-turn queues; "
        print(f"anycast: {waits}--force leaves without asking the other nodes", file=sys.stderr)
    return code


class Turn:
    """The turn that is asked for. The place is kept by asking again, by an agent that was started meanwhile as well."""

    def __init__(self, path: Path, body: dict[str, Any], first: client.Answer, *, stream: TextIO) -> None:
        self._path = path
        self._name = text.scope(body["scope"])
        self._turn = first.body["turn"]
        self._body = {**body, "turn": self._turn["number"]}
        self._asked = time.monotonic() - self._turn["asked_for_s"]
        self._progress = Progress(stream)

    def wait(self, timeout: float | None) -> client.Answer:
        """The answer that is no longer "not yet". Raises client.UnreachableError."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        try:
            while True:
                self._progress.tell(*text.turn(self._name, self._turn))
                if time.monotonic() >= until:
                    return self._leave(f"{self._name}: no turn after {timeout:g} s", ExitCode.NEGATIVE)
                time.sleep(POLL if self._turn["stage"] == "saying" else POLL_QUEUED)
                answer = self._again()
                if answer.code != ASKED:
                    self._progress.end(
                        f"{self._name}: it has the turn"
                    ) if answer.ok else self._progress.close()
                    return answer
                self._turn = answer.body["turn"]
        except KeyboardInterrupt:
            return self._leave(f"interrupted: {self._name} no longer asks", ExitCode.INTERRUPTED)
        except client.UnreachableError:
            self._progress.close()
            raise

    def _again(self) -> client.Answer:
        """An agent that is being started has a while. Raises client.UnreachableError."""
        patience = time.monotonic() + (RESTART if "wait_turn" in self._body else 0.0)
        while True:
            asked = round(time.monotonic() - self._asked, 3)
            try:
                return client.command(self._path, "/maintenance", {**self._body, "asked_for_s": asked})
            except client.UnreachableError:
                if time.monotonic() >= patience:
                    raise
                self._progress.tell("unreachable", f"{self._name}: the agent does not answer; asking again")
                time.sleep(POLL)

    def _leave(self, said: str, code: ExitCode) -> client.Answer:
        """Give the place up, so that those behind need not wait until it is forgotten."""
        scope = self._body["scope"]
        with contextlib.suppress(client.UnreachableError):
            body = {"scope": scope, "on": False, "turn": self._body["turn"]}
            answer = client.command(self._path, "/maintenance", body)
            if any(one["scope"] == scope for one in answer.body.get("maintenance", ())):
                said = f"{self._name}: it has just got its turn, and the maintenance goes on"
        self._progress.end(said)
        return client.Answer(code=GIVEN_UP, body={"exit": int(code)})


def _wait(
    path: Path, scope: str, source: str, *, timeout: float | None, stream: TextIO
) -> tuple[ExitCode, dict[str, Any]]:
    """Until the scope is down. Interrupted, it goes on. Also what the agent told last."""
    progress = Progress(stream)
    began = time.monotonic()
    last: dict[str, Any] = {}
    name = text.scope(scope)
    try:
        while True:
            answer = client.ask(path, "GET", "/maintenance")
            if not answer.ok:
                progress.close()
                return ExitCode(refused(answer)), last
            entries = answer.body["maintenance"]
            found = [one for one in entries if (one["scope"], one["source"]) == (scope, source)]
            waited = time.monotonic() - began
            last = {"maintenance": entries, "waited_s": round(waited, 3)}
            if not found:
                progress.end(f"{name}: {ended(path, scope, began)}")
                return ExitCode.NEGATIVE, last
            (entry,) = found
            last |= {key: entry[key] for key in ("stage", "stage_since", "stage_since_s", "stage_left_s")}
            last["packets_per_s"] = entry["packets_per_s"]
            if entry["stage"] == "down":
                progress.end(text.is_down(entry, waited))
                return ExitCode.OK, last
            if timeout is not None and waited >= timeout:
                progress.end(f"{name}: still {entry['stage']} after {waited:.0f} s; the maintenance goes on")
                return ExitCode.NEGATIVE, last
            progress.tell(entry["stage"], text.progress(entry))
            time.sleep(POLL if timeout is None else min(POLL, max(0.0, timeout - waited)))
    except KeyboardInterrupt:
        end = f"anycast maintenance off{f' --vip {scope}' if scope else ''}"
        progress.end(f"interrupted: the maintenance goes on ({name}; `{end}` ends it)")
        return ExitCode.INTERRUPTED, last


def ended(path: Path, scope: str, began: float, *, what: str = "maintenance") -> str:
    """Who has ended it since the instant `began`, and when, by the events of the node."""
    waited = time.monotonic() - began
    query = urlencode({"since": round(time.time() - waited - LEEWAY, 3)})
    try:
        answer = client.read(path, f"/events?{query}")
    except client.UnreachableError:
        return f"somebody has ended the {what}"
    for event in reversed(answer.body.get("events", [])):
        fields, at = event["fields"], f"{event['time'][:19]}Z"
        if event["event"] == "maintenance.ended" and fields.get("scope") == (scope or "node"):
            who = printable(str(fields.get("by") or ""))
            return (
                f"{who} has ended the {what} at {at}"
                if who
                else f"the {what} has ended at {at}: {fields['why']}"
            )
        if event["event"] == "agent.started":
            return f"the agent was started again at {at}, and the {what} is over"
    return f"somebody has ended the {what}"


class Progress:
    """One line that is written anew on a terminal; elsewhere one line for each stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._stage = ""
        self._open = False

    def tell(self, stage: str, line: str) -> None:
        if self._terminal:
            self._stream.write(f"\r{printable(line)}\x1b[K")
            self._open = True
        elif stage != self._stage:
            self._stream.write(f"{printable(line)}\n")
        self._stage = stage
        self._stream.flush()

    def end(self, line: str) -> None:
        """The last word."""
        self._stream.write(("\r\x1b[K" if self._open else "") + f"{printable(line)}\n")
        self._open = False
        self._stream.flush()

    def close(self) -> None:
        if self._open:
            self._stream.write("\n")
            self._open = False


def said(answer: client.Answer, *, as_json: bool) -> ExitCode:
    """Tell what a change of maintenance did; whether it was saved is the exit code."""
    if as_json:
        print_json(answer.body)
    else:
        print(text.maintenance_set(answer.body), end="")
    if not answer.body["error"]:
        return ExitCode.OK
    then = (
        "is in force, but not after a restart"
        if answer.body["on"]
        else "has ended, but a restart may bring it back"
    )
    print(f"not saved: {printable(answer.body['error'])} (it {then})", file=sys.stderr)
    return ExitCode.NEGATIVE


def refused(answer: client.Answer) -> ExitCode:
    print(f"anycast: {printable(answer.error)}", file=sys.stderr)
    return ExitCode.USAGE if answer.code == 400 else ExitCode.NEGATIVE


def print_json(body: dict[str, Any]) -> None:
    print(json.dumps(body, indent=2))
