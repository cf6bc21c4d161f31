"""The verbs that talk to the agent: status, fleet, why, events, drain-server, reload, and those of `cli/maintenance.py`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from anycast.cli import client, maintenance, rules, status
from anycast.cli.exits import ExitCode
from anycast.cli.maintenance import refused, said
from anycast.cli.parser import default_config
from anycast.cli.table import duration, printable

POLL = 1.0  # seconds between two looks with --wait
RELOAD_TIMEOUT = 60.0  # seconds; a large configuration is read, compared and applied meanwhile


def run(args: argparse.Namespace) -> int:
    path = args.socket
    if args.config is not None:
        from anycast.cli.configuration import report
        from anycast.config.load import load
        from anycast.config.problem import ConfigError

        try:
            path = Path(load(args.config, node=args.node).config.node.runtime_dir) / "control.sock"
        except ConfigError as error:
            if args.verb == "status" and args.nagios:
                return status.unknown(str(error.problems[0]))
            return report(error, args.config)
    try:
        match args.verb:
            case "status":
                return status.run(path, args)
            case "fleet":
                from anycast.cli import fleet

                return fleet.run(path, args)
            case "reload":
                return _reload(path, args)
            case "drain-server" | "undrain-server":
                return _server(path, args)
            case "why":
                from anycast.cli import events

                return events.why(path, args)
            case "events":
                from anycast.cli import events

                return events.events(path, args)
            case _:
                return maintenance.run(path, args)
    except client.UnreachableError as error:
        print(f"anycast: {error}", file=sys.stderr)
        return ExitCode.UNREACHABLE


def _reload(path: Path, args: argparse.Namespace) -> int:
    if args.dry_run:
        from anycast.cli import planned

        answer = planned.ask(path, allow_removal=args.allow_removal, node=args.node)
        return planned.show(answer, as_json=args.json)
    if args.confirm or args.undo:
        answer = client.command(
            path, "/reload/confirm" if args.confirm else "/reload/undo", timeout=RELOAD_TIMEOUT
        )
    else:
        body: dict[str, Any] = {"allow_removal": True} if args.allow_removal else {}
        if args.confirm_within is not None:
            body["confirm_within_s"] = args.confirm_within
        answer = client.command(path, "/reload", body or None, timeout=RELOAD_TIMEOUT)
    if "problems" not in answer.body:
        return refused(answer)
    for warning in answer.body.get("warnings", []):
        print(f"warning: {printable(warning)}", file=sys.stderr)
    if not answer.ok:
        for problem in answer.body["problems"]:
            print(printable(problem), file=sys.stderr)
        print("not applied: the previous configuration stays in force", file=sys.stderr)
        return ExitCode.CONFIG
    if args.confirm:
        print("confirmed: the configuration stays")
        return ExitCode.OK
    for change in answer.body["changes"] or ["nothing has changed"]:
        print(printable(change))
    if args.undo:
        print("undone: the file still has what was undone, and the next reload applies it", file=sys.stderr)
    elif (left := answer.body.get("confirm_s")) is not None:
        print(
            f"on trial: `anycast reload --confirm` within {duration(round(left))} keeps it, otherwise the configuration before "
            "comes back",
            file=sys.stderr,
        )
    if answer.body["changes"] and not args.undo:  # what was undone is still in the file
        sys.stdout.flush()
        for warning in rules.outdated(args.config or default_config(), node=args.node):
            print(f"warning: {printable(warning)}", file=sys.stderr)
    return ExitCode.OK


def _server(path: Path, args: argparse.Namespace) -> int:
    on = args.verb == "drain-server"
    body: dict[str, Any] = {"scope": args.server, "on": on}
    if on:
        body |= {"reason": args.reason, "force": args.force}
    answer = client.command(path, "/maintenance", body)
    if not answer.ok:
        code = refused(answer)
        if answer.code == 409:
            print("nothing was changed: --force drains it anyway", file=sys.stderr)
        return code
    code = said(answer, as_json=args.json)
    return _wait(path, args) or code if on and args.wait else code


def _wait(path: Path, args: argparse.Namespace) -> int:
    """Until the server has no active connections. Interrupted, the drain goes on."""
    began = time.monotonic()
    while True:
        answer = client.ask(path, "GET", "/maintenance")
        if not answer.ok:
            return refused(answer)
        entry = next((one for one in answer.body["maintenance"] if one["scope"] == args.server), None)
        waited = time.monotonic() - began
        if entry is None:
            why = maintenance.ended(path, args.server, began, what="drain")
            print(f"{args.server}: {why}", file=sys.stderr)
            return ExitCode.NEGATIVE
        if entry["stage"] == "drained":
            print(f"{args.server}: drained after {waited:.0f} s", file=sys.stderr)
            return ExitCode.OK
        print(f"{args.server}: {entry['connections']} active connections, {waited:.0f} s", file=sys.stderr)
        if args.timeout is not None and waited >= args.timeout:
            print(f"{args.server}: not drained yet; the drain goes on", file=sys.stderr)
            return ExitCode.NEGATIVE
        time.sleep(POLL)
