from __future__ import annotations

import contextlib
import struct
from ipaddress import IPv4Address, ip_address
from socket import htons

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.ipvs import (
    AddDestination,
    AddService,
    Destination,
    MoveDestination,
    RemoveDestination,
    RemoveService,
    ServiceKey,
    SetDestination,
    SetService,
)
from anycast.core.model import Forwarding, Protocol, Scheduler, SchedulerFlag
from anycast.kernel import ipvs_codec as codec

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
PORTS = st.integers(0, 65535)
KEYS = st.builds(ServiceKey, protocol=st.sampled_from(Protocol), address=ADDRESSES, port=PORTS)
DESTINATIONS = st.builds(
    Destination,
    address=ADDRESSES,
    port=PORTS,
    weight=st.integers(0, 2**31 - 1),
    forwarding=st.sampled_from(Forwarding),
    table_weight=st.integers(1, 65535),
)
SCHEDULING = st.one_of(
    st.tuples(
        st.just("mh"), st.frozensets(st.sampled_from([SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK]))
    ),
    st.tuples(
        st.just("sh"), st.frozensets(st.sampled_from([SchedulerFlag.SH_PORT, SchedulerFlag.SH_FALLBACK]))
    ),
    st.tuples(st.sampled_from(["rr", "wlc", "twos"]), st.just(frozenset[SchedulerFlag]())),
)
KEY = ServiceKey(protocol=Protocol.TCP, address=IPv4Address("192.0.2.1"), port=80)
SERVER = Destination(address=IPv4Address("10.0.0.1"), port=80, weight=1, forwarding=Forwarding.DR)


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) & 3)


def message(body: bytes) -> tuple[bytes, codec.Message]:
    data = codec.frame([codec.Request(1, body)], family=30, sequence=1)
    (only,) = codec.messages(data)
    return data, only


def as_the_kernel_writes(destination: Destination, **other: int) -> list[bytes]:
    """The attributes of one destination in the order of ip_vs_genl_fill_dest()."""
    forwarding = {Forwarding.NAT: 0, Forwarding.TUNNEL: 2, Forwarding.DR: 3}[destination.forwarding]
    numbers = {"upper": 0, "lower": 0, "tunnel": 0, "forwarding": forwarding} | other
    return [
        attribute(1, destination.address.packed.ljust(16, b"\0")),
        attribute(2, struct.pack("=H", htons(destination.port))),
        attribute(3, struct.pack("=I", numbers["forwarding"])),
        attribute(4, struct.pack("=I", destination.weight)),
        attribute(13, struct.pack("=B", numbers["tunnel"])),
        attribute(14, struct.pack("=H", 0)),
        attribute(15, struct.pack("=H", 0)),
        attribute(5, struct.pack("=I", numbers["upper"])),
        attribute(6, struct.pack("=I", numbers["lower"])),
        attribute(7, struct.pack("=I", 7)),
        attribute(8, struct.pack("=I", 8)),
        attribute(9, struct.pack("=I", 9)),
        attribute(11, struct.pack("=H", 2 if destination.address.version == 4 else 10)),
        attribute(10, attribute(1, bytes(8)) + attribute(11, b"")),
    ]


def service_message(*attributes: bytes) -> tuple[bytes, codec.Message]:
    return message(attribute(1, b"".join(attributes)))


def service_attributes(protocol: int = 6, scheduler: str = "mh", flags: int = 2) -> list[bytes]:
    return [
        attribute(1, struct.pack("=H", 2)),
        attribute(2, struct.pack("=H", protocol)),
        attribute(3, KEY.address.packed.ljust(16, b"\0")),
        attribute(4, struct.pack("=H", htons(80))),
        attribute(6, scheduler.encode() + b"\0"),
        attribute(7, struct.pack("=II", flags, 0xFFFFFFFF)),
        attribute(8, struct.pack("=I", 300)),
        attribute(9, b"\xff" * 4),
    ]


