"""The size of the connection table."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anycast.core.values.configuration import Forwarding
from anycast.doctor.facts import TableOption
from anycast.doctor.finding import Code, ModuleOption, Severity
from anycast.doctor.findings import findings
from tests.unit.doctor.node import GOOD, codes, config, found, serving, sysctls

SMALL = replace(GOOD, conn_tab_bits=12)
OURS = "/etc/modprobe.d/anycast.conf"


def test_the_kernels_default_is_small_for_a_hundred_thousand_connections() -> None:
    one = found(SMALL, Code.CONN_TAB_SMALL)
    assert one.severity is Severity.WARNING
    assert "4,096 buckets (conn_tab_bits 12), chains of 24.4" in one.text
    assert "32,768 (15 bits, 262 kB) make it 3.1" in one.text
    assert "34 MB at 342 B each" in one.text


def test_a_guessed_number_of_connections_says_that_it_is_one() -> None:
    assert "a guess" in found(SMALL, Code.CONN_TAB_SMALL).text
    assert "a guess" not in found(SMALL, Code.CONN_TAB_SMALL, connections=100_000).text


@pytest.mark.parametrize(("connections", "code"), [(16_384, Code.CONN_TAB), (16_385, Code.CONN_TAB_SMALL)])
def test_four_connections_in_a_bucket_are_enough(connections: int, code: Code) -> None:
    assert found(SMALL, code, connections=connections).code is code


@pytest.mark.parametrize(
    ("connections", "bits"), [(16_385, 13), (32_768, 13), (32_769, 14), (1_000_000, 18), (4_194_304, 20)]
)
def test_the_fewest_bits_that_are_enough_are_advised(connections: int, bits: int) -> None:
    (change,) = found(SMALL, Code.CONN_TAB_SMALL, connections=connections).changes
    assert change == ModuleOption(module="ip_vs", option="conn_tab_bits", value=str(bits))


@pytest.mark.parametrize(("release", "bits"), [("6.4.0", "20"), ("6.5.0", "23")])
def test_more_than_20_bits_are_advised_where_the_kernel_surely_takes_them(release: str, bits: str) -> None:
    (change,) = found(replace(SMALL, release=release), Code.CONN_TAB_SMALL, connections=30_000_000).changes
    assert isinstance(change, ModuleOption)
    assert change.value == bits


def test_a_table_that_is_as_large_as_the_kernel_allows_is_not_advised_to_grow() -> None:
    one = found(replace(GOOD, memory=None), Code.CONN_TAB_SMALL, connections=30_000_000)
    assert one.changes == ()
    assert "20 bits are the most for this kernel" in one.text


def test_the_way_to_load_it_anew_takes_the_schedulers_out_first() -> None:
    fix = found(SMALL, Code.CONN_TAB_SMALL).fix
    assert "modprobe -r ip_vs_mh ip_vs && modprobe -a ip_vs ip_vs_mh" in fix
    assert f"`options ip_vs conn_tab_bits=15` in {OURS}" in fix


def test_an_option_that_waits_for_a_reload_is_not_written_again() -> None:
    one = found(replace(SMALL, conn_tab_option=TableOption(bits=15, file=OURS)), Code.CONN_TAB_PENDING)
    assert one.changes == ()
    assert f"{OURS} has 15 bits" in one.text
    assert one.fix.startswith("reboot, or in maintenance")


def test_an_option_that_waits_and_is_too_small_is_written_again() -> None:
    one = found(replace(SMALL, conn_tab_option=TableOption(bits=13, file=OURS)), Code.CONN_TAB_SMALL)
    assert one.changes != ()


def test_a_file_that_would_override_ours_is_named_instead() -> None:
    file = "/etc/modprobe.d/ipvs.conf"
    one = found(replace(SMALL, conn_tab_option=TableOption(bits=12, file=file)), Code.CONN_TAB_SMALL)
    assert one.changes == ()
    assert f"in {file}, then" in one.fix


def test_before_ip_vs_is_loaded_the_option_counts() -> None:
    absent = replace(GOOD, conn_tab_bits=None, modules=replace(GOOD.modules, loaded=frozenset()))
    facts = replace(absent, conn_tab_option=TableOption(bits=15, file=OURS))
    assert "conn_tab_bits 15 once loaded" in found(facts, Code.CONN_TAB).text
    assert "conn_tab_bits 12 once loaded" in found(absent, Code.CONN_TAB_SMALL).text


@pytest.mark.parametrize("bits", [7, 21, 99])
def test_an_option_that_the_kernel_refuses_is_its_default(bits: int) -> None:
    absent = replace(GOOD, conn_tab_bits=None, modules=replace(GOOD.modules, loaded=frozenset()))
    facts = replace(absent, conn_tab_option=TableOption(bits=bits, file=OURS))
    assert "conn_tab_bits 12" in found(facts, Code.CONN_TAB_SMALL).text


def test_ip_vs_built_into_the_kernel_takes_its_option_from_the_command_line() -> None:
    built_in = replace(GOOD.modules, built_in=frozenset({"ip_vs", "ip_vs_mh"}))
    facts = replace(SMALL, modules=built_in, conn_tab_option=TableOption(bits=15, file=OURS))
    one = found(facts, Code.CONN_TAB_SMALL)
    assert one.changes == ()
    assert "`ip_vs.conn_tab_bits=15` on the kernel's command line" in one.fix
    assert "/etc/default/grub, then `update-grub`), then reboot" in one.fix


def test_a_size_that_could_not_be_read_is_not_guessed() -> None:
    every = {one.code for one in findings(replace(GOOD, conn_tab_bits=None), config())}
    assert every == set()


def test_from_7_1_on_the_bits_are_the_most_that_it_grows_to() -> None:
    assert "4,096 buckets at most" in found(replace(SMALL, release="7.1.0"), Code.CONN_TAB_SMALL).text
    assert "at most" not in found(replace(SMALL, release="7.0.0"), Code.CONN_TAB_SMALL).text


def test_connections_that_take_more_than_half_of_the_memory_are_a_warning() -> None:
    facts = replace(GOOD, memory=10**9)
    assert "513 MB" in found(facts, Code.CONN_MEMORY, connections=1_500_000).text
    assert {one.code for one in findings(facts, config(), connections=1_400_000)} == {Code.CONN_TAB}


@pytest.mark.parametrize(("release", "code"), [("7.0.0", Code.CONN_TAB), ("7.1.0", Code.CONN_TAB_SMALL)])
def test_from_7_1_on_a_masqueraded_connection_takes_two_places(release: str, code: Code) -> None:
    masquerading = serving(forwarding=Forwarding.NAT)
    kernel = replace(SMALL, release=release)
    one = found(kernel, code, masquerading, connections=16_384)
    assert ("two places" in one.text) is (code is Code.CONN_TAB_SMALL)
    assert found(kernel, Code.CONN_TAB, serving(), connections=16_384).severity is Severity.INFO
    if code is Code.CONN_TAB_SMALL:
        assert "chains of 8.0" in one.text
        assert one.changes == (ModuleOption(module="ip_vs", option="conn_tab_bits", value="13"),)


@pytest.mark.parametrize(
    ("name", "default", "text"),
    [
        ("conn_lfactor", -4, "the kernel's table of connections"),
        ("svc_lfactor", -3, "the kernel's table of services"),
    ],
)
def test_a_table_that_may_not_grow_is_found(name: str, default: int, text: str) -> None:
    one = found(sysctls(**{f"net__ipv4__vs__{name}": "3"}), Code.LFACTOR)
    assert one.severity is Severity.WARNING
    assert f"{text} grows only where a bucket holds more than 8 of them" in one.text
    assert one.fix.startswith(
        f"`sysctl -w net.ipv4.vs.{name}={default}`, and for the next boot in /etc/sysctl.d/60-anycast.conf; "
    )
    assert f"`grep -rs {name} /etc/sysctl.conf" in one.fix
    for fine in (str(default), "2"):
        assert Code.LFACTOR not in codes(sysctls(**{f"net__ipv4__vs__{name}": fine}))
