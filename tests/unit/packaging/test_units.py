"""The systemd units: what systemd-analyze says of them, and that they fit the code they start."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from anycast.agent.main import CONTROL_SOCKET, EX_CONFIG
from anycast.announcer import main as announcer
from anycast.cli.parser import CONFIG, SOCKET, parser
from anycast.core.values.configuration import Node, Timing
from anycast.core.values.speaker import Speaker
from anycast.plugin.main import GOODBYE
from lab.watchdog import limit

PACKAGING = Path(__file__).parents[3] / "packaging"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))
AGENT, EXABGP, TABLE, MODULES = (
    PACKAGING / "systemd" / f"anycast-{name}.service" for name in ("agent", "exabgp", "table", "modules")
)
PLACE = "usr/lib/systemd/system"  # from systemd 255 on it looks nowhere else
EXPOSURE = 2.5  # of 10, in systemd-analyze's scale

analyzes = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
# That of the modules runs modprobe once, early in a boot.
SERVICES = [unit for unit in UNITS if unit != MODULES]
each = pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)


def settings(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name].append(value)
    return found


def analyze(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *argv], capture_output=True, text=True, check=False, timeout=60)


@analyzes
@each
def test_a_unit_is_hardened(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE * 10:.0f}", str(unit))
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What the units need of a machine: the programs they start and the targets they name."""
    place = tmp_path / PLACE
    place.mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(unit, place)
    for program in ("usr/bin/anycast", "usr/lib/anycast/bin/exabgp", "bin/sh", "sbin/modprobe"):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
    for target in ("basic", "multi-user", "network-online", "shutdown", "sysinit"):
        (place / f"{target}.target").write_text(f"[Unit]\nDescription={target}\nDefaultDependencies=no\n")
    return tmp_path


@analyzes
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_finds_nothing_wrong_with_a_unit(unit: Path, root: Path) -> None:
    done = analyze("verify", "--man=no", f"--root={root}", unit.name)
    assert (done.returncode, done.stderr) == (0, "")


@analyzes
def test_systemd_would_find_what_is_wrong_with_a_unit(root: Path) -> None:
    file = root / PLACE / AGENT.name
    file.write_text(AGENT.read_text().replace("\nRestart=", "\nRestrat="))
    assert "Restrat" in analyze("verify", "--man=no", f"--root={root}", AGENT.name).stderr


@each
def test_a_unit_has_the_rights_it_needs_and_no_others(unit: Path) -> None:
    needed = {
        AGENT.name: ["CAP_NET_ADMIN CAP_NET_RAW"],
        EXABGP.name: ["CAP_NET_BIND_SERVICE"],
        TABLE.name: ["CAP_NET_ADMIN"],
    }
    found = settings(unit)
    assert found["AmbientCapabilities"] == found["CapabilityBoundingSet"] == needed[unit.name]
    assert found["NoNewPrivileges"] == ["yes"]


def test_the_directories_are_those_of_the_configuration() -> None:
    node, found = Node(name="lb1"), settings(AGENT)
    assert [f"/run/{found['RuntimeDirectory'][0]}"] == [node.runtime_dir]
    assert [f"/var/lib/{found['StateDirectory'][0]}"] == [node.state_dir]
    assert f"{node.runtime_dir}/{CONTROL_SOCKET}" == SOCKET
    assert f"/etc/{found['ConfigurationDirectory'][0]}/anycast.yaml" == CONFIG


@each
def test_nothing_keeps_a_service_that_has_ended_out_for_good_as_a_success(unit: Path) -> None:
    """Before systemd 254 a condition that does not hold at a restart ends it; from then on it is not asked."""
    asked = [name for name in settings(unit) if re.match(r"(Condition|Assert)[A-Z]|ExecCondition$", name)]
    assert asked == []


def test_the_agent_is_ordered_after_what_empties_its_tables() -> None:
    after = {unit for line in settings(AGENT)["After"] for unit in line.split()}
    assert after >= {"ipvsadm.service", "keepalived.service", "nftables.service"}
    # Ordered only: where one of them fails the agent runs all the same.
    needed = [settings(AGENT)[name] for name in ("Requires", "Requisite", "BindsTo", "PartOf")]
    assert not any(needed)


def test_the_users_are_those_of_the_configuration() -> None:
    users = re.findall(r"^u (\S+)", (PACKAGING / "sysusers.d/anycast.conf").read_text(), re.MULTILINE)
    assert users == [settings(unit)["User"][0] for unit in (AGENT, EXABGP, TABLE)]
    assert users[1:] == [Node(name="lb1").exabgp_user, Speaker().user]


def test_the_announcer_may_open_the_socket_that_is_given_to_exabgps_group() -> None:
    assert (
        settings(EXABGP)["Group"]
        == settings(TABLE)["SupplementaryGroups"]
        == settings(AGENT)["SupplementaryGroups"]
    )


def test_the_routes_of_an_announcer_go_however_it_ends() -> None:
    found = settings(TABLE)
    (start,), (stop,) = found["ExecStart"], found["ExecStopPost"]
    assert stop == f"{start} --clear"
    assert limit(TABLE.read_text()) <= 2.5  # with the clearing that is three seconds
    # The environment that names the table outlives the unit.
    assert found["RuntimeDirectoryPreserve"] == ["yes"]


def test_what_the_unit_of_the_announcer_renders_is_what_it_reads() -> None:
    found = settings(TABLE)
    (command,) = found["ExecStartPre"]
    asked = parser().parse_args(command.removeprefix("-+/usr/bin/anycast ").split())
    assert found["EnvironmentFile"] == [f"-{asked.output}"]
    assert not str(asked.output).startswith(f"/run/{found['RuntimeDirectory'][0]}/")


