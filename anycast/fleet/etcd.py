"""etcd, spoken to by its own HTTP gateway (/v3), 3.4 and later.

What its answers mean was measured, not read. The status alone does not tell "no" from "nobody knows": 500, 503 and 504 are
all the latter. A call that was given up may be carried out later, by a member that stood still. So every write carries what
makes a late one harmless: a lease, and a comparison. And a lease that somebody keeps alive may be gone all the same: what
stands is read by a linearizable read.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import ssl
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import aiohttp

from anycast import mutual_tls, secrets
from anycast.core.values.fleet import Etcd as Settings

TIMEOUT = 1.5  # seconds a member has for an answer: one whose leader has gone takes 7 to say no
WHOLE = 4.0  # seconds for a call, whichever members it takes
CONNECTION_LASTS = 60.0  # seconds: a new one takes the certificates as they are then
MOST_BYTES = 4 * 1024 * 1024  # of an answer
_NO_TOKEN, _OLD_TOKEN = 3, 16  # codes of gRPC: without a token, with one that this member does not know
_NOT_FOUND, _FULL = 5, 8
_UNKNOWN = frozenset({500, 502, 503, 504})  # whether it was carried out or not
_MOST_WHY = 200
_NOT_ETCD = "what answers is not etcd"


class EtcdError(Exception):
    """`args[0]`: what is wrong, in words."""


class UnknownError(EtcdError):
    """Nobody can tell whether it was carried out, or what stands."""


class RefusedError(EtcdError):
    """It was not carried out, and will not be. `code`: of gRPC."""

    def __init__(self, why: str, code: int) -> None:
        super().__init__(why)
        self.code = code

    @property
    def is_full(self) -> bool:
        """What stands can be read, kept and deleted, and nothing can be written, until an operator makes room."""
        return self.code == _FULL


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A key and its value. `lease`: 0: none."""

    key: str
    value: bytes
    created: int
    modified: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Is:
    """A comparison. Of a revision 0: there is no such key."""

    key: str
    target: str  # CREATE or MOD
    revision: int

    def spelt(self) -> dict[str, Any]:
        name = {"CREATE": "create_revision", "MOD": "mod_revision"}[self.target]
        return {"key": _pack(self.key), "result": "EQUAL", "target": self.target, name: str(self.revision)}


def put(key: str, value: bytes, lease: int) -> dict[str, Any]:
    """Part of a transaction. With a lease that is gone, all of it is refused."""
    return {"requestPut": {"key": _pack(key), "value": _pack(value), "lease": str(lease)}}


def delete(key: str) -> dict[str, Any]:
    """Part of a transaction."""
    return {"requestDeleteRange": {"key": _pack(key)}}


