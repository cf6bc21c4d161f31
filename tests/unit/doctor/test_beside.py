"""What stands still, is out of date or works against the agent: from files, and what is said of it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from anycast.core.values.configuration import Announce, Forwarding
from anycast.core.values.speaker import Speaker, SpeakerType
from anycast.doctor.beside import speakers_table
from anycast.doctor.facts import Beside, FileRoute, Interface, Route, SpeakersTable
from anycast.doctor.finding import Code, Severity
from anycast.doctor.gather import read_files
from tests.unit.doctor.node import CONFIG, GOOD, LO, SERVERS, UP0, codes, config, found, serving

AGENT, EXABGP = "anycast-agent.service", "anycast-exabgp.service"


class Proc:
    """Processes in a folder. They are all in this test's network namespace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 100
        (root / "proc/self/ns").mkdir(parents=True)
        (root / "proc/self/ns/net").symlink_to("net:[1]")

    def add(
        self,
        *words: str,
        comm: str = "",
        exe: str = "/usr/bin/python3.11",
        group: str = "/init.scope",
        net: str = "net:[1]",
    ) -> None:
        self.count += 1
        place = self.root / "proc" / str(self.count)
        (place / "ns").mkdir(parents=True)
        (place / "ns/net").symlink_to(net)
        (place / "exe").symlink_to(exe)
        (place / "comm").write_text(f"{comm or words[0]}\n")
        (place / "cmdline").write_bytes("\0".join((*words, "")).encode())
        (place / "cgroup").write_text(f"0::{group}\n")

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def read(self) -> Beside:
        return read_files(config(), self.root).beside


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_a_node_with_nothing_beside_it_has_nothing_to_find(proc: Proc) -> None:
    proc.add("/usr/lib/anycast/bin/python", "/usr/bin/anycast", "agent", group=f"/system.slice/{AGENT}")
    proc.write(f"sys/fs/cgroup/system.slice/{AGENT}/cgroup.events", "populated 1\nfrozen 0\n")
    assert proc.read() == Beside()


class TestFrozen:
    @pytest.mark.parametrize("slice_", ["/system.slice", "/system.slice/bgp.slice", ""])
    def test_a_unit_that_stands_still_is_named_wherever_it_is(self, proc: Proc, slice_: str) -> None:
        proc.add("exabgp", group=f"{slice_}/{EXABGP}")
        proc.add("sshd", group="/system.slice/ssh.service")
        for unit in (EXABGP, "ssh.service"):
            proc.write(f"sys/fs/cgroup{slice_}/{unit}/cgroup.events", "populated 1\nfrozen 1\n")
        assert proc.read().frozen == ({EXABGP} if slice_ else set())

    def test_it_is_an_error_with_the_way_out(self) -> None:
        one = found(replace(GOOD, beside=Beside(frozen=frozenset({AGENT}))), Code.FROZEN)
        assert (one.severity, one.fix) == (Severity.ERROR, f"`systemctl thaw {AGENT}`")


