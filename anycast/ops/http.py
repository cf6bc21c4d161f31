"""The read-only pages, for everybody. Programs use the status code. Errors are JSON: `{"error": "..."}`.

The paths stand in `paths`; the limits of connections in `connections`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import structlog
from aiohttp import HttpVersion10, web
from prometheus_client.exposition import choose_encoder

import anycast
from anycast.core.in_force import conditions
from anycast.core.state import State, VipState
from anycast.core.values.configuration import Vip
from anycast.ops import fleet_seen, hosts, page, status, why
from anycast.ops.board import Boards
from anycast.ops.connections import MAX_FIELDS, MAX_WHY, begin_stream, counted, refusal
from anycast.ops.exposition import Body
from anycast.ops.fleet import Told
from anycast.ops.fleet_door import reply, tables_of
from anycast.ops.hub import Event, LaggedError, interest
from anycast.ops.metrics import MetricsText
from anycast.ops.paths import READ, STREAM, Operation, openapi
from anycast.ops.source import Source

MAX_STREAMS = 128
REVISION = "X-Anycast-Revision"
"""Header of a request that is to be answered by what the agent knew then, or later."""
REVISION_TIME = 5.0  # seconds such a request waits
FRESH = 0.5  # seconds a document of all real servers is good for, however many ask
SLICE = 64 * 1024  # bytes of an answer that are handed to the connection in one go
WRITE_TIME = 10.0  # seconds such a slice waits for its reader
MAX_PAGES = 16  # with different VIPs on them, that are kept for a moment
KEEP_ALIVE = 15.0  # seconds between two comments in a stream of events
BATCH = 50  # events written to a stream in one go; VIPs of a document before others have a turn
_VIPS = "\0 here are the VIPs \0"  # no name or text of a configuration has such a sign

READS = ("GET", "HEAD")
MAX_PATH = 100  # characters of a path that are told again

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Reached = Callable[[int, float], Awaitable[bool]]
"""Whether what the agent knew at that revision is here, within so many seconds."""

T = TypeVar("T")

log = structlog.get_logger()


def read_app(
    source: Source,
    reached: Reached | None = None,
    names: Callable[[], Iterable[str]] = frozenset,
    told: Told | None = None,
) -> web.Application:
    """`told`: what other nodes are told. `names`: of this machine. Over TCP it is asked by them, by those in the configuration, or by an address."""

    def known() -> Iterable[str]:
        node = source.facts.state.config.node
        return {node.name, *node.http_hosts, *names(), *hosts.LOCAL}

    middlewares = [counted, _in_slices, _errors_as_json, _is_question(known), _at_revision(reached)]
    app = web.Application(middlewares=middlewares)
    surface = _Reading(source, told or Told(source))
    for operation in READ:
        handler: Handler = getattr(surface, operation.handler)
        answer = _strict(operation, handler) if operation.strict else handler
        app.router.add_get(operation.path, answer, expect_handler=_expected)
    app.on_response_prepare.append(_signed)
    app.on_shutdown.append(surface.end_streams)
    return app


async def _signed(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "anycast"  # nobody need know of what it is made


async def _expected(request: web.Request) -> None:
    """A question has no body for which one could be told to go on."""
    if (expectation := request.headers.get("Expect", "")).lower() != "100-continue":
        raise web.HTTPExpectationFailed(text=f"the expectation {expectation[:MAX_PATH]!r} cannot be met")


def _is_question(known: Callable[[], Iterable[str]]) -> Any:
    """It is HTTP, this node is meant, and nothing comes with it. `known`: the names of this node."""

    @web.middleware
    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.version < HttpVersion10:
            raise _RefusedError(505, "HTTP/1.1 and HTTP/1.0 are spoken here", last=True)
        if (host := _foreign_host(request, known())) is not None:
            why = f"{host[:MAX_PATH]!r} is not a name of this node: ask by its address, or write the name in node.http_hosts"
            raise _RefusedError(421, why, last=True)
        if request.method == "CONNECT":
            raise _RefusedError(405, "this is no proxy", last=True, headers={"Allow": ", ".join(READS)})
        if request.method in READS and request.body_exists:
            raise _RefusedError(400, f"{request.method} is sent without a body here", last=True)
        return await handler(request)

    return handle


def _foreign_host(request: web.Request, names: Iterable[str]) -> str | None:
    """The name of another by which it asks. At a unix socket anyone is meant who listens there."""
    transport = request.transport
    if transport is None or not isinstance(transport.get_extra_info("peername"), tuple):
        return None
    asked = request.headers.getall("Host", [])  # HTTP/1.0 needs none, and no browser leaves it out
    if "://" in request.raw_path.partition("?")[0]:
        asked = [*asked, request.url.raw_authority]  # as the whole address has it
    return next((one for one in asked if not hosts.is_known(one, names)), None)


def _strict(operation: Operation, handler: Handler) -> Handler:
    known = [one.name for one in operation.parameters if one.place == "query"]

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
    """The request cannot be served; `code` is the HTTP status. `last`: nor is another one on its connection."""

    def __init__(
        self, code: int, message: str, *, last: bool = False, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.last = last
        self.headers = headers


@web.middleware
async def _in_slices(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What waits for a slow reader is one slice, and not a copy of everything; and it does not wait for ever."""
    response = await handler(request)
    body = response.body if isinstance(response, web.Response) else None
    if not isinstance(body, bytes) or len(body) <= SLICE or request.method == "HEAD":
        return response
    whole = web.StreamResponse(status=response.status, headers=response.headers)
    whole.content_length = len(body)
    await whole.prepare(request)
    view = memoryview(body)
    for first in range(0, len(body), SLICE):
        await _write(request, whole, view[first : first + SLICE])
    await whole.write_eof()
    return whole


