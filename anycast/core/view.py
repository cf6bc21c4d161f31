"""What the routers have of this node's VIPs: received, not received, or not known and why.

It decides nothing: no verdict and no route rests on it. The first rule is no false alarm. A path that is not there proves
something only where the router is known to send a node its own path back, sends every path, and has sent all it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from heapq import nsmallest
from itertools import islice

from anycast.core.events import Effect, Log
from anycast.core.preference import is_internal
from anycast.core.prefixes import is_host_route
from anycast.core.state import Seen, State
from anycast.core.values.configuration import Neighbor
from anycast.core.values.persistent import PersistentMap
from anycast.core.values.report import Report
from anycast.core.values.route import Prefix
from anycast.core.values.sight import Sight, ViewChange
from anycast.core.values.software import Daemon

PATIENCE = 4.5  # seconds without a path that should be there until it is an alarm: told within 5 s
SLICE = 100  # prefixes that become an alarm in one step
NAMED = 5
_NOTHING: PersistentMap[Prefix, float] = PersistentMap()


class Receipt(StrEnum):
    """Whether a router has this node's path. Stable words."""

    RECEIVED = "received"
    NOT_RECEIVED = "not_received"
    AWAITED = "awaited"  # it is not there, and has time for it yet
    NOT_ANNOUNCED = "not_announced"  # to this router, or not acknowledged yet
    UNKNOWN = "unknown"


class Doubt(StrEnum):
    """Why it is not known. Stable words."""

    NO_VIEW = "no_view"
    SPEAKER = "speaker"
    NO_PLUGIN = "no_plugin"
    NOT_TOLD = "not_told"
    EXABGP_SILENT = "exabgp_silent"
    NO_SESSION = "no_session"
    BEGAN_LATER = "began_later"
    ARRIVING = "arriving"
    NO_ADD_PATH = "no_add_path"
    INTERNAL = "internal"
    NEVER_OWN = "never_own"
    SOFTWARE_UNKNOWN = "software_unknown"
    UNMARKED = "unmarked"
    TOO_MANY = "too_many"


