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
from urllib.parse import SplitResult, urlsplit

import h11

from anycast.core.hooks import Ending, Secret, Webhook
from anycast.notify.outcome import Outcome

MAX_SECRET = 4096  # bytes of a file with a secret
LONGEST_WAIT = 60.0  # seconds: what an answer's Retry-After may ask for
_CHUNK = 16 * 1024  # bytes that are read at a time
_TOKEN = re.compile(r"[!-~]+\Z")


class SecretError(Exception):
    """A secret is not where it should be. `args[0]`: in words, without it."""


class EndedError(ConnectionError):
    """The other end closed the connection before its answer was complete."""


async def run(
    action: Webhook, told: Mapping[str, Any], body: bytes, patience: float, *, agent: str
) -> Outcome:
    try:
        async with asyncio.timeout(patience):
            return await _post(action, told, body, agent, asyncio.get_running_loop().time() + patience)
    except SecretError as error:
        return Outcome(ending=Ending.FAILED, why=str(error), again=True)
    except TimeoutError:
        return Outcome(ending=Ending.TIMEOUT, why=f"no answer within {patience:g} s", again=True)
    except (h11.ProtocolError, OSError, ValueError) as error:
        return Outcome(ending=Ending.FAILED, why=_why(action, error), again=True)


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
        ours["Authorization"] = f"Bearer {_token(action.token)}"
    if action.signature is not None:
        digest = hmac.new(_read(action.signature), body, hashlib.sha256).hexdigest()
        ours["X-Anycast-Signature"] = f"sha256={digest}"
    names = {name.lower() for name in ours}
    url = urlsplit(action.url)
    request = h11.Request(
        method="POST",
        target=(url.path or "/") + (f"?{url.query}" if url.query else ""),
        headers=[*ours.items(), *(one for one in action.headers if one[0].lower() not in names)],
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
