"""The verb status: once, again and again, or for Nagios."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TextIO

from anycast.cli import client, nagios, text
from anycast.cli.exits import ExitCode
from anycast.cli.table import printable, wants_colour

_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_HOME, _REST_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def run(path: Path, args: argparse.Namespace) -> int:
    """Raises client.UnreachableError, unless the status is watched or for Nagios: there that is an answer too."""
    if args.nagios:
        return _nagios(path)
    if args.watch is not None:
        return _watch(path, args.watch, as_json=args.json)
    code, shown, error = _look(path, as_json=args.json)
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


def _look(path: Path, *, as_json: bool, compact: bool = False) -> tuple[int, str, str]:
    """Exit code, what to show, and what is wrong."""
    answer = client.read(path, "/status")
    if not answer.ok:
        return ExitCode.NEGATIVE, "", f"anycast: {printable(answer.error)}\n"
    if as_json:
        return ExitCode.OK, json.dumps(answer.body, indent=None if compact else 2) + "\n", ""
    return ExitCode.OK, text.status(answer.body, colour=wants_colour(sys.stdout)), ""


def _watch(path: Path, seconds: float, *, as_json: bool) -> int:
    """Until it is interrupted, which is how it ends. An agent that does not answer is shown, and asked again."""
    screen = sys.stdout.isatty() and not as_json
    try:
        if screen:
            sys.stdout.write(_NO_WRAP)
        while True:
            try:
                _, shown, error = _look(path, as_json=as_json, compact=True)
            except client.UnreachableError as unreachable:
                shown, error = "", f"anycast: {unreachable}\n"
            if screen:
                _redraw(sys.stdout, f"{time.strftime('%H:%M:%S')}\n{shown}{error}")
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
