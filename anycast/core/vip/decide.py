"""The verdict on a VIP. All facts in one value, the first rule that applies wins, its name is the reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from anycast.core.dataplane.proof import Proof
from anycast.core.health.phase import Phase
from anycast.core.maintenance.stages import OUT, Stage
from anycast.core.values.configuration import Quorum
from anycast.core.vip.lifecycle import Life, Signal


class Advertise(StrEnum):
    NO = "no"
    DRAIN = "drain"  # announced as the last resort
    YES = "yes"


class Reason(StrEnum):
    """Stable words, used in the status, the log, metric labels and HTTP bodies."""

    STOPPING = "stopping"
    NODE_MAINTENANCE = "node_maintenance"
    VIP_MAINTENANCE = "vip_maintenance"
    KERNEL_UNAVAILABLE = "kernel_unavailable"
    STARTING = "starting"
    KERNEL_DIFFERS = "kernel_differs"
    ADDRESS_MISSING = "address_missing"
    UNPROVEN = "unproven"
    BELOW_QUORUM = "below_quorum"
    NODE_CHECK_FAILED = "node_check_failed"
    VIP_CHECK_FAILED = "vip_check_failed"
    LOCAL_CHECK_FAILED = "local_check_failed"
    HEALTHY = "healthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """One service in one address family: how many of its real servers are in which state. The rest are down or drained.

    `unheard`: no run of their check has ended. `untested`: no run has proved anything yet. `unproven`: none has for
    too long. `fault`: why, of the first of the latter two. While real servers that were replaced are kept, `kept` of them
    are usable, and of `kept_unheard` and `kept_untested` it is not known; `idle` of the others are undecided without a
    weight.
    """

    name: str
    usable: int
    unheard: int = 0
    untested: int = 0
    unproven: int = 0
    total: int
    quorum: Quorum
    fault: str = ""
    idle: int = 0
    kept: int = 0
    kept_unheard: int = 0
    kept_untested: int = 0

    @property
    def undecided(self) -> int:
        return self.unheard + self.untested

    @property
    def possible(self) -> int:
        """Those that may serve a client now, or were only just configured."""
        return self.usable + self.kept + self.undecided - self.idle + self.kept_unheard + self.kept_untested

    @property
    def serving(self) -> int:
        """Those that are known to."""
        return self.usable + self.kept


@dataclass(frozen=True, slots=True, kw_only=True)
class RequirementFacts:
    """A requirement of the node, a VIP or a service, and what is known of it."""

    reason: Reason
    phase: Phase
    unheard: bool = False
    detail: str = ""

    @property
    def untested(self) -> bool:
        """Runs have ended, and none has proved anything yet."""
        return self.phase is Phase.UNDECIDED and not self.unheard


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything a verdict depends on."""

    stopping: bool
    node_maintenance: Stage
    vip_maintenance: Stage
    kernel_error: str | None  # the kernel cannot be read or has not been for too long
    life: Life  # of the VIP, before this verdict
    proof: Proof  # whether the kernel holds what is wanted
    missing_address: str | None
    difference: str  # in words, when not proven
    held: str = ""  # why it must be proven for longer yet, in words
    services: tuple[ServiceFacts, ...]
    requirements: tuple[RequirementFacts, ...] = ()  # the node's first

    @property
    def proven(self) -> bool:
        return self.proof is Proof.PROVEN

    @property
    def advertised(self) -> bool:
        """By the previous verdict."""
        return self.life.is_advertised

    @property
    def unheard(self) -> int:
        waiting = sum(requirement.unheard for requirement in self.requirements)
        return sum(service.unheard + service.kept_unheard for service in self.services) + waiting


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
    # Draining keeps a standing route. It never brings a route up or keeps an unhealthy one; and if one maintenance
    # has drained already, the other does not drain again.
    drained = any(stage in OUT for stage, _ in stages)
    for stage, reason in stages:
        if stage is Stage.ACTIVE:
            continue
        drain = not drained and f.advertised and obstacle is None
        return Verdict(advertise=Advertise.DRAIN if drain else Advertise.NO, reason=reason, detail=stage)
    return obstacle or Verdict(advertise=Advertise.YES, reason=Reason.HEALTHY, detail=_leaning(f))


