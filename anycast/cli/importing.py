"""The verb import: another program's configuration as ours, with a report of every line. It replaces no file unasked."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from anycast import whole_file
from anycast.cli.exits import ExitCode
from anycast.cli.table import printable
from anycast.importers.importing import Imported, Source, finished, lines_of
from anycast.importers.model import Place, Setup
from anycast.importers.read import read
from anycast.importers.report import Fate, Report
from anycast.importers.services import with_mh
from anycast.importers.source import SourceError

_STDOUT = Path("-")
_MODE = 0o640  # it may hold what is not for everybody


def run(args: argparse.Namespace) -> int:
    report = Report()
    to_file = args.output not in (None, _STDOUT)
    if to_file and os.path.lexists(args.output) and not args.force:
        return _refused(
            f"{args.output} is there already and stays as it is (name another file, or write --force)"
        )
    if to_file and any(_is_same(Path(word), args.output) for word in args.what):
        return _refused(f"{args.output} is what is read, and stays as it is (name another file)")
    try:
        source, setup, place = _read(args, report)
        if args.mh:
            setup = with_mh(setup, report)
        done = finished(source, setup, report, place)
    except SourceError as error:
        report.left_out(None, "not carried over: nothing of the source is")
        _show(report, sys.stderr)
        print(f"anycast import: {printable(str(error))}", file=sys.stderr)
        return ExitCode.CONFIG
    impossible = report.count(Fate.IMPOSSIBLE)
    refused = args.strict and impossible > 0
    if args.json:
        print(json.dumps(_document(done, report), indent=2))
    else:
        _show(report, sys.stdout if to_file and not refused else sys.stderr)
        for warning in done.warnings:
            told = replace(warning, mark=replace(warning.mark, file=str(args.output))) if to_file else warning
            print(told.as_warning(), file=sys.stderr)
    if refused:
        lines = "1 line" if impossible == 1 else f"{impossible:,} lines"
        return _refused(f"nothing is written, for {lines} cannot be carried over (or leave --strict out)")
    if to_file:
        return _write(args.output, done, force=args.force, quiet=args.json)
    if not args.json:
        print(done.text, end="")
    return ExitCode.OK


def _read(args: argparse.Namespace, report: Report) -> tuple[Source, Setup, Place]:
    """What is named on the command line. Raises SourceError."""
    words: list[str] = args.what
    addresses = [str(one) for one in args.address or ()]
    first, *rest = words
    source = Source(first.lower()) if first.lower() in list(Source) else None
    files = [Path(word) for word in (words if source is None else rest)]
    if source is Source.IPVS and not files:
        return source, _running(report, addresses), Place("the running kernel")
    if not files:
        raise SourceError(Place(first), "no file is named", f"write the files of {first} behind it")
    return *read(source, files, report, addresses), Place(str(files[0]))


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return False


def _refused(why: str) -> int:
    print(f"anycast import: {printable(why)}", file=sys.stderr)
    return ExitCode.NEGATIVE


def _show(report: Report, stream: TextIO) -> None:
    for line in lines_of(report):
        print(line, file=stream)


def _write(file: Path, done: Imported, *, force: bool, quiet: bool) -> int:
    try:
        if force:
            whole_file.replace(file, done.text, lambda descriptor: os.fchmod(descriptor, _MODE))
        else:
            whole_file.create(file, done.text, _MODE)
    except OSError as error:
        return _refused(f"{file} cannot be written: {error.strerror} (name another file)")
    if not quiet:
        words = [
            _count(number, noun)
            for number, noun in zip(done.counts, ("VIP", "service", "real server"), strict=True)
        ]
        print(
            f"\n{file}: {', '.join(words)}. `anycast check {file}` says what is wrong with it, `anycast doctor` what the node needs."
        )
    return ExitCode.OK


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _document(done: Imported, report: Report) -> dict[str, object]:
    vips, services, servers = done.counts
    return {
        "source": str(done.source),
        "vips": vips,
        "services": services,
        "real_servers": servers,
        "lines": [
            {"fate": note.fate.name.lower(), "text": note.text, "file": place.file, "line": place.line}
            for note in report.notes()
            for place in note.places
        ],
        "warnings": [str(warning) for warning in done.warnings],
        "configuration": done.text,
    }


def _running(report: Report, addresses: list[str]) -> Setup:
    """Raises SourceError."""
    from anycast.importers.ipvs.kernel import KERNEL, setup_of
    from anycast.kernel.errors import KernelUnavailable
    from anycast.kernel.ipvs import Ipvs

    ipvs = Ipvs()
    try:
        found = asyncio.run(ipvs.read())
    except KernelUnavailable as error:
        raise SourceError(KERNEL, error.reason, "or name a file of `ipvsadm-save -n`") from None
    finally:
        ipvs.close()
    return setup_of(found.table, found.timeouts, found.sync.values(), report, addresses)
