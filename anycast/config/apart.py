"""Loading in a separate process, for a program that runs for long.

Reading takes 30 MB for pydantic and the trees of all real servers, most of which would stay with the agent for ever,
and seconds of Python, in which its event loop would be short of time. All of it goes with the process. What it found
comes in small pieces (`wire`), so that whoever waits in a thread never keeps the event loop waiting for long.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from anycast.config.kept import DamagedError, Texts, pieces
from anycast.config.kept import contents as contents_of
from anycast.config.problem import ConfigError, Mark, Problem, named

if TYPE_CHECKING:
    from anycast.config.loaded import Loaded

PATIENCE = (
    60.0  # seconds the process may take in all: 50,000 real servers take two on a machine with nothing to do
)
CPU_LIMIT = 20  # seconds of processor time
MEMORY = 512 * 1024 * 1024  # bytes more than it has at its start
GOODBYE = (
    1.0  # seconds for the process to go when it is killed; one that waits for a dead file server stays longer
)
AT_A_TIME = 0.001  # seconds of decoding between two pauses
LOOK = 0.01  # seconds between two looks whether a fork has ended
LOOK_FOR = 0.02  # seconds between two looks whether a file has come
AT_ONCE = 0.1  # seconds of waiting for the process between two looks whether it is given up
PAUSE = 0.0005  # seconds: the event loop's turn

NICENESS = 5

_WAIT = "--wait="
_NODE = "--node="
_OUT_OF_MEMORY = 12  # exit status: nothing could be said any more
_TOO_MUCH = "it is more than there is memory for"

_HEAD = struct.Struct("!cI")  # kind and length of a frame
_CHUNK = 65536
_PROBLEMS = 100  # in a frame
_FOUND, _WRONG, _COUNT = b"f", b"w", b"c"
_WRONG_AT_MOST = 256 * 1024  # bytes of problems: so much is never said, and more is not taken


class _Task(NamedTuple):
    """What to read: the path, `kept` or not, with a descriptor that gets a copy of the texts.

    `wait`: seconds that it has to come if it is not there. `node`: as in `load`.
    """

    path: Path
    texts: int
    kept: bool
    wait: float = 0.0
    node: str | None = None


class _Fork:
    """A fork of this process: as much of a `Popen` as is needed here."""

    def __init__(self, work: Callable[[], None]) -> None:
        """Raises OSError."""
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                work()
                status = 0
            except MemoryError:
                status = _OUT_OF_MEMORY
            except BaseException:  # noqa: BLE001 - nothing of the parent's is to go on here
                traceback.print_exc()
            finally:
                os._exit(status)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; of a signal, its negative number. Raises TimeoutExpired."""
        ends = math.inf if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, 0 if timeout is None else os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > ends:
                raise subprocess.TimeoutExpired([], timeout or 0.0)
            else:
                time.sleep(LOOK)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


