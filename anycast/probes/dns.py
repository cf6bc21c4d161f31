"""The dns check: one question to this very server, over UDP or TCP. The wire format is dnspython's, an extra."""

from __future__ import annotations

import asyncio
import struct
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from anycast.core.values.checks import DnsCheck
from anycast.core.values.configuration import Address
from anycast.probes.datagram import LARGEST, UNREACHABLE, connected
from anycast.probes.finding import OK, Finding, Progress, fail, unusable
from anycast.probes.stream import Stream, judged, opened

if TYPE_CHECKING:
    from dns.message import Message

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
        return await judged(_over_tcp(opening, kind, question, progress))
    try:
        return await _over_udp(kind, question, address, port, progress)
    except ConnectionRefusedError:
        return fail(UNREACHABLE)


async def _over_udp(
    kind: DnsCheck, question: Message, address: Address, port: int, progress: Progress
) -> Finding:
    loop = asyncio.get_running_loop()
    with connected(address, port) as sock:
        progress.missing = "answer"
        await loop.sock_sendall(sock, question.to_wire())
        while True:
            finding = judge_answer(kind, question, await loop.sock_recv(sock, LARGEST), progress)
            if finding is not None:
                return finding
            # sock_recv does not suspend while there is something: strangers must not hold the loop.
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
        return judge_answer(kind, question, answer, progress) or fail("the answer is to another question")


def judge_answer(kind: DnsCheck, question: Message, wire: bytes, progress: Progress) -> Finding | None:
    """What a message says; None if it is no answer to the question."""
    from dns.message import from_wire
    from dns.name import root
    from dns.rcode import to_text
    from dns.rdata import from_text as record_from_text
    from dns.rdatatype import from_text

    if wire[:2] != question.id.to_bytes(2, "big"):
        return None
    try:
        answer = from_wire(wire, ignore_trailing=True)
        if not question.is_response(answer):
            return None
        rcode = to_text(answer.rcode())
        record = from_text(kind.record)
        records = {data for group in answer.answer if group.rdtype == record for data in group}
        # As records, for which the case of a name and the spelling of an address make no difference.
        lacking = [
            one
            for one in kind.answer
            if record_from_text("IN", record, one, origin=root, relativize=False) not in records
        ]
        found = sorted(data.to_text() for data in records)
    except Exception as error:  # noqa: BLE001 - whatever these bytes make of it
        return fail(f"not a DNS answer: {str(error) or type(error).__name__}")
    progress.say("%s, %d answers: %s", rcode, len(found), ", ".join(found[:_SHOWN]))
    if rcode != kind.rcode:
        return fail(f"{rcode}, expected {kind.rcode}")
    if not lacking:
        return OK
    if answer.flags & 0x0200:  # TC
        return fail("the answer is truncated: check over TCP")
    shown = ", ".join(found[:_SHOWN]) or "no answer"
    return fail(f"{shown}; expected {', '.join(lacking)}")
