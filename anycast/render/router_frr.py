"""The nodes, for a router with FRR. Tried with 8.4."""

from __future__ import annotations

from collections.abc import Iterator

from anycast.render.router import CONNECT_RETRY, MAX_PATHS, Node, Router, Session, head

_FAMILIES = {4: ("ipv4", "ip"), 6: ("ipv6", "ipv6")}


def frr_conf(router: Router) -> str:
    """What to add to frr.conf. Loaded with `vtysh -f`, it changes nothing but these sessions."""
    lines = [line for node in router.nodes for line in _filters(node)]
    lines += [
        "! Draining nodes (RFC 8326). With eBGP FRR does it by itself.",
        "bgp community-list standard ANYCAST-DRAINING seq 5 permit 65535:0",
        "! Nothing goes to the nodes: else each would be sent the VIPs of the others.",
        "route-map ANYCAST-NOTHING deny 10",
        "exit",
        f"router bgp {router.asn}",
        " bgp bestpath as-path multipath-relax",
    ]
    for node in router.nodes:
        for session in node.sessions:
            lines += [f" neighbor {session.remote} {option}" for option in _options(node, session)]
    for family in (4, 6):
        lines += _family(router, family)
    return _head(router) + "\n".join([*lines, "exit", ""])


def _map(node: Node, family: int) -> str:
    return f"ANYCAST-{node.name}-{family}"


def _filters(node: Node) -> Iterator[str]:
    for family in node.families:
        name, (_, ip) = _map(node, family), _FAMILIES[family]
        # FRR adds to a list: without this one a VIP that is gone would stay.
        yield f"no {ip} prefix-list {name}"
        for number, vip in enumerate(node.vips[family], 1):
            yield f"{ip} prefix-list {name} seq {5 * number} permit {vip}/{vip.max_prefixlen}"
        if not node.vips[family]:
            yield f"{ip} prefix-list {name} seq 5 deny any"
        yield f"route-map {name} permit 10"
        yield f" match {ip} address prefix-list {name}"
        yield " match community ANYCAST-DRAINING"
        yield " set local-preference 0"
        yield "exit"
        yield f"route-map {name} permit 20"
        yield f" match {ip} address prefix-list {name}"
        yield "exit"


def _options(node: Node, session: Session) -> Iterator[str]:
    yield f"remote-as {session.remote_as}"
    yield f"description anycast node {node.name}"
    yield f"timers {session.keepalive} {session.hold_time}"
    yield f"timers connect {CONNECT_RETRY}"
    yield "graceful-restart-disable"
    if session.password is not None:
        yield f"password {session.password}"
    if session.bfd is not None:
        interval = round(session.bfd.interval * 1000)
        yield f"bfd {session.bfd.multiplier} {interval} {interval}"


def _family(router: Router, family: int) -> Iterator[str]:
    sessions = [(node, session) for node in router.nodes for session in node.sessions]
    used = [pair for pair in sessions if family in pair[1].families]
    # FRR gives every session IPv4 routes unless it is told not to.
    unused = [session for _, session in sessions if family == 4 and family not in session.families]
    if not used and not unused:
        return
    yield f" address-family {_FAMILIES[family][0]} unicast"
    if used:
        yield f"  maximum-paths {MAX_PATHS}"
        yield f"  maximum-paths ibgp {MAX_PATHS}"
    for session in unused:
        yield f"  no neighbor {session.remote} activate"
    for node, session in used:
        yield f"  neighbor {session.remote} activate"
        # ExaBGP sends nothing again when it is asked to: without this a changed filter would not meet standing routes.
        yield f"  neighbor {session.remote} soft-reconfiguration inbound"
        yield f"  neighbor {session.remote} route-map {_map(node, family)} in"
        yield f"  neighbor {session.remote} route-map ANYCAST-NOTHING out"
        yield f"  neighbor {session.remote} maximum-prefix {node.most(family)} force"
    yield " exit-address-family"


def _head(router: Router) -> str:
    return head(
        "frr",
        "!",
        router,
        "Try it with `vtysh -C -f FILE`, load it with `vtysh -f FILE`, keep it with `vtysh -c 'write memory'`.",
        "Loaded again, FRR refuses the lines `graceful-restart-disable`: they hold already.",
        "In /etc/frr/daemons: bgpd=yes, and bfdd=yes where a neighbor has BFD.",
        "The kernel spreads the flows by addresses and ports only when told to:",
        "  sysctl -w net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1",
        "FRR 8.4 leaves a one-way route in the kernel after a link flap, but not with this line:",
        "  no zebra nexthop kernel enable",
    )
