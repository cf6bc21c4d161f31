"""VIPs and their services: ports, firewall marks, schedulers, tunnels, quorums, and whether a pool fits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network

from anycast.config.assemble.checks import (
    DEFAULT_CHECK,
    Checks,
    ServerTree,
    asked_over_tcp,
    asks_for_vip,
    has_port,
    leaves_of,
)
from anycast.config.assemble.context import Assembler, Context
from anycast.config.assemble.pools import Pool, Pools, count_of
from anycast.config.problem import Path, TooManyError, dotted
from anycast.config.schema import file as schema
from anycast.config.warn import Served
from anycast.core.dataplane.ipvs import MAGLEV_SLOTS, SOURCE_SLOTS
from anycast.core.fleet.values import Capacity
from anycast.core.prefixes import is_host_route
from anycast.core.values import configuration as model
from anycast.core.values.configuration import (
    Address,
    Forwarding,
    Protocol,
    Role,
    Scheduler,
    SchedulerFlag,
    TunnelChecksum,
    TunnelType,
)
from anycast.core.values.described import Percent
from anycast.core.values.route import Prefix

_FLAGS = {
    Scheduler.MH: frozenset({SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK}),
    Scheduler.SH: frozenset({SchedulerFlag.SH_PORT, SchedulerFlag.SH_FALLBACK}),
}
# A client that hashes to a real server with weight 0 gets another one.
_FALLBACK = {Scheduler.MH: SchedulerFlag.MH_FALLBACK, Scheduler.SH: SchedulerFlag.SH_FALLBACK}
_SLOTS = {Scheduler.MH: MAGLEV_SLOTS, Scheduler.SH: SOURCE_SLOTS}


_FOR_ALL = (
    "protocol", "pool", "check", "scheduler", "flags", "forwarding", "tunnel", "one_packet", "persistence",
    "expire_failed", "server_capacity", "quorum", "sorry", "local",
)  # fmt: skip
"""What a VIP says for those of its services that do not say otherwise."""
_GOES_WITH = {"flags": "scheduler", "tunnel": "forwarding"}
"""What has no meaning beside another value of this: then the VIP's is not taken."""
_OF_IPVS = (
    "mark", "pool", "servers", "scheduler", "flags", "forwarding", "tunnel", "one_packet", "persistence", "expire_failed",
    "server_capacity", "quorum", "sorry",
)  # fmt: skip
"""What has no meaning where the node itself serves."""
_WITHOUT_CHECK = {
    Protocol.UDP: (
        "UDP has no handshake to check, and no check is written",
        "write a check: udp, dns, syslog, tcp with a port, http, or a command",
    ),
    Protocol.SCTP: (
        "the default check, a TCP handshake, proves nothing about SCTP",
        "write a check: icmp, tcp with a port, http, or a command",
    ),
}

# What a node can carry at all. Whether this machine does is measured when it begins (analysis/capacity.py).
GUE_PORT = 6080  # IANA's
MOST_ADDRESSES = 20_000
MOST_ANNOUNCED = 64  # prefixes of a VIP
MOST_COMMUNITIES = 128  # of each kind: a message has 4,096 bytes
MOST_ENTRIES = 200_000
MOST_PROBES = 400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """A pool served on ports of one protocol, or for a mark: a service as written.

    `inherited`: what the VIP says for it. `check` overrides the pool's.
    """

    path: Path
    vip: Path
    serving: schema.Serving
    protocol: Protocol
    ports: tuple[tuple[Path, int], ...]  # none with a mark
    pool: Pool | None
    check: ServerTree | None
    sorry: Pool | None = None
    inherited: frozenset[str] = frozenset()

    @property
    def pools(self) -> list[tuple[Pool, ServerTree | None]]:
        """Each with the check that is written for it; None: another is, which is wrong, or none."""
        both = [] if self.pool is None else [(self.pool, self.check or self.pool.check)]
        return both if self.sorry is None else [*both, (self.sorry, self.sorry.check)]

    def at(self, *place: str | int) -> Path:
        """Where a setting stands: with the service, or with its VIP."""
        return (*(self.vip if place[0] in self.inherited else self.path), *place)


def _names(vip: str, services: Sequence[schema.Service]) -> list[str]:
    """Of the pools that services describe themselves: the VIP's with the first port, and where that is taken more."""
    found: list[str] = []
    for n, service in enumerate(services):
        ports = [number for one in [*(service.port or []), *(service.ports or [])] for number in one.numbers]
        word = f"mark{service.mark}" if service.mark else str(ports[0]) if ports else str(n)
        name = f"{vip}-{word}"
        if name in found and service.protocol:
            name = f"{name}-{service.protocol[0]}"
        found.append(name if name not in found else f"{vip}-{word}-{n}")
    return found


