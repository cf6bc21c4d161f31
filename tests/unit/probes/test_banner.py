from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import BannerCheck, Expect, Send
from anycast.probes.banner import Dialogue
from tests.unit.probes.peers import blurting, probe_at, silent

SMTP = BannerCheck(
    steps=(
        Expect("^220 "),
        Send(b"EHLO anycast\r\n"),
        Expect("^250 "),
        Send(b"QUIT\r\n"),
        Expect("^221 "),
    )
)


async def smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220-hello\r\n220 mail.example.net ESMTP\r\n")
    assert await reader.readline() == b"EHLO anycast\r\n"
    writer.write(b"250-SIZE 1000\r\n250 HELP\r\n")
    assert await reader.readline() == b"QUIT\r\n"
    writer.write(b"221 bye\r\n")


def answer(*pieces: bytes, kind: BannerCheck = SMTP) -> Result:
    return asyncio.run(probe_at(blurting(*pieces), kind))


def test_a_dialogue_that_comes_to_its_end_is_ok() -> None:
    assert asyncio.run(probe_at(smtp, SMTP)).outcome is Outcome.OK


def test_a_server_that_hangs_up_fails_with_its_last_words() -> None:
    result = answer(b"554 go away\r\n")
    assert result.outcome is Outcome.FAIL
    assert result.detail == "closed after '554 go away', expected a line with '^220 '"


def test_a_server_that_says_something_else_and_waits_fails_with_what_it_said() -> None:
    async def busy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"421 busy\r\n")
        await asyncio.Event().wait()

    result = asyncio.run(probe_at(busy, SMTP, timeout=0.2))
    assert result.detail == "no line with '^220 ', but '421 busy', within 0.2 s"


def test_a_silent_server_fails_after_the_timeout() -> None:
    assert asyncio.run(probe_at(silent, SMTP, timeout=0.1)).detail == "no line with '^220 ' within 0.1 s"


def test_a_flood_is_given_up_at_a_bound() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x" * 1000 + b"\r\n")
            await writer.drain()

    assert asyncio.run(probe_at(flood, SMTP)).detail == "it sends more than the check reads"


def test_a_last_line_without_an_end_counts_when_the_server_closes() -> None:
    assert answer(b"220 x", kind=BannerCheck(steps=(Expect("^220 "),))).outcome is Outcome.OK


def test_a_prompt_that_does_not_end_its_line_is_not_taken_for_one() -> None:
    dialogue = Dialogue((Expect("^220"),))
    dialogue.feed(b"220")
    dialogue.proceed()
    assert dialogue.awaited == "^220"


PIECES = st.lists(
    st.binary(max_size=30) | st.sampled_from([b"220 ", b"250 x\r\n", b"\n", b"\r\n", b"221 ", b"x" * 5000]),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(PIECES)
def test_the_dialogue_is_the_same_however_the_bytes_are_cut(pieces: list[bytes]) -> None:
    def play(parts: list[bytes]) -> tuple[bytes, str | None, str]:
        dialogue = Dialogue(SMTP.steps)
        out = b""
        for part in parts:
            dialogue.feed(part)
            out += dialogue.proceed()
        dialogue.end()
        return out + dialogue.proceed(), dialogue.awaited, dialogue.last_line

    whole = b"".join(pieces)
    assert play(pieces) == play([whole]) == play([bytes([byte]) for byte in whole])


@settings(max_examples=60, deadline=None)
@given(PIECES)
def test_whatever_a_server_sends_there_is_a_result(pieces: list[bytes]) -> None:
    result = answer(*pieces)
    assert result.outcome is (Outcome.FAIL if result.detail else Outcome.OK)


@pytest.mark.parametrize("chunk", [b"x" * 4000, b"\n" * 4000, b"ab\r" * 1300])
def test_a_dialogue_that_gets_nowhere_keeps_no_more_than_a_line(chunk: bytes) -> None:
    dialogue = Dialogue(SMTP.steps)
    tracemalloc.start()
    try:
        for _ in range(60):
            dialogue.feed(chunk)
            dialogue.proceed()
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