@pytest.mark.parametrize("unit", [EXABGP, TABLE], ids=lambda unit: unit.name)
def test_the_agent_wants_the_speaker_that_is_enabled_and_is_stopped_before_it(unit: Path) -> None:
    assert "anycast-agent.service" in settings(unit)["WantedBy"][0].split()
    assert unit.name not in " ".join(settings(AGENT)["Wants"]).split()
    assert unit.name in " ".join(settings(AGENT)["After"]).split()


def test_what_the_unit_of_exabgp_renders_is_what_it_starts_exabgp_with() -> None:
    found = settings(EXABGP)
    (command,) = found["ExecStartPre"]  # one start of Python, which takes longer than all that ExaBGP needs
    assert command.startswith("-+/usr/bin/anycast render ")
    asked = parser().parse_args(command.split()[1:])
    conf, env = written = [str(asked.output), str(asked.env)]
    assert found["EnvironmentFile"] == [f"-{env}"]
    assert f"exec /usr/lib/anycast/bin/exabgp {conf}" in found["ExecStart"][0]
    # Root writes them: nobody else may have put a link where they go.
    owned = f"/run/{found['RuntimeDirectory'][0]}"
    assert not any(file.startswith(f"{owned}/") for file in written)
    assert f"--journal {owned}/" in found["ExecStartPre"][0]


def test_a_reload_of_exabgp_validates_what_it_then_reads_and_takes_no_older_file() -> None:
    found = settings(EXABGP)
    render, validate, read = found["ExecReload"]
    conf = found["ExecStart"][0].split()[-1].rstrip("'")
    start = re.sub(r" --last-good| --env \S+", "", found["ExecStartPre"][0].removeprefix("-"))
    same = start.replace(conf, f"{conf}.new")
    assert render == same
    assert validate == f"/usr/lib/anycast/bin/exabgp validate {conf}.new"
    assert read == f"+/usr/bin/anycast exabgp-reload --new {conf}.new --pid $MAINPID {conf}"


def test_what_cannot_mend_itself_is_not_started_again() -> None:
    for unit in SERVICES:
        found = settings(unit)
        assert found["Restart"] == ["always"]
        assert found["RestartPreventExitStatus"] == [str(EX_CONFIG)]
    assert f"exit {EX_CONFIG}" in settings(EXABGP)["ExecStart"][0]
    assert announcer.EXIT_CONFIG == EX_CONFIG


@each
def test_no_core_file_holds_a_password_and_a_runaway_has_a_bound(unit: Path) -> None:
    found = settings(unit)
    assert found["LimitCORE"] == ["0"]
    (most,) = found["MemoryMax"]
    assert most.endswith("G")


def test_a_check_that_is_killed_for_its_memory_does_not_stop_the_agent() -> None:
    assert settings(AGENT)["OOMPolicy"] == ["continue"]
    # An ExaBGP without its plugin would keep the routes.
    assert "OOMPolicy" not in settings(EXABGP)


@pytest.mark.skipif(shutil.which("perl") is None, reason="needrestart reads its files with perl")
def test_needrestart_leaves_our_services_alone_and_no_others() -> None:
    """As needrestart does it: the files of conf.d are evaluated, and each service is held against the expressions."""
    asks = """
        our %nrconf = (override_rc => {qr(^bird) => 0});
        eval do { local (@ARGV, $/) = shift @ARGV; <> } // die; die $@ if $@;
        for my $unit (@ARGV) {
            my ($found) = grep { $unit =~ /$_/ } keys %{$nrconf{override_rc}};
            print $unit, " ", (defined $found ? $nrconf{override_rc}{$found} : 1), "\\n";
        }
    """
    names = [AGENT.name, EXABGP.name, "bird.service", "exabgp.service", "my-anycast-tool.service"]
    done = subprocess.run(
        ["perl", "-e", asks, PACKAGING / "needrestart/anycast.conf", *names],
        capture_output=True,
        text=True,
        check=True,
    )
    told = dict(line.split() for line in done.stdout.splitlines())
    assert [told[name] for name in names] == ["0", "0", "0", "1", "1"]


def test_a_crash_of_the_agent_is_over_before_its_lease() -> None:
    (restart,) = settings(AGENT)["RestartSec"]
    assert restart.endswith("ms")
    assert float(restart.removesuffix("ms")) / 1000 < Timing().lease_ttl / 4


def test_exabgp_is_stopped_after_the_agent_and_has_the_time_to_withdraw() -> None:
    assert EXABGP.name in " ".join(settings(AGENT)["After"]).split()
    assert float(settings(EXABGP)["TimeoutStopSec"][0]) > 2 * GOODBYE
    assert not any(
        EXABGP.name in value for name in ("Requires", "BindsTo", "PartOf") for value in settings(AGENT)[name]
    )


def test_a_stop_drains_first_and_has_the_time_for_it() -> None:
    found = settings(AGENT)
    (command,) = found["ExecStop"]
    limit = re.fullmatch(r"-/usr/bin/anycast drain --wait --timeout (\d+)s", command)
    assert limit is not None
    assert float(found["TimeoutStopSec"][0]) > float(limit[1]) + 10


def test_the_modules_are_those_a_table_is_filled_and_run_with() -> None:
    (command,) = settings(MODULES)["ExecStart"]
    assert command == "-/sbin/modprobe -abq ip_vs ip_vs_mh ip_vs_rr"
    for name in ("Wants", "After"):
        assert MODULES.name in " ".join(settings(AGENT)[name]).split()
