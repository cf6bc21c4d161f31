"""IPVS over generic netlink: values to bytes and back. No sockets.

Packed by `struct` because a table of thousands of real servers is written and read at once, which a general
netlink library does a hundred times slower. Layouts are those of the kernel's `ip_vs_ctl.c`.

Byte order: headers and numbers are the host's, ports and addresses the network's. Two traps: the netmask of an
IPv6 service is the prefix length as a number of the host's order, and a service's flags come with a mask.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from socket import AF_INET, AF_INET6, IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP, htons, ntohs
from typing import NamedTuple, assert_never

from anycast.core.dataplane.ipvs import (
    COUNTERS,
    AddDestination,
    AddService,
    Connections,
    Counters,
    Destination,
    DestinationKey,
    IpvsOp,
    Key,
    MarkKey,
    MoveDestination,
    Persistent,
    RemoveDestination,
    RemoveService,
    ServiceKey,
    SetDestination,
    SetService,
    Settings,
    packed,
    version_of,
)
from anycast.core.dataplane.kernel import SyncRole
from anycast.core.values.configuration import (
    Address,
    ConnectionSync,
    Forwarding,
    Protocol,
    Scheduler,
    SchedulerFlag,
    Timeouts,
    Tunnel,
    TunnelChecksum,
    TunnelType,
)
from anycast.kernel.netlink_codec import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    Malformed,
    Message,
    attribute,
    attributes,
    messages,
    number,
    places_of,
)

NEW_SERVICE, SET_SERVICE, DEL_SERVICE, GET_SERVICE = 1, 2, 3, 4
NEW_DEST, SET_DEST, DEL_DEST, GET_DEST = 5, 6, 7, 8
NEW_DAEMON, DEL_DAEMON, GET_DAEMON = 9, 10, 11
SET_CONFIG, GET_CONFIG = 12, 13

_HEADER = struct.Struct("=IHHIIBBH")  # with genlmsghdr
_GENL = 4  # bytes of genlmsghdr, which the attributes follow
_VERSION = 1
_GENL_ID_CTRL, _CTRL_GETFAMILY, _CTRL_FAMILY_ID, _CTRL_FAMILY_NAME = 16, 3, 1, 2
_NEST_SERVICE, _NEST_DEST, _NEST_DAEMON = 1, 2, 3
_NESTED = 0x8000  # the bit of a nest's kind that some kernels set

# One destination to write: the nest's header, then address, port, forwarding, weight, upper and lower
# threshold, family, tunnel type, port and flags, each behind its own header.
_DEST = struct.Struct("=HH HH16s HHH2x HHI HHI HHI HHI HHH2x HHB3x HHH2x HHH2x")
_DEST_KEY = struct.Struct("=HH HH16s HHH2x HHH2x")
_STATS, _STATS64 = 10, 12
# The first five of a nest of statistics are `Counters`, in their order, and rates after them. A kernel that must not
# read numbers from any address puts an empty attribute before each, so that they stand at multiples of eight.
_PADDING = struct.pack("=HH", 4, 11)
_COUNTER_HEADERS = tuple(struct.pack("=HH", 12, kind) for kind in range(1, COUNTERS + 1))
_SHORT_SIZES = (4, 4, 4, 8, 8)  # of kernels before 4.1
# One destination as ip_vs_genl_fill_dest() writes it: the record, the counts of its connections (active, inactive,
# and those of persistence, which are not looked at), its family, statistics.
_RECORD = struct.Struct("=2xH HH16s HHH2x HHI HHI HHB3x HHH2x HHH2x HHI HHI HH")
_RECORD_LENGTHS = (20, 6, 8, 8, 5, 6, 6, 8, 8, 8)
_RECORD_TYPES = (1, 2, 3, 4, 13, 14, 15, 5, 6, 7)
_PLACED = slice(4, 32)  # the bytes of a record that say which one it is: its address and port
_INACTIVE = struct.pack("=HH", 8, 8)
_FAMILY_OF = {struct.pack("=HHH2x", 6, 11, family): int(family) for family in (AF_INET, AF_INET6)}
_LISTED_SIZE = 16 + _GENL + _RECORD.size + 28  # bytes of a message without its statistics
_MULTI = 0x2

_FAMILY = {4: int(AF_INET), 6: int(AF_INET6)}
_PROTOCOL = {
    Protocol.TCP: int(IPPROTO_TCP),
    Protocol.UDP: int(IPPROTO_UDP),
    Protocol.SCTP: int(IPPROTO_SCTP),
}
_PROTOCOL_NAMED = {number: name for name, number in _PROTOCOL.items()}
_FORWARDING = {Forwarding.NAT: 0, Forwarding.TUNNEL: 2, Forwarding.DR: 3}
_FORWARDING_NAMED = {number: name for name, number in _FORWARDING.items()}

_TUNNEL = {TunnelType.IPIP: 0, TunnelType.GUE: 1, TunnelType.GRE: 2}
_TUNNEL_NAMED = {number: name for name, number in _TUNNEL.items()}
_CHECKSUM = {TunnelChecksum.NONE: 0, TunnelChecksum.FULL: 1, TunnelChecksum.REMOTE: 2}
_CHECKSUM_NAMED = {number: name for name, number in _CHECKSUM.items()}
_PLAIN = Tunnel()
_ROLE = {SyncRole.MASTER: 1, SyncRole.BACKUP: 2}
_ROLE_NAMED = {number: name for name, number in _ROLE.items()}

_PERSISTENT, _HASHED, _ONE_PACKET = 0x1, 0x2, 0x4
_ALL_FLAGS = 0xFFFFFFFF
_FLAG = {
    SchedulerFlag.MH_FALLBACK: 0x08,
    SchedulerFlag.MH_PORT: 0x10,
    SchedulerFlag.SH_FALLBACK: 0x08,
    SchedulerFlag.SH_PORT: 0x10,
}
# The same bits mean different things to different schedulers, and nothing to most.
_FLAGS_OF = {
    Scheduler.MH: (SchedulerFlag.MH_FALLBACK, SchedulerFlag.MH_PORT),
    Scheduler.SH: (SchedulerFlag.SH_FALLBACK, SchedulerFlag.SH_PORT),
}


class Request(NamedTuple):
    """One command to IPVS, not yet framed."""

    command: int
    body: bytes


class ServiceRecord(NamedTuple):
    """A service as the kernel reports it, without its destinations.

    What our values cannot say (a persistence engine, flags its scheduler does not know) is in `settings.foreign`:
    so it equals nothing that we want, and is repaired where the service is ours.
    """

    key: Key | None  # None: of a protocol we have no name for
    settings: Settings
    counters: Counters = Counters()  # the kernel adds up every two seconds


class DestinationRecord(NamedTuple):
    """A destination as the kernel reports it, apart from what is counted there."""

    destination: Destination
    connections: Connections

    @property
    def key(self) -> DestinationKey:
        return self.destination.key


def requests(op: IpvsOp) -> tuple[Request, ...]:
    """The commands that carry out `op`. They belong together and go out in one batch."""
    match op:
        case AddService(service=key, settings=settings):
            return (Request(NEW_SERVICE, _service(key, settings)),)
        case SetService(service=key, settings=settings):
            return (Request(SET_SERVICE, _service(key, settings)),)
        case RemoveService(service=key):
            return (Request(DEL_SERVICE, service_key(key)),)
        case AddDestination(service=key, destination=destination):
            return _insertion(service_key(key), destination)
        case SetDestination(service=key, destination=destination):
            packed = service_key(key)
            record = Request(SET_DEST, packed + _destination(destination, destination.weight))
            if not op.rebuild:
                return (record,)
            # mh builds its table with the last weight that was not 0: this one comes and goes in one batch.
            return Request(SET_DEST, packed + _destination(destination, destination.table_weight)), record
        case MoveDestination(service=key, destination=destination):
            packed = service_key(key)
            removal = Request(DEL_DEST, packed + _destination_key(destination.key))
            return (removal, *_insertion(packed, destination))
        case RemoveDestination(service=key, key=gone):
            return (Request(DEL_DEST, service_key(key) + _destination_key(gone)),)
        case _:
            assert_never(op)


def _insertion(service: bytes, destination: Destination) -> tuple[Request, ...]:
    # mh builds its table from the weight of the insertion and leaves out a destination inserted with 0.
    new = Request(NEW_DEST, service + _destination(destination, destination.table_weight))
    if destination.weight == destination.table_weight:
        return (new,)
    return new, Request(SET_DEST, service + _destination(destination, destination.weight))


def _packed(address: Address) -> bytes:
    return address.packed.ljust(16, b"\0")


def _key_attributes(key: Key) -> bytes:
    family = attribute(1, struct.pack("=H", _FAMILY[version_of(key)]))
    if isinstance(key, MarkKey):
        return family + attribute(5, struct.pack("=I", key.mark))
    return (
        family
        + attribute(2, struct.pack("=H", _PROTOCOL[key.protocol]))
        + attribute(3, _packed(key.address))
        + attribute(4, struct.pack("!H", key.port))
    )


@lru_cache(maxsize=1024)
def service_key(key: Key) -> bytes:
    """The nest of attributes that names a service."""
    return attribute(_NEST_SERVICE, _key_attributes(key))


def _service(key: Key, settings: Settings) -> bytes:
    bits = sum({_FLAG[flag] for flag in settings.flags})
    bits |= _ONE_PACKET if settings.one_packet else 0
    bits |= _PERSISTENT if settings.persistent else 0
    version = version_of(key)
    prefix = settings.persistent.prefix if settings.persistent else 32 if version == 4 else 128
    # A mask for IPv4, for IPv6 the prefix length in the host's byte order.
    netmask = struct.pack("=I", prefix) if version == 6 else _mask(prefix)
    return attribute(
        _NEST_SERVICE,
        _key_attributes(key)
        + attribute(6, settings.scheduler.encode("ascii") + b"\0")
        + attribute(7, struct.pack("=II", bits, _ALL_FLAGS))
        + attribute(8, struct.pack("=I", settings.persistent.timeout if settings.persistent else 0))
        + attribute(9, netmask),
    )


def _mask(prefix: int) -> bytes:
    return (0xFFFFFFFF << (32 - prefix) & 0xFFFFFFFF).to_bytes(4, "big")


def timeouts_request(timeouts: Timeouts) -> Request:
    numbers = (timeouts.tcp, timeouts.tcp_fin, timeouts.udp)
    return Request(
        SET_CONFIG,
        b"".join(attribute(kind, struct.pack("=I", number)) for kind, number in enumerate(numbers, 4)),
    )


def start_sync_request(role: SyncRole, sync: ConnectionSync) -> Request:
    return Request(
        NEW_DAEMON,
        attribute(
            _NEST_DAEMON,
            attribute(1, struct.pack("=I", _ROLE[role]))
            + attribute(2, sync.interface.encode("ascii") + b"\0")
            + attribute(3, struct.pack("=I", sync.id))
            + attribute(5 if sync.group.version == 4 else 6, sync.group.packed)
            + attribute(7, struct.pack("=H", sync.port))
            + attribute(8, struct.pack("=B", sync.ttl)),
        ),
    )


def stop_sync_request(role: SyncRole) -> Request:
    return Request(DEL_DAEMON, attribute(_NEST_DAEMON, attribute(1, struct.pack("=I", _ROLE[role]))))


def _destination(destination: Destination, weight: int) -> bytes:
    # The kernel takes a SET for the whole record: what is left out becomes 0, so nothing is.
    return _DEST.pack(
        *(_DEST.size, _NEST_DEST),
        *(20, 1, _packed(destination.address)),
        *(6, 2, htons(destination.port)),
        *(8, 3, _FORWARDING[destination.forwarding]),
        *(8, 4, weight),
        *(8, 5, destination.upper),
        *(8, 6, destination.lower),
        *(6, 11, _FAMILY[destination.address.version]),
        *(5, 13, _TUNNEL[destination.tunnel.type]),
        *(6, 14, htons(destination.tunnel.port)),
        *(6, 15, _CHECKSUM[destination.tunnel.checksum]),
    )


def _destination_key(key: DestinationKey) -> bytes:
    address, port = key
    return _DEST_KEY.pack(
        *(_DEST_KEY.size, _NEST_DEST),
        *(20, 1, _packed(address)),
        *(6, 2, htons(port)),
        *(6, 11, _FAMILY[address.version]),
    )


def question(request: Request, *, family: int, sequence: int) -> bytes:
    """A request that is answered by one message, which is no dump and is not acknowledged."""
    size = _HEADER.size + len(request.body)
    return _HEADER.pack(size, family, NLM_F_REQUEST, sequence, 0, request.command, _VERSION, 0) + request.body


def frame(batch: Sequence[Request], *, family: int, sequence: int) -> bytes:
    """The batch as one buffer to send, numbered from `sequence` on.

    Only the last asks for an acknowledgement: the kernel answers every error anyhow, so that answer is a
    barrier and silence before it means success.
    """
    parts: list[bytes] = []
    final = len(batch) - 1
    for index, (command, body) in enumerate(batch):
        flags = NLM_F_REQUEST | NLM_F_ACK if index == final else NLM_F_REQUEST
        header = _HEADER.pack(
            _HEADER.size + len(body), family, flags, sequence + index, 0, command, _VERSION, 0
        )
        parts += (header, body)
    return b"".join(parts)


def dump_frame(request: Request, *, family: int, sequence: int) -> bytes:
    size = _HEADER.size + len(request.body)
    flags = NLM_F_REQUEST | NLM_F_DUMP
    return _HEADER.pack(size, family, flags, sequence, 0, request.command, _VERSION, 0) + request.body


def family_frame(sequence: int) -> bytes:
    """Asks for the number of the IPVS family. The kernel loads the module to answer it, where it can."""
    name = attribute(_CTRL_FAMILY_NAME, b"IPVS\0")
    size = _HEADER.size + len(name)
    return _HEADER.pack(size, _GENL_ID_CTRL, NLM_F_REQUEST, sequence, 0, _CTRL_GETFAMILY, 1, 0) + name


def _port(fields: dict[int, bytes], kind: int) -> int:
    return ntohs(number(fields, kind, 2))


def _address(family: int, data: bytes) -> Address:
    if len(data) != 16:
        raise Malformed(f"address of {len(data)} bytes")
    if family == AF_INET:
        return IPv4Address(data[:4])
    if family == AF_INET6:
        return IPv6Address(data)
    raise Malformed(f"address family {family}")


def parse_family(data: bytes, message: Message) -> int:
    """The number of the IPVS family. Raises Malformed."""
    family = number(attributes(data, message.start + _GENL, message.end), _CTRL_FAMILY_ID, 2)
    if not family:
        raise Malformed("no family number in the answer")
    return family


class Services:
    """Reads the services of dump after dump. What it has seen before it knows by its bytes.

    The statistics come last in a record, and are as long in each. What is before them is the service.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[Key | None, Settings]] = {}
        # Of the record that was taken apart last: bytes from the statistics to the end and the header they begin
        # with, and from the first counter.
        self._tail, self._begin = 0, b""
        self._counter, self._numbers = 0, _numbers(12)

    def parse(self, data: bytes, message: Message) -> ServiceRecord:
        """Raises Malformed."""
        cut, counter = message.end - self._tail, message.end - self._counter
        if self._tail and cut > message.start + _GENL and data[cut : cut + 4] == self._begin:
            known = self._seen.get(data[message.start + _GENL : cut])
            if known is not None:
                told = self._numbers.unpack_from(data, counter)
                if told[::2] == _COUNTER_HEADERS:
                    return ServiceRecord(*known, Counters._make(told[1::2]))
        record = parse_service(data, message)
        if self._measure(data, message):
            known = (record.key, record.settings)
            self._seen[data[message.start + _GENL : message.end - self._tail]] = known
        return record

    def forget(self, but: int) -> None:
        """What was seen too long ago, once it is more than twice as much as there is."""
        if len(self._seen) > 2 * but + 64:
            self._seen.clear()

    def _measure(self, data: bytes, message: Message) -> bool:
        """Where the statistics are. False: not where they are expected."""
        nest = message.start + _GENL
        places = dict(places_of(data, nest + 4, message.end))
        kinds = list(places)
        if _STATS not in kinds or kinds[kinds.index(_STATS) :] != [_STATS, _STATS64]:
            return False
        found = _counters_at(data, places[_STATS64], message.end)
        if found is None:
            return False
        begin, (counter, stride) = places[_STATS], found
        self._tail, self._begin = message.end - begin, data[begin : begin + 4]
        self._counter, self._numbers = message.end - counter, _numbers(stride)
        return True


