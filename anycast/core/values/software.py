"""What a router runs, as far as somebody has said so. No node finds that out by itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_VERSION = re.compile(r"v?([0-9]{1,4})(?:\.([0-9]{1,4}))?(?:[.+~-][A-Za-z0-9.+~-]{1,40})?\Z", re.ASCII)


class Daemon(StrEnum):
    """The programs that `anycast render` knows."""

    FRR = "frr"
    BIRD = "bird"
    GOBGP = "gobgp"
    OPENBGPD = "openbgpd"

    @property
    def spelt(self) -> str:
        """As its authors write it."""
        return _SPELT[self]


_SPELT = {Daemon.FRR: "FRR", Daemon.BIRD: "BIRD", Daemon.GOBGP: "GoBGP", Daemon.OPENBGPD: "OpenBGPD"}

Version = tuple[int, int]
"""Its first two numbers. What came with a third (FRR 10.5.2) is said of all that have these two."""


OLDEST_TRIED: dict[Daemon, Version] = {
    Daemon.FRR: (8, 4),
    Daemon.BIRD: (2, 0),
    Daemon.GOBGP: (3, 10),
    Daemon.OPENBGPD: (7, 7),
}
"""Of an older one nobody knows whether it takes what is rendered for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """A program, and its version if that is known."""

    daemon: Daemon
    version: Version | None = None

    def since(self, *version: int) -> bool:
        """It is known to be this version or a newer one."""
        return self.version is not None and self.version >= version

    def __str__(self) -> str:
        return self.daemon.spelt if self.version is None else f"{self.daemon.spelt} {spelt(self.version)}"


def version(text: str) -> Version | None:
    """10.4, v10.4.1, 10.3-3+deb13u1, 9. None: it is no version."""
    found = _VERSION.match(text)
    return None if found is None else (int(found[1]), int(found[2] or 0))


def spelt(version: Version) -> str:
    return f"{version[0]}.{version[1]}"


def software(text: str) -> Software | None:
    """`frr`, `FRR 10.4`, `bird/3.1`. None: no program that is known here, or no version."""
    name, *rest = re.split(r"[ /]", text.strip(), maxsplit=1)
    known = {one.value: one for one in Daemon}
    if (daemon := known.get(name.lower())) is None:
        return None
    if not rest:
        return Software(daemon=daemon)
    if (number := version(rest[0].strip())) is None:
        return None
    return Software(daemon=daemon, version=number)
