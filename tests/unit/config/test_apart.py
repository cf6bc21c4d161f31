"""Loading in a process of its own: nothing is different for whoever asks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from anycast.config import apart, load
from anycast.config.problem import ConfigError

FULL = Path(__file__).parents[3] / "examples" / "full.yaml"


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
