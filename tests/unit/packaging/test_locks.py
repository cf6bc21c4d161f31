"""The versions that the Debian packages are built with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGING = Path(__file__).parents[3] / "packaging"
LOCKS = sorted(PACKAGING.glob("requirements-*.txt"))

each = pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)


def pins(lock: Path) -> dict[str, list[str]]:
    """The hashes of each pin."""
    found: dict[str, list[str]] = {}
    for line in lock.read_text().replace("\\\n", " ").splitlines():
        if not line.startswith("#"):
            pin, *hashes = line.split()
            found[pin] = hashes
    return found


@each
def test_every_package_is_pinned_with_hashes(lock: Path) -> None:
    assert len(pins(lock)) > 20
    for pin, hashes in pins(lock).items():
        assert re.fullmatch(r"[a-z0-9_.-]+==[0-9][0-9a-z.]*", pin)
        assert hashes
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes)


def test_each_release_of_debian_has_the_same_packages() -> None:
    names = [{pin.partition("==")[0] for pin in pins(lock)} for lock in LOCKS]
    assert len(names) == 2
    assert names[0] ^ names[1] <= {"typing_extensions"}  # aiosignal needs it before Python 3.13
