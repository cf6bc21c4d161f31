from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENETUNREACH

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import UdpCheck
from anycast.probes import datagram
from anycast.probes.run import probe
from tests.unit.probes.peers import LONG, open_descriptors, run, target


@contextmanager
def mute_port(host: str = "127.0.0.1") -> Iterator[int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        yield sock.getsockname()[1]


def answered(kind: UdpCheck, *replies: bytes, host: str = "127.0.0.1") -> tuple[Result, list[bytes]]:
    """The result against a server that answers every datagram with these, and what it got."""
    got: list[bytes] = []

    async def story() -> Result:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as server:
            server.setblocking(False)
            server.bind((host, 0))

            def answer() -> None:
                data, sender = server.recvfrom(datagram.LARGEST)
                got.append(data)
                for reply in replies:
                    server.sendto(reply, sender)

            loop.add_reader(server, answer)
            try:
                return await probe(target(kind, server.getsockname()[1], address=host))
            finally:
                loop.remove_reader(server)

    return asyncio.run(story()), got


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_payload_arrives_and_the_expected_reply_is_ok(host: str) -> None:
    result, got = answered(UdpCheck(send=b"\0ping\xff", expect="^pong [0-9]"), b"pong 1", host=host)
    assert result.outcome is Outcome.OK
    assert got == [b"\0ping\xff"]


def test_another_reply_fails_and_is_shown() -> None:
    result, _ = answered(UdpCheck(expect="^pong"), b"what?")
    assert result.outcome is Outcome.FAIL
    assert "'what?'" in result.detail


def test_a_reply_is_compared_with_a_prefix_of_bytes() -> None:
    kind = UdpCheck(prefix=b"\x02\x00")
    assert answered(kind, b"\x02\x00\xff")[0].outcome is Outcome.OK
    assert answered(kind, b"\x03\x00")[0].detail == "the reply begins 0300, expected 0200"


def test_an_empty_reply_is_a_reply() -> None:
    assert answered(UdpCheck(expect="^$"), b"")[0].outcome is Outcome.OK


def test_no_reply_fails_where_one_is_expected() -> None:
    with mute_port() as port:
        result = run(UdpCheck(expect="x"), port, timeout=0.1)
    assert (result.outcome, result.detail) == (Outcome.FAIL, "no reply within 0.1 s")


def test_where_no_reply_is_expected_silence_is_ok_and_so_is_any_reply() -> None:
    with mute_port() as port:
        result = run(UdpCheck(quiet=0.05), port)
    assert result.outcome is Outcome.OK
    assert 0.05 <= result.took < LONG
    assert answered(UdpCheck(quiet=LONG), b"anything")[0].took < LONG


@pytest.mark.parametrize("kind", [UdpCheck(quiet=LONG), UdpCheck(expect="x")])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_closed_port_fails_at_once_by_its_icmp_error(kind: UdpCheck, host: str) -> None:
    with mute_port(host) as port:
        pass
    result = run(kind, port, address=host)
    assert (result.outcome, result.detail) == (Outcome.FAIL, "port unreachable (ICMP)")


def test_an_error_that_waits_when_the_agent_looks_late_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> bytes:
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_recv", never)
    with mute_port() as port:
        pass
    assert run(UdpCheck(quiet=0.05), port).detail == "port unreachable (ICMP)"


def test_no_way_to_the_target_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_route(*_: object) -> socket.socket:
        raise OSError(ENETUNREACH, "")

    monkeypatch.setattr(datagram, "connected", no_route)
    assert run(UdpCheck()).outcome is Outcome.FAIL


@settings(max_examples=60, deadline=None)
@given(
    reply=st.binary(max_size=300), expect=st.sampled_from(["^a", "", "\\x00"]), prefix=st.binary(max_size=2)
)
def test_any_reply_gives_ok_or_a_failure_with_its_reason(reply: bytes, expect: str, prefix: bytes) -> None:
    result, _ = answered(UdpCheck(expect=expect, prefix=prefix), reply)
    assert result.outcome is (Outcome.FAIL if result.detail else Outcome.OK)


def test_nothing_stays_open() -> None:
    before = open_descriptors()
    with mute_port() as port:
        for _ in range(3):
            run(UdpCheck(expect="x"), port, timeout=0.02)
    assert open_descriptors() <= before
