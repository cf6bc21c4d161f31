"""Commands against real programs."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from anycast.core.hooks import Command, Ending, Hook
from anycast.notify import command
from anycast.notify.notice import SAMPLE, payload
from anycast.notify.outcome import Outcome
from anycast.notify.run import run
from tests.unit.probes.peers import open_descriptors

TOLD = payload(SAMPLE, hook="h", node="lb1")
LONG = 30.0  # seconds; nothing here waits for so long


def sh(script: str, timeout: float = LONG) -> Outcome:
    hook = Hook(name="h", action=Command(argv=("/bin/sh", "-c", script)), timeout=timeout)
    return asyncio.run(run(hook, TOLD, agent="anycast/1"))


def test_a_command_reads_the_payload_and_finds_the_gist_in_its_environment(tmp_path: Path) -> None:
    said = sh(f"cat > {tmp_path}/in; env > {tmp_path}/env; echo fine")
    assert said == Outcome(ending=Ending.OK, why="exit status 0: fine")
    assert json.loads((tmp_path / "in").read_text()) == TOLD
    around = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert around["ANYCAST_REASON"] == "below_quorum"
    assert {name for name in around if not name.startswith("ANYCAST_")} <= {
        "PATH",
        "PWD",
        "SHLVL",
        "_",
        "OLDPWD",
    }


@pytest.mark.parametrize("script", ["exit 3", "exec <&-; echo no >&2; exit 3", "kill -9 $$"])
def test_a_command_that_fails_says_how_and_is_not_run_again(script: str) -> None:
    outcome = sh(script)
    assert outcome.ending is Ending.FAILED
    assert outcome.why in ("exit status 3", "exit status 3: no", "killed by SIGKILL")
    assert not outcome.again


def test_a_command_that_hangs_is_ended_with_all_its_children(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    # Both the shell and its child hold the pipe open: its end says that both are gone.
    outcome = sh(f"exec 3>{fifo}; trap '' TERM; sleep 1000 & while :; do sleep 1000; done", timeout=0.3)
    assert outcome == Outcome(ending=Ending.TIMEOUT, why="no exit within 0.3 s")
    os.set_blocking(reading, True)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_what_a_command_leaves_running_is_ended_and_not_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert sh(f"exec 3>{fifo}; sleep 1000 & exit 0").ok
    os.set_blocking(reading, True)
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_an_argument_that_a_program_repeats_is_not_told() -> None:
    action = Command(argv=("/bin/sh", "-c", 'echo "no $1, no"; exit 1', "sh", "s3cr3t"))
    outcome = asyncio.run(run(Hook(name="h", action=action), TOLD, agent="anycast/1"))
    assert outcome.why == "exit status 1: no (an argument), no"


def test_a_flood_of_output_is_read_and_forgotten() -> None:
    outcome = sh("yes flood | head -c 20000000; exit 1")
    assert outcome.why == "exit status 1: flood"
    assert len(sh("head -c 1000000 /dev/zero | tr '\\0' x; exit 1").why) < 300


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (None, "there is no program"),
        ((0o644, "#!/bin/sh\n"), "is not executable for this user"),
        ((0o755, "#!/nowhere/sh\n"), "there is no program"),
        ((0o755, "nothing\n"), "is no program (begin a script with #!/bin/sh)"),
    ],
)
def test_a_command_that_cannot_be_started_says_why(
    tmp_path: Path, make: tuple[int, str] | None, why: str
) -> None:
    program = tmp_path / "hook"
    if make is not None:
        program.write_text(make[1])
        program.chmod(make[0])
    outcome = asyncio.run(run(Hook(name="h", action=Command(argv=(str(program),))), TOLD, agent="anycast/1"))
    assert outcome.ending is Ending.FAILED
    assert why in outcome.why


def test_nothing_is_left_open() -> None:
    sh("exit 0")
    before = open_descriptors()
    for script in ("exit 0", "exit 1", "cat"):
        sh(script)
    assert open_descriptors() <= before
    assert not command._hanging
