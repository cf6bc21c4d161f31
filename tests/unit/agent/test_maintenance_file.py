"""Maintenance on disk: whatever is in the file, and wherever a save ends."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anycast.agent.maintenance_file import DamagedError, after_damage, load, save
from anycast.core.maintenance import NODE, Maintenance

OLD = {"web": Maintenance(reason="new kernel", by="root", since=1.5)}
NEW = {NODE: Maintenance(reason="moving racks", by="op", since=2.5), **OLD}

maintenances = st.builds(
    Maintenance,
    reason=st.text(),
    by=st.text(),
    since=st.floats(allow_nan=False, allow_infinity=False),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
entry_like = st.fixed_dictionaries(
    {}, optional={"reason": json_values, "by": json_values, "since": json_values}
)
body_like = st.fixed_dictionaries(
    {"version": st.just(1) | json_values},
    optional={"maintenance": st.dictionaries(st.text(), entry_like | json_values, max_size=3) | json_values},
)


@contextmanager
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "maintenance.json"


@given(st.binary() | body_like.map(lambda body: json.dumps(body).encode()))
@example(b"")
@example(b"\xff")
@example(b"null")
@example(b"[" * 100_000)
@example(b'{"version": 1, "maintenance": {"": {"reason": "", "by": "", "since": 1' + b"0" * 400 + b"}}}")
@example(b'{"version": 1, "maintenance": {"": {"reason": "", "by": "", "since": NaN}}}')
@example(b'{"version": 2, "maintenance": {}}')
def test_any_bytes_are_either_entries_that_can_be_saved_again_or_damage(data: bytes) -> None:
    with place() as path:
        path.write_bytes(data)
        with suppress(DamagedError):
            found = load(path)
            save(path, found)
            assert load(path) == found


@given(st.dictionaries(st.text(), maintenances, max_size=4))
def test_what_was_saved_is_what_is_loaded(entries: dict[str, Maintenance]) -> None:
    with place() as path:
        save(path, entries)
        assert load(path) == entries


@given(st.data())
def test_a_save_that_was_cut_at_any_byte_leaves_what_was_saved_before(data: st.DataObject) -> None:
    with place() as path:
        save(path, NEW)
        whole = path.read_bytes()
        save(path, OLD)
        cut = whole[: data.draw(st.integers(0, len(whole)))]
        path.with_name(path.name + ".new").write_bytes(cut)
        assert load(path) == OLD
        save(path, NEW)
        assert load(path) == NEW


def test_until_everything_is_on_the_disk_the_old_file_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "maintenance.json"
    save(path, OLD)
    synced: list[dict[str, Maintenance]] = []

    def fsync(fd: int) -> None:
        synced.append(load(path))

    monkeypatch.setattr(os, "fsync", fsync)
    with path.open("rb") as old:
        save(path, NEW)
        assert synced == [OLD, NEW], "the file before it is renamed, its directory after"
        assert b"moving racks" not in old.read(), "written over, it could be cut"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "maintenance.json"
    save(path, OLD)

    def fsync(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        save(path, NEW)
    assert load(path) == OLD


def test_no_file_is_no_maintenance(tmp_path: Path) -> None:
    assert load(tmp_path / "missing" / "maintenance.json") == {}


def test_a_directory_in_its_place_is_damage_and_the_message_says_where(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match=rf"^{tmp_path}: .*directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    "entry", ['{"reason": "r", "by": "b"}', '{"reason": 1, "by": "b", "since": 1}', "[]"]
)
def test_an_entry_that_is_not_whole_is_damage(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "maintenance.json"
    path.write_text(f'{{"version": 1, "maintenance": {{"web": {entry}}}}}')
    with pytest.raises(DamagedError, match="'web'"):
        load(path)


def test_after_damage_the_whole_node_is_in_maintenance_and_says_how_to_end_it() -> None:
    (scope,) = entries = after_damage(DamagedError("m.json: cut off"), since=7.0)
    assert scope == NODE
    assert "m.json: cut off" in entries[scope].reason
    assert "anycast maintenance off" in entries[scope].reason
