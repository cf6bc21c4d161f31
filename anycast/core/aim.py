"""What checks look at, once it is known for whom they look."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from anycast.core.compose import leaves
from anycast.core.kinds import BgpSession, IcmpCheck, NodeKind
from anycast.core.model import (
    HERE,
    Address,
    Aim,
    Aimed,
    Check,
    CommandCheck,
    Leaf,
    Part,
    Rule,
    Target,
)


def aim(check: Check, address: Address = HERE, port: int = 0) -> Target:
    """What the check looks at, used for a real server's address and port, or for the node."""
    own, fixed, check = _aim(check)
    return Target(address=own or address, port=port if fixed is None else fixed, check=check)


@cache
def _aim(check: Check) -> tuple[Address | None, int | None, Check]:
    """The check's own address and port, and the check without them: where it is aimed is the target's to say.

    Services that end at the same place by different words then share one target.
    """
    kind, address = check.kind, check.address
    if address is not None:
        check = replace(check, address=None)
    match kind:
        case _ if isinstance(kind, NodeKind):
            return HERE, 0, check
        case IcmpCheck():
            return address, 0, check
        case CommandCheck():
            return address, None, check
        case _ if kind.port is None:
            return address, None, check
        case _:
            return address, kind.port, replace(check, kind=replace(kind, port=None))


def aimed(tree: Leaf | Rule[Leaf], address: Address = HERE, port: int = 0) -> Aimed:
    """The same tree with its checks aimed at a real server, or at what they name themselves."""
    if isinstance(tree, Rule):
        return _rule(tree, address, port)
    return _leaf(tree, address, port)


def _rule(rule: Rule[Leaf], address: Address, port: int) -> Rule[Aim]:
    parts: tuple[Part[Aim], ...] = tuple(
        Part(name=part.name, check=aimed(part.check, address, port), weight=part.weight)
        for part in rule.parts
    )
    return Rule(needed=rule.needed, parts=parts)


def _leaf(leaf: Leaf, address: Address, port: int) -> Aim:
    return leaf if isinstance(leaf, BgpSession) else aim(leaf, address, port)


def targets_of(tree: Aimed) -> tuple[Target, ...]:
    """What is probed for it."""
    if isinstance(tree, Rule):
        return tuple(leaf for leaf in leaves(tree) if isinstance(leaf, Target))
    return (tree,) if isinstance(tree, Target) else ()
