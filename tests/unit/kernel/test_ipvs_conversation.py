"""How Ipvs speaks: what it sends at once, and what it makes of bad answers. The kernel here is a script."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from anycast.core.dataplane.ipvs import (
    AddDestination,
    AddService,
    Destination,
    IpvsOp,
    MarkKey,
    MoveDestination,
    ServiceEntry,
    ServiceKey,
    SetDestination,
    SetService,
    Settings,
)
from anycast.core.dataplane.kernel import Failure, SetTimeouts, StartSync, StopSync, SyncRole
from anycast.core.values.configuration import (
    ConnectionSync,
    Forwarding,
    Protocol,
    Timeouts,
    Tunnel,
    TunnelType,
)
from anycast.kernel import ipvs, netlink, netlink_codec
from anycast.kernel import ipvs_codec as codec
from anycast.kernel.errors import KernelUnavailable

FAMILY = 30
RESOLVE = 0  # in a script: the question for the number of the family
KEY = ServiceKey(protocol=Protocol.TCP, address=IPv4Address("192.0.2.1"), port=80)
TIMEOUTS = Timeouts(tcp=700, tcp_fin=70, udp=7)
SYNC = ConnectionSync(interface="eth0", id=7)
Reply = list[tuple[int, int, bytes]]  # kind, error, attributes
Script = Callable[[int, int], "Reply | None"]  # command, how often asked before; None: say nothing


def server(number: int, weight: int = 1) -> Destination:
    return Destination(
        address=IPv4Address("10.0.0.0") + number, port=80, weight=weight, forwarding=Forwarding.DR
    )


def written(op: IpvsOp) -> bytes:
    return codec.requests(op)[0].body


def add(number: int) -> AddDestination:
    return AddDestination(service=KEY, destination=server(number))


SERVICE = written(AddService(service=KEY, settings=Settings(scheduler="mh")))
DONE = (netlink_codec.NLMSG_DONE, 0, b"")


class Kernel:
    """Answers as `script` says, acknowledges what it has no answer for, and keeps what came in by datagram."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.batches: list[list[int]] = []
        self.sockets = 0
        self.body = b""  # of the request that is answered
        self._asked: dict[int, int] = {}
        self._open: list[socket.socket] = []

    def open(self) -> socket.socket:
        self.sockets += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        self._open.append(theirs)
        asyncio.get_running_loop().add_reader(theirs, self._answer, theirs)
        return ours

    def close(self) -> None:
        for line in self._open:
            line.close()

    def _answer(self, line: socket.socket) -> None:
        data = line.recv(1 << 20)
        if not data:
            asyncio.get_running_loop().remove_reader(line)
            return
        commands = []
        for message in netlink_codec.messages(data):
            command = data[message.start] if message.kind == FAMILY else RESOLVE
            commands.append(command)
            asked = self._asked.get(command, 0)
            self._asked[command] = asked + 1
            self.body = data[message.start + 4 : message.end]
            reply = self.script(command, asked)
            if reply == [] and message.flags & netlink_codec.NLM_F_ACK:
                reply = [(netlink_codec.NLMSG_ERROR, 0, b"")]
            if reply:
                line.send(b"".join(_packed(message.sequence, *part) for part in reply))
        self.batches.append(commands)


def _packed(sequence: int, kind: int, error: int, body: bytes) -> bytes:
    answer = kind in (netlink_codec.NLMSG_ERROR, netlink_codec.NLMSG_DONE)
    body = struct.pack("=i", -error) if answer else bytes(4) + body
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def quiet(command: int, asked: int) -> Reply | None:
    """An empty table that takes everything."""
    if command == RESOLVE:
        return [(16, 0, struct.pack("=HHHxx", 6, 1, FAMILY))]
    if command == codec.GET_CONFIG:
        return [(FAMILY, 0, codec.timeouts_request(TIMEOUTS).body)]
    return [DONE] if command in (codec.GET_SERVICE, codec.GET_DEST, codec.GET_DAEMON) else []


def listing(*servers: Destination) -> Reply:
    return [
        (FAMILY, 0, written(AddDestination(service=KEY, destination=one))[-DEST_SIZE:]) for one in servers
    ] + [DONE]


DEST_SIZE = len(written(add(1))) - len(codec.service_key(KEY))


def with_servers(*dumps: Reply) -> Script:
    """A table of one service whose destinations are listed as `dumps` says, the last for ever."""

    def script(command: int, asked: int) -> Reply | None:
        if command == codec.GET_SERVICE:
            return [(FAMILY, 0, SERVICE), DONE]
        if command == codec.GET_DEST:
            return dumps[min(asked, len(dumps) - 1)]
        return quiet(command, asked)

    return script


