"""What `lab.chaos` makes of what it saw: rows, whether each kept its promise, the table and the JSON. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from anycast.cli.table import table

FEW = 4  # nodes whose shares stand in the table one by one
NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fault, until everything was as before. Seconds; `began` and `ended` from the start of the run.

    `shares`: of the packets, per balancer, before and once the fault had settled. `busy`: of the lab's processor.
    """

    fault: str
    where: str = ""
    peer: bool = False
    promise: str = "-"
    connections: int
    broken: int = 0
    lost_with_server: int = 0
    moved: int = 0  # connections that another real server answered; can only be broken ones
    longest_pause_s: float = 0.0
    new_connections: int = 0
    new_failed: int = 0
    new_served_s: float | None = None  # after a real server died: until new clients were served again
    route_gone_s: float | None = None
    bound_s: float | None = None
    shares_before: Mapping[str, float] = field(default_factory=dict)
    shares_after: Mapping[str, float] = field(default_factory=dict)
    busy: float = 0.0
    began: float = 0.0
    healed: float | None = None  # when what was broken was mended
    ended: float = 0.0
    wrong: tuple[str, ...] = ()  # what else was promised and not kept
    errors: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    @property
    def missed(self) -> tuple[str, ...]:
        """What was promised and not kept. A peer promises nothing."""
        if self.peer:
            return ()
        found = [f"{self.broken} connections broken {dict(self.errors)}"] if self.broken else []
        if self.bound_s is not None and self.route_gone_s is None:
            found.append("the route did not go")
        elif self.bound_s is not None and self.route_gone_s is not None and self.route_gone_s > self.bound_s:
            found.append(f"the route was gone after {self.route_gone_s:.2f} s, not {self.bound_s:g} s")
        return (*found, *self.wrong)

    @property
    def name(self) -> str:
        return f"healthcheck: {self.fault}" if self.peer else self.fault


def chaos_table(rows: Sequence[Row]) -> str:
    """For people; a peer's row follows ours of the same fault."""
    head = (
        "fault", "at", "connections", "broken", "lost with server", "longest pause", "new failed", "route gone",
        "promised", "held", "shares",
    )  # fmt: skip
    return table(head, [_cells(row) for row in side_by_side(rows)], colour=False)


def side_by_side(rows: Sequence[Row]) -> list[Row]:
    names = list(dict.fromkeys(row.fault for row in rows))
    return sorted(rows, key=lambda row: (names.index(row.fault), row.peer))


def _cells(row: Row) -> tuple[str, ...]:
    held = "-" if row.peer else "NO" if row.missed else "yes"
    never = NEVER if row.peer else "-"
    gone = never if row.route_gone_s is None else f"{row.route_gone_s:.2f} s"
    return (
        row.name,
        row.where or "-",
        str(row.connections),
        str(row.broken),
        str(row.lost_with_server) if row.lost_with_server else "-",
        f"{row.longest_pause_s:.2f} s",
        f"{row.new_failed}/{row.new_connections}",
        gone,
        row.promise,
        held,
        shares(row),
    )


def shares(row: Row) -> str:
    """`33 33 34 -> 0 50 50` for a few nodes; for many the one that was hit and the range of the others."""
    before, after = ([found.get(node, 0.0) for node in sorted_nodes(found)] for found in _both(row))
    if len(before) <= FEW:
        return f"{_percents(before)} -> {_percents(after)}" if after else _percents(before)
    hit = [node for node in sorted_nodes(row.shares_before) if node in row.where.split("+")]
    words = [f"{node} {row.shares_before[node]:.0%} -> {row.shares_after.get(node, 0.0):.0%}" for node in hit]
    ranges = [
        f"{min(values):.0%} to {max(values):.0%}"
        for found in _both(row)
        if (values := [share for node, share in found.items() if node not in hit])
    ]
    return "; ".join([*words, f"{'others' if hit else 'each'} {' -> '.join(ranges)}"])


def _both(row: Row) -> tuple[Mapping[str, float], Mapping[str, float]]:
    return row.shares_before, row.shares_after


def sorted_nodes(nodes: Iterable[str]) -> list[str]:
    """lb2 before lb10."""
    return sorted(nodes, key=lambda name: (len(name), name))


def _percents(values: Sequence[float]) -> str:
    return " ".join(f"{value:.0%}" for value in values)


def worst(rows: Sequence[Row]) -> list[Row]:
    """One row of each fault that came in the random part: sums of what is counted, the worst of what is measured."""
    found = []
    for fault in dict.fromkeys(row.fault for row in rows):
        ours = [row for row in rows if row.fault == fault]
        gone = [row.route_gone_s for row in ours if row.route_gone_s is not None]
        missing = any(row.route_gone_s is None for row in ours)
        found.append(
            Row(
                fault=f"random: {fault}",
                where=f"{len(ours)} times",
                promise=ours[0].promise,
                connections=min(row.connections for row in ours),
                broken=sum(row.broken for row in ours),
                lost_with_server=sum(row.lost_with_server for row in ours),
                longest_pause_s=max(row.longest_pause_s for row in ours),
                new_connections=sum(row.new_connections for row in ours),
                new_failed=sum(row.new_failed for row in ours),
                route_gone_s=None if missing and ours[0].bound_s is not None else max(gone, default=None),
                wrong=tuple(text for row in ours for text in replace(row, broken=0).missed),
                errors={
                    kind: sum(row.errors.get(kind, 0) for row in ours) for row in ours for kind in row.errors
                },
            )
        )
    return found


def document(rows: Sequence[Row], random_rows: Sequence[Row]) -> dict[str, object]:
    """For `build/chaos.json`."""
    return {
        "rows": [_entry(row) for row in side_by_side(rows)],
        "random": [_entry(row) for row in random_rows],
        "held": not any(row.missed for row in (*rows, *random_rows)),
    }


def _entry(row: Row) -> dict[str, object]:
    return {**asdict(row), "held": None if row.peer else not row.missed, "missed": list(row.missed)}
