"""`nodes`: one file for a fleet, read for one node of it or for each."""

from __future__ import annotations

import json
import tracemalloc
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from anycast.config.fleet import MOST_NODES
from anycast.config.load import load, load_every, load_kept, load_with_texts, loads, loads_every
from anycast.config.loaded import Loaded
from anycast.config.problem import ConfigError
from anycast.config.schema.json_schema import schema_text
from anycast.core.values.configuration import Role

COMMON = """\
bgp: {local_as: 65001, remote_as: 65000, neighbors: [10.2.1.254], password_file: /etc/anycast/bgp.password}
connection_sync: {interface: eth1, id: 4}
vips:
  web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1]}
  dns: {address: 192.0.2.2, port: 53, servers: [10.9.2.1], role: {lb2: backup}}
"""
FLEET = (
    """\
nodes:
  lb1: 10.2.1.1
  lb2:
    node: {listen: "10.2.1.2:9644"}
    bgp: {router_id: 10.2.1.2, neighbors: [10.2.1.253], password: secret}
    connection_sync: eth9
    vips: {web: {med: 5}}
"""
    + COMMON
)


def of(name: str, text: str = FLEET) -> Loaded:
    return loads(text, hostname=name)


def wrong(text: str, *, hostname: str = "lb1", node: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text, hostname=hostname, node=node)
    return [str(problem) for problem in caught.value.problems]


