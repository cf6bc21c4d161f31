"""How packets come to the VIPs and go on to the real servers: interfaces, ARP, routes, tunnels. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from anycast.core.dataplane.kernel import SetSysctl
from anycast.core.prefixes import prefixes_of
from anycast.core.values.configuration import Address, Bgp, Config, Forwarding, Neighbor, Prefix, TunnelType
from anycast.doctor.demands import overhead, vips, ways
from anycast.doctor.facts import Facts, Interface, InterfaceAddress, Route, conf
from anycast.doctor.finding import Code, Finding, Severity, set_sysctls, some

CLIENT_MTU = 1500  # bytes; what clients send unless somebody tells them to send less
_APART = 5  # VIPs with the same finding, from which on it is one with examples
_MANY_PREFIXES = 100  # of a family: from here on limits of routers are met
_CLAMPED = 20  # VIPs that a rule for a real server names
_TCP_AND_IP = {4: 40, 6: 60}  # bytes of headers that a segment size leaves out
_VRF = ": IPVS asks the main table alone, whatever VRF the client's packet came by, and answers it with ICMP host unreachable"
_VRF_FIX = (
    "in the main table a route to them by the interface that is in the VRF (`ip route add NET dev IF`), or a rule: `ip rule "
    "add to NET lookup TABLE`"
)
_TUNNEL_KINDS = frozenset({"ipip", "sit", "ip6tnl", "gre", "ip6gre"})


def interfaces(facts: Facts, config: Config | None) -> Iterator[Finding]:
    if facts.interfaces is None:
        return
    lo = facts.interface("lo")
    if lo is None or not lo.up:
        yield Finding(
            severity=Severity.ERROR,
            code=Code.LO_DOWN,
            text="the interface lo is down: IPVS refuses every real server (EINVAL)",
            fix="ip link set lo up",
        )
    if config is None:
        return
    name = config.node.interface
    carrier = facts.interface(name)
    if carrier is None:
        yield Finding(
            severity=Severity.ERROR,
            code=Code.INTERFACE_MISSING,
            text=f"node.interface: there is no interface {name} to carry the VIPs",
            fix=f"`ip link add {name} type dummy && ip link set {name} up`, or `interface: lo`",
        )
        return
    if not carrier.up and name != "lo":
        yield Finding(
            severity=Severity.ERROR,
            code=Code.INTERFACE_DOWN,
            text=f"node.interface: {name} is down, and the kernel removes IPv6 VIPs from it",
            fix=f"ip link set {name} up",
        )
    outside = sorted(
        one.name for one in facts.interfaces if one.name in facts.uplinks and one.vrf != carrier.vrf
    )
    if carrier.vrf and (outside or not facts.uplinks):
        yield Finding(
            severity=Severity.WARNING,
            code=Code.VRF_INTERFACE,
            text=f"node.interface: {name} is in the VRF {carrier.vrf}, and so are its addresses: what comes for a VIP by an "
            "interface that is not in it"
            + (f", as {some(outside)} to the routers," if outside else "")
            + " is answered with ICMP net unreachable",
            fix="`interface: lo`, whose addresses every interface finds; or take it out: "
            f"`ip link set {name} nomaster`",
        )
    disabled = conf(name, "disable_ipv6", family=6)
    sixes = [str(address) for _, address in vips(config) if address.version == 6]
    if sixes and facts.number(disabled) == 1:
        yield Finding(
            severity=Severity.ERROR,
            code=Code.IPV6_OFF,
            text=f"{disabled} is 1: {name} cannot carry {some(sixes)}",
            fix=set_sysctls(SetSysctl(name=disabled, value="0")),
        )


def vip_addresses(facts: Facts, config: Config | None) -> Iterator[Finding]:
    if config is None:
        return
    own = {address: vip.name for vip, address in vips(config)}
    for interface in facts.interfaces or ():
        held = [(own[found.ip], found) for found in interface.addresses if found.ip in own]
        if interface.name != config.node.interface:
            yield from _elsewhere(config, interface, held)
            continue
        for name, found in held:
            if found.network.prefixlen != found.max_prefixlen:
                yield Finding(
                    severity=Severity.WARNING,
                    code=Code.VIP_PREFIX_WIDE,
                    text=f"{name}: {found} on {interface.name} makes all of {found.network} this node's "
                    "own" + (", and answers for it go nowhere" if interface.name == "lo" else " link"),
                    fix=f"ip addr del {found} dev {interface.name} (the agent adds it as /{found.max_prefixlen})",
                )


def _elsewhere(
    config: Config, interface: Interface, held: Sequence[tuple[str, InterfaceAddress]]
) -> Iterator[Finding]:
    """One finding for each VIP, or for all of them where there are many."""
    stays = f"on {interface.name}, and node.interface is {config.node.interface}: it stays when the agent takes the VIP away"
    if len(held) > _APART:
        names = some(f"{name} {found.ip}" for name, found in held)
        example = f"ip addr del {held[0][1]} dev {interface.name}"
        yield Finding(
            severity=Severity.WARNING,
            code=Code.VIP_ELSEWHERE,
            text=f"{len(held):,} addresses of VIPs are {stays}: {names}",
            fix=f"`{example}`, and so on for each",
        )
        return
    for name, found in held:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.VIP_ELSEWHERE,
            text=f"{name}: {found.ip} is {stays}",
            fix=f"ip addr del {found} dev {interface.name}",
        )


def on_link(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """Neighbours ask for an address of their own network by ARP instead of sending it to the router."""
    if config is None:
        return
    for interface in facts.interfaces or ():
        if not (interface.up and interface.neighbours):
            continue
        wide = [found for found in interface.addresses if found.network.prefixlen < found.max_prefixlen]
        for version in (4, 6):
            inside = {
                f"{vip.name} {address}": network
                for vip, address in vips(config)
                if address.version == version and (network := _network(wide, address)) is not None
            }
            if inside:
                networks = some(map(str, inside.values()))
                on = f"{some(inside)}: within {networks} of {interface.name}"
                yield _neighbours_ask(facts, config, interface, version, on)


def _network(wide: Iterable[InterfaceAddress], address: Address) -> Prefix | None:
    """The network of an interface that the address is in, by another address than itself."""
    for found in wide:
        if found.ip != address and address in found.network:
            return found.network
    return None


def _neighbours_ask(facts: Facts, config: Config, interface: Interface, version: int, on: str) -> Finding:
    if interface.name == config.node.interface:
        return Finding(
            severity=Severity.WARNING,
            code=Code.VIP_ON_LINK,
            text=f"{on}, which carries the VIPs: every balancer answers the neighbours there, so one balancer gets all their traffic",
            fix="`interface: lo` under `node:`, or a VIP of a network of its own",
        )
    wanted = {"arp_ignore": 1, "arp_announce": 2} if version == 4 else {}
    short = tuple(
        SetSysctl(name=conf(interface.name, key), value=str(value))
        for key, value in wanted.items()
        if _greater(facts, interface.name, key) < value
    )
    if short:
        return Finding(
            severity=Severity.WARNING,
            code=Code.VIP_ON_LINK,
            text=f"{on}: neighbours ask for it by ARP and every balancer answers, so one balancer gets the traffic that ECMP should spread",
            fix=set_sysctls(*short),
            changes=short,
        )
    return Finding(
        severity=Severity.INFO,
        code=Code.VIP_ON_LINK,
        text=f"{on}: neighbours there ask for it by ARP and get no answer, so they cannot reach it",
        fix="a VIP of a network of its own, or a host route to it by the router on those neighbours",
    )


def _greater(facts: Facts, interface: str, key: str) -> int:
    """The greater of `all` and the interface's own; the kernel's default, 0, where neither could be read."""
    values = [facts.number(conf(name, key)) for name in ("all", interface)]
    return max((value for value in values if value is not None), default=0)


def reverse_path(facts: Facts, config: Config | None) -> Iterator[Finding]:
    if config is not None and all(address.version == 6 for _, address in vips(config)):
        return
    tunnels = {one.name for one in facts.interfaces or () if one.up and one.kind in _TUNNEL_KINDS}
    for name in sorted(facts.uplinks | tunnels):
        if _greater(facts, name, "rp_filter") == 1:
            what = "an uplink" if name in facts.uplinks else "a tunnel"
            change = SetSysctl(name=conf(name, "rp_filter"), value="2")
            yield Finding(
                severity=Severity.WARNING,
                code=Code.RP_FILTER_STRICT,
                text=f"rp_filter is strict (1) on {name}, {what}: packets of clients whose answer would leave by "
                "another interface are dropped",
                fix=set_sysctls(change),
                changes=(change,),
            )


def next_hops(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """Whether the routers can send to the next hops that the configuration names."""
    if config is None or facts.interfaces is None:
        return
    bgp = config.bgp
    for hop in (bgp.next_hop_v4, bgp.next_hop_v6):
        if hop is None:
            continue
        holders = {one.name for one in facts.interfaces if any(found.ip == hop for found in one.addresses)}
        if not holders:
            yield Finding(
                severity=Severity.ERROR,
                code=Code.NEXT_HOP_MISSING,
                text=f"bgp.next_hop.ipv{hop.version}: no interface of this node has {hop}: the routers refuse the "
                "routes, or send the packets elsewhere",
                fix="write an address of this node in the network it shares with the routers",
            )
        apart = [
            str(one.address) for one in bgp.neighbors if holders and _is_apart(facts, bgp, one, hop, holders)
        ]
        if apart:
            yield Finding(
                severity=Severity.WARNING,
                code=Code.NEXT_HOP_OFF_LINK,
                text=f"bgp.next_hop.ipv{hop.version}: {hop} is in no network that this node shares with "
                f"{some(apart)}: a router of another AS refuses the routes",
                fix="write an address in that network, or let the session be multihop on the router",
            )


def _is_apart(facts: Facts, bgp: Bgp, neighbor: Neighbor, hop: Address, holders: set[str]) -> bool:
    """False also where it cannot be known: behind a gateway, and within one AS, other networks serve."""
    route = facts.routes.get(neighbor.address)
    if hop.version not in neighbor.families or neighbor.remote_as == bgp.local_as:
        return False
    if route is None or route.gateway is not None or route.local:
        return False
    interface = facts.interface(route.interface)
    if hop.version != neighbor.address.version or interface is None:
        return route.interface not in holders
    return not any(neighbor.address in one.network and hop in one.network for one in interface.addresses)


def prefixes(config: Config | None) -> Iterator[Finding]:
    """How many routes this node may announce: what it cannot know is how many a router takes."""
    if config is None:
        return
    counts = Counter(one.version for one in {each for vip in config.vips for each in prefixes_of(vip)})
    told = {
        family: f"{counts[family]:,} IPv{family} routes to {some(names)}"
        for family in (4, 6)
        if counts[family] >= _MANY_PREFIXES
        and (
            names := [
                str(one.address)
                for one in config.bgp.neighbors
                if family in (one.families or {one.address.version})
            ]
        )
    }
    if told:
        yield Finding(
            severity=Severity.INFO,
            code=Code.PREFIXES,
            text=f"this node may announce {' and '.join(told.values())}: a router that takes fewer ends the session, "
            "and then has none of them",
            fix="a higher limit on the router than that (maximum-prefix; BIRD: import limit; GoBGP: max-prefixes)",
        )


def reachability(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """Whether the real servers can be reached, and as their forwarding needs it."""
    lost: dict[str, list[str]] = {}  # real servers, and the places that need them
    looped: dict[str, str] = {}  # the same, where the way leads back to this node
    routed: dict[Route, tuple[list[str], list[str]]] = {}
    vrfs = {one.name for one in facts.interfaces or () if one.kind == "vrf"}
    for way in ways(config) if config is not None else ():
        if way.address not in facts.routes:
            continue
        route = facts.routes[way.address]
        if route is None:
            lost.setdefault(str(way.address), []).append(way.place)
        elif way.reach.forwarding is Forwarding.DR and route.interface in vrfs:
            looped[str(way.address)] = way.place
        elif way.reach.forwarding is Forwarding.DR and route.gateway is not None:
            servers, places = routed.setdefault(route, ([], []))
            servers.append(str(way.address))
            places.append(way.place)
    if lost:
        fix = f"a route to them (`ip route get {next(iter(lost))}` shows what is missing)"
        yield Finding(
            severity=Severity.WARNING,
            code=Code.NO_ROUTE,
            text=f"{some(place for places in lost.values() for place in places)}: there is no route to the real "
            f"servers {some(lost)}" + (_VRF if vrfs else ""),
            fix=_VRF_FIX if vrfs else fix,
        )
    if looped:
        yield Finding(
            severity=Severity.ERROR,
            code=Code.VRF_ROUTE,
            text=f"{some(looped.values())}: forwarding dr, and the route to the real servers {some(looped)} leads to a VRF "
            "device: IPVS hands the packets to this node itself, whose clients get RST or nothing",
            fix=_VRF_FIX,
        )
    for route, (servers, places) in routed.items():
        yield Finding(
            severity=Severity.WARNING,
            code=Code.DR_BEHIND_ROUTER,
            text=f"{some(places)}: forwarding dr, and the real servers {some(servers)} are behind {route.gateway} "
            f"on {route.interface}: that router gets the packets and sends them back",
            fix="`forwarding: tunnel`, or an interface in the real servers' network",
        )


_UNWRAPS = {  # families of the VIP and of the real server: what receives IP in IP
    (4, 4): "`modprobe ipip && ip link set tunl0 up`",
    (6, 4): "`modprobe sit && ip link set sit0 up`",
    (6, 6): "`modprobe ip6_tunnel && ip link set ip6tnl0 up`",
    (4, 6): "`modprobe ip6_tunnel && ip -6 tunnel change ip6tnl0 mode any && ip link set ip6tnl0 up`",
}
_GRE = {4: ("ip_gre", "gre"), 6: ("ip6_gre", "ip6gre")}  # module, and type of the interface
_FOU = {4: "`modprobe fou && ip fou add port {} gue`", 6: "`modprobe fou6 && ip -6 fou add port {} gue`"}


def at_real_servers(kind: TunnelType, vip: int, server: int, *, checksum: bool, port: int) -> str:
    """What a real server needs to unwrap packets; `vip`, `server`: their families; `port`: of GUE."""
    if kind is TunnelType.GRE:
        # Without icsum each packet with a checksum is an error of the interface; with it each without one is.
        module, interface = _GRE[server]
        how = f"local ADDRESS remote any{' icsum' if checksum else ''}"
        return f"`modprobe {module} && ip link add gre1 type {interface} {how} && ip link set gre1 up`"
    wrapped = _UNWRAPS[vip, server]
    return wrapped if kind is TunnelType.IPIP else f"{_FOU[server].format(port)}, and {wrapped}"


def tunnels(facts: Facts, config: Config | None) -> Iterator[Finding]:
    groups: dict[tuple[str, int, TunnelType, int, int], tuple[set[Address], set[Address]]] = {}
    for way in ways(config) if config is not None else ():
        route = facts.routes.get(way.address)
        if way.reach.forwarding is not Forwarding.TUNNEL or route is None or route.local:
            continue
        kind = way.reach.tunnel
        added = overhead(kind, way.address.version, checksum=way.reach.checksum)
        if route.mtu - added < CLIENT_MTU:
            key = (route.interface, route.mtu, kind, added, way.vip.version)
            servers, heads = groups.setdefault(key, (set(), set()))
            servers.add(way.address)
            heads.add(way.vip)
    for (interface, mtu, kind, added, version), (servers, heads) in groups.items():
        size = mtu - added - _TCP_AND_IP[version]
        names = [str(address) for address in sorted(servers, key=int)]
        yield Finding(
            severity=Severity.WARNING,
            code=Code.TUNNEL_MTU,
            text=f"tunnel to {some(names)}: MTU {mtu} of {interface} less {added} of {kind} leaves "
            f"{mtu - added}, clients send {CLIENT_MTU}: MSS {size} at most",
            fix=f"`ip link set {interface} mtu {CLIENT_MTU + added}`, if the whole path carries it; "
            f"or on every real server `{_clamp(version, sorted(heads, key=int), size)}`",
        )
    yield from _unwrapping(config)


def _unwrapping(config: Config | None) -> Iterator[Finding]:
    places: dict[tuple[TunnelType, int, int, bool, int], list[str]] = {}
    for way in ways(config) if config is not None else ():
        if way.reach.forwarding is Forwarding.TUNNEL:
            reach = way.reach
            key = (reach.tunnel, way.vip.version, way.address.version, reach.checksum, reach.port)
            places.setdefault(key, []).append(way.place)
    for (kind, vip, server, checksum, port), where in places.items():
        yield Finding(
            severity=Severity.INFO,
            code=Code.TUNNEL_REAL_SERVERS,
            text=f"tunnel {kind} of {some(where)}, IPv{vip} in IPv{server}: the real servers have to unwrap the packets, "
            "which is not seen from here",
            fix=f"on every real server {at_real_servers(kind, vip, server, checksum=checksum, port=port)}, rp_filter 0 on that "
            "interface and on `all`, the VIP on lo",
        )


def _clamp(version: int, vips: Iterable[Address], size: int) -> str:
    """For real servers: the size in their SYN-ACK is what clients keep to, and it does not pass the balancer."""
    family = "ip" if version == 4 else "ip6"
    every = [str(address) for address in vips]
    addresses = ", ".join(every if len(every) <= _CLAMPED else [*every[:_CLAMPED], "…"])
    return (
        "nft 'add table inet anycast; "
        "add chain inet anycast output { type filter hook output priority mangle; }; "
        f"add rule inet anycast output {family} saddr {{ {addresses} }} "
        f"tcp flags syn tcp option maxseg size set {size}'"
    )
