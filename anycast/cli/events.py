"""The verbs events and why."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from anycast.cli import client, text
from anycast.cli.exits import ExitCode
from anycast.cli.table import printable, wants_colour

AGAIN = 1.0  # seconds until an agent that has gone is asked again, with --follow


def why(path: Path, args: argparse.Namespace) -> int:
    """0: it is announced, 1: it is not, or there is no such VIP."""
    answer = client.read(path, f"/vips/{quote(args.vip, safe='')}/why")
    if not answer.ok:
        print(f"anycast: {printable(answer.error)}", file=sys.stderr)
        return ExitCode.NEGATIVE
    if args.json:
        print(json.dumps(answer.body, indent=2))
    else:
        print(text.why(answer.body, colour=wants_colour(sys.stdout)), end="")
    return ExitCode.OK if answer.body["announced"] else ExitCode.NEGATIVE


def events(path: Path, args: argparse.Namespace) -> int:
    query: dict[str, Any] = {}
    if args.since is not None:
        query["since"] = args.since
    if args.vip is not None:
        query["vip"] = args.vip
    answer = client.read(path, f"/events?{urlencode(query)}" if query else "/events")
    if not answer.ok:
        print(f"anycast: {printable(answer.error)}", file=sys.stderr)
        return ExitCode.USAGE if answer.code == 400 else ExitCode.NEGATIVE
    for event in answer.body["events"]:
        _show(event, args)
    if args.follow:
        sys.stdout.flush()
        _follow(path, args, query, answer.body["newest"])
    return ExitCode.OK


def _follow(path: Path, args: argparse.Namespace, query: dict[str, Any], seen: int) -> None:
    """For ever, and over restarts of the agent: events go on where they were."""
    told = False
    while True:
        try:
            for event in client.stream(path, f"/events?{urlencode({**query, 'after': seen})}"):
                told = False
                seen = event["id"]
                _show(event, args)
                sys.stdout.flush()
            error = "the stream has ended"
        except client.UnreachableError as unreachable:
            error = str(unreachable)
        if not told:
            told = True
            print(f"anycast: {error}; waiting for it", file=sys.stderr)
        time.sleep(AGAIN)


def _show(event: dict[str, Any], args: argparse.Namespace) -> None:
    if args.json:
        print(json.dumps(event))
    else:
        print(text.event(event, colour=wants_colour(sys.stdout)))
