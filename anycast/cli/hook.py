"""`anycast hook test`: one run of a hook, here and now."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime

from anycast import __version__
from anycast.cli.configuration import report
from anycast.cli.exits import ExitCode
from anycast.cli.table import printable
from anycast.config.problem import ConfigError
from anycast.core.hooks import Command
from anycast.core.names import nearest
from anycast.notify.notice import SAMPLE, payload
from anycast.notify.run import run as run_hook


def run(args: argparse.Namespace) -> int:
    from anycast.config.load import load

    try:
        config = load(args.config, node=args.node).config
    except ConfigError as error:
        return report(error, args.config)
    hook = next((one for one in config.hooks if one.name == args.name), None)
    if hook is None:
        names = ", ".join(one.name for one in config.hooks)
        known = f"it has {names}" if names else "it has none"
        if near := nearest(args.name, [one.name for one in config.hooks]):
            known = f"did you mean {near}? {known}"
        print(f"anycast: no hook {printable(args.name)} in {args.config}: {known}", file=sys.stderr)
        return ExitCode.NEGATIVE
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    told = payload(replace(SAMPLE, time=now), hook=hook.name, node=config.node.name, test=True)
    began = time.monotonic()
    outcome = asyncio.run(run_hook(hook, told, agent=f"anycast/{__version__}"))
    seconds = time.monotonic() - began
    if args.json:
        body = {
            "hook": hook.name,
            "result": outcome.ending,
            "detail": outcome.why,
            "seconds": round(seconds, 3),
        }
        print(json.dumps({**body, "payload": told}, indent=2))
    else:
        kind = "command" if isinstance(hook.action, Command) else "webhook to"
        print(f"hook {hook.name}: {kind} {hook.action}")
        print(json.dumps(told, indent=2))
        print(f"{outcome.ending} after {seconds:.3f} s: {printable(outcome.why)}")
    return ExitCode.OK if outcome.ok else ExitCode.NEGATIVE
