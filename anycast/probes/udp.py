"""A connected UDP socket: it hears of ICMP errors, and of nobody but the target."""

from __future__ import annotations

import socket

from anycast.core.values.configuration import Address

__all__ = ["connected"]


def connected(address: Address, port: int) -> socket.socket:
    """A non-blocking socket that speaks with the target alone; the caller closes it. Raises OSError."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.connect((str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock
