"""The metrics that there are of every VIP, service and real server: of thousands the library takes most of a second.

A family names its units once for a configuration; of each scrape only the figures are read, and what differs from the
last scrape is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import is_
from typing import Any

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.members import first_addresses, servers_of, service_key
from anycast.core.maintenance.stages import NODE_SCOPES, Stage
from anycast.core.preference import export_of
from anycast.core.prefixes import prefixes_of
from anycast.core.state import State, VipState, health_of, services_of
from anycast.core.values.configuration import Address, Config, Neighbor, Prefix, Role, Service, Vip
from anycast.core.view import Receipt, at
from anycast.core.vip.decide import Advertise, Reason, ServiceFacts
from anycast.core.vip.facts import furthest, held_for, start_hold
from anycast.core.vip.requirements import Requirement
from anycast.ops.board import Block, Board
from anycast.ops.exposition import Chunk, Chunks, Family, escaped
from anycast.ops.servers import Row, Seen, sees_answers
from anycast.ops.source import Work
from anycast.ops.status import Routing, is_announced, routing, stage_left
from anycast.ops.traffic import Total, Traffic, keys_of

_ACTIONS = ("announce", "withdraw", "refuse")
_STARTED = VipState()


@dataclass(frozen=True, slots=True)
class _Vip:
    """A VIP, what stands between the braces of its samples, and its prefixes in words."""

    vip: Vip
    labels: str
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A service of a VIP in one family."""

    service: Service
    version: int
    key: ipvs.Key
    keys: tuple[ipvs.Key, ...]  # behind all addresses of the family
    labels: str
    weight: int  # of all its real servers, as configured


@dataclass(frozen=True, slots=True)
class _Scope:
    """What can be in maintenance: the node, or a VIP."""

    labels: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    """The real servers of a service: what stands between the braces of each."""

    key: tuple[str, str]
    rows: tuple[Row, ...]
    keys: tuple[ipvs.Key, ...]
    labels: tuple[str, ...]
    tables: tuple[tuple[Address, str], ...]  # what stands there of its tables


@dataclass(frozen=True, slots=True)
class _Units:
    """Everything of a configuration that has samples."""

    config: Config
    vips: tuple[_Vip, ...]
    parts: tuple[_Part, ...]
    scopes: tuple[_Scope, ...]
    requirements: tuple[Requirement, ...]
    local: tuple[Requirement, ...]  # what the node itself serves
    blocks: tuple[_Block, ...]
    routers: tuple[_AtRouter, ...]


def _units(state: State, blocks: Sequence[Block]) -> _Units:
    vips = state.config.vips
    return _Units(
        config=state.config,
        vips=tuple(_Vip(vip, _labels(vip=vip.name), tuple(map(str, prefixes_of(vip)))) for vip in vips),
        parts=tuple(
            _part(vip, service, one)
            for vip in vips
            for service in vip.services
            for one in first_addresses(vip)
        ),
        scopes=(
            _Scope(_labels(scope="node", vip=""), NODE_SCOPES),
            *(_Scope(_labels(scope="vip", vip=vip.name), (vip.name,)) for vip in vips),
        ),
        requirements=tuple(one for one in state.index.requirements if not one.is_local),
        local=tuple(one for one in state.index.requirements if one.is_local),
        blocks=tuple(map(_block, blocks)),
        routers=tuple(_at_routers(state.config)),
    )


def _part(vip: Vip, service: Service, address: Address) -> _Part:
    return _Part(
        service,
        address.version,
        service_key(address, service),
        keys_of(vip, service, address.version),
        _labels(vip=vip.name, service=service.name, family=f"ipv{address.version}"),
        sum(server.weight for server, _ in servers_of(service, address.version)),
    )


