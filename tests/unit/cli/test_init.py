"""`anycast init`: five answers, from options or a terminal, give a file that `check` passes; it replaces none."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pytest

from anycast.cli.main import main
from anycast.config.load import load
from anycast.core.values.configuration import Config

GIVEN = {
    "--address": "10.2.1.1",
    "--as": "65001",
    "--router": "10.2.1.254,65000",
    "--vip": "192.0.2.1,80",
    "--server": "10.9.2.1",
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def init(*words: str, file: Path | str = "-") -> int:
    try:
        return int(main(["init", str(file), *words]))
    except SystemExit as exit_:
        return int(exit_.code or 0)


def options(**more: str) -> list[str]:
    given = GIVEN | {f"--{name}": value for name, value in more.items()}
    return [word for pair in given.items() for word in pair]


def written(folder: Path, *words: str) -> Config:
    file = folder / "anycast.yaml"
    assert init(*words, file=file) == 0
    loaded = load(file, hostname="lb1")
    assert loaded.warnings == ()
    return loaded.config


def test_options_alone_give_a_file_without_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path, *options(name="shop", check="HTTP"), "--server", "10.9.2.2", "--vip", "443")
    (vip,) = config.vips
    assert (vip.name, [service.name for service in vip.services]) == ("shop", ["tcp/80", "tcp/443"])
    assert [server.name for server in vip.services[0].pool.servers] == ["10.9.2.1", "10.9.2.2"]
    assert (config.bgp.local_as, config.bgp.neighbors[0].remote_as) == (65001, 65000)
    assert "anycast check" in capsys.readouterr().out
    assert (tmp_path / "anycast.yaml").stat().st_mode & 0o007 == 0


ANSWERS = [
    ("10.2.1.1", "65001", "10.2.1.254 AS65000", "192.0.2.1 80 443", "10.9.2.1 10.9.2.2"),
    ("10.2.1.1", "as 65001", "10.2.1.253,65000, 10.2.1.254,65000", "192.0.2.53 53/udp 53/tcp", "10.9.5.1"),
    ("10.2.1.1 fd00::1", "65001", "10.2.1.2 65000 fd00::2 65000", "192.0.2.1 2001:db8::1 https", "fd00:9::1"),
]


@pytest.mark.parametrize("answers", ANSWERS)
def test_five_answers_on_a_terminal_give_a_file_without_a_problem(
    answers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answers[0].count(" "):
        answers = (*answers[:4], "10.9.2.1 fd00:9::1")
    monkeypatch.setattr("sys.stdin", Terminal("\n".join(answers) + "\n"))
    assert len(written(tmp_path).vips) == 1


@pytest.mark.parametrize(
    ("check", "forwarding"), list(itertools.product(["tcp", "https", "grpc"], ["dr", "nat", "tunnel"]))
)
def test_every_choice_gives_a_file_without_a_problem(check: str, forwarding: str, tmp_path: Path) -> None:
    written(tmp_path, *options(check=check, forwarding=forwarding))


def test_a_wrong_answer_is_told_and_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        "10.2.1.1",
        "many",
        "65001",
        "10.2.1.254",
        "10.2.1.254 65000",
        "192.0.2.1",
        "192.0.2.1 80",
        "x",
        "10.9.2.1",
    ]
    monkeypatch.setattr("sys.stdin", Terminal("\n".join(lines) + "\n"))
    assert init() == 0
    said = capsys.readouterr().err
    assert "'many' is not an AS number (write a whole number from 1" in said
    assert "write an address and an AS number for each, as in 10.2.1.254 AS65000" in said
    assert "write its address and a port, as in 192.0.2.1 443" in said
    assert "'x' is not an IP address" in said


def test_with_ipv6_alone_the_router_id_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    six = options(address="fd00::1", router="fd00::fe,65000", vip="2001:db8::1 443", server="fd00:9::1")
    assert init(*six) == 2
    assert "--router-id is missing" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", Terminal("10.255.0.1\n"))
    assert str(written(tmp_path, *six).bgp.router_id) == "10.255.0.1"


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text("mine", encoding="utf-8")
    assert init(*options(), file=file) == 1
    assert file.read_text(encoding="utf-8") == "mine"
    assert f"{file} is there already and stays as it is" in capsys.readouterr().err
    link = tmp_path / "link.yaml"
    link.symlink_to(tmp_path / "nowhere")
    assert init(*options(), file=link) == 1
    assert not (tmp_path / "nowhere").exists()


def test_without_a_terminal_everything_that_is_missing_is_told_at_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert init("--as", "65001") == 2
    said = capsys.readouterr().err
    assert "--address, --router, --vip, --server are missing (write them, or run it on a terminal" in said


def test_answers_that_do_not_fit_together_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "anycast.yaml"
    assert init(*options(server="fd00:9::1"), file=file) == 78
    assert not file.exists()
    said = capsys.readouterr().err
    assert "no server at vips.web has an IPv4 address" in said
    assert "nothing was written (correct the answers)" in said


def test_the_end_of_the_input_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("10.2.1.1\n"))
    assert init() == 130
    assert "nothing was written" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert init(*options(), file=tmp_path / "none" / "a.yaml") == 1
    assert "cannot be written: No such file or directory" in capsys.readouterr().err
