"""What the services of a configuration are made of: keys, real servers, targets of checks. It never changes with
the state, so it is worked out once for each configuration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass

from anycast.core.dataplane import ipvs
from anycast.core.health.aim import Aimer, aimer
from anycast.core.health.compose import leaves
from anycast.core.maintenance.stages import server_scope
from anycast.core.values.configuration import (
    Address,
    Aimed,
    Check,
    Config,
    Forwarding,
    Leaf,
    Persistence,
    Pool,
    RealServer,
    Rule,
    Service,
    Target,
    Vip,
)
from anycast.core.values.light import light_dataclass


def service_key(address: Address, service: Service) -> ipvs.Key:
    """One service of one address of its VIP. The addresses of a family share a firewall mark."""
    if service.mark:
        return ipvs.MarkKey(mark=service.mark, version=address.version)
    return ipvs.ServiceKey(protocol=service.protocol, address=address, port=service.port)


def keys_of(vip: Vip, address: Address) -> tuple[ipvs.Key, ...]:
    return tuple(service_key(address, service) for service in vip.services)


def marks(config: Config) -> frozenset[ipvs.MarkKey]:
    return frozenset(
        ipvs.MarkKey(mark=service.mark, version=version)
        for vip in config.vips
        for service in vip.services
        for version in versions(vip)
        if service.mark
    )


def server_address(server: RealServer, version: int, forwarding: Forwarding) -> Address | None:
    """The server's address for packets of the family: its own of that family, else, with a tunnel, the other."""
    for address in server.addresses:
        if address.version == version:
            return address
    return server.addresses[0] if forwarding is Forwarding.TUNNEL and server.addresses else None


def check_of(  # noqa: PLR0917
    vip: Vip, service: Service, server: RealServer, address: Address, version: int, pool: Pool | None = None
) -> Aimed:
    """The check that decides whether the service of the VIP can use the real server at this address.

    `version`: of the addresses of the VIP; with a tunnel the real server's may be of the other family. `pool`: that the
    server is of, where it is the sorry pool.
    """
    check = (pool or service.pool).check
    return aimer_of(vip.addresses, service, version, check)(address, server.port or service.port)


def aimer_of(
    vips: Iterable[Address], service: Service, version: int, check: Leaf | Rule[Leaf] | None = None
) -> Aimer:
    """Aims the check of the service, or another, at its real servers for the addresses of a family, of these of the VIP."""
    tunnel = service.tunnel if service.forwarding is Forwarding.TUNNEL else None
    return aimer(check or service.pool.check, [one for one in vips if one.version == version], tunnel)


def servers_of(
    service: Service, version: int, pool: Pool | None = None
) -> Iterator[tuple[RealServer, Address]]:
    """The real servers of the service, or those of its sorry pool."""
    for server in (pool or service.pool).servers:
        address = server_address(server, version, service.forwarding)
        if address is not None:
            yield server, address


def every_server_of(service: Service, version: int) -> Iterator[tuple[Pool, RealServer, Address]]:
    """Those of all its pools: whatever may get packets."""
    for pool in service.pools:
        for server, address in servers_of(service, version, pool):
            yield pool, server, address


def versions(vip: Vip) -> list[int]:
    return sorted({address.version for address in vip.addresses})


