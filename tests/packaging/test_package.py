"""The Debian package in a fresh Debian: installed, upgraded, removed, and booted with systemd."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anycast import __version__
from tests.packaging import beside as beside_program
from tests.packaging import inside
from tests.packaging import without as without_program
from tests.packaging.machine import BUILD, ROOT, SUITE, Machine, fresh, repacked, source

pytestmark = [
    pytest.mark.package,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap needs root"),
]

EDITED = """\
# edited by hand
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000, password: hunter2}]}
vips: {web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1]}}
"""
MAIL = "vips: {mail: {address: 192.0.2.2, port: 25, servers: [10.9.2.9]}}\n"
MAINTENANCE = '{"version": 1, "maintenance": {"": {"reason": "disks", "by": "ann", "since": 1.0}}}'


def build(output: Path) -> Path:
    done = subprocess.run(
        [sys.executable, ROOT / "packaging/build.py", "--suite", SUITE, "--output", output],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def package() -> Path:
    return build(BUILD / "package")


@pytest.fixture(scope="session")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """With the version before, as it was first installed. Tests that change it work on a copy."""
    folder = tmp_path_factory.mktemp("debian")
    machine = fresh(folder / "root")
    old = repacked(package, folder, "0.0.1")
    said = machine.install(old, "systemd-sysv")
    assert "anycast: " not in said
    yield machine
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def upgraded(
    installed: Machine, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """Used, and then upgraded."""
    with installed.copy(tmp_path_factory.mktemp("upgraded") / "machine") as machine:
        machine.path("/etc/anycast/anycast.yaml").write_text(EDITED)
        machine.path("/etc/anycast/conf.d/own.yaml").write_text(MAIL)
        machine.path("/etc/anycast/ca.pem").write_text("a certificate")
        state = machine.path("/var/lib/anycast")
        state.mkdir(mode=0o750, exist_ok=True)
        (state / "maintenance.json").write_text(MAINTENANCE)
        machine.install(package)
        yield machine


@pytest.fixture
def copy(upgraded: Machine, tmp_path: Path) -> Iterator[Machine]:
    with upgraded.copy(tmp_path / "machine") as machine:
        yield machine


def test_what_is_installed_runs(installed: Machine) -> None:
    assert installed.run("anycast", "--version").stdout == f"anycast {__version__}\n"
    assert installed.run("anycast", "status", check=False).returncode == 3
    assert "ExaBGP" in installed.run("/usr/lib/anycast/bin/exabgp", "version").stdout
    doctor = installed.run("anycast", "doctor", "--json", check=False)
    assert doctor.returncode == 1  # no IPVS in there
    assert json.loads(doctor.stdout)["findings"]


def test_every_sample_is_a_good_configuration(installed: Machine) -> None:
    samples = sorted(installed.path("/usr/share/doc/anycast/examples").glob("*.yaml"))
    assert {sample.name for sample in samples} >= {"minimal.yaml", "full.yaml"}
    for sample in samples:
        installed.run("anycast", "check", f"/usr/share/doc/anycast/examples/{sample.name}")


def test_the_bill_of_materials_has_every_package_with_its_hashes(installed: Machine) -> None:
    bill = json.loads(installed.path("/usr/share/doc/anycast/sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    packages = next(installed.path("/usr/lib/anycast/lib").glob("python3*")) / "site-packages"
    there = {
        re.sub(r"[-_.]+", "-", info.name.removesuffix(".dist-info").rpartition("-")[0]).lower()
        for info in packages.glob("*.dist-info")
    }
    listed = {re.sub(r"[-_.]+", "-", one["name"]).lower() for one in bill["components"]}
    assert listed == there - {"anycast"}
    for one in bill["components"]:
        assert one["externalReferences"][0]["hashes"][0]["alg"] == "SHA-256"


def test_every_kind_of_check_has_what_it_needs(installed: Machine) -> None:
    """Libraries that only some checks use: built for this Python, and linked with what is there."""
    python = "/usr/lib/anycast/bin/python"
    installed.run(
        python, "-c", "import aiohttp, dns.message, h2.connection, jinja2, re2, pydantic, pyroute2, yaml, ssl"
    )


def test_nothing_is_there_that_only_its_builder_has(package: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", package, tmp_path], check=True)
    place = str(ROOT).encode()
    found = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink() and place in path.read_bytes()]  # fmt: skip
    assert not found
    assert not list(tmp_path.rglob("*.pyc"))


def test_files_are_for_whom_they_should_be(installed: Machine) -> None:
    groups = dict(line.split(":")[::2] for line in installed.path("/etc/group").read_text().splitlines())

    def of(name: str) -> tuple[int, str, str]:
        found = installed.path(name).stat()
        group = next(
            (group for group, number in groups.items() if number.split(":")[0] == str(found.st_gid)), ""
        )
        return stat.S_IMODE(found.st_mode), str(found.st_uid), group

    assert of("/etc/anycast") == of("/etc/anycast/conf.d") == (0o750, "0", "anycast")
    loose = [
        path
        for path in installed.path("/usr/lib/anycast").rglob("*")
        if not path.is_symlink() and (path.stat().st_mode & 0o022 or path.stat().st_uid)
    ]
    assert not loose


def test_the_users_are_there_and_cannot_log_in(installed: Machine) -> None:
    users = [line.split(":") for line in installed.path("/etc/passwd").read_text().splitlines()]
    assert {user[0]: user[6] for user in users if user[0].startswith("anycast")} == {
        "anycast": "/usr/sbin/nologin",
        "anycast-exabgp": "/usr/sbin/nologin",
        "anycast-table": "/usr/sbin/nologin",
    }


@pytest.mark.parametrize("unit", ["anycast-agent.service", "anycast-exabgp.service"])
def test_a_unit_is_enabled_and_systemd_finds_nothing_wrong_with_it(unit: str, installed: Machine) -> None:
    assert installed.run("systemctl", "is-enabled", unit).stdout == "enabled\n"
    assert installed.run("systemd-analyze", "verify", "--man=no", unit).stderr == ""


def test_the_manual_page_can_be_read_and_names_every_verb(installed: Machine, tmp_path: Path) -> None:
    text = gzip.decompress(installed.path("/usr/share/man/man1/anycast.1.gz").read_bytes()).decode()
    for verb in ("agent", "check", "doctor", "maintenance", "render", "status"):
        assert f"anycast {verb}" in text.replace("\\-", "-")
    assert "/root" not in text
    if shutil.which("groff") is None:
        pytest.skip("there is no groff to format it")
    page = tmp_path / "anycast.1"
    page.write_text(text)
    done = subprocess.run(["groff", "-man", "-Tutf8", "-wall", page], capture_output=True, check=True)
    assert done.stderr == b""


def test_the_shells_complete_verbs_and_options(installed: Machine) -> None:
    place = installed.path("/usr/share")
    bash = (place / "bash-completion/completions/anycast").read_text()
    ask = "COMP_WORDS=(anycast main); COMP_CWORD=1; _shtab_anycast; echo ${COMPREPLY[@]}"
    done = installed.run("bash", "-c", f"{bash}\n{ask}")
    assert done.stdout == "maintenance\n"
    assert "maintenance" in (place / "zsh/vendor-completions/_anycast").read_text()
    assert "maintenance" in (place / "fish/vendor_completions.d/anycast.fish").read_text()


def test_exabgp_takes_what_its_unit_renders(copy: Machine) -> None:
    copy.run("mkdir", "-p", "/run/anycast-exabgp")
    unit = copy.path("/usr/lib/systemd/system/anycast-exabgp.service").read_text()
    for command in re.findall(r"^ExecStartPre=-\+(.*)$", unit, re.MULTILINE):
        copy.run(*command.split())
    conf, env = (copy.path(f"/run/anycast-exabgp/exabgp.{kind}") for kind in ("conf", "env"))
    assert "hunter2" in conf.read_text()
    for file in (conf, env):
        assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_uid) == (0o640, 0)
    variables = [line for line in env.read_text().splitlines() if line and not line.startswith("#")]
    validate = ("/usr/lib/anycast/bin/exabgp", "validate", "/run/anycast-exabgp/exabgp.conf")
    copy.run("setpriv", "--reuid=anycast-exabgp", "--regid=anycast-exabgp", "--clear-groups", "env", *variables, *validate)  # fmt: skip


def test_an_upgrade_keeps_what_was_edited_and_what_must_outlive_it(upgraded: Machine) -> None:
    assert re.fullmatch(rf"installed {re.escape(__version__)}\+deb\d+", upgraded.version())
    assert upgraded.path("/etc/anycast/anycast.yaml").read_text() == EDITED
    assert upgraded.path("/var/lib/anycast/maintenance.json").read_text() == MAINTENANCE
    assert upgraded.run("anycast", "check").stdout.startswith("/etc/anycast/anycast.yaml: ok: 2 VIPs")
    assert stat.S_IMODE(upgraded.path("/etc/anycast").stat().st_mode) == 0o750


def test_an_upgrade_leaves_nothing_of_the_version_before(installed: Machine, upgraded: Machine) -> None:
    def gone(machine: Machine) -> list[Path]:
        return list(machine.path("/usr/lib/anycast/lib").glob("python*/site-packages/anycast/gone/**/*"))

    assert any(path.suffix == ".pyc" for path in gone(installed))
    assert not gone(upgraded)


def test_removed_it_keeps_configuration_and_state_and_purged_its_own_are_gone(copy: Machine) -> None:
    copy.run("apt-get", "-y", "-q", "remove", "anycast")
    assert copy.version() == "config-files" or copy.version().startswith("config-files")
    assert not copy.path("/usr/lib/anycast").exists()
    assert not copy.path("/usr/bin/anycast").is_symlink()
    assert copy.path("/var/lib/anycast/maintenance.json").exists()
    assert copy.path("/etc/anycast/anycast.yaml").exists()

    spares = copy.path("/etc/needrestart/conf.d/anycast.conf")
    assert spares.exists()

    copy.run("apt-get", "-y", "-q", "purge", "anycast")
    assert not spares.exists()
    assert not copy.path("/var/lib/anycast").exists()
    assert [path.name for path in copy.path("/etc/anycast").iterdir()] == ["ca.pem"]
    wants = copy.path("/etc/systemd/system/multi-user.target.wants")
    assert not [path for path in wants.glob("*") if path.name.startswith("anycast")]


def test_the_same_tree_gives_the_same_bytes(package: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == package.read_bytes()


def facts_of(machine: Machine, program: str, name: str, *, without: str = "") -> Any:
    """What the program saw in the machine, which it ends. Left for people in `build`, too."""
    console = machine.boot(program, without=without)
    result = machine.path("inside.json")
    assert result.exists(), console[-4000:]
    facts = json.loads(result.read_text())
    shutil.copy(result, BUILD / f"{name}-{SUITE}.json")
    assert "error" not in facts, facts["error"] + "\n".join([*facts["journal"][-60:], *facts["routes"][-9:]])
    return facts


@pytest.fixture(scope="module")
def seen(installed: Machine, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the program in `inside.py` saw in a machine that was booted."""
    if shutil.which("linux.uml") is None:
        pytest.skip("there is no linux.uml to boot it with")
    with installed.copy(tmp_path_factory.mktemp("booted") / "machine") as machine:
        return facts_of(machine, source(), "booted")


