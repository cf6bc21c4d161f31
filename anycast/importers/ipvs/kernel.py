"""The table of the running kernel, as it was read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from anycast.core.dataplane.ipvs import Destination, Key, MarkKey, ServiceEntry, Table, order_of
from anycast.core.values.configuration import ConnectionSync, Timeouts, TunnelChecksum
from anycast.importers.ipvs.save import UNCHECKED
from anycast.importers.model import Keys, Place, Setup, Value, keys
from anycast.importers.numbers import duration
from anycast.importers.report import Report
from anycast.importers.source import SourceError
from anycast.importers.table import Listed, Real, served
from anycast.importers.vips import by_address

KERNEL = Place("the running kernel")
_USUAL = Timeouts(tcp=900, tcp_fin=120, udp=300)
_SYNC = {"id": 1, "group": "224.0.0.81", "port": 8848, "ttl": 1}


def setup_of(
    table: Table,
    timeouts: Timeouts,
    sync: Iterable[ConnectionSync],
    report: Report,
    addresses: Sequence[str] = (),
) -> Setup:
    """Raises SourceError: the table is empty."""
    if not table:
        raise SourceError(
            KERNEL, "its table of IPVS is empty", "import it where the services stand, or name a file"
        )
    services = [_listed(key, table[key], report) for key in sorted(table, key=order_of)]
    report.to_write(KERNEL, UNCHECKED)
    report.to_write(
        KERNEL,
        "real servers: the table has those that were up; what has been taken out because it was down is missing: compare with the configuration of "
        "the program that wrote the table",
    )
    settings: list[tuple[str, Value]] = []
    if timeouts != _USUAL:
        settings.append(
            (
                "timeouts",
                keys(
                    tcp=duration(timeouts.tcp), tcp_fin=duration(timeouts.tcp_fin), udp=duration(timeouts.udp)
                ),
            )
        )
    if (daemon := next(iter(sync), None)) is not None:
        report.different(KERNEL, "sync daemons: connection_sync: every node sends and receives at all times")
        settings.append(("connection_sync", _sync(daemon)))
    return Setup(vips=tuple(by_address(served(services, report, addresses))), settings=Keys(tuple(settings)))


def _sync(daemon: ConnectionSync) -> Keys:
    found = keys(interface=daemon.interface)
    for name, usual in _SYNC.items():
        value = getattr(daemon, name)
        if value and str(value) != str(usual):
            found = found.with_(**{name: value if isinstance(value, int) else str(value)})
    return found


def _listed(key: Key, entry: ServiceEntry, report: Report) -> Listed:
    place = Place(str(key))
    listed = Listed(
        scheduler=entry.scheduler,
        flags=tuple(sorted(entry.flags)),
        one_packet=entry.one_packet,
        timeout=None if entry.persistent is None else entry.persistent.timeout,
        prefix=None if entry.persistent is None else entry.persistent.prefix,
        engine="pe=" in entry.foreign,
        place=place,
        reals=[_real(one, key, report) for one in entry.destinations],
    )
    if isinstance(key, MarkKey):
        listed.mark, listed.version = key.mark, key.version
    else:
        listed.protocol, listed.address, listed.port = str(key.protocol), str(key.address), key.port
        listed.version = key.address.version
    listed.check = listed.default_check
    report.carried(place, "a service with its real servers")
    return listed


def _real(one: Destination, key: Key, report: Report) -> Real:
    host = f"[{one.address}]" if one.address.version == 6 else str(one.address)
    place = Place(f"{key} -> {host}:{one.port}")
    tunnel: Keys | None = None
    if one.forwarding == "tunnel":
        checksum = None if one.tunnel.checksum is TunnelChecksum.NONE else str(one.tunnel.checksum)
        tunnel = keys(type=str(one.tunnel.type), port=one.tunnel.port or None, checksum=checksum)
    if one.foreign:
        report.impossible(
            place,
            "it has what cannot be written here, as another forwarding method (local node, bypass) or flags",
        )
    if not one.weight:
        report.to_write(
            place,
            "weight 0: somebody drained it, or it was down (keepalived: inhibit_on_failure, and misc_dynamic after a reload); it is written as "
            "drained: remove `weight: 0` if it is to have clients",
        )
    return Real(
        address=str(one.address),
        port=one.port,
        weight=one.weight,
        forwarding=str(one.forwarding),
        tunnel=tunnel,
        upper=one.upper,
        lower=one.lower,
        place=place,
    )
