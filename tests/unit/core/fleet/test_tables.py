"""The tables of a VIP as they are asked for: what comes of another node is bounded, and told to a terminal as it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.fleet import tables
from anycast.core.fleet.agreement import SERVERS, Served, Server
from anycast.core.fleet.codec import BrokenError

WEB = {
    "tcp 192.0.2.1:80": Served(
        "mh, mh-port", (Server("10.9.0.1:80", 1, "rs1"), Server("[2001:db8::1]:80", 3)), True
    )
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_it_comes_as_it_went() -> None:
    assert tables.read(json.dumps(tables.body(WEB)).encode()) == WEB


def test_of_too_many_the_first_go_and_the_first_are_taken() -> None:
    many = {"tcp a": Served("mh", tuple(Server(str(n), 1) for n in range(SERVERS + 9)))}
    sent = tables.body(many)
    assert len(sent["services"]["tcp a"]["servers"]) == SERVERS
    sent["services"]["tcp a"]["servers"] += [["more", 1, ""]] * 9
    assert len(tables.read(json.dumps(sent).encode())["tcp a"].servers) == SERVERS


def test_what_a_terminal_would_obey_is_not_in_it() -> None:
    bad = {
        "services": {"\x1b[2J": {"settings": "mh\n", "ordered": False, "servers": [["\x07", 1, "x" * 999]]}}
    }
    ((name, one),) = tables.read(json.dumps(bad).encode()).items()
    assert (name, one.settings, one.servers[0].at) == ("?[2J", "mh?", "?")
    assert len(one.servers[0].name) == 100


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"services": []}',
        b'{"services": {"a": {"servers": [["x", "1"]], "settings": "", "ordered": 1}}}',
    ],
)
def test_what_cannot_be_understood_is_told(data: bytes) -> None:
    with pytest.raises(BrokenError):
        tables.read(data)


@given(
    st.binary()
    | JSON.map(lambda one: json.dumps(one).encode())
    | JSON.map(lambda one: json.dumps({"services": one}).encode())
)
def test_whatever_comes_is_tables_or_broken(data: bytes) -> None:
    try:
        found = tables.read(data)
    except BrokenError:
        return
    assert all(isinstance(one, Served) for one in found.values())
