"""What the size of the configuration costs, against an older build: every row in one run, both builds in turns.

`python -m lab.bench_scale`, as root but for the rows of the core. The build of commit 3b5e590 is installed out of the git history into
`build/venv-scale-base`; where there is no history only this build's own figures are printed. `--rows help` lists the
rows; those that take ten minutes for each build and size are measured with `--long` alone. CPU time wherever a time
is not what somebody waits for. Prints a table; the same in `build/bench-scale.json`, and cost over size as a picture
in `build/bench-scale.svg`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import measuring, netns
from lab.measuring import say
from lab.scale import builds, core_rows, fabric, node_rows, router_rows
from lab.scale.bench import Bench
from lab.scale.figures import Figure, figures_table
from lab.scale.picture import picture

LONG_SECONDS = 600.0
QUICK_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that are measured together."""

    rows: dict[str, str]
    measure: Callable[[Bench], list[Figure]]
    root: bool = True  # it takes network namespaces
    long: bool = False
    routers: bool = False
    usual: bool = False  # at the usual priority: CPU time alone is counted, or that is what is measured

    @property
    def lack(self) -> str | None:
        """Why it cannot be measured here; None: it can."""
        if self.root and os.geteuid() != 0:
            return "root is needed for it (sudo make bench-scale)"
        if self.routers and (packages := fabric.missing()):
            return f"{packages} is not installed (./lab/install routers)"
        return None


GROUPS = (
    Group(
        rows={
            "outcome": "the core: one check fails, 1,000 VIPs × 5 servers",
            "tick": "the core: a tick with nothing due",
            "core": "the core: a reading with nothing to do, 1,000 failures in one event, a reload",
        },
        measure=core_rows.slopes,
        root=False,
        usual=True,
    ),
    Group(rows={"outcome-size": "the core: a failure at 1,000 × 50 against 10 × 50"}, measure=core_rows.sizes, root=False, usual=True),
    Group(rows={"load": "a configuration of 50,000 servers from text to valid"}, measure=core_rows.loading, root=False, usual=True),
    Group(
        rows={
            "burst": "a whole agent: 1,000 checks fail at once",
            "reading": "a whole agent: the kernel is read with nothing to do",
            "rest": "a whole agent at rest with 1,000 VIPs",
        },
        measure=node_rows.standing,
    ),
    Group(rows={"reload": "a whole agent: a reload adds one server to 50,000"}, measure=node_rows.reloading),
    Group(rows={"memory": "5,000 servers with checks"}, measure=node_rows.memory),
    Group(rows={"further": "memory of each further server"}, measure=node_rows.further),
    Group(rows={"start": "exec of the agent until its first lease"}, measure=node_rows.starting),
    Group(
        rows={
            "router": "ExaBGP and FRR, 1,000 VIPs: one down, maintenance; BIRD beside it",
            "router-rest": "the same at rest: agent, plugin, ExaBGP",
            "plugin-lease": "the same: the plugin's CPU for each lease that changes nothing",
        },
        measure=router_rows.thousand,
        routers=True,
    ),
    Group(
        rows={"router-start": "ExaBGP and FRR, 5,000 VIPs: start until all are in the router's table"},
        measure=router_rows.many,
        routers=True,
    ),
    Group(rows={"fifth": "1,000 VIPs × 5 with a fifth of one core, ten minutes"}, measure=node_rows.fifth, long=True, usual=True),
    Group(rows={"leases": "longest time between two leases, ten minutes, two sizes"}, measure=node_rows.leases, long=True),
)  # fmt: skip


def wanted_rows(text: str, *, long: bool) -> frozenset[str]:
    """The rows of a list with commas; empty: all but those that take ten minutes. Raises ValueError."""
    known = {row: group for group in GROUPS for row in group.rows}
    if not text:
        return frozenset(row for row, group in known.items() if long or not group.long)
    rows = frozenset(text.split(","))
    if rows - known.keys():
        raise ValueError(f"no such row: {', '.join(sorted(rows - known.keys()))}; --rows help lists them")
    return rows


def listed() -> str:
    lines = []
    for group in GROUPS:
        for row, text in group.rows.items():
            lines.append(f"{row:<13} {text}{' (with LONG=1)' if group.long else ''}")
    return "\n".join(lines)


def measured(group: Group, bench: Bench) -> list[Figure]:
    """A row that cannot be measured says why, and is no reason to leave out the others."""
    rows = [row for row in group.rows if row in bench.wanted]
    if group.lack is not None:
        why = f"not measurable: {group.lack}"
        return [Figure(row=row, work=group.rows[row], unit="", note=why) for row in rows]
    began = time.monotonic()
    try:
        with contextlib.nullcontext() if group.usual else measuring.ahead():
            return group.measure(bench)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other rows can be measured
        traceback.print_exc()
        why = f"not measured: {error!r}"
        return [Figure(row=row, work=group.rows[row], unit="", note=why) for row in rows]
    finally:
        say(f"{', '.join(rows)}: {time.monotonic() - began:.0f} s")


def main(argv: list[str] | None = None) -> int:
    parser = measuring.options("lab.bench_scale", __doc__, "bench-scale.json")
    parser.add_argument("--rows", default="", help="with commas; help lists them")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and short times: does it work at all"
    )
    parser.add_argument("--long", action="store_true", help="those of ten minutes too")
    parser.add_argument("--seconds", type=float, help="in the place of ten minutes")
    parser.add_argument("--rounds", type=int, help="at most so many of each build, where a row has several")
    parser.add_argument("--base", default=builds.BASE, help="the commit that is compared with")
    options = parser.parse_args(argv)
    if options.rows == "help":
        print(listed())
        return 0
    try:
        wanted = wanted_rows(options.rows, long=options.long)
    except ValueError as error:
        parser.error(str(error))
    measuring.ready("bench_scale")
    base, ours = builds.base(options.base), builds.ours()
    if base is None:
        say(f"there is no git history with {options.base} here: this build's own figures only")
    seconds = options.seconds or (QUICK_SECONDS if options.quick else LONG_SECONDS)
    # A namespace of its own, for the agents listen where others may.
    apart = netns.fresh() if os.geteuid() == 0 else contextlib.nullcontext()
    with tempfile.TemporaryDirectory(prefix="scale-") as name, apart:
        bench = Bench(Path(name), base, ours, wanted, options.quick, seconds, options.rounds)
        figures: list[Figure] = []
        for group in GROUPS:
            if not wanted.isdisjoint(group.rows):
                figures += measured(group, bench)
                leave(options.json, options.base, bench, figures)
    print(f"\n{figures_table(figures)}\nthe same as JSON: {options.json}", flush=True)
    return 0


def leave(path: Path, commit: str, bench: Bench, figures: Sequence[Figure]) -> None:
    """What there is so far: a run that is ended early has left something."""
    found = {
        "base": commit if bench.base else None,
        "quick": bench.quick,
        "load_average": os.getloadavg(),
        "figures": [one.document() for one in figures],
        "points": [asdict(one) for one in bench.points],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if bench.points:
        path.with_suffix(".svg").write_text(picture(bench.points, f"commit {commit}"))


if __name__ == "__main__":
    sys.exit(main())
