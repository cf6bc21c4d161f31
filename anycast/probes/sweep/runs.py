"""What each kind of check does with its connection: events in, a finding out. No waiting, no loop, no counting."""

from __future__ import annotations

import select
import socket
import ssl
import time
from errno import ECONNABORTED

import h11

from anycast.core.model import HttpCheck, Target, TcpCheck
from anycast.probes.finding import OK, Finding, fail, judge, unknown
from anycast.probes.http import expected, request_of, server_name, unformed
from anycast.probes.stream import TLS_OVERHEAD, UnusableError, expiry_warning, literal, tls_detail
from anycast.probes.sweep.response import HEAD_LIMIT, TOO_LONG, BadResponseError, Exchange
from anycast.probes.sweep.secure import Secure, Session
from anycast.probes.sweep.sockets import local_ports, refuse_itself

__all__ = ["Run", "StaleError", "run_of"]

_BROKEN = select.EPOLLERR | select.EPOLLHUP
_ENDING = select.EPOLLRDHUP | _BROKEN
_READABLE = select.EPOLLIN | _ENDING
_CHUNK = 16 * 1024
_RENEW = 60.0  # seconds a connection is kept: that the server still accepts one is then proven anew


class StaleError(Exception):
    """What was kept of an earlier run is no good any more. That proves nothing: begin with a fresh connection."""


class Run:
    """One target's TCP check: a completed handshake is all. Used for one run after another."""

    __slots__ = (
        "_own_port",
        "busy",
        "deadline",
        "family",
        "missing",
        "owner",
        "peer",
        "sock",
        "started",
        "timeout",
    )

    def __init__(self, target: Target, port: int, owner: object) -> None:
        self.owner = owner
        self.family = socket.AF_INET if target.address.version == 4 else socket.AF_INET6
        self.peer = (str(target.address), port)
        self.timeout = target.check.timeout
        self.sock: socket.socket | None = None
        self.busy = False
        self.started = self.deadline = 0.0
        self.missing = "answer"  # completes "no ... within 1.0 s"
        self._own_port = port in local_ports()

    @property
    def keeps(self) -> bool:
        """Whether the connection stays when the run ends."""
        return False

    def begin(self) -> Finding | None:
        """A connection is about to be made. A finding: there is no need to."""
        return None

    def resume(self) -> bool:
        """Whether the run goes on over the connection that was kept. Raises OSError, StaleError."""
        return False

    def proceed(self, events: int) -> Finding | None:
        """Something happened to the socket. Raises OSError, StaleError."""
        return self._refusal(events) or OK

    def _refusal(self, events: int) -> Finding | None:
        """Why there is no connection; None: there is one. Raises OSError."""
        assert self.sock is not None
        if events & _BROKEN:
            code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code or not events & select.EPOLLOUT:
                return judge(OSError(code or ECONNABORTED, ""))
        if self._own_port:
            refuse_itself(self.sock, self.peer)
        return None


