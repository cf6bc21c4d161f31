"""A word that there is not is told with the one that was probably meant; all of them only where they are few."""

from __future__ import annotations

import pytest

from anycast.cli.main import main


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("statu", "there is no 'statu' (did you mean status?)"),
        ("Status", "there is no 'Status' (did you mean status?)"),
        ("xyzzy", "there is no 'xyzzy' (`anycast --help` lists them)"),
        ("maintenance onn", "there is no 'onn' (did you mean on? choose from on, off, status)"),
        ("render exabg", "there is no 'exabg' (did you mean exabgp? choose from exabgp, frr-bfd,"),
        ("status --josn", "unrecognized arguments: --josn (did you mean --json?)"),
        ("maintenance on --reson=x", "(did you mean --reason?)"),
        ("status --colour=always", "(did you mean --color?)"),
        ("status --zzz", "(see `anycast status --help`)"),
    ],
)
def test_a_slip_of_the_pen_is_told_with_what_was_meant(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_type_of_check_that_is_none_is_told_before_a_name_is_looked_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))
    assert main(["probe", "ftp://a"]) == 78
    assert capsys.readouterr().err.startswith("ftp://a: 'ftp' is not a type of check")
    assert main(["probe", "carrier://a"]) == 2
    assert "a check of type carrier has no URL" in capsys.readouterr().err
