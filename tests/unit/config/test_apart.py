"""Loading in a process of its own: nothing is different for whoever asks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from anycast.config import apart, load
from anycast.config.loaded import Loaded
from anycast.config.problem import TOLD, ConfigError

FULL = Path(__file__).parents[3] / "examples" / "full.yaml"


@pytest.fixture(scope="module")
def before() -> Loaded:
    """What an agent with the sample has in force: read in this process, which the first test says is the same."""
    return load.load(FULL)


def test_what_comes_is_what_loading_gives_here() -> None:
    assert apart.load(FULL) == load.load(FULL)


def test_problems_come_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text("vips: [\nbgp: {}\n")
    with pytest.raises(ConfigError) as there:
        apart.load(file)
    with pytest.raises(ConfigError) as here:
        load.load(file)
    assert there.value.problems == here.value.problems
    assert str(there.value) == str(here.value)


def test_a_process_that_fails_is_no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(RuntimeError, match="ended with status -9"):
        apart.load(FULL)


def test_who_loads_so_needs_neither_pydantic_nor_yaml() -> None:
    code = "import sys, anycast.agent.main; print(sys.modules.keys() & {'pydantic', 'yaml'})"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_reader_of_a_reload_is_behind_the_agent_from_its_first_instant(before: Loaded) -> None:
    reading = apart.Reading(FULL, before)
    pid = reading._process.pid
    found = os.getpriority(os.PRIO_PROCESS, pid)
    reading.result()
    assert found == min(19, os.getpriority(os.PRIO_PROCESS, 0) + apart.NICENESS)


def test_a_reload_gets_only_what_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text(FULL.read_text())
    before = apart.load(file)
    after = apart.load(file, before)
    assert after == before
    assert all(new is old for new, old in zip(after.config.vips, before.config.vips, strict=True))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exit 3", "ended with status 3"),
        ("exit 0", "ended with status 0"),
        ("printf 'f\\0\\0'", "ended with status 0"),
        ("kill -XCPU $$", "took more than 20 s of processor time"),
        ("exec sleep 60", "took longer than 0.2 s"),
        ("printf 'f\\0\\0\\1\\0'; exec sleep 60", "took longer than 0.2 s"),
    ],
)
def test_a_process_that_does_not_answer_is_ended_and_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: Loaded, script: str, said: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    if "longer" in said:
        monkeypatch.setattr(apart, "PATIENCE", 0.2)
    reading = apart.Reading(FULL, before)
    with pytest.raises((RuntimeError, ConfigError), match=said):
        reading.result()
    assert reading._process.returncode is not None


def test_many_mistakes_are_told_in_part(tmp_path: Path) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text("vips:\n" + "".join(f"  v{n}: {{prot: 1}}\n" for n in range(3000)))
    with pytest.raises(ConfigError) as told:
        apart.load(file)
    assert len(told.value.problems) == TOLD + 1
    assert told.value.count == "at least 3,000 problems"
    assert "2,800 more mistakes are not shown" in str(told.value.problems[-1])
    assert str(told.value.problems[0]).startswith(f"{file}:2:8: vips.v0.prot: there is no such key")


FLEET = """\
nodes: {lb1: 10.2.1.1, lb2: 10.2.1.2}
bgp: {local_as: 65001, remote_as: 65000, neighbors: [10.2.1.254]}
"""


@pytest.mark.parametrize("fork", [True, False])
def test_it_is_read_for_the_node_that_was_given_and_again_for_the_same(tmp_path: Path, fork: bool) -> None:  # noqa: FBT001
    file = tmp_path / "fleet.yaml"
    file.write_text(FLEET)
    first = apart.Reading(file, fork=fork, node="lb2").result()
    assert first == load.load(file, node="lb2")
    file.write_text(FLEET.replace("lb2: 10.2.1.2", "lb2: 10.2.1.3"))
    again = apart.Reading(file, first).result()
    assert (again.config.node.name, str(again.config.bgp.router_id)) == ("lb2", "10.2.1.3")
    assert (again.nodes, again.asked) == (("lb1", "lb2"), "lb2")
    assert again.fingerprint not in ("", first.fingerprint)


def test_a_fork_gives_what_loading_gives_here(tmp_path: Path) -> None:
    assert apart.Reading(FULL, fork=True).result() == load.load(FULL)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("vips: 7\n")
    with pytest.raises(ConfigError) as found:
        apart.Reading(wrong, fork=True).result()
    with pytest.raises(ConfigError) as expected:
        load.load(wrong)
    assert found.value.problems == expected.value.problems


def test_a_fork_that_fails_is_no_configuration(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def answer(path: Path, known: bytes) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(apart, "_answer", answer)
    with pytest.raises(RuntimeError, match="ended with status 1"):
        apart.Reading(FULL, fork=True).result()
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_fork_that_does_not_answer_is_ended_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "PATIENCE", 0.2)
    monkeypatch.setattr(apart, "_main", lambda *_: signal.pause())
    with pytest.raises(RuntimeError, match="took longer than"):
        apart.Reading(FULL, fork=True).result()


def test_a_reading_that_is_given_up_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: Loaded
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    with monkeypatch.context() as replaced:
        replaced.setattr(sys, "executable", str(program))
        reading = apart.Reading(FULL, before)
    giving_up = threading.Timer(0.05, reading.give_up)
    giving_up.start()
    with pytest.raises(RuntimeError, match="was given up"):
        reading.result()
    giving_up.join()
    assert apart.load(FULL, before) == before


def test_what_never_stops_talking_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nwhile printf 'c\\0\\0\\0\\0'; do :; done\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(apart, "PATIENCE", 0.2)
    with pytest.raises(RuntimeError, match="took longer than"):
        apart.load(FULL)


_FORK = """
import sys
from pathlib import Path
from anycast.config import apart

