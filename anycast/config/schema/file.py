"""The file and its sections. Their descriptions are the reference of the format."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, TypeAlias, get_args

from pydantic import ConfigDict, WrapValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from anycast.config.schema import scalars as of
from anycast.config.schema.checks import Check, CheckReference, Require
from anycast.config.schema.part import Alone, Part, entry, or_text, part, settings
from anycast.config.schema.scalars import choice
from anycast.core.values import configuration as model
from anycast.core.values.configuration import (
    Address,
    Forwarding,
    Protocol,
    Scheduler,
    SchedulerFlag,
    TunnelType,
)


class _Tunnel(Part):
    ALONE = Alone("type")


class _Persistence(Part):
    ALONE = Alone("timeout")


if TYPE_CHECKING:

    class Node(Part):
        name: str | None = None
        require: Require = entry("", [])

    Timing: TypeAlias = Part
    Timeouts: TypeAlias = Part
    ConnectionSync: TypeAlias = Part
    Tunnel: TypeAlias = Part
    Persistence: TypeAlias = Part
else:
    _REQUIRE = entry("Checks that must hold for any VIP to be announced: names, or checks.", [])
    Node = part(model.Node, first=settings(model.Node) | {"require": (Require, _REQUIRE)})
    Timing = part(model.Timing)
    Timeouts = part(model.Timeouts)
    ConnectionSync = part(model.ConnectionSync)
    Tunnel = part(model.Tunnel, _Tunnel)
    Persistence = part(model.Persistence, _Persistence)


class NextHop(Part):
    """Next hops of the announced routes. Needed where a session carries the other address family."""

    ipv4: of.Address4 | None = entry("Next hop of IPv4 VIPs. Default: the session's local address.")
    ipv6: of.Address6 | None = entry("Next hop of IPv6 VIPs. Default: the session's local address.")


class Bfd(Part):
    """Bidirectional forwarding detection: a dead node is noticed in a fraction of a second. true alone is enough.

    ExaBGP has none: FRR's bfdd runs beside it (`anycast render frr-bfd`), and the routers need it too
    (`anycast render router-frr`). For routers on the node's own links.
    """

    ALONE = Alone(
        "enabled",
        bool,
        "a way to speak BFD",
        "write true, false, or a mapping such as {interval: 100ms, multiplier: 3}",
    )

    interval: of.BfdInterval | None = entry(
        "How often each end sends a packet. Whole milliseconds, 50ms to 60s. Default: 100ms; of a neighbor: that of "
        "`bgp.bfd`.",
        shown="100ms",
    )
    multiplier: of.Multiplier | None = entry(
        "After this many lost packets in a row the other end counts as dead. Default: 3; of a neighbor: that of "
        "`bgp.bfd`.",
        shown=3,
    )
    enabled: of.Flag = entry("false: none. `false` alone says the same.", True)


BfdOption = Annotated[Bfd, or_text({"type": "boolean"})]


class Neighbor(Part):
    """A BGP router this node announces to."""

    REQUIRED = ("address", "remote_as")

    address: of.AnyAddress | None = entry("The router's address. Its family is the session's.")
    remote_as: of.AsNumber | None = entry("The router's AS number.")
    local_address: of.AnyAddress | None = entry(
        "This node's address in the session. Default with IPv4: `bgp.router_id`. Required with IPv6."
    )
    families: list[of.Version] | None = entry(
        "Families of the routes carried. Default: the session's own. The other one needs `bgp.next_hop`."
    )
    password: of.Password | None = entry(
        "TCP MD5 password. Printable ASCII, no quotes, backslash, semicolon or space."
    )
    passive: of.Flag = entry("true: wait for the router to connect.", False)
    bfd: BfdOption | None = entry(
        "BFD with this neighbor: true, false, or settings of its own. Default: as `bgp.bfd`."
    )


class Bgp(Part):
    """The BGP side, which ExaBGP implements."""

    REQUIRED = ("local_as", "neighbors")

    local_as: of.AsNumber | None = entry("This node's AS number.")
    router_id: of.Address4 | None = entry("Default: the first IPv4 `local_address` of a neighbor.")
    hold_time: of.HoldTime = entry(
        "Seconds of silence after which a router drops the routes of a dead node. Not 0: the routes would "
        "outlive the node.",
        9,
    )
    bfd: BfdOption | None = entry("BFD with every neighbor that does not say otherwise. Default: none.")
    next_hop: NextHop = entry("Next hops, if the node's own address in the session is not right.", NextHop())
    neighbors: list[Neighbor] | None = entry("The routers.")


class Server(Part):
    """A real server. The address alone is enough."""

    ALONE = Alone("address", str, "a server", "write its address, or a mapping with address")

    name: of.Name | None = entry("Default: the first address.")
    address: of.AnyAddress | None = entry("Its address, if it has one.")
    addresses: list[of.AnyAddress] | None = entry("Its addresses: at most one of each family.")
    weight: of.Weight = entry(
        "Its share of the new connections. 0: drained, it keeps those it has. With `scheduler: mh` keep them equal, "
        "or small: another weight moves flows between all the real servers, and weights without a large common "
        "divisor are rounded until some of many servers get nothing. `anycast check` tells how much.",
        1,
    )
    port: of.Port | None = entry(
        "Default: the service's port, which is the only choice with `forwarding: dr` and `tunnel`. With a firewall "
        "mark: the port the packet was sent to."
    )
    upper_threshold: of.Connections = entry(
        "With as many connections as this it gets no new ones. 0: no limit. Each balancer counts its own "
        "connections, so with `scheduler: mh` a server that is full on one of them only is chosen on the others.",
        0,
    )
    lower_threshold: of.Connections = entry(
        "With fewer connections than this it gets new ones again. 0: three quarters of `upper_threshold`.", 0
    )


class Plain(NamedTuple):
    """A real server of which all is right, as `Server` has it. There are tens of thousands."""

    address: Address | None = None
    addresses: list[Address] | None = None
    name: str | None = None
    weight: int = 1
    port: int | None = None
    upper_threshold: int = 0
    lower_threshold: int = 0


def _scalar_of(field: FieldInfo) -> Callable[[Any], Any] | None:
    """How its values are read, if it has plain ones."""
    kinds = [*field.metadata, *(more for kind in get_args(field.annotation) for more in get_args(kind))]
    return next((kind.parse for kind in kinds if isinstance(kind, of.Scalar)), None)


_PLAIN = {name: parse for name in Plain._fields if (parse := _scalar_of(Server.model_fields[name]))}
_parse_address = _PLAIN["address"]


def _plain(value: Any, validated: Callable[[Any], Server]) -> Any:
    """Most are right: then they are read here. What is wrong with the others, the schema says."""
    try:
        if type(value) is str:
            return Plain(_parse_address(value))
        fields = {name: _PLAIN[name](one) for name, one in value.items() if name != "addresses"}
        if type(addresses := value.get("addresses")) is list:
            fields["addresses"] = [_parse_address(one) for one in addresses]
        elif "addresses" in value:
            return validated(value)
        return Plain(**fields)
    except (PydanticCustomError, KeyError, TypeError, AttributeError):
        return validated(value)


Servers = list[Annotated[Server, WrapValidator(_plain), or_text(of.IP_TEXT)]]


class Pool(Part):
    """Real servers that serve the same."""

    REQUIRED = ("servers",)

    check: CheckReference | None = entry(
        "A name from `checks`, or a check. Default: tcp on the port the server is served on."
    )
    servers: Servers | None = entry("The real servers.")


class Quorum(Part):
    """Usable real servers of each address family a VIP needs; numbers, or shares such as `50%`."""

    low: of.QuorumNumber = entry("With fewer than this an announced VIP is withdrawn.", 1)
    high: of.QuorumNumber | None = entry("With at least this many the VIP is announced. Default: `low`.")


class Serving(Part):
    """What a service and a VIP of one service have in common."""

    protocol: Annotated[Protocol, choice(list(Protocol), Protocol)] = entry(
        "The transport protocol. With udp and sctp a check must be written: the default one, a TCP handshake, says "
        "nothing of them.",
        Protocol.TCP,
    )
    mark: of.Mark | None = entry(
        "Instead of port and protocol: packets to this VIP that nftables has given this firewall mark are served, "
        "whatever their protocol and port. The rules are yours to write, in prerouting, as in `ip daddr 192.0.2.1 "
        "tcp dport {80, 443} meta mark set 7`. A client comes to one real server for all of them with `persistence`, "
        "or with mh and `flags: [mh-fallback]`. The check needs a port of its own, or is a command (ANYCAST_PORT is "
        "0 for it). VIPs of one address family cannot share a mark."
    )
    pool: of.Name | None = entry("A name from `pools`.")
    check: CheckReference | None = entry("Overrides the pool's check here. A name from `checks`, or a check.")
    scheduler: Annotated[Scheduler, choice(list(Scheduler), Scheduler)] = entry(
        "How IPVS chooses a real server. Only `mh` chooses alike on every node, so that a connection survives the "
        "loss of its balancer.",
        Scheduler.MH,
    )
    flags: list[Annotated[SchedulerFlag, choice(list(SchedulerFlag), SchedulerFlag)]] | None = entry(
        "Flags of the scheduler. Default with `mh`: [mh-port, mh-fallback]."
    )
    forwarding: Annotated[Forwarding, choice(list(Forwarding), Forwarding)] = entry(
        "How a packet reaches the real server. dr: direct routing, on the same link. nat: masquerading, the answer "
        "comes back through this balancer. tunnel: wrapped (`tunnel`), over any network; a real server without an "
        "address of the packet's family is then reached at its other one.",
        Forwarding.DR,
    )
    tunnel: (
        Annotated[Tunnel, or_text({"enum": [kind for kind in TunnelType if kind is not TunnelType.GUE]})]
        | None
    ) = entry("With `forwarding: tunnel`: the encapsulation. Default: ipip. The real servers must remove it.")
    one_packet: of.Flag | None = entry(
        "UDP: every packet is scheduled by itself, and no connection is kept. Default: true for udp with "
        "`forwarding: dr` or `tunnel` and without `persistence`, else false. false: a client that always sends from "
        "the same port stays with its real server until it pauses for `timeouts.udp`."
    )
    persistence: Annotated[Persistence, or_text(of.PERSISTENCE_TIMEOUT.schema)] | None = entry(
        "Whether a client stays with its real server. Default: it does not."
    )
    expire_failed: of.Expiry | None = entry(
        "When a real server has failed for this long its connections are ended, so that the clients come to another "
        "one; the kernel alone would keep them there for as long as the client sends. 0 to 24h, or never. Default: "
        "60s, with udp 0."
    )
    quorum: Quorum = entry("How many usable real servers the VIP needs.", Quorum())


class Service(Serving):
    """One protocol and port of a VIP, or a firewall mark."""

    REQUIRED = ("pool",)
    ONE_OF = ("port", "mark")

    port: of.Port | None = entry("The port that is served.")
    require: Require = entry(
        "Checks of the service as a whole that must hold for the VIP to be announced.", []
    )


class Vip(Serving):
    """A virtual IP: addresses that are announced and withdrawn together. With one pool, no `services` are needed."""

    address: of.AnyAddress | None = entry("The address, if there is one.")
    addresses: list[of.AnyAddress] | None = entry("The addresses.")
    med: of.Med | None = entry("Multi-exit discriminator. Compared only between nodes of one AS.")
    communities: list[of.Community] = entry('Communities, as "65000:100".', [])
    large_communities: list[of.LargeCommunity] = entry('Large communities, as "65000:1:2".', [])
    port: of.Port | None = entry("The port that is served.")
    ports: list[of.Port] | None = entry("The ports, if there are several.")
    servers: Servers | None = entry("A pool of this VIP's own, named as the VIP.")
    services: list[Service] | None = entry("The services, where they differ in more than the port.")
    require: Require = entry("Checks that must hold for the VIP to be announced.", [])

    ONE_SERVICE: ClassVar[frozenset[str]] = frozenset(Serving.model_fields) | {"port", "ports", "servers"}


class Hook(Part):
    """A hook that gets this node's events: a command or a webhook."""

    ONE_OF = ("argv", "url")

    argv: list[of.Argument] | None = entry(
        "A program, by its absolute path, and its arguments. There is no shell. It gets JSON on its standard input "
        "and finds ANYCAST_VIP, ANYCAST_REASON and others in its environment."
    )
    url: of.Url | None = entry(
        "Where the same JSON is sent by POST, https or http. Logs and differences show only the host, for the "
        "rest may be a secret."
    )
    token_file: of.FileName | None = entry(
        "File with a token for `Authorization: Bearer`, read anew for each run."
    )
    token_env: of.Variable | None = entry("The same, in a variable of the agent's environment.")
    secret_file: of.FileName | None = entry(
        "File with a key. The header X-Anycast-Signature is then `sha256=` and the HMAC of the body in hex."
    )
    secret_env: of.Variable | None = entry("The same, in a variable of the agent's environment.")
    headers: dict[of.HeaderName, of.HeaderValue] = entry(
        "More headers. Never shown in logs and differences, for they may hold secrets.", {}
    )
    ca: of.FileName | None = entry("PEM file with the certificates to trust. Default: the system's.")
    retries: of.Retries | None = entry("How often a webhook that does not answer is asked again. Default: 4.")
    events: list[of.Events] | None = entry(
        "Which events it gets: names, or all of a kind as in `maintenance.*`. Default: [vip.verdict_changed]."
    )
    timeout: of.HookTimeout = entry(
        "After this time a run is ended: the program is killed with all its children, or the request is dropped.",
        10.0,
        shown="10s",
    )
    limit: of.Runs = entry(
        "Runs in `per`. Beyond that only the newest event of each VIP waits, with the number of those it replaces.",
        20,
    )
    per: of.HookPeriod = entry("The time that `limit` is for.", 60.0, shown="1m")


