"""What a document carries of loads and ranks, and what becomes of those that make no sense."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from anycast.core.fleet import codec
from anycast.core.fleet.values import Document, Load, VipStanding, VipTold

WEB = VipTold(standing=VipStanding.ANNOUNCED, load=Load(bits=1e9, packets=1e5), rank=(-100, 3, 0, 1000))
OWN = Document(
    node="lb1",
    version="1",
    load=Load(bits=2e9),
    rest=Load(bits=1e6),
    weight=3,
    synced=True,
    vips={"web": WEB},
)


def through(document: Document, change: dict[str, Any] | None = None, rank: object = None) -> codec.Heard:
    rows = {name: codec.row(one, 0.0) for name, one in document.vips.items()}
    piece = codec.piece(rows)
    data = codec.answer(codec.head(document, born=0.0, at=0.0), [piece], (), 0.0)
    body = json.loads(data) | (change or {})
    if rank is not None:
        body["vips"][piece.digest]["web"][4] = rank
    return codec.read(json.dumps(body).encode(), {})


def vip(heard: codec.Heard) -> VipTold:
    (rows,) = heard.pieces.values()
    vips = {"web": codec.told(rows["web"], heard.at)}
    return codec.loaded(replace(heard.document, vips=vips)).vips["web"]


def test_what_is_carried_comes_through() -> None:
    heard = through(OWN)
    found = replace(heard.document, vips={"web": vip(heard)}, loads="")
    assert found == replace(OWN, format=heard.document.format)


@pytest.mark.parametrize("rank", [[True], ["1"], [1.5], [2**40], list(range(100)), {"a": 1}, "rank", 7])
def test_a_rank_that_makes_no_sense_is_none(rank: object) -> None:
    assert vip(through(OWN, rank=rank)).rank == ()


@pytest.mark.parametrize("weight", [0, -1, True, 1.5, "3", 10**30])
def test_a_weight_that_makes_no_sense_is_none(weight: object) -> None:
    assert through(OWN, {"weight": weight}).document.weight is None


def test_a_node_that_does_not_say_them_is_understood() -> None:
    found = through(OWN, {"weight": None, "synced": "yes", "rest": [1], "load": "much"})
    assert found.document.weight is None
    assert not found.document.synced
    assert found.document.rest is None
    assert found.document.load is None


def test_a_row_without_a_rank_is_understood() -> None:
    rows = dict(codec.read_rows({"web": ["announced", "healthy", 0.0, ""]}))
    assert codec.told(rows["web"], 0.0).rank == ()
