from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET6, htons

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.dataplane.ipvs import (
    COUNTED,
    NO_CONNECTIONS,
    AddDestination,
    AddService,
    Connections,
    Counters,
    Destination,
    Key,
    MarkKey,
    MoveDestination,
    Persistent,
    RemoveDestination,
    RemoveService,
    ServiceKey,
    SetDestination,
    SetService,
    Settings,
    packed,
    version_of,
)
from anycast.core.dataplane.kernel import SyncRole
from anycast.core.values.configuration import (
    ConnectionSync,
    Forwarding,
    Protocol,
    Scheduler,
    SchedulerFlag,
    Timeouts,
    Tunnel,
    TunnelChecksum,
    TunnelType,
)
from anycast.kernel import ipvs_codec as codec
from anycast.kernel import netlink_codec

ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
PORTS = st.integers(0, 65535)
KEYS: st.SearchStrategy[Key] = st.one_of(
    st.builds(ServiceKey, protocol=st.sampled_from(Protocol), address=ADDRESSES, port=PORTS),
    st.builds(MarkKey, mark=st.integers(1, 2**32 - 1), version=st.sampled_from([4, 6])),
)
TUNNELS = st.builds(
    Tunnel, type=st.sampled_from(TunnelType), port=PORTS, checksum=st.sampled_from(TunnelChecksum)
)
COUNTS = st.integers(0, 2**32 - 1)
CONNECTIONS = st.builds(Connections, COUNTS, COUNTS)
DESTINATIONS = st.builds(
    Destination,
    address=ADDRESSES,
    port=PORTS,
    weight=st.integers(0, 2**31 - 1),
    forwarding=st.sampled_from(Forwarding),
    table_weight=st.integers(1, 65535),
    tunnel=TUNNELS,
    upper=COUNTS,
    lower=COUNTS,
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
PERSISTENCE = {
    version: st.none() | st.builds(Persistent, timeout=st.integers(1, 2**31), prefix=st.integers(1, longest))
    for version, longest in ((4, 32), (6, 128))
}
SYNCS = st.builds(
    ConnectionSync,
    interface=st.text("abcdefgh.0123456789", min_size=1, max_size=15),
    id=st.integers(0, 255),
    group=ADDRESSES,
    port=PORTS,
    ttl=st.integers(0, 255),
)
KEY = ServiceKey(protocol=Protocol.TCP, address=IPv4Address("192.0.2.1"), port=80)
_PERSISTENT_COUNT, _STATISTICS = 11, 13  # places among the attributes, which are not looked at
PADDED = ("", "all", "but the first")
SERVER = Destination(address=IPv4Address("10.0.0.1"), port=80, weight=1, forwarding=Forwarding.DR)


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) & 3)


def message(body: bytes) -> tuple[bytes, netlink_codec.Message]:
    data = codec.frame([codec.Request(1, body)], family=30, sequence=1)
    (only,) = netlink_codec.messages(data)
    return data, only


@st.composite
def settings_of(draw: st.DrawFn, key: Key) -> Settings:
    scheduler, flags = draw(SCHEDULING)
    persistent = draw(PERSISTENCE[version_of(key)])
    return Settings(scheduler=scheduler, flags=flags, one_packet=draw(st.booleans()), persistent=persistent)


def as_read(destination: Destination) -> Destination:
    """What the kernel tells of it: the weight of the table only while it is the weight."""
    return replace(destination, table_weight=destination.weight)


