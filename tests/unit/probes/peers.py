"""Real peers on the loopback for the probes to meet, and what a test asks about the process afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TypeAlias

from anycast.core.health.phase import Result
from anycast.core.values.configuration import Check, CheckKind, Target
from anycast.probes import run as tasks
from anycast.probes.finding import Finding
from anycast.probes.sweep.runs import Run, run_of, sweepable
from anycast.probes.sweep.sweep import Sweep

Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LONG = 30.0  # seconds: a test that waits this long is red


def target(kind: CheckKind, port: int = 1, *, address: str = "127.0.0.1", timeout: float = LONG) -> Target:
    return Target(address=ip_address(address), port=port, check=Check(kind=kind, timeout=timeout))


_swept: ContextVar[bool] = ContextVar("swept", default=False)


@contextmanager
def engine(*, swept: bool) -> Iterator[None]:
    """Which of the two `probe` uses in here, where both can."""
    token = _swept.set(swept)
    try:
        yield
    finally:
        _swept.reset(token)


async def probe(target: Target) -> Result:
    if not (_swept.get() and sweepable(target)):
        return await tasks.probe(target)
    async with sweeping() as check:
        return await check(run_of(target, None))


@asynccontextmanager
async def sweeping() -> AsyncIterator[Callable[[Run[None]], Awaitable[Result]]]:
    """A sweep, as a function from a run to its result."""
    waiting: dict[Run[None], asyncio.Future[Result]] = {}

    def finished(run: Run[None], finding: Finding, took: float) -> None:
        waiting.pop(run).set_result(finding.result(took))

    async def check(run: Run[None]) -> Result:
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        waiting[run] = done
        sweep.start(run)
        sweep.settle(1)
        return await done

    sweep = Sweep(finished)
    try:
        yield check
    finally:
        sweep.close()


def run(kind: CheckKind, port: int = 1, *, address: str = "127.0.0.1", timeout: float = LONG) -> Result:
    """One probe in an event loop of its own."""
    return asyncio.run(probe(target(kind, port, address=address, timeout=timeout)))


@asynccontextmanager
async def serving(
    handler: Handler, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server at a free port, which is the value. Its connections end with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handler(reader, writer)
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()


def answering(*pieces: bytes, hold: bool = False) -> Handler:
    """Read a request, send the pieces one by one, then close, or with `hold` keep the connection open."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await _send(writer, pieces)
        if hold:
            await asyncio.Event().wait()

    return handler


def blurting(*pieces: bytes) -> Handler:
    """Send the pieces without reading anything, then close."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _send(writer, pieces)
        writer.write_eof()
        await reader.read()

    return handler


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def _send(writer: asyncio.StreamWriter, pieces: tuple[bytes, ...]) -> None:
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        for _ in range(3):  # let the client, in this same loop, read the piece by itself
            await asyncio.sleep(0)


async def probe_at(
    handler: Handler,
    kind: CheckKind,
    *,
    timeout: float = LONG,  # noqa: ASYNC109 - a field of the check
    host: str = "127.0.0.1",
) -> Result:
    async with serving(handler, host=host) as port:
        return await probe(target(kind, port, address=host, timeout=timeout))


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port that is bound, so nobody else gets it, and not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def full_backlog() -> Iterator[int]:
    """A listener that accepts no more: the kernel drops further SYNs, like a host that has gone away."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def time_waits(port: int) -> int:
    """Connections of this port, at either end, in TIME_WAIT. One of others may have had it before."""
    rows = [
        line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()
    ]
    ends = f":{port:04X}"
    return sum(row[3] == "06" and (row[1].endswith(ends) or row[2].endswith(ends)) for row in rows)


def open_descriptors() -> int:
    """Of this process, without those that tests before have left to be collected."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def has_children() -> bool:
    """Children running or unreaped, subreaped strangers apart."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


@dataclass(frozen=True)
class Certificate:
    certificate: Path
    key: Path

    def server(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.load_cert_chain(self.certificate, self.key)
        return context


def make(
    where: Path,
    *,
    days: int = 2,
    key: tuple[str, ...] = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
    names: Sequence[str] = (),
) -> Certificate:
    """A self-signed certificate for www.example.net, 127.0.0.1 and ::1, and `names` besides."""
    made = Certificate(where / "certificate.pem", where / "key.pem")
    extension = where / "names"
    more = "".join(f",DNS:{name}" for name in names)
    extension.write_text(f"subjectAltName=DNS:www.example.net,IP:127.0.0.1,IP:::1{more}\n")
    request = where / "request.pem"
    subject = ["-nodes", "-subj", "/CN=test", "-keyout", str(made.key), "-out", str(request)]
    openssl("req", "-new", "-newkey", *key, *subject)
    source = ["-in", str(request), "-extfile", str(extension), "-out", str(made.certificate)]
    if days < 0:
        sign_expired(where, source, "-selfsign", "-keyfile", str(made.key))
    else:
        openssl("x509", "-req", "-signkey", str(made.key), "-days", str(days), *source)
    return made


def sign_expired(where: Path, source: Sequence[str], *signer: str) -> None:
    """By `openssl ca`, which takes dates: OpenSSL 3.5 refuses a negative number of days."""
    (where / "index").touch()
    (where / "ca.cnf").write_text(
        f"[ca]\ndefault_ca = ca_default\n[ca_default]\ndatabase = {where}/index\nnew_certs_dir = {where}\n"
        "unique_subject = no\nrand_serial = yes\ndefault_md = sha256\npolicy = any\n"
        "[any]\ncommonName = supplied\n"
    )
    dates = ("-startdate", "20200101000000Z", "-enddate", "20200102000000Z")
    openssl("ca", "-config", str(where / "ca.cnf"), "-batch", *signer, *dates, *source)


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
