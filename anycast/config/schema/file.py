"""The file and its sections. Their descriptions are the reference of the format."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, TypeAlias, get_args, get_type_hints

from pydantic import BeforeValidator, ConfigDict, WrapValidator, create_model, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from anycast.config.schema import scalars as of
from anycast.config.schema.checks import Check, CheckReference, Require
from anycast.config.schema.part import Alone, Part, entry, or_text, part, settings
from anycast.config.schema.scalars import choice, wrong
from anycast.core.fleet.values import Capacity as CapacityOfNode
from anycast.core.names import nearest
from anycast.core.values import configuration as model
from anycast.core.values import fleet as others
from anycast.core.values import speaker as who
from anycast.core.values.configuration import (
    ROUTE_ATTRIBUTES,
    Address,
    Forwarding,
    Needs,
    Origin,
    Protocol,
    Role,
    Scheduler,
    SchedulerFlag,
    TunnelType,
    WhenUnhealthy,
)


class _Tunnel(Part):
    ALONE = Alone("type")


class _Persistence(Part):
    ALONE = Alone("timeout", true=True)


class _Node(Part):
    ALONE = Alone("name", str, "a node", "write its name, or a mapping such as {name: lb1}")


class _ConnectionSync(Part):
    ALONE = Alone("interface", str, "connection sync", "write its interface, or a mapping with interface")


class _Speaker(Part):
    ALONE = Alone("type", str, "a speaker", "write exabgp, or {type: kernel-table, table: 1179}")


class _Velocity(Part):
    ALONE = Alone("nodes", (int, str), "a velocity", "write a number of nodes, or {percent: 40%, window: 1m}")


class _Etcd(Part):
    ALONE = Alone("endpoints", (str, list), "etcd", "write its members, as in https://10.0.0.1:2379")

    password_file: of.FileName | None = entry("File with the user's password.")
    password_env: of.Variable | None = entry("The same, in a variable of the agent's environment.")


class _Fleet(Part):
    ALONE = Alone("view", str, "a fleet", "write peers, etcd or none, or a mapping")

    token_file: of.FileName | None = entry(
        "File with a token, one word, the same on all nodes: who asks here without it gets nothing. Read again when it is "
        "replaced."
    )
    token_env: of.Variable | None = entry("The same, in a variable of the agent's environment.")


if TYPE_CHECKING:

    class Node(Part):
        name: str | None = None
        require: Require = entry("", [])

    Timing: TypeAlias = Part
    Timeouts: TypeAlias = Part
    ConnectionSync: TypeAlias = Part
    Tunnel: TypeAlias = Part
    Persistence: TypeAlias = Part
    Speaker: TypeAlias = Part
    FleetTls: TypeAlias = Part
    Capacity: TypeAlias = Part

    class Etcd(Part):
        endpoints: list[str] = entry("", [])
        user: str | None = None
        password_file: str | None = None
        password_env: str | None = None
        tls: FleetTls | None = None

    class Velocity(Part):
        nodes: int | None = None
        percent: object | None = None

    class Fleet(Part):
        view: others.FleetView = others.FleetView.PEERS
        listen: str | None = None
        token_file: str | None = None
        token_env: str | None = None
        tls: FleetTls | None = None
        etcd: Etcd | None = None
        velocity: Velocity | None = None
        max_out: int = 1
        min_announcing: int = 1
        capacity: Capacity | None = None

else:
    _REQUIRE = entry("Checks that must hold for any VIP to be announced: names, or checks.", [])
    Node = part(model.Node, _Node, first=settings(model.Node) | {"require": (Require, _REQUIRE)})
    Timing = part(model.Timing)
    Timeouts = part(model.Timeouts)
    ConnectionSync = part(model.ConnectionSync, _ConnectionSync)
    ConnectionSync.REQUIRED = ()  # `_required` says what is; with `nodes` it may be each node's own
    Tunnel = part(model.Tunnel, _Tunnel)
    Persistence = part(model.Persistence, _Persistence)
    part(who.Ospf).REQUIRED = ()
    Speaker = part(who.Speaker, _Speaker)
    FleetTls = part(others.Certificates, name="FleetTls")
    Etcd = part(others.Etcd, _Etcd)
    Velocity = part(others.Velocity, _Velocity)
    Capacity = part(CapacityOfNode)
    _OWN = {
        "listen": (
            of.Listen | None,
            entry(
                "Address and port at which the other nodes ask this one. Default: the router id, port 9645. Where it is every "
                "address, the others ask at the router id."
            ),
        ),
        "capacity": (Capacity | None, entry("What this node carries. Default: nobody has said.")),
    }
    Fleet = part(
        others.Fleet,
        _Fleet,
        first={
            **settings(
                others.Fleet, ("interval", "etcd", "max_out", "min_announcing", "velocity", "on_disagreement")
            ),
            "listen": _OWN["listen"],
            "tls": (
                FleetTls | None,
                entry(
                    "Speak TLS, each end with its certificate: `certificate`, `key` and `ca`. The others are known by their "
                    "address or their name in `nodes`, which stands in their certificate."
                ),
            ),
            "capacity": _OWN["capacity"],
        },
    )
    FleetOwn = create_model(
        "FleetOwn", __base__=Part, __doc__="What of `fleet` is different on this node.", **_OWN
    )


class NextHop(Part):
    """Next hops of the announced routes. Needed where a session carries the other address family.

    An address alone, or a list of two, is of its own family.
    """

    @model_validator(mode="before")
    @classmethod
    def _addresses(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return value
        hops = value if isinstance(value, list) else [value]
        found = {f"ipv{address.version}": hop for hop in hops if (address := of.any_address(hop))}
        if len(found) < len(hops):
            raise wrong("there are two next hops of one family", "write one address of each family")
        return found

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


class Export(Part):
    """What a router gets of some VIPs. What is not written here is as the VIP says.

    A name or a glob alone is `vips`.
    """

    ALONE = Alone(
        "vips", (str, list), "an export", "write the VIPs, as in `web` or `dns-*`, or a mapping with vips"
    )

    vips: list[of.VipPattern] = entry('Names of VIPs, and globs as in "dns-*"; "*": all.', [])
    med: of.Med | None = entry("As of a VIP.")
    communities: list[of.Community] | None = entry("As of a VIP, in the place of the VIP's own.")
    large_communities: list[of.LargeCommunity] | None = entry("As of a VIP, in the place of its own.")
    extended_communities: list[of.ExtendedCommunity] | None = entry("As of a VIP, in the place of its own.")
    as_path_prepend: of.Prepend | None = entry("As of a VIP.")
    local_preference: of.LocalPreference | None = entry("As of a VIP.")
    origin: Annotated[Origin, choice(list(Origin), Origin)] | None = entry("As of a VIP.")


class Neighbor(Part):
    """A BGP router this node announces to."""

    ALONE = Alone("address", str, "a neighbor", "write its address, or a mapping with address and remote_as")

    address: of.AnyAddress | None = entry("The router's address. Its family is the session's.")
    remote_as: of.AsNumber | None = entry("The router's AS number. Default: `bgp.remote_as`.")
    local_address: of.AnyAddress | None = entry(
        "This node's address in the session. Default: that of the family in `bgp.local_address`; with IPv4 else "
        "`bgp.router_id`. Required with IPv6."
    )
    families: list[of.Version] | None = entry(
        "Families of the routes carried. Default: the session's own. The other one needs `bgp.next_hop`."
    )
    password: of.Password | None = entry(
        "TCP MD5 password. Printable ASCII, no quotes, backslash, semicolon or space. Default: that of `bgp`."
    )
    password_file: of.FileName | None = entry(
        "File with the password. It is read when `anycast render` writes a configuration, and by nothing else."
    )
    password_env: of.Variable | None = entry(
        "The same, in a variable of the environment of `anycast render`."
    )
    passive: of.Flag = entry("true: wait for the router to connect.", False)
    bfd: BfdOption | None = entry(
        "BFD with this neighbor: true, false, or settings of its own. Default: as `bgp.bfd`."
    )
    port: of.Port = entry("The port that the router listens at.", 179)
    multihop: of.Hops | None = entry(
        "The router is not on a link of this node's: hops that packets may take to it, 2 to 255 (their TTL). Default: it is "
        "on a link."
    )
    ttl_security: of.TtlSecurity = entry(
        "true: packets are sent with a TTL of 255, and those that come with less are dropped, so nobody further away can "
        "disturb the session (GTSM, RFC 5082). A number: the router is so many hops away at the most. Both ends need it. "
        "In the place of `multihop`.",
        0,
        shown=False,
    )
    interface: of.Interface | None = entry(
        "This node's interface towards the router: where `address` and `local_address` are link-local."
    )
    remote_interface: of.Interface | None = entry(
        "The router's interface towards this node: of the same sessions, for `anycast render`."
    )
    extended_next_hop: of.Flag = entry(
        "true: IPv4 VIPs go to this router with an IPv6 next hop, over a session over IPv6 (RFC 8950): `bgp.next_hop.ipv6`, "
        "or this node's address in the session. A router that does not know it may end the session: see docs/routers.md.",
        False,
    )
    route_reflector: of.Flag = entry(
        "true: the router, of the same AS, reflects this node's routes to the others (RFC 4456). For `anycast render`.",
        False,
    )
    software: of.RouterSoftware | None = entry(
        "What the router runs: frr, bird, gobgp or openbgpd, with its version, as in `frr 10.3`. `anycast check` then "
        "warns of settings that do not work there, and `anycast render` writes what that version can do. Default: "
        "that of `bgp`."
    )
    export: list[Annotated[Export, or_text({"type": ["string", "array"]})]] | None = entry(
        "What this router gets, where not every router gets the same. Of the lines that name a VIP the first counts; a VIP "
        "that no line names is not announced to it. Default: every VIP as it says."
    )
    view: of.Flag | None = entry(
        "Whether this router sends back what it has of the VIPs. Default: as `bgp.view`."
    )


class Bgp(Part):
    """The BGP side, which ExaBGP implements, or the daemon that learns the table of `speaker`."""

    OF_NEIGHBORS: ClassVar[tuple[str, ...]] = (
        "remote_as",
        "password",
        "password_file",
        "password_env",
        "software",
    )

    local_as: of.AsNumber | None = entry(
        'This node\'s AS number, of two or four bytes; as in RFC 5396 too: "65000.1", in quotes.'
    )
    router_id: of.Address4 | None = entry("Default: the first IPv4 `local_address` of a neighbor.")
    hold_time: of.HoldTime = entry(
        "Seconds of silence after which a router drops the routes of a dead node. Not 0: the routes would "
        "outlive the node.",
        9,
    )
    bfd: BfdOption | None = entry("BFD with every neighbor that does not say otherwise. Default: none.")
    next_hop: Annotated[NextHop, or_text({"type": ["string", "array"]})] = entry(
        "Next hops, if the node's own address in the session is not right.", NextHop()
    )
    remote_as: of.AsNumber | None = entry("The AS number of every router that has none of its own.")
    local_address: list[of.AnyAddress] | None = entry(
        "This node's address in the sessions with routers that do not say otherwise, one of each family."
    )
    password: of.Password | None = entry("The TCP MD5 password of every router that has none of its own.")
    password_file: of.FileName | None = entry("The same in a file, as with a neighbor.")
    password_env: of.Variable | None = entry("The same in a variable of the environment, as with a neighbor.")
    software: of.RouterSoftware | None = entry("What every router runs that does not say otherwise.")
    view: of.Flag = entry(
        "true: the routers send back what they have of the VIPs (add-path), so that the node knows whether its announcement "
        "is there and how many other nodes' are. Both ends must be rendered again and loaded (`systemctl reload anycast-exabgp`).",
        False,
    )
    view_mark: of.ViewMark = entry(
        "The second number of the large community that tells whose path it is: `local_as:view_mark:router_id`, the router "
        "id as a number. It is on every path once there is a `view`, and the same on all nodes. 0 to 4294967295.",
        1179,
    )
    weight: of.NodeWeight | None = entry(
        "This node's share of the flows against that of the others, at routers that weigh by link bandwidth, as FRR does: 1 to "
        "1000, with all VIPs. On every node or on none: see docs/routers.md. Default: nothing is sent, all nodes are alike."
    )
    listen_port: of.Port = entry(
        "The port at which this node listens for the routers: another one where another BGP daemon of this node has 179.",
        179,
    )
    neighbors: list[Annotated[Neighbor, or_text(of.IP_TEXT)]] | None = entry(
        "The routers. An address alone is enough where `remote_as` is written once for all."
    )


_OF_SERVERS = frozenset(
    {"name", "address", "addresses", "weight", "port", "upper_threshold", "lower_threshold"}
)


def _are_names(value: dict[str, Any]) -> bool:
    """Keys that are no settings of a server's, nor slips of the pen."""
    if not value or not _OF_SERVERS.isdisjoint(value):
        return False
    return len(value) > 1 or nearest(next(iter(value)), _OF_SERVERS, 0.8) is None


