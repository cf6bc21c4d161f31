from __future__ import annotations

import asyncio
import contextlib
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import RelpCheck
from anycast.probes.finding import PeerError
from anycast.probes.relp import Frame, Frames
from tests.unit.probes.peers import Handler, blurting, probe_at, silent

OPENED = Frame(1, "rsp", b"200 OK\nrelp_version=0\nrelp_software=x\ncommands=syslog").encode()
CLOSED = Frame(2, "rsp").encode()


async def _frame(reader: asyncio.StreamReader, frames: Frames) -> Frame:
    while True:
        if found := frames.feed(await reader.read(1)):
            return found[0]


def speaking(opened: bytes = OPENED, closed: bytes = CLOSED, seen: list[Frame] | None = None) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = Frames()
        for answer in (opened, closed):
            frame = await _frame(reader, frames)
            if seen is not None:
                seen.append(frame)
            writer.write(answer)
            await writer.drain()
        await reader.read()

    return handler


def check(handler: Handler, *, timeout: float = 30.0) -> Result:
    return asyncio.run(probe_at(handler, RelpCheck(), timeout=timeout))


def test_a_session_that_opens_and_closes_is_ok_and_carries_no_message() -> None:
    seen: list[Frame] = []
    assert check(speaking(seen=seen)).outcome is Outcome.OK
    assert [(frame.number, frame.command) for frame in seen] == [(1, "open"), (2, "close")]


def test_a_server_may_answer_close_by_closing_the_session() -> None:
    assert check(speaking(closed=b"0 serverclose 0\n")).outcome is Outcome.OK
    assert check(speaking(closed=CLOSED + b"0 serverclose 0\n")).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("opened", "detail"),
    [
        (Frame(1, "rsp", b"500 no syslog here").encode(), "the session was refused: 500 no syslog here"),
        (b"0 serverclose 0\n", "the server closes the session"),
        (b"7 rsp 6 200 OK\n", "unexpected frame: 7 rsp"),
        (b"1 what 0\n", "unexpected frame: 1 what"),
        (b"220 mail.example.net ESMTP\r\n", "not RELP: 220 mail.example.net ESMTP"),
        (b"1 rsp 99999999 x", "not RELP: a frame of 99999999 bytes"),
        (b"1 rsp 3 abcd\n", "not RELP: 1 rsp 3 abcd"),
        (b"1 rsp 3\nabc\n", "not RELP: 1 rsp 3 abc"),
    ],
)
def test_another_answer_to_open_fails_and_says_why(opened: bytes, detail: str) -> None:
    result = check(speaking(opened=opened))
    assert (result.outcome, result.detail) == (Outcome.FAIL, detail)


def test_a_server_that_says_nothing_fails_after_the_timeout() -> None:
    assert check(silent, timeout=0.1).detail == "no answer to open within 0.1 s"
    assert check(speaking(closed=b""), timeout=0.2).detail == "no answer to close within 0.2 s"


def test_a_server_that_hangs_up_fails() -> None:
    assert check(blurting()).detail == "closed without an answer to open"


def test_a_frame_without_data_may_have_a_blank_before_the_nothing() -> None:
    assert Frames().feed(b"1 rsp 0 \n2 rsp 0\n") == [Frame(1, "rsp"), Frame(2, "rsp")]


@given(
    st.lists(
        st.builds(
            Frame,
            st.integers(0, 999_999_999),
            st.text("abcXYZ", min_size=1, max_size=32),
            st.binary(max_size=40),
        ),
        max_size=5,
    ),
    st.data(),
)
def test_frames_come_through_however_they_are_cut(sent: list[Frame], data: st.DataObject) -> None:
    wire = b"".join(frame.encode() for frame in sent)
    frames, found = Frames(), []
    while wire:
        cut = data.draw(st.integers(1, len(wire)))
        found += frames.feed(wire[:cut])
        wire = wire[cut:]
    assert found == sent


NOISE = st.lists(
    st.binary(max_size=20)
    | st.sampled_from([b"1 rsp ", b"6 200 OK\n", b"0\n", b"0 ", b"serverclose ", OPENED, CLOSED])
)


@given(NOISE)
def test_any_bytes_are_frames_or_no_frame(pieces: list[bytes]) -> None:
    frames = Frames()
    with contextlib.suppress(PeerError):
        for piece in pieces:
            frames.feed(piece)


@settings(max_examples=60, deadline=None)
@given(NOISE)
def test_whatever_a_server_sends_there_is_a_result(pieces: list[bytes]) -> None:
    result = check(blurting(*pieces))
    assert result.outcome is (Outcome.FAIL if result.detail else Outcome.OK)


@pytest.mark.parametrize("chunk", [b"1 rsp 16384 " + b"x" * 3000, b"1" * 3000, b"1 rsp 0\n" * 400])
def test_frames_that_never_end_are_not_kept_for_ever(chunk: bytes) -> None:
    frames = Frames()
    tracemalloc.start()
    try:
        with contextlib.suppress(PeerError):
            for _ in range(60):
                frames.feed(chunk)
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()
