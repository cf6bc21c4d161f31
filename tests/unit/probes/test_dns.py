from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdata
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import DnsCheck
from anycast.probes.dns import judge_answer
from anycast.probes.finding import Finding, PeerError, Progress
from anycast.probes.run import probe
from tests.unit.probes.peers import blurting, probe_at, refusing_port, run, serving, target

NAME = "www.example.net."
WWW = DnsCheck(name=NAME, answer=("192.0.2.80",))

Reply = Callable[[dns.message.Message], bytes]


def reply(
    question: dns.message.Message, *addresses: str, rcode: dns.rcode.Rcode = dns.rcode.NOERROR, flags: int = 0
) -> bytes:
    answer = dns.message.make_response(question)
    answer.set_rcode(rcode)
    answer.flags |= flags
    if addresses:
        answer.answer.append(dns.rrset.from_text(NAME, 60, "IN", "CNAME", "web.example.net."))
        answer.answer.append(dns.rrset.from_text("web.example.net.", 60, "IN", "A", *addresses))
    return answer.to_wire()


def over_udp(kind: DnsCheck, *replies: Reply, timeout: float = 30.0) -> Result:
    async def story() -> Result:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.setblocking(False)
            server.bind(("127.0.0.1", 0))

            def answer() -> None:
                data, sender = server.recvfrom(65535)
                for one in replies:
                    server.sendto(one(dns.message.from_wire(data)), sender)

            loop.add_reader(server, answer)
            try:
                return await probe(target(kind, server.getsockname()[1], timeout=timeout))
            finally:
                loop.remove_reader(server)

    return asyncio.run(story())


def over_tcp(kind: DnsCheck, make: Reply, *, cut: int = 0) -> Result:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length,) = struct.unpack("!H", await reader.readexactly(2))
        wire = make(dns.message.from_wire(await reader.readexactly(length)))
        framed = struct.pack("!H", len(wire)) + wire
        for byte in framed[: len(framed) - cut]:
            writer.write(bytes([byte]))
            await writer.drain()

    async def story() -> Result:
        async with serving(handler) as port:
            return await probe(target(kind, port))

    return asyncio.run(story())


def test_an_expected_answer_is_ok_behind_a_cname_and_among_others() -> None:
    assert over_udp(WWW, lambda q: reply(q, "192.0.2.79", "192.0.2.80")).outcome is Outcome.OK


def test_the_case_of_a_name_and_the_spelling_of_an_address_make_no_difference() -> None:
    def cname(question: dns.message.Message) -> bytes:
        answer = dns.message.make_response(question)
        answer.answer.append(dns.rrset.from_text(NAME, 60, "IN", "CNAME", "Web.Example.Net."))
        return answer.to_wire()

    def address(question: dns.message.Message) -> bytes:
        answer = dns.message.make_response(question)
        answer.answer.append(dns.rrset.from_text(NAME, 60, "IN", "AAAA", "2001:db8::1"))
        return answer.to_wire()

    named = DnsCheck(name=NAME, record="CNAME", answer=("web.example.net.",))
    assert over_udp(named, cname).outcome is Outcome.OK
    assert (
        over_udp(DnsCheck(name=NAME, record="AAAA", answer=("2001:DB8:0::1",)), address).outcome is Outcome.OK
    )


@pytest.mark.parametrize(
    ("kind", "make", "detail"),
    [
        (WWW, lambda q: reply(q, "192.0.2.79"), "192.0.2.79; expected 192.0.2.80"),
        (WWW, reply, "no answer; expected 192.0.2.80"),
        (WWW, lambda q: reply(q, flags=dns.flags.TC), "the answer is truncated: check over TCP"),
        (WWW, lambda q: reply(q, rcode=dns.rcode.SERVFAIL), "SERVFAIL, expected NOERROR"),
        (DnsCheck(name=NAME, rcode="REFUSED"), reply, "NOERROR, expected REFUSED"),
        (WWW, lambda q: q.id.to_bytes(2, "big") + b"junk", "not a DNS answer: "),
    ],
)
def test_another_answer_fails_and_is_shown(kind: DnsCheck, make: Reply, detail: str) -> None:
    result = over_udp(kind, make)
    assert result.outcome is Outcome.FAIL
    assert result.detail.startswith(detail)


