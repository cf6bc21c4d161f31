"""What breaks if: flows, a router's hash, balancers and their tables, and what happens to them, one step after another.

Each flow has a hash of its own at the router and a slot in the balancers' table. The routers' rules are those of the real
ones (`tests/contract/test_simulate.py` compares them with Linux), the table is the kernel's (`maglev`). What a flow does
not know of time is left out: all flows are active, and none ends by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from heapq import heapify, heapreplace
from ipaddress import IPv4Address
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from anycast.analysis.hrw import HighestRandomWeight, mixed
from anycast.analysis.maglev import HEAVIEST, Entry, table
from anycast.core.dataplane.ipvs import MAGLEV_SLOTS, SOURCE_SLOTS

MOST_FLOWS, MOST_NODES, MOST_SERVERS = 10_000_000, 1_000, 1_000
BYTES = 72  # of memory for each flow, at the most
_RING = 2**31  # what Linux divides among the next hops: its hash has 31 bits
_NOBODY = -1

Ints: TypeAlias = NDArray[np.int32]
Flags: TypeAlias = NDArray[np.bool_]


class Router(StrEnum):
    """How a router finds the node of a flow."""

    THRESHOLD = (
        "hash-threshold"  # Linux, FRR on Linux, most hardware: a region of the hash for each, in their order
    )
    MODULO = "modulo"  # the hash modulo their number
    RESILIENT = "resilient"  # buckets that stay where they are
    HRW = "hrw"  # highest random weight: the node with the largest hash of flow and node


class Scheduler(StrEnum):
    MH = "mh"
    SH = "sh"
    RR = "rr"
    WLC = "wlc"


class Act(StrEnum):
    LEAVE = "leave"
    RETURN = "return"
    ADD = "server-add"
    REMOVE = "server-remove"  # from the table, with what it still has
    DIE = "server-dies"  # it keeps its place in the table, with weight 0
    BACK = "server-back"
    WEIGHT = "weight"


@dataclass(frozen=True, slots=True)
class Step:
    """`which`: nodes or real servers, from 1. `weight`: of WEIGHT and ADD."""

    act: Act
    which: tuple[int, ...]
    weight: int = 1

    def __str__(self) -> str:
        listed = str(len(self.which)) if self.act is Act.ADD else ",".join(map(str, self.which))
        told = self.act is Act.WEIGHT or (self.act is Act.ADD and self.weight != 1)
        return f"{self.act}:{listed}" + (f"={self.weight}" if told else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """`node_weights`: of the routers' paths. `drifted`: nodes, the last ones, whose table was filled in another order.

    `sync`: connections are known to all nodes. `sloppy`: a node takes connections in their middle (`sloppy_tcp`).
    `fill_again`: a resilient router gives a node that returns its part at once (Linux by itself waits until a bucket has
    been idle, which one in use never is).
    """

    flows: int = 100_000
    nodes: int = 3
    router: Router = Router.THRESHOLD
    buckets: int = 0  # of a resilient router; 0: as many as are usual for so many nodes
    node_weights: tuple[int, ...] = ()
    weights: tuple[int, ...] = (1, 1, 1, 1)  # of the real servers
    scheduler: Scheduler = Scheduler.MH
    sync: bool = False
    sloppy: bool = True
    drifted: int = 0
    fill_again: bool = False
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One step. All but `nodes` are shares of the flows.

    `moved`: came to another node. `elsewhere`: would be given another real server if they were new. `broken`: found none,
    or another one than they had, which still works. `lost`: their real server is gone. `least`, `most`: of a node, after
    it.
    """

    step: str
    nodes: int
    moved: float
    elsewhere: float
    broken: float
    lost: float
    least: float
    most: float


