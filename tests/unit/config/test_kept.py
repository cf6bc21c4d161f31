"""A configuration in one file, as it was written."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from anycast.config import apart, kept
from anycast.config.load import loads
from anycast.config.loaded import Loaded
from anycast.config.problem import ConfigError
from anycast.core.removal import suspicions

TEXT = """
node: {name: lb1, max_removed: 30%}
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000, password: hush}]}
vips:  # grün
  web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1, 10.9.2.2]}"""
CONTENTS = [("/etc/anycast/anycast.yaml", TEXT.encode())]


def loaded() -> Loaded:
    return loads(TEXT, "/etc/anycast/anycast.yaml")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / kept.FILE
    path.write_bytes(b"".join(kept.pieces(loaded(), CONTENTS)))
    return path


def test_it_comes_back_as_it_was_with_what_it_serves(file: Path) -> None:
    assert kept.contents(file) == CONTENTS
    found = kept.head(file)
    assert found is not None
    assert found.digest == loaded().digest
    assert found.census == kept.census_of(loaded())
    assert (set(found.census.vips), found.census.max_removed.value) == ({"192.0.2.1"}, 30)
    assert found.census.unended == {"anycast.yaml"}
    assert found.saved == file.stat().st_mtime


FLEET = """
node: lb1
bgp: {local_as: 65001, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
nodes: {lb1: 10.2.1.1, lb2: 10.2.1.2}
fleet: {view: none, max_out: 1, velocity: {percent: 40%}, capacity: {bits: 10G, limit: 80%}}
vips: {web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1, 10.9.2.2], when_unhealthy: last_resort}}
"""


def test_what_guards_a_fleet_comes_back_and_an_older_file_has_none(tmp_path: Path) -> None:
    fleet = loads(FLEET, "/etc/anycast/anycast.yaml")
    path = tmp_path / kept.FILE
    path.write_bytes(b"".join(kept.pieces(fleet, [("/etc/anycast/anycast.yaml", FLEET.encode())])))
    found = kept.head(path)
    assert found is not None
    assert found.census.guards is not None
    assert found.census == kept.census_of(fleet)
    assert found.census.guards.stays == ("192.0.2.1",)
    assert suspicions(found.census, replace(found.census, guards=None))
    magic, line, texts = path.read_bytes().split(b"\n", 2)
    body = json.loads(line)
    del body["guards"]
    rest = json.dumps(body).encode() + b"\n" + texts
    seal = hashlib.sha256(rest).hexdigest().encode()
    path.write_bytes(magic.rpartition(b" ")[0] + b" " + seal + b"\n" + rest)
    old = kept.head(path)
    assert old is not None
    assert old.census.guards is None


def test_it_is_of_this_machine_and_this_file_alone(file: Path) -> None:
    found = kept.head(file)
    assert found is not None
    assert found.is_of("/etc/anycast/anycast.yaml")
    assert not found.is_of("/etc/anycast/other.yaml")
    assert not replace(found, host="lb2").is_of("/etc/anycast/anycast.yaml")
    assert not replace(found, machine="another").is_of("/etc/anycast/anycast.yaml")


def test_no_file_is_none(tmp_path: Path) -> None:
    assert kept.head(tmp_path / kept.FILE) is None


def test_whatever_bit_is_flipped_it_is_damaged(file: Path) -> None:
    good = file.read_bytes()
    for place in range(0, len(good), 7):
        file.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
        with pytest.raises(kept.DamagedError, match=kept.FILE):
            kept.head(file)
        with pytest.raises(kept.DamagedError):
            kept.contents(file)


@pytest.mark.parametrize("cut", [0, 10, 90, -1])
def test_a_part_of_it_is_damaged(file: Path, cut: int) -> None:
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(kept.DamagedError):
        kept.head(file)


def test_what_is_no_file_is_damaged(tmp_path: Path) -> None:
    (tmp_path / kept.FILE).mkdir()
    with pytest.raises(kept.DamagedError):
        kept.head(tmp_path / kept.FILE)


def test_what_was_read_elsewhere_comes_with_its_texts_and_can_be_read_from_them(tmp_path: Path) -> None:
    main, part = tmp_path / "anycast.yaml", tmp_path / "conf.d" / "mail.yaml"
    part.parent.mkdir()
    main.write_text(TEXT)
    part.write_text("vips:\n  mail: {address: 192.0.2.2, port: 25, servers: [10.9.2.3]}\n")
    first = apart.Reading(main).result()
    assert first.texts is not None
    file = tmp_path / kept.FILE
    copy = os.open(file, os.O_WRONLY | os.O_CREAT, 0o600)
    first.texts.copy(copy)
    os.close(copy)
    part.unlink()
    main.write_text("nothing of use")
    again = apart.Reading(file, kept=True).result()
    assert again == first
    assert [vip.name for vip in again.config.vips] == ["web", "mail"]
    found = kept.head(file)
    assert found is not None
    assert found.census.parts == 1
    assert found.host == socket.gethostname()
    file.write_bytes(b"nothing of use")
    with pytest.raises(ConfigError, match="it is not a kept configuration"):
        apart.Reading(file, kept=True).result()
