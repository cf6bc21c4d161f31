from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.certificate import not_after
from anycast.core.health.phase import Outcome, Result
from anycast.core.values.configuration import HttpCheck
from anycast.probes import run as tasks
from anycast.probes import tls
from anycast.probes.finding import Finding, Progress
from anycast.probes.sweep.runs import _HttpRun
from tests.unit.probes import peers
from tests.unit.probes.peers import (
    Certificate,
    Handler,
    answering,
    blurting,
    full_backlog,
    make,
    open_descriptors,
    openssl,
    probe,
    probe_at,
    refusing_port,
    run,
    serving,
    silent,
    target,
)

PLAIN = HttpCheck(tls=False)


@pytest.fixture(scope="module", autouse=True, params=["as a task", "swept"])
def _engine(request: pytest.FixtureRequest) -> Iterator[None]:
    with peers.engine(swept=request.param == "swept"):
        yield


OK_HEAD = b"HTTP/1.1 200 OK\r\nServer: a\r\nContent-Length: 100000\r\n\r\n"


def answer(*pieces: bytes, kind: HttpCheck = PLAIN, hold: bool = True) -> Result:
    return asyncio.run(probe_at(answering(*pieces, hold=hold), kind))


def request_of(kind: HttpCheck, *, host: str = "127.0.0.1") -> tuple[bytes, int]:
    """The bytes the server saw, and its port."""

    async def story() -> tuple[bytes, int]:
        seen: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.set_result(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK_HEAD)

        async with serving(handler, host=host) as port:
            await probe(target(kind, port, address=host))
            return await seen, port

    return asyncio.run(story())


def test_a_status_in_the_expected_set_is_ok_without_waiting_for_the_body() -> None:
    assert answer(OK_HEAD).outcome is Outcome.OK


def test_the_request_is_one_get_that_asks_to_close() -> None:
    request, port = request_of(PLAIN)
    assert request.startswith(b"GET / HTTP/1.1\r\n")
    assert f"host: 127.0.0.1:{port}\r\n".encode() in request.lower()
    assert b"connection: close\r\n" in request.lower()


def test_host_path_and_method_are_sent_as_configured() -> None:
    request, _ = request_of(HttpCheck(tls=False, method="POST", path="/health?a=b", host="www.example.net"))
    assert request.startswith(b"POST /health?a=b HTTP/1.1\r\n")
    assert b"host: www.example.net\r\n" in request.lower()
    assert b"content-length: 0\r\n" in request.lower()


def test_an_ipv6_address_stands_in_brackets_in_the_host_header() -> None:
    request, port = request_of(PLAIN, host="::1")
    assert f"host: [::1]:{port}\r\n".encode() in request.lower()


def test_headers_are_sent_and_take_the_place_of_the_defaults() -> None:
    request, _ = request_of(HttpCheck(tls=False, headers=(("X-Check", "1"), ("user-agent", "mine"))))
    assert b"x-check: 1\r\n" in request.lower()
    assert request.lower().count(b"user-agent: ") == 1
    assert b"user-agent: mine\r\n" in request.lower()


def test_the_answer_to_a_head_request_is_judged_like_any_other() -> None:
    assert answer(OK_HEAD, kind=HttpCheck(tls=False, method="HEAD")).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("expect", "detail"),
    [
        (frozenset(range(200, 300)), "status 503, expected 2xx"),
        (frozenset({200, 301, 302, 303}), "status 503, expected 200, 301-303"),
        (frozenset({*range(200, 400), 404}), "status 503, expected 2xx, 3xx, 404"),
    ],
)
def test_another_status_fails_and_says_which_was_expected(expect: frozenset[int], detail: str) -> None:
    result = answer(b"HTTP/1.1 503 Busy\r\n\r\n", kind=HttpCheck(tls=False, expect=expect))
    assert (result.outcome, result.detail) == (Outcome.FAIL, detail)


def test_an_error_status_is_ok_where_it_is_expected() -> None:
    kind = HttpCheck(tls=False, expect=frozenset({503}))
    assert answer(b"HTTP/1.1 503 Busy\r\n\r\n", kind=kind).outcome is Outcome.OK


