"""What is to be broken, how it is asked for, and the order of random faults."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from anycast.analysis.budget import Kind, budget
from anycast.config.load import load
from lab import configs
from lab.chaos_plan import (
    BY_NAME,
    FAULTS,
    FIGURES,
    FLEET_FAULTS,
    PEER_FAULTS,
    RANDOM,
    SPEAKERS,
    OptionError,
    faults_of,
    listing,
    options,
    turns,
)
from lab.fleet_faults import FleetFaults
from lab.topology import topology

NODES, SERVERS = ["lb1", "lb2", "lb3"], ["rs1", "rs2"]


def names(faults: str = "", **more: object) -> list[str]:
    return [fault.name for fault in options(faults=faults, **more).faults]  # type: ignore[arg-type]


def test_every_fault_has_a_way_to_be_done() -> None:
    every = [fault for speaker in SPEAKERS for fault in faults_of(speaker, fleet=True)]
    assert [one.name for one in every if one.name != RANDOM and not hasattr(FleetFaults, one.act)] == []


def test_bird_has_the_faults_of_exabgp_with_the_same_bounds_and_its_own_names() -> None:
    by_bird = faults_of("bird")
    assert [(one.bound, one.path, one.act) for one in by_bird] == [
        (one.bound, one.path, one.act) for one in FAULTS
    ]
    said = " ".join(f"{one.name} {one.text}" for one in by_bird)
    assert not {"exabgp", "plugin"} & set(re.findall(r"[a-z]+", said.lower()))
    assert {"announcer-kill", "bird-stop"} <= {one.name for one in by_bird}


def test_with_bird_there_is_no_peer_and_nothing_that_is_exabgps() -> None:
    chosen = options(speaker="bird")
    assert (chosen.peer_faults, chosen.figures, chosen.silent) == ((), (), False)
    assert names("bird-kill,drain", speaker="bird") == ["drain", "bird-kill"]
    with pytest.raises(OptionError) as found:
        options(faults="exabgp-kill,cold-start", speaker="bird", peer="healthcheck")
    assert str(found.value).splitlines() == [
        "FAULTS: no such fault: exabgp-kill, cold-start (FAULTS=help lists them)",
        "PEER=healthcheck: it is ExaBGP's, and SPEAKER=bird has none",
    ]
    with pytest.raises(OptionError, match="SPEAKER=frr: exabgp or bird"):
        options(speaker="frr")
    assert "SIGKILL to BIRD" in listing("bird")
    assert "ExaBGP" not in listing("bird")
    assert {turn.fault.name for turn in itertools.islice(turns(1, NODES, SERVERS, "bird"), 40)} == {
        one.name for one in faults_of("bird") if one.alone
    }


@pytest.mark.parametrize("name", ["server-link-down", "descriptors"])
def test_checks_that_cannot_run_have_the_time_that_the_budget_gives_them(tmp_path: Path, name: str) -> None:
    site = topology()
    file = tmp_path / "anycast.yaml"
    file.write_text(configs.anycast_yaml(site, site.balancers[0]))
    outages = budget(load(file).config).outages
    (sum_,) = (one.seconds for one in outages if one.kind is Kind.UNPROVEN and "web tcp/80" in one.scopes)
    bound = BY_NAME[name].bound
    assert bound is not None
    assert sum_ <= bound < sum_ + 0.5


def test_without_names_all_is_done_but_what_needs_more_nodes() -> None:
    assert set(BY_NAME) - set(names()) == {"server-blink"}
    assert set(names()) - set(names(nodes=2)) == {"two-nodes"}


def test_names_are_taken_in_the_order_of_the_table() -> None:
    assert names("reload, drain,agent-kill") == ["drain", "agent-kill", "reload"]


def test_figures_come_with_all_faults_or_by_name() -> None:
    assert options().figures == tuple(FIGURES)
    assert options(faults="drain").figures == ()
    alone = options(faults="outcome-wire")
    assert (alone.faults, alone.figures) == ((), ("outcome-wire",))


def test_a_firewall_is_there_where_it_is_asked_for() -> None:
    assert not options().firewall
    assert options(firewall=True).firewall


def test_no_duration_is_no_random_part() -> None:
    assert RANDOM not in names(duration=0)


def test_the_peer_comes_with_all_faults_or_when_it_is_asked_for() -> None:
    assert options().peer_faults == tuple(PEER_FAULTS)
    assert options(peer="none").peer_faults == ()
    assert options(faults="drain").peer_faults == ()
    assert options(faults="drain,reload", peer="healthcheck").peer_faults == ("drain",)


def test_all_that_is_wrong_is_said_at_once_and_what_to_write() -> None:
    with pytest.raises(OptionError) as found:
        options(faults="drain,explode,melt", nodes=1, connections=0, duration=-1, peer="bird")
    assert str(found.value).splitlines() == [
        "FAULTS: no such fault: explode, melt (FAULTS=help lists them)",
        "NODES=1: 2 to 32",
        "CONNECTIONS=0: 1 to 5000",
        "DURATION=-1: 0 to 86400 seconds",
        "PEER=bird: healthcheck or none",
    ]


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"faults": "two-nodes", "nodes": 2}, "NODES=2: two-nodes needs 3"),
        ({"faults": "reload", "peer": "healthcheck"}, "PEER=healthcheck: nothing to compare"),
    ],
)
def test_what_cannot_be_done_together_is_refused(given: dict[str, object], what: str) -> None:
    with pytest.raises(OptionError, match=what):
        options(**given)  # type: ignore[arg-type]


def test_many_nodes_get_more_memory() -> None:
    assert options().memory == 2048
    assert options(nodes=16, fleet=True).memory > options(nodes=16).memory > 3072


def test_the_list_has_every_name_and_every_bound() -> None:
    text = listing()
    assert all(name in text for name in BY_NAME)
    assert "agent-kill" in text
    assert "(<= 2.5 s)" in text
    assert max(map(len, text.splitlines())) <= 110


def test_a_seed_gives_the_same_faults_again_and_another_gives_others() -> None:
    def first(seed: int) -> list[object]:
        return list(itertools.islice(turns(seed, NODES, SERVERS), 30))

    assert first(7) == first(7)
    assert first(7) != first(8)


def test_every_single_fault_comes_before_any_comes_again_at_a_place_of_its_kind() -> None:
    singles = [fault for fault in FAULTS if fault.alone]
    found = list(itertools.islice(turns(1, NODES, SERVERS), 2 * len(singles)))
    assert {turn.fault.name for turn in found[: len(singles)]} == {fault.name for fault in singles}
    for turn in found:
        assert turn.where in (SERVERS if turn.fault.where == "server" else NODES)
        assert 0 <= turn.wait <= 2


def test_a_fleet_has_every_other_fault_too_and_its_own_only_where_it_is_asked_for() -> None:
    own = {one.name for one in FLEET_FAULTS}
    assert set(names(fleet=True)) == set(names()) | own
    assert names("cut-off,drain", fleet=True, speaker="bird") == ["drain", "cut-off"]
    assert all(one in listing(fleet=True) and one not in listing() for one in own)
    with pytest.raises(OptionError) as found:
        options(faults="cut-off,melt,drain-refused")
    assert str(found.value).splitlines() == [
        "FAULTS: of a fleet alone, with FLEET=1: cut-off, drain-refused",
        "FAULTS: no such fault: melt (FAULTS=help lists them)",
    ]
