"""`fleet`: who the others are and where they are asked, and what does not go together."""

from __future__ import annotations

import pytest

from anycast.config.changes import changes
from anycast.config.load import load, loads, loads_every
from anycast.config.problem import ConfigError
from anycast.core.fleet.values import Capacity
from anycast.core.hooks import Secret
from anycast.core.values.configuration import Config
from anycast.core.values.described import Percent
from anycast.core.values.fleet import Fleet, FleetView, PeerAt, Velocity
from tests.unit.config.test_schema import ROOT

BGP = "bgp: {local_as: 65001, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}\n"
NODES = """\
nodes:
  lb1: 10.2.1.1
  lb2: {bgp: {router_id: 10.2.1.2}, fleet: {listen: "10.3.1.2:99", capacity: {bits: 25G}}}
  lb3: {bgp: {local_address: [10.2.1.3]}}
"""
TLS = "tls: {certificate: /c, key: /k, ca: /a}"
QUIET = f"fleet: {{view: peers, token_file: /t, {TLS}}}\n"


def config(text: str, node: str = "lb1") -> Config:
    return loads(text, "f", hostname=node).config


def fleet(text: str, node: str = "lb1") -> Fleet:
    found = config(text, node).fleet
    assert found is not None
    return found


def problems(text: str) -> list[str]:
    """Of all nodes."""
    with pytest.raises(ConfigError) as caught:
        loads_every(text, lambda _: None, "f", hostname="lb1")
    return [str(one) for one in caught.value.problems]


def warnings(text: str) -> list[str]:
    found = loads(text, "f", hostname="lb1").warnings
    return [str(one) for one in found if one.path[:1] == ("fleet",)]


def test_a_file_without_it_has_no_fleet() -> None:
    assert (
        config(NODES.replace(', fleet: {listen: "10.3.1.2:99", capacity: {bits: 25G}}', "") + BGP).fleet
        is None
    )


def test_the_others_are_asked_where_their_own_parts_say() -> None:
    first, second = fleet(NODES + BGP + QUIET), fleet(NODES + BGP + QUIET, "lb2")
    assert first.listen == "10.2.1.1:9645"
    assert first.peers == (
        PeerAt(name="lb2", host="10.3.1.2", port=99),
        PeerAt(name="lb3", host="10.2.1.3", port=9645),
    )
    assert second.listen == "10.3.1.2:99"
    assert [str(one) for one in second.peers] == ["lb1 at 10.2.1.1:9645", "lb3 at 10.2.1.3:9645"]


def test_a_port_for_all_is_every_nodes() -> None:
    text = NODES.replace(', fleet: {listen: "10.3.1.2:99", capacity: {bits: 25G}}', "")
    found = fleet(f'{text}{BGP}fleet: {{listen: "0.0.0.0:7000", token_file: /t, {TLS}}}\n')
    assert found.listen == "0.0.0.0:7000"
    assert found.peers == (
        PeerAt(name="lb2", host="10.2.1.2", port=7000),
        PeerAt(name="lb3", host="10.2.1.3", port=7000),
    )


def test_what_a_node_says_of_itself_goes_over_the_rest() -> None:
    text = (
        f"{NODES}{BGP}fleet: {{capacity: {{packets: 1.5M, bits: 10G, limit: 65%}}, token_file: /t, {TLS}}}\n"
    )
    assert fleet(text).capacity == Capacity(packets=1.5e6, bits=1e10, limit=0.65)
    assert fleet(text, "lb2").capacity == Capacity(packets=1.5e6, bits=2.5e10, limit=0.65)


