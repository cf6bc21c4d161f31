"""BFD beside ExaBGP: who notices what, and how soon, by the router's kernel table and by what the router says.

ANYCAST_ROUNDS=10 repeats each fault; the seconds are printed (`pytest -s`): docs/measurements.md has them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anycast.config.load import load
from anycast.core.values.route import Route
from anycast.render.frr_bfd import frr_bfd_conf
from tests.contract import bgp
from tests.contract.bgp import NODE4, NODE6, start_frr
from tests.contract.pair import V4, V6, Pair, config, pair
from tests.contract.routers import Bird, Frr, every, load_frr, until

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

ROOT = Path(__file__).parents[2]
ROUNDS = int(os.environ.get("ANYCAST_ROUNDS", "1"))
FAST = "{interval: 100ms, multiplier: 3}"
BFD_SAID, HOLD_SAID = "BFD", "Hold Timer"
BOUND = 1.5  # seconds: half of the hold time, so BFD it was


frrs = pytest.mark.parametrize("frr", every([Frr]), ids=lambda one: one.id())
birds = pytest.mark.parametrize("bird", every([Bird]), ids=lambda one: one.id())


@frrs
@pytest.mark.parametrize("name", ["full", "slow"])
def test_bfdd_takes_what_is_rendered(frr: type[Frr], name: str, tmp_path: Path) -> None:
    one = config(tmp_path, bfd="{interval: 60s, multiplier: 255}")
    if name == "full":
        one = load(ROOT / "examples" / "full.yaml", hostname="lb1").config
    file = tmp_path / "frr.conf"
    file.write_text(frr_bfd_conf(one))
    done = frr.check(file)
    assert (done.returncode, done.stderr) == (0, "")
    file.write_text(frr_bfd_conf(one).replace("detect-multiplier", "detect-multiplicator"))
    assert frr.check(file).returncode != 0


@frrs
@pytest.mark.parametrize("sessions", ["ebgp", "ibgp"])
def test_a_frozen_node_is_out_of_frr_by_bfd_and_not_by_the_hold_time(frr: type[Frr], sessions: str) -> None:
    with pair(frr, ibgp=sessions == "ibgp", bfd=FAST) as one:
        _bfd_up(one)
        _measure(f"FRR, {sessions}, node frozen, BFD 3 x 100 ms", one, _frozen, BFD_SAID, below=BOUND)


@birds
def test_a_frozen_node_is_out_of_bird_by_bfd(bird: type[Bird]) -> None:
    if bird.missing():
        pytest.skip("no bird here")
    with pair(bird, bfd=FAST) as one:
        router = one.router
        assert isinstance(router, Bird)
        until(lambda: [router.bfd(end) for end in (NODE4, NODE6)] == ["Up", "Up"], "BFD up at the router")
        _measure("BIRD, node frozen, BFD 3 x 100 ms", one, _frozen, None, below=BOUND)


@frrs
def test_an_frr_with_its_own_timers_needs_three_times_as_long(frr: type[Frr]) -> None:
    """As `anycast budget --bfd-receive 300ms` says: the node's multiplier, and the slower interval."""
    with pair(frr, bfd=FAST, change=(" bfd profile ANYCAST-3x100", " bfd")) as one:
        _bfd_up(one)
        _measure("FRR, its own timers, node frozen, BFD", one, _frozen, BFD_SAID, above=0.5, below=2.5)


@frrs
def test_a_link_that_carries_nothing_but_light_is_noticed_by_bfd(frr: type[Frr]) -> None:
    with pair(frr, bfd=FAST, switch=True) as one:
        _bfd_up(one)
        _measure("FRR, packets lost, carrier up, BFD 3 x 100 ms", one, _cut, BFD_SAID, below=BOUND)


@frrs
@pytest.mark.parametrize("fault", ["frozen", "cut"])
def test_without_bfd_it_takes_the_hold_time(frr: type[Frr], fault: str) -> None:
    with pair(frr, switch=True) as one:
        how = _frozen if fault == "frozen" else _cut
        _measure(f"FRR, node {fault}, hold time 3 s", one, how, HOLD_SAID, below=5.0)


