"""Prometheus metrics, read from the state at the moment of a scrape. Values are 0 rather than absent."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from anycast.core.decision import Reason
from anycast.core.kernel import KINDS, SyncRole
from anycast.core.maintenance import NODE
from anycast.core.members import check_of, server_port, servers_of, service_key, versions
from anycast.core.state import State, VipState, health_of, is_drained, kernel_table
from anycast.ops.source import Source
from anycast.ops.status import fingerprint, is_announced, kernel_error, neighbors, readiness, service_facts


def registry(
    source: Source,
    *,
    version: str,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> CollectorRegistry:
    """A registry of its own: the node's metrics and those of this process."""
    result = CollectorRegistry()
    result.register(StateCollector(source, version=version, clock=clock, wall=wall))
    ProcessCollector(registry=result)
    return result


class StateCollector(Collector):
    def __init__(
        self, source: Source, *, version: str, clock: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._source = source
        self._version = version
        self._clock = clock
        self._wall = wall

    def describe(self) -> Iterable[Metric]:
        return ()  # the registry need not scrape once to learn the names

    def collect(self) -> Iterator[Metric]:
        state, now, wall = self._source.state, self._clock(), self._wall()
        yield self._build_info(state)
        yield _gauge("anycast_ready", "1 if the node can do its work", not readiness(state, now))
        yield _gauge(
            "anycast_engine_lag_seconds", "Time since the engine's last step", now - self._source.last_step
        )
        yield _gauge(
            "anycast_config_last_reload_successful",
            "1 if the last configuration load was applied",
            self._source.reload_ok,
        )
        yield _gauge(
            "anycast_config_last_reload_success_timestamp_seconds",
            "When a configuration was last applied",
            self._source.reloaded_at,
        )
        yield from _vips(state, wall - now)
        yield from _services(state, now)
        yield from _servers(state)
        yield from _requirements(state)
        yield _tables(state)
        yield _maintenance(state)
        yield from _routing(state, now)
        yield _gauge(
            "anycast_kernel_available", "1 if the kernel could be read", kernel_error(state, now) is None
        )
        yield CounterMetricFamily(
            "anycast_kernel_programs", "Changes written to the kernel", value=state.kernel.programs
        )
        yield from _kernel(state)

    def _build_info(self, state: State) -> Metric:
        exabgp = next((r.exabgp_version for r in state.announcers.values() if r and r.exabgp_version), "")
        info = {"version": self._version, "exabgp": exabgp, "python": platform.python_version()}
        return InfoMetricFamily("anycast_build", "What is running here", value=info)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _vips(state: State, epoch: float) -> Iterator[Metric]:
    announced = GaugeMetricFamily(
        "anycast_vip_announced", "1 if ExaBGP has acknowledged every prefix of the VIP", labels=["vip"]
    )
    verdict = GaugeMetricFamily(
        "anycast_vip_verdict", "1 for the reason that holds, 0 for the others", labels=["vip", "reason"]
    )
    changed = GaugeMetricFamily(
        "anycast_vip_last_change_timestamp_seconds", "When the verdict last changed", labels=["vip"]
    )
    for vip in state.config.vips:
        known = state.vips.get(vip.name, VipState())
        announced.add_metric([vip.name], float(is_announced(state, vip)))
        for reason in Reason:
            verdict.add_metric([vip.name, reason], float(reason is known.verdict.reason))
        changed.add_metric([vip.name], known.since + epoch)
    return iter((announced, verdict, changed))


def _services(state: State, now: float) -> Iterator[Metric]:
    labels = ["vip", "service", "family"]
    usable = GaugeMetricFamily("anycast_service_usable", "Real servers that get new clients", labels=labels)
    total = GaugeMetricFamily("anycast_service_servers", "Real servers configured", labels=labels)
    for vip in state.config.vips:
        for service, version, found in service_facts(state, vip, now):
            names = [vip.name, service.name, f"ipv{version}"]
            usable.add_metric(names, found.usable)
            total.add_metric(names, found.total)
    return iter((usable, total))


def _servers(state: State) -> Iterator[Metric]:
    labels = ["vip", "service", "server", "address"]
    up = GaugeMetricFamily("anycast_server_up", "1 if the checks of the real server hold", labels=labels)
    drained = GaugeMetricFamily(
        "anycast_server_drained", "1 if somebody took the real server out", labels=labels
    )
    connections = GaugeMetricFamily(
        "anycast_server_connections",
        "Connections of the real server through this node",
        labels=[*labels, "state"],
    )
    unknown = GaugeMetricFamily(
        "anycast_server_check_unknown", "1 if the last check itself could not run", labels=labels
    )
    warned = GaugeMetricFamily(
        "anycast_server_check_warning", "1 if the check holds, with a warning", labels=labels
    )
    table = kernel_table(state)
    for vip in state.config.vips:
        for service in vip.services:
            held: dict[tuple[object, int], tuple[int, int]] = {}
            for key in {service_key(address, service) for address in vip.addresses}:
                for one in table[key].destinations if key in table else ():
                    active, inactive = held.get(one.key, (0, 0))
                    held[one.key] = (active + one.active, inactive + one.inactive)
            rows = {
                (server, address)
                for version in versions(vip)
                for server, address in servers_of(service, version)
            }
            for server, address in sorted(rows, key=lambda row: (row[0].name, row[1].version)):
                health = health_of(state, check_of(vip, service, server, address))
                names = [vip.name, service.name, server.name, str(address)]
                active, inactive = held.get((address, server_port(service, server)), (0, 0))
                up.add_metric(names, float(health.is_up))
                unknown.add_metric(names, float(health.unknown))
                warned.add_metric(names, float(health.warned))
                drained.add_metric(names, float(is_drained(state, service, server)))
                connections.add_metric([*names, "active"], float(active))
                connections.add_metric([*names, "inactive"], float(inactive))
    return iter((up, unknown, warned, drained, connections))


def _tables(state: State) -> Metric:
    tables = GaugeMetricFamily(
        "anycast_service_table_fingerprint",
        "A number that is equal on nodes whose tables choose alike; 0: the service is not in the kernel",
        labels=["vip", "service", "address"],
    )
    for vip in state.config.vips:
        for service in vip.services:
            for address in vip.addresses:
                found = fingerprint(state, address, service)
                tables.add_metric([vip.name, service.name, str(address)], float(int(found or "0", 16)))
    return tables


def _kernel(state: State) -> Iterator[Metric]:
    repairs = CounterMetricFamily(
        "anycast_kernel_repairs",
        "What was found changed by somebody else and put right, since the start of the agent",
        labels=["kind"],
    )
    for kind in KINDS:
        repairs.add_metric([kind], state.kernel.repairs.get(kind, 0))
    sync = GaugeMetricFamily(
        "anycast_connection_sync", "1 if the kernel's daemon of connection sync runs", labels=["role"]
    )
    running = state.kernel.snapshot.sync if state.kernel.snapshot is not None else None
    for role in SyncRole:
        sync.add_metric([role], float(role in (running or {})))
    return iter((repairs, sync))


def _requirements(state: State) -> Iterator[Metric]:
    labels = ["scope", "vip", "service"]
    up = GaugeMetricFamily("anycast_requirement_up", "1 if what is required holds", labels=labels)
    unknown = GaugeMetricFamily(
        "anycast_requirement_unknown", "1 if the last run of a check of it could not run", labels=labels
    )
    warned = GaugeMetricFamily(
        "anycast_requirement_warning", "1 if what is required holds, with a warning", labels=labels
    )
    for one in state.requirements:
        health = health_of(state, one.check)
        names = ["vip" if one.vip else "node", one.vip, one.service]
        up.add_metric(names, float(health.phase.is_up))
        unknown.add_metric(names, float(health.unknown))
        warned.add_metric(names, float(health.warned))
    return iter((up, unknown, warned))


def _maintenance(state: State) -> Metric:
    # Two labels, for a VIP may be called "node".
    active = GaugeMetricFamily("anycast_maintenance_active", "1 in maintenance", labels=["scope", "vip"])
    active.add_metric(["node", ""], float(NODE in state.maintenance))
    for vip in state.config.vips:
        active.add_metric(["vip", vip.name], float(vip.name in state.maintenance))
    return active


def _routing(state: State, now: float) -> Iterator[Metric]:
    established = GaugeMetricFamily("anycast_peer_established", "1 if the BGP session is up", labels=["peer"])
    for neighbor in neighbors(state):
        established.add_metric([neighbor.address], float(neighbor.state == "up"))
    yield established
    reports = [report for report in state.announcers.values() if report is not None]
    yield _gauge("anycast_announcers", "Announcers connected", len(state.announcers))
    yield CounterMetricFamily(
        "anycast_exabgp_errors",
        "Commands ExaBGP refused, since the start of the announcer",
        value=sum(report.errors for report in reports),
    )
    lease = state.lease
    sent = state.started_at if lease.routes is None else lease.sent_at
    yield _gauge("anycast_lease_seq", "Number of the last lease", lease.seq)
    yield _gauge("anycast_lease_age_seconds", "Time since the last lease was sent", now - sent)