def as_the_kernel_writes(
    destination: Destination, connections: Connections = NO_CONNECTIONS, /, **other: int
) -> list[bytes]:
    """The attributes of one destination in the order of ip_vs_genl_fill_dest()."""
    forwarding = {Forwarding.NAT: 0, Forwarding.TUNNEL: 2, Forwarding.DR: 3}[destination.forwarding]
    tunnel = {TunnelType.IPIP: 0, TunnelType.GUE: 1, TunnelType.GRE: 2}[destination.tunnel.type]
    checksum = {TunnelChecksum.NONE: 0, TunnelChecksum.FULL: 1, TunnelChecksum.REMOTE: 2}
    numbers = {
        "tunnel": tunnel,
        "checksum": checksum[destination.tunnel.checksum],
        "forwarding": forwarding,
    } | other
    return [
        attribute(1, destination.address.packed.ljust(16, b"\0")),
        attribute(2, struct.pack("=H", htons(destination.port))),
        attribute(3, struct.pack("=I", numbers["forwarding"])),
        attribute(4, struct.pack("=I", destination.weight)),
        attribute(13, struct.pack("=B", numbers["tunnel"])),
        attribute(14, struct.pack("=H", htons(destination.tunnel.port))),
        attribute(15, struct.pack("=H", numbers["checksum"])),
        attribute(5, struct.pack("=I", destination.upper)),
        attribute(6, struct.pack("=I", destination.lower)),
        attribute(7, struct.pack("=I", connections.active)),
        attribute(8, struct.pack("=I", connections.inactive)),
        attribute(9, struct.pack("=I", 9)),
        attribute(11, struct.pack("=H", 2 if destination.address.version == 4 else 10)),
        attribute(10, attribute(1, bytes(8)) + attribute(11, b"")),
    ]


def service_message(*attributes: bytes) -> tuple[bytes, netlink_codec.Message]:
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


@given(data=st.data(), key=KEYS)
def test_a_written_service_reads_back_as_itself(data: st.DataObject, key: Key) -> None:
    settings = data.draw(settings_of(key))
    for op in (AddService(service=key, settings=settings), SetService(service=key, settings=settings)):
        (request,) = codec.requests(op)
        assert codec.parse_service(*message(request.body))[:2] == (key, settings)


@given(key=KEYS, destination=DESTINATIONS)
def test_a_written_destination_reads_back_as_itself(key: Key, destination: Destination) -> None:
    (request,) = codec.requests(SetDestination(service=key, destination=destination))
    assert codec.parse_destination(*message(request.body)) == (as_read(destination), NO_CONNECTIONS)
    assert codec.parse_service(*message(request.body)).key == key


@given(timeouts=st.builds(Timeouts, tcp=COUNTS, tcp_fin=COUNTS, udp=COUNTS))
def test_written_timeouts_read_back_as_themselves(timeouts: Timeouts) -> None:
    request = codec.timeouts_request(timeouts)
    assert request.command == codec.SET_CONFIG
    assert codec.parse_timeouts(*message(request.body)) == timeouts


@given(role=st.sampled_from(SyncRole), sync=SYNCS)
def test_a_written_sync_daemon_reads_back_as_itself(role: SyncRole, sync: ConnectionSync) -> None:
    request = codec.start_sync_request(role, sync)
    assert request.command == codec.NEW_DAEMON
    assert codec.parse_daemon(*message(request.body)) == (role, sync)
    assert codec.parse_daemon(*message(codec.stop_sync_request(role).body))[0] == role


def listed(*destinations: list[bytes], sequence: int = 7) -> bytes:
    """A datagram of a dump."""
    return b"".join(
        netlink_codec.frame(30, 0x2, sequence, struct.pack("=BBH", 5, 1, 0) + attribute(2, b"".join(one)))
        for one in destinations
    ).replace(struct.pack("=HH", 30, 0x3), struct.pack("=HH", 30, 0x2))


def taken(*datagrams: bytes, sequence: int = 7) -> tuple[codec.Listing, bool]:
    """As a conversation has them taken, and whether all were taken undecoded."""
    listing, quick = codec.Listing(30), True
    for data in datagrams:
        if not listing.take(data, sequence):
            quick = False
            for one in netlink_codec.messages(data):
                listing.parse(data, one)
    return listing, quick


@given(found=st.lists(st.tuples(DESTINATIONS, CONNECTIONS), min_size=1, max_size=4))
def test_a_listing_is_read_as_the_walk_reads_it(found: list[tuple[Destination, Connections]]) -> None:
    data = listed(*(as_the_kernel_writes(one, counts) for one, counts in found))
    listing, quick = taken(data)
    assert quick
    expected = [(as_read(one), counts) for one, counts in found]
    assert list(listing.decoded({})) == expected
    assert [codec.parse_destination(data, one) for one in netlink_codec.messages(data)] == expected
    assert listing.counts() == packed(counts for _, counts in reversed(found))


