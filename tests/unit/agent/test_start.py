"""What an agent starts with when its file cannot be used: real agents, and their last good configuration."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from anycast.agent import last_good, main, start
from anycast.agent.start import NotStartedError
from anycast.cli.client import command
from anycast.cli.main import main as cli
from anycast.cli.nagios import State, report
from anycast.config import kept
from anycast.config.apart import Reading
from anycast.core.confirmation import Stage
from tests.unit.agent.reading import HereReading
from tests.unit.agent.test_main import CONFIG, ROOT, Agent, configure, finished, free_port

pytestmark = pytest.mark.usefixtures("reads_here")

MORE = CONFIG + "  mail: {{address: 192.0.2.2, port: 25, servers: [127.0.0.1]}}\n"
NO_VIP = CONFIG[: CONFIG.index("vips:")] + "vips: {{}}\n"

PATIENCE = 120.0  # seconds for a command: it takes what it takes

OURS = ("last_good", "reload_refused", "gone_back", "confirmation_awaited", "config_not_saved")


def keep(directory: Path, text: str = CONFIG) -> Path:
    """A node that has run with this. Returns its file."""
    file = configure(directory, text)
    loaded = HereReading(file).result()
    assert loaded.texts is not None
    last_good.save(directory / "state", loaded.texts)
    return file


@contextmanager
def started(file: Path, port: int, *options: str) -> Iterator[Agent]:
    """With the file as it is."""
    with subprocess.Popen(
        [sys.executable, "-m", "anycast", "agent", "--config", str(file), *options],
        cwd=ROOT,
        env={**os.environ, "STATE_DIRECTORY": str(file.parent / "state")},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Agent(process, file.parent, port)
        finally:
            process.kill()


def standing(node: Agent) -> list[str]:
    """What stands about the configuration."""
    found = [one["kind"] for one in node.read().body["standing"]]
    return [kind for kind in found if kind in OURS]


def test_an_agent_with_a_damaged_file_serves_from_the_last_good_one_and_says_so_everywhere(
    tmp_path: Path,
) -> None:
    port = free_port()
    file = configure(tmp_path, port=port)
    good = file.read_text()
    with started(file, port) as node:
        node.until("ops.listening")
        assert standing(node) == []
        assert node.end(signal.SIGTERM) == 0
    file.write_text(good[: good.index("neighbors")])
    with started(file, port) as node:
        told = node.until("config.last_good_used")
        assert told["why"].startswith(f"{file}:3:")
        node.until("ops.listening")
        document = node.read().body
        assert [vip["name"] for vip in document["vips"]] == ["web"]
        assert standing(node) == ["last_good"]
        state, line = report(document)
        assert state is not State.OK
        assert "started with the last good configuration" in line
        assert node.read("/vips/web/why").body["standing"]
        assert "started with the last good configuration" in node.get("/")[1]
        assert 'anycast_standing_condition{kind="last_good"} 1.0' in node.get("/metrics")[1]
        assert "anycast_config_last_reload_successful 0.0" in node.get("/metrics")[1]
        assert not command(node.control, "/reload", timeout=PATIENCE).ok
        assert standing(node) == ["last_good", "reload_refused"]
        file.write_text(good)
        assert command(node.control, "/reload", timeout=PATIENCE).ok
        assert standing(node) == []
        assert node.end(signal.SIGTERM) == 0


def test_what_was_on_trial_is_gone_after_a_restart(tmp_path: Path) -> None:
    port = free_port()
    file = configure(tmp_path, port=port)
    with started(file, port) as node:
        node.until("ops.listening")
        configure(tmp_path, MORE, port)
        assert command(node.control, "/reload", {"confirm_within_s": 3600}, timeout=PATIENCE).ok
        assert standing(node) == ["confirmation_awaited"]
        node.process.kill()
        node.process.wait()
    with started(file, port) as node:
        assert "was not confirmed" in node.until("config.last_good_used")["why"]
        node.until("ops.listening")
        assert [vip["name"] for vip in node.read().body["vips"]] == ["web"]
        assert standing(node) == ["gone_back"]
        assert command(node.control, "/reload", timeout=PATIENCE).ok
        assert [vip["name"] for vip in node.read().body["vips"]] == ["web", "mail"]
        assert standing(node) == []


def test_a_trial_that_nobody_confirms_is_over_by_itself(tmp_path: Path) -> None:
    port = free_port()
    file = configure(tmp_path, port=port)
    with started(file, port) as node:
        node.until("ops.listening")
        configure(tmp_path, MORE, port)
        answer = command(node.control, "/reload", {"confirm_within_s": 1}, timeout=PATIENCE)
        assert answer.ok
        assert answer.body["confirm_s"] <= 1
        told = node.until("config.gone_back")
        assert (told["why"], told["changes"][0]) == ("not_confirmed", "pool mail: no longer served")
        assert [vip["name"] for vip in node.read().body["vips"]] == ["web"]
        assert standing(node) == ["gone_back"]
        assert node.end(signal.SIGTERM) == 0


def test_a_node_that_would_be_emptied_by_its_file_starts_as_it_was_until_somebody_says_so(
    tmp_path: Path,
) -> None:
    port = free_port()
    keep(tmp_path)
    file = configure(tmp_path, NO_VIP, port)
    with started(file, port) as node:
        assert "no VIP would be left" in node.until("config.last_good_used")["why"]
        node.until("ops.listening")
        assert [vip["name"] for vip in node.read().body["vips"]] == ["web"]
        assert not command(node.control, "/reload", timeout=PATIENCE).ok
        assert command(node.control, "/reload", {"allow_removal": True}, timeout=PATIENCE).ok
        document = node.read().body
        assert document["vips"] == []
        state, line = report(document)
        assert state is not State.OK
        assert "no VIP is configured" in line
        assert node.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("text", ["", "vips: [", "bgp: {{local_as: x}}\n", None])
def test_whatever_is_wrong_with_the_file_the_last_good_one_is_there(tmp_path: Path, text: str | None) -> None:
    file = keep(tmp_path)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    begun = start.begin(file, state_dir=tmp_path / "state")
    assert [vip.name for vip in begun.loaded.config.vips] == ["web"]
    assert begun.force.last_good is not None
    assert not begun.force.reload_ok
    with pytest.raises(NotStartedError) as error:
        start.begin(file, state_dir=tmp_path / "state", strict=True)
    assert error.value.bad_configuration


@pytest.mark.parametrize("threads", [1, 2])
def test_a_file_that_is_away_for_a_moment_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """As an editor or a script does it: taken away, and written anew. With threads nothing is forked."""
    file = configure(tmp_path, CONFIG)
    text = file.read_text()
    file.unlink()
    monkeypatch.setattr(start, "Reading", Reading)  # a process of its own: it waits
    monkeypatch.setattr(threading, "active_count", lambda: threads)
    begun = start.begin_patiently(file, meanwhile=lambda: file.write_text(text), patience=100.0)
    assert [vip.name for vip in begun.loaded.config.vips] == ["web"]
    assert begun.force.reload_ok


def test_who_waits_for_a_file_is_ready_to_read_it_as_soon_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []
    reading = Reading

    def begun(path: Path, *, fork: bool = False, wait: float = 0.0, node: str | None = None) -> Reading:
        made.append(wait)
        return reading(path, fork=fork, wait=wait, node=node)

    monkeypatch.setattr(start, "Reading", begun)
    file = configure(tmp_path, CONFIG)
    text = file.read_text()
    file.unlink()
    start.begin_patiently(file, meanwhile=lambda: file.write_text(text), patience=100.0)
    first, second = made
    assert first == 0.0
    assert 0.0 < second <= 100.0


def test_a_file_that_does_not_come_ends_the_start_after_its_time(tmp_path: Path) -> None:
    with pytest.raises(NotStartedError) as error:
        start.begin_patiently(tmp_path / "anycast.yaml", patience=0.3)
    assert error.value.bad_configuration


def test_a_file_that_is_there_and_wrong_is_not_waited_for(tmp_path: Path) -> None:
    file = configure(tmp_path, CONFIG)
    file.write_text("vips: [\n")
    with pytest.raises(NotStartedError):
        start.begin_patiently(file, meanwhile=lambda: pytest.fail("it waits"))


def test_where_no_service_manager_has_started_it_a_missing_file_is_told_at_once(tmp_path: Path) -> None:
    code, said = finished(tmp_path)
    assert code == 78
    assert "to come" not in said
    assert "not started" in said


def test_with_a_last_good_configuration_nobody_waits_for_the_file(tmp_path: Path) -> None:
    file = keep(tmp_path)
    file.unlink()
    begun = start.begin_patiently(file, state_dir=tmp_path / "state", patience=1e9)
    assert begun.force.last_good is not None


def test_a_strict_agent_ends_with_78(tmp_path: Path) -> None:
    file = keep(tmp_path)
    file.write_text("vips: [\n")
    code, said = finished(tmp_path, "--strict", "--state-dir", str(tmp_path / "state"))
    assert (code, "not started" in said) == (78, True)


def test_a_reader_that_dies_of_the_file_keeps_nobody_from_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = keep(tmp_path)

    class Dead:
        def result(self) -> None:
            raise RuntimeError(f"reading {file} took too long")

    begun = start.begin(file, Dead(), state_dir=tmp_path / "state")  # type: ignore[arg-type]
    assert begun.told["why"] == f"reading {file} took too long"


def test_the_configuration_of_another_node_is_never_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = keep(tmp_path)
    file.write_text("vips: [\n")
    for moved in ({"gethostname": lambda: "another"}, {"machine_id": lambda: "another"}):
        with monkeypatch.context() as patch:
            for name, value in moved.items():
                patch.setattr(socket if name == "gethostname" else kept, name, value)
            with pytest.raises(NotStartedError):
                start.begin(file, state_dir=tmp_path / "state")
    other = tmp_path / "other" / "anycast.yaml"
    other.parent.mkdir()
    other.write_text("vips: [\n")
    with pytest.raises(NotStartedError):
        start.begin(other, state_dir=tmp_path / "state")
    assert start.begin(file, state_dir=tmp_path / "state").told


@pytest.mark.parametrize("text", ["", "anything"])
def test_a_damaged_last_good_one_is_as_none(tmp_path: Path, text: str) -> None:
    file = keep(tmp_path)
    (tmp_path / "state" / kept.FILE).write_text(text)
    begun = start.begin(file)
    assert (begun.saved, begun.told) == ("", {})
    file.write_text("vips: [\n")
    with pytest.raises(NotStartedError):
        start.begin(file, state_dir=tmp_path / "state")


def test_one_that_this_version_cannot_read_leaves_the_file(tmp_path: Path) -> None:
    """A release may be stricter than the one that kept it."""
    file = configure(tmp_path, CONFIG)
    loaded = HereReading(file).result()
    text = file.read_bytes().replace(b"lb1", b"lb1, unknown: 1")
    path = tmp_path / "state" / kept.FILE
    path.parent.mkdir()
    path.write_bytes(b"".join(kept.pieces(loaded, [(str(file), text)])))
    configure(tmp_path, NO_VIP)
    begun = start.begin(file)
    assert begun.loaded.config.vips == ()
    assert not begun.told


def test_a_changed_file_that_removes_little_is_taken(tmp_path: Path) -> None:
    keep(tmp_path, MORE)
    begun = start.begin(configure(tmp_path, CONFIG))
    assert [vip.name for vip in begun.loaded.config.vips] == ["web"]
    assert begun.force.stage is Stage.CONFIRMED
    assert main.EX_CONFIG == 78


def test_what_was_in_force_is_known_to_an_agent_that_starts_with_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its checks real servers that were replaced serve on."""
    keep(tmp_path, MORE)
    begun = start.begin(configure(tmp_path, CONFIG))
    assert begun.before is not None
    assert [vip.name for vip in begun.before.vips] == ["web", "mail"]
    monkeypatch.setattr(start, "QUICKLY_READ", 100)
    assert start.begin(configure(tmp_path, CONFIG)).before is None
    assert start.begin(configure(tmp_path, MORE)).before is None


