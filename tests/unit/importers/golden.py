"""Sources beside the configuration and the report that are expected of them.

ANYCAST_GOLDEN=write writes what comes out in their place: look at the difference before it is committed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from anycast.importers.importing import Source, finished, lines_of
from anycast.importers.model import Place
from anycast.importers.read import read
from anycast.importers.report import Report

FOLDER = Path(__file__).parent


def imported(source: Source | None, *names: str) -> tuple[str, str]:
    """The configuration and the report. Paths are relative to this folder, which is to be the current one."""
    paths = [Path(name) for name in names]
    report = Report()
    done = finished(*read(source, paths, report), report, Place(names[0]))
    return done.text, "\n".join(list(lines_of(report))[1:]) + "\n"


def check(source: Source, name: str, files: Sequence[str]) -> None:
    """`name`: of what is expected, without its end."""
    text, report = imported(source, *files)
    for end, found in ((".yaml", text), (".report", report)):
        expected = FOLDER / f"{name}{end}"
        if os.environ.get("ANYCAST_GOLDEN") == "write":
            expected.write_text(found)
        assert found == expected.read_text()