def test_interim_responses_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert answer(interim, OK_HEAD).outcome is Outcome.OK
    assert answer(interim + b"HTTP/1.1 500 No\r\n\r\n").detail == "status 500, expected 2xx"


def test_an_http_1_0_answer_is_good_enough() -> None:
    assert answer(b"HTTP/1.0 200 OK\r\n\r\n", hold=False).outcome is Outcome.OK


@settings(max_examples=40, deadline=None)
@given(cuts=st.sets(st.integers(1, len(OK_HEAD) - 1)))
def test_a_head_may_come_in_any_pieces(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(OK_HEAD)]
    pieces = [OK_HEAD[a:b] for a, b in itertools.pairwise(edges)]
    assert answer(*pieces).outcome is Outcome.OK


def test_a_head_byte_by_byte_is_ok() -> None:
    assert answer(*(bytes([byte]) for byte in OK_HEAD)).outcome is Outcome.OK


def test_a_server_that_accepts_and_keeps_silent_fails_after_the_timeout() -> None:
    result = asyncio.run(probe_at(silent, PLAIN, timeout=0.1))
    assert (result.outcome, result.detail) == (Outcome.FAIL, "no complete response head within 0.1 s")


def test_a_host_that_does_not_even_shake_hands_fails_after_the_timeout() -> None:
    with full_backlog() as port:
        assert run(PLAIN, port, timeout=0.1).detail == "no answer within 0.1 s"


def test_the_timeout_bounds_the_whole_however_slowly_a_head_drips() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.01)

    result = asyncio.run(probe_at(drip, PLAIN, timeout=0.2))
    assert result.detail == "no complete response head within 0.2 s"


def test_a_refusing_port_fails_and_says_so() -> None:
    with refusing_port() as port:
        assert run(PLAIN, port).detail == "connection refused"


@pytest.mark.parametrize(
    ("pieces", "detail"),
    [
        ((), "closed without a response"),
        ((b"HTTP/1.1 200 OK\r\nServ",), "closed within the response head"),
    ],
)
def test_a_server_that_closes_too_early_fails(pieces: tuple[bytes, ...], detail: str) -> None:
    result = answer(*pieces, hold=False)
    assert (result.outcome, result.detail) == (Outcome.FAIL, detail)


def test_another_protocol_fails_and_shows_what_came() -> None:
    async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        await asyncio.Event().wait()

    result = asyncio.run(probe_at(greeting, PLAIN))
    assert result.outcome is Outcome.FAIL
    assert result.detail == "not an HTTP response: SSH-2.0-OpenSSH_9.2p1"


def test_a_malformed_status_line_fails_and_says_so() -> None:
    result = answer(b"HTTP/1.1 abc\r\n\r\n")
    assert result.outcome is Outcome.FAIL
    assert result.detail.startswith("not an HTTP response: illegal status line")


def flooding(start: bytes, more: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while True:
            writer.write(more)
            await writer.drain()

    return handler


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"X-Flood: " + b"y" * 1000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    ],
    ids=["headers without end", "a header without end", "interim responses without end"],
)
def test_a_flood_of_head_bytes_is_given_up_at_a_bound(start: bytes, more: bytes) -> None:
    result = asyncio.run(probe_at(flooding(start, more), PLAIN))
    assert (result.outcome, result.detail) == (Outcome.FAIL, "response head over 64 KiB")


def test_a_cancelled_request_leaves_nothing_behind() -> None:
    async def story() -> None:
        asked, reset = asyncio.Event(), asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.set()
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.transport.abort()
            asyncio.get_running_loop().call_later(0, reset.set)

        async with serving(handler) as port:
            before = open_descriptors()
            task = asyncio.create_task(probe(target(PLAIN, port)))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await reset.wait()
            assert open_descriptors() <= before

    asyncio.run(story())


@pytest.mark.parametrize(
    "kind",
    [
        HttpCheck(tls=False, path="/a b"),
        HttpCheck(tls=False, path="/ü"),
        HttpCheck(tls=False, host="a\r\nb"),
        HttpCheck(tls=True, host="a..b"),
        HttpCheck(tls=True, host="[::"),
        HttpCheck(tls=True, host="a\0b"),
    ],
)
def test_a_request_that_cannot_be_formed_proves_nothing(kind: HttpCheck) -> None:
    result = asyncio.run(probe_at(answering(OK_HEAD), kind))
    assert result.outcome is Outcome.UNKNOWN
    assert "cannot be formed" in result.detail


