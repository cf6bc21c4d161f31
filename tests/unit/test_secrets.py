"""Secrets in files and variables: read whole and bounded, and never repeated in what is said of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from anycast import secrets
from anycast.core.hooks import Secret
from anycast.secrets import SecretError


def kept(folder: Path, text: str) -> Secret:
    path = folder / "secret"
    path.write_text(text, encoding="utf-8")
    return Secret(file=str(path))


def test_a_secret_is_read_without_the_white_space_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert secrets.read(kept(tmp_path, " s3cret\n")) == b"s3cret"
    monkeypatch.setenv("A_SECRET", "s3cret\n")
    assert secrets.read(Secret(variable="A_SECRET")) == b"s3cret"
    assert secrets.token(Secret(variable="A_SECRET")) == "s3cret"


def test_headers_are_lines(tmp_path: Path) -> None:
    text = "Authorization: Basic YTpi\n\nX-Key:  a b \n"
    assert secrets.headers(kept(tmp_path, text)) == (("Authorization", "Basic YTpi"), ("X-Key", "a b"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty, or larger than 4096 bytes"),
        ("x" * 4097, "is empty, or larger than 4096 bytes"),
        ("hidden", "line 1 of"),
        ("A: b\nhid den: x", "line 2 of"),
        ("A: hidden\x01", "line 1 of"),
        ("Host: hidden", "has the header Host, which is written by this program"),
    ],
)
def test_headers_that_cannot_be_used_are_told_without_them(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SecretError) as caught:
        secrets.headers(kept(tmp_path, text), ("host",))
    assert said in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_token_is_one_word(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="is not one word of printable ASCII"):
        secrets.token(kept(tmp_path, "two words"))


def test_nothing_and_a_pipe_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SecretError, match="is not a file"):
        secrets.read(Secret(file=str(tmp_path / "pipe")))
    with pytest.raises(SecretError, match="No such file"):
        secrets.read(Secret(file=str(tmp_path / "none")))
    with pytest.raises(SecretError, match="there is no variable A_SECRET_THAT_IS_NOT"):
        secrets.read(Secret(variable="A_SECRET_THAT_IS_NOT"))
