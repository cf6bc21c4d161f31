"""The packets of the VIPs as a packet filter on the node meets them, by the configuration alone.

With direct routing and tunnels the answers do not come back through the node: connection tracking sees one direction,
and takes what it sees for invalid. With masquerading it sees both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from anycast.core.dataplane.members import every_server_of, server_port
from anycast.core.values.configuration import Address, Config, Forwarding, Protocol, Service, Tunnel, Vip


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Packets to or from a port of an address. A firewall mark is set by somebody else's rules: any protocol and port."""

    address: Address
    protocol: Protocol | None = None  # None: any
    port: int = 0  # 0: any


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrapped:
    """Packets in a tunnel to a real server; `inside`: the family of the VIP."""

    server: Address
    tunnel: Tunnel
    inside: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Each in the order of addresses, without doubles.

    `direct`, `masqueraded`: to the VIPs, by what becomes of the answers. `servers`: the real servers with masquerading.
    """

    direct: tuple[Flow, ...] = ()
    masqueraded: tuple[Flow, ...] = ()
    servers: tuple[Flow, ...] = ()
    wrapped: tuple[Wrapped, ...] = ()


def passage(config: Config) -> Passage:
    direct: set[Flow] = set()
    masqueraded: set[Flow] = set()
    servers: set[Flow] = set()
    wrapped: set[Wrapped] = set()
    for vip in config.vips:
        for service in vip.services:
            nat = service.forwarding is Forwarding.NAT
            (masqueraded if nat else direct).update(_to_vip(vip, service))
            if nat:
                servers.update(_masqueraded(vip, service))
            elif service.forwarding is Forwarding.TUNNEL:
                wrapped.update(_wrapped(vip, service))
    return Passage(
        direct=tuple(sorted(direct, key=_order)),
        masqueraded=tuple(sorted(masqueraded, key=_order)),
        servers=tuple(sorted(servers, key=_order)),
        wrapped=tuple(
            sorted(wrapped, key=lambda one: (str(one.tunnel), one.inside, *_of_address(one.server)))
        ),
    )


def _to_vip(vip: Vip, service: Service) -> Iterator[Flow]:
    for address in vip.addresses:
        yield _flow(address, service, service.port)


def _masqueraded(vip: Vip, service: Service) -> Iterator[Flow]:
    for version in {address.version for address in vip.addresses}:
        for _, server, address in every_server_of(service, version):
            yield _flow(address, service, server_port(service, server))


def _flow(address: Address, service: Service, port: int) -> Flow:
    return (
        Flow(address=address) if service.mark else Flow(address=address, protocol=service.protocol, port=port)
    )


def _wrapped(vip: Vip, service: Service) -> Iterator[Wrapped]:
    for version in {address.version for address in vip.addresses}:
        for _, __, address in every_server_of(service, version):
            yield Wrapped(server=address, tunnel=service.tunnel, inside=version)


def _order(flow: Flow) -> tuple[int, bytes, str, int]:
    return (*_of_address(flow.address), flow.protocol or "", flow.port)


def _of_address(address: Address) -> tuple[int, bytes]:
    return address.version, address.packed