HEALTHY = HttpCheck(tls=False, body='"status": *"(ok|warn)"')


def with_body(body: bytes, *, head: bytes = b"HTTP/1.1 200 OK\r\n") -> bytes:
    return head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_a_body_with_what_is_looked_for_is_ok_without_waiting_for_the_connection_to_end() -> None:
    for word in (b"ok", b"warn"):
        assert answer(with_body(b'{"status": "%s"}' % word), kind=HEALTHY).outcome is Outcome.OK


def test_a_body_without_it_fails_and_shows_its_beginning() -> None:
    result = answer(with_body(b'{"status": "down"}'), kind=HEALTHY)
    assert result.outcome is Outcome.FAIL
    assert "the body does not hold" in result.detail
    assert '{"status": "down"}' in result.detail


def test_the_status_is_judged_before_the_body() -> None:
    result = answer(b"HTTP/1.1 503 Busy\r\nContent-Length: 99\r\n\r\n", kind=HEALTHY)
    assert result.detail == "status 503, expected 2xx"


def test_a_body_in_chunks_and_one_that_ends_with_the_connection_are_read_whole() -> None:
    chunks = (
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n"status\r\n',
        b'6\r\n":"ok"\r\n0\r\n\r\n',
    )
    assert answer(*chunks, kind=HEALTHY).outcome is Outcome.OK
    assert (
        answer(b'HTTP/1.1 200 OK\r\n\r\n"status":', b'"ok"', kind=HEALTHY, hold=False).outcome is Outcome.OK
    )


def test_a_body_cut_short_fails() -> None:
    cut = b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"status":"ok"'
    assert answer(cut, kind=HEALTHY, hold=False).outcome is Outcome.FAIL


def test_a_body_that_never_ends_is_searched_in_its_beginning_only() -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    result = asyncio.run(probe_at(endless, HEALTHY))
    assert "the body does not hold" in result.detail


@pytest.mark.parametrize("expression", ["(a*)*b", "(x+x+)+y", "(.*a){20}", ".*.*.*=.*"])
def test_an_expression_that_explodes_elsewhere_is_searched_in_no_time(expression: str) -> None:
    started = time.process_time()
    answer(with_body(b"a" * 30_000 + b"x" * 30_000), kind=HttpCheck(tls=False, body=expression))
    assert time.process_time() - started < 2


FRAGMENTS = st.sampled_from(
    [
        *(b"HTTP/1.1 ", b"HTTP/1.0 ", b"HTTP/", b"200", b"204 OK", b"99", b"101 Up", b" ", b": ", b"\0"),
        *(b"\r\n", b"\n", b"\r\n\r\n"),
        *(b"Content-Length: 5\r\n", b"Content-Length: x\r\n", b"Transfer-Encoding: chunked\r\n"),
    ]
)
ANYTHING = st.lists(FRAGMENTS | st.binary(max_size=20), max_size=12)


@settings(max_examples=150, deadline=None)
@given(pieces=ANYTHING, greets=st.booleans())
def test_whatever_a_server_sends_there_is_a_result_and_ok_needs_a_status_line(
    pieces: list[bytes],
    greets: bool,  # noqa: FBT001
) -> None:
    handler = blurting(*pieces) if greets else answering(*pieces)
    result = asyncio.run(probe_at(handler, PLAIN))
    assert result.outcome is not Outcome.UNKNOWN
    assert (result.outcome is Outcome.OK) == (result.detail == "")
    if result.outcome is Outcome.OK:
        sent = b"".join(pieces)
        assert b"HTTP/1.1 20" in sent or b"HTTP/1.0 20" in sent


