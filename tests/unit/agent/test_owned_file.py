"""What an agent leaves on disk for the next, and what the next makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

import pytest

from anycast.agent import owned_file
from anycast.core.dataplane import ipvs
from anycast.core.owned import NOTHING, Owned, owned_by
from anycast.core.values.configuration import Announce
from tests.property.worlds import config, vip

OWNED = owned_by(config(vip("web", 1, (1, 2, 3), mark=7, also=(3,)), vip("log", 2, (1, 2))))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "owned.json"
    owned_file.save(path, OWNED, "a boot")
    return path


def change(path: Path, **fields: Any) -> None:
    body = json.loads(path.read_text())
    del body["checksum"]  # as of an earlier release
    path.write_text(json.dumps({**body, **fields}))


def left(path: Path) -> tuple[Owned, list[str]]:
    damage: list[str] = []
    starts = path.with_name("starts.json")
    return owned_file.left(path, "a boot", lease_ttl=2.0, starts=starts, damaged=damage.append), damage


def test_it_is_read_as_it_was_written(path: Path) -> None:
    assert left(path) == (OWNED, [])


def test_what_addresses_are_announced_by_is_kept_and_a_file_of_an_earlier_release_has_nothing_of_it(
    path: Path,
) -> None:
    announce = (Announce(prefix=ip_network("192.0.2.0/24")),)
    owned = owned_by(config(replace(vip("web", 1, (1, 2)), announce=announce)))
    assert owned.wide == {IPv4Address("192.0.2.1"): ip_network("192.0.2.0/24")}
    owned_file.save(path, owned, "a boot")
    assert left(path) == (owned, [])
    assert owned.prefix_of(IPv4Address("192.0.2.1")) == ip_network("192.0.2.0/24")
    owned_file.save(path, OWNED, "a boot")
    assert "wide" not in json.loads(path.read_text())


def test_no_lease_of_another_boot_stands(path: Path) -> None:
    assert owned_file.load(path, "another boot").lease_ttl == 0.0
    assert owned_file.load(path, "another boot").services == OWNED.services


def test_where_nobody_knows_the_boot_a_lease_may_stand(path: Path) -> None:
    assert owned_file.load(path, "").lease_ttl == OWNED.lease_ttl


@pytest.mark.parametrize("ttl", [float("nan"), float("inf"), -1.0, 1e9, None])
def test_a_lease_that_cannot_be_is_damage(path: Path, ttl: float | None) -> None:
    change(path, lease_ttl=ttl)
    found, damage = left(path)
    assert found == Owned(lease_ttl=2.0)
    assert "lease_ttl" in damage[0] or "float" in damage[0]


@pytest.mark.parametrize("version", [0, 2, None])
def test_a_file_of_another_version_is_damage(path: Path, version: int | None) -> None:
    change(path, version=version)
    assert left(path)[0] == Owned(lease_ttl=2.0)


def test_an_agent_of_before_that_wrote_no_file_may_have_left_a_lease(tmp_path: Path) -> None:
    assert left(tmp_path / "owned.json") == (NOTHING, [])
    (tmp_path / "starts.json").touch()
    assert left(tmp_path / "owned.json") == (Owned(lease_ttl=2.0), [])


def test_a_place_that_cannot_be_looked_at_ends_no_start(tmp_path: Path) -> None:
    found, damage = left(tmp_path / ("x" * 300) / "owned.json")
    assert found == Owned(lease_ttl=2.0)
    assert len(damage) == 1


def test_no_piece_of_the_text_is_long(tmp_path: Path) -> None:
    """Each is made while the event loop waits, for it is one call of C."""
    servers: dict[ipvs.DestinationKey, str] = {
        (IPv4Address(2**24 * 10 + n), 80): f"pool/server-{n}" for n in range(3 * owned_file.PIECE + 1)
    }
    (key, *_) = OWNED.services
    owned = replace(OWNED, services=OWNED.services.updated({key: servers}))
    assert max(map(len, owned_file._text(owned, "a boot"))) < owned_file.PIECE * 60
    path = tmp_path / "owned.json"
    owned_file.save(path, owned, "a boot")
    assert owned_file.load(path, "a boot") == owned
    assert json.loads(path.read_text())["version"] == owned_file.VERSION
