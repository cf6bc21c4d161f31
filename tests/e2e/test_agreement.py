"""Nodes that serve a VIP by different tables say so: by real kernels, over the network between them."""

from __future__ import annotations

import time
from functools import partial

import pytest

from tests.e2e.site import NODES, Document, Site, until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
KIND = "fleet_tables_differ"


def in_fleet(site: Site, *, weight: int = 1, nodes: tuple[str, ...] = NODES) -> None:
    """These nodes know the others, and give the first real server of the first VIP that weight."""
    for node in nodes:
        with site.edit(node) as config:
            config["nodes"] = {
                one.name: {"fleet": {"listen": f"{one.node4}:9645"}} for one in site.lab.topology.balancers
            }
            config["fleet"] = {"view": "peers", "interval": "2s"}
            config["pools"]["web"]["servers"][0]["weight"] = weight
        site.reload(node)


def seen(site: Site, node: str) -> Document:
    answer = site.ask(node, "GET", "/fleet/view")
    assert answer.ok, answer
    return answer.body


def hears_all(site: Site, node: str) -> bool:
    return all(one["seen"] in ("here", "heard") for one in seen(site, node)["nodes"])


def agrees(site: Site, node: str) -> bool:
    return not differing(site, node)


def differing(site: Site, node: str) -> list[Document]:
    return [one for one in site.status(node)["standing"] if one["kind"] == KIND]


def told(site: Site, node: str) -> str:
    """What `anycast fleet` says, once it names lb3: the process that compares the tables may have been started again."""
    shown = site.lab.node_cli(node, "fleet").stdout
    return shown if "! lb3 serves the VIP" in shown else ""


def test_a_weight_that_one_node_has_alone_is_named_by_the_others(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    in_fleet(site)
    for node in NODES:
        until(partial(hears_all, site, node), f"{node} to hear the others")
        assert differing(site, node) == []
    in_fleet(site, weight=7, nodes=("lb3",))
    began = time.monotonic()
    (named,) = until(lambda: differing(site, "lb1") or None, "lb1 to name lb3")
    took = time.monotonic() - began
    assert named["about"] == "lb3"
    assert "has weight 1 here and 7 on lb3" in named["text"]
    assert [one["about"] for one in until(lambda: differing(site, "lb2") or None, "lb2 to name lb3")] == [
        "lb3"
    ]
    shown = until(partial(told, site, "lb1"), "lb1 to tell it whoever asks")
    in_fleet(site, weight=7, nodes=("lb1", "lb2"))
    for node in NODES:
        until(partial(agrees, site, node), f"{node} to have the same tables")
    with capsys.disabled():
        print(f"\nnamed after {took:.1f} s\n{shown}")
