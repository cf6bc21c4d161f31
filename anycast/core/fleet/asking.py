"""The turn of this node, as its state has it: who asks to leave, what comes of it, and what others are told.

Asked again and again, it looks each time at what is known by then: nothing is looked at while nobody asks. The lease, the
checks and the kernel know nothing of it.
"""

from __future__ import annotations

import math
from dataclasses import replace

from anycast.core import standing
from anycast.core.events import Effect, LeaveAsked, Log
from anycast.core.fleet.turn import (
    Answer,
    Seat,
    Signal,
    Stage,
    Wish,
    decide,
    drawn,
    leaving,
    looked,
    moved,
    settle_of,
    too_many,
)
from anycast.core.fleet.values import Claim, Turn, View
from anycast.core.maintenance import progress as maintenances
from anycast.core.maintenance.stages import FILE, NODE, NODE_SCOPES, STOP, Maintenance, is_server
from anycast.core.maintenance.stages import Stage as Of
from anycast.core.state import State
from anycast.core.values.fleet import Fleet
from anycast.core.values.standing import Condition


def asks(state: State, scope: str) -> Fleet | None:
    """The fleet that is asked before the scope leaves; None: nobody is, or it has left already."""
    if (
        is_server(scope)
        or scope in {FILE, STOP}
        or not state.maintenance.keys().isdisjoint({scope, *NODE_SCOPES})
    ):
        return None
    return _fleet(state)


def _fleet(state: State) -> Fleet | None:
    fleet = state.config.fleet
    return fleet if fleet is not None and fleet.asks else None


def turn(state: State, now: float) -> Turn | None:
    """What others are told. A node that is out has the turn, whether it has asked or not."""
    scopes = [scope for scope in NODE_SCOPES if scope in state.maintenance]
    seat = state.seat
    if not scopes or (seat.stage is Stage.HELD and seat.wish.scope == NODE):
        return seat.told(now)
    entry = state.maintenance[scopes[0]]
    return Turn(
        claim=Claim.HELD,
        ago=0.0 if entry.began is None else max(0.0, now - entry.began),
        number=0,
        by=entry.by,
        reason=entry.reason,
        forced=entry.began is not None,
    )


def is_of(seat: Seat, scope: str, number: int | None, by: str) -> bool:
    """Whether who asks so is the one who asks already, perhaps once more from the beginning."""
    return seat.wish.scope == scope and (number == seat.wish.number or (number is None and seat.by == by))


def ask(state: State, event: LeaveAsked, now: float) -> tuple[State, list[Effect]]:
    """Look whether it may leave; if so, it does. Of one who asks while another does here nothing is taken."""
    fleet = asks(state, event.scope)
    if fleet is None:
        return maintenances.put(state, event.scope, event.entry, skip_drain=event.skip_drain, now=now)
    view, effects = state.fleet, list[Effect]()
    seat = state.seat
    if seat.is_asking and not is_of(seat, event.scope, event.number, event.entry.by):
        return state, []
    if not seat.is_asking:
        number = event.number or drawn(view, event.random)
        wish = Wish(node=state.config.node.name, scope=event.scope, number=number, said=now)
        seat = Seat(
            stage=moved(Stage.FREE, Signal.ASK),
            wish=wish,
            asked=now - event.ago,
            by=event.entry.by,
            reason=event.entry.reason,
        )
        effects.append(_log("turn.asked", seat))
    decision = decide(view, seat.wish, fleet, event.hindered or (), now=now)
    if decision.answer is Answer.GRANTED and _is_stale(event, view, seat.wish, fleet, now):
        decision = replace(decision, answer=Answer.UNKNOWN)
    after = looked(seat, decision, waits=event.waits, now=now)
    if after.stage is Stage.QUEUED and seat.stage is not Stage.QUEUED:
        effects.append(_log("turn.queued", after, place=decision.place, reasons=list(decision.reasons)))
    elif after.stage is Stage.FREE:
        effects.append(_log("turn.refused", after, level="warning", reasons=list(decision.reasons)))
    elif decision.answer is Answer.GRANTED:
        effects.append(_log("turn.granted", after, after_s=round(now - after.asked, 1)))
        if event.scope != NODE:
            # Until others have heard that the VIP is on its way out, it counts as theirs to keep.
            after = replace(after, ends=now + settle_of(fleet))
        state = replace(state, seat=after)
        state, more = maintenances.put(state, event.scope, event.entry, skip_drain=event.skip_drain, now=now)
        return state, [*effects, *more]
    return replace(state, seat=after), effects


