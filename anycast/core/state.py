"""Everything the node knows at one instant. Values only: the functions on them are in the modules they belong to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, TypeAlias

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.kernel import (
    AddAddress,
    AddDiscard,
    CorrectAddress,
    Desired,
    KernelOp,
    RemoveAddress,
    RemoveDiscard,
    Snapshot,
    StartSync,
    StopSync,
    keys_of,
)
from anycast.core.dataplane.members import Member
from anycast.core.dataplane.proof import Proof
from anycast.core.dataplane.traffic import Count
from anycast.core.fleet.turn import Seat
from anycast.core.fleet.values import View
from anycast.core.health.compose import compose
from anycast.core.health.phase import Health, Phase
from anycast.core.index import Index, Targets
from anycast.core.maintenance.stages import Maintenance, Progress, is_server
from anycast.core.owned import NOTHING, Owned
from anycast.core.shared import Holding, Tally
from anycast.core.values.checks import BgpSession
from anycast.core.values.configuration import Address, Aimed, Bgp, Config, Rule, Target
from anycast.core.values.persistent import PersistentMap
from anycast.core.values.report import NeighborState, Report
from anycast.core.values.route import Prefix, Route
from anycast.core.values.sight import RouterView, Sight
from anycast.core.values.standing import Condition, Standing
from anycast.core.vip.decide import Advertise, Reason, ServiceFacts, Verdict
from anycast.core.vip.lifecycle import Life
from anycast.core.withdrawal import Plugins, Withdrawal

UNDECIDED = Health()
ACTIVE = Progress()

ServerKey: TypeAlias = tuple[ipvs.Key, ipvs.DestinationKey]

Piece: TypeAlias = ipvs.Key | Address | str
"""A part of what the kernel should hold that is compared and written by itself: an IPVS service, an address of a VIP,
`REST`, `SYNC` or `DISCARDS`.
"""
REST = ""  # sysctls, timeouts
DISCARDS = "discards"  # the routes that end what comes for the rest of a wide prefix
SYNC = "sync"  # the daemons of connection sync

URGENT, ORDINARY, IN_VAIN = range(3)
Order: TypeAlias = tuple[int, int, tuple[int, int, tuple[int, ...]]]
"""Where a piece stands in the order of writing: one of the three above, the number of the program that has written it in
vain, and its rank among its like.
"""


class Contest(NamedTuple):
    """An address that others have changed: how often, each time within CONTEST_ENDS after the one before."""

    times: int
    last: float  # the instant of the last time


CONTEST_ENDS = 600.0  # seconds without another change
CONTESTED = 3  # times from which on it is no accident
IN_A_ROW = 3  # times that an address is put back at once, though it is gone again when it is read back
LEFT_ALONE = 10.0  # seconds for which a contested address must have stayed before its VIP is proven again


@dataclass(frozen=True, slots=True)
class Reading:
    """Of the kernel, at the instant `at`: what of it tells a rate."""

    at: float
    table: ipvs.Table
    traffic: Mapping[ipvs.Key, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelState:
    """What is known of the kernel. One read or program is under way at a time (`busy`)."""

    reported: Snapshot | None = None  # as the kernel reported it last
    snapshot: Snapshot | None = None  # the same with the table weights that it does not report
    read_at: float = 0.0  # of the snapshot
    good_until: float = math.inf  # from then on the snapshot proves nothing
    counts: tuple[Count, ...] = ()  # the packets of the last readings
    readings: tuple[Reading, ...] = ()  # what was carried by then, the oldest first
    error: str | None = None
    failures: int = 0
    problems: tuple[str, ...] = ()
    busy: bool = False
    stale: bool = False  # what is under way began before a suspension, and proves nothing
    under_way: tuple[KernelOp, ...] = ()  # the program that is being carried out
    coming: Snapshot | None = field(default=None, compare=False)  # what it will have made of the snapshot
    partial: bool = False  # the last reading was of what was written alone
    settled: bool = False  # all of it has been read as wanted once
    attempted: Mapping[Piece, object] = field(
        default_factory=dict
    )  # what the last program aimed at, by piece
    stuck: frozenset[Piece] = frozenset()  # pieces that it did not get to what it aimed at
    reached: PersistentMap[Piece, object] = (
        PersistentMap()
    )  # what each piece has been read to be, as wanted then
    next_read: float = 0.0
    retry_at: float = math.inf  # of the pieces that are stuck
    programs: int = 0
    repairs: Mapping[str, int] = field(default_factory=dict)  # what others changed, by kind, since the start
    refused: bool = False  # something of the last program
    vain: Mapping[Piece, int] = field(
        default_factory=dict
    )  # addresses that were gone again when they were read back, and how often in a row
    contests: Mapping[Address, Contest] = field(default_factory=dict)
    lost: frozenset[Address] = frozenset()  # went while a job was under way, which may have read them before
    overtaken: bool = False  # the interface changed while a job was under way
    adopted: ipvs.Table = field(default_factory=dict)
    """Services as they were found: real servers in use there keep their weight until their check has its first result."""

    @property
    def is_read(self) -> bool:
        """Whether the snapshot is all that the kernel holds: nothing is written that was not read back."""
        return self.snapshot is not None and self.error is None and not self.under_way


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How the kernel differs from what a VIP needs. Both texts empty: proven."""

    text: str = ""
    missing_address: str | None = None
    ours: bool = True  # to mend
    piece: Piece | None = None  # where

    @property
    def proven(self) -> bool:
        return not self.text and self.missing_address is None


