"""What this node owns in the kernel, and under which names: an agent leaves this for the next one.

Names may change and configurations may be replaced while the agent is down. So the identity of a VIP or a real server
is its address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.kernel import Snapshot
from anycast.core.index import Index, indexed
from anycast.core.prefixes import host_route
from anycast.core.values.configuration import Address, Config
from anycast.core.values.persistent import PersistentMap, changed
from anycast.core.values.route import Prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """`services`: the real servers of each, with the name `POOL/SERVER` that they are drained by.

    `marks`: the addresses through which the packets of a firewall mark come. `wide`: what addresses are announced by that are
    not announced by their host routes. `lease_ttl`: seconds for which a lease
    may stand after the agent has gone; 0: none does.
    """

    vips: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    addresses: frozenset[Address] = frozenset()
    services: PersistentMap[ipvs.Key, Mapping[ipvs.DestinationKey, str]] = PersistentMap()
    marks: Mapping[ipvs.MarkKey, frozenset[Address]] = field(default_factory=dict)
    wide: Mapping[Address, Prefix] = field(default_factory=dict)
    sync: bool = False
    lease_ttl: float = 0.0

    def prefix_of(self, address: Address) -> Prefix:
        """That one of the addresses is, or was, announced by."""
        return self.wide.get(address) or host_route(address)


NOTHING = Owned()


def owned_by(config: Config, index: Index | None = None) -> Owned:
    """Everything that an agent with this configuration may put into the kernel. `index`: of the configuration."""
    index = indexed(config) if index is None else index
    marks: dict[ipvs.MarkKey, set[Address]] = {}
    for vip in config.vips:
        for service in vip.services:
            for address in vip.addresses if service.mark else ():
                key = ipvs.MarkKey(mark=service.mark, version=address.version)
                marks.setdefault(key, set()).add(address)
    return Owned(
        vips={vip.name: vip.addresses for vip in config.vips},
        addresses=index.addresses,
        services=index.servers,
        marks={key: frozenset(addresses) for key, addresses in marks.items()},
        wide=index.wide,
        sync=config.connection_sync is not None,
        lease_ttl=config.timing.lease_ttl,
    )


def joined(before: Owned, now: Owned) -> Owned:
    """What is owned while `before` is still leaving. Names are those of `now`."""
    services = {
        key: {**before.services.get(key, {}), **now.services.get(key, {})}
        for key in changed(before.services, now.services)
        if key in before.services
    }
    addresses = before.addresses | now.addresses
    return Owned(
        vips=now.vips,
        addresses=now.addresses if addresses == now.addresses else addresses,
        services=now.services.updated(services),
        marks={
            key: before.marks.get(key, frozenset()) | now.marks.get(key, frozenset())
            for key in (*now.marks, *(key for key in before.marks if key not in now.marks))
        },
        wide=_wide(before, now),
        sync=before.sync or now.sync,
        lease_ttl=max(before.lease_ttl, now.lease_ttl),
    )


def _wide(before: Owned, now: Owned) -> Mapping[Address, Prefix]:
    leaving = {at: prefix for at, prefix in before.wide.items() if at not in now.addresses}
    return {**leaving, **now.wide} if leaving else now.wide


def rid(
    owned: Owned,
    configured: Owned,
    snapshot: Snapshot,
    leaving: Iterable[Address],
    *,
    lease_ttl: float,
    keeping: AbstractSet[ipvs.Key] = frozenset(),
) -> Owned:
    """`owned` without what is no longer configured and, by the last reading, no longer in the kernel.

    `keeping`: services with real servers that are yet to come there.
    """
    table = snapshot.table
    staying = frozenset(leaving)
    kept = configured.addresses | snapshot.addresses | staying
    kept |= {key.address for key in table if isinstance(key, ipvs.ServiceKey)}
    services: dict[ipvs.Key, Mapping[ipvs.DestinationKey, str]] = {}
    gone: list[ipvs.Key] = []
    for key in changed(configured.services, owned.services):
        if key in keeping:
            continue
        wanted = configured.services.get(key, {})
        present = {each.key for each in table[key].destinations} if key in table else set()
        left = {
            at: scope for at, scope in owned.services.get(key, {}).items() if at in wanted or at in present
        }
        if key not in configured.services and key not in table:
            gone.append(key)
        else:
            services[key] = wanted if left == wanted else left
    kept_services = owned.services.updated(services, gone)
    # Where a mark is configured its packets come through the addresses it has now, and those that are leaving.
    ways = {key: configured.marks[key] | staying if key in configured.marks else kept for key in owned.marks}
    after = replace(
        owned,
        addresses=owned.addresses & kept,
        services=kept_services,
        marks={key: at & ways[key] for key, at in owned.marks.items() if key in kept_services},
        wide={at: prefix for at, prefix in owned.wide.items() if at in kept} if owned.wide else owned.wide,
        sync=configured.sync or (owned.sync and bool(snapshot.sync)),
        lease_ttl=lease_ttl,
    )
    return configured if after == configured else after
