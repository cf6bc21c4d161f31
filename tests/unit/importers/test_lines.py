"""The report names every line that says something, whatever it is of."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from anycast.importers.importing import Source
from anycast.importers.read import read
from anycast.importers.report import Report
from tests.unit.importers import golden

SAMPLES = [
    (Source.KEEPALIVED, ["keepalived/language.conf"]),
    (Source.KEEPALIVED, ["keepalived/groups.conf"]),
    (Source.KEEPALIVED, ["keepalived/checkers.conf"]),
    (Source.KEEPALIVED, ["keepalived/odd.conf"]),
    (Source.KEEPALIVED, ["keepalived/pair.conf"]),
    (Source.IPVS, ["ipvs/saved.save"]),
    (Source.IPVS, ["ipvs/script.save"]),
    (Source.EXABGP, ["exabgp/three.conf"]),
    (Source.EXABGP, ["exabgp/five.conf", "exabgp/hc/dns.healthcheck"]),
    (Source.ANYCAST_HEALTHCHECKER, ["anycast-healthchecker/main.conf"]),
    (Source.LDIRECTORD, ["ldirectord/all.cf"]),
]
# Openings of blocks and parts of what is written over several lines: the line that they belong to is named.
_STRUCTURE = (
    "{",
    "}",
    "};",
    "api {",
    "family {",
    "capability {",
    "static {",
    "url {",
    "virtual_ipaddress {",
    "track_script {",
)


def says_something(line: str) -> bool:
    text = re.sub(r"^@\S+\s+", "", line.strip())  # what keepalived reads on one node
    return bool(text) and text[0] not in "#!" and text not in _STRUCTURE and not text.endswith("\\")


@pytest.mark.parametrize(("source", "files"), [pytest.param(*one, id=one[1][0]) for one in SAMPLES])
def test_every_line_is_named(source: Source, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden.FOLDER)
    report = Report()
    read(source, [Path(name) for name in files], report)
    named = {(place.file, place.line) for note in report.notes() for place in note.places}
    unnamed = [
        f"{name}:{number}: {line.strip()}"
        for name in files
        for number, line in enumerate(Path(name).read_text().split("\n"), 1)
        if says_something(line) and (name, number) not in named
    ]
    assert unnamed == []