def _block(block: Block) -> _Block:
    vip, service = block.vip.name, block.service.name
    return _Block(
        block.key,
        block.rows,
        keys_of(block.vip, block.service),
        tuple(
            _labels(vip=vip, service=service, server=row.server.name, address=str(row.address))
            for row in block.rows
        ),
        tuple(
            (address, _labels(vip=vip, service=service, address=str(address)))
            for address in block.vip.addresses
        ),
    )


def _labels(**labels: str) -> str:
    return ",".join(f'{label}="{escaped(word)}"' for label, word in labels.items())


@dataclass(frozen=True, slots=True)
class _AtRouter:
    """A VIP at a router that is asked what it has of it."""

    neighbor: Neighbor
    prefixes: tuple[Prefix, ...]
    labels: str


def _at_routers(config: Config) -> Iterator[_AtRouter]:
    for neighbor in config.bgp.neighbors if config.bgp.sign is not None else ():
        families = neighbor.families or {neighbor.address.version}
        for vip in config.vips if neighbor.view else ():
            prefixes = tuple(one for one in prefixes_of(vip) if one.version in families)
            if prefixes and export_of(neighbor.export, vip.name) is not None:
                yield _AtRouter(neighbor, prefixes, _labels(vip=vip.name, peer=str(neighbor.address)))


class Series:
    """What a scrape gets besides the metrics of the node as a whole."""

    def __init__(self) -> None:
        self._units: _Units | None = None
        self._chunks = Chunks()
        self._carried = _Carried()
        self._epoch = 0.0

    def chunks(
        self,
        board: Board,
        work: Work,
        traffic: Traffic,
        *,
        now: float,
        wall: float,
        servers: bool,
        openmetrics: bool,
    ) -> Iterator[Chunk]:
        """`servers` False: without the families of real servers."""
        state = board.state
        if self._units is None or self._units.config is not state.config:
            self._units = _units(state, tuple(board.blocks.values()))
            self._chunks.forget()
            self._carried = _Carried()
        # Two clocks are never read at once: without this every time would be another with every scrape.
        if abs(self._epoch - (wall - now)) > _JITTER:
            self._epoch = wall - now
        look = _Look(state, routing(state, now), work, now, self._epoch)
        families = [
            *_of_vips(self._units, look),
            *_of_services(self._units, state),
            *_of_requirements(self._units, state),
            *_of_local(self._units, state),
            *_of_maintenance(self._units, look),
            *_of_tables(self._units, board),
            *_of_routers(self._units, state),
        ]
        if traffic.counted:
            families += _of_traffic("service", [self._carried.of(one, traffic) for one in self._units.parts])
        if servers:
            families += _of_servers(self._units, board)
        if servers and traffic.counted:
            families += _of_traffic("server", [self._carried.of(one, traffic) for one in self._units.blocks])
        return self._chunks.of(families, openmetrics=openmetrics)


_JITTER = 0.1  # seconds by which two clocks may differ from before, until one of them was set


@dataclass(frozen=True, slots=True)
class _Look:
    state: State
    routes: Routing
    work: Work
    now: float
    epoch: float  # of the monotonic clock


def _sample(name: str, labels: str, value: float) -> str:
    return f"{name}{{{labels}}} {float(value)!r}\n"


# Of VIPs.

_VIPS: dict[str, tuple[str, Callable[[_Look, Vip, VipState], float]]] = {
    "anycast_vip_announced": (
        "1 if ExaBGP has acknowledged every prefix of the VIP and a BGP session carries each of its families",
        lambda look, vip, _: is_announced(look.routes, vip),
    ),
    "anycast_vip_wanted": (
        "1 if the verdict is to announce the VIP, as the last resort too",
        lambda _, __, known: known.verdict.advertise is not Advertise.NO,
    ),
    "anycast_vip_last_resort": (
        "1 if the VIP is announced as the last resort, because it cannot be served as usual",
        lambda _, __, known: known.verdict.is_last_resort,
    ),
    "anycast_vip_backup": (
        "1 if this node is a backup for the VIP: it gets clients while no primary announces it",
        lambda _, vip, __: vip.role is Role.BACKUP,
    ),
    "anycast_vip_last_change_timestamp_seconds": (
        "When the verdict last changed",
        lambda look, _, known: known.since + look.epoch,
    ),
    "anycast_vip_changes": (
        "How often the verdict has changed since the start of the agent",
        lambda _, __, known: known.changes,
    ),
    "anycast_vip_start_hold_seconds": (
        "How long everything must still hold after the agent's start before the VIP is announced",
        lambda look, _, known: _hold_left(look, known),
    ),
}