@lru_cache(maxsize=8)
def _numbers(stride: int) -> struct.Struct:
    """Headers and counters, `stride` bytes from one to the next."""
    return struct.Struct("=4sQ" + f"{stride - 12}x4sQ" * (COUNTERS - 1))


def _counters_at(data: bytes, nest: int, end: int) -> tuple[int, int] | None:
    """Where the first header of the long counters of a nest is, and bytes to the next. None: not as expected."""
    first = nest + 4
    if data[first : first + 4] == _PADDING:
        first += 4
    stride = 16 if data[first + 12 : first + 16] == _PADDING else 12
    if first + stride * COUNTERS > end:
        return None
    headers = tuple(data[at : at + 4] for at in range(first, first + stride * COUNTERS, stride))
    return (first, stride) if headers == _COUNTER_HEADERS else None


def parse_service(data: bytes, message: Message) -> ServiceRecord:
    """One service of a dump. Raises Malformed."""
    nest = attributes(data, message.start + _GENL, message.end).get(_NEST_SERVICE)
    if nest is None:
        raise Malformed("a service without its attributes")
    fields = attributes(nest, 0, len(nest))
    scheduler = fields.get(6, b"").rstrip(b"\0").decode("ascii", "replace")
    bits = int.from_bytes(fields.get(7, bytes(8))[:4], sys.byteorder) & ~_HASHED
    known = [flag for flag in _flags_of(scheduler) if bits & _FLAG[flag]]
    foreign = []
    if rest := bits & ~(_PERSISTENT | _ONE_PACKET) & ~sum(_FLAG[flag] for flag in known):
        foreign.append(f"flags={rest:#x}")
    if 11 in fields:
        foreign.append("pe=" + fields[11].rstrip(b"\0").decode("ascii", "replace"))
    return ServiceRecord(
        _key_of(fields),
        Settings(
            scheduler=scheduler,
            flags=frozenset(known),
            one_packet=bool(bits & _ONE_PACKET),
            persistent=_persistent(fields) if bits & _PERSISTENT else None,
            foreign=" ".join(foreign),
        ),
        _counters(fields),
    )