class TestReplacedFiles:
    def test_daemons_of_frr_that_run_from_deleted_files_are_named(self, proc: Proc) -> None:
        proc.add("/usr/lib/frr/zebra", comm="zebra", exe="/usr/lib/frr/zebra (deleted)")
        proc.add("/usr/lib/frr/bfdd", comm="bfdd", exe="/usr/lib/frr/bfdd")
        proc.add("/usr/sbin/sshd", comm="sshd", exe="/usr/sbin/sshd (deleted)")
        proc.add("/usr/lib/frr/bgpd", comm="bgpd", exe="/usr/lib/frr/bgpd (deleted)", net="net:[2]")
        assert proc.read().replaced == {"zebra"}

    def test_what_only_root_may_see_is_said_not_to_have_been_seen(self, proc: Proc) -> None:
        for name in ("zebra", "bfdd"):
            proc.add(f"/usr/lib/frr/{name}", comm=name)
            (proc.root / "proc" / str(proc.count) / "exe").unlink()
        unread = read_files(config(), proc.root).unread
        assert [one.why for one in unread if "bfdd, zebra of FRR" in one.what] == [
            "which files they are may be seen by root alone"
        ]

    def test_a_program_whose_file_is_gone_is_seen_by_the_kernels_word(self, tmp_path: Path) -> None:
        """Stands for bfdd: a program runs on when a package has put another file in its place."""
        program = tmp_path / "bfdd"
        shutil.copy("/bin/sleep", program)
        with subprocess.Popen([program, "1000"]) as running:
            try:
                assert "bfdd" not in read_files(config(), Path("/")).beside.replaced
                program.unlink()
                assert "bfdd" in read_files(config(), Path("/")).beside.replaced
            finally:
                running.kill()

    def test_it_is_a_warning_before_the_next_reload(self) -> None:
        one = found(replace(GOOD, beside=Beside(replaced=frozenset({"zebra", "bfdd"}))), Code.FRR_REPLACED)
        assert one.severity is Severity.WARNING
        assert one.text.startswith("bfdd, zebra of FRR run on")
        assert "systemctl restart frr" in one.fix


CONF = """\
# route 192.0.2.1/32 in a comment
process anycast { run /usr/bin/anycast announce --own 192.0.2.1/32; }
neighbor 10.2.1.254 {
    static {
        route 192.0.2.1/32 next-hop self watchdog web;
        route 192.0.2.0/24 next-hop self;
        route 192.0.2.9 { next-hop self; }
    }
    announce { ipv6 { unicast 2001:db8::1/128 next-hop self; } }
}
"""


class TestRoutesOfTheFile:
    @pytest.mark.parametrize(
        "words",
        [
            ("/usr/lib/anycast/bin/python", "/usr/lib/anycast/bin/exabgp", "/etc/own.conf"),
            ("python3", "-m", "exabgp", "server", "/etc/own.conf"),
            ("/usr/sbin/exabgp", "/etc/own.conf", "--debug"),
        ],
    )
    def test_routes_to_one_address_are_read_from_the_file_it_runs_with(
        self, proc: Proc, words: tuple[str, ...]
    ) -> None:
        proc.add(*words)
        proc.write("/etc/own.conf", CONF)
        assert proc.read().routes == (
            FileRoute(where="/etc/own.conf:5", address="192.0.2.1"),
            FileRoute(where="/etc/own.conf:6", address="192.0.2.0/24"),
            FileRoute(where="/etc/own.conf:7", address="192.0.2.9"),
            FileRoute(where="/etc/own.conf:9", address="2001:db8::1"),
        )

    def test_the_file_of_one_that_does_not_run_here_is_not_looked_at(self, proc: Proc) -> None:
        proc.add("/usr/sbin/exabgp", "/etc/own.conf", net="net:[2]")
        proc.add("vi", "/etc/own.conf")
        proc.write("/etc/own.conf", CONF)
        assert proc.read().routes == ()

    def test_a_file_that_cannot_be_read_is_told(self, proc: Proc) -> None:
        proc.add("/usr/sbin/exabgp", "/etc/own.conf")
        (proc.root / "etc/own.conf").mkdir(parents=True)  # root may read every file
        assert [one.what for one in read_files(config(), proc.root).unread if "own" in one.what] == [
            "/etc/own.conf"
        ]

    def test_one_of_a_prefix_that_a_vip_announces_is_one_of_the_vip(self) -> None:
        routes = (FileRoute(where="/etc/own.conf:6", address="192.0.2.0/24"),)
        facts = replace(GOOD, beside=Beside(routes=routes))
        assert Code.STATIC_ROUTE not in codes(facts)
        announce = (Announce(prefix=ip_network("192.0.2.0/24")),)
        wide = replace(config(), vips=tuple(replace(vip, announce=announce) for vip in config().vips))
        assert "192.0.2.0/24 (VIP web)" in found(facts, Code.STATIC_ROUTE, wide).text

    def test_those_that_are_vips_are_an_error_with_file_and_line(self) -> None:
        routes = tuple(
            FileRoute(where=f"/etc/own.conf:{n}", address=address)
            for n, address in ((5, "192.0.2.1"), (7, "192.0.2.9"), (9, "1.2.3"))
        )
        one = found(replace(GOOD, beside=Beside(routes=routes)), Code.STATIC_ROUTE)
        assert one.severity is Severity.ERROR
        assert one.text.startswith("/etc/own.conf:5: ExaBGP announces 192.0.2.1 (VIP web) by itself")


