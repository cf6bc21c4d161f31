"""What each node of a fleet would carry with others gone, and whom a drain would push over the limit.

The traffic that a VIP has on a node goes where routers would send it: to those of the nodes that remain whose paths are
the best. They share it as they share the VIP now, by what they measure; where they carry nothing of it, by the weights of
their paths, or alike. What nobody measures is not known, and never 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from itertools import combinations
from typing import NamedTuple, TypeAlias

from anycast.core.amounts import amount, bits, percent
from anycast.core.fleet import codec
from anycast.core.fleet.believe import Belief, Believed, believe
from anycast.core.fleet.values import Capacity, Document, Load, View, VipStanding, VipTold
from anycast.core.maintenance.stages import NODE
from anycast.core.values.fleet import Fleet

MEASURED = 10.0  # seconds that the rates of a document are over: `ops.traffic.WINDOW`
MOST_CASES = 64  # ways in which nodes may be gone that are all worked out
NAMED = 5  # nodes or VIPs that a sentence names


class Resource(StrEnum):
    """What a node has only so much of: the fields of `Load`. Stable words."""

    PACKETS = "packets"
    BITS = "bits"
    NEW_CONNECTIONS = "new_connections"
    CONNECTIONS = "connections"


_CONNECTIONS = list(Resource).index(Resource.CONNECTIONS)
_UNITS = {
    Resource.PACKETS: " packets/s",
    Resource.NEW_CONNECTIONS: " new connections/s",
    Resource.CONNECTIONS: " connections",
}


class Vector(NamedTuple):
    """A load, by resource."""

    packets: float = 0.0
    bits: float = 0.0
    new_connections: float = 0.0
    connections: float = 0.0


_NOTHING = Vector()
Path: TypeAlias = tuple[int, ...]
"""How good a path is to routers: the smallest is the best."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A resource of a node. `least`: the load may be more, by what is not known."""

    resource: Resource
    load: float
    capacity: float
    limit: float
    least: bool = False

    @property
    def share(self) -> float:
        return self.load / self.capacity

    @property
    def left(self) -> float:
        """The share of the capacity that is left below the limit; negative: it is over it."""
        return self.limit - self.share

    @property
    def is_over(self) -> bool:
        return self.share > self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """What a node would carry. `load` None: it does not tell what it carries now.

    `before`: what it carries now. `unknown`: the nodes whose traffic would come to it, and is not known. `takes`: some would
    come to it.
    """

    node: str
    load: Load | None
    before: Load | None
    capacity: Capacity | None = None
    unknown: tuple[str, ...] = ()
    takes: bool = False

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Of the resources of which the capacity is known. None where the load is not."""
        return _figures(self.load, self.capacity, least=bool(self.unknown))

    @property
    def tightest(self) -> Figure | None:
        """None: it is not known."""
        return max(self.figures, key=lambda one: one.share, default=None)


def _figures(load: Load | None, capacity: Capacity | None, *, least: bool) -> tuple[Figure, ...]:
    if load is None or capacity is None:
        return ()
    found = ((each, getattr(load, each), getattr(capacity, each)) for each in Resource)
    return tuple(Figure(each, carried, most, capacity.limit, least) for each, carried, most in found if most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What would be, with `gone` gone. `nodes`: those that remain. `lost`: traffic for which no node would be left."""

    gone: tuple[str, ...]
    nodes: Mapping[str, Carried]
    lost: Load = Load()