def _counters(fields: dict[int, bytes]) -> Counters:
    """Raises Malformed."""
    # Kernels before 4.1 have the short counters only, and those turn over.
    sizes = (8,) * COUNTERS if _STATS64 in fields else _SHORT_SIZES
    nest = fields.get(_STATS64, fields.get(_STATS, b""))
    found = attributes(nest, 0, len(nest))
    return Counters._make(number(found, kind, size) for kind, size in enumerate(sizes, 1))


def _persistent(fields: dict[int, bytes]) -> Persistent:
    netmask = fields.get(9, bytes(4))
    six = number(fields, 1, 2) == AF_INET6
    prefix = int.from_bytes(netmask, sys.byteorder) if six else int.from_bytes(netmask, "big").bit_count()
    return Persistent(timeout=number(fields, 8, 4), prefix=prefix)


def _key_of(fields: dict[int, bytes]) -> Key | None:
    family = number(fields, 1, 2)
    if 5 in fields:
        return MarkKey(mark=number(fields, 5, 4), version=6 if family == AF_INET6 else 4)
    protocol = _PROTOCOL_NAMED.get(number(fields, 2, 2))
    if protocol is None:
        return None
    return ServiceKey(protocol=protocol, address=_address(family, fields.get(3, b"")), port=_port(fields, 4))


