"""The files and sysctls that --fix writes, in a directory of the test."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from anycast.core.dataplane.kernel import SetSysctl
from anycast.doctor.finding import Change, Code, Finding, LoadAtBoot, ModuleOption, Severity
from anycast.doctor.fix import Plan, carry_out, plan, shown

NAME = "net.ipv4.conf.up0.rp_filter"
LOOSE = SetSysctl(name=NAME, value="2")
SLOPPY = SetSysctl(name="net.ipv4.vs.sloppy_tcp", value="1")
BITS = ModuleOption(module="ip_vs", option="conn_tab_bits", value="18")
SYSCTLS, BOOT, OPTIONS = (
    "etc/sysctl.d/60-anycast.conf",
    "etc/modules-load.d/anycast.conf",
    "etc/modprobe.d/anycast.conf",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in (LOOSE.name, SLOPPY.name):
        file = tmp_path / "proc/sys" / name.replace(".", "/")
        file.parent.mkdir(parents=True)
        file.write_text("0\n")
    return tmp_path


def offer(*changes: Change) -> list[Finding]:
    return [Finding(severity=Severity.WARNING, code=Code.CONN_TAB, text="", changes=changes)]


def lines(root: Path, path: str) -> list[str]:
    return [line for line in (root / path).read_text().splitlines() if not line.startswith("#")]


def fix(root: Path, *changes: Change) -> tuple[str, ...]:
    return carry_out(plan(offer(*changes), root), root)


def test_findings_without_a_change_leave_nothing_to_do(root: Path) -> None:
    assert not plan(offer(), root)


def test_a_sysctl_is_set_at_once_and_kept_over_a_reboot(root: Path) -> None:
    assert fix(root, LOOSE) == ()
    assert (root / "proc/sys/net/ipv4/conf/up0/rp_filter").read_text() == "2"
    assert lines(root, SYSCTLS) == [f"{NAME} = 2"]


def test_modules_and_their_options_have_files_of_their_own(root: Path) -> None:
    assert fix(root, LoadAtBoot(module="ip_vs"), LoadAtBoot(module="ip_vs_mh"), BITS) == ()
    assert lines(root, BOOT) == ["ip_vs", "ip_vs_mh"]
    assert lines(root, OPTIONS) == ["options ip_vs conn_tab_bits=18"]


def test_a_file_can_be_read_by_everybody_and_leaves_nothing_beside_it(root: Path) -> None:
    fix(root, BITS)
    assert stat.S_IMODE((root / OPTIONS).stat().st_mode) == 0o644
    assert os.listdir(root / "etc/modprobe.d") == ["anycast.conf"]


def test_a_second_run_writes_no_file(root: Path) -> None:
    changes = (LOOSE, LoadAtBoot(module="ip_vs"), BITS)
    fix(root, *changes)
    assert plan(offer(*changes), root).files == ()


def test_what_an_earlier_run_wrote_stays_when_it_is_no_finding_any_more(root: Path) -> None:
    fix(root, LOOSE)
    fix(root, SLOPPY)
    assert lines(root, SYSCTLS) == [f"{NAME} = 2", "net.ipv4.vs.sloppy_tcp = 1"]


def test_a_line_for_the_same_setting_is_replaced_in_its_place(root: Path) -> None:
    fix(root, BITS)
    with (root / OPTIONS).open("a") as file:
        file.write("options ip_vs_ftp ports=21\n")
    fix(root, ModuleOption(module="ip_vs", option="conn_tab_bits", value="20"))
    assert lines(root, OPTIONS) == ["options ip_vs conn_tab_bits=20", "options ip_vs_ftp ports=21"]


def test_two_lines_for_the_same_setting_become_one(root: Path) -> None:
    (root / SYSCTLS).parent.mkdir(parents=True)
    (root / SYSCTLS).write_text(f"{NAME}=0\nkernel.panic = 5\n{NAME}=1\n")
    fix(root, LOOSE)
    assert lines(root, SYSCTLS) == [f"{NAME} = 2", "kernel.panic = 5"]


def test_a_last_line_without_its_end_stays_a_line_of_its_own(root: Path) -> None:
    (root / SYSCTLS).parent.mkdir(parents=True)
    (root / SYSCTLS).write_text("kernel.panic = 5")
    fix(root, LOOSE)
    assert lines(root, SYSCTLS) == ["kernel.panic = 5", f"{NAME} = 2"]


def test_a_link_to_a_file_stays_a_link(root: Path) -> None:
    (root / OPTIONS).parent.mkdir(parents=True)
    (root / OPTIONS).symlink_to(root / "kept.conf")
    (root / "kept.conf").write_text("")
    fix(root, BITS)
    assert (root / OPTIONS).is_symlink()
    assert "conn_tab_bits" in (root / "kept.conf").read_text()


def test_a_new_file_is_shown_whole_before_it_is_written(root: Path) -> None:
    text = shown(plan(offer(BITS, LOOSE), root))
    assert "+++ /etc/modprobe.d/anycast.conf" in text
    assert "+options ip_vs conn_tab_bits=18" in text
    assert f"sysctl -w {NAME}=2" in text
    assert not (root / "etc").exists()


def test_a_changed_file_is_shown_as_a_difference(root: Path) -> None:
    fix(root, BITS)
    text = shown(plan(offer(ModuleOption(module="ip_vs", option="conn_tab_bits", value="20")), root))
    assert "-options ip_vs conn_tab_bits=18\n+options ip_vs conn_tab_bits=20\n" in text


@pytest.mark.parametrize(
    "file", ["etc/sysctl.d/99-local.conf", "usr/lib/sysctl.d/70-x.conf", "etc/sysctl.conf"]
)
@pytest.mark.parametrize("name", [NAME, "-" + NAME, NAME.replace(".", "/")])
def test_a_file_that_is_read_later_and_says_otherwise_is_named(root: Path, file: str, name: str) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(f"{name} = 1\n")
    (warning,) = plan(offer(LOOSE), root).warnings
    assert warning == f"/{file} is read later and sets {NAME} to 1: change it there"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("etc/sysctl.d/10-network.conf", f"{NAME} = 1\n"),
        ("etc/sysctl.d/99-local.conf", f"{NAME} = 2\n"),
        ("etc/sysctl.d/99-local.conf", f"# {NAME} = 1\n"),
        ("etc/sysctl.d/99-local.txt", f"{NAME} = 1\n"),
    ],
)
def test_a_file_that_changes_nothing_of_it_is_not_named(root: Path, file: str, text: str) -> None:
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(text)
    assert plan(offer(LOOSE), root).warnings == ()


def test_sysctl_conf_under_two_names_is_named_once(root: Path) -> None:
    (root / "etc/sysctl.d").mkdir(parents=True)
    (root / "etc/sysctl.conf").write_text(f"{NAME} = 1\n")
    (root / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
    assert len(plan(offer(LOOSE), root).warnings) == 1


def test_what_fails_is_told_with_its_reason_and_hinders_nothing_else(root: Path) -> None:
    missing = SetSysctl(name="net.ipv6.none", value="1")
    wanted = plan(offer(BITS, missing, LOOSE), root)
    (root / "etc").mkdir()
    (root / "etc/modprobe.d").write_text("no directory")
    failures = carry_out(wanted, root)
    assert failures == (
        "/etc/modprobe.d/anycast.conf: not written: File exists",
        "net.ipv6.none: not set: this kernel does not have it",
    )
    assert (root / "proc/sys/net/ipv4/conf/up0/rp_filter").read_text() == "2"


def test_an_empty_plan_shows_and_writes_nothing(root: Path) -> None:
    assert shown(Plan()) == ""
    assert carry_out(Plan(), root) == ()


SAFE = SetSysctl(name="net.ipv6.conf.up0.accept_ra", value="2")
FORWARD = SetSysctl(name="net.ipv6.conf.all.forwarding", value="1")


def test_ipv6_is_not_forwarded_before_the_default_route_is_safe_from_it(root: Path) -> None:
    forwarding = root / "proc/sys/net/ipv6/conf/all/forwarding"
    forwarding.parent.mkdir(parents=True)
    forwarding.write_text("0\n")
    failures = fix(root, SAFE, FORWARD)  # there is no such interface any more
    assert [text.partition(":")[0] for text in failures] == [SAFE.name, FORWARD.name]
    assert f"{SAFE.name} must be 2 before" in failures[1]
    assert forwarding.read_text() == "0\n"
    file = root / "proc/sys/net/ipv6/conf/up0/accept_ra"
    file.parent.mkdir(parents=True)
    file.write_text("1\n")
    assert fix(root, SAFE, FORWARD) == ()
    assert (file.read_text(), forwarding.read_text()) == ("2", "1")
    assert lines(root, SYSCTLS) == [f"{SAFE.name} = 2", f"{FORWARD.name} = 1"]


def test_what_is_so_already_is_not_written_again(root: Path) -> None:
    """A 1 over a 1 of IPv6's forwarding deletes routes."""
    file = root / "proc/sys" / LOOSE.name.replace(".", "/")
    file.write_text("2\n")
    before = file.stat().st_mtime_ns
    assert fix(root, LOOSE) == ()
    assert (file.read_text(), file.stat().st_mtime_ns) == ("2\n", before)
