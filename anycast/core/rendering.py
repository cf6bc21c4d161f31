"""Which configuration ExaBGP runs with: a digest of all that a reload of the agent cannot give it.

`anycast render exabgp` writes it on the plugin's command line, and the plugin reports it. Everybody on the node can
read a command line, so passwords are not in it. The addresses of VIPs are not in it either: the plugin has them from
the lease.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from hashlib import blake2b
from itertools import zip_longest

from anycast.core.preference import Routers
from anycast.core.prefixes import is_host_route, prefixes_of
from anycast.core.values.configuration import BGP_PORT, Address, Bgp, Config, Neighbor
from anycast.core.values.lease import digest_of
from anycast.core.values.report import SETUP, VIEW
from anycast.core.values.route import Route
from anycast.core.values.table import Metric, metric

FORMAT = 2  # of what is rendered: another number, and every ExaBGP is to be started again
TABLE_FORMAT = 1  # the same of what is rendered for a daemon that learns the kernel's table
_WITH_ADDRESSES = 1  # the one before, whose ExaBGP needs no other start


UNTOLD = ("multihop", "ttl_security", "port", "interface", "extended_next_hop")

RELOAD = "`systemctl reload anycast-exabgp`"
RESTART = "`anycast maintenance on --wait`, `systemctl restart anycast-exabgp`, `anycast maintenance off`"
"""How ExaBGP gets it: by the first nearly all, by the second everything."""
LEARN = "`anycast render bird -o /etc/bird/anycast.conf`, then `birdc configure`"
"""How BIRD gets it, where the speaker is a table of the kernel. Its sessions stay up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A BGP session that ExaBGP has to read its configuration for. `change`: added, removed or changed; `what` of it."""

    neighbor: str
    change: str
    what: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"neighbor {self.neighbor} {self.change}" + (f" ({', '.join(self.what)})" if self.what else "")


OF_SESSION = ("remote_as", "local_address", "passive", "view", *UNTOLD)
"""Of a neighbor what ExaBGP is given in one value, and `anycast render` too; beside families and passwords."""


def untold(neighbor: Neighbor) -> tuple[object, ...]:
    """What ExaBGP is given for a neighbor and does not tell (`setups`)."""
    settings = (getattr(neighbor, name) for name in UNTOLD)
    return (neighbor.password, neighbor.password_from, neighbor.passive, *settings)


def sessions(before: Bgp, after: Bgp) -> tuple[Session, ...]:
    """What an ExaBGP that runs with `before` does not know of `after`. Passwords are not shown."""
    every = tuple(differences(before, after, ("local_as", "router_id", "hold_time")))
    # What it listens at it learns from its environment, at its start.
    every += tuple(f"{told}, by a restart" for told in differences(before, after, ("listen_port",)))
    old, new = ({one.address: one for one in bgp.neighbors} for bgp in (before, after))
    found = [Session(neighbor=str(at), change="removed") for at in old if at not in new]
    found += [Session(neighbor=str(at), change="added") for at in new if at not in old]
    for at in new:
        if at in old and (what := (*every, *_of_neighbor(old[at], new[at]))):
            found.append(Session(neighbor=str(at), change="changed", what=what))
    return tuple(found)


def _of_neighbor(old: Neighbor, new: Neighbor) -> Iterator[str]:
    for told in differences(old, new, OF_SESSION):
        # ExaBGP takes a neighbor that differs in nothing but its interface for the same, and a socket that listens keeps
        # the least TTL that it once had.
        kept = told.startswith("interface ") or (told.startswith("ttl_security ") and told.endswith(" none"))
        yield f"{told}, by a restart" if kept else told
    if old.families != new.families:
        yield "families"
    if (old.password, old.password_from) != (new.password, new.password_from):
        yield "password"


def differences(old: object, new: object, names: Iterable[str]) -> Iterator[str]:
    """`name old -> new` of those that differ, as they are written in the file."""
    for name in names:
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            yield f"{name} {_spelt(was)} -> {_spelt(now)}"


def _spelt(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "default"
    return "none" if value in ("", 0) else value


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
    """What came later stands in it where it is set: an ExaBGP that was started before is not told to be started again."""
    neighbors = sorted(
        f"{one.address} {one.remote_as} {one.local_address} {sorted(one.families)} {one.passive}{_later(one)}"
        for one in bgp.neighbors
    )
    text = f"{form} {bgp.local_as} {bgp.router_id} {bgp.hold_time} {neighbors}{_port(bgp)}"
    if views := sorted(str(one.address) for one in bgp.neighbors if one.view):
        text += f" {views}"
    return text.encode()


_DEFAULTS = {one.name: one.default for one in fields(Neighbor)}


def _port(bgp: Bgp) -> str:
    return "" if bgp.listen_port == BGP_PORT else f" {bgp.listen_port}"


def _later(neighbor: Neighbor) -> str:
    return "".join(
        f" {name}={value}" for name in UNTOLD if (value := getattr(neighbor, name)) != _DEFAULTS[name]
    )


def listed(config: Config) -> Iterator[Route]:
    """The routes that a daemon which learns the table must know, for they have attributes of their own."""
    routers = Routers(config.bgp)
    for vip in config.vips:
        for prefix in prefixes_of(vip):
            route = routers.route(vip, prefix, drain=False)
            if route is not None and metric(route) is Metric.LISTED:
                yield route


def table_digest(config: Config) -> str:
    """What `anycast render bird` writes, passwords aside: BIRD has it in a constant, and the announcer reports it."""
    bgp, speaker = config.bgp, config.speaker
    neighbors = sorted(
        f"{one.address} {one.remote_as} {one.local_address} {sorted(one.families)} {one.passive} {one.bfd}{_later(one)}"
        for one in bgp.neighbors
    )
    text = (
        f"{TABLE_FORMAT} {bgp.local_as} {bgp.router_id} {bgp.hold_time} {bgp.next_hop_v4} {bgp.next_hop_v6} {neighbors}"
        f" {speaker.table} {speaker.ospf} {bgp.sign}{_port(bgp)}"
    )
    text += "" if bgp.weight is None else f" weight {bgp.weight}"
    wide = {one for vip in config.vips for one in prefixes_of(vip) if not is_host_route(one)}
    text += f" wide {sorted(map(str, wide))}" if wide else ""
    found = blake2b(text.encode(), digest_size=8)
    for one in sorted(map(digest_of, listed(config))):
        found.update(one.to_bytes(8, "big"))
    return found.hexdigest()
