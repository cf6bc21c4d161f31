"""The IPVS table of this network namespace: read as values, changed by operations.

One writer, one socket. Every request has a deadline, for the kernel leaves a request unanswered when its
handler was interrupted; what a failed or unanswered request did is found out by reading again.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar, assert_never

from anycast.core.dataplane.ipvs import (
    COUNTED,
    AddDestination,
    AddService,
    Destination,
    DestinationKey,
    IpvsOp,
    Key,
    MoveDestination,
    RemoveDestination,
    RemoveService,
    ServiceEntry,
    SetDestination,
    SetService,
    Settings,
    Table,
    entry,
    packed,
    spelt,
    version_of,
)
from anycast.core.dataplane.kernel import Failure, SetTimeouts, StartSync, StopSync, SyncRole
from anycast.core.values.configuration import ConnectionSync, Scheduler, Timeouts, TunnelType
from anycast.core.values.persistent import PersistentMap
from anycast.kernel import ipvs_codec as codec
from anycast.kernel.errors import KernelUnavailable
from anycast.kernel.ipvs_codec import ServiceRecord
from anycast.kernel.netlink import Dump, Netlink, Parse, Quick, RefusedError, paced
from anycast.kernel.netlink_codec import Malformed

BATCH = 256  # requests per send; thousands would not fit the send buffer
# The kernel works while we send, and the event loop stands. A change under mh rebuilds the Maglev table, 120-275 µs
# each against 4-10: so many times fewer per send. For what cannot be known, as each server is searched for among
# all of its service, the size follows what the last send took.
REBUILD_COST = 16
READS = 3  # of one dump, while another program writes

_NETLINK_GENERIC = 16
_MOST_CONNECTIONS = 2**31 - 1  # of a threshold; up to 6.1 the kernel takes more
_PARTED = 2  # parts of a dump, between which another program can write
_TURN = 64  # real servers that are decoded between two looks at the clock
_RESTLESS = (
    f"IPVS: the table changed during each of {READS} reads: "
    "another program keeps writing to it; stop it (keepalived, kube-proxy, ipvsadm?)"
)
_TIMEOUTS = codec.Request(codec.GET_CONFIG, b"")


T = TypeVar("T")


_Batch: TypeAlias = list[tuple[IpvsOp, tuple[codec.Request, ...]]]


class Reading(NamedTuple):
    """What a read found."""

    table: PersistentMap[Key, ServiceEntry]
    timeouts: Timeouts
    sync: Mapping[SyncRole, ConnectionSync]
    packets: Mapping[Key, int]  # that each service has taken in
    connections: PersistentMap[Key, bytes]  # packed, of those that have any
    traffic: PersistentMap[Key, bytes]  # as `COUNTED`, of those that have had any


NOTHING = Reading(PersistentMap(), Timeouts(), {}, {}, PersistentMap(), PersistentMap())


class _Known(NamedTuple):
    """A service as last read, and what tells at the next reading that it is still that."""

    entry: ServiceEntry
    settings: Settings
    digest: bytes | None  # of its real servers; None: nothing tells
    counts: bytes
    traffic: bytes


class Ipvs:
    """Opens its socket when first used and again after every failure."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._netlink = Netlink(_NETLINK_GENERIC)
        self._family = 0
        self._services = codec.Services()
        self._known: dict[Key, _Known] = {}
        self._last = NOTHING
        self._whole = False  # whether `_last` is a reading, and nothing failed since
        self._schedulers: dict[Key, str] = {}  # set since the last reading
        self._batch = float(BATCH)  # requests that fit in a slice

    def close(self) -> None:
        self._netlink.close()

    def forget(self) -> None:
        """The next read is of everything."""
        self._whole = False

    async def read(self, only: Iterable[Key] | None = None, alike: Table | None = None) -> Reading:
        """The table, destinations in their order of insertion.

        A service that has not changed is the same object as in the last reading. `only`: these services are read, the
        others are as in the last reading; where there was none, all are. Of `alike` objects are taken where they equal
        what is read, for the memory. Raises KernelUnavailable.
        """
        async with self._lock:
            try:
                return await self._read(only, alike or {})
            except OSError as error:
                raise _unavailable(error) from error
            except Malformed as error:
                raise KernelUnavailable(
                    f"IPVS: an answer of the kernel was not understood: {error}"
                ) from error

    async def play(self, ops: Sequence[IpvsOp]) -> tuple[Failure, ...]:
        """Carries out `ops` in order. Returns what failed, which hinders no other.

        After a failure read again: another program may have changed the table, or an answer is missing.
        """
        async with self._lock:
            failures: list[Failure] = []
            never_added: set[Key] = set()
            done = 0
            loop = asyncio.get_running_loop()
            for batch, cost in self._batches(ops):
                began = loop.time()
                try:
                    if not self._family:
                        self._family = await self._resolve()
                    errors = await self._write([request for _, part in batch for request in part])
                except (OSError, Malformed) as error:
                    reason = _unavailable(error).reason if isinstance(error, OSError) else str(error)
                    lost = tuple(ops[done:])
                    failures.append(Failure(lost, f"{_what(lost[0])} and {len(lost) - 1} more: {reason}"))
                    break
                failures += _failures(batch, errors, never_added)
                done += len(batch)
                took = loop.time() - began
                self._batch = paced(self._batch, cost, took, least=REBUILD_COST, most=BATCH)
                await asyncio.sleep(0)
            return tuple(failures)

    async def configure(self, op: SetTimeouts | StartSync | StopSync) -> None:
        """Raises OSError: what the kernel refused, or no answer. A sync daemon that is stopped takes its time."""
        match op:
            case SetTimeouts(timeouts=timeouts):
                batch = [codec.timeouts_request(timeouts)]
            case StartSync(role=role, sync=sync):
                batch = [codec.start_sync_request(role, sync)]
            case StopSync(role=role):
                # A daemon that was started just before is stopped without an answer. The second time there is
                # none, and that is said.
                batch = [codec.stop_sync_request(role)] * 2
            case _:
                assert_never(op)
        async with self._lock:
            self._family = self._family or await self._resolve()
            for code in (await self._write(batch)).values():
                if not (isinstance(op, StopSync) and code == errno.ESRCH):
                    raise OSError(code, os.strerror(code))

    def _batches(self, ops: Sequence[IpvsOp]) -> Iterator[tuple[_Batch, int]]:
        """With what each costs, in insertions under rr."""
        batch: _Batch = []
        spent = 0
        for op in ops:
            part = codec.requests(op)
            cost = len(part) * (REBUILD_COST if self._rebuilds(op) else 1)
            if batch and spent + cost > self._batch:
                yield batch, spent
                batch, spent = [], 0
            batch.append((op, part))
            spent += cost
        if batch:
            yield batch, spent

    def _rebuilds(self, op: IpvsOp) -> bool:
        if isinstance(op, AddService | SetService):
            self._schedulers[op.service] = op.settings.scheduler
        known = self._known.get(op.service)
        read = Scheduler.MH if known is None else known.settings.scheduler
        return self._schedulers.get(op.service, read).startswith(Scheduler.MH)

    async def _read(self, only: Iterable[Key] | None, alike: Table) -> Reading:
        # Asked anew at every read: the number changes when the module is taken out and loaded again.
        family = await self._resolve()
        some = None if only is None or not self._whole or family != self._family else dict.fromkeys(only)
        self._family, self._whole = family, False
        if some is None:
            records = await self._listed()
            looked = dict.fromkeys(self._known)
        else:
            looked = some
            asked = [await self._asked(key) for key in some]
            records = [record for record in asked if record is not None]
        found: dict[Key, _Known] = {}
        packets: dict[Key, int] = {}
        for record in records:
            key = record.key
            if key is None:
                continue
            known = await self._destinations(key, record, alike.get(key))
            if known is not None:
                found[key] = known
                packets[key] = record.counters.packets_in
        gone = [key for key in looked if key not in found]
        if some is not None:
            packets = {**self._last.packets, **packets}
            for key in gone:
                packets.pop(key, None)
        reading = await self._reading(found, packets, gone)
        for key in gone:
            self._known.pop(key, None)
        self._known.update(found)
        self._schedulers.clear()
        self._last, self._whole = reading, True
        return reading

    async def _reading(
        self, found: Mapping[Key, _Known], packets: Mapping[Key, int], gone: Sequence[Key]
    ) -> Reading:
        last = self._last
        # Two at most, in one part: never torn.
        daemons, _ = await self._dumped(codec.Request(codec.GET_DAEMON, b""), codec.parse_daemon)
        timeouts = await self._netlink.answer(
            lambda sequence: codec.question(_TIMEOUTS, family=self._family, sequence=sequence),
            codec.parse_timeouts,
        )
        changed = {key: known for key, known in found.items() if known is not self._known.get(key)}
        idle = [key for key, known in changed.items() if not known.counts]
        unused = [key for key, known in changed.items() if not known.traffic]
        return Reading(
            table=last.table.updated({key: known.entry for key, known in changed.items()}, gone),
            timeouts=timeouts,
            sync=dict(daemons),
            packets=packets,
            connections=last.connections.updated(
                {key: known.counts for key, known in changed.items() if known.counts}, (*gone, *idle)
            ),
            traffic=last.traffic.updated(
                {key: known.traffic for key, known in changed.items() if known.traffic}, (*gone, *unused)
            ),
        )

    async def _resolve(self) -> int:
        return await self._netlink.answer(codec.family_frame, codec.parse_family)

    async def _listed(self) -> list[ServiceRecord]:
        # Dumps of IPVS are not atomic and do not say so: a writer in between shifts the list. So something is found
        # twice, or is left out that was there all the time; what was known can be asked for by itself.
        records: dict[Key, ServiceRecord] = {}
        for _ in range(READS):
            found, whole = await self._dumped(codec.Request(codec.GET_SERVICE, b""), self._services.parse)
            named = [(record.key, record) for record in found if record.key is not None]
            records |= named
            if whole and len(dict(named)) == len(named):
                records = dict(named)
                break
        self._services.forget(but=len(records))
        for key in [key for key in self._known if key not in records]:
            if (record := await self._asked(key)) is not None:
                records[key] = record
        return list(records.values())

    async def _asked(self, key: Key) -> ServiceRecord | None:
        request = codec.Request(codec.GET_SERVICE, codec.service_key(key))
        try:
            return await self._netlink.answer(
                lambda sequence: codec.question(request, family=self._family, sequence=sequence),
                self._services.parse,
            )
        except RefusedError as error:
            if error.errno != errno.ESRCH:
                raise
            return None

    async def _destinations(
        self, key: Key, record: ServiceRecord, alike: ServiceEntry | None
    ) -> _Known | None:
        """None: the service has gone meanwhile."""
        request = codec.Request(codec.GET_DEST, codec.service_key(key))
        known = self._known.get(key)
        missed: set[DestinationKey] = set()
        for _ in range(READS):
            listing = codec.Listing(self._family)
            _, whole = await self._dumped(request, listing.parse, listing.take)
            digest = listing.digest()
            if not listing.parts and await self._asked(key) is None:
                return None
            if known is not None and digest is not None and digest == known.digest and whole:
                return _still(known, record.settings, listing.counts(), _traffic(record, listing))
            records = await self._decoded(listing, alike or (known and known.entry))
            # As of services. What is left out cannot be asked for, so it has to be left out twice.
            left_out: set[DestinationKey] = set()
            if known is not None and listing.parts >= _PARTED:
                left_out = {one.key for one in known.entry.destinations} - {one.key for one in records}
            if whole and not listing.twice() and left_out == missed:
                found = entry(record.settings, (one.destination for one in records))
                counts = packed(one.connections for one in records)
                traffic = _traffic(record, listing)
                return _Known(_shared(found, known, alike), record.settings, digest, counts, traffic)
            missed = left_out
        raise KernelUnavailable(_RESTLESS)

    async def _decoded(
        self, listing: codec.Listing, likely: ServiceEntry | None
    ) -> list[codec.DestinationRecord]:
        there = {} if likely is None else {one.address.packed: one.address for one in likely.destinations}
        records = []
        for number, record in enumerate(listing.decoded(there)):
            if number % _TURN == _TURN - 1:
                await self._netlink.turn()
            records.append(record)
        return records[::-1]

    async def _dumped(self, request: codec.Request, parse: Parse[T], quick: Quick | None = None) -> Dump[T]:
        return await self._netlink.dump(
            lambda sequence: codec.dump_frame(request, family=self._family, sequence=sequence), parse, quick
        )

    async def _write(self, batch: Sequence[codec.Request]) -> dict[int, int]:
        """The errno of each request of the batch that failed, by its place."""
        return await self._netlink.write(
            lambda sequence: codec.frame(batch, family=self._family, sequence=sequence), len(batch)
        )


