"""Whatever stands in a file, it loads or it is explained."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.config.load import loads, loads_every
from anycast.config.problem import ConfigError, Mark, Problem
from tests.examples import dear

FULL = Path(__file__).parents[3].joinpath("examples", "full.yaml").read_text(encoding="utf-8")
TREE = yaml.safe_load(FULL)
TOKENS = [
    *"[]{}:,-&*!|>'\"%@`#?\t\n ",
    "\r",
    "\0",
    "\ufeff",
    "\u2028",
    "\\",
    "<<: ",
    "0123",
    "&a ",
    "*a",
    "!!int ",
]

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["50%", "2s", "mh", "::1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def all_explained(text: str) -> None:
    """The same for each node of a fleet."""
    problems: tuple[Problem, ...] = ()
    try:
        loads_every(text, lambda _: None, hostname="lb1")
    except ConfigError as error:
        problems = error.problems or (Problem(Mark("", 0, 0), (), "", ""),)
    for problem in problems:
        assert str(problem).startswith("anycast.yaml")
        assert len(str(problem).splitlines()) == 1


def explained(text: str | bytes) -> bool:
    """Load; check that a refusal says something about a place. True if it loaded."""
    problems: tuple[Problem, ...] = ()
    try:
        loads(text, hostname="lb1")
    except ConfigError as error:
        problems = error.problems or (Problem(Mark("", 0, 0), (), "", ""),)
    for problem in problems:
        assert len(str(problem).splitlines()) == 1, str(problem)
        assert str(problem).startswith("anycast.yaml")
        assert problem.what
        assert problem.do
    return not problems


@given(st.text() | st.lists(st.sampled_from([*TOKENS, "a", "vips:", "1"])).map("".join))
def test_any_text_loads_or_is_explained(text: str) -> None:
    explained(text)


@given(st.binary())
def test_any_bytes_load_or_are_explained(data: bytes) -> None:
    explained(data)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_loads_or_is_explained(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(FULL)))
    length = data.draw(st.integers(0, 40))
    put = data.draw(st.lists(st.sampled_from(TOKENS), max_size=4))
    explained(FULL[:start] + "".join(put) + FULL[start + length :])


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))][0 if path else 1 :]


@settings(max_examples=dear(150), deadline=None)
@given(st.data())
def test_any_value_at_any_place_loads_or_is_explained(data: st.DataObject) -> None:
    tree = copy.deepcopy(TREE)
    for path in data.draw(st.lists(st.sampled_from(places(TREE)), min_size=1, max_size=3)):
        here = tree
        try:
            for key in path[:-1]:
                here = here[key]
            here[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took this place away
        here[path[-1]] = data.draw(VALUES)
    explained(yaml.safe_dump(tree, allow_unicode=True))


@given(
    st.lists(
        st.integers(2**24 * 11, 2**24 * 100).map(IPv4Address)
        | st.integers(2**125, 2**125 + 2**100).map(IPv6Address),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_addresses_come_through_as_they_were_written(addresses: list[IPv4Address | IPv6Address]) -> None:
    written = [f'"{address}"' for address in addresses]
    loaded = loads(
        f"""
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors:
    - {{address: 10.2.1.254, remote_as: 65000}}
    - {{address: "fd00:2:1::fe", remote_as: 65000, local_address: "fd00:2:1::1"}}
vips:
  web: {{addresses: [{", ".join(written)}], port: 80, servers: [10.9.2.1, {{name: rs2, address: "fd00:9:2::2"}}]}}
""",
        hostname="lb1",
    )
    assert loaded.config.vips[0].addresses == tuple(addresses)
    assert [ip_address(str(address)) for address in loaded.config.vips[0].addresses] == addresses


@pytest.mark.parametrize(
    "bomb",
    [
        "[" * 50_000,
        "a: " + "{a: " * 2_000,
        "\n".join(f"{' ' * n}a:" for n in range(500)),
        "x: 1\nx: " + "[" * 5_000,
        "a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]",
        "- " * 3_000,
        "1" * 10_000,
        f"version: {'9' * 5_000}",
        "%YAML 1." + "1" * 5_000 + "\n---\nx: 1",
        'x: "\\U11000000"',
        'x: "\\uD800"',
    ],
    ids=lambda bomb: bomb[:12],
)
def test_nothing_in_a_file_can_exhaust_the_reader(bomb: str) -> None:
    assert not explained(bomb)


FLEET = """
bgp: {local_as: 65001, remote_as: 65000, neighbors: [10.2.1.254]}
connection_sync: {interface: eth1}
vips:
  web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1]}
"""
KEYS = st.sampled_from(
    ["node", "bgp", "connection_sync", "vips", "web", "role", "name", "router_id", "password", "lb1"]
)
PARTS = st.recursive(
    VALUES, lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=2), max_leaves=8
)


@given(PARTS, PARTS, PARTS)
def test_whatever_stands_under_nodes_is_read_or_explained(part: Any, whole: Any, role: Any) -> None:
    tree = yaml.safe_load(FLEET)
    tree["vips"]["web"]["role"] = role
    for nodes in (whole, {"lb1": part, "lb2": whole}):
        text = yaml.safe_dump({"nodes": nodes, **tree}, allow_unicode=True)
        explained(text)
        all_explained(text)
