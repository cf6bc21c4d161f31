"""An agent ends with all its threads, whatever they wait for: a process without a lease would keep its locks and say nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.agent.test_main import ROOT, configure

# The agent, but the directory of the maintenance file is on a file system that does not answer any more.
STUCK = """
import asyncio, sys, threading
from anycast.agent import touch_file
from anycast.agent.engine import Engine
from anycast.cli.main import main

stuck, run = threading.Event(), Engine.run

def look(path):
    if threading.current_thread() is not threading.main_thread():  # there it is looked for once, at the start
        stuck.set()
        threading.Event().wait()

async def watched(engine):
    running = asyncio.ensure_future(run(engine))
    while not stuck.is_set():
        await asyncio.sleep(0.01)
    print("stuck", flush=True)
    {then}

touch_file.look, Engine.run = look, watched
sys.exit(main(["agent", "--config", sys.argv[1]]))
"""
CRASH = 'raise RuntimeError("a defect")'
GO_ON = "await running"


@pytest.mark.parametrize(("then", "status"), [(CRASH, 70), (GO_ON, 0)], ids=["crash", "SIGTERM"])
def test_a_thread_that_is_stuck_does_not_keep_the_agent(then: str, status: int, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", STUCK.format(then=then), str(configure(tmp_path))]
    with subprocess.Popen(
        argv, cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "stuck\n"
            if then == GO_ON:
                process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == status, said
    assert ("a defect" in said) == (then == CRASH)
