"""Whether the site comes up: how far each balancer is, how long to wait for it, and what to say when it does not.

A busy machine makes everything slow, so the wait ends when nothing moves any more, not when a time is over.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import supervisor
from lab.control import What
from lab.supervisor import ending
from lab.topology import VIPS

if TYPE_CHECKING:
    from lab.control import Lab

STILL = 90.0  # seconds without a move after which nothing more is expected
START = 120.0  # seconds of processor time a start may take: an agent takes two
STEP = 0.2  # seconds of processor time that count as a move
LOOPS = 5  # starts of one program after which a further one is no move
_PAUSE = 0.5  # seconds between two looks
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How far a balancer is. `rank`: greater is further; `lack`: None when it is all the way; `log`: which to read."""

    rank: tuple[int, ...]
    lack: str | None = None
    log: What = "agent"
    worked: float = 0.0  # seconds of processor time of its programs, while they start


@dataclass(slots=True)
class Patience:
    """Ends `still` seconds after the last move of any balancer. A start's work is a move until it comes to START."""

    still: float
    moved: float
    _best: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _worked: dict[str, float] = field(default_factory=dict)

    def over(self, now: float, looks: Mapping[str, Look]) -> bool:
        for node, look in looks.items():
            if look.rank > self._best.get(node, ()):
                self._best[node] = look.rank
                self.moved = now
            if look.worked >= self._worked.get(node, 0.0) + STEP and look.worked <= START:
                self._worked[node] = look.worked
                self.moved = now
        return now - self.moved >= self.still


def wait(
    look: Callable[[], Mapping[str, Look]],
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    still: float = STILL,
) -> dict[str, Look]:
    """The balancers that have not come up when nothing moves any more; none: all have."""
    patience = Patience(still, clock())
    while True:
        looks = look()
        lacking = {node: seen for node, seen in looks.items() if seen.lack is not None}
        if not lacking or patience.over(clock(), looks):
            return lacking
        sleep(_PAUSE)


def announcing(lab: Lab) -> dict[str, Look]:
    """How far each balancer is on its way into the router's table."""
    routes = lab.router_routes()
    wards = _wards()
    return {
        balancer.name: _look(lab, balancer.name, {vip: routes[vip] for vip in VIPS}, wards)
        for balancer in lab.topology.balancers
    }


def listening(lab: Lab, node: str) -> dict[str, Look]:
    """How far the agent of one node is on its way to answer commands and questions."""
    return {node: _start(lab, node, _wards()) or Look(rank=(9,))}


Wards = Mapping[tuple[str, str], Mapping[str, Any]]


def _wards() -> Wards:
    answer = supervisor.ask(do="list") or {"wards": []}
    return {(ward["node"], ward["what"]): ward for ward in answer["wards"]}


def _look(lab: Lab, node: str, routes: Mapping[str, Collection[str]], wards: Wards) -> Look:
    if (start := _start(lab, node, wards)) is not None:
        return start
    if not lab.alive(node, "exabgp"):
        return Look(rank=(2,), lack=_ended(node, "exabgp", wards), log="exabgp")
    status = _status(lab, node)
    if status is None:
        return Look(rank=(2,), lack="its agent says no status")
    rank, lack = _announced(status)
    missing = [vip for vip, nodes in routes.items() if node not in nodes]
    if lack is None and missing:
        lack = f"it announces, but the router has no way to {' and '.join(missing)} by it"
    return Look(rank=(3, *rank, len(routes) - len(missing)), lack=lack)


def _start(lab: Lab, node: str, wards: Wards) -> Look | None:
    """None: the agent listens."""
    if not lab.alive(node, "agent"):
        return Look(rank=(0,), lack=_ended(node, "agent", wards), worked=_worked(lab, node, wards))
    for rank, (name, what) in enumerate((("control.sock", "agent"), ("ops.sock", "ops process")), 1):
        if not _accepts(lab.run / node / name):
            ward = wards.get((node, "agent"), {})
            again = f" (it was started {ward['starts']} times)" if ward.get("starts", 1) > 1 else ""
            lack = f"its {what} does not listen at {lab.run / node / name}{again}"
            return Look(rank=(rank,), lack=lack, worked=_worked(lab, node, wards))
    return None


def _ended(node: str, what: What, wards: Wards) -> str:
    name = "agent" if what == "agent" else "ExaBGP"
    ward = wards.get((node, what), {})
    if ward.get("status") is None:
        return f"its {name} does not run"
    return f"its {name} ended {ending(ward['status'])}, after {ward['starts']} starts"


def _worked(lab: Lab, node: str, wards: Wards) -> float:
    """Seconds of processor time its agent has had; a program that ends again and again gets no further credit."""
    ward = wards.get((node, "agent"), {})
    process = lab.process(node, "agent")
    if process is None or ward.get("starts", 1) > LOOPS:
        return 0.0
    starts: int = ward.get("starts", 1)
    return starts * STEP + process.ticks() / _TICKS


def _announced(status: Mapping[str, Any]) -> tuple[tuple[int, ...], str | None]:
    """How far, and the first thing that lacks."""
    vips: Sequence[Mapping[str, Any]] = status.get("vips", ())
    sessions: Sequence[Mapping[str, Any]] = status.get("neighbors", ())
    up = sum(one.get("state") == "up" for one in sessions)
    announced = sum(bool(vip.get("announced")) for vip in vips)
    healthy = sum(
        family.get("usable", 0)
        for vip in vips
        for service in vip.get("services", ())
        for family in service.get("families", ())
    )
    rank = (announced, up, healthy)
    if announced == len(vips):
        return rank, None
    if up < len(sessions):
        return rank, f"{up} of its {len(sessions)} BGP sessions are up"
    first = next(vip for vip in vips if not vip.get("announced"))
    return rank, f"it does not announce {first.get('name')}: {first.get('reason', 'no reason given')}"


def _status(lab: Lab, node: str) -> dict[str, Any] | None:
    from anycast.cli import client  # takes a while in the lab's kernel

    with contextlib.suppress(client.UnreachableError):
        answer = client.read(lab.run / node / "control.sock", "/status")
        if answer.ok:
            body: dict[str, Any] = answer.body
            return body
    return None


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5.0)
        try:
            sock.connect(str(path))
        except OSError:
            return False
    return True