def _by_name(value: Any) -> Any:
    """`{web1: 10.9.2.1, web2: {address: 10.9.2.2, weight: 2}}`: a mapping with no key of a server's is one of names."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not _are_names(value):
        return [value]
    return [_named(name, one) for name, one in value.items()]


def _named(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return value if "name" in value else {"name": name, **value}
    return {"name": name, "addresses" if isinstance(value, list) else "address": value}


class Server(Part):
    """A real server. The address alone is enough, also as `10.9.2.1:8080`; a list is its addresses."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {"addresses": value}
        if isinstance(value, str):
            value = {"address": value}
        if not isinstance(value, dict):
            raise of.unlike(value, "a server", "write its address, or a mapping with address")
        if len(value) == 1 and _are_names(value):
            value = next(_named(name, one) for name, one in value.items())
        return _with_lists(_with_port(value))

    name: of.Name | None = entry("Default: the first address.")
    address: Annotated[of.AnyAddress, or_text({"type": ["string", "array"]})] | None = entry(
        "Its address, if it has one; with forwarding: nat also as 10.9.2.1:8080."
    )
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
        "With as many connections as this it gets no new ones. 0: no limit. Closed TCP connections count until "
        "`timeouts.tcp_fin` has passed. Each balancer counts its own connections, so with `scheduler: mh` a server that "
        "is full on one of them only is chosen on the others; with `connection_sync` all count those of all.",
        0,
    )
    lower_threshold: of.Connections = entry(
        "With fewer connections than this it gets new ones again. 0: three quarters of `upper_threshold`.", 0
    )


