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


def read(source: Source | None, paths: Sequence[Path], report: Report) -> tuple[Source, Setup]:
    """`source` None: what the files look like. Raises SourceError."""
    found = source or _detected(paths)
    match found:
        case Source.KEEPALIVED:
            from anycast.importers.keepalived import read as keepalived

            return found, keepalived.read(paths, report)
        case Source.IPVS:
            from anycast.importers.ipvs import save

            return found, save.read(paths, report)
    raise SourceError(Place(str(paths[0])), "not yet", "wait")


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