@given(
    before=st.lists(DESTINATIONS, min_size=1, max_size=3),
    after=st.lists(DESTINATIONS, min_size=1, max_size=3),
    counts=CONNECTIONS,
)
def test_the_digest_is_of_the_records_in_their_order_and_not_of_the_counts(
    before: list[Destination], after: list[Destination], counts: Connections
) -> None:
    one, _ = taken(listed(*map(as_the_kernel_writes, before)))
    same, _ = taken(*(listed(as_the_kernel_writes(each, counts)) for each in before))
    other, _ = taken(listed(*map(as_the_kernel_writes, after)))
    assert one.digest() == same.digest() is not None
    assert (one.digest() == other.digest()) == (list(map(as_read, before)) == list(map(as_read, after)))


@pytest.mark.parametrize("place", range(len(as_the_kernel_writes(SERVER))))
def test_a_datagram_with_one_attribute_of_another_kind_is_no_known_one(place: int) -> None:
    """Whatever a kernel to come makes of the place."""
    attributes = as_the_kernel_writes(SERVER)
    if place not in (_PERSISTENT_COUNT, _STATISTICS):
        other = attributes.copy()
        other[place] = other[place][:2] + struct.pack("=H", 40) + other[place][4:]
        known, _ = taken(listed(attributes))
        assert taken(listed(other))[0].digest() != known.digest()


def test_a_datagram_with_the_end_of_the_dump_in_it_is_walked() -> None:
    end = netlink_codec.frame(netlink_codec.NLMSG_DONE, 0x2, 7, bytes(4))
    assert not codec.Listing(30).take(listed(as_the_kernel_writes(SERVER)) + end, 7)
    assert not codec.Listing(30).take(end, 7)
    assert not codec.Listing(30).take(b"", 7)


def test_the_answer_to_an_earlier_question_is_not_taken() -> None:
    assert not codec.Listing(30).take(listed(as_the_kernel_writes(SERVER)), 8)


def test_a_listing_of_a_kernel_with_another_order_is_walked_and_has_no_digest() -> None:
    first, second = replace(SERVER, port=81), SERVER
    odd = as_the_kernel_writes(first, Connections(1, 2))[::-1]
    listing, quick = taken(listed(odd), listed(as_the_kernel_writes(second)))
    assert not quick
    assert listing.digest() is None
    assert list(listing.decoded({})) == [(first, (1, 2)), (second, (0, 0))]


def test_a_record_that_is_as_long_as_expected_and_not_laid_out_so_is_walked() -> None:
    attributes = as_the_kernel_writes(SERVER)
    attributes[2], attributes[3] = attributes[3], attributes[2]
    listing, quick = taken(listed(attributes))
    assert quick
    assert list(listing.decoded({})) == [(SERVER, NO_CONNECTIONS)]


def test_addresses_that_are_there_already_are_the_ones_a_listing_has() -> None:
    listing, _ = taken(listed(as_the_kernel_writes(SERVER)))
    ((read, _),) = listing.decoded({SERVER.address.packed: SERVER.address})
    assert read.address is SERVER.address


@given(keys=st.lists(KEYS, min_size=1, max_size=4), padded=st.sampled_from(PADDED), data=st.data())
def test_services_that_were_seen_before_are_read_as_those_that_were_not(
    keys: list[Key], padded: str, data: st.DataObject
) -> None:
    reader = codec.Services()
    settings = {key: data.draw(settings_of(key)) for key in keys}
    for packets in (5, 2**40):
        for key in keys:
            (request,) = codec.requests(AddService(service=key, settings=settings[key]))
            found = message(told(request.body, counters_with(packets), padded))
            assert reader.parse(*found) == codec.parse_service(*found)
            assert reader.parse(*found) == (key, settings[key], counters_with(packets))
            assert reader.parse(*found).key is reader.parse(*found).key
            assert reader.parse(*found).settings is reader.parse(*found).settings


def test_a_service_without_statistics_is_read_all_the_same() -> None:
    (request,) = codec.requests(AddService(service=KEY, settings=Settings(scheduler="mh")))
    found = message(request.body)
    reader = codec.Services()
    for _ in range(2):
        assert reader.parse(*found) == codec.parse_service(*found)


def counters_with(packets: int) -> Counters:
    return Counters(
        connections=3, packets_in=packets, packets_out=7, bytes_in=1500 * packets, bytes_out=2**63
    )


