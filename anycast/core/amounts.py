"""Numbers for people: how many a second. Pure, and small: the command line imports it too."""

from __future__ import annotations

MULTIPLES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
"""By the letter behind a number, in small, as it is written."""
_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def amount(number: float) -> str:
    """Two or three digits: `0`, `0.4`, `12`, `1.2k`, `340M`."""
    for size, letter in _STEPS:
        if number >= size * 0.9995:
            return f"{_digits(number / size)}{letter}"
    return _digits(number)


def _digits(number: float) -> str:
    short = f"{number:.1f}"
    return short.removesuffix(".0") if number < 9.95 else f"{number:.0f}"


def bits(number: float) -> str:
    """Bits a second with their unit: `1.2 Mbit/s`."""
    told = amount(number)
    return f"{told[:-1]} {told[-1]}bit/s" if told[-1].isalpha() else f"{told} bit/s"


def percent(part: float) -> str:
    """`0%` is nothing at all, and `100%` all."""
    if 0 < part < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= part < 1 else f"{part:.0%}"
