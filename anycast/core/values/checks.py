"""What can be checked besides TCP, HTTP and a command, and what the kinds have in common. Times in seconds.

`port` None: the port the real server is served on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How TLS is spoken to a server. The files hold PEM."""

    verify: bool = True  # the certificate must be valid for `name`, or for the address
    name: str | None = None  # sent as SNI
    ca: str | None = None  # file with the certificates to trust; None: the system's
    certificate: str | None = None  # file with the client's certificate, and its key if `key` is None
    key: str | None = None
    expiry_warning: float | None = None  # seconds left below which success comes with a warning

    def __str__(self) -> str:
        told = [f"for {self.name}"] if self.name else []
        told += [] if self.verify else ["without verifying"]
        files = (("ca", self.ca), ("certificate", self.certificate), ("key", self.key))
        told += [f"{name} {file}" for name, file in files if file]
        told += [] if self.expiry_warning is None else [f"warning {self.expiry_warning:g}s before expiry"]
        return " ".join(told) or "true"


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpVipCheck:
    """A completed TCP handshake with the VIP's address at the real server, which must hold it: direct routing."""

    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpCheck:
    """One datagram; success is the reply that is expected, or without one, no ICMP unreachable within `quiet`.

    `expect` is a regular expression (RE2), `prefix` how the reply must begin; with neither, any reply will do.
    """

    port: int | None = None
    send: bytes = field(default=b"", repr=False)  # may hold a secret
    expect: str | None = None
    prefix: bytes = b""
    quiet: float = 0.2

    @property
    def wants_reply(self) -> bool:
        return self.expect is not None or bool(self.prefix)


@dataclass(frozen=True, slots=True)
class Expect:
    """A line in which the expression (RE2) is found; lines before it are passed over."""

    pattern: str

    def __str__(self) -> str:
        return f"expect {self.pattern}"


@dataclass(frozen=True, slots=True)
class Send:
    data: bytes = field(repr=False)  # may hold a secret

    def __str__(self) -> str:
        return f"send {len(self.data)} bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class BannerCheck:
    """A dialogue of lines; success is its end."""

    steps: tuple[Expect | Send, ...]
    port: int | None = None
    tls: Tls | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyslogCheck:
    """Syslog over TCP or TLS: a connection that is opened and closed in order, without a message."""

    port: int | None = None
    tls: Tls | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyslogCanaryCheck:
    """Syslog over UDP: one message with a token, which must be seen again within the timeout.

    Seen where: in what a TCP port of the real server sends, or in a file of this node. One of the two is set.
    """

    port: int | None = None
    proof_port: int | None = None
    proof_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RelpCheck:
    """RELP: a session that is opened and closed in order, without a message."""

    port: int | None = None
    tls: Tls | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsCheck:
    """One question; success is `rcode`, and each of `answer` among the records of that type."""

    name: str
    record: str = "A"
    rcode: str = "NOERROR"
    answer: tuple[str, ...] = ()  # as the DNS writes them, canonical
    tcp: bool = False
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcCheck:
    """The standard health service; success is SERVING. `service` empty: the server as a whole."""

    service: str = ""
    authority: str | None = None  # None: address and port
    port: int | None = None
    tls: Tls | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IcmpCheck:
    """One echo. It knows no port."""


AimedKind: TypeAlias = (
    TcpVipCheck | UdpCheck | BannerCheck | SyslogCheck | SyslogCanaryCheck | RelpCheck | DnsCheck | GrpcCheck
)
NetworkKind: TypeAlias = AimedKind | IcmpCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierCheck:
    """An interface of this node that is up and has a link."""

    interface: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayCheck:
    """The next hop of this node: it answers an echo, or its entry in the neighbor table is alive."""

    address: IPv4Address | IPv6Address | None = None  # None: of the default route
    family: int = 4  # of the default route
    interface: str | None = None  # of `address`
    by_neighbor: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCheck:
    """The load average per processor is at most `most`."""

    most: float
    minutes: int = 1  # 1, 5 or 15


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCheck:
    """At least so much memory is available, in bytes, or in percent of all."""

    free: int | None = None
    free_percent: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """A path of this node exists, or does not."""

    path: str
    present: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class IpvsConnectionsCheck:
    """IPVS holds at most so many connections, or so many for each hundred rows of its table."""

    most: int | None = None
    most_percent: int | None = None


NodeKind: TypeAlias = CarrierCheck | GatewayCheck | LoadCheck | MemoryCheck | FileCheck | IpvsConnectionsCheck


@dataclass(frozen=True, slots=True)
class BgpSession:
    """A BGP session of this node that is established. It is not probed: plugins tell of it."""

    neighbor: IPv4Address | IPv6Address | None = None  # None: any one

    def __str__(self) -> str:
        return f"bgp {self.neighbor or 'any neighbor'}"