def _with_lists(value: dict[str, Any]) -> dict[str, Any]:
    """Several addresses under `address`."""
    if isinstance(value.get("address"), list) and "addresses" not in value:
        addresses = value["address"]
        return {key: one for key, one in value.items() if key != "address"} | {"addresses": addresses}
    return value


_AND_PORT = re.compile(r"(\[[^\[\]]+\]|[0-9.]+):([0-9]{1,5})", re.ASCII)


def _with_port(value: dict[str, Any]) -> dict[str, Any]:
    """`10.9.2.1:8080` and `[fd00::1]:8080`."""
    address = value.get("address")
    match = _AND_PORT.fullmatch(address) if isinstance(address, str) and "port" not in value else None
    return value | {"address": match[1], "port": int(match[2])} if match else value


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


_Server = Annotated[
    Server, WrapValidator(_plain), or_text({"anyOf": [{"type": "string"}, {"type": "array"}]})
]
Servers = Annotated[list[_Server], BeforeValidator(_by_name), or_text({"type": ["string", "object"]})]


class Pool(Part):
    """Real servers that serve the same. The servers alone are enough."""

    REQUIRED = ("servers",)
    ALONE = Alone("servers", (list, str), "a pool", "write its servers in [], or a mapping with servers")

    check: CheckReference | None = entry(
        "A name from `checks`, or a check. Default: tcp on the port the server is served on."
    )
    servers: Servers | None = entry("The real servers.")


