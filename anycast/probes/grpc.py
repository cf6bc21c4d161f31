"""The grpc check: the standard health service, `grpc.health.v1.Health/Check`. HTTP/2 is h2's, an extra.

Of protobuf it needs one field each way: the service's name there, a number back.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING
from urllib.parse import unquote

from anycast.core.values.checks import GrpcCheck
from anycast.core.values.configuration import Address
from anycast.probes.finding import Finding, PeerError, Progress, fail, reading, unusable
from anycast.probes.stream import Secure, Stream, literal, opened

if TYPE_CHECKING:
    from h2.connection import H2Connection

__all__ = ["Call", "check", "serving_status"]

_LIMIT = 16 * 1024  # bytes of the whole conversation: thousands of the smallest frames take h2 its time
_MESSAGE = 4 * 1024  # bytes of the answer's message
_SHOWN = 80  # bytes of another protocol
_METHOD = "/grpc.health.v1.Health/Check"
_SERVING = 1
_STATES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_STATUSES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE"),
    *("UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


async def check(kind: GrpcCheck, address: Address, port: int, progress: Progress) -> Finding:
    """OK if the service says that it serves. Raises OSError."""
    try:
        import h2.connection  # noqa: F401
    except ImportError:
        return unusable("h2 is not installed (pip install 'anycast[grpc]')")
    host = literal(address) if address.version == 4 else f"[{literal(address)}]"
    call = Call(kind.service, kind.authority or f"{host}:{port}", tls=kind.tls is not None)
    opening = opened(address, port, progress, tls=kind.tls, name=kind.authority, limit=_LIMIT, alpn=("h2",))
    return await _talk(opening, call, progress)


async def _talk(opening: AbstractAsyncContextManager[Stream], call: Call, progress: Progress) -> Finding:
    async with opening as stream:
        if isinstance(stream, Secure) and stream.protocol != "h2":
            return fail("the server does not offer HTTP/2 over TLS (ALPN h2)")
        progress.missing = "answer to the call"
        await stream.send(call.request())
        while not call.ended:
            data = await stream.receive()
            if not data:
                return fail("closed before the answer")
            if out := call.feed(data):
                await stream.send(out)
        state = call.result()
        progress.say("%s", _STATES.get(state, state))
        return stream.warning if state == _SERVING else fail(f"{_STATES.get(state, state)}, expected SERVING")


class Call:
    """One call of the health service. Pure: bytes in, bytes to send out."""

    _h2: H2Connection

    def __init__(self, service: str, authority: str, *, tls: bool) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection

        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._service = service.encode()
        self._headers = [
            (":method", "POST"),
            (":scheme", "https" if tls else "http"),
            (":path", _METHOD),
            (":authority", authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", "anycast"),
        ]
        self._answer: dict[str, str] = {}
        self._message = b""
        self.ended = False

    def request(self) -> bytes:
        """The first bytes to send."""
        body = b"\x0a" + _varint(len(self._service)) + self._service if self._service else b""
        self._h2.initiate_connection()
        self._h2.send_headers(1, self._headers)
        self._h2.send_data(1, b"\0" + len(body).to_bytes(4, "big") + body, end_stream=True)
        return self._h2.data_to_send()

    def feed(self, data: bytes) -> bytes:
        """What is to be sent in turn. Raises PeerError."""
        from h2 import events

        if data.startswith(b"HTTP/") and not self._answer:  # h2 would wait for the rest of a very long frame
            raise PeerError(f"not HTTP/2: {data[:_SHOWN].decode(errors='replace')}")
        with reading("not HTTP/2"):
            for event in self._h2.receive_data(data):
                match event:
                    case events.ResponseReceived() | events.TrailersReceived() if event.headers:
                        self._answer.update(_texts(event.headers))
                    case events.DataReceived():
                        self._take(event.data or b"")
                        self._h2.acknowledge_received_data(event.flow_controlled_length or 0, 1)
                    case events.StreamEnded():
                        self.ended = True
                    case events.StreamReset():
                        raise PeerError(f"the server resets the call (error {event.error_code})")
                    case events.ConnectionTerminated() if not self.ended:
                        raise PeerError(f"the server ends the connection (error {event.error_code})")
            return self._h2.data_to_send()

    def _take(self, data: bytes) -> None:
        self._message += data
        if len(self._message) > _MESSAGE:
            raise PeerError(f"an answer of more than {_MESSAGE} bytes")

    def result(self) -> int:
        """The number of the serving status. Raises PeerError."""
        http = self._answer.get(":status")
        if http != "200":
            raise PeerError(f"HTTP status {http}, expected 200")
        status = self._answer.get("grpc-status")
        if status != "0":
            name = _STATUSES[int(status)] if status and status in _NUMBERS else ""
            why = unquote(self._answer.get("grpc-message", ""))
            raise PeerError(f"gRPC status {status} {name}{': ' if why else ''}{why}".rstrip())
        length = int.from_bytes(self._message[1:5], "big")
        if self._message[:1] != b"\0" or len(self._message) != 5 + length:
            raise PeerError("the answer holds no message that could be read")
        return serving_status(self._message[5:])


_NUMBERS = frozenset(str(number) for number in range(len(_STATUSES)))


def _texts(headers: object) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in headers}  # type: ignore[attr-defined]


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def serving_status(message: bytes) -> int:
    """Field 1 of HealthCheckResponse; other fields are passed over. Raises PeerError."""
    state, place = 0, 0
    while place < len(message):
        tag, place = _number(message, place)
        match tag & 7:
            case 0:
                value, place = _number(message, place)
                if tag >> 3 == 1:
                    state = value
            case 1:
                place += 8
            case 2:
                length, place = _number(message, place)
                place += length
            case 5:
                place += 4
            case _:
                raise PeerError("the answer is no HealthCheckResponse")
        if place > len(message):
            raise PeerError("the answer is cut short")
    return state


def _number(data: bytes, place: int) -> tuple[int, int]:
    """A varint and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise PeerError("the answer is cut short")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise PeerError("the answer is no HealthCheckResponse")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