class Reading:
    """A configuration that is being read. It has begun when this is made: other things can be done meanwhile."""

    def __init__(
        self,
        path: Path,
        before: Loaded | None = None,
        *,
        fork: bool = False,
        kept: bool = False,
        wait: float = 0.0,
        node: str | None = None,
    ) -> None:
        """`before`: what is in force, whose parts are used again where nothing has changed.

        `fork`: in a fork of this process, which spares it the imports of this one. Only where there is one thread.
        `kept`: the path is that of a configuration that was kept (`kept`), not of one that somebody writes.
        `wait`: seconds that the file has to come if it is not there; all that reading needs is there by then.
        `node`: which one of a fleet it is for; by default the one that `before` was asked for.
        """
        self._path = path
        self._kept = kept
        self._texts = Texts(os.memfd_create("texts"))
        self._before = before
        self._given_up = False
        self._wait = wait
        self._node = node if before is None else before.asked
        self._ends = time.monotonic() + wait + PATIENCE
        self._buffer = bytearray()
        # -P: what lies in the working directory is not to be run.
        argv = [sys.executable, "-P", "-m", "anycast.config.apart", str(path), str(self._texts.descriptor)]
        argv += ["--kept"] * kept
        argv += [f"{_WAIT}{wait}"] * (wait > 0)
        argv += [f"{_NODE}{self._node}"] * (self._node is not None)
        if fork:
            self._fork()
            return
        if before is None:
            self._begin(argv, subprocess.DEVNULL)
            return
        from anycast.config.wire import digests

        # No pipe: nobody waits for the other to read.
        with os.fdopen(os.memfd_create("known"), "w+b") as known:
            known.write(digests(before.units))
            known.seek(0)
            self._begin([*argv, "--again"], known.fileno())
        # Not by itself: until it came to that it would have the agent's priority, for all that Python does at a start.
        _behind(self._process.pid)

    def _fork(self) -> None:
        self._out, out = os.pipe()

        def work() -> None:
            os.close(self._out)
            with open(out, "wb") as answer:
                _main(self._task(), b"", answer)

        try:
            self._process: subprocess.Popen[bytes] | _Fork = _Fork(work)
        except OSError:
            os.close(self._out)
            raise
        finally:
            os.close(out)

    def _task(self) -> _Task:
        return _Task(self._path, self._texts.descriptor, self._kept, self._wait, self._node)

    def _begin(self, argv: list[str], stdin: int) -> None:
        self._out, out = os.pipe()
        try:
            texts = self._texts.descriptor
            self._process = subprocess.Popen(argv, stdin=stdin, stdout=out, pass_fds=(texts,))
        except OSError:
            os.close(self._out)
            raise
        finally:
            os.close(out)

    def result(self) -> Loaded:
        """As `anycast.config.load.load`. Raises ConfigError; RuntimeError: the process failed or took too long."""
        try:
            return self._result()
        finally:
            self._process.kill()
            os.close(self._out)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GOODBYE)

    def give_up(self) -> None:
        """Whoever waits for the result is told so: RuntimeError. From any thread."""
        self._given_up = True
        self._process.kill()

    def _result(self) -> Loaded:
        from anycast.config.wire import Receiver

        receiver = Receiver(self._before)
        problems: list[Problem] = []
        count, said = "", 0
        since = time.monotonic()
        for kind, frame in self._frames():
            if kind == _COUNT:
                count = frame.decode()
                continue
            if kind == _WRONG:
                said += len(frame)
                if said > _WRONG_AT_MOST:
                    raise RuntimeError(f"reading {named(str(self._path))} failed: too much is said of it")
                problems += pickle.loads(frame)  # noqa: S301 - from ourselves
                continue
            receiver.take(frame)
            if self._before is not None and time.monotonic() - since > AT_A_TIME:
                time.sleep(PAUSE)
                since = time.monotonic()
        if problems:
            raise ConfigError(tuple(problems), count)
        if receiver.loaded is None:
            raise self._failed()
        return replace(receiver.loaded, texts=self._texts)

    def _failed(self) -> RuntimeError | ConfigError:
        """What it wrote to stderr says more."""
        try:
            status = self._process.wait(max(0.1, self._ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            return self._late()
        if self._given_up:
            return RuntimeError(f"reading {named(str(self._path))} was given up")
        if status == _OUT_OF_MEMORY:
            return ConfigError((_whole(self._path, _TOO_MUCH),))
        if status == -signal.SIGXCPU:
            what = f"reading it took more than {CPU_LIMIT} s of processor time: given up"
            return ConfigError((_whole(self._path, what),))
        return RuntimeError(
            f"reading {named(str(self._path))} failed: the process for it ended with status {status}"
        )

    def _late(self) -> RuntimeError:
        return RuntimeError(f"reading {named(str(self._path))} took longer than {PATIENCE:g} s: given up")

    def _frames(self) -> Iterator[tuple[bytes, bytes]]:
        """Until the process ends. Raises RuntimeError: before it had said all."""
        while True:
            if not self._buffer and not self._fill():
                return
            kind, size = _HEAD.unpack(self._take(_HEAD.size))
            yield kind, self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            if not self._fill():
                raise self._failed()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _fill(self) -> bool:
        """False: nothing more comes. Raises RuntimeError: it takes too long."""
        poll = select.poll()  # descriptors beyond 1,023 are too many for select
        poll.register(self._out, select.POLLIN)
        while not poll.poll(AT_ONCE * 1000):
            # Not only by its end: one that waits for a dead file server does not even die when it is killed.
            if self._given_up:
                raise RuntimeError(f"reading {named(str(self._path))} was given up")
            if time.monotonic() > self._ends:
                raise self._late()
        if time.monotonic() > self._ends:
            raise self._late()
        data = os.read(self._out, _CHUNK)
        self._buffer += data
        return bool(data)


def load(path: Path, before: Loaded | None = None) -> Loaded:
    """As `anycast.config.load.load`. Raises ConfigError; RuntimeError: the process failed, and has said why.

    `before`: what is in force. What has not changed in it is in the result as the same objects.
    """
    return Reading(path, before).result()


def main(task: _Task, *, again: bool) -> None:
    """Read, and write frames to stdout. `again`: beside an agent that serves; stdin has what it knows."""
    if again:
        _yield_to_the_agent()
    _main(task, sys.stdin.buffer.read(), sys.stdout.buffer)


def _main(task: _Task, known: bytes, answer: BinaryIO) -> None:
    # All that is needed is there before memory is counted: a library that finds none is not told from a broken one.
    from anycast.config import load, wire  # noqa: F401

    _await(task)
    # The hard limit is later: SIGKILL there would not say why.
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT + 5))
    _limit_memory()
    try:
        answer.writelines(_HEAD.pack(kind, len(frame)) + frame for kind, frame in _answer(task, known))
        answer.flush()
    except SystemError as error:
        # Python itself may stumble where there is no memory (seen with 3.13).
        if isinstance(error.__cause__ or error.__context__, MemoryError):
            os._exit(_OUT_OF_MEMORY)
        raise


