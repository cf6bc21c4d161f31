from __future__ import annotations

import asyncio
import struct

import pytest

from anycast.core.dataplane.kernel import SetSysctl
from anycast.kernel import addresses, events, sysctl
from anycast.kernel.adapter import Kernel
from anycast.kernel.errors import KernelUnavailable


def test_a_kernel_without_ipvs_is_unavailable_and_the_reason_says_what_to_do() -> None:
    async def story() -> str:
        kernel = Kernel("lo", sysctls_managed=True)
        try:
            await kernel.read(())
        except KernelUnavailable as error:
            return error.reason
        finally:
            await kernel.close()
        pytest.skip("this kernel has IPVS")

    reason = asyncio.run(story())
    assert reason.startswith("IPVS: ")
    assert "modprobe -a ip_vs ip_vs_mh" in reason or "CAP_NET_ADMIN" in reason


def test_a_sysctl_that_is_not_ours_to_set_is_reported_with_the_command() -> None:
    op = SetSysctl(name="kernel.ostype", value="Minix")
    (failure,) = asyncio.run(Kernel("lo", sysctls_managed=False).play([op]))
    assert failure.ops == (op,)
    assert failure.text.startswith("set sysctl kernel.ostype to Minix: manage_sysctls is off")
    assert "`sysctl -w kernel.ostype=Minix`" in failure.text


def test_a_sysctl_that_does_not_exist_is_a_failure_that_names_the_module() -> None:
    op = SetSysctl(name="net.ipv4.no_such_name", value="1")
    (failure,) = asyncio.run(Kernel("lo", sysctls_managed=True).play([op]))
    assert "net.ipv4.no_such_name" in failure.text
    assert "modprobe" in failure.text


def test_sysctls_are_read_without_surplus_space_and_missing_ones_are_left_out() -> None:
    names = ("kernel.ostype", "net.ipv4.no_such_name", "net.ipv4.ip_local_port_range")
    found = sysctl.read(names)
    assert found["kernel.ostype"] == "Linux"
    assert found["net.ipv4.ip_local_port_range"].replace(" ", "").isdigit()
    assert "\t" not in found["net.ipv4.ip_local_port_range"]
    assert "net.ipv4.no_such_name" not in found


def test_a_slash_in_a_sysctl_is_a_dot_of_an_interface() -> None:
    assert sysctl._path("net.ipv4.conf.eth0/100.rp_filter") == "/proc/sys/net/ipv4/conf/eth0.100/rp_filter"


def notice(kind: int, index: int) -> bytes:
    return struct.pack("=IHHII", 24, kind, 0, 0, 0) + struct.pack("=4xI", index)


def test_a_datagram_tells_every_interface_its_links_and_addresses_belong_to() -> None:
    new_link, deleted_address, new_route = 16, 21, 24
    data = notice(new_link, 3) + notice(new_route, 4) + notice(deleted_address, 5)
    assert events.changed(data) == {3, 5}


@pytest.mark.parametrize("data", [b"", b"\0" * 10, b"\0" * 64, notice(16, 3)[:-1]])
def test_a_damaged_datagram_tells_nothing_and_ends(data: bytes) -> None:
    assert events.changed(data) == frozenset()


def test_a_missing_interface_is_named() -> None:
    with pytest.raises(KernelUnavailable, match=r"interface nosuch0 does not exist: create it"):
        addresses.index_of("nosuch0")
