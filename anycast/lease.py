"""The lease protocol between the agent and the plugin: newline-delimited JSON, both ends' codec.

The agent listens on a unix stream socket, plugins connect and connect again. The agent sends a
`Lease`, the full set of routes and never a difference, and renews it well within its time to live; the
plugin answers with a `Report`. Sequence numbers belong to a connection: after a new connection a report
says 0 until the plugin follows a lease of that connection.

Both ends run on one host, so instants are readings of one CLOCK_MONOTONIC. No sockets in here: bytes in,
values out.
"""

from __future__ import annotations

import json
import math
from ipaddress import ip_address, ip_network
from typing import TypeAlias

from anycast.core.values.lease import Lease, full_lease
from anycast.core.values.report import FailedRoute, NeighborState, Report
from anycast.core.values.route import Address, Prefix, Route

__all__ = [
    "MAX_LINE",
    "Decoder",
    "Lease",
    "Message",
    "ProtocolError",
    "Report",
    "encode",
    "route_body",
    "route_of",
]

MAX_LINE = 4 * 1024 * 1024  # bytes


class ProtocolError(ValueError):
    """The other end broke the protocol: close this connection, its bytes mean nothing any more."""


Message: TypeAlias = Lease | Report


def encode(message: Message) -> bytes:
    """One whole line. Raises ValueError where a number is not finite."""
    body = _lease_body(message) if isinstance(message, Lease) else _report_body(message)
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


class Decoder:
    """Bytes of one connection in, messages out. Unknown types and fields are passed over.

    `max_line`: bytes of the longest line that is taken; reading one costs half a microsecond a byte.
    """

    def __init__(self, *, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        self._rest = bytearray()
        self._broken: str | None = None

    def feed(self, data: bytes) -> list[Message]:
        """The messages that `data` completes. Raises ProtocolError, from then on for ever."""
        if self._broken is not None:
            raise ProtocolError(self._broken)
        try:
            return self._feed(data)
        except ProtocolError as error:
            self._broken = str(error)
            self._rest.clear()
            raise

    def _feed(self, data: bytes) -> list[Message]:
        self._rest += data
        if b"\n" in data:
            *lines, rest = self._rest.split(b"\n")
            self._rest = rest
        else:
            lines = []
        if len(self._rest) > self._max_line or any(len(line) > self._max_line for line in lines):
            raise ProtocolError(f"lease protocol: a line is longer than {self._max_line} bytes")
        messages = (_decode(bytes(line)) for line in lines if line.strip())
        return [message for message in messages if message is not None]


def _decode(line: bytes) -> Message | None:
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
        body = _Fields(_object(value, "message"))
        match body.text("type"):
            case "lease":
                return _lease(body)
            case "report":
                return _report(body)
            case _:
                return None
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"lease protocol: {error}: {line[:80]!r}") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object")  # noqa: TRY004
    return value


class _Fields:
    """Typed access to the fields of one JSON object; every mismatch is a ValueError that names the field."""

    def __init__(self, values: dict[str, object]) -> None:
        self._values = values

    def _get(self, name: str, kind: type, *, nullable: bool = False) -> object:
        value = self._values.get(name)
        if value is None and nullable:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{name}: expected {kind.__name__}, found {type(value).__name__}")
        return value

    def text(self, name: str) -> str:
        return str(self._get(name, str))

    def text_or_none(self, name: str) -> str | None:
        value = self._get(name, str, nullable=True)
        return None if value is None else str(value)

    def integer(self, name: str) -> int:
        value = self._get(name, int)
        assert isinstance(value, int)  # noqa: S101 - for the type checker
        return value

    def integer_or_none(self, name: str) -> int | None:
        return None if self._values.get(name) is None else self.integer(name)

    def number(self, name: str) -> float:
        value = self._values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name}: expected a number, found {type(value).__name__}")  # noqa: TRY004
        number = float(value) if abs(value) < 1e300 else math.inf
        if not math.isfinite(number):
            raise ValueError(f"{name}: expected a finite number")
        return number

    def number_or_none(self, name: str) -> float | None:
        return None if self._values.get(name) is None else self.number(name)

    def flag(self, name: str) -> bool:
        return bool(self._get(name, bool))

    def array(self, name: str) -> list[object]:
        value = self._get(name, list)
        assert isinstance(value, list)  # noqa: S101 - for the type checker
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.array(name)
        if not all(isinstance(value, str) for value in values):
            raise ValueError(f"{name}: expected an array of strings")
        return tuple(str(value) for value in values)

    def objects(self, name: str) -> list[_Fields]:
        return [_Fields(_object(value, name)) for value in self.array(name)]

    def prefix(self, name: str) -> Prefix:
        return ip_network(self.text(name))

    def prefixes(self, name: str) -> tuple[Prefix, ...]:
        return tuple(ip_network(text) for text in self.texts(name))

    def address_or_none(self, name: str) -> Address | None:
        text = self.text_or_none(name)
        return None if text is None else ip_address(text)