def parse_timeouts(data: bytes, message: Message) -> Timeouts:
    """The answer to GET_CONFIG. Raises Malformed."""
    fields = attributes(data, message.start + _GENL, message.end)
    return Timeouts(tcp=number(fields, 4, 4), tcp_fin=number(fields, 5, 4), udp=number(fields, 6, 4))


def parse_daemon(data: bytes, message: Message) -> tuple[SyncRole, ConnectionSync]:
    """One daemon of a dump. Raises Malformed."""
    nest = attributes(data, message.start + _GENL, message.end).get(_NEST_DAEMON)
    if nest is None:
        raise Malformed("a sync daemon without its attributes")
    fields = attributes(nest, 0, len(nest))
    role = _ROLE_NAMED.get(number(fields, 1, 4))
    if role is None:
        raise Malformed(f"sync daemon of state {number(fields, 1, 4)}")
    return role, ConnectionSync(
        interface=fields.get(2, b"").rstrip(b"\0").decode("utf-8", "replace"),
        id=number(fields, 3, 4),
        group=_group(fields),
        port=number(fields, 7, 2),
        ttl=number(fields, 8, 1),
    )


def _group(fields: dict[int, bytes]) -> Address:
    kind, group = (6, IPv6Address) if 6 in fields else (5, IPv4Address)
    try:
        return group(fields.get(kind, bytes(4)))
    except ValueError as error:
        raise Malformed(f"multicast group: {error}") from error