def first_addresses(vip: Vip) -> list[Address]:
    """One address of each family: its services have the same real servers as those of the others."""
    return [next(a for a in vip.addresses if a.version == version) for version in versions(vip)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A real server as a service of a VIP uses it."""

    vip: Vip
    service: Service
    pool: Pool  # the service's, or its sorry pool
    server: RealServer
    address: Address
    version: int  # of the addresses of the VIP
    check: Aimed


def uses(config: Config) -> Iterator[Use]:
    """Of all pools, those that are sorry too."""
    for vip in config.vips:
        for service in vip.services:
            for version in versions(vip):
                for pool, server, address in every_server_of(service, version):
                    check = check_of(vip, service, server, address, version, pool)
                    yield Use(
                        vip=vip,
                        service=service,
                        pool=pool,
                        server=server,
                        address=address,
                        version=version,
                        check=check,
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetName:
    """What to call a target in messages. `server` empty: it belongs to no real server."""

    server: str
    users: tuple[str, ...]  # what depends on it: services (`web tcp/80`), `node`, `vip web`
    decides: bool  # by itself whether a service can use the real server


def server_port(service: Service, server: RealServer) -> int:
    """The port a packet arrives at; 0 with a firewall mark: the one it was sent to."""
    return server.port or service.port


def server_scopes(config: Config) -> frozenset[str]:
    """`POOL/SERVER` of every real server there is."""
    return frozenset(
        server_scope(pool.name, server.name)
        for vip in config.vips
        for service in vip.services
        for pool in service.pools
        for server in pool.servers
    )


@light_dataclass(frozen=True, slots=True)
class Member:
    """One real server of one service: what follows from the configuration alone, without any check."""

    check: Aimed
    scope: str  # POOL/SERVER, by which it is drained
    in_use: bool  # by the configuration: its weight is not 0
    up: ipvs.Destination  # as the kernel should have it while it is usable
    sorry: bool = False  # it has clients while the quorum of the others is lost

    @property
    def down(self) -> ipvs.Destination:
        """As the kernel should have it while it is not. Made on demand: most are never down."""
        up = self.up
        if not up.weight:
            return up
        return ipvs.Destination(
            address=up.address,
            port=up.port,
            weight=0,
            forwarding=up.forwarding,
            tunnel=up.tunnel,
            upper=up.upper,
            lower=up.lower,
            table_weight=up.table_weight,
        )

    @property
    def server(self) -> str:
        """Its name."""
        return self.scope.partition("/")[2]


@dataclass(frozen=True, slots=True)
class Membership:
    """A service as the kernel should have it, but for its real servers; and those, in the canonical order.

    Those of the sorry pool are among them: they have their places in the scheduler's table all the time.
    """

    empty: ipvs.ServiceEntry
    members: tuple[Member, ...]

    @property
    def serving(self) -> Iterator[Member]:
        """Those that are not sorry."""
        return (member for member in self.members if not member.sorry)


class Servers(Mapping[ipvs.DestinationKey, str]):
    """`POOL/SERVER` of each real server, by what names it in IPVS.

    A dict of them is made when one is looked for, which is rare: it would be a good part of what a server takes.
    """

    __slots__ = ("_found", "_members")

    def __init__(self, members: tuple[Member, ...]) -> None:
        self._members = members
        self._found: dict[ipvs.DestinationKey, str] | None = None

    def __getitem__(self, key: ipvs.DestinationKey) -> str:
        if self._found is None:
            self._found = self._all()
        return self._found[key]

    def __iter__(self) -> Iterator[ipvs.DestinationKey]:
        return (member.up.key for member in self._members)

    def __len__(self) -> int:
        return len(self._members)

    def items(self) -> ItemsView[ipvs.DestinationKey, str]:
        return self._all().items()

    def values(self) -> ValuesView[str]:
        return self._all().values()

    def _all(self) -> dict[ipvs.DestinationKey, str]:
        return {member.up.key: member.scope for member in self._members}


class Memo:
    """What is made once for all services that have it: members of a pool used in the same way, and their targets."""

    def __init__(self) -> None:
        self._targets: dict[Target, Target] = {}
        self._members: dict[object, tuple[Member, ...]] = {}
        self._servers: dict[int, Servers] = {}

    def target(self, check: Aimed) -> Aimed:
        return self._targets.setdefault(check, check) if isinstance(check, Target) else check

    def members(self, vip: Vip, service: Service, version: int) -> tuple[Member, ...]:
        # A check to the VIP asks for the addresses of that VIP.
        alone = vip.addresses if any(_asks_for_vip(pool.check) for pool in service.pools) else ()
        pools = id(service.pool), id(service.sorry)
        use = (pools, version, service.port, service.forwarding, service.tunnel, alone)
        if use not in self._members:
            self._members[use] = _members(vip, service, version, self)
        return self._members[use]

    def servers(self, membership: Membership) -> Servers:
        """The membership lives as long as the memo."""
        members = membership.members
        if id(members) not in self._servers:
            self._servers[id(members)] = Servers(members)
        return self._servers[id(members)]


def _asks_for_vip(check: Check | Rule[Leaf]) -> bool:
    each = leaves(check) if isinstance(check, Rule) else (check,)
    return any(isinstance(one, Check) and one.to_vip for one in each)


def usual_weight(servers: Iterable[RealServer]) -> int:
    """The table weight of a server that the configuration gives weight 0: so draining by weight moves no flows."""
    counts = Counter(server.weight for server in servers if server.weight)
    most = max(counts.values(), default=0)
    return min((weight for weight, count in counts.items() if count == most), default=1)


def membership(vip: Vip, service: Service, version: int, memo: Memo) -> Membership:
    empty = ipvs.ServiceEntry(
        scheduler=service.scheduler,
        flags=service.flags,
        one_packet=service.one_packet,
        persistent=_persistent(service.persistence, version),
    )
    return Membership(empty, memo.members(vip, service, version))


def _members(vip: Vip, service: Service, version: int, memo: Memo) -> tuple[Member, ...]:
    found = [one for pool in service.pools for one in _of_pool(vip, service, version, pool, memo)]
    return tuple(sorted(found, key=lambda member: ipvs.canonical(member.up)))


def _of_pool(vip: Vip, service: Service, version: int, pool: Pool, memo: Memo) -> Iterator[Member]:
    usual = usual_weight(pool.servers)
    sorry = pool is service.sorry
    aim = aimer_of(vip.addresses, service, version, pool.check)
    for server, address in servers_of(service, version, pool):
        port = server_port(service, server)
        up = ipvs.Destination(
            address=address,
            port=port,
            weight=server.weight,
            forwarding=service.forwarding,
            tunnel=service.tunnel,
            upper=server.upper,
            lower=server.lower,
            # A destination inserted with 0 is left out of the Maglev table, on this node alone.
            table_weight=server.weight or usual,
        )
        scope = server_scope(pool.name, server.name)
        yield Member(memo.target(aim(address, port)), scope, server.weight > 0, up, sorry)


def _persistent(persistence: Persistence | None, version: int) -> ipvs.Persistent | None:
    if persistence is None:
        return None
    prefix = persistence.ipv4_prefix if version == 4 else persistence.ipv6_prefix
    return ipvs.Persistent(timeout=persistence.timeout, prefix=prefix)
