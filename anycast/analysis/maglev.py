"""The kernel's Maglev table (scheduler mh), computed: what another server or weight does to the flows.

Filled as net/netfilter/ipvs/ip_vs_mh.c does, with the hash of 64-bit kernels. Nothing is scheduled by this; it
tells beforehand what a configuration means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from anycast.core.dataplane.ipvs import MAGLEV_SLOTS
from anycast.core.dataplane.members import every_server_of, server_port, usual_weight
from anycast.core.values.configuration import Address, Service

LARGE = 500  # real servers: beyond, a figure is not worth the time it takes
HEAVIEST = 65535  # weight a real server can have
_TURN_BITS = 6  # IP_VS_MH_TAB_BITS: half of the table's index, 12
_OFFSET_KEY, _SKIP_KEY = 2654435761, 2654446892
_WORD = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A real server as the table sees it. Its weight is the one it was inserted with: 1 or more."""

    address: Address
    port: int
    weight: int

    @property
    def key(self) -> tuple[Address, int]:
        return self.address, self.port


def entries(service: Service, version: int) -> tuple[Entry, ...]:
    """The real servers of the service for packets of the family, in the order every node inserts in.

    Those of a sorry pool have their places too. While they have no clients the table is searched on from there.
    """
    found = (
        Entry(address, server_port(service, server), server.weight or usual_weight(pool.servers))
        for pool, server, address in every_server_of(service, version)
    )
    return tuple(sorted(found, key=lambda one: (one.address.version, int(one.address), one.port)))


def turns(weights: Sequence[int]) -> list[int]:
    """How many slots in a row each takes, round by round."""
    divisor = math.gcd(*weights)
    shift = max(0, (max(weights) // divisor).bit_length() - _TURN_BITS)
    return [max(1, weight // divisor >> shift) for weight in weights]


def slots(weights: Sequence[int]) -> list[int]:
    """How many slots of the table each gets; weights in the order of insertion."""
    each = turns(weights)
    rounds, left = divmod(MAGLEV_SLOTS, sum(each))
    counts = [rounds * one for one in each]
    for n in reversed(range(len(each))):  # the kernel walks them newest first
        counts[n] += min(each[n], left)
        left -= min(each[n], left)
    return counts


def unevenness(weights: Sequence[int]) -> float:
    """The largest share of the flows, as a multiple of what the weight asks for."""
    due = MAGLEV_SLOTS / sum(weights)
    return max(count / (weight * due) for count, weight in zip(slots(weights), weights, strict=True))


@lru_cache(maxsize=4)  # one table is compared with several others
def table(servers: tuple[Entry, ...], version: int) -> tuple[int, ...]:
    """For each slot, which of the servers (by position) has it. `version` is the service's family."""
    each = turns([one.weight for one in servers])
    folded = [_folded(one.address, version) + one.port & 0xFFFFFFFF for one in servers]
    places = [siphash(_OFFSET_KEY, one) % MAGLEV_SLOTS for one in folded]
    skips = [siphash(_SKIP_KEY, one) % (MAGLEV_SLOTS - 1) + 1 for one in folded]
    owners = [-1] * MAGLEV_SLOTS
    left = MAGLEV_SLOTS
    while True:
        for n in reversed(range(len(servers))):
            place, skip = places[n], skips[n]
            for _ in range(each[n]):
                while owners[place] >= 0:
                    place += skip
                    if place >= MAGLEV_SLOTS:
                        place -= MAGLEV_SLOTS
                owners[place] = n
                left -= 1
                if not left:
                    return tuple(owners)
            places[n] = place


def moved(before: tuple[Entry, ...], after: tuple[Entry, ...], version: int) -> float:
    """The share of the flows of servers that stay which then come to another one; 1 if none stays."""
    staying = {one.key for one in before} & {one.key for one in after}
    if not staying:
        return 1.0
    pairs = zip(
        (before[n].key for n in table(before, version)),
        (after[n].key for n in table(after, version)),
        strict=True,
    )
    kept = [then == now for then, now in pairs if then in staying]
    return kept.count(False) / len(kept) if kept else 0.0


def step(servers: tuple[Entry, ...], version: int) -> float:
    """The largest share of the flows that moves when one weight changes by one."""
    weights = sorted({one.weight for one in servers})
    changed = {
        (next(n for n, one in enumerate(servers) if one.weight == weight), weight + by)
        for weight in (*weights[:2], *weights[-2:])
        for by in (-1, 1)
        if 0 < weight + by <= HEAVIEST
    }
    return max(
        moved(servers, (*servers[:n], replace(servers[n], weight=weight), *servers[n + 1 :]), version)
        for n, weight in changed
    )


def spelt(share: float) -> str:
    """`about 16 %`, `about 3.5 %`, `less than 0.1 %`."""
    if 0 < share < 0.001:
        return "less than 0.1 %"
    return f"about {share * 100:.0f} %" if share >= 0.0995 else f"about {share * 100:.1f} %"


def _folded(address: Address, version: int) -> int:
    """The 32 bits of an address that the kernel hashes.

    They go by the family of the service: of an IPv6 address behind an IPv4 service it sees the first 32 bits.
    """
    words = [int.from_bytes(address.packed[n : n + 4], "big") for n in range(0, len(address.packed), 4)]
    if version == 4:
        return words[0]
    folded = 0
    for word in words:
        folded ^= word
    return folded


@lru_cache(maxsize=8 * MAGLEV_SLOTS)
def siphash(key: int, value: int) -> int:
    """SipHash-1-3 of a 32-bit value, its lower 32 bits; both halves of the key are `key`."""
    v0, v1 = key ^ 0x736F6D6570736575, key ^ 0x646F72616E646F6D
    v2, v3 = key ^ 0x6C7967656E657261, key ^ 0x7465646279746573
    last = 4 << 56 | value
    v3 ^= last
    for n in range(4):  # one round for the value, three at the end
        v0 = v0 + v1 & _WORD
        v2 = v2 + v3 & _WORD
        v1 = _rotated(v1, 13) ^ v0
        v3 = _rotated(v3, 16) ^ v2
        v0 = _rotated(v0, 32)
        v2 = v2 + v1 & _WORD
        v0 = v0 + v3 & _WORD
        v1 = _rotated(v1, 17) ^ v2
        v3 = _rotated(v3, 21) ^ v0
        v2 = _rotated(v2, 32)
        if n == 0:
            v0 ^= last
            v2 ^= 0xFF
    return (v0 ^ v1 ^ v2 ^ v3) & 0xFFFFFFFF


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _WORD