class TestHealthcheck:
    def test_one_that_sets_addresses_is_seen(self, proc: Proc) -> None:
        proc.add("python3", "-m", "exabgp", "healthcheck", "--cmd", "true", "--ip", "192.0.2.1/32")
        assert proc.read().healthchecks
        one = found(replace(GOOD, beside=Beside(healthchecks=True)), Code.EXABGP_HEALTHCHECK)
        assert (one.severity, "--no-ip-setup" in one.fix) == (Severity.WARNING, True)

    def test_one_that_does_not_is_none_of_ours(self, proc: Proc) -> None:
        proc.add("/usr/sbin/exabgp", "healthcheck", "--cmd", "true", "--no-ip-setup")
        assert not proc.read().healthchecks


class TestIpvsadm:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('AUTO="true"\nDAEMON="none"\n', "/etc/default/ipvsadm:1"),
            ("# AUTO=false\nAUTO=true # of old\n", "/etc/default/ipvsadm:2"),
            ('AUTO="true"\nAUTO="false"\n', None),
            ('#AUTO="true"\n', None),
            ("", None),
        ],
    )
    def test_a_service_that_fills_the_table_from_a_file_is_seen(
        self, proc: Proc, text: str, expected: str | None
    ) -> None:
        proc.write("/etc/default/ipvsadm", text)
        assert proc.read().ipvsadm_auto == expected

    def test_it_is_an_error(self) -> None:
        one = found(replace(GOOD, beside=Beside(ipvsadm_auto="/etc/default/ipvsadm:1")), Code.IPVSADM_AUTO)
        assert one.severity is Severity.ERROR
        assert 'AUTO="false"' in one.fix

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('AUTO="false"\nDAEMON="master"\nIFACE="eth1"\n', "/etc/default/ipvsadm:2"),
            ("DAEMON=both\n", "/etc/default/ipvsadm:1"),
            ('DAEMON="backup"\nDAEMON="none"\n', None),
            ('DAEMON=""\n', None),
        ],
    )
    def test_a_service_that_runs_daemons_of_its_own_is_seen(
        self, proc: Proc, text: str, expected: str | None
    ) -> None:
        proc.write("/etc/default/ipvsadm", text)
        assert proc.read().ipvsadm_daemon == expected

    def test_it_is_told_where_the_agent_runs_them(self) -> None:
        facts = replace(GOOD, beside=Beside(ipvsadm_daemon="/etc/default/ipvsadm:2"))
        assert Code.IPVSADM_DAEMON not in codes(facts)
        one = found(facts, Code.IPVSADM_DAEMON, config("connection_sync: up0\n" + CONFIG))
        assert (one.severity, one.fix) == (Severity.WARNING, 'DAEMON="none" there')


