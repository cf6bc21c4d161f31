"""The nodes, for a router with GoBGP. Tried with 3.10."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from anycast.render.router import CONNECT_RETRY, Node, Router, Session, head

# GoBGP takes 0 for "not set". 1 is below any other route's 100 as well.
_LAST_RESORT = 1


def gobgp_conf(router: Router) -> str:
    """The complete gobgpd.toml. Raises ValueError without a router id, which GoBGP cannot do without."""
    if router.router_id is None:
        raise ValueError(
            "GoBGP needs a router id, and no neighbor is IPv4 to take it from: write --router-id"
        )
    names = [_text(f"{node.name}-ipv{family}") for node in router.nodes for family in node.families]
    lines = [
        "[global.config]",
        f"  as = {router.asn}",
        f"  router-id = {_text(str(router.router_id))}",
        "[global.use-multiple-paths.config]",
        "  enabled = true",
        "[global.apply-policy.config]",
        f"  import-policy-list = [{', '.join(names)}]",
        '  default-import-policy = "reject-route"',
        '  default-export-policy = "reject-route"  # else each node would be sent the VIPs of the others',
        "[[defined-sets.bgp-defined-sets.community-sets]]",
        '  community-set-name = "draining"  # RFC 8326',
        '  community-list = ["^65535:0$"]',
    ]
    for node in router.nodes:
        lines += _sets(node)
    for node in router.nodes:
        for family in node.families:
            lines += _policy(node, family)
    for node in router.nodes:
        for session in node.sessions:
            lines += _neighbor(node, session)
    return _head(router) + "\n".join([*lines, ""])


def _text(value: str) -> str:
    """A TOML basic string: JSON's escapes are among TOML's."""
    return json.dumps(value)


def _texts(values: Iterable[str]) -> str:
    return f"[{', '.join(map(_text, values))}]"


def _sets(node: Node) -> Iterator[str]:
    yield "[[defined-sets.neighbor-sets]]"
    yield f"  neighbor-set-name = {_text(node.name)}"
    yield f"  neighbor-info-list = {_texts(str(session.remote) for session in node.sessions)}"
    for family in node.families:
        if node.vips[family]:
            yield "[[defined-sets.prefix-sets]]"
            yield f"  prefix-set-name = {_text(f'{node.name}-ipv{family}')}"
        for vip in node.vips[family]:
            yield "  [[defined-sets.prefix-sets.prefix-list]]"
            yield f"    ip-prefix = {_text(f'{vip}/{vip.max_prefixlen}')}"


def _policy(node: Node, family: int) -> Iterator[str]:
    name = f"{node.name}-ipv{family}"
    yield "[[policy-definitions]]"
    yield f"  name = {_text(name)}"
    if not node.vips[family]:
        return
    for draining in (True, False):
        yield "  [[policy-definitions.statements]]"
        yield f"    name = {_text(f'{name}-draining' if draining else name)}"
        yield "    [policy-definitions.statements.conditions.match-neighbor-set]"
        yield f"      neighbor-set = {_text(node.name)}"
        yield "    [policy-definitions.statements.conditions.match-prefix-set]"
        yield f"      prefix-set = {_text(name)}"
        if draining:
            yield "    [policy-definitions.statements.conditions.bgp-conditions.match-community-set]"
            yield '      community-set = "draining"'
        yield "    [policy-definitions.statements.actions]"
        yield '      route-disposition = "accept-route"'
        if draining:
            yield "    [policy-definitions.statements.actions.bgp-actions]"
            yield f"      set-local-pref = {_LAST_RESORT}"


def _neighbor(node: Node, session: Session) -> Iterator[str]:
    yield "[[neighbors]]"
    yield "  [neighbors.config]"
    yield f"    neighbor-address = {_text(str(session.remote))}"
    yield f"    peer-as = {session.remote_as}"
    yield f"    description = {_text(f'anycast node {node.name}')}"
    if session.password is not None:
        yield f"    auth-password = {_text(session.password)}"
    yield "  [neighbors.transport.config]"
    yield f"    local-address = {_text(str(session.local))}"
    yield "  [neighbors.timers.config]"
    yield f"    hold-time = {session.hold_time}"
    yield f"    keepalive-interval = {session.keepalive}"
    yield f"    connect-retry = {CONNECT_RETRY}"
    yield f"    idle-hold-time-after-reset = {CONNECT_RETRY}"
    yield "  [neighbors.graceful-restart.config]"
    yield "    enabled = false  # else a dead node's routes would be kept"
    for family in session.families:
        yield "  [[neighbors.afi-safis]]"
        yield "    [neighbors.afi-safis.config]"
        yield f'      afi-safi-name = "ipv{family}-unicast"'
        yield "    [neighbors.afi-safis.prefix-limit.config]"
        yield f"      max-prefixes = {node.most(family)}"


def _head(router: Router) -> str:
    return head(
        "gobgp",
        "#",
        router,
        "The whole of /etc/gobgpd.conf. Try it with `gobgpd -d -f FILE`, load it with a SIGHUP.",
        "GoBGP knows the routes but does not forward: it hands them to zebra, if told to.",
        "GoBGP has no BFD: without a word from a node its routes stay for the hold time.",
    )