NOT_READ = Difference(text="the kernel has not been read yet")
CHANGING = Difference(text="the kernel is being changed")


@dataclass(frozen=True, slots=True, kw_only=True)
class VipState:
    verdict: Verdict = Verdict(advertise=Advertise.NO, reason=Reason.STARTING)
    since: float = 0.0  # of advertise and reason
    life: Life = Life.NEW
    stable_since: float | None = None  # while HOLDING: proven, with nothing in the way, without a break
    changes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited:
    """A VIP that the fleet's limit keeps announced. `why`: as it was looked at last; empty: it may be taken back."""

    since: float
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """An address that is no longer configured: it stays in the kernel until its route is surely gone.

    `keys`: the services that leave with it. They are left as the kernel has them.
    """

    withdrawal: Withdrawal
    keys: frozenset[ipvs.Key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retiring:
    """A real server that is no longer configured: weight 0 until its connections are gone, or the instant `until`.

    A service that is no longer configured, on an address that stays, retires with all its real servers.
    """

    until: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Real servers that a service has no more, and that serve on until enough of those that replace them are proven.

    `waits_for`: the services, by their keys for facts, whose real servers are to be proven. `known`: the checks are
    those that the real servers had; otherwise they are those of the new ones, and may not fit. `unread`: of an agent
    that starts: which of them are in use is seen with the first reading of the kernel.
    """

    members: tuple[Member, ...]
    waits_for: tuple[ipvs.Key, ...]
    since: float
    known: bool = True
    unread: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseState:
    seq: int = 0
    sent_at: float = 0.0
    ttl: float = 0.0
    runs_out: float = 0.0  # the instant from which none that may stand is good any more
    routes: PersistentMap[Prefix, Route] | None = (
        None  # None: none was sent since the start, or since a suspension
    )
    owned: frozenset[Prefix] = frozenset()  # that the newest one has
    owned_from: frozenset[Address] = frozenset()  # the addresses that these are of
    owned_wide: Mapping[Address, Prefix] = field(default_factory=dict)  # and their prefixes
    held: PersistentMap[Address, Holding] = PersistentMap()  # what the members of shared prefixes say
    tallies: PersistentMap[Prefix, Tally] = PersistentMap()  # how many of each say what
    digest: int = 0  # of the newest one
    changed_seq: int = 0  # of the first lease with these routes
    opens_at: float = 0.0  # while `routes` is None: the first is sent by then, whatever is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a plugin has told of one router."""

    view: RouterView
    sights: PersistentMap[Prefix, Sight] = PersistentMap()


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What the routers have. Neighbors are addresses as text.

    `waiting`: by neighbor, what should be there and is not, and since when; of a neighbor whose view proves nothing there
    is none. `told`: those that have been for long enough, and are an alarm.
    """

    seen: Mapping[int, Mapping[str, Seen]] = field(default_factory=dict)  # by plugin and neighbor
    waiting: Mapping[str, PersistentMap[Prefix, float]] = field(default_factory=dict)
    told: Mapping[str, PersistentMap[Prefix, float]] = field(default_factory=dict)
    look_at: float = math.inf  # the instant at which one of `waiting` has been for long enough

    def of(self, neighbor: str) -> tuple[int, Seen] | None:
        """By the newest plugin that has the session, or else by the newest; None: no plugin tells of it."""
        found = [(number, each[neighbor]) for number, each in self.seen.items() if neighbor in each]
        return max(found, key=lambda one: (one[1].view.since is not None, one[0]), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSet:
    """The wall clock was set by `by` seconds in all, the last time at the monotonic instant `at`."""

    by: float
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    config: Config
    started_at: float
    seen: float = 0.0  # the instant of the last event
    crashes: int = 0  # of the agents before, in the window before the start
    index: Index = Index()  # of the configuration
    configured: Owned = NOTHING  # what the configuration may put into the kernel
    owned: Owned = NOTHING  # that, and what is still leaving
    maintenance: Mapping[str, Maintenance] = field(default_factory=dict)
    progress: Mapping[str, Progress] = field(default_factory=dict)  # of the node and VIPs in maintenance
    wall_offset: float | None = None  # wall clock less monotonic clock, as last seen
    clock_set: ClockSet | None = None  # while that stands
    standing: Mapping[tuple[Condition, str], Standing] = field(default_factory=dict)  # by kind and `about`
    rendered: frozenset[str] = (
        frozenset()
    )  # digests of the configurations that ExaBGP may run with; empty: nobody has asked yet
    running: Bgp | None = None  # what ExaBGP runs with, where it is known
    setups: frozenset[str] = frozenset()  # how ExaBGP should have the sessions; with `rendered`
    outdated: Mapping[int, float] = field(
        default_factory=dict
    )  # processes of ExaBGP to the instant of a change that it does not tell of: a password
    unplaced: frozenset[Target] = (
        frozenset()
    )  # not probed: addresses of VIPs that this node does not have, so that another node would answer
    health: PersistentMap[Target, Health] = PersistentMap()  # of targets with a result
    vips: PersistentMap[str, VipState] = PersistentMap()
    unstarted: PersistentMap[str, None] = (
        PersistentMap()
    )  # VIPs that have not been proven for long enough since the start
    kernel: KernelState = KernelState()
    desired: Desired = Desired(table=PersistentMap(), addresses=frozenset(), sysctls={})
    apart: PersistentMap[Piece, Order] = PersistentMap()  # pieces that the kernel does not hold as wanted
    services: PersistentMap[ipvs.Key, ServiceFacts] = PersistentMap()  # of each service in each family
    differences: PersistentMap[str, Difference] = PersistentMap()
    proofs: PersistentMap[str, Proof] = PersistentMap()
    retiring: Mapping[ServerKey, Retiring] = field(default_factory=dict)
    retire_at: float = math.inf  # the first of their instants
    retiring_is_new: bool = False  # nobody has looked yet whether some of them may go
    kept: PersistentMap[ipvs.Key, Kept] = PersistentMap()
    kept_users: PersistentMap[Target, frozenset[ipvs.Key]] = (
        PersistentMap()
    )  # the services for which the check of a kept real server is run
    awaiting: PersistentMap[ipvs.Key, frozenset[ipvs.Key]] = (
        PersistentMap()
    )  # by a service's key for facts: those with kept real servers that wait for it
    unreplaced: PersistentMap[ipvs.Key, None] = (
        PersistentMap()
    )  # services, by their keys for facts, whose new real servers have all been checked, and too few can be used
    resorts: PersistentMap[ipvs.Key, float] = (
        PersistentMap()
    )  # services whose real servers all failed: until when those with clients keep them; infinity: none is well yet
    resort_at: float = math.inf  # not after the first of these instants
    sorry: PersistentMap[ipvs.Key, None] = (
        PersistentMap()
    )  # services, by their keys for facts, whose sorry pools serve no more, and may have connections left
    expired: Mapping[ServerKey, float] = field(default_factory=dict)  # when its connections were ended last
    leaving: Mapping[Address, Leaving] = field(default_factory=dict)
    leave_at: float = math.inf  # the first instant at which one of them moves on by time alone
    lease: LeaseState = LeaseState()
    plugins: Mapping[int, Report | None] = field(default_factory=dict)
    views: Views = Views()
    fleet: View = View()  # the other nodes of the fleet
    limited: PersistentMap[str, Limited] = PersistentMap()  # VIPs that the fleet's limit keeps announced
    limited_at: float = math.inf  # when that is looked at again
    seat: Seat = Seat()  # the turn of this node
    lost_until: float = -math.inf  # until then a plugin that is not connected may hold routes
    still_until: float = -math.inf  # until then routers may have routes of a plugin that was lost while mute
    stopping_since: float | None = None
    stop: Withdrawal | None = None  # of everything, once stopping
    exited: bool = False

    @property
    def sessions(self) -> list[NeighborState] | None:
        """The BGP sessions, as the plugins report them; None: no plugin has reported, so nobody knows of any."""
        reports = [report for report in self.plugins.values() if report is not None]
        return [each for report in reports for each in report.neighbors] if reports else None

    @property
    def targets(self) -> Targets:
        """Everything that is probed."""
        return Targets(self.index, self.kept_users, self.unplaced)

    def is_target(self, target: Target) -> bool:
        if target in self.unplaced:
            return False
        return self.index.is_target(target) or target in self.kept_users

    @property
    def known_plugins(self) -> Plugins:
        """One that is mute may stand still together with its ExaBGP: then nobody ends them, and the hold time counts."""
        mute = (each.silent_since for each in self.plugins.values() if each is not None and each.mute)
        since = max((each for each in mute if each is not None), default=-math.inf)
        deaf = (one.since for (kind, _), one in self.standing.items() if kind is Condition.ROUTER_DEAF)
        return Plugins(
            reports=self.plugins,
            lost_until=max(self.lost_until, self.still_until),
            still_until=max(self.still_until, since + self.config.bgp.hold_time),
            deaf_until=max(deaf, default=-math.inf) + self.config.bgp.hold_time,
        )


def placed(state: State) -> State:
    """Where the node has not an address of a VIP, checks at it are not run, and what they found counts no more.

    Their packets would leave the node, and be answered by another that announces the VIP.
    """
    snapshot = state.kernel.snapshot
    there = frozenset() if snapshot is None else snapshot.addresses
    at_vips = state.index.at_vips
    unplaced = frozenset(
        target for address, each in at_vips.items() if address not in there for target in each
    )
    if unplaced == state.unplaced:
        return state
    gone = [target for target in unplaced - state.unplaced if target in state.health]
    return replace(state, unplaced=unplaced, health=state.health.updated({}, gone))


def health_of(state: State, check: Aimed) -> Health:
    """The health of what is checked, or of what a rule makes of it."""
    if isinstance(check, Target):
        health: Health = state.health.get(check, UNDECIDED)
        return health
    if isinstance(check, Rule):
        return compose(check, partial(health_of, state))
    return _session_health(state, check)


def _session_health(state: State, session: BgpSession) -> Health:
    """As the plugins report it. With none connected nobody knows, and no route stands either."""
    sessions = state.sessions
    if sessions is None:
        return Health(detail="no plugin is connected that could tell")
    wanted = None if session.neighbor is None else str(session.neighbor)
    neighbors = [each for each in sessions if wanted in (None, each.address)]
    up = [each.changed for each in neighbors if each.state == "up"]
    if up:
        return Health(phase=Phase.UP, since=min(up))
    why = "; ".join(f"{each.address} is {each.state}" for each in neighbors) or "there is no such session"
    since = max((each.changed for each in neighbors), default=0.0)
    return Health(phase=Phase.DOWN, since=since, detail=why)


def drained_scopes(state: State) -> frozenset[str]:
    """`POOL/SERVER` of what was taken out by command."""
    return frozenset(scope for scope in state.maintenance if is_server(scope))


def lived(state: State, changes: Mapping[str, VipState], gone: Iterable[str] = ()) -> State:
    """With these VIPs as they are now, and without those in `gone`."""
    gone = list(gone)
    vips = state.vips.updated(changes, gone)
    if vips is state.vips:
        return state
    started = [name for name, known in changes.items() if known.life.is_started]
    others = {name: None for name, known in changes.items() if not known.life.is_started}
    return replace(state, vips=vips, unstarted=state.unstarted.updated(others, [*started, *gone]))


def retiring(state: State, servers: Mapping[ServerKey, Retiring]) -> State:
    """With these on their way out, and no others."""
    first = min((each.until for each in servers.values()), default=math.inf)
    return replace(state, retiring=servers, retire_at=first, retiring_is_new=True)


def in_use(table: ipvs.Table, key: ipvs.Key) -> set[ipvs.DestinationKey]:
    """The real servers of the service that have weight there."""
    entry = table.get(key)
    return set() if entry is None else {each.key for each in entry.destinations if each.weight > 0}


def pieces_of(ops: Iterable[KernelOp]) -> dict[Piece, None]:
    """What the operations write."""
    found: dict[Piece, None] = {}
    for op in ops:
        if isinstance(op, AddAddress | CorrectAddress | RemoveAddress):
            found[op.address] = None
        elif isinstance(op, StartSync | StopSync):
            found[SYNC] = None
        elif isinstance(op, AddDiscard | RemoveDiscard):
            found[DISCARDS] = None
        else:
            found.update(dict.fromkeys(keys_of(op) or (REST,)))
    return found


def services_of(state: State, key: ipvs.Key) -> ServiceFacts:
    """The facts of the service with this key."""
    return state.services[state.index.services[key].facts]


def is_sorry(state: State, key: ipvs.Key) -> bool:
    """Whether the clients of the service are served by its sorry pool."""
    return services_of(state, key).by_sorry


def kernel_table(state: State) -> ipvs.Table:
    """The IPVS table as last read; empty before that."""
    return state.kernel.snapshot.table if state.kernel.snapshot is not None else {}