def parsed(text: str, nodes: int, servers: int) -> Step:
    """`leave:2`, `leave:1,2`, `server-add`, `weight:3=5`. Raises ValueError, with what to write."""
    found = re.fullmatch(r"([a-z-]+)(?::([0-9]{1,4}(?:,[0-9]{1,4})*))?(?:=([0-9]{1,5}))?", text, re.ASCII)
    if found is None or found[1] not in {*Act}:
        raise ValueError(f"{text!r} is no step (write one of {', '.join(Act)}, as in leave:2 or weight:1=5)")
    act = Act(found[1])
    which = tuple(int(one) for one in (found[2] or "1").split(","))
    if found[3] is not None and not 1 <= int(found[3]) <= HEAVIEST:
        raise ValueError(f"{text!r}: a weight is from 1 to {HEAVIEST:,}")
    if act is Act.ADD:
        if len(which) > 1 or not which[0]:
            raise ValueError(f"{text!r}: how many real servers? (write {act}, or {act}:3)")
        if servers + which[0] > MOST_SERVERS:
            raise ValueError(
                f"{text!r}: there can be up to {MOST_SERVERS:,} real servers, and there are {servers:,}"
            )
        return Step(act, tuple(range(which[0])), int(found[3] or 1))
    most, what = (nodes, "nodes") if act in (Act.LEAVE, Act.RETURN) else (servers, "real servers")
    if found[2] is None or not all(1 <= one <= most for one in which) or len(set(which)) < len(which):
        raise ValueError(f"{text!r}: which of the {most} {what}? (write {act}:1, or {act}:1,2)")
    if (found[3] is not None) is not (act is Act.WEIGHT):
        raise ValueError(f"{text!r}: a weight is written for {Act.WEIGHT}, as in {Act.WEIGHT}:1=5")
    return Step(act, which, int(found[3] or 1))


def simulate(setup: Setup, steps: Iterable[Step]) -> list[Result]:
    """What comes of each step. Raises ValueError: it cannot be done."""
    site = _Site(setup)
    return [site.take(step) for step in steps]


