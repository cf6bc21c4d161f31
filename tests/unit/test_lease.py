from __future__ import annotations

import json
import math
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.values.lease import MAX_TTL, full_lease
from anycast.core.values.report import FailedRoute, NeighborState, Report
from anycast.core.values.route import Route
from anycast.lease import MAX_LINE, Decoder, Message, ProtocolError, encode

prefixes = st.ip_addresses().map(ip_network)
instants = st.floats(0, 1e9)
routes = st.builds(
    Route,
    prefix=prefixes,
    next_hop=st.none() | st.ip_addresses(),
    med=st.none() | st.integers(0, 2**32 - 1),
    communities=st.lists(st.text()).map(tuple),
    large_communities=st.lists(st.text()).map(tuple),
)
leases = st.builds(
    full_lease,
    seq=st.integers(0),
    issued=instants,
    ttl=st.floats(0, MAX_TTL, exclude_min=True),
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


@given(st.lists(leases | reports, max_size=4), st.data())
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