def _flags_of(scheduler: str) -> tuple[SchedulerFlag, ...]:
    return _FLAGS_OF[Scheduler(scheduler)] if scheduler in _FLAGS_OF else ()


class Listing:
    """The real servers of one service as one dump tells them, newest first: taken in without being decoded.

    Nearly always they are those of the dump before, which `digest` tells.
    """

    def __init__(self, family: int) -> None:
        self._family = family  # the number of IPVS
        self._told: list[bytes | DestinationRecord] = []  # whole datagrams, and what was not as expected
        self._is_odd = False
        self._records: list[bytes] = []
        self._families: list[bytes] = []
        self._active: list[int] = []
        self._inactive: list[int] = []
        self._counters: list[tuple[bytes, ...]] = []  # of each, where they are as expected

    @property
    def parts(self) -> int:
        """More than one: another program may have written between them."""
        return len(self._told)

    def take(self, data: bytes, sequence: int) -> bool:
        """Whether it is a datagram of destinations alone, all as long as each other; only then it is taken."""
        size = int.from_bytes(data[:4], sys.byteorder)
        if size < _LISTED_SIZE or size & 3 or len(data) % size:
            return False
        rows = zip(*_rows(size, *_traffic_at(data, size)).iter_unpack(data), strict=True)
        sizes, kinds, flags, sequences, records, active, apart, inactive, families, *counters = rows
        many = len(sizes)
        if not (
            sizes.count(size) == kinds.count(self._family) == sequences.count(sequence) == many
            and flags.count(_MULTI) == apart.count(_INACTIVE) == many
        ):
            return False
        self._told.append(data)
        self._records += records
        self._families += families
        self._active += active
        self._inactive += inactive
        self._counters += zip(*counters, strict=True)
        return True

    def parse(self, data: bytes, message: Message) -> None:
        """What was not taken. Raises Malformed."""
        self._told.append(parse_destination(data, message))
        self._is_odd = True

    def digest(self) -> bytes | None:
        """Equal for equal records in the same order, whatever is counted there. None: they are not as expected."""
        if self._is_odd:
            return None
        return hashlib.blake2b(b"".join(self._records + self._families), digest_size=16).digest()

    def twice(self) -> bool:
        """Whether a real server is told of more than once."""
        if self._is_odd:
            keys = [one.key for one in self._walked()]
            return len(set(keys)) < len(keys)
        placed = (record[_PLACED] for record in self._records)
        return len(set(zip(placed, self._families, strict=True))) < len(self._records)

    def counts(self) -> bytes:
        """As `ipvs.packed` has them, in the order of insertion. Of records that `digest` has shown to be known."""
        if not any(self._active) and not any(self._inactive):
            return b""
        return packed(map(Connections, reversed(self._active), reversed(self._inactive)))

    def traffic(self) -> bytes:
        """The counters of each real server, as `ipvs.COUNTED`, in the order of insertion; empty: not as expected."""
        if self._is_odd or len(self._counters) != len(self._records):
            return b""
        return b"".join(itertools.chain.from_iterable(reversed(self._counters)))

    def decoded(self, addresses: Mapping[bytes, Address]) -> Iterator[DestinationRecord]:
        """Newest first. `addresses`: objects that are there already, by their bytes. Raises Malformed."""
        if self._is_odd or not all(map(_is_as_expected, self._records)):
            return self._walked()
        found = map(_decoded, self._records, self._families, itertools.repeat(addresses))
        return map(DestinationRecord, found, map(Connections, self._active, self._inactive))

    def _walked(self) -> Iterator[DestinationRecord]:
        for one in self._told:
            if isinstance(one, bytes):
                yield from (parse_destination(one, message) for message in messages(one))
            else:
                yield one


