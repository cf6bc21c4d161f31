"""How long the chains of the kernel's table of connections are, by the kernel's own hash. No I/O.

The kernel does not tell in which bucket a connection is, and its hash starts from a number that it draws at boot. So the
connections it lists are hashed here from several such numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from socket import htons
from statistics import mean

_32 = 0xFFFFFFFF
_INIT = 0xDEADBEEF
_TCP = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """`searched`: entries looked at until a connection is found, in the mean; `longest`: of all chains."""

    connections: int
    bits: int
    searched: float
    longest: int


def chains(ends: Collection[tuple[str, int]], bits: int, seeds: Sequence[int]) -> Chains:
    """Of TCP connections from these addresses and ports, over IPv4; the mean of the seeds."""
    found = [_lengths(ends, bits, seed) for seed in seeds]
    return Chains(
        connections=len(ends),
        bits=bits,
        searched=round(mean(sum(n * (n + 1) / 2 for n in one) / max(1, sum(one)) for one in found), 2),
        longest=round(mean(max(one, default=0) for one in found)),
    )


def _lengths(ends: Collection[tuple[str, int]], bits: int, seed: int) -> list[int]:
    mask = 2**bits - 1
    # The kernel's words are in the order of the network.
    keys = ((int.from_bytes(ip_address(host).packed, "little"), htons(port)) for host, port in ends)
    return list(Counter(jhash_3words(host, port, _TCP, seed) & mask for host, port in keys).values())


def jhash_3words(a: int, b: int, c: int, seed: int) -> int:
    """As include/linux/jhash.h has it."""
    start = (seed + _INIT + (3 << 2)) & _32
    a, b, c = ((word + start) & _32 for word in (a, b, c))
    c = ((c ^ b) - _rol(b, 14)) & _32
    a = ((a ^ c) - _rol(c, 11)) & _32
    b = ((b ^ a) - _rol(a, 25)) & _32
    c = ((c ^ b) - _rol(b, 16)) & _32
    a = ((a ^ c) - _rol(c, 4)) & _32
    b = ((b ^ a) - _rol(a, 14)) & _32
    return ((c ^ b) - _rol(b, 24)) & _32


def _rol(word: int, by: int) -> int:
    return (word << by | word >> (32 - by)) & _32