def test_exabgp_is_rendered_from_it_where_that_is_wished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = keep(tmp_path)
    good = file.read_text()
    file.write_text(good + "vips: [\n")
    argv = ["render", "exabgp", "--config", str(file)]
    assert cli(argv) == 78
    assert cli([*argv, "--last-good"]) == 0
    shown = capsys.readouterr()
    assert "neighbor 10.2.1.254" in shown.out
    assert f"{file}: rendered from the last good configuration of the agent" in shown.err
    (tmp_path / "state" / kept.FILE).write_text("damaged")
    assert cli([*argv, "--last-good"]) == 78
    assert "it is not a kept configuration" in capsys.readouterr().err


def test_an_agent_that_was_given_a_name_starts_with_its_part_of_what_was_kept_too(tmp_path: Path) -> None:
    fleet = CONFIG.replace("name: lb1, ", "")
    file = configure(tmp_path, "nodes: {{lb1: 10.2.1.1, lb2: 10.2.1.2}}\n" + fleet)
    loaded = HereReading(file, node="lb2").result()
    assert (loaded.config.node.name, loaded.asked) == ("lb2", "lb2")
    assert loaded.texts is not None
    last_good.save(tmp_path / "state", loaded.texts)
    file.write_text("vips: [\n")
    begun = start.begin(file, state_dir=tmp_path / "state", node="lb2")
    assert begun.told
    assert str(begun.loaded.config.bgp.router_id) == "10.2.1.2"


