"""VIP addresses on one interface.

They are never to be a source address: traffic of the node's own that leaves with a VIP is answered to whichever
node the routers choose. So an IPv4 VIP has the scope of the host, and an IPv6 VIP is deprecated from the start.

A dump of addresses is torn when somebody changes addresses meanwhile: the kernel goes on at a place in the list,
and what was moved over that place is left out, though it was there all the time. It marks such a dump. What a
torn dump shows is there; what it does not show has to be asked for in a way that cannot be torn.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

from anycast.core.values.configuration import Address
from anycast.kernel import address_codec as codec
from anycast.kernel.address_codec import Assigned
from anycast.kernel.errors import KernelUnavailable
from anycast.kernel.netlink import Framed, Netlink, RefusedError
from anycast.kernel.netlink_codec import Malformed

READS = 3  # of a list that changes while it is read

_NETLINK_ROUTE = 0
_SIOCGIFCONF, _SIOCGIFFLAGS, _SIOCGIFINDEX = 0x8912, 0x8913, 0x8933
_IFREQ_LABEL = struct.Struct("16s4x4s")  # name, and the address within a sockaddr_in
_IFREQ_SIZE = struct.calcsize("16s2LH6B")
_IFF_UP = 0x1
# IPv6 may be off on the interface, or in the kernel.
_NOT_THERE = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})


async def read(interface: str, expected: Iterable[Address] = ()) -> frozenset[Address]:
    """The usable addresses of the interface, whatever their prefix length.

    None that is `expected` is left out that was there all the time. Raises OSError, and KernelUnavailable where the
    interface is missing or down: IPv6 addresses are gone then, and IPVS takes no real servers while lo is down.
    """
    index = index_of(interface)
    for name in dict.fromkeys((interface, "lo")):
        if not _is_up(name):
            raise KernelUnavailable(f"interface {name} is down: run `ip link set {name} up`")
    with _netlink() as netlink:
        listed, whole = await _listed(netlink)
        present = {one.address for one in listed if one.interface == index and one.usable}
        if not whole:
            present |= _ipv4_addresses(index)
            for address in set(expected) - present:
                if address.version == 6 and (one := await _asked(netlink, index, address)):
                    present |= {one.address} if one.usable else set()
    return frozenset(present)


async def everywhere() -> list[Assigned]:
    """The addresses of every interface. Raises OSError, KernelUnavailable."""
    with _netlink() as netlink:
        listed, _ = await _listed(netlink)
    return listed


async def add(interface: str, address: Address) -> None:
    """As /32 or /128. An address that is there already is left as it is. Raises OSError, KernelUnavailable."""
    with _netlink() as netlink:
        await _write(netlink, codec.addition(index_of(interface), address), {errno.EEXIST})


async def remove(interface: str, address: Address) -> None:
    """With every prefix length it is there with; none is no error. Raises OSError, KernelUnavailable."""
    index = index_of(interface)
    with _netlink() as netlink:
        if address.version == 6:
            if one := await _asked(netlink, index, address):
                await _write(netlink, codec.removal(index, address, one.prefix), _NOT_THERE)
        else:
            while await _write(netlink, codec.removal(index, address, address.max_prefixlen), _NOT_THERE):
                pass


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
    for _ in range(READS):
        try:
            found, whole = await netlink.dump(codec.dump_frame, codec.parse)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            continue
        listed = [one for one in found if one is not None]
        if whole:
            return listed, True
        seen |= dict.fromkeys(listed)
    return list(seen), False


async def _asked(netlink: Netlink, index: int, address: Address) -> Assigned | None:
    try:
        return await netlink.answer(codec.question(index, address), codec.parse)
    except RefusedError as error:
        if error.errno not in _NOT_THERE:
            raise
        return None


async def _write(netlink: Netlink, framed: Framed, passed: Iterable[int]) -> bool:
    """False: refused with an errno in `passed`."""
    code = (await netlink.write(framed)).get(0, 0)
    if code and code not in passed:
        raise OSError(code, os.strerror(code))
    return not code


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