def wrong_of_all(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads_every(text, lambda _: None)
    return [str(problem) for problem in caught.value.problems]


def test_what_a_node_says_goes_over_the_rest() -> None:
    first, second = of("lb1").config, of("lb2").config
    assert (first.node.name, second.node.name) == ("lb1", "lb2")
    assert (first.node.listen, second.node.listen) == ("127.0.0.1:9644", "10.2.1.2:9644")
    assert (str(first.bgp.router_id), str(second.bgp.router_id)) == ("10.2.1.1", "10.2.1.2")
    assert [one.address for one in first.bgp.neighbors] == [IPv4Address("10.2.1.254")]
    assert [one.address for one in second.bgp.neighbors] == [IPv4Address("10.2.1.253")]
    assert [vip.med for vip in first.vips] == [None, None]
    assert [vip.med for vip in second.vips] == [5, None]


def test_the_word_that_stands_for_a_mapping_changes_what_it_stands_for_and_no_more() -> None:
    first, second = of("lb1").config.connection_sync, of("lb2").config.connection_sync
    assert first is not None
    assert second is not None
    assert (first.interface, second.interface) == ("eth1", "eth9")
    assert (first.id, second.id) == (4, 4)


def test_a_password_of_a_node_takes_the_place_of_the_one_of_all_wherever_each_stands() -> None:
    (first,), (second,) = of("lb1").config.bgp.neighbors, of("lb2").config.bgp.neighbors
    assert first.password is None
    assert first.password_from is not None
    assert second.password == "secret"
    assert second.password_from is None


def test_a_role_may_be_written_by_node_beside_the_vip() -> None:
    assert [vip.role for vip in of("lb1").config.vips] == [Role.PRIMARY, Role.PRIMARY]
    assert [vip.role for vip in of("lb2").config.vips] == [Role.PRIMARY, Role.BACKUP]


@pytest.mark.parametrize("hostname", ["lb2", "lb2.example.net", "LB2"])
def test_a_node_finds_itself_by_its_host_name(hostname: str) -> None:
    assert of(hostname).config.node.name == "lb2"


def test_the_name_in_the_file_comes_before_the_host_name_and_the_one_given_before_both() -> None:
    text = "node: lb2\n" + FLEET
    assert loads(text, hostname="lb1").config.node.name == "lb2"
    assert loads(text, hostname="lb2", node="lb1").config.node.name == "lb1"


@pytest.mark.parametrize("local", ["node: lb2", "node: {name: lb2}"])
def test_a_file_of_two_lines_may_name_the_node_and_include_the_file_of_the_fleet(
    tmp_path: Path, local: str
) -> None:
    tmp_path.joinpath("fleet.yaml").write_text(FLEET + "node: {interface: eth7}\n", encoding="utf-8")
    main = tmp_path / "anycast.yaml"
    main.write_text(f"{local}\ninclude: fleet.yaml\n", encoding="utf-8")
    node = load(main, hostname="elsewhere").config.node
    assert (node.name, node.interface, node.listen) == ("lb2", "eth7", "10.2.1.2:9644")


def test_a_name_in_both_files_is_told_with_both_places(tmp_path: Path) -> None:
    tmp_path.joinpath("fleet.yaml").write_text(FLEET + "node: {name: lb1}\n", encoding="utf-8")
    main = tmp_path / "anycast.yaml"
    main.write_text("node: lb2\ninclude: fleet.yaml\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"fleet.yaml:\d+:8: node\.name: this is written already, at .*yaml:1:7"
    ):
        load(main, hostname="elsewhere")


def test_a_file_without_nodes_is_of_the_one_it_names() -> None:
    text = (
        "node: lb1\nbgp: {router_id: 10.2.1.1, local_as: 1, neighbors: [{address: 10.2.1.9, remote_as: 2}]}\n"
    )
    loaded = loads(text, hostname="elsewhere", node="lb1")
    assert (loaded.config.node.name, loaded.nodes) == ("lb1", ())
    (problem,) = wrong(text, node="lb2")
    assert "the file is of the node lb1, not of 'lb2', and names no others" in problem


def test_the_last_good_configuration_is_read_for_the_same_node(tmp_path: Path) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text(FLEET, encoding="utf-8")
    loaded, contents = load_with_texts(file, node="lb2")
    assert loaded.asked == "lb2"
    assert load_kept(contents, node="lb2") == loaded


@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        ("  lb2:\n", "  lb1:\n", "3:3: nodes.lb1: written twice, first in line 2"),
        ("  lb2:\n", "  LB1:\n", "3:3: nodes.LB1: this is lb1 again, in other letters"),
        ("  lb2:\n", "  l b:\n", "3:3: nodes['l b']: 'l b' is not a name"),
        ("lb1: 10.2.1.1", "lb1: [1]", "2:8: nodes.lb1: this is not a node (write its router id, or a mapping"),
        ("lb1: 10.2.1.1", "lb1:", "2:7: nodes.lb1: this is not a node"),
        ("lb1: 10.2.1.1", "lb1: 10.2.1.300", "2:8: nodes.lb1: '10.2.1.300' is not an IPv4 address"),
        (
            "lb1: 10.2.1.1",
            "lb1: {bgp: {router_id: 10.2.1.1, neighbors: [10.2.1.1]}}",
            "2:48: nodes.lb1.bgp.neighbors[0].address: 10.2.1.1 is this node's own address",
        ),
        (
            "lb1: 10.2.1.1",
            "lb1: {conection_sync: eth0}",
            "2:9: nodes.lb1.conection_sync: there is no such key (did you mean connection_sync?)",
        ),
        ("lb1: 10.2.1.1", "lb1: {pools: {}}", "2:9: nodes.lb1.pools: all nodes have the same pools"),
        ("lb1: 10.2.1.1", "lb1: {bgp: 5}", "2:14: nodes.lb1.bgp: this is not a mapping"),
        ("lb1: 10.2.1.1", "lb1: {node: lb1}", "2:15: nodes.lb1.node: the node's name stands above already"),
        (
            "lb1: 10.2.1.1",
            "lb1: {node: {name: x}}",
            "2:16: nodes.lb1.node.name: the node's name stands above already",
        ),
        (
            "lb1: 10.2.1.1",
            "lb1: {node: {lissten: x}}",
            "2:16: nodes.lb1.node.lissten: there is no such key (did you mean listen?)",
        ),
        (
            "lb1: 10.2.1.1",
            "lb1: {vips: {webb: {med: 1}}}",
            "2:16: nodes.lb1.vips.webb: there is no VIP named 'webb' (did you mean web?)",
        ),
        (
            "lb1: 10.2.1.1",
            "lb1: {vips: {web: {port: 81}}}",
            "2:22: nodes.lb1.vips.web.port: a VIP has on every node the same port",
        ),
        (
            "lb1: 10.2.1.1",
            "lb1: {vips: {web: {rolle: backup}}}",
            "2:22: nodes.lb1.vips.web.rolle: there is no such key (did you mean role?)",
        ),
        (
            "lb1: 10.2.1.1",
            "lb1: {vips: {web: {role: backupp}}}",
            "2:28: nodes.lb1.vips.web.role: 'backupp' is not a choice here",
        ),
        ("lb1: 10.2.1.1", "lb1: {vips: {web: backup}}", "2:21: nodes.lb1.vips.web: this is not a mapping"),
        ("{lb2: backup}", "{lb2: backup, lb3: backup}", "dns.role.lb3: there is no node named 'lb3' (did you mean"),
        ("{lb2: backup}", "{lb1: backupp}", "vips.dns.role.lb1: 'backupp' is not a choice here"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(written: str, instead: str, said: str) -> None:
    assert written in FLEET
    found = wrong(FLEET.replace(written, instead, 1))
    assert any(said in problem for problem in found), found


def test_what_is_replaced_has_no_place_any_more() -> None:
    text = FLEET.replace("bgp: {local_as", "bgp: {next_hop: {ipv4: 10.2.1.9}, local_as", 1)
    (problem,) = wrong(
        text.replace("lb1: 10.2.1.1", "lb1: {bgp: {router_id: 10.2.1.1, next_hop: 10.2.1.254}}")
    )
    assert "2:36: nodes.lb1.bgp.next_hop.ipv4" in problem
    assert "10.2.1.254 is a neighbor's address" in problem


def test_what_the_reader_has_refused_is_told_once() -> None:
    (problem,) = wrong(FLEET.replace("lb1: 10.2.1.1", "lb1: {bgp: {router_id: 10.2.1.1, bfd: *bfd}}"))
    assert "2:41: nodes.lb1.bgp.bfd: an alias (*name) is not read here" in problem


def test_a_role_that_is_written_twice_is_a_mistake() -> None:
    (problem,) = wrong(FLEET.replace("web: {med: 5}", "dns: {role: primary}"), hostname="lb2")
    assert "7:18: nodes.lb2.vips.dns.role: this is written already, at anycast.yaml:12:67" in problem


@pytest.mark.parametrize("nodes", ["nodes: {}\n", "nodes:\n", "nodes: []\n"])
def test_no_node_at_all_is_a_mistake(nodes: str) -> None:
    (problem,) = wrong(nodes + COMMON)
    assert "anycast.yaml:1:1: nodes: no node is named" in problem


def test_a_role_by_node_needs_nodes() -> None:
    (problem,) = wrong(COMMON.replace("bgp: {", "bgp: {router_id: 10.2.1.1, "))
    assert "vips.dns.role: the file names no nodes (write primary or backup" in problem


def test_a_machine_that_is_none_of_the_nodes_is_told_which_there_are() -> None:
    (problem,) = wrong(FLEET, hostname="lb22.example.net")
    assert "1:1: nodes: this machine's host name 'lb22.example.net' is none of the nodes" in problem
    assert "did you mean lb2? there are lb1, lb2;" in problem


@pytest.mark.parametrize(
    ("text", "node", "place"), [(FLEET, "lb3", "1:1: nodes"), ("node: lb3\n" + FLEET, None, "1:7: node")]
)
def test_a_node_that_is_asked_for_must_be_there(text: str, node: str | None, place: str) -> None:
    (problem,) = wrong(text, node=node)
    assert f"{place}: 'lb3' is not among the nodes" in problem


def test_there_may_be_so_many_nodes_and_no_more() -> None:
    nodes = {f"n{n}": f"10.3.0.{n}" for n in range(MOST_NODES + 1)}
    (problem,) = wrong(f"nodes: {nodes}\n{COMMON}")
    assert f"nodes: there are {MOST_NODES + 1} nodes" in problem


def test_many_nodes_are_not_all_listed() -> None:
    nodes = {f"n{n:02}": f"10.3.0.{n}" for n in range(MOST_NODES)}
    (problem,) = wrong(f"nodes: {nodes}\n{COMMON.replace('role: {lb2: backup}', '')}", hostname="x")
    assert "n07 and 56 more" in problem
    assert "n08" not in problem


def test_a_mistake_in_the_part_of_another_node_does_not_stop_this_one() -> None:
    text = FLEET.replace("med: 5", "med: -5")
    assert of("lb1", text).config.node.name == "lb1"
    assert len(wrong(text, hostname="lb2")) == 1


def test_what_is_wrong_of_all_nodes_is_said_once_and_of_some_with_their_names() -> None:
    text = FLEET.replace("port: 80", "port: 80000").replace("router_id: 10.2.1.2, ", "") + (
        "checks: {c: {type: http, foo: 1}}\n"
    )
    text = text.replace("\nbgp:", "\n  lb3: {}\nbgp:")
    found = wrong_of_all(text)
    assert [problem.split(" ", 1)[1].partition(" (")[0] for problem in found] == [
        "lb2, lb3: bgp.router_id: it is missing, and there is no IPv4 local_address to take it from",
        "vips.web.port: 80000 is not a port",
        "checks.c.foo: there is no such key",
    ]


def test_of_many_nodes_a_problem_names_a_few() -> None:
    nodes: dict[str, Any] = {f"n{n:02}": {} for n in range(16)} | {"last": "10.3.0.1"}
    text = f"nodes: {nodes}\n{COMMON.replace('role: {lb2: backup}', '')}"
    (problem,) = wrong_of_all(text)
    assert " n00, n01, n02 and 13 more: bgp.router_id: it is missing" in problem


def test_every_node_is_looked_at_and_the_fingerprint_is_that_of_each() -> None:
    seen: list[Loaded] = []
    every = loads_every(FLEET, seen.append)
    assert [one.config.node.name for one in seen] == ["lb1", "lb2"] == list(every.names)
    assert {one.fingerprint for one in seen} == {every.fingerprint} == {of("lb1").fingerprint}


def test_a_file_of_one_node_is_looked_at_for_that_one() -> None:
    seen: list[Loaded] = []
    text = "node: lb1\n" + COMMON.replace("role: {lb2: backup}", "").replace(
        "bgp: {", "bgp: {router_id: 10.2.1.1, "
    )
    assert loads_every(text, seen.append).names == ()
    assert [one.config.node.name for one in seen] == ["lb1"]


def test_two_nodes_with_one_router_id_are_a_mistake() -> None:
    (problem,) = wrong_of_all(FLEET.replace("router_id: 10.2.1.2", "router_id: 10.2.1.1"))
    assert "5:22: nodes.lb2.bgp.router_id: 10.2.1.1 is the router id of lb1 already" in problem


def test_so_are_two_with_one_router_id_of_ospf() -> None:
    speaker = "speaker: {ospf: {router_id: 10.2.1.9}}"
    text = (
        f"nodes: {{lb1: {{{speaker}}}, lb2: {{{speaker}}}}}\n"
        """\
speaker: {type: kernel-table, daemon: bird, ospf: {interfaces: [eth1]}}
vips: {web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1]}}
"""
    )
    (problem,) = wrong_of_all(text)
    assert "nodes.lb2.speaker.ospf.router_id: 10.2.1.9 is the router id of lb1 already" in problem


def test_one_address_of_two_nodes_and_a_vip_without_a_primary_are_told() -> None:
    text = FLEET.replace("router_id: 10.2.1.2,", "router_id: 10.2.1.2, local_address: 10.2.1.1,")
    every = loads_every(text.replace("{lb2: backup}", "{lb1: backup, lb2: backup}"), lambda _: None)
    said = [str(one) for one in every.warnings]
    assert any(
        "nodes.lb2.bgp.local_address: 10.2.1.1 is the address of lb1 in its sessions already" in one
        for one in said
    )
    assert any("vips.dns.role: every node is a backup, and none the primary" in one for one in said)


def weights_told(text: str) -> list[str]:
    told = [str(one) for one in loads_every(text, lambda _: None).warnings]
    return [one for one in told if "weigh" in one]


def weighed(first: str, second: str, *, software: str = "") -> str:
    """A file of three nodes: two with these weights and lb3 without clients of theirs, for it is a backup."""
    lines = {"lb1": first, "lb2": second}
    nodes = "".join(
        f"  {name}: {{bgp: {{router_id: 10.2.1.{name[2]}{weight and f', weight: {weight}'}}}}}\n"
        for name, weight in lines.items()
    )
    return f"""\
nodes:
{nodes}  lb3: 10.2.1.3
bgp: {{local_as: 65001, neighbors: [10.2.1.254], remote_as: 65000{software and f", software: {software}"}}}
vips: {{web: {{address: 192.0.2.1, port: 80, servers: [10.9.2.1], role: {{lb3: backup}}}}}}
"""


@pytest.mark.parametrize(
    ("software", "runs"),
    [("frr 8.4", "FRR 8.4"), ("frr", "FRR"), ("", "FRR"), ("bird", ""), ("gobgp 4.8", "")],
)
def test_a_node_without_a_weight_beside_others_is_told(software: str, runs: str) -> None:
    told = [one for one in weights_told(weighed("3", "", software=software)) if "lb2" in one]
    assert len(told) == bool(runs)
    assert all(
        f"nodes.lb2.bgp.weight: lb2 has no bgp.weight: {runs} then weighs all nodes alike (write one" in one
        and ":3:9:" in one
        for one in told
    ), told


@pytest.mark.parametrize(("first", "second"), [("3", "1"), ("", "")])
def test_weights_of_every_node_that_shares_flows_or_of_none_are_right(first: str, second: str) -> None:
    assert weights_told(weighed(first, second, software="frr 8.4")) == []


def test_weights_are_those_of_the_nodes_of_one_router() -> None:
    text = weighed("3", "", software="frr 8.4")
    assert weights_told(text)
    other = "lb2: {bgp: {router_id: 10.2.1.2, neighbors: [{address: 10.7.1.254, remote_as: 64999}]}}"
    assert weights_told(text.replace("lb2: {bgp: {router_id: 10.2.1.2}}", other)) == []
    elsewhere = other.replace("64999", "65000")
    assert weights_told(text.replace("lb2: {bgp: {router_id: 10.2.1.2}}", elsewhere)) == [], "another site's"


def test_weights_that_a_router_rounds_to_something_else_are_told() -> None:
    (told,) = weights_told(weighed("1000", "1", software="frr 8.4"))
    assert "nodes.lb2.bgp.weight: lb2 gets 1.00% of the flows, not 0.10%: FRR 8.4 rounds weights" in told
    assert weights_told(weighed("1000", "1")) == [], "nobody says how it rounds"


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\n" + FLEET,
        "node: lb2\n" + FLEET,
        "version: 1\n" + FLEET,
        FLEET.replace("password: secret", "password: another"),
        yaml.safe_dump(yaml.safe_load(FLEET), sort_keys=True),
    ],
)
def test_the_fingerprint_is_of_what_is_said_and_not_of_how_nor_of_secrets(text: str) -> None:
    assert of("lb1", text).fingerprint == of("lb1").fingerprint


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("med: 5", "med: 6"),
        ("10.9.2.1]", "10.9.2.2]"),
        ("lb1: 10.2.1.1", "lb1: 10.2.1.7"),
        ("port: 80", "port: 81"),
    ],
)
def test_whatever_is_different_makes_another_fingerprint(written: str, instead: str) -> None:
    assert of("lb1", FLEET.replace(written, instead)).fingerprint != of("lb1").fingerprint


