"""The lease that is followed: the newest that is proven, until it runs out. Pure: time comes in as data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from anycast.core.values.route import Mark, Prefix, Route
from anycast.lease import Lease, LeaseChange
from anycast.plugin.mirror import Mirror


class Wanted(NamedTuple):
    """What a lease asks for. `touched`: nothing but these differs from what was followed before; None: anything may."""

    routes: Mapping[Prefix, Route]
    owned: Collection[Prefix]
    touched: set[Prefix] | None
    mark: Mark | None


class Following:
    """`log` gets what an operator should read."""

    def __init__(self, log: list[str]) -> None:
        self._log = log
        self._mirror = Mirror()
        self._late = False  # the newest lease was over when it came
        self.seq = 0
        self.expires: float | None = None  # None: nothing is followed
        self.issued: float | None = (
            None  # the instant of the lease that is, or was, followed; None: of none yet
        )
        self.expired = False
        self.late_leases = 0
        self.revision = 0  # moves with every change that a report shows

    @property
    def asks(self) -> bool:
        """The agent must send the full set."""
        return self._mirror.asks

    def connected(self) -> None:
        """A new connection of the agent: sequence numbers start again."""
        self.seq = 0
        self._mirror.connected()
        self.revision += 1

    def asked(self) -> None:
        """The agent has been asked for the full set."""
        self._mirror.asks = False

    def take(self, messages: Iterable[Lease | LeaseChange], now: float) -> Wanted | None:
        """What is wanted from now on; None: what was wanted before.

        One that is over already is counted and changes nothing. One that is not proven neither: what was followed
        stays until it runs out, and `asks` says that the full set is needed.
        """
        mirror = self._mirror
        proven = [mirror.take(message) for message in messages]
        if not any(proven):
            return None
        expires = min(mirror.issued, now) + mirror.ttl
        late, self._late = self._late, expires <= now
        if self._late:
            self.late_leases += 1
            self.revision += 1
            if not late:
                over = now - expires
                self._log.append(
                    f"a lease arrived {over:.1f} s after it had run out and was ignored: is the node overloaded?"
                )
            return None
        if self.expired:
            self._log.append("the lease is renewed")
            self.revision += 1
        touched = mirror.touched()
        # What has run out is followed no more, whatever the mirror has.
        follows, self.expires, self.expired = self.expires is not None, expires, False
        self.issued = expires - mirror.ttl
        if self.seq != mirror.seq:
            self.seq = mirror.seq
            self.revision += 1
        return Wanted(mirror.routes, mirror.owned, touched if follows else None, mirror.mark)

    def runs_out(self, now: float) -> bool:
        """Whether it does just now."""
        if self.expires is None or now < self.expires:
            return False
        self.expires, self.expired = None, True
        self.revision += 1
        self._log.append("the lease has run out: everything is withdrawn")
        return True

    def end(self) -> None:
        """Nothing is followed any more, for good."""
        self.expires = None
