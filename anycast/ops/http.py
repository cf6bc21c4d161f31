"""The HTTP surface: `read_app` for anybody, `control_app` for the unix socket whose mode says who may command.

Machines go by the status code. Errors are JSON: `{"error": "..."}`. The paths stand in `routes`; what stands before
this, and makes clients harmless, is `gate`.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import os
import pwd
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import structlog
from aiohttp import web

import anycast
from anycast.core.dataplane.members import server_scopes
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import NODE, NODE_SCOPES, STOP, is_saved, is_server
from anycast.core.state import VipState
from anycast.core.values.configuration import Config, Vip
from anycast.core.vip.facts import would_fall
from anycast.ops import page, status, why
from anycast.ops.board import Board, StatusText
from anycast.ops.events import Event, LaggedError, interest
from anycast.ops.gate import Door
from anycast.ops.metrics import MetricsText
from anycast.ops.routes import CONTROL, READ, STREAM, Route, openapi
from anycast.ops.source import Commands, MaintenanceAnswer, ReloadAnswer, Source

__all__ = ["Commands", "MaintenanceAnswer", "ReloadAnswer", "Source", "control_app", "read_app"]

MAX_BODY = 4096  # bytes
BODY_TIME = 5.0  # seconds a body has to come
MAX_REASON = 200  # characters
LONGEST = 366 * 86400.0  # seconds until a maintenance ends by itself
LIVE_TTLS = 3  # lease lifetimes without a step of the engine before it counts as hung
SLICE = 64 * 1024  # bytes of an answer that are handed to the connection in one go
KEEP_ALIVE = 15.0  # seconds between two comments in a stream of events
BATCH = 50  # events written to a stream in one go

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger()


def read_app(source: Source) -> web.Application:
    """The pages that change nothing."""
    return _app(READ, _Reading(source, READ))


def control_app(source: Source, commands: Commands) -> web.Application:
    """`read_app` and what changes the node: /maintenance, /reload. For a unix socket only."""
    routes = (*READ, *CONTROL)
    return _app(routes, _Reading(source, routes), _Control(source, commands))


def _app(routes: Iterable[Route], *surfaces: _Reading | _Control) -> web.Application:
    app = web.Application(middlewares=[_as_a_whole, _errors_as_json], client_max_size=MAX_BODY)
    for route in routes:
        surface = next(one for one in surfaces if hasattr(one, route.handler))
        handler: Handler = getattr(surface, route.handler)
        if route.strict:
            handler = _strict(route, handler)
        if route.method == "GET":
            app.router.add_get(route.path, handler)
        else:
            app.router.add_route(route.method, route.path, handler)
    app.on_response_prepare.append(_signed)
    for surface in surfaces:
        if isinstance(surface, _Reading):
            app.on_shutdown.append(surface.end_streams)
    return app


async def _signed(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "anycast"  # nobody need know of what it is made


def _strict(route: Route, handler: Handler) -> Handler:
    known = [one.name for one in route.parameters if one.place == "query"]

    async def handle(request: web.Request) -> web.StreamResponse:
        wrong = [name for name in request.query if name not in known]
        if wrong:
            raise _RefusedError(400, f"unknown parameter {wrong[0]!r} (known: {', '.join(known)})")
        twice = [name for name in known if len(request.query.getall(name, [])) > 1]
        if twice:
            raise _RefusedError(400, f"parameter {twice[0]!r} stands there twice")
        return await handler(request)

    return handle


class _RefusedError(Exception):
    """The request cannot be served; `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def _door(request: web.Request) -> Door | None:
    """The connection's place in the gate; None without one."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    return protocol if isinstance(protocol, Door) else None


@web.middleware
async def _as_a_whole(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Read all that is asked, answer, write all of it: then the connection's place is free for the next request."""
    door = _door(request)
    chunked = request.content_length is None
    if door is not None:
        door.begun(body=(0 if not request.can_read_body else None) if chunked else request.content_length)
    more = True
    try:
        response = await handler(request)
        if not response.prepared:
            if (door is not None and door.is_last) or (request.can_read_body and chunked):
                response.force_close()
            response = await _write(request, response)
        more = bool(response.keep_alive)
    except BaseException:
        more = False
        raise
    finally:
        if door is not None:
            door.ended(more=more)
    return response


async def _write(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """In slices, so that what waits for a slow reader is one slice, and not a copy of everything."""
    body = response.body if isinstance(response, web.Response) else None
    if not isinstance(body, bytes) or len(body) <= SLICE or request.method == "HEAD":
        await response.prepare(request)
        await response.write_eof()
        return response
    whole = web.StreamResponse(status=response.status, headers=response.headers)
    whole.content_length = len(body)
    if response.keep_alive is False:
        whole.force_close()
    door = _door(request)
    if door is not None and request.keep_alive and whole.keep_alive is not False:
        # Of one that is closed behind its answer the kernel would keep it as long as nobody reads.
        door.widen()
    await whole.prepare(request)
    view = memoryview(body)
    for first in range(0, len(body), SLICE):
        await whole.write(view[first : first + SLICE])
    await whole.write_eof()
    return whole


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        await _read_body(request)
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        refusal = f"{request.path} does not take {request.method} (it takes {allowed})"
        return _json({"error": refusal}, code=error.status, headers={"Allow": allowed})
    except web.HTTPRequestEntityTooLarge as error:
        refused = _json({"error": f"the body is larger than {MAX_BODY} bytes"}, code=error.status)
        refused.force_close()
        return refused
    except web.HTTPNotFound as error:
        return _json({"error": f"there is no {request.path} here"}, code=error.status)
    except web.HTTPException as error:
        return _json({"error": error.text or error.reason}, code=error.status)
    except _RefusedError as error:
        return _json({"error": str(error)}, code=error.code)
    except ConnectionError:
        raise  # whoever asked has gone
    except Exception:
        log.exception("ops.unexpected", method=request.method, path=request.path)
        failed = _json({"error": "a defect of this program; please report it with its log"}, code=500)
        failed.force_close()
        return failed


async def _read_body(request: web.Request) -> None:
    """All of it, in good time, however little a handler cares. Raises `_RefusedError` and what aiohttp raises."""
    if not request.can_read_body:
        return
    if (request.content_length or 0) > MAX_BODY:
        raise web.HTTPRequestEntityTooLarge(max_size=MAX_BODY, actual_size=request.content_length or 0)
    try:
        async with asyncio.timeout(BODY_TIME):
            await request.read()
    except TimeoutError:
        raise _RefusedError(408, f"the body did not come within {BODY_TIME:g} s") from None
    except web.RequestPayloadError:
        raise _RefusedError(400, "the body is not as the header says") from None
    door = _door(request)
    if door is not None:
        door.has_body()


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
    def __init__(self, source: Source, routes: tuple[Route, ...]) -> None:
        self._source = source
        board = Board()
        self._status = StatusText(source, board, version=anycast.__version__, pid=os.getpid())
        self._metrics = MetricsText(source, board, version=anycast.__version__)
        self._page = page.PageText(source, board, version=anycast.__version__)
        self._openapi = _dumps(openapi(routes, version=anycast.__version__)).encode()
        self._streams: set[asyncio.Task[object]] = set()

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

    async def get_page(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._page.read(), headers=page.headers())

    async def get_status(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._status.read(), content_type="application/json", charset="utf-8")

    async def get_metrics(self, request: web.Request) -> web.Response:
        text, content_type = await self._metrics.read(request.headers.get("Accept", ""))
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def get_openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=self._openapi, content_type="application/json", charset="utf-8")

    async def get_vip(self, request: web.Request) -> web.Response:
        state, vip = self._source.state, self._vip(request.match_info["name"])
        now = time.monotonic()
        routes = status.routing(state, now)
        announced = status.is_announced(routes, vip)
        code = 200 if announced else 503
        if _wants_json(request):
            body = status.vip_status(state, vip, now=now, wall=time.time(), routes=routes)
            return _json(body, code=code)
        verdict = state.vips.get(vip.name, VipState()).verdict
        obstacle = status.obstacle(state, vip, routes)
        words = ["announced" if announced else "not announced", str(verdict.reason), verdict.detail, obstacle]
        return web.Response(status=code, text=": ".join(filter(None, words)) + "\n")

    async def get_why(self, request: web.Request) -> web.Response:
        state, vip = self._source.state, self._vip(request.match_info["name"])
        body = why.document(state, vip, self._source.tallies, now=time.monotonic(), wall=time.time())
        return _json(body) if _wants_json(request) else web.Response(text=why.text(body))

    def _vip(self, name: str) -> Vip:
        config = self._source.state.config
        vip = config.vip(name)
        if vip is None:
            raise _no_vip(name, config.vips)
        return vip

    async def get_events(self, request: web.Request) -> web.StreamResponse:
        after = _number(request.query.get("after"), "after")
        seen = _number(request.headers.get("Last-Event-ID"), "Last-Event-ID")
        after = after if seen is None else seen
        since = _seconds(request.query.get("since"))
        name = request.query.get("vip")
        about = None if name is None else interest(self._source.state.config, self._vip(name))

        def wanted(events: Iterable[Event]) -> list[Event]:
            return [
                one
                for one in events
                if (since is None or one.time >= since) and (about is None or about.takes(one))
            ]

        hub = self._source.events
        if _wants_json(request) and STREAM not in request.headers.get("Accept", ""):
            texts = ", ".join(one.text for one in wanted(hub.after(after or 0)))
            body = f'{{"events": [{texts}], "newest": {hub.newest}}}\n'.encode()
            return web.Response(body=body, content_type="application/json", charset="utf-8")
        # Who asks for the past gets all of it that is there.
        begin = 0 if after is None and since is not None else after
        return await self._stream(request, begin, wanted)

    async def _stream(
        self, request: web.Request, after: int | None, wanted: Callable[[Iterable[Event]], list[Event]]
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": STREAM, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        response.force_close()
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        door, task = _door(request), asyncio.current_task()
        if door is not None and not door.may_stream():
            raise _RefusedError(503, "too many streams are open")
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._streams.add(task)
        try:
            with self._source.events.follow(after) as stream:
                await response.prepare(request)
                await response.write(b": events of this node\nretry: 2000\n\n")
                written = time.monotonic()
                while True:
                    events = await stream.next(max(0.0, written + KEEP_ALIVE - time.monotonic()))
                    frames = [f"id: {one.id}\ndata: {one.text}\n\n".encode() for one in wanted(events)]
                    if not frames and time.monotonic() >= written + KEEP_ALIVE:
                        frames = [b": still here\n\n"]
                    for first in range(0, len(frames), BATCH):
                        await response.write(b"".join(frames[first : first + BATCH]))
                        await asyncio.sleep(0)
                        written = time.monotonic()
        except LaggedError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("it reads more slowly than things happen") from None
        finally:
            self._streams.discard(task)

    async def end_streams(self, _: web.Application) -> None:
        for task in self._streams:
            task.cancel()


def _number(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 16 and int(text) < 2**53):
        raise _RefusedError(400, f"{name}: expected the number of an event, found {text[:40]!r}")
    return int(text)


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 2**53:
        raise _RefusedError(400, f"since: expected seconds since the epoch, found {text[:40]!r}")
    return value


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