def _around(addresses: Sequence[tuple[Path, Address]], like: Prefix) -> Prefix:
    """The prefix as long as `like` around an address of its family, or of any."""
    each = [address for _, address in addresses]
    address = next((one for one in each if one.version == like.version), each[0])
    length = like.prefixlen if address.version == like.version else {4: 24, 6: 48}[address.version]
    return ip_network(
        (int(address), length) if address.version == 4 else (address.packed, length), strict=False
    )


class Vips(Assembler):
    """VIPs as written to VIPs of the core. `served`: what warnings are told about."""

    def __init__(self, context: Context, checks: Checks, pools: Pools) -> None:
        super().__init__(context)
        self._checks = checks
        self._pools = pools
        self.served: list[Served] = []
        self._addresses = self._entries = self._probes = 0  # so far
        self._core_pools: dict[tuple[int, int, bool], model.Pool] = {}  # by the identity of pool and check

    def vip(self, name: str, vip: schema.Vip) -> model.Vip | None:
        path: Path = ("vips", name)
        addresses = self._pools.own_addresses(path, vip.address, vip.addresses)
        self._routes(path, vip, addresses)
        families = tuple(sorted({address.version for _, address in addresses}))
        require = self._checks.require(path, vip.require)
        services: list[model.Service] = []
        local: list[model.Local] = []
        lacking: set[tuple[Path, str]] = set()
        for use in self._uses(path, name, vip):
            if not self._carried(use, addresses):
                continue
            if use.serving.local:
                local += self._served_here(use, path, required=require is not None)
                continue
            services += self._serve(use, path, families)
            if not self._whole(use.at("forwarding")):
                continue
            for pool, _ in use.pools:
                for place, address in addresses if pool.whole else ():
                    count = count_of(pool, address.version, use.serving.forwarding)
                    if count == 0 and (place, pool.name) not in lacking:
                        lacking.add((place, pool.name))
                        what = f"no server at {dotted(pool.path)} has an IPv{address.version} address to serve {address}"
                        self._say(place, what, "give the servers one, or remove this address")
                self._mixed(use, pool, addresses)
        if not addresses or not (services or local or vip.local):
            return None
        return model.Vip(
            name=name,
            addresses=tuple(address for _, address in addresses),
            services=tuple(services),
            local=tuple(local),
            announce=self._announced(path, vip, addresses),
            role=self._role(vip),
            med=vip.med,
            communities=tuple(dict.fromkeys(vip.communities)),
            large_communities=tuple(dict.fromkeys(vip.large_communities)),
            extended_communities=tuple(dict.fromkeys(vip.extended_communities)),
            as_path_prepend=vip.as_path_prepend,
            local_preference=vip.local_preference,
            origin=vip.origin,
            require=require,
            when_unhealthy=vip.when_unhealthy,
        )

    def _routes(self, path: Path, vip: schema.Vip, addresses: Sequence[tuple[Path, Address]]) -> None:
        """Raises TooManyError."""
        self._addresses += len(addresses)
        if self._addresses > MOST_ADDRESSES:
            what = f"up to here the VIPs have {self._addresses:,} addresses"
            self._say(path, what, f"write {MOST_ADDRESSES:,} at most: each is a route", key=True)
            raise TooManyError
        for name in ("communities", "large_communities", "extended_communities"):
            if len(getattr(vip, name)) > MOST_COMMUNITIES:
                what = f"a route with {len(getattr(vip, name)):,} of them fits into no BGP message"
                self._say((*path, name), what, f"write {MOST_COMMUNITIES} at most")

    def _announced(
        self, path: Path, vip: schema.Vip, addresses: Sequence[tuple[Path, Address]]
    ) -> tuple[model.Announce, ...]:
        """Those that are wider than a host route: each has an address of the VIP, and no address is in two."""
        found: list[model.Announce] = []
        if len(vip.announce) > MOST_ANNOUNCED:
            what = f"these are {len(vip.announce):,} prefixes"
            self._say((*path, "announce"), what, f"write {MOST_ANNOUNCED} at most, and more VIPs")
            return ()
        if not vip.announce and "announce" in vip.model_fields_set and self._whole((*path, "announce")):
            # It may be meant as "nothing", and what it would do is announce every address.
            what = "there is no prefix in it"
            do = "leave it out, and each address has its host route; a VIP that is not to be announced is in maintenance"
            self._say((*path, "announce"), what, do)
        if not addresses or not self._whole((*path, "address"), (*path, "addresses")):
            return ()
        for n, one in enumerate(vip.announce):
            place = (*path, "announce", n)
            if one.prefix is None:
                self._say_missing((*place, "prefix"), "it is missing", "write the prefix, as in 192.0.2.0/24")
                continue
            if not any(address in one.prefix for _, address in addresses):
                do = "write the prefix that the VIP is in" + (f", as in {_around(addresses, one.prefix)}")
                self._say(place, f"no address of the VIP is in {one.prefix}", do)
            elif other := next((each.prefix for each in found if each.prefix.overlaps(one.prefix)), None):
                self._say(place, f"{one.prefix} and {other} overlap", "write one of them")
            elif self._whole(place):
                found.append(model.Announce(prefix=one.prefix, needs=one.needs))
        return tuple(one for one in found if not is_host_route(one.prefix))

    @staticmethod
    def _role(vip: schema.Vip) -> Role:
        """This node's. A file for all nodes would name the nodes of each role; who this is stands in `node.name`."""
        return vip.role

    def _carried(self, use: _Use, addresses: Sequence[tuple[Path, Address]]) -> bool:
        """Whether all that is served so far is not too much. What is, is looked at no further."""
        ports = 1 if use.serving.mark else len(use.ports)
        # Each address of what the node itself serves is checked.
        servers = len(addresses) if use.serving.local else sum(len(pool.servers) for pool, _ in use.pools)
        self._entries += ports * len(addresses) * (0 if use.serving.local else max(1, servers))
        if use.serving.local:
            self._probes += ports * servers * len(list(leaves_of(use.check or DEFAULT_CHECK)))
        else:
            for pool, check in use.pools:
                each = len(list(leaves_of(check or DEFAULT_CHECK)))
                self._probes += ports * len(pool.servers) * each
        for number, most, what_of in (
            (self._entries, MOST_ENTRIES, "real servers, each counted for every port and address it serves"),
            (self._probes, MOST_PROBES, "checks of real servers, each counted for every port"),
        ):
            if number > most:
                if self._context.once("carried"):
                    what = f"up to here the configuration comes to {number:,} {what_of}"
                    self._say(
                        use.path, what, f"{most:,} are the most: write fewer ports, addresses or servers"
                    )
                return False
        return True

    def _mixed(self, use: _Use, pool: Pool, addresses: Sequence[tuple[Path, Address]]) -> None:
        """Real servers of the other family exclude connection sync."""
        if self._context.file.connection_sync is None or use.serving.forwarding is not Forwarding.TUNNEL:
            return
        do = "or remove connection_sync"
        for place, address in addresses:
            version = address.version
            others = [
                at
                for at, server in zip(pool.places, pool.servers, strict=True)
                if all(one.version != version for one in server.addresses)
            ]
            why = f"the kernel refuses real servers of another family than {address} with connection_sync"
            if others and len(others) == len(pool.servers):
                if self._context.once("mixed", pool.path, place):
                    what = f"no server at {dotted(pool.path)} has an IPv{version} address, and {why}"
                    self._say(place, what, f"give the servers one, {do}")
                continue
            for at in others:
                if self._whole((*at, "addresses")) and self._context.once("mixed", at, version):
                    self._say(at, f"it has no IPv{version} address, and {why}", f"give it one, {do}")

    def _uses(self, path: Path, name: str, vip: schema.Vip) -> Iterator[_Use]:
        """What a VIP serves: its list of services, or the one it describes itself."""
        given = vip.model_fields_set & vip.ONE_SERVICE
        own = [field for field in type(vip).model_fields if field in given]
        if vip.services is not None:
            for field in own:
                if field in _FOR_ALL or field == "servers":
                    continue
                what = "this belongs to a service, and the VIP has a list of services"
                self._say((*path, field), what, "move it into the services", key=True)
            if not vip.services:
                self._say_missing(
                    (*path, "services"), "nothing is served", "write the ports, as in [80, 443]"
                )
            shared = self._pool_of(path, name, vip) if given & {"pool", "servers"} else None
            check = self._check_of(path, vip)
            names = _names(name, vip.services)
            for n, service in enumerate(vip.services):
                yield from self._listed(
                    (*path, "services", n),
                    name=names[n],
                    service=service,
                    above=path,
                    vip=vip,
                    shared=shared,
                    check=check,
                )
            return
        if not self._whole((*path, "services")):
            return
        if not own and all(self._whole((*path, field)) for field in vip.ONE_SERVICE):
            self._say(
                path, "nothing is served", "write port and servers, port and pool, or services", key=True
            )
            return
        if vip.local:
            yield from self._alone(path, vip)
            return
        if vip.servers is None and vip.pool is None and self._whole((*path, "pool")):
            self._say_missing((*path, "servers"), "it is missing", "write the real servers, or a pool")
        pool = self._pool_of(path, name, vip)
        yield from self._by_protocol(
            path, vip=path, serving=vip, pool=pool, check=self._check_of(path, vip), inherited=frozenset()
        )

    def _alone(self, path: Path, vip: schema.Vip) -> Iterator[_Use]:
        """A VIP that the node itself serves, with a port or without."""
        if vip.port or vip.ports or not self._whole((*path, "port"), (*path, "ports")):
            check = None if vip.check is None else self._checks.tree((*path, "check"), vip.check)
            yield from self._by_protocol(
                path, vip=path, serving=vip, pool=None, check=check, inherited=frozenset()
            )
            return
        self._not_by_ipvs(path, vip, frozenset())
        if not vip.require and self._whole((*path, "require")):
            what = "nothing says whether this node serves it"
            self._say_missing((*path, "port"), what, "write the port, as in 53/udp, or require")
        elif vip.check is not None:
            self._say((*path, "check"), "there is no port to check", "write the port, or move it to require")

    def _not_by_ipvs(self, path: Path, serving: schema.Serving, inherited: frozenset[str]) -> None:
        for name in _OF_IPVS:
            if name in serving.model_fields_set and name not in inherited:
                what = "with local: true this node itself serves, and there is nothing to choose from"
                self._say((*path, name), what, "remove this line, or local", key=True)

    def _served_here(self, use: _Use, vip: Path, *, required: bool) -> list[model.Local]:
        """The core's services of one use that the node itself serves: one for each port."""
        self._not_by_ipvs(use.path, use.serving, use.inherited)
        self._ports(use, vip)
        require = (
            self._checks.require(use.path, use.serving.require)
            if isinstance(use.serving, schema.Service)
            else None
        )
        check = use.check
        if check is None and use.serving.check is None:
            if use.protocol is Protocol.TCP:
                check = DEFAULT_CHECK
            elif not required and require is None and self._whole(use.at("check"), use.at("protocol")):
                what, do = _WITHOUT_CHECK[use.protocol]
                self._say(use.at("protocol"), what, f"{do}; or require")
        if check is not None and any(asks_for_vip(leaf) for leaf in leaves_of(check)):
            what = "a check with to: vip needs a real server, and this node itself serves"
            self._say(use.at("check"), what, "write the check without to: vip: it is made at the VIP")
        if check is not None and use.protocol is Protocol.TCP:
            check = asked_over_tcp(check)
        return [
            model.Local(protocol=use.protocol, port=port, check=check, require=require)
            for _, port in use.ports
        ]

    def _pool_of(self, path: Path, name: str, vip: schema.Vip | schema.Service) -> Pool | None:
        """The pool that a VIP or a service names, or that its servers make."""
        if vip.servers is None:
            return self._pools.named((*path, "pool"), vip.pool)
        if vip.pool is not None:
            self._say((*path, "pool"), "both pool and servers are written", "keep one of them", key=True)
        if self._context.is_written("pools", name):
            what = f"these servers make a pool named {name}, and pools has one of that name"
            self._say(
                (*path, "servers"), what, f"write pool: {name}, or name the other pool otherwise", key=True
            )
        return self._pools.described(path, name, vip)

    def _check_of(self, path: Path, serving: schema.Serving) -> ServerTree | None:
        if serving.check is None or (isinstance(serving, schema.Vip) and serving.servers is not None):
            return None  # of a VIP's own servers it is the pool's
        return self._checks.tree((*path, "check"), serving.check)

    def _listed(
        self,
        path: Path,
        *,
        name: str,
        service: schema.Service,
        above: Path,
        vip: schema.Vip,
        shared: Pool | None,
        check: ServerTree | None,
    ) -> Iterator[_Use]:
        """A service of the list. `name`: of a pool of its own. `shared`, `check`: what the VIP says for all."""
        written = service.model_fields_set
        inherited = frozenset(
            field
            for field in _FOR_ALL
            if field in vip.model_fields_set and field not in written and _GOES_WITH.get(field) not in written
        )
        taken = {field: getattr(vip, field) for field in inherited}
        whole = service.model_copy(update=taken) if taken else service
        pool = shared
        if whole.local:
            pool = None
        elif service.pool is not None or service.servers is not None:
            pool = self._pool_of(path, name, service)
        elif (
            vip.pool is None
            and vip.servers is None
            and self._whole((*above, "pool"), (*above, "servers"), (*path, "servers"))
        ):
            do = "write servers, or the name of a pool, here or once for all services of the VIP"
            self._say_missing((*path, "pool"), "it is missing", do)
        if whole.local and service.check is None and vip.servers is not None and vip.check is not None:
            check = self._checks.tree((*above, "check"), vip.check)  # which is not the pool's alone
        elif service.servers is not None and not whole.local:
            check = None if service.check is not None else check  # then it is the pool's
        elif service.check is not None:
            check = self._checks.tree((*path, "check"), service.check)
        yield from self._by_protocol(
            path, vip=above, serving=whole, pool=pool, check=check, inherited=inherited
        )

    def _by_protocol(
        self,
        path: Path,
        *,
        vip: Path,
        serving: schema.Vip | schema.Service,
        pool: Pool | None,
        check: ServerTree | None,
        inherited: frozenset[str],
    ) -> Iterator[_Use]:
        if "forwarding" not in serving.model_fields_set and serving.tunnel is not None:
            serving = serving.model_copy(update={"forwarding": Forwarding.TUNNEL})
        for protocol, ports in self._protocols(path, serving, inherited).items():
            yield _Use(
                path=path,
                vip=vip,
                serving=serving,
                protocol=protocol,
                ports=tuple(ports),
                pool=pool,
                check=check,
                sorry=None
                if serving.local
                else self._pools.named((*(vip if "sorry" in inherited else path), "sorry"), serving.sorry),
                inherited=inherited,
            )

    def _protocols(
        self, path: Path, serving: schema.Vip | schema.Service, inherited: frozenset[str]
    ) -> dict[Protocol, list[tuple[Path, int]]]:
        """The ports of each protocol. With a mark: none, of any."""
        if serving.mark is not None:
            self._excluded(path, serving, inherited)
            return {Protocol.TCP: []}
        ports, more = serving.port, serving.ports
        if ports is not None and more is not None:
            self._say((*path, "port"), "both port and ports are written", "keep one of them", key=True)
        elif not ports and not more and self._whole((*path, "port"), (*path, "ports"), (*path, "mark")):
            self._say_missing((*path, "port"), "it is missing", "write the port that is served")
        if serving.protocol == [] and self._whole((*path, "protocol")):
            self._say_missing(
                (*path, "protocol"), "there is no protocol", "write tcp or udp, or remove the line"
            )
        found: dict[Protocol, list[tuple[Path, int]]] = {}
        entries = [((*path, "port", n), one) for n, one in enumerate(ports or [])]
        entries += [((*path, "ports", n), one) for n, one in enumerate(more or [])]
        for place, entry in entries:
            protocols = serving.protocol or [Protocol.TCP]
            for protocol in [entry.protocol] if entry.protocol else dict.fromkeys(protocols):
                found.setdefault(protocol, []).extend([(place, number) for number in entry.numbers])
        # Without a port that is right, what else is wrong is still said.
        return found or {(serving.protocol or [Protocol.TCP])[0]: []}

    def _excluded(self, path: Path, serving: schema.Serving, inherited: frozenset[str]) -> None:
        """What says which packets are served, where a firewall mark says it."""
        for name in ("port", "ports", "protocol"):
            if name in serving.model_fields_set and name not in inherited:
                what = "a firewall mark is served, whatever the protocol and port of the packets"
                self._say((*path, name), what, "remove this line, or mark", key=True)

    def _serve(self, use: _Use, vip: Path, families: tuple[int, ...]) -> list[model.Service]:
        """The core's services of one use: one for each port."""
        serving, pool = use.serving, use.pool
        flags = self._flags(use)
        quorum = self._quorum(use, families)
        tunnel = self._tunnel(use)
        one_packet = self._one_packet(use)
        persistence = self._persistence(use)
        self._ports(use, vip)
        self._mark(use, families)
        self._to_vip(use)
        if pool is None:
            return []
        self._pool_fits(use, families)
        if use.sorry is not None:
            self._sorry_fits(use, pool, use.sorry)
        require = (
            self._checks.require(use.path, serving.require) if isinstance(serving, schema.Service) else None
        )
        capacity = self._built(use.at("server_capacity"), serving.server_capacity, Capacity)
        core_pool = self._core_pool(pool, use.check or pool.check or DEFAULT_CHECK, use)
        sorry = (
            None if use.sorry is None else self._core_pool(use.sorry, use.sorry.check or DEFAULT_CHECK, use)
        )
        services = [
            model.Service(
                protocol=use.protocol,
                port=port,
                mark=serving.mark or 0,
                pool=core_pool,
                scheduler=serving.scheduler,
                flags=flags,
                forwarding=serving.forwarding,
                tunnel=tunnel,
                one_packet=one_packet,
                persistence=persistence,
                expire_failed=_expiry(use),
                server_capacity=capacity,
                quorum=quorum,
                sorry=sorry,
                require=require,
            )
            for port in ([0] if serving.mark else [port for _, port in use.ports])
        ]
        self.served += [
            Served(
                vip=vip,
                place=self._context.place(use.path),
                pool=self._context.place(pool.path),
                servers=pool.places,
                service=service,
                versions=families,
            )
            for service in services
        ]
        return services

    def _core_pool(self, pool: Pool, check: ServerTree, use: _Use) -> model.Pool:
        """One value for all that use it with the same check, sent the same way."""
        over_tcp = use.protocol is Protocol.TCP and not use.serving.mark
        known = self._core_pools.get((id(pool), id(check), over_tcp))
        if known is None:
            sent = asked_over_tcp(check) if over_tcp else check
            known = model.Pool(name=pool.name, servers=pool.servers, check=sent)
            self._core_pools[id(pool), id(check), over_tcp] = known
        return known

    def _tunnel(self, use: _Use) -> model.Tunnel:
        path = use.at("tunnel")
        tunnel = self._built(path, use.serving.tunnel, model.Tunnel)
        if tunnel is None:
            return model.Tunnel()
        if tunnel.type is TunnelType.GUE and not tunnel.port and self._whole((*path, "port")):
            tunnel = replace(tunnel, port=GUE_PORT)
        if use.serving.forwarding is not Forwarding.TUNNEL and self._whole(use.at("forwarding")):
            what = f"nothing is tunnelled with forwarding: {use.serving.forwarding}"
            self._say(path, what, "write forwarding: tunnel, or remove this", key=True)
        if self._whole((*path, "type")):
            self._tunnel_fits(path, tunnel)
        return tunnel

    def _tunnel_fits(self, path: Path, tunnel: model.Tunnel) -> None:
        kind, checksum = tunnel.type, tunnel.checksum
        if kind is not TunnelType.GUE and tunnel.port:
            self._say((*path, "port"), f"{kind} has no port", "remove it, or write type: gue")
        if kind is TunnelType.IPIP and checksum is not TunnelChecksum.NONE:
            what = "ipip has no checksum"
            self._say((*path, "checksum"), what, "remove it, or write type: gue or gre")
        if kind is TunnelType.GRE and checksum is TunnelChecksum.REMOTE:
            what = "gre has no remote checksum offload"
            self._say((*path, "checksum"), what, "write csum or nocsum, or type: gue")

    def _persistence(self, use: _Use) -> model.Persistence | None:
        written = use.serving.persistence
        return self._built(use.at("persistence"), written, model.Persistence) if written else None

    def _one_packet(self, use: _Use) -> bool:
        serving, path = use.serving, use.at("one_packet")
        udp = serving.mark is None and use.protocol is Protocol.UDP
        if serving.one_packet is None:
            return udp and not serving.persistence and serving.forwarding is not Forwarding.NAT
        for_others = serving.mark is None and (
            "one_packet" in use.inherited or len(serving.protocol or ()) > 1
        )
        if not serving.one_packet or (for_others and not udp):
            return False
        if serving.mark is None and not udp and self._whole(use.at("protocol"), use.at("mark")):
            self._say(path, f"a packet of {use.protocol} cannot be served by itself", "remove this")
        if serving.forwarding is Forwarding.NAT:
            what = "with forwarding: nat the answers could not be translated back"
            self._say(path, what, "remove this, or write forwarding: dr or tunnel")
        return True

    def _flags(self, use: _Use) -> frozenset[SchedulerFlag]:
        scheduler, given = use.serving.scheduler, use.serving.flags
        if given is None:
            return _usual_flags(use.serving)
        if not self._whole(use.at("scheduler")):
            return frozenset()
        for n, flag in enumerate(given):
            if flag not in _FLAGS.get(scheduler, ()):
                what = f"{flag} is not a flag of the scheduler {scheduler}"
                self._say(
                    use.at("flags", n), what, f"remove it, or write scheduler: {flag.partition('-')[0]}"
                )
        if (fallback := _FALLBACK.get(scheduler)) and fallback not in given:
            what = (
                f"with {scheduler} and without {fallback}, the new clients of a server that is down or drained get no "
                "server"
            )
            self._say_missing(use.at("flags"), what, f"add {fallback}, or remove the line")
        return frozenset(given)

    def _quorum(self, use: _Use, families: tuple[int, ...]) -> model.Quorum:
        quorum, path = use.serving.quorum, use.at("quorum")
        size: int | None = None
        if use.pool and self._whole(use.at("forwarding")):
            forwarding = use.serving.forwarding
            counts = [count_of(use.pool, version, forwarding) for version in families]
            size = min(filter(None, counts), default=None)
        low = _resolve(quorum.low, size)
        high = low if quorum.high is None else _resolve(quorum.high, size)
        if not self._whole(path) or low is None or high is None:
            return model.Quorum()
        if low > high:
            what = f"low is {low} servers, more than the {high} of high"
            self._say(
                (*path, "low"),
                what,
                "raise high: a VIP must not come up with fewer servers than it needs to stay up",
            )
        elif use.pool and use.pool.whole and size is not None and high > size:
            what = f"{high} usable servers can never be reached, for {dotted(use.pool.path)} has {size} of a family"
            self._say((*path, "low" if quorum.high is None else "high"), what, f"write {size} or less")
        return model.Quorum(low=low, high=high)

    def _ports(self, use: _Use, vip: Path) -> None:
        if use.serving.mark is not None or not self._whole(use.at("protocol")):
            return
        protocol = use.protocol
        for place, port in use.ports:
            if before := self._context.first((vip, protocol, port), place):
                self._say(
                    place, f"{protocol}/{port} is at {before} already", "write each service of a VIP once"
                )
        if protocol is Protocol.TCP or use.serving.check is not None:
            return
        self._has_check(use, use.pool)

    def _has_check(self, use: _Use, pool: Pool | None) -> None:
        """Where the default check proves nothing about the protocol."""
        if pool and not pool.check_given and self._whole(use.at("check"), use.at("mark")):
            what, do = _WITHOUT_CHECK[use.protocol]
            self._say(use.at("protocol"), what, do)

    def _mark(self, use: _Use, families: tuple[int, ...]) -> None:
        mark, place, pool = use.serving.mark, use.at("mark"), use.pool
        if mark is None:
            return
        # Both families of a VIP are claimed, whichever says it first.
        before = [self._context.first(("mark", mark, version), place) for version in families]
        if first := next(filter(None, before), None):
            what = f"mark {mark} is at {first} already, and the VIPs share an address family"
            self._say(place, what, "give each service a mark of its own")
        if pool is None or not self._whole(use.at("check")):
            return
        self._has_port(use, pool, _check_of(use, pool))

    def _has_port(self, use: _Use, pool: Pool, check: ServerTree | None) -> None:
        """Where a mark is served."""
        place = use.at("mark")
        if check is None or all(has_port(leaf) for leaf in leaves_of(check)):
            return
        if pool.servers and any(server.port is None for server in pool.servers):
            what = "packets with a mark arrive at any port, and the check has no port of its own"
            self._say(place, what, "write a check with a port, or a command")

    def _to_vip(self, use: _Use) -> None:
        """A check to the VIP needs packets that arrive at the real server with the VIP's address."""
        forwarding, place = use.serving.forwarding, use.at("forwarding")
        if forwarding is not Forwarding.NAT or use.pool is None or not self._whole(use.at("check"), place):
            return
        checks = [_check_of(use, use.pool), use.sorry and use.sorry.check]
        if not any(asks_for_vip(leaf) for check in checks if check for leaf in leaves_of(check)):
            return
        what = (
            "with nat the VIP is in no packet that a real server gets, and their check is to: vip: a check without "
            "it sends what IPVS would"
        )
        self._say(place, what, "write the check without to: vip, or forwarding: dr or tunnel")

    def _sorry_fits(self, use: _Use, pool: Pool, sorry: Pool) -> None:
        """Whether the sorry pool can stand in."""
        place = use.at("sorry")
        if use.serving.mark is not None:
            self._has_port(use, sorry, sorry.check)
        elif use.protocol is not Protocol.TCP and not sorry.check_given:
            what, do = _WITHOUT_CHECK[use.protocol]
            self._say(place, f"{dotted(sorry.path)}: {what}", do)
        if sorry.servers and not any(server.weight for server in sorry.servers):
            what = f"every server of {dotted(sorry.path)} has weight 0, and none would ever get a client"
            self._say(place, what, "give one a weight, or remove this line")
        # A mark has no port: one that is not written is that of the packet.
        for port in [0] if use.serving.mark else [port for _, port in use.ports]:
            used = {
                (address, server.port or port): at
                for at, server in zip(pool.places, pool.servers, strict=True)
                for address in server.addresses
            }
            for server in sorry.servers:
                both = [one for one in server.addresses if (one, server.port or port) in used]
                if both and self._context.once("sorry", place, server.name):
                    at = self._context.spelt(used[both[0], server.port or port])
                    what = f"{both[0]} of {dotted(sorry.path)} is a real server of this service, at {at}"
                    self._say(place, what, "it would fail with the others: name a pool of other servers")

    def _pool_fits(self, use: _Use, families: tuple[int, ...]) -> None:
        if self._whole(use.at("scheduler"), use.at("forwarding")):
            forwarding = use.serving.forwarding
            counts = (
                sum(count_of(pool, version, forwarding) for pool, _ in use.pools)
                for version in families or (4, 6)
            )
            self._table_fits(use, max(counts))
        for pool, _ in use.pools:
            self._ports_fit(use, pool)

    def _ports_fit(self, use: _Use, pool: Pool) -> None:
        forwarding = use.serving.forwarding
        for _, port in use.ports if pool.has_ports else ():
            self._one_each(use, pool, port)
        if forwarding is Forwarding.NAT or not self._whole(use.at("forwarding")):
            return
        served = (
            [(0, f"mark {use.serving.mark}")]
            if use.serving.mark
            else [(port, str(port)) for _, port in use.ports]
        )
        for place, server in zip(pool.places, pool.servers, strict=True) if pool.has_ports else ():
            for port, words in served:
                if server.port not in (None, port):
                    what = (
                        f"{server.name} listens on {server.port}, and {dotted(use.path)} serves {words} "
                        f"with forwarding: {forwarding}, which cannot change a port"
                    )
                    self._say((*place, "port"), what, "remove the port, or write forwarding: nat")

    def _table_fits(self, use: _Use, count: int) -> None:
        """Whether every client finds a server while one of the `count` is usable."""
        scheduler = use.serving.scheduler
        if scheduler in _SLOTS and count > (slots := _SLOTS[scheduler]):
            what = f"{count} servers, and the kernel's {scheduler} table has {slots} slots"
            field = "servers" if use.pool and use.pool.path == use.path else "pool"
            self._say(use.at(field), what, "use fewer servers, or another scheduler")
        if scheduler is Scheduler.DH and count > 1:
            with_sorry = ", the sorry pool counted" if use.sorry else ""
            what = (
                f"dh chooses by the VIP's address: all clients get the same one of {count} servers{with_sorry}, and none "
                "while that one is down or drained"
            )
            do = "write mh, or one server and no sorry" if use.sorry else "write mh, or one server"
            self._say(use.at("scheduler"), what, do)

    def _one_each(self, use: _Use, pool: Pool, port: int) -> None:
        """The same address with the service's port written and not written is the same real server."""
        first: dict[Address, tuple[Path, int | None]] = {}
        for place, server in zip(pool.places, pool.servers, strict=True):
            if server.port not in (None, port):
                continue
            for address in server.addresses:
                before, written = first.setdefault(address, (place, server.port))
                if written != server.port and self._context.once("twice", place, address):
                    what = f"{address} with port {port} is at {self._context.spelt(before)} already"
                    self._say(place, what, f"{dotted(use.path)} serves {port}: write each real server once")


def _check_of(use: _Use, pool: Pool) -> ServerTree | None:
    """None: what is written is wrong."""
    return use.check if use.serving.check is not None and pool.path != use.vip else use.check or pool.check


def _usual_flags(serving: schema.Serving) -> frozenset[SchedulerFlag]:
    """Persistence remembers addresses: what chooses by the port too chooses otherwise on every other node."""
    if serving.scheduler is Scheduler.MH and not serving.persistence:
        return _FLAGS[Scheduler.MH]
    return frozenset({_FALLBACK[serving.scheduler]}) if serving.scheduler in _FALLBACK else frozenset()


def _expiry(use: _Use) -> float | None:
    serving = use.serving
    if serving.expire_failed is not None:
        return None if serving.expire_failed == math.inf else serving.expire_failed
    return 0.0 if serving.mark is None and use.protocol is Protocol.UDP else 60.0


def _resolve(number: int | Percent, size: int | None) -> int | None:
    """A quorum's number as servers of a family of `size`; None if that is not known."""
    if isinstance(number, int):
        return number
    return None if size is None else max(1, -(-size * number.value // 100))
