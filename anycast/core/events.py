"""What can happen (events) and what is to be done about it (effects). Instants are monotonic seconds."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TypeAlias

from anycast.core.dataplane.kernel import Failure, IpvsNeed, KernelOp, Snapshot
from anycast.core.fleet.values import Peer, Register
from anycast.core.health.phase import Result
from anycast.core.maintenance.stages import Maintenance
from anycast.core.owned import Owned
from anycast.core.values.configuration import Address, Config, Target
from anycast.core.values.lease import Lease
from anycast.core.values.report import Report
from anycast.core.values.sight import ViewChange
from anycast.core.values.standing import Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed; `next_wake` says when one is needed. `wall`: seconds since the epoch at that instant."""

    wall: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """Results of checks that came together."""

    results: tuple[tuple[Target, Result], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRead:
    """The kernel as read just now. `failures`: of the program before it.

    `partial`: of the services only those that the program touched were read; the others are as last read, and so are
    their connections and packets.
    """

    snapshot: Snapshot
    failures: tuple[Failure, ...] = ()
    partial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelFailed:
    """The kernel could not be read: why, and what to do."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelChanged:
    """Something on the VIP interface changed: the last reading proves nothing any more.

    `lost`: addresses that went, as far as the kernel has told.
    """

    lost: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginConnected:
    source: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginReported:
    source: int
    report: Report


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSaw:
    """What the routers have, as far as it has changed."""

    source: int
    change: ViewChange


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginLost:
    source: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconfigured:
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceSet:
    """`entry` None ends it. `scope`: the name of a VIP, `POOL/SERVER`, or one of `stages.NODE_SCOPES`.

    No other node is asked. `skip_drain`: its routes go at once. `by`: who ends it.
    """

    scope: str
    entry: Maintenance | None
    skip_drain: bool = False
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveAsked:
    """Whether the other nodes let the node or a VIP go: then the maintenance begins. Said again to look again.

    `number`, `ago`: what the turn was given when it was asked for, and for how long that has been; None: it is asked for
    now, and `random`, from 0 up to 1, makes the number. `waits`: in the queue. `hindered`: what of the VIPs is in the way
    (`core.fleet.turn.hindrances`), and why the others could not carry what this node carries; None: that was not looked
    at. `counted`: the nodes that were taken to leave, too, as it was; None: that is not said.
    """

    scope: str
    entry: Maintenance
    skip_drain: bool = False
    waits: bool = False
    number: int | None = None
    ago: float = 0.0
    random: float = 0.0
    hindered: tuple[str, ...] | None = ()
    counted: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveDropped:
    """Nobody asks for it any more. `number`: of the turn that was asked for. `by`: who gives it up."""

    scope: str
    number: int
    by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionSet:
    """Something outside the core stands, or is over: then `text` is empty. `about`: which of several of the kind."""

    kind: Condition
    text: str = ""
    about: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetHeard:
    """What is known of other nodes, as far as it has changed. `problem`: of the view as a whole; None: the same as before.

    `register`: of the turns in etcd; None: the same as before.
    """

    peers: Mapping[str, Peer] = field(default_factory=dict)
    problem: str | None = None
    register: Register | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRequested:
    """`displaced`: another agent has taken over, and owns what this one has in the kernel and the lease."""

    displaced: bool = False


Event: TypeAlias = (
    Tick
    | Probed
    | KernelRead
    | KernelFailed
    | KernelChanged
    | PluginConnected
    | PluginReported
    | PluginSaw
    | PluginLost
    | Reconfigured
    | MaintenanceSet
    | LeaveAsked
    | LeaveDropped
    | ConditionSet
    | FleetHeard
    | StopRequested
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTargets:
    """Probe these and no others."""

    targets: AbstractSet[Target]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleProbe:
    """Probe again `after` seconds from when the last run was due. `quiet`: then keep to that beat without being asked.

    Quiet runs answer by a Probed only once one says anything but a plain ok.
    """

    target: Target
    after: float  # seconds
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnew:
    """Drop the runs under way, which began before the process was suspended, and begin as at a start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadKernel:
    """Answered by one KernelRead or KernelFailed."""

    sysctls: tuple[str, ...]
    ipvs: IpvsNeed = IpvsNeed.NEEDED
    arriving: Mapping[str, tuple[Address, ...]] = field(
        default_factory=dict
    )  # whose packets are to be counted
    discards: bool = False  # whether to look for the routes of wide prefixes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramKernel:
    """Carry out in order, then read back: answered by one KernelRead or KernelFailed.

    What the operations touch is read back, and everything where one of them failed.
    """

    ops: tuple[KernelOp, ...]
    sysctls: tuple[str, ...]
    ipvs: IpvsNeed = IpvsNeed.NEEDED
    arriving: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    discards: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NameOthers:
    """Say which programs may change the addresses of VIPs again and again, as what stands; `over`: say no more of it."""

    over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SendLease:
    """To every plugin."""

    lease: Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveMaintenance:
    entries: Mapping[str, Maintenance]


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveOwned:
    """For the agent that comes next."""

    owned: Owned


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """One event for the log. `event`: dotted, past tense; listed in docs/log-events.md."""

    event: str
    fields: Mapping[str, object] = field(default_factory=dict)
    level: str = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """Everything is withdrawn, or the time for that has passed."""

    clean: bool


Effect: TypeAlias = (
    SetTargets
    | ScheduleProbe
    | ProbeAnew
    | ReadKernel
    | ProgramKernel
    | NameOthers
    | SendLease
    | SaveMaintenance
    | SaveOwned
    | Log
    | Exit
)