def _hold_left(look: _Look, known: VipState) -> float:
    stable = held_for(look.state, known, look.now)
    return 0.0 if stable is None else start_hold(look.state, look.now) - stable


def _of_vips(units: _Units, look: _Look) -> Iterator[Family[Any, Any]]:
    vips = units.vips
    known = [look.state.vips.get(one.vip.name, _STARTED) for one in vips]
    for name, (about, value) in _VIPS.items():
        figures = [value(look, one.vip, state) for one, state in zip(vips, known, strict=True)]
        yield Family(name, about, vips, figures, partial(_of_one, name))
    yield Family(
        "anycast_vip_verdict",
        "1 for the current reason, 0 for the others",
        vips,
        [state.verdict.reason for state in known],
        _verdict,
    )
    yield Family(
        "anycast_route_commands",
        "Prefixes of the VIP that ExaBGP announced, withdrew or refused",
        vips,
        [_commands_of(one, look.work) for one in vips],
        _commands,
        counter=True,
    )


def _of_one(name: str, unit: _Vip | _Part | _Scope | _AtRouter, value: float) -> str:
    return _sample(name, unit.labels, value)


def _verdict(unit: _Vip, holds: Reason) -> str:
    return "".join(
        _sample("anycast_vip_verdict", f'{unit.labels},reason="{reason}"', reason is holds)
        for reason in Reason
    )


def _commands_of(unit: _Vip, work: Work) -> tuple[int, ...]:
    return tuple(sum(work.routes.get((prefix, action), 0) for prefix in unit.prefixes) for action in _ACTIONS)


def _commands(unit: _Vip, counts: tuple[int, ...]) -> str:
    return "".join(
        _sample("anycast_route_commands_total", f'{unit.labels},action="{action}"', count)
        for action, count in zip(_ACTIONS, counts, strict=True)
    )


# Of VIPs at routers.


def _of_routers(units: _Units, state: State) -> Iterator[Family[Any, Any]]:
    """The fewest of several prefixes count."""
    found = [[at(state, one.neighbor, prefix) for prefix in one.prefixes] for one in units.routers]
    for name, about, figures in (
        (
            "anycast_vip_received",
            "1 if the router has this node's path of the VIP",
            [all(one.receipt is Receipt.RECEIVED for one in each) for each in found],
        ),
        (
            "anycast_vip_not_received",
            "1 if the VIP is announced to the router and is known not to be there; both 0: it is not known",
            [any(one.receipt is Receipt.NOT_RECEIVED for one in each) for each in found],
        ),
        (
            "anycast_vip_other_nodes",
            "Other nodes of which the router has a path of the VIP; 0 where it is not known too",
            [min(one.others or 0 for one in each) for each in found],
        ),
        (
            "anycast_vip_other_nodes_known",
            "1 if all the router has of other nodes is known; 0: there may be more",
            [all(one.others is not None and not one.at_least for one in each) for each in found],
        ),
        (
            "anycast_vip_last_resort_nodes",
            "Those of them that are draining",
            [min(one.last_resort or 0 for one in each) for each in found],
        ),
    ):
        yield Family(name, about, units.routers, figures, partial(_of_one, name))


# Of services.

