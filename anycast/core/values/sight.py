"""What routers send back of the VIPs, as the plugin has counted it. Light to import, for the plugin imports it too."""

from __future__ import annotations

from dataclasses import dataclass

from anycast.core.values.route import Prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one router has of one prefix. Instants are monotonic.

    `mine`: since when this node's own path has been there; None: it is not. `missing`: since when it should be there and is
    not, as far as its absence says anything; None: it is there, or is not announced, or has not been long enough.
    `others`: other nodes with a path, and paths that nobody has marked; `last_resort`: those of them that have none but
    draining paths (65535:0). `unmarked`: paths without a mark, of which one may be this node's. `partial`: there may be
    more others, for what came before the node had the VIP was dropped.
    """

    prefix: Prefix
    mine: float | None = None
    missing: float | None = None
    others: int = 0
    last_resort: int = 0
    unmarked: int = 0
    partial: bool = False

    @property
    def is_empty(self) -> bool:
        return self.mine is None and self.missing is None and not self.others


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterView:
    """What is known of the view of one router, besides prefixes.

    `number`: another one is another view, of which nothing is known at first. `up`: the session is. `since`: when it came
    up; None: that was before the plugin began, so what was sent before is not known. `complete`: since when all has come.
    `add_path`: the families (4, 6) of which the router sends every path, and not its best alone. `echoes`: the router has
    sent this node's own path in this session. `paths`: that are kept. `dropped`: prefixes and paths that were not, for
    nobody here has them as a VIP or there are too many. `full`: paths of VIPs were among them.
    """

    neighbor: str
    number: int
    up: bool = False
    since: float | None = None
    complete: float | None = None
    add_path: tuple[int, ...] = ()
    echoes: bool = False
    paths: int = 0
    dropped: int = 0
    full: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewChange:
    """What has changed in the views since the message before. `first`: what was told before, by whomever, is no more.

    `views`: all of them. `sights`: by neighbor; an empty one is a prefix of which there is nothing to say any more.
    """

    views: tuple[RouterView, ...]
    sights: tuple[tuple[str, tuple[Sight, ...]], ...] = ()
    first: bool = False