def _traffic(record: ServiceRecord, listing: codec.Listing) -> bytes:
    """Of the service, then of its real servers; empty: there was none."""
    if not any(record.counters):
        return b""
    return COUNTED.pack(*record.counters) + listing.traffic()


def _still(known: _Known, settings: Settings, counts: bytes, traffic: bytes) -> _Known:
    """With the same real servers."""
    if settings is known.settings and counts == known.counts and traffic == known.traffic:
        return known
    same = known.entry if settings == known.settings else entry(settings, known.entry.destinations)
    return _Known(
        same,
        settings,
        known.digest,
        known.counts if counts == known.counts else counts,
        known.traffic if traffic == known.traffic else traffic,
    )


def _shared(found: ServiceEntry, known: _Known | None, alike: ServiceEntry | None) -> ServiceEntry:
    """Equal to `found`, of objects that are there already as far as possible."""
    likely = [each for each in (known and known.entry, alike) if each is not None]
    for each in likely:
        if each == found:
            return each
    destinations = list(found.destinations)
    for each in likely:
        for place, (old, new) in enumerate(zip(each.destinations, found.destinations, strict=False)):
            if old == new:
                destinations[place] = old
    return entry(found.settings, destinations)


def _unavailable(error: OSError) -> KernelUnavailable:
    code = errno.errorcode.get(error.errno or 0, str(error.errno))
    match error.errno:
        case errno.ENOENT | errno.EPROTONOSUPPORT | errno.EAFNOSUPPORT:
            what = (
                "this kernel has no IPVS, or did not load it: run `modprobe -a ip_vs ip_vs_mh` (on the host)"
            )
        case errno.EPERM | errno.EACCES:
            what = "not allowed: this process needs CAP_NET_ADMIN, outside any user namespace"
        case _:
            what = error.strerror or str(error)
    return KernelUnavailable(f"IPVS: {what} ({code})")