_WORDS = {
    Doubt.NO_VIEW: "the router is not asked what it has (bgp.view)",
    Doubt.SPEAKER: "the speaker is BIRD, or another daemon that learns the kernel's table: it does not tell what routers send back",
    Doubt.NO_PLUGIN: "no plugin is connected that could tell",
    Doubt.NOT_TOLD: "the plugin tells of no such session (does ExaBGP have it?)",
    Doubt.EXABGP_SILENT: "ExaBGP does not answer",
    Doubt.NO_SESSION: "the session is not up",
    Doubt.BEGAN_LATER: "the session was up before the plugin began to count (at its start, or with another mark), so what the "
    "router had is not known (it is after the session's next start)",
    Doubt.ARRIVING: "the session has just come up, and what the router has is still arriving",
    Doubt.NO_ADD_PATH: "the router sends no more than its best path, without add-path (load what `anycast render` writes for "
    "it)",
    Doubt.INTERNAL: "a router of the node's own AS sends back nothing, unless it is a route reflector",
    Doubt.NEVER_OWN: "{software} never sends a node its own path",
    Doubt.SOFTWARE_UNKNOWN: "this router has not sent this node's path back yet: not every software does (write bgp.software)",
    Doubt.UNMARKED: "the router has a path that nobody has marked, which may be this node's",
    Doubt.TOO_MANY: "the router sends more paths than are kept",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """What is known of one prefix at one router.

    `since`: of what `receipt` says; None: not known. `others`, `last_resort`: as in `Sight`; None: not known. `at_least`:
    there may be more of them.
    """

    receipt: Receipt
    since: float | None = None
    doubt: Doubt | None = None
    why: str = ""
    others: int | None = None
    last_resort: int | None = None
    at_least: bool = False


def at(state: State, neighbor: Neighbor, prefix: Prefix) -> At:
    """What this router has of the prefix."""
    address = str(neighbor.address)
    found = state.views.of(address)
    doubt = _blind(state, neighbor, found)
    if found is None or doubt in _DARK:
        return _unknown(neighbor, doubt or Doubt.NOT_TOLD)
    seen = found[1]
    sight = seen.sights.get(prefix)
    others, last, least = _others(state, neighbor, seen, prefix, complete=doubt is None)
    known = At(receipt=Receipt.UNKNOWN, others=others, last_resort=last, at_least=least)
    if sight is not None and sight.mine is not None:
        return replace(known, receipt=Receipt.RECEIVED, since=sight.mine)
    doubt = doubt or _without(state, neighbor, seen, prefix, sight)
    if doubt is not None:
        return replace(known, doubt=doubt, why=words(neighbor, doubt))
    if sight is None or sight.missing is None:
        return replace(known, receipt=Receipt.NOT_ANNOUNCED)
    told = prefix in state.views.told.get(address, _NOTHING)
    receipt = Receipt.NOT_RECEIVED if told else Receipt.AWAITED
    return replace(known, receipt=receipt, since=sight.missing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What is known of one router in all. `doubt`: why it is not all that the router has, in words too; None: it is.

    `since`: then it was. `received`, `not_received`: prefixes; the second ones are an alarm.
    """

    doubt: Doubt | None
    why: str = ""
    since: float | None = None
    received: int = 0
    not_received: int = 0
    paths: int = 0
    dropped: int = 0


def sums(state: State, neighbor: Neighbor) -> Sums:
    address = str(neighbor.address)
    found = state.views.of(address)
    doubt = _blind(state, neighbor, found)
    why = "" if doubt is None else words(neighbor, doubt)
    if found is None or doubt in _DARK:
        return Sums(doubt=doubt, why=why)
    seen = found[1]
    return Sums(
        doubt=doubt,
        why=why,
        since=seen.view.complete,
        received=sum(one.mine is not None for one in seen.sights.values()),
        not_received=len(state.views.told.get(address, _NOTHING)),
        paths=seen.view.paths,
        dropped=seen.view.dropped,
    )


def words(neighbor: Neighbor, doubt: Doubt) -> str:
    software = neighbor.software.daemon.spelt if neighbor.software is not None else "this router"
    return _WORDS[doubt].format(software=software)


def _unknown(neighbor: Neighbor, doubt: Doubt) -> At:
    return At(receipt=Receipt.UNKNOWN, doubt=doubt, why=words(neighbor, doubt))


_DARK = frozenset(
    {Doubt.NO_VIEW, Doubt.SPEAKER, Doubt.NO_PLUGIN, Doubt.NOT_TOLD, Doubt.EXABGP_SILENT, Doubt.NO_SESSION}
)
"""Nothing at all is known."""


def _blind(state: State, neighbor: Neighbor, found: tuple[int, Seen] | None) -> Doubt | None:
    """Why the view is not all that the router has; None: it is."""
    if not neighbor.view:
        return Doubt.NO_VIEW
    if state.config.speaker.is_table:
        return Doubt.SPEAKER
    if not state.plugins:
        return Doubt.NO_PLUGIN
    if found is None:
        return Doubt.NOT_TOLD
    source, seen = found
    report = state.plugins.get(source)
    if report is None:
        return Doubt.NO_PLUGIN
    if report.silent_since is not None:
        return Doubt.EXABGP_SILENT
    if not _is_up(report, str(neighbor.address)):
        return Doubt.NO_SESSION
    if seen.view.up and seen.view.since is None:
        return Doubt.BEGAN_LATER
    return Doubt.ARRIVING if seen.view.complete is None else None


def _is_up(report: Report, address: str) -> bool:
    return any(one.address == address and one.state == "up" for one in report.neighbors)


def _echoes(state: State, neighbor: Neighbor, seen: Seen) -> Doubt | None:
    """Why the router may never send this node's own path; None: it does."""
    if seen.view.echoes:
        return None
    if is_internal(state.config.bgp, neighbor):
        return Doubt.INTERNAL
    if neighbor.software is None:
        return Doubt.SOFTWARE_UNKNOWN
    return None if neighbor.software.daemon is Daemon.FRR else Doubt.NEVER_OWN


def _without(
    state: State, neighbor: Neighbor, seen: Seen, prefix: Prefix, sight: Sight | None
) -> Doubt | None:
    """Why it proves nothing that the path is not there; None: it does."""
    if (doubt := _echoes(state, neighbor, seen)) is not None:
        return doubt
    if prefix.version not in seen.view.add_path:
        return Doubt.NO_ADD_PATH
    if seen.view.full:
        return Doubt.TOO_MANY
    return Doubt.UNMARKED if sight is not None and sight.unmarked else None


def _others(
    state: State, neighbor: Neighbor, seen: Seen, prefix: Prefix, *, complete: bool
) -> tuple[int | None, int | None, bool]:
    sight = seen.sights.get(prefix)
    found, last = (0, 0) if sight is None else (sight.others, sight.last_resort)
    least = (
        not complete
        or prefix.version not in seen.view.add_path
        or seen.view.full
        or (sight is not None and sight.partial)
        or _echoes(state, neighbor, seen) is Doubt.INTERNAL
        # With nodes of one AS it sends nothing at all.
        or (neighbor.software is not None and neighbor.software.daemon is Daemon.GOBGP)
    )
    return (None, None, False) if least and not found else (found, last, least)


def saw(state: State, source: int, change: ViewChange) -> State:
    """What a plugin tells of the routers."""
    if source not in state.plugins:
        return state
    before = {} if change.first else state.views.seen.get(source, {})
    told = dict(change.sights)
    after: dict[str, Seen] = {}
    for view in change.views:
        known = before.get(view.neighbor)
        sights = PersistentMap[Prefix, Sight]()
        if known is not None and known.view.number == view.number:
            sights = known.sights
        new = told.get(view.neighbor, ())
        kept = {one.prefix: one for one in new if not one.is_empty}
        sights = sights.updated(kept, [one.prefix for one in new if one.is_empty])
        after[view.neighbor] = Seen(view=view, sights=sights)
    views = replace(state.views, seen={**state.views.seen, source: after})
    state = replace(state, views=views)
    for neighbor in {*before, *after}:
        touched = [one.prefix for one in told.get(neighbor, ())]
        known = before.get(neighbor)
        new_view = after[neighbor].view if neighbor in after else None
        same = known is not None and new_view is not None and _proves(known) == _proves(after[neighbor])
        state = _compared(state, neighbor, touched if same else None)
    return state


def _proves(seen: Seen) -> tuple[object, ...]:
    """All of a view on which it depends whether something counts as missing."""
    view = seen.view
    return view.number, view.up, view.since, view.complete is None, view.add_path, view.echoes, view.full


def lost(state: State, source: int) -> State:
    """The plugin is gone."""
    gone = state.views.seen.get(source)
    if gone is None:
        return state
    seen = {number: each for number, each in state.views.seen.items() if number != source}
    state = replace(state, views=replace(state.views, seen=seen))
    for neighbor in gone:
        state = _compared(state, neighbor, None)
    return state


def compared(before: State, state: State) -> State:
    """With what counts as missing now, where the configuration or a report can have changed that."""
    if not state.views.seen:
        return state
    if state.config.bgp != before.config.bgp:
        changed = {neighbor for each in state.views.seen.values() for neighbor in each}
    elif state.plugins is not before.plugins:
        changed = {
            neighbor
            for source, each in state.views.seen.items()
            if _answers(before.plugins.get(source)) != _answers(state.plugins.get(source))
            for neighbor in each
        }
    else:
        return state
    for neighbor in changed:
        state = _compared(state, neighbor, None)
    return state


def _answers(report: Report | None) -> object:
    if report is None:
        return None
    return report.silent_since is None, tuple(one.address for one in report.neighbors if one.state == "up")


def _compared(state: State, address: str, touched: Iterable[Prefix] | None) -> State:
    """`touched`: nothing else of this neighbor has changed; None: anything may."""
    views = state.views
    waiting, told = views.waiting.get(address, _NOTHING), views.told.get(address, _NOTHING)
    since = _since(state, address, touched)
    if touched is None:
        new = {prefix: one for prefix, one in since.items() if prefix not in told}
        after = PersistentMap(new) if new or waiting else waiting
        back = [prefix for prefix in told if prefix not in since]
    else:
        gone = [prefix for prefix in touched if prefix not in since]
        new = {prefix: one for prefix, one in since.items() if prefix not in told}
        after = waiting.updated(new, gone)
        back = [prefix for prefix in gone if prefix in told]
    if after is waiting and not back:
        return state
    look_at = min([views.look_at, *(one + PATIENCE for one in new.values())])
    return replace(
        state,
        views=replace(
            views,
            waiting=_with(views.waiting, address, after),
            told=_with(views.told, address, told.updated({}, back)) if back else views.told,
            look_at=look_at,
        ),
    )


def _with(
    whole: Mapping[str, PersistentMap[Prefix, float]], address: str, part: PersistentMap[Prefix, float]
) -> dict[str, PersistentMap[Prefix, float]]:
    rest = {one: found for one, found in whole.items() if one != address}
    return {**rest, address: part} if part else rest


def _since(state: State, address: str, touched: Iterable[Prefix] | None) -> dict[Prefix, float]:
    """What counts as missing at this router, of what was touched; None: of everything."""
    neighbor = next((one for one in state.config.bgp.neighbors if str(one.address) == address), None)
    found = state.views.of(address)
    if neighbor is None or found is None or _blind(state, neighbor, found) is not None:
        return {}
    seen = found[1]
    if _echoes(state, neighbor, seen) is not None:
        return {}
    sights = seen.sights.values() if touched is None else filter(None, map(seen.sights.get, touched))
    return {
        one.prefix: one.missing
        for one in sights
        if one.missing is not None and _without(state, neighbor, seen, one.prefix, one) is None
    }


def looked(before: State, state: State, now: float) -> tuple[State, list[Effect]]:
    """What has been missing for long enough is told, and what is there again; some at a time."""
    views = state.views
    effects: list[Effect] = []
    if views.told is not before.views.told:
        for neighbor, told in before.views.told.items():
            effects += _back(state, neighbor, told, views.told.get(neighbor, _NOTHING))
    if now < views.look_at:
        return state, effects
    room, look_at = SLICE, math.inf
    for neighbor, waiting in views.waiting.items():
        due = islice((one for one in waiting.items() if one[1] + PATIENCE <= now), room)
        over = dict(sorted(due, key=lambda one: (one[1], one[0].version, int(one[0].network_address))))
        room -= len(over)
        if over:
            told = views.told.get(neighbor, _NOTHING)
            waiting = waiting.updated({}, over)  # noqa: PLW2901 - what is left of it
            views = replace(
                views,
                waiting=_with(views.waiting, neighbor, waiting),
                told=_with(views.told, neighbor, told.updated(over)),
            )
            effects += [_gone(neighbor, prefix, now - since) for prefix, since in over.items()]
        look_at = min([look_at, *(since + PATIENCE for since in waiting.values())])
    return replace(state, views=replace(views, look_at=look_at)), effects


def _back(
    state: State,
    neighbor: str,
    before: PersistentMap[Prefix, float],
    after: Mapping[Prefix, float],
) -> list[Effect]:
    """Of what is no alarm any more: what has come back, and not what is not known or not announced any more."""
    if before is after:
        return []
    found = state.views.of(neighbor)
    effects: list[Effect] = []
    for prefix in before:
        sight = None if found is None or prefix in after else found[1].sights.get(prefix)
        if sight is not None and sight.mine is not None:
            fields = {"prefix": str(prefix), "neighbor": neighbor}
            effects.append(Log(event="route.received", fields=fields))
    return effects


def _gone(neighbor: str, prefix: Prefix, seconds: float) -> Log:
    fields = {"prefix": str(prefix), "neighbor": neighbor, "seconds": round(seconds, 1)}
    return Log(event="route.not_received", fields=fields, level="error")


def wakes(state: State, now: float) -> list[float]:
    return [max(now, state.views.look_at)] if state.views.look_at < math.inf else []


def alarm(state: State, neighbor: str) -> str:
    """What a router does not have, in words; empty: nothing."""
    told = state.views.told.get(neighbor, _NOTHING)
    if not told:
        return ""
    first = nsmallest(NAMED, islice(told, SLICE), key=lambda one: (one.version, int(one.network_address)))
    names = _names(state, first)
    named = ", ".join(names.get(prefix, str(prefix)) for prefix in first)
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return (
        f"router {neighbor} does not have {named}{more}: this node announces it there, ExaBGP has acknowledged it, and it does "
        "not come back (look there for a filter on the way in, a limit of prefixes, and one on the way back; `anycast why "
        "VIP` has what is known)"
    )


def _names(state: State, prefixes: Iterable[Prefix]) -> dict[Prefix, str]:
    """`web (192.0.2.1)`, `ns1 (192.0.2.0/24)`: of each by the first VIP that it is announced for."""
    found = {}
    for prefix in prefixes:
        if names := state.index.announcing(prefix):
            shown = prefix.network_address if is_host_route(prefix) else prefix
            found[prefix] = f"{names[0]} ({shown})"
    return found
