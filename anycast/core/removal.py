"""What a configuration would take away from the one before it, and what of that nobody may mean.

A file that was cut off, emptied, or read while its directory was not mounted is often a valid configuration, of less.
So what is missing in it is looked at before it comes into force, and what would guard the fleet less. The rules are the functions below, in the order they are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from anycast.core.fleet.guards import Guards, guards, lowered
from anycast.core.values.configuration import Config, Pool, Vip
from anycast.core.values.described import Percent

FEW = 1
"""So many are never too many, as long as another stays: one of two VIPs is no accident."""
NAMED = 5  # of what would go; the rest is counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """What a configuration serves and how it was written: what two of them are compared by.

    `parts`: how many files of conf.d it was read from. `unended`: names of files whose last line has no end.
    `nodes`: those of its fleet; empty: it is of one node. `max_removed`: the share that may go without a word. `guards`: what
    keeps those nodes from leaving together; None: nothing, or it is not known.
    """

    vips: frozenset[str] = frozenset()  # their addresses
    servers: frozenset[str] = frozenset()  # addresses of real servers
    parts: int = 0
    unended: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()
    max_removed: Percent = Percent(50)
    guards: Guards | None = None


def removes_nothing(before: Config, after: Config) -> bool:
    """Whether every address is still there. Quick where most parts are the same objects; False: it has to be counted."""
    kept = {id(vip) for vip in after.vips}
    changed = [vip for vip in before.vips if id(vip) not in kept]
    known = {id(vip) for vip in before.vips}
    others = [vip for vip in after.vips if id(vip) not in known]
    addresses = {address for vip in others for address in vip.addresses}
    if any(address not in addresses for vip in changed for address in vip.addresses):
        return False
    servers = {address for pool in _pools(others) for server in pool.servers for address in server.addresses}
    return all(
        address in servers
        for pool in _pools(changed)
        for server in pool.servers
        for address in server.addresses
    )


def _pools(vips: Iterable[Vip]) -> Iterable[Pool]:
    return {id(pool): pool for vip in vips for service in vip.services for pool in service.pools}.values()


def census(
    config: Config, *, parts: int = 0, unended: Iterable[str] = (), nodes: Iterable[str] = ()
) -> Census:
    """`parts`, `unended`, `nodes`: of the files, which the configuration does not know."""
    return Census(
        vips=frozenset(str(address) for vip in config.vips for address in vip.addresses),
        servers=frozenset(
            str(address)
            for pool in _pools(config.vips)
            for server in pool.servers
            for address in server.addresses
        ),
        parts=parts,
        unended=frozenset(unended),
        nodes=frozenset(nodes),
        max_removed=config.node.max_removed,
        guards=guards(config.fleet, config.vips, config.bgp.neighbors),
    )


def too_many(gone: int, before: int, most: Percent) -> bool:
    """Whether so many of those before may not go without a word.

    More than the share `most`, unless it is one and another stays. `most` of 100%: any number may.
    """
    return gone * 100 > before * most.value and (gone > FEW or gone == before)


def suspicions(before: Census, after: Census) -> tuple[str, ...]:
    """Why `after` may not take the place of `before` unless somebody says that it is meant; empty: it may."""
    return tuple(_suspicions(before, after))


def _suspicions(before: Census, after: Census) -> Iterator[str]:
    gone_vips, gone_servers = before.vips - after.vips, before.servers - after.servers
    none_left = bool(before.vips) and not after.vips
    if none_left:
        yield f"no VIP would be left: {_of(gone_vips, before.vips, 'VIP addresses')} would be removed"
    elif too_many(len(gone_vips), len(before.vips), before.max_removed):
        yield _more_than(gone_vips, before.vips, "VIP addresses", before.max_removed)
    if not none_left and too_many(len(gone_servers), len(before.servers), before.max_removed):
        yield _more_than(gone_servers, before.servers, "addresses of real servers", before.max_removed)
    gone_nodes = before.nodes - after.nodes
    if before.nodes and not after.nodes:
        yield f"the file names no nodes any more (it had {len(before.nodes)}): a fleet's part of it is missing"
    elif too_many(len(gone_nodes), len(before.nodes), before.max_removed):
        yield _more_than(gone_nodes, before.nodes, "nodes of the fleet", before.max_removed)
    if before.parts and not after.parts and (gone_vips or gone_servers):
        yield (
            f"conf.d has no file any more (it had {before.parts}), and something would be removed: is it mounted?"
        )
    yield from lowered(before.guards, after.guards)
    for name in sorted(after.unended - before.unended)[:NAMED]:
        yield f"the last line of {name} has no end any more: it may be cut off (end the line if it is not)"


def _more_than(gone: frozenset[str], before: frozenset[str], what: str, most: Percent) -> str:
    return f"{_of(gone, before, what)} would be removed, and node.max_removed is {most}"


def _of(gone: frozenset[str], before: frozenset[str], what: str) -> str:
    some = sorted(gone)[:NAMED]
    more = f" and {len(gone) - len(some)} more" if len(gone) > len(some) else ""
    return f"{len(gone)} of {len(before)} {what} ({', '.join(some)}{more})"
