"""The node itself: its name, its BGP sessions, the kernel's timeouts and connection sync."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address

from anycast.config.assemble.context import Assembler, Context
from anycast.config.problem import Path, shown
from anycast.config.schema import file as schema
from anycast.config.schema.scalars import NAME
from anycast.core.hooks import Secret
from anycast.core.values import configuration as model
from anycast.core.values.configuration import Address
from anycast.core.values.speaker import LearnedBy, Ospf, Speaker

MOST_NEIGHBORS = 256  # each is a session, and told in every report
MOST_EXPORTS = 16  # lines of one, and different ones: each is looked at for every VIP


class Node(Assembler):
    """What is written of the node to values of the core."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._exports: set[tuple[model.Export, ...]] = set()
        self._by_table = False  # a routing daemon of the node has the sessions, not ExaBGP

    def node(self, hostname: str) -> model.Node | None:
        node = self._context.file.node
        name = str(node.name or hostname.partition(".")[0])
        if not NAME.match(name):
            self._say_missing(
                ("node", "name"),
                f"this machine's host name {shown(name)} cannot be the node's name",
                "write node.name",
            )
            return None
        return self._built(("node",), node, model.Node, name=name)

    def speaker(self) -> Speaker | None:
        speaker = self._built(("speaker",), self._context.file.speaker or schema.Speaker(), Speaker)
        self._by_table = speaker is not None and speaker.is_table
        if speaker is None or speaker.ospf is None:
            return speaker
        place: Path = ("speaker", "ospf")
        if not speaker.is_table:
            self._say(place, "ExaBGP speaks no OSPF", "write type: kernel-table, or remove ospf")
        elif speaker.daemon is not LearnedBy.BIRD:
            self._say(place, "it is written for BIRD alone", "write daemon: bird, or remove ospf")
        if not speaker.ospf.interfaces:
            self._say_missing(
                (*place, "interfaces"), "there is no interface", "write those towards the routers"
            )
        if speaker.ospf.dead <= speaker.ospf.hello:
            what = f"{speaker.ospf.dead} s without a hello, which is sent every {speaker.ospf.hello} s"
            self._say((*place, "dead"), what, "write four times hello, or more")
        return speaker

    def bgp(self, ospf: Ospf | None = None) -> model.Bgp | None:
        """`ospf`: by which the routes can go as well, so that there need be no router here."""
        bgp = self._context.file.bgp
        if bgp is None and ospf is not None:
            if ospf.router_id is None:
                what = "it is missing, and there is no bgp.router_id"
                self._say_missing(
                    ("speaker", "ospf", "router_id"), what, "write an IPv4 address of this node"
                )
                return None
            return model.Bgp(local_as=0, router_id=ospf.router_id, neighbors=())
        if bgp is None:
            self._say_missing(("bgp",), "the section is missing", "write local_as and neighbors in it")
            return None
        if bgp.local_as is None:
            self._say_missing(("bgp", "local_as"), "it is missing", "write this node's AS number")
        if not bgp.neighbors and ospf is None:
            self._say_missing(
                ("bgp", "neighbors"), "there is no neighbor", "write the routers to announce to"
            )
        if len(bgp.neighbors or []) > MOST_NEIGHBORS:
            what = f"there are {len(bgp.neighbors or []):,} neighbors"
            self._say(("bgp", "neighbors"), what, f"write {MOST_NEIGHBORS} at most", key=True)
            return None
        router_id = self._router_id(bgp)
        neighbors = [
            neighbor
            for n, one in enumerate(bgp.neighbors or [])
            if (neighbor := self._neighbor(("bgp", "neighbors", n), one, bgp, router_id))
        ]
        self._one_password(("bgp",), bgp)
        for version, count in Counter(one.version for one in bgp.local_address or []).items():
            if count > 1:
                what = f"there are {count} IPv{version} addresses, and one session has one of them"
                self._say(
                    ("bgp", "local_address"), what, "write one of each family, or local_address of a neighbor"
                )
        if bgp.local_as is None or router_id is None:
            return None
        return model.Bgp(
            local_as=bgp.local_as,
            router_id=router_id,
            neighbors=tuple(neighbors),
            hold_time=bgp.hold_time,
            next_hop_v4=bgp.next_hop.ipv4,
            next_hop_v6=bgp.next_hop.ipv6,
            view_mark=bgp.view_mark,
            listen_port=bgp.listen_port,
            weight=bgp.weight,
        )

    def _router_id(self, bgp: schema.Bgp) -> IPv4Address | None:
        if bgp.router_id is not None:
            return bgp.router_id
        for neighbor in bgp.neighbors or []:
            if isinstance(neighbor.local_address, IPv4Address):
                return neighbor.local_address
        for address in bgp.local_address or []:
            if isinstance(address, IPv4Address):
                return address
        if self._context.whole_list(("bgp", "neighbors"), "local_address"):
            self._say_missing(
                ("bgp", "router_id"),
                "it is missing, and there is no IPv4 local_address to take it from",
                "write an IPv4 address that no other node has; where there is only IPv6 any such number will do",
            )
        return None

    def _neighbor(
        self, path: Path, neighbor: schema.Neighbor, bgp: schema.Bgp, router_id: IPv4Address | None
    ) -> model.Neighbor | None:
        address, local = neighbor.address, neighbor.local_address
        remote_as = bgp.remote_as if neighbor.remote_as is None else neighbor.remote_as
        if remote_as is None and self._whole(("bgp", "remote_as")):
            do = "write the router's AS number, or once for all in bgp.remote_as"
            self._say_missing((*path, "remote_as"), "it is missing", do)
        self._one_password(path, neighbor)
        if address is None:
            self._say_missing((*path, "address"), "it is missing", "write the router's address")
            return None
        self._link(path, neighbor, address)
        if before := self._context.first(("neighbor", address), path):
            self._say((*path, "address"), f"{address} is at {before} already", "write each router once")
        if local is None:
            shared = [one for one in bgp.local_address or [] if one.version == address.version]
            local = shared[0] if shared else router_id if address.version == 4 else None
            if local is None and address.version == 6 and self._whole(("bgp", "local_address")):
                what = "it is missing, and with IPv6 there is no default"
                do = "write this node's address in the session, or once for all in bgp.local_address"
                self._say_missing((*path, "local_address"), what, do)
        elif local.version != address.version:
            what = f"{local} is not of the family of the neighbor's address {address}"
            self._say((*path, "local_address"), what, f"write an IPv{address.version} address of this node")
        if local == address:
            self._say((*path, "address"), f"{address} is this node's own address", "write the router's")
        self._families(path, neighbor, address, bgp)
        self._distance(path, neighbor)
        self._extended(path, neighbor, address)
        if neighbor.route_reflector and None not in (remote_as, bgp.local_as) and remote_as != bgp.local_as:
            what = f"the router is of the AS {remote_as}, this node of {bgp.local_as}: a route reflector reflects within one"
            self._say((*path, "route_reflector"), what, "remove it, or correct the AS numbers", key=True)
        export = self._export(path, neighbor)
        if remote_as is None:
            return None
        secrets = neighbor if _has_password(neighbor) else bgp
        return model.Neighbor(
            address=address,
            remote_as=remote_as,
            local_address=local,
            families=frozenset(carried(neighbor)),
            password=secrets.password,
            password_from=_password_from(secrets),
            passive=neighbor.passive,
            bfd=_bfd(neighbor.bfd, bgp.bfd),
            multihop=neighbor.multihop or 0,
            ttl_security=neighbor.ttl_security,
            port=neighbor.port,
            interface=neighbor.interface or "",
            remote_interface=neighbor.remote_interface or "",
            extended_next_hop=neighbor.extended_next_hop,
            route_reflector=neighbor.route_reflector,
            software=neighbor.software or bgp.software,
            export=export,
            view=bgp.view if neighbor.view is None else neighbor.view,
        )

    def _link(self, path: Path, neighbor: schema.Neighbor, address: Address) -> None:
        """A link-local address is one of a link: which, says an interface at each end."""
        local = neighbor.local_address
        if not address.is_link_local:
            if local is not None and local.is_link_local:
                what = f"{local} is link-local, and the router's address {address} is not"
                self._say((*path, "local_address"), what, "write another address of this node")
            for name in ("interface", "remote_interface"):
                if getattr(neighbor, name) is not None:
                    what = f"{address} is not link-local, so the routes of this node say which interface leads to it"
                    self._say((*path, name), what, "remove the line", key=True)
            return
        if address.version == 4:
            self._say((*path, "address"), f"{address} is link-local", "write another address of the router")
            return
        if neighbor.interface is None:
            do = "write this node's interface towards the router: `interface: eth0`"
            self._say_missing((*path, "interface"), f"it is missing, and {address} is link-local", do)
        if local is not None and not local.is_link_local:
            what = f"{local} is not link-local, and the router's address {address} is"
            self._say((*path, "local_address"), what, "write this node's address on the same link")
        if neighbor.passive and not self._by_table:
            what = f"nobody would open the session: ExaBGP does not listen at link-local addresses ({address} is one)"
            self._say((*path, "passive"), what, "remove it: this node opens the session", key=True)

    def _distance(self, path: Path, neighbor: schema.Neighbor) -> None:
        if neighbor.ttl_security > 1 and neighbor.address is not None and neighbor.address.is_link_local:
            what = f"{neighbor.address} is link-local: it is on this node's link"
            self._say((*path, "ttl_security"), what, "write true")
        if neighbor.multihop is None:
            return
        if neighbor.ttl_security:
            what = "multihop is written too: one allows packets from far away, the other drops them"
            do = "keep one: `ttl_security` may be a number of hops"
            self._say((*path, "ttl_security"), what, do, key=True)
        if neighbor.address is not None and neighbor.address.is_link_local:
            what = f"{neighbor.address} is link-local: it is on this node's link"
            self._say((*path, "multihop"), what, "remove it", key=True)

    def _extended(self, path: Path, neighbor: schema.Neighbor, address: Address) -> None:
        if not neighbor.extended_next_hop:
            return
        place: Path = (*path, "extended_next_hop")
        if address.version == 4:
            what = f"the session with {address} is over IPv4, and has an IPv4 next hop"
            self._say(place, what, "remove it, or write the router's IPv6 address", key=True)
        elif 4 not in carried(neighbor):
            self._say(place, "the session carries no IPv4 routes", "write families: [ipv4, ipv6]", key=True)

    def _export(self, path: Path, neighbor: schema.Neighbor) -> tuple[model.Export, ...] | None:
        if neighbor.export is None:
            return None
        place: Path = (*path, "export")
        if not neighbor.export and self._whole(place):
            self._say(place, "nothing is announced to this router", "write VIPs, or remove the neighbor")
        if len(neighbor.export) > MOST_EXPORTS:
            self._say(
                place,
                f"there are {len(neighbor.export)} lines",
                f"write {MOST_EXPORTS} at most: globs fit many VIPs",
            )
            return None
        for n, one in enumerate(neighbor.export):
            if not one.vips and self._whole((*place, n, "vips")):
                self._say_missing((*place, n, "vips"), "it is missing", 'write names of VIPs, or "*" for all')
        found = tuple(
            model.Export(
                vips=tuple(one.vips),
                med=one.med,
                communities=_unique(one.communities),
                large_communities=_unique(one.large_communities),
                extended_communities=_unique(one.extended_communities),
                as_path_prepend=one.as_path_prepend,
                local_preference=one.local_preference,
                origin=one.origin,
            )
            for one in neighbor.export
        )
        self._exports.add(found)
        if len(self._exports) > MOST_EXPORTS and self._context.once("exports"):
            what = f"up to here the neighbors have {len(self._exports)} different exports"
            self._say(place, what, f"write {MOST_EXPORTS} different ones at most")
        return found

    def _one_password(self, path: Path, written: schema.Neighbor | schema.Bgp) -> None:
        given = [name for name in _PASSWORDS if getattr(written, name) is not None]
        for name in given[1:]:
            self._say((*path, name), f"{given[0]} is written too", "keep one of them", key=True)
        self._need((*path, "password_file"), written.password_file, "password")

    def _families(self, path: Path, neighbor: schema.Neighbor, address: Address, bgp: schema.Bgp) -> None:
        if neighbor.families == []:
            do = "write ipv4, ipv6 or both, or remove the line"
            self._say_missing((*path, "families"), "no family is carried", do)
        for n, version in enumerate(neighbor.families or []):
            next_hop = bgp.next_hop.ipv4 if version == 4 else bgp.next_hop.ipv6
            if version == 4 and neighbor.extended_next_hop:
                continue
            if version != address.version and next_hop is None:
                if not self._whole(("bgp", "next_hop", f"ipv{version}")):
                    continue
                what = f"a session over IPv{address.version} has no next hop for ipv{version} routes"
                self._say(
                    (*path, "families", n),
                    what,
                    f"write bgp.next_hop.ipv{version}, or a neighbor over ipv{version}"
                    + (", or extended_next_hop: true (RFC 8950)" if version == 4 else ""),
                )


