"""What is found of privileges, modules, the kernel's version, sysctls and the IPVS table."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.core.dataplane.ipvs import ServiceKey
from anycast.core.dataplane.kernel import IPVS_SYSCTLS, SetSysctl
from anycast.core.values.configuration import (
    Config,
    ConnectionSync,
    Forwarding,
    Protocol,
    Scheduler,
    Tunnel,
    TunnelType,
)
from anycast.doctor import findings as rules
from anycast.doctor.facts import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, Facts, LeaseSocket, Modules, Unread
from anycast.doctor.finding import Code, LoadAtBoot, Severity
from anycast.doctor.findings import findings
from tests.unit.doctor.node import CONFIG, GOOD, LAN0, above_info, codes, config, found, serving, sysctls

NOTHING = Facts(release="6.1.0", root=False)
OTHERS = ServiceKey(protocol=Protocol.TCP, address=ip_address("192.0.2.77"), port=5060)
OURS = ServiceKey(protocol=Protocol.TCP, address=ip_address("192.0.2.1"), port=80)


def test_a_good_node_has_nothing_but_the_size_of_its_table() -> None:
    (one,) = findings(GOOD, config())
    assert (one.severity, one.code) == (Severity.INFO, Code.CONN_TAB)


def test_what_is_worse_comes_first() -> None:
    facts = replace(sysctls(net__ipv4__vs__conntrack="1"), capabilities=frozenset())
    order = [one.severity for one in findings(facts, config())]
    assert order == sorted(order, key=list(Severity).index)
    assert set(order) == set(Severity)


def test_a_node_of_which_nothing_could_be_read_is_judged_without_a_guess() -> None:
    assert above_info(NOTHING, config()) == [Code.MODULE_NOT_LOADED, Code.CONN_TAB_SMALL]


def test_what_could_not_be_read_is_said_with_the_reason() -> None:
    facts = replace(GOOD, unread=(Unread(what="memory", why="/proc/meminfo: Permission denied"),))
    assert (
        found(facts, Code.UNCHECKED).text == "memory could not be checked: /proc/meminfo: Permission denied"
    )


def test_without_a_configuration_it_says_that_only_the_node_is_checked() -> None:
    assert {one.code for one in findings(GOOD, None)} == {Code.NO_CONFIGURATION, Code.CONN_TAB}


def test_every_code_has_its_row_in_the_document() -> None:
    text = (Path(rules.__file__).parents[2] / "docs" / "doctor.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)) == set(Code)


class TestPrivileges:
    def test_a_user_namespace_is_an_error_and_hides_what_follows_from_it(self) -> None:
        facts = replace(
            GOOD, initial_user_namespace=False, capabilities=frozenset({CAP_NET_BIND_SERVICE}), sysctls={}
        )
        assert codes(facts) == {Code.USER_NAMESPACE}

    def test_root_without_net_admin_is_in_a_container_that_must_be_given_it(self) -> None:
        one = found(replace(GOOD, capabilities=frozenset({CAP_NET_BIND_SERVICE})), Code.NO_NET_ADMIN)
        assert one.severity is Severity.ERROR
        assert "--cap-add NET_ADMIN" in one.fix

    def test_another_user_without_net_admin_is_a_warning_for_the_agent_may_be_another(self) -> None:
        one = found(replace(GOOD, root=False, capabilities=frozenset()), Code.NO_NET_ADMIN)
        assert one.severity is Severity.WARNING
        assert "AmbientCapabilities=CAP_NET_ADMIN" in one.fix

    def test_capabilities_that_are_not_known_are_not_missing(self) -> None:
        assert codes(replace(GOOD, capabilities=None)) == set()

    def test_exabgp_of_a_root_without_bind_service_cannot_listen_on_179(self) -> None:
        facts = replace(GOOD, capabilities=frozenset({CAP_NET_ADMIN}))
        assert "port 179" in found(facts, Code.NO_BIND_SERVICE).text
        assert Code.NO_BIND_SERVICE not in codes(facts, config(CONFIG + "speaker: kernel-table\n"))

    def test_a_check_to_the_vip_needs_net_raw(self) -> None:
        checked = config(CONFIG.replace("port: 80,", "port: 80, check: {type: tcp, to: vip},"))
        facts = replace(GOOD, capabilities=frozenset({CAP_NET_ADMIN, CAP_NET_BIND_SERVICE}))
        one = found(facts, Code.NO_NET_RAW, checked)
        assert (one.severity, one.text.partition(": ")[0]) == (
            Severity.ERROR,
            "this process has no CAP_NET_RAW",
        )
        assert one.text.endswith("those of web tcp/80")
        assert "CAP_NET_RAW" in found(replace(facts, root=False), Code.NO_NET_RAW, checked).fix
        assert Code.NO_NET_RAW not in codes(facts)

    def test_where_179_is_no_privileged_port_nobody_needs_bind_service(self) -> None:
        facts = replace(
            sysctls(net__ipv4__ip_unprivileged_port_start="179"), capabilities=frozenset({CAP_NET_ADMIN})
        )
        assert codes(facts) == set()


class TestModules:
    def test_a_scheduler_that_the_kernel_does_not_have_is_named_with_its_place(self) -> None:
        one = found(GOOD, Code.MODULE_MISSING, serving(scheduler=Scheduler.SH))
        assert one.severity is Severity.ERROR
        assert one.text == "kernel 6.1.0-18-amd64 has no ip_vs_sh, needed by web tcp/80"
        assert "another scheduler" in one.fix

    def test_a_scheduler_built_into_the_kernel_is_there(self) -> None:
        modules = replace(GOOD.modules, built_in=frozenset({"ip_vs_sh"}))
        assert codes(replace(GOOD, modules=modules), serving(scheduler=Scheduler.SH)) == set()

    def test_a_scheduler_that_modprobe_would_find_is_there(self) -> None:
        facts = replace(GOOD, modules=replace(GOOD.modules, by_file=frozenset({"ip_vs", "ip_vs_wlc"})))
        assert codes(facts, serving(scheduler=Scheduler.WLC)) == set()

    def test_without_a_list_of_modules_a_scheduler_is_unchecked_and_not_missing(self) -> None:
        facts = replace(GOOD, modules=replace(GOOD.modules, available=None))
        one = found(facts, Code.UNCHECKED, serving(scheduler=Scheduler.WLC))
        assert one.text.startswith("ip_vs_wlc could not be checked")

    def test_ip_vs_that_is_not_loaded_comes_with_the_command_for_all_it_takes(self) -> None:
        facts = replace(GOOD, modules=replace(GOOD.modules, loaded=frozenset()), conn_tab_bits=None)
        one = found(facts, Code.MODULE_NOT_LOADED)
        assert (one.severity, one.fix) == (Severity.WARNING, "modprobe -a ip_vs ip_vs_mh")

    def test_without_ip_vs_its_sysctls_are_unchecked_and_not_missing(self) -> None:
        facts = replace(
            GOOD, modules=replace(GOOD.modules, loaded=frozenset()), conn_tab_bits=None, sysctls={}
        )
        assert Code.SYSCTL_MISSING not in codes(facts)
        assert "net.ipv4.vs sysctls" in found(facts, Code.UNCHECKED).text

    def test_modules_that_nothing_loads_at_boot_are_offered_for_modules_load(self) -> None:
        facts = replace(GOOD, modules=replace(GOOD.modules, by_file=frozenset({"ip_vs"})))
        assert found(facts, Code.MODULE_NOT_AT_BOOT).changes == (LoadAtBoot(module="ip_vs_mh"),)

    def test_what_is_missing_is_not_offered_for_modules_load(self) -> None:
        facts = replace(GOOD, modules=Modules())
        assert codes(facts) >= {Code.MODULE_MISSING}
        assert Code.MODULE_NOT_AT_BOOT not in codes(facts)


class TestKernelVersions:
    @pytest.mark.parametrize(
        ("release", "version"),
        [
            ("6.1.0-18-amd64", (6, 1)),
            ("5.15.0", (5, 15)),
            ("4.18.0-553.el8.x86_64", (4, 18)),
            ("7.2-rc1", (7, 2)),
        ],
    )
    def test_a_release_begins_with_its_version(self, release: str, version: tuple[int, int]) -> None:
        assert replace(GOOD, release=release).version == version

    def test_a_release_without_a_version_is_unchecked(self) -> None:
        assert "'custom'" in found(replace(GOOD, release="custom"), Code.UNCHECKED).text

    @pytest.mark.parametrize(("release", "there"), [("4.17.0", False), ("4.18.0", True)])
    def test_mh_came_with_4_18(self, release: str, *, there: bool) -> None:
        facts = replace(GOOD, release=release, modules=replace(GOOD.modules, loaded=frozenset({"ip_vs"})))
        assert (Code.KERNEL_SCHEDULER not in codes(facts)) is there

    def test_an_old_kernel_into_which_mh_was_taken_has_it(self) -> None:
        assert codes(replace(GOOD, release="4.15.0")) == set()

    def test_the_place_that_needs_a_newer_kernel_is_named(self) -> None:
        facts = replace(GOOD, release="4.9.0", modules=replace(GOOD.modules, loaded=frozenset({"ip_vs"})))
        one = found(facts, Code.KERNEL_SCHEDULER)
        assert "web tcp/80" in one.text
        assert one.fix == "a kernel of 4.18 or later"

    @pytest.mark.parametrize(
        ("kind", "release", "there"),
        [
            (TunnelType.GUE, "5.1.0", False),
            (TunnelType.GUE, "5.2.0", True),
            (TunnelType.GRE, "5.2.0", False),
            (TunnelType.GRE, "5.3.0", True),
            (TunnelType.IPIP, "4.18.0", True),
        ],
    )
    def test_ipvs_learned_its_tunnels_one_after_the_other(
        self, kind: TunnelType, release: str, *, there: bool
    ) -> None:
        asked = serving(forwarding=Forwarding.TUNNEL, tunnel=Tunnel(type=kind))
        assert (Code.KERNEL_TUNNEL not in codes(replace(GOOD, release=release), asked)) is there

    def test_before_5_9_conntrack_costs_a_second_when_a_port_is_used_again(self) -> None:
        facts = sysctls(net__ipv4__vs__conntrack="1")
        assert "1 s" in found(replace(facts, release="5.8.0"), Code.KERNEL_CONN_REUSE).text
        assert Code.KERNEL_CONN_REUSE not in codes(replace(facts, release="5.9.0"))
        assert Code.KERNEL_CONN_REUSE not in codes(replace(GOOD, release="5.8.0"))

    @pytest.mark.parametrize(
        ("release", "servers", "is_found"),
        [("6.1.0", 1000, True), ("6.1.0", 999, False), ("6.2.0", 1000, False)],
    )
    def test_up_to_6_1_a_thousand_servers_are_estimated_in_one_timer(
        self, release: str, servers: int, *, is_found: bool
    ) -> None:
        assert (Code.KERNEL_ESTIMATION in codes(replace(GOOD, release=release), many(servers))) is is_found

    def test_estimation_that_is_off_costs_nothing_and_counts_nothing(self) -> None:
        facts = sysctls(net__ipv4__vs__run_estimation="0")
        assert Code.KERNEL_ESTIMATION not in codes(facts, many(1000))
        told = found(facts, Code.KERNEL_COUNTS_NOTHING)
        assert "a maintenance waits for timing.quiet_limit" in told.text
        assert told.fix.startswith(
            "`sysctl -w net.ipv4.vs.run_estimation=1`, and for the next boot in /etc/sysctl.d/60-anycast.conf; "
        )
        assert "`grep -rs run_estimation /etc/sysctl.conf /etc/sysctl.d " in told.fix

    def test_a_kernel_whose_counting_has_no_processor_is_found_though_it_says_that_it_runs(self) -> None:
        facts = sysctls(net__ipv4__vs__run_estimation="1", net__ipv4__vs__est_cpulist="")
        fix = found(facts, Code.KERNEL_COUNTS_NOTHING).fix
        assert fix.startswith(
            "`sysctl -w net.ipv4.vs.est_cpulist=0`, and for the next boot in /etc/sysctl.d/"
        )
        facts = sysctls(net__ipv4__vs__run_estimation="1", net__ipv4__vs__est_cpulist="0-3")
        assert Code.KERNEL_COUNTS_NOTHING not in codes(facts)

    def test_before_5_16_estimation_cannot_be_switched_off(self) -> None:
        assert "sysctl" not in found(replace(GOOD, release="5.15.0"), Code.KERNEL_ESTIMATION, many(1000)).fix


def many(servers: int) -> Config:
    names = ", ".join(f"10.9.{index // 250}.{index % 250 + 1}" for index in range(servers))
    text = "bgp:\n  local_as: 65001\n  router_id: 10.2.1.1\n  neighbors: [{address: 10.2.1.254, remote_as: 65000}]\n"
    return config(f"{text}vips:\n  web: {{address: 192.0.2.1, port: 80, servers: [{names}]}}\n")


class TestSysctls:
    @pytest.mark.parametrize("name", IPVS_SYSCTLS)
    def test_every_sysctl_that_ipvs_needs_is_looked_at(self, name: str) -> None:
        facts = replace(GOOD, sysctls={**GOOD.sysctls, name: "7"})
        one = found(facts, Code.SYSCTL_DIFFERS)
        assert one.text.startswith(f"{name} is 7, wanted {IPVS_SYSCTLS[name]}: ")
        assert one.changes == (SetSysctl(name=name, value=IPVS_SYSCTLS[name]),)

    def test_what_the_agent_sets_anyhow_is_only_said(self) -> None:
        one = found(sysctls(net__ipv4__vs__sloppy_tcp="0"), Code.SYSCTL_DIFFERS)
        assert one.severity is Severity.INFO
        assert "the agent sets it" in one.text

    def test_what_the_agent_may_not_set_is_a_warning(self) -> None:
        checked = replace(config(), manage_sysctls=False)
        one = found(sysctls(net__ipv4__vs__sloppy_tcp="0"), Code.SYSCTL_DIFFERS, checked)
        assert one.severity is Severity.WARNING

    def test_without_a_configuration_nobody_is_known_to_set_it(self) -> None:
        assert above_info(sysctls(net__ipv4__vs__sloppy_tcp="0"), None) == [Code.SYSCTL_DIFFERS]

    def test_a_sysctl_that_the_kernel_does_not_have_is_an_error(self) -> None:
        rest = {name: value for name, value in GOOD.sysctls.items() if name != "net.ipv4.vs.schedule_icmp"}
        one = found(replace(GOOD, sysctls=rest), Code.SYSCTL_MISSING)
        assert (one.severity, one.fix) == (Severity.ERROR, "a newer kernel")
        assert "net.ipv4.vs.schedule_icmp" in one.text

    def test_masquerading_needs_forwarding_and_nothing_else_does(self) -> None:
        facts = sysctls(net__ipv4__ip_forward="0")
        one = found(facts, Code.SYSCTL_DIFFERS, serving(forwarding=Forwarding.NAT))
        assert one.changes == (SetSysctl(name="net.ipv4.ip_forward", value="1"),)
        assert codes(facts) == set()

    def test_tunnels_need_path_mtu_discovery_which_the_agent_does_not_set(self) -> None:
        facts = sysctls(net__ipv4__vs__pmtu_disc="0")
        one = found(facts, Code.SYSCTL_DIFFERS, serving(forwarding=Forwarding.TUNNEL))
        assert one.severity is Severity.WARNING
        assert codes(facts) == set()

    def test_conntrack_is_advised_against_and_never_switched_off_unasked(self) -> None:
        one = found(sysctls(net__ipv4__vs__conntrack="1"), Code.VS_CONNTRACK)
        assert one.changes == ()
        assert "net.ipv4.vs.conntrack=0" in one.fix

    def test_masquerading_may_rest_on_conntrack(self) -> None:
        facts = sysctls(net__ipv4__vs__conntrack="1", net__ipv4__ip_forward="1")
        assert codes(facts, serving(forwarding=Forwarding.NAT)) == set()

    def test_where_they_cannot_be_written_a_sysctl_that_the_agent_needs_is_an_error(self) -> None:
        facts = replace(sysctls(net__ipv4__vs__sloppy_tcp="0"), sysctls_read_only=True)
        one = found(facts, Code.SYSCTL_READ_ONLY)
        assert one.severity is Severity.ERROR
        assert "net.ipv4.vs.sloppy_tcp" in one.text
        assert "sysctls: check" in one.fix

    def test_where_they_cannot_be_written_no_sysctl_is_offered_to_be_set(self) -> None:
        facts = replace(sysctls(net__ipv4__vs__sloppy_tcp="0"), sysctls_read_only=True)
        assert found(facts, Code.SYSCTL_DIFFERS).changes == ()

    def test_read_only_sysctls_that_are_right_are_no_finding(self) -> None:
        assert codes(replace(GOOD, sysctls_read_only=True)) == set()


class TestForeignServices:
    def test_services_of_others_are_named_and_left_alone(self) -> None:
        one = found(replace(GOOD, ipvs=frozenset({OURS, OTHERS})), Code.IPVS_FOREIGN)
        assert one.severity is Severity.INFO
        assert "tcp 192.0.2.77:5060: they are left alone" in one.text
        assert "192.0.2.1:80" not in one.text

    def test_services_that_the_agent_will_remove_are_a_warning(self) -> None:
        exclusive = replace(config(), ipvs_exclusive=True)
        assert (
            found(replace(GOOD, ipvs=frozenset({OTHERS})), Code.IPVS_FOREIGN, exclusive).severity
            is Severity.WARNING
        )

    def test_of_many_a_few_are_named(self) -> None:
        keys = frozenset(replace(OTHERS, port=port) for port in range(1, 10))
        assert "and 4 more" in found(replace(GOOD, ipvs=keys), Code.IPVS_FOREIGN).text

    def test_our_own_services_are_no_finding(self) -> None:
        assert codes(replace(GOOD, ipvs=frozenset({OURS}))) == set()


class TestConnectionSync:
    @staticmethod
    def asked(interface: str, group: str = "224.0.0.81") -> Config:
        return replace(
            config(), connection_sync=ConnectionSync(interface=interface, id=1, group=ip_address(group))
        )

    def test_an_interface_with_an_address_of_the_groups_family_will_do(self) -> None:
        assert Code.SYNC_INTERFACE not in codes(GOOD, self.asked("lan0"))

    @pytest.mark.parametrize(
        ("interface", "group", "why"),
        [
            ("lan9", "224.0.0.81", "no such interface"),
            ("lan1", "224.0.0.81", "down"),
            ("lan0", "ff02::81", "no IPv6 address"),
        ],
    )
    def test_an_interface_on_which_the_daemons_cannot_run_is_an_error(
        self, interface: str, group: str, why: str
    ) -> None:
        down = replace(LAN0, name="lan1", up=False)
        facts = replace(GOOD, interfaces=(*(GOOD.interfaces or ()), down))
        assert why in found(facts, Code.SYNC_INTERFACE, self.asked(interface, group)).text


def test_a_limit_of_connections_below_the_expected_is_found() -> None:
    facts = sysctls(net__ipv4__vs__conn_max="50000")
    told = found(facts, Code.CONN_MAX, connections=100_000)
    assert told.severity is Severity.WARNING
    assert "50,000" in told.text
    every = findings(facts, config(), connections=50_000)
    assert Code.CONN_MAX not in {one.code for one in every}
    for held, is_told in ((39_999, False), (40_000, True)):
        every = findings(replace(facts, entries=held), config(), connections=50_000)
        assert (Code.CONN_MAX in {one.code for one in every}) is is_told
    full = found(replace(facts, entries=40_000), Code.CONN_MAX, connections=50_000)
    assert "50,000, 40,000 of them taken now, and" in full.text
    assert told.fix.startswith(
        "`sysctl -w net.ipv4.vs.conn_max=1073741824`, and for the next boot in /etc/sysctl.d/60-anycast.conf; "
    )
    none = found(sysctls(net__ipv4__vs__conn_max="0"), Code.CONN_MAX)
    assert none.severity is Severity.ERROR
    assert "not no limit" in none.text


@pytest.mark.parametrize(
    ("mode", "gid", "user", "severity"),
    [
        (0o660, 7, 42, None),
        (0o660, 8, 0, None),
        (0o600, 8, 41, None),  # the agent's own user
        (0o660, 8, 42, Severity.ERROR),
        (0o640, 7, 42, Severity.ERROR),
        (0o666, 8, 42, Severity.WARNING),
    ],
)
def test_the_lease_socket_is_for_the_plugin_and_for_nobody_else(
    mode: int, gid: int, user: int, severity: Severity | None
) -> None:
    socket = LeaseSocket(
        path="/run/anycast/lease.sock", mode=mode, uid=41, gid=gid, user=user, groups=frozenset({7})
    )
    facts = replace(GOOD, lease_socket=socket)
    if severity is None:
        assert Code.LEASE_SOCKET not in codes(facts)
    else:
        one = found(facts, Code.LEASE_SOCKET)
        assert one.severity is severity
        if severity is Severity.ERROR:
            assert "by node.exabgp_user anycast-exabgp" in one.text
            by_table = found(facts, Code.LEASE_SOCKET, config(CONFIG + "speaker: kernel-table\n"))
            assert "by speaker.user anycast-table" in by_table.text
