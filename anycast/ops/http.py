"""The HTTP surface: `read_app` for anybody, `control_app` for the unix socket whose mode says who may command.

Machines go by the status code. Errors are JSON: `{"error": "..."}`.
"""

from __future__ import annotations

import difflib
import json
import os
import pwd
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web
from prometheus_client.exposition import choose_encoder

import anycast
from anycast.core.maintenance import NODE, NODE_SCOPES, STOP, End, Expiry, is_saved, is_server
from anycast.core.members import server_scopes
from anycast.core.model import Config, Vip
from anycast.core.state import VipState, would_fall
from anycast.ops import metrics, status
from anycast.ops.source import Commands, MaintenanceAnswer, ReloadAnswer, Source

__all__ = ["Commands", "MaintenanceAnswer", "ReloadAnswer", "Source", "control_app", "read_app"]

MAX_BODY = 4096  # bytes
MAX_REASON = 200  # characters
LONGEST = 366 * 86400.0  # seconds until a maintenance ends by itself
LIVE_TTLS = 3  # lease lifetimes without a step of the engine before it counts as hung

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def read_app(source: Source) -> web.Application:
    """The pages that change nothing: /livez, /readyz, /healthz, /status, /metrics, /vips/NAME."""
    app = web.Application(middlewares=[_errors_as_json], client_max_size=MAX_BODY)
    _Reading(source).add_to(app.router)
    return app


def control_app(source: Source, commands: Commands) -> web.Application:
    """`read_app` and what changes the node: /maintenance, /reload. For a unix socket only."""
    app = read_app(source)
    _Control(source, commands).add_to(app.router)
    return app