def test_a_word_or_a_number_alone_is_enough() -> None:
    assert fleet(f"{NODES}{BGP}fleet: none\n").view is FleetView.NONE
    assert fleet(f"{NODES}{BGP}fleet: {{view: none, velocity: 2}}\n").velocity == Velocity(nodes=2)
    assert fleet(f"{NODES}{BGP}fleet: {{view: none, velocity: {{window: 5m}}}}\n").velocity == Velocity(
        nodes=1, window=300.0
    )
    velocity = fleet(f"{NODES}{BGP}fleet: {{view: none, velocity: {{percent: 40%}}}}\n").velocity
    assert velocity == Velocity(percent=Percent(40))
    etcd = fleet(f"{NODES}{BGP}fleet: {{view: etcd, etcd: 'https://10.0.0.1:2379'}}\n").etcd
    assert etcd is not None
    assert etcd.endpoints == ("https://10.0.0.1:2379",)


def test_secrets_are_named_and_not_written() -> None:
    text = f"{NODES}{BGP}fleet: {{token_env: TOKEN, {TLS}}}\n"
    assert fleet(text).token == Secret(variable="TOKEN")
    needed = {(one.name, one.use) for one in loads(text, hostname="lb1").paths}
    assert {("/c", "certificate"), ("/k", "key"), ("/a", "authority")} <= needed


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            f"{BGP.replace('{local', '{router_id: 10.2.1.1, local')}node: lb1\nfleet: {{view: peers, token_file: /t, {TLS}}}\n",
            "fleet.view: the file names no other node that could be asked (write `nodes`, or view: etcd)",
        ),
        (
            f"{NODES}{BGP}fleet: {{on_disagreement: last_resort, token_file: /t, {TLS}}}\n",
            "fleet.on_disagreement: 'last_resort' is not a choice here (write alarm)",
        ),
        (
            f"nodes: {{lb1: 10.2.1.1, lb1: 10.2.1.2}}\n{BGP}{QUIET}",
            "nodes.lb1: written twice, first in line 1 (keep one)",
        ),
        (
            f"nodes: {{lb1: 10.2.1.1, lb2: 10.2.1.1}}\n{BGP}{QUIET}",
            "fleet: lb2 would be asked where lb1 is: 10.2.1.1, port 9645 (write fleet.listen under nodes.lb2)",
        ),
        (
            f"nodes: {{lb1: 10.2.1.1, lb2: {{}}}}\n{BGP}{QUIET}",
            "fleet: it is not known where lb2 is asked (write its address or fleet.listen under nodes.lb2)",
        ),
        (
            f"{NODES.replace('fleet: {listen', 'fleet: {max_out: 2, listen')}{BGP}{QUIET}",
            "nodes.lb2.fleet.max_out: all nodes have the same max_out (write it once, outside of nodes; here can stand",
        ),
        (
            f'nodes: {{lb1: 10.2.1.1, lb2: 10.2.1.2}}\n{BGP}fleet: {{listen: "10.2.1.1:9645", token_file: /t, {TLS}}}\n',
            "fleet.listen: every node would listen at 10.2.1.1 (write",
        ),
        (
            f"{NODES}{BGP}fleet: {{view: none, capacity: {{bits: 0}}}}\n",
            "fleet.capacity.bits: a node that carries nothing is none (write what it carries, as in 10G, or leave it out)",
        ),
        (
            f"{NODES}{BGP}fleet: {{view: none, capacity: {{packets: 0k}}}}\n",
            "fleet.capacity.packets: a node that carries nothing is none",
        ),
        (
            f"{NODES}{BGP}fleet: {{view: none, capacity: {{bits: fast}}}}\n",
            "fleet.capacity.bits: 'fast' is not an amount (write a number above 0, as in 500, 50k, 1.5M or 10G)",
        ),
        (
            f"{NODES}{BGP}fleet: {{view: none, capacity: {{limit: 120%}}}}\n",
            'fleet.capacity.limit: \'120%\' is not a share (write it from "1%" to "100%")',
        ),
        (
            f"{NODES}{BGP}fleet: {{view: none, max_out: 0}}\n",
            "fleet.max_out: 0 is not a number of nodes (write a whole number from 1 to 63)",
        ),
        (
            f"{NODES}{BGP}fleet: {{view: none, velocity: {{nodes: 1, percent: 40%}}}}\n",
            "fleet.velocity.percent: nodes is written too (keep one of them)",
        ),
        (
            f"{NODES}{BGP}fleet: {{token_file: /t, tls: {{certificate: /c, ca: /a}}}}\n",
            "fleet.tls.key: it is missing (write the key file)",
        ),
        (
            f"{NODES}{BGP}fleet: {{token_file: /t, token_env: T, {TLS}}}\n",
            "fleet.token_env: there is a token_file too (remove one of the two lines)",
        ),
        (f"{NODES}{BGP}fleet: etcd\n", "fleet.etcd: it is missing (write endpoints in it)"),
        (
            f"{NODES}{BGP}fleet: {{view: etcd, etcd: {{prefix: /x/}}}}\n",
            "fleet.etcd.endpoints: there is no endpoint (write the members of etcd)",
        ),
        (
            f"{NODES}{BGP}fleet: {{view: etcd, etcd: '10.0.0.1:2379'}}\n",
            "fleet.etcd: '10.0.0.1:2379' is not an address of etcd (write one, as in https://10.0.0.1:2379)",
        ),
        (
            f"{NODES}{BGP}fleet: {{view: etcd, etcd: {{endpoints: 'http://10.0.0.1:2379', user: x}}}}\n",
            "fleet.etcd.password_file: it is missing (write both user and password_file, or neither)",
        ),
        (
            f"{NODES}{BGP}fleet: {{view: etcd, etcd: {{endpoints: 'http://10.0.0.1:2379', tls: {{ca: /a}}}}}}\n",
            "fleet.etcd.tls: http://10.0.0.1:2379 speaks no TLS (write https://, or remove tls)",
        ),
        (f"{NODES}{BGP}fleet: all\n", "fleet: 'all' is not a choice here (write peers, etcd or none)"),
    ],
)
def test_what_does_not_go_together_is_told_with_what_to_do(text: str, told: str) -> None:
    found = problems(text)
    assert any(told in one for one in found), found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            f"nodes: {{lb1: 10.2.1.1}}\n{BGP}{QUIET}",
            "fleet: the fleet is this node alone: nobody takes over from it",
        ),
        (
            f"{NODES}{BGP}fleet: {{max_out: 3, token_file: /t, {TLS}}}\n",
            "fleet.max_out: all 3 nodes may be out at once",
        ),
        (
            f"{NODES}{BGP}fleet: {{min_announcing: 3, token_file: /t, {TLS}}}\n",
            "fleet.min_announcing: there are 2 others: no node ever gets its turn",
        ),
        (
            f"{NODES}{BGP}fleet: {{velocity: 3, token_file: /t, {TLS}}}\n",
            "fleet.velocity: all 3 nodes may take back a VIP at once, so it limits nothing (write 2 at most",
        ),
        (
            f"{NODES}{BGP}fleet: {{velocity: {{percent: 33%}}, token_file: /t, {TLS}}}\n",
            "fleet.velocity.percent: it is less than one of 3 nodes that carry alike: it lets none of them go (write 34% at least",
        ),
        (
            f"{NODES}{BGP}fleet: {{max_out: 2, min_announcing: 2, token_file: /t, {TLS}}}\n",
            "fleet.max_out: no more than 1 of 3 nodes are ever let out: min_announcing others must stay (write 1, or",
        ),
        (
            f"{NODES}{BGP}fleet: {{view: etcd, etcd: 'http://10.0.0.1:2379'}}\n",
            "fleet.etcd.endpoints: what goes to http://10.0.0.1:2379 is not encrypted: whoever",
        ),
        (
            f"{NODES}{BGP}fleet: {{view: etcd, etcd: {{endpoints: ['https://e:1', 'http://e:1'], user: x, password_file: /p}}}}\n",
            "fleet.etcd.endpoints: what goes to http://e:1 is not encrypted, the password too: whoever",
        ),
        (f"{NODES}{BGP}fleet: {{token_file: /t}}\n", "fleet: the token goes over the network as it is"),
        (f"{NODES}{BGP}fleet: peers\n", "fleet: anybody can ask this node, and nothing proves who answers"),
        (
            f"{NODES}{BGP}fleet: {{view: none, token_file: /t, {TLS}, etcd: 'http://10.0.0.1:2379'}}\n",
            "fleet.etcd: etcd is not asked",
        ),
        (
            f"{NODES}{BGP}fleet: {{view: none, velocity: 1}}\n",
            "fleet.velocity: nobody is asked, so nothing is limited",
        ),
    ],
)
def test_what_is_rarely_meant_is_warned_of(text: str, told: str) -> None:
    (found,) = warnings(text)
    assert told in found