def statistics(counters: Counters, *, padded: str = "") -> list[bytes]:
    """The two nests as ip_vs_genl_fill_stats() and ip_vs_genl_fill_stats64() write them, the rates last.

    `padded`: by a kernel that puts an empty attribute before numbers of eight bytes: `all`, or all `but the first`.
    """
    short = [attribute(kind, struct.pack("=I", counters[kind - 1] & 0xFFFFFFFF)) for kind in (1, 2, 3)]
    short += [attribute(kind, struct.pack("=Q", counters[kind - 1])) for kind in (4, 5)]
    short += [attribute(kind, bytes(4)) for kind in range(6, 11)]
    numbers = [*counters, *(17 for _ in range(5))]
    long = []
    for kind, one in enumerate(numbers, 1):
        if padded == "all" or (padded and kind > 1):
            long.append(attribute(11, b""))
        long.append(attribute(kind, struct.pack("=Q", one)))
    return [attribute(10, b"".join(short)), attribute(12, b"".join(long))]


def told(body: bytes, counters: Counters, padded: str = "") -> bytes:
    """A service as the kernel tells of it, with its statistics."""
    return attribute(1, body[4:] + b"".join(statistics(counters, padded=padded)))


@pytest.mark.parametrize("padded", PADDED)
def test_the_counters_of_real_servers_are_taken_as_they_are_in_the_order_of_insertion(padded: str) -> None:
    first, second = counters_with(5), Counters(2**64 - 1, 2, 3, 4, 5)
    data = listed(
        *(
            [*as_the_kernel_writes(replace(SERVER, port=port))[:-1], *statistics(one, padded=padded)]
            for port, one in ((81, first), (82, second))
        )
    )
    listing, quick = taken(data)
    assert quick
    assert list(COUNTED.iter_unpack(listing.traffic())) == [second, first]
    assert [one.destination.port for one in listing.decoded({})] == [81, 82]


@pytest.mark.parametrize("place", range(5))
def test_counters_in_another_place_are_not_guessed_at(place: int) -> None:
    short, long = statistics(counters_with(5))
    odd = bytearray(long)
    odd[4 + 12 * place + 2] = 40  # the kind
    for last in ((short, bytes(odd)), (short,), (long, short)):
        listing, _ = taken(listed([*as_the_kernel_writes(SERVER)[:-1], *last]))
        assert listing.traffic() == b""
        assert [one.destination for one in listing.decoded({})] == [SERVER]


@given(destination=DESTINATIONS, connections=CONNECTIONS, data=st.data())
def test_a_kernel_that_writes_attributes_in_another_order_is_read_all_the_same(
    destination: Destination, connections: Connections, data: st.DataObject
) -> None:
    attributes = data.draw(st.permutations(as_the_kernel_writes(destination, connections)))
    read = codec.parse_destination(*message(attribute(2, b"".join(attributes))))
    assert read == (as_read(destination), connections)


def test_the_expected_layout_is_read_without_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(codec, "parse_destination")
    listing, _ = taken(listed(as_the_kernel_writes(SERVER)))
    assert list(listing.decoded({})) == [(SERVER, NO_CONNECTIONS)]


@pytest.mark.parametrize(
    ("other", "foreign"),
    [
        ({"forwarding": 1}, "local"),
        ({"forwarding": 4}, "bypass"),
        ({"forwarding": 7}, "forwarding=7"),
        ({"tunnel": 3, "forwarding": 2}, "tunnel=3 flags=0"),
        ({"checksum": 3, "forwarding": 2}, "tunnel=0 flags=3"),
    ],
)
def test_what_our_destinations_cannot_say_makes_one_differ_from_all_we_want(
    other: dict[str, int], foreign: str
) -> None:
    data, only = message(attribute(2, b"".join(as_the_kernel_writes(SERVER, NO_CONNECTIONS, **other))))
    (quick,) = taken(listed(as_the_kernel_writes(SERVER, NO_CONNECTIONS, **other)))[0].decoded({})
    for read in (codec.parse_destination(data, only), quick):
        assert read.destination.foreign == foreign
        assert read.key == SERVER.key
        assert read.destination != SERVER


