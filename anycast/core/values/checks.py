"""What can be checked: a class for each kind. Each is the one description of its kind; times are in seconds.

A new kind is a class in here, in `KINDS`, and the module of `anycast.probes` that its `PROBE` names. Where the file
writes it in another form than the class has, `anycast.config.schema.checks` has that form; what must fit together in
it is judged in `anycast.config.assemble.kinds`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, ClassVar, Literal, Self

from anycast.core.hooks import Secret
from anycast.core.values import described as of
from anycast.core.values.described import Doc, Percent, setting


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of check. `TYPE`: its name in the configuration, and of the module of `anycast.probes` that runs it.

    `PROBE`: that module, or the function in it, where the name is another one. "sweep", "programs": many of them are run
    at once.

    `CONNECTS`: over TCP, to the server's own address.
    """

    TYPE: ClassVar[str]
    PROBE: ClassVar[str] = ""
    CONNECTS: ClassVar[bool] = False

    @property
    def type(self) -> str:
        """Its name in messages and metrics."""
        return self.TYPE


class AimedKind(Kind):
    """Looks at a port. None: the port the real server is served on."""

    __slots__ = ()
    port: int | None

    def at(self, port: int | None) -> Self:
        return replace(self, port=port)  # type: ignore[call-arg]  # each of them has the field


