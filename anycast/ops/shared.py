"""Prefixes that several VIPs announce, for people: who holds one, who is against it, and what a maintenance does to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from anycast.core.shared import NOBODY, Holding, Member, Shared
from anycast.core.state import State
from anycast.core.values.configuration import Needs
from anycast.core.values.route import Prefix, Route

NAMED = 5  # VIPs


@dataclass(frozen=True, slots=True, kw_only=True)
class InCommon:
    """`vips`: how many announce it. `held_by`, `against`: the first of those that would have it announced, and of the others."""

    needs: Needs
    vips: int
    held_by: tuple[str, ...]
    against: tuple[str, ...]

    @property
    def text(self) -> str:
        """What it waits for, where it is not announced."""
        if self.needs is Needs.ALL and self.against:
            return f"it needs all of {self.vips} VIPs, and {', '.join(self.against)} cannot be announced"
        return "no VIP of it can be announced"

    def body(self, prefix: Prefix, *, stays: bool) -> dict[str, Any]:
        """`stays`: it is announced, and not for this VIP."""
        return {
            "needs": str(self.needs),
            "vips": self.vips,
            "held_by": list(self.held_by),
            "against": list(self.against),
            "stays": f"{prefix} stays announced, for {', '.join(self.held_by)}" if stays else "",
        }


def in_common(state: State) -> Mapping[Prefix, InCommon]:
    """Of those that have several VIPs. It looks at each member, so once for a document."""
    found = {}
    for prefix, one in state.index.shared.items():
        if len(vips := one.vips) > 1:
            held, against = _names(state, prefix, one, held=True), _names(state, prefix, one, held=False)
            found[prefix] = InCommon(needs=one.needs, vips=len(vips), held_by=held, against=against)
    return found


def _names(state: State, prefix: Prefix, shared: Shared, *, held: bool) -> tuple[str, ...]:
    tally = state.lease.tallies.get(prefix, NOBODY)
    against = tally.no + tally.waits
    number = sum(tally) - against if held else against
    if state.lease.tallies and not number:
        return ()
    said = dict.fromkeys(one.vip for one in shared.members if _is_for(state, one) is held)
    return tuple(islice(said, NAMED))


def _is_for(state: State, member: Member) -> bool:
    said: Holding = state.lease.held.get(member.address, Holding.NO)
    return said.is_for


def of_maintenance(state: State, name: str) -> Iterator[dict[str, Any]]:
    """What becomes of the prefixes that a VIP which goes into maintenance shares. `vips`: the first that it is about."""
    if name not in state.index.vips:
        return
    routes: Mapping[Prefix, Route] = state.lease.routes or {}
    for prefix in dict.fromkeys(state.index.vips[name].prefixes.values()):
        one = state.index.shared.get(prefix)
        if one is None or prefix not in routes:
            continue
        others = [vip for vip in one.vips if vip != name]
        if one.needs is Needs.ANY:
            others = [each.vip for each in one.members if each.vip != name and _is_for(state, each)]
        if others:
            yield {
                "prefix": str(prefix),
                "stays": one.needs is Needs.ANY,
                "vips": list(islice(dict.fromkeys(others), NAMED)),
            }
