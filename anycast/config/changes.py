"""What differs between two configurations, in words. Empty if and only if they are equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any, TypeVar

from anycast.analysis import maglev
from anycast.analysis.routers import bfd_hops, some
from anycast.core.dataplane.members import server_port, versions
from anycast.core.fleet.values import Capacity
from anycast.core.hooks import Hook, Webhook
from anycast.core.prefixes import is_host_route, prefixes_of
from anycast.core.rendering import LEARN as LEARN_BIRD
from anycast.core.rendering import OF_SESSION, differences, listed
from anycast.core.rendering import RELOAD as RELOAD_EXABGP
from anycast.core.rendering import RESTART as RESTART_EXABGP
from anycast.core.values import configuration as model
from anycast.core.values.checks import BgpSession, LoadCheck, SyslogCanaryCheck
from anycast.core.values.fleet import Certificates, Etcd
from anycast.core.values.speaker import LearnedBy, Ospf

T = TypeVar("T")

RESTART = "restart the agent"
FIGURES = 16  # pools whose moved flows are worked out: each takes a hundredth of a second, or a few
ENDING = ": connections of IPVS end at once: reload in maintenance"
HANGING = (
    ": connections hang where real servers keep address and port (change one of them in the same reload)"
)
RENDER = f"waits for ExaBGP: {RELOAD_EXABGP}"
RESTARTED = f"a restart of ExaBGP: {RESTART_EXABGP}"
LEARN = f"waits for BIRD: {LEARN_BIRD}"
LEARN_OTHER = "change the configuration of the daemon that learns the table"
ANNOUNCER = "restart anycast-table"
ROUTER = "render the configuration of the router again (`anycast render router-…`)"
BFD = "render the configuration of bfdd and of the routers again (`anycast render frr-bfd`, `router-…`)"
BFD_ROUTERS = "render the configuration of the routers again (`anycast render router-…`)"


def changes(old: model.Config, new: model.Config) -> tuple[str, ...]:
    """One line for each change, `pool web: server rs5 added`; what asks for more than a reload says so.

    Secrets are not shown. What has another name and is the same otherwise is said to be renamed, and the rest of what
    differs is told under its new name.
    """
    vips = _renamed_vips(old, new)
    pools = _renamed_pools(old, new, vips)
    of_routers = *_speaker(old, new), *_bgp(old, new)
    return (
        *_node(old, new),
        *_settings(old, new),
        *of_routers,
        *_pools(old, new, pools),
        *_vips(old, new, vips, pools),
        *(() if any(_learn(new) in line for line in of_routers) else _attributes(old, new)),
        *_hooks(old, new),
        *_flows(old, new, vips, pools),
    )


def _renamed(old: Mapping[str, Collection[Any]], new: Mapping[str, Collection[Any]]) -> dict[str, str]:
    """Old names to new ones, of those that share something, where the old name is gone and the new one is new."""
    holders: dict[Any, list[str]] = {}
    for before in (name for name in old if name not in new):
        for one in old[before]:
            holders.setdefault(one, []).append(before)
    order = {name: place for place, name in enumerate(old)}
    names: dict[str, str] = {}
    for after in (name for name in new if name not in old):
        same = {name for one in new[after] for name in holders.get(one, ()) if name not in names}
        if same:
            names[min(same, key=order.__getitem__)] = after
    return names


def _renamed_vips(old: model.Config, new: model.Config) -> dict[str, str]:
    """By a common address."""
    return _renamed(*({vip.name: vip.addresses for vip in config.vips} for config in (old, new)))


def _renamed_pools(old: model.Config, new: model.Config, vips: Mapping[str, str]) -> dict[str, str]:
    """By an address of a real server that the same service uses."""
    pools = [{pool.name for _, __, pool in _pools_of(config)} for config in (old, new)]

    def uses(
        config: model.Config, names: Mapping[str, str], others: AbstractSet[str]
    ) -> dict[str, set[tuple[str, str, model.Address]]]:
        """Of the pools that have come or gone."""
        shared: dict[str, set[tuple[str, str, model.Address]]] = {}
        for vip, service, pool in _pools_of(config):
            if pool.name in others:
                continue
            use = names.get(vip.name, vip.name), service.name
            addresses = (address for server in pool.servers for address in server.addresses)
            shared.setdefault(pool.name, set()).update((*use, address) for address in addresses)
        return shared

    return _renamed(uses(old, vips, pools[1]), uses(new, {}, pools[0]))


def _services(config: model.Config) -> Iterator[tuple[model.Vip, model.Service]]:
    return ((vip, service) for vip in config.vips for service in vip.services)


def _pools_of(config: model.Config) -> Iterator[tuple[model.Vip, model.Service, model.Pool]]:
    return ((vip, service, pool) for vip, service in _services(config) for pool in service.pools)


def _members(
    where: str,
    noun: str,
    old: Mapping[Any, T],
    new: Mapping[Any, T],
    differ: Callable[[T, T], Iterable[str]],
    *,
    more: str = "",
) -> Iterator[str]:
    """What is gone, what is new, how differs what has stayed, and whether it has another order.

    `where` they are, if not at the top; `more`: what a reload does not do when they come and go.
    """
    title = f"{where}: {noun} {{}}" if where else f"{noun} {{}}:"
    yield from (f"{title.format(name)} removed{more}" for name in old if name not in new)
    yield from (f"{title.format(name)} added{more}" for name in new if name not in old)
    stayed = [name for name in old if name in new]
    for name in stayed:
        if old[name] is not new[name]:
            yield from differ(old[name], new[name])
    if stayed != [name for name in new if name in old]:
        yield f"{where}: {noun}s in another order" if where else f"{noun}s: in another order"


def _by_name(members: Iterable[Any], renamed: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    return {renamed.get(member.name, member.name): member for member in members}


_WITHOUT = {"export": "all", "persistence": "none", "expire_failed": "never", "timeouts": "left as they are"}
_WITHOUT |= dict.fromkeys(
    (
        "connection_sync",
        "bfd",
        "token",
        "server_capacity",
        "signature",
        "ospf",
        "weight",
        "tls",
        "etcd",
        "velocity",
    ),
    "none",
)


def _fields(old: Any, new: Any, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and `old -> new` of the fields that differ."""
    for name in names:
        values = [getattr(side, name) for side in (old, new)]
        if values[0] != values[1]:
            yield (
                name,
                " -> ".join(
                    _WITHOUT.get(name, "default") if value is None else _text(value) for value in values
                ),
            )


