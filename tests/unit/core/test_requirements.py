"""What is made of several checks, and what a node, a VIP or a service must have, in the fold."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from anycast.core import events as ev
from anycast.core.dataplane.members import uses
from anycast.core.health.phase import Outcome, Phase, Result
from anycast.core.state import health_of
from anycast.core.values.checks import BgpSession, CarrierCheck, IcmpCheck
from anycast.core.values.configuration import HERE, Check, Config, Leaf, Part, Rule, Target, TcpCheck, Tree
from anycast.core.values.report import NeighborState
from anycast.core.vip.decide import Advertise, Reason
from tests.unit.ops.node import CONFIG, ROUTER, ROUTER6, Node, healthy

LINK = Check(kind=CarrierCheck(interface="eth0"), fall=1)
BACKEND = Check(kind=TcpCheck(port=5432), address=ip_address("10.9.9.9"), fall=1)


def one(name: str, part: Tree) -> Rule[Leaf]:
    return Rule(needed=1, parts=(Part(name=name, check=part),))


def requiring(
    node: Rule[Leaf] | None = None, vip: Rule[Leaf] | None = None, service: Rule[Leaf] | None = None
) -> Config:
    web, mail = CONFIG.vips
    first, *others = web.services
    web = replace(web, require=vip, services=(replace(first, require=service), *others))
    return replace(CONFIG, vips=(web, mail), require=node)


def verdicts(node: Node) -> dict[str, tuple[Advertise, Reason]]:
    return {
        name: (one.verdict.advertise, one.verdict.reason) for name, one in sorted(node.state.vips.items())
    }


def say(
    node: Node, target: Target, outcome: Outcome = Outcome.FAIL, detail: str = "eth0 has no carrier"
) -> None:
    node.send(ev.Probed(results=((target, Result(outcome=outcome, detail=detail)),)))


HERE_LINK = Target(address=HERE, port=0, check=LINK)
HEALTHY = (Advertise.YES, Reason.HEALTHY)


def test_a_check_of_the_node_that_fails_withdraws_every_vip_and_says_why() -> None:
    node = healthy(requiring(node=one("link", LINK)))
    assert verdicts(node) == {"mail": HEALTHY, "web": HEALTHY}
    say(node, HERE_LINK)
    assert verdicts(node) == dict.fromkeys(("mail", "web"), (Advertise.NO, Reason.NODE_CHECK_FAILED))
    assert node.state.vips["web"].verdict.detail == "link: eth0 has no carrier"
    assert [(log.event, log.fields) for log in node.log if log.event == "requirement.failed"] == [
        ("requirement.failed", {"scope": "node", "detail": "link: eth0 has no carrier"})
    ]
    for _ in range(LINK.rise):
        say(node, HERE_LINK, Outcome.OK, "")
    assert verdicts(node) == {"mail": HEALTHY, "web": HEALTHY}
    assert "requirement.met" in [log.event for log in node.log]


def test_a_check_of_a_vip_or_of_a_service_withdraws_that_vip() -> None:
    target = Target(
        address=ip_address("10.9.9.9"),
        port=5432,
        check=replace(BACKEND, address=None, kind=TcpCheck()),
    )
    db = one("db", BACKEND)
    for config, about in ((requiring(vip=db), ""), (requiring(service=db), "tcp/80: ")):
        node = healthy(config)
        say(node, target, detail="connection refused")
        assert verdicts(node) == {"mail": HEALTHY, "web": (Advertise.NO, Reason.VIP_CHECK_FAILED)}
        assert node.state.vips["web"].verdict.detail == f"{about}db: connection refused"


def test_a_check_that_could_not_run_changes_nothing() -> None:
    node = healthy(requiring(node=one("link", LINK)))
    say(node, HERE_LINK, Outcome.UNKNOWN, "no descriptors")
    assert verdicts(node) == {"mail": HEALTHY, "web": HEALTHY}
    assert "check.unknown" in [log.event for log in node.log]


def test_a_node_starts_once_what_it_requires_has_an_outcome() -> None:
    node = Node(requiring(node=one("link", LINK)))
    ready = tuple(
        (target, Result(outcome=Outcome.OK)) for target in node.state.targets if target != HERE_LINK
    )
    node.send(ev.Probed(results=ready))
    assert verdicts(node)["web"] == (Advertise.NO, Reason.STARTING)
    say(node, HERE_LINK, Outcome.OK, "")
    assert verdicts(node)["web"] == HEALTHY


def test_a_requirement_that_a_reload_brings_does_not_take_a_route_down_before_it_has_spoken() -> None:
    node = healthy()
    node.send(ev.Reconfigured(config=requiring(node=one("link", LINK))))
    assert verdicts(node)["web"] == HEALTHY
    say(node, HERE_LINK)
    assert verdicts(node)["web"] == (Advertise.NO, Reason.NODE_CHECK_FAILED)


def test_a_bgp_session_that_is_required_is_known_from_the_plugins() -> None:
    first = BgpSession(ip_address(ROUTER))
    node = healthy(requiring(vip=one("router", first)))
    assert verdicts(node)["web"] == HEALTHY

    def session(state: str) -> None:
        states = (NeighborState(address=ROUTER, state=state, changed=node.now),)
        node.report(neighbors=(*states, NeighborState(address=ROUTER6, state="up", changed=node.now)))

    session("down")
    assert verdicts(node)["web"] == (Advertise.NO, Reason.VIP_CHECK_FAILED)
    assert node.state.vips["web"].verdict.detail == f"router: {ROUTER} is down"
    session("up")
    assert verdicts(node)["web"] == HEALTHY
    node.send(ev.PluginLost(source=1))
    assert verdicts(node)["web"] == HEALTHY


PING = Check(kind=IcmpCheck(), fall=1)
PORT = Check(kind=TcpCheck(), fall=1)


def composed(rule: Rule[Leaf]) -> Config:
    vips = []
    for vip in CONFIG.vips:
        services = tuple(replace(service, pool=replace(service.pool, check=rule)) for service in vip.services)
        vips.append(replace(vip, services=services))
    return replace(CONFIG, vips=tuple(vips))


BOTH = Rule(needed=2, parts=(Part(name="ping", check=PING), Part(name="port", check=PORT)))


def test_a_check_that_several_services_and_vips_rest_on_is_one_target() -> None:
    node = Node(composed(BOTH))
    pings = [target for target in node.state.targets if target.check == PING]
    ports = [target for target in node.state.targets if target.check == PORT]
    assert len(pings) == 4  # two servers in two families, behind three services of two VIPs
    assert len(ports) == 8  # ports 80 and 443


def test_a_real_server_is_what_its_rule_makes_of_its_checks() -> None:
    node = healthy(composed(BOTH))
    before = len(node.log)
    rs1 = ip_address("10.9.2.1")
    say(node, Target(address=rs1, port=0, check=PING), detail="no echo")
    web = next(use for use in uses(node.state.config) if use.address == rs1)
    health = health_of(node.state, web.check)
    assert (health.phase, health.detail) == (Phase.DOWN, "ping: no echo")
    assert verdicts(node)["web"] == HEALTHY  # one of two is enough to stay
    assert [log.event for log in node.log[before:] if "." in log.event and "kernel" not in log.event] == [
        "check.down",
        "server.down",  # at port 80
        "server.down",  # at port 443
    ]
    told = next(log.fields for log in node.log[before:] if log.event == "server.down")
    assert told["services"] in {("web tcp/80",), ("web tcp/80", "mail tcp/80")}


def test_of_any_one_that_fails_is_a_warning() -> None:
    node = healthy(composed(replace(BOTH, needed=1)))
    say(node, Target(address=ip_address("10.9.2.1"), port=0, check=PING), detail="no echo")
    assert not [log for log in node.log if log.event == "server.down"]
    use = next(iter(uses(node.state.config)))
    assert health_of(node.state, use.check).warned


def test_a_plugin_that_knows_of_no_session_tells_more_than_no_plugin() -> None:
    session = BgpSession(ip_address(ROUTER))
    for config in (requiring(node=one("bgp", session)), requiring(vip=one("bgp", session))):
        node = healthy(config)
        node.report(neighbors=())
        assert verdicts(node)["web"][0] is Advertise.NO
        assert node.state.vips["web"].verdict.detail == "bgp: there is no such session"
        node.send(ev.PluginLost(source=1))
        assert node.state.vips["web"].verdict.detail == "bgp: no plugin is connected that could tell"
