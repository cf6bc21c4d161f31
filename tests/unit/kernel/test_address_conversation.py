"""What is made of dumps of addresses that were torn. The kernel here is a script."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from ipaddress import ip_address

import pytest

from anycast.core.values.configuration import Address
from anycast.kernel import address_codec as codec
from anycast.kernel import addresses, netlink, netlink_codec
from anycast.kernel.netlink_codec import NLM_F_DUMP, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR

INDEX = 7
ONE, TWO, V4 = ip_address("2001:db8::1"), ip_address("2001:db8::2"), ip_address("192.0.2.1")
Answer = Callable[[int], bytes]  # by the sequence of the question


def listing(*present: Address, flags: int = 0, index: int = INDEX) -> Answer:
    def answer(sequence: int) -> bytes:
        listed = [codec.addition(index, one)(sequence)[16:] for one in present]
        parts = [netlink_codec.frame(codec.NEW_ADDRESS, 0, sequence, body) for body in listed]
        # The flag stands on the messages from the change on.
        return b"".join([*parts, _ending(NLMSG_DONE, 0, sequence, flags)])

    return answer


def error(code: int) -> Answer:
    return lambda sequence: _ending(NLMSG_ERROR, code, sequence, 0)


def _ending(kind: int, code: int, sequence: int, flags: int) -> bytes:
    return netlink_codec.frame(kind, flags, sequence, (-code).to_bytes(4, "little", signed=True))


def torn(*present: Address) -> Answer:
    return listing(*present, flags=NLM_F_DUMP_INTR)


class Kernel:
    """Answers dumps in turn, the last for ever; asked for an address by itself, it looks into `held`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *dumps: Answer, held: tuple[Address, ...] = ()
    ) -> None:
        self.dumps, self.held = list(dumps), held
        self.asked: list[Address] = []  # one by one
        self.dumped = 0
        monkeypatch.setattr(netlink, "open_socket", self._open)
        monkeypatch.setattr(addresses, "_is_up", lambda _: True)
        monkeypatch.setattr(addresses, "index_of", lambda _: INDEX)
        v4 = {one for one in held if one.version == 4}
        monkeypatch.setattr(addresses, "_ipv4_addresses", lambda _: v4)

    def _open(self, protocol: int) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        asyncio.get_running_loop().add_reader(theirs, self._answer, theirs)
        return ours

    def _answer(self, line: socket.socket) -> None:
        data = line.recv(1 << 16)
        if not data:
            asyncio.get_running_loop().remove_reader(line)
            line.close()
            return
        (message,) = netlink_codec.messages(data)
        if message.flags & NLM_F_DUMP == NLM_F_DUMP:
            reply = self.dumps[min(self.dumped, len(self.dumps) - 1)]
            self.dumped += 1
        else:
            wanted = codec.parse(data, message)
            assert wanted is not None
            self.asked.append(wanted.address)
            reply = listing(wanted.address) if wanted.address in self.held else error(errno.EADDRNOTAVAIL)
        line.send(reply(message.sequence))


def read(*expected: Address) -> frozenset[Address]:
    return asyncio.run(addresses.read("lo", expected)).addresses


def test_a_whole_dump_is_believed_in_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, listing(ONE))
    assert read(ONE, TWO) == {ONE}
    assert (kernel.dumped, kernel.asked) == (1, [])


def test_a_torn_dump_is_read_again_and_a_whole_one_counts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, torn(ONE), torn(ONE), listing(TWO))
    assert read(ONE, TWO) == {TWO}
    assert (kernel.dumped, kernel.asked) == (3, [])


def test_what_no_torn_dump_shows_is_asked_for_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, torn(ONE), torn(), held=(TWO,))
    gone = ip_address("2001:db8::3")
    assert read(ONE, TWO, gone) == {ONE, TWO}
    assert kernel.dumped == addresses.READS
    assert set(kernel.asked) == {TWO, gone}


def test_ipv4_that_no_torn_dump_shows_is_read_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, torn(ONE), held=(V4,))
    assert read(ONE, V4, ip_address("192.0.2.2")) == {ONE, V4}
    assert kernel.asked == []


def test_a_list_that_must_be_whole_is_read_until_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def found() -> set[Address]:
        line = netlink.Netlink(socket.NETLINK_ROUTE)
        try:
            listed = await line.whole(codec.dump_frame, codec.parse)
        finally:
            line.close()
        return {one.address for one in listed if one is not None}

    kernel = Kernel(monkeypatch, torn(ONE), torn(ONE, TWO), listing(TWO))
    assert asyncio.run(found()) == {TWO}
    assert kernel.dumped == 3
    kernel = Kernel(monkeypatch, torn(ONE))
    with pytest.raises(OSError, match="changes all the time"):
        asyncio.run(found())
    assert kernel.dumped == netlink.READS


def test_addresses_of_other_interfaces_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    Kernel(monkeypatch, listing(ONE, index=INDEX + 1))
    assert read(ONE) == frozenset()


def test_a_dump_that_is_refused_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Kernel(monkeypatch, error(errno.ENOMEM))
    with pytest.raises(OSError, match="Cannot allocate memory"):
        read(ONE)


def test_a_dump_that_overran_the_socket_counts_as_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, listing(ONE))
    dump = netlink.Netlink.dump
    overruns = [OSError(errno.ENOBUFS, "No buffer space available")]

    async def overrun(self: netlink.Netlink, framed: netlink.Framed, parse: object) -> object:
        if overruns:
            raise overruns.pop()
        return await dump(self, framed, parse)  # type: ignore[arg-type]

    monkeypatch.setattr(netlink.Netlink, "dump", overrun)
    assert read(ONE) == {ONE}
    assert (overruns, kernel.dumped) == ([], 1)