class Quorum(Part):
    """Usable real servers of each address family a VIP needs; numbers, or shares such as `50%`. One alone is `low`."""

    ALONE = Alone("low")

    low: of.QuorumNumber = entry("With fewer than this an announced VIP is withdrawn.", 1)
    high: of.QuorumNumber | None = entry("With at least this many the VIP is announced. Default: `low`.")


_ALSO_FORWARDING = {
    "masq": Forwarding.NAT,
    "masquerade": Forwarding.NAT,
    "masquerading": Forwarding.NAT,
    "direct": Forwarding.DR,
    "dsr": Forwarding.DR,
    "gate": Forwarding.DR,
    "gatewaying": Forwarding.DR,
    "tun": Forwarding.TUNNEL,
    "tunneling": Forwarding.TUNNEL,
}
"""The words of ipvsadm and keepalived."""


_PERSISTENCE = {"anyOf": [of.PERSISTENCE_TIMEOUT.schema, {"type": "boolean"}]}


def _or_none(value: Any, validated: Callable[[Any], Any]) -> Any:
    """`false` is kept: a service says so where its VIP says otherwise."""
    return False if of.truth(value) is False else validated(value)


class Serving(Part):
    """What a service and a VIP of one service have in common."""

    protocol: list[Annotated[Protocol, choice(list(Protocol), Protocol)]] | None = entry(
        "The transport protocol, or several. Default: tcp. With udp and sctp a check must be written: the default one, "
        "a TCP handshake, says nothing of them."
    )
    mark: of.Mark | None = entry(
        "Instead of port and protocol: packets to this VIP that nftables has given this firewall mark are served, "
        "whatever their protocol and port. The rules are yours to write, in prerouting, as in `ip daddr 192.0.2.1 "
        "tcp dport {80, 443} meta mark set 7`. A client comes to one real server for all of them with `persistence`, "
        "or with mh and `flags: [mh-fallback]`. The check needs a port of its own, or is a command (ANYCAST_PORT is "
        "0 for it). VIPs of one address family cannot share a mark."
    )
    pool: of.PoolName | None = entry("A name from `pools`.")
    check: CheckReference | None = entry("Overrides the pool's check here. A name from `checks`, or a check.")
    scheduler: Annotated[Scheduler, choice(list(Scheduler), Scheduler, also={"maglev": Scheduler.MH})] = (
        entry(
            "How IPVS chooses a real server. Only `mh` chooses alike on every node, so that a connection survives the "
            "loss of its balancer.",
            Scheduler.MH,
        )
    )
    flags: list[Annotated[SchedulerFlag, choice(list(SchedulerFlag), SchedulerFlag)]] | None = entry(
        "Flags of the scheduler. Default with `mh`: [mh-port, mh-fallback], with `persistence` [mh-fallback]; with `sh` "
        "[sh-fallback]. The fallback must be among them: it gives the new clients of a server that is down or drained "
        "another one, and without it they get none. Without mh-port a client comes to one real server whatever its port; "
        "on another port of the service it may be another one, for each port has a table of its own (a `mark` joins ports)."
    )
    forwarding: Annotated[Forwarding, choice(list(Forwarding), Forwarding, also=_ALSO_FORWARDING)] = entry(
        "How a packet reaches the real server. dr: direct routing, on the same link. nat: masquerading, the answer "
        "comes back through this balancer. tunnel: wrapped (`tunnel`), over any network; a real server without an "
        "address of the packet's family is then reached at its other one. Default: dr, with `tunnel` tunnel.",
        Forwarding.DR,
    )
    tunnel: Annotated[Tunnel, or_text({"enum": list(TunnelType)})] | None = entry(
        "With `forwarding: tunnel`: the encapsulation. Default: ipip. The real servers must remove it."
    )
    one_packet: of.Flag | None = entry(
        "UDP: every packet is scheduled by itself, and no connection is kept; with `persistence`, only which real "
        "server a client has. Default: true for udp with "
        "`forwarding: dr` or `tunnel` and without `persistence`, else false. false: a client that always sends from "
        "the same port stays with its real server until it pauses for `timeouts.udp`."
    )
    persistence: Annotated[Persistence, WrapValidator(_or_none), or_text(_PERSISTENCE)] | None = entry(
        "Whether a client stays with its real server, at each port for itself (a `mark` joins ports). false: it does "
        "not, whatever the VIP says. Default: it does not."
    )
    expire_failed: of.Expiry | None = entry(
        "When a real server has failed for this long its connections are ended, so that the clients come to another "
        "one; the kernel alone would keep them there for as long as the client sends. 0 to 24h, or never. Default: "
        "60s, with udp 0."
    )
    server_capacity: Capacity | None = entry(
        "What one real server of the service carries of what this node sends it. `anycast drain-server` is refused where the "
        "others would exceed `limit` of it then. Default: nobody has said."
    )
    quorum: Annotated[Quorum, or_text(of.QUORUM_NUMBER.schema)] = entry(
        "How many usable real servers the VIP needs. A number or a share alone is `low`.", Quorum()
    )
    sorry: of.PoolName | None = entry(
        "A name from `pools`: who gets new clients while the quorum of the service is lost, and no real server does. The route "
        "stays then, worse than that of a node that has the quorum. It has the pool's own check, and is no capacity. Its "
        "servers stand in the kernel's table with weight 0 otherwise."
    )
    local: of.Flag | None = entry(
        "true: this node itself serves the port, without IPVS: a program on it listens at the VIP's address. There is no "
        "pool then. The check is made at the VIP's own address and port, unless it has others; with `require`, a VIP "
        "needs no port, and a port that is not TCP no check. Default: false."
    )
    port: list[of.PortSet] | None = entry(
        "The port that is served: a number or a well-known name such as https, with /udp or /tcp behind it if it is "
        "not of `protocol`."
    )
    ports: list[of.PortSet] | None = entry("The ports, if there are several; 8000-8010 is a range.")


