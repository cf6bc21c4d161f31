"""How many packets come in for addresses that this node serves itself: there are no counters of IPVS for them.

A packet socket that nobody reads has the kernel count what its filter takes. It looks at each packet that comes in, so
there is one only while somebody waits for the last packet. Needs CAP_NET_RAW.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from anycast.core.values.configuration import Address

_PROTOCOL = {4: 0x0800, 6: 0x86DD}
_SO_ATTACH_FILTER = 26
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_LOAD_WORD, _LOAD_BYTE, _JUMP_EQUAL, _RETURN = 0x20, 0x30, 0x15, 0x06
_INTERFACE = 0xFFFFF000 + 8  # SKF_AD_OFF + SKF_AD_IFINDEX
_TAKEN = (6, 17, 132)  # TCP, UDP, SCTP: pings are no clients
_EXTENSIONS = (0, 44, 60)  # of IPv6, behind which one of these stands
_MOST = {4: 200, 6: 60}  # addresses in a filter: net.core.optmem_max is 20 KiB before Linux 6.7
_SOCKETS = 16  # for one set: every packet that comes in is compared with all of it

_Step = tuple[int, int, int, int]  # code, steps to leave out if true, if false, value


class _Counter(NamedTuple):
    addresses: tuple[Address, ...]
    sockets: tuple[socket.socket, ...]


class Arrivals:
    """Counts by a name for each set of addresses, up to some 3,000 of IPv4 and 900 of IPv6. What comes over `lo` comes from this node, and does not count."""

    def __init__(self) -> None:
        self._counters: dict[str, _Counter] = {}
        self._totals: dict[str, int] = {}

    def read(self, wanted: Mapping[str, tuple[Address, ...]]) -> dict[str, int]:
        """Packets since each was first wanted. What is wanted no more is closed; what cannot be counted is left out."""
        for name in [name for name, one in self._counters.items() if wanted.get(name) != one.addresses]:
            self._close(name)
        for name, addresses in wanted.items():
            if name not in self._counters:
                with contextlib.suppress(OSError):
                    self._counters[name] = _Counter(addresses, tuple(_opened(addresses)))
                    self._totals[name] = 0
        for name, counter in self._counters.items():
            self._totals[name] += sum(map(_since_last, counter.sockets))
        return dict(self._totals)

    def close(self) -> None:
        for name in list(self._counters):
            self._close(name)

    def _close(self, name: str) -> None:
        del self._totals[name]
        for one in self._counters.pop(name).sockets:
            one.close()


def _opened(addresses: Sequence[Address]) -> Iterator[socket.socket]:
    """Raises OSError, with none left open."""
    with contextlib.ExitStack() as stack:
        found = []
        for version, most in _MOST.items():
            each = iter([one for one in addresses if one.version == version])
            while some := list(islice(each, most)):
                protocol = socket.htons(_PROTOCOL[version])
                one = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, protocol))
                one.setsockopt(
                    socket.SOL_SOCKET, socket.SO_RCVBUF, 0
                )  # what it does not hold is counted as well
                program = program_of(some, loopback=socket.if_nametoindex("lo"))
                buffer = ctypes.create_string_buffer(program)
                what = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
                one.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, what)
                _since_last(one)  # what came before the filter was there
                found.append(one)
                if len(found) > _SOCKETS:
                    raise OSError(errno.E2BIG, "too many addresses")
        stack.pop_all()
    yield from found


def _since_last(one: socket.socket) -> int:
    packets: int = struct.unpack("=II", one.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[0]
    return packets


def program_of(addresses: Sequence[Address], *, loopback: int) -> bytes:
    """A classic BPF program that takes what came in for one of the addresses, all of one family."""
    four = addresses[0].version == 4
    steps = [(_LOAD_WORD, 0, 0, _INTERFACE), (_JUMP_EQUAL, 0, 1, loopback), (_RETURN, 0, 0, 0)]
    steps.append((_LOAD_BYTE, 0, 0, 9 if four else 6))
    taken = _TAKEN if four else (*_TAKEN, *_EXTENSIONS)
    for n, protocol in enumerate(taken):
        steps.append((_JUMP_EQUAL, len(taken) - n, 0, protocol))
    steps.append((_RETURN, 0, 0, 0))
    for address in addresses:
        steps += _is(address, 16 if four else 24)
    steps.append((_RETURN, 0, 0, 0))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _is(address: Address, at: int) -> Iterable[_Step]:
    words = struct.unpack(f"!{len(address.packed) // 4}I", address.packed)
    left = 2 * len(words)  # steps to the next address
    for n, word in enumerate(words):
        yield _LOAD_WORD, 0, 0, at + 4 * n
        yield _JUMP_EQUAL, 0, left - 2 * n - 1, word
    yield _RETURN, 0, 0, 1
