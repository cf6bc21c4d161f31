"""VIP addresses on one interface.

They are not to be a source address: traffic of the node's own that leaves with a VIP is answered to whichever
node the routers choose. So an IPv4 VIP has the scope of the host, which forbids it, and an IPv6 VIP is deprecated
from the start, which lets every other address go first. One that somebody else has added or written anew has neither
and is `plain`: it is put right in its place.

A dump of addresses is torn when somebody changes addresses meanwhile: the kernel goes on at a place in the list,
and what was moved over that place is left out, though it was there all the time. It marks such a dump. What a
torn dump shows is there; what it does not show has to be asked for in a way that cannot be torn.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import itertools
import os
import socket
import struct
from collections.abc import (
    AsyncIterator,
    Callable,
    Container,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from functools import partial
from ipaddress import IPv4Address
from typing import NamedTuple, TypeVar

from anycast.core.values.configuration import Address
from anycast.kernel import address_codec as codec
from anycast.kernel import sysctl
from anycast.kernel.address_codec import Assigned, Found
from anycast.kernel.errors import KernelUnavailable
from anycast.kernel.netlink import (
    RECEIVE,
    SLICE,
    Dump,
    Framed,
    Netlink,
    Parse,
    RefusedError,
    open_socket,
    paced,
)
from anycast.kernel.netlink_codec import Malformed, messages

READS = 3  # of a list that changes while it is read
BATCH, MOST = 2, 64  # addresses that are written at once, to begin with and at most

_NETLINK_ROUTE = 0
_SIOCGIFCONF, _SIOCGIFFLAGS, _SIOCGIFINDEX = 0x8912, 0x8913, 0x8933
_IFREQ_LABEL = struct.Struct("16s4x4s")  # name, and the address within a sockaddr_in
_IFREQ_SIZE = struct.calcsize("16s2LH6B")
_IFF_UP = 0x1
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_GROUPS = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR
# IPv6 may be off on the interface, or in the kernel.
_NOT_THERE = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})
_DOTS = str.maketrans(".", "/")  # in the name of an interface within that of a sysctl
_PASSED = {errno.EEXIST, errno.EADDRNOTAVAIL}  # somebody else was faster


T = TypeVar("T")
H = TypeVar("H", bound=Hashable)


class Held(NamedTuple):
    """The usable addresses of an interface, and those of them that are not as we add them."""

    addresses: frozenset[Address]
    plain: frozenset[Address] = frozenset()


async def read(interface: str, expected: Iterable[Address] = (), alike: Iterable[Address] = ()) -> Held:
    """The usable addresses of the interface, whatever their prefix length.

    None that is `expected` is left out that was there all the time. Objects are taken from `expected` and `alike`.
    Raises OSError, and KernelUnavailable where the interface is missing or down: IPv6 addresses are gone then, and
    IPVS takes no real servers while lo is down.
    """
    index = index_of(interface)
    must_be_up(interface)
    wanted = set(expected)
    there = {one.packed: one for one in itertools.chain(alike, wanted)}
    with _netlink() as netlink:
        found, whole = await _usable(netlink, index, there)
        present = frozenset(one.address for one in found)
        plain = frozenset(one.address for one in found if one.plain)
        if not whole:
            present |= _ipv4_addresses(index)
            left = [one for one in wanted - present if one.version == 6]
            asked = await _usable_of(netlink, index, left)
            present, plain = present | asked.addresses, plain | asked.plain
    return Held(present, plain)


def must_be_up(interface: str) -> None:
    """Raises OSError, KernelUnavailable."""
    for name in dict.fromkeys((interface, "lo")):
        if not _is_up(name):
            raise KernelUnavailable(f"interface {name} is down: run `ip link set {name} up`")


async def everywhere() -> list[Assigned]:
    """The addresses of every interface. Raises OSError, KernelUnavailable."""
    with _netlink() as netlink:
        listed, _ = await _listed(netlink)
    return listed


async def usable_of(interface: str, asked: Iterable[Address]) -> Held:
    """Which of these IPv6 addresses are usable, each asked for by itself. Raises OSError, KernelUnavailable."""
    with _netlink() as netlink:
        return await _usable_of(netlink, index_of(interface), asked)


async def correct(interface: str, corrected: Sequence[Address]) -> dict[Address, OSError]:
    """Each as `add` would have added it, without a moment of absence. Which failed, and why.

    One that has gone meanwhile is added. Wherever this is cut off, the addresses are there, and what is left to do is
    seen by the next reading. Raises OSError, KernelUnavailable: nobody knows which was corrected.
    """
    index = index_of(interface)
    with _netlink() as netlink:
        sixes = [one for one in corrected if one.version == 6]
        failed = _failed(await _written(netlink, sixes, partial(codec.correction6, index)), ())
        fours = {one for one in corrected if one.version == 4}
        if not fours:
            return failed
        listed = [one for one in await _ipv4_listed(netlink) if one.interface == index]
        wrong = {one: None for one in listed if one.address in fours and one.plain}
        todo = fours - {one.address for one in listed if not one.plain} | {one.address for one in wrong}
        # In the way of an address: the same one, and those that have it as their peer.
        held = {one.peer or one.address: None for one in listed if one.prefix == 32 and one in wrong}
        taken = {one.peer for one in listed if one.prefix == 32 and one.peer in todo and one not in wrong}
        failed |= dict.fromkeys(
            taken, OSError(errno.EADDRINUSE, f"another address of {interface} has it as its peer")
        )
        todo -= taken
        second = todo & held.keys()
        # The node never is without one of them: what goes is there a second time, or goes only once it is.
        first = {one: codec.stand_in if one in second else codec.addition for one in todo}
        failed |= _failed(await _written(netlink, list(first), lambda one: first[one](index, one)), _PASSED)
        second -= failed.keys()
        left = [one for one in wrong if one.address not in failed]
        unremoved = await _without_others(netlink, interface, left, listed)
        again = _failed(await _written(netlink, list(second), partial(codec.addition, index)), _PASSED)
        left = [codec.standing_in(index, one) for one in second if one not in again]
        return failed | unremoved | again | await _without_others(netlink, interface, left, listed)


async def _without_others(
    netlink: Netlink, interface: str, removed: Sequence[Assigned], listed: Iterable[Assigned]
) -> dict[Address, OSError]:
    """Removes IPv4 addresses; `listed`: all of the interface. Others of their networks stay. Which failed, and why."""
    beside: dict[tuple[int, int], set[Address]] = {one.network: set() for one in removed}
    for one in listed if removed else ():
        if one.network in beside:
            beside[one.network].add(one.address)
    shared = [one for one in removed if beside[one.network] - {one.address}]
    alone = [one for one in removed if not beside[one.network] - {one.address}]
    codes = await _written(netlink, alone, codec.removal_of)
    failed: dict[Address, OSError] = {}
    if shared:
        try:
            with _others_kept(interface):
                codes |= await _written(netlink, shared, codec.removal_of)
        except _OthersError as error:
            failed = {one.address: error for one in shared}
    return failed | _failed({one.address: code for one, code in codes.items()}, _NOT_THERE)


class _OthersError(OSError):
    """Other addresses would go along."""


@contextlib.contextmanager
def _others_kept(interface: str) -> Iterator[None]:
    """When the first address of a network goes, the kernel removes the others of it, unless it is told otherwise.

    Cut off in here it stays told, which costs nobody an address. Raises _OthersError.
    """
    name = _keeps_others(interface)
    if name is None:
        yield
        return
    try:
        sysctl.write(name, "1")
    except OSError as error:
        raise _OthersError(
            errno.EBUSY,
            f"other addresses of its network would go with it, and the setting that keeps them cannot be written: "
            f"`sysctl -w {name}=1`, for good",
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sysctl.write(name, "0")


def _keeps_others(interface: str) -> str | None:
    """The setting to write. None: others stay as it is."""
    names = [f"net.ipv4.conf.{name}.promote_secondaries" for name in ("all", interface.translate(_DOTS))]
    return None if "1" in sysctl.read(names).values() else names[1]


async def _ipv4_listed(netlink: Netlink) -> list[Assigned]:
    found: list[Assigned] = []
    async for listed, whole in _dumps(netlink, codec.parse, partial(codec.dump_frame, version=4)):
        found = [one for one in listed if one is not None]
        if whole:
            break
    return found


async def add(interface: str, added: Sequence[Address]) -> dict[Address, OSError]:
    """Each as /32 or /128. One that somebody else has added meanwhile is put right. Which failed, and why.

    Raises OSError, KernelUnavailable: none of them, or nobody knows which, was added.
    """
    index = index_of(interface)
    with _netlink() as netlink:
        codes = await _written(netlink, added, partial(codec.addition, index))
    # EINVAL: an IPv4 address may be the peer of another one, among much else.
    there = {
        address
        for address, code in codes.items()
        if code == errno.EEXIST or (code == errno.EINVAL and address.version == 4)
    }
    failed = _failed({address: code for address, code in codes.items() if address not in there}, ())
    return failed | (await correct(interface, list(there)) if there else {})


async def remove(interface: str, removed: Sequence[Address]) -> dict[Address, OSError]:
    """Each with every prefix length it is there with; none is no error. Which failed, and why.

    Raises OSError, KernelUnavailable: nobody knows which was removed.
    """
    index = index_of(interface)
    failed: dict[Address, OSError] = {}
    with _netlink() as netlink:
        left = list(removed)
        fours = {one for one in left if one.version == 4}
        if fours and _keeps_others(interface) is not None:
            listed = [one for one in await _ipv4_listed(netlink) if one.interface == index]
            named = [one for one in listed if one.address in fours]
            failed = await _without_others(netlink, interface, named, listed)
            done = {one.address for one in named}
            left = [one for one in left if one not in done]
        while left:
            codes = await _written(netlink, left, partial(codec.removal, index))
            failed |= _failed(codes, _NOT_THERE)
            # An IPv4 address goes with one prefix at a time.
            left = [one for one in left if one.version == 4 and one not in codes]
            failed |= await _remove_longer(
                netlink, index, [one for one in codes if one.version == 6 and one not in failed]
            )
    return failed


async def _remove_longer(netlink: Netlink, index: int, removed: Iterable[Address]) -> dict[Address, OSError]:
    """IPv6 addresses that are not there as single hosts."""
    prefixes = {address: one.prefix for address in removed if (one := await _asked(netlink, index, address))}
    codes = await _written(netlink, list(prefixes), lambda one: codec.removal(index, one, prefixes[one]))
    return _failed(codes, _NOT_THERE)


async def _written(netlink: Netlink, written: Sequence[H], request: Callable[[H], Framed]) -> dict[H, int]:
    """The errno of each that was refused."""
    loop = asyncio.get_running_loop()
    codes: dict[H, int] = {}
    done, batch = 0, float(BATCH)
    while done < len(written):
        part = written[done : done + int(batch)]
        done += len(part)
        began = loop.time()
        refused = await netlink.write(partial(_joined, [request(one) for one in part]), len(part))
        codes |= {part[place]: code for place, code in refused.items()}
        batch = paced(batch, len(part), loop.time() - began, least=1, most=MOST)
        await asyncio.sleep(0)
    return codes


def _joined(framed: Sequence[Framed], sequence: int) -> bytes:
    return b"".join(one(sequence + place) for place, one in enumerate(framed))


def _failed(codes: Mapping[Address, int], passed: Container[int]) -> dict[Address, OSError]:
    return {
        address: OSError(code, os.strerror(code)) for address, code in codes.items() if code not in passed
    }


class News:
    """What the kernel announces of the addresses of one interface, since it was asked last."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._index: int | None = None
        self._line: socket.socket | None = None

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def begin(self) -> None:
        """What has been announced until now does not count. Raises OSError, KernelUnavailable."""
        self.close()
        self._index = index_of(self._interface)
        self._line = open_socket(_NETLINK_ROUTE, groups=_GROUPS)

    async def after(self, before: Held, removed: Container[Address]) -> Held | None:
        """The usable addresses now, if `before` are those at the beginning or when they were asked for last.

        None: not known, a whole reading has to tell. So it is where an address went that is not in `removed`, for it
        may be there with another prefix, and where one that was plain is announced as ours; after changes of the
        interface; and where announcements were lost. Raises OSError, KernelUnavailable.
        """
        line = self._line
        if line is None or index_of(self._interface) != self._index:
            return None
        now: set[Address] | None = None
        plain: set[Address] = set(before.plain)
        began = asyncio.get_running_loop().time()
        while True:
            try:
                data = line.recv(RECEIVE)
            except BlockingIOError:
                return before if now is None else Held(frozenset(now), frozenset(plain))
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return None
            for message in messages(data):
                if message.kind in (codec.NEW_LINK, codec.DEL_LINK) and self._index in codec.changed(data):
                    return None
                if message.kind not in (codec.NEW_ADDRESS, codec.DEL_ADDRESS):
                    continue
                one = codec.parse(data, message)
                if one is None or one.interface != self._index:
                    continue
                now = set(before.addresses) if now is None else now
                new = message.kind == codec.NEW_ADDRESS
                if new and one.usable and (one.plain or one.address not in plain):
                    now.add(one.address)
                    plain |= {one.address} if one.plain else set()
                elif not new and one.address in removed:
                    now.discard(one.address)
                    plain.discard(one.address)
                else:
                    return None
            if asyncio.get_running_loop().time() - began > SLICE:
                await asyncio.sleep(0)
                began = asyncio.get_running_loop().time()