class _RefusedError(Exception):
    """The request cannot be served; `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        refusal = f"{request.path} does not take {request.method} (it takes {allowed})"
        return _json({"error": refusal}, code=error.status, headers={"Allow": allowed})
    except web.HTTPRequestEntityTooLarge as error:
        return _json({"error": f"the body is larger than {MAX_BODY} bytes"}, code=error.status)
    except web.HTTPNotFound as error:
        return _json({"error": f"there is no {request.path} here"}, code=error.status)
    except web.HTTPException as error:
        return _json({"error": error.text or error.reason}, code=error.status)
    except _RefusedError as error:
        return _json({"error": str(error)}, code=error.code)


def _json(body: Any, *, code: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(body, status=code, headers=headers, dumps=_dumps)


def _dumps(body: Any) -> str:
    return json.dumps(body, allow_nan=False) + "\n"


def _wants_json(request: web.Request) -> bool:
    return "application/json" in request.headers.get("Accept", "")


def _verdict(request: web.Request, *, good: bool, reasons: tuple[str, ...]) -> web.Response:
    """200 or 503, and the reasons one a line, or as JSON."""
    code = 200 if good else 503
    if _wants_json(request):
        return _json({"ok": good, "reasons": list(reasons)}, code=code)
    return web.Response(status=code, text="\n".join(reasons or ("ok",)) + "\n")


class _Reading:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._registry = metrics.registry(source, version=anycast.__version__)

    def add_to(self, router: web.UrlDispatcher) -> None:
        router.add_get("/livez", self.get_livez)
        router.add_get("/healthz", self.get_livez)
        router.add_get("/readyz", self.get_readyz)
        router.add_get("/status", self.get_status)
        router.add_get("/metrics", self.get_metrics)
        router.add_get("/vips/{name}", self.get_vip)

    async def get_livez(self, request: web.Request) -> web.Response:
        # Looks at neither real servers nor BGP: whoever restarts a process by this must not do so for those.
        lag = time.monotonic() - self._source.last_step
        allowed = LIVE_TTLS * self._source.state.config.timing.lease_ttl
        if lag <= allowed:
            return _verdict(request, good=True, reasons=())
        hung = f"the engine has not stepped for {lag:.1f} s ({allowed:g} s allowed)"
        return _verdict(request, good=False, reasons=(hung,))

    async def get_readyz(self, request: web.Request) -> web.Response:
        reasons = status.readiness(self._source.state, time.monotonic())
        return _verdict(request, good=not reasons, reasons=reasons)

    async def get_status(self, _: web.Request) -> web.Response:
        return _json(
            status.document(
                self._source.state,
                now=time.monotonic(),
                wall=time.time(),
                version=anycast.__version__,
                pid=os.getpid(),
                reload_ok=self._source.reload_ok,
            )
        )

    async def get_metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})

    async def get_vip(self, request: web.Request) -> web.Response:
        state, name = self._source.state, request.match_info["name"]
        vip = state.config.vip(name)
        if vip is None:
            raise _no_vip(name, state.config.vips)
        announced = status.is_announced(state, vip)
        code = 200 if announced else 503
        if _wants_json(request):
            body = status.vip_status(state, vip, now=time.monotonic(), wall=time.time())
            return _json(body, code=code)
        verdict = state.vips.get(name, VipState()).verdict
        obstacle = status.obstacle(state, vip)
        words = ["announced" if announced else "not announced", str(verdict.reason), verdict.detail, obstacle]
        return web.Response(status=code, text=": ".join(filter(None, words)) + "\n")


def _check_scope(scope: str, config: Config) -> None:
    """Raises `_RefusedError` for what is not in the configuration."""
    if not is_server(scope):
        if scope != NODE and config.vip(scope) is None:
            raise _no_vip(scope, config.vips)
        return
    known = server_scopes(config)
    if scope not in known:
        near = difflib.get_close_matches(scope, known, n=1) or sorted(known)[:8]
        raise _RefusedError(404, f"there is no real server {scope!r} (is it {' or '.join(near)}?)")


def _no_vip(name: str, vips: tuple[Vip, ...]) -> _RefusedError:
    known = ", ".join(vip.name for vip in vips) or "none"
    return _RefusedError(404, f"there is no VIP {name!r} (configured: {known})")


class _Control:
    def __init__(self, source: Source, commands: Commands) -> None:
        self._source = source
        self._commands = commands

    def add_to(self, router: web.UrlDispatcher) -> None:
        router.add_get("/maintenance", self.get_maintenance)
        router.add_post("/maintenance", self.post_maintenance)
        router.add_post("/reload", self.post_reload)

    async def get_maintenance(self, _: web.Request) -> web.Response:
        return _json({"maintenance": self._entries()})

    def _entries(self) -> list[dict[str, Any]]:
        return status.maintenance_status(self._source.state, now=time.monotonic(), wall=time.time())

    async def post_maintenance(self, request: web.Request) -> web.Response:
        """Answers with what happens now.

        `{"scope": "", a VIP's name or POOL/SERVER, "on": bool, "reason": text}`, and of those that go with `on`:
        `"until"` (seconds since the epoch) or `"for_s"`, with `"on_expiry": "resume" or "hold"`; `"now": true`
        without a drain; `"temporary": true` of the node until the agent ends. Without `"force": true` a real
        server that a service cannot do without stays: 409.
        """
        optional = _MAINTENANCE.keys() - {"scope", "on"}
        fields = await _fields(request, _MAINTENANCE, optional=optional)
        on, reason = fields["on"], fields.get("reason", "")
        _check_reason(reason)
        _check_options(fields)
        end = _end(fields, time.time())
        scope = STOP if fields.get("temporary", False) else fields["scope"]
        before = self._source.state
        if fields["scope"] != NODE and fields["scope"] in NODE_SCOPES:
            raise _no_vip(fields["scope"], before.config.vips)
        # What was configured once and is in maintenance still can be ended.
        if on or fields["scope"] not in before.maintenance:
            _check_scope(fields["scope"], before.config)
        lost = would_fall(before, scope) if on and is_server(scope) else ()
        if lost and not fields.get("force", False):
            raise _RefusedError(409, f"without {scope} too few real servers are left for {', '.join(lost)}")
        answer = await self._commands.set_maintenance(
            scope,
            on=on,
            reason=reason,
            by=_user(request),
            end=end,
            skip_drain=fields.get("now", False),
        )
        state, now, wall = self._source.state, time.monotonic(), time.time()
        commanded = {NODE, STOP} if scope == NODE and not on else {scope}
        return _json(
            {
                "scope": fields["scope"],
                "on": on,
                "temporary": not is_saved(scope),
                "changed": commanded.isdisjoint(before.maintenance) == on,
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
                "maintenance": self._entries(),
            }
        )

    async def post_reload(self, request: web.Request) -> web.Response:
        """200 applied, 422 refused: the old configuration stays in force."""
        await _fields(request, {}, optional=set())
        answer = await self._commands.reload()
        body = {
            "ok": answer.ok,
            "changes": list(answer.changes),
            "warnings": list(answer.warnings),
            "problems": list(answer.problems),
        }
        return _json(body, code=200 if answer.ok else 422)


async def _fields(request: web.Request, kinds: Mapping[str, type], *, optional: set[str]) -> dict[str, Any]:
    """The fields of a JSON body, all of them checked. An empty body is `{}`. Raises `_RefusedError`."""
    data = await request.read()
    try:
        body = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError):
        raise _RefusedError(400, "the body is not JSON (send one object)") from None
    if not isinstance(body, dict):
        raise _RefusedError(400, "the body is not a JSON object (send {...})")
    known = ", ".join(kinds) or "none"
    wrong = [f"unknown field {name!r} (known: {known})" for name in body if name not in kinds]
    for name, kind in kinds.items():
        if name not in body:
            if name not in optional:
                wrong.append(f"field {name!r} is missing")
        elif not _is(body[name], kind):
            word = {str: "text", bool: "true or false", float: "a number"}.get(kind, kind.__name__)
            wrong.append(f"field {name!r}: expected {word}")
    if wrong:
        raise _RefusedError(400, "; ".join(wrong))
    return body


def _is(value: object, kind: type) -> bool:
    if kind is float:
        # Neither NaN nor what no float holds.
        return isinstance(value, int | float) and not isinstance(value, bool) and -1e15 < value < 1e15
    return isinstance(value, kind)


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
}
_WITH_ON = ("until", "for_s", "on_expiry", "now", "temporary")


def _check_options(fields: Mapping[str, Any]) -> None:
    given = [name for name in _WITH_ON if name in fields]
    if given and not fields["on"]:
        raise _RefusedError(400, f'field {given[0]!r}: it goes with "on": true only')
    if given and is_server(fields["scope"]):
        raise _RefusedError(400, f"field {given[0]!r}: it is for the node or a VIP, not for a real server")
    if fields.get("temporary", False) and fields["scope"] != NODE:
        raise _RefusedError(400, "field 'temporary': it is for the whole node only")
    ended = "until" in fields or "for_s" in fields
    if fields.get("temporary", False) and ended:
        raise _RefusedError(400, "field 'temporary': it ends with the agent, and at no other time")
    if "on_expiry" in fields and not ended:
        raise _RefusedError(400, "field 'on_expiry': there is no end without 'until' or 'for_s'")
    if fields.get("on_expiry", Expiry.RESUME) not in list(Expiry):
        raise _RefusedError(400, "field 'on_expiry': expected resume or hold")


def _end(fields: Mapping[str, Any], wall: float) -> End | None:
    """When it ends by itself. Raises `_RefusedError`."""
    then = Expiry(fields.get("on_expiry", Expiry.RESUME))
    if "until" in fields and "for_s" in fields:
        raise _RefusedError(400, "field 'for_s': give either it or 'until'")
    if "for_s" in fields:
        if not 1 <= fields["for_s"] <= LONGEST:
            raise _RefusedError(400, "field 'for_s': expected from one second to 366 days")
        return End(at=wall + fields["for_s"], then=then, lasts=True)
    if "until" in fields:
        at = float(fields["until"])
        if at <= wall:
            told = status.iso(at) or "it"
            raise _RefusedError(400, f"field 'until': {told} has passed (it is {status.iso(wall)} here)")
        if at > wall + LONGEST:
            raise _RefusedError(400, "field 'until': more than 366 days from now")
        return End(at=at, then=then)
    return None


def _check_reason(reason: str) -> None:
    if len(reason) > MAX_REASON or not reason.isprintable():
        message = f"field 'reason': expected one printable line of at most {MAX_REASON} characters"
        raise _RefusedError(400, message)


def _user(request: web.Request) -> str:
    """Who is at the other end of the unix socket, as the kernel knows it."""
    end = request.transport.get_extra_info("socket") if request.transport is not None else None
    if end is None or end.family != socket.AF_UNIX:
        return "unknown"
    credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
