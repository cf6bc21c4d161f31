from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from anycast.core import events as ev
from anycast.core.dataplane.loop import GOOD_FOR
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import FILE, NODE, STOP, Maintenance
from anycast.core.prefixes import host_route
from anycast.core.values.configuration import Check, HoldDown, TcpCheck
from anycast.core.values.moment import iso
from anycast.core.values.report import (
    CEASE_COLLISION,
    CEASE_PREFIXES,
    HELD,
    TOO_MANY,
    FailedRoute,
    NeighborState,
    Report,
)
from anycast.core.values.sight import RouterView, Sight, ViewChange
from anycast.ops import why
from anycast.ops.paths import schema
from anycast.ops.status import document, readiness, summary
from anycast.ops.strain import Strain
from tests.unit.ops.node import CONFIG, ROUTER, ROUTER6, Node, healthy, vip

WALL = 1_800_000_000.0  # 2027-01-15T08:00:00Z
ON = Maintenance(reason="new kernel", by="root", since=WALL - 60)


def status(node: Node) -> dict[str, Any]:
    text = json.dumps(document(node.state, now=node.now, wall=WALL, version="1.2.3", pid=42), allow_nan=False)
    result: dict[str, Any] = json.loads(text)
    return result


def web(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in status(node)["vips"] if each["name"] == "web")
    return found


def test_a_healthy_node_is_ready_and_says_what_it_announces() -> None:
    node = healthy()
    node.send(ev.Tick(), after=0.5)
    found = status(node)
    assert found["version"] == 1
    assert found["node"] == {
        "name": "lb1",
        "version": "1.2.3",
        "pid": 42,
        "uptime_s": 0.5,
        "stopping": False,
        "recent_crashes": 0,
        "overload": None,
        "stage": "active",
        "stage_since": None,
        "stage_since_s": None,
        "stage_left_s": None,
    }
    assert found["ready"] == {"ready": True, "reasons": []}
    assert [(each["name"], each["advertise"], each["reason"]) for each in found["vips"]] == [
        ("web", "yes", "healthy"),
        ("mail", "yes", "healthy"),
    ]
    assert found["kernel"]["available"]
    assert found["kernel"]["proven"]
    assert found["kernel"]["foreign_services"] == 1
    assert found["plugins"][0]["exabgp_version"] == "5.0.15"


def test_a_vip_that_is_held_after_crashes_says_for_how_long_and_that_it_is_starting() -> None:
    node = Node(crashes=3)
    node.probe()
    assert status(node)["node"]["recent_crashes"] == 3
    assert (web(node)["hold_s"], web(node)["stable_s"]) == (4.0, 0.0)
    node.send(ev.KernelChanged(), after=1.5)
    assert (web(node)["reason"], web(node)["stable_s"]) == ("starting", 1.5)
    words = "everything has held for 1.5 of 4 s (3 crashes in 10 min)"
    assert f"VIP web is still starting: {words}" in status(node)["ready"]["reasons"]
    node.send(ev.Tick(), after=2.5)
    assert (web(node)["reason"], web(node)["hold_s"], web(node)["stable_s"]) == ("healthy", None, None)


def test_a_vip_is_announced_when_every_prefix_is_acknowledged_and_not_before() -> None:
    node = healthy()
    assert web(node)["announced"]
    prefixes = [host_route(address) for address in CONFIG.vips[0].addresses]
    node.report(pending=(prefixes[1],))
    found = web(node)
    assert not found["announced"]
    assert [each["announced"] for each in found["prefixes"]] == [True, False]
    assert all(each["wanted"] for each in found["prefixes"])
    node.report(announced=(prefixes[0],), failed=(FailedRoute(prefix=prefixes[1], why="no next hop"),))
    assert web(node)["prefixes"][1]["failed"] == "no next hop"
    assert not web(node)["announced"]


