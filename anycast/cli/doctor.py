"""The verb doctor: reads the node, shows what was found, and with --fix writes what is safe."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anycast.cli.exits import ExitCode
from anycast.cli.parser import CONFIG
from anycast.cli.table import Cell, Colour, paint, printable, wants_colour
from anycast.config.problem import ConfigError

if TYPE_CHECKING:
    from anycast.config.loaded import Loaded
    from anycast.core.values.configuration import Config
    from anycast.doctor.facts import Facts
    from anycast.doctor.finding import Finding
    from anycast.doctor.fix import Plan

RUNTIME = "/run/anycast"  # of an agent whose configuration cannot be read
ASK_TIMEOUT = 3.0  # seconds the agent has to say what stands

_COLOURS = {"error": Colour.BAD, "warning": Colour.WARN, "info": Colour.PLAIN}


def run(args: argparse.Namespace, root: Path = Path("/")) -> int:
    """`root`: where the node's files lie."""
    from anycast.cli.configuration import report, report_json

    if args.yes and not args.fix:
        print("anycast doctor: --yes needs --fix", file=sys.stderr)
        return ExitCode.USAGE
    if args.fix and not args.yes and (args.json or not sys.stdin.isatty()):
        print(
            "anycast doctor: --fix asks on a terminal; elsewhere, and with --json, it needs --yes",
            file=sys.stderr,
        )
        return ExitCode.USAGE
    named = args.config or os.environ.get("ANYCAST_CONFIG")
    file = Path(named) if named else root / CONFIG.lstrip("/")
    try:
        loaded = _load(file, named=bool(named), node=args.node)
    except ConfigError as error:
        return report_json(error, file) if args.json else report(error, file)
    config = None if loaded is None else loaded.config
    where = str(file) if config is not None else None
    if where is None and os.path.exists(file):
        print(
            f"anycast doctor: {file} cannot be read (run it as root, or name another file)", file=sys.stderr
        )
    facts, found = _examine(config, args.connections, root)
    if loaded is not None:
        found = (*_not_in_force(loaded, file, root), *found)
    document = _document(facts, where, found)
    if not args.fix:
        _print(document, found, as_json=args.json)
        return _status(found)
    return _fix(args, config, document, found, root)


def _not_in_force(loaded: Loaded, file: Path, root: Path) -> Iterator[Finding]:
    """As far as the files of the agent say it."""
    from anycast.config.kept import FILE, DamagedError, head
    from anycast.doctor.finding import Code, Finding, Severity

    try:
        kept = head(root / loaded.config.node.state_dir.lstrip("/") / FILE)
    except DamagedError:
        return  # this user may not read it; the agent tells of a damage
    if kept is not None and kept.is_of(str(file)) and kept.digest != loaded.digest:
        saved = f"{datetime.fromtimestamp(kept.saved, UTC):%Y-%m-%d %H:%M:%SZ}"
        yield Finding(
            severity=Severity.WARNING,
            code=Code.NOT_IN_FORCE,
            text=f"{file} is not the configuration that was in force last, since {saved}",
            fix="`anycast reload`",
        )


def _load(file: Path, *, named: bool, node: str | None) -> Loaded | None:
    """None: nobody named a file, and there is none that this process may read. Raises ConfigError."""
    from anycast.config.load import load

    if not named and not os.access(file, os.R_OK):
        return None
    return load(file, node=node)


def _examine(config: Config | None, connections: int | None, root: Path) -> tuple[Facts, tuple[Finding, ...]]:
    from anycast.doctor.findings import findings
    from anycast.doctor.gather import gather

    facts = asyncio.run(gather(config, root))
    found = findings(facts, config, connections=connections)
    runtime = RUNTIME if config is None else config.node.runtime_dir
    standing = _standing(root / runtime.lstrip("/"))
    errors = sum(one.severity == "error" for one in found)
    return facts, (*found[:errors], *standing, *found[errors:])


def _standing(runtime: Path) -> tuple[Finding, ...]:
    """What the running agent says is wrong with the node; nothing where none answers: the doctor needs none."""
    from anycast.cli import client
    from anycast.doctor.finding import Code, Finding, Severity

    try:
        answer = client.ask(runtime / client.OPS_SOCKET, "GET", "/status", timeout=ASK_TIMEOUT)
    except client.UnreachableError:
        return ()
    return tuple(
        Finding(severity=Severity.WARNING, code=Code.CONDITION, text=str(one["text"]))
        for one in answer.body.get("standing", ())
    )


def _status(found: Sequence[Finding]) -> int:
    return ExitCode.OK if all(one.severity == "info" for one in found) else ExitCode.NEGATIVE


def _document(facts: Facts, file: str | None, found: Sequence[Finding]) -> dict[str, Any]:
    return {
        "kernel": facts.release,
        "configuration": file,
        "ok": _status(found) == ExitCode.OK,
        "findings": [_one(finding) for finding in found],
    }


def _one(finding: Finding) -> dict[str, Any]:
    return {
        "severity": finding.severity,
        "code": finding.code,
        "text": finding.text,
        "fix": finding.fix or None,
        "automatic": bool(finding.changes),
    }


def _print(document: dict[str, Any], found: Sequence[Finding], *, as_json: bool) -> None:
    print(json.dumps(document, indent=2) if as_json else _text(found, colour=wants_colour(sys.stdout)))


def _text(found: Sequence[Finding], *, colour: bool) -> str:
    lines = [_line(finding, colour=colour) for finding in found]
    counts = Counter(str(finding.severity) for finding in found)
    return "\n".join([*lines, ", ".join(_count(counts[word], word) for word in _COLOURS)])


def _line(finding: Finding, *, colour: bool) -> str:
    word = paint(Cell(str(finding.severity), _COLOURS[finding.severity]), colour=colour)
    fix = f" | fix: {printable(finding.fix)}" if finding.fix else ""
    fix += " (--fix writes it)" if finding.changes else ""
    return f"{word} {finding.code}: {printable(finding.text)}{fix}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 or word == "info" else f"{number} {word}s"


def _fix(
    args: argparse.Namespace,
    config: Config | None,
    document: dict[str, Any],
    found: Sequence[Finding],
    root: Path,
) -> int:
    from anycast.doctor import fix

    if not args.json:
        _print(document, found, as_json=False)
    try:
        plan = fix.plan(found, root)
    except OSError as error:
        print(f"anycast doctor: {error.filename}: {error.strerror}", file=sys.stderr)
        return ExitCode.NEGATIVE
    if not args.json:
        print(fix.shown(plan) if plan else "nothing to write", end="" if plan else "\n")
    if plan and not args.yes and not _agreed():
        print("nothing was written")
        return ExitCode.NEGATIVE
    failures = fix.carry_out(plan, root)
    _, remaining = _examine(config, args.connections, root)
    if args.json:
        print(json.dumps(document | {"fix": _written(plan, failures, remaining)}, indent=2))
    else:
        for failure in failures:
            print(f"anycast doctor: {printable(failure)}", file=sys.stderr)
        if plan:
            print("written; what remains:")
            _print(document, remaining, as_json=False)
    return ExitCode.NEGATIVE if failures else _status(remaining)


def _agreed() -> bool:
    try:
        return input("write this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _written(plan: Plan, failures: Sequence[str], remaining: Sequence[Finding]) -> dict[str, Any]:
    return {
        "files": [{"path": change.path, "content": change.new} for change in plan.files],
        "sysctls": {change.name: change.value for change in plan.sysctls},
        "notes": list(plan.warnings),
        "failures": list(failures),
        "remaining": [_one(finding) for finding in remaining],
    }