def _await(task: _Task) -> None:
    """Until the file is there, its time is up, or nobody waits for it. A file system may tell nobody what comes."""
    ends, parent = time.monotonic() + task.wait, os.getppid()
    while not os.path.exists(task.path) and time.monotonic() < ends and os.getppid() == parent:
        time.sleep(LOOK_FOR)


def _limit_memory() -> None:
    """Beyond it there is a MemoryError, which is a problem of the configuration."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _behind(pid: int) -> None:
    """The agent goes before that process."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)


def _yield_to_the_agent() -> None:
    """Its lease comes first, and where memory is short this is what can be done without."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _answer(task: _Task, known: bytes) -> Iterable[tuple[bytes, bytes]]:
    from anycast.config import wire
    from anycast.config.load import load_kept, load_with_texts

    try:
        if task.kept:
            contents = contents_of(task.path)
            loaded = load_kept(contents, node=task.node)
        else:
            loaded, contents = load_with_texts(task.path, node=task.node)
        with open(task.texts, "wb", closefd=False) as copy:
            copy.writelines(pieces(loaded, contents))
        del contents
    except DamagedError as error:
        yield from _wrong(ConfigError((Problem(Mark(str(task.path), 0, 0), (), str(error), "remove it"),)))
        return
    except ConfigError as error:
        yield from _wrong(error)
        return
    try:
        for frame in wire.frames(loaded, wire.known(known)):
            yield _FOUND, frame
    except (RecursionError, MemoryError):
        yield from _wrong(ConfigError((_whole(task.path, _TOO_MUCH),)))


def _wrong(error: ConfigError) -> Iterable[tuple[bytes, bytes]]:
    yield _COUNT, error.count.encode()
    for n in range(0, len(error.problems), _PROBLEMS):
        yield _WRONG, pickle.dumps(error.problems[n : n + _PROBLEMS], pickle.HIGHEST_PROTOCOL)


def _whole(path: Path, what: str) -> Problem:
    return Problem(Mark(str(path), 0, 0), (), what, "write less: so much is no configuration of a node")


if __name__ == "__main__":
    _options = sys.argv[3:]
    _waits = [float(one.removeprefix(_WAIT)) for one in _options if one.startswith(_WAIT)]
    _nodes = [one.removeprefix(_NODE) for one in _options if one.startswith(_NODE)]
    _task = _Task(
        Path(sys.argv[1]),
        int(sys.argv[2]),
        "--kept" in _options,
        sum(_waits),
        _nodes[0] if _nodes else None,
    )
    try:
        main(_task, again="--again" in _options)
    except MemoryError:  # where there is none left, nor is there for saying so, or for any call
        os._exit(_OUT_OF_MEMORY)