@dataclass(frozen=True, slots=True)
class _Group:
    """VIPs that stand alike everywhere, and what they carry together; by the place of the nodes.

    A path of None: routers have none. A load of None: it is not known.
    """

    names: tuple[str, ...]
    paths: tuple[Path | None, ...]
    loads: tuple[Vector | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Who carries what. `silent`: nodes of the fleet of which it is not known what they carry, or whether they are gone.

    `gone`: the places of nodes that went a moment ago: what they carried counts where it goes.
    """

    documents: tuple[Document, ...]
    loads: tuple[Vector | None, ...]
    groups: tuple[_Group, ...]
    silent: tuple[str, ...] = ()
    gone: frozenset[int] = frozenset()
    # Of a VIP, where it is among the groups.
    places: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes there are."""
        return tuple(one.node for place, one in enumerate(self.documents) if place not in self.gone)

    @property
    def is_of_several(self) -> bool:
        """Whether the fleet has more than one node, gone ones among them."""
        return len(self.documents) > 1 or any(len(one.fleet) > 1 for one in self.documents)

    @property
    def is_partial(self) -> bool:
        """Whether a node is not heard, or does not tell what it carries."""
        untold = any(load is None for place, load in enumerate(self.loads) if place not in self.gone)
        return bool(self.silent) or untold


def pictured(own: Document, believed: Mapping[str, Believed], now: float) -> Picture:
    """By what this node says of itself, and what it believes of others.

    Of a node that is gone, what it carried is on its way to others. They measure over `MEASURED` seconds: what of it they
    cannot have measured yet is added to what they say. One that another node still hears may only be cut off from here.
    """
    heard = {name: _named(one) for name, one in believed.items() if one.counts}
    hears = {name for one in heard.values() if one is not None for name in one.hears}
    gone = {name: one for name, one in believed.items() if one.belief is Belief.GONE}
    fading = {
        name: left
        for name, one in gone.items()
        if one.document is not None
        and one.since is not None
        and (left := 1 - (now - one.since) / MEASURED) > 0
    }
    documents = (own, *heard.values(), *(_named(gone[name]) for name in fading))
    silent = sorted({*own.fleet, *believed} - {own.node, *heard, *(gone.keys() - hears)})
    found = picture((one for one in documents if one is not None), silent)
    return _faded(found, fading) if fading else found


def _named(one: Believed) -> Document | None:
    """A document with its loads, under the name by which its node is known."""
    if one.document is None:
        return None
    document = codec.loaded(one.document)
    return document if document.node == one.name else replace(document, node=one.name)


def picture(documents: Iterable[Document], silent: Sequence[str] = ()) -> Picture:
    """Of nodes that all count."""
    found = tuple(sorted(documents, key=lambda one: one.node))
    small = [_each_small(one) for one in found]
    alike: dict[tuple[Path | None, ...], list[str]] = {}
    groups: list[_Group] = []
    for name in sorted({name for one in found for name in one.vips}):
        told = [one.vips.get(name) for one in found]
        paths = tuple(map(_path, told))
        if any(one is not None and one.load is not None for one in told):
            loads = (_load(one, path, each) for one, path, each in zip(told, paths, small, strict=True))
            groups.append(_Group((name,), paths, tuple(loads)))
        else:
            alike.setdefault(paths, []).append(name)
    for paths, names in alike.items():
        of_group = (
            _times(len(names), each) if path else _NOTHING for path, each in zip(paths, small, strict=True)
        )
        groups.append(_Group(tuple(names), paths, tuple(of_group)))
    groups += _of_nobody(found)
    places = {name: place for place, group in enumerate(groups) for name in group.names}
    node_loads = tuple(_vector(one.load) for one in found)
    return Picture(
        documents=found, loads=node_loads, groups=tuple(groups), silent=tuple(silent), places=places
    )


def _path(told: VipTold | None) -> Path | None:
    """Drained routes are equal but for their prepends: local preference and MED are the worst there are."""
    if told is None or told.standing is VipStanding.WITHDRAWN:
        return None
    if told.standing is VipStanding.ANNOUNCED:
        return 0, *told.rank
    return 1, *told.rank[1:2]


def _load(told: VipTold | None, path: Path | None, small: Vector | None) -> Vector | None:
    if told is not None and told.load is not None:
        return _vector(told.load)
    return _NOTHING if path is None else small


def _small(document: Document) -> int:
    return sum(1 for one in document.vips.values() if one.load is None and _path(one) is not None)


def _each_small(document: Document) -> Vector | None:
    """What each VIP carries that is among the small ones; None: it is not known."""
    rest, many = _vector(document.rest), _small(document)
    return None if rest is None else _times(1 / many, rest) if many else _NOTHING


def _of_nobody(documents: Sequence[Document]) -> Iterator[_Group]:
    """A rest where no VIP is that could carry it: traffic for routes that are gone."""
    for place, one in enumerate(documents):
        rest = _vector(one.rest)
        if rest is not None and any(rest) and not _small(one):
            loads = tuple(rest if at == place else _NOTHING for at in range(len(documents)))
            yield _Group((), (None,) * len(documents), loads)


def _vector(load: Load | None) -> Vector | None:
    """None: it is not known, or makes no sense."""
    if load is None:
        return None
    found = Vector(load.packets, load.bits, load.new_connections, load.connections)
    return found if all(0 <= one < math.inf for one in found) else None


def _times(factor: float, vector: Vector | None) -> Vector | None:
    return None if vector is None else _part(factor, vector)


# Spelt out: thousands of these are worked out at once.
def _part(factor: float, vector: Vector) -> Vector:
    packets, bits_, new, there = vector
    return Vector(factor * packets, factor * bits_, factor * new, factor * there)


def _plus(one: Vector, other: Vector) -> Vector:
    return Vector(one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3])


