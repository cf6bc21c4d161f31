"""The values that everything else uses. A value that exists is valid: readers of outside data build these.

All times are seconds as `float`; instants are readings of the monotonic clock, handed in as data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Generic, TypeAlias, TypeVar

from anycast.core.fleet.values import Capacity
from anycast.core.hooks import Hook, Secret
from anycast.core.values import described as of
from anycast.core.values.checks import BgpSession, Kind
from anycast.core.values.checks import CommandCheck as CommandCheck  # noqa: PLC0414 - re-exported
from anycast.core.values.checks import HttpCheck as HttpCheck  # noqa: PLC0414 - re-exported
from anycast.core.values.checks import TcpCheck as TcpCheck  # noqa: PLC0414 - re-exported
from anycast.core.values.described import Doc, Percent, setting
from anycast.core.values.fleet import Fleet
from anycast.core.values.light import light_dataclass
from anycast.core.values.route import Address as Address  # noqa: PLC0414 - re-exported
from anycast.core.values.route import Mark
from anycast.core.values.route import Origin as Origin  # noqa: PLC0414 - re-exported
from anycast.core.values.route import Prefix as Prefix  # noqa: PLC0414 - re-exported
from anycast.core.values.software import Software
from anycast.core.values.speaker import Speaker


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    SCTP = "sctp"


class Forwarding(StrEnum):
    """How IPVS hands a packet to a real server."""

    DR = "dr"  # direct routing: same link, the real server holds the VIP itself
    NAT = "nat"  # masquerading: the answer comes back through the balancer
    TUNNEL = "tunnel"  # encapsulated: the real server holds the VIP itself, on any network and of any family


class TunnelType(StrEnum):
    """How a packet is wrapped on its way to a real server."""

    IPIP = "ipip"  # IP in IP, IPv6 in either included
    GUE = "gue"  # Generic UDP Encapsulation
    GRE = "gre"


class TunnelChecksum(StrEnum):
    """By ipvsadm's names. IP in IP has none."""

    NONE = "nocsum"
    FULL = "csum"
    REMOTE = "remcsum"  # remote checksum offload, GUE only


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """How a packet is encapsulated on its way to the real server. The type alone is enough if it needs no other setting."""

    type: TunnelType = setting(
        "ipip: IP in IP, 20 or 40 bytes. gue: in UDP, which NICs and routers spread well. gre: in GRE.",
        TunnelType.IPIP,
    )
    port: of.Port = setting(
        "With `gue`: the UDP port the real servers receive it at. Default: 6080.", 0, shown=None
    )
    checksum: TunnelChecksum = setting(
        "nocsum, csum (gue and gre), or remcsum (gue): remote checksum offload.", TunnelChecksum.NONE
    )

    def __str__(self) -> str:
        port = f" port {self.port}" if self.port else ""
        checksum = "" if self.checksum is TunnelChecksum.NONE else f" {self.checksum}"
        return f"{self.type}{port}{checksum}"


class Scheduler(StrEnum):
    RR = "rr"
    WRR = "wrr"
    LC = "lc"
    WLC = "wlc"
    SH = "sh"
    DH = "dh"
    MH = "mh"


class SchedulerFlag(StrEnum):
    """Scheduler flags by ipvsadm's names."""

    MH_PORT = "mh-port"
    MH_FALLBACK = "mh-fallback"
    SH_PORT = "sh-port"
    SH_FALLBACK = "sh-fallback"


CheckKind: TypeAlias = Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldDown:
    """A target that flaps is held down, as in RFC 2439. Each fall adds a penalty of 1, which decays."""

    half_life: of.Period = setting("The time in which a penalty halves.", 60.0)
    suppress: of.Penalty = setting("A fall that brings the penalty to this holds the target down.", 3.0)
    reuse: of.Penalty = setting("The target is held down until the penalty has decayed to this.", 1.5)
    max_hold: of.Hold = setting("The longest it is held down. Default: four half-lives.", 240.0, shown=None)

    @property
    def ceiling(self) -> float:
        """The penalty that takes `max_hold` to decay to `reuse`."""
        return self.reuse * math.exp2(min(self.max_hold / self.half_life, 64.0))

    def __str__(self) -> str:
        return (
            f"half_life {self.half_life:g}s suppress {self.suppress:g} reuse {self.reuse:g} "
            f"max_hold {self.max_hold:g}s"
        )


