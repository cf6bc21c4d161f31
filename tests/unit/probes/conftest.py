from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _what_is_there_stays(request: pytest.FixtureRequest) -> None:
    """Before each count of descriptors garbage is collected: what other tests have left behind is not looked at again."""
    if hasattr(request.module, "open_descriptors"):
        gc.collect()
        gc.freeze()