_SERVICES: dict[str, tuple[str, Callable[[ServiceFacts], float]]] = {
    "anycast_service_usable": ("Real servers that get new clients", lambda found: found.serving),
    "anycast_service_kept": (
        "Real servers that were replaced and get new clients until enough of the new ones are proven",
        lambda found: found.kept,
    ),
    "anycast_service_servers": ("Real servers configured", lambda found: found.total),
    "anycast_service_quorum": (
        "Real servers that must be usable for the VIP to stay announced",
        lambda found: found.quorum.low,
    ),
    "anycast_service_headroom_ratio": (
        "Share of the real servers that can still fail before the VIP is withdrawn",
        lambda found: max(0.0, (found.serving - found.quorum.low) / found.total) if found.total else 0.0,
    ),
    "anycast_service_sorry": (
        "1 while the sorry pool serves, because the quorum of the real servers is lost",
        lambda found: found.by_sorry,
    ),
    "anycast_service_sorry_servers": (
        "Servers of the sorry pool",
        lambda found: 0 if found.sorry is None else found.sorry.total,
    ),
    "anycast_service_sorry_usable": (
        "Servers of the sorry pool that are usable",
        lambda found: 0 if found.sorry is None else found.sorry.usable,
    ),
}


def _of_services(units: _Units, state: State) -> Iterator[Family[Any, Any]]:
    parts = units.parts
    facts = [services_of(state, one.key) for one in parts]
    for name, (about, figure) in _SERVICES.items():
        yield Family(name, about, parts, facts, partial(_of_one, name), figure)
    yield Family(
        "anycast_service_total_weight",
        "Sum of the weights in the configuration",
        parts,
        [one.weight for one in parts],
        partial(_of_one, "anycast_service_total_weight"),
    )
    table: ipvs.Table = {} if state.kernel.snapshot is None else state.kernel.snapshot.table
    yield Family(
        "anycast_service_usable_weight",
        "Sum of the weights in the kernel",
        parts,
        [table.get(one.key) for one in parts],
        partial(_of_one, "anycast_service_usable_weight"),
        _in_kernel,
    )


def _in_kernel(entry: ipvs.ServiceEntry | None) -> int:
    return 0 if entry is None else sum(one.weight for one in entry.destinations)


def _of_tables(units: _Units, board: Board) -> Iterator[Family[Any, Any]]:
    name = "anycast_service_table_fingerprint"

    def lines(unit: _Block, prints: dict[Address, str | None]) -> str:
        return "".join(
            _sample(name, labels, int(prints[address] or "0", 16)) for address, labels in unit.tables
        )

    yield Family(
        name,
        "A number that is equal on nodes with the same table; 0: the service is not in the kernel",
        units.blocks,
        [board.prints[one.key] for one in units.blocks],
        lines,
    )


# Of requirements.


def _of_requirements(units: _Units, state: State) -> Iterator[Family[Any, Any]]:
    each = units.requirements
    healths = [health_of(state, one.check) for one in each]
    for name, about, figures in (
        ("anycast_requirement_up", "1 if the requirement holds", [one.is_up for one in healths]),
        (
            "anycast_requirement_unknown",
            "1 if a check of the requirement could not run last time",
            [one.unknown for one in healths],
        ),
        (
            "anycast_requirement_warning",
            "1 if the requirement holds, with a warning",
            [one.warned for one in healths],
        ),
    ):
        yield Family(name, about, each, figures, partial(_requirement, name))


def _requirement(name: str, one: Requirement, value: float) -> str:
    labels = _labels(scope="vip" if one.vip else "node", vip=one.vip, service=one.service)
    return _sample(name, labels, value)


def _of_local(units: _Units, state: State) -> Iterator[Family[Any, Any]]:
    each = units.local
    healths = [health_of(state, one.check) for one in each]
    for name, about, figures in (
        (
            "anycast_local_service_up",
            "1 if what the node itself serves passes its check",
            [one.is_up for one in healths],
        ),
        (
            "anycast_local_service_unknown",
            "1 if its check could not run last time",
            [one.unknown for one in healths],
        ),
        (
            "anycast_local_service_warning",
            "1 if it is up, with a warning",
            [one.warned for one in healths],
        ),
    ):
        yield Family(name, about, each, figures, partial(_local, name))


