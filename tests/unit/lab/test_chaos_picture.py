"""The picture is SVG that any reader takes, and has in it what it is looked at for."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from lab.chaos_figures import Row
from lab.chaos_picture import colours, picture
from lab.sampler import Sample

SVG = "{http://www.w3.org/2000/svg}"


def history(nodes: int, seconds: float, started: float) -> list[Sample]:
    return [
        Sample(started + tick / 4, {f"lb{n}": tick * (50 + n) for n in range(1, nodes + 1)}, tick, tick * 2)
        for tick in range(int(seconds * 4))
    ]


def drawn(rows: list[Row], random_rows: list[Row], nodes: int = 3, seconds: float = 60.0) -> ET.Element:
    return ET.fromstring(picture(rows, random_rows, history(nodes, seconds, 1000.0), 1000.0))  # noqa: S314


def words(root: ET.Element) -> list[str]:
    return [text.text or "" for text in root.iter(f"{SVG}text")]


def at(began: float, **more: object) -> Row:
    return Row(fault="drain", where="lb2", connections=600, began=began, ended=began + 8, **more)  # type: ignore[arg-type]


def test_each_fault_has_a_panel_with_its_words_and_an_area_of_each_balancer() -> None:
    root = drawn([at(5.0, route_gone_s=0.08, healed=9.0), at(20.0, broken=3)], [])
    assert len(list(root.iter(f"{SVG}polygon"))) == 2 * 3
    said = words(root)
    assert said.count("drain lb2") == 2
    assert "route gone 0.08 s, held" in said
    assert "MISSED" in said
    assert said[0] == "2 faults, 3 balancers, 600 connections: 3 broken, 1 of 2 did not keep their promise"
    assert {"lb1", "lb2", "lb3", "fault", "route gone at the router", "mended"} <= set(said)


def test_all_that_is_drawn_lies_on_the_page() -> None:
    root = drawn([at(5.0), at(20.0), at(30.0), at(40.0)], [at(50.0 + 10 * n) for n in range(20)], seconds=300)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for polygon in root.iter(f"{SVG}polygon"):
        for spot in polygon.attrib["points"].split():
            x, y = map(float, spot.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height
    for text in root.iter(f"{SVG}text"):
        assert 0 <= float(text.attrib["y"]) <= height


def test_every_random_fault_is_marked_with_its_name() -> None:
    root = drawn([], [at(5.0), at(130.0), at(250.0)], seconds=300)
    assert words(root).count("drain lb2") == 3


@pytest.mark.parametrize("nodes", [3, 8, 16, 32])
def test_no_two_balancers_have_the_same_colour(nodes: int) -> None:
    found = colours([f"lb{number}" for number in range(nodes)])
    assert len(set(found.values())) == len(found) == nodes


def test_a_run_that_ended_before_anything_happened_has_a_picture_too() -> None:
    assert ET.fromstring(picture([], [], [], 0.0)).tag == f"{SVG}svg"  # noqa: S314
