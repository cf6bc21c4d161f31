"""A real server: HTTP on tcp/80 and an echo on udp/514, both telling its name, in one epoll loop.

The standard library only, and started without site-packages: a lab has many of these.
"""

from __future__ import annotations

import select
import socket
import sys

_SYSLOG_PORT = 514
_END = b"\r\n\r\n"


def serve(name: str, http_port: int = 80, syslog_port: int = _SYSLOG_PORT) -> None:
    """Answers any GET with `name` and a newline, any datagram with `name`, a space and the datagram."""
    body = f"{name}\n".encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body)
    listener = socket.create_server(
        ("::", http_port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096, reuse_port=False
    )
    listener.setblocking(False)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    udp.bind(("::", syslog_port))
    udp.setblocking(False)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    epoll.register(udp, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    partial: dict[int, bytes] = {}
    listening, datagrams = listener.fileno(), udp.fileno()
    while True:
        for fd, _ in epoll.poll():
            if fd == listening:
                _accept(listener, epoll, connections)
            elif fd == datagrams:
                _echo(udp, name.encode())
            elif not _answer(fd, connections[fd], partial, reply, body):
                partial.pop(fd, None)
                connections.pop(fd).close()


def _accept(listener: socket.socket, epoll: select.epoll, connections: dict[int, socket.socket]) -> None:
    for _ in range(64):
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connections[connection.fileno()] = connection
        epoll.register(connection, select.EPOLLIN)


def _answer(fd: int, connection: socket.socket, partial: dict[int, bytes], reply: bytes, body: bytes) -> bool:
    """Replies to every whole request there is. False: the connection is over."""
    try:
        data = connection.recv(65536)
        if not data:
            return False
        if fd in partial:
            data = partial.pop(fd) + data
        *requests, rest = data.split(_END)
        if rest:
            partial[fd] = rest
        for request in requests:
            connection.send(reply if request.startswith(b"HEAD ") else reply + body)
            if b"\r\nconnection: close" in request.lower() or request.partition(b"\r\n")[0].endswith(
                b" HTTP/1.0"
            ):
                return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _echo(udp: socket.socket, name: bytes) -> None:
    """Answers from the address that was asked: the VIP."""
    for _ in range(64):
        try:
            data, ancillary, _, sender = udp.recvmsg(65536, socket.CMSG_SPACE(20))
            asked = [
                (level, kind, value[:16] + bytes(4))  # the interface is for the routing table to choose
                for level, kind, value in ancillary
                if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)
            ]
            udp.sendmsg([name, b" ", data], asked, 0, sender)
        except OSError:
            return


if __name__ == "__main__":
    serve(sys.argv[1], *map(int, sys.argv[2:4]))
