"""The VIPs of a node while another program changes addresses of the same interface as fast as it can."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.core.values.configuration import Address
from anycast.kernel import addresses
from anycast.kernel.netlink import Dump, Netlink
from tests.contract.namespaces import network_namespace, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")
TORN = 100  # dumps
ROUNDS = 200  # readings of 500 VIPs; with ANYCAST_CHURN_SECONDS=600 as many as fit in ten minutes
SECONDS = float(os.environ.get("ANYCAST_CHURN_SECONDS", "0"))


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


def numbered(version: int, count: int) -> list[Address]:
    first = ip_address("192.0.2.0" if version == 4 else "2001:db8::")
    return [first + number for number in range(1, count + 1)]


def changes(verb: str, version: int, count: int) -> str:
    """These come before the VIPs in the kernel's lists: IPv6 has the newest first, IPv4 the scope of the host."""
    first, last = ("10.7.0.0", "dev lo scope host") if version == 4 else ("fd00:7::", "dev lo nodad")
    return "".join(f"addr {verb} {ip_address(first) + n} {last}\n" for n in range(1, count + 1))


@contextlib.contextmanager
def changing(version: int, directory: Path) -> Iterator[None]:
    """Another program adds and removes addresses until the end of the block."""
    batch = directory / "batch"
    batch.write_text((changes("add", version, 40) + changes("del", version, 40)) * 20)
    program = subprocess.Popen(
        ["sh", "-c", f"while ip -batch {batch}; do :; done"],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
        assert program.poll() is None, "the other program has ended by itself"
    finally:
        os.killpg(program.pid, signal.SIGKILL)
        program.wait()


@pytest.mark.parametrize("reads", [1, addresses.READS])
@pytest.mark.parametrize("version", [4, 6])
def test_no_vip_is_ever_missing_while_another_program_changes_addresses(
    version: int, reads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = numbered(version, 1200)
    vips, absent = frozenset(present), {present[-1] + 1}
    nodad = "nodad" if version == 6 else ""
    run("ip", "-batch", "-", stdin="".join(f"addr add {one} dev lo {nodad}\n" for one in vips))
    torn = 0
    dump = Netlink.dump

    async def counting(*given: object) -> Dump[object]:
        nonlocal torn
        answer: Dump[object] = await dump(*given)  # type: ignore[arg-type]
        torn += not answer.whole
        return answer

    async def story() -> None:
        while torn < TORN:
            found, _ = await addresses.read("lo", vips | absent)
            assert not vips - found, f"{len(vips - found)} missing, after {torn} torn dumps"
            assert not absent & found

    monkeypatch.setattr(Netlink, "dump", counting)
    monkeypatch.setattr(addresses, "READS", reads)
    with changing(version, tmp_path):
        asyncio.run(story())


@pytest.mark.timeout(120 + SECONDS)
def test_500_vips_of_both_families_are_found_by_every_reading_under_churn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a verdict has it: a VIP that a reading lacks is `address_missing`."""
    vips = frozenset(numbered(4, 250) + numbered(6, 250))
    run("ip", "-batch", "-", stdin="".join(f"addr add {one} dev lo\n" for one in vips))
    torn = 0
    dump = Netlink.dump

    async def counting(*given: object) -> Dump[object]:
        nonlocal torn
        answer: Dump[object] = await dump(*given)  # type: ignore[arg-type]
        torn += not answer.whole
        return answer

    async def story() -> int:
        rounds, end = 0, time.monotonic() + SECONDS
        while rounds < ROUNDS or time.monotonic() < end or not torn:
            found, _ = await addresses.read("lo", vips)
            assert vips <= found, f"{len(vips - found)} missing in round {rounds}, {torn} torn dumps"
            rounds += 1
        return rounds

    monkeypatch.setattr(Netlink, "dump", counting)
    for version in (4, 6):
        (tmp_path / str(version)).mkdir()
    with changing(4, tmp_path / "4"), changing(6, tmp_path / "6"):
        rounds = asyncio.run(story())
    print(f"{rounds} readings, {torn} torn dumps")