async def _write(request: web.Request, response: web.StreamResponse, data: bytes | memoryview) -> None:
    """Raises ConnectionResetError: it is not read."""
    try:
        async with asyncio.timeout(WRITE_TIME):
            await response.write(data)
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("it does not read its answer") from None


def _takes_gzip(request: web.Request) -> bool:
    for one in request.headers.get("Accept-Encoding", "").split(","):
        name, _, rest = one.partition(";")
        if name.strip().lower() == "gzip":
            return rest.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


async def _stream_of(
    request: web.Request, headers: Mapping[str, str], length: int, pieces: Iterable[bytes]
) -> web.StreamResponse:
    """An answer that is never in memory whole: slices of what its pieces make together."""
    whole = web.StreamResponse(headers=headers)
    whole.content_length = length
    await whole.prepare(request)
    if request.method == "HEAD":
        return whole
    some: list[bytes] = []
    size = 0
    for piece in pieces:
        some.append(piece)
        size += len(piece)
        if size >= SLICE:
            await _write(request, whole, b"".join(some))
            some, size = [], 0
    if some:
        await _write(request, whole, b"".join(some))
    await whole.write_eof()
    return whole


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    if len(request.raw_headers) > MAX_FIELDS:  # aiohttp before 3.14 takes any number
        return refusal(431, f"more than {MAX_FIELDS} headers")
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        why_not = f"{_path(request)} does not take {request.method[:MAX_PATH]} (it takes {allowed})"
        return _json({"error": why_not}, code=error.status, headers={"Allow": allowed})
    except web.HTTPNotFound as error:
        return _json({"error": f"there is no {_path(request)} here"}, code=error.status)
    except web.HTTPException as error:
        return _json({"error": (error.text or error.reason)[:MAX_WHY]}, code=error.status)
    except _RefusedError as error:
        refused = _json({"error": str(error)}, code=error.code, headers=error.headers)
        if error.last:
            refused.force_close()
        return refused
    except ConnectionError:
        raise  # whoever asked has gone
    except Exception:
        log.exception("ops.unexpected", method=request.method, path=request.path)
        failed = _json({"error": "a defect of this program; please report it with its log"}, code=500)
        failed.force_close()
        return failed


def _path(request: web.Request) -> str:
    return request.path if len(request.path) <= MAX_PATH else request.path[:MAX_PATH] + "…"


def _at_revision(reached: Reached | None) -> Any:
    @web.middleware
    async def wait(request: web.Request, handler: Handler) -> web.StreamResponse:
        revision = _number(request.headers.get(REVISION), REVISION)
        if revision is not None and reached is not None and not await reached(revision, REVISION_TIME):
            raise _RefusedError(503, f"the agent's newest facts have not come within {REVISION_TIME:g} s")
        return await handler(request)

    return wait


def _json(body: Any, *, code: int = 200, headers: dict[str, str] | None = None) -> web.Response:
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


class _Kept(Generic[T]):
    """An answer that is the same for all who ask within a moment."""

    def __init__(self) -> None:
        self._kept: tuple[object, float, T] | None = None  # its key, until when it is good, and the answer

    def read(self, make: Callable[[], T], key: object = None) -> T:
        """Made anew when the moment is over, or `key` is another."""
        known = self.known(key)
        return self.keep(make(), key) if known is None else known

    def known(self, key: object = None) -> T | None:
        if self._kept is not None and self._kept[0] == key and time.monotonic() <= self._kept[1]:
            return self._kept[2]
        self._kept = None  # not two of them at once
        return None

    def keep(self, made: T, key: object = None) -> T:
        self._kept = key, time.monotonic() + FRESH, made
        return made


