"""What was played, in a document: between `<!-- transcript NAME -->` or `<!-- broken NAME NAME… -->` and `<!-- end -->`. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_PLACE = re.compile(r"<!-- (transcript|broken) ([a-z -]+?) -->\n.*?<!-- end -->", re.DOTALL)


def written(text: str, found: Mapping[str, Any]) -> str:
    """`found`: by way, as `lab.migrate` leaves it. A way that was not played has no row; where none was, all stays as it is."""

    def anew(place: re.Match[str]) -> str:
        kind, names = place[1], [name for name in place[2].split() if name in found]
        if not names:
            return place[0]
        body = (
            transcript(found[names[0]]) if kind == "transcript" else broken([found[name] for name in names])
        )
        return f"<!-- {kind} {place[2]} -->\n{body}\n<!-- end -->"

    return _PLACE.sub(anew, text)


def transcript(played: Mapping[str, Any]) -> str:
    return "\n".join(["```", *"\n".join(played["lines"]).strip().splitlines(), "```"])


def broken(played: Sequence[Mapping[str, Any]]) -> str:
    """A line for each way, a column for each step at which something broke in one of them."""
    numbers = list(dict.fromkeys(_number(step) for one in played for step in one["steps"]))
    counts = [{_number(step): step for step in one["steps"]} for one in played]
    shown = [n for n in numbers if any(_hurt(one.get(n)) for one in counts)]
    lines = [
        _row(["way", *(f"step {n}" for n in shown), "all other steps"]),
        _row(["---"] * (len(shown) + 2)),
    ]
    for one, steps in zip(played, counts, strict=True):
        lines.append(_row([one["words"], *(_cell(steps.get(n)) for n in shown), "0"]))
    return "\n".join(lines)


def _number(step: Mapping[str, Any]) -> str:
    return str(step["title"]).partition(".")[0]


def _hurt(step: Mapping[str, Any] | None) -> bool:
    return step is not None and bool(step["broken"] or step["new_failed"])


def _cell(step: Mapping[str, Any] | None) -> str:
    if step is None:
        return "-"
    new = f", {step['new_failed']} of {step['new']} new ones failed" if step["new_failed"] else ""
    return f"{step['broken']} of {step['connections']}{new}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
