"""The verb status: once, again and again, or for Nagios."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO, TypeAlias

from anycast.cli import client, nagios, text
from anycast.cli.exits import ExitCode
from anycast.cli.overview import everything, matching, overview
from anycast.cli.table import printable, wants_colour
from anycast.core.names import nearest

_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_HOME, _REST_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def run(path: Path, args: argparse.Namespace) -> int:
    """Raises client.UnreachableError, unless the status is watched or for Nagios: there that is an answer too."""
    if args.nagios:
        return _nagios(path)
    wanted = _Wanted.of(args)
    if args.watch is not None:
        return watch(partial(_look, path, wanted, compact=True), args.watch, as_json=wanted.as_json)
    return once(partial(_look, path, wanted))


Shown: TypeAlias = tuple[int, str, str]
"""Exit code, what to show, and what is wrong."""


def once(look: Callable[[], Shown]) -> int:
    code, shown, error = look()
    print(shown, end="")
    print(error, end="", file=sys.stderr)
    return code


def unknown(why: str) -> int:
    """For Nagios: nothing can be said."""
    state, line = nagios.unknown(why)
    print(line)
    return state


def _nagios(path: Path) -> int:
    try:
        answer = client.read(path, "/status")
    except client.UnreachableError as error:
        return unknown(str(error))
    if not answer.ok:
        return unknown(answer.error)
    state, line = nagios.report(answer.body)
    print(line)
    return state


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be shown. `vips`: patterns of names; empty: all of them."""

    as_json: bool
    all: bool
    vips: tuple[str, ...]

    @classmethod
    def of(cls, args: argparse.Namespace) -> _Wanted:
        return cls(as_json=args.json, all=args.all, vips=tuple(args.vip))


def _no_vip(wanted: Sequence[str], vips: Sequence[Mapping[str, Any]]) -> str:
    near = nearest(wanted[0], [vip["name"] for vip in vips])
    return f"there is no VIP {', '.join(wanted)}" + (f" (did you mean {near}?)" if near else "")


def _look(path: Path, wanted: _Wanted, *, compact: bool = False) -> Shown:
    answer = client.read(path, "/status")
    if not answer.ok:
        return ExitCode.NEGATIVE, "", f"anycast: {printable(answer.error)}\n"
    body = answer.body
    if wanted.vips:
        found = matching(body["vips"], wanted.vips)
        if not found:
            return ExitCode.NEGATIVE, "", f"anycast: {printable(_no_vip(wanted.vips, body['vips']))}\n"
        body = {**body, "vips": found}
    if wanted.as_json:
        return ExitCode.OK, json.dumps(body, indent=None if compact else 2) + "\n", ""
    shown = everything(body["vips"]) if wanted.all or wanted.vips else overview(body["vips"])
    return ExitCode.OK, text.status(body, colour=wants_colour(sys.stdout), shown=shown), ""


def watch(look: Callable[[], Shown], seconds: float, *, as_json: bool) -> int:
    """Until it is interrupted, which is how it ends. An agent that does not answer is shown, and asked again."""
    screen = sys.stdout.isatty() and not as_json
    try:
        if screen:
            sys.stdout.write(_NO_WRAP)
        while True:
            try:
                _, shown, error = look()
            except client.UnreachableError as unreachable:
                shown, error = "", f"anycast: {unreachable}\n"
            if screen:
                _redraw(sys.stdout, f"{time.strftime('%H:%M:%SZ', time.gmtime())}\n{shown}{error}")
            else:
                # Not a screen: one after the other, in JSON one on each line.
                print(shown if as_json or not shown else f"{shown}\n", end="", flush=True)
                print(error, end="", file=sys.stderr, flush=True)
            time.sleep(seconds)
    except KeyboardInterrupt:
        return ExitCode.OK
    finally:
        if screen:
            sys.stdout.write(f"{_WRAP}\n")
            sys.stdout.flush()


def _redraw(screen: TextIO, shown: str) -> None:
    """Over what is there, in one write: nothing flickers. What does not fit is counted instead of scrolled."""
    import shutil

    height = shutil.get_terminal_size().lines - 1
    lines = shown.splitlines()
    if len(lines) > height:
        lines = [*lines[: height - 1], f"... {len(lines) - height + 1} more lines"]
    screen.write(_HOME + "".join(f"{line}{_REST_OF_LINE}\n" for line in lines) + _BELOW)
    screen.flush()