@dataclass(slots=True)
class _Taken:
    """What of a group would go where: to each node by its place."""

    by: dict[int, Vector] = field(default_factory=dict)
    lost: Vector = _NOTHING
    unknown: tuple[int, ...] = ()  # places of nodes whose traffic would go, and is not known


def _taken(found: Picture, group: _Group, leaves: Mapping[int, float]) -> _Taken:
    """`leaves`: the places of the nodes that the group leaves, each with how much of its traffic goes."""
    taken = _Taken()
    goes = _NOTHING
    for place, part in leaves.items():
        load = group.loads[place]
        if load is None:
            taken.unknown += (place,)
        else:
            goes = _plus(goes, _part(part, load))
    if not any(goes) and not taken.unknown:
        return taken
    left = {place: path for place, path in enumerate(group.paths) if path is not None and place not in leaves}
    if not left:
        taken.lost = goes
        return taken
    best = min(left.values())
    takers = [place for place, path in left.items() if path == best]
    columns = [
        [whole * one for one in _shares(found, group, takers, resource)]
        for resource, whole in enumerate(goes)
    ]
    taken.by = {place: Vector(*row) for place, row in zip(takers, zip(*columns, strict=True), strict=True)}
    return taken


def _shares(found: Picture, group: _Group, takers: Sequence[int], resource: int) -> list[float]:
    """How they share what comes to them: as they do now; if they carry nothing or do not tell, by weight, or alike."""
    loads = [group.loads[place] for place in takers]
    known = [load[resource] for load in loads if load is not None]
    if len(known) == len(takers) and (whole := sum(known)) > 0:
        return [one / whole for one in known]
    weights = [found.documents[place].weight or 0 for place in takers]
    if not all(weights):
        return [1 / len(takers)] * len(takers)
    return [one / sum(weights) for one in weights]


def _faded(found: Picture, fading: Mapping[str, float]) -> Picture:
    """With what went with the nodes in `fading` where it has gone. What it was is not known of nobody then."""
    leaves = {place: fading[one.node] for place, one in enumerate(found.documents) if one.node in fading}
    loads = list(found.loads)
    groups = []
    for group in found.groups:
        taken = _taken(found, group, leaves)
        of_group = [_NOTHING if place in leaves else load for place, load in enumerate(group.loads)]
        for place, more in taken.by.items():
            of_group[place] = _added(found, of_group[place], place, more)
            loads[place] = _added(found, loads[place], place, more)
        paths = tuple(None if place in leaves else path for place, path in enumerate(group.paths))
        groups.append(_Group(group.names, paths, tuple(of_group)))
    return replace(found, loads=tuple(loads), groups=tuple(groups), gone=frozenset(leaves))


def _added(found: Picture, load: Vector | None, place: int, more: Vector) -> Vector | None:
    if load is None:
        return None
    return _plus(load, more._replace(connections=0.0) if found.documents[place].synced else more)


def without(found: Picture, gone: Collection[str]) -> Case:
    """What would be, with these nodes gone."""
    leaves = {place: 1.0 for place, one in enumerate(found.documents) if one.node in gone}
    taken = [_taken(found, group, leaves) for group in found.groups]
    return _case(found, tuple(sorted(gone)), taken, frozenset(leaves))


def without_vip(found: Picture, node: str, vip: str) -> Case:
    """What would be, with a VIP gone from this node."""
    return without_scopes(found, {node: vip})


