"""The values everything else speaks in. A value that exists is valid: readers of the outside build these.

All times are seconds as `float`; instants are readings of the monotonic clock, handed in as data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

from anycast.core.kinds import BgpSession, NetworkKind, NodeKind, Tls

Address: TypeAlias = IPv4Address | IPv6Address
Prefix: TypeAlias = IPv4Network | IPv6Network


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


class Forwarding(StrEnum):
    """How IPVS hands a packet to a real server."""

    DR = "dr"  # direct routing: same link, the real server holds the VIP itself
    NAT = "nat"  # masquerading: the answer comes back through the balancer
    TUNNEL = "tunnel"  # IP in IP


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
class Check:
    """What to probe and how outcomes are counted. Times in seconds."""

    kind: CheckKind
    address: Address | None = None  # None: the real server's
    interval: float = 2.0
    fast_interval: float = 0.5  # while a state is changing
    timeout: float = 1.0
    rise: int = 2
    fall: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A part of a rule. `name`: for people."""

    name: str
    part: Check | Rule | BgpSession
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Holds while the weights of the parts that hold come to `needed` or more. 1 <= needed <= the sum of them."""

    needed: int
    members: tuple[Member, ...]


HERE = IPv4Address(0)
"""The address of a target that is this node itself; its port is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing that is probed, once, however many services rest on it."""

    address: Address
    port: int
    check: Check


@dataclass(frozen=True, slots=True, kw_only=True)
class RealServer:
    """A real server: at most one address per family. Weight 0 means: drain, keep flows."""

    name: str
    addresses: tuple[Address, ...]
    weight: int = 1
    port: int | None = None  # None: the port of the service (the only choice with DR and tunnel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    name: str
    servers: tuple[RealServer, ...]
    check: Check | Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """Usable real servers per address family: `high` to come up, `low` to stay up. 1 <= low <= high."""

    low: int = 1
    high: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One protocol and port of a VIP, served by a pool."""

    protocol: Protocol
    port: int
    pool: Pool
    scheduler: Scheduler = Scheduler.MH
    flags: frozenset[SchedulerFlag] = frozenset({SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK})
    forwarding: Forwarding = Forwarding.DR
    quorum: Quorum = Quorum()
    require: Rule | None = None  # must hold for the VIP to be announced

    @property
    def name(self) -> str:
        """`tcp/80`: unique within a VIP."""
        return f"{self.protocol}/{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vip:
    """A virtual IP: one or more addresses that stand and fall together."""

    name: str
    addresses: tuple[Address, ...]
    services: tuple[Service, ...]
    med: int | None = None
    communities: tuple[str, ...] = ()  # "asn:value", both 16 bits
    large_communities: tuple[str, ...] = ()  # "asn:value:value", each 32 bits
    require: Rule | None = None  # must hold for the VIP to be announced


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbor:
    """A BGP router this node speaks to. The session's transport is the family of `address`."""

    address: Address
    remote_as: int
    local_address: Address | None = None
    families: frozenset[int] = frozenset()  # 4, 6: routes carried over this session
    password: str | None = field(default=None, repr=False)
    passive: bool = False


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
    runtime_dir: str = "/run/anycast"  # sockets, the announcer's journal
    state_dir: str = "/var/lib/anycast"  # what survives a reboot: maintenance
    exabgp_user: str = "nobody"  # whom ExaBGP and the plugin run as
    listen: str = "127.0.0.1:9644"  # ops HTTP, read-only


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds."""

    lease_ttl: float = 2.0
    drain: float = 2.0  # how long the route stays with GRACEFUL_SHUTDOWN before the withdraw
    settle: float = 1.0  # between the withdraw and taking the VIP out of the kernel
    reconcile: float = 5.0  # how often the kernel is read back with nothing to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    node: Node
    bgp: Bgp
    vips: tuple[Vip, ...]
    timing: Timing = Timing()
    ipvs_exclusive: bool = False  # True: IPVS services not in here are removed
    manage_sysctls: bool = True
    require: Rule | None = None  # must hold for any VIP to be announced

    def vip(self, name: str) -> Vip | None:
        return next((vip for vip in self.vips if vip.name == name), None)
