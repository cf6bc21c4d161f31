"""Announcements of settings below net.ipv4.conf and net.ipv6.conf (RTM_NEWNETCONF). No sockets."""

from __future__ import annotations

import struct

_NEW = 80
_HEAD = struct.Struct("=IHHII")
_FAMILY = 4  # bytes of struct netconfmsg, with its padding
_INDEX = struct.Struct("=HHi")  # the attribute NETCONFA_IFINDEX, which comes first
_IFINDEX, _ALL = 1, -1


def everywhere(data: bytes) -> bool:
    """Whether a datagram tells of a setting of `all`: ip_forward, forwarding, rp_filter."""
    offset = 0
    while len(data) - offset >= _HEAD.size + _FAMILY + _INDEX.size:
        length, kind, _, _, _ = _HEAD.unpack_from(data, offset)
        _, name, index = _INDEX.unpack_from(data, offset + _HEAD.size + _FAMILY)
        if (kind, name, index) == (_NEW, _IFINDEX, _ALL):
            return True
        offset += max((length + 3) & ~3, _HEAD.size)
    return False
