"""The commands of operators: each is checked, carried out and answered. `control` receives them."""

from __future__ import annotations

import base64
import binascii
import difflib
import json
import math
import time
from collections.abc import Mapping
from typing import Any, Protocol, TypedDict

from anycast.agent import planning
from anycast.agent.answers import (
    PLAIN,
    MaintenanceAnswer,
    NothingThereError,
    PlanAnswer,
    PlanWish,
    ReloadAnswer,
    ReloadWish,
    TurnAnswer,
    TurnWish,
)
from anycast.core.fleet.asking import asks
from anycast.core.fleet.turn import KEPT
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import (
    NODE,
    NODE_SCOPES,
    STOP,
    Maintenance,
    is_saved,
    is_server,
    server_scope,
)
from anycast.core.state import State
from anycast.core.values.configuration import Config, Pool
from anycast.core.values.moment import iso
from anycast.core.vip.facts import would_fall
from anycast.core.vip.room import too_full
from anycast.ops import status
from anycast.ops.shared import of_maintenance

MAX_REASON = 200  # characters
NAMED = 5  # services that a refusal names
LOOKED_THROUGH = 500  # names, for one that was meant
LONGEST_TRIAL = 86400.0  # seconds until a configuration goes back that nobody confirms
MOST_NUMBER = 2**53  # of a turn
LONGEST = 366 * 86400.0  # seconds until a maintenance ends by itself


