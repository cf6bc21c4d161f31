"""A run of the tests ends, whatever a failed test has left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

LEAVES = """
import threading

def test_that_leaves_a_thread():
    threading.Thread(target=threading.Event().wait, name="left").start()
    assert {holds}
"""


def test_a_thread_that_a_test_leaves_keeps_no_run_and_is_named(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    environ = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # some take seconds to import
    for holds in (True, False):
        file = tmp_path / f"test_{holds}.py"
        file.write_text(LEAVES.format(holds=holds))
        argv = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
            str(file),
        ]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env=environ,
        )
        assert done.returncode == 1, done.stdout + done.stderr
        assert "left behind by a test, and not waited for: left" in done.stderr
