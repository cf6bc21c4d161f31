"""What of the kernel is this node's, and under which names: what an agent leaves behind for the next.

Names change and configurations are replaced while the agent is down. What a VIP or a real server *is*, is its address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.kernel import Snapshot
from anycast.core.dataplane.members import Memberships, memberships, service_key
from anycast.core.values.configuration import Address, Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """`services`: the real servers of each, with the name `POOL/SERVER` that they are drained by.

    `marks`: the addresses through which the packets of a firewall mark come. `lease_ttl`: seconds for which a lease
    may stand after the agent has gone; 0: none does.
    """

    vips: Mapping[str, tuple[Address, ...]] = field(default_factory=dict)
    addresses: frozenset[Address] = frozenset()
    services: Mapping[ipvs.Key, Mapping[ipvs.DestinationKey, str]] = field(default_factory=dict)
    marks: Mapping[ipvs.MarkKey, frozenset[Address]] = field(default_factory=dict)
    sync: bool = False
    lease_ttl: float = 0.0


NOTHING = Owned()


def owned_by(config: Config, members: Memberships | None = None) -> Owned:
    """Everything that an agent with this configuration may put into the kernel. `members`: of the configuration."""
    marks: dict[ipvs.MarkKey, set[Address]] = {}
    for vip in config.vips:
        for address in vip.addresses:
            for service in vip.services:
                key = service_key(address, service)
                if isinstance(key, ipvs.MarkKey):
                    marks.setdefault(key, set()).add(address)
    return Owned(
        vips={vip.name: vip.addresses for vip in config.vips},
        addresses=frozenset(address for vip in config.vips for address in vip.addresses),
        services={
            key: {member.up.key: member.scope for member in membership.members}
            for key, membership in (memberships(config) if members is None else members).items()
        },
        marks={key: frozenset(addresses) for key, addresses in marks.items()},
        sync=config.connection_sync is not None,
        lease_ttl=config.timing.lease_ttl,
    )


def joined(before: Owned, now: Owned) -> Owned:
    """What is owned while `before` is still leaving. Names are those of `now`."""
    return Owned(
        vips=now.vips,
        addresses=before.addresses | now.addresses,
        services={
            key: {**before.services.get(key, {}), **now.services.get(key, {})}
            for key in (*now.services, *(key for key in before.services if key not in now.services))
        },
        marks={
            key: before.marks.get(key, frozenset()) | now.marks.get(key, frozenset())
            for key in (*now.marks, *(key for key in before.marks if key not in now.marks))
        },
        sync=before.sync or now.sync,
        lease_ttl=max(before.lease_ttl, now.lease_ttl),
    )


def rid(
    owned: Owned, configured: Owned, snapshot: Snapshot, leaving: Iterable[Address], *, lease_ttl: float
) -> Owned:
    """`owned` without what was read to be gone from the kernel and is configured no more."""
    table = snapshot.table
    staying = frozenset(leaving)
    kept = configured.addresses | snapshot.addresses | staying
    kept |= {key.address for key in table if isinstance(key, ipvs.ServiceKey)}
    services: dict[ipvs.Key, Mapping[ipvs.DestinationKey, str]] = {}
    for key, servers in owned.services.items():
        present = {each.key for each in table[key].destinations} if key in table else set()
        wanted = configured.services.get(key, {})
        left = {at: scope for at, scope in servers.items() if at in wanted or at in present}
        if key in configured.services or key in table:
            services[key] = left
    # Where a mark is configured its packets come through the addresses it has now, and those that are leaving.
    ways = {key: configured.marks[key] | staying if key in configured.marks else kept for key in owned.marks}
    after = replace(
        owned,
        addresses=owned.addresses & kept,
        services=services,
        marks={key: at & ways[key] for key, at in owned.marks.items() if key in services},
        sync=configured.sync or (owned.sync and bool(snapshot.sync)),
        lease_ttl=lease_ttl,
    )
    return configured if after == configured else after
