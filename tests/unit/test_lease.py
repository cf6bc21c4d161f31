from __future__ import annotations

import json
import math
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.values.lease import (
    MAX_TTL,
    by_prefix,
    digest_after,
    digest_of_all,
    full_lease,
    next_lease,
)
from anycast.core.values.report import FailedRoute, NeighborState, Report
from anycast.core.values.route import Origin, Prefix, Route, Variant
from anycast.core.values.sight import RouterView, Sight, ViewChange
from anycast.lease import (
    MAX_LINE,
    Ask,
    Decoder,
    Hello,
    LeaseChange,
    Message,
    ProtocolError,
    change_of,
    changes_of,
    encode,
    report_after,
)
from anycast.lease import messages as lease_messages

prefixes = st.ip_addresses().map(ip_network)
instants = st.floats(0, 1e9)
plain_routes = st.builds(
    Route,
    prefix=prefixes,
    next_hop=st.none() | st.ip_addresses(),
    med=st.none() | st.integers(0, 2**32 - 1),
    communities=st.lists(st.text()).map(tuple),
    large_communities=st.lists(st.text()).map(tuple),
    as_path=st.lists(st.integers(1, 2**32 - 1)).map(tuple),
    local_preference=st.none() | st.integers(0, 2**32 - 1),
    extended_communities=st.lists(st.text()).map(tuple),
    origin=st.none() | st.sampled_from(Origin),
)


@st.composite
def with_variants(draw: st.DrawFn) -> Route:
    """Several of them can be alike."""
    route = draw(plain_routes)
    addresses = draw(st.lists(st.ip_addresses().map(str), unique=True, min_size=1, max_size=3))
    variants = tuple(
        Variant(neighbors=(one,), route=replace(draw(plain_routes), prefix=route.prefix)) for one in addresses
    )
    return replace(route, variants=variants)


routes = plain_routes | with_variants()
leases = st.builds(
    full_lease,
    seq=st.integers(0),
    issued=instants,
    ttl=st.floats(0, MAX_TTL, exclude_min=True),
    mark=st.none() | st.tuples(*[st.integers(0, 2**32 - 1)] * 3),
    routes=st.lists(routes, unique_by=lambda route: route.prefix).map(tuple),
    owned=st.lists(prefixes).map(tuple),
)
reports = st.builds(
    Report,
    seq=st.integers(0),
    announced=st.frozensets(prefixes),
    pending=st.frozensets(prefixes),
    failed=st.lists(st.builds(FailedRoute, prefix=prefixes, why=st.text())).map(tuple),
    neighbors=st.lists(
        st.builds(NeighborState, address=st.text(), state=st.text(), changed=instants, reason=st.text())
    ).map(tuple),
    exabgp_version=st.none() | st.text(),
    exabgp_pid=st.integers(0),
    pid=st.integers(0),
    errors=st.integers(0),
    acks=st.integers(0),
    silent_since=st.none() | instants,
    lease_expired=st.booleans(),
    late_leases=st.integers(0),
    attributes=st.integers(1, 9),
)
sane_reports = reports.map(
    lambda report: replace(report, failed=tuple({each.prefix: each for each in report.failed}.values()))
)
lease_changes = st.builds(
    LeaseChange,
    seq=st.integers(0),
    issued=instants,
    ttl=st.floats(0, MAX_TTL, exclude_min=True),
    base=st.integers(0),
    digest=st.integers(0, 2**64 - 1),
    changed=st.lists(routes).map(tuple),
    gone=st.lists(prefixes).map(tuple),
    owned=st.lists(prefixes).map(tuple),
    disowned=st.lists(prefixes).map(tuple),
)
router_views = st.builds(
    RouterView,
    neighbor=st.text(),
    number=st.integers(0),
    up=st.booleans(),
    since=st.none() | instants,
    complete=st.none() | instants,
    add_path=st.lists(st.sampled_from([4, 6])).map(tuple),
    echoes=st.booleans(),
    paths=st.integers(0),
    dropped=st.integers(0),
    full=st.booleans(),
)
sights = st.builds(
    Sight,
    prefix=prefixes,
    mine=st.none() | instants,
    missing=st.none() | instants,
    others=st.integers(0),
    last_resort=st.integers(0),
    unmarked=st.integers(0),
    partial=st.booleans(),
)
view_changes = st.builds(
    ViewChange,
    views=st.lists(router_views).map(tuple),
    sights=st.lists(st.tuples(st.text(), st.lists(sights).map(tuple))).map(tuple),
    first=st.booleans(),
)
messages_of_all_kinds = (
    leases
    | lease_changes
    | reports
    | st.lists(reports, min_size=2, max_size=2).flatmap(lambda two: st.sampled_from([*changes_of(*two)]))
    | view_changes
    | st.just(Hello())
    | st.just(Ask())
)
LEASE = full_lease(
    seq=7,
    issued=100.0,
    ttl=2.0,
    routes=(Route(prefix=ip_network("2001:db8::1/128"), next_hop=ip_address("2001:db8::2"), med=5),),
    owned=(ip_network("192.0.2.1/32"),),
)


