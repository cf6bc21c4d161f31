"""The explanation of a verdict: every reason has one, and what it says would change it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from anycast.core import events as ev
from anycast.core.health.phase import Fault, Health, Outcome, Phase, Result
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import FILE, NODE, STOP, Maintenance
from anycast.core.prefixes import host_route
from anycast.core.values.configuration import (
    Check,
    Config,
    Export,
    HoldDown,
    HttpCheck,
    Local,
    Part,
    Pool,
    RealServer,
    Role,
    Rule,
    TcpCheck,
)
from anycast.core.values.persistent import PersistentMap
from anycast.core.values.report import FailedRoute, NeighborState
from anycast.core.vip.decide import Reason
from anycast.ops import why
from anycast.ops.why import document
from tests.property.worlds import LINK
from tests.unit.ops.node import CONFIG, ROUTER, ROUTER6, Node, healthy

WALL = 1_800_000_000.0  # 2027-01-15T08:00:00Z
ON = Maintenance(reason="new kernel", by="alice", since=WALL - 60)
LINKED = Rule(needed=1, parts=(Part(name="link", check=LINK),))
REQUIRING = replace(CONFIG, vips=(replace(CONFIG.vips[0], require=LINKED), *CONFIG.vips[1:]))
NODE_REQUIRING = replace(CONFIG, require=LINKED)


def explained(node: Node, name: str = "web") -> dict[str, Any]:
    vip = node.state.config.vip(name)
    assert vip is not None
    return document(node.state, vip, node.tallies, now=node.now, wall=WALL)


def link(node: Node, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in explained(node)["chain"] if one["link"] == name)
    return found


def no_carrier(node: Node) -> None:
    results = tuple(
        (target, Result(outcome=Outcome.FAIL, detail="eth0 has no carrier"))
        for target in node.state.index.targets
        if target.check == LINK
    )
    for _ in range(2):
        node.send(ev.Probed(results=results))


def stopping() -> Node:
    node = healthy()
    node.send(ev.StopRequested())
    return node


def maintained(scope: str) -> Node:
    node = healthy()
    node.send(ev.MaintenanceSet(scope=scope, entry=ON))
    return node


def unreadable() -> Node:
    node = healthy()
    node.kernel_error = "EPERM"
    for _ in range(3):
        node.send(ev.KernelFailed(reason="EPERM"))
    return node


def meddled(**changes: object) -> Node:
    """Somebody changes the kernel, and it cannot be put right."""
    node = healthy()
    node.send(ev.Tick(), after=6.0)
    node.kernel = replace(node.kernel, **changes)  # type: ignore[arg-type]
    node.kernel_is_deaf = True
    node.send(ev.KernelChanged())
    node.send(ev.Tick(), after=1.0)
    return node


def failed() -> Node:
    node = healthy()
    node.probe("10.9.2.1", "10.9.2.2")
    node.probe("10.9.2.1", "10.9.2.2")
    node.report()
    return node


def sorry() -> Node:
    pool = Pool(
        name="sorry",
        servers=(RealServer(name="page", addresses=tuple(map(ip_address, ("10.9.2.9", "fd00:9::2:9")))),),
        check=Check(kind=TcpCheck()),
    )
    web, *others = CONFIG.vips
    services = tuple(replace(one, sorry=pool) for one in web.services)
    node = healthy(replace(CONFIG, vips=(replace(web, services=services), *others)))
    for _ in range(2):
        node.probe("10.9.2.1", "10.9.2.2")
    node.report()
    return node


def unproven() -> Node:
    node = healthy()
    lost = Result(outcome=Outcome.UNKNOWN, detail="no descriptors", fault=Fault.DESCRIPTORS)
    for _ in range(5):
        node.send(ev.Probed(results=tuple((target, lost) for target in node.state.index.targets)), after=2.0)
    return node


def required(config: Config) -> Node:
    node = healthy(config)
    no_carrier(node)
    return node


def here() -> Node:
    web, *others = CONFIG.vips
    local = (Local(port=80, check=Check(kind=TcpCheck(), fall=1)),)
    node = healthy(replace(CONFIG, vips=(replace(web, services=(), local=local), *others)))
    node.probe("192.0.2.1")
    return node


CASES: dict[Reason, tuple[Callable[[], Node], str]] = {
    Reason.STOPPING: (stopping, "`systemctl start anycast-agent`"),
    Reason.NODE_MAINTENANCE: (
        lambda: maintained(NODE),
        "alice since 07:59:00Z (new kernel): `anycast maintenance off`",
    ),
    Reason.VIP_MAINTENANCE: (lambda: maintained("web"), "`anycast maintenance off --vip web`"),
    Reason.KERNEL_UNAVAILABLE: (unreadable, "the kernel must be read again (EPERM)"),
    Reason.STARTING: (Node, "waiting for the first result of the check of rs1, rs2"),
    Reason.KERNEL_DIFFERS: (lambda: meddled(table={}), "is not in IPVS"),
    Reason.ADDRESS_MISSING: (lambda: meddled(addresses=frozenset()), "192.0.2.1 on lo is missing"),
    Reason.UNPROVEN: (unproven, "this node must be able to check its real servers again (no descriptors)"),
    Reason.BELOW_QUORUM: (
        failed,
        "2 of rs1 (down since 08:00:00Z: refused, 2 failures in a row; 2 failures in all, turned once); rs2",
    ),
    Reason.NODE_CHECK_FAILED: (
        lambda: required(NODE_REQUIRING),
        "what node requires must hold again: down since 08:00:00Z: link: eth0 has no carrier",
    ),
    Reason.VIP_CHECK_FAILED: (lambda: required(REQUIRING), "what vip web requires must hold again"),
    Reason.LOCAL_CHECK_FAILED: (
        here,
        "tcp/80 at 192.0.2.1 must pass its check again on this node: down since",
    ),
    Reason.SORRY: (sorry, "2 of rs1 (down since 08:00:00Z: refused, 2 failures in a row"),
    Reason.HEALTHY: (healthy, "tcp/80 IPv4: it stays up while 1 of 2 are usable: 1 more may fail"),
}


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_explained(reason: Reason) -> None:
    make, sentence = CASES[reason]
    found = explained(make())
    assert found["reason"] == reason
    assert why._MEANING[reason] in found["text"]
    assert sentence in "\n".join(found["would_change"])


def test_a_hold_after_crashes_says_when_it_ends_and_what_made_it_so_long() -> None:
    node = Node(crashes=3)
    node.probe()
    node.send(ev.KernelChanged(), after=1.0)
    found = explained(node)
    assert "everything has held for 1.0 of 4 s (3 crashes in 10 min)" in found["text"]
    first, second = found["would_change"]
    assert first.startswith(
        "everything must hold until 08:00:03Z: a repair of the kernel or lost real servers"
    )
    assert "the 3 crashes before made that wait longer" in second


def test_a_healthy_vip_has_a_chain_that_holds() -> None:
    found = explained(healthy())
    assert [(one["link"], one["holds"]) for one in found["chain"]] == [
        ("checks", True),
        ("services", True),
        ("kernel", True),
        ("verdict", True),
        ("lease", True),
        ("exabgp", True),
        ("sessions", True),
    ]
    assert found["text"] == "web is announced (acknowledged by ExaBGP): everything it needs is in place"
    assert found["announced"]


def test_a_failing_check_is_told_with_its_past() -> None:
    node = healthy()
    node.probe("10.9.2.1")
    node.probe("10.9.2.1")
    (first, *_) = link(node, "checks")["items"]
    assert first["text"] == (
        "rs1 (10.9.2.1:80) of tcp/80: down since 08:00:00Z: refused, 2 failures in a row; 2 failures in all, turned once"
    )
    assert (first["facts"]["failures"], first["facts"]["in_a_row"], first["facts"]["changes"]) == (2, 2, 1)
    assert link(node, "services")["items"][0]["text"] == (
        "tcp/80 IPv4: 1 of 2 real servers usable, 1 needed to stay announced"
    )


def test_a_server_that_was_taken_out_says_by_whom_and_how_to_bring_it_back() -> None:
    node = healthy()
    node.send(ev.MaintenanceSet(scope="web/rs1", entry=ON))
    (first, *_) = link(node, "checks")["items"]
    assert "taken out by alice since 07:59:00Z (new kernel)" in first["text"]
    node.probe("10.9.2.2")
    found = explained(node)
    assert found["reason"] == Reason.BELOW_QUORUM
    assert "rs1 was taken out: `anycast undrain-server web/rs1`" in found["would_change"][0]


def test_behind_maintenance_the_next_obstacle_is_told() -> None:
    node = maintained("web")
    node.send(ev.MaintenanceSet(scope=NODE, entry=ON))
    node.probe("10.9.2.1", "10.9.2.2")
    sentences = explained(node)["would_change"]
    assert sentences[0].endswith("`anycast maintenance off`")
    assert sentences[1].startswith("and then: maintenance of web by alice")
    assert sentences[2].startswith("and then: and then: tcp/80 IPv4: 0 of 2")


def test_a_healthy_vip_that_no_router_hears_says_what_is_in_the_way() -> None:
    node = healthy()
    v4, v6 = (host_route(address) for address in CONFIG.vips[0].addresses)
    node.report(announced=(v4,), failed=(FailedRoute(prefix=v6, why="no next hop"),))
    found = explained(node)
    assert (
        found["text"]
        == f"web is not announced, although it should be: {v6} must be taken by ExaBGP: no next hop"
    )
    assert link(node, "exabgp")["items"][1]["text"] == f"{v6}: not announced: no next hop"
    node.report(
        neighbors=(NeighborState(address=ROUTER, state="down", changed=node.now - 5, reason="hold timer"),)
    )
    assert explained(node)["would_change"] == [
        "a BGP session must come up: see the log of ExaBGP and of the routers"
    ]
    assert link(node, "sessions")["items"][0]["text"] == f"{ROUTER} (IPv4): down since 07:59:55Z, hold timer"
    node.send(ev.PluginLost(source=1))
    assert "no plugin is connected" in explained(node)["text"]


def test_a_vip_without_a_session_for_one_family_says_which_and_names_the_neighbor() -> None:
    node = healthy()
    node.report(
        neighbors=(
            NeighborState(address=ROUTER, state="up", changed=node.now),
            NeighborState(address=ROUTER6, state="down", changed=node.now),
        )
    )
    found, sessions = explained(node), link(node, "sessions")
    assert (found["announced"], sessions["holds"]) == (False, False)
    assert sessions["text"] == "1 of 2 BGP sessions are up, none that carries IPv6"
    assert found["would_change"] == [
        f"no BGP session that carries IPv6 is up ({ROUTER6} down): see the log of ExaBGP and of the routers"
    ]
    assert link(node, "exabgp")["holds"]


def test_of_an_exabgp_that_does_not_answer_why_says_that_nothing_is_known() -> None:
    node = healthy()
    node.report(silent_since=node.now)
    node.now += 4.0
    words = (
        "ExaBGP has not answered for 4 s: it is not known what it announces and which sessions are up; routers drop its "
        "routes within 9 s of its last keepalive"
    )
    assert explained(node)["text"] == f"whether web is announced is not known: {words}"
    assert link(node, "exabgp")["text"] == words
    assert link(node, "exabgp")["items"][0]["text"] == "192.0.2.1/32: not known"
    assert not link(node, "sessions")["holds"]
    (must, *_) = explained(node)["would_change"]
    assert must.startswith(
        "ExaBGP must answer the plugin, which ends it after 5 s of silence (if this stays: `systemctl"
    )


def test_of_a_plugin_that_stands_still_why_says_what_frees_it() -> None:
    node = healthy()
    node.report(silent_since=node.now - 4.0, mute=True)
    assert "ExaBGP's plugin has not answered for 4 s" in explained(node)["text"]
    (must, *_) = explained(node)["would_change"]
    assert must.startswith(
        "the plugin must answer the agent (`anycast doctor` names a frozen unit, which `systemctl thaw"
    )


def test_why_says_that_a_withdraw_is_acknowledged_by_nobody() -> None:
    node = maintained("web")
    node.send(ev.Tick(), after=2.0)
    node.report(seq=0, silent_since=node.now - 4.0)
    text, _ = told(node)
    assert "withdrawn: nobody acknowledges it, for ExaBGP has not answered for 4 s" in text


def test_a_withdraw_that_is_not_acknowledged_yet_is_told() -> None:
    node = healthy()
    node.probe("10.9.2.1", "10.9.2.2")
    found = explained(node)
    assert found["text"].startswith("web is still announced, and is being withdrawn: too few real servers")
    assert found["announced"]
    assert not link(node, "lease")["holds"]


def test_a_drain_is_the_last_resort() -> None:
    node = maintained("web")
    node.report()
    assert explained(node)["text"].startswith(
        "web is announced as the last resort: the VIP is in maintenance"
    )
    assert "last resort" in link(node, "lease")["items"][0]["text"]


def test_a_backup_says_what_makes_it_one() -> None:
    node = healthy(replace(CONFIG, vips=(replace(CONFIG.vips[0], role=Role.BACKUP), CONFIG.vips[1])))
    assert link(node, "lease")["items"][0]["text"] == (
        "192.0.2.1/32: in it as a backup (AS path 65001 65001 65001 65001, MED 1000): clients come while no primary "
        "announces it"
    )


def test_a_router_that_is_not_sent_a_vip_counts_for_nothing() -> None:
    """Its session may be up: the VIP is announced to nobody."""
    first, sixth = CONFIG.bgp.neighbors
    second = replace(first, address=ip_address("10.2.2.254"), export=(Export(vips=("web",), med=7),))
    neighbors = (replace(first, export=(Export(vips=("mail",)),)), second, sixth)
    node = healthy(replace(CONFIG, bgp=replace(CONFIG.bgp, neighbors=neighbors)))
    up = [NeighborState(address=one, state="up", changed=node.now) for one in (ROUTER, ROUTER6)]
    node.report(neighbors=(*up, NeighborState(address="10.2.2.254", state="down", changed=node.now)))
    assert explained(node)["announced"] is False
    assert "no BGP session that carries IPv4 is up (10.2.2.254 down)" in " ".join(
        explained(node)["would_change"]
    )
    texts = [item["text"] for item in link(node, "sessions")["items"]]
    assert texts[0].endswith("; it does not get the VIP")
    assert texts[1].endswith("; it gets the VIP with MED 7")


def told(node: Node) -> tuple[str, dict[str, Any]]:
    """What is said of the first maintenance in force."""
    (first, *_) = link(node, "verdict")["items"]
    return first["text"], first["facts"]


def test_every_stage_of_a_maintenance_is_explained() -> None:
    node = maintained("web")
    said = []
    for seconds in (0.0, 2.0, 0.0, 1.0, 30.0):
        node.send(ev.Tick(), after=seconds)
        text, facts = told(node)
        assert facts["stage"] in text
        said.append(text.partition(", ")[2].partition(": alice")[0])
        if facts["stage"] == "withdrawn":
            node.report(announced=())
    assert said == [
        "draining: its routes stay announced as the last resort, until 08:00:02Z at the latest",
        "withdrawn: waits until the plugins acknowledge it, until 08:00:09Z at the latest",
        "withdrawn: waits while the routers follow, until 08:00:01Z at the latest",
        "quiet: waits until no more packets arrive (not known yet, at most 1 allowed), until 08:00:30Z at the latest",
        "down: it may be rebooted",
    ]


def test_a_maintenance_says_when_it_ends_by_itself() -> None:
    node = healthy()
    end = End(at=WALL + 90.0)
    node.send(ev.MaintenanceSet(scope="web", entry=replace(ON, since=WALL, end=end)))
    assert explained(node)["would_change"][0].endswith(
        "`anycast maintenance off --vip web`, or by itself at 08:01:30Z"
    )
    held = replace(ON, since=WALL, end=replace(end, then=Expiry.HOLD))
    node.send(ev.MaintenanceSet(scope="web", entry=held))
    assert "its end, 08:01:30Z, will pass and the maintenance goes on" in explained(node)["would_change"][0]
    node.send(ev.Tick(wall=WALL))
    node.send(ev.Tick(wall=WALL + 90.0), after=90.0)
    assert "passed and the maintenance goes on" in explained(node)["would_change"][0]
    assert "web is in maintenance, overdue, " in told(node)[0]


def test_a_node_that_is_out_for_several_reasons_says_what_ends_each() -> None:
    node = maintained(NODE)
    node.send(ev.MaintenanceSet(scope=FILE, entry=replace(ON, by="file")))
    node.send(ev.MaintenanceSet(scope=STOP, entry=ON))
    sentences = explained(node)["would_change"]
    assert "`anycast maintenance off`" in sentences[0]
    assert sentences[1].startswith("maintenance of the node by the file /run/anycast/maintenance, file since")
    assert sentences[1].endswith(": remove it")
    assert sentences[2].startswith("maintenance of the node until the agent ends, by alice")
    assert [item["facts"]["source"] for item in link(node, "verdict")["items"]] == ["command", "file", "stop"]


def test_what_is_held_down_says_so_and_for_how_long() -> None:
    vip = CONFIG.vips[0]
    rule = HoldDown(suppress=1.0, reuse=0.5, half_life=60.0, max_hold=60.0)
    pool = replace(vip.services[0].pool, check=Check(kind=TcpCheck(), rise=1, fall=1, hold_down=rule))
    config = replace(CONFIG, vips=(replace(vip, services=(replace(vip.services[0], pool=pool),)),))
    node = healthy(config)
    node.probe("10.9.2.1", "10.9.2.2")
    node.jump(10.0)
    node.probe()
    (first, *_) = link(node, "checks")["items"]
    assert "and well for 1 run, held down for 50 s more because it flapped" in first["text"]
    assert first["facts"]["held_down_s"] == 50.0
    assert "held down for 50 s more" in explained(node)["would_change"][0]


def test_of_thousands_of_servers_some_are_named_and_the_others_counted() -> None:
    vip = CONFIG.vips[0]
    servers = vip.services[0].pool.servers
    many = tuple(
        replace(servers[0], name=f"s{n}", weight=0, addresses=(ip_address(f"10.9.3.{n}"),)) for n in range(50)
    )
    pool = replace(vip.services[0].pool, servers=many)
    config = replace(CONFIG, vips=(replace(vip, services=(replace(vip.services[0], pool=pool),)),))
    items = link(Node(config), "checks")["items"]
    assert len(items) == why.LISTED + 1
    assert items[-1]["text"] == "and 30 more"


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (Health(), "no result yet"),
        (Health(phase=Phase.UP, since=1000.0), "up since 08:00:00Z"),
        (Health(phase=Phase.FALLING, streak=2, detail="503"), "up, and failing for 2 runs: 503"),
        (Health(phase=Phase.RISING, streak=1, since=1000.0), "down since 08:00:00Z, and well for 1 run"),
        (
            Health(phase=Phase.UP, unknown_since=3.0, detail="no such program"),
            "its check could not run: no such program; it still counts as up, by its last result",
        ),
    ],
)
def test_every_phase_has_words(health: Health, words: str) -> None:
    node = Node()
    state = replace(node.state, health=PersistentMap(dict.fromkeys(node.state.index.targets, health)))
    found = document(state, CONFIG.vips[0], {}, now=1000.0, wall=WALL)
    (checks,) = [one for one in found["chain"] if one["link"] == "checks"]
    if health.phase is Phase.UP and not health.unknown:
        assert checks["items"] == []
    else:
        assert checks["items"][0]["text"].endswith(f": {words}")


def test_the_text_of_the_document_has_every_link_and_remedy() -> None:
    body = explained(failed())
    text = why.text(body)
    assert text.startswith(body["text"])
    for one in body["chain"]:
        assert one["text"] in text
    for sentence in body["would_change"]:
        assert f"  - {sentence}\n" in text


def test_nothing_of_a_check_is_shown_that_may_be_a_secret() -> None:
    kind = HttpCheck(tls=False, headers=(("Authorization", "secret-token"),))
    vip = CONFIG.vips[0]
    pool = replace(vip.services[0].pool, check=Check(kind=kind, rise=1, fall=1))
    config = replace(CONFIG, vips=(replace(vip, services=(replace(vip.services[0], pool=pool),)),))
    node = Node(config)
    node.probe("10.9.2.1")
    assert "secret" not in str(explained(node))
