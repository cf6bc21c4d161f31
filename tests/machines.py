"""docs/machines.md, drawn from the tables: `make machines` writes it anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from anycast.core import confirmation, withdrawal
from anycast.core.dataplane import proof
from anycast.core.fleet import turn
from anycast.core.health import phase
from anycast.core.maintenance import stages
from anycast.core.vip import lifecycle

PAGE = Path(__file__).parents[1] / "docs" / "machines.md"

_HEAD = """# The machines of the core

Everything that waits is one of these machines. Each is a table in its module; this page is drawn from the tables
(`make machines`). A signal that is not drawn at a state leaves it as it is.
"""
_MACHINES: tuple[tuple[str, ModuleType, Mapping[Any, Any], str], ...] = (
    ("Health of a target", phase, phase.TRANSITIONS, "undecided"),
    ("Life of a VIP", lifecycle, lifecycle.NEXT, "new"),
    ("Proof that the kernel holds what a VIP needs", proof, proof.NEXT, "unread"),
    ("Withdrawal", withdrawal, withdrawal.NEXT, "asked"),
    ("Maintenance", stages, stages.NEXT, "active"),
    ("Turn of a node in its fleet", turn, turn.NEXT, "free"),
    ("Whether a configuration is to stay", confirmation, confirmation.NEXT, "confirmed"),
)


def page() -> str:
    parts = [_HEAD]
    for title, module, table, start in _MACHINES:
        name = f"anycast/{module.__name__.partition('.')[2].replace('.', '/')}.py"
        about = (module.__doc__ or "").strip()
        parts.append(f"## {title}\n`{name}`: {about}\n\n{_diagram(table, start)}")
    return "\n".join(parts)


def _diagram(table: Mapping[Any, Any], start: str) -> str:
    edges: dict[tuple[str, str], list[str]] = {}
    for (state, signal), after in table.items():
        # Health counts: the first of the pair while it does, the second once rise or fall is reached.
        ways = (
            dict(zip(after, ("", " enough times"), strict=True)) if isinstance(after, tuple) else {after: ""}
        )
        if isinstance(after, tuple) and after[0] is after[1]:
            ways = {after[0]: ""}
        for way, how in ways.items():
            if way is not state:
                edges.setdefault((state, way), []).append(f"{signal}{how}")
    lines = [f"    {a} --> {b}: {', '.join(signals)}" for (a, b), signals in edges.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {start}", *lines, "```", ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
