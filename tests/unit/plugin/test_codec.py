from __future__ import annotations

import dataclasses
import json
import re
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.values.route import Origin, Route, drained
from anycast.plugin import codec

PLAIN = Route(prefix=ip_network("192.0.2.1/32"))
FULL = Route(
    prefix=ip_network("2001:db8::1/128"),
    next_hop=ip_address("2001:db8::ffff"),
    med=100,
    communities=("65000:1", "65535:0"),
    large_communities=("65000:4294967295:3",),
    as_path=(4200000001, 4200000001),
    local_preference=50,
    extended_communities=("target:65000:100", "origin:4200000001:7", "0x0004fde84cbebc20"),
    origin=Origin.INCOMPLETE,
)

# ExaBGP looks for these anywhere in a command.
VERBS = ("shutdown", "reset", "restart", "reload", "help", "crash", "teardown")

routes = st.builds(
    Route,
    prefix=st.ip_addresses().map(ip_network),
    next_hop=st.none() | st.ip_addresses(),
    med=st.none() | st.integers(-5, 2**33),
    communities=st.lists(st.text(max_size=8) | st.from_regex(r"\d{1,6}:\d{1,6}", fullmatch=True)).map(tuple),
    large_communities=st.lists(st.text(max_size=8) | st.just("1:2:3")).map(tuple),
    as_path=st.lists(st.integers(-1, 2**33), max_size=3).map(tuple),
    local_preference=st.none() | st.integers(-5, 2**33),
    extended_communities=st.lists(st.text(max_size=8) | st.just("target:1:2"), max_size=2).map(tuple),
    origin=st.none() | st.sampled_from(Origin),
)


def test_an_announce_carries_every_attribute() -> None:
    assert codec.announce(PLAIN) == "announce route 192.0.2.1/32 next-hop self"
    assert codec.announce(FULL) == (
        "announce route 2001:db8::1/128 next-hop 2001:db8::ffff med 100"
        " community [ 65000:1 65535:0 ] large-community [ 65000:4294967295:3 ]"
        " as-path [ 4200000001 4200000001 ] local-preference 50"
        " extended-community [ 0x0002fde800000064 0x0203fa56ea010007 0x0004fde84cbebc20 ] origin incomplete"
    )


@given(routes)
def test_a_withdraw_repeats_the_attributes_of_the_announce(route: Route) -> None:
    try:
        announce = codec.announce(route)
    except ValueError:
        with pytest.raises(ValueError):
            codec.withdraw(route)
    else:
        assert codec.withdraw(route) == announce.replace("announce", "withdraw")


_WORDS = re.compile(
    r"(announce|withdraw) route [0-9a-f.:]+/\d+ next-hop (self|[0-9a-f.:]+)( med \d+)?"
    r"( community \[ \d+:\d+( \d+:\d+)* \])?( large-community \[ \d+:\d+:\d+( \d+:\d+:\d+)* \])?"
    r"( as-path \[ \d+( \d+)* \])?( local-preference \d+)?"
    r"( extended-community \[ 0x[0-9a-f]{16}( 0x[0-9a-f]{16})* \])?( origin (igp|egp|incomplete))?"
)


@given(routes)
def test_no_other_attribute_is_ever_sent_and_no_ipv4_next_hop_of_an_ipv6_route(route: Route) -> None:
    try:
        command = codec.announce(route)
    except ValueError:
        return
    assert _WORDS.fullmatch(command)
    assert _WORDS.fullmatch(codec.withdraw(route))
    assert route.next_hop is None or route.next_hop.version >= route.prefix.version


def test_an_ipv4_route_may_have_an_ipv6_next_hop_and_not_the_other_way_round() -> None:
    """RFC 8950, and link-local addresses where a fabric has no others."""
    one = dataclasses.replace(PLAIN, next_hop=ip_address("fe80::1"))
    assert codec.announce(one).startswith("announce route 192.0.2.1/32 next-hop fe80::1")
    other = Route(prefix=ip_network("2001:db8::1/128"), next_hop=ip_address("192.0.2.1"))
    with pytest.raises(ValueError, match="of the other address family"):
        codec.announce(other)


@given(routes)
def test_a_command_is_one_ascii_line_without_any_verb_but_its_own(route: Route) -> None:
    try:
        command = codec.announce(route)
    except ValueError:
        return
    assert command.isascii()
    assert command.isprintable()
    assert not any(verb in command for verb in VERBS)


def test_a_drained_route_says_graceful_shutdown_in_numbers() -> None:
    assert codec.announce(drained(PLAIN)).endswith("med 4294967295 community [ 65535:0 ]")


