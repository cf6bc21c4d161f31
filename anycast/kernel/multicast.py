"""Which multicast groups are listened to on which interface, as the kernel lists them in /proc/net."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from anycast.core.values.configuration import Address, ConnectionSync

# Of this thread's network namespace.
_IPV4 = "/proc/thread-self/net/igmp"
_IPV6 = "/proc/thread-self/net/igmp6"


def is_joined(sync: ConnectionSync) -> bool:
    """Whether somebody on this node hears the group of the daemons on their interface.

    The daemon of the backup role keeps the group until it ends. So where nobody hears it, the interface is not the one
    that it was started on: that one was deleted. The kernel goes on saying that the daemon runs. True where the list
    cannot be read.
    """
    try:
        with open(_IPV4 if sync.group.version == 4 else _IPV6, encoding="ascii", errors="replace") as file:
            lines = list(file)
    except OSError:
        return True
    found = _ipv4(lines) if sync.group.version == 4 else _ipv6(lines)
    return (sync.interface, sync.group) in found


def _ipv4(lines: list[str]) -> Iterator[tuple[str, Address]]:
    interface = ""
    for line in lines[1:]:
        fields = line.split()
        if line[:1].strip():
            # A long name leaves no blank before the colon.
            interface = line.split(":")[0].split()[-1]
        elif fields:
            with contextlib.suppress(ValueError):
                # The processor's number of the address' bytes.
                yield interface, IPv4Address(int(fields[0], 16).to_bytes(4, sys.byteorder))


def _ipv6(lines: list[str]) -> Iterator[tuple[str, Address]]:
    for line in lines:
        match line.split():
            case [_, interface, group, *_]:
                with contextlib.suppress(ValueError):
                    yield interface, IPv6Address(bytes.fromhex(group))