class _Site:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._chance = np.random.default_rng(setup.seed)
        self._hash: NDArray[np.uint32] = self._chance.integers(0, _RING, setup.flows, dtype=np.uint32)
        size = SOURCE_SLOTS if setup.scheduler is Scheduler.SH else MAGLEV_SLOTS
        self._slot = self._chance.integers(0, size, setup.flows, dtype=np.int32)
        self._up = [True] * setup.nodes
        self._weights = list(setup.weights)
        self._in_table = [True] * len(setup.weights)
        self._alive = [True] * len(setup.weights)
        self._path: Path = PATHS[setup.router](setup, self._hash)
        self._node = self._path.nodes(self._up)
        self._was: Ints | None = None  # the nodes before the step
        self._tables = self._made()
        self._server = np.zeros(setup.flows, dtype=np.int32)
        self._server = self._chosen(slice(None))

    def take(self, step: Step) -> Result:
        setup, before = self._setup, self._node
        self._was = before
        server_before, fresh_before = self._server.copy(), self._fresh()
        self._apply(step)
        gone = ~self._serving()[server_before]
        self._node = self._path.nodes(self._up)
        moved = self._node != before
        fresh = self._fresh()
        elsewhere = (fresh != fresh_before) & ~gone
        broken = np.zeros(setup.flows, dtype=np.bool_)
        astray = moved & ~gone
        if not setup.sync and astray.any():
            places = np.flatnonzero(astray)
            found = self._chosen(places)
            wrong = found != server_before[places] if setup.sloppy else np.ones(len(places), dtype=np.bool_)
            broken[places] = wrong
            self._server[places] = found
        again = np.flatnonzero(gone)
        self._server[again] = self._chosen(again)
        counts = np.bincount(self._node, minlength=setup.nodes)[np.array(self._up)]
        return Result(
            step=str(step),
            nodes=sum(self._up),
            moved=float(moved.mean()),
            elsewhere=float(elsewhere.mean()),
            broken=float(broken.mean()),
            lost=float(gone.mean()),
            least=float(counts.min() / setup.flows),
            most=float(counts.max() / setup.flows),
        )

    def _apply(self, step: Step) -> None:
        match step.act:
            case Act.LEAVE | Act.RETURN:
                for one in step.which:
                    if self._up[one - 1] is (step.act is Act.RETURN):
                        raise ValueError(
                            f"{step}: node {one} is {'there' if self._up[one - 1] else 'gone'} already"
                        )
                    self._up[one - 1] = step.act is Act.RETURN
                if not any(self._up):
                    raise ValueError(f"{step}: no node is left")
                return
            case Act.ADD:
                self._weights += [step.weight] * len(step.which)
                self._in_table += [True] * len(step.which)
                self._alive += [True] * len(step.which)
            case Act.REMOVE:
                self._mark(step, self._in_table, there=False)
            case Act.DIE:
                self._mark(step, self._alive, there=False)
            case Act.BACK:
                self._mark(step, self._alive, there=True)
            case Act.WEIGHT:
                for one in step.which:
                    self._weights[one - 1] = step.weight
        if not self._serving().any():
            raise ValueError(f"{step}: no real server is left")
        self._tables = self._made()

    @staticmethod
    def _mark(step: Step, marks: list[bool], *, there: bool) -> None:
        for one in step.which:
            if marks[one - 1] is there:
                raise ValueError(f"{step}: real server {one} is {'there' if there else 'gone'} already")
            marks[one - 1] = there

    def _serving(self) -> Flags:
        serving: Flags = np.array(self._alive) & np.array(self._in_table)
        return serving

    def _made(self) -> list[Ints]:
        """The table of each node: real servers, by their place."""
        setup = self._setup
        if setup.scheduler not in (Scheduler.MH, Scheduler.SH):
            return []
        there = [place for place, inside in enumerate(self._in_table) if inside]
        usual = self._filled(there)
        drifted = self._filled(there[::-1]) if setup.drifted else usual
        return [usual] * (setup.nodes - setup.drifted) + [drifted] * setup.drifted

    def _filled(self, order: Sequence[int]) -> Ints:
        if self._setup.scheduler is Scheduler.SH:
            turns = np.repeat(np.array(order[::-1]), [self._weights[place] for place in order[::-1]])
            return np.resize(turns, SOURCE_SLOTS).astype(np.int32)
        entries = tuple(Entry(IPv4Address(0x0A090001 + place), 80, self._weights[place]) for place in order)
        owners = np.array(table(entries, 4), dtype=np.int32)
        filled: Ints = np.array(order, dtype=np.int32)[owners]
        return filled

    def _fresh(self) -> Ints:
        """Which real server each flow would be given at its node if it were new, where a table says so."""
        if not self._tables:
            return np.zeros(self._setup.flows, dtype=np.int32)
        return self._chosen(slice(None))

    def _chosen(self, places: NDArray[np.int64] | slice) -> Ints:
        """Which they are given: mh and sh pass on to another slot where that one is dead."""
        if self._setup.scheduler is Scheduler.WLC:
            return self._least(places)
        serving = self._serving()
        if not self._tables:
            # Round robin gives each its turn whatever its weight.
            return self._chance.choice(np.flatnonzero(serving).astype(np.int32), size=len(self._node[places]))
        tables = np.stack(self._tables)
        nodes, slots, hashes = self._node[places], self._slot[places], self._hash[places]
        found: Ints = tables[nodes, slots]
        for attempt in range(1, 64):
            dead = np.flatnonzero(~serving[found])
            if not len(dead):
                return found
            # As in the kernel a flow passes on in a way of its own, and on every node alike.
            again = mixed(hashes[dead] ^ np.uint32(attempt)) ^ slots[dead].astype(np.uint32)
            found[dead] = tables[nodes[dead], mixed(again) % tables.shape[1]]
        found[~serving[found]] = np.flatnonzero(serving)[0]
        return found

    def _least(self, places: NDArray[np.int64] | slice) -> Ints:
        """Of wlc: each is given the real server that has, for its weight, the fewest at its node."""
        here = self._node[places]
        found = np.empty(len(here), dtype=np.int32)
        count = len(self._weights)
        held = np.zeros((self._setup.nodes, count), dtype=np.int64)
        if self._was is not None:
            # Those that have just left it too: it knows them until they time out.
            pairs = self._was.astype(np.int64) * count + self._server
            held = np.bincount(pairs, minlength=held.size).reshape(held.shape)
        serving = np.flatnonzero(self._serving())
        weights = np.array(self._weights, dtype=np.int64)[serving]
        order = np.argsort(here, kind="stable")
        ends = np.cumsum(np.bincount(here, minlength=self._setup.nodes))
        for node, mine in enumerate(np.split(order, ends[:-1])):
            each = levelled(held[node, serving], weights, len(mine))
            # They come in any order.
            found[mine] = self._chance.permutation(np.repeat(serving, each))
        return found


def levelled(held: NDArray[np.int64], weights: NDArray[np.int64], more: int) -> NDArray[np.int64]:
    """How many of `more` each gets if one after another goes to whoever has the fewest for its weight.

    `held`: how many each has before. `weights`: above 0.
    """
    order = np.argsort(held / weights)
    # They rise to the same level like water, and who stands above it gets none. The last few go one by one, for each of
    # them is a part of a level only.
    most = max(more - len(held), 0)
    level = ((most + np.cumsum(held[order])) / np.cumsum(weights[order])).min()
    each: NDArray[np.int64] = np.maximum(np.ceil(level * weights - held - 1e-6), 0).astype(np.int64)
    counts, shares = (held + each).tolist(), weights.tolist()
    loads = [(count / share, place) for place, (count, share) in enumerate(zip(counts, shares, strict=True))]
    heapify(loads)
    for _ in range(more - int(each.sum())):
        place = loads[0][1]
        counts[place] += 1
        heapreplace(loads, (counts[place] / shares[place], place))
    return np.array(counts, dtype=np.int64) - held