def without_scopes(found: Picture, scopes: Mapping[str, str]) -> Case:
    """What would be, with these nodes gone: each whole, or of one VIP."""
    places = {at: scopes[one.node] for at, one in enumerate(found.documents) if one.node in scopes}
    taken = []
    for at, group in enumerate(found.groups):
        leaves = {
            place: 1.0 if scope == NODE else 1 / len(group.names)
            for place, scope in places.items()
            if scope == NODE or found.places.get(scope) == at
        }
        if leaves:
            taken.append(_taken(found, group, leaves))
    whole = frozenset(place for place, scope in places.items() if scope == NODE)
    return _case(found, tuple(sorted(scopes)), taken, whole)


def _case(
    found: Picture,
    gone: tuple[str, ...],
    taken: Iterable[_Taken],
    leaves: frozenset[int],
) -> Case:
    more: dict[int, Vector] = {}
    unknown: dict[int, set[int]] = {}
    lost = _NOTHING
    for one in taken:
        lost = _plus(lost, one.lost)
        for place, vector in one.by.items():
            more[place] = _plus(more.get(place, _NOTHING), vector)
            unknown.setdefault(place, set()).update(one.unknown)
    nodes = {}
    for place, document in enumerate(found.documents):
        if place in leaves or place in found.gone:
            continue
        before = found.loads[place]
        after = _added(found, before, place, more.get(place, _NOTHING))
        nodes[document.node] = Carried(
            node=document.node,
            load=_as_load(after),
            before=_as_load(before),
            capacity=document.capacity,
            unknown=tuple(sorted(found.documents[of].node for of in unknown.get(place, ()))),
            takes=place in more,
        )
    return Case(gone=gone, nodes=nodes, lost=Load(**lost._asdict()))


def _as_load(vector: Vector | None) -> Load | None:
    return None if vector is None else Load(**vector._asdict())


def today(found: Picture) -> Case:
    """What is."""
    return without(found, ())


def worst(found: Picture, less: int) -> Mapping[str, Case]:
    """For each node, of all ways in which `less` others can be gone, the one in which its load is the tightest.

    Where there are more than `MOST_CASES`, that in which those others are gone that give it the most by themselves. A node
    whose capacity nobody has told, or whose load is not known, has the first of them. Empty: there are no more nodes.
    """
    names = found.names
    if not 0 < less < len(names):
        return {}
    if math.comb(len(names), less) <= MOST_CASES:
        cases = [without(found, gone) for gone in combinations(names, less)]
        return {
            name: max((one for one in cases if name in one.nodes), key=partial(_tightness, name))
            for name in names
        }
    alone = [without(found, (name,)) for name in names]
    return {
        name: without(
            found,
            [
                one.gone[0]
                for one in sorted((one for one in alone if name in one.nodes), key=partial(_tightness, name))[
                    -less:
                ]
            ],
        )
        for name in names
    }


def _tightness(node: str, case: Case) -> float:
    tightest = case.nodes[node].tightest
    return -1.0 if tightest is None else tightest.share


def alone(found: Picture) -> Mapping[str, str]:
    """The VIPs that one node alone has a path for, and which: with that one gone nobody has. Of a fleet of one: none."""
    if not found.is_of_several:
        return {}
    have = (
        (group.names, [place for place, path in enumerate(group.paths) if path is not None])
        for group in found.groups
    )
    return {
        name: found.documents[places[0]].node for names, places in have if len(places) == 1 for name in names
    }


def shares(found: Picture, vip: str | None = None) -> Mapping[str, float]:
    """The part of the packets of a VIP, or of all, that each node carries. Empty: nobody does, or somebody does not tell."""
    at = None if vip is None else found.places.get(vip)
    groups = found.groups if vip is None else () if at is None else (found.groups[at],)
    sums = dict.fromkeys(found.names, 0.0)
    for group in groups:
        for place, load in enumerate(group.loads):
            if place in found.gone:
                continue
            if load is None:
                return {}
            sums[found.documents[place].node] += load.packets
    whole = sum(sums.values())
    return {name: one / whole for name, one in sums.items()} if whole else {}


@dataclass(frozen=True, slots=True)
class OfVip:
    """What a node would carry of one VIP, with `gone` gone."""

    gone: str
    node: str
    figure: Figure


