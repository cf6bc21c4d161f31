"""One site for every test in here; each test finds it whole and leaves it to be healed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.control import Lab
from lab.topology import topology
from tests.e2e.site import Site

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """First come those that build a site of their own and take it away."""
    alone = {f"test_{name}.py" for name in ("site", "chaos", "local", "logs", "migrate")}
    items.sort(key=lambda item: item.path.name not in alone)
    for item in items:
        if item.path.is_relative_to(_HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(400))  # the first of all builds the site


@pytest.fixture(scope="session")
def whole_site() -> Iterator[Site]:
    if not os.environ.get("ANYCAST_LAB_GUEST"):
        pytest.skip("runs inside the lab")
    lab = Lab(topology())
    try:
        site = Site(lab)
        site.build()
        yield site
    finally:
        _keep_logs(lab)
        lab.down()


def _keep_logs(lab: Lab) -> None:
    """The site goes, and what its programs have said is still there to read: in build/lab/e2e."""
    for log in lab.run.glob("*/*.log"):
        kept = _HERE.parents[1] / "build" / "lab" / "e2e" / log.parent.name / log.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, kept)


@pytest.fixture
def site(whole_site: Site) -> Iterator[Site]:
    """The site, whole: every daemon runs, no maintenance, every route. What a test breaks is mended after it."""
    whole_site.begin()
    yield whole_site
    try:
        whole_site.heal()
    except BaseException:
        whole_site.restart()
        raise
    if complaints := whole_site.complaints():
        pytest.fail("\n".join(complaints), pytrace=False)
