"""What a reload would do, known before: its own steps are taken on the state, and nothing of them is carried out.

So the plan says what the reload does at once. What follows depends on checks: a route that is to come has its reason
with it. `ahead` costs what the reload costs the core; `services` costs what has changed, and can be taken in slices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

from anycast.core.dataplane import ipvs
from anycast.core.events import Reconfigured
from anycast.core.preference import Routers
from anycast.core.rendering import LEARN, RELOAD, Session, sessions, table_digest
from anycast.core.state import State
from anycast.core.step import step
from anycast.core.values.configuration import Config, Protocol
from anycast.core.values.fates import Fate, Way
from anycast.core.values.persistent import PersistentMap, changed
from anycast.core.values.route import Prefix, Route
from anycast.core.values.speaker import LearnedBy
from anycast.core.values.table import Metric, metric

_ATTRIBUTES = [one.name for one in fields(Route) if one.name not in ("prefix", "variants")]
_NAMED = 5  # neighbors
_UNLISTED = f"away until BIRD has its attributes: {LEARN}, before the reload"
GOING = frozenset({Fate.DRAINS, Fate.LEAVES, Fate.REMOVED})


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteChange:
    prefix: Prefix
    vip: str
    way: Way
    what: tuple[str, ...] = ()  # attributes that change, or why it is not announced (yet)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChange:
    """`connections`: established through this node, by the counters last read."""

    server: str  # POOL/SERVER
    at: ipvs.DestinationKey
    fate: Fate
    connections: int = 0
    what: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceChange:
    """One IPVS service. `change`: added, removed or changed. `connections`: of all that it has."""

    key: ipvs.Key
    vip: str
    service: str
    change: str
    servers: tuple[ServerChange, ...]
    connections: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """Who announces for the node and has to be told more than a reload of the agent tells, and how that is done."""

    who: str
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a reload does at once, and what of it comes later. `waits`: for `sessions`, or for what else it is to know."""

    routes: tuple[RouteChange, ...] = ()
    services: tuple[ServiceChange, ...] = ()
    sessions: tuple[Session, ...] = ()
    waits: Waits | None = None

    def counts(self) -> dict[str, int]:
        """Of what there is: nothing is left out here."""
        routes = {f"routes_{way}": 0 for way in Way}
        for one in self.routes:
            routes[f"routes_{one.way}"] += 1
        services = {f"services_{change}": 0 for change in ("added", "removed", "changed")}
        servers = {f"servers_{fate}": 0 for fate in Fate}
        connections = 0
        for service in self.services:
            services[f"services_{service.change}"] += 1
            for server in service.servers:
                servers[f"servers_{server.fate}"] += 1
                connections += server.connections if server.fate in GOING else 0
        return {
            **routes,
            **services,
            **servers,
            "connections_of_leaving": connections,
            "sessions": len(self.sessions),
        }


def ahead(state: State, config: Config, now: float) -> State:
    """The state as a reload to `config` would leave it, before the kernel, a check or a plugin has answered."""
    return step(replace(state, seen=now), Reconfigured(config=config), now)[0]


def routes(before: State, after: State) -> Iterator[RouteChange]:
    """Of those that stand, and of the addresses that come. One step is one route."""
    routers, sending = _routers(before, after), Routers(after.config.bgp)
    nothing: PersistentMap[Prefix, Route] = PersistentMap()
    old, new = before.lease.routes or nothing, after.lease.routes or nothing
    for prefix in changed(old, new):
        if prefix not in new:
            yield _withdrawn(before, after, prefix, sending)
        elif prefix not in old:
            yield RouteChange(prefix=prefix, vip=_spelt(after.index.announcing(prefix)), way=Way.ANNOUNCED)
        elif what := tuple(_of_route(old[prefix], new[prefix], routers)):
            vip = _spelt(after.index.announcing(prefix))
            if _unlisted(after.config, old[prefix], new[prefix]):
                what = (*what, _UNLISTED)
            yield RouteChange(prefix=prefix, vip=vip, way=Way.CHANGED, what=what)
    for address in changed(before.index.vip_at, after.index.vip_at):
        name = after.index.vip_at.get(address)
        if name is None or address in before.index.vip_at:
            continue
        prefix = after.index.prefix_of(address)
        if prefix not in new:
            yield RouteChange(
                prefix=prefix, vip=name, way=Way.COMING, what=(_why(after, name, prefix, sending),)
            )


def _why(state: State, name: str, prefix: Prefix, sending: Routers) -> str:
    """Why it is not announced."""
    if not sending.reach(name, prefix.version):
        return "no router gets it: export"
    return str(state.vips[name].verdict.reason)


