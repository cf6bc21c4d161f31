"""The IPVS table of this network namespace: read as values, changed by operations.

One writer, one socket. Every request has a deadline, for the kernel leaves a request unanswered when its
handler was interrupted; what a failed or unanswered request did is found out by reading again.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias, TypeVar, assert_never

from anycast.core.dataplane.ipvs import (
    AddDestination,
    AddService,
    Destination,
    IpvsOp,
    Key,
    MoveDestination,
    RemoveDestination,
    RemoveService,
    ServiceEntry,
    SetDestination,
    SetService,
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
from anycast.kernel.netlink import SLICE, Dump, Netlink, Parse
from anycast.kernel.netlink_codec import Malformed

BATCH = 256  # requests per send; thousands would not fit the send buffer
# The kernel works while we send, and the event loop stands. A change under mh rebuilds the Maglev table, 120-275 µs
# each against 4-10: so many times fewer per send. For what cannot be known, as each server is searched for among
# all of its service, the size follows what the last send took.
REBUILD_COST = 16
READS = 3  # of one dump, while another program writes

_NETLINK_GENERIC = 16
_TIMEOUTS = codec.Request(codec.GET_CONFIG, b"")


class _Keyed(Protocol):
    @property
    def key(self) -> Hashable: ...


K = TypeVar("K", bound=_Keyed)
T = TypeVar("T")


_Batch: TypeAlias = list[tuple[IpvsOp, tuple[codec.Request, ...]]]


class Reading(NamedTuple):
    """What a read found."""

    table: Mapping[Key, ServiceEntry]
    timeouts: Timeouts
    sync: Mapping[SyncRole, ConnectionSync]
    packets: Mapping[Key, int]  # that each service has taken in
    connections: Mapping[Key, bytes]  # packed, of those that have any


class Ipvs:
    """Opens its socket when first used and again after every failure."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._netlink = Netlink(_NETLINK_GENERIC)
        self._family = 0
        self._schedulers: dict[Key, str] = {}
        self._table: PersistentMap[Key, ServiceEntry] = PersistentMap()  # as last read
        self._batch = float(BATCH)  # requests that fit in a slice

    def close(self) -> None:
        self._netlink.close()

    async def read(self) -> Reading:
        """The whole table, destinations in their order of insertion. Raises KernelUnavailable."""
        async with self._lock:
            try:
                reading = await self._read()
            except OSError as error:
                raise _unavailable(error) from error
            except Malformed as error:
                raise KernelUnavailable(
                    f"IPVS: an answer of the kernel was not understood: {error}"
                ) from error
        self._schedulers = {key: entry.scheduler for key, entry in reading.table.items()}
        return reading

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
                self._batch = paced(self._batch, cost, loop.time() - began)
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
        return self._schedulers.get(op.service, Scheduler.MH).startswith(Scheduler.MH)

    async def _read(self) -> Reading:
        # Asked anew at every read: the number changes when the module is taken out and loaded again.
        self._family = await self._resolve()
        records = await self._dump(codec.Request(codec.GET_SERVICE, b""), codec.parse_service)
        table: dict[Key, ServiceEntry] = {}
        connections: dict[Key, bytes] = {}
        packets = {record.key: record.packets for record in records if record.key is not None}
        for key, settings, _ in records:
            if key is not None:
                request = codec.Request(codec.GET_DEST, codec.service_key(key))
                newest_first = await self._dump(request, codec.parse_destination)
                found = entry(settings, (one.destination for one in reversed(newest_first)))
                before = self._table.get(key)
                table[key] = before if found == before else found
                if counts := packed(one.connections for one in reversed(newest_first)):
                    connections[key] = counts
        self._table = self._table.updated(table, [key for key in self._table if key not in table])
        # Two at most, in one part: never torn.
        daemons, _ = await self._dumped(codec.Request(codec.GET_DAEMON, b""), codec.parse_daemon)
        timeouts = await self._netlink.answer(
            lambda sequence: codec.question(_TIMEOUTS, family=self._family, sequence=sequence),
            codec.parse_timeouts,
        )
        return Reading(self._table, timeouts, dict(daemons), packets, connections)

    async def _resolve(self) -> int:
        return await self._netlink.answer(codec.family_frame, codec.parse_family)

    async def _dump(self, request: codec.Request, parse: Parse[K]) -> list[K]:
        for _ in range(READS):
            found, whole = await self._dumped(request, parse)
            keys = [item.key for item in found if item.key is not None]
            # Dumps of IPVS are not atomic and do not say so: a writer in between shifts the list, and shows
            # only by what is then found twice.
            if whole and len(set(keys)) == len(keys):
                return found
        raise KernelUnavailable(
            f"IPVS: the table changed during each of {READS} reads: "
            "another program keeps writing to it; stop it (keepalived, kube-proxy, ipvsadm?)"
        )

    async def _dumped(self, request: codec.Request, parse: Parse[T]) -> Dump[T]:
        return await self._netlink.dump(
            lambda sequence: codec.dump_frame(request, family=self._family, sequence=sequence), parse
        )

    async def _write(self, batch: Sequence[codec.Request]) -> dict[int, int]:
        """The errno of each request of the batch that failed, by its place."""
        return await self._netlink.write(
            lambda sequence: codec.frame(batch, family=self._family, sequence=sequence), len(batch)
        )


def paced(batch: float, sent: int, took: float) -> float:
    """The size of the next batch. One slow send may be the machine's doing: at most half, and double again."""
    fits = sent * SLICE / took if took > 0 else BATCH
    return min(max(fits, batch / 2, REBUILD_COST), batch * 2, BATCH)


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
    if destination.address.version != version_of(key):
        return "refused: a real server of the other address family needs forwarding tunnel and no connection sync"
    return (
        "refused: the interface lo must be up (`ip link set lo up`) and the address that of one host, "
        "not a link's own (fe80::/10)"
    )