@pytest.mark.parametrize(
    "changes",
    [
        {"med": -1},
        {"med": 2**32},
        {"med": True},
        {"communities": ("65000:70000",)},
        {"communities": ("no-export",)},
        {"communities": ("graceful-shutdown",)},
        {"communities": ("1:2:3",)},
        {"communities": ("1:２",)},
        {"communities": ("1:2 ] shutdown",)},
        {"communities": ("",)},
        {"large_communities": ("1:2",)},
        {"large_communities": ("1:2:4294967296",)},
        {"as_path": (65001, 2**32)},
        {"as_path": (True,)},
        {"as_path": (65001,) * 101},
        {"local_preference": -1},
        {"extended_communities": ("redirect:1:2",)},
        {"extended_communities": ("target:1:2 ] shutdown",)},
        {"extended_communities": ("target:70000:70000",)},
        {"origin": "shutdown"},
        {"next_hop": ip_address("0.0.0.0")},
        {"next_hop": ip_address("224.0.0.1")},
    ],
)
def test_what_exabgp_would_change_or_misread_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"192\.0\.2\.1/32"):
        codec.announce(dataclasses.replace(PLAIN, **changes))  # type: ignore[arg-type]


def test_a_command_may_be_for_some_neighbors() -> None:
    two = ["192.0.2.254", "2001:db8::fe"]
    assert codec.announce(PLAIN, two) == (
        "neighbor 192.0.2.254 , neighbor 2001:db8::fe announce route 192.0.2.1/32 next-hop self"
    )
    assert codec.withdraw_all([PLAIN], two[:1]).startswith("neighbor 192.0.2.254 withdraw attributes ")
    for wrong in ("192.0.2.254 shutdown", "*", "fe80::1%eth0", "2001:DB8::fe", ""):
        with pytest.raises(ValueError):
            codec.announce(PLAIN, [wrong])


def test_answers_are_told_from_events() -> None:
    assert codec.parse(b"done") == codec.Done()
    assert codec.parse(b"error\r") == codec.Refused()
    assert codec.parse(b"exabgp 5.0.15") == codec.Version("5.0.15")
    assert codec.parse(b"please specify summary, extensive or configuration") == codec.Other(
        "please specify summary, extensive or configuration"
    )


def test_a_session_event_names_neighbor_state_and_reason() -> None:
    down = (
        b'{ "exabgp": "5.0.0", "time": 1.5, "type": "state", "neighbor": { "address": { "local": "192.0.2.9",'
        b' "peer": "192.0.2.254" }, "state": "down", "reason": "notification received (6,4)" } }'
    )
    assert codec.parse(down) == codec.NeighborEvent("192.0.2.254", "down", "notification received (6,4)")
    assert codec.parse(b'{"type": "notification", "notification": "shutdown"}') == codec.Stopping()
    assert codec.parse(b'{"type": "signal", "neighbor": {"name": "SIGUSR1"}}') == codec.Reloading()
    other = b'{"type": "signal", "neighbor": {"name": "SIGTERM"}}'
    assert codec.parse(other) == codec.Other(other.decode(), event=True)
    assert codec.parse(b'{"type": "update"}') == codec.Other('{"type": "update"}', event=True)


def test_of_a_session_event_only_what_exabgp_says_counts_and_its_reason_is_one_clean_line() -> None:
    def event(state: object, reason: object) -> codec.Line:
        neighbor = {"address": {"peer": "192.0.2.254"}, "state": state, "reason": reason}
        return codec.parse(json.dumps({"type": "state", "neighbor": neighbor}).encode())

    for odd in ("established", "UP", "up\n", "", None, 1, ["up"], {"up": "up"}):
        assert isinstance(event(odd, ""), codec.Other)
    told = event("down", "a\nb\x1b[2J\u202ec" + "x" * 1000)
    assert isinstance(told, codec.NeighborEvent)
    assert told.reason.startswith("a b [2J c")
    assert told.reason.isprintable()
    assert len(told.reason) == codec.MAX_REASON


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        ("0x06020C6D6F76696E67207261636B73", "notification received (6,2)", "moving racks"),
        ("0x0602", "notification received (6,2)", ""),
        ("0x060200", "notification received (6,2)", ""),
        ("0x0604FF6F6B", "notification received (6,4)", "ok"),  # cut short
        ("0x0602036F0A6B", "notification received (6,2)", "o k"),
        ("0x060203FFFE41", "notification received (6,2)", "\ufffd\ufffdA"),
        ("0x0201FFFE", "notification received (2,1)", ""),
    ],
)
def test_a_router_that_ends_the_session_is_heard(body: str, reason: str, words: str) -> None:
    event = (
        '{ "exabgp": "5.0.0", "type": "notification", "neighbor": { "address": { "local": "192.0.2.9", "peer": '
        f'"192.0.2.254" }}, "direction": "receive", "message": {{ "category": 3, "header": "0xFF", "body": "{body}" }} }} }}'
    )
    assert codec.parse(event.encode()) == codec.Notification("192.0.2.254", reason, words)