@frrs
def test_bfd_does_not_see_a_hung_exabgp(frr: type[Frr]) -> None:
    with pair(frr, bfd=FAST) as one:
        _bfd_up(one)
        _measure("FRR, ExaBGP hung, BFD 3 x 100 ms, hold time 3 s", one, _hung, HOLD_SAID, below=5.0)
        assert _frr(one).bfd(NODE4)["status"] == "up"


@frrs
def test_a_dead_bfdd_costs_no_route(frr: type[Frr]) -> None:
    """FRR and BIRD take a session without BFD until it has been up once more; FRR 10.3 mostly waits until it is."""
    with pair(frr, bfd=FAST) as one:
        _bfd_up(one)
        one.accepted(Route(prefix=V4), Route(prefix=V6))
        one.forwarded(V4)
        one.bfd[1].end(grace=0.0)
        until(lambda: _frr(one).bfd(NODE4).get("status") == "down", "BFD down at the router")
        with contextlib.ExitStack() as undo:
            if frr.label().startswith("FRR 10.3"):
                for daemon in start_frr(one.places.node, one.folder / "bfd", ("bfdd",), frr.debian):
                    undo.callback(daemon.end)
                load_frr(one.folder / "bfd", one.folder / "bfd.conf", frr.debian)
            until(one.router.up, "both sessions up at the router")
            one.accepted(Route(prefix=V4), Route(prefix=V6))
            one.forwarded(V4)


@frrs
@pytest.mark.parametrize("sessions", ["ebgp", "ibgp"])
def test_bfd_comes_up_beside_ttl_security(frr: type[Frr], sessions: str) -> None:
    """FRR takes the sessions with another AS for ones of several hops, however near the node is."""
    secured = f"ttl_security: true, software: {frr.name}"
    with pair(frr, ibgp=sessions == "ibgp", bfd=FAST, neighbor=secured) as one:
        _bfd_up(one)


def _frr(one: Pair) -> Frr:
    assert isinstance(one.router, Frr)
    return one.router


def _bfd_up(one: Pair) -> None:
    router = _frr(one)
    until(
        lambda: [router.bfd(end).get("status") for end in (NODE4, NODE6)] == ["up", "up"],
        "BFD up at the router",
    )


def _measure(
    what: str,
    one: Pair,
    fault: Callable[[Pair], contextlib.AbstractContextManager[None]],
    said: str | None,
    *,
    below: float,
    above: float = 0.0,
) -> None:
    """The fault, until both routes are out of the router's kernel, and what it says of it."""
    took = []
    for _ in range(ROUNDS):
        one.accepted(Route(prefix=V4), Route(prefix=V6))
        for prefix in (V4, V6):
            one.forwarded(prefix)
        if said is BFD_SAID:
            _bfd_up(one)
        began = time.monotonic()
        with fault(one):
            took.append(max(one.gone(V4), one.gone(V6)) - began)
            if said is not None:
                for end in (NODE4, NODE6):
                    told = _frr(one).neighbor(end)
                    assert said in str(told.get("lastResetDueTo")) + str(
                        told.get("lastNotificationReason")
                    ), told
        until(one.router.up, "both sessions up again")
    took.sort()
    spelt = f"{took[0]:.3f} / {took[len(took) // 2]:.3f} / {took[-1]:.3f} s"
    print(f"{what}: gone after {spelt} (least, median, most of {len(took)})")
    assert above <= took[0]
    assert took[-1] < below


@contextlib.contextmanager
def _frozen(one: Pair) -> Iterator[None]:
    with _stopped(one.processes()):
        yield


@contextlib.contextmanager
def _hung(one: Pair) -> Iterator[None]:
    with _stopped([one.node.exabgp.pid]):
        yield


@contextlib.contextmanager
def _cut(one: Pair) -> Iterator[None]:
    one.places.cut()
    try:
        yield
    finally:
        one.places.mend()


@contextlib.contextmanager
def _stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