class NodeKind(Kind):
    """Looks at this node."""

    __slots__ = ()
    PROBE: ClassVar[str] = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFields:
    verify: bool = setting(
        "false: any certificate is accepted. Otherwise it must be valid for the server name.", True
    )
    sni: of.ServerName | None = setting("TLS server name. Default: the address.", None)
    ca: of.FileName | None = setting("PEM file with the certificates to trust. Default: the system's.", None)
    certificate: of.FileName | None = setting(
        "PEM file with the client's certificate. Read again when it is replaced.", None
    )
    key: of.FileName | None = setting(
        "PEM file with its key, without a password. Default: in `certificate`.", None
    )
    expiry_warning: of.Lifetime | None = setting(
        "Warn when the server's certificate is good for less than this, as in 14d. The check still succeeds.",
        None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls(TlsFields):
    """The settings of TLS. `true` alone is enough."""

    def __str__(self) -> str:
        words = [f"for {self.sni}"] if self.sni else []
        words += [] if self.verify else ["without verifying"]
        files = (("ca", self.ca), ("certificate", self.certificate), ("key", self.key))
        words += [f"{name} {file}" for name, file in files if file]
        words += [] if self.expiry_warning is None else [f"warning {self.expiry_warning:g}s before expiry"]
        return " ".join(words) or "true"


SPEAK_TLS = "Speak TLS. Default: plain."


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpCheck(AimedKind):
    """A completed TCP handshake is success."""

    TYPE: ClassVar[str] = "tcp"
    PROBE: ClassVar[str] = "sweep"
    CONNECTS: ClassVar[bool] = True
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpQuietCheck(AimedKind):
    """A TCP connection that the server leaves open for so long is success."""

    TYPE: ClassVar[str] = "tcp"
    PROBE: ClassVar[str] = "closes"
    CONNECTS: ClassVar[bool] = True
    quiet: float
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleCheck(AimedKind):
    """A TCP connection that stays open is success. While it does, nothing else is asked of the server."""

    TYPE: ClassVar[str] = "idle"
    CONNECTS: ClassVar[bool] = True
    port: int | None = None


SILENT = 3
"""Signs of life in a row that are not answered, after which a connection counts as dead."""


def keepalive(interval: float) -> tuple[int, int]:
    """Of an idle check: seconds until its connection is asked for a sign of life, and between two that are not answered."""
    first = max(1, math.ceil(interval))
    return first, max(1, min(10, first // 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCheck(TlsFields, AimedKind):
    """One HTTP/1.1 request; a status that is expected is success."""

    TYPE: ClassVar[str] = "http"
    PROBE: ClassVar[str] = "sweep"
    CONNECTS: ClassVar[bool] = True
    tls: bool  # https
    port: int | None = None
    sni: of.ServerName | None = setting("TLS server name. Default: `host`.", None)
    method: of.HttpMethod = setting("The request's method.", "GET")
    path: of.HttpPath = setting("The request's path, with a query if one is needed.", "/")
    host: of.HostName | None = setting(
        "Host header and TLS server name. Default: the real server's address.", None
    )
    headers: tuple[tuple[of.HeaderName, of.HeaderValue], ...] = setting(
        "More headers. Never shown in logs and differences, for they may hold secrets.", (), repr=False
    )
    headers_file: of.FileName | None = setting(
        "File with more headers, one `Name: value` a line. Read again when it is replaced.", None
    )
    headers_env: of.Variable | None = setting("The same, in a variable of the agent's environment.", None)
    token_file: of.FileName | None = setting(
        "File with a token for `Authorization: Bearer`. Read again when it is replaced.", None
    )
    token_env: of.Variable | None = setting("The same, in a variable of the agent's environment.", None)
    expect: frozenset[of.Status] = setting(
        'Statuses that are success. Default: ["2xx"].', frozenset(range(200, 300))
    )
    body: of.Expression | None = setting(
        "Regular expression (RE2) to be found in the first 64 KiB of the body. Default: the body is not waited for.",
        None,
    )
    keep_alive: bool = setting(
        "true: runs share a connection, for a minute at most. Cheaper for both ends; but only a fresh connection "
        "proves that the server still accepts one.",
        False,
    )

    @property
    def type(self) -> str:
        return "https" if self.tls else self.TYPE

    @property
    def secrets(self) -> tuple[Secret | None, Secret | None]:
        """Where a token and more headers are kept."""
        return _kept(self.token_file, self.token_env), _kept(self.headers_file, self.headers_env)

    @property
    def tls_settings(self) -> Tls | None:
        if not self.tls:
            return None
        return Tls(**{field.name: getattr(self, field.name) for field in fields(Tls)})


def _kept(file: str | None, variable: str | None) -> Secret | None:
    return Secret(file=file or "", variable=variable or "") if file or variable else None


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpCheck(AimedKind):
    """One datagram. The expected reply is success; where none is expected, no ICMP unreachable is."""

    TYPE: ClassVar[str] = "udp"
    PROBE: ClassVar[str] = "datagram"
    port: int | None = None
    send: bytes = field(default=b"", repr=False)  # may hold a secret
    expect: str | None = None  # regular expression (RE2) to be found in the reply
    prefix: bytes = b""  # how the reply must begin
    quiet: float = 0.2  # with no reply expected: how long an ICMP unreachable is waited for

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
class BannerCheck(AimedKind):
    """A dialogue of lines, as in SMTP or IMAP. It succeeds when the last step has."""

    TYPE: ClassVar[str] = "banner"
    CONNECTS: ClassVar[bool] = True
    steps: tuple[Expect | Send, ...]
    port: int | None = None
    tls: Tls | None = setting(SPEAK_TLS, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyslogCheck(AimedKind):
    """Over TCP: a connection is opened and closed, without a message. Over UDP: a message is sent and looked for."""

    TYPE: ClassVar[str] = "syslog"
    CONNECTS: ClassVar[bool] = True
    port: int | None = None
    tls: Tls | None = setting(SPEAK_TLS, None)
    quiet: float = 0.2  # how long the server must leave the connection open


@dataclass(frozen=True, slots=True, kw_only=True)
class SyslogCanaryCheck(AimedKind):
    """Syslog over UDP: one message with a token, which must be seen again within the timeout.

    Seen where: in what a TCP port of the real server sends, or in a file of this node. One of the two is set.
    """

    TYPE: ClassVar[str] = "syslog"
    PROBE: ClassVar[str] = "syslog.canary"
    port: int | None = None
    proof_port: int | None = None
    proof_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RelpCheck(AimedKind):
    """A RELP session is opened and closed, without a message."""

    TYPE: ClassVar[str] = "relp"
    CONNECTS: ClassVar[bool] = True
    port: int | None = None
    tls: Tls | None = setting(SPEAK_TLS, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsCheck(AimedKind):
    """One question to the server itself."""

    TYPE: ClassVar[str] = "dns"
    CONNECTS: ClassVar[bool] = True
    port: int | None = None
    name: Annotated[of.Domain, Doc("The name that is asked for.", write="write the name to ask for")]
    record: of.RecordType = setting("The record type, as in A, AAAA, MX, SOA or TXT.", "A")
    rcode: of.Rcode = setting("The expected rcode.", "NOERROR")
    answer: tuple[of.Argument, ...] = setting(
        "Records that must be in the answer, as a zone file writes them. Default: the rcode alone decides.",
        (),
    )
    transport: Literal["udp", "tcp"] | None = setting(
        "How the question is sent. Default: as the service's packets, over tcp for a TCP service and else over udp.",
        None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcCheck(AimedKind):
    """The standard gRPC health service (grpc.health.v1). SERVING is success."""

    TYPE: ClassVar[str] = "grpc"
    CONNECTS: ClassVar[bool] = True
    port: int | None = None
    service: of.ServiceName = setting("The service asked about. Default: the server as a whole.", "")
    authority: of.ServerName | None = setting(
        "The :authority, and the TLS server name. Default: address and port.", None
    )
    tls: Tls | None = setting("Speak TLS. Default: plain HTTP/2.", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IcmpCheck(Kind):
    """An echo that comes back is success."""

    TYPE: ClassVar[str] = "icmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCheck(Kind):
    """A program that exits with 0 is success. It finds ANYCAST_ADDRESS and ANYCAST_PORT in its environment."""

    TYPE: ClassVar[str] = "command"
    PROBE: ClassVar[str] = "programs"
    argv: Annotated[
        tuple[of.Argument, ...],
        Doc(
            "The program, by its absolute path, and its arguments. There is no shell.",
            lacks="there is no program",
            write="write [/path/of/program, argument]",
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierCheck(NodeKind):
    """An interface of this node that is up and has a link."""

    TYPE: ClassVar[str] = "carrier"
    interface: Annotated[of.Interface, Doc("The interface.", write="write the interface")]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayCheck(NodeKind):
    """The next hop of this node."""

    TYPE: ClassVar[str] = "gateway"
    address: of.AnyAddress | None = setting("Default: the default route's next hop.", None)
    family: of.Version = setting("Of the default route, where there is no `address`.", 4, shown="ipv4")
    by: Literal["ping", "neighbor"] = setting(
        "neighbor: its entry in the neighbor table must be alive. For gateways that answer no echo; a dead one "
        "is noticed some seconds later.",
        "ping",
    )
    interface: of.Interface | None = setting("Where `address` is, with `by: neighbor`.", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCheck(NodeKind):
    """The load average per processor."""

    TYPE: ClassVar[str] = "load"
    max: Annotated[
        of.Load,
        Doc("The highest load average that is fine, per processor.", write="write the load that is fine"),
    ]
    minutes: of.Minutes = setting("Averaged over 1, 5 or 15 minutes.", 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCheck(NodeKind):
    """The memory that is available."""

    TYPE: ClassVar[str] = "memory"
    min_free: Annotated[
        of.Memory, Doc("How much must be available, as in 256MiB, 1GiB or 5%.", write="write it as in 256MiB")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck(NodeKind):
    """A path on this node that exists, or does not."""

    TYPE: ClassVar[str] = "file"
    path: Annotated[of.FileName, Doc("The path.", write="write the path")]
    present: bool = setting("false: it must not exist.", True)


@dataclass(frozen=True, slots=True, kw_only=True)
class IpvsConnectionsCheck(NodeKind):
    """How full IPVS's table of connections is."""

    TYPE: ClassVar[str] = "ipvs_connections"
    max: Annotated[
        of.Fill,
        Doc(
            "The highest number of connections that is fine, or a percentage of the rows of the table, as in 200%.",
            write="write a number of connections",
        ),
    ]
    limit: of.Share = setting(
        "The highest share of net.ipv4.vs.conn_max that is fine too, where the kernel has it (Linux 7.2). Beyond it the "
        "kernel drops new and moved connections in silence.",
        Percent(90),
        shown="90%",
    )


KINDS: tuple[type[Kind], ...] = (
    TcpCheck,
    TcpQuietCheck,
    IdleCheck,
    HttpCheck,
    UdpCheck,
    BannerCheck,
    SyslogCheck,
    SyslogCanaryCheck,
    RelpCheck,
    DnsCheck,
    GrpcCheck,
    IcmpCheck,
    CommandCheck,
    CarrierCheck,
    GatewayCheck,
    LoadCheck,
    MemoryCheck,
    FileCheck,
    IpvsConnectionsCheck,
)


@dataclass(frozen=True, slots=True)
class BgpSession:
    """A BGP session of this node that is established. It is not probed: plugins report it."""

    neighbor: of.AnyAddress | None = None  # None: any one

    def __str__(self) -> str:
        return f"bgp {self.neighbor or 'any neighbor'}"
