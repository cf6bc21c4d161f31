"""The names by which a node may be asked."""

from __future__ import annotations

import asyncio
import http.client
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from anycast.ops.hosts import host_of, is_known, machine_names
from anycast.ops.main import surface
from anycast.sockets import bind_unix
from tests.unit.ops.node import CONFIG, healthy

NAMES = ("lb1", "lb1.example.net", "*.lb.example.net")


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("LB1.example.net.:9644", "lb1.example.net"),
        ("[2001:DB8::1]:9644", "2001:db8::1"),
        ("10.0.0.1", "10.0.0.1"),
        ("[fe80::1%eth0]:9644", "fe80::1"),
        ("[fe80::1%25eth0]", "fe80::1"),
        ("[lb1%eth0]", None),
        ("lb1:", "lb1"),
        ("", None),
        ("a b", None),
        ("user@lb1", None),
        ("lb1:80:80", None),
        ("2001:db8::1", None),
        ("lb1/evil", None),
        ("lb1\n", None),
    ],
)
def test_the_port_is_not_part_of_the_host(authority: str, host: str | None) -> None:
    assert host_of(authority) == host


@pytest.mark.parametrize(
    "authority",
    ["lb1", "LB1:9644", "lb1.example.net.", "a.lb.example.net", "127.0.0.1:1", "[::1]", "192.0.2.1:80"],
)
def test_addresses_and_own_names_are_known(authority: str) -> None:
    assert is_known(authority, NAMES)


@pytest.mark.parametrize(
    "authority",
    [
        "",
        "evil.example",
        "lb1.evil.example",
        "xlb1",
        "lb.example.net",
        "xlb.example.net",
        "127.0.0.1.evil.example",
        "[lb1]",
    ],
)
def test_other_names_are_not(authority: str) -> None:
    assert not is_known(authority, NAMES)


def test_a_star_is_any_name_but_not_what_is_none() -> None:
    assert is_known("evil.example", ("*",))
    assert not is_known("evil example", ("*",))


def test_the_machine_is_known_by_its_short_and_its_full_name(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "lb1.example.net", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "gethostname", lambda: "lb1.internal")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert machine_names() == {"lb1", "lb1.internal", "lb1.example.net"}

    def fails(*_: object, **__: object) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    assert machine_names() == {"lb1", "lb1.internal"}


def test_over_tcp_a_node_answers_to_its_names_and_at_its_unix_socket_to_any(tmp_path: Path) -> None:
    config = replace(CONFIG, node=replace(CONFIG.node, http_hosts=("status.example.net",)))

    def ask(connection: socket.socket, host: str) -> int:
        with connection:
            connection.sendall(f"GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status

    def at_unix(path: Path, host: str) -> int:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        return ask(connection, host)

    async def story() -> None:
        node = healthy(config, now=time.monotonic())
        async with surface(node, names=lambda: {"lb1.internal"}) as (local, tcp):
            listener = socket.create_server(("127.0.0.1", 0))
            await tcp.listen(listener)
            path = tmp_path / "ops.sock"
            await local.listen(bind_unix(path, mode=0o600))
            codes = {}
            for host in (
                "localhost",
                "lb1:9644",
                "lb1.internal",
                "status.example.net",
                "127.0.0.1",
                "evil.example",
            ):
                connection = socket.create_connection(listener.getsockname())
                codes[host] = await asyncio.to_thread(ask, connection, host)
            assert codes.pop("evil.example") == 421
            assert set(codes.values()) == {200}
            assert await asyncio.to_thread(at_unix, path, "evil.example") == 200

    asyncio.run(story())
