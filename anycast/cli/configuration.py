"""The verbs about configuration files: check, schema. They need neither root nor network."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from anycast.cli.exits import ExitCode
from anycast.cli.parser import default_config
from anycast.config.every import Every
from anycast.config.files import read_regular
from anycast.config.kept import pieces
from anycast.config.needed import missing_program
from anycast.config.problem import TOLD, ConfigError, NeededPath, Problem, named

if TYPE_CHECKING:
    from anycast.config.kept import Contents
    from anycast.config.loaded import Loaded
    from anycast.core.values.configuration import Config


_LARGEST = 4 * 1024 * 1024  # bytes of a file that a check needs: all authorities of a distribution are 0.3
_STDIN = Path("-")
_NOUNS = {"vips": "VIP", "services": "service", "real_servers": "real server", "neighbors": "neighbor"}


def run(args: argparse.Namespace) -> int:
    match args.verb:
        case "check":
            return _check(args)
        case _:
            from anycast.config.schema.json_schema import schema_text

            print(schema_text(), end="")
            return ExitCode.OK


def report(error: ConfigError, file: Path) -> int:
    """Every problem on a line of its own, the lines that would be right, and the count, on standard error.

    Returns the exit code. The same lines are shown once.
    """
    shown = {""}
    for problem in error.problems:
        print(problem, file=sys.stderr)
        if problem.lines not in shown:
            shown.add(problem.lines)
            print("\n".join(f"    {line}" for line in problem.lines.split("\n")), file=sys.stderr)
    print(f"{named(str(file))}: {error.count}", file=sys.stderr)
    return ExitCode.CONFIG


def report_json(error: ConfigError, file: Path) -> int:
    """As `report`, as a document on standard output."""
    problems = [_problem(problem) for problem in error.problems]
    print(json.dumps({"file": str(file), "ok": False, "problems": problems}, indent=2))
    return ExitCode.CONFIG


class _Nodes:
    """What `check` tells of the nodes of a file, as they come by. It holds the configuration of one."""

    def __init__(self, hostname: str) -> None:
        self._hostname = hostname
        self.loaded: Loaded | None = None  # this machine's, or the first
        self._here = False
        self._neighbors: set[object] = set()
        self._needed: dict[NeededPath, None] = {}

    def look(self, loaded: Loaded) -> None:
        here = loaded.config.node.name.lower() in (
            self._hostname.lower(),
            self._hostname.partition(".")[0].lower(),
        )
        if self.loaded is None or here:
            self.loaded = loaded
        self._here = self._here or here
        self._neighbors.update(one.address for one in loaded.config.bgp.neighbors)
        self._needed.update(dict.fromkeys(loaded.paths))

    def needed(self) -> Iterable[NeededPath]:
        """The files that must be on this machine; of all nodes where it is none of them."""
        assert self.loaded is not None  # noqa: S101 - one was looked at
        return self.loaded.paths if self._here else self._needed

    def counts(self) -> dict[str, int]:
        assert self.loaded is not None  # noqa: S101 - one was looked at
        return {**_counts(self.loaded.config), "neighbors": len(self._neighbors)}


def _check(args: argparse.Namespace) -> int:
    file, as_json = args.config or args.file or default_config(), args.json
    nodes = _Nodes(socket.gethostname())
    try:
        every, contents = _loaded(file, nodes, args.node)
    except ConfigError as error:
        return report_json(error, file) if as_json else report(error, file)
    counts = nodes.counts()
    found = (problem for needed in nodes.needed() if (problem := _missing(needed)) is not None)
    lacking = list(itertools.islice(found, TOLD))
    order = {name: place for place, name in enumerate(every.files)}
    warnings = sorted((*every.warnings, *lacking), key=lambda one: (order[one.mark.file], one.mark))
    told = [_problem(warning) for warning in warnings] if as_json else []
    document = {
        "file": str(file),
        "ok": True,
        "problems": [],
        "warnings": told,
        **counts,
        "nodes": list(every.names),
        "fingerprint": every.fingerprint,
    }
    if not as_json:
        for warning in warnings:
            print(warning.as_warning(), file=sys.stderr)
        words = [_count(number, _NOUNS[name]) for name, number in counts.items()]
        print(f"{named(str(file))}: ok: {', '.join([*_fleet(every, args.node), *words])}")
    if args.against_running:
        assert nodes.loaded is not None  # noqa: S101 - one was looked at
        said = frozenset(map(str, warnings))
        return _against_running(args, document, pieces(nodes.loaded, contents), said)
    if as_json:
        print(json.dumps(document, indent=2))
    return ExitCode.OK


def _fleet(every: Every, node: str | None) -> list[str]:
    if not every.names:
        return []
    which = _count(len(every.names), "node") if node is None else f"node {node}"
    return [f"configuration {every.fingerprint}", which]


def _loaded(file: Path, nodes: _Nodes, node: str | None) -> tuple[Every, Contents]:
    """With the texts. `node`: this one alone. Raises ConfigError."""
    from anycast.config.load import load_every, load_with_texts, loads, loads_every
    from anycast.config.reader import MAX_BYTES

    if file != _STDIN:
        if node is None:
            return load_every(file, nodes.look)
        loaded, contents = load_with_texts(file, node=node)
    else:
        # One byte more than there may be is a mistake like any other.
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
        contents = [("stdin", data)]
        if node is None:
            return loads_every(data, nodes.look, "stdin"), contents
        loaded = loads(data, "stdin", node=node)
    nodes.look(loaded)
    return Every.of(loaded), contents


def _against_running(
    args: argparse.Namespace, document: dict[str, object], texts: Iterable[bytes], said: Collection[str]
) -> int:
    """`said`: warnings that stand above already."""
    from anycast.cli import client, planned

    try:
        answer = planned.ask(args.socket, allow_removal=args.allow_removal, texts=texts, node=args.node)
    except client.UnreachableError as error:
        print(f"anycast: {error}", file=sys.stderr)
        return ExitCode.UNREACHABLE
    return planned.show(answer, document, as_json=args.json, said=said)


def _missing(needed: NeededPath) -> Problem | None:
    """What a check or a hook would lack if this machine were the node."""

    def problem(what: str, do: str) -> Problem:
        return Problem(needed.mark, needed.path, what, do)

    if needed.use in ("program", "hook"):
        return missing_program(needed)
    from anycast.certificate import expiry
    from anycast.render.passwords import unusable

    try:
        text = read_regular(Path(needed.name), _LARGEST).decode("ascii", "replace")
    except OSError as error:
        if needed.use == "password" and isinstance(error, PermissionError):
            return None  # root reads it, and nobody else need
        what = f"{needed.name} cannot be read on this machine: {error.strerror}"
        reader = "root alone" if needed.use == "password" else "the agent"
        return problem(what, f"put it on the node, readable for {reader}")
    if needed.use == "password":
        if why := unusable(text.strip()):
            return problem(f"{needed.name} has no password that can be used: {why}", "write one into it")
        if os.stat(needed.name).st_mode & stat.S_IROTH:
            return problem(
                f"everybody on this machine can read {needed.name}", "chmod 600: root reads it alone"
            )
    end = expiry(text) if needed.use == "certificate" else None
    if end is not None and end < time.time():
        return problem(f"the certificate in {needed.name} has expired", "renew it")
    return None


def _problem(problem: Problem) -> dict[str, object]:
    return {
        "file": problem.mark.file,
        "line": problem.mark.line,
        "column": problem.mark.column,
        "path": list(problem.path),
        "what": problem.what,
        "do": problem.do,
        "lines": problem.lines,
        "nodes": list(problem.nodes),
    }


def _counts(config: Config) -> dict[str, int]:
    services = [service for vip in config.vips for service in vip.services]
    return {
        "vips": len(config.vips),
        "services": len(services) + sum(len(vip.local) for vip in config.vips),
        "real_servers": len(
            {server.addresses for one in services for pool in one.pools for server in pool.servers}
        ),
        "neighbors": len(config.bgp.neighbors),
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
