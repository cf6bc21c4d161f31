"""What `lab.logs` makes of what it counted: rows, whether each kept its promise, the table and the JSON. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil

from anycast.cli.table import table
from lab.logs_count import Count
from lab.logs_plan import Promise


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """One fault and one protocol. Seconds. `straight`: of the machines that send to the broken receiver itself, without a
    balancer, over the same protocol; `share`: of the packets that the node had which was hit; `spread`: of what arrived
    in the last seconds of the row, per receiver.
    """

    fault: str
    where: str
    protocol: str
    promise: Promise
    count: Count
    straight: Count
    took: float
    share: float = 0.0
    retries: int = 0
    route_gone_s: float | None = None
    busy: float = 0.0
    spread: Mapping[str, float] = field(default_factory=dict)
    began: float = 0.0
    healed: float | None = None
    ended: float = 0.0
    wrong: tuple[str, ...] = ()
    note: str = ""

    @property
    def allowed(self) -> int | None:
        """Messages that may be lost; None: nothing is promised."""
        if self.promise.of_share is None:
            return self.promise.lost
        return ceil(self.promise.of_share * self.share * self.count.sent / max(self.took, 1.0))

    @property
    def missed(self) -> tuple[str, ...]:
        """What was promised and not kept."""
        found = list(self.wrong)
        if self.allowed is not None and self.count.lost > self.allowed:
            found.append(f"{self.count.lost} of {self.count.sent} lost, not {self.allowed}")
        if self.promise.longest is not None and self.count.longest > self.promise.longest:
            found.append(f"{self.count.longest:.2f} s late, not {self.promise.longest:g} s")
        if self.promise.retries is not None and self.retries > self.promise.retries:
            found.append(f"{self.retries} posts were tried again, not {self.promise.retries}")
        return tuple(found)


def logs_table(rows: Sequence[LogRow]) -> str:
    """For people."""
    head = (
        "fault", "at", "protocol", "sent", "lost", "twice", "reordered", "p50", "p99", "longest", "retries",
        "lost without a balancer", "promised", "held",
    )  # fmt: skip
    return table(head, [_cells(row) for row in rows], colour=False)


def _cells(row: LogRow) -> tuple[str, ...]:
    count, straight = row.count, row.straight
    return (
        row.fault,
        row.where or "-",
        row.protocol,
        str(count.sent),
        str(count.lost),
        str(count.twice),
        str(count.reordered),
        *(f"{value:.2f} s" for value in (count.p50, count.p99, count.longest)),
        str(row.retries) if row.protocol == "https" else "-",
        f"{straight.lost}/{straight.sent}",
        row.promise.text,
        "NO" if row.missed else "yes" if row.promise.text != "-" else "-",
    )


def summary(rows: Sequence[LogRow]) -> str:
    """A line for each fault: what was lost of each protocol, how much came twice, and what was lost without a balancer."""
    protocols = list(dict.fromkeys(row.protocol for row in rows))
    lines = []
    for fault in dict.fromkeys(row.fault for row in rows):
        found = {row.protocol: row for row in rows if row.fault == fault}
        held = "NO" if any(row.missed for row in found.values()) else "yes"
        lines.append((fault, *(_lost(found[one]) if one in found else "-" for one in protocols), held))
    return table(("lost", *protocols, "held"), lines, colour=False)


def _lost(row: LogRow) -> str:
    words = [str(row.count.lost)]
    if row.count.twice:
        words.append(f"{row.count.twice} twice")
    if row.straight.lost:
        words.append(f"without {row.straight.lost}")
    return f"{words[0]} ({', '.join(words[1:])})" if words[1:] else words[0]


def document(rows: Sequence[LogRow]) -> dict[str, object]:
    """For `build/logs.json`."""
    return {
        "rows": [{**asdict(row), "missed": list(row.missed), "held": not row.missed} for row in rows],
        "held": not any(row.missed for row in rows),
    }