class Path(Protocol):
    def nodes(self, up: Sequence[bool]) -> Ints:
        """The node of each flow."""


class _Threshold:
    def __init__(self, setup: Setup, hashes: NDArray[np.uint32]) -> None:
        self._hash, self._weights = hashes, setup.node_weights or (1,) * setup.nodes

    def nodes(self, up: Sequence[bool]) -> Ints:
        there = [place for place, one in enumerate(up) if one]
        weights = np.array([self._weights[place] for place in there], dtype=np.int64)
        total = int(weights.sum())
        # net/ipv4/fib_semantics.c: DIV_ROUND_CLOSEST_ULL(sum << 31, total) - 1, and the first that is not below the hash.
        bounds = ((np.cumsum(weights) << 31) + total // 2) // total - 1
        found: Ints = np.array(there, dtype=np.int32)[np.searchsorted(bounds, self._hash, side="left")]
        return found


class _Modulo:
    def __init__(self, setup: Setup, hashes: NDArray[np.uint32]) -> None:
        self._hash, self._weights = hashes, setup.node_weights or (1,) * setup.nodes

    def nodes(self, up: Sequence[bool]) -> Ints:
        there = np.repeat(
            np.array([place for place, one in enumerate(up) if one], dtype=np.int32),
            [weight for weight, one in zip(self._weights, up, strict=True) if one],
        )
        found: Ints = there[self._hash % len(there)]
        return found


class _Resilient:
    def __init__(self, setup: Setup, hashes: NDArray[np.uint32]) -> None:
        self._weights = np.array(setup.node_weights or (1,) * setup.nodes, dtype=np.float64)
        self._fill = setup.fill_again
        size = setup.buckets or max(128, 2 ** int(np.ceil(np.log2(8 * setup.nodes))))
        self._bucket = hashes % size
        self._owner = np.full(size, _NOBODY, dtype=np.int32)
        self._give(np.arange(size), [True] * setup.nodes)

    def nodes(self, up: Sequence[bool]) -> Ints:
        there = np.array(up)
        self._give(np.flatnonzero(~there[self._owner]), up)
        if self._fill:
            wanted = self._wanted(up)
            owned = np.bincount(self._owner, minlength=len(up))
            for place in np.flatnonzero(owned > wanted):
                spare = np.flatnonzero(self._owner == place)[: owned[place] - wanted[place]]
                self._owner[spare] = _NOBODY
            self._give(np.flatnonzero(self._owner == _NOBODY), up)
        found: Ints = self._owner[self._bucket]
        return found

    def _wanted(self, up: Sequence[bool]) -> NDArray[np.int64]:
        weights = np.where(np.array(up), self._weights, 0.0)
        ends = np.round(np.cumsum(weights) / weights.sum() * len(self._owner)).astype(np.int64)
        wanted: NDArray[np.int64] = np.diff(ends, prepend=0)
        return wanted

    def _give(self, buckets: NDArray[np.int64], up: Sequence[bool]) -> None:
        """To the nodes that have fewer than their part."""
        owned = np.bincount(self._owner[self._owner >= 0], minlength=len(up))
        owned[~np.array(up)] = 0
        kept = (
            np.bincount(np.delete(self._owner, buckets), minlength=len(up))
            if len(buckets) < len(self._owner)
            else 0
        )
        lacking = np.maximum(self._wanted(up) - kept, 0)
        receivers = np.repeat(np.arange(len(up), dtype=np.int32), lacking)[: len(buckets)]
        self._owner[buckets[: len(receivers)]] = receivers
        rest = buckets[len(receivers) :]
        if len(rest):
            self._owner[rest] = np.resize(np.flatnonzero(np.array(up)), len(rest))


def _hrw(setup: Setup, hashes: NDArray[np.uint32]) -> Path:
    if setup.node_weights:
        raise ValueError("the hrw here knows no weights: write no --node-weights")
    return HighestRandomWeight(hashes, setup.nodes)


PATHS: Mapping[Router, Callable[[Setup, NDArray[np.uint32]], Path]] = {
    Router.THRESHOLD: _Threshold,
    Router.MODULO: _Modulo,
    Router.RESILIENT: _Resilient,
    Router.HRW: _hrw,
}
