"""VIPs that the node itself serves: when they are asked, what a verdict makes of it, and that IPVS is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address

import pytest

from anycast.core import events as ev
from anycast.core.dataplane.kernel import IpvsNeed
from anycast.core.health.phase import Outcome, Phase, Result
from anycast.core.maintenance.progress import awaited
from anycast.core.maintenance.stages import NODE, Maintenance, Stage
from anycast.core.state import health_of
from anycast.core.step import step
from anycast.core.values.configuration import Check, Config, Local, Protocol, Target, TcpCheck, Timeouts, Vip
from anycast.core.vip.decide import Advertise, Reason
from tests.fakes import Node as Slow
from tests.fakes import up, vip
from tests.unit.ops.node import CONFIG, Node, healthy

CHECK = Check(kind=TcpCheck(), rise=2, fall=1)
ADDRESS, OTHER = ip_address("192.0.2.53"), ip_address("2001:db8:99::53")
DNS = Vip(
    name="dns",
    addresses=(ADDRESS, OTHER),
    services=(),
    local=(Local(protocol=Protocol.UDP, port=53, check=CHECK), Local(port=53, check=CHECK)),
)
ALONE = replace(CONFIG, vips=(DNS,))
BESIDE = replace(CONFIG, vips=(*CONFIG.vips, DNS))
AT = Target(address=ADDRESS, port=53, check=CHECK)


def verdict(node: Node, name: str = "dns") -> tuple[Advertise, Reason]:
    found = node.state.vips[name].verdict
    return found.advertise, found.reason


def fails(node: Node, target: Target = AT) -> None:
    node.send(ev.Probed(results=((target, Result(outcome=Outcome.FAIL, detail="refused")),)))


@pytest.mark.parametrize("config", [ALONE, BESIDE])
def test_it_is_announced_while_every_check_at_its_addresses_passes(config: Config) -> None:
    node = healthy(config)
    assert verdict(node) == (Advertise.YES, Reason.HEALTHY)
    fails(node)
    assert verdict(node) == (Advertise.NO, Reason.LOCAL_CHECK_FAILED)
    assert node.state.vips["dns"].verdict.detail == "udp/53 at 192.0.2.53: refused"
    (told, *_) = (log for log in node.log if log.event == "local.down")
    assert told.fields == {"vip": "dns", "service": "udp/53", "address": "192.0.2.53", "detail": "refused"}
    for _ in range(CHECK.rise):
        node.probe()
    assert verdict(node) == (Advertise.YES, Reason.HEALTHY)


def test_it_is_not_asked_before_the_node_has_its_address_for_another_node_would_answer() -> None:
    node = Node(ALONE)  # whose kernel does as it is told: it has the address by now
    assert AT in node.state.targets
    node.kernel_is_deaf = True
    node.kernel = replace(node.kernel, addresses=frozenset({OTHER}))
    node.send(ev.KernelChanged(lost=frozenset({ADDRESS})))
    assert set(node.state.targets) == {Target(address=OTHER, port=53, check=CHECK)}
    assert len(node.state.targets) == 1
    node.send(ev.Probed(results=((AT, Result(outcome=Outcome.OK)),)))  # that was under way
    assert health_of(node.state, AT).phase is Phase.UNDECIDED


def test_an_address_that_is_put_back_costs_no_route_and_is_asked_anew() -> None:
    node = healthy(ALONE)
    node.kernel = replace(node.kernel, addresses=frozenset({OTHER}))
    node.send(ev.KernelChanged(lost=frozenset({ADDRESS})), after=1.0)
    assert ADDRESS in node.kernel.addresses
    assert verdict(node) == (Advertise.YES, Reason.HEALTHY)
    assert AT in node.state.targets
    assert AT not in node.state.health
    fails(node)
    assert verdict(node) == (Advertise.NO, Reason.LOCAL_CHECK_FAILED)


def reading(node: Node) -> IpvsNeed:
    """Whether the next reading looks at IPVS."""
    due = node.state.kernel.next_read
    _, effects = step(replace(node.state, seen=due), ev.Tick(), due)
    (found,) = (one.ipvs for one in effects if isinstance(one, ev.ReadKernel))
    return found


def test_ipvs_is_asked_for_only_where_something_needs_it() -> None:
    assert reading(healthy(ALONE)) is IpvsNeed.NONE
    assert reading(healthy(BESIDE)) is IpvsNeed.NEEDED
    assert reading(healthy(replace(ALONE, timeouts=Timeouts()))) is IpvsNeed.NEEDED
    assert healthy(ALONE).asked == (), "no sysctl of IPVS is written, or read"


def test_what_the_node_had_in_ipvs_is_looked_for_until_it_is_gone() -> None:
    node = healthy(BESIDE)
    node.send(ev.Reconfigured(config=ALONE))
    assert reading(node) is IpvsNeed.LEFT
    node.probe()
    for _ in range(100):
        node.report()
        node.send(ev.Tick(), after=1.0)
    assert len(node.kernel.table) == 1, "that of somebody else"
    assert reading(node) is IpvsNeed.NONE
    assert verdict(node) == (Advertise.YES, Reason.HEALTHY)


def test_a_port_that_the_node_takes_over_from_ipvs_leaves_it_at_once() -> None:
    node = healthy()
    web, *others = CONFIG.vips
    key = next(iter(node.state.index.vips["web"].services))
    assert key in node.kernel.table
    mine = replace(web, services=(), local=tuple(Local(port=one.port, check=CHECK) for one in web.services))
    node.send(ev.Reconfigured(config=replace(CONFIG, vips=(mine, *others))))
    assert key not in node.kernel.table, "it would take the packets, and have no real server for them"
    assert verdict(node, "web")[0] is Advertise.YES, "until its check has its first result"


def test_an_address_that_a_reload_adds_waits_until_the_node_serves_it() -> None:
    node = healthy(replace(ALONE, vips=(replace(DNS, addresses=(ADDRESS,)),)))
    node.send(ev.Reconfigured(config=ALONE))
    routes = node.state.lease.routes
    assert routes is not None
    assert [str(one) for one in routes] == ["192.0.2.53/32"]
    node.probe()
    assert node.state.lease.routes is not None
    assert len(node.state.lease.routes) == 2


def drained(node: Node, rates: Sequence[int] | None) -> list[str]:
    """The stages that a maintenance goes through, with `rates` packets a second, one after another, once it is quiet."""
    node.send(ev.MaintenanceSet(scope="dns", entry=Maintenance(reason="", by="root", since=0.0)))
    packets, left = 0, [*(rates or ())]
    for _ in range(100):
        if rates is not None:
            packets += left.pop(0) if node.state.progress["dns"].stage is Stage.QUIET and left else 0
            node.kernel = replace(node.kernel, arrived={"dns": packets})
        node.report()
        node.send(ev.Tick(), after=1.0)
    return [
        f"{log.fields['stage']}: {log.fields['why']}"
        for log in node.log
        if log.event.endswith("stage_changed")
    ]


def test_a_drain_is_over_with_the_last_packet_that_comes_in() -> None:
    node = healthy(ALONE)
    assert awaited(node.state) == {}
    told = drained(node, [400, 200, 50, 0, 0, 0])
    assert told == ["withdrawn: drained", "quiet: withdrawn", "down: quiet"]
    last = node.log[-1]
    assert last.fields["packets_per_s"] == 0.0
    assert 2.0 < last.fields["after_s"] < 8.0  # type: ignore[operator]


def test_a_drain_whose_packets_cannot_be_counted_waits_for_its_limit_and_says_so() -> None:
    node = healthy(BESIDE)
    told = drained(node, None)
    assert told[-1] == "down: the limit has passed, and packets could not be counted"
    assert node.log[-1].fields["packets_per_s"] is None
    assert node.log[-1].level == "warning"


def test_what_ipvs_counts_and_what_the_node_serves_itself_are_waited_for_together() -> None:
    node = healthy(BESIDE)
    node.send(ev.MaintenanceSet(scope=NODE, entry=Maintenance(reason="", by="root", since=0.0)))
    assert awaited(node.state) == {NODE: DNS.addresses}
    node.send(ev.MaintenanceSet(scope=NODE, entry=None))
    assert awaited(node.state) == {}


def test_sysctls_that_a_reading_was_not_asked_for_were_not_changed_by_somebody_else() -> None:
    def config(node: Slow, one: Vip) -> Config:
        return replace(node.state.config, vips=(one,))

    node = up(vip())
    here = replace(vip(), services=(), local=(Local(port=8053, check=CHECK),))
    before, mine = config(node, vip()), config(node, here)
    node.kernel_is_slow = True
    node.send(ev.Reconfigured(config=mine))
    assert node.job is not None
    assert node.job.sysctls == ()
    node.send(ev.Reconfigured(config=before))
    node.kernel_answers()
    assert node.events("kernel.drifted") == []
