"""What breaks between agent, plugin, ExaBGP and router, and what the router's kernel has afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.core.values.route import Route
from anycast.plugin.plan import SETTLE
from tests.contract import bgp
from tests.contract.bgp import MARKERS, NODE4, NODE6, PATIENCE, ROUTER4, VIPS4, VIPS6, Node, Site

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

V4, W4, V6 = VIPS4[0], VIPS4[1], VIPS6[0]
BOTH = (Route(prefix=V4, med=100, communities=("65001:7",)), Route(prefix=V6))
MANY = tuple(f"65001:{number}" for number in range(1, 140))
LONG = 120.0  # seconds; a lease that a test does not see the end of


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with bgp.site() as one:
        yield one


@pytest.fixture
def node(site: Site) -> Iterator[Node]:
    with bgp.node(site, own=[V4, V6]) as one:
        yield one


def test_what_a_killed_plugin_left_is_withdrawn_even_with_nobody_to_ask(node: Node) -> None:
    report = node.want(*BOTH, ttl=LONG)
    node.router.wait_for(V4, V6)
    node.agent.close()
    _kill(report.pid)
    node.router.wait_without(V4, V6)
    assert node.exabgp.alive()


def test_a_prefix_that_only_the_journal_knows_is_withdrawn_by_the_next_plugin(node: Node) -> None:
    report = node.want(Route(prefix=W4, med=7), ttl=LONG)
    node.router.wait_for(W4)
    node.agent.close()
    _kill(report.pid)
    node.router.wait_without(W4)


def test_a_killed_plugin_is_replaced_and_the_lease_carried_out_again(node: Node) -> None:
    first = node.want(*BOTH)
    node.router.wait_for(V4, V6)
    _kill(first.pid)
    second = node.agent.wait(lambda report: report.pid != first.pid and set(report.announced) == {V4, V6})
    assert second.exabgp_pid == first.exabgp_pid == node.exabgp.pid
    node.barrier()
    assert node.router.has(V4)
    assert node.router.has(V6)


def test_an_agent_back_within_the_lease_costs_not_one_update(node: Node) -> None:
    node.up()
    node.want(*BOTH, ttl=LONG)
    node.barrier()
    before = node.router.now()
    node.agent.close()
    node.agent.open()
    assert set(node.want(*BOTH).announced) == {V4, V6}
    node.barrier()
    assert node.agent.connections == 2
    assert "+" in node.router.heard(MARKERS[0], before)
    assert node.router.heard(V4, before) == node.router.heard(V6, before) == ""


def test_an_agent_that_does_not_come_back_takes_the_routes_along(node: Node) -> None:
    node.want(*BOTH, ttl=1.0)
    node.router.wait_for(V4, V6)
    node.agent.close()
    node.router.wait_without(V4, V6)


def test_a_lease_that_grew_old_in_the_buffer_of_a_stopped_plugin_announces_nothing(node: Node) -> None:
    node.up()
    report = node.want(Route(prefix=V4))
    node.router.wait_for(V4)
    before = node.router.now()
    with _stopped(report.pid):
        node.agent.grant(Route(prefix=V4), Route(prefix=W4), ttl=0.3, renew=False)
        time.sleep(0.4)  # what is awaited is the lease growing old
    node.router.wait_without(V4)
    node.agent.wait(lambda report: report.lease_expired and not report.announced)
    node.want()
    node.barrier()
    assert "+" not in node.router.heard(W4, before)


def test_a_killed_exabgp_takes_the_routes_along_and_the_next_one_brings_them_back(node: Node) -> None:
    node.want(*BOTH)
    node.router.wait_for(V4, V6)
    node.exabgp.end(grace=0.0)
    node.router.wait_without(V4, V6)
    node.start()
    node.router.wait_for(V4, V6)


def test_a_plugin_does_not_outlive_its_exabgp(node: Node) -> None:
    report = node.want(*BOTH)
    plugin = os.pidfd_open(report.pid)
    node.exabgp.end(grace=0.0)
    _await_end(plugin)


def test_an_exabgp_that_answers_no_more_is_ended(node: Node) -> None:
    node.want(Route(prefix=V4))
    node.exabgp.send(signal.SIGSTOP)
    node.agent.grant(*BOTH)
    assert node.exabgp.wait(PATIENCE)
    node.router.wait_without(V4)


def test_an_exabgp_that_stood_still_is_seen_and_its_routes_come_back(node: Node) -> None:
    """The router has dropped them meanwhile, with sessions that looked up on the node. How soon: the plugin's test."""
    node.up()
    before = node.want(*BOTH)
    node.router.wait_for(V4, V6)
    with _stopped(node.exabgp.pid):
        report = node.agent.wait(lambda report: report.silent_since is not None)
        assert all(one.state == "up" for one in report.neighbors)
        node.router.wait_without(V4, V6)
    after = node.agent.wait(lambda report: report.silent_since is None and not report.pending)
    assert (after.pid, after.exabgp_pid) == (before.pid, before.exabgp_pid)
    node.router.wait_for(V4, V6)
    assert node.up().announced == {V4, V6}
    node.barrier()
    assert node.router.has(V4)
    assert node.router.has(V6)
    assert node.router.path(V4)["metric"] == 100