def test_a_healthy_vip_that_no_router_hears_says_what_is_in_the_way() -> None:
    node = healthy()
    v4, v6 = (host_route(address) for address in CONFIG.vips[0].addresses)
    assert web(node)["obstacle"] == ""
    node.report(pending=(v6,))
    assert web(node)["obstacle"] == f"{v6} waits for ExaBGP to acknowledge it"
    node.report(announced=(v4,), failed=(FailedRoute(prefix=v6, why="no next hop"),))
    assert web(node)["obstacle"] == f"{v6}: no next hop"
    node.report(neighbors=())
    assert web(node)["obstacle"].startswith("no BGP session is up")
    node.send(ev.PluginLost(source=1))
    assert web(node)["obstacle"].startswith("no plugin is connected")
    node.probe("10.9.2.1", "10.9.2.2")
    assert (web(node)["reason"], web(node)["obstacle"]) == ("below_quorum", "")


def test_the_log_of_a_repair_says_what_was_found() -> None:
    node = healthy()
    node.send(ev.Tick(), after=6.0)
    node.kernel = replace(node.kernel, addresses=frozenset())
    node.send(ev.KernelChanged())
    (repair,) = [log for log in node.log if log.event == "kernel.drifted"]
    assert repair.fields["found"] == "192.0.2.1 on lo is missing; 192.0.2.2 on lo is missing"


def test_two_plugins_may_carry_a_vip_between_them() -> None:
    node = healthy()
    v4, v6 = (host_route(address) for address in CONFIG.vips[0].addresses)
    node.report(1, announced=(v4,))
    assert not web(node)["announced"]
    node.report(2, announced=(v6,))
    assert web(node)["announced"]


def test_since_is_the_wall_clock_of_the_change() -> None:
    node = healthy()
    node.send(ev.Tick(), after=2.0)
    assert web(node)["since"] == "2027-01-15T07:59:58Z"
    assert web(node)["since_s"] == 2.0


def test_a_server_that_is_down_shows_wanted_weight_kernel_weight_and_why() -> None:
    node = healthy()
    node.probe("10.9.2.1")
    service = web(node)["services"][0]
    assert service["name"] == "tcp/80"
    assert service["families"][0] == {
        "family": "ipv4",
        "usable": 1,
        "undecided": 0,
        "unproven": 0,
        "total": 2,
        "kept": 0,
        "sorry": None,
    }
    assert service["families"][1]["usable"] == 2
    down, up = service["servers"][:2]
    assert (down["name"], down["address"], down["port"]) == ("rs1", "10.9.2.1", 80)
    assert (down["phase"], down["weight"], down["kernel_weight"]) == ("down", 0, 0)
    assert down["detail"] == "refused"
    assert (up["phase"], up["weight"], up["kernel_weight"]) == ("up", 1, 1)


def test_a_server_the_kernel_does_not_hold_as_wanted_shows_both_weights() -> None:
    node = healthy()
    node.kernel_error = "ip_vs is gone"
    node.probe("10.9.2.1")
    server = web(node)["services"][0]["servers"][0]
    assert (server["weight"], server["kernel_weight"]) == (0, 1)


def test_the_kernel_weight_is_the_lowest_behind_the_addresses_of_the_vip() -> None:
    config = replace(CONFIG, vips=(vip("web", "192.0.2.1", "192.0.2.9"),))
    node = healthy(config)
    table = dict(node.kernel.table)
    second = next(key for key in table if "192.0.2.9" in str(key))
    first, *rest = table[second].destinations
    table[second] = replace(table[second], destinations=(replace(first, weight=0), *rest))
    node.kernel_error = "no more writes"
    node.send(ev.KernelRead(snapshot=replace(node.kernel, table=table)))
    assert web(node)["services"][0]["servers"][0]["kernel_weight"] == 0
    table = {**table, second: replace(table[second], destinations=tuple(rest))}
    node.send(ev.KernelRead(snapshot=replace(node.kernel, table=table)))
    assert web(node)["services"][0]["servers"][0]["kernel_weight"] is None


def test_a_check_that_cannot_run_is_told_apart_from_a_server_that_is_down() -> None:
    node = healthy()
    node.probe("10.9.2.1", unknown=True)
    server = web(node)["services"][0]["servers"][0]
    assert (server["phase"], server["check_failed_to_run"]) == ("up", True)