class _HttpRun(Run):
    """One request, judged by the head of the response; with `keep_alive` over the same connection again."""

    __slots__ = (
        "_connected",
        "_exchange",
        "_expect",
        "_found",
        "_keep",
        "_name",
        "_opened_at",
        "_received",
        "_request",
        "_reused",
        "_secure",
        "_session",
        "_tls",
        "_to_head",
        "_unsent",
    )

    def __init__(self, target: Target, kind: HttpCheck, port: int, owner: object) -> None:
        super().__init__(target, port, owner)
        self._expect = kind.expect
        self._keep = kind.keep_alive
        self._to_head = kind.method == "HEAD"
        self._tls = kind.tls_settings
        self._request: bytes | Finding
        name = None
        try:
            self._request = request_of(kind, target.address, port, close=not kind.keep_alive)
            name = server_name(kind)
        except (h11.LocalProtocolError, ValueError, TypeError) as error:
            self._request = unformed(error)
        self._name = kind.sni or name or literal(target.address)
        self._session: Session | None = None
        self._secure: Secure | None = None
        self._opened_at = 0.0
        self._exchange = Exchange(to_head=self._to_head, whole=self._keep)
        self._forget_connection()

    def _forget_connection(self) -> None:
        self._connected = self._reused = False
        self._unsent = b""
        self._received = 0
        self._forget_exchange()

    def _forget_exchange(self) -> None:
        self._found: Finding | None = None
        self._exchange = Exchange(to_head=self._to_head, whole=self._keep)

    @property
    def keeps(self) -> bool:
        return self._exchange.reusable

    def begin(self) -> Finding | None:
        self._forget_connection()
        self.missing = "answer"
        self._opened_at = self.started
        if isinstance(self._request, Finding):
            return self._request
        if self._tls is not None:
            if self._session is not None and self.started >= self._session.until:
                self._session = None
            try:
                self._secure = Secure(self._tls, self._name, self._session)
            except UnusableError as error:
                return unknown(f"the check could not run: {error}")
        return None

    def resume(self) -> bool:
        exchange = self._exchange
        if not (exchange.reusable and exchange.ended) or self.started >= self._opened_at + _RENEW:
            return False
        self._reused = True
        self._received = 0
        self._forget_exchange()
        self._ask()
        return True

    def proceed(self, events: int) -> Finding | None:
        try:
            return self._proceed(events)
        except BadResponseError as error:
            if self._reused and not self._exchange.begun:
                raise StaleError from error
            return fail(str(error))
        except ssl.SSLError as error:
            if self._secure is not None and not self._secure.done and self._secure.resuming:
                self._session = None  # whether the server or the session is at fault, a whole handshake shows
                raise StaleError from error
            return fail(tls_detail(error))
        except OSError as error:
            if self._reused and not self._exchange.begun:
                raise StaleError from error
            raise

    def _proceed(self, events: int) -> Finding | None:
        if not self._connected:
            refusal = self._refusal(events)
            if refusal is not None:
                return refusal
            self._connected = True
            if self._secure is None:
                self._ask()
            else:
                self.missing = "TLS handshake"
                self._secure.handshake()
                self._send(self._secure.outgoing())
        elif self._unsent and events & select.EPOLLOUT:
            data, self._unsent = self._unsent, b""
            self._send(data)
        if events & _READABLE:
            self._read(ending=bool(events & _ENDING))
        return self._found

    def _ask(self) -> None:
        self.missing = "complete response head"
        assert isinstance(self._request, bytes)
        if self._secure is None:
            self._send(self._request)
        else:
            self._secure.seal(self._request)
            self._send(self._secure.outgoing())

    def _send(self, data: bytes) -> None:
        assert self.sock is not None
        if self._unsent:
            self._unsent += data
        elif data:
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            if sent < len(data):
                self._unsent = data[sent:]

    def _read(self, *, ending: bool) -> None:
        assert self.sock is not None
        # The poller tells of an edge once: what is there must be read to its end.
        while True:
            try:
                data = self.sock.recv(_CHUNK)
            except BlockingIOError:
                return
            if self._secure is None:
                self._take(data)
            else:
                self._open(self._secure, data)
            if not data or (self._found is not None and not self._exchange.reusable):
                return
            if len(data) < _CHUNK and not ending:
                return

    def _open(self, secure: Secure, data: bytes) -> None:
        self._received += len(data)
        if self._received > HEAD_LIMIT + TLS_OVERHEAD:
            raise BadResponseError(TOO_LONG if secure.done else "it sends more than the check reads")
        secure.feed(data)
        if not secure.done:
            if not secure.handshake():
                self._send(secure.outgoing())
                return
            self._ask()
        while (plain := secure.read()) is not None:
            self._take(plain)
            if not plain or (self._found is not None and not self._exchange.reusable):
                return
        self._send(secure.outgoing())  # an answer to what the peer asked of TLS itself

    def _take(self, data: bytes) -> None:
        """Bytes of the response; none at the end of the stream."""
        exchange = self._exchange
        exchange.feed(data)
        if self._found is not None or not exchange.status:
            return
        if self._secure is not None:
            self._session = self._secure.session(self.started)
        if exchange.status in self._expect:
            self._found = self._well()
        else:
            self._found = fail(f"status {exchange.status}, expected {expected(self._expect)}")

    def _well(self) -> Finding:
        if self._tls is None or self._tls.expiry_warning is None:
            return OK
        expires = None if self._session is None else self._session.expires
        return expiry_warning(None if expires is None else expires - time.time(), self._tls.expiry_warning)


def run_of(target: Target, owner: object) -> Run | None:
    """The runs of a target's check; None: the check is of another kind than the sweep knows."""
    kind = target.check.kind
    match kind:
        case TcpCheck():
            return Run(target, kind.port or target.port, owner)
        case HttpCheck(body=None):
            return _HttpRun(target, kind, kind.port or target.port, owner)
        case _:
            return None
