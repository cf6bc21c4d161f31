"""Highest random weight: a flow belongs to the node with the largest hash of flow and node.

The hash is a bijection of 32 bits. So no two nodes have the same hash with a flow, and the largest says whose it is: it
alone is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Hashes: TypeAlias = NDArray[np.uint32]

# The finalizer of MurmurHash3: two multiplications among three shifts.
_FIRST, _SECOND = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_HALF, _SHORT = np.uint32(16), np.uint32(13)
_BACK_FIRST, _BACK_SECOND = (np.uint32(pow(int(one), -1, 2**32)) for one in (_FIRST, _SECOND))
_BLOCK = 16_384  # flows whose hashes stay in the processor's cache while one node after another is tried


def mixed(values: Hashes) -> Hashes:
    """A hash of 32 bits that spreads well."""
    found = values ^ (values >> _HALF)
    _mix(found, np.empty_like(found))
    return found


def _mix(values: Hashes, spare: Hashes) -> None:
    """The rest of `mixed`, in place, after its first shift. `spare`: of the same shape; its content is lost."""
    np.multiply(values, _FIRST, out=values)
    np.right_shift(values, _SHORT, out=spare)
    np.bitwise_xor(values, spare, out=values)
    np.multiply(values, _SECOND, out=values)
    np.right_shift(values, _HALF, out=spare)
    np.bitwise_xor(values, spare, out=values)


def _unmixed(values: Hashes) -> Hashes:
    """What `mixed` made these of."""
    found = values ^ (values >> _HALF)
    found *= _BACK_SECOND
    found ^= (found >> _SHORT) ^ (found >> np.uint32(2 * _SHORT))
    found *= _BACK_FIRST
    found ^= found >> _HALF
    return found


class HighestRandomWeight:
    """Whose each flow is. `hashes`: of the flows. `nodes`: how many there may be; none is up at first."""

    def __init__(self, hashes: Hashes, nodes: int) -> None:
        self._hash = hashes
        # (a ^ b) >> 16 is (a >> 16) ^ (b >> 16): the first shift of a flow and of a node are made once for all pairs.
        self._begun: Hashes = hashes ^ (hashes >> _HALF)
        keys = mixed(np.arange(1, nodes + 1, dtype=np.uint32))
        self._keys: Hashes = keys ^ (keys >> _HALF)
        self._best = np.zeros_like(hashes)  # the largest hash of each flow
        self._owner = np.zeros(len(hashes), dtype=np.int32)
        self._up = np.zeros(nodes, dtype=np.bool_)

    def nodes(self, up: Sequence[bool]) -> NDArray[np.int32]:
        """The node of each flow, by its place in `up`, of which one at least is."""
        there = np.array(up)
        left = np.flatnonzero(~there[self._owner])
        self._best[left] = 0
        _raise(self._best, self._begun, self._keys[there & ~self._up])
        if len(left):
            best = self._best[left]
            _raise(best, self._begun[left], self._keys[there & self._up])
            self._best[left] = best
        self._up = there
        self._owner = (_unmixed(_unmixed(self._best) ^ self._hash) - np.uint32(1)).astype(np.int32)
        return self._owner


def _raise(best: Hashes, flows: Hashes, keys: Iterable[np.uint32]) -> None:
    """To the largest hash with one of these nodes, where that is larger. `flows`, `keys`: after the first shift."""
    found, spare = np.empty((2, _BLOCK), dtype=np.uint32)
    for start in range(0, len(flows), _BLOCK):
        part, largest = flows[start : start + _BLOCK], best[start : start + _BLOCK]
        hashes, rest = found[: len(part)], spare[: len(part)]
        for key in keys:
            np.bitwise_xor(part, key, out=hashes)
            _mix(hashes, rest)
            np.maximum(largest, hashes, out=largest)
