"""Each node knows what it carries, and how it would stand with another gone: by real packets and a real router."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.site import NODES, PATIENCE, Document, Site, until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
CONNECTIONS, INTERVAL = 150, 0.3  # seconds between two requests of a connection
SHARE = 0.45  # of its capacity that each node carries


def in_fleet(site: Site, capacity: str | int) -> None:
    """Every node knows the others, and says that it carries so many bits a second."""
    for node in NODES:
        with site.edit(node) as config:
            config["nodes"] = {
                one.name: {"fleet": {"listen": f"{one.node4}:9645"}} for one in site.lab.topology.balancers
            }
            config["fleet"] = {"view": "peers", "interval": "500ms", "capacity": {"bits": capacity}}
        site.reload(node)


def figures(site: Site, node: str, *names: str) -> Document:
    """What the node tells once it is complete, and of exactly these nodes."""

    def look() -> Document | None:
        found: Document | None = site.status(node)["headroom"]
        there = (
            found is not None and found["complete"] and {one["node"] for one in found["nodes"]} == {*names}
        )
        return found if there and all(one["today"] for one in found["nodes"]) else None  # type: ignore[index]

    return until(look, f"{node}: the figures of {', '.join(names)}")


def of(found: Document, node: str) -> Any:
    return next(one for one in found["nodes"] if one["node"] == node)


def settled(site: Site, node: str, *names: str) -> Document:
    """Once the rates are over the load alone: every node has told another figure, and about the same."""

    def told(found: Document) -> list[float]:
        return [of(found, name)["today"]["load"] for name in names]

    known = figures(site, node, *names)

    def look() -> Document | None:
        nonlocal known
        before, now = known, figures(site, node, *names)
        if any(was == new for was, new in zip(told(before), told(now), strict=True)):
            return None
        known = now
        return now if told(now) == pytest.approx(told(before), rel=0.1) else None

    return until(look, f"the load of {', '.join(names)} to be steady")


def test_nodes_at_45_percent_say_who_would_stand_where_with_one_less_and_none_is_drained(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    in_fleet(site, "10G")
    with site.lab.load(CONNECTIONS, interval=INTERVAL):
        found = settled(site, "lb1", *NODES)
    carried = max(of(found, name)["today"]["load"] for name in NODES)
    in_fleet(site, round(carried / SHARE))
    with site.lab.load(CONNECTIONS, interval=INTERVAL):
        found = settled(site, "lb1", *NODES)
        told = site.lab.node_cli("lb1", "status").stdout
        site.terminate("lb3", "agent")
        site.routed(["lb1", "lb2"])
        fewer = settled(site, "lb1", "lb1", "lb2")
        shown = site.lab.node_cli("lb1", "status").stdout
        refused = site.lab.node_cli("lb1", "maintenance", "on", timeout=PATIENCE)
        forced = site.lab.node_cli("lb1", "maintenance", "on", "--force", timeout=PATIENCE)
    with capsys.disabled():
        print("", *told.splitlines()[:6], *shown.splitlines()[:6], refused.stderr, sep="\n")
    mine = of(found, "lb1")
    whole = sum(of(found, name)["today"]["load"] for name in NODES)
    # Of three that carry about the same one is gone: half of what it carried comes to each of the others.
    assert mine["less"][0]["figure"]["load"] == pytest.approx(whole / 2, rel=0.3)
    after = of(fewer, "lb1")["less"][0]
    assert after["gone"] == ["lb2"]
    # What comes then is counted anew: the clients may be slower by now.
    both = sum(of(fewer, name)["today"]["load"] for name in ("lb1", "lb2"))
    assert after["figure"]["load"] == pytest.approx(both, rel=0.3)
    assert "if lb2 fails now, lb1 would stand at " in shown
    assert refused.returncode == 1
    assert "without lb1, lb2 would stand at " in refused.stderr
    assert forced.returncode == 0, forced.stderr