def test_an_error_that_is_expected_is_ok_and_without_an_expected_answer_the_rcode_decides() -> None:
    refusal = DnsCheck(name=NAME, rcode="REFUSED")
    assert over_udp(refusal, lambda q: reply(q, rcode=dns.rcode.REFUSED)).outcome is Outcome.OK
    assert over_udp(DnsCheck(name=NAME), reply).outcome is Outcome.OK


def test_answers_to_other_questions_are_passed_over() -> None:
    def stranger(question: dns.message.Message) -> bytes:
        return reply(dns.message.make_query("other.example.", "A", id=question.id), "192.0.2.80")

    def earlier(question: dns.message.Message) -> bytes:
        return reply(dns.message.make_query(NAME, "A", id=question.id ^ 1), "192.0.2.80")

    assert over_udp(WWW, stranger, earlier, lambda q: reply(q, "192.0.2.80")).outcome is Outcome.OK
    assert over_udp(WWW, stranger, earlier, timeout=0.2).detail == "no answer within 0.2 s"


def test_over_tcp_an_answer_may_come_byte_by_byte() -> None:
    tcp = DnsCheck(name=NAME, answer=("192.0.2.80",), transport="tcp")
    assert over_tcp(tcp, lambda q: reply(q, "192.0.2.80")).outcome is Outcome.OK
    assert over_tcp(tcp, lambda q: reply(q, "192.0.2.80"), cut=1).detail == "closed within the answer"
    assert asyncio.run(probe_at(blurting(), tcp)).detail == "closed without an answer"


def test_a_closed_port_fails() -> None:
    with refusing_port() as port:
        assert run(DnsCheck(name=NAME, transport="tcp"), port).detail == "connection refused"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    assert run(DnsCheck(name=NAME), port).detail == "port unreachable (ICMP)"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_are_an_answer_or_none(data: st.DataObject) -> None:
    question = dns.message.make_query(NAME, "A")
    wire = bytearray(reply(question, "192.0.2.80"))
    if data.draw(st.booleans()):
        wire = bytearray(question.id.to_bytes(2, "big") + data.draw(st.binary(max_size=80)))
    for place in data.draw(st.sets(st.integers(0, len(wire) - 1), max_size=4)):
        wire[place] = data.draw(st.integers(0, 255))
    try:
        finding = asyncio.run(judge_answer(WWW, question, bytes(wire), Progress()))
    except PeerError:
        return
    assert finding is None or finding.outcome is (Outcome.FAIL if finding.detail else Outcome.OK)


LONG_NAME = b"\1x" * 126 + b"\0"


def costly(records: int) -> Reply:
    """Mail servers, each by a name of 126 labels, owner and data: dnspython takes milliseconds for one."""

    def make(question: dns.message.Message) -> bytes:
        wire = question.to_wire()
        place = len(wire) + 12
        first = b"\xc0\x0c" + struct.pack("!HHIH", 65280, 1, 0, len(LONG_NAME)) + LONG_NAME
        name = struct.pack("!H", 0xC000 | place)
        rest = b"".join(name + struct.pack("!HHIHH", 15, 1, 0, 4, number) + name for number in range(records))
        return wire[:2] + struct.pack("!5H", 0x8180, 1, records + 1, 0, 0) + wire[12:] + first + rest

    return make


def test_of_an_answer_with_very_many_records_none_is_read() -> None:
    mail = DnsCheck(name=NAME, record="MX", answer=("10 mail.example.net.",), transport="tcp")
    assert over_tcp(mail, costly(101)).detail == "an answer of more than 100 records, or 4096 bytes in one"
    assert over_tcp(mail, costly(1000)).detail == "an answer of more than 1000 records"


def test_the_event_loop_has_a_turn_between_two_records(monkeypatch: pytest.MonkeyPatch) -> None:
    mail = DnsCheck(name=NAME, record="MX", answer=("10 mail.example.net.",))
    question = dns.message.make_query(NAME, "MX")
    read: list[int] = []
    turn = 0
    from_wire = dns.rdata.from_wire

    def noted(*arguments: Any) -> Any:
        read.append(turn)
        return from_wire(*arguments)

    monkeypatch.setattr(dns.rdata, "from_wire", noted)

    async def story() -> Finding | None:
        async def count() -> None:
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        try:
            return await judge_answer(mail, question, costly(100)(question), Progress())
        finally:
            counting.cancel()

    finding = asyncio.run(story())
    assert finding is not None
    assert finding.outcome is Outcome.FAIL
    assert len(set(read)) == len(read) == 100
