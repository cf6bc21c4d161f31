"""`anycast exabgp-reload`: what it does, and says, with an ExaBGP that reads its file at once, later, or never."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anycast.cli import exabgp_reload
from anycast.cli.exits import ExitCode
from anycast.cli.main import main
from anycast.plugin import has

# Reads FILE at the signal number TAKES, and tells it as the plugin does.
EXABGP = """\
import json, os, re, signal, sys
file, told, takes = sys.argv[1], sys.argv[2], int(sys.argv[3])
def tell(mark):
    with open(told + ".new", "w") as out:
        json.dump({"exabgp": os.getpid(), "mark": mark, "down": ["10.2.1.253"]}, out)
    os.rename(told + ".new", told)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
tell("0")
print("ready", flush=True)
for number in range(1, 100):
    signal.sigwait({signal.SIGUSR1})
    if number == takes:
        tell(re.search('"anycast (.*)"', open(file).read())[1])
"""
NEVER = 1000


class Place:
    """A directory as ExaBGP's unit has it."""

    def __init__(self, path: Path) -> None:
        self.file, self.new = path / "exabgp.conf", path / "exabgp.conf.new"
        self.told = path / "has.json"
        self.file.write_text("old")
        self.new.write_text(f"""\
process anycast {{
    run /usr/bin/anycast announce --socket /s --journal {path}/journal.json --rendered 12;
}}
neighbor 10.2.1.254 {{
    description "anycast 0";  # why
}}
neighbor 10.2.1.253 {{
    description "anycast 0";
}}
""")
        self.new.chmod(0o640)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(exabgp_reload, "AGAIN", 0.1)
    return Place(tmp_path)


@pytest.fixture
def exabgp(place: Place) -> Iterator[Callable[[int], int]]:
    """Starts one that takes that signal. Returns its process."""
    processes: list[subprocess.Popen[str]] = []

    def start(takes: int) -> int:
        argv = [sys.executable, "-c", EXABGP, str(place.file), str(place.told), str(takes)]
        processes.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        assert processes[-1].stdout is not None
        assert processes[-1].stdout.readline() == "ready\n"
        return processes[-1].pid

    yield start
    for one in processes:
        one.kill()
        one.communicate()


def reload(place: Place, pid: int, within: str = "20s") -> int:
    words = ["exabgp-reload", "--new", str(place.new), "--pid", str(pid), "--within", within]
    return main([*words, str(place.file)])


@pytest.mark.parametrize("takes", [1, 3])
def test_it_is_told_until_it_has_read_the_file(
    place: Place, exabgp: Callable[[int], int], capsys: pytest.CaptureFixture[str], takes: int
) -> None:
    pid = exabgp(takes)
    assert reload(place, pid) == ExitCode.OK
    assert capsys.readouterr().out == f"ExaBGP (pid {pid}) has read {place.file}\n"
    read = has.load(str(place.told))
    assert read is not None
    assert place.file.read_text().count(f'description "anycast {read.mark}";') == 2
    assert place.file.stat().st_mode & 0o777 == 0o640
    assert not place.new.exists()


def test_every_file_has_a_mark_of_its_own(place: Place, exabgp: Callable[[int], int]) -> None:
    same = place.new.read_text()
    assert reload(place, exabgp(1)) == ExitCode.OK
    first = place.file.read_text()
    place.new.write_text(same)
    assert reload(place, exabgp(1)) == ExitCode.OK
    assert place.file.read_text() != first


def test_where_it_drops_every_signal_the_routers_without_a_session_are_named(
    place: Place, exabgp: Callable[[int], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert reload(place, exabgp(NEVER), "500ms") == ExitCode.NEGATIVE
    told = capsys.readouterr().err
    assert "within 0.5 s" in told
    assert "waits for a neighbor, and 10.2.1.253 has no session" in told
    assert "`systemctl restart anycast-exabgp`" in told


def test_where_every_session_is_up_the_journal_is_named() -> None:
    words = exabgp_reload.not_taken(has.Has(exabgp=7, mark="0"), Path("/f"), 10)
    assert words.startswith(
        "ExaBGP (pid 7) has not read /f within 10 s, and runs with what it had: `journalctl"
    )


def test_many_routers_without_a_session_are_counted() -> None:
    down = tuple(f"10.2.1.{n}" for n in range(200))
    words = exabgp_reload.not_taken(has.Has(exabgp=7, mark="0", down=down), Path("/f"), 10)
    assert "10.2.1.4 and 195 more has no session" not in words
    assert "10.2.1.4 and 195 more have no session" in words


@pytest.mark.parametrize("said", [None, "nonsense", '{"exabgp": 1, "mark": "0", "down": []}', "[" * 10_000])
def test_without_a_plugin_that_tells_nothing_is_touched(
    place: Place, exabgp: Callable[[int], int], capsys: pytest.CaptureFixture[str], said: str | None
) -> None:
    pid = exabgp(NEVER)
    place.told.unlink()
    if said is not None:
        place.told.write_text(said)
    assert reload(place, pid) == ExitCode.NEGATIVE
    assert "does not tell which file that has read, so nothing was done" in capsys.readouterr().err
    assert place.file.read_text() == "old"
    assert place.new.exists()


@pytest.mark.parametrize(
    ("old", "new"), [('"anycast 0"', '"a router"'), ("--journal", "--diary")], ids=["no mark", "no journal"]
)
def test_a_file_that_is_not_as_rendered_is_left_alone(
    place: Place, exabgp: Callable[[int], int], capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    place.new.write_text(place.new.read_text().replace(old, new))
    assert reload(place, exabgp(1)) == ExitCode.NEGATIVE
    assert "so nothing was done" in capsys.readouterr().err
    assert place.file.read_text() == "old"


def test_an_exabgp_that_has_ended_is_said(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(["/bin/true"]) as ended:
        ended.wait()
    has.store(str(place.told), has.Has(exabgp=ended.pid, mark="0"))
    assert reload(place, ended.pid) == ExitCode.NEGATIVE
    assert f"there is no process {ended.pid} any more" in capsys.readouterr().err