@given(key=KEYS, scheduling=SCHEDULING)
def test_a_written_service_reads_back_as_itself(
    key: ServiceKey, scheduling: tuple[str, frozenset[SchedulerFlag]]
) -> None:
    scheduler, flags = scheduling
    for op in (
        AddService(service=key, scheduler=scheduler, flags=flags),
        SetService(service=key, scheduler=scheduler, flags=flags),
    ):
        (request,) = codec.requests(op)
        assert codec.parse_service(*message(request.body)) == (key, scheduler, flags)


@given(key=KEYS, destination=DESTINATIONS)
def test_a_written_destination_reads_back_as_itself(key: ServiceKey, destination: Destination) -> None:
    (request,) = codec.requests(SetDestination(service=key, destination=destination))
    read = codec.parse_destination(*message(request.body))
    assert read == destination
    assert codec.parse_service(*message(request.body)).key == key


@given(destination=DESTINATIONS)
def test_the_one_unpack_and_the_walk_read_the_same(destination: Destination) -> None:
    data, only = message(attribute(2, b"".join(as_the_kernel_writes(destination))))
    assert codec.parse_destination(data, only) == codec.walk_destination(data, only) == destination


@given(destination=DESTINATIONS, data=st.data())
def test_a_kernel_that_writes_attributes_in_another_order_is_read_all_the_same(
    destination: Destination, data: st.DataObject
) -> None:
    attributes = data.draw(st.permutations(as_the_kernel_writes(destination)))
    assert codec.parse_destination(*message(attribute(2, b"".join(attributes)))) == destination


def test_the_expected_layout_is_read_without_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(codec, "walk_destination")
    data, only = message(attribute(2, b"".join(as_the_kernel_writes(SERVER))))
    assert codec.parse_destination(data, only) == SERVER


@pytest.mark.parametrize(
    ("other", "foreign"),
    [
        ({"upper": 100, "lower": 50}, "thresholds=100/50"),
        ({"tunnel": 1, "forwarding": 2}, "gue"),
        ({"forwarding": 1}, "local"),
        ({"forwarding": 7}, "forwarding=7"),
    ],
)
def test_what_our_destinations_cannot_say_makes_one_differ_from_all_we_want(
    other: dict[str, int], foreign: str
) -> None:
    data, only = message(attribute(2, b"".join(as_the_kernel_writes(SERVER, **other))))
    for read in (codec.parse_destination(data, only), codec.walk_destination(data, only)):
        assert read.foreign == foreign
        assert read.key == SERVER.key
        assert read != SERVER


def test_the_mark_the_kernel_sets_on_every_service_is_not_a_flag() -> None:
    read = codec.parse_service(*service_message(*service_attributes(flags=0x2 | 0x10)))
    assert read == (KEY, "mh", frozenset({SchedulerFlag.MH_PORT}))


@pytest.mark.parametrize(
    ("scheduler", "flags", "expected"),
    [
        ("rr", 0x1, "rr persistent=300"),
        ("rr", 0x4, "rr ops"),
        ("wlc", 0x18, "wlc flags=0x18"),
        ("mh", 0x1 | 0x20, "mh persistent=300 flags=0x20"),
        ("future", 0, "future"),
    ],
)
def test_what_our_services_cannot_say_makes_one_differ_from_all_we_want(
    scheduler: str, flags: int, expected: str
) -> None:
    read = codec.parse_service(*service_message(*service_attributes(scheduler=scheduler, flags=flags)))
    assert (read.key, read.scheduler) == (KEY, expected)


def test_a_persistence_engine_is_told() -> None:
    read = codec.parse_service(*service_message(*service_attributes(), attribute(11, b"sip\0")))
    assert read.scheduler == "mh pe=sip"


def test_sctp_and_firewall_marks_have_no_name_among_our_services() -> None:
    assert codec.parse_service(*service_message(*service_attributes(protocol=132))).key is None
    mark = [attribute(1, struct.pack("=H", 2)), attribute(5, struct.pack("=I", 7)), attribute(6, b"rr\0")]
    assert codec.parse_service(*service_message(*mark)).key is None


