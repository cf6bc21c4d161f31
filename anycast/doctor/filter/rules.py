"""Rules of nftables and of iptables as values, as far as they say what becomes of a packet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

Value: TypeAlias = int | str
Range: TypeAlias = tuple[int, int]
Element: TypeAlias = Value | Range  # of a set; a word may end in *

ANY: Range = (0, 2**128 - 1)


class NotUnderstoodError(Exception):
    """What was read is no list of rules."""


class Verdict(StrEnum):
    ACCEPT = "accept"
    DROP = "drop"  # and reject
    RETURN = "return"
    JUMP = "jump"
    GOTO = "goto"
    NOTRACK = "notrack"  # not the last word


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    verdict: Verdict
    chain: str = ""  # of a jump and a goto


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """The values of the fields are together an element; of a field without a name nothing is known. `exact`: without ranges and words that end in *."""

    fields: tuple[str, ...]
    exact: frozenset[tuple[Value, ...]] = frozenset()
    wide: tuple[tuple[Element, ...], ...] = ()
    negated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A verdict map: what to do by the value of the fields; the first that fits."""

    fields: tuple[str, ...]
    actions: tuple[tuple[tuple[Element, ...], Action], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What it does, in this order, if all conditions hold. `name`: how people find it."""

    name: str
    conditions: tuple[Condition, ...] = ()
    actions: tuple[Action | Lookup, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """Where the kernel calls a chain. `policy`: what becomes of a packet at its end."""

    hook: str
    priority: int
    policy: Verdict = Verdict.ACCEPT


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    name: str  # how people find it
    rules: tuple[Rule, ...] = ()
    base: Base | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """`families`: of packets that come by, 4 and 6. Chains by the names that jumps have.

    `marks`: the firewall marks that its rules give to packets; None: one that is not known here.
    """

    families: frozenset[int]
    chains: Mapping[str, Chain] = field(default_factory=dict)
    stateful: bool = False  # something in it has connections tracked
    marks: frozenset[int | None] = frozenset()


def condition(
    fields: tuple[str, ...], elements: Sequence[tuple[Element, ...]], *, negated: bool = False
) -> Condition:
    exact = [one for one in elements if all(_is_exact(part) for part in one)]
    return Condition(
        fields=fields,
        exact=frozenset(tuple(part for part in one if not isinstance(part, tuple)) for one in exact),
        wide=tuple(one for one in elements if one not in exact),
        negated=negated,
    )


def unknown(field: str = "") -> Condition:
    return Condition(fields=(field,))


def _is_exact(part: Element) -> bool:
    return isinstance(part, int) or (isinstance(part, str) and not part.endswith("*"))
