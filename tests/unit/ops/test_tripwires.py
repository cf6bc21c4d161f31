"""What is shown of tripwires."""

from __future__ import annotations

from dataclasses import replace

from anycast import __version__
from anycast.cli import text
from anycast.core.values.configuration import Config
from anycast.core.values.persistent import PersistentMap
from anycast.ops import status, why
from anycast.ops.source import Tripwires
from tests.unit.ops.node import CONFIG, Node, healthy
from tests.unit.ops.test_metrics import samples

COUNTS = {"off": 1, "waiting": 0, "connecting": 0, "standing": 7, "given_up": 0}
ENDS = {"harmless": 4, "deadly": 2, "usual": 9}
CLOSES = "it closes connections that say nothing after 60 s: the tripwire is renewed before that"
FOUND = Tripwires(counts=COUNTS, ends=ENDS, notes=PersistentMap({"10.9.2.1:80": CLOSES}))
WALL = 1_800_000_000.0


def frame(node: Node, found: Tripwires) -> dict[str, object]:
    return status.frame(node.state, [], now=node.now, wall=WALL, version=__version__, pid=1, tripwires=found)


def test_nothing_is_shown_where_no_check_wants_one() -> None:
    node = healthy()
    assert frame(node, Tripwires())["tripwires"] is None
    assert not any("tripwire" in name for name in samples(node))


def test_metrics_have_the_states_what_followed_and_the_unusual() -> None:
    node = healthy()
    node.tripwires = FOUND
    found = samples(node)
    assert found['anycast_tripwires{state="standing"}'] == 7
    assert found['anycast_tripwires{state="off"}'] == 1
    assert found['anycast_tripwire_ends_total{kind="deadly"}'] == 2
    assert found["anycast_tripwires_unusual"] == 1


def test_the_status_names_the_first_servers_that_are_not_as_others() -> None:
    node = healthy()
    many = PersistentMap({f"10.9.2.{n}:80": CLOSES for n in range(30)})
    told = frame(node, replace(FOUND, notes=many))["tripwires"]
    assert isinstance(told, dict)
    assert (told["wanted"], told["standing"], told["unusual"]) == (8, 7, 30)
    assert len(told["servers"]) == 20
    assert told["servers"][0] == {"server": "10.9.2.0:80", "detail": CLOSES}


def test_people_are_told_how_many_stand_and_why_some_are_given_up() -> None:
    short = replace(FOUND, counts={**COUNTS, "given_up": 3})
    whole = status.document(healthy().state, now=1000.0, wall=WALL, version=__version__, pid=1)
    shown = text.status({**whole, "tripwires": frame(healthy(), short)["tripwires"]}, colour=False)
    assert "tripwires: 7 of 11 stand; 3 are given up for lack of descriptors (raise LimitNOFILE)" in shown
    assert f"10.9.2.1:80: {CLOSES}" in shown
    assert "tripwires" not in text.status(whole, colour=False)


def wired() -> Config:
    """All checks with a tripwire."""
    (first, *others) = CONFIG.vips
    services = tuple(
        replace(one, pool=replace(one.pool, check=replace(one.pool.check, tripwire=True)))  # type: ignore[arg-type]
        for one in first.services
    )
    return replace(CONFIG, vips=(replace(first, services=services), *others))


def test_why_says_of_a_server_that_is_down_what_its_tripwire_does() -> None:
    node = Node(wired())
    node.probe("10.9.2.1")
    vip = node.state.config.vips[0]
    body = why.document(node.state, vip, {}, now=node.now, wall=WALL, notes=FOUND.notes)
    (checks,) = [one for one in body["chain"] if one["link"] == "checks"]
    told = {one["facts"]["port"]: one["text"] for one in checks["items"]}
    assert told[80].endswith(f"; {CLOSES}")
    assert CLOSES not in told[443]
