"""Numbers, times and addresses as other programs write them. Each is None where it is none. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

_NUMBER = re.compile(r"[0-9]{1,12}\Z", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?\Z", re.ASCII)
_RANGE = re.compile(r"(.*)-([0-9A-Fa-f]{1,4})\Z")

MOST_ADDRESSES = 20_000  # of all VIPs, as the configuration has it
MOST_OF_RANGE = 1024  # addresses of one line of a group


def number(words: Sequence[str], low: int = 0, high: int = 2**32 - 1) -> int | None:
    """The first word."""
    if not words or not _NUMBER.match(words[0]):
        return None
    found = int(words[0])
    return found if low <= found <= high else None


def seconds(words: Sequence[str], low: float = 0.0) -> float | None:
    if not words or not _DECIMAL.match(words[0]):
        return None
    found = float(words[0])
    return found if found >= low else None


def truth(words: Sequence[str]) -> bool | None:
    """`alpha`, `alpha true`, `alpha off`."""
    if not words:
        return True
    return {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}.get(
        words[0].lower()
    )


def address(text: str) -> str | None:
    """As we write it; an interface behind a % is no part of it."""
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return None


def port(words: Sequence[str]) -> int | None:
    """0: there is none, or it is 0. None: it is no port."""
    if not words or not words[0].strip("0"):
        return 0
    return number(words, 1, 65535)


def addresses(text: str) -> list[str] | None:
    """Of `192.0.2.1`, `192.0.2.1-10`, `2001:db8::1-ff`, `192.0.2.0/28`."""
    if "/" in text:
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            return None
        if network.num_addresses > MOST_OF_RANGE:
            return None
        return [str(one) for one in network]
    if match := _RANGE.match(text):
        start = address(match[1])
        if start is None:
            return None
        first = ipaddress.ip_address(start)
        bits, base = (8, 10) if first.version == 4 else (16, 16)
        try:
            end = int(match[2], base)
        except ValueError:
            return None
        low = int(first) & ((1 << bits) - 1)
        if not low <= end < 1 << bits or end - low >= MOST_OF_RANGE:
            return None
        kind = type(first)
        return [str(kind(int(first) + step)) for step in range(end - low + 1)]
    one = address(text)
    return None if one is None else [one]


def prefix_of(mask: str) -> int | None:
    """`255.255.255.0` is 24. None: it has holes, or is no mask."""
    try:
        value = int(ipaddress.IPv4Address(mask))
    except ValueError:
        return None
    ones = value.bit_count()
    return ones if value == (0xFFFFFFFF << (32 - ones)) & 0xFFFFFFFF else None


def trim(value: float) -> int | float:
    return int(value) if value == int(value) else value


def duration(value: float) -> str:
    """`6s`, `1m`, `500ms`."""
    if value and value < 1:
        return f"{value * 1000:.12g}ms"
    if value >= 60 and value % 60 == 0:
        return f"{value // 60:.12g}m"
    return f"{value:.12g}s"


def seconds_of(text: str) -> float:
    """What `duration` has written."""
    for unit, factor in (("ms", 0.001), ("m", 60.0), ("s", 1.0)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)
