"""What becomes of a prefix that is wider than a host route, of which any number of VIPs are members.

Each member says what it would have its own route be. `any`: the best of that counts, so the route stays while one member
holds it. `all`: the worst. How many members say what is counted along, so that an event costs what it changes, however many
there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from anycast.core.prefixes import announce_of
from anycast.core.values.configuration import Needs, Vip
from anycast.core.values.route import Address, Prefix


class Holding(IntEnum):
    """What a member says of the route. A higher one is better for clients: a route of a last resort is worse than one that drains.

    WAITS: nothing yet, for it is new and its checks, or the kernel, have not said anything.
    """

    NO = 0
    LAST_RESORT = 1
    DRAIN = 2
    YES = 3
    WAITS = 4

    @property
    def is_for(self) -> bool:
        """Whether it would have the route announced."""
        return self not in (Holding.NO, Holding.WAITS)


class Tally(NamedTuple):
    """How many members say what."""

    no: int = 0
    last_resort: int = 0
    drain: int = 0
    yes: int = 0
    waits: int = 0

    def moved(self, old: Holding, new: Holding) -> Tally:
        counts = list(self)
        counts[old] -= 1
        counts[new] += 1
        return Tally(*counts)


NOBODY = Tally()


class Member(NamedTuple):
    vip: str
    address: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """A prefix as it is configured: its members, in the order of the configuration."""

    needs: Needs
    members: tuple[Member, ...]

    @property
    def vips(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.vip for one in self.members))


def holding(needs: Needs, tally: Tally, *, stands: bool) -> Holding:
    """What becomes of the route. Without members that say something there is none.

    `stands`: it is announced. Who is new does not take it down by that alone, and where all are needed keeps it from coming up.
    """
    said = [one for one in Holding if tally[one] and one is not Holding.WAITS]
    if not said or (needs is Needs.ALL and tally.waits and not stands):
        return Holding.NO
    return max(said) if needs is Needs.ANY else min(said)


def tally_of(shared: Shared, held: Mapping[Address, Holding]) -> Tally:
    """Counted anew."""
    counts = [0] * len(Holding)
    for one in shared.members:
        counts[held.get(one.address, Holding.NO)] += 1
    return Tally(*counts)


def shared_by(vips: Iterable[Vip]) -> dict[Prefix, Shared]:
    """What they announce that is wider than a host route."""
    found: dict[Prefix, list[Member]] = {}
    needs: dict[Prefix, Needs] = {}
    for vip in vips:
        for address in vip.addresses if vip.announce else ():
            if (said := announce_of(vip, address)) is not None:
                found.setdefault(said.prefix, []).append(Member(vip.name, address))
                needs.setdefault(said.prefix, said.needs)
    return {prefix: Shared(needs=needs[prefix], members=tuple(each)) for prefix, each in found.items()}
