"""The announcer's netlink against the kernel: a table in a namespace of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from anycast.announcer.codec import Move
from anycast.announcer.kernel import Table
from tests.contract.namespaces import network_namespace, run

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(os.geteuid() != 0, reason="routes need root")]

A, B = ip_network("192.0.2.1/32"), ip_network("2001:db8::1/128")


@pytest.fixture
def table() -> Iterator[Table]:
    with network_namespace():
        one = Table(1179)
        yield one
        one.close()


def test_a_table_that_is_not_there_is_empty(table: Table) -> None:
    assert table.ours() == frozenset()
    assert table.foreign() == ()
    assert table.rules() == ()


def test_what_is_written_is_there_and_what_is_removed_is_not(table: Table) -> None:
    moves = [Move(True, prefix, metric) for prefix in (A, B) for metric in (10, 20)]
    assert table.write(moves) == [0, 0, 0, 0]
    assert table.ours() == frozenset((prefix, metric) for prefix in (A, B) for metric in (10, 20))
    assert table.write([Move(False, A, 10), Move(False, B, 20), Move(False, A, 7)]) == [0, 0, 0]
    assert table.ours() == frozenset([(A, 20), (B, 10)])


def test_what_is_not_ours_is_neither_taken_for_ours_nor_removed_nor_replaced(table: Table) -> None:
    for family, prefix in (("-4", A), ("-6", B)):
        run(
            "ip",
            family,
            "route",
            "add",
            "blackhole",
            str(prefix),
            "table",
            "1179",
            "proto",
            "static",
            "metric",
            "10",
        )
    run("ip", "route", "add", "blackhole", "10.0.0.0/8", "table", "1179", "proto", "static")
    assert table.write([Move(True, A, 10), Move(True, B, 10)]) == [errno.EEXIST, errno.EEXIST]
    table.write([Move(False, A, 10), Move(False, B, 10)])
    assert table.ours() == frozenset()
    assert [str(one) for one in table.foreign()] == [
        "10.0.0.0/8 metric 0 proto static",
        "192.0.2.1/32 metric 10 proto static",
        "2001:db8::1/128 metric 10 proto static",
    ]


def test_another_table_is_left_alone(table: Table) -> None:
    run("ip", "route", "add", "blackhole", str(A), "table", "1180", "proto", "179", "metric", "10")
    assert table.ours() == frozenset()
    assert table.foreign() == ()


def test_rules_that_lead_to_the_table_are_found(table: Table) -> None:
    run("ip", "rule", "add", "from", "192.0.2.9", "table", "1179", "priority", "77")
    run("ip", "-6", "rule", "add", "from", "2001:db8::9", "table", "1179", "priority", "78")
    run("ip", "rule", "add", "from", "192.0.2.9", "table", "1180", "priority", "79")
    assert table.rules() == (77, 78)


def test_many_routes_of_ours_are_read_whole_and_many_of_others_in_part(table: Table) -> None:
    moves = [Move(True, ip_network(f"10.1.{n >> 8}.{n & 255}/32"), 10) for n in range(3000)]
    for start in range(0, len(moves), 200):
        assert set(table.write(moves[start : start + 200])) == {0}
    assert len(table.ours()) == 3000
    lines = "".join(
        f"route add blackhole 10.2.{n >> 8}.{n & 255}/32 table 1179 proto static\n" for n in range(3000)
    )
    run("ip", "-batch", "-", stdin=lines)
    assert 500 <= len(table.foreign()) <= 1000
    assert len(table.ours()) == 3000


def test_what_has_not_changed_is_the_same_object_and_what_has_is_seen_at_once(table: Table) -> None:
    with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)) as other:
        other.bind((0, 0))  # so that each socket of the table gets another number
        moves = [Move(True, prefix, 10) for prefix in (A, B)]
        assert table.write(moves) == [0, 0]
        for done in (lambda: None, table.foreign, lambda: table.write([Move(False, A, 7)])):
            done()
            before = table.ours()
            assert table.ours() is before
        for family, prefix in (("-4", A), ("-6", B)):
            run("ip", family, "route", "del", "blackhole", str(prefix), "table", "1179", "metric", "10")
            assert prefix not in {one for one, _ in table.ours()}
        assert table.ours() == frozenset()
