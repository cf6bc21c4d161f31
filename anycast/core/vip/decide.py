"""The verdict on a VIP. All facts in one value, the first rule that applies wins, its name is the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from anycast.core.dataplane.proof import Proof
from anycast.core.health.phase import Phase
from anycast.core.maintenance.stages import OUT, Stage
from anycast.core.values.configuration import Quorum, WhenUnhealthy
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
    SORRY = "sorry"
    HEALTHY = "healthy"


class Blame(StrEnum):
    """What a reason is about, and so what can keep the route."""

    NODE = "node"  # this node, as it was proven, or what somebody wants: the route goes
    AROUND = "around"  # what lies around this node: the route goes, as far as `fleet.velocity` lets it
    SHARED = "shared"  # what every node of the VIP may lose in the same moment: `when_unhealthy: last_resort` keeps it too
    SERVED = "served"  # clients are answered, and better elsewhere if real servers are usable there: it is the last resort


BLAME: dict[Reason, Blame] = {
    Reason.STOPPING: Blame.NODE,
    Reason.NODE_MAINTENANCE: Blame.NODE,
    Reason.VIP_MAINTENANCE: Blame.NODE,
    Reason.KERNEL_UNAVAILABLE: Blame.NODE,
    Reason.STARTING: Blame.NODE,  # nothing is known yet: a route that never stood attracts nobody before it is
    Reason.KERNEL_DIFFERS: Blame.NODE,
    Reason.ADDRESS_MISSING: Blame.NODE,
    # A check that cannot run anywhere, by a mistake in a file or a resolver that is gone, is no fault of the kernel's
    # data plane. One whose link is down is: its real servers do not count as `spare`.
    Reason.UNPROVEN: Blame.SHARED,
    Reason.BELOW_QUORUM: Blame.SHARED,
    Reason.NODE_CHECK_FAILED: Blame.AROUND,  # NODE of a check that looks into the node: `RequirementFacts.beyond`
    Reason.VIP_CHECK_FAILED: Blame.SHARED,  # of a check that looks at this node itself: `RequirementFacts.of_node`
    Reason.LOCAL_CHECK_FAILED: Blame.NODE,  # the program of this node itself is broken
    Reason.SORRY: Blame.SERVED,
    Reason.HEALTHY: Blame.NODE,  # in nobody's way
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SorryFacts:
    """The sorry pool of a service, in one address family. `unheard`: no run of their check has ended.

    `serves`: clients of the service go to it. `since`: the instant at which it began or ceased to; None: it never has.
    `held`: the quorum of the real servers was reached, and not lost since: then the low mark counts. `leaving`: it serves
    no more, and connections to it may be left. `found`: the kernel had the service when this agent began.
    """

    usable: int
    total: int
    unheard: int = 0
    serves: bool = False
    since: float | None = None
    held: bool = False
    leaving: bool = False
    found: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFacts:
    """One service in one address family: how many of its real servers are in which state. The rest are down or drained.

    `unheard`: no run of their check has ended. `untested`: no run has proved anything yet. `unproven`: none has for
    too long. `fault`: why, of the first of the latter two. While real servers that were replaced are kept, `kept` of them
    are usable, and of `kept_unheard` and `kept_untested` it is not known; `idle` of the others are undecided without a
    weight. `spare`: those that checks alone keep from clients. As the last resort they get them where nobody else is left.
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
    spare: int = 0
    kept: int = 0
    kept_unheard: int = 0
    kept_untested: int = 0
    sorry: SorryFacts | None = None  # None: it has none

    def needs(self, *, whole: bool) -> int:
        """How many must be usable. Two marks, not one: without the gap a server at the edge would flap the route.

        `whole`: the VIP is announced with all that takes. A service with a sorry pool has its own memory of that.
        """
        whole = whole if self.sorry is None else self.sorry.held
        return self.quorum.low if whole else self.quorum.high

    @property
    def by_sorry(self) -> bool:
        """Whether the sorry pool serves."""
        return self.sorry is not None and self.sorry.serves

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
    of_node: bool = True  # it looks at this node, and not at something that others see too
    beyond: bool = False  # and at nothing in it: at its gateway, its sessions, or things elsewhere

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
    when_unhealthy: WhenUnhealthy = WhenUnhealthy.WITHDRAW
    limited: str = ""  # why the fleet's limit keeps a route that stands, in words

    @property
    def proven(self) -> bool:
        return self.proof is Proof.PROVEN

    @property
    def advertised(self) -> bool:
        """By the previous verdict, as the last resort too."""
        return self.life.is_advertised

    @property
    def whole(self) -> bool:
        """Advertised by the previous verdict with all that takes: then it takes less to stay so."""
        return self.life.is_whole

    @property
    def unheard(self) -> int:
        waiting = sum(requirement.unheard for requirement in self.requirements)
        return sum(service.unheard + service.kept_unheard for service in self.services) + waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`limited`: it is announced because the fleet's limit keeps it."""

    advertise: Advertise
    reason: Reason
    detail: str = ""
    limited: bool = False

    @property
    def is_last_resort(self) -> bool:
        """Announced for want of better, and not because somebody drains it."""
        return self.advertise is Advertise.DRAIN and BLAME[self.reason] is not Blame.NODE


class _Obstacle(NamedTuple):
    verdict: Verdict
    blame: Blame


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
            return Signal.LAST_RESORT if verdict.is_last_resort else Signal.DRAIN
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
    if obstacle is None or obstacle.is_last_resort:
        return Signal.HOLD
    waits = waits or (obstacle.reason is Reason.STARTING and f.proof is not Proof.FAILED)
    return Signal.WAIT if waits else Signal.BREAK


