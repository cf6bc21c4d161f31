"""Prometheus metrics, read from the state at the moment of a scrape. Values are 0 rather than absent.

`MetricsText` writes what is served: from here what there is of the node as a whole, from `series` what there is of every
VIP and every real server.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path

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
from anycast.core.state import State
from anycast.core.values.standing import Condition
from anycast.core.view import sums
from anycast.core.vip.facts import recent_crashes
from anycast.entries import PROC, TABLE_BITS, Entries, kernel_limit, table_grows
from anycast.ops import headroom
from anycast.ops.board import Board
from anycast.ops.exposition import Body, Chunk
from anycast.ops.fleet_metrics import fleet
from anycast.ops.series import Series
from anycast.ops.source import BUCKETS, Source, Tripwires
from anycast.ops.status import (
    conditions,
    kernel_error,
    neighbors,
    readiness,
)
from anycast.ops.strain import LATENESS, Strain

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
        self,
        source: Source,
        *,
        version: str,
        clock: Callable[[], float],
        wall: Callable[[], float],
        proc: Path = PROC,
    ) -> None:
        self._source = source
        self._version = version
        self._clock = clock
        self._wall = wall
        self._proc = proc
        self._entries = Entries(proc)

    def describe(self) -> Iterable[Metric]:
        return ()  # the registry need not scrape once to learn the names

    def collect(self) -> Iterator[Metric]:
        state, now = self._source.facts.state, self._clock()
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
        yield self._config_info()
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
        yield from _routing(state, now)
        yield from fleet(state, self._source.facts.force.fingerprint, now)
        yield _gauge(
            "anycast_kernel_available", "1 if the kernel could be read", kernel_error(state, now) is None
        )
        yield CounterMetricFamily(
            "anycast_kernel_programs", "Changes written to the kernel", value=state.kernel.programs
        )
        yield from _kernel(state)
        yield from _ipvs(state, counted=self._source.traffic.counted, grows=table_grows(self._proc))
        yield from self._limit()
        yield from _work(self._source)
        yield from _strain(self._source.facts.work.strain, state)
        yield from _probes(self._source)
        yield from _tripwires(self._source.facts.tripwires)
        yield from _hooks(self._source)
        yield _standing(self._source)
        yield from headroom.families(self._source.headroom.read(now))

    def _limit(self) -> Iterator[Metric]:
        try:
            limit = kernel_limit(self._proc)
        except (OSError, ValueError):
            limit = None
        yield _gauge(
            "anycast_ipvs_entries",
            "Entries of the kernel's table, as its limit counts them; 0 where no limit can be reached",
            0 if limit is None else self._entries.latest() or 0,
        )
        yield _gauge(
            "anycast_ipvs_entries_limit",
            "The kernel's limit of entries (net.ipv4.vs.conn_max); 0: it takes none, +Inf: none can be reached",
            math.inf if limit is None else limit,
        )

    def _config_info(self) -> Metric:
        force = self._source.facts.force
        info = {"fingerprint": force.fingerprint, "nodes": str(len(force.nodes))}
        return InfoMetricFamily(
            "anycast_config",
            "What is in force, and how many nodes have one file; 0: it is of one node",
            value=info,
        )

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


def _ipvs(state: State, *, counted: bool, grows: bool) -> Iterator[Metric]:
    snapshot = state.kernel.snapshot
    connections = sum(snapshot.all_connections()) if snapshot is not None else 0
    yield _gauge(
        "anycast_ipvs_connections", "Connections in the kernel's table, of all services", connections
    )
    yield _gauge(
        "anycast_ipvs_counted",
        "1 if the kernel counts what IPVS carries; if not, there are no counters",
        counted,
    )
    yield _gauge(
        "anycast_ipvs_table_places",
        "Places of the kernel's table that connections take: a masqueraded one two since Linux 7.1, any other one",
        connections + (snapshot.masqueraded() if snapshot is not None and grows else 0),
    )
    yield _gauge(
        "anycast_ipvs_table_rows",
        "Rows that the kernel's table of connections may have; 0: not known",
        _rows(),
    )


def _rows() -> int:
    try:
        return int(2 ** int(TABLE_BITS.read_text("ascii")))
    except (OSError, ValueError):
        return 0


def _work(source: Source) -> Iterator[Metric]:
    work = source.facts.work
    jobs = SummaryMetricFamily(
        "anycast_reconcile_duration_seconds", "How long readings of the kernel took, with the changes before"
    )
    jobs.add_metric([], count_value=work.kernel_jobs, sum_value=work.kernel_seconds)
    yield jobs


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


def _tripwires(found: Tripwires) -> Iterator[Metric]:
    if not found.wanted:
        return
    wires = GaugeMetricFamily(
        "anycast_tripwires", "Connections that stay open to real servers, by their state", labels=["state"]
    )
    for state, number in found.counts.items():
        wires.add_metric([state], number)
    yield wires
    ends = CounterMetricFamily(
        "anycast_tripwire_ends",
        "Ends of such connections: a check failed then (deadly), went well (harmless), or it is the server's way (usual)",
        labels=["kind"],
    )
    for kind, number in found.ends.items():
        ends.add_metric([kind], number)
    yield ends
    yield _gauge(
        "anycast_tripwires_unusual",
        "Real servers that close such connections regularly, or take none",
        len(found.notes),
    )


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


def _standing(source: Source) -> Metric:
    facts = source.facts
    found = {
        one.kind
        for one in conditions(
            facts.state,
            overload=facts.work.strain.overload,
            hooks=facts.hooks,
            force=facts.force,
            now=time.monotonic(),
        )
    }
    family = GaugeMetricFamily(
        "anycast_standing_condition",
        "1 while this is wrong with the node (docs/ops.md has the kinds)",
        labels=["kind"],
    )
    for kind in Condition:
        family.add_metric([kind], float(kind in found))
    return family


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


def _routing(state: State, now: float) -> Iterator[Metric]:
    established = GaugeMetricFamily("anycast_peer_established", "1 if the BGP session is up", labels=["peer"])
    for neighbor in neighbors(state, now):
        established.add_metric([neighbor.address], float(neighbor.state == "up"))
    yield established
    yield from _of_views(state)
    reports = [report for report in state.plugins.values() if report is not None]
    yield _gauge("anycast_plugins", "Plugins connected", len(state.plugins))
    yield CounterMetricFamily(
        "anycast_exabgp_errors",
        "Commands ExaBGP refused, since the start of the plugin",
        value=sum(report.errors for report in reports if not report.speaker),
    )
    tables = [report for report in reports if report.speaker]
    yield _gauge(
        "anycast_table_routes",
        "Routes of ours in the kernel's table (speaker: kernel-table)",
        sum(len(report.announced) for report in tables),
    )
    yield CounterMetricFamily(
        "anycast_table_writes_refused",
        "Routes that the kernel would not make or remove in its table, since the start of the announcer",
        value=sum(report.errors for report in tables),
    )
    yield _gauge(
        "anycast_routes_pending",
        "Prefixes with a command that ExaBGP has not answered, or that the kernel's table does not have as wanted",
        len({prefix for report in reports for prefix in report.pending}),
    )
    yield _gauge(
        "anycast_routes_refused",
        "Wanted prefixes that are not announced because ExaBGP, or the kernel's table, refused them, or because the routing "
        "daemon has not learned them",
        len({one.prefix for report in reports for one in report.failed}),
    )
    yield _gauge(
        "anycast_exabgp_oldest_command_seconds",
        "How long ExaBGP, or the routing daemon, has owed an answer; 0: it answers within a second",
        max(
            (now - report.silent_since for report in reports if report.silent_since is not None), default=0.0
        ),
    )
    lease = state.lease
    sent = state.started_at if lease.routes is None else lease.sent_at
    yield _gauge("anycast_lease_seq", "Number of the last lease", lease.seq)
    yield _gauge("anycast_lease_age_seconds", "Time since the last lease was sent", now - sent)
    yield _gauge(
        "anycast_lease_followed_age_seconds",
        "Age of the lease that is followed by whoever announces, the oldest of them; 0: none is known",
        max((now - report.followed for report in reports if report.followed is not None), default=0.0),
    )


def _of_views(state: State) -> Iterator[Metric]:
    """Of the routers that are asked."""
    complete = GaugeMetricFamily(
        "anycast_peer_view_complete",
        "1 if all has come that the router has of the VIPs; of routers that are asked (bgp.view)",
        labels=["peer"],
    )
    paths = GaugeMetricFamily(
        "anycast_peer_view_paths", "Paths of this node's VIPs that the router has, whoever's", labels=["peer"]
    )
    dropped = CounterMetricFamily(
        "anycast_peer_view_dropped",
        "Prefixes and paths that the router has sent in this session and nobody asked for, or too many",
        labels=["peer"],
    )
    for neighbor in state.config.bgp.neighbors:
        if neighbor.view:
            found, peer = sums(state, neighbor), [str(neighbor.address)]
            complete.add_metric(peer, float(found.doubt is None))
            paths.add_metric(peer, found.paths)
            dropped.add_metric(peer, found.dropped)
    return iter((complete, paths, dropped))


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
        self._source = source
        self._clock = clock
        self._wall = wall
        self._registry = registry(source, version=version, clock=clock, wall=wall)
        self._series = Series()

    def read(
        self,
        board: Board,
        encode: Callable[[CollectorRegistry], bytes],
        content_type: str,
        *,
        servers: bool = True,
    ) -> Body:
        """`servers` False: without the families of real servers."""
        now, openmetrics = self._clock(), content_type.startswith("application/openmetrics-text")
        whole = Chunk(encode(self._registry).removesuffix(_END))
        series = self._series.chunks(
            board,
            self._source.facts.work,
            self._source.traffic,
            now=now,
            wall=self._wall(),
            servers=servers,
            openmetrics=openmetrics,
        )
        return Body((whole, *series, *([Chunk(_END)] if openmetrics else [])))
