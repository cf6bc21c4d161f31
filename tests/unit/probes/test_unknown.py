"""What this node lacks proves nothing about a target: every kind says unknown, and leaves nothing open."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace

import pytest

from anycast.core.health.phase import Fault, Outcome
from anycast.core.values.checks import BannerCheck, TcpCheck, TcpQuietCheck, UdpCheck
from anycast.probes import banner
from anycast.probes.finding import OK, Finding, Progress
from anycast.probes.run import probe
from tests.unit.probes.peers import target

_SCARCE = """
import asyncio, os, resource, socket
from tests.unit.probes.peers import target
from anycast.core.values import checks as kinds
from anycast.core.values.configuration import CommandCheck, HttpCheck, TcpCheck
from anycast.probes.run import probe

KINDS = (
    kinds.UdpCheck(quiet=0.01), kinds.BannerCheck(steps=(kinds.Expect("x"),)), kinds.SyslogCheck(),
    kinds.SyslogCanaryCheck(proof_file="/dev/null"), kinds.RelpCheck(), kinds.DnsCheck(name="a."),
    kinds.DnsCheck(name="a.", transport="tcp"), kinds.GrpcCheck(), kinds.IcmpCheck(),
    kinds.CarrierCheck(interface="lo"), kinds.MemoryCheck(min_free=1),
    kinds.GatewayCheck(), kinds.GatewayCheck(by="neighbor"),
    TcpCheck(), HttpCheck(tls=False), HttpCheck(tls=True), CommandCheck(argv=("/bin/true",)),
)

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(100)
        port = listener.getsockname()[1]
        for kind in KINDS:
            await probe(target(kind, port, timeout=0.05))  # what it imports is imported
        for kind in KINDS:
            before = len(os.listdir("/proc/self/fd"))
            held = []
            try:
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            result = await probe(target(kind, port, timeout=0.05))
            for fd in held:
                os.close(fd)
            after = len(os.listdir("/proc/self/fd"))
            print(type(kind).__name__, after - before, result.outcome, result.fault, result.detail)

asyncio.run(main())
"""


def test_without_descriptors_every_kind_says_unknown_and_leaks_none() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _SCARCE], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    rows = [line.split(" ", 4) for line in done.stdout.splitlines()]
    assert len(rows) == 17
    assert [row for row in rows if row[1:4] != ["0", "unknown", "descriptors"]] == []
    assert all("EMFILE" in row[4] or "Too many open files" in row[4] for row in rows)


_LINKS = """
import sys
from anycast.core.values.configuration import TcpCheck
from tests.unit.probes.peers import engine, run
with engine(swept=sys.argv[1] == "swept"):
    for address in sys.argv[2:]:
        result = run(TcpCheck(), 80, address=address, timeout=0.3)
        print(result.outcome, result.fault, result.detail)
"""


@pytest.mark.skipif(
    subprocess.run(
        ["unshare", "-rn", "ip", "link", "add", "va", "type", "veth", "peer", "name", "vb"],
        capture_output=True,
        check=False,
    ).returncode
    != 0,
    reason="needs network namespaces and veth",
)
@pytest.mark.parametrize("engine", ["task", "swept"])
def test_a_failure_over_a_link_of_our_own_that_is_down_proves_nothing(engine: str) -> None:
    setup = """
        ip link set lo up
        ip link add va type veth peer name vb; ip link add vc type veth peer name vd
        ip address add 10.77.0.1/24 dev va; ip address add 10.78.0.1/24 dev vc
        ip link set va up; ip link set vb up; ip link set vc up; ip link set vd up
        ip route add 10.79.0.0/24 via 10.77.0.2
        "$@" 10.77.0.2 10.79.0.2
        ip link set vb down
        "$@" 10.77.0.2 10.79.0.2 10.78.0.2 10.99.0.1
        ip link set va down
        "$@" 10.77.0.2 10.78.0.2
    """
    done = subprocess.run(
        ["unshare", "-rn", "sh", "-ec", setup, "sh", sys.executable, "-c", _LINKS, engine],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        *("fail", "fail"),
        *("unknown", "unknown", "fail", "fail"),
        *("unknown", "fail"),
    ]
    assert lines[2] == "unknown link this node's own interface va is down: no answer within 0.3 s"


def test_a_wait_for_the_node_itself_that_is_too_long_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(*words: object) -> Finding:
        progress = words[-1]
        assert isinstance(progress, Progress)
        progress.missing, progress.ours = "look at the neighbor table", True
        await asyncio.sleep(30)
        return OK

    monkeypatch.setattr(banner, "check", check)
    aimed = target(BannerCheck(steps=()), 80, timeout=0.05)
    result = asyncio.run(probe(aimed))
    assert (result.outcome, result.fault, result.detail) == (
        Outcome.UNKNOWN,
        Fault.STALLED,
        "the check could not run: no look at the neighbor table within 0.05 s",
    )


def test_a_check_to_the_vip_without_one_says_so() -> None:
    for kind in (TcpCheck(), TcpQuietCheck(quiet=0.1), UdpCheck()):
        aimed = target(kind, 80)
        result = asyncio.run(probe(replace(aimed, check=replace(aimed.check, to_vip=True))))
        assert "it is aimed at no VIP" in result.detail