def test_etcd_decides_who_may_leave_whoever_tells_of_the_others() -> None:
    for view in ("peers", "etcd"):
        text = f"{NODES}{BGP}fleet: {{view: {view}, token_file: /t, {TLS}, etcd: 'https://10.0.0.1:2379'}}\n"
        assert warnings(text) == []
        assert fleet(text).is_strict
    assert not fleet(NODES + BGP + QUIET).is_strict


def test_what_is_right_is_warned_of_nothing() -> None:
    assert warnings(NODES + BGP + QUIET) == []
    for right in (
        "velocity: {percent: 34%}",
        "max_out: 2, min_announcing: 1",
        "max_out: 1, min_announcing: 2",
        "etcd: ['http://127.0.0.1:2379', 'http://[::1]:2379', 'http://localhost:2379', 'https://10.0.0.1:2379']",
    ):
        assert warnings(NODES + BGP + QUIET.replace("peers,", f"peers, {right},")) == []


def test_a_mistake_in_the_part_of_another_node_does_not_stop_this_one() -> None:
    text = NODES.replace("10.3.1.2:99", "10.3.1.2") + BGP + QUIET
    assert [str(one) for one in fleet(text).peers] == ["lb2 at 10.2.1.2:9645", "lb3 at 10.2.1.3:9645"]
    assert "nodes.lb2.fleet.listen: '10.3.1.2' is not an address and port" in problems(text)[0]


