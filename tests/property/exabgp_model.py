"""What ExaBGP 5 makes of commands: its tables, and the fault they have.

What waits to be sent is kept by attributes, so that several commands for one prefix can leave in another order than
they came. A script that is gone leaves its routes.
"""

from __future__ import annotations

import json

from anycast.plugin import codec

PILE = 0.5  # seconds a new session takes until it sends what piled up


class ExaBgp:
    """Two tables: `cache`, what ExaBGP believes it announces, and `router`, what the neighbor was sent."""

    def __init__(self) -> None:
        self.cache: dict[str, str] = {}
        self.router: dict[str, str] = {}
        self.up = False
        self.sends_at = 0.0
        self.refuses: set[str] = set()
        self.commands: list[str] = []
        self.output: list[str] = []
        self._by_attributes: dict[str, dict[str, str]] = {}
        self._newest: dict[str, tuple[str, str]] = {}
        self._resend = False

    def read_one(self) -> None:
        command = self.commands.pop(0)
        words = command.split()
        if command == codec.SHOW_NEIGHBORS:
            state = "up" if self.up else "down"
            self.output.append(json.dumps([{"state": state, "peer": {"address": "192.0.2.254"}}]))
        elif command == codec.VERSION:
            self.output.append("exabgp 5.0.15")
        elif command == codec.FLUSH:
            self._resend = True
        elif words[1] == "attributes":
            place = words.index("nlri")
            for prefix in words[place + 1 :]:  # those before the one that it refuses are taken
                if self._refuses(words[0], prefix, " ".join(words[2:place])):
                    self.output.append("error")
                    return
                self._change(words[0], prefix, " ".join(words[2:place]))
        elif self._refuses(words[0], words[2], " ".join(words[3:])):
            self.output.append("error")
            return
        else:
            self._change(words[0], words[2], " ".join(words[3:]))
        self.output.append("done")

    def _refuses(self, action: str, prefix: str, attributes: str) -> bool:
        """What it refuses to announce it refuses to withdraw with the same attributes, unless it has it."""
        if prefix not in self.refuses:
            return False
        return action == "announce" or (bool(attributes) and self.cache.get(prefix) != attributes)

    def _change(self, action: str, prefix: str, attributes: str) -> None:
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
        if self._resend:
            self.router.update(self.cache)
            self._resend = False
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
        self._resend = up
        state = {"address": {"peer": "192.0.2.254"}, "state": "up" if up else "down"}
        self.output.append(json.dumps({"exabgp": "5.0.0", "type": "state", "neighbor": state}))
