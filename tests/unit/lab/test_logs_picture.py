"""The picture of what the receivers took in."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

from lab.logs_count import Arrival, Count
from lab.logs_figures import LogRow
from lab.logs_picture import picture, rates
from lab.logs_plan import Promise


def row(**more: Any) -> LogRow:
    facts = {
        "fault": "receiver-return",
        "where": "rs2",
        "protocol": "relp",
        "promise": Promise(),
        "count": Count(sent=90, twice=2, longest=0.3),
        "straight": Count(),
        "took": 10.0,
        "began": 5.0,
        "ended": 15.0,
        "spread": {"rs1": 0.75, "rs2": 0.25},
    }
    return LogRow(**{**facts, **more})


def came(received: float, collector: str = "rs1") -> Arrival:
    return Arrival("relp", "m1", 1, received, received, collector)


def words(svg: str) -> list[str]:
    return [one.text or "" for one in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314


def test_every_fault_has_a_panel_and_a_return_one_of_who_got_what() -> None:
    arrivals = [came(1000.0 + n / 10) for n in range(100)]
    said = words(picture([row(), row(fault="drain", where="lb1")], arrivals, 1000.0))
    assert {"receiver-return rs2", "receiver-return: who gets it", "drain lb1"} <= set(said)
    assert "at the end: rs1 75%, rs2 25%" in said
    assert "lost: none; twice: relp 2" in said
    assert any(one.endswith("every promise held") for one in said)


def test_a_promise_that_was_not_kept_is_said() -> None:
    said = words(picture([row(count=Count(sent=9, lost=3))], [], 0.0))
    assert "1 faults, 9 messages, 3 lost: 1 promises were not kept" in said
    assert "at most 0.00 s late, MISSED" in said


def test_seconds_in_which_nothing_came_are_there() -> None:
    found = rates([came(100.1), came(100.2, "rs2"), came(102.1)], 100.0, lambda one: one.collector)
    assert [(t, dict(values)) for t, values in found] == [
        (0.25, {"rs1": 2.0, "rs2": 2.0}),
        (0.75, {}),
        (1.25, {}),
        (1.75, {}),
        (2.25, {"rs1": 2.0}),
    ]
