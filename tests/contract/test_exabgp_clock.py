"""The wall clock is set while ExaBGP runs: its timers are that clock, so its sessions end. Agent and plugin do not mind.

ExaBGP alone sees the other time: a module that Python imports at its start adds to `time.time()` what a file says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast.core.values.route import Route
from tests.contract import bgp
from tests.contract.bgp import NODE4, NODE6, VIPS4, VIPS6, Site
from tests.contract.routers import until

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

V4, V6 = VIPS4[0], VIPS6[0]
CLOCK = """\
import os, time
_time = time.time
def _set():
    try:
        with open(os.environ["ANYCAST_TEST_CLOCK"], encoding="ascii") as file:
            return _time() + float(file.read() or 0)
    except OSError:
        return _time()
time.time = _set
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with bgp.site() as one:
        yield one


@pytest.mark.parametrize("step", [3600, -3600], ids=["forward", "back"])
def test_a_clock_that_is_set_ends_the_sessions_and_the_routes_come_back(
    site: Site, step: int, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    file = tmp_path / "clock"
    env = {"PYTHONPATH": str(tmp_path), "ANYCAST_TEST_CLOCK": str(file)}
    with bgp.node(site, own=[V4, V6], env=env) as node:
        first = node.want(Route(prefix=V4), Route(prefix=V6))
        node.router.wait_for(V4, V6)
        before = {end: node.router.sessions(end) for end in (NODE4, NODE6)}
        file.write_text(str(step))
        for end, count in before.items():
            until(lambda end=end, count=count: node.router.sessions(end) > count, f"a new session with {end}")  # type: ignore[misc]
        node.router.wait_for(V4, V6)
        assert node.exabgp.alive()
        assert node.want(Route(prefix=V4)).pid == first.pid
        node.router.wait_without(V6)