def signal(f: Facts, verdict: Verdict) -> Signal:
    """What the facts and the verdict on them mean for the VIP's life."""
    match verdict.advertise:
        case Advertise.YES:
            return Signal.ANNOUNCE
        case Advertise.DRAIN:
            return Signal.DRAIN
        case Advertise.NO:
            pass
    untested = sum(service.untested for service in f.services) + sum(
        requirement.untested for requirement in f.requirements
    )
    waits = verdict.reason is Reason.UNPROVEN and untested > 0
    if f.proven and not f.unheard and not f.held and not waits:
        return Signal.PROVE
    # Besides maintenance and the hold after a start.
    obstacle = _obstacle(replace(f, held=""))
    if obstacle is None:
        return Signal.HOLD
    waits = waits or (obstacle.reason is Reason.STARTING and f.proof is not Proof.FAILED)
    return Signal.WAIT if waits else Signal.BREAK


def _obstacle(f: Facts) -> Verdict | None:
    if f.kernel_error is not None:
        return _no(Reason.KERNEL_UNAVAILABLE, f.kernel_error)
    if not f.life.is_started and (f.unheard or not f.proven):
        waiting = [f"{f.unheard} checks without a result yet"] if f.unheard else []
        return _no(Reason.STARTING, "; ".join(waiting + ([] if f.proven else [f.difference])))
    # A route that stands is kept while the kernel is being changed to something new or repaired; one that
    # does not stand is not brought up before the kernel has been read back.
    if f.proof is Proof.FAILED:
        return _apart(f)
    if (lack := _lack(f)) is not None:
        return lack
    for requirement in f.requirements:
        if (unmet := _unmet(requirement, advertised=f.advertised)) is not None:
            return unmet
    if not f.proven and not f.advertised:
        return _apart(f)
    return _no(Reason.STARTING, f.held) if f.held else None


def _leaning(f: Facts) -> str:
    """Which services stand by real servers that are to be replaced."""
    return "; ".join(
        f"{one.name}: {one.usable} of {one.total} usable, so {one.kept} that were replaced go on"
        for one in f.services
        if one.kept and one.usable < one.quorum.low
    )


def _apart(f: Facts) -> Verdict:
    if f.missing_address is not None:
        return _no(Reason.ADDRESS_MISSING, f.missing_address)
    return _no(Reason.KERNEL_DIFFERS, f.difference)


def _lack(f: Facts) -> Verdict | None:
    """Services below their quorum. Dead real servers are reported before ones that cannot be checked."""
    lacking = [
        (service, needed)
        for service in f.services
        # Two marks, not one: without the gap a server at the edge would flap the route.
        for needed in (service.quorum.low if f.advertised else service.quorum.high,)
        # A server that was only just configured must not take a standing route down.
        # Where the old ones go on meanwhile, the new ones need not be counted before they are proven.
        if (service.possible if f.advertised else service.serving) < needed
    ]
    if not lacking:
        return None
    dead = any(s.serving + s.undecided + s.unproven < needed for s, needed in lacking)
    texts = [
        f"{s.name}: {s.usable} of {s.total} usable, {needed} needed{_unchecked(s)}" for s, needed in lacking
    ]
    return _no(Reason.BELOW_QUORUM if dead else Reason.UNPROVEN, "; ".join(texts))


def _unchecked(service: ServiceFacts) -> str:
    count = service.untested + service.unproven
    return f", {count} cannot be checked ({service.fault})" if count else ""


def _unmet(requirement: RequirementFacts, *, advertised: bool) -> Verdict | None:
    match requirement.phase:
        case Phase.UP | Phase.FALLING:
            return None
        case Phase.UNDECIDED if advertised:
            return None  # as with servers: what was only just configured does not take a standing route down
        case Phase.UNPROVEN | Phase.UNDECIDED if not requirement.unheard:
            return _no(Reason.UNPROVEN, requirement.detail)
        case _:
            return _no(requirement.reason, requirement.detail or "no result yet")


def _no(reason: Reason, detail: str = "") -> Verdict:
    return Verdict(advertise=Advertise.NO, reason=reason, detail=detail)
