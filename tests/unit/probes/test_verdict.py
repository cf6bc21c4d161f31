"""Whose fault an exception is. That no peer can cause one nobody thought of: tests/property/test_probes_at_the_socket."""

from __future__ import annotations

import asyncio
import errno
import ssl
from pathlib import Path
from typing import Any

import h11
import pytest

from anycast.core.health.phase import Fault, Outcome, Result
from anycast.core.values.checks import RelpCheck, Tls
from anycast.core.values.configuration import CheckKind, HttpCheck, TcpCheck
from anycast.probes import links
from anycast.probes.finding import PeerError, UnusableError, fail
from anycast.probes.stream import Plain
from anycast.probes.sweep.response import Exchange
from anycast.probes.sweep.sockets import Sockets
from anycast.probes.tls import Channel
from anycast.probes.verdict import verdict
from anycast.regex import RegexError
from tests.unit.probes import peers
from tests.unit.probes.peers import Handler, probe, refusing_port, serving, silent, target

ANSWER = peers.answering(b"HTTP/1.1 200 OK\r\n\r\n")
HTTP = HttpCheck(tls=False)
FAILS = (Outcome.FAIL, None)


def unknown(fault: Fault) -> tuple[Outcome, Fault]:
    return Outcome.UNKNOWN, fault


class Wordless(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise KeyError


@pytest.mark.parametrize(
    ("error", "unheard", "heard"),
    [
        (PeerError("x"), FAILS, FAILS),
        (UnusableError("x"), *(unknown(Fault.CONFIGURATION),) * 2),
        (UnusableError("x", Fault.PERMISSION), *(unknown(Fault.PERMISSION),) * 2),
        (RegexError("x", "y"), *(unknown(Fault.CONFIGURATION),) * 2),
        (ssl.SSLError(1, "x"), unknown(Fault.CONFIGURATION), FAILS),
        (ssl.SSLEOFError(8, "x"), FAILS, FAILS),
        (ssl.SSLCertVerificationError("x"), unknown(Fault.CONFIGURATION), FAILS),
        (MemoryError(), *(unknown(Fault.DESCRIPTORS),) * 2),
        (OSError(errno.ECONNRESET, "x"), FAILS, FAILS),
        (OSError(errno.EMFILE, "x"), *(unknown(Fault.DESCRIPTORS),) * 2),
        (KeyError("x"), unknown(Fault.INTERNAL), FAILS),
        (RecursionError(), unknown(Fault.INTERNAL), FAILS),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"), unknown(Fault.INTERNAL), FAILS),
        (AssertionError(), unknown(Fault.INTERNAL), FAILS),
        (Wordless(), unknown(Fault.INTERNAL), FAILS),
    ],
)
def test_every_exception_has_a_finding(
    error: Exception, unheard: tuple[Outcome, Fault | None], heard: tuple[Outcome, Fault | None]
) -> None:
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_code, error.verify_message = 18, "self-signed certificate"
    for spoken, wanted in ((False, unheard), (True, heard)):
        found = verdict(error, heard=spoken)
        assert (found.outcome, found.fault) == wanted
        assert found.detail


def broken(*_: object, **__: object) -> object:
    raise KeyError("of a parser")


def met(kind: CheckKind, handler: Handler) -> tuple[Result, list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []

    async def story() -> Result:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        async with serving(handler) as port:
            return await probe(target(kind, port))

    result = asyncio.run(story())
    return result, [one for one in told if "finding" in one]  # the server is in the same loop


@pytest.mark.parametrize(
    ("kind", "parser", "method"),
    [(HTTP, Exchange, "feed"), (HttpCheck(tls=False, body="x"), h11.Connection, "next_event")],
)
def test_a_defect_is_the_peers_failure_once_it_has_spoken_and_is_told(
    monkeypatch: pytest.MonkeyPatch, kind: CheckKind, parser: type, method: str
) -> None:
    monkeypatch.setattr(parser, method, broken)
    result, told = met(kind, ANSWER)
    assert (result.outcome, result.detail) == (
        Outcome.FAIL,
        "its answer cannot be read: KeyError: 'of a parser'",
    )
    assert [(type(one["exception"]), one["finding"].outcome) for one in told] == [(KeyError, Outcome.FAIL)]


@pytest.mark.parametrize(
    ("kind", "owner", "method"), [(TcpCheck(), Sockets, "take"), (RelpCheck(), Plain, "send")]
)
def test_a_defect_before_the_peer_has_spoken_proves_nothing_and_is_told(
    monkeypatch: pytest.MonkeyPatch, kind: CheckKind, owner: type, method: str
) -> None:
    monkeypatch.setattr(owner, method, broken)
    result, told = met(kind, silent)
    assert (result.outcome, result.fault) == unknown(Fault.INTERNAL)
    assert [type(one["exception"]) for one in told] == [KeyError]


@pytest.mark.parametrize("kind", [TcpCheck(), RelpCheck()])
def test_a_failure_stands_though_the_look_at_our_links_has_a_defect(
    monkeypatch: pytest.MonkeyPatch, kind: CheckKind
) -> None:
    monkeypatch.setattr(links, "excuse", broken)
    told: list[object] = []

    async def story(port: int) -> Result:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        return await probe(target(kind, port))

    with refusing_port() as port:
        result = asyncio.run(story(port))
    assert result.outcome is Outcome.FAIL
    assert len(told) == 1


@pytest.mark.parametrize("kind", [HttpCheck(tls=True), RelpCheck(tls=Tls())])
def test_tls_settings_that_do_not_work_are_this_nodes_fault_before_the_peer_has_spoken(
    monkeypatch: pytest.MonkeyPatch, kind: CheckKind
) -> None:
    def hello(_: Channel) -> bool:
        raise ssl.SSLError(1, "no ciphers available")

    monkeypatch.setattr(Channel, "handshake", hello)
    result, told = met(kind, silent)
    assert (result.outcome, result.fault) == unknown(Fault.CONFIGURATION)
    assert "the check's TLS settings cannot be used" in result.detail
    assert told == []


def test_no_kind_judges_exceptions_itself() -> None:
    """Whoever writes a new kind raises; only `verdict` says whose fault it is."""
    folder = Path(links.__file__).parent
    judging = {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*.py")
        if "ssl.SSLError as" in file.read_text()
    }
    assert judging <= {"tls.py", "sweep/runs.py"}  # files of the check; a session that was no good
    assert fail("x").outcome is Outcome.FAIL