class TestSysctlConf:
    def test_what_an_upgrade_has_set_aside_is_named(self, proc: Proc) -> None:
        proc.write("/etc/sysctl.conf.dpkg-bak", "# old\nnet.ipv4.ip_forward = 1\n")
        proc.write("/etc/sysctl.conf", "kernel.panic=5\n")
        assert proc.read().sysctl_conf == ("/etc/sysctl.conf.dpkg-bak",)
        one = found(replace(GOOD, beside=Beside(sysctl_conf=("/etc/sysctl.conf",))), Code.SYSCTL_CONF)
        assert (one.severity, "/etc/sysctl.d" in one.fix) == (Severity.WARNING, True)

    def test_what_was_moved_into_a_file_that_is_read_is_not_named_any_more(self, proc: Proc) -> None:
        proc.write("/etc/sysctl.conf.dpkg-bak", "net/ipv4/ip_forward=1\n-net.ipv4.conf.up0.rp_filter = 0\n")
        proc.write("/etc/sysctl.d/60-own.conf", "net.ipv4.ip_forward = 1\n# net.ipv4.conf.up0.rp_filter=0\n")
        assert proc.read().sysctl_conf == ("/etc/sysctl.conf.dpkg-bak",)
        proc.write("/etc/sysctl.d/61-own.conf", "net.ipv4.conf.*.rp_filter = 0\n")
        assert proc.read().sysctl_conf == ()

    def test_where_a_link_leads_to_it_systemd_reads_it(self, proc: Proc) -> None:
        proc.write("/etc/sysctl.conf", "net.ipv4.ip_forward=1\n")
        assert proc.read().sysctl_conf == ("/etc/sysctl.conf",)
        (proc.root / "etc/sysctl.d").mkdir()
        (proc.root / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
        assert proc.read().sysctl_conf == ()


class TestVrf:
    RED = Interface(name="red", up=True, mtu=1500, kind="vrf")

    def test_without_a_route_in_the_main_table_it_says_that_ipvs_knows_no_vrf(self) -> None:
        facts = replace(
            GOOD, interfaces=(LO, UP0, self.RED), routes={**GOOD.routes, **dict.fromkeys(SERVERS)}
        )
        one = found(facts, Code.NO_ROUTE)
        assert "IPVS asks the main table alone" in one.text
        assert "ip rule add to NET lookup TABLE" in one.fix

    def test_vips_in_one_are_not_found_by_uplinks_outside_of_it(self) -> None:
        carrier = Interface(name="vips", up=True, mtu=1500, kind="dummy", vrf="red")
        plain = config()
        its = replace(plain, node=replace(plain.node, interface="vips"))
        outside = replace(GOOD, interfaces=(LO, UP0, self.RED, carrier))
        one = found(outside, Code.VRF_INTERFACE, its)
        assert one.severity is Severity.WARNING
        assert "vips is in the VRF red" in one.text
        assert "up0" in one.text
        for interfaces in (
            (LO, replace(UP0, vrf="red"), self.RED, carrier),
            (LO, UP0, self.RED, replace(carrier, vrf="")),
        ):
            assert Code.VRF_INTERFACE not in codes(replace(GOOD, interfaces=interfaces), its)

    @pytest.mark.parametrize(("forwarding", "wrong"), [(Forwarding.DR, True), (Forwarding.TUNNEL, False)])
    def test_a_route_to_the_vrf_device_serves_a_tunnel_only(
        self, forwarding: Forwarding, *, wrong: bool
    ) -> None:
        leads = dict.fromkeys(SERVERS, Route(interface="red", mtu=1500))
        facts = replace(
            GOOD, interfaces=(*(GOOD.interfaces or ()), self.RED), routes={**GOOD.routes, **leads}
        )
        assert (Code.VRF_ROUTE in codes(facts, serving(forwarding=forwarding))) is wrong


def test_what_else_uses_the_speakers_table_is_found_and_nothing_where_exabgp_announces() -> None:
    plain = config()
    table = replace(plain, speaker=Speaker(type=SpeakerType.KERNEL_TABLE))
    found = SpeakersTable(rules=(100,), foreign=("10.0.0.0/8 metric 0 proto static",))
    rule, shared = speakers_table(found, table)
    assert (rule.code, rule.severity) == (Code.TABLE_RULE, Severity.ERROR)
    assert "priority 100" in rule.text
    assert (shared.code, shared.severity) == (Code.TABLE_SHARED, Severity.WARNING)
    assert "10.0.0.0/8 metric 0 proto static" in shared.text
    assert list(speakers_table(found, plain)) == []
    assert list(speakers_table(SpeakersTable(), table)) == []
