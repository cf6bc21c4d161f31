"""What ExaBGP 5 makes of commands: its tables, and the fault they have.

What waits to be sent is kept by attributes, so that several commands for one prefix can leave in another order than
they came. A script that is gone leaves its routes. Each neighbor has tables of its own; a command that goes to none that
is known is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from anycast.plugin import codec

PILE = 0.5  # seconds a new session takes until it sends what piled up
ROUTER = "192.0.2.254"


class Peer:
    """Two tables: `cache`, what ExaBGP believes it announces, and `router`, what the neighbor was sent."""

    def __init__(self) -> None:
        self.cache: dict[str, str] = {}
        self.router: dict[str, str] = {}
        self.up = False
        self.sends_at = 0.0
        self.resend = False
        self._by_attributes: dict[str, dict[str, str]] = {}
        self._newest: dict[str, tuple[str, str]] = {}

    def change(self, action: str, prefix: str, attributes: str) -> None:
        if action == "announce":
            if self.cache.get(prefix) == attributes:
                return
            self.cache[prefix] = attributes
        else:
            self.cache.pop(prefix, None)
            if prefix in self._newest:
                self._by_attributes[self._newest[prefix][1]].pop(prefix, None)
        self._by_attributes.setdefault(attributes, {})[prefix] = action
        self._newest[prefix] = (action, attributes)

    def send(self, now: float) -> None:
        if not self.up or now < self.sends_at:
            return
        if self.resend:
            self.router.update(self.cache)
            self.resend = False
        for attributes, changes in self._by_attributes.items():
            for prefix, action in changes.items():
                if action == "announce":
                    self.router[prefix] = attributes
                else:
                    self.router.pop(prefix, None)
        self._by_attributes.clear()
        self._newest.clear()

    def session(self, now: float, *, up: bool) -> None:
        self.up = up
        self.router.clear()
        self.sends_at = now + PILE
        self.resend = up


class ExaBgp:
    """`cache`, `router` and `up` are those of its first neighbor."""

    def __init__(self, neighbors: Sequence[str] = (ROUTER,)) -> None:
        self.peers = {one: Peer() for one in neighbors}
        self.refuses: set[str] = set()
        self.commands: list[str] = []
        self.output: list[str] = []

    @property
    def first(self) -> Peer:
        return next(iter(self.peers.values()))

    @property
    def cache(self) -> dict[str, str]:
        return self.first.cache

    @property
    def router(self) -> dict[str, str]:
        return self.first.router

    @property
    def up(self) -> bool:
        return self.first.up

    def read_one(self) -> None:
        command = self.commands.pop(0)
        peers, words = self._addressed(command.split())
        if command == codec.SHOW_NEIGHBORS:
            table = [
                {"state": "up" if peer.up else "down", "peer": {"address": address}}
                for address, peer in self.peers.items()
            ]
            self.output.append(json.dumps(table))
        elif command.startswith("show neighbor "):
            self.output.append('description "";')
        elif command == codec.VERSION:
            self.output.append("exabgp 5.0.15")
        elif command == codec.FLUSH:
            for peer in peers:
                peer.resend = True
        elif not peers or not self._routes(peers, words):
            self.output.append("error")
            return
        self.output.append("done")

    def _addressed(self, words: list[str]) -> tuple[list[Peer], list[str]]:
        """The neighbors that a command is for, and the rest of it."""
        if words[0] != "neighbor":
            return list(self.peers.values()), words
        named = []
        while words[0] in {"neighbor", ","}:
            if words[0] == "neighbor":
                named.append(words[1])
            words = words[1 if words[0] == "," else 2 :]
        return [self.peers[one] for one in named if one in self.peers], words

    def _routes(self, peers: list[Peer], words: list[str]) -> bool:
        """Whether it takes all of it. Those before the one that it refuses are taken."""
        if words[1] == "attributes":
            place = words.index("nlri")
            prefixes, attributes = words[place + 1 :], " ".join(words[2:place])
        else:
            prefixes, attributes = words[2:3], " ".join(words[3:])
        for prefix in prefixes:
            if self._refuses(peers, words[0], prefix, attributes):
                return False
            for peer in peers:
                peer.change(words[0], prefix, attributes)
        return True

    def _refuses(self, peers: list[Peer], action: str, prefix: str, attributes: str) -> bool:
        """What it refuses to announce it refuses to withdraw with the same attributes, unless it has it."""
        if prefix not in self.refuses:
            return False
        has = any(peer.cache.get(prefix) == attributes for peer in peers)
        return action == "announce" or (bool(attributes) and not has)

    def send(self, now: float) -> None:
        for peer in self.peers.values():
            peer.send(now)

    def session(self, now: float, *, up: bool, neighbor: str = "") -> None:
        for address, peer in self.peers.items():
            if neighbor not in {"", address}:
                continue
            peer.session(now, up=up)
            state = {"address": {"peer": address}, "state": "up" if up else "down"}
            self.output.append(json.dumps({"exabgp": "5.0.0", "type": "state", "neighbor": state}))