class Client:
    """Calls one member, and another one if that does not answer. One task's; use it as a context manager."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._members = list(settings.endpoints)  # who has answered last comes first
        self._tokens: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None
        self._until = 0.0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Another call opens it anew, with the certificates as they are then."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def below(self, prefix: str) -> list[Entry]:
        """All keys that begin so, as a majority knows them. Raises EtcdError."""
        body = {"key": _pack(prefix), "range_end": _pack(_after(prefix))}
        answer = await self._call("kv/range", body, again=True)
        with _understood():
            return [_entry(one) for one in answer.get("kvs", ())]

    async def transact(self, compare: Sequence[Is], *, then: Sequence[dict[str, Any]]) -> bool:
        """Whether the comparisons held, and `then` was done. Raises EtcdError; after UnknownError look what stands."""
        body = {"compare": [one.spelt() for one in compare], "success": list(then)}
        answer = await self._call("kv/txn", body, again=False)
        return bool(answer.get("succeeded", False))

    async def grant(self, seconds: int) -> int:
        """A lease that ends so long after it was kept alive last, or later. Raises EtcdError."""
        answer = await self._call("lease/grant", {"TTL": str(seconds)}, again=True)
        with _understood():
            return int(answer["ID"])

    async def keep_alive(self, lease: int) -> bool:
        """Whether there is such a lease. Asked of two members at once: one may be stuck. Raises EtcdError."""
        try:
            answer = await self._call("lease/keepalive", {"ID": str(lease)}, again=True, at_once=2)
        except RefusedError as error:
            if error.code == _NOT_FOUND:
                return False
            raise
        with _understood():
            return int(answer.get("result", {}).get("TTL", 0)) > 0

    async def left(self, lease: int) -> float | None:
        """Seconds until it ends if nobody keeps it; None: it is gone. Raises EtcdError."""
        answer = await self._call("lease/timetolive", {"ID": str(lease)}, again=True)
        with _understood():
            seconds = int(answer.get("TTL", 0))
            return None if seconds < 0 else float(seconds)

    async def revoke(self, lease: int) -> None:
        """With all its keys. Raises EtcdError."""
        try:
            await self._call("lease/revoke", {"ID": str(lease)}, again=True)
        except RefusedError as error:
            if error.code != _NOT_FOUND:
                raise

    async def _call(
        self, path: str, body: dict[str, Any], *, again: bool, at_once: int = 1
    ) -> dict[str, Any]:
        """`again`: may be sent twice. Raises EtcdError."""
        problems: list[str] = []
        try:
            async with asyncio.timeout(WHOLE):
                members = list(self._members)
                while members:
                    some, members = members[:at_once], members[at_once:]
                    answers = await asyncio.gather(*(self._ask(one, path, body) for one in some))
                    for member, answer in zip(some, answers, strict=True):
                        if isinstance(answer, dict):
                            self._members.remove(member)
                            self._members.insert(0, member)
                            return answer
                    for member, answer in zip(some, answers, strict=True):
                        if isinstance(answer, RefusedError):
                            raise answer
                        problems.append(f"{member}: {answer}")
                        if isinstance(answer, UnknownError) and not again:
                            raise UnknownError(problems[-1])
        except TimeoutError:
            problems.append(f"no answer within {WHOLE:g} s")
        raise UnknownError("; ".join(problems)[:_MOST_WHY] or "no endpoint is configured")

    async def _ask(self, member: str, path: str, body: dict[str, Any]) -> dict[str, Any] | EtcdError:
        """The answer of one member, or why there is none: `EtcdError` itself says that nothing was sent."""
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._authorized(member, path, body)
        except TimeoutError:
            return UnknownError(f"no answer within {TIMEOUT:g} s")
        except (aiohttp.ClientConnectorError, secrets.SecretError) as error:
            return EtcdError(_spelt(error))
        except (aiohttp.ClientError, OSError) as error:
            return UnknownError(_spelt(error))
        except EtcdError as error:
            return error

    async def _authorized(self, member: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A token is known by all members, and its life is kept by each for itself: a new one where it is not taken."""
        if self._settings.user is None:
            return await self._post(member, path, body)
        if (token := self._tokens.get(member)) is not None:
            try:
                return await self._post(member, path, body, token)
            except RefusedError as error:
                if error.code not in {_NO_TOKEN, _OLD_TOKEN}:
                    raise
        token = self._tokens[member] = await self._authenticated(member)
        return await self._post(member, path, body, token)

    async def _authenticated(self, member: str) -> str:
        kept = self._settings.password
        password = "" if kept is None else await asyncio.to_thread(secrets.token, kept)
        answer = await self._post(
            member, "auth/authenticate", {"name": self._settings.user, "password": password}
        )
        return str(answer.get("token", ""))

    async def _post(
        self, member: str, path: str, body: dict[str, Any], token: str | None = None
    ) -> dict[str, Any]:
        """Raises RefusedError, UnknownError, TimeoutError, OSError, ClientError."""
        headers = {} if token is None else {"Authorization": token}
        session = await self._open()
        async with session.post(
            f"{member}/v3/{path}", json=body, headers=headers, allow_redirects=False
        ) as response:
            data = await response.content.read(MOST_BYTES)
            if path == "lease/keepalive":
                data = data.partition(b"\n")[0]  # a stream, of which the first answer is ours
            return _answer(response.status, data)

    async def _open(self) -> aiohttp.ClientSession:
        now = asyncio.get_running_loop().time()
        if self._session is None or now > self._until:
            await self.close()
            self._until = now + CONNECTION_LASTS
            encrypted = any(one.startswith("https:") for one in self._members)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=mutual_tls.to_server(self._settings.tls) if encrypted else True
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _answer(status: int, data: bytes) -> dict[str, Any]:
    """Errors have four shapes. Raises RefusedError, UnknownError."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = {"message": data[:_MOST_WHY].decode("utf-8", "replace").strip()}
    if not isinstance(body, dict):
        raise UnknownError(_NOT_ETCD)
    error = body.get("error")
    if status == HTTPStatus.OK and error is None:
        return body
    told = error if isinstance(error, dict) else body
    code = told.get("code", told.get("grpc_code", 0))
    why = str(told.get("message") or (error if isinstance(error, str) else "") or f"status {status}")
    why = "".join(letter if letter.isprintable() else " " for letter in why)[:_MOST_WHY]
    http = told.get("http_code", status)
    if not isinstance(http, int) or http in _UNKNOWN or not isinstance(code, int):
        raise UnknownError(why)
    raise RefusedError(why, code)


@contextlib.contextmanager
def _understood() -> Iterator[None]:
    """Whatever else is in an answer is an error of who answers, and none of this program. Raises UnknownError."""
    try:
        yield
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
        raise UnknownError(_NOT_ETCD) from None


def _entry(found: dict[str, Any]) -> Entry:
    """Numbers of 64 bits are texts; what is 0 or empty is left out."""
    return Entry(
        key=base64.b64decode(found["key"]).decode("utf-8", "replace"),
        value=base64.b64decode(found.get("value", "")),
        created=int(found.get("create_revision", 0)),
        modified=int(found.get("mod_revision", 0)),
        lease=int(found.get("lease", 0)),
    )


def _pack(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def _after(prefix: str) -> bytes:
    """The first key that does not begin so."""
    data = prefix.encode()
    return data[:-1] + bytes([data[-1] + 1])


def _spelt(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        # aiohttp's own error of a certificate is an SSLError by name alone.
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
            told = getattr(cause, "verify_message", "") or cause.reason
            return f"its certificate or ours is not good: {told}"
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return f"it cannot be reached: {os.strerror(number) if number else error.os_error}"
    return str(error) or type(error).__name__


def absent(keys: Iterable[str]) -> list[Is]:
    return [Is(key, "CREATE", 0) for key in keys]