def test_a_report_of_another_version_has_what_it_does_not_say() -> None:
    body = json.loads(encode(Report(seq=1, silent_since=5.0, late_leases=2)))
    del body["silent_since"], body["late_leases"]
    body["oldest_ack_age"] = 3.0
    assert Decoder().feed(json.dumps(body).encode() + b"\n") == [Report(seq=1)]


@given(st.lists(messages_of_all_kinds, max_size=4), st.data())
def test_messages_arrive_as_they_were_sent_however_the_bytes_are_cut(
    messages: list[Message], data: st.DataObject
) -> None:
    stream = b"".join(encode(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    decoder, received = Decoder(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[start:end])
    assert received == messages


@given(st.binary())
def test_any_bytes_are_messages_or_a_protocol_error(data: bytes) -> None:
    decoder = Decoder()
    try:
        decoder.feed(data)
    except ProtocolError:
        with pytest.raises(ProtocolError):
            decoder.feed(encode(LEASE))


def test_unknown_types_and_fields_are_passed_over() -> None:
    newer = encode(LEASE).replace(b'"type"', b'"colour":"green","type"')
    assert Decoder().feed(b'{"type":"greeting"}\n' + newer) == [LEASE]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seq":7', b'"seq":-1'),
        (b'"seq":7', b'"seq":true'),
        (b'"seq":7', b'"seq":"7"'),
        (b'"ttl":2.0', b'"ttl":0'),
        (b'"ttl":2.0', b'"ttl":1e9'),
        (b'"ttl":2.0', b'"ttl":NaN'),
        (b'"issued":100.0', b'"issued":1e999'),
        (b'"192.0.2.1/32"', b'"192.0.2.1/24"'),
        (b'"192.0.2.1/32"', b"3"),
        (b'"med":5', b'"med":5.5'),
        (b'"type":"lease"', b'"type":null'),
    ],
)
def test_a_lease_with_a_wrong_value_is_a_protocol_error(old: bytes, new: bytes) -> None:
    line = encode(LEASE)
    assert old in line
    with pytest.raises(ProtocolError):
        Decoder().feed(line.replace(old, new))


def test_a_line_without_end_is_a_protocol_error_before_it_fills_the_memory() -> None:
    decoder = Decoder()
    decoder.feed(b"x" * MAX_LINE)
    with pytest.raises(ProtocolError, match="longer"):
        decoder.feed(b"x")


def test_a_lease_counts_from_its_issue_and_never_from_the_future() -> None:
    assert LEASE.expires(now=101.0) == 102.0
    assert LEASE.expires(now=90.0) == 92.0


def test_a_lease_names_a_prefix_once() -> None:
    with pytest.raises(ValueError, match="twice"):
        full_lease(seq=1, issued=0.0, ttl=1.0, routes=[*LEASE.routes.values()] * 2)


def test_a_number_json_does_not_know_is_not_sent() -> None:
    with pytest.raises(ValueError, match="JSON"):
        encode(Report(seq=1, silent_since=math.nan))


def test_an_unchanged_lease_is_a_short_line() -> None:
    lease = next_lease(
        base=LEASE.seq,
        digest=LEASE.digest,
        before=LEASE.routes,
        owned_before=LEASE.owned,
        seq=8,
        issued=1234567.123456789,
        ttl=2.0,
        routes=LEASE.routes,
        owned=LEASE.owned,
    )
    assert lease.digest == LEASE.digest
    assert len(encode(change_of(lease, LEASE.owned))) < 140


def test_an_agent_of_an_older_release_gives_no_digest() -> None:
    body = json.loads(encode(LEASE))
    del body["digest"]
    assert Decoder().feed(json.dumps(body).encode() + b"\n") == [LEASE]


def test_a_plugin_of_an_older_release_knows_neither_of_the_first_words() -> None:
    assert json.loads(encode(Hello())) == {"type": "hello"}
    assert json.loads(encode(Ask())) == {"type": "ask"}


@given(old=sane_reports, new=sane_reports, piece=st.integers(1, 4), told=st.booleans())
def test_a_report_is_the_one_before_and_what_differs(
    old: Report, new: Report, piece: int, *, told: bool
) -> None:
    if told:
        differs = (old.announced ^ new.announced) | (old.pending ^ new.pending)
        whys = {each.prefix: each.why for each in old.failed}
        wherefores = {each.prefix: each.why for each in new.failed}
        differs |= {p for p in whys.keys() | wherefores.keys() if whys.get(p) != wherefores.get(p)}
        new = replace(new, touched=differs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease_messages, "PIECE", piece)
        changes = list(changes_of(old, new))
    now = old
    for change in changes:
        assert now.seq == old.seq
        now = report_after(now, change)
    assert replace(now, failed=()) == replace(new, failed=())
    assert set(now.failed) == set(new.failed)
    assert all(len(change.announced) + len(change.not_announced) <= piece for change in changes)