def test_a_real_agent_of_a_fleet_is_the_node_it_was_given_and_shows_what_is_in_force(tmp_path: Path) -> None:
    port = free_port()
    text = "nodes: {{lb1: 10.2.1.1, lb2: 10.2.1.2}}\n" + CONFIG.replace("name: lb1, ", "")
    file = configure(tmp_path, text, port)
    code, said = finished(tmp_path, "--node", "lb3")
    assert code == main.EX_CONFIG
    assert "'lb3' is not among the nodes" in said
    with started(file, port, "--node", "lb2") as node:
        node.until("ops.listening")
        document = node.read().body
        assert document["node"]["name"] == "lb2"
        before = document["config"]["fingerprint"]
        assert document["config"]["nodes"] == ["lb1", "lb2"]
        assert f'anycast_config_info{{fingerprint="{before}",nodes="2"}} 1.0' in node.get("/metrics")[1]
        assert cli(["check", "--against-running", "--socket", str(node.control), str(file)]) == 0
        for name, code in (("lb2", 0), ("lb1", 78)):
            words = ["check", "--against-running", "--node", name, "--socket", str(node.control), str(file)]
            assert cli(words) == code
        file.write_text(file.read_text().replace("lb1: 10.2.1.1", "lb1: 10.2.1.7"))
        assert command(node.control, "/reload", timeout=PATIENCE).ok
        config = node.read().body["config"]
        assert config["fingerprint"] != before
        assert node.end(signal.SIGTERM) == 0