def _text(value: object) -> str:
    match value:
        case None:
            return "default"
        case bool():
            return "true" if value else "false"
        case float() if value >= 86400:
            return f"{value / 86400:g}d"
        case float():
            return f"{value * 1000:g}ms" if 0 < value < 1 else f"{value:g}s"
        case bytes():
            return value.hex()
        case frozenset():
            return f"[{', '.join(sorted(map(str, value)))}]"
        case tuple():
            return f"[{', '.join(map(str, value))}]"
        case model.Timeouts():
            return f"tcp {value.tcp}s, tcp_fin {value.tcp_fin}s, udp {value.udp}s"
        case model.ConnectionSync():
            return f"id {value.id} on {value.interface}, {value.group} port {value.port}, ttl {value.ttl}"
        case Ospf():
            own = "" if value.router_id is None else f", router_id {value.router_id}"
            times = f"hello {value.hello}s, dead {value.dead}s"
            return f"area {value.area} on {', '.join(value.interfaces)}, {times}{own}"
        case Capacity():
            told = {one: getattr(value, one) for one in _names(value) if getattr(value, one) is not None}
            return ", ".join(f"{one} {amount:g}" for one, amount in told.items())
        case Certificates() | Etcd():
            told = {one: getattr(value, one) for one in _names(value) if getattr(value, one) is not None}
            return ", ".join(f"{one} {_text(part)}" for one, part in told.items())
        case model.Quorum():
            return f"low {value.low}, high {value.high}"
        case _:
            return str(value)


def _names(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value)]


def _node(old: model.Config, new: model.Config) -> Iterator[str]:
    for name, change in _fields(old.node, new.node, _names(old.node)):
        too = f"; and {RESTARTED}" if name in ("runtime_dir", "exabgp_user") else ""
        yield f"node: {name} {change}" + ("" if name in model.RELOADED else f": {RESTART}{too}")