class File(Part):
    """The configuration of an anycast node.

    Files in `conf.d` beside it may hold `checks`, `pools` and `vips`.
    """

    REQUIRED = ("bgp",)
    model_config = ConfigDict(title="anycast")

    version: of.FormatVersion = entry("The version of this format.", 1)
    node: Node = entry("This machine.", Node())
    ipvs: Annotated[str, choice(["shared", "exclusive"])] = entry(
        "exclusive: IPVS services that are not in this configuration are removed.", "shared"
    )
    sysctls: Annotated[str, choice(["manage", "check"])] = entry(
        "manage: kernel settings that IPVS needs are set. check: they are only reported.", "manage"
    )
    timing: Timing = entry("How long things may take.", Timing())
    timeouts: Timeouts | None = entry("IPVS timeouts. Default: the kernel's are left as they are.")
    connection_sync: ConnectionSync | None = entry(
        "Exchange of connections between the balancers. Default: none."
    )
    bgp: Bgp | None = entry("The BGP side.")
    hooks: dict[str, Hook] = entry("Hooks that get this node's events, by name; 16 at most.", {})
    checks: dict[str, Check] = entry("Checks, by name.", {})
    pools: dict[str, Pool] = entry("Pools of real servers, by name.", {})
    vips: dict[str, Vip] = entry("Virtual IPs, by name.", {})
