"""What becomes of a packet on its way through the chains of a hook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from anycast.doctor.filter.rules import (
    Action,
    Chain,
    Condition,
    Element,
    Lookup,
    Rule,
    Table,
    Value,
    Verdict,
)

TRACKED_FROM = -200  # connection tracking comes at this priority; before it nothing has a state
_DEEP = 32  # jumps; the kernel allows 16
_LOOPBACK = frozenset({("lo",)})
# A rule that accepts by one of these was written for these packets, whatever else it asks; one with a limit accepts most.
_OWN = frozenset(
    {"limit", "daddr4", "daddr6", "tcp.dport", "udp.dport", "sctp.dport", "dport", "icmp.type", "icmpv6.type"}
)

Values: TypeAlias = Mapping[str, Value | frozenset[str] | None]
"""By field. None: it is not known. A field that is not in it the packet has not. A set: one of them, not known which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """`tracked`: the state that connection tracking gives it, where it is not kept out of that."""

    family: int
    values: Values
    tracked: str
    untracked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What a hook does with a packet. `by`: the rule or the policy of it that drops it; `stateful`: for its state.

    `unless`: a rule before that one, which accepts it or not by what is not known here.
    """

    packet: Packet
    hook: str
    by: str = ""
    stateful: bool = False
    unless: str = ""


@dataclass(slots=True)
class Budget:
    """How many rules may still be looked at."""

    left: int = 2_000_000


class SpentError(Exception):
    """The budget."""


@dataclass(frozen=True, slots=True)
class _End:
    """Of a chain. `accepted` None: it went to the end of it."""

    accepted: bool | None
    by: str = ""
    stateful: bool = False


_ON = _End(None)
_TAKEN = _End(accepted=True)


def through(tables: Sequence[Table], hook: str, packet: Packet, budget: Budget) -> Fate:
    """The packet after all chains of the hook, or what drops it for certain. Raises SpentError."""
    at = [
        (chain.base, table, chain)
        for table in tables
        if packet.family in table.families
        for chain in table.chains.values()
        if chain.base is not None and chain.base.hook == hook
    ]
    for base, table, chain in sorted(at, key=lambda one: one[0].priority):
        walk = _Walk(table, packet, budget, has_state=base.priority > TRACKED_FROM)
        end = walk.chain(chain, 0)
        packet = replace(packet, untracked=packet.untracked or walk.untracked)
        if end.accepted is None and base.policy is Verdict.DROP:
            return Fate(packet=packet, hook=hook, by=f"the policy of {chain.name}", unless=walk.unless)
        if end.accepted is False:
            return Fate(packet=packet, hook=hook, by=end.by, stateful=end.stateful, unless=walk.unless)
    return Fate(packet=packet, hook=hook)


@dataclass(slots=True)
class _Walk:
    table: Table
    packet: Packet
    budget: Budget
    has_state: bool
    untracked: bool = False
    unless: str = ""

    def chain(self, chain: Chain, depth: int) -> _End:
        for rule in chain.rules:
            end = self._rule(rule, depth)
            if end is not None:
                return end
        return _ON

    def _rule(self, rule: Rule, depth: int) -> _End | None:
        """None: the next rule is asked."""
        if self.budget.left <= 0:
            raise SpentError
        self.budget.left -= 1
        holds: bool | None = True
        for one in rule.conditions:
            found = self._holds(one)
            if found is False:
                return None
            holds = None if found is None else holds
        names = {name for one in rule.conditions for name in one.fields}
        certain = holds is True
        for action in rule.actions:
            end = self._act(action, rule, names, depth, certain=certain)
            if end is not None:
                return None if end is _ON else end
        return None

    def _act(
        self, action: Action | Lookup, rule: Rule, names: set[str], depth: int, *, certain: bool
    ) -> _End | None:
        """None: the next action. `_ON`: the next rule."""
        if isinstance(action, Lookup):
            values = self._values(action.fields)
            if values is None:
                return None
            fits = [(_may_fit(values, element), one) for element, one in action.actions]
            first = next((one for one in fits if one[0] is not False), (False, None))
            if first[0] is None:  # it may be this one, or another
                self.unless = self.unless or rule.name
            chosen = first[1] if first[0] else None
            names = names | set(action.fields)
            return None if chosen is None else self._act(chosen, rule, names, depth, certain=certain)
        match action.verdict:
            case Verdict.NOTRACK:
                self.untracked = self.untracked or certain
                return None
            case Verdict.ACCEPT:
                if certain or names & _OWN:
                    return _TAKEN
                self.unless = self.unless or rule.name
                return _ON
            case Verdict.DROP:
                return _End(False, rule.name, "state" in names) if certain else _ON
            case Verdict.RETURN:
                return _End(None) if certain else _ON
            case Verdict.JUMP | Verdict.GOTO:
                return self._jump(action, names, depth, certain=certain)

    def _jump(self, action: Action, names: set[str], depth: int, *, certain: bool) -> _End | None:
        target = self.table.chains.get(action.chain)
        if target is None or depth >= _DEEP:
            return _ON
        before = self.untracked
        end = self.chain(target, depth + 1)
        if not certain:
            self.untracked = before
            return end if end.accepted else _ON
        if end.accepted is None:
            return _ON if action.verdict is Verdict.JUMP else _End(None)
        return replace(end, stateful=end.stateful or "state" in names)

    def _holds(self, one: Condition) -> bool | None:
        if one.fields == ("iif",) and one.exact == _LOOPBACK and not one.wide:
            return one.negated  # nothing that is asked about comes from this node
        values = self._values(one.fields)
        if values is None:
            return False  # the packet has no such thing, and neither has the rule's opposite
        plain = tuple(value for value in values if isinstance(value, int | str))
        if len(plain) == len(values):
            found = plain in one.exact or any(_fits(values, element) for element in one.wide)
            return found != one.negated
        if all(value is None for value in values):
            return None
        elements: Iterator[tuple[Element, ...]] = iter([*one.exact, *one.wide])
        fits = [_may_fit(values, element) for element in elements]
        if any(fit is True for fit in fits):
            return not one.negated
        return None if None in fits else one.negated

    def _values(self, names: tuple[str, ...]) -> tuple[Value | frozenset[str] | None, ...] | None:
        """None: the packet has not all of them."""
        found: list[Value | frozenset[str] | None] = []
        for name in names:
            if name == "state":
                found.append(self._state())
            elif name in ("", "limit"):
                found.append(None)
            elif name.startswith("tcp.flags&"):
                flags = self.packet.values.get("tcp.flags", -1)
                if flags == -1:
                    return None
                found.append(flags & int(name[10:]) if isinstance(flags, int) else None)
            elif name == f"protocol{self.packet.family}":
                found.append(self.packet.values["protocol"])
            elif name in self.packet.values:
                found.append(self.packet.values[name])
            else:
                return None
        return tuple(found)

    def _state(self) -> str | None:
        if self.packet.untracked or self.untracked:
            return "untracked"
        return self.packet.tracked if self.has_state else None


def _fits(values: Sequence[Value | frozenset[str] | None], element: tuple[Element, ...]) -> bool:
    return all(_is_in(value, part) is True for value, part in zip(values, element, strict=False))


def _may_fit(values: Sequence[Value | frozenset[str] | None], element: tuple[Element, ...]) -> bool | None:
    found = [_is_in(value, part) for value, part in zip(values, element, strict=False)]
    return False if False in found else None if None in found else True


def _is_in(value: Value | frozenset[str] | None, part: Element) -> bool | None:
    if value is None:
        return None
    if isinstance(value, frozenset):
        each = {_is_in(one, part) for one in value}
        return each.pop() if len(each) == 1 else None
    if isinstance(part, tuple):
        return isinstance(value, int) and part[0] <= value <= part[1]
    if isinstance(part, str) and part.endswith("*"):
        return isinstance(value, str) and value.startswith(part[:-1])
    return value == part
