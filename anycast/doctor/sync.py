"""What other balancers announce by connection sync, and whether this one takes it in. Pure.

The kernel's message, version 1: eight bytes (second the sync id, fifth the number of connections, sixth the version), then
for each connection 36 bytes, or 72 of IPv6, and options; every one on a multiple of four. It has no time of day: that the
balancers' clocks differ does not matter.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from anycast.core.dataplane.members import every_server_of
from anycast.core.values.configuration import Address, Config, ConnectionSync, Protocol
from anycast.doctor.demands import services
from anycast.doctor.facts import Announced, Facts, Heard
from anycast.doctor.finding import Code, Finding, Severity, some

MOST = 10_000  # connections that are looked at
_HEAD = struct.Struct("!xBHBBxx")
_CONNECTION = struct.Struct("!BBHIHHHHII")
_ADDRESSES = {4: struct.Struct("!4s4s4s"), 6: struct.Struct("!16s16s16s")}
_TEMPLATE = 0x1000  # which server a client has, by persistence: no connection
_VERSION = 1
_PROTOCOLS = {
    Protocol.TCP: 6,
    Protocol.UDP: 17,
    Protocol.SCTP: 132,
}


class Message(NamedTuple):
    id: int
    announced: tuple[Announced, ...]


def parse(datagram: bytes) -> Message | None:
    """None: it is no message of this version. What is cut off is left out."""
    if len(datagram) < _HEAD.size:
        return None
    sync_id, _, count, version = _HEAD.unpack_from(datagram)
    if version != _VERSION:
        return None
    return Message(sync_id, tuple(_connections(datagram, count)))


def _connections(datagram: bytes, count: int) -> Iterator[Announced]:
    place = _HEAD.size
    for _ in range(count):
        if place + _CONNECTION.size > len(datagram):
            return
        kind, protocol, size, flags, _, _, port, server_port, mark, _ = _CONNECTION.unpack_from(
            datagram, place
        )
        addresses = _ADDRESSES[6 if kind & 1 else 4]
        if place + _CONNECTION.size + addresses.size > len(datagram):
            return
        _, vip, server = map(_address, addresses.unpack_from(datagram, place + _CONNECTION.size))
        if not flags & _TEMPLATE:
            yield Announced(protocol, vip, port, mark, server, server_port)
        size &= 0xFFF
        place += max(size + -size % 4, 4)


def _address(packed: bytes) -> Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def hear(heard: Heard, datagram: bytes, sender: str, sync: ConnectionSync) -> Heard:
    """`heard`, and what this message adds to it."""
    message = parse(datagram)
    if message is None:
        return heard
    ids = {**heard.ids, message.id: heard.ids.get(message.id, frozenset()) | {sender}}
    if message.id != sync.id or len(heard.announced) >= MOST:
        return replace(heard, ids=ids)
    return replace(heard, ids=ids, announced=heard.announced | {(sender, one) for one in message.announced})


def synced(facts: Facts, config: Config | None) -> Iterator[Finding]:
    if config is None or config.connection_sync is None or facts.heard is None:
        return
    heard, ours = facts.heard, config.connection_sync.id
    for number in sorted(heard.ids.keys() - {ours}):
        yield Finding(
            severity=Severity.INFO if ours in heard.ids else Severity.WARNING,
            code=Code.SYNC_ID,
            text=f"connection_sync has id {ours} here, and {some(sorted(heard.ids[number]))} announces connections with id "
            f"{number}: this balancer does not take them in",
            fix="the same connection_sync.id on all balancers that serve the same VIPs; another group or port for others",
        )
    known = set(_served(config))
    strange = [(sender, one) for sender, one in heard.announced if one.served not in known]
    if strange:
        servers = sorted({f"{one.server} for {one.vip}" for _, one in strange})
        yield Finding(
            severity=Severity.WARNING,
            code=Code.SYNC_SERVERS,
            text=f"{some(sorted({sender for sender, _ in strange}))} announces connections of real servers that are not "
            f"configured here: {some(servers)}. If they come here, they are dropped in silence with forwarding: tunnel; "
            "otherwise they go on, and no count or limit has them",
            fix="the same real servers on every balancer, new ones with weight 0 first; while a change goes from one balancer "
            "to the next this is normal",
        )


def _served(config: Config) -> Iterator[tuple[object, ...]]:
    """As `Announced.served`."""
    for vip, service in services(config):
        for address in vip.addresses:
            for _, server, at in every_server_of(service, address.version):
                if service.mark:
                    yield service.mark, at
                else:
                    port = service.port if server.port is None else server.port
                    yield _PROTOCOLS[service.protocol], address, service.port, at, port
