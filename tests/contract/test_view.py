"""What routers have, by what they send back: four kinds of router, each with what `anycast render` writes for it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.cli.exits import ExitCode
from anycast.cli.main import main
from anycast.core import view
from anycast.core.events import Tick
from anycast.core.preference import Routers
from anycast.core.rendering import setups
from anycast.core.state import State
from anycast.core.step import begin, step
from anycast.core.values.configuration import Bgp, Config
from anycast.core.values.route import Prefix, Route, drained
from anycast.core.values.standing import Condition
from anycast.core.view import At, Doubt, Receipt
from anycast.render.exabgp import exabgp_conf
from anycast.render.router import router
from anycast.render.routers import ROUTERS
from lab import waiting
from tests.contract import bgp
from tests.contract.bgp import ROUTER4, ROUTER6, Agent
from tests.contract.pair import V4, V6, Pair, config, pair, second_node
from tests.contract.routers import SOFTWARE, Frr, GoBgp, Software

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

PATIENCE = 30.0  # seconds: sessions come up, and what a router has must have come
END = {4: ROUTER4, 6: ROUTER6}


class Watch:
    """The core behind the agent of the test: it is told what the real one would be."""

    def __init__(self, config: Config, agent: Agent) -> None:
        self._agent = agent
        self._told = 0
        self.state: State
        self.state, _ = begin(config, {}, time.monotonic())

    def look(self) -> State:
        heard = self._agent.heard
        while self._told < len(heard):
            at, event = heard[self._told]
            self._told += 1
            self._step(event, at)
        self._step(Tick(), time.monotonic())
        return self.state

    def _step(self, event: object, now: float) -> None:
        # Nobody checks or programs anything here, so nothing is decided; what is told of routers depends on neither.
        self.state, _ = step(self.state, event, max(now, self.state.seen))  # type: ignore[arg-type]

    def at(self, prefix: Prefix) -> At:
        end = ip_address(END[prefix.version])
        neighbor = next(one for one in self.look().config.bgp.neighbors if one.address == end)
        return view.at(self.state, neighbor, prefix)

    def alarms(self) -> set[str]:
        kind = Condition.ADVERTISED_BUT_NOT_RECEIVED
        return {about for found, about in self.look().standing if found is kind}

    def until(self, prefix: Prefix, what: Callable[[At], bool]) -> At:
        try:
            return waiting.until(
                lambda: found if what(found := self.at(prefix)) else None, "", PATIENCE, pause=0.05
            )
        except TimeoutError:
            raise TimeoutError(f"of {prefix} is known: {self.at(prefix)}") from None


def routes(one: Config, *prefixes: Prefix) -> dict[Prefix, Route]:
    """As the agent leases them, with the mark."""
    vip = one.vips[0]
    found = {prefix: Routers(one.bgp).route(vip, prefix, drain=False) for prefix in prefixes}
    return {prefix: route for prefix, route in found.items() if route is not None}


def complete(found: At) -> bool:
    return found.doubt not in (Doubt.ARRIVING, Doubt.NO_SESSION, Doubt.NOT_TOLD, Doubt.NO_PLUGIN)


each = pytest.mark.parametrize("software", SOFTWARE, ids=lambda one: one.id())


@each
def test_a_path_that_is_at_the_router_is_received_and_one_that_it_refuses_is_an_alarm(
    software: type[Software],
) -> None:
    """With FRR. The others never send a node its own path: whether it is there is not known, and no alarm."""
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with pair(software, view=True, vips="10.98.0.1, 10.99.0.1, fd00:99::1") as one:
        watch = Watch(one.config, one.node.agent)
        mine = routes(one.config, V4, V6)
        one.accepted(*mine.values())
        if not issubclass(software, Frr):
            for prefix in (V4, V6):
                found = watch.until(prefix, complete)
                assert (found.receipt, found.doubt) == (Receipt.UNKNOWN, Doubt.NEVER_OWN)
                assert f"{software.title} never sends" in found.why
        else:
            for prefix in (V4, V6):
                watch.until(prefix, lambda found: found.receipt is Receipt.RECEIVED and found.others == 0)
        refused, again = (one.folder / f"{name}.conf" for name in ("refused", "again"))
        refused.write_text(_refusing(software, one.folder))
        again.write_text(_allowing(software, one.folder))
        for conf in (refused, again):
            conf.chmod(0o600)
        rendered = one.folder / "rendered.conf"

        def load(conf: Path) -> None:
            """FRR adds lines to what it has; the others have one file."""
            if issubclass(software, Frr):
                one.router.load(conf)
            else:
                rendered.write_text(conf.read_text())
                one.router.load(rendered)

        load(refused)
        waiting.until(lambda: not one.router.paths(V4), f"no {V4} at the router", PATIENCE)
        gone = time.monotonic()
        if not issubclass(software, Frr):
            until = gone + view.PATIENCE + 2
            waiting.until(lambda: time.monotonic() > until or watch.alarms(), "time", PATIENCE)
            assert watch.alarms() == set()
            assert watch.at(V4).doubt is Doubt.NEVER_OWN
            return
        watch.until(V4, lambda found: found.receipt is Receipt.NOT_RECEIVED)
        print(f"{software.label()}: refused by the router, alarm after {time.monotonic() - gone:.2f} s")
        assert watch.alarms() == {ROUTER4}
        assert watch.at(V6).receipt is Receipt.RECEIVED
        load(again)
        watch.until(V4, lambda found: found.receipt is Receipt.RECEIVED)
        assert watch.alarms() == set()


_FRR_REFUSES = """\
ip prefix-list REFUSED seq 5 permit 10.99.0.1/32
route-map ANYCAST-lb1.x-y_z-4 deny 5
 match ip address prefix-list REFUSED