def test_a_server_that_is_held_down_says_when_it_can_come_up_and_so_does_the_log() -> None:
    check = Check(kind=TcpCheck(), rise=1, fall=1, hold_down=HoldDown(half_life=60.0, suppress=2.5))
    one = vip("web", "192.0.2.1")
    pool = replace(one.services[0].pool, check=check)
    node = healthy(replace(CONFIG, vips=(replace(one, services=(replace(one.services[0], pool=pool),)),)))
    for _ in range(3):
        node.probe()
        assert web(node)["services"][0]["servers"][0]["held_down_s"] == 0
        node.probe("10.9.2.1")
    node.probe()
    server = web(node)["services"][0]["servers"][0]
    assert (server["phase"], server["held_down_s"]) == ("rising", 60.0)
    assert server["detail"] == "held down for 60 s more because it flapped"
    assert [log.fields.get("held_down_s") for log in node.log if log.event == "server.down"] == [
        *(None, None),
        60.0,
    ]
    node.jump(60)
    node.probe()
    assert web(node)["services"][0]["servers"][0]["phase"] == "up"


def test_an_undecided_server_has_no_since() -> None:
    server = web(Node())["services"][0]["servers"][0]
    assert (server["phase"], server["since"], server["since_s"]) == ("undecided", None, None)


def test_maintenance_shows_its_stage_and_does_not_make_a_node_unready() -> None:
    node = healthy()
    node.send(ev.MaintenanceSet(scope="web", entry=ON))
    found = status(node)
    assert found["ready"]["ready"]
    assert found["maintenance"] == [
        {
            "scope": "web",
            "source": "command",
            "file": None,
            "kept": True,
            "reason": "new kernel",
            "by": "root",
            "since": "2027-01-15T07:59:00Z",
            "since_s": 60.0,
            "ends": None,
            "ends_in_s": None,
            "on_expiry": None,
            "overdue": False,
            "stage": "draining",
            "stage_since": "2027-01-15T08:00:00Z",
            "stage_since_s": 0.0,
            "stage_left_s": 2.0,
            "packets_per_s": None,
            "connections": None,
        }
    ]
    assert [(each["name"], each["stage"]) for each in found["vips"]] == [
        ("web", "draining"),
        ("mail", "active"),
    ]
    node.send(ev.Tick(), after=10.0)
    assert web(node)["stage"] == "withdrawn"


def test_every_stage_says_since_when_and_for_how_long_at_most() -> None:
    node = healthy()
    node.send(ev.MaintenanceSet(scope=NODE, entry=ON))
    seen = []
    for seconds in (0.5, 1.5, 0.0, 1.0, 30.0):
        node.send(ev.Tick(wall=WALL), after=seconds)
        if seconds == 0.0:
            node.report()
        entry, whole = status(node)["maintenance"][0], status(node)["node"]
        assert entry["stage"] == whole["stage"] == web(node)["stage"]
        assert entry["stage_left_s"] == whole["stage_left_s"] == web(node)["stage_left_s"]
        seen.append((entry["stage"], entry["stage_since_s"], entry["stage_left_s"]))
    assert seen == [
        ("draining", 0.5, 1.5),
        ("withdrawn", 0.0, 9.0),  # the end of a hung plugin, and the time routers have
        ("withdrawn", 0.0, 1.0),
        ("quiet", 0.0, 30.0),
        ("down", 27.0, None),  # silence is proven by then
    ]


def test_an_end_and_what_is_past_it_are_told() -> None:
    node = healthy()
    end = End(at=WALL + 90.0, then=Expiry.HOLD)
    node.send(ev.MaintenanceSet(scope=NODE, entry=replace(ON, since=WALL, end=end)))
    (entry,) = status(node)["maintenance"]
    told = {key: entry[key] for key in ("ends", "ends_in_s", "on_expiry", "overdue")}
    assert told == {
        "ends": "2027-01-15T08:01:30Z",
        "ends_in_s": 90.0,
        "on_expiry": "hold",
        "overdue": False,
    }
    node.send(ev.Tick(wall=WALL))
    node.send(ev.Tick(wall=WALL + 90.0), after=90.0)
    assert status(node)["maintenance"][0]["overdue"]


def test_the_file_and_a_drain_before_a_stop_are_of_the_node_and_say_where_they_come_from() -> None:
    node = healthy()
    for scope in (FILE, STOP, NODE):
        node.send(ev.MaintenanceSet(scope=scope, entry=ON))
    found = status(node)["maintenance"]
    assert [(one["scope"], one["source"], one["file"], one["kept"]) for one in found] == [
        ("", "command", None, True),
        ("", "file", "/run/anycast/maintenance", False),
        ("", "stop", None, False),
    ]


