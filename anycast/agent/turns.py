"""What the turn of this node is decided by, as far as it is no part of the core's state."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from anycast.core.fleet import codec
from anycast.core.fleet.asking import asks
from anycast.core.fleet.codec import BrokenError, Heard
from anycast.core.fleet.headroom import refusal
from anycast.core.fleet.routed import lacking
from anycast.core.fleet.turn import LAST, Stage, Wish, decide, hindrances, leaving
from anycast.core.fleet.values import Document, VipTold
from anycast.core.state import State
from anycast.core.values.fleet import Fleet
from anycast.fleet.own import own
from anycast.ops.fleet import standing_of


def counted(state: State, scope: str, number: int | None, now: float) -> frozenset[str]:
    """The nodes that `hindered` takes to leave, too."""
    fleet = asks(state, scope)
    return (
        frozenset()
        if fleet is None
        else frozenset(leaving(state.fleet, _wish(state, scope, number), fleet, now=now))
    )


def _wish(state: State, scope: str, number: int | None) -> Wish:
    return Wish(node=state.config.node.name, scope=scope, number=LAST if number is None else number)


async def hindered(state: State, scope: str, number: int | None, now: float) -> tuple[str, ...] | None:
    """What of the VIPs is in the way of a turn. `number`: None: it is asked for now, and comes after all who ask.

    None: it was not looked at.
    """
    fleet = asks(state, scope)
    if fleet is None:
        return ()
    wish = _wish(state, scope, number)
    if state.seat.stage is Stage.QUEUED and decide(state.fleet, wish, fleet, now=now).reasons:
        return None  # it waits for another node, and looks at VIPs when that is back
    own = await of_itself(state)
    # A thread: of a thousand VIPs on many nodes it takes a while.
    return await asyncio.to_thread(_all, own, state, wish, fleet, now)


def _all(own: Document, state: State, wish: Wish, fleet: Fleet, now: float) -> tuple[str, ...]:
    ahead = leaving(state.fleet, wish, fleet, now=now)
    full = refusal(own, state.fleet, fleet, wish.scope, now, ahead=ahead)
    by_nodes = hindrances(own, state.fleet, wish, fleet, now=now)
    return (*by_nodes, *lacking(state, wish.scope, fleet), *full)


async def of_itself(state: State) -> Document:
    """What this node says of itself. Without its ops process: as far as its state tells, with no fingerprints of tables."""
    try:
        heard = await own(Path(state.config.node.runtime_dir))
    except (OSError, TimeoutError, BrokenError):
        return _as_known(state)
    return await asyncio.to_thread(_whole, heard)


def _whole(heard: Heard) -> Document:
    vips = {name: codec.told(row, heard.at) for rows in heard.pieces.values() for name, row in rows.items()}
    return codec.loaded(replace(heard.document, vips=vips))


def _as_known(state: State) -> Document:
    vips = {
        name: VipTold(standing=standing_of(state, name), reason=str(known.verdict.reason))
        for name, known in state.vips.items()
    }
    return Document(node=state.config.node.name, version="", vips=vips)
