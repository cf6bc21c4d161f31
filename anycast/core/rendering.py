"""Which configuration ExaBGP runs with: a digest of all that a reload of the agent cannot give it.

`anycast render exabgp` writes it on the plugin's command line, and the plugin reports it. Everybody on the node can
read a command line, so passwords are not in it. The addresses of VIPs are not in it either: the plugin has them from
the lease.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import zip_longest

from anycast.core.values.configuration import Address, Bgp, Neighbor
from anycast.core.values.report import SETUP, VIEW

FORMAT = 2  # of what is rendered: another number, and every ExaBGP is to be started again
_WITH_ADDRESSES = 1  # the one before, whose ExaBGP needs no other start


RELOAD = "`systemctl reload anycast-exabgp`"
RESTART = "`anycast maintenance on --wait`, `systemctl restart anycast-exabgp`, `anycast maintenance off`"
"""How ExaBGP gets it: by the first nearly all, by the second everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A BGP session that ExaBGP has to read its configuration for. `change`: added, removed or changed; `what` of it."""

    neighbor: str
    change: str
    what: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"neighbor {self.neighbor} {self.change}" + (f" ({', '.join(self.what)})" if self.what else "")


def sessions(before: Bgp, after: Bgp) -> tuple[Session, ...]:
    """What an ExaBGP that runs with `before` does not know of `after`. Passwords are not shown."""
    every = tuple(_differences(before, after, ("local_as", "router_id", "hold_time")))
    old, new = ({one.address: one for one in bgp.neighbors} for bgp in (before, after))
    found = [Session(neighbor=str(at), change="removed") for at in old if at not in new]
    found += [Session(neighbor=str(at), change="added") for at in new if at not in old]
    for at in new:
        if at in old and (what := (*every, *_of_neighbor(old[at], new[at]))):
            found.append(Session(neighbor=str(at), change="changed", what=what))
    return tuple(found)


def _of_neighbor(old: Neighbor, new: Neighbor) -> Iterator[str]:
    yield from _differences(old, new, ("remote_as", "local_address", "passive", "view"))
    if old.families != new.families:
        yield "families"
    if (old.password, old.password_from) != (new.password, new.password_from):
        yield "password"


def _differences(old: object, new: object, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            yield f"{name} {was} -> {now}"


def setups(bgp: Bgp) -> frozenset[str]:
    """What ExaBGP tells of the sessions when it has them as they are configured (`report.SETUP`)."""
    found = []
    for one in bgp.neighbors:
        local = one.local_address or bgp.router_id
        carried = ",".join(map(str, sorted(one.families) or [one.address.version]))
        words = (one.address, one.remote_as, bgp.local_as, bgp.router_id, local, bgp.hold_time, carried)
        found.append(" ".join(map(str, words)) + (f" {VIEW}" if one.view else ""))
    return frozenset(found)


def differing(wanted: Iterable[str], there: Iterable[str]) -> Iterator[Session]:
    """How the sessions that ExaBGP has differ from those that are configured."""
    new, old = ({text.split(" ", 1)[0]: text.split(" ") for text in texts} for texts in (wanted, there))
    for at in sorted(old.keys() | new.keys()):
        if at not in new or at not in old:
            yield Session(neighbor=at, change="removed" if at in old else "added")
        elif old[at] != new[at]:
            pairs = zip_longest(SETUP, old[at], new[at], fillvalue="none")
            what = tuple(f"{name} {was} -> {now}" for name, was, now in pairs if was != now)
            yield Session(neighbor=at, change="changed", what=what)


def digest(bgp: Bgp) -> str:
    return blake2b(_text(FORMAT, bgp), digest_size=8).hexdigest()


def accepted(bgp: Bgp, addresses: Iterable[Address]) -> frozenset[str]:
    """The digests of what does as well: that of this release, and that of the one before with the same addresses."""
    before = blake2b(_text(_WITH_ADDRESSES, bgp), digest_size=8)
    before.update(b"".join(sorted({one.packed for one in addresses})))
    return frozenset({digest(bgp), before.hexdigest()})


def _text(form: int, bgp: Bgp) -> bytes:
    neighbors = sorted(
        f"{one.address} {one.remote_as} {one.local_address} {sorted(one.families)} {one.passive}"
        for one in bgp.neighbors
    )
    text = f"{form} {bgp.local_as} {bgp.router_id} {bgp.hold_time} {neighbors}"
    if views := sorted(str(one.address) for one in bgp.neighbors if one.view):
        text += f" {views}"  # without one as it was before there were views
    return text.encode()