def _local(name: str, one: Requirement, value: float) -> str:
    labels = _labels(
        vip=one.vip, service=one.service, address="" if one.address is None else str(one.address)
    )
    return _sample(name, labels, value)


# Of maintenance. Two labels, for a VIP may be called "node".


def _of_maintenance(units: _Units, look: _Look) -> Iterator[Family[Any, Any]]:
    state, scopes = look.state, units.scopes
    progress = [furthest(state, one.scopes) for one in scopes]
    in_force = [[state.maintenance[key] for key in one.scopes if key in state.maintenance] for one in scopes]
    last = [[entry.end.at if entry.end is not None else 0.0 for entry in entries] for entries in in_force]
    for name, about, figures in (
        ("active", "1 in maintenance", [bool(entries) for entries in in_force]),
        (
            "stage_since_timestamp_seconds",
            "When the stage began; 0: not in maintenance",
            [0.0 if one.stage is Stage.ACTIVE else one.since + look.epoch for one in progress],
        ),
        (
            "stage_left_seconds",
            "Time until the stage is over at the latest; 0: it stays",
            [
                0.0 if one.stage is Stage.ACTIVE else stage_left(state, one, look.now) or 0.0
                for one in progress
            ],
        ),
        (
            "ends_timestamp_seconds",
            "When maintenance ends by itself, the last of several; 0: by command only, or not in maintenance",
            [max(ends) if ends and all(ends) else 0.0 for ends in last],
        ),
        (
            "overdue",
            "1 if its end has passed and the maintenance goes on",
            [
                any(state.progress[key].overdue for key in one.scopes if key in state.progress)
                for one in scopes
            ],
        ),
    ):
        whole = f"anycast_maintenance_{name}"
        yield Family(whole, about, scopes, figures, partial(_of_one, whole))
    yield Family(
        "anycast_maintenance_stage",
        "1 for the stage of the drain, 0 for the others",
        scopes,
        [one.stage for one in progress],
        _stages,
    )


def _stages(unit: _Scope, holds: Stage) -> str:
    return "".join(
        _sample("anycast_maintenance_stage", f'{unit.labels},stage="{stage}"', stage is holds)
        for stage in Stage
    )


# Of real servers.

_SERVERS: dict[str, tuple[str, tuple[str, ...], Callable[[Seen], tuple[float, ...]]]] = {
    "anycast_server_up": ("1 if the checks of the real server hold", ("",), lambda one: (one.health.is_up,)),
    "anycast_server_check_unknown": (
        "1 if the last check itself could not run",
        ("",),
        lambda one: (one.health.unknown,),
    ),
    "anycast_server_check_warning": (
        "1 if the check holds, with a warning",
        ("",),
        lambda one: (one.health.warned,),
    ),
    "anycast_server_drained": ("1 if somebody took the real server out", ("",), lambda one: (one.drained,)),
    "anycast_server_connections": (
        "Connections of the real server through this node",
        (',state="active"', ',state="inactive"'),
        lambda one: (one.active, one.inactive),
    ),
}
"""Of every real server: what it is, the labels that its samples have besides, and the samples."""


def _of_servers(units: _Units, board: Board) -> Iterator[Family[Any, Any]]:
    sources = [board.seen[one.key] for one in units.blocks]
    for name, (about, besides, values) in _SERVERS.items():
        yield Family(
            name,
            about,
            units.blocks,
            sources,
            partial(_of_block, name, besides),
            partial(_values, values),
        )


def _values(values: Callable[[Seen], tuple[float, ...]], found: Sequence[Seen]) -> list[tuple[float, ...]]:
    return [values(one) for one in found]


