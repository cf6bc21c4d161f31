"""The fleet's part of the page: bars as long as figures, a line at the limit, and nothing told by colour alone."""

from __future__ import annotations

import re
from typing import Any

from anycast.core.fleet.values import Claim, Document, Turn, View
from anycast.ops import fleet_seen, page_fleet
from tests.unit import fleets
from tests.unit.fleets import NOW, peer, told, view
from tests.unit.ops.test_page import Parsed


def section(own: Document, seen: View) -> str:
    document: dict[str, Any] = fleet_seen.document(own, seen, fleets.FLEET, now=NOW)
    return str(page_fleet.section(document))


def parsed(own: Document, seen: View) -> Parsed:
    found = Parsed()
    found.feed(section(own, seen))
    found.close()
    assert not found._open
    return found


def bars(text: str, kind: str) -> list[float]:
    return [float(one) for one in re.findall(rf'class="{kind}" y="\d+" width="([\d.]+)"', text)]


def test_each_node_has_a_bar_for_now_and_one_with_one_less_and_a_line_at_its_limit() -> None:
    text = section(*fleets.well())
    assert bars(text, "now") == [72.0] * 3  # of 240
    assert bars(text, "less") == [108.0] * 3
    assert text.count('d="M168.0 0v26"') == 3


def test_what_would_be_over_the_limit_is_of_another_colour_and_in_words() -> None:
    full = 450_000.0
    text = section(told("lb1", packets=full), view(peer(told("lb2", packets=full))))
    assert bars(text, "less over") == [216.0, 216.0]
    assert text.count("over its limit") == 2
    assert "if lb2 fails now, lb1 would stand at 90% of 1M packets/s, limit 70%" in text


def test_more_than_all_of_it_fits_too() -> None:
    full = 900_000.0
    text = section(told("lb1", packets=full), view(peer(told("lb2", packets=full))))
    assert bars(text, "less over") == [240.0, 240.0]
    assert bars(text, "now over") == [120.0, 120.0]
    assert 'd="M93.3 0v26"' in text


def test_it_says_who_is_gone_out_and_waits_and_what_is_wrong() -> None:
    found = parsed(*fleets.ill())
    for words in (
        "3 of 5 nodes are known to this one, 1 out for maintenance, of 1 that may be.",
        "lb2 ‖ in maintenance",
        "lb4 ✕ gone",
        "what it carries is not known",
        "‖ out lb2",
        "– waits lb3",
        "(forced)",
        "lb4 is gone, not heard for 42 s: connection refused",
        "web ! 1 of 5",
    ):
        assert words in found.text, words
    assert found.handlers == []


def test_it_names_the_vips_of_which_one_node_alone_has_a_route() -> None:
    seen = view(peer(told("lb2", ["web"])), peer(told("lb3", ["web"])))
    words = "With one node gone nobody announces: dns (lb1)."
    assert words in parsed(told("lb1", ["web", "dns"]), seen).text
    assert "nobody announces" not in parsed(*fleets.well()).text
    names = [f"v{number}" for number in range(2000)]
    text = parsed(told("lb1", [*names, "web"]), seen).text
    assert "nobody announces: v0 (lb1), v1 (lb1), v10 (lb1), v100 (lb1), v1000 (lb1) and 1,995 more." in text


def test_the_turn_of_a_vip_is_no_node_that_is_out() -> None:
    of_vip = Turn(claim=Claim.HELD, ago=2.0, number=1, scope="web", by="ada")
    found = parsed(told("lb1", turn=of_vip), view(peer(told("lb2"))))
    assert "2 of 3 nodes are known to this one, 0 out for maintenance, of 1 that may be." in found.text
    assert "takes out lb1, VIP web" in found.text


def test_its_size_is_bounded() -> None:
    names = [f"v{number}" for number in range(5000)]
    peers = [peer(told(f"n{number}", names, configuration="7", vips={})) for number in range(63)]
    text = section(told("lb1", names), view(*peers))
    assert len(text) < 100_000
    assert "and 4,990 more VIPs" in text


def test_what_others_write_is_text() -> None:
    seen = view(peer(told("lb2"), problem="<script>", problem_since=NOW - 99, ago=99.0))
    text = section(told("lb1"), seen)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
