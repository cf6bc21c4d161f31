from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import SyslogCanaryCheck, SyslogCheck
from anycast.probes.run import probe
from tests.unit.probes.peers import blurting, probe_at, refusing_port, run, serving, silent, target


async def collector(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    assert await reader.read() == b""
    writer.close()


def test_a_server_that_closes_when_asked_to_is_ok_and_gets_no_byte() -> None:
    assert asyncio.run(probe_at(collector, SyslogCheck())).outcome is Outcome.OK


def test_a_process_that_hangs_behind_a_listening_port_is_found_out() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        result = run(SyslogCheck(quiet=0.05), listener.getsockname()[1], timeout=0.1)
    assert (result.outcome, result.detail) == (Outcome.FAIL, "no goodbye within 0.1 s")


def test_a_server_that_talks_without_end_fails() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * 1000)
            await writer.drain()

    assert asyncio.run(probe_at(talk, SyslogCheck())).detail == "it sends more than the check reads"


@asynccontextmanager
async def udp(on_message: Callable[[bytes], None]) -> AsyncIterator[int]:
    class Server(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            on_message(data)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Server, ("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


def fly_to_file(path: Path, on_message: Callable[[bytes], None], *, timeout: float = 30.0) -> Result:
    async def story() -> Result:
        async with udp(on_message) as port:
            return await probe(target(SyslogCanaryCheck(proof_file=str(path)), port, timeout=timeout))

    return asyncio.run(story())


def _put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def test_a_canary_that_arrives_in_the_file_is_ok_and_is_a_syslog_message(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    seen: list[bytes] = []

    def write(message: bytes) -> None:
        seen.append(message)
        with path.open("ab") as file:
            file.write(b"Jan  1 host " + message + b"\n")

    assert fly_to_file(path, write).outcome is Outcome.OK
    assert re.fullmatch(rb"<46>1 - - anycast - canary - anycast canary [0-9a-f]{16}", seen[0])


def test_a_file_that_only_comes_with_the_canary_or_is_rotated_meanwhile_will_do(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert fly_to_file(path, lambda message: _put(path, message)).outcome is Outcome.OK

    def rotate(message: bytes) -> None:
        path.rename(tmp_path / "log.1")
        path.write_bytes(message)

    assert fly_to_file(path, rotate).outcome is Outcome.OK


def test_a_canary_of_before_proves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert fly_to_file(path, lambda message: _put(path, message)).outcome is Outcome.OK
    result = fly_to_file(path, lambda _: None, timeout=0.1)
    assert (result.outcome, result.detail) == (Outcome.FAIL, f"no canary in {path} within 0.1 s")


def test_a_canary_without_its_file_fails_and_says_so(tmp_path: Path) -> None:
    result = fly_to_file(tmp_path / "none", lambda _: None, timeout=0.1)
    assert result.outcome is Outcome.FAIL
    assert f"there is no {tmp_path / 'none'}" in result.detail


def test_a_file_that_cannot_be_read_proves_nothing(tmp_path: Path) -> None:
    result = fly_to_file(tmp_path, lambda _: None)
    assert result.outcome is Outcome.UNKNOWN
    assert "is a directory" in result.detail
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert fly_to_file(pipe, lambda _: None, timeout=1.0).outcome is Outcome.UNKNOWN


def fly_to_port(lines: Callable[[bytes], bytes], *, timeout: float = 30.0) -> Result:
    async def story() -> Result:
        messages: asyncio.Queue[bytes] = asyncio.Queue()

        async def tail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                writer.write(lines(await messages.get()))
                await writer.drain()

        async with serving(tail) as proof, udp(messages.put_nowait) as port:
            kind = SyslogCanaryCheck(proof_port=proof)
            return await probe(target(kind, port, timeout=timeout))

    return asyncio.run(story())


def test_a_canary_that_comes_out_of_the_proof_port_is_ok() -> None:
    assert fly_to_port(lambda message: b"old\n2026-01-01 host %s\n" % message).outcome is Outcome.OK


def test_a_proof_port_that_shows_other_lines_only_fails() -> None:
    result = fly_to_port(lambda _: b"other\n", timeout=0.2)
    assert (result.outcome, result.detail) == (Outcome.FAIL, "no canary within 0.2 s")


def test_a_closed_port_says_which_it_was() -> None:
    with refusing_port() as proof:
        assert run(SyslogCanaryCheck(proof_port=proof)).detail == "proof port: connection refused"

    async def story() -> Result:
        async with serving(silent) as proof:
            return await probe(target(SyslogCanaryCheck(proof_port=proof), 1, timeout=0.2))

    assert asyncio.run(story()).detail == "no canary within 0.2 s"


@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.binary(max_size=30), max_size=5))
def test_whatever_a_collector_sends_there_is_a_result(pieces: list[bytes]) -> None:
    result = asyncio.run(probe_at(blurting(*pieces), SyslogCheck(quiet=0.001)))
    assert result.outcome is (Outcome.FAIL if result.detail else Outcome.OK)


@settings(max_examples=40, deadline=None)
@given(before=st.binary(max_size=60), cut=st.integers(0, 80))
def test_a_canary_is_seen_in_any_framing_and_however_it_is_cut(before: bytes, cut: int) -> None:
    async def story() -> Result:
        messages: asyncio.Queue[bytes] = asyncio.Queue()

        async def tail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            whole = before + await messages.get()
            for piece in (whole[:cut], whole[cut:]):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            await asyncio.Event().wait()

        async with serving(tail) as proof, udp(messages.put_nowait) as port:
            return await probe(target(SyslogCanaryCheck(proof_port=proof), port))

    assert asyncio.run(story()).outcome is Outcome.OK
