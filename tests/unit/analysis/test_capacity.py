from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.analysis.capacity import Demand, Measured, conclusion, demand, findings
from anycast.core.values.checks import BgpSession, IdleCheck
from anycast.core.values.configuration import Check, Leaf, Part, Rule, TcpCheck, Vip
from tests.fakes import vip
from tests.property.worlds import config

FAST, SLOW = (Check(kind=TcpCheck(port=port), interval=each) for port, each in ((80, 0.5), (81, 4.0)))


def _ruled(vip: Vip, rule: Rule[Leaf]) -> Vip:
    (service,) = vip.services
    return replace(vip, services=(replace(service, pool=replace(service.pool, check=rule)),))


def test_every_use_of_a_real_server_counts_with_each_check_of_its_rule() -> None:
    leaves: dict[str, Leaf] = {"a": FAST, "b": SLOW, "c": BgpSession()}
    parts: tuple[Part[Leaf], ...] = tuple(Part(name=name, check=leaf) for name, leaf in leaves.items())
    rule: Rule[Leaf] = Rule(needed=1, parts=parts)
    asked = demand(
        config(
            vip("web", check=FAST, ports=(80, 443), servers=(1, 2)),
            _ruled(vip("mail", number=2, servers=(1,)), rule),
        )
    )
    assert asked == Demand(servers=5, checks=4 * 2.0 + 2.25)


def test_an_idle_check_runs_no_more_while_its_connection_stands() -> None:
    idle = replace(FAST, kind=IdleCheck(port=80))
    assert demand(config(vip(check=idle, servers=(1, 2)))) == Demand(servers=2, checks=0.0)


def test_a_machine_that_keeps_up_has_no_findings() -> None:
    small = config(vip())
    assert not list(findings(small, demand(small), Measured(conclusion=1.0)))


def test_what_takes_longer_than_half_of_the_time_to_live_is_said_with_the_figures_and_what_to_do() -> None:
    small = config(vip())
    (said,) = findings(small, Demand(servers=70_000, checks=0.0), Measured(conclusion=0.5, slowdown=3.0))
    assert "1.50 s here (70,000 real servers of services; this machine is busy, else it were 0.50 s)" in said
    assert "with lease_ttl 2s it may take 1 s" in said
    assert "use at least 3.3s" in said


def test_with_the_time_to_live_it_asks_for_a_machine_keeps_up() -> None:
    small = config(vip())
    longer = replace(small, timing=replace(small.timing, lease_ttl=3.3))
    assert not list(findings(longer, demand(longer), Measured(conclusion=1.5)))


def test_more_checks_than_a_processor_can_run_are_said() -> None:
    small = config(vip())
    measured = Measured(conclusion=0.0, check=50e-6)
    assert not list(findings(small, Demand(servers=1, checks=15_999.0), measured))
    (said,) = findings(small, Demand(servers=1, checks=20_000.0), measured)
    assert "20,000 checks a second take 1.00 of a processor here (50 µs each" in said


def test_the_trial_takes_what_the_clock_says() -> None:
    readings = iter((1.0, 1.25))
    assert conclusion(config(vip()), lambda: next(readings)) == pytest.approx(0.25)
