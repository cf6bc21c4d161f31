"""The result of loading. Needs no pydantic, since users of a configuration need not know how it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anycast.config.problem import NeededPath, Problem
from anycast.core.values.configuration import Config, Tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A valid configuration and where it came from. `digest` is of the files' bytes, SHA-256 in hex.

    `checks`: those that have a name, used or not. `paths`: files that checks need on the node. `warnings`: what is
    allowed and rarely meant, in the order of the files.
    """

    config: Config
    checks: Mapping[str, Tree]
    paths: tuple[NeededPath, ...]
    files: tuple[str, ...]
    digest: str
    warnings: tuple[Problem, ...] = ()
