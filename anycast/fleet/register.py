"""The source `etcd`: each node writes what it says of itself under a lease of its own, and reads what the others wrote.

What etcd's answers mean was measured (`anycast.fleet.etcd`). A lease that is lost says nothing of a node: one pause of a
member of etcd can end those of all nodes at once. So whoever loses his takes another and writes again, and a key that has
vanished is looked at a second time before anything follows from it (`core.fleet.believe`). Etcd grows with every write, and
by default nothing makes it smaller: figures that change a little are no reason to write.

    PREFIXnodes/NODE          what the node says of itself, without its VIPs, and the digests of their pieces
    PREFIXvips/NODE/DIGEST    a piece; never changed

That a key stands does not say that its node does: it has its lease, and a new leader prolongs that. Where something depends
on it (`fleet.velocity`) a node asks: it writes `asks`, an instant by its own clock. Whoever reads another one than before
writes in its next beat, with that instant in `answers`. So who asked knows, by its own clock alone and however slow etcd is,
that the other was there after that instant, and wrote what stands there.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from anycast.core.fleet import codec
from anycast.core.fleet.codec import BrokenError, Heard, Row
from anycast.core.fleet.values import Document, Load, Source, VipStanding, VipTold
from anycast.core.fleet.velocity import known_after
from anycast.fleet.etcd import Client, Entry, EtcdError, Is, RefusedError, delete, put
from anycast.fleet.frames import Task, Told
from anycast.fleet.memory import Memory
from anycast.fleet.own import own

LIFE = 10  # seconds that a lease lasts without being kept: longer than etcd needs for another leader
REFRESH = 60.0  # seconds after which it is written though nothing has changed: ages count from there
FIGURES = 30.0  # seconds between two writes for the sake of figures alone
MUCH = 0.1  # of a figure: less is no change
ASK = 10.0  # seconds between two questions, at first
MOST_ASK = 600.0  # of a VIP that has stood so for long
_MOST_ASKS = 8  # of which an answer is still taken
MOST_VALUE = 64 * 1024  # bytes of a key's value
_AT_ONCE = 32  # pieces in a transaction
_MOST_NODES = 64
GONE = "its key in etcd is gone: it does not keep its lease, or etcd has lost it"

log = structlog.get_logger()


@dataclass(slots=True)
class _Written:
    """What this node wrote last, under the lease that it has."""

    head: Mapping[str, Any] = field(default_factory=dict)
    pieces: frozenset[str] = frozenset()
    body: bytes = b""
    at: float = -math.inf
    asks: float | None = None
    answers: Mapping[str, float] = field(default_factory=dict)


class Register:
    """Of one node. `beat` writes what is to be written and reads the others."""

    def __init__(
        self, task: Task, client: Client, hear: Callable[[Told], None], alive: Callable[[str, float], None]
    ) -> None:
        self._node = task.node
        self._runtime = Path(task.runtime_dir)
        prefix = "" if task.fleet.etcd is None else task.fleet.etcd.prefix
        self._nodes, self._vips = f"{prefix}nodes/", f"{prefix}vips/"
        self._names = frozenset(one.name for one in task.fleet.peers)  # empty: all that register
        self._client = client
        self._hear = hear
        self._alive = alive
        self._lease = 0
        self._written = _Written()
        self._spoke = math.inf  # the instant at which this node said last what it is
        self._others: dict[str, Memory] = {}
        self._read: dict[str, int] = {}  # of each node, the revision that was read last
        self._known_after = known_after(task.fleet) if task.fleet.limits else math.inf
        self._asks: deque[float] = deque(maxlen=_MOST_ASKS)  # the newest last
        self._asked: dict[str, float] = {}  # by other nodes, what each wrote last

    async def beat(self, now: float) -> None:
        """Raises EtcdError."""
        said = await self._said(now)
        # One that goes on saying nothing, as where its agent hangs, keeps its lease no longer: what stands there is not so any
        # more.
        if now <= self._spoke + LIFE:
            await self._keep()
        found = {one.key.removeprefix(self._nodes): one for one in await self._client.below(self._nodes)}
        mine = found.pop(self._node, None)
        entries = {name: one for name, one in found.items() if not self._names or name in self._names}
        if said is not None:
            await self._write(said, mine, now)
        for name, entry in list(entries.items())[:_MOST_NODES]:
            await self._take(name, entry, now)
        self._asked = {name: one for name, one in self._asked.items() if name in entries}
        for name, memory in self._others.items():
            if name not in entries and memory.failed(GONE, now, answers=False):
                self._hear(memory.told)

    async def _keep(self) -> None:
        """A lease that is gone says nothing of this node: it takes another."""
        if self._lease and not await self._client.keep_alive(self._lease):
            log.warning("fleet.lease_lost", lease=self._lease)
            self._lease = 0
        if not self._lease:
            self._lease, self._written = await self._client.grant(LIFE), _Written()

    async def _said(self, now: float) -> Heard | None:
        """None: the ops process is being started again, or does not answer for an agent that hangs."""
        try:
            heard = await own(self._runtime)
        except (OSError, TimeoutError, BrokenError):
            self._spoke = min(self._spoke, now)
            return None
        self._spoke = now
        return heard

    async def _write(self, heard: Heard, mine: Entry | None, now: float) -> None:
        head, pieces = _spelt(heard)
        if mine is None or mine.lease != self._lease or mine.value != self._written.body:
            self._written = _Written()  # another lease's, or something late
        written, waits = self._written, self._waits(heard)
        if waits is not None and (not self._asks or heard.at >= self._asks[-1] + waits):
            self._asks.append(heard.at)
        asks = self._asks[-1] if waits is not None and self._asks else None
        is_open = asks not in (None, written.asks) or not self._asked.items() <= written.answers.items()
        if not is_open and not self._is_other(head, pieces, written, now):
            return
        fresh = [one for digest, one in pieces.items() if digest not in written.pieces]
        key = f"{self._vips}{self._node}/"
        revision = 0 if mine is None else mine.modified
        compare = [Is(f"{self._nodes}{self._node}", "MOD", revision)]
        for first in range(0, len(fresh), _AT_ONCE):
            some = [
                put(f"{key}{one.digest}", one.text.encode(), self._lease)
                for one in fresh[first : first + _AT_ONCE]
            ]
            if not await self._client.transact(compare, then=some):
                return  # something late was carried out meanwhile: the next beat sees it
        gone = [delete(f"{key}{digest}") for digest in list(written.pieces - pieces.keys())[:_AT_ONCE]]
        answers = dict(self._asked)
        told = {**head, "at": heard.at, "pieces": list(pieces), "asks": asks, "answers": answers}
        body = json.dumps(told, separators=(",", ":")).encode()
        then = [put(f"{self._nodes}{self._node}", body, self._lease), *gone]
        if await self._client.transact(compare, then=then):
            self._written = _Written(head, frozenset(pieces), body, now, asks, answers)

    def _waits(self, heard: Heard) -> float | None:
        """Seconds after its last question in which the node asks again; None: nothing depends on an answer, or not yet.

        A VIP that has stood so for long is asked for less often: etcd grows by each answer of each node.
        """
        if math.isinf(self._known_after):
            return None
        ages = (
            heard.at - since
            for rows in heard.pieces.values()
            for standing, _, since, *_ in rows.values()
            if standing == VipStanding.LAST_RESORT
        )
        age = min((one for one in ages if one >= self._known_after), default=None)
        return None if age is None else min(max(ASK, age / 2), MOST_ASK)

    @staticmethod
    def _is_other(
        head: Mapping[str, Any], pieces: Mapping[str, object], written: _Written, now: float
    ) -> bool:
        if written.pieces != pieces.keys() or now > written.at + REFRESH:
            return True
        if _without_figures(head) != _without_figures(written.head):
            return True
        return now > written.at + FIGURES and any(
            _differ(head.get(one), written.head.get(one)) for one in _FIGURES
        )

    async def _take(self, name: str, entry: Entry, now: float) -> None:
        memory = self._others.setdefault(name, Memory(Told(name=name, source=Source.ETCD)))
        try:
            if self._read.get(name) == entry.modified:
                if memory.same(now):
                    self._hear(memory.told)
                else:
                    self._alive(name, now)
                return
            head = _head(entry)
            heard = await self._whole(name, head, memory.pieces)
            if heard.document.node != name:
                raise BrokenError(f"{heard.document.node[:64]} has written it")
        except BrokenError as error:
            if memory.failed(f"what it wrote cannot be read: {error}", now, answers=True):
                self._hear(memory.told)
            return
        self._read[name] = entry.modified
        if (asks := codec.figure(head, "asks")) is None:
            self._asked.pop(name, None)
        else:
            self._asked[name] = asks
        memory.news(heard, now, self._said_after(head))
        self._hear(memory.told)

    def _said_after(self, head: Mapping[str, Any]) -> float | None:
        """The question of this node that it answers."""
        answers = head.get("answers")
        found = codec.figure(answers, self._node) if isinstance(answers, dict) else None
        return found if found in self._asks else None

    async def _whole(
        self, name: str, head: Mapping[str, Any], known: Mapping[str, Mapping[str, Row]]
    ) -> Heard:
        """Raises BrokenError, EtcdError."""
        digests = [one for one in head["pieces"] if isinstance(one, str)]
        fresh = {}
        if any(one not in known for one in digests):
            for one in await self._client.below(f"{self._vips}{name}/"):
                digest = one.key.rpartition("/")[2]
                if digest in digests and digest not in known and len(one.value) <= MOST_VALUE:
                    fresh[digest] = one.value.decode("utf-8", "replace")
        vips = ",".join(f"{json.dumps(digest)}:{text}" for digest, text in fresh.items())
        text = json.dumps({key: value for key, value in head.items() if key != "vips"})
        return codec.read(f'{text[:-1]},"vips":{{{vips}}}}}'.encode(), known)


_FIGURES = ("load", "rest", "loads")


def _head(entry: Entry) -> Mapping[str, Any]:
    """Raises BrokenError."""
    try:
        head = json.loads(entry.value)
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or not isinstance(head.get("pieces"), list):
        raise BrokenError("it is no document")
    return head


def _spelt(heard: Heard) -> tuple[Mapping[str, Any], Mapping[str, codec.Piece]]:
    """As the own ops process made them."""
    document: Document = replace(heard.document, vips=dict(_of_loads(codec.unpacked(heard.document.loads))))
    pieces = [codec.piece(rows) for rows in heard.pieces.values()]
    return codec.head(document, born=heard.born, at=heard.at), {one.digest: one for one in pieces}


def _of_loads(loads: Mapping[str, Load]) -> Iterator[tuple[str, VipTold]]:
    for name, load in loads.items():
        yield name, VipTold(standing=VipStanding.ANNOUNCED, load=load)


def _without_figures(head: Mapping[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in head.items() if key not in _FIGURES}


def _differ(new: Any, old: Any) -> bool:
    """By more than a little."""
    if isinstance(new, dict) and isinstance(old, dict):
        return new.keys() != old.keys() or any(_differ(one, old[key]) for key, one in new.items())
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        return any(map(_differ, new, old))
    if isinstance(new, int | float) and isinstance(old, int | float):
        return not math.isclose(new, old, rel_tol=MUCH, abs_tol=1.0)
    return bool(new != old)


async def keep_registered(
    task: Task,
    hear: Callable[[Told], None],
    alive: Callable[[str, float], None],
    problem: Callable[[str], None],
) -> None:
    """Until it is cancelled."""
    settings = task.fleet.etcd
    if settings is None:
        return
    loop, told = asyncio.get_running_loop(), ""
    async with Client(settings) as client:
        register = Register(task, client, hear, alive)
        due = loop.time()
        while True:
            why = ""
            try:
                await register.beat(loop.time())
            except RefusedError as error:
                why = f"etcd is full: {error}" if error.is_full else f"etcd refuses: {error}"
            except (EtcdError, OSError) as error:
                why = f"etcd cannot be asked: {error}"
            except Exception:
                log.exception("fleet.unexpected", peer="etcd")
                why = "a defect of this program: see the log"
            if why != told:
                told = why
                if why:
                    log.warning("fleet.etcd_failed", why=why)
                problem(why)
            due = max(due + task.fleet.interval, loop.time())
            await asyncio.sleep(due - loop.time())
