"""What differs between two configurations, in words. Empty if and only if they are equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from anycast.analysis import maglev
from anycast.core.dataplane.members import versions
from anycast.core.hooks import Hook, Secret, Webhook
from anycast.core.values.checks import BgpSession, LoadCheck, SyslogCanaryCheck, TcpVipCheck
from anycast.core.values.configuration import (
    Address,
    Check,
    CheckKind,
    CommandCheck,
    Config,
    ConnectionSync,
    HttpCheck,
    Neighbor,
    Pool,
    Prefix,
    RealServer,
    Rule,
    Scheduler,
    Service,
    Timeouts,
    Tree,
    Vip,
)

RESTART = "restart the agent"
FIGURES = 16  # pools whose moved flows are worked out: each takes a hundredth of a second, or a few
RENDER = "restart ExaBGP, with its configuration rendered again"
BFD = "render the configuration of bfdd and of the routers again (`anycast render frr-bfd`, `router-…`)"


def changes(old: Config, new: Config) -> tuple[str, ...]:
    """One line for each change, `pool web: server rs5 added`; what asks for more than a reload says so.

    Secrets are not shown.
    """
    return (
        *_node(old, new),
        *_settings(old, new),
        *_bgp(old, new),
        *_pools(old, new),
        *_vips(old, new),
        *_hooks(old, new),
        *_flows(old, new),
    )


def _fields(old: Any, new: Any, names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Name and `old -> new` of the fields that differ."""
    for name in names:
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            yield name, f"{_text(before)} -> {_text(after)}"


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
        case _:
            return str(value)


def _names(value: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(value))


def _node(old: Config, new: Config) -> Iterator[str]:
    for name, change in _fields(old.node, new.node, _names(old.node)):
        too = f" and {RENDER}" if name in ("runtime_dir", "exabgp_user") else ""
        yield f"node: {name} {change}: {RESTART}{too}"


def _settings(old: Config, new: Config) -> Iterator[str]:
    if old.ipvs_exclusive != new.ipvs_exclusive:
        words = {False: "shared", True: "exclusive"}
        yield f"ipvs: {words[old.ipvs_exclusive]} -> {words[new.ipvs_exclusive]}"
    if old.manage_sysctls != new.manage_sysctls:
        words = {False: "check", True: "manage"}
        yield f"sysctls: {words[old.manage_sysctls]} -> {words[new.manage_sysctls]}"
    yield from _require("node:", old.require, new.require)
    for name, change in _fields(old.timing, new.timing, _names(old.timing)):
        yield f"timing: {name} {change}"
    if old.timeouts != new.timeouts:
        yield f"timeouts: {_timeouts(old.timeouts)} -> {_timeouts(new.timeouts)}"
    if old.connection_sync != new.connection_sync:
        yield f"connection_sync: {_sync(old.connection_sync)} -> {_sync(new.connection_sync)}"


def _timeouts(timeouts: Timeouts | None) -> str:
    if timeouts is None:
        return "left as they are"
    return f"tcp {timeouts.tcp}s, tcp_fin {timeouts.tcp_fin}s, udp {timeouts.udp}s"


def _sync(sync: ConnectionSync | None) -> str:
    if sync is None:
        return "none"
    return f"id {sync.id} on {sync.interface}, {sync.group} port {sync.port}, ttl {sync.ttl}"


def _bgp(old: Config, new: Config) -> Iterator[str]:
    for name, change in _fields(old.bgp, new.bgp, ("local_as", "router_id", "hold_time")):
        yield f"bgp: {name} {change}: {RENDER}"
    for name, change in _fields(old.bgp, new.bgp, ("next_hop_v4", "next_hop_v6")):
        yield f"bgp: {name} {change}"
    before = {neighbor.address: neighbor for neighbor in old.bgp.neighbors}
    after = {neighbor.address: neighbor for neighbor in new.bgp.neighbors}
    for address in _gone(before, after):
        yield f"bgp: neighbor {address} removed: {RENDER}"
    for address in _gone(after, before):
        yield f"bgp: neighbor {address} added: {RENDER}"
    for address in _kept(before, after):
        if what := _neighbor(before[address], after[address]):
            yield f"bgp: neighbor {address} changed ({what}): {RENDER}"
        old_bfd, new_bfd = before[address].bfd, after[address].bfd
        if old_bfd != new_bfd:
            yield f"bgp: neighbor {address} bfd {old_bfd or 'none'} -> {new_bfd or 'none'}: {BFD}"
    if _reordered(before, after):
        yield "bgp: neighbors in another order"


def _neighbor(old: Neighbor, new: Neighbor) -> str:
    what = [
        f"{name} {change}" for name, change in _fields(old, new, ("remote_as", "local_address", "passive"))
    ]
    if old.families != new.families:
        what.append(f"families {_families(old)} -> {_families(new)}")
    if old.password != new.password:
        what.append("password")
    return ", ".join(what)