def index_of(interface: str) -> int:
    """Raises OSError, and KernelUnavailable where there is no such interface."""
    index = _index_or_none(interface.encode())
    if index is None:
        raise KernelUnavailable(
            f"interface {interface} does not exist: create it, or name another in node.interface"
        )
    return index


@contextlib.contextmanager
def _netlink() -> Iterator[Netlink]:
    netlink = Netlink(_NETLINK_ROUTE)
    try:
        yield netlink
    except Malformed as error:
        raise KernelUnavailable(f"addresses: an answer of the kernel was not understood: {error}") from error
    finally:
        netlink.close()


async def _listed(netlink: Netlink) -> tuple[list[Assigned], bool]:
    """Of every interface; and whether none is left out that was there all the time."""
    seen: dict[Assigned, None] = {}
    async for found, whole in _dumps(netlink, codec.parse):
        listed = [one for one in found if one is not None]
        if whole:
            return listed, True
        seen |= dict.fromkeys(listed)
    return list(seen), False


async def _usable(
    netlink: Netlink, index: int, there: Mapping[bytes, Address]
) -> tuple[Iterable[Found], bool]:
    """Of one interface; and whether none is left out that was there all the time."""
    seen: set[Found] = set()
    async for found, whole in _dumps(netlink, partial(codec.usable, index, there)):
        present = [one for one in found if one is not None]
        if whole:
            return present, True
        seen |= set(present)
    return seen, False


