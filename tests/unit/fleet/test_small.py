"""The process that asks is small: what it does not need it does not load."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("aiohttp", "anycast.core.events", "pydantic", "pyroute2", "yaml")


def test_the_process_that_asks_loads_no_large_library() -> None:
    program = f"import sys, anycast.fleet.main; print([one for one in {HEAVY!r} if one in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