def test_what_was_asked_of_a_full_pipe_holds_when_exabgp_goes_on(site: Site) -> None:
    """More than the 64 KiB of the pipe is to be said while ExaBGP does not read: nothing of it is lost or doubled."""
    routes = [Route(prefix=prefix, communities=MANY) for prefix in VIPS4]
    with bgp.node(site, own=VIPS4) as node:
        node.up()
        before = node.want(*routes[::2])
        node.router.wait_for(VIPS4[0])
        with _stopped(node.exabgp.pid):
            number = node.agent.grant(*routes[1::2])
            # It goes on with its leases, and says that it waits.
            waits = node.agent.wait(lambda report: report.seq > number and report.silent_since is not None)
            assert waits.pending
            node.router.wait_without(*VIPS4)
        node.up()
        after = node.want(*routes[1::2])
        assert (after.pid, after.errors) == (before.pid, before.errors)
        node.barrier()
        assert [node.router.has(prefix) for prefix in VIPS4] == [False, True] * (len(VIPS4) // 2)


def test_an_exabgp_whose_log_nobody_reads_is_ended(
    site: Site,
) -> None:
    """A journald that stands still: ExaBGP waits in a write to its stderr, which is the plugin's too."""
    with bgp.node(site, own=VIPS4) as node:
        node.up()
        node.exabgp.end(grace=0.0)
        with _unread(node.log):
            node.start()
            # Of each route ExaBGP logs a line for the session of the other family.
            node.agent.grant(*(Route(prefix=prefix) for prefix in VIPS4))
            assert node.agent.wait_or_end(lambda report: report.silent_since is not None, node.exabgp)
            assert node.exabgp.wait(PATIENCE)
        node.router.wait_without(*VIPS4)


def test_an_exabgp_whose_answers_are_switched_off_announces_nothing_and_is_ended(site: Site) -> None:
    with bgp.node(site, own=[V4], env={"exabgp_api_ack": "false"}) as node:
        before = node.router.now()
        node.agent.grant(Route(prefix=V4))
        assert node.exabgp.wait(PATIENCE)
        assert node.router.heard(V4, before).strip("-") == ""
        assert "ExaBGP is stuck (no answer for 5 s to:" in node.log.read_text()


def test_a_plugin_that_stands_still_with_its_exabgp_is_seen_by_the_agent(node: Node) -> None:
    """A frozen unit, a paused container: the guardian stands still too, so nobody ends them."""
    before = node.want(*BOTH)
    node.router.wait_for(V4, V6)
    with contextlib.ExitStack() as still:
        for pid in (node.exabgp.pid, before.pid, *_children(before.pid)):
            still.enter_context(_stopped(pid))
        mute = node.agent.wait(lambda report: report.mute)
        assert mute.silent_since is not None
        assert mute.announced == {V4, V6}
        node.router.wait_without(V4, V6)
    node.agent.wait(lambda report: not report.mute and report.announced == {V4, V6} and not report.pending)
    node.router.wait_for(V4, V6)
    assert node.up().pid == before.pid
    assert node.agent.connections == 1


def test_a_cleared_session_comes_back_with_the_same_routes(node: Node) -> None:
    node.up()
    node.want(*BOTH)
    node.router.wait_for(V4, V6)
    sessions = _sessions(node)
    moment = time.monotonic()
    node.router.vtysh("clear bgp *")
    node.agent.wait(lambda report: sum(n.state == "up" and n.changed > moment for n in report.neighbors) == 2)
    node.barrier()
    assert node.router.has(V4)
    assert node.router.has(V6)
    assert _sessions(node) > sessions


@pytest.mark.parametrize("story", ["-+-", "+-+", "-+-+", "+-", "-+-+-"])
def test_what_was_asked_last_while_the_session_was_down_holds_when_it_is_up(node: Node, story: str) -> None:
    node.up()
    node.want(Route(prefix=V4, med=100), Route(prefix=W4))
    node.router.wait_for(V4, W4)
    with _no_session(node):
        for sign in story:
            node.want(*([Route(prefix=V4, med=100)] if sign == "+" else []), Route(prefix=W4))
    node.up()
    node.barrier()
    assert node.router.has(W4)
    assert node.router.has(V4) == story.endswith("+")


def test_a_lease_that_runs_out_while_the_session_is_down_leaves_nothing_to_come_back(node: Node) -> None:
    node.up()
    node.want(Route(prefix=V4, med=100))
    with _no_session(node):
        node.want()
        node.want(Route(prefix=V4, med=100), ttl=0.5, renew=False)
        node.agent.wait(lambda report: report.lease_expired and not report.announced)
    node.up()
    node.want()
    node.barrier()
    assert not node.router.has(V4)


def test_a_plugin_killed_while_the_session_is_down_leaves_nothing_to_come_back(node: Node) -> None:
    node.up()
    node.want(Route(prefix=V4, med=100))
    with _no_session(node):
        node.want()
        report = node.want(Route(prefix=V4, med=100), ttl=LONG)
        node.agent.close()
        _kill(report.pid)
        node.agent.grant(Route(prefix=W4))
        node.agent.open()
        node.agent.wait(lambda report: report.announced == {W4})
    node.up()
    node.want(Route(prefix=W4))
    node.barrier()
    assert node.router.has(W4)
    assert not node.router.has(V4)


def test_a_change_of_attributes_replaces_the_route_without_a_withdraw(node: Node) -> None:
    node.up()
    node.want(Route(prefix=V4, med=50))
    node.router.wait_for(V4)
    before = node.router.now()
    for med in (200, 100, 300, 100, 200, 100):
        node.want(Route(prefix=V4, med=med))
    node.barrier()
    assert node.router.path(V4)["metric"] == 100
    assert set(node.router.heard(V4, before)) == {"+"}


def test_a_route_that_exabgp_refuses_is_reported_and_the_others_are_announced(site: Site) -> None:
    with bgp.node(site, own=[V4, V6], sessions=bgp.ONE_SESSION) as node:
        node.up()
        node.agent.grant(Route(prefix=V4), Route(prefix=V6))  # next hop self, but the session is IPv4
        report = node.agent.wait(lambda report: bool(report.failed) and report.announced == {V4})
        assert [failed.prefix for failed in report.failed] == [V6]
        assert report.errors
        node.router.wait_for(V4)
        number = node.agent.grant(Route(prefix=V6))
        assert node.agent.wait(lambda report: report.seq >= number and not report.announced).failed
        node.router.wait_without(V4)
        assert not node.want(Route(prefix=V4)).failed


def test_an_ipv6_route_with_its_own_next_hop_goes_over_an_ipv4_session(
    site: Site,
) -> None:
    with bgp.node(site, own=[V6], sessions=bgp.ONE_SESSION) as node:
        node.want(Route(prefix=V6, next_hop=ip_address(NODE6)))
        node.router.wait_for(V6)


def test_a_route_out_of_range_is_refused_without_exabgp_hearing_of_it(node: Node) -> None:
    node.agent.grant(Route(prefix=V4, communities=("65000:70000",)), Route(prefix=V6))
    report = node.agent.wait(lambda report: bool(report.failed) and V6 in report.announced)
    assert [failed.prefix for failed in report.failed] == [V4]
    assert not report.errors
    node.router.wait_for(V6)


def test_more_answers_than_exabgps_pipe_holds_freeze_nothing(site: Site) -> None:
    """With a pipe full of them unread ExaBGP would block, and its sessions with it."""
    routes = [Route(prefix=prefix) for prefix in VIPS4]
    with bgp.node(site, own=VIPS4) as node:
        node.up()
        sessions = _sessions(node)
        first = last = node.want()
        full = _smallest_pipe(first.pid) // len("done\n")
        while last.acks < 2 * full:
            node.want(*routes)
            last = node.want()
        assert not last.errors
        assert last.pid == first.pid
        node.want(*routes[::2])
        node.barrier()
        assert [node.router.has(prefix) for prefix in VIPS4] == [True, False] * (len(VIPS4) // 2)
        assert _sessions(node) == sessions


def _smallest_pipe(plugin: int) -> int:
    """Makes the one that ExaBGP answers on hold as little as one can, for it holds thousands of answers. Bytes."""
    with open(f"/proc/{plugin}/fd/0", "rb") as pipe:
        return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1)


def test_the_service_manager_hears_of_the_plugin_through_exabgp(site: Site, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with bgp.node(site, own=[V4], env=env) as node:
            heard = {manager.recv(4096) for _ in range(4)}
            assert heard == {b"READY=1", b"WATCHDOG=1"}
            plugin = node.agent.wait(lambda report: report.pid != 0).pid
            with _stopped(plugin):
                manager.settimeout(0.5)
                with contextlib.suppress(TimeoutError):
                    last = [manager.recv(4096) for _ in range(8)]  # what had been sent before
                    pytest.fail(f"still fed: {last}")
            manager.settimeout(PATIENCE)
            assert manager.recv(4096) == b"WATCHDOG=1"


def test_without_a_watchdog_the_guardian_ends_the_exabgp_of_a_hung_plugin(node: Node) -> None:
    report = node.want(*BOTH, ttl=LONG)
    node.router.wait_for(V4, V6)
    plugin = os.pidfd_open(report.pid)
    os.kill(report.pid, signal.SIGSTOP)
    assert node.exabgp.wait(PATIENCE)
    node.router.wait_without(V4, V6)
    _await_end(plugin)


def test_a_plugin_asked_to_end_withdraws_first(site: Site) -> None:
    with bgp.node(site, own=[V4, V6], env={"exabgp_api_respawn": "false"}) as node:  # no successor does it
        report = node.want(*BOTH, ttl=LONG)
        node.router.wait_for(V4, V6)
        plugin = os.pidfd_open(report.pid)
        os.kill(report.pid, signal.SIGTERM)
        _await_end(plugin)
        node.router.wait_without(V4, V6)
        assert node.exabgp.alive()


def test_an_exabgp_asked_to_stop_takes_the_routes_along_at_once(node: Node) -> None:
    node.want(*BOTH, ttl=LONG)
    node.router.wait_for(V4, V6)
    node.exabgp.send(signal.SIGTERM)
    node.router.wait_without(V4, V6)
    assert node.exabgp.wait(PATIENCE)


def test_plugins_that_die_over_and_over_take_exabgp_and_the_routes_along(site: Site) -> None:
    """ExaBGP bears five deaths in a window of 64 s that its clock decides, so ten are enough wherever they fall."""
    with bgp.node(site, own=[V4, V6]) as node:
        node.want(*BOTH, ttl=LONG)
        node.router.wait_for(V4, V6)
        dead = {0}
        for _ in range(12):
            alive = node.agent.wait_or_end(lambda report: report.pid not in dead, node.exabgp)
            if alive is None:
                break
            dead.add(alive.pid)
            _kill(alive.pid)
        assert node.exabgp.wait(PATIENCE)
        node.router.wait_without(V4, V6)


def test_after_a_reload_that_fails_the_watchdog_alone_ends_what_is_announced(
    site: Site, tmp_path: Path
) -> None:
    """ExaBGP ends the plugin and keeps its routes, its session up. So its unit validates before it reloads."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with bgp.node(site, own=[V4, V6], env=env) as node:
            report = node.want(*BOTH, ttl=LONG)
            node.router.wait_for(V4, V6)
            plugin = os.pidfd_open(report.pid)
            node.configure("this is no configuration\n")
            node.exabgp.send(signal.SIGUSR1)
            _await_end(plugin)
            manager.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while manager.recv(4096):
                    pass
            manager.settimeout(1.0)
            with pytest.raises(TimeoutError):
                manager.recv(4096)
            assert node.exabgp.alive()
            assert node.router.has(V4)
            assert node.router.has(V6)
            node.exabgp.end(grace=0.0)  # what the service manager does then
            node.router.wait_without(V4, V6)


def _static(route: str) -> tuple[str, str]:
    """What an operator writes into the session of V4."""
    family = "    family { ipv4 unicast; }\n"
    return family, f"{family}    static {{ route {V4} {route}; }}\n"


@pytest.mark.parametrize("route", ["next-hop self", "next-hop self med 7 watchdog w"])
def test_a_vip_that_is_a_route_of_the_file_goes_again_after_a_reload(node: Node, route: str) -> None:
    node.up()
    node.want()
    time.sleep(
        2 * SETTLE
    )  # what is awaited is that everything has been said that belongs to the session's start
    node.barrier()
    before = node.router.now()
    node.configure(node.conf().replace(*_static(route)))
    node.exabgp.send(signal.SIGUSR1)
    _until(lambda: "+" in node.router.heard(V4, before) and node.router.heard(V4, before)[-1] == "-")
    node.barrier()
    # A busy ExaBGP may come to the routes of its file after what is said first; then the second time counts.
    node.router.wait_without(V4)


def test_a_vip_whose_line_has_left_the_file_is_announced_again_as_leased(node: Node) -> None:
    """ExaBGP withdraws what has gone from its file, whoever else has announced it."""
    conf = node.conf()
    node.configure(conf.replace(*_static("next-hop self med 7")))
    node.exabgp.end(grace=0.0)
    node.start()
    node.up()
    node.want(*BOTH)
    _until(lambda: _metric(node) == 100)
    node.configure(conf)
    before = node.router.now()
    node.exabgp.send(signal.SIGUSR1)
    _until(lambda: node.router.heard(V4, before)[-1:] == "+")
    node.barrier()
    _until(lambda: _metric(node) == 100)  # at the latest by what is said the second time
    node.router.wait_for(V4)


def test_a_router_that_has_had_too_many_prefixes_takes_them_once_it_is_told_to(node: Node) -> None:
    """The node hears that the session was closed, mostly with the reason; the router knows it in any case."""
    limit = f"neighbor {NODE4} maximum-prefix 2"
    family = ("configure terminal", "router bgp 65000", "address-family ipv4 unicast")
    routes = [Route(prefix=prefix) for prefix in VIPS4[:3]]
    node.up()
    node.router.vtysh(*family, limit)
    try:
        node.agent.grant(*routes, Route(prefix=V6))
        node.agent.wait(
            lambda report: any(n.address == ROUTER4 and n.state == "down" for n in report.neighbors)
        )
        node.router.wait_without(*VIPS4[:3])
        node.router.wait_for(V6)
        assert '"prefixesConfigExceedMax":true' in node.router.vtysh(f"show bgp neighbors {NODE4} json")
    finally:
        node.router.vtysh(*family, f"no {limit}")
        node.router.vtysh(f"clear bgp {NODE4}")
    node.router.wait_for(*VIPS4[:3])
    node.want()


def test_a_full_pipe_to_exabgp_holds_up_neither_the_watchdog_nor_the_end_of_a_stuck_exabgp(
    site: Site,
) -> None:
    """More than the 64 KiB of the pipe is to be said while ExaBGP does not read."""
    routes = [Route(prefix=prefix, communities=MANY) for prefix in VIPS4]
    with bgp.node(site, own=VIPS4) as node:
        node.up()
        node.exabgp.send(signal.SIGSTOP)
        node.agent.grant(*routes)
        assert node.exabgp.wait(PATIENCE)
        node.router.wait_without(*VIPS4)


def test_a_link_without_carrier_takes_the_routes_along_at_once(node: Node, site: Site) -> None:
    node.want(Route(prefix=V4), ttl=LONG)
    node.router.wait_for(V4)
    with _no_carrier(site):
        node.router.wait_without(V4)


@contextlib.contextmanager
def _no_carrier(site: Site) -> Iterator[None]:
    bgp._ip("link set n0 down", place=site.place)
    try:
        yield
    finally:
        again = f"addr add {NODE6}/64 dev n0 nodad"  # taken away with the link
        bgp._ip("link set n0 up", again, place=site.place)


@contextlib.contextmanager
def _no_session(node: Node) -> Iterator[None]:
    """The IPv4 session is down in the block, and both ends know."""
    shut = f"neighbor {NODE4} shutdown"
    node.router.vtysh("configure terminal", "router bgp 65000", shut)
    try:
        node.router.wait_without(*VIPS4)
        node.agent.wait(
            lambda report: any(n.address == ROUTER4 and n.state != "up" for n in report.neighbors)
        )
        yield
    finally:
        node.router.vtysh("configure terminal", "router bgp 65000", f"no {shut}")


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """The process does nothing in the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def _unread(log: Path) -> Iterator[None]:
    """In the block the log is a pipe with room for a page, and nobody reads it."""
    log.unlink()
    os.mkfifo(log)
    pipe = os.open(log, os.O_RDWR)
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, select.PIPE_BUF)
        yield
    finally:
        os.close(pipe)
        log.unlink()
        log.touch()


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _metric(node: Node) -> object:
    """Of the route to V4 at the router; None: there is none."""
    with contextlib.suppress(KeyError):
        return node.router.path(V4)["metric"]
    return None


def _until(holds: Callable[[], bool]) -> None:
    """Another process's state, which tells nobody when it changes."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _await_end(process: int) -> None:
    try:
        assert select.select([process], [], [], PATIENCE)[0], "it still runs"
    finally:
        os.close(process)


def _sessions(node: Node) -> int:
    return node.router.sessions(NODE4) + node.router.sessions(NODE6)
