"""What the routing daemon makes of the table, as far as it says so. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from anycast.core.values.report import NeighborState
from anycast.core.values.route import Prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """`error`: why it cannot be asked, so nothing is known; `down`: why it does not run.

    `learned`: the routes it has from the table; None: it does not say. `asked_at`: since then it has them or lacks them.
    """

    daemon: str = ""  # with its version
    error: str = ""
    down: str = ""
    sessions: tuple[NeighborState, ...] = ()
    learned: frozenset[Prefix] | None = None
    asked_at: float = float("-inf")
    silent_since: float | None = None  # it owes an answer since then
    rendered: str = ""  # digest of the configuration that was rendered for it

    def lacks(self, prefix: Prefix, table: int) -> str:
        """Why the daemon cannot announce a route of the table, in words; empty: it can, or that is not known."""
        if self.down:
            return self.down
        if self.learned is None or prefix in self.learned:
            return ""
        return (
            f"BIRD has not learned it from the table {table}: include what `anycast render bird` writes in bird.conf, "
            "and `birdc configure`"
        )


NOT_ASKED = View(error="the routing daemon is not asked (speaker.daemon)")