class _Routes:
    """The routing of the newest state, worked out once for all who ask for one VIP after the other."""

    def __init__(self) -> None:
        self._of: tuple[State, float, status.Routing] | None = None  # with when it was worked out

    def read(self, state: State, now: float) -> status.Routing:
        if self._of is None or self._of[0] is not state or now > self._of[1] + FRESH:
            self._of = state, now, status.routing(state, now)
        return self._of[2]


class _Reading:
    def __init__(self, source: Source, told: Told) -> None:
        self._source = source
        self._told = told
        self._boards = Boards()
        self._status = _Kept[bytes]()
        self._writing = asyncio.Lock()
        self._fleet_seen = _Kept[dict[str, Any]]()
        self._routes = _Routes()
        self._pages: dict[page.Asked, _Kept[bytes]] = {}
        self._memory = page.Memory()
        self._metrics_of = defaultdict[tuple[str, bool], _Kept[Body]](_Kept)  # by what is asked for
        self._metrics = MetricsText(source, version=anycast.__version__)
        self._openapi = _dumps(openapi(READ, version=anycast.__version__)).encode()
        self._streams: set[asyncio.Task[object]] = set()

    async def get_livez(self, request: web.Request) -> web.Response:
        lag = status.lag(self._source.facts.state, self._source.facts.last_step, time.monotonic())
        return _verdict(request, good=not lag, reasons=(lag,) if lag else ())

    async def get_readyz(self, request: web.Request) -> web.Response:
        reasons = status.readiness(self._source.facts.state, time.monotonic())
        return _verdict(request, good=not reasons, reasons=reasons)

    async def get_page(self, request: web.Request) -> web.Response:
        query = request.query
        asked = page.asked(query.get("q", ""), query.get("page", ""), query.get("sort", ""))

        def make() -> bytes:
            board = self._boards.of(self._source.facts.state)
            now, wall = time.monotonic(), time.time()
            told = page.page(
                self._source,
                board,
                version=anycast.__version__,
                now=now,
                wall=wall,
                asked=asked,
                memory=self._memory,
                fleet=self._fleet(),
            )
            return told.encode()

        kept = self._pages.pop(asked, None) or _Kept[bytes]()
        self._pages[asked] = kept  # the newest is the last
        while len(self._pages) > MAX_PAGES:
            del self._pages[next(iter(self._pages))]
        return web.Response(body=kept.read(make, self._source.events.newest), headers=page.headers())

    async def get_status(self, request: web.Request) -> web.Response:
        # Who names a revision has just changed something.
        key = request.headers.get(REVISION)
        async with self._writing:  # who asks meanwhile gets the same
            body = self._status.known(key) or self._status.keep(await self._document(), key)
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def _document(self) -> bytes:
        """Written VIP by VIP: of thousands the whole is large as values, and others are answered meanwhile."""
        state, now, wall = self._source.facts.state, time.monotonic(), time.time()
        traffic = self._source.traffic
        view = self._boards.of(state).view(status.Clock(now=now, wall=wall), traffic)
        routes = status.routing(state, now)
        frame = status.frame(
            state,
            _VIPS,
            now=now,
            wall=wall,
            version=anycast.__version__,
            pid=self._source.pid,
            force=self._source.facts.force,
            overload=self._source.facts.work.strain.overload,
            traffic=traffic,
            hooks=self._source.facts.hooks,
            headroom=self._source.headroom.read(now),
            tripwires=self._source.facts.tripwires,
        )
        head, _, tail = _dumps(frame).partition(json.dumps(_VIPS))
        vips: list[str] = []
        for vip in state.config.vips:
            told = status.vip_status(
                state, vip, now=now, wall=wall, routes=routes, view=view, traffic=traffic
            )
            vips.append(json.dumps(told, allow_nan=False))
            if len(vips) % BATCH == 0:
                await asyncio.sleep(0)
        return f"{head}[{', '.join(vips)}]{tail}".encode()

    async def get_fleet(self, request: web.Request) -> web.StreamResponse:
        """For this node itself: others ask where `fleet.listen` says, and must have the token."""
        self._is_own(request)
        if status.lost_its_lease(self._source.facts.state, self._source.facts.last_step, time.monotonic()):
            raise _RefusedError(503, "the agent hangs: what it said last is not so any more")
        return reply(self._told, request)

    async def get_fleet_tables(self, request: web.Request) -> web.StreamResponse:
        """The same."""
        self._is_own(request)
        return tables_of(self._source, request.match_info["name"])

    async def get_fleet_headroom(self, request: web.Request) -> web.Response:
        """For the agent."""
        self._is_own(request)
        if (found := self._source.headroom.read(time.monotonic())) is None:
            raise web.HTTPNotFound
        return _json(found.own())

    def _is_own(self, request: web.Request) -> None:
        transport = request.transport
        strange = transport is None or isinstance(transport.get_extra_info("peername"), tuple)
        if strange or self._source.facts.state.config.fleet is None:
            raise web.HTTPNotFound

    async def get_fleet_view(self, request: web.Request) -> web.Response:
        if (found := self._fleet(request.headers.get(REVISION))) is None:
            raise _RefusedError(404, fleet_seen.NO_FLEET)
        return _json(found)

    def _fleet(self, key: str | None = None) -> dict[str, Any] | None:
        """None: there is none."""
        state = self._source.facts.state
        fleet = state.config.fleet
        if fleet is None:
            return None

        def make() -> dict[str, Any]:
            now = time.monotonic()
            known = self._source.headroom.read(now)
            return fleet_seen.document(self._told.whole(now), state.fleet, fleet, now=now, known=known)

        return self._fleet_seen.read(make, (key, fleet))

    async def get_metrics(self, request: web.Request) -> web.StreamResponse:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        servers = request.query.get("servers", "yes")
        if servers not in ("yes", "no"):
            raise _RefusedError(400, f"servers: expected yes or no, found {servers[:40]!r}")

        def make() -> Body:
            board = self._boards.of(self._source.facts.state)
            return self._metrics.read(board, encode, content_type, servers=servers == "yes")

        body = self._metrics_of[content_type, servers == "yes"].read(make)
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if not _takes_gzip(request):
            return await _stream_of(request, headers, body.length, body.plain())
        headers["Content-Encoding"] = "gzip"
        return await _stream_of(request, headers, body.packed_length, body.packed())

    async def get_openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=self._openapi, content_type="application/json", charset="utf-8")

    async def get_vip(self, request: web.Request) -> web.Response:
        state, vip = self._source.facts.state, self._vip(request.match_info["name"])
        now = time.monotonic()
        routes = self._routes.read(state, now)
        announced = status.is_announced(routes, vip)
        code = 200 if announced else 503
        if _wants_json(request):
            body = status.vip_status(
                state, vip, now=now, wall=time.time(), routes=routes, traffic=self._source.traffic
            )
            return _json(body, code=code)
        verdict = state.vips.get(vip.name, VipState()).verdict
        obstacle = status.obstacle(state, vip, routes)
        words = [
            "acknowledged by ExaBGP" if announced else "not announced",
            str(verdict.reason),
            verdict.detail,
            obstacle,
        ]
        return web.Response(status=code, text=": ".join(filter(None, words)) + "\n")

    async def get_why(self, request: web.Request) -> web.Response:
        state, vip = self._source.facts.state, self._vip(request.match_info["name"])
        facts = self._source.facts
        standing = status.conditions(
            state,
            overload=facts.work.strain.overload,
            hooks=facts.hooks,
            force=facts.force,
            now=time.monotonic(),
        )
        now, wall = time.monotonic(), time.time()
        body = why.document(
            state, vip, facts.tallies, now=now, wall=wall, standing=standing, notes=facts.tripwires.notes
        )
        return _json(body) if _wants_json(request) else web.Response(text=why.text(body))

    def _vip(self, name: str) -> Vip:
        facts = self._source.facts
        vip = facts.state.config.vip(name)
        if vip is None:
            # It may stand in a file that is not in force.
            standing = [one.text for one in conditions(facts.force, time.monotonic())]
            raise _no_vip(name, facts.state.config.vips, *standing[:1])
        return vip

    async def get_events(self, request: web.Request) -> web.StreamResponse:
        after = _number(request.query.get("after"), "after")
        seen = _number(request.headers.get("Last-Event-ID"), "Last-Event-ID")
        after = after if seen is None else seen
        since = _seconds(request.query.get("since"))
        name = request.query.get("vip")
        about = None if name is None else interest(self._source.facts.state.config, self._vip(name))

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
        task = asyncio.current_task()
        if len(self._streams) >= MAX_STREAMS:
            raise _RefusedError(503, "too many streams are open")
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._streams.add(task)
        begin_stream(request)
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
                        await _write(request, response, b"".join(frames[first : first + BATCH]))
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


def _no_vip(name: str, vips: tuple[Vip, ...], *also: str) -> _RefusedError:
    return _RefusedError(404, "; ".join([status.no_vip(name, vips), *also]))
