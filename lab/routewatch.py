"""The router's kernel table for the VIPs, told at every change.

Subscribed first, read then, so nothing is missed. At each event about a VIP the table is read again: what is
reported is what the kernel forwards by, whatever the order in which a routing daemon changes next hops.
"""

from __future__ import annotations

import ipaddress
import json
import select
import socket
import struct
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass

from lab import netns
from lab.topology import MOST_BALANCERS, VIPS, topology

RTM_NEWROUTE, RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
_NLMSG_DONE, _NLMSG_ERROR = 3, 2
_DUMP = 0x1 | 0x300
_GROUPS = 0x1 | 0x40 | 0x400  # links, IPv4 and IPv6 routes
_RTM_NEWLINK = 16
_NOT_USED = 0x1 | 0x10  # next hop flags: dead, link down
_DST, _GATEWAY, _MULTIPATH = 1, 5, 9
_MAIN_TABLE = 254
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
# Seconds until the table is read once more. The kernel tells of an IPv4 route that goes before it is out of the table; a
# reading that does not wait for that would find it still, and nothing more is told.
_AGAIN = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteEvent:
    """The next hops of a VIP as of this moment; empty: no route."""

    t: float  # CLOCK_REALTIME, seconds
    monotonic: float
    prefix: str
    next_hops: tuple[str, ...]  # node names, sorted; an address where no node has it


