"""A fleet's file, read for one node, is the file that somebody would write for that node alone; and an editor that knows
the JSON Schema takes of a node's part what the reader takes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from anycast.config.load import loads
from anycast.config.problem import ConfigError, Problem
from anycast.config.schema.json_schema import schema_text

ROUTE: dict[str, st.SearchStrategy[Any]] = {
    "role": st.sampled_from(["primary", "backup", "other"]),
    "med": st.sampled_from([0, 5, -1]),
    "communities": st.lists(st.sampled_from(["65000:1", "65000:2", "x"]), max_size=2),
    "as_path_prepend": st.integers(0, 17),
    "origin": st.sampled_from(["igp", "egp"]),
}
MACHINE: dict[str, st.SearchStrategy[Any]] = {
    "interface": st.sampled_from(["lo", "vip0", ""]),
    "listen": st.sampled_from(["10.2.1.1:9644", "[fd00::1]:80", "nonsense"]),
    "http_hosts": st.lists(st.sampled_from(["lb.example.net", "*"]), max_size=2),
    "max_removed": st.sampled_from(["10%", "0%"]),
}
BGP: dict[str, st.SearchStrategy[Any]] = {
    "router_id": st.sampled_from(["10.2.1.1", "10.2.1.2", "fd00::1"]),
    "hold_time": st.sampled_from([3, 9, 1]),
    "neighbors": st.lists(st.sampled_from(["10.2.1.253", "10.2.1.254", "10.2.1.1"]), max_size=2),
    "bfd": st.one_of(st.booleans(), st.fixed_dictionaries({"multiplier": st.integers(1, 4)})),
    "next_hop": st.fixed_dictionaries(
        {}, optional={"ipv4": st.just("10.2.1.9"), "ipv6": st.just("fd00:2:1::9")}
    ),
    "view": st.booleans(),
    "weight": st.sampled_from([1, 50, 0]),
}
SYNC: dict[str, st.SearchStrategy[Any]] = {
    "interface": st.sampled_from(["eth1", "eth2"]),
    "id": st.integers(0, 300),
    "group": st.sampled_from(["224.0.0.81", "10.0.0.1"]),
}


def some(of: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={**of})


SPEAKER: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["exabgp", "kernel-table", "other"]),
    "table": st.sampled_from([1179, 0]),
    "ospf": st.fixed_dictionaries(
        {},
        # A list of its own each time: of one that stands in two places YAML makes an anchor and an alias.
        optional={
            "router_id": st.just("10.2.1.9"),
            "interfaces": st.builds(lambda: ["eth0"]),
            "hello": st.just("1s"),
        },
    ),
}
NAMES = ["web", "dns"]
VIPS = some({name: some(ROUTE) for name in NAMES})
PARTS = some(
    {
        "node": some(MACHINE),
        "bgp": some(BGP),
        "connection_sync": some(SYNC),
        "speaker": some(SPEAKER),
        "vips": VIPS,
    }
)


def base(parts: Mapping[str, Any]) -> dict[str, Any]:
    """A whole file of which the parts are some."""
    needed = {
        "bgp": {
            "local_as": 65001,
            "remote_as": 65000,
            "neighbors": ["10.2.1.250"],
            "router_id": "10.2.1.100",
        },
        "connection_sync": {"interface": "eth0"},
        "vips": {
            "web": {"address": "192.0.2.1", "port": 80, "servers": ["10.9.2.1"]},
            "dns": {"address": "192.0.2.2", "port": 53, "servers": ["10.9.2.1"]},
        },
    }
    whole: dict[str, Any] = over(needed, parts)
    return whole


def over(below: Any, above: Any) -> Any:
    """The rule that the documentation gives."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{key: over(below[key], one) if key in below else one for key, one in above.items()}}


def told(text: str, node: str) -> tuple[Any, set[tuple[str, str]]]:
    try:
        loaded = loads(text, hostname=node)
    except ConfigError as error:
        return None, {_words(one) for one in error.problems}
    return loaded.config, {_words(one) for one in loaded.warnings}


def _words(one: Problem) -> tuple[str, str]:
    return one.what, one.do


@given(PARTS, PARTS)
def test_a_fleet_for_one_node_is_the_file_of_that_node(common: dict[str, Any], own: dict[str, Any]) -> None:
    shared = base(common)
    fleet = yaml.safe_dump({"nodes": {"lb1": own, "lb2": {}}, **shared})
    alone = yaml.safe_dump(
        {**over(shared, own), "node": over(over(shared, own).get("node", {}), {"name": "lb1"})}
    )
    config, said = told(fleet, "lb1")
    other, words = told(alone, "lb1")
    assert config == other
    # Where a mistake refers to another place, that is another place.
    assert len(said) == len(words)
    assert {what for what, _ in said if "already" not in what} == {
        what for what, _ in words if "already" not in what
    }


@given(PARTS, PARTS)
def test_every_problem_has_a_place_in_the_file_that_is_what_it_says(
    common: dict[str, Any], own: dict[str, Any]
) -> None:
    tree = {"nodes": {"lb1": own}, **base(common)}
    text = yaml.safe_dump(tree)
    try:
        problems = loads(text, hostname="lb1").warnings
    except ConfigError as error:
        problems = error.problems
    lines = text.splitlines()
    for one in problems:
        here: Any = tree
        found = 0
        for part in one.path:
            known = isinstance(here, dict) and part in here
            if not known and not (isinstance(here, list) and isinstance(part, int) and part < len(here)):
                break
            here = here[part]
            found += 1
        assert one.mark.line, one
        # Of what is missing the nearest around it.
        names = [str(part) for part in one.path[:found] if isinstance(part, str)]
        around = "\n".join(lines[max(0, one.mark.line - 2) : one.mark.line])
        assert not names or names[-1] in around or str(here) in lines[one.mark.line - 1], (one, lines)


@functools.cache
def schema() -> Draft202012Validator:
    return Draft202012Validator(
        json.loads(schema_text()), format_checker=FormatChecker(formats=["ipv4", "ipv6"])
    )


STRANGE = st.sampled_from(["pools", "vips", "timing", "name", "nodes", "port", "address", "bgpp", "rolle"])


@st.composite
def doubtful(draw: st.DrawFn) -> Any:
    """A part, perhaps with a key somewhere that does not belong there, or with another kind of value."""
    part = draw(PARTS)
    places = [part, *(one for one in part.values() if isinstance(one, dict)), *part.get("vips", {}).values()]
    if draw(st.booleans()):
        where = draw(st.sampled_from(places))
        where.setdefault(draw(STRANGE), draw(st.sampled_from([{}, {"web": {"med": 1}}, 5, "x"])))
    return draw(st.one_of(st.just(part), st.sampled_from(["10.2.1.7", "x", 5, [], None, True])))


@given(doubtful())
def test_the_schema_and_the_reader_agree_on_the_part_of_a_node(part: Any) -> None:
    tree = {"nodes": {"lb1": part}, **base({})}
    problems: list[Problem] = []
    try:
        loads(yaml.safe_dump(tree), hostname="lb1")
    except ConfigError as error:
        problems = list(error.problems)
    # What no schema tells: which VIPs there are, and what must fit together.
    names = part.get("vips", {}) if isinstance(part, dict) else {}
    assume(isinstance(names, dict) and names.keys() <= {*NAMES})
    beyond = (
        "already",
        "own address",
        "no neighbor",
        "there is no neighbor",
        "is missing",
        "next hop",
        "no OSPF",
        "as good as a primary",
    )
    single = [one for one in problems if not any(word in one.what for word in beyond)]
    assert schema().is_valid(tree) == (not single), single