async def _dumps(
    netlink: Netlink, parse: Parse[T], framed: Framed = codec.dump_frame
) -> AsyncIterator[Dump[T]]:
    """Until one is whole. One that overran the socket is none."""
    for _ in range(READS):
        try:
            dump = await netlink.dump(framed, parse)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            continue
        yield dump


async def _usable_of(netlink: Netlink, index: int, asked: Iterable[Address]) -> Held:
    """Those that are usable."""
    found = [(address, await _asked(netlink, index, address)) for address in asked]
    there = {address: one.plain for address, one in found if one is not None and one.usable}
    return Held(frozenset(there), frozenset(address for address, plain in there.items() if plain))


async def _asked(netlink: Netlink, index: int, address: Address) -> Assigned | None:
    try:
        return await netlink.answer(codec.question(index, address), codec.parse)
    except RefusedError as error:
        if error.errno not in _NOT_THERE:
            raise
        return None


def _is_up(interface: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        answer = fcntl.ioctl(line, _SIOCGIFFLAGS, struct.pack("16sH22x", interface.encode(), 0))
    return bool(struct.unpack_from("H", answer, 16)[0] & _IFF_UP)


def _ipv4_addresses(index: int) -> frozenset[Address]:
    """All at once under the kernel's lock, by their labels: `lo`, `lo:1`."""
    size = 1024 * _IFREQ_SIZE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        while True:
            buffer = array.array("B", bytes(size))
            asked = struct.pack("iP", size, buffer.buffer_info()[0])
            (length, _) = struct.unpack("iP", fcntl.ioctl(line, _SIOCGIFCONF, asked))
            if length <= size - _IFREQ_SIZE:
                break
            size *= 2
    present: dict[bytes, set[Address]] = {}
    for at in range(0, length, _IFREQ_SIZE):
        label, packed = _IFREQ_LABEL.unpack_from(buffer, at)
        present.setdefault(label.partition(b"\0")[0].partition(b":")[0], set()).add(IPv4Address(packed))
    return frozenset(
        address for name, found in present.items() if _index_or_none(name) == index for address in found
    )


def _index_or_none(name: bytes) -> int | None:
    """Raises OSError. `socket.if_nametoindex` says "no such interface" of everything, a lack of descriptors too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        try:
            answer = fcntl.ioctl(line, _SIOCGIFINDEX, struct.pack("16s24x", name))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None
    index: int = struct.unpack_from("i", answer, 16)[0]
    return index