def _failures(
    batch: _Batch,
    errors: Mapping[int, int],
    never_added: set[Key],
) -> Iterator[Failure]:
    """What failed of one batch. `never_added` gathers the services whose every further operation must fail."""
    if not errors:
        return
    place = 0
    for op, part in batch:
        codes = [errors.get(place + index, 0) for index in range(len(part))]
        place += len(part)
        if isinstance(op, MoveDestination) and codes[0] == errno.ENOENT:
            codes[0] = 0  # gone already, and inserted again by the next request
        failed = next((code for code in codes if code), 0)
        if not failed:
            continue
        if failed == errno.ESRCH and op.service in never_added:
            yield Failure((op,), "")  # said once, of the service
            continue
        if isinstance(op, AddService) and failed != errno.EEXIST:
            never_added.add(op.service)
        yield Failure((op,), f"{_what(op)}: {_why(op, failed)} ({errno.errorcode.get(failed, failed)})")


def _what(op: IpvsOp) -> str:
    match op:
        case AddService():
            return f"add service {op.service} ({op.settings.scheduler})"
        case SetService():
            return f"change service {op.service} to {op.settings.scheduler}"
        case RemoveService():
            return f"remove service {op.service}"
        case AddDestination():
            return f"add real server {spelt(op.destination.key)} to {op.service}"
        case SetDestination():
            return f"change real server {spelt(op.destination.key)} of {op.service}"
        case MoveDestination():
            return f"move real server {spelt(op.destination.key)} of {op.service}"
        case RemoveDestination():
            return f"remove real server {spelt(op.key)} from {op.service}"
        case _:
            assert_never(op)


