"""Whatever is given as a configuration: it is read, or told what is wrong with it, within limits.

How much processor time that takes is measured by `make bench-input`; what a test can say without a clock is here.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.config.load import load, loads
from anycast.config.problem import LONGEST, TOLD, ConfigError
from anycast.config.reader import MAX_DIRECTIVES, read
from lab import hostile_files
from tests.examples import LONG, dear

ROOT = Path(__file__).parents[3]
MEMORY = 200 * 1024  # KiB of resident memory
TEXT = 100_000  # bytes of what is said

# One process reads many: each in a fork of it, so that nothing is imported again and its memory is its own. The first
# one it reads itself, by which all is there that is needed.
DRIVER = """
import os, sys
from anycast.cli.main import main
assert main(["check", sys.argv[1]]) == 0
sys.stdout.flush()
for name in sys.stdin.read().splitlines():
    out = os.open(name + ".out", os.O_CREAT | os.O_RDWR, 0o600)
    pid = os.fork()
    if pid == 0:
        os.dup2(out, 1)
        os.dup2(out, 2)
        status = 70
        try:
            status = main(["check", name])
        except BaseException:
            import traceback
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    os.close(out)
    _, status, usage = os.wait4(pid, 0)
    print(os.waitstatus_to_exitcode(status), usage.ru_maxrss, flush=True)
