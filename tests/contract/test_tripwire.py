"""Connections that stay open, by the real kernel: a peer that is gone without a word."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from ipaddress import ip_address

import pytest

from anycast.core.values.checks import IdleCheck
from anycast.core.values.configuration import Check, Target
from anycast.probes.finding import Finding
from anycast.probes.wires.wires import State, Wires
from tests.contract.namespaces import network_namespace
from tests.contract.namespaces import run as command

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("nft") is None, reason="a network namespace needs root, and silence nft"
)


def test_a_peer_that_answers_no_keepalive_has_ended_the_connection() -> None:
    async def story(listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        tripped: asyncio.Queue[bool] = asyncio.Queue()
        answered: asyncio.Queue[Finding] = asyncio.Queue()
        wires: Wires[str] = Wires(
            lambda _, at_once: tripped.put_nowait(at_once),
            lambda _, finding, __: answered.put_nowait(finding),
        )
        check = Check(kind=IdleCheck(), interval=1.0)
        target = Target(address=ip_address("127.0.0.1"), port=listener.getsockname()[1], check=check)
        wire = wires.join(target, "a")
        wires.ask(wire, "a", 5.0, anew=False)
        peer, _ = await loop.sock_accept(listener)
        with peer:
            await answered.get()
            assert wires.counts[State.STANDING] == 1
            command("nft", "add table ip silence")
            command("nft", "add chain ip silence input { type filter hook input priority 0; }")
            command("nft", f"add rule ip silence input tcp dport {target.port} drop")
            assert await tripped.get()
            assert wires.counts[State.OFF] == 1
        wires.close()

    with network_namespace(), socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        asyncio.run(story(listener))