def test_a_vip_is_as_far_as_its_own_maintenance_or_its_nodes() -> None:
    node = healthy()
    node.send(ev.MaintenanceSet(scope="web", entry=ON))
    node.send(ev.Tick(), after=10.0)
    node.send(ev.MaintenanceSet(scope=NODE, entry=ON))
    assert [each["stage"] for each in status(node)["vips"]] == ["withdrawn", "draining"]


def test_a_session_nobody_tells_of_is_unknown() -> None:
    node = healthy()
    node.report(neighbors=(NeighborState(address=ROUTER, state="up", changed=node.now),))
    assert [(each["address"], each["state"]) for each in status(node)["neighbors"]] == [
        (ROUTER, "up"),
        (ROUTER6, "unknown"),
    ]


def test_a_session_is_the_configured_one_however_its_address_is_written() -> None:
    node = healthy()
    long = NeighborState(address="fd00:2:1:0:0:0:0:fe", state="down", changed=node.now, reason="hold timer")
    foreign = NeighborState(address="10.2.1.253", state="up", changed=node.now)
    node.report(neighbors=(foreign, long))
    assert [(each["address"], each["state"]) for each in status(node)["neighbors"]] == [
        (ROUTER, "unknown"),
        (ROUTER6, "down"),
        ("10.2.1.253", "up"),
    ]


def test_a_session_that_is_up_in_one_plugin_is_up() -> None:
    node = healthy()
    node.report(2, neighbors=(NeighborState(address=ROUTER, state="down", changed=node.now),))
    assert status(node)["neighbors"][0]["state"] == "up"


def session(address: str, state: str, node: Node) -> NeighborState:
    return NeighborState(address=address, state=state, changed=node.now, reason="hold timer")


def ipv6_lost() -> Node:
    node = healthy()
    node.report(neighbors=(session(ROUTER, "up", node), session(ROUTER6, "down", node)))
    return node


def test_a_vip_is_not_announced_while_no_session_carries_one_of_its_families() -> None:
    found = web(ipv6_lost())
    assert (found["announced"], found["obstacle_reason"]) == (False, "no_session")
    assert found["obstacle"] == f"no BGP session that carries IPv6 is up ({ROUTER6} down)"
    assert [
        (each["prefix"], each["acknowledged"], each["announced"], each["sessions_up"], each["obstacle"])
        for each in found["prefixes"]
    ] == [("192.0.2.1/32", True, True, 1, None), ("2001:db8:99::1/128", True, False, 0, "no_session")]


def test_a_vip_of_the_other_family_is_announced_all_the_same() -> None:
    mail = status(ipv6_lost())["vips"][1]
    assert (mail["announced"], mail["obstacle"], mail["obstacle_reason"]) == (True, "", None)


def test_a_node_is_not_ready_while_no_session_carries_a_family_of_its_vips() -> None:
    assert reasons(ipv6_lost()) == f"no BGP session that carries IPv6 is up ({ROUTER6} down)"


def test_one_of_two_sessions_of_a_family_is_enough() -> None:
    both = tuple(replace(one, families=frozenset({4, 6})) for one in CONFIG.bgp.neighbors)
    node = healthy(replace(CONFIG, bgp=replace(CONFIG.bgp, neighbors=both)))
    node.report(neighbors=(session(ROUTER, "up", node), session(ROUTER6, "down", node)))
    assert (web(node)["announced"], reasons(node)) == (True, "")
    assert [(each["sessions_up"], each["sessions"]) for each in web(node)["prefixes"]] == [(1, 2), (1, 2)]


def test_sessions_of_a_configuration_of_somebody_else_carry_what_ours_do_not() -> None:
    node = healthy(replace(CONFIG, bgp=replace(CONFIG.bgp, neighbors=CONFIG.bgp.neighbors[:1])))
    assert web(node)["announced"]
    node.report(neighbors=(session(ROUTER, "down", node), session("10.2.1.253", "up", node)))
    assert [each["announced"] for each in web(node)["prefixes"]] == [False, True]


