"""Truths about every budget: no number of the configuration makes a failure shorter by being larger."""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from anycast.analysis.budget import STUCK, Assumed, Kind, Outage, Term, budget
from anycast.core.values.configuration import (
    Bfd,
    Bgp,
    Check,
    Config,
    Neighbor,
    Node,
    Part,
    Pool,
    RealServer,
    Rule,
    Service,
    TcpCheck,
    Timing,
    Vip,
)
from anycast.core.values.speaker import Ospf, Speaker, SpeakerType
from tests.unit.analysis.test_budget import worst

times = st.floats(0.01, 100.0, allow_nan=False)
checks = st.builds(
    Check,
    kind=st.just(TcpCheck()),
    interval=times,
    fast_interval=times,
    timeout=times,
    fall=st.integers(1, 10),
)
trees = st.recursive(
    checks,
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(
        lambda parts: Rule(
            needed=1, parts=tuple(Part(name=f"p{n}", check=one) for n, one in enumerate(parts))
        )
    ),
    max_leaves=4,
)
bfds = st.none() | st.builds(Bfd, interval=st.floats(0.05, 60.0), multiplier=st.integers(2, 255))
assumptions = st.builds(
    Assumed,
    router=times,
    kernel=times,
    lease=times,
    respawn=times,
    carrier=times,
    start=times,
    watchdog=times,
    graceful_restart=st.just(0.0) | times,
    bfd_receive=st.just(0.0) | times,
)


OF_EXABGP = {Kind.PLUGIN_DIES, Kind.PLUGIN_HANGS, Kind.EXABGP_DIES, Kind.EXABGP_HANGS}
OF_A_TABLE = {Kind.ANNOUNCER_DIES, Kind.ANNOUNCER_HANGS, Kind.DAEMON_DIES, Kind.DAEMON_HANGS}
TABLE = Speaker(type=SpeakerType.KERNEL_TABLE)
speakers = st.sampled_from([Speaker(), TABLE, replace(TABLE, ospf=Ospf(interfaces=("eth0",)))])


def _config(
    check: Any,
    bfd: Bfd | None,
    hold: int,
    ttl: float,
    speaker: Speaker = Speaker(),  # noqa: B008 - it is frozen
) -> Config:
    pool = Pool(
        name="web", servers=(RealServer(name="a", addresses=(IPv4Address("10.9.2.1"),)),), check=check
    )
    vip = Vip(name="web", addresses=(IPv4Address("192.0.2.1"),), services=(Service(pool=pool, port=80),))
    neighbor = Neighbor(address=IPv4Address("10.2.1.254"), remote_as=65000, bfd=bfd)
    rule = check if isinstance(check, Rule) else Rule(needed=1, parts=(Part(name="p", check=check),))
    return Config(
        node=Node(name="lb1"),
        bgp=Bgp(local_as=65001, router_id=IPv4Address("10.2.1.1"), neighbors=(neighbor,), hold_time=hold),
        vips=(vip,),
        timing=Timing(lease_ttl=ttl),
        require=rule,
        speaker=speaker,
    )


configs = st.builds(_config, trees, bfds, st.integers(3, 65535), st.floats(0.5, 30.0), speakers)


def _no_shorter(small: Config, large: Config, assumed: Assumed, more: Assumed | None = None) -> None:
    before, after = budget(small, assumed), budget(large, more or assumed)
    for kind in Kind:
        assert worst(after, kind) >= worst(before, kind) - 1e-9, kind


@given(configs, assumptions)
def test_every_kind_of_failure_is_there_with_an_end_and_its_sum(config: Config, assumed: Assumed) -> None:
    found = budget(config, assumed)
    others = OF_EXABGP if config.speaker.is_table else OF_A_TABLE
    assert {one.kind for one in found.outages} == set(Kind) - others
    for one in found.outages:
        assert one.scopes
        assert 0 < one.seconds < math.inf
        assert math.isclose(one.seconds, sum(term.count * term.seconds for term in one.terms))