def _families(neighbor: Neighbor) -> str:
    return f"[{', '.join(f'ipv{version}' for version in sorted(neighbor.families))}]"


def _by_name(config: Config) -> dict[str, list[Pool]]:
    """The pools by name. The same servers may stand there with several checks."""
    pools: dict[str, list[Pool]] = {}
    for vip in config.vips:
        for service in vip.services:
            known = pools.setdefault(service.pool.name, [])
            if service.pool not in known:
                known.append(service.pool)
    return pools


def _pools(old: Config, new: Config) -> Iterator[str]:
    before, after = _by_name(old), _by_name(new)
    for name in _gone(before, after):
        yield f"pool {name}: no longer served"
    for name in _gone(after, before):
        yield f"pool {name}: served"
    for name in _kept(before, after):
        yield from _servers(f"pool {name}", before[name][0].servers, after[name][0].servers)


def _servers(pool: str, old: tuple[RealServer, ...], new: tuple[RealServer, ...]) -> Iterator[str]:
    before = {server.name: server for server in old}
    after = {server.name: server for server in new}
    for name in _gone(before, after):
        yield f"{pool}: server {name} removed"
    for name in _gone(after, before):
        yield f"{pool}: server {name} added"
    for name in _kept(before, after):
        for field, change in _fields(before[name], after[name], ("addresses", "weight", "port")):
            yield f"{pool}: server {name} {field} {change}"
        for field, change in _fields(before[name], after[name], ("upper", "lower")):
            yield f"{pool}: server {name} {field}_threshold {change}"
    if _reordered(before, after):
        yield f"{pool}: servers in another order"


def _vips(old: Config, new: Config) -> Iterator[str]:
    before = {vip.name: vip for vip in old.vips}
    after = {vip.name: vip for vip in new.vips}
    for name in _gone(before, after):
        yield f"vip {name}: removed"
    for name in _gone(after, before):
        yield f"vip {name}: added"
    for name in _kept(before, after):
        yield from _vip(before[name], after[name])
    if _reordered(before, after):
        yield "vips: in another order"
    if _prefixes(old) != _prefixes(new):
        yield f"vips: the addresses this node may announce changed: {RENDER}"


def _vip(old: Vip, new: Vip) -> Iterator[str]:
    title = f"vip {new.name}"
    for name, change in _fields(old, new, ("addresses", "med", "communities", "large_communities")):
        yield f"{title}: {name} {change}"
    yield from _require(f"{title}:", old.require, new.require)
    before = {service.name: service for service in old.services}
    after = {service.name: service for service in new.services}
    for name in _gone(before, after):
        yield f"{title}: service {name} removed"
    for name in _gone(after, before):
        yield f"{title}: service {name} added"
    for name in _kept(before, after):
        yield from _service(f"{title}: service {name}", before[name], after[name])
    if _reordered(before, after):
        yield f"{title}: services in another order"


def _service(title: str, old: Service, new: Service) -> Iterator[str]:
    for name, change in _fields(old, new, ("scheduler", "flags", "forwarding", "tunnel", "one_packet")):
        yield f"{title} {name} {change}"
    if old.persistence != new.persistence:
        before, after = (_text(one.persistence) if one.persistence else "none" for one in (old, new))
        yield f"{title} persistence {before} -> {after}"
    if old.expire_failed != new.expire_failed:
        before, after = (
            "never" if one.expire_failed is None else _text(one.expire_failed) for one in (old, new)
        )
        yield f"{title} expire_failed {before} -> {after}"
    if old.quorum != new.quorum:
        yield (
            f"{title} quorum low {old.quorum.low}, high {old.quorum.high} -> "
            f"low {new.quorum.low}, high {new.quorum.high}"
        )
    yield from _require(title, old.require, new.require)
    if old.pool.name != new.pool.name:
        yield f"{title} pool {old.pool.name} -> {new.pool.name}"
    if old.pool.check != new.pool.check:
        yield f"{title} check {_check(old.pool.check, new.pool.check)}"


def _check(old: Tree, new: Tree) -> str:
    if not isinstance(old, Check) or not isinstance(new, Check):
        return _arrow(_part(old), _part(new))
    what = [f"{name} {change}" for name, change in _fields(old, new, _names(old)[1:])]
    if old.kind != new.kind:
        words = _kind(old.kind), _kind(new.kind)
        what.insert(0, _arrow(*words) if words[0] != words[1] else _hidden(old.kind, new.kind))
    return ", ".join(what)


def described(kind: CheckKind) -> str:
    """A kind of check in words, secrets left out."""
    return _kind(kind)


def _arrow(old: str, new: str) -> str:
    return f"{old} -> {new}" if old != new else f"{new}, with other settings"