def test_a_vip_named_as_a_secret_is_none() -> None:
    text = FLEET.replace("web:", "password:")
    assert of("lb1", text).fingerprint != of("lb1", text.replace("port: 80", "port: 81")).fingerprint


def test_the_fingerprint_is_the_same_however_many_files_there_are(tmp_path: Path) -> None:
    main = tmp_path / "anycast.yaml"
    tree = yaml.safe_load(FLEET)
    tmp_path.joinpath("vips.yaml").write_text(yaml.safe_dump({"vips": tree.pop("vips")}), encoding="utf-8")
    main.write_text(yaml.safe_dump({**tree, "include": "vips.yaml"}), encoding="utf-8")
    every, contents = load_every(main, lambda _: None)
    assert every.fingerprint == of("lb1").fingerprint
    assert len(contents) == 2


def test_a_node_in_two_files_is_a_mistake(tmp_path: Path) -> None:
    tmp_path.joinpath("more.yaml").write_text("nodes: {lb1: 10.2.1.9}\n", encoding="utf-8")
    main = tmp_path / "anycast.yaml"
    main.write_text("include: more.yaml\n" + FLEET, encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"nodes\.lb1: there is a node of this name already, at .*anycast.yaml:3:3"
    ):
        load(main, hostname="lb1")


