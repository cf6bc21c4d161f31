"""What each kind of check does with its connection: events in, a finding out. No waiting, no loop, no counting."""

from __future__ import annotations

import select
import socket
import ssl
from errno import ECONNABORTED
from typing import Generic, TypeVar

import h11

from anycast.core.values.configuration import HttpCheck, Target, TcpCheck
from anycast.probes.closes import CLOSED
from anycast.probes.finding import OK, Finding, PeerError, Progress, fail, place, unusable
from anycast.probes.http import expected, request_of, server_name, unformed
from anycast.probes.stream import literal
from anycast.probes.sweep.response import (
    BODY_LIMIT,
    HEAD_LIMIT,
    SHORT,
    TOO_LONG,
    Exchange,
    begun,
    shown,
    whole,
)
from anycast.probes.sweep.sockets import local_ports, refuse_itself
from anycast.probes.tls import OVERHEAD, Channel, Proof, expiry_warning
from anycast.probes.verdict import judge
from anycast.probes.wire.connection import Sock
from anycast.regex import RegexError, compiled
from anycast.secrets import SecretError, ages

__all__ = ["Run", "StaleError", "run_of", "sweepable"]

_BROKEN = select.EPOLLERR | select.EPOLLHUP
_ENDING = select.EPOLLRDHUP | _BROKEN
_READABLE = select.EPOLLIN | _ENDING
_OPEN, _ANSWERED = select.EPOLLOUT, select.EPOLLIN | select.EPOLLOUT  # and nothing more has happened
_ANSWERS = frozenset({_ANSWERED, _ANSWERED | select.EPOLLRDHUP})
_CHUNK = (
    8 * 1024
)  # bytes of one turn of the event loop: of the smallest chunks a byte takes h11 a microsecond
_RENEW = 60.0  # seconds a connection is kept: that the server still accepts one is then proven anew
_REQUEST_TIMEOUT = 408  # what some servers say to a connection that lay idle, before they close it

_NOBODY = Progress()  # nobody looks on

Owner = TypeVar("Owner")


class StaleError(Exception):
    """What was kept of an earlier run is no good any more. That proves nothing: begin with a fresh connection."""


class Run(Generic[Owner]):
    """One target's TCP check: a completed handshake is all. Used for one run after another."""

    may_keep = False  # `keeps` need not be asked
    speaks = False  # it sends something as soon as it is connected

    __slots__ = (
        "_own_port",
        "address",
        "busy",
        "deadline",
        "family",
        "heard",
        "host",
        "missing",
        "more",
        "moved",
        "owner",
        "peer",
        "plain",
        "polls",
        "progress",
        "sock",
        "started",
        "target",
        "timeout",
        "well",
    )

    def __init__(self, target: Target, port: int, owner: Owner, progress: Progress) -> None:
        self.owner = owner
        self.progress = progress
        self.target = target
        self.address = target.address
        self.host = target.address if target.vip is None else target.vip  # by whose name it is asked
        # A number: an enumeration's hash is a call of Python, for each socket that is looked for.
        self.family = int(socket.AF_INET if target.address.version == 4 else socket.AF_INET6)
        self.peer = (str(target.address), port)
        self.timeout = target.check.timeout
        self.missing = "answer"  # completes "no ... within 1.0 s"
        self.heard = False  # the peer has said something in this run
        self.more = 0  # events of which `proceed` has left a rest for another turn
        self._own_port = port in local_ports()
        # A completed handshake is all, and nobody looks on: the sweep sees by the event that it is well.
        self.plain = (
            type(self) is Run and not target.check.to_vip and not self._own_port and progress is _NOBODY
        )
        # The sweep's own:
        self.sock: Sock | None = None
        self.polls = 0  # polls there had been when the socket was taken
        self.busy = False
        self.well = False  # it is OK, and to be reported with the others of the same look
        self.started = self.deadline = 0.0
        self.moved = 0.0  # when it was last seen that something had happened

    @property
    def keeps(self) -> bool:
        """Whether the connection stays when the run ends."""
        return False

    def begin(self) -> Finding | None:
        """A connection is about to be made. A finding: there is no need to. Raises UnusableError."""
        return None

    def released(self) -> None:
        """The connection has been given up. Between two runs thousands of targets must hold nothing of it."""

    def resume(self, sock: Sock) -> bool:  # noqa: ARG002 - for kinds that keep connections
        """Whether the run goes on over the connection that was kept. Raises OSError, StaleError."""
        return False

    def proceed(self, sock: Sock, events: int) -> Finding | None:
        """Something happened to the socket. Raises StaleError, and whatever else is judged by `verdict`."""
        finding = self._connection(sock, events)
        if finding is OK:
            if events & select.EPOLLRDHUP:
                return fail(CLOSED)
            self.progress.say("handshake complete")
        return finding

    def _connection(self, sock: Sock, events: int) -> Finding | None:
        """OK: there is one. None: not yet. Raises OSError."""
        if events & _BROKEN:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code or not events & select.EPOLLOUT:
                return judge(OSError(code or ECONNABORTED, ""))
        elif not events & select.EPOLLOUT:
            return None
        if self._own_port:
            refuse_itself(sock)
        return OK


