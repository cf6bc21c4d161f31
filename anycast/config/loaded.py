"""The result of loading. Needs no pydantic, since users of a configuration need not know how it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from anycast.config.kept import Texts
from anycast.config.problem import NeededPath, Problem
from anycast.core.values.configuration import Config, Pool, Tree, Vip


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """The VIPs and pools of a configuration by the digests of all they are made of: what need not be sent again."""

    vips: Mapping[bytes, Vip] = field(default_factory=dict)
    pools: Mapping[bytes, Pool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A valid configuration and where it came from. `digest` is of the files' bytes, SHA-256 in hex.

    `checks`: those that have a name, used or not. `paths`: files that checks need on the node. `warnings`: what is
    allowed and rarely meant, in the order of the files. `unended`: names of files whose last line has no end.
    `texts`: the files as they were, where it came from another process.

    `fingerprint`: of what the files say, the same for all nodes of a fleet (`anycast.config.fleet`). `nodes`: the names of
    that fleet; empty: the files are of one node. `asked`: the node that they were to be read for; None: it found itself.
    """

    config: Config
    checks: Mapping[str, Tree]
    paths: tuple[NeededPath, ...]
    files: tuple[str, ...]
    digest: str
    warnings: tuple[Problem, ...] = ()
    unended: tuple[str, ...] = ()
    fingerprint: str = ""
    nodes: tuple[str, ...] = ()
    asked: str | None = None
    texts: Texts | None = field(default=None, repr=False, compare=False)
    units: Units = field(default=Units(), repr=False, compare=False)  # where it came from another process
