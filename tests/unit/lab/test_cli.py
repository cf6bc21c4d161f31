from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab import cli, coming_up
from lab.coming_up import Look
from lab.topology import topology


class Lab:
    """As much of one as waiting needs, with logs that lie elsewhere."""

    def __init__(self, logs: Path) -> None:
        self.topology = topology()
        self._logs = logs

    def log(self, node: str, what: str) -> Path:
        return self._logs / node / f"{what}.log"


def come_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: dict[str, Look]) -> int:
    monkeypatch.setattr(coming_up, "wait", lambda look: {n: s for n, s in look().items() if s.lack})
    lab: Any = Lab(tmp_path)
    return cli._come_up(lab, lambda: looks)


def test_what_has_not_come_up_is_one_sentence_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = Look(rank=(2,), lack="its ExaBGP ended with status 1, after 4 starts", log="exabgp")
    assert come_up(tmp_path, monkeypatch, {"lb1": Look(rank=(9,)), "lb2": lost}) == 1
    log = tmp_path / "lb2" / "exabgp.log"
    assert capsys.readouterr().err == (
        f"lab: lb2 has not come up: its ExaBGP ended with status 1, after 4 starts. Read {log}\n"
    )


def test_nothing_is_said_when_all_came_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert come_up(tmp_path, monkeypatch, {"lb1": Look(rank=(9,))}) == 0
    assert capsys.readouterr().err == ""
