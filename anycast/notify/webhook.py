"""A webhook: the payload by POST. The answer's status decides, its body is not read: it may repeat what was sent."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import hmac
import os
import socket
import ssl
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import h11

from anycast import secrets
from anycast.core.hooks import Ending, Webhook, is_exposed, wrong_url
from anycast.notify.outcome import Outcome
from anycast.secrets import SecretError
from anycast.trust import verifying

LONGEST_WAIT = 60.0  # seconds: what an answer's Retry-After may ask for
_CHUNK = 16 * 1024  # bytes that are read at a time


class EndedError(ConnectionError):
    """The other end closed the connection before its answer was complete."""


async def run(
    action: Webhook, told: Mapping[str, Any], body: bytes, patience: float, *, agent: str
) -> Outcome:
    try:
        async with asyncio.timeout(patience):
            action = _whole(action)
            return await _post(action, told, body, agent, asyncio.get_running_loop().time() + patience)
    except SecretError as error:
        return Outcome(ending=Ending.FAILED, why=str(error), again=True)
    except TimeoutError:
        return Outcome(ending=Ending.TIMEOUT, why=f"no answer within {patience:g} s", again=True)
    except (h11.ProtocolError, OSError, ValueError) as error:
        return Outcome(ending=Ending.FAILED, why=_why(action, error), again=True)


def _whole(action: Webhook) -> Webhook:
    """With the URL, where that stands in a file or a variable. Raises SecretError."""
    if action.url_from is None:
        return action
    url = secrets.token(action.url_from)
    if why := wrong_url(url):
        raise SecretError(f"the URL in {action.url_from} cannot be used: {why[0]}")
    if action.token is not None and is_exposed(url):
        raise SecretError(f"with the URL in {action.url_from} everybody on the network could read the token")
    return dataclasses.replace(action, url=url, host=urlsplit(url).netloc)


async def _post(action: Webhook, told: Mapping[str, Any], body: bytes, agent: str, ends: float) -> Outcome:
    ours = {
        "Host": action.host,
        "Accept": "*/*",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "User-Agent": agent,
        "X-Anycast-Event": str(told["event"]),
        "X-Anycast-Id": f"{told['node']}/{told['id']}",
        # One request a connection: nothing is left open between two events that may be days apart.
        "Connection": "close",
    }
    if action.token is not None:
        ours["Authorization"] = f"Bearer {secrets.token(action.token)}"
    if action.signature is not None:
        digest = hmac.new(secrets.read(action.signature), body, hashlib.sha256).hexdigest()
        ours["X-Anycast-Signature"] = f"sha256={digest}"
    names = {name.lower() for name in ours}
    more = action.headers
    if action.headers_from is not None:
        more += secrets.headers(action.headers_from, names)
    url = urlsplit(action.url)
    request = h11.Request(
        method="POST",
        target=(url.path or "/") + (f"?{url.query}" if url.query else ""),
        headers=[*ours.items(), *(one for one in more if one[0].lower() not in names)],
    )
    http = h11.Connection(h11.CLIENT)
    data = b"".join(http.send(part) or b"" for part in (request, h11.Data(data=body), h11.EndOfMessage()))
    reader, writer = await _connect(url, _context(action), ends)
    try:
        writer.write(data)
        while not isinstance(event := http.next_event(), h11.Response):
            if event is h11.NEED_DATA:
                received = await reader.read(_CHUNK)
                if not received:
                    raise EndedError
                http.receive_data(received)
    finally:
        writer.transport.abort()
    # A redirect is not followed: the token is for this host alone.
    headers = dict(event.headers)
    return _judge(event.status_code, headers.get(b"retry-after", b"").decode("ascii", "replace"))


async def _connect(
    url: SplitResult, context: ssl.SSLContext | None, ends: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To the first address that answers; each has its share of the time until `ends`."""
    loop = asyncio.get_running_loop()
    port = url.port or (443 if context else 80)
    addresses = await _look_up(url.hostname or "", port)
    name = url.hostname if context else None
    for left in range(len(addresses), 0, -1):
        with contextlib.suppress(*((OSError,) if left > 1 else ())):
            async with asyncio.timeout((ends - loop.time()) / left):
                return await asyncio.open_connection(
                    addresses[-left], port, ssl=context, server_hostname=name
                )
    raise socket.gaierror


async def _look_up(host: str, port: int) -> list[str]:
    """In a thread that nobody waits for at the end: the C library gives up when it likes. Raises OSError."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[list[str]] = loop.create_future()

    def tell(found: list[str], error: OSError | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(found)
        else:
            done.set_exception(error)

    def look() -> None:
        found, failure = list[str](), None
        try:
            known = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            found = [str(address[0]) for *_, address in known]
        except OSError as error:
            failure = error
        except UnicodeError:
            failure = socket.gaierror()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(tell, found, failure)

    threading.Thread(target=look, name="hook lookup", daemon=True).start()
    return await done


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
        case ssl.SSLCertVerificationError():
            reason = error.verify_message or "it does not fit"
            return f"the certificate of {action.host} is not trusted: {reason}"
        case ssl.SSLError():
            return f"no TLS with {action.host}"
        case socket.gaierror():
            return f"the name {action.host} cannot be looked up"
        case EndedError():
            return f"{action.host} ended the connection without an answer"
        case h11.RemoteProtocolError():
            return f"what {action.host} answers is not HTTP"
        case ConnectionResetError() | BrokenPipeError():
            return f"no answer of {action.host}: {_words(error)}"
        case OSError() if error.errno:
            return f"no connection to {action.host}: {_words(error)}"
        case _:
            return f"no answer of {action.host}: {type(error).__name__}"


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else type(error).__name__


def _context(action: Webhook) -> ssl.SSLContext | None:
    if not action.url.startswith("https:"):
        return None
    try:
        return verifying(action.ca)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "no certificate in it"
        raise SecretError(f"the certificates in {action.ca} cannot be used: {why}") from None