def _withdrawn(before: State, after: State, prefix: Prefix, sending: Routers) -> RouteChange:
    names = after.index.announcing(prefix)
    if names:
        why = _why(after, names[0], prefix, sending)
        return RouteChange(prefix=prefix, vip=_spelt(names), way=Way.WITHDRAWN, what=(why,))
    names = before.index.announcing(prefix)
    stays = any(
        address in after.index.vip_at
        for name in names
        for address in before.index.vips[name].vip.addresses
        if before.index.prefix_of(address) == prefix
    )
    why = "it is announced by another prefix" if stays else "its address is removed"
    return RouteChange(prefix=prefix, vip=_spelt(names), way=Way.WITHDRAWN, what=(why,))


def _spelt(names: tuple[str, ...]) -> str:
    """The VIP, or those that share the prefix."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _unlisted(config: Config, old: Route, new: Route) -> bool:
    """Whether BIRD would not announce it any more before its configuration lists it."""
    if not config.speaker.is_table or config.speaker.daemon is not LearnedBy.BIRD:
        return False
    listed = (Metric.LISTED, Metric.LISTED_LAST_RESORT)
    return metric(new) in listed and metric(old) not in listed


def _routers(before: State, after: State) -> Mapping[int, tuple[str, ...]]:
    """The neighbors that carry a family, before or after."""
    every = (*before.config.bgp.neighbors, *after.config.bgp.neighbors)
    return {
        version: tuple(
            dict.fromkeys(
                str(one.address) for one in every if version in (one.families or {one.address.version})
            )
        )
        for version in (4, 6)
    }


def _of_route(old: Route, new: Route, routers: Mapping[int, tuple[str, ...]]) -> Iterator[str]:
    """How it differs; where not all neighbors are sent the same, of each of them, those together that are alike."""
    if not old.variants and not new.variants:
        yield from _attributes(old, new)
        return
    was, now = (_by_neighbor(one, routers[one.prefix.version]) for one in (old, new))
    found: dict[str, list[str]] = {}
    texts: dict[tuple[int, int], str] = {}  # of a pair of routes, which neighbors share
    for at in dict.fromkeys((*was, *now)):
        one, other = was.get(at), now.get(at)
        pair = id(one), id(other)
        if pair not in texts:
            texts[pair] = _difference(one, other)
        if texts[pair]:
            found.setdefault(texts[pair], []).append(at)
    for text, names in found.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield f"{', '.join(names[:_NAMED])}{more}: {text}"
    if not found and old != new:
        yield "what a plugin of an older release sends"


def _by_neighbor(route: Route, routers: tuple[str, ...]) -> dict[str, Route]:
    if not route.variants:
        return dict.fromkeys(routers, route)
    return {at: one.route for one in route.variants for at in one.neighbors}


def _difference(was: Route | None, now: Route | None) -> str:
    """Empty: none."""
    if was is None or now is None:
        return "" if was is now else "sent" if was is None else "no longer sent"
    return ", ".join(_attributes(was, now))


def _attributes(old: Route, new: Route) -> Iterator[str]:
    for name in _ATTRIBUTES:
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            yield f"{name} {_text(was)} -> {_text(now)}"


def _text(value: object) -> str:
    match value:
        case None:
            return "default"
        case tuple():
            return f"[{', '.join(map(str, value))}]"
        case _:
            return str(value)


def services(before: State, after: State) -> Iterator[ServiceChange | None]:
    """Of every IPVS service that comes, goes or has other real servers. One step is one service; None: it has not changed."""
    leaving = {key for one in after.leaving.values() for key in one.keys}
    retiring: dict[ipvs.Key, set[ipvs.DestinationKey]] = {}
    for key, at in changed(before.retiring, after.retiring):
        retiring.setdefault(key, set()).add(at)
    keys = dict.fromkeys(changed(before.index.services, after.index.services))
    keys |= dict.fromkeys((*changed(before.kept, after.kept), *retiring))
    for key in keys:
        yield _service(before, after, key, leaves=key in leaving)


def _service(before: State, after: State, key: ipvs.Key, *, leaves: bool) -> ServiceChange | None:
    was, now = before.index.services.get(key), after.index.services.get(key)
    one = now or was
    if one is None:
        return None  # it was no longer configured before
    servers = tuple(_servers(before, after, key, leaves=leaves))
    change = "added" if was is None else "removed" if now is None else "changed"
    if change == "changed" and not servers:
        return None
    name = after.index.vip_at.get(key.address, one.vip) if isinstance(key, ipvs.ServiceKey) else one.vip
    return ServiceChange(
        key=key,
        vip=name,
        service=one.service.name,
        change=change,
        servers=servers,
        connections=sum(_connections(before, key).values()),
    )


def _servers(before: State, after: State, key: ipvs.Key, *, leaves: bool) -> Iterator[ServerChange]:
    old, new = _weights(before, key), _weights(after, key)
    was, now = before.index.servers.get(key, {}), after.index.servers.get(key, {})
    members = [_members(one, key) for one in (before, after)]
    if old == new and was == now and members[0] == members[1]:
        return
    kept = _kept(after, key)
    # Those that an earlier reload replaced, and that have served until now.
    was = {at: scope for at, scope in _kept(before, key).items() if at not in {**kept, **now}} | dict(was)
    connections = _connections(before, key)
    for at in dict.fromkeys((*was, *now)):
        what: tuple[str, ...] = ()
        if at in now and at not in was:
            fate = Fate.ADDED
        elif at not in now:
            fate = (
                Fate.LEAVES
                if leaves
                else Fate.KEPT
                if at in kept
                else Fate.DRAINS
                if (key, at) in after.retiring
                else Fate.REMOVED
            )
        elif old.get(at, 0) and not new.get(at, 0):
            fate = Fate.IDLE
        elif new.get(at, 0) and not old.get(at, 0):
            fate = Fate.RESUMES
        elif what := tuple(_differences(members[0].get(at), members[1].get(at))):
            fate = Fate.CHANGED
        else:
            continue
        scope = now.get(at) or was[at]
        yield ServerChange(server=scope, at=at, fate=fate, connections=connections.get(at, 0), what=what)


def _kept(state: State, key: ipvs.Key) -> dict[ipvs.DestinationKey, str]:
    """The real servers that are kept until those in their place are proven, with their names."""
    return {one.up.key: one.scope for one in state.kept[key].members} if key in state.kept else {}


def _weights(state: State, key: ipvs.Key) -> dict[ipvs.DestinationKey, int]:
    """Of the real servers that the kernel should hold."""
    entry = state.desired.table.get(key)
    return {} if entry is None else {one.key: one.weight for one in entry.destinations}


def _members(state: State, key: ipvs.Key) -> Mapping[ipvs.DestinationKey, ipvs.Destination]:
    """The real servers as they are configured."""
    one = state.index.services.get(key)
    return {} if one is None else {member.up.key: member.up for member in one.membership.members}


def _differences(old: ipvs.Destination | None, new: ipvs.Destination | None) -> Iterator[str]:
    for name in ("weight", "forwarding", "tunnel", "upper", "lower"):
        was, now = getattr(old, name, None), getattr(new, name, None)
        if was != now:
            yield f"{name} {was} -> {now}" if name != "tunnel" else name


def _connections(state: State, key: ipvs.Key) -> dict[ipvs.DestinationKey, int]:
    """Those that stand. IPVS counts all of UDP as inactive."""
    snapshot = state.kernel.snapshot
    if snapshot is None:
        return {}
    udp = isinstance(key, ipvs.ServiceKey) and key.protocol is Protocol.UDP
    counts = snapshot.connections_of(key)
    return {at: one.active + (one.inactive if udp else 0) for at, one in counts.items()}


def plan(
    before: State, after: State, paths: Iterable[RouteChange], found: Iterable[ServiceChange | None]
) -> Plan:
    """In the order of the configuration, what goes first. `paths`: what `routes` gave; `found`: what `services` did."""
    place = {Way.WITHDRAWN: 0, Way.CHANGED: 1, Way.COMING: 2, Way.ANNOUNCED: 3}
    order = {name: number for number, name in enumerate((*before.index.vips, *after.index.vips))}
    found_sessions = sessions(before.config.bgp, after.config.bgp)
    return Plan(
        routes=tuple(
            sorted(
                paths,
                key=lambda one: (
                    place[one.way],
                    order.get(one.vip, -1),
                    one.prefix.version,
                    int(one.prefix.network_address),
                ),
            )
        ),
        services=tuple(
            sorted(filter(None, found), key=lambda one: (order.get(one.vip, -1), ipvs.order_of(one.key)))
        ),
        sessions=found_sessions,
        waits=_waits(before, after, found_sessions),
    )


def _waits(before: State, after: State, found: tuple[Session, ...]) -> Waits | None:
    speaker = after.config.speaker
    if not speaker.is_table:
        return Waits(who="ExaBGP", how=RELOAD) if found else None
    if not found and _same_rendering(before, after):
        return None
    if speaker.daemon is LearnedBy.BIRD:
        return Waits(who="BIRD", how=LEARN)
    return Waits(who="the routing daemon", how="change its configuration, and have it read that")


def _same_rendering(before: State, after: State) -> bool:
    """Whether `anycast render bird` writes the same, passwords aside."""
    if before.rendered and after.rendered:  # both are known, so neither has to be worked out
        return before.rendered == after.rendered
    old, new = before.config, after.config
    return old.speaker.is_table and table_digest(old) == table_digest(new)


def planned(state: State, config: Config, now: float) -> Plan:
    """All at once."""
    after = ahead(state, config, now)
    return plan(state, after, routes(state, after), services(state, after))
