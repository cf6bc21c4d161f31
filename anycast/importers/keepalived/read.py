"""Files of keepalived to a setup: one file for all nodes, a file with @node lines, or a file of each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from anycast.importers import names
from anycast.importers.keepalived import vrrp
from anycast.importers.keepalived.grammar import ROOT
from anycast.importers.keepalived.language import Lines, Tree, spelt, variants
from anycast.importers.keepalived.translate import Translation
from anycast.importers.model import Keys, Place, Setup, Vip
from anycast.importers.report import Report
from anycast.importers.source import Files, SourceError

_MOST_NODES = 64


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    setup: Setup
    instances: list[vrrp.Instance]
    serves: bool  # whether there is anything to import
    known: bool  # whether it has a word that keepalived knows
    said: Report  # of its lines


def read(paths: Sequence[Path], report: Report, addresses: Sequence[str] = ()) -> Setup:
    """Raises SourceError."""
    nodes = [node for path, name in _files(paths) for node in _of_file(path, name, report, addresses)]
    if not any(node.known for node in nodes):
        raise SourceError(
            Place(str(paths[0])),
            "keepalived knows no word of it: it is no file of keepalived's",
            "name the file that it reads, or another source",
        )
    for node in nodes:
        report.take(node.said)
    if not any(node.serves for node in nodes):
        raise SourceError(
            Place(str(paths[0])),
            "there is no virtual_server and no vrrp_instance in it",
            "name the file that keepalived reads",
        )
    setup = _together(nodes, report)
    roles = _roles(nodes, setup.vips)
    vips = tuple(replace(vip, backups=tuple(roles.get(vip.name, ()))) for vip in setup.vips)
    for vip in vips:
        if vip.backups:
            report.different(
                vip.place,
                "the VRRP instances prefer another node for this VIP than for others: role: backup where it was the backup; without the line all "
                "nodes share the flows",
            )
    if len(nodes) == 1:
        return replace(setup, vips=vips)
    known = tuple((node.name, _address(node)) for node in nodes)
    return replace(setup, vips=vips, nodes=known)


def _files(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Several files are of several nodes, named by what differs: the file or its folder."""
    if len(paths) == 1:
        return [(paths[0], "")]
    stems = [path.stem for path in paths]
    found = stems if len(set(stems)) == len(paths) else [path.absolute().parent.name for path in paths]
    named = [names.sanitized(name) or "node" for name in found]
    if len(set(named)) < len(named):
        named = [f"{name}-{n}" for n, name in enumerate(named, 1)]
    return list(zip(paths, named, strict=True))


def _of_file(path: Path, name: str, report: Report, addresses: Sequence[str]) -> list[_Node]:
    """For everybody; and where it turns out that it names nodes, for each of them."""
    alone = Report()
    try:
        node, named = _read(path, name, alone, None, addresses)
    except SourceError:
        report.take(alone)
        raise
    of_nodes = variants(named)
    if of_nodes == [None]:
        return [node]
    if len(of_nodes) > _MOST_NODES:
        raise SourceError(Place(str(path)), f"it is for more than {_MOST_NODES} nodes", "import it in parts")
    found: list[_Node] = []
    for one in of_nodes:
        mine = names.sanitized(spelt(one)) or "node"
        found.append(_read(path, f"{name}-{mine}" if name else mine, Report(), one, addresses)[0])
    return found


def _read(
    path: Path, name: str, report: Report, node: str | None, addresses: Sequence[str]
) -> tuple[_Node, Mapping[str, None]]:
    """With the nodes that the file names. Raises SourceError."""
    lines = Lines(Files(report), report, node=node)
    statements = Tree(lines.of(path), report).statements(ROOT)
    setup, instances = Translation(statements, report, addresses).setup()
    serves = any(one.word in ("virtual_server", "vrrp_instance") for one in statements)
    known = not statements or any(one.known for one in statements)
    return _Node(name, setup, instances, serves, known, report), lines.nodes


def _together(nodes: Sequence[_Node], report: Report) -> Setup:
    """What all nodes have; the first one's where they differ."""
    first, *others = nodes
    vips: dict[tuple[str, ...], Vip] = {vip.addresses: vip for vip in first.setup.vips}
    for node in others:
        mine = {vip.addresses: vip for vip in node.setup.vips}
        for addresses, vip in mine.items():
            known = vips.get(addresses)
            if known is None:
                vips[addresses] = vip
                report.different(
                    vip.place, "a VIP that only some nodes have: here all nodes have the same VIPs"
                )
            elif replace(known, name=vip.name) != vip:
                only = f"that of {first.name or 'the first'} is written, for all nodes must choose alike"
                own = _own_lines(node, first)
                report.left_out(own, f"the nodes differ here: {only}")
                if not own:
                    what = "the nodes have different services, checks or real servers for this VIP"
                    report.impossible(vip.place, f"{what}; {only}")
        for addresses, vip in list(vips.items()):
            if addresses not in mine:
                report.different(
                    vip.place, "a VIP that only some nodes have: here all nodes have the same VIPs"
                )
    settings = Keys(
        tuple({name: value for node in reversed(nodes) for name, value in node.setup.settings.items}.items())
    )
    return Setup(vips=tuple(names.unique(list(vips.values()))), settings=settings)


def _own_lines(node: _Node, first: _Node) -> list[Place]:
    """What would be carried over of this node alone, in a file that both have."""
    theirs = first.said.carried_lines()
    files = {place.file for place in theirs}
    return sorted(place for place in node.said.carried_lines() - theirs if place.file in files)


def _roles(nodes: Sequence[_Node], vips: Sequence[Vip]) -> dict[str, list[str]]:
    """The nodes that are backups of a VIP, where not all VIPs have the same primary: else every node is active."""
    ranks: dict[str, dict[str, tuple[int, int]]] = {}
    by_address = {address: vip.name for vip in vips for address in vip.addresses}
    for node in nodes:
        for instance in node.instances:
            for held in instance.held:
                if held.address in by_address:
                    ranks.setdefault(by_address[held.address], {})[node.name] = instance.rank
    if len(nodes) == 1:
        states = {instance.state for instance in nodes[0].instances}
        backup = [name for name, of in ranks.items() if not next(iter(of.values()))[1]]
        return {name: [nodes[0].name] for name in backup} if len(states) > 1 else {}
    primaries = {name: max(of, key=lambda node: of[node]) for name, of in ranks.items()}
    if len(set(primaries.values())) < 2:
        return {}
    return {
        name: [node.name for node in nodes if node.name != primary] for name, primary in primaries.items()
    }


def _address(node: _Node) -> str:
    sources = (instance.source for instance in node.instances)
    return next((source for source in sources if source and ":" not in source), "")
