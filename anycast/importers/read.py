"""Files of whatever source to a setup."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anycast.core.names import listed
from anycast.importers.detect import detect
from anycast.importers.importing import Source
from anycast.importers.model import Place, Setup
from anycast.importers.report import Report
from anycast.importers.source import Files, SourceError


def read(
    source: Source | None, paths: Sequence[Path], report: Report, addresses: Sequence[str] = ()
) -> tuple[Source, Setup]:
    """`source` None: what the files look like. `addresses`: of what the files give none. Raises SourceError."""
    found = source or _detected(paths)
    match found:
        case Source.KEEPALIVED:
            from anycast.importers.keepalived import read as keepalived

            return found, keepalived.read(paths, report, addresses)
        case Source.IPVS:
            from anycast.importers.ipvs import save

            return found, save.read(paths, report, addresses)
        case Source.EXABGP:
            from anycast.importers.exabgp import read as exabgp

            return found, exabgp.read(paths, report, addresses)
        case Source.ANYCAST_HEALTHCHECKER:
            from anycast.importers.anycast_healthchecker import read as healthchecker

            return found, healthchecker.read(paths, report)
        case Source.LDIRECTORD:
            from anycast.importers.ldirectord import read as ldirectord

            return found, ldirectord.read(paths, report, addresses)


def _detected(paths: Sequence[Path]) -> Source:
    files = Files(Report())
    found = {detect(files.text(path)) for path in paths} - {None}
    if len(found) == 1 and (source := found.pop()) is not None:
        return source
    what = (
        "it is not seen what these files are of"
        if not found
        else f"the files are of several programs: {listed(sorted(map(str, found)))}"
    )
    raise SourceError(
        Place(str(paths[0])), what, f"write the source before them: {listed([str(one) for one in Source])}"
    )
