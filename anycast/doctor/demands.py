"""What the configuration needs from the node. Pure. Without a configuration: what any configuration needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from anycast.core.dataplane.kernel import IPVS_SYSCTLS
from anycast.core.dataplane.limit import CONN_MAX
from anycast.core.dataplane.members import every_server_of, uses
from anycast.core.dataplane.traffic import EST_CPULIST, RUN_ESTIMATION
from anycast.core.health.aim import targets_of
from anycast.core.index import wanted_sysctls
from anycast.core.values.configuration import (
    Address,
    Config,
    Forwarding,
    Scheduler,
    Service,
    TunnelChecksum,
    TunnelType,
    Vip,
)
from anycast.doctor.facts import conf
from anycast.doctor.wide import FORWARDING, of_the_rest

FORWARDING6 = "net.ipv6.conf.all.forwarding"
CONNTRACK = "net.ipv4.vs.conntrack"
CONNTRACK_COUNT = "net.netfilter.nf_conntrack_count"
CONNTRACK_MAX = "net.netfilter.nf_conntrack_max"
LFACTORS = {"net.ipv4.vs.conn_lfactor": ("connections", -4), "net.ipv4.vs.svc_lfactor": ("services", -3)}
"""Since 7.1: what the table holds that grows once there are 2 to the power of this in a bucket, and its default."""
_OUTER_HEADER = {4: 20, 6: 40}  # bytes


class Reach(NamedTuple):
    """How a service's packets get to its real servers."""

    forwarding: Forwarding
    tunnel: TunnelType = TunnelType.IPIP
    checksum: bool = False  # one that takes room in the packet
    port: int = 0  # of GUE


def reach(service: Service) -> Reach:
    # The checksum of GUE is that of the UDP header, which is there anyhow; remote checksum offload is an option.
    gue = service.tunnel.type is TunnelType.GUE
    checksum = service.tunnel.checksum is (TunnelChecksum.REMOTE if gue else TunnelChecksum.FULL)
    return Reach(service.forwarding, service.tunnel.type, checksum, service.tunnel.port if gue else 0)


def overhead(tunnel: TunnelType, outer: int, *, checksum: bool = False) -> int:
    """Bytes that a tunnel adds to a packet; `outer` is the IP version between balancer and real server."""
    inside = {
        TunnelType.IPIP: 0,
        TunnelType.GRE: 8 if checksum else 4,
        TunnelType.GUE: 8 + 4 + (8 if checksum else 0),
    }
    return _OUTER_HEADER[outer] + inside[tunnel]


_TUNNEL_SYSCTLS = {"net.ipv4.vs.pmtu_disc": "1"}


class Way(NamedTuple):
    """One service at one of its real servers."""

    place: str  # "web tcp/80"
    vip: Address
    address: Address
    reach: Reach


def services(config: Config) -> Iterator[tuple[Vip, Service]]:
    return ((vip, service) for vip in config.vips for service in vip.services)


def vips(config: Config) -> Iterator[tuple[Vip, Address]]:
    return ((vip, address) for vip in config.vips for address in vip.addresses)


def ways(config: Config) -> list[Way]:
    return [
        Way(f"{vip.name} {service.name}", address, server, reach(service))
        for vip, service in services(config)
        for address in vip.addresses
        for _, __, server in every_server_of(service, address.version)
    ]


def vip_checks(config: Config | None) -> list[str]:
    """The services whose real servers are checked at the VIP, by a packet socket."""
    found = [
        f"{use.vip.name} {use.service.name}"
        for use in (uses(config) if config is not None else ())
        if any(target.vip is not None for target in targets_of(use.check))
    ]
    return list(dict.fromkeys(found))


def schedulers(config: Config | None) -> dict[Scheduler, list[str]]:
    """Each scheduler and the places that name it. Without a configuration: the default's."""
    if config is None:
        return {Scheduler.MH: ["the default"]}
    places: dict[Scheduler, list[str]] = {}
    for vip, service in services(config):
        places.setdefault(service.scheduler, []).append(f"{vip.name} {service.name}")
    return places


def tunnel_types(config: Config | None) -> dict[TunnelType, list[str]]:
    places: dict[TunnelType, list[str]] = {}
    for vip, service in services(config) if config is not None else ():
        how = reach(service)
        if how.forwarding is Forwarding.TUNNEL:
            places.setdefault(how.tunnel, []).append(f"{vip.name} {service.name}")
    return places


def sysctls_wanted(config: Config | None) -> dict[str, str]:
    if config is None:
        return dict(IPVS_SYSCTLS)
    tunnels = any(reach(service).forwarding is Forwarding.TUNNEL for _, service in services(config))
    return wanted_sysctls(config) | (_TUNNEL_SYSCTLS if tunnels else {})


def set_by_agent(name: str, config: Config | None) -> bool:
    return config is not None and config.manage_sysctls and name in wanted_sysctls(config)


def sysctls_to_read(config: Config | None) -> frozenset[str]:
    """What `findings` looks at, besides those of each interface."""
    names = {
        *sysctls_wanted(config),
        CONNTRACK,
        CONNTRACK_COUNT,
        CONNTRACK_MAX,
        RUN_ESTIMATION,
        EST_CPULIST,
        CONN_MAX,
        *LFACTORS,
        "net.ipv4.ip_unprivileged_port_start",
    }
    if config is not None:
        names.add(conf(config.node.interface, "disable_ipv6", family=6))
        names.update(FORWARDING[prefix.version] for prefix in of_the_rest(config))
    return frozenset(names)


def addresses_to_reach(config: Config | None) -> frozenset[Address]:
    """The real servers and routers that `findings` wants the way to."""
    if config is None:
        return frozenset()
    servers = {way.address for way in ways(config)}
    return frozenset(servers | {*routers(config)} | {*of_the_rest(config).values()})


def routers(config: Config) -> tuple[Address, ...]:
    """Those that a route leads to. Which link leads to a link-local address, the neighbor says itself."""
    return tuple(one.address for one in config.bgp.neighbors if not one.address.is_link_local)
