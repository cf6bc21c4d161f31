"""A webhook: the payload by POST. The answer's status decides, its body is not read: it may repeat what was sent."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import os
import re
import socket
import ssl
import stat
import threading
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from anycast.core.hooks import Ending, Secret, Webhook
from anycast.notify.outcome import Outcome

MAX_SECRET = 4096  # bytes of a file with a secret
LONGEST_WAIT = 60.0  # seconds: what an answer's Retry-After may ask for
_TOKEN = re.compile(r"[!-~]+\Z")


class SecretError(Exception):
    """A secret is not where it should be. `args[0]`: in words, without it."""


async def run(
    action: Webhook, told: Mapping[str, Any], body: bytes, patience: float, *, agent: str
) -> Outcome:
    try:
        async with asyncio.timeout(patience):
            return await _post(action, told, body, agent)
    except SecretError as error:
        return Outcome(ending=Ending.FAILED, why=str(error), again=True)
    except TimeoutError:
        return Outcome(ending=Ending.TIMEOUT, why=f"no answer within {patience:g} s", again=True)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return Outcome(ending=Ending.FAILED, why=_why(action, error), again=True)


async def _post(action: Webhook, told: Mapping[str, Any], body: bytes, agent: str) -> Outcome:
    headers = {
        **dict(action.headers),
        "Content-Type": "application/json",
        "User-Agent": agent,
        "X-Anycast-Event": str(told["event"]),
        "X-Anycast-Id": f"{told['node']}/{told['id']}",
    }
    if action.token is not None:
        headers["Authorization"] = f"Bearer {_token(action.token)}"
    if action.signature is not None:
        digest = hmac.new(_read(action.signature), body, hashlib.sha256).hexdigest()
        headers["X-Anycast-Signature"] = f"sha256={digest}"
    # One request a connection: nothing is left open between two events that may be days apart.
    connector = aiohttp.TCPConnector(
        ssl=_context(action), resolver=_Resolver(), force_close=True, use_dns_cache=False
    )
    async with (
        aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        ) as session,
        # A redirect is not followed: the token is for this host alone.
        session.post(action.url, data=body, headers=headers, allow_redirects=False) as answer,
    ):
        return _judge(answer.status, answer.headers.get("Retry-After", ""))


def _judge(status: int, retry_after: str) -> Outcome:
    if 200 <= status < 300:
        return Outcome(ending=Ending.OK, why=f"status {status}")
    if 300 <= status < 400:
        return Outcome(
            ending=Ending.FAILED, why=f"status {status}: a redirect is not followed (correct the URL)"
        )
    again = status >= 500 or status in (408, 425, 429)
    after = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else 0.0
    return Outcome(ending=Ending.FAILED, why=f"status {status}", again=again, after=min(after, LONGEST_WAIT))


def _why(action: Webhook, error: Exception) -> str:
    """By the kind of error: the text of some holds the URL, or what the other end sent."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or "it does not fit"
            return f"the certificate of {action.host} is not trusted: {reason}"
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return f"no TLS with {action.host}"
        case aiohttp.ClientConnectorDNSError():
            return f"the name {action.host} cannot be looked up"
        case aiohttp.ClientConnectorError():
            return f"no connection to {action.host}: {_words(error.os_error)}"
        case aiohttp.ServerDisconnectedError():
            return f"{action.host} ended the connection without an answer"
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return f"what {action.host} answers is not HTTP"
        case OSError() if error.errno:
            return f"no answer of {action.host}: {_words(error)}"
        case _:
            return f"no answer of {action.host}: {type(error).__name__}"


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__


def _context(action: Webhook) -> ssl.SSLContext | bool:
    if not action.url.startswith("https:"):
        return True  # of no meaning
    try:
        return ssl.create_default_context(cafile=action.ca)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no certificate in it"
        raise SecretError(f"the certificates in {action.ca} cannot be used: {why}") from None


def _token(secret: Secret) -> str:
    token = _read(secret).decode("ascii", "replace")
    if not _TOKEN.match(token):
        raise SecretError(f"the token in {secret} is not one word of printable ASCII")
    return token


def _read(secret: Secret) -> bytes:
    """Without white space around it. Raises SecretError."""
    if secret.variable:
        value = os.environb.get(secret.variable.encode(), b"").strip()
        if not value:
            raise SecretError(f"there is no variable {secret.variable} in the environment of this process")
        return value
    try:
        # A pipe in its place must not hold anybody up.
        file = os.open(secret.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise SecretError(f"{secret.file} is not a file")
            value = os.read(file, MAX_SECRET + 1).strip()
        finally:
            os.close(file)
    except OSError as error:
        raise SecretError(f"{secret.file} cannot be read: {error.strerror}") from None
    if not value or len(value) > MAX_SECRET:
        raise SecretError(f"{secret.file} is empty, or larger than {MAX_SECRET} bytes")
    return value


class _Resolver(AbstractResolver):
    """Names are looked up in a thread that nobody waits for at the end: the C library gives up when it likes."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Any]] = loop.create_future()

        def tell(found: list[Any] | None, error: OSError | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(found or [])
            else:
                done.set_exception(error)

        def look() -> None:
            found, failure = None, None
            try:
                found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
            except OSError as error:
                failure = error
            except UnicodeError:
                failure = OSError("no host name")
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(tell, found, failure)

        threading.Thread(target=look, name="hook lookup", daemon=True).start()
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, protocol, _, address in await done
        ]

    async def close(self) -> None:
        """Nothing is kept."""
