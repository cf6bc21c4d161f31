"""From a parsed command line to the verb that carries it out."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading

from anycast.cli.exits import ExitCode
from anycast.cli.parser import lacking, options, parser
from anycast.cli.table import ColourWhen, choose_colour
from anycast.core.names import nearest
from anycast.priority import keep_to_itself


def run(argv: list[str]) -> int:
    args, surplus = parser().parse_known_args(argv)
    if surplus:
        args.command.error(_surplus(args, surplus))
    if (lack := lacking(args)) is not None:
        args.command.error(lack)
    choose_colour(ColourWhen(getattr(args, "color", ColourWhen.AUTO)))
    try:
        code = _dispatch(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader (`| head`) has what it wants. The interpreter flushes once more at its end: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    return code


def _import_structlog() -> None:
    """Without the library `rich`, which it would import for the colours of a console that an agent does not have."""
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]


def _surplus(args: argparse.Namespace, words: list[str]) -> str:
    named = args.verb == "maintenance" and not words[0].startswith("-")
    verb = f"{args.verb} {args.act}" if args.verb in ("maintenance", "hook") else args.verb
    hint = "a VIP is named with --vip" if named else f"see `anycast {verb} --help`"
    if near := nearest(words[0].partition("=")[0], options(args.command)) if words[0][:1] == "-" else None:
        hint = f"did you mean {near}?"
    return f"unrecognized arguments: {' '.join(words)} ({hint})"


def _dispatch(args: argparse.Namespace) -> int:
    match args.verb:
        case "agent":
            # What imports make stays: to look for garbage in it, again and again, takes a quarter of their time. The agent
            # enables it again.
            gc.disable()
            keep_to_itself()
            # A fork reads the file while this process imports the rest of what an agent is made of. The core is part of both.
            import anycast.core.step  # noqa: F401
            from anycast.config.apart import Reading

            reading = Reading(args.config, fork=threading.active_count() == 1, node=args.node)
            _import_structlog()
            from anycast.agent.main import run as run_agent

            return run_agent(
                args.config,
                args.record,
                reading,
                strict=args.strict,
                state_dir=args.state_dir,
                node=args.node,
            )
        case "check" | "schema":
            from anycast.cli import configuration

            return configuration.run(args)
        case "init":
            from anycast.cli import init

            return init.run(args)
        case "import":
            from anycast.cli import importing

            return importing.run(args)
        case "budget":
            from anycast.cli import budget

            return budget.run(args)
        case "plan":
            from anycast.cli import plan

            return plan.run(args)
        case "simulate":
            from anycast.cli import simulate

            return simulate.run(args)
        case "render":
            from anycast.cli import render

            return render.run(args)
        case "hook":
            from anycast.cli import hook

            return hook.run(args)
        case "doctor":
            from anycast.cli import doctor

            return doctor.run(args)
        case "probe":
            from anycast.cli import probe

            return probe.run(args)
        case (
            "maintenance"
            | "drain"
            | "status"
            | "fleet"
            | "why"
            | "events"
            | "reload"
            | "drain-server"
            | "undrain-server"
        ):
            from anycast.cli import node

            return node.run(args)
        case "exabgp-reload":
            from anycast.cli import exabgp_reload

            return exabgp_reload.run(args)
        case "bug-report":
            from anycast.cli import bug_report

            return bug_report.run(args)
        case "announce":
            print("anycast announce: put it first, before any option", file=sys.stderr)
            return ExitCode.USAGE
        case _:
            from anycast import __version__

            print(f"anycast {__version__}")
            return ExitCode.OK