class _HttpRun(Run[Owner]):
    """One request, judged by the head of the response; with `keep_alive` over the same connection again."""

    may_keep = True
    speaks = True
    _limit = HEAD_LIMIT  # bytes that are read

    __slots__ = (
        "_ages",
        "_connected",
        "_exchange",
        "_expect",
        "_found",
        "_keep",
        "_kind",
        "_name",
        "_opened_at",
        "_proof",
        "_received",
        "_request",
        "_reused",
        "_secure",
        "_swift",
        "_tls",
        "_to_head",
        "_unsent",
        "_whole",
    )

    def __init__(self, target: Target, kind: HttpCheck, port: int, owner: Owner, progress: Progress) -> None:
        super().__init__(target, port, owner, progress)
        self._kind = kind
        self._expect = kind.expect
        self._keep = kind.keep_alive and kind.body is None
        self._to_head = kind.method == "HEAD"
        self._tls = kind.tls_settings
        self._ages = ages(*kind.secrets)
        self._request = self._formed()
        name = None
        try:
            name = server_name(kind)
        except ValueError as error:
            self._request = unformed(error)
        self._name = kind.sni or name or literal(self.host)
        self._proof: Proof | None = None
        self._secure: Channel | None
        self._opened_at = 0.0
        self._forget_connection()
        # What brings no surprise takes a shorter way to the same end.
        self._swift = (
            type(self) is _HttpRun and self._tls is None and not self._own_port and progress is _NOBODY
        )

    def _formed(self) -> bytes | Finding:
        try:
            return request_of(self._kind, self.host, self.peer[1], close=not self._keep)
        except SecretError as error:
            return unusable(error)
        except (h11.LocalProtocolError, ValueError, TypeError) as error:
            return unformed(error)

    def released(self) -> None:
        self._forget_connection()

    def _forget_connection(self) -> None:
        self._connected = self._reused = False
        self._secure = None
        self._unsent = b""
        self._forget_exchange()

    def _forget_exchange(self) -> None:
        self.heard = False
        self.more = 0
        self._received = 0
        self._found: Finding | None = None
        self._exchange: Exchange | None = None  # made for a response that does not come as a whole
        self._whole = False  # it came as one

    @property
    def keeps(self) -> bool:
        return self._whole or (self._exchange is not None and self._exchange.reusable)

    @property
    def _begun(self) -> bool:
        return self._whole or (self._exchange is not None and self._exchange.begun)

    def begin(self) -> Finding | None:
        self.missing = "answer"
        self._opened_at = self.started
        if self._ages and self._ages != (now := ages(*self._kind.secrets)):
            self._ages, self._request = now, self._formed()
        if isinstance(self._request, Finding):
            return self._request
        if self._tls is not None:
            if self._proof is not None and self.started >= self._proof.until:
                self._proof = None
            self._secure = Channel(self._tls, self._name, proof=self._proof)
        return None

    def resume(self, sock: Sock) -> bool:
        exchange = self._exchange
        if not self._whole and (exchange is None or not (exchange.reusable and exchange.ended)):
            return False
        if self.started >= self._opened_at + _RENEW:
            return False
        if self._proof is not None and self.started >= self._proof.until:
            return False
        self._reused = True
        self._forget_exchange()
        self._ask(sock)
        return True

    def proceed(self, sock: Sock, events: int) -> Finding | None:
        data = None
        try:
            if self._swift and self._found is None and self._exchange is None and not self._unsent:
                if not self._connected:
                    if events == _OPEN:
                        self._connected = True
                        self._ask(sock)
                        return None
                elif events == _ANSWERED or (not self._keep and events in _ANSWERS):
                    data = sock.recv(_CHUNK)
                    if 0 < len(data) <= SHORT:
                        status = whole(data, to_head=self._to_head) if self._keep else begun(data)
                        if status in self._expect:
                            self.heard, self._whole, self._found = True, self._keep, OK
                            return OK
            return self._proceed(sock, events, data)
        except BlockingIOError:
            return None  # nothing was there
        except PeerError as error:
            if self._reused and not self._begun:
                raise StaleError from error
            raise
        except ssl.SSLError as error:
            if self._secure is not None and not self._secure.done and self._secure.resuming:
                self._proof = None  # whether the server or the session is at fault, a whole handshake shows
                raise StaleError from error
            raise
        except OSError as error:
            if self._reused and not self._begun:
                raise StaleError from error
            raise

    def _proceed(self, sock: Sock, events: int, data: bytes | None) -> Finding | None:
        """`data`: what has been read already."""
        if not self._connected:
            finding = self._connection(sock, events)
            if finding is not OK:
                return finding
            self._connected = True
            if self.progress.tell is not None:
                self.progress.say("connected from %s", place(sock.getsockname()))
            if self._secure is None:
                self._ask(sock)
            else:
                self.missing = "TLS handshake"
                self._secure.handshake()
                self._send(sock, self._secure.outgoing())
        elif self._unsent and events & select.EPOLLOUT:
            data, self._unsent = self._unsent, b""
            self._send(sock, data)
        if events & _READABLE:
            self._read(sock, data, ending=bool(events & _ENDING))
        return self._found

    def _ask(self, sock: Sock) -> None:
        self.missing = "complete response head"
        if self.progress.tell is not None:
            self.progress.say("sending %s %s", self._kind.method, self._kind.path)
        request = self._request
        if isinstance(request, Finding):
            return  # `begin` has said so
        if self._secure is None:
            self._send(sock, request)
        else:
            self._secure.seal(request)
            self._send(sock, self._secure.outgoing())

    def _send(self, sock: Sock, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
        elif data:
            try:
                sent = sock.send(data)
            except BlockingIOError:
                sent = 0
            if sent < len(data):
                self._unsent = data[sent:]

    def _read(self, sock: Sock, data: bytes | None, *, ending: bool) -> None:
        """`data`: what has been read already."""
        # The poller tells of an edge once: what is there must be read to its end, if not in this turn.
        while True:
            if data is None:
                try:
                    data = sock.recv(_CHUNK)
                except BlockingIOError:
                    return
            if data:
                self.heard = True
            if self._secure is None:
                self._take(data)
            else:
                self._open(sock, self._secure, data)
            if not data or (self._found is not None and not self.keeps):
                return
            if len(data) == _CHUNK:
                self.more = _READABLE if ending else select.EPOLLIN
                return
            if not ending:
                return
            data = None

    def _open(self, sock: Sock, secure: Channel, data: bytes) -> None:
        self._received += len(data)
        if self._received > self._limit + OVERHEAD:
            raise PeerError(TOO_LONG if secure.done else "it sends more than the check reads")
        secure.feed(data)
        if not secure.done:
            if not secure.handshake():
                self._send(sock, secure.outgoing())
                return
            if self.progress.tell is not None:
                self.progress.say("TLS handshake done: %s", secure.described)
            self._ask(sock)
        while (plain := secure.read()) is not None:
            self._take(plain)
            if not plain or (self._found is not None and not self.keeps):
                return
        self._send(sock, secure.outgoing())  # an answer to what the peer asked of TLS itself

    def _take(self, data: bytes) -> None:
        """Bytes of the response; none at the end of the stream."""
        status = self._status(data)
        if self._found is not None or not status:
            return
        if self._secure is not None:
            self._proof = self._secure.proof(self.started)
        if status in self._expect:
            self._found = self._accepted(status)
        elif self._reused and status == _REQUEST_TIMEOUT:
            raise StaleError
        else:
            self.progress.say("status %d", status)
            self._found = fail(f"status {status}, expected {expected(self._expect)}")

    def _status(self, data: bytes) -> int:
        """What the response has come to with these bytes; 0: not to its status yet. Raises PeerError."""
        exchange = self._exchange
        if exchange is None:
            if self._whole:
                self._whole = False  # the stream has ended, or nobody asked for what comes now
                return 0
            if self._keep and len(data) <= SHORT and (status := whole(data, to_head=self._to_head)):
                self._whole = True
                return status
            exchange = self._exchange = Exchange(to_head=self._to_head, whole=self._keep)
        exchange.feed(data)
        return exchange.status

    def _accepted(self, status: int) -> Finding | None:
        """The status is one of those expected. None: there is more to read."""
        self.progress.say("status %d", status)
        return self._well()

    def _well(self) -> Finding:
        if self._tls is None or self._tls.expiry_warning is None:
            return OK
        return expiry_warning(None if self._proof is None else self._proof.expires, self._tls.expiry_warning)


class _BodyRun(_HttpRun[Owner]):
    """The same, and an expression is searched in the body, of which the first 64 KiB are read. h11 takes it apart."""

    may_keep = False
    _limit = HEAD_LIMIT + BODY_LIMIT

    __slots__ = ("_body", "_left", "_parser", "_pattern")

    def __init__(self, target: Target, kind: HttpCheck, port: int, owner: Owner, progress: Progress) -> None:
        super().__init__(target, kind, port, owner, progress)
        self._pattern = kind.body or ""
        try:
            compiled(self._pattern)
        except RegexError as error:
            self._request = unusable(error)

    def _forget_exchange(self) -> None:
        super()._forget_exchange()
        self._parser: h11.Connection | None = None
        self._body = bytearray()
        self._left = self._limit

    def _take(self, data: bytes) -> None:
        if self._parser is None:
            self._parser = _awaiting_response()
        self._parser.receive_data(data)
        self._left -= len(data)
        super()._take(data)

    def _accepted(self, status: int) -> Finding | None:
        """The head is there: called for whatever comes from then on."""
        if self.missing != "complete response body":
            self.missing = "complete response body"
            self.progress.say("status %d", status)
        if self._parser is None or not self._body_ended(self._parser):
            return None
        body = bytes(self._body[:BODY_LIMIT])
        self.progress.say("body of %d bytes", len(body))
        if compiled(self._pattern).search(body) is None:
            return fail(f"the body does not hold {self._pattern!r}, it begins {shown(body)!r}")
        return self._well()

    def _body_ended(self, parser: h11.Connection) -> bool:
        """Or as much of it is there as is read: framing may have eaten up the rest. Raises PeerError."""
        try:
            while len(self._body) < BODY_LIMIT:
                match parser.next_event():
                    case h11.Data(data=data):
                        self._body += data
                    case h11.NEED_DATA:
                        return self._left <= 0
                    case h11.Response() | h11.InformationalResponse():
                        pass
                    case _:
                        break
        except h11.RemoteProtocolError as error:
            raise PeerError(f"not an HTTP response: {error}") from error
        return True


def _awaiting_response() -> h11.Connection:
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
    parser.send(h11.Request(method="GET", target="/", headers=[("Host", "-")]))
    parser.send(h11.EndOfMessage())
    return parser


def sweepable(target: Target) -> bool:
    """Whether the check is of a kind the sweep knows."""
    return isinstance(target.check.kind, TcpCheck | HttpCheck)


def run_of(target: Target, owner: Owner, progress: Progress = _NOBODY) -> Run[Owner]:
    """The runs of the check of a target that is `sweepable`. `progress`: for somebody who looks on."""
    kind = target.check.kind
    if isinstance(kind, HttpCheck):
        made = _HttpRun if kind.body is None or kind.method == "HEAD" else _BodyRun
        return made(target, kind, kind.port or target.port, owner, progress)
    if isinstance(kind, TcpCheck):
        return Run(target, kind.port or target.port, owner, progress)
    raise TypeError(kind)