def test_every_node_of_the_example_asks_the_others() -> None:
    text, found = ROOT.joinpath("examples", "fleet.yaml").read_text("utf-8"), {}
    loads_every(text, lambda loaded: found.update({loaded.config.node.name: loaded.config.fleet}))
    assert {
        name: [one.name for one in fleet.peers] for name, fleet in found.items() if fleet is not None
    } == {
        "lb1": ["lb2", "lb3"],
        "lb2": ["lb1", "lb3"],
        "lb3": ["lb1", "lb2"],
    }


def test_a_reload_tells_what_changes() -> None:
    old = config(NODES + BGP + QUIET)
    new = config(
        NODES.replace("10.3.1.2:99", "10.3.1.2:98")
        + BGP
        + QUIET.replace("peers,", "peers, max_out: 2, capacity: {bits: 10G},")
    )
    assert changes(old, new) == (
        "fleet: max_out 1 -> 2",
        "fleet: peers [lb2 at 10.3.1.2:99, lb3 at 10.2.1.3:9645] -> [lb2 at 10.3.1.2:98, lb3 at 10.2.1.3:9645]",
        "fleet: capacity limit 0.7 -> bits 1e+10, limit 0.7",
    )
    nothing = config(NODES.replace(', fleet: {listen: "10.3.1.2:99", capacity: {bits: 25G}}', "") + BGP)
    assert changes(old, nothing) == ("fleet: peers -> none",)


def test_the_full_example_names_where_etcd_is() -> None:
    full = load(ROOT / "examples" / "full.yaml", hostname="lb1").config.fleet
    assert full is not None
    assert full.etcd is not None
    assert full.etcd.password == Secret(file="/etc/anycast/etcd.password")
