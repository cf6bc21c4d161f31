"""What ExaBGP's healthcheck announces, and what its imported configuration does: the same at a router."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from anycast.cli.main import main
from anycast.config.load import loads
from anycast.core.preference import Routers
from anycast.core.prefixes import prefixes_of
from anycast.core.values.route import Route
from anycast.importers.importing import Source, finished
from anycast.importers.model import Place
from anycast.importers.read import read
from anycast.importers.report import Report
from tests.contract import bgp
from tests.contract.bgp import NODE4, NODE6, NODE_AS, ROUTER4, ROUTER6, ROUTER_AS, VIPS4, VIPS6, Site, Speaker

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

V4, SECOND, V6 = VIPS4[0], VIPS4[1], VIPS6[0]
WIDE = ip_network("10.98.7.0/24")


@pytest.fixture
def site() -> Iterator[Site]:
    with bgp.site() as one:
        yield one


def configuration(down: Path) -> str:
    run = (
        f"{sys.executable} -m exabgp healthcheck --no-syslog --no-ip-setup --withdraw-on-down --interval 0.3 --fast-interval 0.1 "
        f"--rise 1 --fall 1 --up-metric 70 --community 65001:7 --large-community 65001:1:2 --cmd 'test ! -e {down}'"
    )
    neighbors = "".join(
        f"neighbor {router} {{\n router-id {NODE4};\n local-address {node};\n local-as {NODE_AS};\n peer-as {ROUTER_AS};\n"
        f" hold-time 3;\n family {{\n  {family} unicast;\n }}\n api {{\n  processes [ hc ];\n }}\n}}\n"
        for router, node, family in ((ROUTER4, NODE4, "ipv4"), (ROUTER6, NODE6, "ipv6"))
    )
    return f"process hc {{\n run {run} --ip {WIDE} --ip {V4} --ip {SECOND} --ip {V6};\n encoder text;\n}}\n{neighbors}"


def attributes(path: dict[str, Any]) -> tuple[object, ...]:
    names = ("metric", "aspath", "community", "largeCommunity", "origin", "nexthops")
    return tuple(_of(path.get(name)) for name in names)


def _of(value: object) -> object:
    match value:
        case {"string": text}:
            return text
        case list():
            return sorted(str(hop["ip"]) for hop in value if hop.get("scope", "global") == "global")
        case _:
            return value


def test_the_routes_are_those_of_healthcheck_and_go_with_its_check(site: Site, tmp_path: Path) -> None:
    down = site.folder / "down"
    folder = site.folder / "healthcheck"
    folder.mkdir()
    text = configuration(down)
    before = Speaker(site.place, folder, text, [NODE4, NODE6], env={})
    try:
        site.router.wait_for(V4, SECOND, V6)
        there = {prefix: attributes(site.router.path(prefix)) for prefix in (WIDE, V4, SECOND, V6)}
        down.touch()
        site.router.wait_without(V4, SECOND, V6)
    finally:
        before.stop()
        down.unlink(missing_ok=True)
    source = tmp_path / "exabgp.conf"
    source.write_text(text)
    report = Report()
    made = finished(*read(Source.EXABGP, [source], report), report, Place("")).text
    config = loads(made).config
    routers = Routers(config.bgp)
    routes: list[Route] = []
    for vip in config.vips:
        for prefix in prefixes_of(vip):
            route = routers.route(vip, prefix, drain=False)
            assert route is not None
            routes.append(route)
    with bgp.node(site, own=[WIDE, V4, SECOND, V6]) as node:
        node.want(*routes)
        node.router.wait_for(V4, SECOND, V6)
        here = {prefix: attributes(node.router.path(prefix)) for prefix in (WIDE, V4, SECOND, V6)}
    assert here == there
    file = tmp_path / "anycast.yaml"
    file.write_text(made)
    (name, *_) = [vip.name for vip in config.vips]
    assert main(["probe", name, "--config", str(file)]) == 0
    down.touch()
    assert main(["probe", name, "--config", str(file)]) == 1