class Service(Serving):
    """A protocol and port of a VIP, several ports, or a firewall mark. A port alone is enough, as in 443 or 53/udp.

    What is not written here is as the VIP says.
    """

    ONE_OF = ("port", "ports", "mark")
    ALONE = Alone("port", (int, str), "a service", "write its port, or a mapping with port")

    servers: Servers | None = entry(
        "A pool of this service's own, named as the VIP and the first port, as in `web-443`."
    )
    require: Require = entry(
        "Checks of the service as a whole that must hold for the VIP to be announced.", []
    )


class Announce(Part):
    """A prefix that is announced in the place of the host routes of the VIP's addresses in it. It alone is enough."""

    ALONE = Alone(
        "prefix", str, "a prefix", "write it as in 192.0.2.0/24, or as {prefix: 192.0.2.0/24, needs: all}"
    )
    REQUIRED = ("prefix",)

    prefix: of.Network | None = entry("The prefix, which has an address of the VIP in it.")
    needs: Annotated[Needs, choice(list(Needs), Needs)] = entry(
        "Where several VIPs announce the prefix: any: it stays while one of them has nothing against it. all: it goes with the "
        "first that has. They must agree, and have the same role and attributes.",
        Needs.ANY,
    )


_ROLES = {"type": "object", "additionalProperties": {"enum": list(Role)}}
"""By node. A file is made that of one node before it is read (`anycast.config.fleet`)."""


