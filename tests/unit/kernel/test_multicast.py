from __future__ import annotations

import socket
import struct
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import pytest

from anycast.core.values.configuration import ConnectionSync
from anycast.kernel import multicast

OURS = ConnectionSync(interface="lo", group=IPv4Address("224.0.0.81"))
SIX = replace(OURS, group=ip_address("ff02::81"))


def test_a_group_is_heard_where_somebody_has_joined_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        assert not multicast.is_joined(OURS)
        join = struct.pack("=4s4si", OURS.group.packed, bytes(4), socket.if_nametoindex("lo"))
        line.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
        assert multicast.is_joined(OURS)
        assert not multicast.is_joined(replace(OURS, interface="nosuch0"))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as line:
        assert not multicast.is_joined(SIX)
        join = SIX.group.packed + struct.pack("=I", socket.if_nametoindex("lo"))
        line.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, join)
        assert multicast.is_joined(SIX)


def test_a_name_as_long_as_can_be_is_told_from_what_stands_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "igmp"
    there.write_text(
        "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
        "12\tabcdefghijklmno:     1      V3\n\t\t\t\t510000E0     1 0:00000000\t\t0\n"
        "13\tlo        :     1      V3\n\t\t\t\tgarbage\n"
    )
    monkeypatch.setattr(multicast, "_IPV4", str(there))
    monkeypatch.setattr("sys.byteorder", "little")
    assert multicast.is_joined(replace(OURS, interface="abcdefghijklmno"))
    assert not multicast.is_joined(OURS)


def test_a_list_that_cannot_be_read_accuses_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multicast, "_IPV4", str(tmp_path / "nothing"))
    assert multicast.is_joined(OURS)