@given(key=KEYS, destination=DESTINATIONS)
def test_a_destination_is_inserted_with_the_weight_of_the_table_and_then_set(
    key: ServiceKey, destination: Destination
) -> None:
    sent = codec.requests(AddDestination(service=key, destination=destination))
    weights = [codec.parse_destination(*message(request.body)).weight for request in sent]
    if destination.weight == destination.table_weight:
        assert [request.command for request in sent] == [codec.NEW_DEST]
    else:
        assert [request.command for request in sent] == [codec.NEW_DEST, codec.SET_DEST]
    assert weights[0] == destination.table_weight
    assert weights[-1] == destination.weight


def test_a_move_is_a_removal_and_an_insertion() -> None:
    drained = Destination(address=SERVER.address, port=80, weight=0, forwarding=Forwarding.DR, table_weight=2)
    sent = codec.requests(MoveDestination(service=KEY, destination=drained))
    assert [request.command for request in sent] == [codec.DEL_DEST, codec.NEW_DEST, codec.SET_DEST]
    removal = codec.requests(RemoveDestination(service=KEY, key=drained.key))
    assert sent[:1] == removal


def test_the_netmask_of_an_ipv6_service_is_its_prefix_length_in_host_order() -> None:
    key = ServiceKey(protocol=Protocol.TCP, address=ip_address("2001:db8::1"), port=80)
    (request,) = codec.requests(AddService(service=key, scheduler="rr", flags=frozenset()))
    assert request.body.endswith(attribute(9, struct.pack("=I", 128)))


def test_flags_are_written_with_a_mask_that_clears_all_others() -> None:
    (request,) = codec.requests(AddService(service=KEY, scheduler="mh", flags=frozenset(SchedulerFlag)))
    assert attribute(7, struct.pack("=II", 0x18, 0xFFFFFFFF)) in request.body


def test_removing_names_the_service_and_nothing_else() -> None:
    (request,) = codec.requests(RemoveService(service=KEY))
    assert request == (codec.DEL_SERVICE, codec.service_key(KEY))


def test_only_the_last_of_a_batch_asks_for_an_answer() -> None:
    batch = [codec.Request(codec.NEW_DEST, bytes(4))] * 3
    framed = list(codec.messages(codec.frame(batch, family=30, sequence=7)))
    assert [(one.sequence, bool(one.flags & codec.NLM_F_ACK)) for one in framed] == [
        (7, False),
        (8, False),
        (9, True),
    ]


@given(data=st.binary(max_size=300))
def test_garbage_is_malformed_and_never_another_error(data: bytes) -> None:
    with contextlib.suppress(codec.Malformed):
        for one in codec.messages(data):
            for parse in (codec.parse_service, codec.parse_destination, codec.parse_family):
                with contextlib.suppress(codec.Malformed):
                    parse(data, one)


@given(destination=DESTINATIONS, cut=st.integers(1, 80), place=st.integers(0, 200), value=st.integers(0, 255))
def test_a_damaged_destination_is_malformed_or_a_value(
    destination: Destination, cut: int, place: int, value: int
) -> None:
    body = bytearray(attribute(2, b"".join(as_the_kernel_writes(destination))))
    body[place % len(body)] = value
    data, only = message(bytes(body[:-cut]))
    with contextlib.suppress(codec.Malformed):
        codec.parse_destination(data, only)


def test_every_scheduler_we_offer_keeps_its_flags_apart() -> None:
    bits = {SchedulerFlag.MH_FALLBACK: 8, SchedulerFlag.SH_FALLBACK: 8}
    for scheduler in (Scheduler.MH, Scheduler.SH):
        read = codec.parse_service(*service_message(*service_attributes(scheduler=scheduler, flags=8)))
        assert {bits[flag] for flag in read.flags} == {8}
        assert all(flag.startswith(scheduler) for flag in read.flags)
