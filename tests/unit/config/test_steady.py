"""Files that are changed while they are read."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from anycast.config import steady
from anycast.config.load import load
from anycast.config.problem import ConfigError
from anycast.config.steady import TRIES, ChangingError, read_all


def read_with(directory: Path, between: Callable[[int], object]) -> tuple[list[tuple[str, bytes]], int]:
    """What is read of `directory`, and in how many readings of a file. `between` is done after each."""
    readings = 0

    def read(file: Path) -> bytes:
        nonlocal readings
        readings += 1
        data = file.read_bytes()
        between(readings)
        return data

    found = read_all(lambda: sorted(directory.glob("*.yaml")), read)
    return [(file.name, data) for file, data in found if isinstance(data, bytes)], readings


def test_what_nobody_touches_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a")
    assert read_with(tmp_path, lambda _: None) == ([("a.yaml", b"a")], 1)


def test_a_file_that_is_replaced_meanwhile_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("old")

    def replace(reading: int) -> None:
        if reading == 1:
            (tmp_path / "new").write_text("new")
            os.replace(tmp_path / "new", tmp_path / "a.yaml")

    assert read_with(tmp_path, replace) == ([("a.yaml", b"new")], 2)


def test_all_are_read_again_when_one_comes_or_goes(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.yaml").write_text(name)

    def change(reading: int) -> None:
        if reading == 1:
            (tmp_path / "c.yaml").write_text("c")
            (tmp_path / "b.yaml").unlink()

    found, _ = read_with(tmp_path, change)
    assert found == [("a.yaml", b"a"), ("c.yaml", b"c")]


def test_what_does_not_come_to_rest_is_given_up(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a")
    with pytest.raises(ChangingError) as error:
        read_with(tmp_path, lambda n: file.write_text("a" * n))
    assert error.value.args == (file,)


def test_it_waits_until_a_file_has_not_been_changed_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "SETTLED", 3600.0)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        monkeypatch.setattr(steady, "SETTLED", 0.0)

    monkeypatch.setattr(time, "sleep", sleep)
    (tmp_path / "a.yaml").write_text("a")
    assert read_with(tmp_path, lambda _: None) == ([("a.yaml", b"a")], 1)
    assert len(slept) == 1
    assert 0 < slept[0] <= 3600


def test_a_change_in_the_future_keeps_nobody_waiting() -> None:
    assert steady._unsettled({Path("a"): (0, 0, 0, 0, 2_000_000_000)}, 1.0) == 0.0
    assert steady._unsettled({Path("a"): None}, 1.0) == 0.0


def test_a_configuration_that_is_written_again_and_again_is_a_problem_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "SETTLED", 3600.0)
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    file = tmp_path / "anycast.yaml"
    file.write_text("vips: {}\n")
    with pytest.raises(ConfigError) as error:
        load(file)
    (problem,) = error.value.problems
    assert (
        str(problem) == f"{file}: the file is being changed, again and again (try again once it is written)"
    )
    assert len(slept) == TRIES