@pytest.mark.parametrize("body", ["", "0x", "0x06", "0x0", "zz", "0x060"])
def test_a_notification_that_is_none_is_passed_over(body: str) -> None:
    event = (
        '{"type": "notification", "neighbor": {"address": {"peer": "192.0.2.254"}, "message": {"category": 3, '
        f'"body": "{body}"}}}}}}'
    )
    assert isinstance(codec.parse(event.encode()), codec.Other)


def test_how_a_session_is_set_up_is_told_in_one_text_if_all_of_it_is_told() -> None:
    row: dict[str, Any] = {
        "state": "up",
        "duration": 7,
        "peer": {"address": "FD00:0::1", "as": 65000, "id": None, "hold": None},
        "local": {
            "address": "fd00::2",
            "as": 65001,
            "id": "10.2.1.1",
            "hold": 3,
            "families": {"ipv4 unicast": True, "ipv6 unicast": True, "l2vpn vpls": True},
        },
    }

    def told(row: object) -> str:
        table = codec.parse(json.dumps([row]).encode())
        assert isinstance(table, codec.NeighborTable)
        return table.rows[0].setup

    assert told(row) == "fd00::1 65000 65001 10.2.1.1 fd00::2 3 4,6"
    for name in ("address", "as", "id", "hold", "families"):
        assert told({**row, "local": {**row["local"], name: None}}) == ""
    assert told({**row, "local": {**row["local"], "address": "auto"}}) == ""
    for view, words in ((True, " on"), (False, "")):
        more = {**row["local"], "capabilities": {"add-path": view}}
        assert told({**row, "local": more}) == f"fd00::1 65000 65001 10.2.1.1 fd00::2 3 4,6{words}"


def test_a_session_in_its_first_second_is_up_whatever_its_duration_makes_of_it() -> None:
    table = (
        b'[{"state": "down", "duration": 0, "fsm": "ESTABLISHED", "peer": {"address": "192.0.2.254"}},'
        b' {"state": "down", "duration": 7, "fsm": "IDLE", "peer": {"address": "192.0.2.253"}}]'
    )
    assert codec.parse(table) == codec.NeighborTable(
        (codec.NeighborRow("192.0.2.254", True, 0.0), codec.NeighborRow("192.0.2.253", False, 7.0))
    )


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(("type", "neighbor", "address", "peer", "state", "notification", "duration")),
                inner,
            )
        ),
    )
    .map(repr)
    .map(lambda text: text.replace("'", '"').encode())
)
def test_any_line_is_a_value(line: bytes) -> None:
    assert isinstance(codec.parse(line), codec.Line)


def test_a_number_too_deep_or_too_long_is_only_another_line() -> None:
    assert isinstance(codec.parse(b"[" * 100_000), codec.Other)
    assert isinstance(codec.parse(b"[" + b"9" * 10_000 + b"]"), codec.Other)


@given(st.lists(st.integers(1, 7)))
def test_lines_come_whole_however_the_bytes_are_cut(cuts: list[int]) -> None:
    data = b"done\nerror\n\nexabgp 5.0.15\ndone\n"
    lines, found = codec.Lines(), []
    for cut in cuts:
        found += lines.feed(data[:cut])
        data = data[cut:]
    found += lines.feed(data)
    assert found == [codec.Done(), codec.Refused(), codec.Version("5.0.15"), codec.Done()]


def test_a_line_without_end_is_dropped_and_the_next_one_read() -> None:
    lines = codec.Lines()
    assert lines.feed(b"x" * (codec.MAX_LINE + 1)) == []
    assert lines.feed(b"tail\ndone\n") == [codec.Done()]


@pytest.mark.parametrize(
    ("line", "mark"),
    [
        (b'  description "anycast 0";', "0"),
        (b'  description "anycast 9f00ba";', "9f00ba"),
        (b'  description "";', ""),
        (b'  description "the router in rack 3";', ""),
        (b'  description "anycast zz";', ""),
    ],
)
def test_the_mark_of_a_file_is_read_from_the_description_of_a_neighbor(line: bytes, mark: str) -> None:
    assert codec.parse(line) == codec.Mark(mark)


def test_a_neighbor_is_asked_for_by_its_address_alone() -> None:
    assert codec.show_mark("192.0.2.254") == "show neighbor 192.0.2.254 configuration"
    for bad in ("192.0.2.254 shutdown", "fe80::1%eth0", "web"):
        with pytest.raises(ValueError):
            codec.show_mark(bad)