@lru_cache(maxsize=8)
def _rows(size: int, counters: int, stride: int) -> struct.Struct:
    """Messages of `size` bytes: header, record, active, a header, inactive, family, counters, if there are any."""
    statistics = size - _LISTED_SIZE
    rest = f"{statistics}x"
    if stride:
        before, after = counters - _LISTED_SIZE, size - counters - stride * COUNTERS
        rest = f"{before}x" + f"4x8s{stride - 12}x" * COUNTERS + f"{after}x"
    return struct.Struct(f"=IHHI4x {_GENL}x {_RECORD.size}s I 4s I 8x 8s {rest}")


def _traffic_at(data: bytes, size: int) -> tuple[int, int]:
    """Where the counters are in the first message; of as many bytes, all others have them there. Zeros: nowhere."""
    nest = _LISTED_SIZE + ((int.from_bytes(data[_LISTED_SIZE : _LISTED_SIZE + 2], sys.byteorder) + 3) & ~3)
    short = int.from_bytes(data[_LISTED_SIZE + 2 : _LISTED_SIZE + 4], sys.byteorder) & ~_NESTED
    long = int.from_bytes(data[nest + 2 : nest + 4], sys.byteorder) & ~_NESTED
    if nest + 4 > size or (short, long) != (_STATS, _STATS64):
        return 0, 0
    return _counters_at(data, nest, size) or (0, 0)


