"""The facts of a verdict, gathered from the state."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from anycast.core import kept, limited, sorry
from anycast.core.dataplane import ipvs
from anycast.core.dataplane.proof import Proof
from anycast.core.health.aim import targets_of
from anycast.core.health.phase import Phase
from anycast.core.index import IndexedService
from anycast.core.maintenance.stages import NODE_SCOPES, ORDER, Maintenance, Progress
from anycast.core.state import ACTIVE, NOT_READ, UNDECIDED, State, VipState, drained_scopes, health_of, in_use
from anycast.core.values.configuration import Target, Vip
from anycast.core.vip.decide import Facts, Reason, RequirementFacts, ServiceFacts
from anycast.core.vip.hold import FREE, WINDOW, hold
from anycast.core.vip.requirements import Requirement

READ_FAILURES = 3  # in a row before a standing route is withdrawn: one lost netlink answer is not an outage


def facts(state: State, vip: Vip, now: float) -> Facts:
    known = state.vips.get(vip.name, VipState())
    apart = state.differences.get(vip.name, NOT_READ)
    return Facts(
        stopping=state.stopping_since is not None,
        node_maintenance=furthest(state, NODE_SCOPES).stage,
        vip_maintenance=furthest(state, [vip.name]).stage,
        kernel_error=_kernel_error(state, advertised=known.life.is_advertised, now=now),
        life=known.life,
        proof=state.proofs.get(vip.name, Proof.UNREAD),
        missing_address=apart.missing_address,
        difference=apart.text,
        held=_held(state, known, now),
        services=tuple(state.services[key] for key in state.index.vips[vip.name].facts),
        requirements=tuple(
            _requirement_facts(state, each)
            for each in (*state.index.node_requirements, *state.index.vips[vip.name].requirements)
        ),
        when_unhealthy=vip.when_unhealthy,
        limited=limited.reason(state, vip.name),
    )


def furthest(state: State, scopes: Iterable[str]) -> Progress:
    """The furthest of overlapping maintenances; ACTIVE when there is none."""
    each = (state.progress.get(scope, ACTIVE) for scope in scopes)
    return max(each, key=lambda progress: ORDER.index(progress.stage), default=ACTIVE)


def recent_crashes(state: State, now: float) -> int:
    """Crashes of previous agents. A run as long as the window clears them."""
    return state.crashes if now < state.started_at + WINDOW else 0


def start_hold(state: State, now: float) -> float:
    """Seconds a VIP that has not been announced yet in this run must be proven."""
    return hold(state.config.timing, recent_crashes(state, now))


def held_for(state: State, known: VipState, now: float) -> float | None:
    """Seconds that it has been proven, while that is not long enough. What counts is what was read back."""
    needed = start_hold(state, now)
    if known.life.is_started or not needed:
        return None
    since = known.stable_since
    if since is None:
        return 0.0
    return None if state.kernel.read_at >= since + needed else max(0.0, state.kernel.read_at - since)


def hold_due(state: State, now: float) -> float:
    """The instant by which the kernel must be read back to end a hold."""
    needed = start_hold(state, now)
    if not needed:
        return math.inf
    since = (state.vips[name].stable_since for name in state.unstarted)
    ends = (each + needed for each in since if each is not None)
    return min((end for end in ends if end > state.kernel.read_at), default=math.inf)


def is_holding(state: State) -> bool:
    if start_hold(state, state.started_at) <= 0:
        return False
    return any(state.vips[name].verdict.reason is Reason.STARTING for name in state.unstarted)


def _held(state: State, known: VipState, now: float) -> str:
    stable = held_for(state, known, now)
    if stable is None:
        return ""
    crashes = recent_crashes(state, now)
    why = f" ({crashes} crashes in {WINDOW / 60:g} min)" if crashes > FREE else ""
    return f"everything has held for {stable:.1f} of {start_hold(state, now):g} s{why}"


def _requirement_facts(state: State, requirement: Requirement) -> RequirementFacts:
    health = health_of(state, requirement.check)
    about = f"{requirement.subject}: " if requirement.subject else ""
    return RequirementFacts(
        reason=requirement.reason,
        phase=health.phase,
        unheard=health.unheard,
        detail=f"{about}{health.detail}" if health.detail else "",
        of_node=requirement.of_node(state.index.addresses),
        beyond=requirement.beyond(state.index.addresses),
    )


def _kernel_error(state: State, *, advertised: bool, now: float) -> str | None:
    kernel = state.kernel
    stale = kernel.snapshot is not None and now >= kernel.good_until
    if kernel.error is not None and (stale or not advertised or kernel.failures >= READ_FAILURES):
        return kernel.error
    return f"not read for more than {kernel.good_until - kernel.read_at:.0f} s" if stale else None


def shared_facts(state: State, now: float) -> tuple[object, ...]:
    """What the verdicts of all VIPs rest on: two of them are equal where no verdict can differ by it."""
    kernel = state.kernel
    return (
        state.stopping_since is None,
        furthest(state, NODE_SCOPES).stage,
        _kernel_error(state, advertised=True, now=now),
        _kernel_error(state, advertised=False, now=now),
        start_hold(state, now),
        recent_crashes(state, now) > FREE and recent_crashes(state, now),
        [state.health.get(each) for one in state.index.node_requirements for each in targets_of(one.check)],
        state.sessions if "" in state.index.vips_on_sessions else None,
        state.index.node_requirements,
        kernel.snapshot is None,
    )


def service_facts(state: State, key: ipvs.Key, service: IndexedService) -> ServiceFacts:
    usable = unheard = untested = unproven = total = idle = spare = 0
    fault = ""
    replacing = bool(state.kept) and any(each in state.kept for each in service.alike)
    taking = in_use(state.kernel.adopted, key) - kept.places(state, key) if replacing else None
    drained = drained_scopes(state)
    known = state.health.get
    for member in service.membership.members:
        if member.sorry:
            continue
        total += 1
        if not member.in_use or (drained and member.scope in drained):
            continue  # whatever its check says, it takes no new client
        check = member.check
        health = known(check, UNDECIDED) if type(check) is Target else health_of(state, check)
        phase = health.phase
        if phase is Phase.UP:
            usable += 1
            continue
        usable += phase.is_up
        spare += health.is_spare
        if phase is Phase.UNDECIDED or phase is Phase.UNPROVEN:
            unheard += health.unheard
            untested += phase is Phase.UNDECIDED and health.unknown
            unproven += phase is Phase.UNPROVEN
            if taking is not None and phase is Phase.UNDECIDED:
                idle += member.up.key not in taking
            fault = fault or health.detail
    of_kept = kept.counts(state, service) if replacing else kept.Counts()
    return ServiceFacts(
        name=f"{service.service.name} IPv{ipvs.version_of(key)}",
        usable=usable,
        unheard=unheard,
        untested=untested,
        unproven=unproven,
        total=total,
        quorum=service.service.quorum,
        fault=fault,
        idle=idle,
        spare=spare,
        kept=of_kept.up,
        kept_unheard=of_kept.unheard,
        kept_untested=of_kept.untested,
        sorry=None if service.service.sorry is None else sorry.facts_of(state, key),
    )


def connections_of(state: State, scope: str) -> int:
    """Active connections of the real server `POOL/SERVER` through this node, as last read."""
    snapshot = state.kernel.snapshot
    if snapshot is None:
        return 0
    count = 0
    for first in state.index.drained_by(scope):
        one = state.index.services[first]
        ours = {member.up.key for member in one.membership.members if member.scope == scope}
        for key in one.alike if ours else ():
            counts = snapshot.connections_of(key)
            count += sum(counts[at].active for at in ours if at in counts)
    return count


def is_at_rest(state: State, scope: str) -> bool:
    """Whether a drained real server has been read back without new clients or active connections."""
    entry = state.maintenance.get(scope)
    services = (state.index.services[key] for key in state.index.drained_by(scope))
    written = not any(key in state.apart for one in services for key in one.alike)
    read = state.kernel.snapshot is not None and not state.kernel.busy and written
    since = entry.began if entry is not None else None
    return read and (since is None or state.kernel.read_at > since) and connections_of(state, scope) == 0


def would_fall(state: State, scope: str) -> tuple[str, ...]:
    """The services, as `web tcp/80 IPv4`, that could not stay up without the real server `scope`.

    A sorry pool that would serve in its place does not count: but one that serves already.
    """
    without = replace(
        state, maintenance={**state.maintenance, scope: Maintenance(reason="", by="", since=0.0)}
    )
    found = []
    for key in state.index.drained_by(scope):
        one, now = state.index.services[key], state.services[key]
        then = service_facts(without, key, one)
        real = then.usable < one.service.quorum.low <= now.usable
        if real or (now.by_sorry and then.sorry is not None and not then.sorry.usable):
            found.append(f"{one.vip} {now.name}")
    return tuple(found)