exit
"""


def _refusing(software: type[Software], folder: Path) -> str:
    """The filter on the way in takes one VIP less."""
    if issubclass(software, Frr):
        return _FRR_REFUSES
    one = config(folder, vips="10.98.0.1, fd00:99::1", view=software.name)
    return ROUTERS[software.name](router([one]))


def _allowing(software: type[Software], folder: Path) -> str:
    if issubclass(software, Frr):
        return "no route-map ANYCAST-lb1.x-y_z-4 deny 5\n"
    one = config(folder, vips="10.98.0.1, 10.99.0.1, fd00:99::1", view=software.name)
    return ROUTERS[software.name](router([one]))


@each
def test_other_nodes_are_counted_by_their_marks_and_so_are_those_that_drain(software: type[Software]) -> None:
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with pair(software, view=True) as one:
        watch = Watch(one.config, one.node.agent)
        one.accepted(*routes(one.config, V4, V6).values())
        if not issubclass(software, GoBgp):
            watch.until(V4, lambda found: found.others == 0)
        with second_node(one) as other:
            marked = replace(Route(prefix=V4), large_communities=("65002:1179:2",))
            other.want(marked)
            found = watch.until(V4, lambda found: found.others == 1)
            assert found.last_resort == 0
            if issubclass(software, Frr):
                assert found.receipt is Receipt.RECEIVED
            other.want(drained(marked))
            watch.until(V4, lambda found: (found.others, found.last_resort) == (1, 1))
            other.want()
            watch.until(V4, lambda found: not found.others)
        if issubclass(software, Frr):
            assert watch.at(V4).receipt is Receipt.RECEIVED
        assert watch.alarms() == set()


@pytest.mark.parametrize(
    "software", [one for one in SOFTWARE if issubclass(one, Frr)], ids=lambda one: one.id()
)
def test_a_router_and_an_exabgp_that_start_again_are_no_alarm(software: type[Software]) -> None:
    """What the routers have is not known meanwhile, with a reason, and then it is."""
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with pair(software, view=True) as one:
        watch = Watch(one.config, one.node.agent)
        one.accepted(*routes(one.config, V4, V6).values())
        reasons: set[Doubt | None] = set()

        def back(found: At) -> bool:
            reasons.add(found.doubt)
            assert watch.alarms() == set()
            return found.receipt is Receipt.RECEIVED and found.others == 0

        watch.until(V4, back)
        one.router.stop()
        one.router.processes.clear()
        watch.until(V4, lambda found: found.receipt is Receipt.UNKNOWN)
        one.router.start(one.folder / "rendered.conf")
        watch.until(V4, back)
        one.node.exabgp.end(grace=0.0)
        watch.until(V4, lambda found: found.receipt is Receipt.UNKNOWN)
        one.node.start()
        watch.until(V4, back)
        watch.until(V6, back)
        assert {Doubt.NO_SESSION, Doubt.ARRIVING} & reasons
        assert Doubt.BEGAN_LATER not in reasons


@pytest.mark.parametrize("reflects", [False, True], ids=["plain", "reflector"])
@pytest.mark.parametrize(
    "software", [one for one in SOFTWARE if issubclass(one, Frr)], ids=lambda one: one.id()
)
def test_what_a_router_of_the_nodes_own_as_sends_back(software: type[Software], *, reflects: bool) -> None:
    """Nothing, which is no alarm. As a route reflector every path, a client's own too, which RFC 4456 would have left out."""
    if software.missing():
        pytest.skip(f"no {software.program} here")
    with pair(software, ibgp=True, view=True) as one, second_node(one, local_as=65000) as other:
        if reflects:
            clients = one.folder / "clients.conf"
            clients.write_text(_REFLECTS)
            clients.chmod(0o600)
            one.router.load(clients)
        watch = Watch(one.config, one.node.agent)
        one.accepted(*routes(one.config, V4, V6).values())
        other.want(replace(Route(prefix=V4), large_communities=("65000:1179:2",)))
        waiting.until(lambda: len(one.router.paths(V4)) == 2, "both paths at the router", PATIENCE)
        found = watch.until(V4, lambda found: complete(found) and found.others == (1 if reflects else None))
        assert found.receipt is (Receipt.RECEIVED if reflects else Receipt.UNKNOWN)
        assert found.doubt is (None if reflects else Doubt.INTERNAL)
        refused = one.folder / "refused.conf"
        refused.write_text(_FRR_REFUSES)
        refused.chmod(0o600)
        one.router.load(refused)
        waiting.until(lambda: len(one.router.paths(V4)) == 1, "one path at the router", PATIENCE)
        if reflects:
            watch.until(V4, lambda found: found.receipt is Receipt.NOT_RECEIVED)
            assert watch.alarms() == {ROUTER4}
        else:
            until = time.monotonic() + view.PATIENCE + 2
            waiting.until(lambda: time.monotonic() > until or watch.alarms(), "time", PATIENCE)
            assert watch.alarms() == set()


