"""What is found in the file of a fleet, node by node, put together: each thing once, with the nodes that it concerns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from anycast.analysis.routers import Told, Weights, said
from anycast.config.problem import Path, Problem
from anycast.core.values.configuration import Address, Config, Role
from anycast.core.values.software import Software

if TYPE_CHECKING:
    from anycast.config.loaded import Loaded
    from anycast.config.validate import Source

Look: TypeAlias = "Callable[[Loaded], None]"
"""Gets the configuration of each node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Every:
    """What is the same for all nodes. `names` empty: the file is of one node."""

    names: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    files: tuple[str, ...] = ()
    fingerprint: str = ""

    @classmethod
    def of(cls, loaded: Loaded) -> Every:
        return cls(
            names=loaded.nodes, warnings=loaded.warnings, files=loaded.files, fingerprint=loaded.fingerprint
        )


class Said:
    """What is said of which nodes."""

    def __init__(self) -> None:
        self._nodes: dict[Problem, list[str]] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, node: str, problems: Sequence[Problem]) -> None:
        for one in problems:
            nodes = self._nodes.setdefault(one, [])
            if node not in nodes[-1:]:
                nodes.append(node)

    def problems(self, nodes: int) -> Iterator[Problem]:
        """Of so many nodes that were looked at: what concerns all of them names none."""
        for one, names in self._nodes.items():
            yield one if len(names) == nodes else replace(one, nodes=tuple(names))


class Clashes:
    """What is right for each node alone, and wrong of all together. It holds a few values of each node."""

    def __init__(self) -> None:
        self._router_ids: dict[object, str] = {}
        self._addresses: dict[object, str] = {}
        self._backups: Counter[str] = Counter()
        # By the router's address: two sites may have routers of one AS, which hear different nodes.
        self._weights: dict[Address, Weights] = {}
        self._software: dict[Address, set[Software]] = {}

    def problems(self, config: Config, source: Source) -> list[Problem]:
        """Of this node, with those before it."""
        name, router_id = config.node.name, config.bgp.router_id
        first = self._router_ids.setdefault(router_id, name)
        if first == name:
            return []
        what = f"{router_id} is the router id of {first} already"
        places: tuple[Path, ...] = (("bgp", "router_id"), ("speaker", "ospf", "router_id"))
        path = next((one for one in places if one in source.values), places[0])
        return [_at(source, path, what, f"write one of its own under nodes.{name}")]

    def warnings(self, config: Config, source: Source) -> list[Problem]:
        """The same of what is allowed."""
        self._backups.update(vip.name for vip in config.vips if vip.role is Role.BACKUP)
        self._weigh(config)
        name, found = config.node.name, []
        for n, neighbor in enumerate(config.bgp.neighbors):
            address = neighbor.local_address
            if address is None or address.is_link_local:
                continue
            first = self._addresses.setdefault(address, name)
            if first != name and address != config.bgp.router_id:  # which is said of the router id
                path: Path = ("bgp", "neighbors", n, "local_address")
                path = path if path in source.values else ("bgp", "local_address")
                what = f"{address} is the address of {first} in its sessions already"
                found.append(
                    _at(source, path, what, "write one of its own, unless they are in separate networks")
                )
        return list(dict.fromkeys(found))

    def _weigh(self, config: Config) -> None:
        for one in config.bgp.neighbors:
            if one.address.is_link_local:
                continue  # the same on many links
            self._weights.setdefault(one.address, Weights()).add(config, [one])
            kinds = self._software.setdefault(one.address, set())
            if (kind := said(one)) is not None:
                kinds.add(kind)

    def of_all(self, source: Source, nodes: int) -> Iterator[Problem]:
        """What no node is alone with. `source`: of the files as they are."""
        for vip, backups in self._backups.items():
            if backups == nodes > 1:
                what = "every node is a backup, and none the primary"
                yield _at(source, ("vips", vip, "role"), what, "leave the role of one node out")
        for path, what, do in dict.fromkeys(self._weighed()):
            yield _at(source, path, what, do)

    def _weighed(self) -> Iterator[Told]:
        for router, weights in self._weights.items():
            kinds: list[Software | None] = [*sorted(self._software[router], key=str)]
            for software in kinds or [None]:
                yield from weights.told(software)


def _at(source: Source, path: Path, what: str, do: str) -> Problem:
    return Problem(source.mark(path), source.written(path), what, do)
