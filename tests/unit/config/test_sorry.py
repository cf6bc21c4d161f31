"""`sorry:`, as written and as the core has it."""

from __future__ import annotations

import pytest

from anycast.analysis.capacity import demand
from anycast.analysis.maglev import entries
from anycast.config.changes import changes
from anycast.config.load import loads
from anycast.config.loaded import Loaded
from anycast.config.problem import ConfigError
from anycast.config.wire import Receiver, digests, frames, known
from anycast.core.values.checks import HttpCheck, TcpCheck
from anycast.core.values.configuration import Check, Config, Service

HEAD = """\
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
pools:
  page: {servers: [10.9.3.1], check: {type: http, path: /}}
  plain: [10.9.3.2]
  both: [{name: one, addresses: [10.9.3.3, "fd00:9:3::3"]}]
  same: [10.9.2.2]
  resting: [{address: 10.9.3.4, weight: 0}]
  ported: [{address: 10.9.3.5, port: 8080}]
  again: [{address: 10.9.2.1, port: 80}]
vips:
  web:
    address: 192.0.2.1
"""


def loaded(*lines: str) -> Config:
    return loads(HEAD + "".join(f"    {line}\n" for line in lines)).config


def service(*lines: str) -> Service:
    (vip,) = loaded(*lines).vips
    return vip.services[0]


def problems(*lines: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loaded(*lines)
    return [f"{'.'.join(map(str, one.path[2:]))}: {one.what} ({one.do})" for one in caught.value.problems]


WEB = ("servers: [10.9.2.1, 10.9.2.2]", "port: 80")


def test_it_names_a_pool_which_has_its_own_check() -> None:
    found = service(*WEB, "check: {type: tcp, port: 8080}", "sorry: page")
    assert found.sorry is not None
    assert found.sorry.name == "page"
    assert isinstance(found.sorry.check, Check)
    assert isinstance(found.sorry.check.kind, HttpCheck)
    plain = service(*WEB, "check: {type: tcp, port: 8080}", "sorry: plain").sorry
    assert plain is not None
    assert plain.check == Check(kind=TcpCheck()), "the default one, and not the VIP's"


def test_the_vips_is_that_of_all_its_services() -> None:
    (vip,) = loaded("servers: [10.9.2.1]", "sorry: page", "services: [80, {port: 443, sorry: plain}]").vips
    assert [one.sorry.name for one in vip.services if one.sorry] == ["page", "plain"]


def test_all_its_servers_count_for_what_a_node_carries_and_none_for_a_quorum() -> None:
    config = loaded(*WEB, "sorry: page", "quorum: 100%")
    (only,) = config.vips[0].services
    assert (only.quorum.low, only.quorum.high) == (2, 2)
    assert demand(config).servers == 3
    assert len(entries(only, 4)) == 3, "it has its place in the table"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            (*WEB, "sorry: pag"),
            "sorry: there is no pool named 'pag'",
        ),
        (
            (*WEB, "sorry: [10.9.3.1]"),
            "sorry: a list is not the name of a pool (write one that stands under pools)",
        ),
        (
            (*WEB, "sorry: same"),
            "sorry: 10.9.2.2 of pools.same is a real server of this service, at vips.web.servers[1]",
        ),
        (
            (*WEB, "sorry: again"),
            "sorry: 10.9.2.1 of pools.again is a real server of this service, at vips.web.servers[0]",
        ),
        (
            (*WEB, "sorry: resting"),
            "sorry: every server of pools.resting has weight 0, and none would ever get a client",
        ),
        (
            (*WEB, "scheduler: dh", "sorry: page"),
            "scheduler: dh chooses by the VIP's address: all clients get the same one of 3 servers, the sorry pool counted",
        ),
        (
            ("servers: [10.9.2.1]", "port: 53/udp", "check: {type: dns, name: x.}", "sorry: plain"),
            "sorry: pools.plain: UDP has no handshake to check, and no check is written",
        ),
        (
            ("local: true", "port: 80", "sorry: page"),
            "sorry: with local: true this node itself serves, and there is nothing to choose from",
        ),
        (
            ("servers: [10.9.2.1]", "mark: 7", "check: {type: tcp, port: 80}", "sorry: plain"),
            "mark: packets with a mark arrive at any port, and the check has no port of its own",
        ),
    ],
)
def test_what_cannot_stand_in_is_refused(lines: tuple[str, ...], problem: str) -> None:
    assert any(one.startswith(problem) for one in problems(*lines)), problems(*lines)