def _settings(old: model.Config, new: model.Config) -> Iterator[str]:
    for title, field, words in (
        ("ipvs", "ipvs_exclusive", ("shared", "exclusive")),
        ("sysctls", "manage_sysctls", ("check", "manage")),
    ):
        before, after = (words[getattr(config, field)] for config in (old, new))
        if before != after:
            yield f"{title}: {before} -> {after}"
    yield from _require("node:", old.require, new.require)
    for name, change in _fields(old.timing, new.timing, _names(old.timing)):
        yield f"timing: {name} {change}"
    for name, change in _fields(old, new, ("timeouts", "connection_sync")):
        yield f"{name}: {change}"
    yield from _fleet(old, new)


def _fleet(old: model.Config, new: model.Config) -> Iterator[str]:
    before, after = old.fleet, new.fleet
    if before is None or after is None:
        if before is not after:
            yield "fleet: " + " -> ".join("none" if one is None else one.view for one in (before, after))
        return
    for name, change in _fields(before, after, _names(before)):
        yield f"fleet: {name} {change}"


def _speaker(old: model.Config, new: model.Config) -> Iterator[str]:
    unit = "anycast-table" if new.speaker.is_table else "anycast-exabgp"
    learn = _learn(new)
    also = {
        "type": f"start {unit}, and stop the other one once it announces",
        "table": f"{ANNOUNCER}; {learn}",
        "user": f"{RESTART} and anycast-table",
        "ospf": learn,
    }
    for name, change in _fields(old.speaker, new.speaker, _names(old.speaker)):
        yield f"speaker: {name} {change}: {also.get(name, ANNOUNCER)}"


def _again(config: model.Config) -> str:
    """What else a change of the sessions asks for."""
    return _learn(config) if config.speaker.is_table else RENDER


def _learn(config: model.Config) -> str:
    return LEARN if config.speaker.daemon is LearnedBy.BIRD else LEARN_OTHER


def _attributes(old: model.Config, new: model.Config) -> Iterator[str]:
    """Of VIPs: a daemon that learns the table has them in its configuration, and nowhere else."""
    if not (old.speaker.is_table and new.speaker.is_table):
        return
    before, after = ({route.prefix: route for route in listed(config)} for config in (old, new))
    other = {one for one in before.keys() | after.keys() if before.get(one) != after.get(one)}
    known = {one for vip in old.vips for one in prefixes_of(vip)}
    if names := [vip.name for vip in new.vips if any(map(_is_new_and_wide(known), prefixes_of(vip)))]:
        yield f"the prefix of {some(names)}, wider than a host route: {_learn(new)}; until then not announced"
    if names := [vip.name for vip in new.vips if not other.isdisjoint(prefixes_of(vip))]:
        yield f"attributes of {some(names)}: {_learn(new)}; until then announced with the old ones, or not at all"


def _is_new_and_wide(known: Collection[model.Prefix]) -> Callable[[model.Prefix], bool]:
    return lambda prefix: prefix not in known and not is_host_route(prefix)


def _bgp(old: model.Config, new: model.Config) -> Iterator[str]:
    for name, change in _fields(old.bgp, new.bgp, ("local_as", "router_id", "hold_time")):
        yield f"bgp: {name} {change}: {_again(new)}"
    for name, change in _fields(old.bgp, new.bgp, ("listen_port",)):
        waits = _learn(new) if new.speaker.is_table else f"waits for a restart of ExaBGP: {RESTART_EXABGP}"
        yield f"bgp: {name} {change}: {waits}"
    rendered = {
        "next_hop_v4",
        "next_hop_v6",
        "view_mark",
        "weight",
    }  # the lease has them, and what is written for BIRD
    for name, change in _fields(old.bgp, new.bgp, sorted(rendered)):
        yield f"bgp: {name} {change}" + (f": {_again(new)}" if new.speaker.is_table else "")
    before, after = ({router.address: router for router in config.bgp.neighbors} for config in (old, new))
    yield from _members("bgp", "neighbor", before, after, _neighbor_of(new), more=f": {_again(new)}")
    if not new.speaker.is_table:
        yield from _hops(old.bgp, new.bgp)


