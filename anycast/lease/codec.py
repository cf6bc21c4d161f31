"""The codec of both ends: newline-delimited JSON. Bytes in, values out; no sockets in here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import assert_never

from anycast.core.values.lease import Lease, by_prefix, digest_of_all
from anycast.core.values.report import FailedRoute, NeighborState, Report
from anycast.core.values.route import Address, Mark, Origin, Prefix, Route, Variant, shape
from anycast.core.values.sight import RouterView, Sight, ViewChange
from anycast.lease.messages import Ask, Hello, LeaseChange, Message, ProtocolError, ReportChange

MAX_LINE = 4 * 1024 * 1024  # bytes
MAX_DIGEST = 64  # characters
MAX_SETUPS = 1024  # sessions: four times as many as a configuration may have
MAX_WHY = 200  # characters

# Each prefix comes again and again; this is what most nodes have at most.
_network = lru_cache(maxsize=2**14)(ip_network)


def encode(message: Message) -> bytes:
    """One whole line. Raises ValueError where a number is not finite."""
    return json.dumps(_body(message), separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def _body(message: Message) -> dict[str, object]:
    match message:
        case Lease():
            return _lease_body(message)
        case LeaseChange():
            return _lease_change_body(message)
        case Report():
            return _report_body(message)
        case ReportChange():
            return _report_change_body(message)
        case ViewChange():
            return _view_body(message)
        case Hello():
            return {"type": "hello"}
        case Ask():
            return {"type": "ask"}
        case _:
            assert_never(message)


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
            case "lease_change":
                return _lease_change(body)
            case "report":
                return _report(body)
            case "report_change":
                return _report_change(body)
            case "view":
                return _view(body)
            case "hello":
                return Hello()
            case "ask":
                return Ask()
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

    def integers(self, name: str) -> tuple[int, ...]:
        values = self.array(name)
        if not all(type(value) is int for value in values):
            raise ValueError(f"{name}: expected an array of numbers")
        return tuple(int(str(value)) for value in values)

    def objects(self, name: str) -> list[_Fields]:
        return [_Fields(_object(value, name)) for value in self.array(name)]

    def either(self, name: str, elsewhere: Sequence[object]) -> list[object]:
        """An array, or the number of one elsewhere."""
        value = self._values.get(name)
        if type(value) is int and 0 <= value < len(elsewhere):
            value = elsewhere[value]
        if not isinstance(value, list):
            raise ValueError(f"{name}: expected an array, or the place of one")  # noqa: TRY004
        return value

    def prefix(self, name: str) -> Prefix:
        return _network(self.text(name))

    def prefixes(self, name: str) -> tuple[Prefix, ...]:
        return tuple(map(_network, self.texts(name)))

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    def address_or_none(self, name: str) -> Address | None:
        text = self.text_or_none(name)
        return None if text is None else ip_address(text)


def route_body(route: Route) -> dict[str, object]:
    """A route as JSON values; `route_of` reads it back. What came after the first release stands in it where it is set."""
    body = _attributes_body(route)
    if route.variants:
        body["variants"] = _variants_body(route)
    return body


def _attributes_body(route: Route) -> dict[str, object]:
    body: dict[str, object] = {
        "prefix": str(route.prefix),
        "next_hop": None if route.next_hop is None else str(route.next_hop),
        "med": route.med,
        "communities": route.communities,
        "large_communities": route.large_communities,
    }
    if route.as_path:
        body["as_path"] = route.as_path
    if route.local_preference is not None:
        body["local_preference"] = route.local_preference
    if route.extended_communities:
        body["extended_communities"] = route.extended_communities
    if route.origin is not None:
        body["origin"] = route.origin
    return body


def _variants_body(route: Route) -> list[dict[str, object]]:
    """Without the prefix, so that they are the same for all routes that go alike."""
    found = []
    for variant in route.variants:
        body = _attributes_body(variant.route)
        del body["prefix"]
        found.append({"neighbors": variant.neighbors, **body})
    return found


class _Variants:
    """Each of a message once: routes give its place. Thousands of them are alike, and a message has an end."""

    def __init__(self) -> None:
        self.bodies: list[list[dict[str, object]]] = []
        self._places: dict[object, int] = {}

    def route_body(self, route: Route) -> dict[str, object]:
        body = _attributes_body(route)
        if route.variants:
            of = shape(route)[1]
            if of not in self._places:
                self._places[of] = len(self.bodies)
                self.bodies.append(_variants_body(route))
            body["variants"] = self._places[of]
        return body


def route_of(value: object, variants: Sequence[object] = ()) -> Route:
    """A route out of JSON values. Raises ValueError; whether its attributes are in range is not checked.

    `variants`: those of the message, of which it may give the place.
    """
    fields = _Fields(_object(value, "route"))
    route = _attributes(fields, fields.prefix("prefix"))
    if not fields.has("variants"):
        return route
    found = fields.either("variants", variants)
    return replace(route, variants=tuple(_variant(one, route.prefix) for one in found))


def _variant(value: object, prefix: Prefix) -> Variant:
    fields = _Fields(_object(value, "variant"))
    return Variant(neighbors=fields.texts("neighbors"), route=_attributes(fields, prefix))


def _attributes(fields: _Fields, prefix: Prefix) -> Route:
    return Route(
        prefix=prefix,
        next_hop=fields.address_or_none("next_hop"),
        med=fields.integer_or_none("med"),
        communities=fields.texts("communities"),
        large_communities=fields.texts("large_communities"),
        as_path=fields.integers("as_path") if fields.has("as_path") else (),
        local_preference=fields.integer_or_none("local_preference"),
        extended_communities=fields.texts("extended_communities")
        if fields.has("extended_communities")
        else (),
        origin=Origin(fields.text("origin")) if fields.has("origin") else None,
    )


def _routes(fields: _Fields, name: str) -> tuple[Route, ...]:
    """With the variants that the message has beside them."""
    variants = fields.array("variants") if fields.has("variants") else []
    return tuple(route_of(value, variants) for value in fields.array(name))


# A field that has nothing to say is left out: most messages say little.


def _lease_body(lease: Lease) -> dict[str, object]:
    variants = _Variants()
    body: dict[str, object] = {
        "type": "lease",
        "seq": lease.seq,
        "issued": lease.issued,
        "ttl": lease.ttl,
        "routes": [variants.route_body(route) for route in lease.routes.values()],
        "owned": _texts(lease.owned),
        "digest": lease.digest,
    }
    if variants.bodies:
        body["variants"] = variants.bodies
    if lease.mark is not None:
        body["mark"] = lease.mark
    return body


def _lease(fields: _Fields) -> Lease:
    """An agent that does not know differences gives no digest: it is worked out."""
    routes = by_prefix(_routes(fields, "routes"))
    owned = frozenset(fields.prefixes("owned"))
    digest = fields.integer_or_none("digest")
    return Lease(
        seq=fields.integer("seq"),
        issued=fields.number("issued"),
        ttl=fields.number("ttl"),
        routes=routes,
        owned=owned,
        digest=digest_of_all(routes.values(), owned) if digest is None else digest,
        mark=_mark(fields),
    )


def _mark(fields: _Fields) -> Mark | None:
    if not fields.has("mark"):
        return None
    numbers = fields.integers("mark")
    if len(numbers) != 3:
        raise ValueError("mark: expected three numbers")
    asn, function, number = numbers
    return asn, function, number


def _lease_change_body(change: LeaseChange) -> dict[str, object]:
    variants = _Variants()
    body: dict[str, object] = {
        "type": "lease_change",
        "seq": change.seq,
        "issued": change.issued,
        "ttl": change.ttl,
        "base": change.base,
        "digest": change.digest,
        "changed": [variants.route_body(route) for route in change.changed],
        "variants": variants.bodies,
        "gone": _texts(change.gone),
        "owned": _texts(change.owned),
        "disowned": _texts(change.disowned),
        "mark": change.mark,
    }
    return _spare(body)


def _lease_change(fields: _Fields) -> LeaseChange:
    return LeaseChange(
        seq=fields.integer("seq"),
        issued=fields.number("issued"),
        ttl=fields.number("ttl"),
        base=fields.integer("base"),
        digest=fields.integer("digest"),
        changed=_routes(fields, "changed") if fields.has("changed") else (),
        gone=_some(fields, "gone"),
        owned=_some(fields, "owned"),
        disowned=_some(fields, "disowned"),
        mark=_mark(fields),
    )


def _report_body(report: Report) -> dict[str, object]:
    return {
        "type": "report",
        **_rest_body(report),
        "announced": _texts(report.announced),
        "pending": _texts(report.pending),
        "failed": _failed_body(report.failed),
    }


def _report(fields: _Fields) -> Report:
    return _rest(
        fields,
        announced=frozenset(fields.prefixes("announced")),
        pending=frozenset(fields.prefixes("pending")),
        failed=_failed(fields),
    )


def _report_change_body(change: ReportChange) -> dict[str, object]:
    body: dict[str, object] = {
        "type": "report_change",
        **_rest_body(change.rest),
        "announced": _texts(change.announced),
        "not_announced": _texts(change.not_announced),
        "pending": _texts(change.pending),
        "not_pending": _texts(change.not_pending),
        "failed": _failed_body(change.failed),
        "not_failed": _texts(change.not_failed),
        "counts": change.counts,
    }
    return _spare(body)


def _report_change(fields: _Fields) -> ReportChange:
    counts = fields.array("counts")
    if len(counts) != 3 or not all(type(each) is int for each in counts):
        raise ValueError("counts: expected three numbers")
    announced, pending, failed = (int(str(each)) for each in counts)
    return ReportChange(
        rest=_rest(fields, announced=frozenset(), pending=frozenset(), failed=()),
        announced=_some(fields, "announced"),
        not_announced=_some(fields, "not_announced"),
        pending=_some(fields, "pending"),
        not_pending=_some(fields, "not_pending"),
        failed=_failed(fields) if fields.has("failed") else (),
        not_failed=_some(fields, "not_failed"),
        counts=(announced, pending, failed),
    )


def _rest_body(report: Report) -> dict[str, object]:
    return {
        "seq": report.seq,
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
        "attributes": report.attributes,
        "rendered": report.rendered,
        "setups": list(report.setups),
        "loaded": report.loaded,
        "journal_error": report.journal_error,
    }


def _rest(
    fields: _Fields,
    *,
    announced: frozenset[Prefix],
    pending: frozenset[Prefix],
    failed: tuple[FailedRoute, ...],
) -> Report:
    return Report(
        seq=fields.integer("seq"),
        announced=announced,
        pending=pending,
        failed=failed,
        neighbors=tuple(
            NeighborState(
                address=item.text("address"),
                state=item.text("state"),
                changed=item.number("changed"),
                reason=item.text("reason"),
            )
            for item in (fields.objects("neighbors") if fields.has("neighbors") else ())
        ),
        exabgp_version=fields.text_or_none("exabgp_version"),
        exabgp_pid=fields.integer("exabgp_pid"),
        pid=fields.integer("pid"),
        errors=fields.integer("errors"),
        acks=fields.integer("acks"),
        silent_since=fields.number_or_none("silent_since"),
        lease_expired=fields.flag("lease_expired"),
        late_leases=fields.integer_or_none("late_leases") or 0,
        attributes=fields.integer_or_none("attributes") or 1,
        rendered=(fields.text_or_none("rendered") or "")[:MAX_DIGEST],
        setups=fields.texts("setups")[:MAX_SETUPS] if fields.has("setups") else (),
        loaded=fields.number_or_none("loaded"),
        journal_error=(fields.text_or_none("journal_error") or "")[:MAX_WHY],
    )


def _view_body(change: ViewChange) -> dict[str, object]:
    return {
        "type": "view",
        "first": change.first,
        "views": [
            {
                "neighbor": one.neighbor,
                "number": one.number,
                "up": one.up,
                "since": one.since,
                "complete": one.complete,
                "add_path": one.add_path,
                "echoes": one.echoes,
                "paths": one.paths,
                "dropped": one.dropped,
                "full": one.full,
            }
            for one in change.views
        ],
        "sights": [
            {
                "neighbor": neighbor,
                "prefixes": [str(one.prefix) for one in sights],
                "mine": [one.mine for one in sights],
                "missing": [one.missing for one in sights],
                "counts": [(one.others, one.last_resort, one.unmarked, one.partial) for one in sights],
            }
            for neighbor, sights in change.sights
        ],
    }


def _view(fields: _Fields) -> ViewChange:
    return ViewChange(
        first=fields.flag("first"),
        views=tuple(map(_router_view, fields.objects("views"))),
        sights=tuple((one.text("neighbor"), _sights(one)) for one in fields.objects("sights")),
    )


def _router_view(fields: _Fields) -> RouterView:
    return RouterView(
        neighbor=fields.text("neighbor"),
        number=fields.integer("number"),
        up=fields.flag("up"),
        since=fields.number_or_none("since"),
        complete=fields.number_or_none("complete"),
        add_path=fields.integers("add_path"),
        echoes=fields.flag("echoes"),
        paths=fields.integer("paths"),
        dropped=fields.integer("dropped"),
        full=fields.flag("full"),
    )


def _sights(fields: _Fields) -> tuple[Sight, ...]:
    prefixes = fields.prefixes("prefixes")
    columns = [fields.array(name) for name in ("mine", "missing", "counts")]
    if any(len(column) != len(prefixes) for column in columns):
        raise ValueError("sights: expected as many of each as prefixes")
    return tuple(map(_sight, prefixes, *columns))


def _sight(prefix: Prefix, mine: object, missing: object, counts: object) -> Sight:
    if not isinstance(counts, list) or len(counts) != 4 or not all(isinstance(one, int) for one in counts):
        raise ValueError("counts: expected four numbers")
    others, last_resort, unmarked, partial = counts
    one = _Fields({"mine": mine, "missing": missing})
    return Sight(
        prefix=prefix,
        mine=one.number_or_none("mine"),
        missing=one.number_or_none("missing"),
        others=others,
        last_resort=last_resort,
        unmarked=unmarked,
        partial=bool(partial),
    )


def _failed_body(failed: Iterable[FailedRoute]) -> list[dict[str, str]]:
    return [{"prefix": str(each.prefix), "why": each.why} for each in failed]


def _failed(fields: _Fields) -> tuple[FailedRoute, ...]:
    return tuple(
        FailedRoute(prefix=item.prefix("prefix"), why=item.text("why")) for item in fields.objects("failed")
    )


def _some(fields: _Fields, name: str) -> tuple[Prefix, ...]:
    return fields.prefixes(name) if fields.has(name) else ()


def _texts(prefixes: Iterable[Prefix]) -> list[str]:
    return list(map(str, prefixes))


def _spare(body: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in body.items() if value != [] and value is not None}
