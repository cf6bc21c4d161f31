"""Regular expressions that cannot explode: RE2 searches in linear time, in memory that has a bound.

The package is an extra (`anycast[regex]`): only checks with an expression need it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

__all__ = ["LONGEST", "Pattern", "RegexError", "compiled"]

LONGEST = 500  # characters of an expression
_MEMORY = 1 << 20  # bytes for the automaton of one expression; RE2 works more slowly rather than take more


class RegexError(ValueError):
    """The expression cannot be used: what is wrong, and what to do."""

    def __init__(self, what: str, do: str) -> None:
        super().__init__(f"{what} ({do})")
        self.what = what
        self.do = do


class Pattern(Protocol):
    def search(self, text: bytes) -> object: ...


@lru_cache(maxsize=1024)
def compiled(expression: str) -> Pattern:
    """The expression over UTF-8 bytes; bytes that are no UTF-8 match nothing. Raises RegexError."""
    if len(expression) > LONGEST:
        raise RegexError(
            f"the expression has {len(expression)} characters", f"write at most {LONGEST}, or a command check"
        )
    try:
        import re2
    except ImportError:
        raise RegexError(
            "regular expressions need google-re2, which is not installed", "pip install 'anycast[regex]'"
        ) from None
    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    try:
        pattern: Pattern = re2.compile(expression.encode(), options)
    except (re2.error, UnicodeEncodeError) as error:
        raise RegexError(
            f"it is no regular expression: {_reason(error)}",
            "write RE2 syntax: no look-around, no back references",
        ) from None
    return pattern


def _reason(error: Exception) -> str:
    first = error.args[0] if error.args else error
    text = first.decode(errors="replace") if isinstance(first, bytes) else str(first)
    return "".join(c if c.isprintable() else "?" for c in text)[:100]
