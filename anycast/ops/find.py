"""Which VIPs somebody looks for: words, each of which must be found, in any place or in the one that is named. Pure.

`web 10.9 state:down`: VIPs with `web` and with `10.9` in a name or an address, of which something is down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from anycast.core.values.configuration import Address, Vip
from anycast.ops.servers import Row

LONGEST = 200  # characters of a query; the rest is left out
PLACES = ("vip", "address", "server", "state")
WRONG = "wrong"  # as a state: whatever wants looking after


class Words:
    """What of a VIP is looked in, worked out when somebody asks."""

    def __init__(self, vip: Vip, rows: Iterable[Row]) -> None:
        self._vip = vip
        self._rows = rows

    @cached_property
    def vip(self) -> str:
        return self._vip.name.casefold()

    @cached_property
    def address(self) -> str:
        return "\n".join(map(str, self._vip.addresses))

    @cached_property
    def server(self) -> str:
        return "\n".join(dict.fromkeys(server_words(row.server.name, row.address) for row in self._rows))


def server_words(name: str, address: Address) -> str:
    return f"{name} {address}".casefold()


@dataclass(frozen=True, slots=True)
class Query:
    """`words`: the place, empty for any, and what must be found there."""

    text: str = ""
    words: tuple[tuple[str, str], ...] = ()

    @property
    def asks_for_states(self) -> bool:
        return any(place in ("", "state") for place, _ in self.words)

    def takes(self, words: Words, states: str) -> bool:
        """`states`: of the VIP and of what is wrong in it, as from `state_words`."""
        return all(_is_in(place, word, words, states) for place, word in self.words)

    def takes_server(self, name: str, address: Address) -> bool:
        """Whether a word is about this real server."""
        told = server_words(name, address)
        return any(place in ("", "server") and word in told for place, word in self.words)


def query(text: str) -> Query:
    text = " ".join(text[:LONGEST].split())
    return Query(text, tuple(map(_word, text.casefold().split())))


def _word(word: str) -> tuple[str, str]:
    place, colon, rest = word.partition(":")
    if not colon or place not in PLACES:
        return "", word  # an IPv6 address has colons too
    return place, _plain(rest) if place == "state" else rest


def state_words(states: Iterable[str]) -> str:
    return "\n".join(dict.fromkeys(map(_plain, states)))


def _plain(state: str) -> str:
    """`not announced`, `not-announced` and `Not_Announced` are one."""
    return state.casefold().replace("_", "-").replace(" ", "-")


def _is_in(place: str, word: str, words: Words, states: str) -> bool:
    match place:
        case "vip":
            return word in words.vip
        case "address":
            return word in words.address
        case "server":
            return word in words.server
        case "state":
            # `announced` is not meant to find what is not announced.
            return any(one.startswith(word) for one in states.split("\n"))
        case _:
            return (
                word in words.vip
                or word in words.address
                or word in words.server
                or any(one.startswith(_plain(word)) for one in states.split("\n"))
            )