def _of_block(name: str, besides: tuple[str, ...], unit: _Block, figures: Sequence[tuple[float, ...]]) -> str:
    return "".join(
        f"{name}{{{labels}{more}}} {float(value)}\n"
        for labels, values in zip(unit.labels, figures, strict=True)
        for more, value in zip(besides, values, strict=True)
    )


# Of what they carry.


@dataclass(slots=True)
class _Flow:
    """What a service, or the real servers of one, carried so far. `rows`: each one's labels and counters."""

    unit: _Part | _Block
    totals: tuple[Total | None, ...]
    answers: bool
    rows: tuple[tuple[str, ipvs.Counters], ...] | None = None


class _Carried:
    """What was read last. Where nothing was carried since, it is the same object."""

    def __init__(self) -> None:
        self._flows: dict[int, _Flow] = {}  # by id() of the unit, which is kept in it

    def of(self, unit: _Part | _Block, traffic: Traffic) -> _Flow:
        known = self._flows.get(id(unit))
        totals = tuple(map(traffic.total, unit.keys))
        if known is not None and all(map(is_, totals, known.totals)):
            return known
        answers = (
            sees_answers(unit.service)
            if isinstance(unit, _Part)
            else any(row.sees_answers for row in unit.rows)
        )
        flow = self._flows[id(unit)] = _Flow(unit, totals, answers)
        return flow


def _rows(flow: _Flow) -> tuple[tuple[str, ipvs.Counters], ...]:
    if flow.rows is None:
        unit, totals = flow.unit, flow.totals
        if isinstance(unit, _Part):
            flow.rows = ((unit.labels, _counted(totals, None)),)
        else:
            by_key = dict(zip(unit.keys, totals, strict=True))
            flow.rows = tuple(
                (labels, _counted([by_key.get(key) for key in row.services], row))
                for labels, row in zip(unit.labels, unit.rows, strict=True)
            )
    return flow.rows


def _counted(totals: Sequence[Total | None], row: Row | None) -> ipvs.Counters:
    server, place = (None, 0) if row is None else ((row.address, row.port), row.place)
    found = [one for total in totals if total is not None and (one := total.at(server, place)) is not None]
    if len(found) < 2:
        return found[0] if found else ipvs.Counters()
    return ipvs.Counters._make(map(sum, zip(*found, strict=True)))


_CARRIED: dict[str, tuple[str, Callable[[ipvs.Counters], tuple[int, ...]]]] = {
    "connections": ("New connections through this node", lambda one: (one.connections,)),
    "packets": ("Packets through this node", lambda one: (one.packets_in, one.packets_out)),
    "bytes": ("Bytes through this node, with IP headers", lambda one: (one.bytes_in, one.bytes_out)),
}
"""Of each what there is: once, or as it came in and went out."""
_WAYS = (',direction="in"', ',direction="out"')


def _of_traffic(what: str, flows: Sequence[_Flow]) -> Iterator[Family[Any, Any]]:
    for name, (about, values) in _CARRIED.items():
        whole = f"anycast_ipvs_{what}_{name}"
        of = "of the service" if what == "service" else "of the real server"
        yield Family(
            whole,
            f"{about}, {of}, since the ops process began to count",
            flows,
            flows,
            partial(_carried, whole, _WAYS if name != "connections" else ("",)),
            partial(_figures, values),
            counter=True,
        )


def _figures(
    values: Callable[[ipvs.Counters], tuple[int, ...]], flow: _Flow
) -> list[tuple[str, tuple[int, ...]]]:
    return [(labels, values(one)[: None if flow.answers else 1]) for labels, one in _rows(flow)]


def _carried(
    name: str, ways: tuple[str, ...], _: _Flow, figures: Sequence[tuple[str, tuple[int, ...]]]
) -> str:
    return "".join(
        f"{name}_total{{{labels}{way}}} {float(value)}\n"
        for labels, values in figures
        for way, value in zip(ways, values, strict=False)
    )
