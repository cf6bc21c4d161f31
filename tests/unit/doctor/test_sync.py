"""What other balancers announce by connection sync."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.values.configuration import ConnectionSync
from anycast.doctor.facts import Announced, Facts, Heard
from anycast.doctor.finding import Code, Severity
from anycast.doctor.findings import findings
from anycast.doctor.sync import hear, parse
from tests.unit.doctor.node import CONFIG, GOOD, config

SYNC = ConnectionSync(interface="lan0", id=7)
SYNCED = config(f"connection_sync: {{interface: lan0, id: 7}}\n{CONFIG}")
WEB = ("192.0.2.1", 80, "10.9.2.1", 80)


def connection(
    vip: str,
    port: int,
    server: str,
    server_port: int,
    *,
    protocol: int = 6,
    mark: int = 0,
    flags: int = 0,
    options: bytes = b"",
) -> bytes:
    ends = [ip_address(one).packed for one in ("10.1.0.1" if "." in vip else "fd01::1", vip, server)]
    body = struct.pack("!IHHHHII", flags, 1, 4000, port, server_port, mark, 900) + b"".join(ends) + options
    return (
        struct.pack("!BBH", len(ends[0]) == 16, protocol, 1 << 12 | len(body) + 4)
        + body
        + bytes(-len(options) % 4)
    )


def message(*connections: bytes, sync_id: int = 7, version: int = 1) -> bytes:
    body = b"".join(connections)
    return struct.pack("!BBHBBH", 0, sync_id, len(body) + 8, len(connections), version, 0) + body


def found(facts: Facts) -> list[tuple[Code, Severity, str]]:
    codes = (Code.SYNC_ID, Code.SYNC_SERVERS)
    return [(one.code, one.severity, one.text) for one in findings(facts, SYNCED) if one.code in codes]


def heard(*messages: bytes) -> Facts:
    all_of_it = Heard()
    for number, one in enumerate(messages, 1):
        all_of_it = hear(all_of_it, one, f"10.9.1.{number}", SYNC)
    return replace(GOOD, heard=all_of_it)


def test_a_message_has_every_connection_that_is_no_template_whatever_its_options() -> None:
    six = ("2001:db8::1", 53, "fd09::2", 5353)
    parsed = parse(
        message(
            connection(*WEB, options=b"\x03\x01x"),
            connection(*WEB, flags=0x1000),
            connection(*six, protocol=17, mark=9),
        )
    )
    assert parsed is not None
    assert parsed.id == 7
    assert parsed.announced == (
        Announced(6, ip_address("192.0.2.1"), 80, 0, ip_address("10.9.2.1"), 80),
        Announced(17, ip_address("2001:db8::1"), 53, 9, ip_address("fd09::2"), 5353),
    )


@given(
    st.binary(max_size=200) | st.binary(max_size=100).map(lambda rest: message(connection(*WEB))[:-8] + rest)
)
def test_anybody_may_send_anything_to_the_group(datagram: bytes) -> None:
    hear(Heard(), datagram, "10.9.1.2", SYNC)
    assert parse(datagram[:7]) is None


def test_what_is_of_another_version_is_no_message() -> None:
    assert parse(message(connection(*WEB), version=0)) is None


def test_balancers_that_announce_what_is_configured_here_are_no_finding() -> None:
    assert found(heard(message(connection(*WEB)), message())) == []
    assert found(GOOD) == []


@pytest.mark.parametrize(
    ("others", "severity"), [((), Severity.WARNING), ((message(connection(*WEB)),), Severity.INFO)]
)
def test_another_sync_id_is_told(others: tuple[bytes, ...], severity: Severity) -> None:
    ((code, told, text),) = found(heard(message(connection(*WEB), sync_id=9), *others))
    assert (code, told) == (Code.SYNC_ID, severity)
    assert "connection_sync has id 7 here, and 10.9.1.1 announces connections with id 9" in text


@pytest.mark.parametrize(
    ("strange", "named"),
    [
        (connection("192.0.2.1", 80, "10.9.2.9", 80), "10.9.2.9 for 192.0.2.1"),
        (connection("192.0.2.1", 80, "10.9.2.1", 8080), "10.9.2.1 for 192.0.2.1"),
        (connection("192.0.2.7", 80, "10.9.2.1", 80), "10.9.2.1 for 192.0.2.7"),
        (connection(*WEB, protocol=17), "10.9.2.1 for 192.0.2.1"),
        (connection(*WEB, mark=3), "10.9.2.1 for 192.0.2.1"),
    ],
)
def test_connections_of_real_servers_that_are_not_configured_here_are_told(
    strange: bytes, named: str
) -> None:
    ((code, severity, text),) = found(heard(message(connection(*WEB), strange)))
    assert (code, severity) == (Code.SYNC_SERVERS, Severity.WARNING)
    assert f"10.9.1.1 announces connections of real servers that are not configured here: {named}." in text


def test_a_mark_has_real_servers_without_ports() -> None:
    text = CONFIG.replace("port: 80", "mark: 3, check: icmp")
    facts = heard(message(connection("192.0.2.1", 4711, "10.9.2.1", 0, mark=3)))
    marked = config(f"connection_sync: {{interface: lan0, id: 7}}\n{text}")
    assert Code.SYNC_SERVERS not in {one.code for one in findings(facts, marked)}