def _is_as_expected(record: bytes) -> bool:
    v = _RECORD.unpack(record)
    return v[1::3] == _RECORD_LENGTHS and v[2::3] == _RECORD_TYPES and v[0] & ~_NESTED == _NEST_DEST


def _decoded(record: bytes, family: bytes, addresses: Mapping[bytes, Address]) -> Destination:
    v = _RECORD.unpack(record)
    if family not in _FAMILY_OF:
        raise Malformed(f"a real server of the family {family.hex()}")
    version = _FAMILY_OF[family]
    data = v[3]
    return _destination_of(
        addresses.get(data[:4] if version == AF_INET else data) or _address(version, data),
        ntohs(v[6]),
        forwarding=v[9],
        weight=v[12],
        tunnel=(v[15], ntohs(v[18]), v[21]),
        thresholds=(v[24], v[27]),
    )


def parse_destination(data: bytes, message: Message) -> DestinationRecord:
    """One destination of a dump, in whatever order a kernel writes its attributes. Raises Malformed."""
    nest = attributes(data, message.start + _GENL, message.end).get(_NEST_DEST)
    if nest is None:
        raise Malformed("a destination without its attributes")
    fields = attributes(nest, 0, len(nest))
    destination = _destination_of(
        _address(number(fields, 11, 2), fields.get(1, b"")),
        _port(fields, 2),
        forwarding=number(fields, 3, 4),
        weight=number(fields, 4, 4),
        tunnel=(number(fields, 13, 1), _port(fields, 14), number(fields, 15, 2)),
        thresholds=(number(fields, 5, 4), number(fields, 6, 4)),
    )
    return DestinationRecord(destination, Connections(number(fields, 7, 4), number(fields, 8, 4)))


def _destination_of(
    address: Address,
    port: int,
    *,
    forwarding: int,
    weight: int,
    tunnel: tuple[int, int, int],
    thresholds: tuple[int, int],
) -> Destination:
    method = _FORWARDING_NAMED.get(forwarding)
    plain = tunnel == (0, 0, 0)
    wrapping = _PLAIN if plain else _tunnel(*tunnel)
    foreign = "" if method is not None and wrapping is not None else _foreign(forwarding, tunnel)
    return Destination(
        address=address,
        port=port,
        weight=weight,
        forwarding=method or Forwarding.NAT,
        # What it was built with is told only while it is the weight.
        table_weight=weight,
        tunnel=wrapping or _PLAIN,
        upper=thresholds[0],
        lower=thresholds[1],
        foreign=foreign,
    )


def _tunnel(kind: int, port: int, checksum: int) -> Tunnel | None:
    """None: there is no name for it here."""
    if kind not in _TUNNEL_NAMED or checksum not in _CHECKSUM_NAMED:
        return None
    return Tunnel(type=_TUNNEL_NAMED[kind], port=port, checksum=_CHECKSUM_NAMED[checksum])


def _foreign(forwarding: int, tunnel: tuple[int, int, int]) -> str:
    words = []
    if forwarding not in _FORWARDING_NAMED:
        words.append({1: "local", 4: "bypass"}.get(forwarding, f"forwarding={forwarding}"))
    if _tunnel(*tunnel) is None:
        words.append(f"tunnel={tunnel[0]} flags={tunnel[2]}")
    return " ".join(words)
