"""What checks look at, once it is known which real server, or the node, they are for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeAlias

from anycast.core.health.compose import leaves
from anycast.core.values.checks import AimedKind, BgpSession, IcmpCheck, NodeKind
from anycast.core.values.configuration import (
    HERE,
    Address,
    Aim,
    Aimed,
    Check,
    Leaf,
    Part,
    Rule,
    Target,
    Tunnel,
)

Aimer: TypeAlias = Callable[[Address, int], Aimed]
"""Takes the address and the port of a real server."""


def aim(
    check: Check,
    address: Address = HERE,
    port: int = 0,
    vip: Address | None = None,
    tunnel: Tunnel | None = None,
) -> Target:
    """What the check looks at, used for a real server's address and port, or for the node."""
    own, fixed, check = _aim(check)
    port = port if fixed is None else fixed
    return Target(address=own or address, port=port, check=check, vip=vip, tunnel=tunnel)


def aimer(tree: Leaf | Rule[Leaf], vips: Sequence[Address] = (), tunnel: Tunnel | None = None) -> Aimer:
    """Aims the tree at one real server after another. `vips`, `tunnel`: as for `aimed`."""
    if not isinstance(tree, Check) or tree.to_vip:
        return lambda address, port: aimed(tree, address, port, vips, tunnel)
    own, fixed, check = _aim(tree)

    def at(address: Address, port: int) -> Aimed:
        return Target(address=own or address, port=port if fixed is None else fixed, check=check)

    return at


@cache
def _aim(check: Check) -> tuple[Address | None, int | None, Check]:
    """The check's own address and port, and the check without them: the target has them instead.

    Services that end at the same place by different words then share one target.
    """
    kind, address = check.kind, check.address
    if address is not None:
        check = replace(check, address=None)
    match kind:
        case NodeKind():
            return HERE, 0, check
        case IcmpCheck():
            return address, 0, check
        case AimedKind(port=int(port)):
            return address, port, replace(check, kind=kind.at(None))
        case _:
            return address, None, check


def aimed(
    tree: Leaf | Rule[Leaf],
    address: Address = HERE,
    port: int = 0,
    vips: Sequence[Address] = (),
    tunnel: Tunnel | None = None,
) -> Aimed:
    """The same tree with its checks aimed at a real server, or at what they name themselves.

    `vips`: the addresses of the VIP that the real server serves. A check to the VIP must hold for each of them; it goes
    by `tunnel`, if there is one.

    A rule that is in the tree many times is one object in the result too.
    """
    return _aimed(tree, address, port, vips, tunnel, {})


def _aimed(  # noqa: PLR0917
    tree: Leaf | Rule[Leaf],
    address: Address,
    port: int,
    vips: Sequence[Address],
    tunnel: Tunnel | None,
    known: dict[int, Rule[Aim]],
) -> Aimed:
    """`known`: rules that have been aimed, by the identity of what they were made of."""
    if isinstance(tree, Rule):
        rule = known.get(id(tree))
        if rule is None:
            parts: tuple[Part[Aim], ...] = tuple(
                Part(
                    name=part.name,
                    check=_aimed(part.check, address, port, vips, tunnel, known),
                    weight=part.weight,
                )
                for part in tree.parts
            )
            rule = known[id(tree)] = Rule(needed=tree.needed, parts=parts)
        return rule
    if isinstance(tree, BgpSession):
        return tree
    if not tree.to_vip or not vips:
        return aim(tree, address, port)
    each = [aim(tree, address, port, vip, tunnel) for vip in vips]
    if len(each) == 1:
        return each[0]
    return Rule(needed=len(each), parts=tuple(Part(name=str(target.vip), check=target) for target in each))


def targets_of(tree: Aimed) -> tuple[Target, ...]:
    """What is probed for it."""
    if isinstance(tree, Rule):
        return tuple(leaf for leaf in leaves(tree) if isinstance(leaf, Target))
    return (tree,) if isinstance(tree, Target) else ()


def sessions_of(tree: Aimed) -> tuple[BgpSession, ...]:
    """The BGP sessions that it rests on."""
    if isinstance(tree, Rule):
        return tuple(leaf for leaf in leaves(tree) if isinstance(leaf, BgpSession))
    return (tree,) if isinstance(tree, BgpSession) else ()