def test_with_dh_one_server_alone_is_advised_without_a_sorry_pool() -> None:
    (problem,) = problems(*WEB, "scheduler: dh", "sorry: page")
    assert problem.endswith("(write mh, or one server and no sorry)")


def test_it_must_fit_the_forwarding_and_the_families_of_the_vip() -> None:
    (port,) = problems(*WEB, "sorry: ported")
    assert port.startswith("servers.0.port") or "listens on 8080" in port
    assert service(*WEB, "sorry: ported", "forwarding: nat").sorry is not None
    text = HEAD.replace("address: 192.0.2.1", 'addresses: [192.0.2.1, "2001:db8::1"]')
    real = '    servers: [{name: a, addresses: [10.9.2.1, "fd00:9::1"]}]\n    port: 80\n'
    with pytest.raises(ConfigError) as caught:
        loads(f"{text}{real}    sorry: page\n")
    problem, *_ = caught.value.problems
    assert problem.what == "no server at pools.page has an IPv6 address to serve 2001:db8::1"
    with pytest.raises(ConfigError) as caught:
        loads(f"{text}{real}    sorry: both\n")
    assert not any("pools.both" in one.what for one in caught.value.problems)


def test_a_pool_that_nearly_no_client_would_find_is_warned_of() -> None:
    """The kernel draws as often as its table has slots: one of a thousand places is missed by one in sixty."""
    many = ", ".join(f"10.8.{n // 250}.{n % 250 + 1}" for n in range(1000))
    told = [
        str(one) for one in loads(f"{HEAD}    servers: [{many}]\n    port: 80\n    sorry: page\n").warnings
    ]
    (warning,) = [one for one in told if ".sorry" in one]
    assert "its servers have 1 of 1001 in weights, so few places in the kernel's mh table" in warning
    assert "about 1.7 % of the clients find none of them" in warning
    fine = f"{HEAD}    servers: [{many}]\n    port: 80\n    sorry: page\n".replace(
        "[10.9.3.1]", "[{address: 10.9.3.1, weight: 20}]"
    )
    assert not [one for one in loads(fine).warnings if ".sorry" in str(one)]


def test_unlike_weights_of_the_two_pools_are_no_trouble() -> None:
    text = f'{HEAD}    servers: [{{address: 10.9.2.1, weight: 100}}, {{address: "fd00::1", weight: 100}}]\n    port: 80\n'
    assert not [one for one in loads(f"{text}    sorry: page\n").warnings if "weights" in str(one)]


def test_a_reload_tells_of_it_in_words() -> None:
    without, page, plain = loaded(*WEB), loaded(*WEB, "sorry: page"), loaded(*WEB, "sorry: plain")
    added = changes(without, page)
    assert {"pool page: served", "vip web: service tcp/80 sorry none -> page"} <= set(added)
    assert "vip web: service tcp/80 sorry page -> plain" in changes(page, plain)
    assert any("of the flows will go to other real servers" in line for line in added), added


def test_it_comes_whole_to_the_agent_and_what_has_not_changed_is_the_same_object() -> None:
    both = f"{HEAD}    servers: [10.9.2.1]\n    port: 80\n    sorry: page\n"
    first = received(both, None)
    assert first.config == loads(both).config
    second = received(both.replace("[10.9.2.1]", "[10.9.2.1, 10.9.2.2]"), first)
    (before,), (after,) = (one.config.vips[0].services for one in (first, second))
    assert after != before
    assert after.sorry is before.sorry
    third = received(both, second)
    assert third.config == first.config


def received(text: str, before: Loaded | None) -> Loaded:
    receiver = Receiver(before)
    for frame in frames(loads(text), frozenset() if before is None else known(digests(before.units))):
        receiver.take(frame)
    assert receiver.loaded is not None
    return receiver.loaded