class Vip(Serving):
    """A virtual IP: addresses that are announced and withdrawn together. With one pool, no `services` are needed.

    With `services`, the pool, check, scheduler and so on that are written here are those of every service that has
    no other.
    """

    @model_validator(mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return _with_lists(value) if isinstance(value, dict) else value

    address: Annotated[of.AnyAddress, or_text({"type": "array"})] | None = entry(
        "The address, if there is one."
    )
    addresses: list[of.AnyAddress] | None = entry("The addresses.")
    announce: list[Annotated[Announce, or_text({"type": "string"})]] = entry(
        "Prefixes that are announced in the place of host routes, as in 192.0.2.0/24: one that has an address of the VIP in it, "
        "for each family, say. The agent then keeps an unreachable route of it, for what comes for the rest of it. Default: the "
        "/32 or /128 of each address.",
        [],
    )
    role: Annotated[Role, choice(list(Role), Role), or_text(_ROLES)] = entry(
        "What this node is for the VIP, or, where there are `nodes`, what each is: {lb2: backup}. backup: routers use its path only while no primary announces the VIP, at once "
        "then, for they have it already. With routers of another AS that is as_path_prepend: 3 and med: 1000, with those "
        "of its own local_preference: 50, where nothing else is written. The other nodes have another role, or the same.",
        Role.PRIMARY,
    )
    med: of.Med | None = entry(
        "Multi-exit discriminator; the lower one is preferred. Compared only between nodes of one AS, and after the length "
        "of the AS path."
    )
    communities: list[of.Community] = entry('Communities, as "65000:100".', [])
    large_communities: list[of.LargeCommunity] = entry('Large communities, as "65000:1:2".', [])
    extended_communities: list[of.ExtendedCommunity] = entry(
        'Extended communities, as "target:65000:100", "origin:65000:100" or 0x and 16 digits.', []
    )
    as_path_prepend: of.Prepend | None = entry(
        "How often this node's AS stands in the AS path once more; the shorter path is preferred. 0 to 16. Not sent to "
        "routers of its own AS. Default: 0, of a backup 3."
    )
    local_preference: of.LocalPreference | None = entry(
        "The higher one is preferred, before everything else. Sent to routers of this node's own AS alone. Default: 100, of "
        "a backup 50."
    )
    origin: Annotated[Origin, choice(list(Origin), Origin)] | None = entry(
        "Origin of the route: igp, egp or incomplete; the first of these is preferred. Default: igp."
    )
    servers: Servers | None = entry("A pool of this VIP's own, named as the VIP.")
    services: list[Annotated[Service, or_text(of.PORTS_ALONE)]] | None = entry(
        "The services, where they differ in more than the port."
    )
    require: Require = entry("Checks that must hold for the VIP to be announced.", [])
    when_unhealthy: Annotated[WhenUnhealthy, choice(list(WhenUnhealthy), WhenUnhealthy)] = entry(
        "What becomes of the route when too few real servers are usable, or cannot be checked, and this node itself is well. "
        "last_resort: it stays, worse than that of any healthy node, so that a fault which all nodes see alike takes the VIP "
        "from nobody; while no server is usable, all that are not drained get clients.",
        WhenUnhealthy.WITHDRAW,
    )

    ONE_SERVICE: ClassVar[frozenset[str]] = frozenset(Serving.model_fields) | {"servers"}


class Hook(Part):
    """A hook that gets this node's events: a command or a webhook. A URL or a command alone is enough."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"url" if "://" in value else "argv": value}
        return {"argv": value} if isinstance(value, list) else value

    ONE_OF = ("argv", "url", "url_file", "url_env")

    argv: list[of.Argument] | None = entry(
        "A program, by its absolute path, and its arguments. There is no shell. It gets JSON on its standard input "
        "and finds ANYCAST_VIP, ANYCAST_REASON and others in its environment."
    )
    url: of.Url | None = entry(
        "Where the same JSON is sent by POST, https or http. Logs and differences show only the host, for the "
        "rest may be a secret."
    )
    url_file: of.FileName | None = entry("File with the URL, read anew for each run.")
    url_env: of.Variable | None = entry("The same, in a variable of the agent's environment.")
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
    headers_file: of.FileName | None = entry(
        "File with more headers, one `Name: value` a line, read anew for each run."
    )
    headers_env: of.Variable | None = entry("The same, in a variable of the agent's environment.")
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


_VIP: Mapping[str, Any] = get_type_hints(Vip, include_extras=True)


if TYPE_CHECKING:
    FleetMachine: TypeAlias = Part
    FleetOwn: TypeAlias = Part
    FleetVip: TypeAlias = Part
else:
    FleetMachine = part(
        model.Node,
        name="FleetMachine",
        doc="What of `node` is different on this node.",
        first={"require": (Require, _REQUIRE)},
        without=("name",),
    )
    FleetVip = create_model(
        "FleetVip",
        __base__=Part,
        __doc__="What of a VIP's route is different on this node.",
        role=(Annotated[Role | None, choice(list(Role), Role)], entry("What this node is for the VIP.")),
        **{name: (_VIP[name], entry("As of a VIP.")) for name in ROUTE_ATTRIBUTES},
    )


class FleetNode(Part):
    """What is different on this node. The address alone is its `bgp.router_id`; {}: nothing is."""

    node: FleetMachine = entry("What of `node` is different.", FleetMachine())
    speaker: Annotated[Speaker, or_text({"type": "string"})] | None = entry("What of `speaker` is different.")
    bgp: Bgp | None = entry("What of `bgp` is different. A list takes the place of the other list.")
    connection_sync: Annotated[ConnectionSync, or_text({"type": "string"})] | None = entry(
        "What of `connection_sync` is different."
    )
    fleet: FleetOwn | None = entry("What of `fleet` is different.")
    vips: dict[str, FleetVip] = entry("VIPs whose routes are different, by name.", {})


def _required(schema: dict[str, Any], _part: type[Part]) -> None:
    """With `nodes` each of these may be a node's own. No editor asks for routers where a speaker may make up for them."""
    routers = {"required": ["bgp"], "properties": {"bgp": {"required": ["neighbors"]}}}
    schema["if"] = {"not": {"required": ["nodes"]}}
    schema["then"] = {
        "anyOf": [routers, {"required": ["speaker"]}],
        "properties": {
            "bgp": {"required": ["local_as"]},
            "connection_sync": {"required": ["interface"]},
            "speaker": {"properties": {"ospf": {"required": ["interfaces"]}}},
        },
    }


class File(Part):
    """The configuration of an anycast node, or of a fleet of them.

    Files in `conf.d` beside it may hold `checks`, `pools` and `vips`.
    """

    model_config = ConfigDict(title="anycast", json_schema_extra=_required)

    version: of.FormatVersion = entry("The version of this format.", 1)
    include: list[of.Pattern] = entry(
        "Files that are read as if they stood here: paths or globs, relative to this file. They may hold any section, "
        "and include others; what stands in two files is a mistake.",
        [],
    )
    node: Annotated[Node, or_text({"type": "string"})] = entry(
        "This machine. Its name alone is enough.", Node()
    )
    nodes: dict[str, Annotated[FleetNode, or_text({"type": "string", "format": "ipv4"})]] = entry(
        "The nodes of a fleet that has one file, by name, each with what is different there; all the rest is the same on "
        "all. A node finds itself by `--node`, by `node.name` or by its host name.",
        {},
    )
    ipvs: Annotated[str, choice(["shared", "exclusive"])] = entry(
        "exclusive: IPVS services that are not in this configuration are removed.", "shared"
    )
    sysctls: Annotated[str, choice(["manage", "check"])] = entry(
        "manage: kernel settings that IPVS needs are set. check: they are only reported.", "manage"
    )
    timing: Timing = entry("How long things may take.", Timing())
    timeouts: Timeouts | None = entry("IPVS timeouts. Default: the kernel's are left as they are.")
    connection_sync: Annotated[ConnectionSync, or_text({"type": "string"})] | None = entry(
        "Exchange of connections between the balancers. Its interface alone is enough. Default: none."
    )
    speaker: Annotated[Speaker, or_text({"type": "string"})] | None = entry(
        "Who announces the routes. Default: ExaBGP."
    )
    fleet: Annotated[Fleet, or_text({"enum": list(others.FleetView)})] | None = entry(
        "What this node knows of the other nodes, and what it does about it. Default: nothing."
    )
    bgp: Bgp | None = entry("The BGP side. It may be left out where `speaker.ospf` is there.")
    hooks: dict[str, Annotated[Hook, or_text({"type": ["string", "array"]})]] = entry(
        "Hooks that get this node's events, by name; 16 at most.", {}
    )
    checks: dict[str, Check] = entry("Checks, by name.", {})
    pools: dict[str, Annotated[Pool, or_text({"type": ["string", "array"]})]] = entry(
        "Pools of real servers, by name.", {}
    )
    vips: dict[str, Vip] = entry("Virtual IPs, by name.", {})
