"""The strict turn, in etcd: so many keys as nodes may be out at once, each of which one node can have.

A key is made by a transaction that holds only while there is none, so of two that ask in the same instant one gets it. It
is made under the node's lease, so it goes some time after its holder has: but neither does "it is there" mean that the
holder lives (a new leader of etcd prolongs every lease), nor does "it is gone" mean that it is back (one member that stood
still may end all leases). So a key that is there is only ever waited for, and one that is gone frees nothing by itself:
the agent looks besides at what the nodes say, and counts one that is not heard as out (`core.fleet.turn`).

The queue is another key of each node that waits; the order is that in which etcd has made them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from anycast.core.fleet import codec
from anycast.core.fleet.values import Claim, Holder, Register, Turn
from anycast.fleet.etcd import Client, Entry, Is, RefusedError, absent, delete, put

LIFE = 15  # seconds that a lease lasts without being kept: longer than etcd needs for another leader
_MOST = 64  # keys that are read of one kind
_TEXT = 200


@dataclass(frozen=True, slots=True)
class _Held:
    entry: Entry
    holder: Holder


class Slots:
    """Of one node. `step` brings what stands in etcd to what the node wants, however often something went wrong before."""

    def __init__(
        self,
        client: Client,
        prefix: str,
        node: str,
        max_out: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._slots = f"{prefix}turn/"
        self._queue = f"{prefix}queue/"
        self._node = node
        self._max_out = max_out
        self._clock = clock
        self._wall = wall
        self._lease = 0
        self._kept_at = -math.inf

    async def step(self, wanted: Turn | None) -> Register:
        """What stands now. `wanted`: what the node says of its turn; None: it neither asks nor is out. Raises EtcdError."""
        if wanted is not None:
            await self._keep()
        slots = await self._tidied(self._read(await self._client.below(self._slots)), wanted)
        queue = await self._tidied(self._read(await self._client.below(self._queue)), wanted)
        if wanted is not None and self._of(slots) is None:
            # Who is out already takes what is free; who asks waits for those who asked before.
            out = wanted.claim is Claim.HELD
            if not out and self._of(queue) is None:
                await self._write(f"{self._queue}{self._node}", wanted)
                queue = self._read(await self._client.below(self._queue))
            queue.sort(key=lambda one: one.entry.created)
            taken = {one.entry.key for one in slots}
            free = [
                key
                for key in (f"{self._slots}{number}" for number in range(self._max_out))
                if key not in taken
            ]
            first = [self._node] if out else [one.holder.node for one in queue]
            if self._node in first[: len(free)]:
                await self._write(free[first.index(self._node)], wanted)
                slots = self._read(await self._client.below(self._slots))
        mine = self._of(slots)
        if mine is not None and (waits := self._of(queue)) is not None:
            await self._remove([waits.entry])
            queue.remove(waits)
        queue.sort(key=lambda one: one.entry.created)
        return Register(
            mine=None if mine is None else mine.holder.number,
            holders=tuple(
                [await self._dated(one) for one in sorted(slots, key=lambda one: one.entry.created)]
            ),
            queue=tuple(one.holder for one in queue),
            heard=self._clock(),
        )

    def _of(self, found: Sequence[_Held]) -> _Held | None:
        return next((one for one in found if one.holder.node == self._node), None)

    async def _keep(self) -> None:
        """The lease, anew where it is gone: that says nothing of this node, and its keys are written again."""
        now = self._clock()
        if self._lease and now < self._kept_at + LIFE / 5:
            return
        if not self._lease or not await self._client.keep_alive(self._lease):
            self._lease = await self._client.grant(LIFE)
        self._kept_at = now

    async def _tidied(self, found: list[_Held], wanted: Turn | None) -> list[_Held]:
        """Without keys of this node that it does not want: of an asking that is over, or written late by a member that stood
        still. And with the one that it wants under its lease of now.
        """
        ours = [one for one in found if one.holder.node == self._node]
        if not ours:
            return found
        good = [one for one in ours if wanted is not None and one.holder.number == wanted.number][:1]
        bad = [one for one in ours if one not in good]
        if bad:
            await self._remove([one.entry for one in bad])
        for one in good:
            if one.entry.lease != self._lease and wanted is not None:
                await self._write(one.entry.key, wanted, over=one.entry)
        return [one for one in found if one not in bad]

    async def _remove(self, entries: Sequence[Entry]) -> None:
        """Each only as it was read."""
        for one in entries:
            await self._client.transact([Is(one.key, "MOD", one.modified)], then=[delete(one.key)])

    async def _write(self, key: str, wanted: Turn, *, over: Entry | None = None) -> bool:
        """Whether it is written: only where nothing stands, or what was read; and only while the lease lives."""
        value = {
            "node": self._node,
            "number": wanted.number,
            "by": wanted.by[:_TEXT],
            "reason": wanted.reason[:_TEXT],
            "since": round(self._wall() - wanted.ago, 1),
        }
        holds = absent([key]) if over is None else [Is(key, "MOD", over.modified)]
        try:
            return await self._client.transact(
                holds, then=[put(key, json.dumps(value).encode(), self._lease)]
            )
        except RefusedError as error:
            if error.is_full:
                raise
            self._lease = 0  # it is gone: the next step takes a new one
            return False

    def _read(self, entries: Sequence[Entry]) -> list[_Held]:
        """What others write is not trusted."""
        found = []
        for entry in entries[:_MOST]:
            try:
                body = json.loads(entry.value)
            except (ValueError, RecursionError):
                body = {}
            found.append(
                _Held(entry, _holder(body if isinstance(body, dict) else {}, entry.key, self._wall()))
            )
        return found

    async def _dated(self, one: _Held) -> Holder:
        """With the time until its key goes, unless it is kept."""
        ends = await self._client.left(one.entry.lease) if one.entry.lease else None
        return Holder(
            node=one.holder.node,
            number=one.holder.number,
            by=one.holder.by,
            reason=one.holder.reason,
            ago=one.holder.ago,
            ends_in=ends,
        )


def _holder(body: Mapping[str, object], key: str, wall: float) -> Holder:
    """`ago` is by the clock of the one who wrote it: for people, and nothing is decided by it."""
    number, since = body.get("number"), codec.figure(body, "since")
    ago = 0.0 if since is None else max(0.0, wall - since)
    return Holder(
        node=_line(body.get("node")) or _line(key.rpartition("/")[2]),
        number=number if isinstance(number, int) and codec.figure(body, "number") is not None else 0,
        by=_line(body.get("by")),
        reason=_line(body.get("reason")),
        ago=ago,
    )


def _line(found: object) -> str:
    text = found if isinstance(found, str) else ""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_TEXT]