@contextlib.contextmanager
def speaking_to(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ipvs.Ipvs, Kernel]]:
    kernel = Kernel(script)
    monkeypatch.setattr(netlink, "open_socket", lambda protocol: kernel.open())
    table = ipvs.Ipvs()
    try:
        yield table, kernel
    finally:
        table.close()
        kernel.close()


def test_the_destinations_are_given_in_the_order_of_insertion(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with speaking_to(with_servers(listing(server(3), server(2), server(1))), monkeypatch) as (table, _):
            entry = (await table.read()).table[KEY]
            assert entry.destinations == (server(1), server(2), server(3))

    asyncio.run(story())


def test_the_timeouts_and_the_sync_daemons_that_run_are_read_with_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def script(command: int, asked: int) -> Reply | None:
        if command == codec.GET_DAEMON:
            started = codec.start_sync_request(SyncRole.BACKUP, SYNC)
            return [(FAMILY, 0, started.body), DONE]
        return quiet(command, asked)

    async def story() -> None:
        with speaking_to(script, monkeypatch) as (table, _):
            reading = await table.read()
            assert (reading.timeouts, reading.sync) == (TIMEOUTS, {SyncRole.BACKUP: SYNC})

    asyncio.run(story())


def test_a_destination_listed_twice_makes_it_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torn = listing(server(2), server(1), server(1))
    whole = listing(server(3), server(2), server(1))

    async def story() -> None:
        with speaking_to(with_servers(torn, torn, whole), monkeypatch) as (table, _):
            assert len((await table.read()).table[KEY].destinations) == 3

    asyncio.run(story())


def test_a_table_that_never_stands_still_is_unavailable_and_the_reason_names_the_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        with speaking_to(with_servers(listing(server(1), server(1))), monkeypatch) as (table, kernel):
            with pytest.raises(KernelUnavailable, match="another program keeps writing"):
                await table.read()
            assert kernel.batches.count([codec.GET_DEST]) == ipvs.READS

    asyncio.run(story())


def test_a_kernel_without_the_family_is_unavailable_and_the_reason_says_what_to_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        with speaking_to(failing((RESOLVE, errno.ENOENT)), monkeypatch) as (table, _):
            with pytest.raises(KernelUnavailable, match="modprobe -a ip_vs ip_vs_mh"):
                await table.read()
            (failure,) = await table.play([add(1), add(2)])
            assert failure.ops == (add(1), add(2))
            assert "add real server 10.0.0.1:80" in failure.text
            assert "and 1 more" in failure.text
            assert "modprobe -a ip_vs ip_vs_mh" in failure.text

    asyncio.run(story())


def test_a_dump_that_is_refused_names_the_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        script = failing((codec.GET_SERVICE, errno.EPERM))
        with (
            speaking_to(script, monkeypatch) as (table, _),
            pytest.raises(KernelUnavailable, match="CAP_NET_ADMIN"),
        ):
            await table.read()

    asyncio.run(story())


def test_an_unanswered_request_ends_at_the_deadline_and_the_next_one_has_a_new_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def script(command: int, asked: int) -> Reply | None:
        return None if command == codec.GET_SERVICE and not asked else quiet(command, asked)

    async def story() -> None:
        monkeypatch.setattr(netlink, "DEADLINE", 0.05)
        with speaking_to(script, monkeypatch) as (table, kernel):
            with pytest.raises(KernelUnavailable, match=r"did not answer within 0\.05 s"):
                await table.read()
            assert (await table.read()).table == {}
            assert kernel.sockets == 2

    asyncio.run(story())


def test_a_cancelled_request_leaves_no_answer_behind_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for = asyncio.Event()

    def script(command: int, asked: int) -> Reply | None:
        if command == codec.GET_SERVICE and not asked:
            asked_for.set()
            return None
        return quiet(command, asked)

    async def story() -> None:
        with speaking_to(script, monkeypatch) as (table, kernel):
            reading = asyncio.create_task(table.read())
            await asked_for.wait()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert (await table.read()).table == {}
            assert kernel.sockets == 2

    asyncio.run(story())


def sizes_of(ops: list[IpvsOp], monkeypatch: pytest.MonkeyPatch, *, in_time: float = 60.0) -> list[list[int]]:
    async def story() -> list[list[int]]:
        monkeypatch.setattr(netlink, "SLICE", in_time)
        with speaking_to(quiet, monkeypatch) as (table, kernel):
            assert await table.play(ops) == ()
            return kernel.batches[1:]  # without the question for the family

    return asyncio.run(story())


def test_insertions_under_rr_go_out_256_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ops: list[IpvsOp] = [AddService(service=KEY, settings=Settings(scheduler="rr"))]
    batches = sizes_of([*ops, *(add(number) for number in range(600))], monkeypatch)
    assert [len(batch) for batch in batches] == [256, 256, 89]


def test_changes_that_rebuild_a_maglev_table_go_out_16_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ops: list[IpvsOp] = [SetService(service=KEY, settings=Settings(scheduler="mh"))]
    batches = sizes_of([*ops, *(add(number) for number in range(39))], monkeypatch)
    assert [len(batch) for batch in batches] == [16, 16, 8]


def test_each_send_to_a_kernel_that_is_too_slow_is_half_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    ops: list[IpvsOp] = [AddService(service=KEY, settings=Settings(scheduler="rr"))]
    ops += [add(number) for number in range(511)]
    sizes = [len(batch) for batch in sizes_of(ops, monkeypatch, in_time=1e-9)]
    assert sizes[:5] == [256, 128, 64, 32, 16]
    assert set(sizes[5:]) == {16}


@pytest.mark.parametrize(
    ("batch", "sent", "took", "following"),
    [
        (256, 256, 0.001, 256),
        (64, 64, 0.001, 128),
        (64, 64, 0.0, 128),
        (100, 100, netlink.SLICE, 100),
        (100, 100, netlink.SLICE / 1.25, 125),
        (100, 100, netlink.SLICE * 1.25, 80),
        (100, 20, netlink.SLICE / 4, 80),
        (100, 100, 1.0, 50),
        (16, 16, 1.0, 16),
    ],
)
def test_the_size_of_a_send_follows_what_the_last_one_took_for_each_request(
    batch: float, sent: int, took: float, following: float
) -> None:
    assert netlink.paced(batch, sent, took, least=16, most=256) == pytest.approx(following)


def test_the_event_loop_turns_while_answers_come_faster_than_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> int:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        monkeypatch.setattr(netlink, "SLICE", 0.0)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours, theirs:
            for _ in range(20):
                theirs.send(b"part of a dump")
            table = netlink.Netlink(0)
            other = asyncio.create_task(others())
            for _ in range(20):
                await table._receive(ours)
            other.cancel()
        return turns

    assert asyncio.run(story()) >= 20


def test_the_requests_of_a_move_are_never_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[IpvsOp] = [MoveDestination(service=KEY, destination=server(n, weight=0)) for n in range(20)]
    whole = [codec.DEL_DEST, codec.NEW_DEST, codec.SET_DEST]
    for batch in sizes_of(moves, monkeypatch):
        assert batch == whole * (len(batch) // 3)


def failing(*outcomes: tuple[int, int]) -> Script:
    """Every command named fails with the errno given."""

    def script(command: int, asked: int) -> Reply | None:
        code = dict(outcomes).get(command)
        return [(netlink_codec.NLMSG_ERROR, code, b"")] if code else quiet(command, asked)

    return script


def failures_of(script: Script, ops: list[IpvsOp], monkeypatch: pytest.MonkeyPatch) -> tuple[Failure, ...]:
    async def story() -> tuple[Failure, ...]:
        with speaking_to(script, monkeypatch) as (table, _):
            return await table.play(ops)

    return asyncio.run(story())


def test_a_missing_scheduler_is_told_once_and_says_which_module_to_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = failing((codec.NEW_SERVICE, errno.ENOENT), (codec.NEW_DEST, errno.ESRCH))
    ops: list[IpvsOp] = [
        AddService(service=KEY, settings=Settings(scheduler="mh")),
        add(1),
        add(2),
    ]
    told, *silent = failures_of(script, ops, monkeypatch)
    assert told == (
        (ops[0],),
        "add service tcp 192.0.2.1:80 (mh): the kernel has no scheduler mh: run `modprobe ip_vs_mh` (ENOENT)",
    )
    assert silent == [((add(1),), ""), ((add(2),), "")]  # nothing of it was carried out: they count


@pytest.mark.parametrize(
    ("op", "script", "words"),
    [
        (add(1), failing((codec.NEW_DEST, errno.EEXIST)), "exists already: another program"),
        (add(1), failing((codec.NEW_DEST, errno.ESRCH)), "service does not exist"),
        (add(1), failing((codec.NEW_DEST, errno.EINVAL)), "ip link set lo up"),
        (
            AddDestination(service=KEY, destination=replace(server(1), tunnel=Tunnel(type=TunnelType.GUE))),
            failing((codec.NEW_DEST, errno.EINVAL)),
            "GUE needs a port",
        ),
        (
            AddDestination(service=MarkKey(mark=7, version=6), destination=server(1)),
            failing((codec.NEW_DEST, errno.EINVAL)),
            "other address family needs forwarding tunnel and no connection sync",
        ),
        (
            SetDestination(service=KEY, destination=server(1)),
            failing((codec.SET_DEST, errno.ENOENT)),
            "real server does not exist",
        ),
        (add(1), failing((codec.NEW_DEST, errno.ERANGE)), "upper threshold must not be below the lower"),
        (add(1), failing((codec.NEW_DEST, errno.EPERM)), "CAP_NET_ADMIN"),
        (add(1), failing((codec.NEW_DEST, errno.ENOMEM)), "Cannot allocate memory (ENOMEM)"),
    ],
)
def test_a_failure_says_which_operation_and_why(
    op: IpvsOp, script: Script, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (failure,) = failures_of(script, [op], monkeypatch)
    assert failure.ops == (op,)
    assert "real server 10.0.0.1:80" in failure.text
    assert words in failure.text


def test_moving_what_is_gone_already_is_an_insertion_and_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    move = MoveDestination(service=KEY, destination=server(1))
    assert failures_of(failing((codec.DEL_DEST, errno.ENOENT)), [move], monkeypatch) == ()


CONFIGURATIONS = pytest.mark.parametrize(
    ("op", "commands"),
    [
        (SetTimeouts(timeouts=TIMEOUTS), [codec.SET_CONFIG]),
        (StartSync(role=SyncRole.MASTER, sync=SYNC), [codec.NEW_DAEMON]),
        (StopSync(role=SyncRole.MASTER), [codec.DEL_DAEMON, codec.DEL_DAEMON]),
    ],
)


@CONFIGURATIONS
def test_timeouts_and_sync_are_written_in_one_batch(
    op: SetTimeouts | StartSync | StopSync, commands: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        with speaking_to(quiet, monkeypatch) as (table, kernel):
            await table.configure(op)
            assert kernel.batches == [[RESOLVE], commands]

    asyncio.run(story())


@CONFIGURATIONS
def test_timeouts_and_sync_that_are_refused_are_the_error_the_kernel_gave(
    op: SetTimeouts | StartSync | StopSync, commands: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        with speaking_to(failing((commands[0], errno.ENODEV)), monkeypatch) as (table, _):
            with pytest.raises(OSError, match="No such device") as caught:
                await table.configure(op)
            assert caught.value.errno == errno.ENODEV

    asyncio.run(story())


def test_a_sync_daemon_that_does_not_run_is_stopped_already(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with speaking_to(failing((codec.DEL_DAEMON, errno.ESRCH)), monkeypatch) as (table, _):
            await table.configure(StopSync(role=SyncRole.BACKUP))

    asyncio.run(story())


def test_a_sync_daemon_is_stopped_though_the_kernel_does_not_answer_the_first_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def script(command: int, asked: int) -> Reply | None:
        if command == codec.DEL_DAEMON:
            return [(netlink_codec.NLMSG_ERROR, errno.ESRCH, b"")] if asked else None
        return quiet(command, asked)

    async def story() -> None:
        with speaking_to(script, monkeypatch) as (table, _):
            await table.configure(StopSync(role=SyncRole.BACKUP))

    asyncio.run(story())


def test_a_rebuild_is_never_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    sets: list[IpvsOp] = [
        SetDestination(service=KEY, destination=server(n, weight=0), rebuild=True) for n in range(40)
    ]
    batches = sizes_of(sets, monkeypatch)
    assert sum(map(len, batches)) == 80
    for batch in batches:
        assert len(batch) % 2 == 0
        assert len(batch) <= 16


def test_no_operations_are_no_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> int:
        with speaking_to(quiet, monkeypatch) as (table, kernel):
            assert await table.play([]) == ()
            return kernel.sockets

    assert asyncio.run(story()) == 0


OTHER = MarkKey(mark=7, version=4)
OTHER_SERVICE = written(AddService(service=OTHER, settings=Settings(scheduler="rr")))


class Table:
    """A kernel with services by their names, that answers for each of them."""

    def __init__(self, *services: bytes) -> None:
        self.services = {_name(body): body for body in services}
        self.asked: list[tuple[int, bytes]] = []  # commands about one service
        self.lists = [listing(server(1))]
        self.left_out: set[bytes] = set()  # of the list of services
        self.goes = False  # as soon as its real servers are asked for

    @contextlib.contextmanager
    def spoken_to(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[ipvs.Ipvs]:
        with speaking_to(lambda command, asked: self._reply(kernel.body, command, asked), monkeypatch) as (
            table,
            kernel,
        ):
            yield table

    def _reply(self, body: bytes, command: int, asked: int) -> Reply | None:
        if command == codec.GET_SERVICE and not body:
            names = [name for name in self.services if name not in self.left_out]
            return [*((FAMILY, 0, self.services[name]) for name in names), DONE]
        if command not in (codec.GET_SERVICE, codec.GET_DEST):
            return quiet(command, asked)
        self.asked.append((command, body))
        if self.goes:
            self.services.clear()
        if command == codec.GET_DEST:
            return self.lists[min(asked, len(self.lists) - 1)] if body in self.services else [DONE]
        if body not in self.services:
            return [(netlink_codec.NLMSG_ERROR, errno.ESRCH, b"")]
        return [(FAMILY, 0, self.services[body])]


def _name(service: bytes) -> bytes:
    return next(
        codec.service_key(key) for key in (KEY, OTHER) if codec.parse_service(*_message(service)).key == key
    )


def _message(body: bytes) -> tuple[bytes, netlink_codec.Message]:
    data = codec.frame([codec.Request(codec.GET_SERVICE, body)], family=FAMILY, sequence=1)
    (only,) = netlink_codec.messages(data)
    return data, only


def test_of_a_program_only_the_services_it_touched_are_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Table(SERVICE, OTHER_SERVICE)

    async def story() -> None:
        with held.spoken_to(monkeypatch) as table:
            first = await table.read([OTHER])  # everything, for nothing is known
            assert set(first.table) == {KEY, OTHER}
            held.asked.clear()
            held.lists = [listing(server(2))]
            second = await table.read([KEY])
            named = codec.service_key(KEY)
            assert held.asked == [(codec.GET_SERVICE, named), (codec.GET_DEST, named)]
            assert second.table[KEY].destinations == (server(2),)
            assert second.table[OTHER] is first.table[OTHER]
            del held.services[named]
            third = await table.read([KEY])
            assert set(third.table) == set(third.packets) == {OTHER}

    asyncio.run(story())


def test_after_a_reading_that_failed_everything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Table(SERVICE, OTHER_SERVICE)

    async def story() -> None:
        with held.spoken_to(monkeypatch) as table:
            await table.read()
            held.lists = [listing(server(1), server(1))]
            with pytest.raises(KernelUnavailable):
                await table.read([KEY])
            held.lists = [listing(server(2))]
            assert (await table.read([KEY])).table[OTHER].destinations == (server(2),)

    asyncio.run(story())


def test_a_service_that_a_list_leaves_out_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Table(SERVICE, OTHER_SERVICE)

    async def story() -> None:
        with held.spoken_to(monkeypatch) as table:
            first = await table.read()
            held.left_out = {codec.service_key(OTHER)}
            assert (await table.read()).table is first.table
            del held.services[codec.service_key(OTHER)]
            assert set((await table.read()).table) == {KEY}

    asyncio.run(story())


def test_a_service_that_goes_while_it_is_read_is_none_without_real_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = Table(SERVICE)
    held.goes = True

    async def story() -> None:
        with held.spoken_to(monkeypatch) as table:
            assert (await table.read()).table == {}

    asyncio.run(story())


def test_a_service_without_real_servers_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Table(SERVICE)
    held.lists = [[DONE]]

    async def story() -> None:
        with held.spoken_to(monkeypatch) as table:
            assert (await table.read()).table[KEY].destinations == ()

    asyncio.run(story())


def test_objects_that_are_there_already_are_the_ones_that_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Table(SERVICE)
    held.lists = [listing(server(1), server(2))]
    same = ServiceEntry(scheduler="mh", destinations=(server(2), server(1)))
    other = replace(same, destinations=(server(2, weight=5), server(1)))

    async def read(alike: ServiceEntry) -> ServiceEntry:
        with held.spoken_to(monkeypatch) as table:
            return (await table.read(alike={KEY: alike})).table[KEY]

    assert asyncio.run(read(same)) is same
    found = asyncio.run(read(other))
    assert found == same
    assert found.destinations[1] is other.destinations[1]