class RouteTable:
    """A netlink reader of one namespace. `changes` blocks; `stop` from another thread ends it."""

    def __init__(self, prefixes: Collection[str], names: Mapping[str, str], place: str | None = None) -> None:
        self._prefixes = {str(ipaddress.ip_network(prefix)) for prefix in prefixes}
        self._names = names
        self._place = place
        self._events = netns.open_socket(place, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
        self._events.bind((0, _GROUPS))
        self._queries = netns.open_socket(place, socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._queries.bind((0, 0))
        self._sequence = 0
        self._stopped, self._stopper = socket.socketpair()

    def read(self, families: Iterable[int] = _FAMILIES) -> dict[str, tuple[str, ...]]:
        """The VIPs that have a route now, and their next hops."""
        found: dict[str, tuple[str, ...]] = {}
        for family in families:
            self._sequence += 1
            body = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
            header = struct.pack("=IHHII", 16 + len(body), _RTM_GETROUTE, _DUMP, self._sequence, 0)
            self._queries.send(header + body)
            done = False
            while not done:
                for kind, message in messages(self._queries.recv(262144)):
                    done = done or kind in (_NLMSG_DONE, _NLMSG_ERROR)
                    if kind == RTM_NEWROUTE and (route := route_of(message)) and route[0] in self._prefixes:
                        hops = (self._names.get(hop, hop) for hop in route[1])
                        found[route[0]] = tuple(sorted({*found.get(route[0], ()), *hops}))
        return found

    def changes(self) -> Iterator[RouteEvent]:
        """First every VIP as it is, then each change."""
        known: dict[str, tuple[str, ...] | None] = dict.fromkeys(self._prefixes)
        families: set[int] = set(_FAMILIES)
        again: set[int] = set()
        while True:
            now = self.read(families) if families else {}
            moment, monotonic = time.time(), time.monotonic()
            for prefix in sorted(self._prefixes):
                if _family(prefix) in families and known[prefix] != now.get(prefix, ()):
                    known[prefix] = now.get(prefix, ())
                    yield RouteEvent(
                        t=moment, monotonic=monotonic, prefix=prefix, next_hops=now.get(prefix, ())
                    )
            ready = select.select([self._events, self._stopped], [], [], _AGAIN if again else None)[0]
            if self._stopped in ready:
                return
            if not ready:
                families, again = again, set()
                continue
            try:
                data = self._events.recv(262144)
            except OSError:  # more events than the buffer holds: look at everything
                families = set(_FAMILIES)
                continue
            families = set()
            for kind, message in messages(data):
                if (
                    kind == _RTM_NEWLINK
                ):  # a link that goes takes next hops out without a word about the route
                    families |= set(_FAMILIES)
                elif kind in (RTM_NEWROUTE, RTM_DELROUTE):
                    route = route_of(message)
                    families |= {_family(route[0])} if route and route[0] in self._prefixes else set()
            again |= families

    def anew(self) -> dict[str, tuple[str, ...]]:
        """As `read`, by another reader: whether what was told is what the kernel has."""
        other = RouteTable(self._prefixes, self._names, self._place)
        try:
            return other.read()
        finally:
            other.close()

    def stop(self) -> None:
        self._stopper.send(b".")

    def close(self) -> None:
        for sock in (self._events, self._queries, self._stopped, self._stopper):
            sock.close()


class RouteWatch:
    """Keeps the table and its history up to date in a thread. Use as a context manager or `close` it."""

    def __init__(self, table: RouteTable) -> None:
        self.events: list[RouteEvent] = []
        self._now: dict[str, tuple[str, ...]] = {}
        self._table = table
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        for event in self._table.changes():
            with self._changed:
                self.events.append(event)
                self._now[event.prefix] = event.next_hops
                self._changed.notify_all()

    def routes(self) -> dict[str, tuple[str, ...]]:
        """VIP prefix to the names of the nodes it is routed to; a VIP without a route has an empty tuple."""
        with self._changed:
            return dict(self._now)

    def wait(self, prefix: str, nodes: Collection[str], timeout: float, since: float = 0.0) -> RouteEvent:
        """The event by which `prefix` had exactly `nodes` as next hops, seen at or after monotonic `since`,
        or the latest one when it has them now. Raises TimeoutError with what is there instead.
        """
        wanted = tuple(sorted(nodes))

        def found() -> RouteEvent | None:
            ours = [event for event in self.events if event.prefix == prefix]
            if ours and ours[-1].next_hops == wanted:
                return ours[-1]
            return next((e for e in ours if e.next_hops == wanted and since and e.monotonic >= since), None)

        with self._changed:
            event = self._changed.wait_for(found, timeout)
            if event is None:
                raise TimeoutError(
                    f"{prefix} is routed to {self._now.get(prefix)}, not to {wanted}, after {timeout:g} s; "
                    f"read anew, the kernel has {self._table.anew().get(prefix, ())}"
                )
            return event

    def wait_gone(self, prefix: str, node: str, timeout: float, since: float) -> RouteEvent:
        """The first event at or after monotonic `since` by which `prefix` was not routed to `node`. Raises TimeoutError."""

        def found() -> RouteEvent | None:
            events = (e for e in self.events if e.prefix == prefix and e.monotonic >= since)
            return next((e for e in events if node not in e.next_hops), None)

        with self._changed:
            event = self._changed.wait_for(found, timeout)
        if event is None:
            raise TimeoutError(f"{prefix} is still routed to {node} after {timeout:g} s")
        return event

    def close(self) -> None:
        self._table.stop()
        self._thread.join()
        self._table.close()


def _family(prefix: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in prefix else socket.AF_INET


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        yield kind, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            return
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def route_of(message: bytes) -> tuple[str, tuple[str, ...]] | None:
    """Prefix and usable next hops of a unicast route in the main table."""
    family, bits, _, _, table, _, _, kind, flags = struct.unpack_from("=BBBBBBBBI", message)
    if table != _MAIN_TABLE or kind != 1 or family not in _FAMILIES:
        return None
    destination, hops = b"", list[str]()
    for attribute, value in _attributes(message[12:]):
        if attribute == _DST:
            destination = value
        elif attribute == _GATEWAY and not flags & _NOT_USED:
            hops.append(socket.inet_ntop(family, value))
        elif attribute == _MULTIPATH:
            at = 0
            while at + 8 <= len(value):
                length, unused = struct.unpack_from("=HB", value, at)
                hops += [
                    socket.inet_ntop(family, gateway)
                    for inner, gateway in _attributes(value[at + 8 : at + length])
                    if inner == _GATEWAY and not unused & _NOT_USED
                ]
                at += (length + 3) & ~3
    if not destination:
        return None
    return f"{socket.inet_ntop(family, destination)}/{bits}", tuple(hops)


def main() -> None:
    """JSON lines on stdout, one at each change, of the namespace this runs in."""
    for event in RouteTable(VIPS, topology(balancers=MOST_BALANCERS).node_of_next_hop).changes():
        print(json.dumps(asdict(event)), flush=True)


if __name__ == "__main__":
    main()
