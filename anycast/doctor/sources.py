"""With which source addresses the node's own traffic leaves, and what comes back to it is dropped for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from anycast.core.dataplane.kernel import SetSysctl
from anycast.core.values.configuration import Address, Config
from anycast.doctor.demands import FORWARDING6, sysctls_wanted, vips, ways
from anycast.doctor.facts import Facts, conf
from anycast.doctor.finding import Code, Finding, Severity, set_sysctls, some

_MISSING = (False, 0, "0")  # what `fib … oif missing` is compared with


def source_addresses(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """Which source the kernel takes to each neighbor, real server and resolver, as it was asked."""
    if config is None or facts.interfaces is None:
        return
    own = {found.ip for one in facts.interfaces for found in one.addresses}
    names = {address: vip.name for vip, address in vips(config)}
    # What is wrong with the source, how it is cured, who is meant, which of them.
    wrong: dict[tuple[str, str], dict[str, list[str]]] = {}
    for who, address, source in _asked(facts, config):
        cure = _own_address(source.version)
        if source in names:
            what = f"{source}, the address of VIP {names[source]}: the answers go to whichever node the routers choose"
        elif source.is_unspecified:
            what = f"{source}, for no address of this node may be a source of IPv{source.version}: there are no answers"
        elif source not in own:
            what = f"{source}, which no interface of this node has: there are no answers"
            cure = _NOT_OURS.format(source=source)
        else:
            continue
        wrong.setdefault((what, cure), {}).setdefault(who, []).append(str(address))
    for (what, cure), targets in wrong.items():
        to = " and ".join(f"{who} {some(addresses)}" for who, addresses in targets.items())
        yield Finding(
            severity=Severity.WARNING if set(targets) == {"resolver"} else Severity.ERROR,
            code=Code.SOURCE_ADDRESS,
            text=f"this node's own traffic to {to} leaves with the source {what}",
            fix=f"{cure}; `ip route get {next(iter(targets.values()))[0]}` shows what the kernel takes",
        )


_NOT_OURS = (
    "`ip address add {source} dev lo`, if it is this node's; otherwise another `local_address` of the neighbor, or no "
    "`src {source}` in the route (`ip route change` with all of the route but that); and for the next boot in the file that "
    "sets it"
)


def _own_address(version: int) -> str:
    width, family = (32, "inet") if version == 4 else (128, "inet6")
    line = f"ip address add ADDRESS/{width} dev lo"
    return (
        f"`{line}`, with an IPv{version} address of this node's own that the routers send here; and for the next boot, with "
        f"ifupdown, `up {line}` under `iface lo {family} loopback` in /etc/network/interfaces, or in the file of what else sets "
        "this node's addresses (docs/host.md)"
    )


def _asked(facts: Facts, config: Config) -> Iterator[tuple[str, Address, Address]]:
    """Who is meant, its address, and the source. A session with a source of its own is told that one."""
    for neighbor in config.bgp.neighbors:
        source = neighbor.local_address or _source(facts, neighbor.address)
        if source is not None:
            yield "neighbor", neighbor.address, source
    for address in dict.fromkeys(way.address for way in ways(config)):
        if (source := _source(facts, address)) is not None:
            yield "real server", address, source
    for address in facts.resolvers:
        if (source := _source(facts, address)) is not None:
            yield "resolver", address, source


def _source(facts: Facts, address: Address) -> Address | None:
    route = facts.routes.get(address)
    return None if route is None or route.local else route.source


def advertised_routes(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """IPv6 default routes that the kernel has from router advertisements, where IPv6 is forwarded or is to be."""
    wanted = config is not None and FORWARDING6 in sysctls_wanted(config)
    for change in accept_ra(facts):
        interface = change.name.split(".")[3].replace("/", ".")
        forwards = facts.number(conf(interface, "forwarding", family=6)) == 1
        if not wanted and not forwards:
            continue
        then = (
            "it takes no more of them, for IPv6 is forwarded, and the route ends with its lifetime"
            if forwards
            else f"{FORWARDING6}=1, which masqueraded IPv6 services need, deletes it at once and for good"
        )
        agent = config is not None and config.manage_sysctls and not forwards
        yield Finding(
            severity=Severity.INFO if agent else Severity.WARNING,
            code=Code.ADVERTISED_ROUTE,
            text=f"the kernel has the IPv6 default route of {interface} from router advertisements ({change.name.partition('conf.')[2]} "
            f"is 1): {then}" + ("; the agent sets accept_ra to 2 before" if agent else ""),
            fix=set_sysctls(change) + ", before anything else",
            changes=(change,),
        )


def accept_ra(facts: Facts) -> tuple[SetSysctl, ...]:
    """What must be written before any `forwarding` of IPv6. With 0 another program takes the advertisements."""
    return tuple(
        SetSysctl(name=name, value="2")
        for interface in sorted(facts.advertised)
        if facts.number(name := conf(interface, "accept_ra", family=6)) == 1
    )


def reverse_path6(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """Rules that drop a packet whose way back leads out of another interface than it came in by."""
    if config is not None and all(address.version == 4 for _, address in vips(config)):
        return
    if not facts.strict_reverse_path6:
        return
    ways_out = sorted({interface for route in facts.default_routes6 for interface in route.interfaces})
    if len(ways_out) < 2:
        return
    shared = any(len(route.interfaces) > 1 for route in facts.default_routes6)
    lost = (
        "packets of clients whose way back is by the other one, about half of each"
        if shared
        else "every packet that comes in by another than the one with the lowest metric"
    )
    firewalld = any("firewalld" in one for one in facts.strict_reverse_path6)
    yield Finding(
        severity=Severity.WARNING,
        code=Code.RP_FILTER_STRICT6,
        text=f"strict reverse path for IPv6 ({some(facts.strict_reverse_path6)}) and default routes by {some(ways_out)}: {lost}, "
        "are dropped before IPVS sees them, while checks and sessions are fine",
        fix="`IPv6_rpfilter=loose` in /etc/firewalld/firewalld.conf (before firewalld 2.0: `no`, for `loose` is strict there), "
        "then `firewall-cmd --complete-reload`"
        if firewalld
        else "a rule without `iif` (`fib saddr . mark oif missing drop`), or none",
    )


def strict_rules(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The chains with such a rule for IPv6, of `nft -j list ruleset`."""
    found: dict[str, None] = {}
    for entry in _maps(document.get("nftables")):
        rule = entry.get("rule")
        if isinstance(rule, dict) and rule.get("family") in ("inet", "ip6") and _is_strict(rule.get("expr")):
            found[f"table {rule['family']} {rule.get('table')}, chain {rule.get('chain')}"] = None
    return tuple(found)


def _is_strict(expressions: object) -> bool:
    matches = [one["match"] for one in _maps(expressions) if isinstance(one.get("match"), dict)]
    ends = any("drop" in one or "reject" in one or "jump" in one for one in _maps(expressions))
    other = any(
        match.get("left") == {"meta": {"key": "nfproto"}} and match.get("right") == "ipv4"
        for match in matches
    )
    return ends and not other and any(map(_looks_back, matches))


def _looks_back(match: Mapping[str, Any]) -> bool:
    left = match.get("left")
    fib = left.get("fib") if isinstance(left, dict) else None
    if not isinstance(fib, dict) or match.get("op") != "==" or match.get("right") not in _MISSING:
        return False
    flags = fib.get("flags")
    flags = [flags] if isinstance(flags, str) else flags
    return fib.get("result") == "oif" and isinstance(flags, Sequence) and {"saddr", "iif"} <= set(flags)


def _maps(value: object) -> Iterable[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
