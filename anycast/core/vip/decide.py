"""The verdict on a VIP. All facts in one value, the first rule that applies wins, its name is the reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from anycast.core.maintenance.stages import OUT, Stage
from anycast.core.values.configuration import Quorum


class Advertise(StrEnum):
    NO = "no"
    DRAIN = "drain"  # announced as the last resort
    YES = "yes"


class Reason(StrEnum):
    """Stable words: they stand in the status, the log, metric labels and HTTP bodies."""

    STOPPING = "stopping"
    NODE_MAINTENANCE = "node_maintenance"
    VIP_MAINTENANCE = "vip_maintenance"
    KERNEL_UNAVAILABLE = "kernel_unavailable"
    STARTING = "starting"
    KERNEL_DIFFERS = "kernel_differs"
    ADDRESS_MISSING = "address_missing"
    BELOW_QUORUM = "below_quorum"
    NODE_CHECK_FAILED = "node_check_failed"
    VIP_CHECK_FAILED = "vip_check_failed"
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """One service in one address family. `undecided`: servers without a first outcome."""

    name: str
    usable: int
    undecided: int
    total: int
    quorum: Quorum


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementFacts:
    """What the node, a VIP or a service of it must have. `holds` None: no outcome yet."""

    reason: Reason
    holds: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything a verdict rests on."""

    stopping: bool
    node_maintenance: Stage
    vip_maintenance: Stage
    kernel_error: str | None  # the kernel cannot be read or has not been for too long
    started: bool  # has been past STARTING before
    proven: bool  # the kernel was read and holds what is wanted
    repair_failed: bool  # it does not, although it was told to
    missing_address: str | None
    difference: str  # in words, when not proven
    held: str = ""  # why it must be proven for longer yet, in words
    services: tuple[ServiceFacts, ...]
    requirements: tuple[RequirementFacts, ...] = ()  # the node's first
    advertised: bool  # the previous verdict

    @property
    def undecided(self) -> int:
        waiting = sum(one.holds is None for one in self.requirements)
        return sum(service.undecided for service in self.services) + waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    advertise: Advertise
    reason: Reason
    detail: str = ""


def decide(f: Facts) -> Verdict:
    """First rule that applies wins; the order is the policy."""
    if f.stopping:
        return _no(Reason.STOPPING)
    obstacle = _obstacle(f)
    stages = (
        (f.node_maintenance, Reason.NODE_MAINTENANCE),
        (f.vip_maintenance, Reason.VIP_MAINTENANCE),
    )
    # Draining keeps a route that stands; it never brings one up or keeps an unhealthy one, and where the one
    # maintenance has drained the other does not begin anew.
    drained = any(stage in OUT for stage, _ in stages)
    for stage, reason in stages:
        if stage is Stage.ACTIVE:
            continue
        drain = not drained and f.advertised and obstacle is None
        return Verdict(advertise=Advertise.DRAIN if drain else Advertise.NO, reason=reason, detail=stage)
    return obstacle or Verdict(advertise=Advertise.YES, reason=Reason.HEALTHY)


def obstacle(f: Facts) -> Reason | None:
    """What keeps it from being announced besides maintenance and the hold after a start."""
    found = _obstacle(replace(f, held=""))
    return None if found is None else found.reason


def _obstacle(f: Facts) -> Verdict | None:
    if f.kernel_error is not None:
        return _no(Reason.KERNEL_UNAVAILABLE, f.kernel_error)
    if not f.started and (f.undecided or not f.proven):
        waiting = [f"{f.undecided} checks without an outcome yet"] if f.undecided else []
        return _no(Reason.STARTING, "; ".join(waiting + ([] if f.proven else [f.difference])))
    # A route that stands is kept while the kernel is being changed to something new or repaired; one that
    # does not stand is not brought up before the kernel has been read back.
    if not f.proven and f.repair_failed:
        return _apart(f)
    lacking = [
        text for service in f.services if (text := _lack(service, advertised=f.advertised)) is not None
    ]
    if lacking:
        return _no(Reason.BELOW_QUORUM, "; ".join(lacking))
    for one in f.requirements:
        # As with servers: what was only just configured must not take a standing route down.
        if one.holds is False or (one.holds is None and not f.advertised):
            return _no(one.reason, one.detail or "no outcome yet")
    if not f.proven and not f.advertised:
        return _apart(f)
    return _no(Reason.STARTING, f.held) if f.held else None


def _apart(f: Facts) -> Verdict:
    if f.missing_address is not None:
        return _no(Reason.ADDRESS_MISSING, f.missing_address)
    return _no(Reason.KERNEL_DIFFERS, f.difference)


def _lack(service: ServiceFacts, *, advertised: bool) -> str | None:
    # Two marks, not one: without the gap a server at the edge would flap the route.
    needed = service.quorum.low if advertised else service.quorum.high
    # A server that was only just configured must not take a standing route down.
    possible = service.usable + (service.undecided if advertised else 0)
    if possible >= needed:
        return None
    return f"{service.name}: {service.usable} of {service.total} usable, {needed} needed"


def _no(reason: Reason, detail: str = "") -> Verdict:
    return Verdict(advertise=Advertise.NO, reason=reason, detail=detail)
