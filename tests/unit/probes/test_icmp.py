from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from anycast.core.health.phase import Outcome
from anycast.core.values.checks import IcmpCheck
from anycast.probes import icmp
from tests.unit.probes.peers import open_descriptors, run

NAMESPACES = pytest.mark.skipif(
    subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs network namespaces",
)

_STORY = """
import asyncio, sys
from anycast.core.values.checks import IcmpCheck
from tests.unit.probes.peers import target
from anycast.probes.run import probe
for address in sys.argv[1:]:
    said = []
    from anycast.probes.finding import Progress
    progress = Progress(tell=said.append)
    result = asyncio.run(probe(target(IcmpCheck(), address=address, timeout=0.5), progress))
    print(result.outcome, result.detail, "|", *said)
"""


def isolated(setup: str, *addresses: str) -> list[str]:
    """The outcomes in a namespace of its own, as root of it."""
    done = subprocess.run(
        [
            "unshare",
            "-rn",
            "sh",
            "-c",
            f'{setup} && exec "$@"',
            "sh",
            sys.executable,
            "-c",
            _STORY,
            *addresses,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.splitlines()


@NAMESPACES
def test_an_echo_comes_back_over_both_families_by_a_ping_socket_or_a_raw_one() -> None:
    up = "ip link set lo up"  # a new namespace allows ping sockets to nobody
    allow = "echo 0 0 > /proc/sys/net/ipv4/ping_group_range"
    for sort, setup in (("raw", up), ("ping", f"{up} && {allow}")):
        lines = isolated(setup, "127.0.0.1", "::1")
        assert lines == [f"ok  | sent an echo request by a {sort} socket"] * 2


@NAMESPACES
def test_silence_and_no_route_are_failures() -> None:
    setup = "ip link set lo up && ip address add 10.77.0.1/32 dev lo && ip route add 10.77.0.0/24 dev lo"
    silence, nowhere = isolated(setup, "10.77.0.2", "10.78.0.1")
    assert silence.startswith("fail ")
    assert nowhere == "fail network is unreachable |"


def test_without_any_right_to_ping_nothing_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> tuple[socket.socket, bool]:
        raise PermissionError

    monkeypatch.setattr(icmp, "_socket", refuse)
    result = run(IcmpCheck())
    assert result.outcome is Outcome.UNKNOWN
    assert "CAP_NET_RAW" in result.detail


def test_nothing_stays_open() -> None:
    before = open_descriptors()
    for _ in range(3):
        run(IcmpCheck(), 0, timeout=1.0)
    assert open_descriptors() == before