def test_the_mark_the_kernel_sets_on_every_service_is_not_a_flag() -> None:
    read = codec.parse_service(*service_message(*service_attributes(flags=0x2 | 0x10)))
    assert read[:2] == (KEY, Settings(scheduler="mh", flags=frozenset({SchedulerFlag.MH_PORT})))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0x0, Settings(scheduler="rr")),
        (0x1, Settings(scheduler="rr", persistent=Persistent(timeout=300, prefix=32))),
        (0x4, Settings(scheduler="rr", one_packet=True)),
        (0x5, Settings(scheduler="rr", one_packet=True, persistent=Persistent(timeout=300, prefix=32))),
    ],
)
def test_persistence_and_one_packet_are_read_of_any_scheduler(flags: int, expected: Settings) -> None:
    """A timeout without the flag is what ipvsadm leaves there, and means nothing."""
    read = codec.parse_service(*service_message(*service_attributes(scheduler="rr", flags=flags)))
    assert read[:2] == (KEY, expected)


@pytest.mark.parametrize(
    ("scheduler", "flags", "foreign"),
    [
        ("wlc", 0x18, "flags=0x18"),
        ("mh", 0x1 | 0x20, "flags=0x20"),
        ("future", 0x8, "flags=0x8"),
    ],
)
def test_what_our_services_cannot_say_makes_one_differ_from_all_we_want(
    scheduler: str, flags: int, foreign: str
) -> None:
    read = codec.parse_service(*service_message(*service_attributes(scheduler=scheduler, flags=flags)))
    assert (read.key, read.settings.scheduler, read.settings.foreign) == (KEY, scheduler, foreign)
    assert read.settings != replace(read.settings, foreign="")


def test_a_scheduler_we_do_not_know_is_read_by_its_name() -> None:
    read = codec.parse_service(*service_message(*service_attributes(scheduler="future", flags=0)))
    assert read[:2] == (KEY, Settings(scheduler="future"))


def test_a_persistence_engine_is_told() -> None:
    read = codec.parse_service(*service_message(*service_attributes(), attribute(11, b"sip\0")))
    assert read.settings == Settings(scheduler="mh", foreign="pe=sip")


def test_a_persistence_engine_is_told_beside_unknown_flags() -> None:
    read = codec.parse_service(*service_message(*service_attributes(flags=0x20), attribute(11, b"sip\0")))
    assert read.settings.foreign == "flags=0x20 pe=sip"


def counters(kind: int, inpkts: bytes) -> bytes:
    """As ip_vs_genl_fill_stats() begins: connections, then packets in."""
    return attribute(kind, attribute(1, bytes(len(inpkts))) + attribute(2, inpkts))


def test_packets_are_read_of_the_long_counters_and_where_there_are_none_of_the_short_ones() -> None:
    short, long = counters(10, struct.pack("=I", 7)), counters(12, struct.pack("=Q", 2**32 + 7))
    for statistics, packets in (((short, long), 2**32 + 7), ((short,), 7), ((), 0)):
        read = codec.parse_service(*service_message(*service_attributes(), *statistics))
        assert read.counters.packets_in == packets


def test_counters_of_another_size_are_not_guessed_at() -> None:
    with pytest.raises(netlink_codec.Malformed, match="attribute 1"):
        codec.parse_service(*service_message(*service_attributes(), counters(12, bytes(4))))


def test_sctp_is_among_our_services() -> None:
    read = codec.parse_service(*service_message(*service_attributes(protocol=132)))
    assert read.key == replace(KEY, protocol=Protocol.SCTP)


@pytest.mark.parametrize(("family", "version"), [(2, 4), (10, 6)])
def test_a_firewall_mark_is_among_our_services_and_belongs_to_a_family(family: int, version: int) -> None:
    mark = [
        attribute(1, struct.pack("=H", family)),
        attribute(5, struct.pack("=I", 0xFFFFFFFE)),
        attribute(6, b"rr\0"),
    ]
    read = codec.parse_service(*service_message(*mark))
    assert read[:2] == (MarkKey(mark=0xFFFFFFFE, version=version), Settings(scheduler="rr"))


def test_a_service_of_another_protocol_has_no_name() -> None:
    assert codec.parse_service(*service_message(*service_attributes(protocol=50))).key is None


def test_a_mark_is_written_without_protocol_address_and_port() -> None:
    key = MarkKey(mark=7, version=6)
    family, mark = attribute(1, struct.pack("=H", AF_INET6)), attribute(5, struct.pack("=I", 7))
    assert codec.service_key(key) == attribute(1, family + mark)