@settings(max_examples=40, deadline=None)
@given(
    pieces=st.lists(
        st.binary(max_size=60) | st.just(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03"), max_size=5
    )
)
def test_whatever_a_server_sends_instead_of_a_tls_handshake_there_is_a_failure(pieces: list[bytes]) -> None:
    result = asyncio.run(probe_at(blurting(*pieces), HttpCheck(tls=True, verify=False)))
    assert result.outcome is Outcome.FAIL
    assert result.detail


def test_somebody_who_looks_on_sees_every_step_and_the_outcome_comes_last() -> None:
    steps: list[str] = []
    slow = 0.05  # seconds that showing the last step takes

    def tell(step: str) -> None:
        steps.append(step.partition(" from ")[0])
        if step.startswith("body"):
            time.sleep(slow)

    async def story() -> float:
        kind = HttpCheck(tls=False, path="/healthz", body="well")
        async with serving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", b"well")) as port:
            return (await tasks.probe(target(kind, port), Progress(tell=tell))).took

    took = asyncio.run(story())
    assert steps == [
        "connected",
        "sending GET /healthz",
        "status 200",
        "body of 4 bytes",
    ]
    assert took >= slow


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make(tmp_path_factory.mktemp("valid"))


@contextlib.contextmanager
def trusted(certificate: Certificate) -> Iterator[None]:
    """The certificate is in the system's trust store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(certificate.certificate))
        tls.cached_context.cache_clear()
        yield
    tls.cached_context.cache_clear()


def tls_answer(certificate: Certificate, kind: HttpCheck, *pieces: bytes, host: str = "127.0.0.1") -> Result:
    async def story() -> Result:
        handler = answering(*(pieces or (OK_HEAD,)), hold=True)
        async with serving(handler, host=host, tls=certificate.server()) as port:
            return await probe(target(kind, port, address=host))

    return asyncio.run(story())


def test_a_self_signed_certificate_fails_with_verify(certificate: Certificate) -> None:
    result = tls_answer(certificate, HttpCheck(tls=True))
    assert (result.outcome, result.detail) == (Outcome.FAIL, "certificate not valid: self-signed certificate")


def test_a_self_signed_certificate_is_ok_without_verify(certificate: Certificate) -> None:
    assert tls_answer(certificate, HttpCheck(tls=True, verify=False)).outcome is Outcome.OK


def test_the_status_counts_behind_tls_too(certificate: Certificate) -> None:
    result = tls_answer(certificate, HttpCheck(tls=True, verify=False), b"HTTP/1.1 503 Busy\r\n\r\n")
    assert result.detail == "status 503, expected 2xx"


def test_a_head_behind_tls_may_come_byte_by_byte(certificate: Certificate) -> None:
    pieces = (bytes([byte]) for byte in OK_HEAD)
    assert tls_answer(certificate, HttpCheck(tls=True, verify=False), *pieces).outcome is Outcome.OK


@pytest.mark.parametrize("host", [None, "www.example.net", "www.example.net:8443", "127.0.0.1"])
def test_a_trusted_certificate_is_verified_against_the_host_or_the_address(
    certificate: Certificate, host: str | None
) -> None:
    with trusted(certificate):
        assert tls_answer(certificate, HttpCheck(tls=True, host=host)).outcome is Outcome.OK


def test_tls_works_over_ipv6(certificate: Certificate) -> None:
    with trusted(certificate):
        assert tls_answer(certificate, HttpCheck(tls=True), host="::1").outcome is Outcome.OK


def test_a_trusted_certificate_for_another_name_fails(certificate: Certificate) -> None:
    with trusted(certificate):
        result = tls_answer(certificate, HttpCheck(tls=True, host="other.example.net"))
    assert result.outcome is Outcome.FAIL
    assert "not valid for 'other.example.net'" in result.detail


def test_an_expired_certificate_fails_and_says_so(tmp_path: Path) -> None:
    expired = make(tmp_path, days=-1)
    with trusted(expired):
        result = tls_answer(expired, HttpCheck(tls=True))
    assert (result.outcome, result.detail) == (Outcome.FAIL, "certificate expired")


def test_a_certificate_that_runs_out_soon_is_ok_with_a_warning_verified_or_not(
    certificate: Certificate,
) -> None:
    soon = HttpCheck(tls=True, expiry_warning=14 * 86400.0)
    with trusted(certificate):
        result = tls_answer(certificate, soon)
    assert (result.outcome, result.detail) == (Outcome.OK, "certificate expires in 2 days")
    assert tls_answer(certificate, replace(soon, verify=False)).detail == "certificate expires in 2 days"
    assert tls_answer(certificate, replace(soon, verify=False, expiry_warning=3600.0)).detail == ""


def test_an_expired_certificate_that_need_not_be_valid_is_a_warning(tmp_path: Path) -> None:
    kind = HttpCheck(tls=True, verify=False, expiry_warning=0.0)
    assert tls_answer(make(tmp_path, days=-1), kind).detail == "certificate expired"


def test_a_certificate_authority_of_the_check_is_trusted_in_place_of_the_systems(
    certificate: Certificate,
) -> None:
    own = HttpCheck(tls=True, ca=str(certificate.certificate))
    assert tls_answer(certificate, own).outcome is Outcome.OK


def test_the_server_name_may_differ_from_the_host(certificate: Certificate) -> None:
    kind = HttpCheck(
        tls=True, ca=str(certificate.certificate), host="other.example.net", sni="www.example.net"
    )
    assert tls_answer(certificate, kind).outcome is Outcome.OK


@dataclass(frozen=True)
class Mutual(Certificate):
    def server(self) -> ssl.SSLContext:
        context = super().server()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.certificate)
        return context


def test_a_client_certificate_is_shown_to_a_server_that_asks_for_one(certificate: Certificate) -> None:
    server = Mutual(certificate.certificate, certificate.key)
    bare = HttpCheck(tls=True, verify=False)
    assert tls_answer(server, bare).outcome is Outcome.FAIL
    shown = replace(bare, certificate=str(certificate.certificate), key=str(certificate.key))
    assert tls_answer(server, shown).outcome is Outcome.OK


def test_certificate_files_that_cannot_be_used_prove_nothing(
    certificate: Certificate, tmp_path: Path
) -> None:
    lacking = HttpCheck(tls=True, verify=False, certificate=str(tmp_path / "none.pem"))
    result = tls_answer(certificate, lacking)
    assert result.outcome is Outcome.UNKNOWN
    assert "none.pem cannot be read: No such file" in result.detail
    other = tmp_path / "other"
    other.mkdir()
    key = make(other).key
    result = tls_answer(certificate, replace(lacking, certificate=str(certificate.certificate), key=str(key)))
    assert result.outcome is Outcome.UNKNOWN
    assert "key values mismatch" in result.detail


def test_a_key_with_a_password_proves_nothing_and_asks_nobody(
    certificate: Certificate, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.pem"
    openssl("pkey", "-in", str(certificate.key), "-aes256", "-passout", "pass:secret", "-out", str(locked))
    kind = HttpCheck(tls=True, verify=False, certificate=str(certificate.certificate), key=str(locked))
    result = tls_answer(certificate, kind)
    assert result.outcome is Outcome.UNKNOWN
    assert "has a password" in result.detail


@given(st.binary(max_size=60))
def test_any_bytes_for_a_certificate_give_a_time_or_none(data: bytes) -> None:
    not_after(data)


@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_certificate_gives_a_time_or_none(certificate: Certificate, data: st.DataObject) -> None:
    der = bytearray(ssl.PEM_cert_to_DER_cert(certificate.certificate.read_text()))
    end = not_after(bytes(der))
    assert end is not None
    assert 86400 < end - time.time() < 3 * 86400
    for place in data.draw(st.sets(st.integers(0, len(der) - 1), max_size=4)):
        der[place] = data.draw(st.integers(0, 255))
    not_after(bytes(der[: data.draw(st.integers(0, len(der)))]))


def test_without_verify_even_a_short_key_is_accepted(tmp_path: Path) -> None:
    short = make(tmp_path, key=("rsa:1024",))
    assert tls_answer(short, HttpCheck(tls=True, verify=False)).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("host", "sent"), [("www.example.net", "www.example.net"), (None, None), ("192.0.2.1", None)]
)
def test_the_server_name_is_sent_only_if_it_is_a_name(
    certificate: Certificate, host: str | None, sent: str | None
) -> None:
    names: list[str | None] = []

    async def story() -> Result:
        context = certificate.server()
        context.sni_callback = lambda _connection, name, _context: names.append(name)
        async with serving(answering(OK_HEAD), tls=context) as port:
            return await probe(target(HttpCheck(tls=True, verify=False, host=host), port))

    assert asyncio.run(story()).outcome is Outcome.OK
    assert names == [sent]


@pytest.mark.parametrize("verify", [True, False])
def test_tls_to_a_plain_port_fails_whatever_verify_says(verify: bool) -> None:  # noqa: FBT001
    handler = blurting(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    result = asyncio.run(probe_at(handler, HttpCheck(tls=True, verify=verify)))
    assert (result.outcome, result.detail) == (Outcome.FAIL, "no TLS on this port")


def test_a_server_that_closes_on_the_handshake_fails() -> None:
    result = asyncio.run(probe_at(blurting(), HttpCheck(tls=True)))
    assert (result.outcome, result.detail) == (Outcome.FAIL, "closed within the TLS handshake")


def test_a_silent_tls_server_fails_after_the_timeout() -> None:
    result = asyncio.run(probe_at(silent, HttpCheck(tls=True), timeout=0.1))
    assert (result.outcome, result.detail) == (Outcome.FAIL, "no TLS handshake within 0.1 s")


def test_a_flood_behind_tls_is_given_up_at_a_bound(certificate: Certificate) -> None:
    async def story() -> Result:
        handler = flooding(b"HTTP/1.1 200 OK\r\n", b"X-Flood: " + b"y" * 1000 + b"\r\n")
        async with serving(handler, tls=certificate.server()) as port:
            return await probe(target(HttpCheck(tls=True, verify=False), port))

    assert asyncio.run(story()).detail == "response head over 64 KiB"


def test_a_head_over_the_bound_behind_tls_fails_even_if_it_ends_well(certificate: Certificate) -> None:
    head = b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"
    result = tls_answer(certificate, HttpCheck(tls=True, verify=False), head)
    assert (result.outcome, result.detail) == (Outcome.FAIL, "response head over 64 KiB")


@pytest.mark.parametrize("politely", [True, False])
def test_a_tls_server_that_closes_without_a_response_fails(certificate: Certificate, politely: bool) -> None:  # noqa: FBT001
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if politely:
            writer.close()
            await asyncio.Event().wait()

    async def story() -> Result:
        async with serving(handler, tls=certificate.server()) as port:
            return await probe(target(HttpCheck(tls=True, verify=False), port))

    result = asyncio.run(story())
    assert (result.outcome, result.detail) == (Outcome.FAIL, "closed without a response")


def test_a_plain_request_to_a_tls_port_fails(certificate: Certificate) -> None:
    assert tls_answer(certificate, PLAIN).outcome is Outcome.FAIL


def test_a_token_and_headers_are_read_where_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("s3cret\n", encoding="utf-8")
    monkeypatch.setenv("A_HEADER", "X-Key: k3y")
    kind = HttpCheck(tls=False, token_file=str(tmp_path / "token"), headers_env="A_HEADER")
    request, _ = request_of(kind)
    assert b"Authorization: Bearer s3cret\r\n" in request
    assert b"X-Key: k3y\r\n" in request


def test_a_token_that_is_replaced_counts_from_the_next_run_on(tmp_path: Path) -> None:
    file = tmp_path / "token"
    kind = HttpCheck(tls=False, token_file=str(file))

    async def story() -> list[bytes]:
        seen: list[bytes] = []

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(OK_HEAD)

        async with serving(handler) as port:
            aim = target(kind, port)
            run = _HttpRun(aim, kind, port, None, Progress())
            told = await probe(aim)
            assert told.outcome is Outcome.UNKNOWN  # there is no file yet
            assert "token cannot be read" in told.detail
            assert isinstance(run.begin(), Finding)
            for number, text in enumerate(("first", "second")):
                file.write_text(text, encoding="utf-8")
                os.utime(file, ns=(number, number))
                assert run.begin() is None
                seen.append(run._request if isinstance(run._request, bytes) else b"")
        return seen

    first, second = asyncio.run(story())
    assert b"Bearer first\r\n" in first
    assert b"Bearer second\r\n" in second