apart.MEMORY = int(sys.argv[2])
apart.Reading(Path(sys.argv[1]), fork=True).result()
"""


@pytest.mark.parametrize("mebibytes", [0, 1, 3, 8, 13, 21])
def test_more_memory_than_there_is_for_it_is_a_problem_of_the_file(tmp_path: Path, mebibytes: int) -> None:
    """Wherever it runs out: there may be too little even to say so."""
    file = tmp_path / "anycast.yaml"
    servers = ",".join(
        f"{{name: s{n}, address: 10.{n >> 8}.{n & 255}.1, weight: {n}}}" for n in range(30_000)
    )
    file.write_text(f"pools: {{p: {{servers: [{servers}]}}}}\n")
    # A process of its own: this one may have memory to spare.
    argv = [sys.executable, "-c", _FORK, str(file), str(mebibytes << 20)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    # Python may look for memory in vain until its time is over.
    assert re.search(
        r"ConfigError: .*(more than there is memory for|of processor time: given up)", done.stderr
    )


def test_a_pipe_in_the_place_of_a_file_does_not_stop_a_reading(tmp_path: Path) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text(FULL.read_text())
    before = load.load(file)
    pipe = tmp_path / "conf.d" / "x.yaml"
    pipe.parent.mkdir()
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="it is a pipe"):
        apart.load(file, before)
    pipe.unlink()
    assert apart.load(file, before) == before


def test_what_is_said_of_the_worst_file_is_little(tmp_path: Path) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text("pools:\n" + "".join(f"  {'n' * 250}{n}: {{{'m' * 250}: 1}}\n" for n in range(3000)))
    task = apart._Task(file, -1, kept=False)  # no text is copied of what is wrong
    said = b"".join(frame for _, frame in apart._answer(task, b""))
    assert len(said) < 256 * 1024
    with pytest.raises(ConfigError) as told:
        apart.load(file)
    assert len(str(told.value)) < 128 * 1024


@pytest.mark.parametrize("fork", [True, False])
def test_a_file_that_is_not_there_has_its_time_to_come(tmp_path: Path, *, fork: bool) -> None:
    file = tmp_path / "anycast.yaml"
    reading = apart.Reading(file, fork=fork, wait=60.0)
    file.write_text(FULL.read_text())
    assert reading.result() == load.load(file)
    with pytest.raises(ConfigError, match="No such file"):
        apart.Reading(tmp_path / "none.yaml", fork=fork, wait=0.05).result()


def test_who_waits_for_a_file_ends_with_the_one_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    apart._await(apart._Task(tmp_path / "none.yaml", 0, kept=False, wait=1e9))
    assert next(parents, None) is None
