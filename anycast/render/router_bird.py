"""The nodes, for a router with BIRD 2. Tried with 2.0.12."""

from __future__ import annotations

from collections.abc import Iterator

from anycast.render.router import CONNECT_RETRY, Node, Router, Session, head, short


def bird_conf(router: Router) -> str:
    """A file to include in bird.conf."""
    lines: list[str] = []
    if any(session.bfd is not None for session in router.sessions):
        lines += [
            "# There can be only one of these: remove it where bird.conf has its own.",
            "protocol bfd anycast_bfd {",
            "}",
        ]
    for node in router.nodes:
        for family in node.families:
            lines += _filter(node, family)
        for number, session in enumerate(node.sessions, 1):
            lines += _protocol(router, node, session, number)
    return _head(router) + "\n".join([*lines, ""])


def _name(node: Node, what: str) -> str:
    """A symbol: 64 characters at most, in single quotes for the sake of . and -."""
    return f"'anycast_{short(node.name)}_{what}'"


def _filter(node: Node, family: int) -> Iterator[str]:
    vips = [f"{vip}/{vip.max_prefixlen}" for vip in node.vips[family]]
    yield f"filter {_name(node, f'ipv{family}')} {{"
    if vips:
        yield "    if ! (net ~ ["
        yield from (f"        {vip}{',' if vip != vips[-1] else ''}" for vip in vips)
        yield "    ]) then reject;"
        yield "    if (65535, 0) ~ bgp_community then bgp_local_pref = 0;  # draining: RFC 8326"
        yield "    accept;"
    else:
        yield "    reject;"
    yield "}"


def _protocol(router: Router, node: Node, session: Session, number: int) -> Iterator[str]:
    yield f"protocol bgp {_name(node, str(number))} {{"
    yield f'    description "anycast node {node.name}";'
    yield f"    local {session.local} as {router.asn};"
    yield f"    neighbor {session.remote} as {session.remote_as};"
    yield "    direct;"
    yield f"    hold time {session.hold_time};"
    yield f"    keepalive time {session.keepalive};"
    yield f"    connect delay time {CONNECT_RETRY};"
    yield f"    connect retry time {CONNECT_RETRY};"
    yield f"    error wait time {CONNECT_RETRY}, {5 * CONNECT_RETRY};"
    yield "    graceful restart off;  # else a dead node's routes would be kept"
    yield "    long lived graceful restart off;"
    if session.password is not None:
        yield f'    password "{session.password}";'
    if session.bfd is not None:
        interval = round(session.bfd.interval * 1000)
        yield f"    bfd {{ interval {interval} ms; multiplier {session.bfd.multiplier}; }};"
    for family in session.families:
        yield f"    ipv{family} {{"
        yield f"        import filter {_name(node, f'ipv{family}')};"
        yield "        import table on;  # else a changed filter would restart the session"
        yield "        export none;"
        yield f"        receive limit {node.most(family)} action restart;"
        yield "    };"
    yield "}"


def _head(router: Router) -> str:
    return head(
        "bird",
        "#",
        router,
        'In /etc/bird/bird.conf: include "/etc/bird/anycast.conf"; then `bird -p` tries it, `birdc configure` loads it.',
        "bird.conf needs `protocol device {}`, and to spread the flows over the nodes, for each family:",
        "  protocol kernel { merge paths on limit 64; ipv4 { export all; }; }",
        "The kernel spreads them by addresses and ports only when told to:",
        "  sysctl -w net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1",
    )
