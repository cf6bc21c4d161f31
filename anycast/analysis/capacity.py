"""Whether a machine carries a configuration within the time to live of its lease, by what was measured on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from anycast.core.dataplane.members import servers_of, versions
from anycast.core.health.compose import leaves
from anycast.core.index import indexed
from anycast.core.step import begin
from anycast.core.values.checks import IdleCheck
from anycast.core.values.configuration import Check, Config, Leaf, Rule, Vip

# Of the time to live: for so long the engine may conclude everything anew. The lease before it is overdue after a
# third and good for the whole, so a sixth is left for what else delays it.
SHARE = 1 / 2
PROCESSOR = 0.8  # of one: for checks
BUSY = 1.5  # times as long as on a machine that has nothing else to do
LEAST = 20e-6  # seconds of processor time: no check was ever measured to take less


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a configuration asks for. A check that several services share is counted for each of them."""

    servers: int  # for each service and address family
    checks: float  # a second, with everything well


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Of the machine. `slowdown`: seconds that pass while the engine works for one; more than 1 on a busy machine."""

    conclusion: float  # seconds of processor time in which everything is concluded anew
    check: float = LEAST  # seconds of processor time, with all that the agent does beside it
    slowdown: float = 1.0


class Demands:
    """What configurations ask for, one after another: a VIP that is the same object is not looked at again."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Vip, Demand]] = {}

    def of(self, config: Config) -> Demand:
        known = self._known
        self._known = {
            vip.name: known[vip.name]
            if vip.name in known and known[vip.name][0] is vip
            else (vip, _demand(vip))
            for vip in config.vips
        }
        each = [demand for _, demand in self._known.values()]
        return Demand(servers=sum(one.servers for one in each), checks=sum(one.checks for one in each))


def demand(config: Config) -> Demand:
    return Demands().of(config)


def _demand(vip: Vip) -> Demand:
    servers, checks = 0, 0.0
    for service in vip.services:
        for pool in service.pools:
            number = sum(1 for version in versions(vip) for _ in servers_of(service, version, pool))
            servers += number
            checks += number * sum(map(_rate, _checks(pool.check)))
    for local in vip.local:
        for check in () if local.check is None else _checks(local.check):
            checks += len(vip.addresses) * _rate(check)
    return Demand(servers=servers, checks=checks)


def _rate(check: Check) -> float:
    """Runs a second while all is well."""
    return 0.0 if isinstance(check.kind, IdleCheck) else 1 / check.interval


def _checks(tree: Leaf | Rule[Leaf]) -> Iterator[Check]:
    found = leaves(tree) if isinstance(tree, Rule) else iter((tree,))
    return (leaf for leaf in found if isinstance(leaf, Check))


def conclusion(config: Config, cpu: Callable[[], float]) -> float:
    """Tries it: seconds of processor time, by `cpu`, in which everything is concluded anew."""
    index = indexed(config)
    before = cpu()
    begin(config, {}, 0.0, index=index)
    return cpu() - before


def findings(config: Config, asked: Demand, measured: Measured) -> Iterator[str]:
    """Why the machine does not carry it, with the figures and what to do. None: it does."""
    ttl = config.timing.lease_ttl
    stands = measured.conclusion * measured.slowdown
    if stands > ttl * SHARE:
        what = f"to conclude everything anew takes {stands:.2f} s here ({asked.servers:,} real servers of services"
        busy = measured.slowdown > BUSY
        what += f"; this machine is busy, else it were {measured.conclusion:.2f} s)" if busy else ")"
        limit = f"with lease_ttl {ttl:g}s it may take {ttl * SHARE:g} s, or the lease could run out"
        yield f"timing.lease_ttl: {what}; {limit} (use at least {2.2 * stands:.1f}s, or fewer real servers)"
    share = asked.checks * measured.check
    if share > PROCESSOR:
        what = f"{asked.checks:,.0f} checks a second take {share:.2f} of a processor here"
        each = f"{measured.check * 1e6:.0f} µs each; {PROCESSOR:g} is the most"
        yield f"checks: {what} ({each}): use longer intervals, or fewer real servers"