def worst_of_vip(found: Picture, vip: str) -> OfVip | None:
    """Of all nodes that can be gone: where the VIP by itself would take the most of a node. None: not known."""
    at = found.places.get(vip)
    if at is None:
        return None
    group = found.groups[at]
    part = 1 / len(group.names)
    most: OfVip | None = None
    for gone in (place for place, path in enumerate(group.paths) if path is not None):
        taken = _taken(found, group, {gone: 1.0})
        for place, more in taken.by.items():
            load, document = group.loads[place], found.documents[place]
            carried = None if load is None else _as_load(_times(part, _added(found, load, place, more)))
            for figure in _figures(carried, document.capacity, least=bool(taken.unknown)):
                if most is None or figure.share > most.figure.share:
                    most = OfVip(found.documents[gone].node, document.node, figure)
    return most


def told(figure: Figure) -> str:
    """`90% of 10 Gbit/s, limit 70%`."""
    more = " or more" if figure.least else ""
    of = quantity(figure.resource, figure.capacity)
    return f"{percent(figure.share)} of {of}{more}, limit {percent(figure.limit)}"


def quantity(resource: Resource, number: float) -> str:
    """With its unit."""
    return bits(number) if resource is Resource.BITS else f"{amount(number)}{_UNITS[resource]}"


def words(case: Case, node: str) -> str:
    """`if lb2 fails now, lb1 would stand at 90% of 10 Gbit/s, limit 70%`."""
    carried, gone = case.nodes[node], listed(case.gone)
    head = f"if {gone} fail{'s' if len(case.gone) == 1 else ''} now, {node}"
    if carried.load is None:
        return f"{head} would carry more than is known: it does not tell its load"
    figure = carried.tightest
    if figure is None:
        return f"{head} would take its part; its capacity is not configured"
    return f"{head} would stand at {told(figure)}{_of_whom(carried.unknown)}"


def _of_whom(unknown: Sequence[str]) -> str:
    return f" (what {listed(unknown)} carries is not known)" if unknown else ""


def listed(names: Sequence[str]) -> str:
    """The first of them."""
    some = ", ".join(names[:NAMED])
    return f"{some} and {len(names) - NAMED} more" if len(names) > NAMED else some


def refusal(
    own: Document, view: View, fleet: Fleet, scope: str, now: float, *, ahead: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Why the whole node, or the VIP that is the `scope`, should not leave it now: whom it would push over the limit."""
    return too_much(pictured(own, believe(view, fleet, now), now), own.node, scope, ahead=ahead)


def too_much(
    found: Picture, node: str, scope: str, *, ahead: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Why the node, or the VIP on it that is the `scope`, should not leave: each other node that it would push over its limit.

    `ahead`: who leaves too, or may before it, each with its scope: it must fit with them here, and with them gone. One that
    is over its limit and gets no more of it is no reason. Where a capacity is configured and the figure is not known, that
    is a reason too.
    """
    what = node if scope == NODE else f"{scope} on {node}"
    names = set(found.names)
    others = {name: one for name, one in (ahead or {}).items() if name in names and name != node}
    told = {
        name: reason
        for name, one in without_scopes(found, {node: scope}).nodes.items()
        if name != node
        for reason in _pushed(one, what)
    }
    if others:
        before, after = (without_scopes(found, one) for one in (others, {**others, node: scope}))
        leave = [name if of == NODE else f"{of} on {name}" for name, of in sorted(others.items())]
        for name, one in after.nodes.items():
            if name not in told and name != node and one != before.nodes.get(name):
                told.update((name, reason) for reason in _pushed(one, f"{listed(leave)} and {what}"))
    return tuple(told.values())


def _pushed(one: Carried, what: str) -> Iterator[str]:
    if not one.takes or one.capacity is None or not any(getattr(one.capacity, each) for each in Resource):
        return
    if one.load is None:
        yield f"without {what} it is not known how {one.node} would stand: it does not tell its load"
        return
    before = {each.resource: each for each in _figures(one.before, one.capacity, least=False)}
    over = [
        each
        for each in one.figures
        if each.is_over and (each.load > before[each.resource].load or each.least)
    ]
    if over:
        worst_of_them = max(over, key=lambda each: each.share)
        now = f" (now {percent(before[worst_of_them.resource].share)})"
        yield f"without {what}, {one.node} would stand at {told(worst_of_them)}{now}{_of_whom(one.unknown)}"
        return
    if one.unknown:
        yield f"without {what} it is not known how {one.node} would stand: what {listed(one.unknown)} carries is not known"
