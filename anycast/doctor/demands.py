"""What the configuration asks of the node. Pure. Without a configuration: what any would ask."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from anycast.core.kernel import IPVS_SYSCTLS
from anycast.core.model import Address, Config, Forwarding, Scheduler, Service, Vip
from anycast.core.state import servers_of, wanted_sysctls
from anycast.doctor.facts import conf

_OUTER_HEADER = {4: 20, 6: 40}  # bytes


class Encapsulation(StrEnum):
    IPIP = "ipip"
    GRE = "gre"
    GUE = "gue"


class Reach(NamedTuple):
    """How a service's packets get to its real servers."""

    forwarding: Forwarding
    encapsulation: Encapsulation = Encapsulation.IPIP
    checksum: bool = False


def reach(service: Service) -> Reach:
    """The one place that reads it from the model."""
    return Reach(service.forwarding)


def overhead(encapsulation: Encapsulation, outer: int, *, checksum: bool = False) -> int:
    """Bytes that a tunnel adds to a packet; `outer` is the IP version between balancer and real server."""
    inside = {
        Encapsulation.IPIP: 0,
        Encapsulation.GRE: 8 if checksum else 4,
        Encapsulation.GUE: 8 + 4,  # UDP, and GUE without options
    }
    return _OUTER_HEADER[outer] + inside[encapsulation]


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
        for _, server in servers_of(service, address.version)
    ]


def schedulers(config: Config | None) -> dict[Scheduler, list[str]]:
    """Each scheduler and the places that name it. Without a configuration: the default's."""
    if config is None:
        return {Scheduler.MH: ["the default"]}
    places: dict[Scheduler, list[str]] = {}
    for vip, service in services(config):
        places.setdefault(service.scheduler, []).append(f"{vip.name} {service.name}")
    return places


def encapsulations(config: Config | None) -> dict[Encapsulation, list[str]]:
    places: dict[Encapsulation, list[str]] = {}
    for vip, service in services(config) if config is not None else ():
        how = reach(service)
        if how.forwarding is Forwarding.TUNNEL:
            places.setdefault(how.encapsulation, []).append(f"{vip.name} {service.name}")
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
        "net.ipv4.vs.conntrack",
        "net.ipv4.vs.run_estimation",
        "net.ipv4.ip_unprivileged_port_start",
    }
    if config is not None:
        names.add(conf(config.node.interface, "disable_ipv6", family=6))
    return frozenset(names)


def addresses_to_reach(config: Config | None) -> frozenset[Address]:
    """The real servers and routers that `findings` wants the way to."""
    if config is None:
        return frozenset()
    servers = {way.address for way in ways(config)}
    return frozenset(servers | {neighbor.address for neighbor in config.bgp.neighbors})