class RefusedError(Exception):
    """A request that is not carried out; `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Engine(Protocol):
    """Answers once it is in force. Raises TooLateError: the `deadline` (a monotonic instant) passed before that."""

    @property
    def state(self) -> State: ...

    async def set_maintenance(
        self,
        scope: str,
        *,
        on: bool,
        reason: str,
        by: str,
        end: End | None = None,
        skip_drain: bool = False,
        deadline: float = math.inf,
    ) -> MaintenanceAnswer:
        """`scope`: `maintenance.NODE`, `maintenance.STOP`, the name of a VIP, or `POOL/SERVER`.

        Said again, the last word counts, and the drain does not start over.
        """
        ...

    async def leave(
        self,
        scope: str,
        wish: TurnWish,
        *,
        reason: str,
        by: str,
        end: End | None = None,
        skip_drain: bool = False,
        deadline: float = math.inf,
    ) -> MaintenanceAnswer | TurnAnswer:
        """The same, once the other nodes of the fleet let it go."""
        ...

    async def stay(self, scope: str, number: int, *, by: str, deadline: float = math.inf) -> None:
        """The turn `number` is no longer asked for."""
        ...

    async def reload(self, wish: ReloadWish = PLAIN, *, deadline: float = math.inf) -> ReloadAnswer: ...

    async def plan(self, wish: PlanWish, *, deadline: float = math.inf) -> PlanAnswer:
        """What a reload would do; nothing is changed."""
        ...

    async def confirm(self, *, deadline: float = math.inf) -> ReloadAnswer:
        """Raises NothingThereError."""
        ...

    async def undo(self, *, deadline: float = math.inf) -> ReloadAnswer:
        """Raises NothingThereError."""
        ...


def entries(state: State) -> list[dict[str, Any]]:
    """What is in maintenance."""
    return status.maintenance_status(state, now=time.monotonic(), wall=time.time())


async def maintenance(engine: Engine, body: bytes, *, by: str, deadline: float) -> tuple[int, dict[str, Any]]:
    """200 and what happens now, or 202 and the turn it waits for. Raises RefusedError, TooLateError.

    `{"scope": "", a VIP's name or POOL/SERVER, "on": bool, "reason": text}`, and of those that go with `on`:
    `"until"` (seconds since the epoch) or `"for_s"`, with `"on_expiry": "resume" or "hold"`; `"now": true`
    without a drain; `"temporary": true` of the node until the agent ends. Without `"force": true` a real
    server that a service cannot do without, or whose connections the others have no room for, stays: 409.

    In a fleet the other nodes are asked first, unless it is forced or temporary: 409 if something is in the way, and 202
    while that is not known, or with `"wait_turn": true`. Then the same is sent again, with `"turn"` and `"asked_for_s"`:
    who does not for a while gives the turn up, as does `"on": false` with `"turn"`.
    """
    optional = _MAINTENANCE.keys() - {"scope", "on"}
    fields = _fields(body, _MAINTENANCE, optional=optional)
    on, reason = fields["on"], fields.get("reason", "")
    _check_reason(reason)
    _check_options(fields)
    end = _end(fields, time.time())
    scope = STOP if fields.get("temporary", False) else fields["scope"]
    before = engine.state
    if fields["scope"] != NODE and fields["scope"] in NODE_SCOPES:
        raise _no_vip(fields["scope"], before.config)
    # What was configured once and is in maintenance still can be ended.
    if on or fields["scope"] not in before.maintenance:
        _check_scope(fields["scope"], before.config)
    if on and is_server(scope) and not fields.get("force", False):
        _check_server(before, scope)
    if not on and "turn" in fields:
        await engine.stay(scope, fields["turn"], by=by, deadline=deadline)
        return 200, {"scope": scope, "on": False, "turn": None, "maintenance": entries(engine.state)}
    said: _Said = {
        "reason": reason,
        "by": by,
        "end": end,
        "skip_drain": fields.get("now", False),
        "deadline": deadline,
    }
    answer: MaintenanceAnswer | TurnAnswer
    if on and not fields.get("force", False) and asks(before, scope) is not None:
        wish = TurnWish(
            number=fields.get("turn"),
            ago=max(0.0, fields.get("asked_for_s", 0.0)),
            waits=fields.get("wait_turn", False),
        )
        answer = await engine.leave(scope, wish, **said)
    else:
        answer = await engine.set_maintenance(scope, on=on, **said)
    if isinstance(answer, TurnAnswer):
        return _asked(answer, scope)
    return 200, _set(engine, scope, fields, answer, before)


class _Said(TypedDict):
    reason: str
    by: str
    end: End | None
    skip_drain: bool
    deadline: float


def _asked(answer: TurnAnswer, scope: str) -> tuple[int, dict[str, Any]]:
    """Raises RefusedError."""
    if answer.refused:
        told = "; ".join(answer.refused)
        raise RefusedError(409, f"{f'VIP {scope}' if scope else 'this node'} may not leave now: {told}")
    seat, decision = answer.seat, answer.seat.decision
    return 202, {
        "scope": scope,
        "on": True,
        "turn": {
            "number": seat.wish.number,
            "stage": str(seat.stage),
            "asked_for_s": round(max(0.0, time.monotonic() - seat.asked), 3),
            "kept_for_s": KEPT,
            "place": 1 if decision is None else decision.place,
            "behind": [] if decision is None else list(decision.behind),
            "reasons": [] if decision is None else list(decision.reasons),
            "waits_for": [] if decision is None else list(decision.waits_for),
        },
    }


def _replaced(entry: Maintenance | None, wall: float) -> dict[str, Any] | None:
    """Who had the scope in maintenance already, and why: the last word counts."""
    if entry is None:
        return None
    return {"by": entry.by, "reason": entry.reason, "ago_s": round(max(0.0, wall - entry.since), 1)}


def _set(
    engine: Engine, scope: str, fields: Mapping[str, Any], answer: MaintenanceAnswer, before: State
) -> dict[str, Any]:
    on, state, now, wall = fields["on"], engine.state, time.monotonic(), time.time()
    commanded = {NODE, STOP} if scope == NODE and not on else {scope}
    return {
        "scope": fields["scope"],
        "on": on,
        "temporary": not is_saved(scope),
        "changed": commanded.isdisjoint(before.maintenance) == on,
        "replaced": _replaced(before.maintenance.get(scope), wall) if on else None,
        "saved": answer.saved,
        "error": answer.error,
        **status.scope_status(state, scope, now=now, wall=wall),
        "drain_s": state.config.timing.drain,
        "vips": [
            {
                "name": vip.name,
                "advertise": str(state.vips[vip.name].verdict.advertise),
                "reason": str(state.vips[vip.name].verdict.reason),
            }
            for vip in state.config.vips
            if fields["scope"] in (NODE, vip.name)
        ],
        "shared": list(of_maintenance(state, fields["scope"])) if on else [],
        "maintenance": entries(state),
    }


async def reload(engine: Engine, body: bytes, *, deadline: float) -> tuple[int, dict[str, Any]]:
    """200 applied, 422 refused: the old configuration stays in force. Raises RefusedError.

    `"allow_removal": true` even if it removes much; `"confirm_within_s"`: it goes back after so many seconds.
    """
    fields = _fields(body, _RELOAD, optional={*_RELOAD})
    within = fields.get("confirm_within_s")
    if within is not None and not 1 <= within <= LONGEST_TRIAL:
        raise RefusedError(400, "field 'confirm_within_s': expected from one second to 24 hours")
    wish = ReloadWish(
        allow_removal=fields.get("allow_removal", False),
        confirm_within=None if within is None else float(within),
    )
    return _told(await engine.reload(wish, deadline=deadline))


async def plan(engine: Engine, body: bytes, *, deadline: float) -> tuple[int, dict[str, Any]]:
    """200 a reload would do this, 422 it would refuse. Raises RefusedError, TooLateError.

    `"node"`: which node is meant, refused on another; `"allow_removal": true` as for a reload; `"texts"`: another configuration than the file of the agent, as
    `config.kept` keeps it, packed by zlib, in base64.
    """
    fields = _fields(body, _PLAN, optional={*_PLAN})
    try:
        texts = base64.b64decode(fields["texts"], validate=True) if "texts" in fields else None
    except (binascii.Error, ValueError):
        raise RefusedError(400, "field 'texts': expected base64") from None
    answer = await engine.plan(
        PlanWish(allow_removal=fields.get("allow_removal", False), texts=texts, node=fields.get("node")),
        deadline=deadline,
    )
    told = {
        "ok": answer.ok,
        "changes": list(answer.changes),
        "warnings": list(answer.warnings),
        "problems": list(answer.problems),
        "plan": None if answer.plan is None else planning.body(answer.plan),
    }
    return (200 if answer.ok else 422), told


async def confirm(engine: Engine, body: bytes, *, deadline: float) -> tuple[int, dict[str, Any]]:
    """What is on trial stays. Raises RefusedError: 409, nothing is."""
    _fields(body, {}, optional=set())
    try:
        return _told(await engine.confirm(deadline=deadline))
    except NothingThereError as error:
        raise RefusedError(409, str(error)) from None


async def undo(engine: Engine, body: bytes, *, deadline: float) -> tuple[int, dict[str, Any]]:
    """Back to the configuration before. Raises RefusedError: 409, there is none."""
    _fields(body, {}, optional=set())
    try:
        return _told(await engine.undo(deadline=deadline))
    except NothingThereError as error:
        raise RefusedError(409, str(error)) from None


def _told(answer: ReloadAnswer) -> tuple[int, dict[str, Any]]:
    told = {
        "ok": answer.ok,
        "changes": list(answer.changes),
        "warnings": list(answer.warnings),
        "problems": list(answer.problems),
        "confirm_s": answer.confirm_s,
    }
    return (200 if answer.ok else 422), told


def _check_server(state: State, scope: str) -> None:
    """Raises `RefusedError` for a real server that the others cannot stand in for."""
    if lost := would_fall(state, scope):
        raise RefusedError(409, f"without {scope} too few real servers are left for {', '.join(lost)}")
    if full := too_full(state, scope):
        more = f"; and {len(full) - NAMED} more services" if len(full) > NAMED else ""
        raise RefusedError(409, f"without {scope} there is too little room: {'; '.join(full[:NAMED])}{more}")


def _check_scope(scope: str, config: Config) -> None:
    """Raises `RefusedError` for what is not in the configuration."""
    if not is_server(scope):
        if scope != NODE and config.vip(scope) is None:
            raise _no_vip(scope, config)
        return
    pools = {pool.name: pool for vip in config.vips for service in vip.services for pool in service.pools}
    name, _, server = scope.partition("/")
    pool = pools.get(name)
    if pool is None or all(one.name != server for one in pool.servers):
        raise _no_server(scope, pools)


def _no_server(scope: str, pools: Mapping[str, Pool]) -> RefusedError:
    """Near names are looked for among so many: comparing thousands takes a second, and the lease is in the same loop."""
    name, _, server = scope.partition("/")
    if name not in pools:
        some = list(pools)[:LOOKED_THROUGH]
        near = difflib.get_close_matches(name, some, n=1) or sorted(some)[:1]
        name = near[0] if near else name
    servers = [one.name for one in pools[name].servers[:LOOKED_THROUGH]] if name in pools else []
    names = difflib.get_close_matches(server, servers, n=1) or sorted(servers)[:8]
    likely = " or ".join(server_scope(name, one) for one in names)
    return RefusedError(404, f"there is no real server {scope!r} (is it {likely}?)")


def _no_vip(name: str, config: Config) -> RefusedError:
    return RefusedError(404, status.no_vip(name, config.vips))


def _fields(data: bytes, kinds: Mapping[str, type], *, optional: set[str]) -> dict[str, Any]:
    """The fields of a JSON body, all of them checked. An empty body is `{}`. Raises `RefusedError`."""
    try:
        body = json.loads(data, object_pairs_hook=_once) if data.strip() else {}
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is not JSON (send one object)") from None
    if not isinstance(body, dict):
        raise RefusedError(400, "the body is not a JSON object (send {...})")
    known = ", ".join(kinds) or "none"
    wrong = [f"unknown field {name[:40]!r} (known: {known})" for name in body if name not in kinds][:10]
    for name, kind in kinds.items():
        if name not in body:
            if name not in optional:
                wrong.append(f"field {name!r} is missing")
        elif not _is(body[name], kind):
            word = {str: "text", bool: "true or false", float: "a number", int: "a whole number"}.get(
                kind, kind.__name__
            )
            wrong.append(f"field {name!r}: expected {word}")
    if wrong:
        raise RefusedError(400, "; ".join(wrong))
    return body


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no key stands twice: which one was meant is not ours to guess. Raises `RefusedError`."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise RefusedError(400, f"field {name[:40]!r} stands there twice")
        found[name] = value
    return found


def _is(value: object, kind: type) -> bool:
    if kind is float:
        # Neither NaN nor what no float holds.
        return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)


# In the order they are told.
_MAINTENANCE: Mapping[str, type] = {
    "scope": str,
    "on": bool,
    "reason": str,
    "force": bool,
    "until": float,
    "for_s": float,
    "on_expiry": str,
    "now": bool,
    "temporary": bool,
    "wait_turn": bool,
    "turn": int,
    "asked_for_s": float,
}
_RELOAD: Mapping[str, type] = {"allow_removal": bool, "confirm_within_s": float}
_PLAN: Mapping[str, type] = {"allow_removal": bool, "texts": str, "node": str}
_WITH_ON = ("until", "for_s", "on_expiry", "now", "temporary", "wait_turn", "asked_for_s")


def _check_options(fields: Mapping[str, Any]) -> None:
    given = [name for name in _WITH_ON if name in fields]
    if given and not fields["on"]:
        raise RefusedError(400, f'field {given[0]!r}: it goes with "on": true only')
    if given and is_server(fields["scope"]):
        raise RefusedError(400, f"field {given[0]!r}: it is for the node or a VIP, not for a real server")
    if fields.get("temporary", False) and fields["scope"] != NODE:
        raise RefusedError(400, "field 'temporary': it is for the whole node only")
    ended = "until" in fields or "for_s" in fields
    if fields.get("temporary", False) and ended:
        raise RefusedError(400, "field 'temporary': it ends with the agent, and at no other time")
    if not 1 <= fields.get("turn", 1) < MOST_NUMBER:
        raise RefusedError(400, "field 'turn': expected the number that the answer 202 gave")
    if "on_expiry" in fields and not ended:
        raise RefusedError(400, "field 'on_expiry': there is no end without 'until' or 'for_s'")
    if fields.get("on_expiry", Expiry.RESUME) not in list(Expiry):
        raise RefusedError(400, "field 'on_expiry': expected resume or hold")


def _end(fields: Mapping[str, Any], wall: float) -> End | None:
    """When it ends by itself. Raises `RefusedError`."""
    then = Expiry(fields.get("on_expiry", Expiry.RESUME))
    if "until" in fields and "for_s" in fields:
        raise RefusedError(400, "field 'for_s': give either it or 'until'")
    if "for_s" in fields:
        if not 1 <= fields["for_s"] <= LONGEST:
            raise RefusedError(400, "field 'for_s': expected from one second to 366 days")
        return End(at=wall + fields["for_s"], then=then, lasts=True)
    if "until" in fields:
        at = float(fields["until"])
        if at <= wall:
            told = iso(at) or "it"
            raise RefusedError(400, f"field 'until': {told} has passed (it is {iso(wall)} here)")
        if at > wall + LONGEST:
            raise RefusedError(400, "field 'until': more than 366 days from now")
        return End(at=at, then=then)
    return None


def _check_reason(reason: str) -> None:
    if len(reason) > MAX_REASON or not reason.isprintable():
        message = f"field 'reason': expected one printable line of at most {MAX_REASON} characters"
        raise RefusedError(400, message)