@given(first=sane_reports, second=sane_reports, other=sane_reports)
def test_a_change_that_does_not_fit_is_refused_and_never_guessed_at(
    first: Report, second: Report, other: Report
) -> None:
    (change,) = changes_of(first, second)
    try:
        found = report_after(other, change)
    except ProtocolError:
        return
    for mine, its in ((found.announced, second.announced), (found.pending, second.pending)):
        assert len(mine) == len(its)


def test_the_digest_follows_each_change_and_has_no_order() -> None:
    one, two = (Route(prefix=ip_network(f"192.0.2.{n}/32"), med=n) for n in (1, 2))
    worse = replace(one, med=9)
    full = digest_of_all([one, two], [])
    assert full == digest_of_all([two, one], [])
    before = by_prefix([one, two])
    assert digest_after(full, before, [worse], [two.prefix]) == digest_of_all([worse], [])
    assert digest_after(0, {}, [one], [], owned=[two.prefix]) == digest_of_all([one], [two.prefix])
    assert digest_of_all([one], [two.prefix]) != digest_of_all([two], [one.prefix])


def test_the_digest_is_the_same_in_every_release() -> None:
    route = Route(
        prefix=ip_network("192.0.2.1/32"),
        next_hop=ip_address("192.0.2.9"),
        med=5,
        communities=("65001:1", "65535:0"),
        large_communities=("1:2:3",),
    )
    assert (
        digest_of_all([route, Route(prefix=ip_network("2001:db8::1/128"))], [route.prefix])
        == 14683352686248483583
    )


def test_each_attribute_is_in_the_digest_and_on_the_wire_only_where_it_is_set() -> None:
    """An older plugin reads what it knows, finds another digest, and asks for each lease in full."""
    plain = Route(prefix=ip_network("192.0.2.1/32"))
    others = [
        replace(plain, as_path=(65001, 65001)),
        replace(plain, local_preference=0),
        replace(plain, extended_communities=("target:1:2",)),
        replace(plain, origin=Origin.IGP),
        replace(plain, variants=(Variant(neighbors=("10.2.1.254",), route=plain),)),
        replace(plain, variants=(Variant(neighbors=("10.2.1.253",), route=plain),)),
    ]
    assert len({digest_of_all([route], []) for route in (plain, *others)}) == 7
    lease = full_lease(seq=1, issued=0.0, ttl=1.0, routes=[plain])
    body = json.loads(encode(lease))
    assert set(body["routes"][0]) == {"prefix", "next_hop", "med", "communities", "large_communities"}


def test_what_thousands_of_routes_have_alike_is_sent_once() -> None:
    """A message has an end, and 20,000 addresses are allowed."""
    neighbors = [f"10.2.{n}.254" for n in range(256)]

    def to_two_fabrics(prefix: Prefix) -> Route:
        plain = Route(prefix=prefix, med=100, communities=("65000:100",))
        halves = (neighbors[:128], neighbors[128:])
        variants = (
            Variant(neighbors=tuple(half), route=replace(plain, med=n)) for n, half in enumerate(halves)
        )
        return replace(plain, variants=tuple(variants))

    prefixes = [ip_network(f"203.{n >> 16}.{n >> 8 & 255}.{n & 255}/32") for n in range(20_000)]
    lease = full_lease(seq=1, issued=0.0, ttl=1.0, routes=map(to_two_fabrics, prefixes), owned=prefixes)
    line = encode(lease)
    assert len(line) < MAX_LINE
    assert line.count(b"10.2.7.254") == 1
    assert Decoder().feed(line) == [lease]


@pytest.mark.parametrize(
    "variants", ["[{}]", "7", '[{"neighbors":["10.2.1.254"]}]', '"web"', "-1", "true", "[1]", "[[]]"]
)
def test_variants_that_are_none_break_the_connection(variants: str) -> None:
    line = encode(LEASE).replace(b'"med":5', b'"med":5,"variants":' + variants.encode())
    with pytest.raises(ProtocolError):
        Decoder().feed(line)


def test_a_neighbor_in_two_variants_is_refused() -> None:
    plain = Route(prefix=ip_network("192.0.2.1/32"))
    one = Variant(neighbors=("10.2.1.254",), route=plain)
    with pytest.raises(ValueError, match="each of them once"):
        replace(plain, variants=(one, one))
    with pytest.raises(ValueError, match="without variants"):
        replace(plain, variants=(replace(one, route=replace(plain, variants=(one,))),))
    with pytest.raises(ValueError, match="for this prefix"):
        replace(plain, variants=(replace(one, route=Route(prefix=ip_network("192.0.2.2/32"))),))
