"""Prometheus metrics, read from the state at the moment of a scrape. Values are 0 rather than absent.

`MetricsText` writes what is served. What there is of every VIP and every real server it writes itself: of thousands the
library takes most of a second.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from anycast.core.dataplane.kernel import KINDS, SyncRole
from anycast.core.dataplane.members import first_addresses, servers_of, service_key
from anycast.core.maintenance.stages import NODE_SCOPES, Stage
from anycast.core.state import State, VipState, health_of, prefix_of
from anycast.core.values.configuration import Address, Service, Vip
from anycast.core.vip.decide import Advertise, Reason, ServiceFacts
from anycast.core.vip.facts import furthest, held_for, recent_crashes, start_hold
from anycast.ops.board import Block, Board
from anycast.ops.servers import Seen
from anycast.ops.source import BUCKETS, Source
from anycast.ops.status import (
    Routing,
    is_announced,
    kernel_error,
    neighbors,
    readiness,
    routing,
    service_facts,
    stage_left,
)
from anycast.ops.strain import LATENESS, Strain

TABLE_BITS = "/sys/module/ip_vs/parameters/conn_tab_bits"

_END = b"# EOF\n"


def registry(
    source: Source,
    *,
    version: str,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> CollectorRegistry:
    """A registry of its own: the metrics of the node as a whole, of the agent's process, and of this one."""
    result = CollectorRegistry()
    result.register(StateCollector(source, version=version, clock=clock, wall=wall))
    ProcessCollector(pid=lambda: source.pid, registry=result)
    ProcessCollector(namespace="anycast_ops", registry=result)
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
        state, now, wall = self._source.facts.state, self._clock(), self._wall()
        yield self._build_info(state)
        yield _gauge("anycast_ready", "1 if the node can do its work", not readiness(state, now))
        yield _gauge(
            "anycast_engine_lag_seconds",
            "Time since the engine's last step",
            now - self._source.facts.last_step,
        )
        yield _gauge(
            "anycast_config_last_reload_successful",
            "1 if the last configuration load was applied",
            self._source.facts.reload_ok,
        )
        yield _gauge(
            "anycast_config_last_reload_success_timestamp_seconds",
            "When a configuration was last applied",
            self._source.facts.reloaded_at,
        )
        yield _gauge(
            "anycast_agent_recent_crashes",
            "Agents before this one that ended without a clean stop, in the 10 minutes before its start",
            recent_crashes(state, now),
        )
        yield from _requirements(state)
        yield from _maintenance(state, now, wall - now)
        yield from _routing(state, now)
        yield _gauge(
            "anycast_kernel_available", "1 if the kernel could be read", kernel_error(state, now) is None
        )
        yield CounterMetricFamily(
            "anycast_kernel_programs", "Changes written to the kernel", value=state.kernel.programs
        )
        yield from _kernel(state)
        yield from _ipvs(state)
        yield from _work(self._source, state)
        yield from _strain(self._source.facts.work.strain, state)
        yield from _probes(self._source)
        yield from _hooks(self._source)

    def _build_info(self, state: State) -> Metric:
        exabgp = next((r.exabgp_version for r in state.plugins.values() if r and r.exabgp_version), "")
        info = {"version": self._version, "exabgp": exabgp, "python": platform.python_version()}
        return InfoMetricFamily("anycast_build", "What is running here", value=info)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _kernel(state: State) -> Iterator[Metric]:
    repairs = CounterMetricFamily(
        "anycast_kernel_repairs",
        "Changes of the kernel by somebody else that were put right, since the start of the agent",
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


def _ipvs(state: State) -> Iterator[Metric]:
    snapshot = state.kernel.snapshot
    entries = snapshot.table.values() if snapshot is not None else ()
    connections = sum(one.active + one.inactive for entry in entries for one in entry.destinations)
    yield _gauge(
        "anycast_ipvs_connections", "Connections in the kernel's table, of all services", connections
    )
    yield _gauge(
        "anycast_ipvs_table_rows", "Rows of the kernel's table of connections; 0: not known", _rows()
    )


def _rows() -> int:
    try:
        with open(TABLE_BITS, encoding="ascii") as file:
            return int(2 ** int(file.read()))
    except (OSError, ValueError):
        return 0


def _work(source: Source, state: State) -> Iterator[Metric]:
    work = source.facts.work
    jobs = SummaryMetricFamily(
        "anycast_reconcile_duration_seconds", "How long readings of the kernel took, with the changes before"
    )
    jobs.add_metric([], count_value=work.kernel_jobs, sum_value=work.kernel_seconds)
    routes = CounterMetricFamily(
        "anycast_route_commands",
        "Prefixes of the VIP that ExaBGP announced, withdrew or refused",
        labels=["vip", "action"],
    )
    for vip in state.config.vips:
        prefixes = [str(prefix_of(address)) for address in vip.addresses]
        for action in ("announce", "withdraw", "refuse"):
            routes.add_metric(
                [vip.name, action], sum(work.routes.get((prefix, action), 0) for prefix in prefixes)
            )
    return iter((jobs, routes))


def _probes(source: Source) -> Iterator[Metric]:
    runs = CounterMetricFamily("anycast_probes", "Runs of checks", labels=["type", "outcome"])
    duration = HistogramMetricFamily(
        "anycast_probe_duration_seconds", "How long runs of checks took", labels=["type"]
    )
    for kind, probes in source.facts.probes.items():
        for outcome, number in probes.outcomes.items():
            runs.add_metric([kind, outcome], number)
        ends = [*map(floatToGoString, BUCKETS), "+Inf"]
        duration.add_metric(
            [kind], list(zip(ends, accumulate(probes.buckets), strict=True)), sum_value=probes.seconds
        )
    return iter((runs, duration))


def _hooks(source: Source) -> Iterator[Metric]:
    runs = CounterMetricFamily("anycast_hook_runs", "Runs of a hook", labels=["hook", "result"])
    duration = SummaryMetricFamily("anycast_hook_duration_seconds", "How long the runs took", labels=["hook"])
    suppressed = CounterMetricFamily(
        "anycast_hook_suppressed",
        "Events that were not delivered because a newer one replaced them",
        labels=["hook"],
    )
    dropped = CounterMetricFamily(
        "anycast_hook_dropped", "Events that were never delivered to the hook", labels=["hook"]
    )
    failing = GaugeMetricFamily("anycast_hook_failing", "1 if its last run failed", labels=["hook"])
    waiting = GaugeMetricFamily(
        "anycast_hook_waiting", "Events that wait to be delivered to the hook", labels=["hook"]
    )
    for name, tally in source.facts.hooks.items():
        for ending, number in tally.runs.items():
            runs.add_metric([name, ending], number)
        duration.add_metric([name], count_value=sum(tally.runs.values()), sum_value=tally.seconds)
        suppressed.add_metric([name], tally.suppressed)
        dropped.add_metric([name], tally.dropped)
        failing.add_metric([name], float(tally.failing))
        waiting.add_metric([name], tally.waiting)
    return iter((runs, duration, suppressed, dropped, failing, waiting))


def _strain(strain: Strain, state: State) -> Iterator[Metric]:
    lateness = HistogramMetricFamily(
        "anycast_lease_lateness_seconds",
        "How late leases went out after they were due, a third of their time to live",
    )
    ends = [*map(floatToGoString, LATENESS), "+Inf"]
    buckets = list(zip(ends, accumulate(strain.buckets), strict=True))
    lateness.add_metric([], buckets, sum_value=strain.late)
    yield lateness
    ttl = state.lease.ttl or state.config.timing.lease_ttl
    yield _gauge("anycast_lease_ttl_seconds", "How long a lease is good for", ttl)
    yield CounterMetricFamily(
        "anycast_overloads",
        "Times in which something in the agent took longer than a third of the time to live of a lease",
        value=strain.overloads,
    )


def _requirements(state: State) -> Iterator[Metric]:
    labels = ["scope", "vip", "service"]
    up = GaugeMetricFamily("anycast_requirement_up", "1 if the requirement holds", labels=labels)
    unknown = GaugeMetricFamily(
        "anycast_requirement_unknown",
        "1 if a check of the requirement could not run last time",
        labels=labels,
    )
    warned = GaugeMetricFamily(
        "anycast_requirement_warning", "1 if the requirement holds, with a warning", labels=labels
    )
    for one in state.requirements:
        health = health_of(state, one.check)
        names = ["vip" if one.vip else "node", one.vip, one.service]
        up.add_metric(names, float(health.phase.is_up))
        unknown.add_metric(names, float(health.unknown))
        warned.add_metric(names, float(health.warned))
    return iter((up, unknown, warned))


def _maintenance(state: State, now: float, epoch: float) -> Iterator[Metric]:
    # Two labels, for a VIP may be called "node".
    labels = ["scope", "vip"]
    active = GaugeMetricFamily("anycast_maintenance_active", "1 in maintenance", labels=labels)
    stage = GaugeMetricFamily(
        "anycast_maintenance_stage",
        "1 for the stage of the drain, 0 for the others",
        labels=[*labels, "stage"],
    )
    since = GaugeMetricFamily(
        "anycast_maintenance_stage_since_timestamp_seconds",
        "When the stage began; 0: not in maintenance",
        labels=labels,
    )
    left = GaugeMetricFamily(
        "anycast_maintenance_stage_left_seconds",
        "Time until the stage is over at the latest; 0: it stays",
        labels=labels,
    )
    ends = GaugeMetricFamily(
        "anycast_maintenance_ends_timestamp_seconds",
        "When maintenance ends by itself, the last of several; 0: by command only, or not in maintenance",
        labels=labels,
    )
    overdue = GaugeMetricFamily(
        "anycast_maintenance_overdue", "1 if its end has passed and the maintenance goes on", labels=labels
    )
    rows = [("node", "", NODE_SCOPES), *(("vip", vip.name, (vip.name,)) for vip in state.config.vips)]
    for scope, name, keys in rows:
        progress = furthest(state, keys)
        in_force = [state.maintenance[key] for key in keys if key in state.maintenance]
        last = [entry.end.at if entry.end is not None else 0.0 for entry in in_force]
        active.add_metric([scope, name], float(bool(in_force)))
        for one in Stage:
            stage.add_metric([scope, name, one], float(one is progress.stage))
        since.add_metric([scope, name], 0.0 if progress.stage is Stage.ACTIVE else progress.since + epoch)
        left.add_metric([scope, name], stage_left(state, progress, now) or 0.0)
        ends.add_metric([scope, name], max(last) if last and all(last) else 0.0)
        overdue.add_metric(
            [scope, name], float(any(state.progress[key].overdue for key in keys if key in state.progress))
        )
    return iter((active, stage, since, left, ends, overdue))


def _routing(state: State, now: float) -> Iterator[Metric]:
    established = GaugeMetricFamily("anycast_peer_established", "1 if the BGP session is up", labels=["peer"])
    for neighbor in neighbors(state, now):
        established.add_metric([neighbor.address], float(neighbor.state == "up"))
    yield established
    reports = [report for report in state.plugins.values() if report is not None]
    yield _gauge("anycast_plugins", "Plugins connected", len(state.plugins))
    yield CounterMetricFamily(
        "anycast_exabgp_errors",
        "Commands ExaBGP refused, since the start of the plugin",
        value=sum(report.errors for report in reports),
    )
    yield _gauge(
        "anycast_routes_pending",
        "Prefixes with a command that ExaBGP has not answered",
        len({prefix for report in reports for prefix in report.pending}),
    )
    yield _gauge(
        "anycast_routes_refused",
        "Wanted prefixes that are not announced because ExaBGP refused them",
        len({one.prefix for report in reports for one in report.failed}),
    )
    yield _gauge(
        "anycast_exabgp_oldest_command_seconds",
        "How long ExaBGP has owed an answer; 0: it answers within a second",
        max(
            (now - report.silent_since for report in reports if report.silent_since is not None), default=0.0
        ),
    )
    lease = state.lease
    sent = state.started_at if lease.routes is None else lease.sent_at
    yield _gauge("anycast_lease_seq", "Number of the last lease", lease.seq)
    yield _gauge("anycast_lease_age_seconds", "Time since the last lease was sent", now - sent)


_SERVERS: dict[str, tuple[str, Callable[[Seen], tuple[tuple[str, float], ...]]]] = {
    "anycast_server_up": (
        "1 if the checks of the real server hold",
        lambda one: (("", one.health.is_up),),
    ),
    "anycast_server_check_unknown": (
        "1 if the last check itself could not run",
        lambda one: (("", one.health.unknown),),
    ),
    "anycast_server_check_warning": (
        "1 if the check holds, with a warning",
        lambda one: (("", one.health.warned),),
    ),
    "anycast_server_drained": (
        "1 if somebody took the real server out",
        lambda one: (("", one.drained),),
    ),
    "anycast_server_connections": (
        "Connections of the real server through this node",
        lambda one: ((',state="active"', one.active), (',state="inactive"', one.inactive)),
    ),
}
"""Of every real server: what it is, and its samples with the labels they have besides."""


class MetricsText:
    """What a scrape gets."""

    def __init__(
        self,
        source: Source,
        *,
        version: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._registry = registry(source, version=version, clock=clock, wall=wall)

    def read(self, board: Board, encode: Callable[[CollectorRegistry], bytes], content_type: str) -> bytes:
        now = self._clock()
        pieces = [encode(self._registry).removesuffix(_END)]
        for name, about, lines in _families(board, self._wall() - now, now):
            pieces.append(f"# HELP {name} {about}\n# TYPE {name} gauge\n{''.join(lines)}".encode())
        if content_type.startswith("application/openmetrics-text"):
            pieces.append(_END)
        return b"".join(pieces)


@dataclass(frozen=True, slots=True)
class _One:
    """A VIP as it is looked at."""

    state: State
    vip: Vip
    routes: Routing
    now: float
    epoch: float  # of the monotonic clock

    @property
    def known(self) -> VipState:
        return self.state.vips.get(self.vip.name, VipState())


_VIPS: dict[str, tuple[str, Callable[[_One], float]]] = {
    "anycast_vip_announced": (
        "1 if ExaBGP has acknowledged every prefix of the VIP and a BGP session carries each of its families",
        lambda one: is_announced(one.routes, one.vip),
    ),
    "anycast_vip_wanted": (
        "1 if the verdict is to announce the VIP, as the last resort too",
        lambda one: one.known.verdict.advertise is not Advertise.NO,
    ),
    "anycast_vip_last_change_timestamp_seconds": (
        "When the verdict last changed",
        lambda one: one.known.since + one.epoch,
    ),
    "anycast_vip_changes": (
        "How often the verdict has changed since the start of the agent",
        lambda one: one.known.changes,
    ),
    "anycast_vip_start_hold_seconds": (
        "How long everything must still hold after the agent's start before the VIP is announced",
        lambda one: _hold_left(one.state, one.vip.name, one.now),
    ),
}
_SERVICES: dict[str, tuple[str, Callable[[ServiceFacts], float]]] = {
    "anycast_service_usable": ("Real servers that get new clients", lambda found: found.usable),
    "anycast_service_servers": ("Real servers configured", lambda found: found.total),
    "anycast_service_quorum": (
        "Real servers that must be usable for the VIP to stay announced",
        lambda found: found.quorum.low,
    ),
    "anycast_service_headroom_ratio": (
        "Share of the real servers that can still fail before the VIP is withdrawn",
        lambda found: max(0.0, (found.usable - found.quorum.low) / found.total) if found.total else 0.0,
    ),
}


def _families(board: Board, epoch: float, now: float) -> Iterator[tuple[str, str, Iterator[str]]]:
    """What there is of every VIP, service and real server: name, meaning, lines."""
    state, blocks = board.state, board.blocks
    vips = state.config.vips
    routes = routing(state, now)
    looked_at = [_One(state, vip, routes, now, epoch) for vip in vips]
    for name, (about, value) in _VIPS.items():
        yield name, about, (_line(name, value(one), vip=one.vip.name) for one in looked_at)
    yield (
        "anycast_vip_verdict",
        "1 for the current reason, 0 for the others",
        (_verdict(one.vip.name, one.known.verdict.reason) for one in looked_at),
    )
    for name, (about, figure) in _SERVICES.items():
        yield name, about, (_service(state, vip, name, figure) for vip in vips)
    yield (
        "anycast_service_total_weight",
        "Sum of the weights in the configuration",
        (_weights(state, vip, "anycast_service_total_weight", _configured) for vip in vips),
    )
    yield (
        "anycast_service_usable_weight",
        "Sum of the weights in the kernel",
        (_weights(state, vip, "anycast_service_usable_weight", _in_kernel) for vip in vips),
    )
    for name, (about, values) in _SERVERS.items():
        yield name, about, (_samples(board, block, name, values) for block in blocks.values())
    yield (
        "anycast_service_table_fingerprint",
        "A number that is equal on nodes with the same table; 0: the service is not in the kernel",
        (_fingerprints(board, block) for block in blocks.values()),
    )


def _fingerprints(board: Board, block: Block) -> str:
    return "".join(
        _line(
            "anycast_service_table_fingerprint",
            int(board.fingerprints[address, block.service.name] or "0", 16),
            vip=block.vip.name,
            service=block.service.name,
            address=str(address),
        )
        for address in block.vip.addresses
    )


def _line(name: str, value: float, **labels: str) -> str:
    text = ",".join(f'{label}="{_escaped(word)}"' for label, word in labels.items())
    return f"{name}{{{text}}} {float(value)!r}\n"


def _hold_left(state: State, vip: str, now: float) -> float:
    stable = held_for(state, state.vips.get(vip, VipState()), now)
    return 0.0 if stable is None else start_hold(state, now) - stable


@lru_cache(maxsize=16384)
def _verdict(vip: str, holds: Reason) -> str:
    return "".join(_line("anycast_vip_verdict", reason is holds, vip=vip, reason=reason) for reason in Reason)


def _service(state: State, vip: Vip, name: str, value: Callable[[ServiceFacts], float]) -> str:
    return "".join(
        _line(name, value(found), vip=vip.name, service=service.name, family=f"ipv{version}")
        for service, version, found in service_facts(state, vip)
    )


def _weights(state: State, vip: Vip, name: str, value: Callable[[State, Service, Address], int]) -> str:
    return "".join(
        _line(
            name,
            value(state, service, address),
            vip=vip.name,
            service=service.name,
            family=f"ipv{address.version}",
        )
        for service in vip.services
        for address in first_addresses(vip)
    )


def _configured(_: State, service: Service, address: Address) -> int:
    return sum(server.weight for server, _ in servers_of(service, address.version))


def _in_kernel(state: State, service: Service, address: Address) -> int:
    snapshot = state.kernel.snapshot
    entry = snapshot.table.get(service_key(address, service)) if snapshot is not None else None
    return sum(one.weight for one in entry.destinations) if entry is not None else 0


def _samples(
    board: Board, block: Block, name: str, values: Callable[[Seen], tuple[tuple[str, float], ...]]
) -> str:
    vip, service = block.vip.name, block.service.name
    head = f'{name}{{vip="{_escaped(vip)}",service="{service}"'
    return "".join(
        f'{head},server="{_escaped(row.server.name)}",address="{row.address}"{more}}} {float(value)}\n'
        for row, one in zip(block.rows, board.seen[vip, service], strict=True)
        for more, value in values(one)
    )


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