class _Hashed:
    """Room for a hash that is worked out once. It is another in each process, so it is no field."""

    __slots__ = ("_hash",)
    _hash: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Check(_Hashed):
    """What to probe and how outcomes are counted. Times in seconds. `address` None: the real server's."""

    kind: CheckKind
    address: Address | None = None
    to_vip: bool = (
        False  # it is aimed at the VIP's address at the real server, by the way of clients' packets
    )
    full_size: bool = True  # with `to_vip` by a tunnel: a packet of the largest size must pass too
    interval: of.Period = setting("From one probe's start to the next.", 2.0)
    fast_interval: of.Period = setting(
        "The interval while the state is changing. Default: 500ms, or `interval` if that is shorter.",
        0.5,
        shown=None,
    )
    timeout: of.Period = setting("A slower answer is a failure.", 1.0)
    rise: of.Count = setting("Successes in a row that make a real server usable.", 2)
    fall: of.Count = setting("Failures in a row that make it unusable.", 3)
    unproven_after: of.Hold | None = setting(
        "While the check itself cannot run (its outcome is unknown), the last result counts for this long. Then "
        "the target is unproven, and not used. At least `interval`. Default: three intervals.",
        None,
    )
    hold_down: HoldDown | None = setting(
        "Hold targets down that flap. Default: a target comes up after `rise` successes.", None
    )
    tripwire: bool = setting(
        "true: one more connection stays open to each real server. When it ends the check runs at once. For checks over "
        "TCP.",
        False,
    )

    def __hash__(self) -> int:
        # Each of thousands of targets asks for it.
        try:
            return self._hash
        except AttributeError:
            found = hash(tuple([getattr(self, one.name) for one in fields(self)]))
            object.__setattr__(self, "_hash", found)
            return found

    @property
    def proof_lasts(self) -> float:
        """Seconds for which a result counts while the check itself cannot run."""
        return 3 * self.interval if self.unproven_after is None else self.unproven_after