def _why(op: IpvsOp, code: int) -> str:
    match code:
        case errno.EEXIST:
            return "it exists already: another program changed the table"
        case errno.ESRCH:
            return "the service does not exist: another program changed the table"
        case errno.ENOENT if isinstance(op, AddService | SetService):
            return f"the kernel has no scheduler {op.settings.scheduler}: run `modprobe ip_vs_{op.settings.scheduler}`"
        case errno.ENOENT:
            return "the real server does not exist: another program changed the table"
        case errno.EPERM:
            return "not allowed: this process needs CAP_NET_ADMIN, outside any user namespace"
        case errno.EINVAL if isinstance(op, AddDestination | MoveDestination | SetDestination):
            return _why_invalid(op.service, op.destination)
        case errno.ERANGE:
            return "refused: the upper threshold must not be below the lower, nor a weight above 2147483647"
        case _:
            return os.strerror(code)


def _why_invalid(key: Key, destination: Destination) -> str:
    if destination.tunnel.type is TunnelType.GUE and not destination.tunnel.port:
        return "refused: GUE needs a port"
    if max(destination.upper, destination.lower) > _MOST_CONNECTIONS:
        return f"refused: a threshold above {_MOST_CONNECTIONS} (kernels of 6.12 and later)"
    if destination.address.version != version_of(key):
        return "refused: a real server of the other address family needs forwarding tunnel and no connection sync"
    return (
        "refused: the interface lo must be up (`ip link set lo up`) and the address that of one host, "
        "not a link's own (fe80::/10)"
    )
