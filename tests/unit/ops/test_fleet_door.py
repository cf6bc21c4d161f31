"""Where the other nodes ask: who is answered, and what stands while nobody can be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from anycast.core import events as ev
from anycast.core.fleet import codec
from anycast.core.hooks import Secret
from anycast.core.values.fleet import Certificates, Fleet, PeerAt
from anycast.ops import fleet_door
from anycast.ops.fleet import Told
from anycast.ops.fleet_door import Door
from tests.unit.agent.test_main import free_port
from tests.unit.ops.node import Node
from tests.unit.ops.scenes import large


class Site:
    """A node with its door. `stands`: what nobody is served at, and why."""

    def __init__(self, fleet: Fleet | None) -> None:
        self.node: Node = large(4, pool=2)
        self.stands: dict[str, str] = {}
        self.reload(fleet)
        self.hung = 0.0  # seconds without a step of the agent
        self.door = Door(
            self.node, Told(self.node), self.stood, clock=lambda: self.node.last_step + self.hung
        )

    def stood(self, where: str, why: str) -> None:
        self.stands[where] = why

    def reload(self, fleet: Fleet | None) -> None:
        self.node.send(ev.Reconfigured(config=replace(self.node.state.config, fleet=fleet)))


async def ask(
    port: int, head: str = "", path: str = "/fleet", method: str = "GET"
) -> tuple[int, bytes, bytes]:
    """Status, headers and body; 0: nobody answers, or whoever took the connection has closed it since."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0, b"", b""
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n".encode())
    data = await reader.read()
    writer.close()
    headers, _, body = data.partition(b"\r\n\r\n")
    if not headers:
        return 0, b"", b""
    return int(headers.split()[1]), headers, body


def play(monkeypatch: pytest.MonkeyPatch, site: Site, story: Callable[[], Awaitable[None]]) -> None:
    monkeypatch.setattr(fleet_door, "LOOK", 0.02)
    monkeypatch.setattr(fleet_door, "RETRY", 0.02)

    async def limited() -> None:
        keeping = asyncio.create_task(site.door.keep())
        async with asyncio.timeout(30):
            await story()
        keeping.cancel()
        await asyncio.wait({keeping})

    asyncio.run(limited())


async def until(look: Callable[[], Awaitable[object]]) -> None:
    while not await look():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.02)


def test_who_has_the_token_is_told_once_what_has_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("word\n")
    port = free_port()
    peers = (PeerAt(name="lb2", host="127.0.0.1"),)
    site = Site(Fleet(listen=f"127.0.0.1:{port}", peers=peers, token=Secret(file=str(tmp_path / "token"))))
    right = "Authorization: Bearer word\r\n"

    async def story() -> None:
        async def listens() -> bool:
            return (await ask(port))[0] != 0

        await until(listens)
        assert [(await ask(port, head))[0] for head in ("", "Authorization: Bearer wort\r\n", right)] == [
            401,
            401,
            200,
        ]
        _, headers, body = await ask(port, right)
        assert codec.read(body, {}).document.node == site.node.state.config.node.name
        tag = (
            next(line for line in headers.split(b"\r\n") if line.lower().startswith(b"etag: "))
            .split()[1]
            .decode()
        )
        status, _, body = await ask(port, f"{right}If-None-Match: {tag}\r\n")
        assert (status, body) == (304, b"")
        assert (await ask(port, right, path="/status"))[0] == 404
        assert (await ask(port, right, method="POST"))[0] == 405
        site.reload(None)

        async def is_closed() -> bool:
            return (await ask(port))[0] == 0

        await until(is_closed)

    play(monkeypatch, site, story)
    assert not any(site.stands.values())


def test_a_node_whose_agent_hangs_says_nothing_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it knows is of a moment when its routes were there."""
    port = free_port()
    site = Site(Fleet(listen=f"127.0.0.1:{port}"))

    async def story() -> None:
        async def answers() -> bool:
            return (await ask(port))[0] == 200

        await until(answers)
        site.hung = site.node.state.config.timing.lease_ttl + 0.5
        for path in ("/fleet", "/fleet/vips/v0"):
            code, _, body = await ask(port, path=path)
            assert (code, codec.said(body)[:15]) == (503, "its agent hangs")
        site.hung = 0.0
        await until(answers)

    play(monkeypatch, site, story)


def test_without_its_own_token_it_trusts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    site = Site(Fleet(listen=f"127.0.0.1:{port}", token=Secret(file=str(tmp_path / "none"))))

    async def story() -> None:
        async def refuses() -> bool:
            return (await ask(port, "Authorization: Bearer None\r\n"))[0] == 503

        await until(refuses)

    play(monkeypatch, site, story)


def test_a_certificate_that_cannot_be_used_stands_until_it_can_or_nobody_asks_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"127.0.0.1:{free_port()}"
    files = Certificates(certificate=str(tmp_path / "c"), key=str(tmp_path / "k"), ca=str(tmp_path / "a"))
    site = Site(Fleet(listen=where, tls=files))

    async def story() -> None:
        async def stands() -> bool:
            return "the certificate of the fleet cannot be used" in site.stands.get(where, "")

        await until(stands)
        site.reload(None)

        async def is_over() -> bool:
            return site.stands[where] == ""

        await until(is_over)

    play(monkeypatch, site, story)