def _part(part: Tree | None) -> str:
    """`2 of a, b (weight 2)`: what is named is not told again."""
    match part:
        case None:
            return "none"
        case Rule(parts=parts):
            names = ", ".join(
                one.name if one.weight == 1 else f"{one.name} (weight {one.weight})" for one in parts
            )
            return f"{part.needed} of {names}"
        case Check():
            return _kind(part.kind)
        case BgpSession():
            return str(part)


def _require(title: str, old: Tree | None, new: Tree | None) -> Iterator[str]:
    if old != new:
        yield f"{title} require {_arrow(_part(old), _part(new))}"


def _kind(kind: CheckKind) -> str:
    port = f" on port {where}" if (where := getattr(kind, "port", None)) is not None else ""
    match kind:
        case CommandCheck():
            return f"command {' '.join(kind.argv)}"
        case HttpCheck():
            verify = " without verifying" if kind.tls and not kind.verify else ""
            host = f" for {kind.host}" if kind.host else ""
            expecting = f"expecting {_statuses(kind.expect)}"
            more = _told(kind, frozenset({"tls", "verify", "port", "method", "path", "host", "expect"}))
            return f"{kind.type} {kind.method} {kind.path}{host}{port}{verify} {expecting}{more}"
        case TcpVipCheck():
            return f"tcp to the VIP{port}"
        case SyslogCanaryCheck():
            return f"syslog over UDP{port}{_told(kind, frozenset({'port'}))}"
        case _:
            return f"{kind.type}{port}{_told(kind, frozenset({'port'}))}"


def _told(kind: CheckKind, known: frozenset[str] = frozenset()) -> str:
    """The settings that are not at their default, secrets left out."""
    words = [
        f"{field.name} {value:g}" if isinstance(kind, LoadCheck) else f"{field.name} {_text(value)}"
        for field in dataclasses.fields(kind)
        if field.name not in known and field.repr and (value := getattr(kind, field.name)) != field.default
    ]
    return "".join(f", {word}" for word in words)


def _hidden(old: CheckKind, new: CheckKind) -> str:
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


def _flows(old: Config, new: Config) -> Iterator[str]:
    """What other Maglev tables do: once for each pool, by its first service, or for a service with another pool."""
    told: set[str] = set()
    before = {(vip.name, service.name): service for vip in old.vips for service in vip.services}
    for vip in new.vips:
        for service in vip.services:
            was = before.get((vip.name, service.name))
            if was is None or not was.scheduler is service.scheduler is Scheduler.MH:
                continue
            name = service.pool.name
            title = f"pool {name}" if was.pool.name == name else f"vip {vip.name}: service {service.name}"
            if title not in told and (what := _moved(was, service, vip, known=len(told) < FIGURES)):
                told.add(title)
                yield f"{title}: {what}"


def _moved(old: Service, new: Service, vip: Vip, *, known: bool) -> str:
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


def _prefixes(config: Config) -> set[Address | Prefix]:
    return {address for vip in config.vips for address in vip.addresses}


def _hooks(old: Config, new: Config) -> Iterator[str]:
    before = {hook.name: hook for hook in old.hooks}
    after = {hook.name: hook for hook in new.hooks}
    for name in _gone(before, after):
        yield f"hook {name}: removed"
    for name in _gone(after, before):
        yield f"hook {name}: added"
    for name in _kept(before, after):
        if before[name] != after[name]:
            yield f"hook {name}: {', '.join(_hook(before[name], after[name]))}"
    if _reordered(before, after):
        yield "hooks: in another order"


def _hook(old: Hook, new: Hook) -> Iterator[str]:
    for name, change in _fields(old, new, ("events", "timeout", "limit", "per")):
        yield f"{name} {change}"
    was, now = old.action, new.action
    if type(was) is not type(now):
        kinds = [f"{'webhook to' if isinstance(one, Webhook) else 'command'} {one}" for one in (was, now)]
        yield " -> ".join(kinds)
        return
    for field in dataclasses.fields(was):
        values = [getattr(one, field.name) for one in (was, now)]
        if values[0] == values[1]:
            continue
        if field.repr:
            words = [
                "none" if one is None else str(one) if isinstance(one, Secret) else _text(one)
                for one in values
            ]
            yield f"{field.name} {words[0]} -> {words[1]}"
        else:
            yield f"other {field.name}"


def _gone(some: dict[Any, Any], others: dict[Any, Any]) -> list[Any]:
    return [key for key in some if key not in others]


def _kept(some: dict[Any, Any], others: dict[Any, Any]) -> list[Any]:
    return [key for key in some if key in others]


def _reordered(old: dict[Any, Any], new: dict[Any, Any]) -> bool:
    return _kept(old, new) != _kept(new, old)
