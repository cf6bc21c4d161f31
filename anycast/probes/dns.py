"""The dns check: one question to this very server, over UDP or TCP. Records are read by dnspython, an extra."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from anycast.core.values.checks import DnsCheck
from anycast.core.values.configuration import Address
from anycast.probes.datagram import UNREACHABLE, talking
from anycast.probes.dns_wire import Answer, read
from anycast.probes.finding import OK, Finding, Progress, fail, reading, unusable
from anycast.probes.stream import Stream, opened

if TYPE_CHECKING:
    from dns.message import Message
    from dns.rdata import Rdata
    from dns.rdatatype import RdataType

__all__ = ["check", "judge_answer"]

_LIMIT = 2 + 65535  # bytes over TCP: the length, and the longest message
_SHOWN = 5  # answers


async def check(kind: DnsCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK if the answer is as expected. Raises OSError."""
    try:
        from dns.message import make_query
    except ImportError:
        return unusable("dnspython is not installed (pip install 'anycast[dns]')")
    question = make_query(kind.name, kind.record)
    progress.say("asking for %s %s", kind.name, kind.record)
    if kind.transport == "tcp":
        opening = opened(address, port, progress, tls=None, limit=_LIMIT)
        return await _over_tcp(opening, kind, question, progress)
    try:
        return await _over_udp(kind, question, address, port, progress)
    except ConnectionRefusedError:
        return fail(UNREACHABLE)


async def _over_udp(
    kind: DnsCheck, question: Message, address: Address, port: int, progress: Progress
) -> Finding:
    async with talking(address, port, progress) as talk:
        progress.missing = "answer"
        talk.send(question.to_wire())
        while True:
            message = await talk.receive()
            progress.heard = True
            finding = await judge_answer(kind, question, message, progress)
            if finding is not None:
                return finding
            # receiving does not suspend while there is something: strangers must not hold the loop.
            await asyncio.sleep(0)


async def _over_tcp(
    opening: AbstractAsyncContextManager[Stream], kind: DnsCheck, question: Message, progress: Progress
) -> Finding:
    wire = question.to_wire()
    async with opening as stream:
        progress.missing = "complete answer"
        await stream.send(struct.pack("!H", len(wire)) + wire)
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            more = await stream.receive()
            if not more:
                return fail("closed within the answer" if data else "closed without an answer")
            data += more
        answer = data[2 : 2 + int.from_bytes(data[:2], "big")]
        finding = await judge_answer(kind, question, answer, progress)
        return finding or fail("the answer is to another question")


async def judge_answer(kind: DnsCheck, question: Message, wire: bytes, progress: Progress) -> Finding | None:
    """What a message says; None if it is no answer to the question. Raises PeerError."""
    from dns.name import root
    from dns.rcode import Rcode, to_text
    from dns.rdata import from_text as record_from_text
    from dns.rdatatype import from_text

    # As records, for which the case of a name and the spelling of an address make no difference.
    lacking = {
        record_from_text("IN", kind.record, one, origin=root, relativize=False): one for one in kind.answer
    }
    record = from_text(kind.record)
    answer = read(question.to_wire(), record, wire)
    if answer is None:
        return None
    found: list[str] = []
    async for data in _records(answer, record, wire):
        lacking.pop(data, None)
        if len(found) < _SHOWN:
            found.append(data.to_text())
    rcode = to_text(Rcode(answer.rcode))
    shown = ", ".join(sorted(found))
    progress.say("%s, %d answers: %s", rcode, len(answer.records), shown)
    if rcode != kind.rcode:
        return fail(f"{rcode}, expected {kind.rcode}")
    if not lacking:
        return OK
    if answer.truncated:
        return fail("the answer is truncated: check over TCP")
    return fail(f"{shown or 'no answer'}; expected {', '.join(lacking.values())}")


async def _records(answer: Answer, record: RdataType, wire: bytes) -> AsyncIterator[Rdata]:
    """Each with a turn of the event loop before it: one with long names takes some milliseconds. Raises PeerError."""
    from dns.rdata import from_wire

    for place, length in answer.records:
        await asyncio.sleep(0)
        with reading("not a DNS answer"):
            data = from_wire("IN", record, wire, place, length)
        yield data
