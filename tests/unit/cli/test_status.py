"""`anycast status` as a process: watched on a terminal and in a pipe, for Nagios, with and without colours."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import sys
import termios
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from anycast.core import events as ev
from tests.unit.cli.test_node import Done, against, cli, serving
from tests.unit.ops.node import Node, Operator, healthy

HOME, BELOW = b"\x1b[H", b"\x1b[J"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def node() -> Node:
    return healthy(now=time.monotonic())


class Terminal:
    """A process on a terminal of 60 columns. What it writes is waited for."""

    def __init__(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader) -> None:
        self.process = process
        self.reader = reader

    @classmethod
    async def start(cls, *argv: str, lines: int = 50) -> Terminal:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 60, 0, 0))
        environ = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "anycast", *argv,
            stdin=slave, stdout=slave, stderr=slave, env={**environ, "TERM": "xterm"},
        )  # fmt: skip
        os.close(slave)
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, os.fdopen(master, "rb", 0))
        return cls(process, reader)

    async def screen(self) -> bytes:
        """The next whole drawing."""
        return (await self.reader.readuntil(BELOW)).rpartition(HOME)[2]

    async def end(self) -> tuple[int, bytes]:
        """As by Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        rest = b""
        try:
            while data := await self.reader.read(4096):
                rest += data
        except OSError:  # the other end of a terminal has gone
            pass
        return await self.process.wait(), rest


def watched(
    node: Node, path: Path, story: Callable[[Terminal], Awaitable[None]], *argv: str, lines: int = 50
) -> None:
    async def run() -> None:
        async with serving(Operator(node), path):
            terminal = await Terminal.start("status", "--socket", str(path), *argv, lines=lines)
            await story(terminal)

    asyncio.run(run())


def test_watched_on_a_terminal_it_is_drawn_anew_and_ends_cleanly(node: Node, path: Path) -> None:
    async def story(terminal: Terminal) -> None:
        first = await terminal.screen()
        assert b"lb1: anycast" in first
        assert b"\x1b[32myes\x1b[0m" in first
        node.send(ev.PluginLost(source=1))
        while b"no plugin is connected" not in await terminal.screen():
            pass
        code, rest = await terminal.end()
        assert code == 0
        assert rest.endswith(b"\x1b[?7h\r\n")  # lines wrap again
        assert b"Traceback" not in rest

    watched(node, path, story, "--watch", "0.1")


def test_what_does_not_fit_on_the_terminal_is_counted(node: Node, path: Path) -> None:
    async def story(terminal: Terminal) -> None:
        screen = await terminal.screen()
        assert screen.count(b"\n") == 9
        assert b"more lines" in screen.splitlines()[-2]
        assert (await terminal.end())[0] == 0

    watched(node, path, story, "--watch", "0.1", lines=10)


def test_an_agent_that_goes_and_comes_is_watched_on(node: Node, path: Path) -> None:
    async def run() -> None:
        terminal = await Terminal.start("status", "--socket", str(path), "--watch", "0.1")
        assert b"no agent answers" in await terminal.screen()
        async with serving(Operator(node), path):
            while b"lb1: anycast" not in await terminal.screen():
                pass
        while b"no agent answers" not in await terminal.screen():
            pass
        assert (await terminal.end())[0] == 0

    asyncio.run(run())


def test_watched_in_a_pipe_json_is_one_document_on_each_line(node: Node, path: Path) -> None:
    async def run() -> None:
        async with serving(Operator(node), path):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "anycast", "status", "--json", "--watch", "0.1", "--socket", str(path),
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            for _ in range(2):
                assert json.loads(await process.stdout.readline())["node"]["name"] == "lb1"
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0

    asyncio.run(run())


def test_watched_in_a_pipe_text_has_no_escapes(node: Node, path: Path) -> None:
    async def run() -> None:
        async with serving(Operator(node), path):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "anycast", "status", "--watch", "0.1", "--socket", str(path),
                stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            first = await process.stdout.readuntil(b"\n\nlb1: ")
            assert b"\x1b" not in first
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 0

    asyncio.run(run())


def test_colours_are_chosen_before_the_environment_and_the_terminal(node: Node, path: Path) -> None:
    always, never, auto = against(
        Operator(node),
        path,
        ("status", "--color", "always"),
        ("status", "--color=never"),
        ("status",),
    )
    assert "\x1b[32myes" in always.out
    assert "\x1b" not in never.out + auto.out


def test_nagios_gets_a_line_and_a_code(node: Node, path: Path, tmp_path: Path) -> None:
    (well,) = against(Operator(node), path, ("status", "--nagios"))
    assert (well.code, well.err) == (0, "")
    assert well.out.startswith("ANYCAST OK: 2 of 2 VIPs acknowledged by ExaBGP | announced=2;")
    node.send(ev.PluginLost(source=1))
    (critical,) = against(Operator(node), path, ("status", "--nagios"))
    assert critical.code == 2
    assert critical.out.startswith("ANYCAST CRITICAL: web not announced (healthy: no plugin is connected")
    assert critical.out.count("\n") == 1


def test_nagios_hears_unknown_where_nothing_can_be_asked(tmp_path: Path) -> None:
    async def said(*argv: str) -> Done:
        return await cli("status", "--nagios", *argv)

    gone = asyncio.run(said("--socket", str(tmp_path / "none.sock")))
    assert (gone.code, gone.err) == (3, "")
    assert gone.out.startswith("ANYCAST UNKNOWN: no agent answers at ")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("vips: {}\n")
    bad = asyncio.run(said("--config", str(wrong)))
    assert (bad.code, bad.err) == (3, "")
    assert bad.out.startswith(f"ANYCAST UNKNOWN: {wrong}:1:")