L_co = TypeVar("L_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part(Generic[L_co]):
    """A part of a rule. `name`: for people."""

    name: str
    check: L_co | Rule[L_co]
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(Generic[L_co]):
    """Holds while the weights of the parts that hold come to `needed` or more. 1 <= needed <= the sum of them."""

    needed: int
    parts: tuple[Part[L_co], ...]


Leaf: TypeAlias = Check | BgpSession
Tree: TypeAlias = Leaf | Rule[Leaf]
"""A check, or what is made of several."""


HERE = IPv4Address(0)
"""The address of a target that is this node itself; its port is 0."""


@light_dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing that is probed, once, however many services depend on it.

    `vip`: the address that is asked for at the real server, where the check wants that. `tunnel`: by this tunnel.
    """

    address: Address
    port: int
    check: Check
    vip: Address | None = None
    tunnel: Tunnel | None = None
    # A target is looked up with every outcome: its hash is worked out once.
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Of the number of the address, whose own hash is that of a text.
        vip = None if self.vip is None else int(self.vip)
        object.__setattr__(self, "_hash", hash((int(self.address), self.port, self.check, vip)))

    def __hash__(self) -> int:
        return self._hash


Aim: TypeAlias = Target | BgpSession
Aimed: TypeAlias = Aim | Rule[Aim]
"""A tree of checks that knows what it looks at."""


@light_dataclass(frozen=True, slots=True, kw_only=True)
class RealServer:
    """A real server: at most one address per family. Weight 0 means: drain, keep flows.

    With `upper` connections it gets no new ones until there are fewer than `lower` (0: three quarters of
    `upper`); `upper` 0: no limit.
    """

    name: str
    addresses: tuple[Address, ...]
    weight: int = 1
    upper: int = 0
    lower: int = 0
    port: int | None = None  # None: the port of the service (the only choice with DR and tunnel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    name: str
    servers: tuple[RealServer, ...]
    check: Check | Rule[Leaf]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """Usable real servers per address family: `high` to come up, `low` to stay up. 1 <= low <= high."""

    low: int = 1
    high: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence:
    """A client comes to the same real server again until `timeout` after its last connection has ended.

    A time alone is the timeout. Each balancer remembers its own clients: without `connection_sync`, and with a
    scheduler that does not choose by the client's address alone, another balancer sends the client, and with it the
    connections it has, elsewhere. So with `scheduler: mh` the default is `flags: [mh-fallback]`, without mh-port: a
    client comes to the same real server on every balancer, and needs no persistence for that.
    """

    timeout: of.PersistenceTimeout = setting(
        "How long a client is remembered. Whole seconds, 1s to 24h.", 300, shown="5m"
    )
    ipv4_prefix: of.PrefixLength4 = setting(
        "How many bits of an IPv4 address identify a client. 24: a whole /24 counts as one client.", 32
    )
    ipv6_prefix: of.PrefixLength6 = setting(
        "The same for IPv6. 64: a client that changes its address within its /64 counts as the same.", 128
    )

    def __str__(self) -> str:
        return f"{self.timeout}s for each /{self.ipv4_prefix} and /{self.ipv6_prefix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One protocol and port of a VIP, or a firewall mark, served by a pool."""

    pool: Pool
    protocol: Protocol = Protocol.TCP  # no meaning with a mark
    port: int = 0  # 0 with a mark
    mark: int = 0  # firewall mark; 0: the service is a protocol and port
    scheduler: Scheduler = Scheduler.MH
    flags: frozenset[SchedulerFlag] = frozenset({SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK})
    forwarding: Forwarding = Forwarding.DR
    tunnel: Tunnel = Tunnel()
    one_packet: bool = False  # UDP: every packet is scheduled by itself, no connection is kept
    persistence: Persistence | None = None
    expire_failed: float | None = None  # seconds a real server is down until its connections end; None: never
    server_capacity: Capacity | None = (
        None  # of one real server, for what this node sends it; None: nobody has said
    )
    quorum: Quorum = Quorum()
    sorry: Pool | None = None  # who serves while the quorum is lost
    require: Rule[Leaf] | None = None  # must hold for the VIP to be announced

    @property
    def pools(self) -> tuple[Pool, ...]:
        """Of its real servers, and of those that are sorry."""
        return (self.pool,) if self.sorry is None else (self.pool, self.sorry)

    @property
    def name(self) -> str:
        """`tcp/80`, `mark/7`: unique within a VIP."""
        return f"mark/{self.mark}" if self.mark else f"{self.protocol}/{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """One protocol and port of a VIP that this node serves itself, without IPVS."""

    protocol: Protocol = Protocol.TCP
    port: int
    check: Check | Rule[Leaf] | None = (
        None  # of the port at each address of the VIP; None: `require` alone tells
    )
    require: Rule[Leaf] | None = None  # must hold for the VIP to be announced

    @property
    def name(self) -> str:
        """`udp/53`: unique within a VIP."""
        return f"{self.protocol}/{self.port}"


class Role(StrEnum):
    """What this node is for a VIP. Routers use a backup's path only while no primary announces the VIP."""

    PRIMARY = "primary"
    BACKUP = "backup"


class WhenUnhealthy(StrEnum):
    """What becomes of a VIP's route when checks say that it cannot be served, and the node itself is well."""

    WITHDRAW = "withdraw"
    LAST_RESORT = "last_resort"  # the route stays, worse than any other


class Needs(StrEnum):
    """Which of the VIPs that announce a prefix together it needs."""

    ANY = "any"
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Announce:
    """A prefix, wider than a host route, that is announced in the place of those of the VIP's addresses in it."""

    prefix: Prefix
    needs: Needs = Needs.ANY

    def __str__(self) -> str:
        return str(self.prefix) if self.needs is Needs.ANY else f"{self.prefix} needs {self.needs}"


ROUTE_ATTRIBUTES = (
    "med",
    "communities",
    "large_communities",
    "extended_communities",
    "as_path_prepend",
    "local_preference",
    "origin",
)
"""Fields of a VIP: attributes of BGP that its routes carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vip:
    """A virtual IP: one or more addresses that stand and fall together.

    What `core.preference` makes of the role and the attributes is what routers are sent.
    """

    name: str
    addresses: tuple[Address, ...]
    services: tuple[Service, ...]  # by IPVS; none: this node serves all of it itself
    local: tuple[Local, ...] = ()  # by this node itself
    announce: tuple[Announce, ...] = ()  # of addresses that are in none of these: their host routes
    role: Role = Role.PRIMARY
    med: int | None = None
    communities: tuple[str, ...] = ()  # "asn:value", both 16 bits
    large_communities: tuple[str, ...] = ()  # "asn:value:value", each 32 bits
    extended_communities: tuple[str, ...] = ()  # "target:asn:value", "origin:asn:value", 0x and 16 digits
    as_path_prepend: int | None = None  # how often the node's AS stands in the path once more
    local_preference: int | None = None
    origin: Origin | None = None
    require: Rule[Leaf] | None = None  # must hold for the VIP to be announced
    when_unhealthy: WhenUnhealthy = WhenUnhealthy.WITHDRAW


@dataclass(frozen=True, slots=True, kw_only=True)
class Bfd:
    """Bidirectional forwarding detection (RFC 5880): a packet each `interval` seconds, down after `multiplier` lost."""

    interval: float = 0.1
    multiplier: int = 3

    @property
    def detection(self) -> float:
        """Seconds without a packet until the other end counts as dead, where both ends have the same settings."""
        return self.interval * self.multiplier

    def __str__(self) -> str:
        return f"{self.multiplier} x {self.interval * 1000:g}ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What a router gets of some VIPs: names and globs. None: as the VIP says."""

    vips: tuple[str, ...]
    med: int | None = None
    communities: tuple[str, ...] | None = None
    large_communities: tuple[str, ...] | None = None
    extended_communities: tuple[str, ...] | None = None
    as_path_prepend: int | None = None
    local_preference: int | None = None
    origin: Origin | None = None

    def __str__(self) -> str:
        told = (
            f"{one.name} {value if isinstance(value, int | str) else list(value)}"
            for one in fields(self)
            if one.name != "vips" and (value := getattr(self, one.name)) is not None
        )
        return " ".join((",".join(self.vips), *told))


BGP_PORT = 179


def distance(multihop: int, ttl_security: int) -> int:
    """Hops between both ends of a session; 0: they are on one link."""
    return multihop or (ttl_security if ttl_security > 1 else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbor:
    """A BGP router this node speaks to. The session's transport is the family of `address`."""

    address: Address
    remote_as: int
    local_address: Address | None = None
    families: frozenset[int] = frozenset()  # 4, 6: routes carried over this session
    password: str | None = field(default=None, repr=False)
    password_from: Secret | None = None  # read when a configuration is rendered; nothing else needs it
    passive: bool = False
    bfd: Bfd | None = None  # None: only the hold time notices that the other end is dead
    multihop: int = 0  # hops that a packet may take to it; 0: it is on this node's link
    ttl_security: int = (
        0  # packets that came from further than so many hops are dropped (RFC 5082); 0: none is
    )
    port: int = BGP_PORT  # that it listens at
    interface: str = ""  # this node's, over which a link-local address is reached
    remote_interface: str = ""  # the router's, of the same link
    extended_next_hop: bool = False  # IPv4 routes go to it with an IPv6 next hop (RFC 8950)
    route_reflector: bool = False  # it hands the routes on within the AS: this node is its client
    software: Software | None = None  # what the router runs; None: nobody has said so
    export: tuple[Export, ...] | None = (
        None  # the first that names a VIP counts, and no other VIP; None: all as they say
    )
    view: bool = False  # the router sends back what it has of the VIPs

    @property
    def distance(self) -> int:
        """Hops between both ends; 0: they are on one link."""
        return distance(self.multihop, self.ttl_security)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bgp:
    local_as: int
    router_id: IPv4Address
    neighbors: tuple[Neighbor, ...]
    hold_time: int = 9  # seconds; 3 or more
    next_hop_v4: IPv4Address | None = None  # None: self, right where a session carries its own family
    next_hop_v6: IPv6Address | None = None
    listen_port: int = BGP_PORT  # this node's
    weight: int | None = (
        None  # of its paths at routers that weigh by link bandwidth; None: nothing is said of it
    )
    view_mark: int = 1179  # the second number of the large community that tells whose path it is
    hears: bool = True  # whoever announces tells what routers send back: ExaBGP's plugin does, a routing daemon does not

    @property
    def sign(self) -> Mark | None:
        """The large community on this node's paths, with its router id as a number; None: no router sends any back."""
        if not any(one.view for one in self.neighbors):
            return None
        return self.local_as, self.view_mark, int(self.router_id)

    @property
    def mark(self) -> Mark | None:
        """The same, where it is the agent that puts it on. A routing daemon puts it on by its own configuration."""
        return self.sign if self.hears else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """This machine."""

    name: Annotated[of.Name, Doc("The name of this node. Default: the short host name.")]
    interface: of.Interface = setting("The interface that carries the VIP addresses.", "lo")
    runtime_dir: of.Directory = setting(
        "Directory of the sockets and the plugin's journal. Emptied by a reboot.", "/run/anycast"
    )
    state_dir: of.Directory = setting(
        "Directory for what survives a reboot: maintenance, what this node owns in the kernel, crashes, events.",
        "/var/lib/anycast",
    )
    exabgp_user: of.UserName = setting(
        "The user ExaBGP and the plugin run as. Besides root and the agent's own user nobody gets the lease.",
        "anycast-exabgp",
    )
    lease_group: of.GroupName | None = setting(
        "The group that may open `lease.sock`. Default: the primary group of `exabgp_user`. The agent must run as root "
        "or be in it.",
        None,
    )
    listen: of.Listen = setting(
        "Address and port of the status page, the metrics and the health endpoints. Read-only.",
        "127.0.0.1:9644",
    )
    http_hosts: tuple[of.HttpHost, ...] = setting(
        "Names by which clients may ask at `listen`, besides any address, localhost, `name` and the machine's own host "
        'name, short and full. `"*.example.net"`: all below it; `"*"`: any.',
        (),
    )
    max_removed: of.Share = setting(
        "The share of the VIPs, or of the real servers, that a reload may remove without `--allow-removal`. One of "
        "several may always go, and the last VIP never. 1% to 100%.",
        Percent(50),
        shown="50%",
    )


RELOADED = frozenset({"max_removed"})
"""What of `node` a reload changes; the rest says what the agent opened at its start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long things may take. A time is written `500ms`, `2s`, `1m`, or as a number of seconds."""

    lease_ttl: of.LeaseTtl = setting(
        "How long the node's routes outlive a dead or hung agent. 500ms to 30s.", 2.0
    )
    drain: of.Pause = setting(
        "How long a route is announced with GRACEFUL_SHUTDOWN before it is withdrawn.", 2.0
    )
    settle: of.Pause = setting(
        "How long routers have to follow a withdraw: until then maintenance does not go on, and a VIP that is no "
        "longer configured stays in the kernel, for packets under way.",
        1.0,
    )
    quiet_rate: of.PacketRate = setting(
        "Maintenance is `down` once the VIPs receive no more packets a second than this. 0 to 1000000.", 1
    )
    quiet_limit: of.Pause = setting(
        "How long maintenance waits for `quiet_rate`; after that it is `down` in any case. 0 to 10m.", 30.0
    )
    reconcile: of.Reconcile = setting(
        "How often the kernel is read back and repaired when nothing else happens.", 5.0
    )
    server_drain: of.ServerDrain = setting(
        "How long a real server that was taken out of the configuration keeps the connections it has. It gets no new "
        "ones, and goes earlier when the last has ended. 0 to 24h.",
        60.0,
    )
    start_hold: of.Pause = setting(
        "How long after the agent's start a VIP's kernel, servers and checks must be as they should be, without a "
        "break, before it is announced. Together with the start it should stay below `lease_ttl`, or every restart "
        "withdraws. After the second crash within 10 minutes it is 2s or twice this, and doubles with each. 0 to "
        "10m.",
        0.0,
    )
    start_hold_limit: of.Pause = setting(
        "The longest that crashes can make `start_hold`; 0: they do not make it longer. 0 to 10m.",
        60.0,
        shown="1m",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long after its last packet IPVS forgets a connection. Whole seconds, 1s to 576h (24 days).

    Without this section the kernel's timeouts are left as they are. With it all three are set, for every IPVS
    service of the machine.
    """

    tcp: of.KernelTimeout = setting(
        "An established TCP connection. Should exceed the keepalive interval of clients and servers: the next packet of a "
        "forgotten connection is scheduled as a new one.",
        900,
        shown="15m",
    )
    tcp_fin: of.KernelTimeout = setting("A TCP connection after a FIN.", 120, shown="2m")
    udp: of.KernelTimeout = setting(
        "UDP packets between the same addresses and ports, if `one_packet` is false.", 300, shown="5m"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSync:
    """The kernel's own exchange of connections between the balancers, by multicast, without authentication.

    Not needed with `scheduler: mh`, where every balancer chooses alike. It carries a connection through what
    changes the choice: another scheduler, persistence, a change of servers or weights. New connections arrive at
    the others with a delay, so a connection that moves in its first moments is still lost: one of TCP is told of
    within two seconds once it is established, one-packet UDP never. With `forwarding: tunnel` a connection to a real server that the others
    do not have yet is lost when it comes to them: add a real server with weight 0 on all balancers, then give it its
    weight. Excludes real servers of the other address family.
    """

    interface: Annotated[
        of.Interface,
        Doc(
            "The interface it is sent and received on: a network of the balancers' own.",
            write="write the interface between the balancers",
        ),
    ]
    id: of.SyncId = setting(
        "All balancers of a fleet have the same; messages with another one are ignored.", 1
    )
    group: of.Group = setting("The multicast group, IPv4 or IPv6.", IPv4Address("224.0.0.81"))
    port: of.Port = setting("The UDP port.", 8848)
    ttl: of.TimeToLive = setting("Time to live of the messages; 1 keeps them on the link.", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    node: Node
    bgp: Bgp
    vips: tuple[Vip, ...]
    timing: Timing = Timing()
    ipvs_exclusive: bool = False  # True: IPVS services not in here are removed
    manage_sysctls: bool = True
    timeouts: Timeouts | None = None  # None: the kernel's are left as they are
    connection_sync: ConnectionSync | None = None
    require: Rule[Leaf] | None = None  # must hold for any VIP to be announced
    hooks: tuple[Hook, ...] = ()
    speaker: Speaker = Speaker()
    fleet: Fleet | None = None  # None: the node knows nothing of others

    def vip(self, name: str) -> Vip | None:
        return next((vip for vip in self.vips if vip.name == name), None)

    @property
    def needs_ipvs(self) -> bool:
        """Whether the kernel must have it: not where this node serves every VIP itself."""
        asked = self.ipvs_exclusive or self.timeouts is not None or self.connection_sync is not None
        return asked or not self.vips or any(vip.services for vip in self.vips)