def _hops(old: model.Bgp, new: model.Bgp) -> Iterator[str]:
    """Of the node's bfdd, whose file has more of a session than `bfd`."""
    before = {one.address: one for one in old.neighbors}
    for one in new.neighbors:
        known = before.get(one.address)
        # On a link-local address bfdd has no session of several hops, whatever the router speaks.
        if known is None or one.interface or one.bfd is None or known.bfd != one.bfd:
            continue
        was, now = (
            "several hops" if bfd_hops(bgp, neighbor, neighbor.software) else "one hop"
            for bgp, neighbor in ((old, known), (new, one))
        )
        if was != now:
            yield f"bgp: neighbor {one.address} bfd over {was} -> over {now}: {BFD}"


def _neighbor_of(config: model.Config) -> Callable[[model.Neighbor, model.Neighbor], Iterator[str]]:
    is_table = config.speaker.is_table
    return lambda old, new: _neighbor(old, new, _again(config), is_table=is_table)


def _neighbor(old: model.Neighbor, new: model.Neighbor, again: str, *, is_table: bool) -> Iterator[str]:
    what = list(differences(old, new, OF_SESSION))
    if old.families != new.families:
        what.append(f"families {_families(old)} -> {_families(new)}")
    if (old.password, old.password_from) != (new.password, new.password_from):
        what.append("password")
    if what:
        yield f"bgp: neighbor {new.address} changed ({', '.join(what)}): {again}"
    for name, change in _fields(old, new, ("bfd",)):
        yield f"bgp: neighbor {new.address} {name} {change}: {f'{again}; {BFD_ROUTERS}' if is_table else BFD}"
    for name, change in _fields(old, new, ("route_reflector", "remote_interface")):
        yield f"bgp: neighbor {new.address} {name} {change}: {ROUTER}"
    for name, change in _fields(old, new, ("export",)):
        yield f"bgp: neighbor {new.address} {name} {change}" + (f": {again}" if is_table else "")


def _families(neighbor: model.Neighbor) -> str:
    return f"[{', '.join(f'ipv{version}' for version in sorted(neighbor.families))}]"


def _pools(old: model.Config, new: model.Config, renamed: Mapping[str, str]) -> Iterator[str]:
    """The same servers may stand in a pool with several checks: those are told with the services."""
    yield from (f"pool {before} is renamed to {after}" for before, after in renamed.items())
    before, after = (
        {names.get(pool.name, pool.name): pool for _, __, pool in _pools_of(config)}
        for config, names in ((old, renamed), (new, {}))
    )
    yield from (f"pool {name}: no longer served" for name in before if name not in after)
    yield from (f"pool {name}: served" for name in after if name not in before)
    for name in (name for name in before if name in after):
        if before[name] is not after[name]:
            yield from _servers(before[name], after[name])


def _servers(old: model.Pool, new: model.Pool) -> Iterator[str]:
    def differ(old: model.RealServer, new: model.RealServer) -> Iterator[str]:
        for field, change in _fields(old, new, ("addresses", "weight", "port")):
            yield f"pool {pool}: server {new.name} {field} {change}"
        for field, change in _fields(old, new, ("upper", "lower")):
            yield f"pool {pool}: server {new.name} {field}_threshold {change}"

    pool = new.name
    yield from _members(f"pool {pool}", "server", _by_name(old.servers), _by_name(new.servers), differ)


def _vips(
    old: model.Config, new: model.Config, renamed: Mapping[str, str], pools: Mapping[str, str]
) -> Iterator[str]:
    yield from (f"VIP {before} is renamed to {after}" for before, after in renamed.items())
    before, after = _by_name(old.vips, renamed), _by_name(new.vips)
    yield from _members("", "vip", before, after, lambda old, new: _vip(old, new, pools))


_ROUTED = ("addresses", "announce", "role", *model.ROUTE_ATTRIBUTES, "when_unhealthy")


