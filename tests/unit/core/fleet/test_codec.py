"""What a node sends comes out as it was; whatever else is sent is bounded, and told."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.core.fleet import codec
from anycast.core.fleet.codec import BrokenError, Row
from anycast.core.fleet.values import Capacity, Claim, Document, Load, Turn, VipStanding, VipTold

LOAD = Load(packets=1000.0, bits=8e9, new_connections=12.0, connections=900.0)
DOCUMENT = Document(
    node="lb2",
    version="1.2.3",
    configuration="abcd",
    fleet=("lb1", "lb2"),
    ready=True,
    maintenance="draining",
    turn=Turn(claim=Claim.HELD, ago=30.0, number=7, by="anna", reason="new kernel", forced=True),
    soft=12.0,
    load=LOAD,
    rest=replace(LOAD, bits=1e6),
    capacity=Capacity(bits=1e10, limit=0.65),
    hears=("lb1",),
)
ROWS: dict[str, Row] = {
    f"v{n:03}": (str(VipStanding.ANNOUNCED), "healthy", 100.0 + n, "aa", (0, n)) for n in range(150)
}


def pieces(rows: dict[str, Row]) -> list[codec.Piece]:
    return [codec.piece({name: rows[name] for name in some}) for some in codec.split(sorted(rows))]


def sent(
    document: Document = DOCUMENT, rows: dict[str, Row] = ROWS, known: Any = (), at: float = 500.0
) -> bytes:
    return codec.answer(codec.head(document, born=3.0, at=at), pieces(rows), known, at)


def test_a_document_comes_out_as_it_went_in() -> None:
    heard = codec.read(sent(), {})
    assert heard.document == DOCUMENT
    assert {name: row for some in heard.pieces.values() for name, row in some.items()} == ROWS
    assert (heard.at, heard.born) == (500.0, 3.0)
    assert codec.told(ROWS["v007"], heard.at) == VipTold(
        standing=VipStanding.ANNOUNCED, reason="healthy", since=393.0, table="aa", rank=(0, 7)
    )


def test_what_is_known_is_not_sent_again_and_stays_the_same_object() -> None:
    first = codec.read(sent(), {})
    other = {**ROWS, "v149": ("withdrawn", "below_quorum", 499.0, "aa", ())}
    again = sent(rows=other, known=first.pieces)
    assert len(again) < len(sent()) / 2
    second = codec.read(again, first.pieces)
    assert [digest in first.pieces for digest in second.pieces] == [True, True, False]
    assert all(
        second.pieces[digest] is rows for digest, rows in first.pieces.items() if digest in second.pieces
    )
    assert (
        codec.told(second.pieces[[*second.pieces][-1]]["v149"], second.at).standing is VipStanding.WITHDRAWN
    )


def test_the_tag_is_another_once_anything_is_and_time_alone_changes_nothing() -> None:
    def tag(document: Document, at: float, rows: dict[str, Row] = ROWS) -> str:
        return codec.tag(codec.head(document, born=3.0, at=at), pieces(rows))

    later = codec.later(DOCUMENT, -10.0)  # the same, ten seconds later
    assert tag(DOCUMENT, 500.0) == tag(later, 510.0)
    assert tag(DOCUMENT, 500.0) != tag(replace(DOCUMENT, ready=False), 500.0)
    assert tag(DOCUMENT, 500.0) != tag(DOCUMENT, 500.0, {**ROWS, "v001": ("withdrawn", "x", 1.0, "", ())})


def test_loads_of_the_largest_vips_are_told() -> None:
    vips = {
        f"v{n:03}": VipTold(standing=VipStanding.ANNOUNCED, load=replace(LOAD, bits=float(n)))
        for n in range(codec.MOST_LOADS + 9)
    }
    heard = codec.read(sent(replace(DOCUMENT, vips=vips)), {})
    loads = codec.unpacked(heard.document.loads)
    assert len(loads) == codec.MOST_LOADS
    assert "v008" not in loads
    assert loads["v009"] == replace(LOAD, bits=9.0)


def test_a_newer_format_is_read_as_far_as_it_is_known() -> None:
    body = json.loads(sent())
    body |= {"format": 2, "mood": "sunny", "turn": {**body["turn"], "claim": "dreaming"}}
    some = next(iter(body["vips"].values()))
    some["v001"] = ["parked", "new", 1.0, "", 7]
    some["v002"] = ["withdrawn", "new", 1.0, "", {"more": 1}]
    heard = codec.read(json.dumps(body).encode(), {})
    rows = {name: row for each in heard.pieces.values() for name, row in each.items()}
    assert (heard.document.format, heard.document.turn) == (2, None)
    assert "v001" not in rows
    assert rows["v002"] == ("withdrawn", "new", 1.0, "", ())


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no mapping"),
        (b"{}", "when it was made"),
        (b'{"at": 1, "born": 1}', "which VIPs there are"),
        (b'{"at": 1, "born": 1, "pieces": []}', "of which node"),
        (b'{"at": 1, "born": 1, "pieces": ["a"], "node": "lb2"}', "some of its VIPs are missing"),
        (b'{"at": 1, "born": 1, "pieces": ["a"], "vips": {"a": 3}, "node": "lb2"}', "no mapping"),
        (b" " * (codec.MOST_BYTES + 1), "larger than 4 MiB"),
        (b'{"at": 1e400, "born": 1, "pieces": []}', "when it was made"),
    ],
)
def test_what_is_no_document_says_why(data: bytes, why: str) -> None:
    with pytest.raises(BrokenError, match=why):
        codec.read(data, {})


def test_too_many_vips_are_none_at_all() -> None:
    body = json.loads(sent())
    body["pieces"] = ["a"]
    body["vips"] = {"a": {f"v{n}": ["withdrawn", "", 0, ""] for n in range(codec.MOST_VIPS + 1)}}
    with pytest.raises(BrokenError, match="more than 20,000"):
        codec.read(json.dumps(body).encode(), {})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=80), inner, max_size=5),
    max_leaves=20,
)
KEYS = sorted(json.loads(sent()))


@given(st.dictionaries(st.sampled_from(KEYS), JSON))
def test_whatever_stands_in_it_is_a_bounded_document_or_a_reason(changes: dict[str, Any]) -> None:
    body = json.loads(sent()) | changes
    try:
        heard = codec.read(json.dumps(body).encode(), {})
    except BrokenError:
        return
    told = heard.document
    texts = (told.node, told.version, told.configuration, told.maintenance, *told.fleet, *told.hears)
    assert all(len(one) <= codec.MOST_TEXT for one in texts)
    assert all(one.isprintable() for one in (told.node, told.version, told.configuration, told.maintenance))
    assert max(len(told.fleet), len(told.hears), len(codec.unpacked(told.loads))) <= codec.MOST_LOADS
    assert told.capacity is None or 0 < told.capacity.limit <= 1


@pytest.mark.parametrize(
    "loads",
    [
        {"web": "much", "mail": [1, 2], "we b": [1, 1, 1, 1]},
        {"web": [True, 1, 1, 1, 1], "mail": [1e300] * 3},
        {"web": 10**400},
        {"web": float("nan")},
        {"x" * 20_000: [1, 1, 1, 1]},
        [],
    ],
)
def test_loads_that_cannot_be_understood_are_none(loads: object) -> None:
    told = codec.read(json.dumps(json.loads(sent()) | {"loads": loads}).encode(), {}).document
    assert len(told.loads) < 20_000
    assert set(codec.unpacked(told.loads)) <= {"web"}
    assert all(one.bits <= 1 for one in codec.unpacked(told.loads).values())


@pytest.mark.parametrize("text", ["", "{", "[" * 50_000, "7"])
def test_a_text_that_holds_no_loads_holds_none(text: str) -> None:
    """The process that hears the others may be broken, and the agent is not."""
    assert codec.loaded(replace(DOCUMENT, loads=text)).vips == DOCUMENT.vips


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with contextlib.suppress(BrokenError):
        codec.read(data, {})


def lie(since: object = 1, digest: str = "aa", name: str = "web", word: str = "healthy") -> bytes:
    rows = {name: ["announced", word, since, word, []]}
    head = {"node": "lb2", "at": 1, "born": 1, "fleet": [name], "hears": [name]}
    return json.dumps({**head, "pieces": [digest], "vips": {digest: rows}}).encode()


@pytest.mark.parametrize("since", [10**400, 1e300, -1e300])
def test_an_instant_that_can_be_none_is_left_out_with_its_vip(since: object) -> None:
    assert codec.read(lie(since), {}).pieces == {"aa": {}}


@pytest.mark.parametrize("digest", ["a\nb", "a,b", "", "ä", "a" * 100])
def test_a_digest_that_cannot_go_back_in_a_header_is_refused(digest: str) -> None:
    """It was remembered, and the node could not be asked any more."""
    with pytest.raises(BrokenError):
        codec.read(lie(digest=digest), {})


@pytest.mark.parametrize("name", ["we\ud800b", "a\x1b[2J", "", "☃"])
def test_what_is_no_name_is_left_out(name: str) -> None:
    heard = codec.read(lie(name=name), {})
    assert (heard.pieces, heard.document.fleet, heard.document.hears) == ({"aa": {}}, (), ())
    (row,) = codec.read(lie(word=name), {}).pieces["aa"].values()
    assert (row[1], row[3]) == ("", "")