@pytest.fixture(scope="module")
def beside(installed: Machine, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the program in `beside.py` saw in a machine that boots with a configuration, ipvsadm and needrestart."""
    if shutil.which("linux.uml") is None:
        pytest.skip("there is no linux.uml to boot it with")
    with installed.copy(tmp_path_factory.mktemp("beside") / "machine") as machine:
        machine.install("dbus", "ipvsadm", "needrestart")
        for name, text in {
            inside.CONFIG: inside.GOOD,
            "/etc/default/ipvsadm": 'AUTO="true"\nDAEMON="none"\n',
            "/etc/ipvsadm.rules": "-A -t 198.51.100.1:80 -s rr\n",
            # Before 257 the watchdog ends a frozen unit, here perhaps before anybody has looked.
            "/etc/systemd/system/anycast-agent.service.d/patient.conf": "[Service]\nWatchdogSec=30min\n",
            # So slow that an agent which does not wait for it is there first.
            "/etc/systemd/system/ipvsadm.service.d/slow.conf": "[Service]\nExecStartPre=/bin/sleep 20\n",
            "/etc/router.conf": inside.ROUTER_CONFIG,
            # A file that is made on the host's file system belongs to root, whoever makes it.
            "/etc/fstab": "tmpfs /var/lib/anycast tmpfs defaults 0 0\n",
            f"/etc/systemd/system/{inside.ROUTER}": inside.ROUTER_UNIT,
        }.items():
            file = machine.path(str(name))
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        for name, text in inside.PROGRAMS.items():
            machine.path(str(name)).write_text(text)
            machine.path(str(name)).chmod(0o755)
        machine.path("/var/lib/anycast").mkdir(exist_ok=True)
        there = machine.path("/tests/packaging/inside.py")
        there.parent.mkdir(parents=True)
        there.write_text(source())
        return facts_of(machine, Path(beside_program.__file__).read_text(), "beside")


@pytest.fixture(scope="module")
def without(installed: Machine, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the program in `without.py` saw in a machine that itself serves its VIP, and whose kernel has no IPVS."""
    if shutil.which("linux.uml") is None:
        pytest.skip("there is no linux.uml to boot it with")
    with installed.copy(tmp_path_factory.mktemp("without") / "machine") as machine:
        machine.path("/etc/anycast/anycast.yaml").write_text(without_program.LOCAL)
        there = machine.path("/tests/packaging/inside.py")
        there.parent.mkdir(parents=True)
        there.write_text(source())
        program = Path(without_program.__file__).read_text()
        return facts_of(machine, program, "without", without="kernel/net/netfilter/ipvs")


class TestWithoutIpvs:
    def test_no_unit_fails_at_boot_and_what_the_node_itself_serves_is_announced(
        self, without: dict[str, Any]
    ) -> None:
        assert without["modules"] == []
        assert without["ipvs"] is False
        assert without["failed units"] == ""
        assert without["unit of the modules"] == ["active", "success"]
        assert without["ready"] == {"ready": True, "reasons": []}

    def test_the_doctor_misses_no_module_and_names_none_that_is_not_needed(
        self, without: dict[str, Any]
    ) -> None:
        assert not [code for code in without["doctor"] if code.startswith("module_")]

    def test_one_that_needs_ipvs_is_told_so(self, without: dict[str, Any]) -> None:
        assert "module_missing" in without["doctor with a VIP that needs it"]


class TestBeside:
    def test_at_a_boot_ipvsadm_empties_the_table_before_the_agent_fills_it(
        self, beside: dict[str, Any]
    ) -> None:
        assert beside["ipvsadm"] == ["active", "success"]
        assert beside["ipvsadm began before the agent"]
        for service in ("TCP  C0000201:0050 mh", "TCP  C6336401:0050 rr"):
            assert service in beside["table after the boot"]
        assert "ipvsadm_auto" in beside["doctor"]

    def test_what_its_upgrade_empties_the_agent_fills_again(self, beside: dict[str, Any]) -> None:
        assert beside["restart of ipvsadm"][0] == 0
        assert any("kernel.drifted" in line for line in beside["journal"])

    def test_a_unit_that_is_frozen_through_the_bus_is_named(self, beside: dict[str, Any]) -> None:
        assert beside["freeze"] == [0, ""]
        found = beside["frozen"]
        assert "frozen" in found["doctor"]
        assert (found["state"], found["freezer"]) == ("active", "frozen")
        if beside["systemd"] != "252":
            code, said = beside["restart of a frozen unit"]
            assert code != 0
            assert "frozen" in said
        assert beside["same agent while frozen"]
        assert beside["thaw"][0] == 0
        assert "frozen" not in beside["doctor after the thaw"]

    def test_after_an_update_of_the_c_library_needrestart_restarts_neither(
        self, beside: dict[str, Any]
    ) -> None:
        listed = [line for line in beside["needrestart"] if line.startswith("NEEDRESTART-SVC")]
        assert any("other.service" in line for line in listed), beside["needrestart"]
        assert beside["restarted"] == {
            "anycast-agent.service": False,
            "anycast-exabgp.service": False,
            "other.service": True,
        }, beside["needrestart that restarts"]

    def test_at_a_shutdown_the_table_stands_until_the_drain_is_over(self, beside: dict[str, Any]) -> None:
        assert beside["stop"][0] == 0
        assert beside["ipvsadm ended after the agent"]


class TestBooted:
    def test_without_a_configuration_nothing_runs_and_every_monitor_sees_it(
        self, seen: dict[str, Any]
    ) -> None:
        assert seen["without a configuration"] == ["failed", "failed"]
        assert all(unit in seen["failed units"] for unit in ("anycast-agent", "anycast-exabgp"))
        assert seen["modules"] == ["ip_vs", "ip_vs_mh", "ip_vs_rr"]

    def test_started_it_answers_and_the_node_serves_and_announces(self, seen: dict[str, Any]) -> None:
        assert seen["start"][0] == 0, seen["start"][1]
        assert seen["answers once it is started"] == 0
        assert seen["ready"] == {"ready": True, "reasons": []}
        assert seen["active"] == ["active", "active"]
        assert "TCP  C0000201:0050 mh" in seen["ipvs"]
        assert "7F000003:0050      Route   1" in seen["ipvs"]
        assert seen["sysctl"] == "1"  # written by the agent: the kernel's own is 0

    def test_nothing_runs_as_root_or_with_a_right_it_does_not_need(self, seen: dict[str, Any]) -> None:
        net_admin, net_raw, bind_service = 1 << 12, 1 << 13, 1 << 10
        for name, user, rights in (
            ("agent", "anycast", net_admin | net_raw),
            ("exabgp", "anycast-exabgp", bind_service),
            ("plugin", "anycast-exabgp", bind_service),
        ):
            found = seen[name]
            assert found["Uid"] == seen["uids"][user] != "0"
            assert {int(found[one], 16) for one in ("CapEff", "CapBnd", "CapAmb")} == {rights}, name
            assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
        ops = seen["ops"]
        assert ops["Uid"] == seen["uids"]["anycast"]
        assert {int(ops[one], 16) for one in ("CapEff", "CapAmb")} == {0}

    def test_directories_and_sockets_are_for_whom_they_should_be(self, seen: dict[str, Any]) -> None:
        assert seen["modes"] == {
            "/etc/anycast": "0o750",
            "/run/anycast": "0o755",
            "/run/anycast/control.sock": "0o660",
            "/run/anycast/ops.sock": "0o660",
            "/run/anycast/lease.sock": "0o660",
            "/run/anycast-exabgp": "0o755",
            "/run/anycast-exabgp/exabgp.conf": "0o640",
            "/var/lib/anycast": "0o750",
        }

    def test_a_reload_succeeds_and_one_of_a_bad_file_fails_and_changes_nothing(
        self, seen: dict[str, Any]
    ) -> None:
        assert seen["reload"] == 0
        assert seen["bad reload"] != 0
        assert seen["after a bad reload"]

    def test_a_neighbor_comes_and_goes_by_a_reload_of_exabgp_and_no_other_session_notices(
        self, seen: dict[str, Any]
    ) -> None:
        found = seen["another neighbor"]
        assert [code for what in ("added", "removed") for code, _ in found[what]] == [0, 0, 0, 0], found
        assert found["standing once it is added"] == found["standing once it is removed"] == []
        assert found["same"], "ExaBGP and its plugin"
        assert not [line for line in found["the other router's routes"] if "withdrawn" in line]

    def test_an_agent_and_a_plugin_that_hang_are_ended_and_come_back(self, seen: dict[str, Any]) -> None:
        assert [int(count) >= 1 for count in seen["restarts"]] == [True, True]
        assert any("Fatal Python error: Aborted" in line for line in seen["journal"])

    def test_a_killed_agent_comes_back_and_exabgp_goes_on(self, seen: dict[str, Any]) -> None:
        assert seen["same ExaBGP"]

    def test_maintenance_outlives_a_restart(self, seen: dict[str, Any]) -> None:
        assert (seen["maintenance"], seen["restart in maintenance"]) == (0, 0)
        assert seen["maintenance kept"] == ["disks"]

    @pytest.mark.parametrize("unit", ["anycast-agent.service", "anycast-exabgp.service"])
    @pytest.mark.parametrize("what", ["with the last good file", "without a last good file"])
    def test_killed_while_the_file_is_away_it_runs_once_that_is_back(
        self, unit: str, what: str, seen: dict[str, Any]
    ) -> None:
        """On systemd 252 a condition would have kept it out for ever, as a success."""
        assert seen[f"{unit} {what}"]["starting"] < 1.0

    def test_a_check_that_the_kernel_takes_for_its_memory_is_a_failed_check_and_touches_no_route(
        self, seen: dict[str, Any]
    ) -> None:
        found = seen["out of memory"]
        assert int(found["killed"]) >= 1
        (detail,) = found["detail"]
        assert "by the kernel for its memory" in detail
        assert found["same agent"]
        assert found["state"] == ["active", "running", "success"]
        assert found["routes unchanged"]
        assert found["announced"]

    def test_a_sysctl_that_systemd_writes_is_put_right(self, seen: dict[str, Any]) -> None:
        assert seen["sysctl after systemd wrote it"] in ("0", "1")
        assert seen["seconds until it was right"] < 60
        assert any("kernel.drifted" in line and "sloppy_tcp" in line for line in seen["journal"])

    def test_the_doctor_names_a_frozen_service(self, seen: dict[str, Any]) -> None:
        assert seen["state of a frozen agent"] == "active"
        assert "frozen" in seen["doctor of a frozen agent"]
        assert "frozen" not in seen["doctor after the thaw"]

    def test_a_stop_withdraws_and_leaves_ipvs_as_it_is(self, seen: dict[str, Any]) -> None:
        assert seen["stop"] == 0
        assert seen["result"] == ["inactive", "success", "0"]
        assert "TCP  C0000201:0050 mh" in seen["ipvs after the stop"]
        assert " update withdrawn 192.0.2.1/32" in seen["routes"][-1]

    def test_with_a_bad_file_the_node_goes_on_with_the_last_good_one(self, seen: dict[str, Any]) -> None:
        assert (seen["start with the last good file"], seen["ExaBGP with the last good file"]) == (0, 0)
        assert seen["standing"] == ["last_good"]

    def test_without_that_a_bad_file_fails_the_start_once_and_leaves_exabgp_what_it_had(
        self, seen: dict[str, Any]
    ) -> None:
        assert seen["start with a bad file"] != 0
        assert seen["failed"] == ["failed", "78"]
        assert seen["restart of ExaBGP with a bad file"] == 0
