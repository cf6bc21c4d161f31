"""The verbs about configuration files: check, schema. They need neither root nor network."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import stat
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from anycast.cli.exits import ExitCode
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


def _check(args: argparse.Namespace) -> int:
    file, as_json = args.file, args.json
    try:
        loaded, contents = _loaded(file)
    except ConfigError as error:
        return report_json(error, file) if as_json else report(error, file)
    counts = _counts(loaded.config)
    found = (problem for needed in loaded.paths if (problem := _missing(needed)) is not None)
    lacking = list(itertools.islice(found, TOLD))
    order = {name: place for place, name in enumerate(loaded.files)}
    warnings = sorted((*loaded.warnings, *lacking), key=lambda one: (order[one.mark.file], one.mark))
    told = [_problem(warning) for warning in warnings] if as_json else []
    document = {"file": str(file), "ok": True, "problems": [], "warnings": told, **counts}
    if not as_json:
        for warning in warnings:
            print(warning.as_warning(), file=sys.stderr)
        words = [_count(number, _NOUNS[name]) for name, number in counts.items()]
        print(f"{named(str(file))}: ok: {', '.join(words)}")
    if args.against_running:
        said = frozenset(map(str, warnings))
        return _against_running(args, document, pieces(loaded, contents), said)
    if as_json:
        print(json.dumps(document, indent=2))
    return ExitCode.OK


def _loaded(file: Path) -> tuple[Loaded, Contents]:
    """With the texts. Raises ConfigError."""
    from anycast.config.load import load_with_texts, loads
    from anycast.config.reader import MAX_BYTES

    if file != _STDIN:
        return load_with_texts(file)
    # One byte more than there may be is a mistake like any other.
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    return loads(data, "stdin"), [("stdin", data)]


def _against_running(
    args: argparse.Namespace, document: dict[str, object], texts: Iterable[bytes], said: Collection[str]
) -> int:
    """`said`: warnings that stand above already."""
    from anycast.cli import client, planned

    try:
        answer = planned.ask(args.socket, allow_removal=args.allow_removal, texts=texts)
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
    end = _expiry(text) if needed.use == "certificate" else None
    if end is not None and end < time.time():
        return problem(f"the certificate in {needed.name} has expired", "renew it")
    return None


def _expiry(text: str) -> float | None:
    """When the first certificate of a PEM file runs out, in seconds since the epoch."""
    import ssl

    from anycast.probes.certificate import not_after

    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    _, found, rest = text.partition(begin)
    try:
        return not_after(ssl.PEM_cert_to_DER_cert(f"{begin}{rest.partition(end)[0]}{end}")) if found else None
    except ValueError:
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
    }


def _counts(config: Config) -> dict[str, int]:
    services = [service for vip in config.vips for service in vip.services]
    return {
        "vips": len(config.vips),
        "services": len(services),
        "real_servers": len({server.addresses for one in services for server in one.pool.servers}),
        "neighbors": len(config.bgp.neighbors),
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