def _vip(old: model.Vip, new: model.Vip, pools: Mapping[str, str]) -> Iterator[str]:
    title = f"vip {new.name}"
    for name, change in _fields(old, new, _ROUTED):
        yield f"{title}: {name} {change}"
    yield from _require(f"{title}:", old.require, new.require)

    def differ(old: model.Service, new: model.Service) -> Iterator[str]:
        return _service(f"{title}: service {new.name}", old, new, pools)

    yield from _members(title, "service", _by_name(old.services), _by_name(new.services), differ)

    def differ_here(old: model.Local, new: model.Local) -> Iterator[str]:
        where = f"{title}: local service {new.name}"
        yield from _require(where, old.require, new.require)
        if old.check != new.check:
            yield f"{where} check {_arrow(_part(old.check), _part(new.check))}"

    yield from _members(title, "local service", _by_name(old.local), _by_name(new.local), differ_here)
    if given := sorted({one.name for one in old.services} & {one.name for one in new.local}):
        yield f"{title}: {some(given)} goes from IPVS to this node itself{ENDING}"


def _service(title: str, old: model.Service, new: model.Service, pools: Mapping[str, str]) -> Iterator[str]:
    names = (
        "scheduler",
        "flags",
        "forwarding",
        "tunnel",
        "one_packet",
        "persistence",
        "expire_failed",
        "server_capacity",
        "quorum",
    )
    for name, change in _fields(old, new, names):
        yield f"{title} {name} {change}{HANGING if name == 'forwarding' and _hanging(old, new) else ''}"
    yield from _require(title, old.require, new.require)
    if pools.get(old.pool.name, old.pool.name) != new.pool.name:
        yield f"{title} pool {old.pool.name} -> {new.pool.name}"
    if old.pool.check != new.pool.check:
        yield f"{title} check {_check(old.pool.check, new.pool.check)}"
    yield from _sorry(title, old.sorry, new.sorry, pools)


def _sorry(
    title: str, old: model.Pool | None, new: model.Pool | None, pools: Mapping[str, str]
) -> Iterator[str]:
    was = "none" if old is None else pools.get(old.name, old.name)
    now = "none" if new is None else new.name
    if was != now:
        yield f"{title} sorry {_arrow(was, now)}"
    elif old is not None and new is not None and old.check != new.check:
        yield f"{title} sorry: check {_check(old.check, new.check)}"


def _hanging(old: model.Service, new: model.Service) -> bool:
    """Whether some connections are sent by the route of the others: the kernel has one for each record."""
    direct = model.Forwarding.DR in (old.forwarding, new.forwarding)
    return direct and not (old.one_packet and new.one_packet) and not _places(old).isdisjoint(_places(new))


def _places(service: model.Service) -> set[tuple[model.Address, int]]:
    return {
        (address, server_port(service, server))
        for server in service.pool.servers
        for address in server.addresses
    }


def _check(old: model.Tree, new: model.Tree) -> str:
    if not isinstance(old, model.Check) or not isinstance(new, model.Check):
        return _arrow(_part(old), _part(new))
    what = [f"{name} {change}" for name, change in _fields(old, new, _names(old)[1:])]
    if old.kind != new.kind:
        words = _kind(old.kind), _kind(new.kind)
        what.insert(0, _arrow(*words) if words[0] != words[1] else _hidden(old.kind, new.kind))
    return ", ".join(what)


def described(kind: model.CheckKind) -> str:
    """A kind of check in words, secrets left out."""
    return _kind(kind)


def _arrow(old: str, new: str) -> str:
    return f"{old} -> {new}" if old != new else f"{new}, with other settings"


def _part(part: model.Tree | None) -> str:
    """`2 of a, b (weight 2)`: what is named is not told again."""
    match part:
        case None:
            return "none"
        case model.Rule(parts=parts):
            names = ", ".join(
                one.name if one.weight == 1 else f"{one.name} (weight {one.weight})" for one in parts
            )
            return f"{part.needed} of {names}"
        case model.Check():
            return _kind(part.kind)
        case BgpSession():
            return str(part)


def _require(title: str, old: model.Tree | None, new: model.Tree | None) -> Iterator[str]:
    if old != new:
        yield f"{title} require {_arrow(_part(old), _part(new))}"


def _kind(kind: model.CheckKind) -> str:
    port = f" on port {where}" if (where := getattr(kind, "port", None)) is not None else ""
    match kind:
        case model.CommandCheck():
            return f"command {' '.join(kind.argv)}"
        case model.HttpCheck():
            verify = " without verifying" if kind.tls and not kind.verify else ""
            host = f" for {kind.host}" if kind.host else ""
            expecting = f"expecting {_statuses(kind.expect)}"
            more = _told(kind, frozenset({"tls", "verify", "port", "method", "path", "host", "expect"}))
            return f"{kind.type} {kind.method} {kind.path}{host}{port}{verify} {expecting}{more}"
        case SyslogCanaryCheck():
            return f"syslog over UDP{port}{_told(kind, frozenset({'port'}))}"
        case _:
            return f"{kind.type}{port}{_told(kind, frozenset({'port'}))}"


