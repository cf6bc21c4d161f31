"""Where the other nodes of a fleet ask this one: two paths, behind a token and certificates as the configuration says.

Bound anew when the configuration or a certificate changes. A node that cannot listen there goes on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, cast

import structlog
from aiohttp import web

from anycast import mutual_tls, secrets
from anycast.core.fleet import codec, tables
from anycast.core.hooks import Secret
from anycast.core.values.configuration import Config
from anycast.core.values.fleet import Certificates, Fleet
from anycast.listening import bind_tcp
from anycast.ops import fleet_tables, status
from anycast.ops.connections import Limits, Listening, counted
from anycast.ops.fleet import Told
from anycast.ops.source import Source

LOOK = 1.0  # seconds between two looks at the configuration
AGES = 5  # of them between two looks whether a certificate was replaced
TOKEN_LASTS = 2.0  # seconds for which a token is good that was read
RETRY = 5.0  # seconds until a certificate that cannot be used is looked at again
LIMITS = Limits(connections=192, reserved=8)

_Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Stands: TypeAlias = Callable[[str, str], None]
"""Is told of a place where nobody is served, and why; with an empty text when they are."""

log = structlog.get_logger()


def reply(told: Told, request: web.BaseRequest) -> web.Response:
    """The newest answer, or that it is the one that whoever asks has."""
    answer = told.answer()
    tag = f'"{answer.tag}"'
    if request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers={"ETag": tag})
    known = [one.strip() for one in request.headers.get(codec.PIECES, "").split(",")]
    return web.Response(body=answer.body(known), content_type="application/json", headers={"ETag": tag})


def tables_of(source: Source, vip: str) -> web.Response:
    """Of one VIP, for whoever has found that its own are others."""
    found = fleet_tables.tables(source.facts.state, vip)
    if found is None:
        return _refused(404, "there is no such VIP")
    return web.json_response(tables.body(found))


@dataclass(frozen=True, slots=True)
class _How:
    """What it takes to bind it anew."""

    listen: str
    tls: Certificates | None
    names: frozenset[str]
    ages: tuple[int, ...]


class Door:
    """Serves nobody until `keep` has bound it."""

    def __init__(
        self, source: Source, told: Told, stands: Stands, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._source = source
        self._clock = clock
        self._told = told
        self._stands = stands
        self._token: str | None = None
        self._token_of: Secret | None = None
        self._token_read = 0.0
        self._where = ""
        self._complaint = ""

    async def keep(self) -> None:
        """Until it is cancelled."""
        listening: _Bound | None = None
        how: _How | None = None
        wanted: _How | None = None
        config: Config | None = None
        looks = 0
        try:
            while True:
                looks += 1
                if (found := self._source.facts.state.config) is not config or looks % AGES == 0:
                    config, wanted = found, _how(found)
                if wanted is None and self._where:
                    self._say("", "")
                if wanted != how:
                    if listening is not None:
                        await listening.close()
                    listening, how = None, wanted
                    if wanted is not None:
                        listening = await self._bound(wanted)
                    if listening is None:
                        how = None
                await asyncio.sleep(LOOK if wanted is None or how is not None else RETRY)
        finally:
            if listening is not None:
                await listening.close()

    async def _bound(self, how: _How) -> _Bound | None:
        """None: its certificate cannot be used, which stands."""
        context: ssl.SSLContext | None = None
        if how.tls is not None:
            try:
                context = mutual_tls.server(how.tls, how.names)
            except OSError as error:
                self._say(how.listen, f"the certificate of the fleet cannot be used: {error}")
                return None
        bound = _Bound(self._answer, context)
        bound.task = asyncio.create_task(
            bind_tcp(how.listen, bound.listening.listen, lambda why: self._say(how.listen, why))
        )
        return bound

    def _say(self, where: str, why: str) -> None:
        if where != self._where and self._where:
            self._stands(self._where, "")
        self._where = where
        if why != self._complaint and why:
            log.error("fleet.unavailable", where=where, error=why)
        self._complaint = why
        if where:
            self._stands(where, why)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        fleet = self._source.facts.state.config.fleet
        vip = request.path.startswith(tables.PATH)
        if fleet is None or not (vip or request.path == codec.PATH):
            return _refused(404, "there is nothing but /fleet here")
        if request.method not in ("GET", "HEAD"):
            return _refused(405, "questions alone are answered here")
        if (why := self._stranger(request, fleet)) is not None:
            return why
        if status.lost_its_lease(self._source.facts.state, self._source.facts.last_step, self._clock()):
            # What it said last stands here as it was, and its lease has run out: its routes are gone. Without figures: a text
            # that changes is logged by all nodes with each question.
            return _refused(503, "its agent hangs, and its routes are gone with its lease")
        if vip:
            return tables_of(self._source, request.path.removeprefix(tables.PATH))
        return reply(self._told, request)

    def _stranger(self, request: web.BaseRequest, fleet: Fleet) -> web.Response | None:
        """The answer to one who has no token, where one is needed."""
        if fleet.token is None:
            return None
        now = asyncio.get_running_loop().time()
        if self._token_of != fleet.token or now > self._token_read + TOKEN_LASTS:
            self._token_of, self._token_read = fleet.token, now
            try:
                self._token = secrets.token(fleet.token)
            except secrets.SecretError as error:
                self._token = None
                log.error("fleet.no_token", error=str(error))
        if self._token is None:
            return _refused(503, "this node has no token of its own, and so trusts nobody: see its log")
        given = request.headers.get("Authorization", "")
        if hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {self._token}".encode()):
            return None
        return _refused(401, "the token is not that of this node")


def _how(config: Config) -> _How | None:
    """None: nobody is to be served."""
    fleet = config.fleet
    if fleet is None or not fleet.listen:
        return None
    names = {
        config.node.name,
        *(one.name for one in fleet.peers),
        *(one.host for one in fleet.peers if one.host),
    }
    return _How(fleet.listen, fleet.tls, frozenset(names), mutual_tls.ages(fleet.tls))


class _Bound:
    """One listening socket with its server."""

    def __init__(self, answer: _Handler, context: ssl.SSLContext | None) -> None:
        server = web.Server(partial(_counted, answer), handler_cancellation=True)
        self._server = server
        self.listening = Listening(server, LIMITS, tls=context)
        self.task: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.task
        self.listening.close()
        await self._server.shutdown(0.5)


async def _counted(answer: _Handler, request: web.BaseRequest) -> web.StreamResponse:
    return await counted(cast(web.Request, request), cast(Any, answer))


def _refused(code: int, why: str) -> web.Response:
    return web.json_response({"error": why}, status=code)
