"""Whether each protocol kept its promise, and how that is shown; which faults are chosen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab.chaos_plan import OptionError
from lab.logs_count import Count
from lab.logs_figures import LogRow, document, logs_table, summary
from lab.logs_plan import LOG_FAULTS, NOTHING, PROTOCOLS, Promise, listing, options


def row(lost: int = 0, longest: float = 0.1, **more: Any) -> LogRow:
    facts = {
        "fault": "freeze-bfd",
        "where": "lb2",
        "protocol": "udp",
        "promise": Promise(),
        "count": Count(sent=300, lost=lost, longest=longest),
        "straight": Count(sent=40),
        "took": 10.0,
        "share": 0.3,
    }
    return LogRow(**{**facts, **more})


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (row(), ()),
        (row(lost=1), ("1 of 300 lost, not 0",)),
        (row(lost=1, promise=NOTHING), ()),
        (row(lost=6, promise=Promise(of_share=0.6)), ()),  # 0.6 s of 30 % of 30 a second: 5.4
        (row(lost=7, promise=Promise(of_share=0.6)), ("7 of 300 lost, not 6",)),
        (row(longest=2.5, promise=Promise(longest=2.4)), ("2.50 s late, not 2.4 s",)),
        (row(retries=1, promise=Promise(retries=0)), ("1 posts were tried again, not 0",)),
        (row(retries=1), ()),
        (row(wrong=("the route did not go",), promise=NOTHING), ("the route did not go",)),
    ],
)
def test_what_was_promised_and_not_kept(found: LogRow, missed: tuple[str, ...]) -> None:
    assert found.missed == missed


def test_the_table_says_what_is_lost_with_and_without_a_balancer_and_what_is_held() -> None:
    rows = [row(lost=1), row(protocol="tcp", promise=NOTHING), row(protocol="https", retries=3)]
    _, first, second, third = logs_table(rows).splitlines()
    assert first.split()[:5] == ["freeze-bfd", "lb2", "udp", "300", "1"]
    assert first.split()[-4:] == ["0/40", "0", "lost", "NO"]
    assert second.split()[-3:] == ["0/40", "-", "-"]
    assert third.split()[-5:] == ["3", "0/40", "0", "lost", "yes"]


def test_the_summary_has_a_line_for_each_fault() -> None:
    rows = [
        row(protocol="relp", count=Count(sent=9, twice=4)),
        row(lost=3, straight=Count(sent=9, lost=5), promise=NOTHING),
        row(fault="drain", lost=2),
    ]
    head, first, second, *_ = summary(rows).splitlines()
    assert head.split() == ["lost", "relp", "udp", "held"]
    assert first.split() == ["freeze-bfd", "0", "(4", "twice)", "3", "(without", "5)", "yes"]
    assert second.split() == ["drain", "-", "2", "NO"]


def test_the_document_is_json_and_says_whether_all_was_held() -> None:
    found = json.loads(json.dumps(document([row(), row(lost=2)])))
    assert [one["held"] for one in found["rows"]] == [True, False]
    assert not found["held"]
    assert found["rows"][1]["count"]["lost"] == 2


def test_faults_come_in_the_order_of_the_table() -> None:
    chosen = options(faults="receiver-return, drain,receiver-kill")
    assert [one.name for one in chosen.faults] == ["drain", "receiver-kill", "receiver-return"]
    assert len(options().faults) == len(LOG_FAULTS)


def test_what_cannot_be_run_is_said_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        options(faults="drain,nonsense", machines=0)
    assert str(caught.value).splitlines() == [
        "FAULTS: no such fault: nonsense (FAULTS=help lists them)",
        "MACHINES=0: 1 to 60",
    ]


def test_every_fault_is_listed_once_and_promises_of_known_protocols() -> None:
    names = [one.name for one in LOG_FAULTS]
    assert len(set(names)) == len(names)
    assert all(name in listing() for name in names)
    assert all(set(one.promises) <= set(PROTOCOLS) for one in LOG_FAULTS)
