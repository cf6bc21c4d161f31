"""Programs that a configuration needs on the node. Only the node can say whether they are there."""

from __future__ import annotations

import os
from collections.abc import Iterable

from anycast.config.problem import NeededPath, Problem


def missing_program(needed: NeededPath) -> Problem | None:
    if os.access(needed.name, os.X_OK) and os.path.isfile(needed.name):
        return None
    what = f"there is no program {needed.name} on this machine"
    if os.path.exists(needed.name):
        what = f"{needed.name} cannot be executed on this machine"
    do = "install it on the node, or correct the path"
    if needed.use == "hook":
        do += ": an agent without it refuses the configuration"
    return Problem(needed.mark, needed.path, what, do)


def missing_hooks(paths: Iterable[NeededPath]) -> tuple[Problem, ...]:
    """The commands of hooks that cannot be run: a hook that can never run is a mistake."""
    found = (missing_program(needed) for needed in paths if needed.use == "hook")
    return tuple(problem for problem in found if problem is not None)
