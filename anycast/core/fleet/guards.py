"""What a reload must not lower without a word: what keeps the nodes of a fleet from leaving together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

from anycast.core.fleet.values import Capacity
from anycast.core.values.configuration import Neighbor, Vip, WhenUnhealthy
from anycast.core.values.fleet import Fleet, FleetView

NAMED = 5  # addresses


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """Of one configuration, as plain values. `capacity`: what of it is configured. `window`: seconds, of `velocity`.
    `trust`: the keys that are written of those by which the others are believed.

    `nodes`, `percent`: of `velocity`; both None: there is none. `prefix`: of etcd; empty: there is none. `stays`, `withdraws`:
    the addresses of VIPs with `when_unhealthy` so. `viewed`, `unviewed`: the routers that send back what they have, and not.
    """

    view: str
    max_out: int
    min_announcing: int
    limit: float
    capacity: tuple[str, ...] = ()
    nodes: int | None = None
    percent: float | None = None
    window: float = 0.0
    trust: tuple[str, ...] = ()
    prefix: str = ""
    stays: tuple[str, ...] = ()
    withdraws: tuple[str, ...] = ()
    viewed: tuple[str, ...] = ()
    unviewed: tuple[str, ...] = ()


_TRUST = {
    "token": "whoever asks would be answered without one",
    "tls": "nobody would prove who he is",
    "etcd": "who may leave for a maintenance would no longer be decided strictly",
}


def guards(
    fleet: Fleet | None, vips: Iterable[Vip] = (), neighbors: Sequence[Neighbor] = ()
) -> Guards | None:
    """None: the configuration has no `fleet:`."""
    if fleet is None:
        return None
    velocity = fleet.velocity
    stays, withdraws = list[str](), list[str]()
    for vip in vips:
        into = stays if vip.when_unhealthy is WhenUnhealthy.LAST_RESORT else withdraws
        into += map(str, vip.addresses)
    return Guards(
        view=str(fleet.view),
        max_out=fleet.max_out,
        min_announcing=fleet.min_announcing,
        limit=fleet.capacity.limit,
        capacity=tuple(
            one.name
            for one in fields(Capacity)
            if one.name != "limit" and getattr(fleet.capacity, one.name) is not None
        ),
        nodes=None if velocity is None else velocity.nodes,
        percent=None if velocity is None or velocity.percent is None else float(velocity.percent.value),
        window=0.0 if velocity is None else velocity.window,
        trust=tuple(key for key in _TRUST if getattr(fleet, key) is not None),
        prefix="" if fleet.etcd is None else fleet.etcd.prefix,
        stays=tuple(stays),
        withdraws=tuple(withdraws),
        viewed=tuple(str(one.address) for one in neighbors if one.view),
        unviewed=tuple(str(one.address) for one in neighbors if not one.view),
    )


def lowered(before: Guards | None, after: Guards | None) -> Iterator[str]:
    """What of them would be lowered, each in words."""
    if before is None:
        return
    if after is None:
        yield "the file has no `fleet:` any more: nothing would keep this node and the others from leaving together"
        return
    if before.view != FleetView.NONE and after.view == FleetView.NONE:
        yield f"fleet.view would be none (it is {before.view}): this node would know nothing of the others"
    if after.max_out > before.max_out:
        yield f"fleet.max_out would go up from {before.max_out} to {after.max_out}: more nodes could be out at once"
    if after.min_announcing < before.min_announcing:
        yield (
            f"fleet.min_announcing would go down from {before.min_announcing} to {after.min_announcing}: a node could leave a "
            "VIP to fewer others"
        )
    if after.limit > before.limit:
        yield f"fleet.capacity.limit would go up from {before.limit:.0%} to {after.limit:.0%}"
    if gone := [name for name in before.capacity if name not in after.capacity]:
        yield f"fleet.capacity would not say {' and '.join(gone)} any more: no drain would be refused for its sake"
    yield from _velocity(before, after)
    if gone := _both(before.stays, after.withdraws):
        yield f"when_unhealthy would be withdraw of {_some(gone)}: what all nodes lose alike would take it from everybody"
    if gone := _both(before.viewed, after.unviewed):
        yield (
            f"bgp.view would be gone of {_some(gone)}: nobody would look at the other nodes' paths there before a node leaves"
        )
    if before.prefix and after.prefix and before.prefix != after.prefix:
        yield (
            f"fleet.etcd.prefix would be {after.prefix} (it is {before.prefix}): turns would not be shared with nodes that have "
            "the old one"
        )
    if after.view != FleetView.NONE:
        yield from (
            f"fleet.{key} would be gone: {_TRUST[key]}" for key in before.trust if key not in after.trust
        )


def _both(some: Iterable[str], others: Iterable[str]) -> list[str]:
    found = frozenset(others)
    return [one for one in some if one in found]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _velocity(before: Guards, after: Guards) -> Iterator[str]:
    old, new = (before.nodes, before.percent), (after.nodes, after.percent)
    if old == (None, None):
        return
    if new == (None, None):
        yield "fleet.velocity would be gone: any number of nodes could take back their routes at once"
        return
    if (before.nodes is None) != (after.nodes is None):
        yield "fleet.velocity would count in another way (nodes, percent), which cannot be compared"
    elif before.nodes is not None and after.nodes is not None and after.nodes > before.nodes:
        yield f"fleet.velocity would go up from {before.nodes} nodes to {after.nodes}"
    elif before.percent is not None and after.percent is not None and after.percent > before.percent:
        yield f"fleet.velocity would go up from {before.percent:.0f}% to {after.percent:.0f}%"
    if after.window < before.window:
        yield f"fleet.velocity.window would go down from {before.window:g} s to {after.window:g} s"
