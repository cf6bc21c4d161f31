"""`anycast simulate`: what breaks if balancers or real servers go, come, or differ."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from anycast import memory
from anycast.cli.exits import ExitCode
from anycast.cli.table import Cell, Colour, printable, table, wants_colour

if TYPE_CHECKING:
    from anycast.analysis.simulate import Result, Setup


def run(args: argparse.Namespace) -> int:
    try:
        from anycast.analysis.simulate import BYTES, parsed, simulate
    except ModuleNotFoundError as error:
        if error.name != "numpy":
            raise
        return _usage(
            "numpy is needed: pip install 'anycast[simulate]', or on Debian apt install python3-numpy"
        )
    try:
        setup = _setup(args)
        needed, there = setup.flows * BYTES, memory.available()
        if there is not None and needed > there:
            return _usage(
                f"{setup.flows:,} flows take {needed >> 20:,} MiB, and {there >> 20:,} MiB are available (write fewer --flows)"
            )
        servers, steps = len(setup.weights), []
        for text in args.steps:
            step = parsed(text, setup.nodes, servers)
            servers += len(step.which) if step.act == "server-add" else 0
            steps.append(step)
        found = simulate(setup, steps)
    except ValueError as error:
        return _usage(printable(str(error)))
    if args.json:
        print(json.dumps(_document(setup, found), indent=2))
    else:
        print(_text(found, colour=wants_colour(sys.stdout)), end="")
    return ExitCode.OK


def _usage(why: str) -> int:
    print(f"anycast: simulate: {why}", file=sys.stderr)
    return ExitCode.USAGE


def _setup(args: argparse.Namespace) -> Setup:
    """Raises ValueError."""
    from anycast.analysis.simulate import MOST_FLOWS, MOST_NODES, MOST_SERVERS, Router, Scheduler, Setup

    servers = args.servers or len(args.weights or Setup().weights)
    for what, number, most in (
        ("flows", args.flows, MOST_FLOWS),
        ("balancers", args.nodes, MOST_NODES),
        ("real servers", servers, MOST_SERVERS),
    ):
        if not 1 <= number <= most or number != round(number):
            raise ValueError(f"there can be from 1 to {most:,} {what}, not {number:,.15g}")
    weights = args.weights or (1,) * round(servers)
    if len(weights) != servers:
        raise ValueError(f"--weights has {len(weights)} weights for {servers:.0f} real servers")
    if args.node_weights and len(args.node_weights) != args.nodes:
        raise ValueError(
            f"--node-weights has {len(args.node_weights)} weights for {args.nodes:.0f} balancers"
        )
    if args.drifted != round(args.drifted):
        raise ValueError(f"--drifted is a whole number, not {args.drifted:.15g}")
    if args.drifted > args.nodes:
        raise ValueError(f"--drifted {args.drifted:.0f} are more than all {args.nodes:.0f} balancers")
    if args.seed < 0:
        raise ValueError(f"--seed is 0 or more, not {args.seed}")
    if args.fill_again and args.router != Router.RESILIENT:
        raise ValueError(f"--fill-again is of --router {Router.RESILIENT}, not of {args.router}")
    return Setup(
        flows=round(args.flows),
        nodes=round(args.nodes),
        router=Router(args.router),
        node_weights=args.node_weights or (),
        weights=weights,
        scheduler=Scheduler(args.scheduler),
        sync=args.sync,
        sloppy=not args.no_sloppy_tcp,
        drifted=round(args.drifted),
        fill_again=args.fill_again,
        seed=args.seed,
    )


def _share(part: float) -> str:
    return "0" if not part else f"{part:.2%}" if part < 0.1 else f"{part:.1%}"


def _text(found: list[Result], *, colour: bool) -> str:
    rows = [
        (
            one.step,
            str(one.nodes),
            _share(one.moved),
            _share(one.elsewhere),
            Cell(_share(one.broken), Colour.BAD if one.broken else Colour.GOOD),
            _share(one.lost),
            f"{_share(one.least)} to {_share(one.most)}",
        )
        for one in found
    ]
    head = ("STEP", "NODES", "OTHER NODE", "OTHER CHOICE", "BROKEN", "LOST WITH SERVER", "OF A NODE")
    return table(head, rows, colour=colour)


def _document(setup: Setup, found: list[Result]) -> dict[str, object]:
    return {
        "flows": setup.flows,
        "nodes": setup.nodes,
        "router": str(setup.router),
        "scheduler": str(setup.scheduler),
        "servers": len(setup.weights),
        "sync": setup.sync,
        "sloppy_tcp": setup.sloppy,
        "drifted": setup.drifted,
        "seed": setup.seed,
        "steps": [
            {
                "step": one.step,
                "nodes": one.nodes,
                "moved": one.moved,
                "elsewhere": one.elsewhere,
                "broken": one.broken,
                "lost": one.lost,
                "least": one.least,
                "most": one.most,
            }
            for one in found
        ],
    }
