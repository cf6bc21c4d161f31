"""Maintenance on disk: whatever is in the file, and wherever a save ends."""

from __future__ import annotations

import itertools
import json
import os
import resource
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from anycast.agent.maintenance_file import DamagedError, after_damage, boot_id, load, save
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import NODE, Maintenance
from tests.disks import files_of_at_most

BOOT = "0b7f4c0e-boot"
OLD = {"web": Maintenance(reason="new kernel", by="root", since=1.5)}
NEW = {
    NODE: Maintenance(
        reason="moving racks", by="op", since=2.5, end=End(at=9.5, then=Expiry.HOLD, lasts=True, due=7.5)
    ),
    **OLD,
}

numbers = st.floats(allow_nan=False, allow_infinity=False)
maintenances = st.builds(
    Maintenance,
    reason=st.text(),
    by=st.text(),
    since=numbers,
    end=st.none()
    | st.builds(End, at=numbers, then=st.sampled_from(Expiry), lasts=st.booleans(), due=st.none() | numbers),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
end_like = st.fixed_dictionaries(
    {},
    optional={
        "at": st.floats() | json_values,
        "then": st.sampled_from(Expiry) | json_values,
        "lasts": st.booleans() | json_values,
        "due": st.floats() | json_values,
    },
)
entry_like = st.fixed_dictionaries(
    {},
    optional={
        "reason": st.text() | json_values,
        "by": st.text() | json_values,
        "since": st.floats() | json_values,
        "end": end_like | json_values,
    },
)
body_like = st.fixed_dictionaries(
    {"version": st.just(1) | json_values, "boot": st.just(BOOT) | json_values},
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
@example(b'{"version": 1, "maintenance": {"": {"reason": "", "by": "", "since": 1, "end": {}}}}')
@example(
    b'{"version": 1, "maintenance": {"": {"reason": "", "by": "", "since": 1, '
    b'"end": {"at": 1, "then": "resume", "lasts": false, "due": 1' + b"0" * 400 + b"}}}}"
)
def test_any_bytes_are_either_entries_that_can_be_saved_again_or_damage(data: bytes) -> None:
    with place() as path:
        path.write_bytes(data)
        with suppress(DamagedError):
            found = load(path, BOOT)
            save(path, found, BOOT)
            assert load(path, BOOT) == found


@given(st.dictionaries(st.text(), maintenances, max_size=4))
def test_what_was_saved_is_what_is_loaded(entries: dict[str, Maintenance]) -> None:
    with place() as path:
        save(path, entries, BOOT)
        assert load(path, BOOT) == entries


@given(st.data())
def test_a_save_that_was_cut_at_any_byte_leaves_what_was_saved_before(data: st.DataObject) -> None:
    with place() as path:
        save(path, NEW, BOOT)
        whole = path.read_bytes()
        save(path, OLD, BOOT)
        cut = whole[: data.draw(st.integers(0, len(whole)))]
        path.with_name(path.name + ".new").write_bytes(cut)
        assert load(path, BOOT) == OLD
        save(path, NEW, BOOT)
        assert load(path, BOOT) == NEW


def killed(path: Path, *, at_byte: int | None = None, at_call: int = 0) -> bool:
    """A process saves NEW and is killed: by the kernel when it writes that byte, or before that system call.

    False: it came to its end.
    """
    pid = os.fork()
    if pid == 0:
        calls = itertools.count(1)

        def dying(real: Callable[..., object]) -> Callable[..., object]:
            def call(*arguments: Any, **named: Any) -> object:
                if next(calls) == at_call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return call

        try:
            for name in ("open", "fsync", "replace", "close"):
                setattr(os, name, dying(getattr(os, name)))
            if at_byte is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (at_byte, at_byte))
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            save(path, NEW, BOOT)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def test_a_process_that_is_killed_at_any_byte_it_writes_leaves_what_was_saved_before(tmp_path: Path) -> None:
    path = tmp_path / "maintenance.json"
    save(path, NEW, BOOT)
    size = path.stat().st_size
    for byte in range(0, size, 7):
        save(path, OLD, BOOT)
        assert killed(path, at_byte=byte)
        assert path.with_name(path.name + ".new").stat().st_size == byte
        assert load(path, BOOT) == OLD
    assert not killed(path, at_byte=size)
    assert load(path, BOOT) == NEW


def test_a_process_that_is_killed_before_any_of_its_calls_leaves_the_old_or_the_new_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "maintenance.json"
    found = []
    for call in itertools.count(1):
        save(path, OLD, BOOT)
        if not killed(path, at_call=call):
            break
        found.append(load(path, BOOT) == NEW)
        assert load(path, BOOT) in (OLD, NEW)
        save(path, NEW, BOOT)
        assert load(path, BOOT) == NEW, "what it left lying about hinders nobody"
    assert found == sorted(found), "once it is there it stays"
    assert {False, True} == set(found), "the calls around the renaming were among them"


def test_a_disk_that_is_full_is_an_error_and_leaves_the_old_file_and_no_half_one(tmp_path: Path) -> None:
    path = tmp_path / "maintenance.json"
    save(path, OLD)
    with files_of_at_most(100), pytest.raises(OSError, match="too large"):
        save(path, NEW)
    assert load(path) == OLD
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_file_system_without_room_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=False)
    if done.returncode:
        pytest.skip("this kernel lets nobody mount a tmpfs here")
    try:
        path = tmp_path / "maintenance.json"
        save(path, OLD)
        with (tmp_path / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(4096))
        with pytest.raises(OSError, match="No space left"):
            save(path, NEW)
        assert load(path) == OLD
        (tmp_path / "ballast").unlink()
        save(path, NEW, BOOT)
        assert load(path, BOOT) == NEW
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_from_before_there_were_ends_is_read(tmp_path: Path) -> None:
    path = tmp_path / "maintenance.json"
    path.write_text(
        '{\n "version": 1,\n "maintenance": {\n  "web": {\n   "reason": "new kernel",\n   "by": "root",\n'
        '   "since": 1.5\n  }\n }\n}\n'
    )
    assert load(path, BOOT) == OLD


@pytest.mark.parametrize("boot", ["", "another boot"])
def test_instants_of_another_boot_mean_nothing(tmp_path: Path, boot: str) -> None:
    path = tmp_path / "maintenance.json"
    save(path, NEW, BOOT)
    end = load(path, boot)[NODE].end
    assert end == End(at=9.5, then=Expiry.HOLD, lasts=True, due=None)
    save(path, NEW)
    assert load(path, "")[NODE].end == end, "a boot that nobody knows is not the same as another"


def test_this_boot_has_a_name_that_stays() -> None:
    assert boot_id() == boot_id() != ""


def test_until_everything_is_on_the_disk_the_old_file_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "maintenance.json"
    save(path, OLD)
    synced: list[dict[str, Maintenance]] = []

    def fsync(fd: int) -> None:
        synced.append(load(path, BOOT))

    monkeypatch.setattr(os, "fsync", fsync)
    with path.open("rb") as old:
        save(path, NEW, BOOT)
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
