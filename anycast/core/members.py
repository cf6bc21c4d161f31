"""What the services of a configuration are made of: keys, real servers, targets of checks. It never changes with
the state, so it is worked out once for each configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeAlias

from anycast.core import ipvs
from anycast.core.maintenance import server_scope
from anycast.core.model import (
    Address,
    Check,
    CommandCheck,
    Config,
    Forwarding,
    Persistence,
    RealServer,
    Service,
    Target,
    Vip,
)


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
    own = next((address for address in server.addresses if address.version == version), None)
    if own is not None or forwarding is not Forwarding.TUNNEL:
        return own
    return next(iter(server.addresses), None)


def target_of(service: Service, server: RealServer, address: Address) -> Target:
    port, check = _aimed(service.pool.check)
    return Target(address=address, port=port or server.port or service.port, check=check)


@cache
def _aimed(check: Check) -> tuple[int | None, Check]:
    """The check's own port, and the check without it: where it is aimed is the target's to say.

    Services that end at the same port by different words then share one target.
    """
    kind = check.kind
    if isinstance(kind, CommandCheck) or kind.port is None:
        return None, check
    return kind.port, replace(check, kind=replace(kind, port=None))


def servers_of(service: Service, version: int) -> Iterator[tuple[RealServer, Address]]:
    for server in service.pool.servers:
        address = server_address(server, version, service.forwarding)
        if address is not None:
            yield server, address


def versions(vip: Vip) -> list[int]:
    return sorted({address.version for address in vip.addresses})


def first_addresses(vip: Vip) -> list[Address]:
    """One address of each family: what holds of its services holds of the others'."""
    return [next(a for a in vip.addresses if a.version == version) for version in versions(vip)]


def targets(config: Config) -> frozenset[Target]:
    return frozenset(
        target_of(service, server, address)
        for vip in config.vips
        for service in vip.services
        for version in versions(vip)
        for server, address in servers_of(service, version)
    )


TargetNames: TypeAlias = tuple[str, tuple[str, ...]]
"""The real server a target is, and the services (`web tcp/80`) that rest on it."""


def target_names(config: Config) -> dict[Target, TargetNames]:
    names: dict[Target, TargetNames] = {}
    for vip in config.vips:
        for service in vip.services:
            for version in versions(vip):
                for server, address in servers_of(service, version):
                    target = target_of(service, server, address)
                    _, services = names.get(target, (server.name, ()))
                    name = f"{vip.name} {service.name}"
                    names[target] = (server.name, services if name in services else (*services, name))
    return names


def server_port(service: Service, server: RealServer) -> int:
    """The port a packet arrives at; 0 with a firewall mark: the one it was sent to."""
    return server.port or service.port


def server_scopes(config: Config) -> frozenset[str]:
    """`POOL/SERVER` of every real server there is."""
    return frozenset(
        server_scope(service.pool.name, server.name)
        for vip in config.vips
        for service in vip.services
        for server in service.pool.servers
    )


@dataclass(frozen=True, slots=True)
class Member:
    """One real server of one service: all that is known of it before any check has spoken."""

    target: Target
    scope: str  # POOL/SERVER, by which it is drained
    in_use: bool  # by the configuration: its weight is not 0
    up: ipvs.Destination  # as the kernel should have it while it is usable
    down: ipvs.Destination  # and while it is not


@dataclass(frozen=True, slots=True)
class Membership:
    """A service as the kernel should have it, but for its real servers; and those, in the canonical order."""

    empty: ipvs.ServiceEntry
    members: tuple[Member, ...]


Memberships: TypeAlias = Mapping[ipvs.Key, Membership]


def memberships(config: Config) -> dict[ipvs.Key, Membership]:
    return {
        service_key(address, service): _membership(service, address.version)
        for vip in config.vips
        for address in vip.addresses
        for service in vip.services
    }


def _membership(service: Service, version: int) -> Membership:
    found = [_member(service, server, address) for server, address in servers_of(service, version)]
    empty = ipvs.ServiceEntry(
        scheduler=service.scheduler,
        flags=service.flags,
        one_packet=service.one_packet,
        persistent=_persistent(service.persistence, version),
    )
    return Membership(empty, tuple(sorted(found, key=lambda member: ipvs.canonical(member.up))))


def _member(service: Service, server: RealServer, address: Address) -> Member:
    up = ipvs.Destination(
        address=address,
        port=server_port(service, server),
        weight=server.weight,
        forwarding=service.forwarding,
        tunnel=service.tunnel,
        upper=server.upper,
        lower=server.lower,
        # A destination inserted with 0 is left out of the Maglev table, on this node alone.
        table_weight=max(1, server.weight),
    )
    return Member(
        target=target_of(service, server, address),
        scope=server_scope(service.pool.name, server.name),
        in_use=server.weight > 0,
        up=up,
        down=replace(up, weight=0) if server.weight else up,
    )


def _persistent(persistence: Persistence | None, version: int) -> ipvs.Persistent | None:
    if persistence is None:
        return None
    prefix = persistence.prefix4 if version == 4 else persistence.prefix6
    return ipvs.Persistent(timeout=persistence.timeout, prefix=prefix)
