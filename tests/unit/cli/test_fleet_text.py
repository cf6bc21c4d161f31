"""`anycast fleet`: rows that fit a terminal, whatever the fleet is like."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from anycast.cli import fleet
from anycast.core.fleet.values import Claim, Document, Turn, View, VipStanding
from anycast.ops import fleet_seen
from tests.unit import fleets
from tests.unit.fleets import FLEET, NODES, NOW, peer, told, view

RED, GREEN = "\x1b[31m", "\x1b[32m"


def shown(own: Document, seen: View, **how: Any) -> str:
    document = fleet_seen.document(own, seen, replace(FLEET, peers=()), now=NOW)
    return fleet.text(document, **{"colour": False, **how})


def rows(text: str, head: str) -> list[list[str]]:
    """Of the table whose head begins so."""
    lines = text.splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith(head))
    end = next((place for place in range(at, len(lines)) if not lines[place]), len(lines))
    return [re.split(r" {2,}", line) for line in lines[at + 1 : end]]


def test_a_fleet_that_is_well_is_a_row_for_each_node() -> None:
    text = shown(*fleets.well())
    assert text.startswith("fleet of 3 nodes, 3 known, as lb1 sees it (view: peers)\n")
    assert [row[:5] for row in rows(text, "NODE")] == [
        ["lb1", "here", "1.4.0", "active", "2/2"],
        ["lb2", "1s", "1.4.0", "active", "2/2"],
        ["lb3", "1s", "1.4.0", "active", "2/2"],
    ]
    assert rows(text, "VIP") == [["web", "3 of 3"], ["dns", "3 of 3"]]
    assert [row[5:8] for row in rows(text, "NODE")] == [["33%", "30%", "45%"]] * 3
    assert "!" not in text
    assert "TURN" not in text


def test_the_turn_of_a_vip_is_no_node_that_is_out() -> None:
    of_vip = Turn(claim=Claim.HELD, ago=2.0, number=1, scope="web", by="ada", reason="new key")
    waits = Turn(claim=Claim.ASKED, ago=1.0, number=2, by="bob")
    own, seen = told("lb1", turn=of_vip), view(peer(told("lb2", turn=waits)))
    text = shown(own, seen)
    assert "out for maintenance: 0, of 1 that may be" in text
    assert rows(text, "TURN") == [
        ["takes out", "lb1", "VIP web", "2s", "ada", "new key"],
        ["waits 1", "lb2", "node", "2s", "bob", "-"],
    ]
    older = fleet_seen.document(own, seen, replace(FLEET, peers=()), now=NOW)
    for one in older["queue"]:
        del one["scope"]  # as an agent of the release before told it
    assert "out for maintenance: 1, of 1 that may be" in fleet.text(older, colour=False)


def test_what_is_wrong_stands_below_the_nodes_and_so_does_the_queue() -> None:
    text = shown(*fleets.ill())
    assert [row[3] for row in rows(text, "NODE")] == ["active", "down", "active", "gone", "gone"]
    assert "! lb4 is gone, not heard for 42 s: connection refused\n" in text
    assert rows(text, "TURN") == [
        ["out", "lb2", "3m21s", "root", "new kernel"],
        ["waits 1", "lb3", "11s", "anna", "disks (forced)"],
    ]
    assert "out for maintenance: 1, of 1 that may be" in text
    assert "VIP " not in next(line for line in text.splitlines() if line.startswith("TURN"))
    assert rows(text, "VIP")[0][:2] == ["web", "1 of 5"]
    assert rows(text, "VIP")[:2] == [
        ["web", "1 of 5", "lb2 withdrawn: node_maintenance 2m01s"],
        ["", "lb3 last_resort: below_quorum 1m01s; lb4 not known"],
    ]


def test_it_has_the_colours_of_the_status() -> None:
    text = shown(*fleets.ill(), colour=True)
    assert f"{RED}gone" in text
    assert f"{GREEN}active" in text
    assert f"{RED}1 of 5" not in text


def test_every_row_fits_80_columns() -> None:
    assert max(map(len, shown(*fleets.ill()).splitlines())) <= fleet.WIDTH
    long = [f"balancer-of-the-north-{number}" for number in range(16)]
    names = [f"a-service-with-a-long-name-{number}" for number in range(1040)]
    out = {name: fleets.vip(VipStanding.WITHDRAWN, reason="vip_check_failed", since=1e6) for name in names}
    seen = view(*(peer(told(name, version="10.10.10.dev123", vips=out)) for name in long[1:]))
    text = shown(told(long[0], names), seen)
    assert max(map(len, text.splitlines())) <= fleet.WIDTH
    assert (
        sum(bool(row[0]) for row in rows(text, "VIP")) == fleet.VIPS + 1
    )  # and the line that counts the rest
    assert "and 1,020 more VIPs (all of them: `anycast fleet --all`)" in text
    assert sum(bool(row[0]) for row in rows(shown(told(long[0], names), seen, every=True), "VIP")) == 1040


def test_vips_that_are_not_everywhere_come_first() -> None:
    names = [f"v{number}" for number in range(30)]
    vips = {name: fleets.vip() for name in names}
    other = {**vips, "v29": fleets.vip(VipStanding.WITHDRAWN, reason="below_quorum")}
    text = shown(told("lb1", vips=vips), view(peer(told("lb2", vips=other))))
    assert rows(text, "VIP")[0][0] == "v29"


def test_what_others_write_is_shown_and_does_nothing() -> None:
    seen = view(peer(told("lb2"), ago=1.0), problem="\x1b[2Jgone")
    assert "\x1b" not in shown(told("lb1"), seen)


def test_of_many_troubles_the_rest_is_counted() -> None:
    peers = [peer(told(f"n{number}", configuration="7"), ago=1.0) for number in range(30)]
    text = shown(told(NODES[0]), view(*peers))
    assert text.count("! ") == fleet.TROUBLES
    assert "and 10 more like these" in text


def test_two_at_45_percent_are_told_that_one_of_them_would_stand_at_90() -> None:
    full = 450_000.0
    text = shown(told("lb1", packets=full), view(peer(told("lb2", packets=full))))
    assert [row[6:8] for row in rows(text, "NODE")] == [["45%", "90%"], ["45%", "90%"]]
    assert "! if lb2 fails now, lb1 would stand at 90% of 1M packets/s, limit 70%\n" in text


def test_a_node_over_its_limit_is_told_by_what_it_carries_now() -> None:
    text = shown(told("lb1", packets=750_000.0), view(peer(told("lb2"))))
    assert "! lb1 stands at 75% of 1M packets/s, limit 70%\n" in text


def test_what_may_be_more_is_marked() -> None:
    text = shown(told("lb1"), view(peer(told("lb2", packets=None))))
    assert rows(text, "NODE")[0][5:8] == ["-", "30%", "30%+"]
