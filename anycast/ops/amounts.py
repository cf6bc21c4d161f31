"""Numbers for people: how many a second, and how many machines. Pure, and small: the command line imports it too."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from anycast.core.amounts import amount as amount  # noqa: PLC0414 - re-exported
from anycast.core.amounts import bits as bits  # noqa: PLC0414 - re-exported
from anycast.core.amounts import percent as percent  # noqa: PLC0414 - re-exported


def machines(entries: Iterable[tuple[Hashable, Hashable]]) -> list[int]:
    """Of each entry, a server by its name and an address of it: the number of the machine that it is.

    Entries with the same name, or with the same address, are one.
    """
    parents: dict[Hashable, Hashable] = {}

    def first(one: Hashable) -> Hashable:
        while (above := parents.setdefault(one, one)) != one:
            parents[one] = parents[above]
            one = parents[one]
        return one

    pairs = [(("server", server), ("address", address)) for server, address in entries]
    for server, address in pairs:
        parents[first(address)] = first(server)
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(first(server), len(numbers)) for server, _ in pairs]