def silent(seconds: float) -> Node:
    """ExaBGP has not answered its plugin for so long; the report is as old as the first second of it."""
    node = healthy()
    node.report(silent_since=node.now - 1.0)
    node.jump(seconds - 1.0)
    return node


def test_an_exabgp_that_has_not_answered_for_a_moment_still_announces() -> None:
    assert web(silent(1.4))["announced"]
    assert reasons(silent(1.4)) == ""


def test_of_an_exabgp_that_does_not_answer_nothing_is_known_and_the_age_grows_by_itself() -> None:
    node = silent(4.0)
    words = (
        "ExaBGP has not answered for 4 s: it is not known what it announces and which sessions are up; routers drop its "
        "routes within 9 s of its last keepalive"
    )
    found = web(node)
    assert (found["announced"], found["obstacle_reason"], found["obstacle"]) == (
        False,
        "exabgp_silent",
        words,
    )
    assert reasons(node) == words
    assert [(each["state"], each["since_s"], each["reason"]) for each in status(node)["neighbors"]] == [
        ("unknown", 4.0, "ExaBGP has not answered for 4 s")
    ] * 2
    plugin = status(node)["plugins"][0]
    assert (plugin["silent"], plugin["oldest_ack_age_s"]) == (True, 4.0)
    assert (found["advertise"], found["reason"]) == ("yes", "healthy")
    assert summary(node.state, node.now) == words
    node.report()
    assert web(node)["announced"]


def test_a_plugin_that_stands_still_with_its_exabgp_is_said_to() -> None:
    node = healthy()
    node.report(silent_since=node.now - 4.0, mute=True)
    assert reasons(node).startswith(
        "ExaBGP's plugin has not answered for 4 s: it is not known what it announces"
    )
    assert not web(node)["announced"]
    assert {each["state"] for each in status(node)["neighbors"]} == {"unknown"}
    (plugin,) = status(node)["plugins"]
    assert (plugin["silent"], plugin["mute"]) == (True, True)


def test_what_a_second_exabgp_announces_is_known_although_the_first_does_not_answer() -> None:
    node = silent(4.0)
    node.report(2)
    assert web(node)["announced"]


def reasons(node: Node) -> str:
    return "\n".join(readiness(node.state, node.now))


def test_a_node_that_starts_is_not_ready_and_says_what_it_waits_for() -> None:
    node = Node()
    assert "VIP web is still starting: 8 checks without a result yet" in reasons(node)
    assert "no plugin is connected (is ExaBGP running" in reasons(node)


def test_a_node_without_its_kernel_is_not_ready() -> None:
    node = healthy()
    node.send(ev.KernelFailed(reason="no ip_vs (modprobe ip_vs)"))
    assert readiness(node.state, node.now) == ("kernel unavailable: no ip_vs (modprobe ip_vs)",)


def test_a_node_whose_kernel_was_not_read_for_long_is_not_ready() -> None:
    node = healthy()
    later = node.now + GOOD_FOR * CONFIG.timing.reconcile
    assert readiness(node.state, later) == ("kernel unavailable: not read for 15 s",)


def test_a_node_without_a_bgp_session_is_not_ready() -> None:
    node = healthy()
    node.report(neighbors=())
    assert "no BGP session is up" in reasons(node)
    node.send(ev.PluginLost(source=1))
    assert "no plugin" in reasons(node)
    assert "BGP" not in reasons(node).replace("ExaBGP", "")


def test_a_node_whose_route_was_refused_is_not_ready() -> None:
    node = healthy()
    prefix = host_route(CONFIG.vips[0].addresses[0])
    node.report(failed=(FailedRoute(prefix=prefix, why="ExaBGP refused it"),))
    assert readiness(node.state, node.now) == ("route 192.0.2.1/32 is not announced: ExaBGP refused it",)


def test_a_node_whose_lease_ran_out_is_not_ready() -> None:
    node = healthy()
    node.report(lease_expired=True)
    assert readiness(node.state, node.now) == ("the lease of plugin 4712 has run out: it announces nothing",)


def test_a_node_that_stops_is_not_ready() -> None:
    node = healthy()
    node.send(ev.StopRequested())
    assert readiness(node.state, node.now) == ("the agent is stopping",)


