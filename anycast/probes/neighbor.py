"""The kernel's neighbor table: link addresses of what is on the link, by ARP or neighbor discovery."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from errno import ENOENT
from typing import NamedTuple

from anycast.core.values.configuration import Address
from anycast.probes.links import attributes
from anycast.probes.offload import HangingError, offload
from anycast.probes.udp import connected

__all__ = ["LOOK_AGAIN", "Entry", "entry", "provoke"]

LOOK_AGAIN = 0.02  # seconds between two looks at an entry that is being resolved
_SOON = 0.002  # seconds
_DISCARD = 9  # UDP port
_RTM_NEWNEIGH, _RTM_GETNEIGH, _NLM_F_REQUEST, _NLMSG_ERROR = 28, 30, 1, 2
_NDA_DST, _NDA_LLADDR = 1, 2
_STATES = {
    0x00: "none",
    0x01: "incomplete",
    0x02: "reachable",
    0x04: "stale",
    0x08: "delay",
    0x10: "probe",
    0x20: "failed",
    0x40: "noarp",
    0x80: "permanent",
}


class Entry(NamedTuple):
    """How the kernel sees a neighbor. `state`: `reachable`, `failed`; `none` if it does not know it."""

    state: str
    link_address: bytes = b""


_seen: dict[tuple[Address, int], tuple[float, Entry]] = {}  # and when it was asked for


def provoke(address: Address) -> None:
    """A packet to the neighbor makes the kernel look after its entry. Raises OSError."""
    with connected(address, _DISCARD) as sock:
        sock.send(b"")


async def entry(address: Address, number: int) -> Entry:
    """The entry of an interface, by the interface's index. Raises OSError.

    The kernel answers within the send, and waits there for whoever is changing an interface: hence a thread.
    """
    key = (address, number)
    started = time.monotonic()
    while True:
        asked = time.monotonic()
        try:
            found = await offload(("neighbor", key), lambda: _ask(address, number))
        except HangingError:  # others ask for the same one: what they are told from now on will do
            await asyncio.sleep(_SOON)
            seen = _seen.get(key)
            if seen is not None and seen[0] >= started:
                return seen[1]
        else:
            _seen[key] = (asked, found)
            return found


def _ask(address: Address, number: int) -> Entry:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    packed = address.packed
    body = struct.pack("=BxxxiHBB", family, number, 0, 0, 0)
    body += struct.pack("=HH", 4 + len(packed), _NDA_DST) + packed
    message = struct.pack("=IHHII", 16 + len(body), _RTM_GETNEIGH, _NLM_F_REQUEST, 1, 0) + body
    flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE) as sock:
        sock.send(message)
        answer = sock.recv(8192, socket.MSG_DONTWAIT)
    (kind,) = struct.unpack_from("=H", answer, 4)
    if kind == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, 16)
        if -code == ENOENT:
            return Entry("none")
        raise OSError(-code, "")
    if kind != _RTM_NEWNEIGH:
        return Entry("none")
    (state,) = struct.unpack_from("=H", answer, 16 + 8)
    found = attributes(answer, 16 + 12)
    return Entry(_STATES.get(state, f"state {state:#x}"), found.get(_NDA_LLADDR, b""))
