"""The nodes, for a router with OpenBGPD. Tried with 7.7 on Linux."""

from __future__ import annotations

from collections.abc import Iterator

from anycast.render.router import Node, Router, Session, head, short

_DESCRIPTION = 31  # characters of a description
_PASSWORD = 79  # characters of a password
_RESTART = 1  # minutes until a session that was ended for too many prefixes is tried again


def openbgpd_conf(router: Router) -> str:
    """The complete bgpd.conf. Raises ValueError for a password that is longer than OpenBGPD takes."""
    lines = [f"AS {router.asn}"]
    if router.router_id is not None:
        lines.append(f"router-id {router.router_id}")
    for node in router.nodes:
        lines += _vips(node)
        for session in node.sessions:
            lines += _neighbor(node, session)
    # The last rule that matches decides; `match` changes a route and decides nothing.
    lines += ["deny from any", "deny to any"]
    for node in router.nodes:
        for session in node.sessions:
            for family in session.families:
                if node.vips[family]:
                    lines.append(f'allow from {session.remote} prefix-set "{_set(node, family)}"')
            lines.append(
                f"match from {session.remote} community 65535:0 set localpref 0  # draining: RFC 8326"
            )
    return _head(router) + "\n".join([*lines, ""])


def _set(node: Node, family: int) -> str:
    return f"{node.name}-ipv{family}"


def _vips(node: Node) -> Iterator[str]:
    for family in node.families:
        if node.vips[family]:
            yield f'prefix-set "{_set(node, family)}" {{'
            yield from (f"\t{vip}/{vip.max_prefixlen}" for vip in node.vips[family])
            yield "}"


def _neighbor(node: Node, session: Session) -> Iterator[str]:
    yield f"neighbor {session.remote} {{"
    yield f"\tremote-as {session.remote_as}"
    yield f'\tdescr "{short(node.name, _DESCRIPTION)}"'
    yield f"\tlocal-address {session.local}"
    yield f"\tholdtime {session.hold_time}"
    for family in (4, 6):
        yield f"\tannounce IPv{family} {'unicast' if family in session.families else 'none'}"
    yield "\tannounce restart no"
    yield "\texport none"
    yield f"\tmax-prefix {sum(node.most(family) for family in session.families)} restart {_RESTART}"
    if session.password is not None:
        if len(session.password) > _PASSWORD:
            raise ValueError(
                f"OpenBGPD takes passwords of {_PASSWORD} characters, the one for {session.local} has {len(session.password)}"
            )
        yield f'\ttcp md5sig password "{session.password}"'
    yield "}"


def _head(router: Router) -> str:
    return head(
        "openbgpd",
        "#",
        router,
        "The whole of /etc/bgpd.conf. Try it with `bgpd -n -f FILE`, load it with `bgpctl reload`.",
        "OpenBGPD chooses one node for a VIP: it does not spread the flows. On Linux it does not forward at all.",
        "OpenBGPD has no BFD: without a word from a node its routes stay for the hold time.",
    )
