"""Programs of a large process are started by a small one, where starting them is dear.

In User-Mode-Linux each start copies and takes away every mapping of the process that starts it, one for each of its
pages: with pytest's 14,000 that is most of what a test costs there. So a program of a few pages (`launcher.c`) starts
them, as children of the process that asks, with that thread's namespaces, directory and descriptors.
"""

from __future__ import annotations

import array
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).with_suffix(".c")
_REQUEST = struct.Struct("=6I")
_MOST = 240  # descriptors of a program
# No process group, group, groups, user, umask, preexec_fn.
_PLAIN = (-1, None, None, None, -1, None)


def is_dear() -> bool:
    """Whether this kernel is User-Mode-Linux."""
    return "User Mode Linux" in Path("/proc/cpuinfo").read_text("ascii")


class Launcher:
    """A launcher of this process's own, which ends with it."""

    def __init__(self) -> None:
        """Raises OSError, CalledProcessError: it cannot be compiled."""
        self._lock = threading.Lock()
        self._parent = os.getpid()
        self._line, theirs = socket.socketpair()
        with tempfile.TemporaryDirectory() as folder:
            binary = f"{folder}/launcher"
            with theirs:
                subprocess.run(["gcc", "-O1", "-static", "-o", binary, str(_SOURCE)], check=True)
                self.process = subprocess.Popen([binary], stdin=theirs.fileno())

    def close(self) -> None:
        self._line.close()
        self.process.wait()

    def start(
        self,
        paths: Sequence[str | bytes],
        argv: Iterable[str | bytes | os.PathLike[str]],
        env: Mapping[str, str] | Iterable[bytes],
        *,
        cwd: str | bytes | os.PathLike[str] | None = None,
        descriptors: Mapping[int, int] | None = None,
        report: int = 2,
        session: bool = False,
    ) -> int:
        """The id of the new process. `paths`: tried in turn; `descriptors`: which of ours each of its own is, by default
        the first three; `report`: gets a line as `subprocess` expects it, when it cannot be run. Raises OSError.
        """
        variables = (
            [os.fsencode(f"{k}={v}") for k, v in env.items()] if isinstance(env, Mapping) else list(env)
        )
        words = [os.fsencode(word) for word in argv]
        standard = {0: 0, 1: 1, 2: 2} if descriptors is None else descriptors
        texts = [os.fsencode(cwd or Path.cwd()), *map(os.fsencode, paths), *words, *variables]
        body = array.array("i", [-1, -1, -1, *standard]).tobytes() + b"".join(text + b"\0" for text in texts)
        namespaces = [
            os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("net", "mnt")
        ]
        given = [*namespaces, report, *standard.values()]
        head = _REQUEST.pack(len(body), len(paths), len(words), len(variables), len(given), session)
        try:
            with self._lock:
                socket.send_fds(self._line, [head], given)
                self._line.sendall(body)
                told = self._line.recv(4, socket.MSG_WAITALL)
        finally:
            for one in namespaces:
                os.close(one)
        answer = int.from_bytes(told, sys.byteorder, signed=True)
        if answer <= 0:
            raise OSError(-answer, os.strerror(-answer) if told else "the launcher has ended")
        return answer

    def take_over(self) -> None:
        """From here on `subprocess` starts programs by it, but for those with something out of the ordinary."""
        before: Callable[..., int] = subprocess._fork_exec  # type: ignore[attr-defined]  # noqa: SLF001

        def fork_exec(*given: Any) -> int:
            (
                argv, paths, close_fds, kept, cwd, env, p2cread, _, _, c2pwrite, _, errwrite, _, report,
                restore_signals, session, *others,
            ) = given  # fmt: skip
            ordinary = close_fds and restore_signals and tuple(others[:6]) == _PLAIN
            ordinary = ordinary and os.getpid() == self._parent  # a fork's programs would not be its children
            passed = [one for one in kept if one != report]
            if (
                not ordinary
                or any(one >= _MOST for one in passed)
                or any(b"\0" in os.fsencode(a) for a in argv)
            ):
                return before(*given)
            streams = {0: p2cread, 1: c2pwrite, 2: errwrite}
            descriptors = {own: own if one == -1 else one for own, one in streams.items()}
            descriptors |= {one: one for one in passed}
            variables = [b"%s=%s" % pair for pair in os.environb.items()] if env is None else env
            return self.start(
                paths, argv, variables, cwd=cwd, descriptors=descriptors, report=report, session=session
            )

        subprocess._fork_exec = fork_exec  # type: ignore[attr-defined]  # noqa: SLF001


_ours: list[Launcher] = []


def install() -> None:
    """All programs of this process are started by a launcher. Raises OSError, CalledProcessError."""
    _ours.append(Launcher())
    _ours[0].take_over()


def installed() -> Launcher | None:
    return next(iter(_ours), None)