@given(
    checks,
    assumptions,
    st.sampled_from(["interval", "fast_interval", "timeout"]),
    st.floats(0.0, 100.0),
)
def test_a_longer_time_of_a_check_makes_no_failure_shorter(
    check: Check, assumed: Assumed, name: str, more: float
) -> None:
    longer = replace(check, **{name: getattr(check, name) + more})
    _no_shorter(_config(check, None, 9, 2.0), _config(longer, None, 9, 2.0), assumed)


@given(checks, assumptions, st.integers(0, 5))
def test_more_failures_to_count_make_no_failure_shorter(check: Check, assumed: Assumed, more: int) -> None:
    patient = replace(check, fall=check.fall + more)
    _no_shorter(_config(check, None, 9, 2.0), _config(patient, None, 9, 2.0), assumed)


@given(trees, checks, assumptions)
def test_one_more_check_in_a_rule_makes_no_failure_shorter(tree: Any, check: Check, assumed: Assumed) -> None:
    rule = Rule(needed=1, parts=(Part(name="a", check=tree),))
    more = Rule(needed=1, parts=(*rule.parts, Part(name="b", check=check)))
    _no_shorter(_config(rule, None, 9, 2.0), _config(more, None, 9, 2.0), assumed)


@given(configs, assumptions, st.integers(0, 100), st.floats(0.0, 30.0))
def test_a_longer_hold_time_or_lease_makes_no_failure_shorter(
    config: Config, assumed: Assumed, hold: int, ttl: float
) -> None:
    longer = replace(config, bgp=replace(config.bgp, hold_time=config.bgp.hold_time + hold))
    _no_shorter(config, longer, assumed)
    _no_shorter(config, replace(config, timing=Timing(lease_ttl=config.timing.lease_ttl + ttl)), assumed)


@given(configs, assumptions, st.floats(0.0, 10.0), st.integers(0, 10))
def test_slower_bfd_makes_no_failure_shorter_and_none_is_the_slowest(
    config: Config, assumed: Assumed, interval: float, multiplier: int
) -> None:
    (neighbor,) = config.bgp.neighbors
    without = replace(config, bgp=replace(config.bgp, neighbors=(replace(neighbor, bfd=None),)))
    _no_shorter(config, without, assumed)
    if neighbor.bfd is None:
        return
    bfd = Bfd(interval=neighbor.bfd.interval + interval, multiplier=neighbor.bfd.multiplier + multiplier)
    slower = replace(config, bgp=replace(config.bgp, neighbors=(replace(neighbor, bfd=bfd),)))
    _no_shorter(config, slower, assumed)
    _no_shorter(slower, without, assumed)


@given(
    configs,
    assumptions,
    st.sampled_from(
        [
            "router",
            "kernel",
            "lease",
            "respawn",
            "carrier",
            "start",
            "watchdog",
            "graceful_restart",
            "bfd_receive",
        ]
    ),
    st.floats(0.0, 100.0),
)
def test_nothing_assumed_longer_makes_a_failure_shorter(
    config: Config, assumed: Assumed, name: str, more: float
) -> None:
    _no_shorter(config, config, assumed, replace(assumed, **{name: getattr(assumed, name) + more}))


@given(configs, assumptions)
def test_bfd_sees_no_hung_exabgp(config: Config, assumed: Assumed) -> None:
    (neighbor,) = config.bgp.neighbors
    without = replace(config, bgp=replace(config.bgp, neighbors=(replace(neighbor, bfd=None),)))
    assert worst(budget(config, assumed), Kind.EXABGP_HANGS) == worst(
        budget(without, assumed), Kind.EXABGP_HANGS
    )
    assert worst(budget(config, assumed), Kind.EXABGP_HANGS) <= STUCK + assumed.router + 1e-9


@given(st.lists(st.builds(Term, times, st.just("x"), st.integers(1, 9)), min_size=1, max_size=5))
def test_a_sum_is_what_its_words_say(terms: list[Term]) -> None:
    one = Outage(kind=Kind.NODE_DIES, scopes=("a",), terms=tuple(terms))
    read = 0.0
    for term in one.terms:
        times_, _, rest = str(term).rpartition(" x ")
        read += int(times_ or 1) * float(rest.split()[0])
    assert math.isclose(read, one.seconds, rel_tol=1e-4)
