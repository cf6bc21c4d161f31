"""What was played is put into the document as it was, and nothing else of the document changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anycast.config.load import loads, loads_every
from anycast.importers.importing import Source, finished
from anycast.importers.model import Place
from anycast.importers.read import read
from anycast.importers.report import Report
from lab.configs import checkout
from lab.migrate import healthcheck, pair
from lab.migrate.written import broken, written
from lab.topology import topology


def step(title: str, lost: int = 0, failed: int = 0) -> dict[str, Any]:
    return {"title": title, "connections": 600, "broken": lost, "new": 9, "new_failed": failed}


PLAYED: dict[str, Any] = {
    "one": {
        "words": "in one way",
        "steps": [step("0. as it is"), step("1. over", 300)],
        "lines": ["", "lb1# true"],
    },
    "two": {
        "words": "in another",
        "steps": [step("0. as it is"), step("1. over"), step("2. on", 0, 3)],
        "lines": [],
    },
}


def test_a_transcript_takes_the_place_of_the_one_before() -> None:
    text = "head\n<!-- transcript one -->\nold\n<!-- end -->\ntail\n"
    new = written(text, PLAYED)
    assert new == "head\n<!-- transcript one -->\n```\nlb1# true\n```\n<!-- end -->\ntail\n"
    assert written(new, PLAYED) == new


def test_a_way_that_was_not_played_stays_as_it_is() -> None:
    text = "<!-- transcript three -->\nold\n<!-- end -->\n<!-- broken three four -->\nold\n<!-- end -->\n"
    assert written(text, PLAYED) == text
    assert written("<!-- broken one three -->\nold\n<!-- end -->\n", PLAYED).count("\n| in ") == 1


def test_steps_at_which_nothing_broke_in_any_way_have_no_column() -> None:
    assert broken([PLAYED["one"], PLAYED["two"]]).splitlines() == [
        "| way | step 1 | step 2 | all other steps |",
        "| --- | --- | --- | --- |",
        "| in one way | 300 of 600 | - | 0 |",
        "| in another | 0 of 600 | 0 of 600, 3 of 9 new ones failed | 0 |",
    ]


def test_the_document_has_a_place_for_every_way() -> None:
    text = (checkout() / "docs" / "migrate.md").read_text()
    every = {
        name: {"words": name, "steps": [], "lines": [f"<{name}>"]}
        for name in {**pair.WAYS, **healthcheck.WAYS}
    }
    shown = written(text, every)
    assert all(f"| {name} |" in shown or f"<{name}>" in shown for name in every)


@pytest.mark.parametrize("scheduler", ["wlc", "mh"])
def test_what_is_imported_of_the_pair_and_edited_is_taken(scheduler: str, tmp_path: Path) -> None:
    files = []
    for node in (pair.ACTIVE, pair.STANDBY):
        file = tmp_path / node / "keepalived.conf"
        file.parent.mkdir()
        file.write_text(pair.keepalived_conf(node, scheduler))
        files.append(file)
    report = Report()
    made = finished(*read(Source.KEEPALIVED, files, report), report, Place("")).text
    text = pair.edited(made, topology().balancers, sync=True)
    assert loads_every(text, lambda _: None, "fleet.yaml").warnings == ()
    assert "CHANGE" not in text


def test_every_way_has_words_of_its_own() -> None:
    words = [way.words for way in pair.WAYS.values()] + [way.words for way in healthcheck.WAYS.values()]
    assert len(set(words)) == len(words)


def test_what_is_imported_of_healthcheck_and_its_table_becomes_one_file_with_the_same_metrics(
    tmp_path: Path,
) -> None:
    texts = []
    balancer = topology().balancers[0]
    for source, text in (
        (Source.EXABGP, healthcheck.exabgp_conf(balancer, "/usr/bin/exabgp-healthcheck")),
        (Source.IPVS, healthcheck.table()),
    ):
        file = tmp_path / source
        file.write_text(text)
        report = Report()
        texts.append(finished(*read(source, [file], report), report, Place("")).text)
    loaded = loads(healthcheck.merged("lb1", *texts))
    assert loaded.warnings == ()
    assert [vip.med for vip in loaded.config.vips] == [100, 101]
