"""The values everything else speaks in. A value that exists is valid: readers of the outside build these.

All times are seconds as `float`; instants are readings of the monotonic clock, handed in as data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, TypeAlias, TypeVar

from anycast.core.hooks import Hook
from anycast.core.values.checks import BgpSession, NetworkKind, NodeKind, Tls
from anycast.core.values.route import Address as Address  # noqa: PLC0414 - re-exported
from anycast.core.values.route import Prefix as Prefix  # noqa: PLC0414 - re-exported


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
    """`port`: the UDP port a real server takes GUE at; 0 with the others."""

    type: TunnelType = TunnelType.IPIP
    port: int = 0
    checksum: TunnelChecksum = TunnelChecksum.NONE


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpCheck:
    """A completed handshake is success."""

    port: int | None = None  # None: the port the real server is served on


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCheck:
    """One HTTP/1.1 request; success is a final status in `expect`, and a body in which `body` is found."""

    tls: bool
    verify: bool = True  # with tls: the certificate must be valid for `sni`, else `host`, else the address
    port: int | None = None
    method: str = "GET"
    path: str = "/"
    host: str | None = None  # Host header and server name; None: the address
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # may hold secrets
    expect: frozenset[int] = frozenset(range(200, 300))
    keep_alive: bool = False  # over the connection of the last run; renewed once a minute
    body: str | None = (
        None  # regular expression (RE2), searched in the first 64 KiB; None: the head is enough
    )
    sni: str | None = None  # server name, where it is not the host
    ca: str | None = None  # file with the certificates to trust; None: the system's
    certificate: str | None = None  # file with the client's certificate, and its key if `key` is None
    key: str | None = None
    expiry_warning: float | None = None  # seconds left below which success comes with a warning

    @property
    def head_only(self) -> bool:
        """Whether the response head decides, and any TLS context made of `verify` alone will do."""
        return (self.body, self.ca, self.certificate, self.expiry_warning) == (None,) * 4

    @property
    def tls_settings(self) -> Tls | None:
        if not self.tls:
            return None
        return Tls(
            verify=self.verify,
            name=self.sni,
            ca=self.ca,
            certificate=self.certificate,
            key=self.key,
            expiry_warning=self.expiry_warning,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCheck:
    """A program of its own process group; exit status 0 is success.

    Of its environment it may rely on ANYCAST_ADDRESS and ANYCAST_PORT.
    """

    argv: tuple[str, ...]


CheckKind: TypeAlias = TcpCheck | HttpCheck | CommandCheck | NetworkKind | NodeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldDown:
    """When a target that flaps is held down. 0 < reuse < suppress <= ceiling; times in seconds."""

    half_life: float = 60.0
    suppress: float = 3.0  # falls, decayed: from here on it is held down
    reuse: float = 1.5  # and until here
    max_hold: float = 240.0

    @property
    def ceiling(self) -> float:
        """The penalty that takes `max_hold` to decay to `reuse`."""
        return self.reuse * math.exp2(min(self.max_hold / self.half_life, 64.0))

    def __str__(self) -> str:
        return (
            f"half_life {self.half_life:g}s suppress {self.suppress:g} reuse {self.reuse:g} "
            f"max_hold {self.max_hold:g}s"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What to probe and how outcomes are counted. Times in seconds."""

    kind: CheckKind
    address: Address | None = None  # None: the real server's
    interval: float = 2.0
    fast_interval: float = 0.5  # while a state is changing
    timeout: float = 1.0
    rise: int = 2
    fall: int = 3
    unproven_after: float | None = (
        None  # how long a result counts while the check cannot run; None: 3 intervals
    )
    hold_down: HoldDown | None = None  # None: what flaps comes up as soon as it has risen

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing that is probed, once, however many services rest on it.

    `vip`: the address that is asked for at the real server, where the check wants that.
    """

    address: Address
    port: int
    check: Check
    vip: Address | None = None
    # A target is looked up with every outcome: its hash is worked out once.
    _hash: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.address, self.port, self.check, self.vip)))

    def __hash__(self) -> int:
        return self._hash


Aim: TypeAlias = Target | BgpSession
Aimed: TypeAlias = Aim | Rule[Aim]
"""A tree of checks that knows what it looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """A client, or its whole network, comes to the same real server until `timeout` seconds after its last
    connection. Prefix lengths say how large a client is; the full length is the single address.
    """

    timeout: int = 300
    prefix4: int = 32
    prefix6: int = 128


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
    quorum: Quorum = Quorum()
    require: Rule[Leaf] | None = None  # must hold for the VIP to be announced

    @property
    def name(self) -> str:
        """`tcp/80`, `mark/7`: unique within a VIP."""
        return f"mark/{self.mark}" if self.mark else f"{self.protocol}/{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vip:
    """A virtual IP: one or more addresses that stand and fall together."""

    name: str
    addresses: tuple[Address, ...]
    services: tuple[Service, ...]
    med: int | None = None
    communities: tuple[str, ...] = ()  # "asn:value", both 16 bits
    large_communities: tuple[str, ...] = ()  # "asn:value:value", each 32 bits
    require: Rule[Leaf] | None = None  # must hold for the VIP to be announced


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
class Neighbor:
    """A BGP router this node speaks to. The session's transport is the family of `address`."""

    address: Address
    remote_as: int
    local_address: Address | None = None
    families: frozenset[int] = frozenset()  # 4, 6: routes carried over this session
    password: str | None = field(default=None, repr=False)
    passive: bool = False
    bfd: Bfd | None = None  # None: nothing but the hold time tells of a dead end


@dataclass(frozen=True, slots=True, kw_only=True)
class Bgp:
    local_as: int
    router_id: IPv4Address
    neighbors: tuple[Neighbor, ...]
    hold_time: int = 9  # seconds; 3 or more
    next_hop_v4: IPv4Address | None = None  # None: self, right where a session carries its own family
    next_hop_v6: IPv6Address | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    name: str
    interface: str = "lo"  # carries the VIP addresses
    runtime_dir: str = "/run/anycast"  # sockets, the plugin's journal
    state_dir: str = "/var/lib/anycast"  # what survives a reboot: maintenance
    exabgp_user: str = "anycast-exabgp"  # whom ExaBGP and the plugin run as
    listen: str = "127.0.0.1:9644"  # ops HTTP, read-only


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds."""

    lease_ttl: float = 2.0
    drain: float = 2.0  # how long the route stays with GRACEFUL_SHUTDOWN before the withdraw
    settle: float = 1.0  # from the withdraw until the routers have followed
    quiet_rate: int = 1  # packets a second that still count as none, for what is in maintenance
    quiet_limit: float = 30.0  # how long maintenance waits for so few at most
    reconcile: float = 5.0  # how often the kernel is read back with nothing to do
    server_drain: float = 60.0  # how long a real server that was taken out may finish its connections
    start_hold: float = 0.0  # how long after a start the data plane must be proven before it is announced
    start_hold_limit: float = 60.0  # how long that becomes after crashes at the most


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds after its last packet until IPVS forgets a connection."""

    tcp: int = 900
    tcp_fin: int = 120  # once a FIN has been seen
    udp: int = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSync:
    """The kernel's own exchange of connections between the nodes of a fleet, by multicast."""

    interface: str
    id: int = 0  # 0 to 255; a node takes in the messages of its own id only
    group: Address = IPv4Address("224.0.0.81")
    port: int = 8848
    ttl: int = 1


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

    def vip(self, name: str) -> Vip | None:
        return next((vip for vip in self.vips if vip.name == name), None)
