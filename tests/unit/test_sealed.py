"""Files with a checksum: whatever bit is flipped, it is found; and those of releases that wrote none are still read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from anycast.agent import maintenance_file, owned_file, starts_file
from anycast.core.maintenance.clocks import End
from anycast.core.maintenance.stages import NODE, Maintenance
from anycast.core.owned import owned_by
from anycast.core.values.route import Route
from anycast.core.vip.hold import Starts
from anycast.lease import route_body
from anycast.plugin import journal
from anycast.plugin.journal import Writing
from anycast.sealed import opened, sealed
from tests.property.worlds import config, vip

ENTRIES = {
    "web": Maintenance(reason="new kernel", by="root", since=1.5, end=End(at=1e9, due=7.5)),
    "pool/rs1": Maintenance(reason="disk", by="op", since=2.5),
}
OWNED = owned_by(config(vip("web", 1, (1, 2), mark=7)))
STARTS = Starts(boot="b", running=True, crashes=(1.5, 7.0))
ROUTES = tuple(
    Route(prefix=ip_network(f"192.0.2.{n}/32"), next_hop=ip_address("192.0.2.9"), med=n) for n in (1, 2, 3)
)


def flipped(path: Path) -> Iterator[None]:
    """In the file, one bit after the other: what is written anew from its first byte waits for the disk each time."""
    with path.open("r+b", buffering=0) as file:
        for place, byte in enumerate(path.read_bytes()):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), place)
                yield
            os.pwrite(file.fileno(), bytes([byte]), place)


def test_no_flipped_bit_of_the_saved_maintenance_brings_a_scope_back_into_service(tmp_path: Path) -> None:
    path = tmp_path / "maintenance.json"
    maintenance_file.save(path, ENTRIES, "b")
    for _ in flipped(path):
        with pytest.raises(maintenance_file.DamagedError) as damage:
            maintenance_file.load(path, "b")
        assert NODE in maintenance_file.after_damage(damage.value, 0.0)


def test_damage_says_what_the_file_names(tmp_path: Path) -> None:
    path = tmp_path / "maintenance.json"
    maintenance_file.save(path, ENTRIES, "b")
    path.write_bytes(path.read_bytes().replace(b'"web"', b'"veb"'))
    with pytest.raises(maintenance_file.DamagedError, match=r"checksum is wrong.*it names 'veb', 'pool/rs1'"):
        maintenance_file.load(path, "b")


def test_every_flipped_bit_of_what_is_owned_is_found(tmp_path: Path) -> None:
    path = tmp_path / "owned.json"
    owned_file.save(path, OWNED, "b")
    for _ in flipped(path):
        with pytest.raises(owned_file.DamagedError):
            owned_file.load(path, "b")


def test_every_flipped_bit_of_the_crashes_is_found(tmp_path: Path) -> None:
    path = tmp_path / "starts.json"
    starts_file.save(path, STARTS)
    for _ in flipped(path):
        with pytest.raises(ValueError, match=r"."):
            starts_file.load(path)


def test_every_flipped_bit_of_the_journal_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    journal.store(str(path), Writing(ROUTES[:1], whole=True))
    journal.store(str(path), Writing(ROUTES[1:], whole=False))
    assert journal.load(str(path)) == ROUTES
    for _ in flipped(path):
        with pytest.raises(ValueError, match=r"."):
            journal.load(str(path))


def test_a_line_of_the_journal_that_was_cut_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal.json"
    journal.store(str(path), Writing(ROUTES[:1], whole=True))
    begun = path.stat().st_size
    journal.store(str(path), Writing(ROUTES[1:2], whole=False))
    whole = path.read_bytes()
    for cut in range(begun, len(whole)):
        path.write_bytes(whole[:cut])
        assert journal.load(str(path)) == ROUTES[:1]


def test_files_of_releases_without_checksums_are_read(tmp_path: Path) -> None:
    for name in ("maintenance.json", "owned.json", "starts.json", "journal.json"):
        path = tmp_path / name
        match name:
            case "maintenance.json":
                maintenance_file.save(path, ENTRIES, "b")
            case "owned.json":
                owned_file.save(path, OWNED, "b")
            case "starts.json":
                starts_file.save(path, STARTS)
            case _:
                journal.store(str(path), Writing(ROUTES[:1], whole=True))
        body = json.loads(path.read_bytes())
        del body["checksum"]
        path.write_text(json.dumps(body) + "\n")
    with (tmp_path / "journal.json").open("a") as file:
        file.write(json.dumps(route_body(ROUTES[1])) + "\n")
    assert maintenance_file.load(tmp_path / "maintenance.json", "b") == ENTRIES
    assert owned_file.load(tmp_path / "owned.json", "b") == OWNED
    assert starts_file.load(tmp_path / "starts.json") == STARTS
    assert journal.load(str(tmp_path / "journal.json")) == ROUTES[:2]


def test_a_release_without_checksums_reads_what_this_one_writes(tmp_path: Path) -> None:
    path = tmp_path / "maintenance.json"
    maintenance_file.save(path, ENTRIES, "b")
    assert json.loads(path.read_text())["maintenance"].keys() == ENTRIES.keys()


def test_a_later_release_may_write_more_keys() -> None:
    data = sealed(json.dumps({"version": 1, "more": True})).encode()
    assert opened(data, ("version",)) == {"version": 1, "more": True}


def test_without_a_checksum_a_key_that_is_not_known_is_damage() -> None:
    with pytest.raises(ValueError, match="'chekcsum'"):
        opened(b'{"chekcsum": "00000000", "version": 1}', ("version",))
