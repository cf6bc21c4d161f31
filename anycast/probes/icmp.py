"""The icmp check: one echo. A ping socket needs no privilege where its group is in ping_group_range; else a raw one."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
from errno import EACCES, EAFNOSUPPORT, EPERM, EPROTONOSUPPORT

from anycast.core.health.phase import Fault
from anycast.core.values.checks import IcmpCheck
from anycast.core.values.configuration import Address
from anycast.probes.finding import OK, Finding, Progress, unusable

__all__ = ["check"]

_TOKEN = 16  # bytes
_RECEIVED = 2048  # bytes
_REQUEST = {4: 8, 6: 128}
_REPLY = {4: 0, 6: 129}
_NOT_ALLOWED = frozenset({EACCES, EPERM, EPROTONOSUPPORT, EAFNOSUPPORT})


async def check(_kind: IcmpCheck, address: Address, _port: int, progress: Progress) -> Finding:
    """OK if the echo comes back. Raises OSError."""
    progress.missing = "echo"
    try:
        sock, raw = _socket(address.version)
    except PermissionError:
        return unusable(
            "neither ping sockets (net.ipv4.ping_group_range) nor raw ones (CAP_NET_RAW) are allowed to the agent",
            Fault.PERMISSION,
        )
    loop = asyncio.get_running_loop()
    token = secrets.token_bytes(_TOKEN)
    with sock:
        sock.connect((str(address), 0))
        await loop.sock_sendall(sock, _request(address.version, token))
        progress.say("sent an echo request by a %s socket", "raw" if raw else "ping")
        while True:
            packet = await loop.sock_recv(sock, _RECEIVED)
            progress.heard = True
            if _is_reply(packet, address.version, token, raw=raw):
                return OK
            # sock_recv does not suspend while there is something: a raw socket sees every echo of this node.
            await asyncio.sleep(0)


def _socket(version: int) -> tuple[socket.socket, bool]:
    """The socket and whether it is a raw one. Raises PermissionError: neither is allowed."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
    flags = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            return socket.socket(family, kind | flags, protocol), kind == socket.SOCK_RAW
        except OSError as error:
            if error.errno not in _NOT_ALLOWED:
                raise
    raise PermissionError


def _request(version: int, token: bytes) -> bytes:
    """The kernel writes a ping socket's identifier, and every checksum but a raw one's of IPv4."""
    head = struct.pack("!BBHHH", _REQUEST[version], 0, 0, os.getpid() & 0xFFFF, 1)
    if version == 6:
        return head + token
    return head[:2] + _checksum(head + token) + head[4:] + token


def _checksum(data: bytes) -> bytes:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")


def _is_reply(packet: bytes, version: int, token: bytes, *, raw: bool) -> bool:
    if raw and version == 4:
        packet = packet[(packet[:1] or b"\0")[0] % 16 * 4 :]  # the IP header
    return packet[:2] == bytes([_REPLY[version], 0]) and packet[8:] == token