def test_a_plugin_that_has_not_reported_has_nulls() -> None:
    node = Node()
    node.send(ev.PluginConnected(source=7))
    assert status(node)["plugins"] == [
        {
            "source": 7,
            "connected": True,
            "seq": None,
            "exabgp_version": None,
            "exabgp_pid": None,
            "speaker": None,
            "daemon": None,
            "errors": None,
            "acks": None,
            "oldest_ack_age_s": None,
            "silent": None,
            "mute": None,
            "lease_expired": None,
            "late_leases": None,
        }
    ]


def test_a_time_beyond_the_calendar_is_null() -> None:
    assert iso(1e20) is None


INSTANTS = st.floats(-1e9, 1e9)  # the lease protocol lets finite numbers through only
REPORTS = st.builds(
    Report,
    seq=st.integers(0, 20),
    announced=st.sampled_from([frozenset(), frozenset(map(host_route, CONFIG.vips[0].addresses))]),
    pending=st.sampled_from([frozenset(), frozenset(map(host_route, CONFIG.vips[1].addresses))]),
    failed=st.lists(
        st.builds(FailedRoute, prefix=st.just(host_route(CONFIG.vips[0].addresses[0])), why=st.text()),
        max_size=1,
    ).map(tuple),
    neighbors=st.lists(
        st.builds(
            NeighborState,
            address=st.sampled_from([ROUTER, ROUTER6, "fe80::1%eth0", "not an address"]),
            state=st.sampled_from(["up", "down", "connected"]),
            changed=INSTANTS,
            reason=st.text(),
        ),
        max_size=3,
    ).map(tuple),
    exabgp_version=st.none() | st.text(),
    silent_since=st.none() | INSTANTS,
    lease_expired=st.booleans(),
)
_ONE_VIEW = st.builds(
    RouterView,
    neighbor=st.sampled_from([ROUTER, ROUTER6, "not an address"]),
    number=st.integers(1, 2),
    up=st.booleans(),
    since=st.none() | INSTANTS,
    complete=st.none() | INSTANTS,
    add_path=st.sampled_from([(), (4,), (4, 6)]),
    echoes=st.booleans(),
    full=st.booleans(),
)
_SIGHTS = st.builds(
    Sight,
    prefix=st.sampled_from([host_route(a) for one in CONFIG.vips for a in one.addresses]),
    mine=st.none() | INSTANTS,
    missing=st.none() | INSTANTS,
    others=st.integers(0, 3),
    unmarked=st.integers(0, 1),
)
_VIEWED = replace(
    CONFIG, bgp=replace(CONFIG.bgp, neighbors=tuple(replace(one, view=True) for one in CONFIG.bgp.neighbors))
)
EVENTS = st.one_of(
    st.just(ev.Tick()),
    st.just(ev.StopRequested()),
    st.just(ev.KernelChanged()),
    st.just(ev.KernelFailed(reason="EPERM")),
    st.builds(ev.PluginConnected, source=st.integers(1, 2)),
    st.builds(ev.PluginLost, source=st.integers(1, 2)),
    st.builds(ev.PluginReported, source=st.integers(1, 2), report=REPORTS),
    st.builds(
        ev.PluginSaw,
        source=st.integers(1, 2),
        change=st.builds(
            ViewChange,
            views=st.lists(_ONE_VIEW, max_size=2, unique_by=lambda one: one.neighbor).map(tuple),
            sights=st.lists(
                st.tuples(
                    st.sampled_from([ROUTER, ROUTER6]),
                    st.lists(_SIGHTS, max_size=3, unique_by=lambda one: one.prefix).map(tuple),
                ),
                max_size=2,
            ).map(tuple),
            first=st.booleans(),
        ),
    ),
    st.builds(
        ev.MaintenanceSet,
        scope=st.sampled_from([NODE, "web", "mail"]),
        entry=st.none()
        | st.builds(Maintenance, reason=st.text(), by=st.text(), since=st.floats(-1e20, 1e20)),
    ),
    st.builds(
        ev.Reconfigured,
        config=st.sampled_from(
            [CONFIG, _VIEWED, replace(CONFIG, vips=CONFIG.vips[:1]), replace(CONFIG, vips=())]
        ),
    ),
    st.sampled_from([(), ("10.9.2.1",), ("10.9.2.1", "fd00:9:2::2")]),
)


@settings(deadline=None, max_examples=60)
@given(events=st.lists(st.tuples(EVENTS, st.floats(0, 10)), max_size=12))
def test_every_state_that_can_be_reached_is_json(
    events: list[tuple[ev.Event | tuple[str, ...], float]],
) -> None:
    node = Node()
    status(node)
    node.send(ev.PluginConnected(source=1))
    for event, wait in events:
        if isinstance(event, tuple):
            node.jump(wait)
            node.probe(*event)
        else:
            node.send(event, after=wait)
        status(node)


def test_the_summary_counts_what_is_to_be_announced_and_names_the_others() -> None:
    node = healthy()
    assert summary(node.state, node.now) == "announcing 2 of 2 VIPs"
    node.send(ev.MaintenanceSet(scope="web", entry=ON))
    assert summary(node.state, node.now) == "announcing 1 of 2 VIPs (web vip_maintenance)"
    node.report(neighbors=())
    assert summary(node.state, node.now) == "no BGP session is up, nothing is announced (web vip_maintenance)"
    node.send(ev.PluginLost(source=1))
    assert (
        summary(node.state, node.now) == "no plugin is connected, nothing is announced (web vip_maintenance)"
    )
    node.send(ev.StopRequested())
    assert summary(node.state, node.now) == "stopping: withdrawing every VIP"


def test_the_summary_of_many_names_three() -> None:
    names = ("a", "b", "c", "d", "e")
    config = replace(CONFIG, vips=tuple(vip(name, f"192.0.2.{n}") for n, name in enumerate(names, 1)))
    node = Node(config)
    node.report()
    expected = "announcing 0 of 5 VIPs (a starting, b starting, c starting and 2 more)"
    assert summary(node.state, node.now) == expected


def test_a_router_that_takes_no_more_prefixes_is_said_with_what_to_do() -> None:
    node = healthy()
    reason = f"{CEASE_PREFIXES}: {TOO_MANY}"
    full = NeighborState(address=ROUTER, state="down", changed=node.now, reason=reason)
    other = NeighborState(address=ROUTER6, state="up", changed=node.now)
    node.report(neighbors=(full, other))
    whole = status(node)
    (told,) = [one for one in whole["ready"]["reasons"] if "maximum-prefix" in one]
    assert told == (
        f"no BGP session that carries IPv4 is up ({ROUTER} down); {ROUTER}: the router has had more prefixes than it "
        "takes, and keeps the session down: raise its maximum-prefix, then clear the session there"
    )
    assert whole["vips"][0]["obstacle"] == told
    node.report(neighbors=(full, replace(other, state="down")))
    assert f"{ROUTER}: the router has had more prefixes" in readiness(node.state, node.now)[0]
    body = why.document(node.state, node.state.config.vips[0], node.tallies, now=node.now, wall=WALL)
    assert any("raise its maximum-prefix" in one for one in body["would_change"])


def test_a_router_that_holds_an_old_session_is_said_in_the_status_and_in_why() -> None:
    node = healthy()
    down = NeighborState(address=ROUTER, state="down", changed=node.now, reason=f"{CEASE_COLLISION}: {HELD}")
    node.report(neighbors=(down, NeighborState(address=ROUTER6, state="up", changed=node.now)))
    assert f"{ROUTER}: the router still holds a session of before" in status(node)["vips"][0]["obstacle"]
    body = why.document(node.state, node.state.config.vips[0], node.tallies, now=node.now, wall=WALL)
    (sessions,) = [link for link in body["chain"] if link["link"] == "sessions"]
    assert any(HELD in item["text"] for item in sessions["items"])


def test_an_overload_is_in_the_status_while_it_lasts() -> None:
    node = healthy()
    strain = Strain().took("a reload", 1.25, ttl=2.0, now=node.now - 3.0)
    found = document(node.state, now=node.now, wall=WALL, version="1.2.3", pid=42, overload=strain.overload)
    assert found["node"]["overload"] == {
        "doing": "a reload",
        "longest_s": 1.25,
        "limit_s": 0.667,
        "times": 1,
        "last_s": 3.0,
    }
    Draft202012Validator(schema("status")).validate(json.loads(json.dumps(found)))