"""


def _check(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    names = []
    for n, (name, data) in enumerate(files):
        (folder / f"{n}.yaml").write_bytes(data)
        names.append(name)
    paths = [str(folder / f"{n}.yaml") for n in range(len(names))]
    right = folder / "right.yaml"
    right.write_text(hostile_files.RIGHT)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(right)],
        input="\n".join(paths),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )
    found = {}
    first, *lines = done.stdout.splitlines()
    assert first.startswith(f"{right}: ok"), first
    for name, path, line in zip(names, paths, lines, strict=True):
        status, memory = map(int, line.split())
        said = Path(path + ".out").read_bytes()
        if wrong := _wrong(status, memory, said):
            found[name] = wrong, said[:200]
    assert not found


def _wrong(status: int, memory: int, said: bytes) -> str:
    if status not in {0, 78}:
        return f"status {status}"
    if memory > MEMORY:
        return f"{memory} KiB"
    if len(said) > TEXT:
        return f"{len(said)} bytes"
    return "a trace" if b"Traceback" in said else "control characters" if b"\x1b" in said else ""


# Every shape, each just over the limit of its kind; `make bench-input` has them as large as may be.
SIZE, SHORT = (400_000, 30_000) if LONG else (80_000, 8_000)


@pytest.mark.parametrize(
    "files", [hostile_files.told(), hostile_files.large(SIZE, 11_000), hostile_files.small(SHORT)]
)
@pytest.mark.timeout(600)
def test_files_are_read_or_refused_within_limits(tmp_path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    _check(tmp_path, files)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from(["10.0.0.1", "2001:db8::1", "tcp", "80", "1s", "50%", "web", "*a", "&a", "!x", "<<"]),
)
KEYS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            *("node", "bgp", "timing", "checks", "pools", "vips", "hooks", "timeouts", "connection_sync"),
            *("servers", "check", "type", "of", "address", "addresses", "port", "ports", "services", "pool"),
            *("quorum", "require", "weight", "name", "argv", "url", "local_as", "neighbors", "web"),
        ]
    ),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=30,
)


def _reads(text: str | bytes) -> None:
    try:
        loads(text, hostname="lb1")
    except ConfigError as error:
        problems = error.problems
    else:
        problems = ()
    assert len(problems) <= TOLD + 1
    for problem in problems:
        line = str(problem)
        assert line.isprintable()
        assert len(line) < 3 * LONGEST
        assert problem.what
        assert problem.do


@settings(max_examples=dear(300))
@given(st.dictionaries(KEYS, TREES, max_size=6))
def test_any_values_anywhere_are_read_or_told(tree: dict[str, object]) -> None:
    import yaml

    _reads(yaml.safe_dump(tree, allow_unicode=True))


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_told(data: bytes) -> None:
    _reads(data)


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from([*"[]{}:,-&*!|>'\"%@`#? \n\t\r", "\n  ", "\n- ", ": ", "a", "1"]), max_size=40)
)
def test_any_marks_are_read_or_told(marks: list[str]) -> None:
    _reads(hostile_files.RIGHT + "".join(marks))


def test_what_is_no_file_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    os.mkfifo(tmp_path / "conf.d" / "pipe.yaml")
    (tmp_path / "conf.d" / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "conf.d" / "ends\x1b[31m\nhere.yaml").mkdir()
    with (tmp_path / "conf.d" / "sparse.yaml").open("wb") as sparse:
        sparse.truncate(5 << 30)
    (tmp_path / "anycast.yaml").write_text(hostile_files.RIGHT)
    with pytest.raises(ConfigError) as told:
        load(tmp_path / "anycast.yaml", hostname="lb1")
    said = [str(one).removeprefix(f"{tmp_path}/conf.d/") for one in told.value.problems]
    assert said == [
        r"ends\x1b[31m\nhere.yaml: the file cannot be read: it is a directory, not a file (check its path and permissions)",
        "pipe.yaml: the file cannot be read: it is a pipe (FIFO), not a file (check its path and permissions)",
        (
            "sparse.yaml: with this file the configuration is larger than 8 MiB "
            "(write less: so much is no configuration of a node)"
        ),
        "zero.yaml: the file cannot be read: it is a device, not a file (check its path and permissions)",
    ]


def test_all_files_together_have_one_limit(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "anycast.yaml").write_text(hostile_files.RIGHT)
    for n in range(3):
        (tmp_path / "conf.d" / f"{n}.yaml").write_bytes(b"#" * (3 << 20) + b"\npools: {}\n")
    with pytest.raises(
        ConfigError, match=r"conf\.d/2\.yaml: with this file the configuration is larger than 8 MiB"
    ):
        load(tmp_path / "anycast.yaml", hostname="lb1")
    for n in range(1200):
        (tmp_path / "conf.d" / f"{n}.yaml").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"conf\.d: there are more than 1,000 files in it"):
        load(tmp_path / "anycast.yaml", hostname="lb1")


def test_all_files_together_have_one_number_of_values(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "anycast.yaml").write_text(hostile_files.RIGHT)
    for n in range(3):
        servers = ",".join(f"10.{n}.{m >> 8}.{m & 255}" for m in range(30_000))
        (tmp_path / "conf.d" / f"{n}.yaml").write_text(f"pools: {{p{n}: {{servers: [{servers}]}}}}\n")
    assert load(tmp_path / "anycast.yaml", hostname="lb1").files
    (tmp_path / "conf.d" / "3.yaml").write_text("pools: {q: {servers: [" + "10.9.9.9," * 20_000 + "]}}\n")
    with pytest.raises(ConfigError, match="up to here there are 110,000 real servers"):
        load(tmp_path / "anycast.yaml", hostname="lb1")


def test_of_directives_there_are_few_wherever_they_are() -> None:
    for end in ("\n", "\r\n", "\r", "\u2028"):
        text = end.join(f"%TAG !h{n}! tag:x,{n}:" for n in range(MAX_DIRECTIVES + 1))
        document = read(f"{text}\n---\na: 1\n".encode(), "x.yaml")
        assert [problem.what for problem in document.problems] == [
            "there are more than 10 lines that begin with %"
        ]
        assert not document.readable
    few = "\n".join(f"%TAG !h{n}! tag:x,{n}:" for n in range(MAX_DIRECTIVES))
    assert read(f"{few}\n---\na: 1\n".encode(), "x.yaml").problems == []