def _told(kind: model.CheckKind, known: frozenset[str] = frozenset()) -> str:
    """The settings that are not at their default, secrets left out."""
    words = [
        f"{field.name} {value:g}" if isinstance(kind, LoadCheck) else f"{field.name} {_text(value)}"
        for field in dataclasses.fields(kind)
        if field.name not in known and field.repr and (value := getattr(kind, field.name)) != field.default
    ]
    return "".join(f", {word}" for word in words)


def _hidden(old: model.CheckKind, new: model.CheckKind) -> str:
    """What changed in settings that are not shown."""
    names = [
        field.name
        for field in dataclasses.fields(old)
        if getattr(old, field.name) != getattr(new, field.name)
    ]
    return f"other {' and '.join(names)}"


def _statuses(expect: frozenset[int]) -> str:
    words: list[str] = []
    for first in range(200, 600, 100):
        group = set(range(first, first + 100))
        if group <= expect:
            words.append(f"{first // 100}xx")
        else:
            words += [str(status) for status in sorted(group & expect)]
    return ",".join(words)


def _flows(
    old: model.Config, new: model.Config, vips: Mapping[str, str], pools: Mapping[str, str]
) -> Iterator[str]:
    """What other Maglev tables do: once for each pool, by its first service, or for a service with another pool."""
    titles: set[str] = set()
    untouched = {id(vip) for vip in old.vips} & {id(vip) for vip in new.vips}
    before = {
        (vips.get(vip.name, vip.name), service.name): service
        for vip, service in _services(old)
        if id(vip) not in untouched
    }
    for vip, service in _services(new):
        was = None if id(vip) in untouched else before.get((vip.name, service.name))
        if was is None or not was.scheduler is service.scheduler is model.Scheduler.MH:
            continue
        name = service.pool.name
        same = pools.get(was.pool.name, was.pool.name) == name
        title = f"pool {name}" if same else f"vip {vip.name}: service {service.name}"
        if title not in titles and (what := _moved(was, service, vip, known=len(titles) < FIGURES)):
            titles.add(title)
            yield f"{title}: {what}"


def _moved(old: model.Service, new: model.Service, vip: model.Vip, *, known: bool) -> str:
    """In words how many flows change their real server; empty: none. `known`: with the figure."""
    tables = {
        version: (maglev.entries(old, version), maglev.entries(new, version)) for version in versions(vip)
    }
    differing = {version: pair for version, pair in tables.items() if all(pair) and pair[0] != pair[1]}
    if not differing:
        return ""
    if not known or any(len(one) > maglev.LARGE for pair in differing.values() for one in pair):
        return "flows will go to other real servers"
    share = max(maglev.moved(*pair, version) for version, pair in differing.items())
    fewer = any({one.key for one in was} - {one.key for one in now} for was, now in differing.values())
    whose = "the flows of the real servers that stay" if fewer and share < 1 else "the flows"
    return f"{maglev.spelt(share)} of {whose} will go to other real servers" if share else ""


def _hooks(old: model.Config, new: model.Config) -> Iterator[str]:
    yield from _members("", "hook", _by_name(old.hooks), _by_name(new.hooks), _hook)


def _hook(old: Hook, new: Hook) -> Iterator[str]:
    what = [f"{name} {change}" for name, change in _fields(old, new, ("events", "timeout", "limit", "per"))]
    was, now = old.action, new.action
    if type(was) is not type(now):
        kinds = [f"{'webhook to' if isinstance(one, Webhook) else 'command'} {one}" for one in (was, now)]
        what.append(" -> ".join(kinds))
    else:
        for field in dataclasses.fields(was):
            for name, change in _fields(was, now, (field.name,)):
                what.append(f"{name} {change}" if field.repr else f"other {name}")
    if what:
        yield f"hook {new.name}: {', '.join(what)}"