def _is_stale(event: LeaveAsked, view: View, wish: Wish, fleet: Fleet, now: float) -> bool:
    """Whether what is in the way was looked at before it was heard that others leave, or not at all: it is looked at again."""
    if event.hindered is None:
        return True
    return event.counted is not None and not leaving(view, wish, fleet, now=now).keys() <= event.counted


def given_up(state: State, scope: str, *, number: int | None, by: str) -> tuple[State, list[Effect]]:
    """Nobody asks for the scope any more; a maintenance that has begun is none of this."""
    seat = state.seat
    if not seat.is_asking or seat.wish.scope != scope or number not in {None, seat.wish.number}:
        return state, []
    return _free(state), [_log("turn.given_up", seat, why="off", by=by)]


def skipped(state: State, scope: str, entry: Maintenance) -> tuple[State, list[Effect]]:
    """A maintenance begins without its turn: by force, by file, or because the agent stops. Nothing is in its way."""
    out = not state.maintenance.keys().isdisjoint({scope, *NODE_SCOPES})
    if _fleet(state) is None or is_server(scope) or out:
        return state, []
    seat = state.seat
    if seat.is_asking and seat.wish.scope == scope:
        seat = replace(seat, stage=moved(seat.stage, Signal.FORCE), forced=True, ends=math.inf)
    fields = {
        "scope": "node" if scope in NODE_SCOPES else scope,
        "by": entry.by,
        "reason": entry.reason,
        "how": {FILE: "file", STOP: "stop"}.get(scope, "force"),
    }
    return replace(state, seat=seat), [Log(event="turn.skipped", fields=fields, level="warning")]


def concluded(before: State, state: State, now: float) -> tuple[State, list[Effect]]:
    """What follows from what was heard, and from time."""
    effects: list[Effect] = []
    seat = state.seat
    if seat.stage is not Stage.FREE and now >= seat.ends:
        if seat.stage is not Stage.HELD:
            effects.append(_log("turn.given_up", seat, why="nobody asks any more", by=""))
        state = _free(state)
    if seat.stage is Stage.HELD and seat.wish.scope not in state.maintenance:
        state = _free(state)
    if state.fleet is before.fleet and state.maintenance is before.maintenance:
        return state, effects
    state, more = _counted(state, now)
    return state, [*effects, *more]


def _counted(state: State, now: float) -> tuple[State, list[Effect]]:
    """Whether more are out than may be, as far as this node is one of them."""
    fleet = _fleet(state)
    own = None if state.maintenance.keys().isdisjoint(NODE_SCOPES) else turn(state, now)
    told, effects = "", list[Effect]()
    if fleet is not None and own is not None:
        seat = state.seat
        wish = Wish(node=state.config.node.name, number=own.number)
        found = too_many(state.fleet, own, wish, fleet, now=now)
        told = found.text
        drains = NODE in state.progress and state.progress[NODE].stage is Of.DRAINING
        others = any(scope in state.maintenance for scope in (FILE, STOP))
        if found.give_way and drains and not others:
            seat = replace(seat, stage=moved(seat.stage, Signal.LOST))
            to = ", ".join(found.give_way)
            effects.append(_log("turn.gave_way", state.seat, level="error", to=to, told=told))
            state, more = maintenances.end(
                replace(state, seat=seat), NODE, why=f"{to} has the turn too, and goes first"
            )
            effects += more
            told = ""
    state, more = standing.told(state, Condition.TOO_MANY_OUT, "", told, now)
    return state, [*effects, *more]


def wakes(state: State, now: float) -> list[float]:
    """The instant at which the turn ends by itself."""
    return [state.seat.ends] if now < state.seat.ends < math.inf else []


def _free(state: State) -> State:
    return replace(state, seat=replace(state.seat, stage=moved(state.seat.stage, Signal.END), ends=math.inf))


def _log(event: str, seat: Seat, *, level: str = "info", **said: object) -> Log:
    fields = {"scope": seat.wish.scope or "node", "by": seat.by, "reason": seat.reason, **said}
    return Log(event=event, fields=fields, level=level)