@given(key=KEYS, destination=DESTINATIONS)
def test_a_destination_is_inserted_with_the_weight_of_the_table_and_then_set(
    key: Key, destination: Destination
) -> None:
    sent = codec.requests(AddDestination(service=key, destination=destination))
    weights = [codec.parse_destination(*message(request.body)).destination.weight for request in sent]
    if destination.weight == destination.table_weight:
        assert [request.command for request in sent] == [codec.NEW_DEST]
    else:
        assert [request.command for request in sent] == [codec.NEW_DEST, codec.SET_DEST]
    assert weights[0] == destination.table_weight
    assert weights[-1] == destination.weight


@given(key=KEYS, destination=DESTINATIONS)
def test_a_rebuild_writes_the_weight_of_the_table_and_then_the_weight_in_one_batch(
    key: Key, destination: Destination
) -> None:
    plain = codec.requests(SetDestination(service=key, destination=destination))
    sent = codec.requests(SetDestination(service=key, destination=destination, rebuild=True))
    assert [request.command for request in sent] == [codec.SET_DEST, codec.SET_DEST]
    assert sent[1:] == plain
    first, _ = codec.parse_destination(*message(sent[0].body))
    assert first == as_read(replace(destination, weight=destination.table_weight))


def test_a_move_is_a_removal_and_an_insertion() -> None:
    drained = Destination(address=SERVER.address, port=80, weight=0, forwarding=Forwarding.DR, table_weight=2)
    sent = codec.requests(MoveDestination(service=KEY, destination=drained))
    assert [request.command for request in sent] == [codec.DEL_DEST, codec.NEW_DEST, codec.SET_DEST]
    removal = codec.requests(RemoveDestination(service=KEY, key=drained.key))
    assert sent[:1] == removal


@pytest.mark.parametrize(
    ("address", "prefix", "netmask"),
    [
        ("192.0.2.1", None, b"\xff\xff\xff\xff"),
        ("192.0.2.1", 32, b"\xff\xff\xff\xff"),
        ("192.0.2.1", 24, b"\xff\xff\xff\x00"),
        ("192.0.2.1", 1, b"\x80\x00\x00\x00"),
        ("2001:db8::1", None, struct.pack("=I", 128)),
        ("2001:db8::1", 64, struct.pack("=I", 64)),
    ],
)
def test_the_netmask_is_a_mask_of_ipv4_and_of_ipv6_the_prefix_length_in_host_order(
    address: str, prefix: int | None, netmask: bytes
) -> None:
    key = ServiceKey(protocol=Protocol.TCP, address=ip_address(address), port=80)
    persistent = None if prefix is None else Persistent(timeout=60, prefix=prefix)
    (request,) = codec.requests(
        AddService(service=key, settings=Settings(scheduler="rr", persistent=persistent))
    )
    timeout = attribute(8, struct.pack("=I", 60 if persistent else 0))
    assert request.body.endswith(timeout + attribute(9, netmask))


def test_the_port_of_a_tunnel_is_written_in_the_order_of_the_network() -> None:
    tunnel = Tunnel(type=TunnelType.GUE, port=5555, checksum=TunnelChecksum.REMOTE)
    one = replace(SERVER, forwarding=Forwarding.TUNNEL, tunnel=tunnel)
    (request,) = codec.requests(AddDestination(service=KEY, destination=one))
    written = (
        attribute(13, b"\1") + attribute(14, struct.pack("!H", 5555)) + attribute(15, struct.pack("=H", 2))
    )
    assert request.body.endswith(written)


def test_a_sync_daemon_is_named_by_its_role_alone_when_it_is_stopped() -> None:
    assert codec.stop_sync_request(SyncRole.BACKUP) == (
        codec.DEL_DAEMON,
        attribute(3, attribute(1, struct.pack("=I", 2))),
    )


def test_a_sync_group_is_of_one_family() -> None:
    four = codec.start_sync_request(SyncRole.MASTER, ConnectionSync(interface="eth0", id=0)).body
    group = IPv6Address("ff02::81")
    six = codec.start_sync_request(SyncRole.MASTER, ConnectionSync(interface="eth0", group=group)).body
    assert attribute(5, IPv4Address("224.0.0.81").packed) in four
    assert attribute(6, group.packed) in six
    assert attribute(3, bytes(4)) in four