def route_body(route: Route) -> dict[str, object]:
    """A route as JSON values; `route_of` reads it back."""
    return {
        "prefix": str(route.prefix),
        "next_hop": None if route.next_hop is None else str(route.next_hop),
        "med": route.med,
        "communities": route.communities,
        "large_communities": route.large_communities,
    }


def route_of(value: object) -> Route:
    """A route out of JSON values. Raises ValueError; whether its attributes are in range is not checked."""
    fields = _Fields(_object(value, "route"))
    return Route(
        prefix=fields.prefix("prefix"),
        next_hop=fields.address_or_none("next_hop"),
        med=fields.integer_or_none("med"),
        communities=fields.texts("communities"),
        large_communities=fields.texts("large_communities"),
    )


def _lease_body(lease: Lease) -> dict[str, object]:
    return {
        "type": "lease",
        "seq": lease.seq,
        "issued": lease.issued,
        "ttl": lease.ttl,
        "routes": [route_body(route) for route in lease.routes.values()],
        "owned": [str(prefix) for prefix in lease.owned],
    }


def _lease(fields: _Fields) -> Lease:
    return full_lease(
        seq=fields.integer("seq"),
        issued=fields.number("issued"),
        ttl=fields.number("ttl"),
        routes=map(route_of, fields.array("routes")),
        owned=fields.prefixes("owned"),
    )


def _report_body(report: Report) -> dict[str, object]:
    return {
        "type": "report",
        "seq": report.seq,
        "announced": [str(prefix) for prefix in report.announced],
        "pending": [str(prefix) for prefix in report.pending],
        "failed": [{"prefix": str(failed.prefix), "why": failed.why} for failed in report.failed],
        "neighbors": [
            {
                "address": neighbor.address,
                "state": neighbor.state,
                "changed": neighbor.changed,
                "reason": neighbor.reason,
            }
            for neighbor in report.neighbors
        ],
        "exabgp_version": report.exabgp_version,
        "exabgp_pid": report.exabgp_pid,
        "pid": report.pid,
        "errors": report.errors,
        "acks": report.acks,
        "silent_since": report.silent_since,
        "lease_expired": report.lease_expired,
        "late_leases": report.late_leases,
    }


def _report(fields: _Fields) -> Report:
    return Report(
        seq=fields.integer("seq"),
        announced=frozenset(fields.prefixes("announced")),
        pending=frozenset(fields.prefixes("pending")),
        failed=tuple(
            FailedRoute(prefix=item.prefix("prefix"), why=item.text("why"))
            for item in fields.objects("failed")
        ),
        neighbors=tuple(
            NeighborState(
                address=item.text("address"),
                state=item.text("state"),
                changed=item.number("changed"),
                reason=item.text("reason"),
            )
            for item in fields.objects("neighbors")
        ),
        exabgp_version=fields.text_or_none("exabgp_version"),
        exabgp_pid=fields.integer("exabgp_pid"),
        pid=fields.integer("pid"),
        errors=fields.integer("errors"),
        acks=fields.integer("acks"),
        silent_since=fields.number_or_none("silent_since"),
        lease_expired=fields.flag("lease_expired"),
        late_leases=fields.integer_or_none("late_leases") or 0,
    )