def large(nodes: int, vips: int) -> str:
    """Each node with its own router id; each VIP with four real servers."""
    lines = ["nodes:", *(f"  n{n}: 10.3.0.{n + 1}" for n in range(nodes))]
    lines += ["bgp: {local_as: 65001, remote_as: 65000, neighbors: [10.2.1.254]}", "vips:"]
    for n in range(vips):
        servers = ", ".join(f"10.{9 + k}.{n // 250}.{n % 250 + 1}" for k in range(4))
        line = f"  v{n}: {{address: 198.18.{n // 250}.{n % 250}, port: 80, servers: [{servers}]"
        lines.append(line + (", role: {n0: backup}}" if n % 2 else "}"))
    return "\n".join(lines) + "\n"


def test_a_large_fleet_is_checked_one_node_after_another_and_nothing_of_each_stays() -> None:
    text = large(nodes=16, vips=200)
    names: list[str] = []
    loads_every(text, lambda one: names.append(one.config.node.name))  # what is made once is made
    tracemalloc.start()
    try:
        loads_every(large(nodes=1, vips=200), lambda _: None)
        _, one = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        loads_every(text, lambda one: names.append(one.config.node.name))
        _, all_of_them = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(names) == 32
    assert all_of_them < 3 * one, (all_of_them, one)


def test_of_a_thousand_mistakes_no_more_is_looked_for() -> None:
    text = large(nodes=16, vips=1100).replace("port: 80,", "port: 80, foo: 1,")
    with pytest.raises(ConfigError) as caught:
        loads_every(text, lambda _: None)
    assert caught.value.count.startswith("at least ") or caught.value.count == "1,100 problems"
    assert len(caught.value.problems) <= 201


def test_an_editor_asks_of_a_fleet_for_nothing_that_may_be_each_nodes_own() -> None:
    schema = Draft202012Validator(json.loads(schema_text()))
    tree: dict[str, Any] = {"bgp": {"local_as": 65001}, "connection_sync": {"id": 4}}
    said = {error.message for error in schema.iter_errors(tree)}
    assert "'interface' is a required property" in said
    assert len(said) == 2  # and the neighbors, or a speaker
    assert schema.is_valid({"nodes": {"lb1": {"bgp": {"neighbors": ["10.2.1.254"]}}}, **tree})
