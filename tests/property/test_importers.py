"""Whatever bytes stand in a file that is imported: a configuration that `anycast check` accepts, or what is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anycast.config.load import loads, loads_every
from anycast.importers.importing import Imported, Source, finished
from anycast.importers.model import Place
from anycast.importers.read import read
from anycast.importers.report import Report
from anycast.importers.source import SourceError
from tests import corpus

SAMPLES = Path(__file__).parents[1] / "unit" / "importers"
_ENDS = {
    Source.KEEPALIVED: ("keepalived", ".conf"),
    Source.IPVS: ("ipvs", ".save"),
    Source.EXABGP: ("exabgp", ".conf"),
    Source.ANYCAST_HEALTHCHECKER: ("anycast-healthchecker", ".conf"),
    Source.LDIRECTORD: ("ldirectord", ".cf"),
}
SOURCES = list(_ENDS)


def samples(source: Source) -> list[bytes]:
    folder, end = _ENDS[source]
    return [file.read_bytes() for file in sorted((SAMPLES / folder).rglob(f"*{end}"))]


@st.composite
def mangled(draw: st.DrawFn, source: Source) -> bytes:
    """Lines of samples, in another order, some of them torn, with other bytes between."""
    lines = [line for data in samples(source) for line in data.split(b"\n")]
    picked = draw(st.lists(st.integers(0, len(lines) - 1), max_size=60))
    run = draw(st.integers(0, 25))
    found = [lines[(n + step) % len(lines)] for n in picked for step in range(run)]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(found)))
        found.insert(
            at,
            draw(st.binary(max_size=12) | st.sampled_from([b"{", b"}", b'"', b"[", b"$X", b"~SEQ(A,1,9) x"])),
        )
    cut = draw(st.integers(0, 400))
    text = b"\n".join(found)
    return text[: len(text) - cut] if draw(st.booleans()) else text


def attempt(source: Source, data: bytes, folder: Path) -> None:
    """What comes of it can be used, or is explained."""
    file = folder / "source"
    file.write_bytes(data)
    report = Report()
    done: Imported | None = None
    refused = ""
    try:
        found, setup = read(source, [file], report)
        done = finished(found, setup, report, Place(str(file)))
    except SourceError as error:
        refused = str(error)
    assert (done is None) == refused.startswith(str(file))
    assert refused.isprintable()
    last = data.count(b"\n") + data.count(b"\r") + 1
    for note in report.notes():
        assert note.text.isprintable()
        assert all(place.line <= last for place in note.places if place.file == str(file))
    if done is not None:
        again = (
            loads_every(done.text, lambda _: None)
            if re.search(r"^nodes:", done.text, re.MULTILINE)
            else loads(done.text)
        )
        assert again.fingerprint


@pytest.mark.parametrize("source", SOURCES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=400))
def test_any_bytes_get_an_answer(source: Source, data: bytes, tmp_path: Path) -> None:
    attempt(source, data, tmp_path)


@pytest.mark.parametrize("source", SOURCES)
@settings(
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
    deadline=None,
)
@given(data=st.data())
def test_lines_in_another_order_get_an_answer(source: Source, data: st.DataObject, tmp_path: Path) -> None:
    attempt(source, data.draw(mangled(source)), tmp_path)


@pytest.mark.parametrize("file", [pytest.param(file, id=file.name) for file in corpus.files()])
def test_configurations_of_other_people_get_an_answer(file: Path, tmp_path: Path) -> None:
    source = Source(file.parent.name)
    if source not in SOURCES or file.suffix == ".healthcheck":
        pytest.skip("read with the file that names it")
    attempt(source, file.read_bytes(), tmp_path)