def _unique(texts: list[str] | None) -> tuple[str, ...] | None:
    return None if texts is None else tuple(dict.fromkeys(texts))


_PASSWORDS = ("password", "password_file", "password_env")


def _has_password(written: schema.Neighbor) -> bool:
    return any(getattr(written, name) is not None for name in _PASSWORDS)


def _password_from(written: schema.Neighbor | schema.Bgp) -> Secret | None:
    if written.password_file is None and written.password_env is None:
        return None
    return Secret(file=written.password_file or "", variable=written.password_env or "")


def carried(neighbor: schema.Neighbor) -> set[int]:
    """4, 6: families of the routes a session carries."""
    if neighbor.families:
        return set(neighbor.families)
    return {neighbor.address.version} if neighbor.address else set()


def _bfd(own: schema.Bfd | None, shared: schema.Bfd | None) -> model.Bfd | None:
    """Of a neighbor: what it says itself, then what `bgp.bfd` says, then the defaults."""
    written = [one for one in (own, shared) if one is not None]
    if not written or not written[0].enabled:
        return None
    default = model.Bfd()
    return model.Bfd(
        interval=next((one.interval for one in written if one.interval is not None), default.interval),
        multiplier=next(
            (one.multiplier for one in written if one.multiplier is not None), default.multiplier
        ),
    )
