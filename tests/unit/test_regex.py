from __future__ import annotations

import contextlib
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.regex import LONGEST, RegexError, compiled


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("(", "missing )"),
        ("(?=a)", "invalid perl operator"),
        (r"(a)\1", "invalid escape sequence"),
        ("a{1000000}", "invalid repetition size"),
        ("((a{100}){100}){100}", "invalid repetition size"),
        ("\ud800", "no regular expression"),
        ("a" * (LONGEST + 1), "has 501 characters"),
    ],
)
def test_an_expression_that_cannot_be_used_is_explained(expression: str, said: str) -> None:
    with pytest.raises(RegexError) as caught:
        compiled(expression)
    assert said in caught.value.what
    assert caught.value.do


def test_an_expression_is_found_in_utf_8_bytes() -> None:
    assert compiled("^grün: (1|2)$").search("grün: 2".encode())
    assert not compiled("grün").search(b"gr\xfcn")


@given(st.text(max_size=30), st.binary(max_size=200))
def test_any_expression_is_searched_or_explained(expression: str, data: bytes) -> None:
    with contextlib.suppress(RegexError):
        compiled(expression).search(data)


@pytest.mark.parametrize("expression", ["(a*)*b", "(a|a)*b", "(.*.*)*=", "a*a*a*a*a*a*a*b"])
def test_nothing_explodes(expression: str) -> None:
    started = time.process_time()
    assert not compiled(expression).search(b"a" * 65536)
    assert time.process_time() - started < 1


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    with pytest.raises(RegexError, match=r"anycast\[regex\]"):
        compiled("never compiled before")