def test_flags_are_written_with_a_mask_that_clears_all_others() -> None:
    (request,) = codec.requests(
        AddService(service=KEY, settings=Settings(scheduler="mh", flags=frozenset(SchedulerFlag)))
    )
    assert attribute(7, struct.pack("=II", 0x18, 0xFFFFFFFF)) in request.body


@pytest.mark.parametrize(
    ("one_packet", "persistent", "bits"),
    [(False, None, 0), (True, None, 4), (False, Persistent(timeout=9, prefix=24), 1)],
)
def test_one_packet_and_persistence_are_flags_of_the_service(
    one_packet: bool,  # noqa: FBT001
    persistent: Persistent | None,
    bits: int,
) -> None:
    settings = Settings(scheduler="rr", one_packet=one_packet, persistent=persistent)
    (request,) = codec.requests(SetService(service=KEY, settings=settings))
    assert attribute(7, struct.pack("=II", bits, 0xFFFFFFFF)) in request.body


def test_removing_names_the_service_and_nothing_else() -> None:
    (request,) = codec.requests(RemoveService(service=KEY))
    assert request == (codec.DEL_SERVICE, codec.service_key(KEY))


def test_only_the_last_of_a_batch_asks_for_an_answer() -> None:
    batch = [codec.Request(codec.NEW_DEST, bytes(4))] * 3
    framed = list(netlink_codec.messages(codec.frame(batch, family=30, sequence=7)))
    assert [(one.sequence, bool(one.flags & netlink_codec.NLM_F_ACK)) for one in framed] == [
        (7, False),
        (8, False),
        (9, True),
    ]


@pytest.mark.parametrize("group", [attribute(5, bytes(3)), attribute(6, bytes(15))])
def test_a_sync_group_of_another_length_is_malformed(group: bytes) -> None:
    body = attribute(3, attribute(1, struct.pack("=I", 1)) + group)
    with pytest.raises(netlink_codec.Malformed):
        codec.parse_daemon(*message(body))


PARSERS: tuple[Callable[[bytes, netlink_codec.Message], object], ...] = (
    codec.parse_service,
    codec.parse_destination,
    codec.parse_family,
    codec.parse_timeouts,
    codec.parse_daemon,
)


@given(data=st.binary(max_size=300))
def test_garbage_is_malformed_and_never_another_error(data: bytes) -> None:
    with contextlib.suppress(netlink_codec.Malformed):
        for one in netlink_codec.messages(data):
            for parse in PARSERS:
                with contextlib.suppress(netlink_codec.Malformed):
                    parse(data, one)


ONES = [number.to_bytes(size, sys.byteorder) for size in (1, 2, 4) for number in (1, 2, 10)]


@given(
    parse=st.sampled_from(PARSERS),
    nest=st.integers(0, 3),
    attributes=st.lists(
        st.tuples(st.integers(0, 16), st.binary(max_size=17) | st.sampled_from(ONES)), max_size=8
    ),
)
def test_well_formed_attributes_of_any_content_are_malformed_or_a_value(
    parse: Callable[[bytes, netlink_codec.Message], object], nest: int, attributes: list[tuple[int, bytes]]
) -> None:
    inner = b"".join(attribute(kind, data) for kind, data in attributes)
    with contextlib.suppress(netlink_codec.Malformed):
        parse(*message(attribute(nest, inner) if nest else inner))


@given(destination=DESTINATIONS, cut=st.integers(1, 80), place=st.integers(0, 200), value=st.integers(0, 255))
def test_a_damaged_destination_is_malformed_or_a_value(
    destination: Destination, cut: int, place: int, value: int
) -> None:
    body = bytearray(attribute(2, b"".join(as_the_kernel_writes(destination))))
    body[place % len(body)] = value
    data, only = message(bytes(body[:-cut]))
    with contextlib.suppress(netlink_codec.Malformed):
        codec.parse_destination(data, only)


def test_every_scheduler_we_offer_keeps_its_flags_apart() -> None:
    bits = {SchedulerFlag.MH_FALLBACK: 8, SchedulerFlag.SH_FALLBACK: 8}
    for scheduler in (Scheduler.MH, Scheduler.SH):
        read = codec.parse_service(*service_message(*service_attributes(scheduler=scheduler, flags=8)))
        assert {bits[flag] for flag in read.settings.flags} == {8}
        assert all(flag.startswith(scheduler) for flag in read.settings.flags)