def _obstacle(f: Facts) -> Verdict | None:
    """What is in the way of the VIP, besides maintenance. None: nothing.

    As the last resort it stays as long as nothing is that is this node's own.
    """
    obstacles = _obstacles(f)
    first = next(obstacles, None)
    limited = f.limited if f.advertised else ""
    if first is None:
        return None
    staying = {Blame.SERVED}
    if f.when_unhealthy is WhenUnhealthy.LAST_RESORT:
        staying.add(Blame.SHARED)
    if first.blame not in staying and not limited and f.when_unhealthy is WhenUnhealthy.WITHDRAW:
        return first.verdict
    found = [first, *obstacles]
    own = [each.verdict for each in found if each.blame not in staying]
    stays = replace(first.verdict, advertise=Advertise.DRAIN)
    if not own:
        return stays
    hard = (each.verdict for each in found if each.blame is Blame.NODE)
    return next(
        hard, replace(stays, detail=f"{stays.detail}; {limited}", limited=True) if limited else own[0]
    )


def _obstacles(f: Facts) -> Iterator[_Obstacle]:
    if f.kernel_error is not None:
        yield _blamed(_no(Reason.KERNEL_UNAVAILABLE, f.kernel_error))
    if not f.life.is_started and (f.unheard or not f.proven):
        waiting = [f"{f.unheard} checks without a result yet"] if f.unheard else []
        detail = "; ".join(waiting + ([] if f.proven else [f.difference]))
        yield _blamed(_no(Reason.STARTING, detail))
    # A route that stands is kept while the kernel is being changed to something new or repaired; one that
    # does not stand is not brought up before the kernel has been read back.
    if f.proof is Proof.FAILED:
        yield _blamed(_apart(f))
    if (lack := _lack(f)) is not None:
        yield _Obstacle(lack, BLAME[lack.reason] if _has_servers(f) else Blame.NODE)
    elif f.advertised and (left := _left_to_sorry(f)):
        yield _blamed(_no(Reason.SORRY, left))
    for requirement in f.requirements:
        if (unmet := _unmet(requirement, whole=f.whole)) is not None:
            yield _Obstacle(unmet, _blame_of(requirement, advertised=f.advertised))
    if not f.proven and not f.advertised:
        yield _blamed(_apart(f))
    if f.held:
        yield _blamed(_no(Reason.STARTING, f.held))


def _blamed(verdict: Verdict) -> _Obstacle:
    return _Obstacle(verdict, BLAME[verdict.reason])


def _has_servers(f: Facts) -> bool:
    """Whether each service has somebody to send clients to, if only as the last resort."""
    # A server that was only just configured must not take a standing route down.
    return all(
        each.serving + each.spare + (each.undecided if f.advertised else 0) or each.by_sorry
        for each in f.services
    )


def _blame_of(requirement: RequirementFacts, *, advertised: bool) -> Blame:
    """What was never decided is not known to be shared: it keeps a route that stands, and brings none up."""
    if not advertised and requirement.phase is Phase.UNDECIDED:
        return Blame.NODE
    if not requirement.of_node:
        return BLAME[requirement.reason]
    return Blame.AROUND if requirement.beyond else Blame.NODE


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
        for needed in (service.needs(whole=f.whole),)
        # A server that was only just configured must not take a standing route down.
        # Where the old ones go on meanwhile, the new ones need not be counted before they are proven.
        if (service.possible if f.whole else service.serving) < needed
    ]
    if not lacking:
        return None
    if all(service.by_sorry for service, _ in lacking):
        return _no(Reason.SORRY, "; ".join(_by_sorry(service, needed) for service, needed in lacking))
    lacking = [(one, needed) for one, needed in lacking if not one.by_sorry]
    dead = any(s.serving + s.undecided + s.unproven < needed for s, needed in lacking)
    texts = [
        f"{s.name}: {s.usable} of {s.total} usable, {needed} needed{_unchecked(s)}" for s, needed in lacking
    ]
    return _no(Reason.BELOW_QUORUM if dead else Reason.UNPROVEN, "; ".join(texts))


def _by_sorry(service: ServiceFacts, needed: int) -> str:
    sorry = service.sorry
    of_it = "" if sorry is None else f" ({sorry.usable} of {sorry.total} usable)"
    return (
        f"{service.name}: served by the sorry pool{of_it}, for {service.usable} of {service.total} real servers are usable, "
        f"{needed} needed"
    )


def _left_to_sorry(f: Facts) -> str:
    """With a better route this node would get connections that others have to their sorry pools, and break them."""
    names = [one.name for one in f.services if one.sorry is not None and one.sorry.leaving]
    return (
        f"{', '.join(names)}: served by real servers again, connections to the sorry pool may be left"
        if names
        else ""
    )


def _unchecked(service: ServiceFacts) -> str:
    count = service.untested + service.unproven
    return f", {count} cannot be checked ({service.fault})" if count else ""


def _unmet(requirement: RequirementFacts, *, whole: bool) -> Verdict | None:
    match requirement.phase:
        case Phase.UP | Phase.FALLING:
            return None
        case Phase.UNDECIDED if whole:
            return None  # as with servers: what was only just configured does not take a standing route down
        case Phase.UNPROVEN | Phase.UNDECIDED if not requirement.unheard:
            return _no(Reason.UNPROVEN, requirement.detail)
        case _:
            return _no(requirement.reason, requirement.detail or "no result yet")


def _no(reason: Reason, detail: str = "") -> Verdict:
    return Verdict(advertise=Advertise.NO, reason=reason, detail=detail)