_REFLECTS = """router bgp 65000
 address-family ipv4 unicast
  neighbor 10.90.0.2 route-reflector-client
  neighbor 10.90.1.2 route-reflector-client
 exit-address-family
 address-family ipv6 unicast
  neighbor fd00:90::2 route-reflector-client
 exit-address-family
exit
"""


def test_a_reload_of_exabgp_begins_a_view_and_ends_it() -> None:
    """No process is started again. The mark comes with the lease."""
    with pair(Frr, view=True) as one:
        blind = replace(
            one.config.bgp, neighbors=tuple(replace(each, view=False) for each in one.config.bgp.neighbors)
        )
        started = one.node.agent.wait(lambda report: bool(report.setups))
        watch = Watch(one.config, one.node.agent)
        one.accepted(*routes(one.config, V4, V6).values())
        watch.until(V4, lambda found: found.receipt is Receipt.RECEIVED)
        one.node.agent.mark = None
        _reload(one, blind)
        blinded = time.monotonic()
        one.node.agent.mark = (65001, 1180, 1)  # of a node with another view_mark
        marked = replace(Route(prefix=V4), large_communities=("65001:1180:1",))
        one.node.want(marked)
        _reload(one, one.config.bgp)
        watch.until(V4, lambda found: found.receipt is Receipt.RECEIVED and (found.since or 0.0) > blinded)
        report = one.node.agent.wait(lambda report: frozenset(report.setups) == setups(one.config.bgp))
        assert (report.pid, report.exabgp_pid) == (started.pid, started.exabgp_pid)
        assert watch.alarms() == set()


def _reload(one: Pair, wanted: Bgp) -> None:
    """As `systemctl reload` does it. Returns when the sessions are up as they are wanted."""
    new, conf = (one.folder / f"exabgp.conf{end}" for end in (".new", ""))
    new.write_text(exabgp_conf(replace(one.config, bgp=wanted), command=f"{sys.executable} -m anycast"))
    subprocess.run([bgp.EXABGP, "validate", new], check=True, capture_output=True)
    pid = one.node.agent.wait(lambda report: bool(report.setups)).exabgp_pid
    words = ["exabgp-reload", "--new", new, "--pid", pid, "--within", f"{PATIENCE}s", conf]
    assert main(list(map(str, words))) == ExitCode.OK
    one.node.agent.wait(
        lambda report: (
            frozenset(report.setups) == setups(wanted)
            and all(each.state == "up" for each in report.neighbors)
        )
    )
