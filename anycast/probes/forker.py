"""The process that starts the programs of checks, so that the agent need not: `python -P -S -m anycast.probes.forker LINE BYTES`.

To start one stops whoever starts it until the program is loaded, and costs more the more descriptors it has open: the
agent has thousands, and a lease to renew. LINE is the descriptor of a socket; it carries lines of JSON. Told:
`[number, argv, address, port]` to start a program, `[number]` to kill it with its group. It tells: `["ready"]`,
`["started", number, pid]` of one that does not end at once, `["ended", number, pid, status, taken, line]` and
`["refused", number, errno]`. When LINE ends, so do all programs, and this process. The standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

from anycast import oom

__all__ = ["main"]

NAME = "anycast-forker"
_PIPE = 64 * 1024  # what a pipe holds: one read empties it
# Most programs end within milliseconds, and together: to be woken by each costs more than to look after a nap. Of one
# that takes longer than that all is seen at once, and whoever asked is told that it was started.
_NAP, _NAPS = 0.004, 3
_BYTES = 64 * 1024  # bytes that are read of what is told, at once
_GONE = 0.5  # seconds for killed programs to be gone, at the end
_DEFAULT = (signal.SIGPIPE, signal.SIGXFSZ)  # Python ignores them; programs do not expect that


@dataclass(slots=True, eq=False)
class _Program:
    number: int
    pid: int
    pidfd: int
    output: int  # the read end of its pipe; -1: closed
    kills: int | None  # what the kernel had taken for its memory when this was started
    kept: bytes = b""


class Forker:
    """The programs that run, and who asked for them. Of what each says `most` bytes are kept."""

    def __init__(self, line: socket.socket, most: int) -> None:
        self._line = line
        self._most = most
        self._rest = b""
        self._said: list[str] = []
        self._programs: dict[int, _Program] = {}  # by number
        self._watched: dict[int, _Program] = {}  # by descriptor
        self._poller = select.epoll()
        self._poller.register(line.fileno(), select.EPOLLIN)
        self._quick: dict[
            _Program, int
        ] = {}  # those that may end at once, and the nap after which they have not
        self._naps = 0  # so far

    def serve(self) -> None:
        """Until the line ends."""
        self._say("ready")
        try:
            while self._flush():
                if not self._see_to(self._poller.poll(self._patience())):
                    return
        finally:
            self._end_all()

    def _patience(self) -> float | None:
        """Seconds until something is looked at; None: until it comes."""
        if not self._quick:
            return None
        for program in [one for one, last in self._quick.items() if last <= self._naps]:
            try:
                self._poller.register(program.output, select.EPOLLIN)
            except OSError:  # fs.epoll.max_user_watches: it is looked at after naps until there is room
                self._quick[program] = self._naps + _NAPS
                continue
            del self._quick[program]
            self._say("started", program.number, program.pid)
        if self._quick:
            self._naps += 1
            time.sleep(_NAP)
        return 0.0

    def _see_to(self, events: list[tuple[int, int]]) -> bool:
        """False: the line has ended."""
        asked = False
        for fd, _ in events:
            program = self._watched.get(fd)
            if program is None:
                # What was asked comes last: a descriptor of a new program must not meet an event of an old one.
                asked = asked or fd == self._line.fileno()
            elif fd == program.pidfd:
                self._reap(program)
            else:
                self._read(program)
        return not asked or self._listen()

    def _listen(self) -> bool:
        try:
            data = self._line.recv(_BYTES)
        except ConnectionError:
            return False
        if not data:
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        kills = oom.kills()
        for line in lines:
            number, *asked = json.loads(line)
            if asked:
                self._start(number, *asked, kills=kills)
            elif (program := self._programs.get(number)) is not None:
                _kill_group(program.pid)
        return True

    def _start(self, number: int, argv: list[str], address: str, port: str, *, kills: int | None) -> None:
        environment = {"PATH": os.environ["PATH"], "ANYCAST_ADDRESS": address, "ANYCAST_PORT": port}
        try:
            program = self._started(number, argv, environment, kills)
        except (OSError, ValueError) as error:
            self._say("refused", number, getattr(error, "errno", None) or 0)
            return
        self._programs[number] = self._watched[program.pidfd] = self._watched[program.output] = program
        # Of its own: where others begin all the time, one that goes on would never be seen to.
        self._quick[program] = self._naps + _NAPS

    def _started(
        self, number: int, argv: list[str], environment: dict[str, str], kills: int | None
    ) -> _Program:
        """Raises OSError, ValueError."""
        reading, writing = os.pipe()
        try:
            # Standard input is this process's own: /dev/null. Every other descriptor is closed on exec.
            pid = os.posix_spawn(
                argv[0],
                argv,
                environment,
                file_actions=((os.POSIX_SPAWN_DUP2, writing, 1), (os.POSIX_SPAWN_DUP2, writing, 2)),
                setsid=True,
                setsigdef=_DEFAULT,
            )
            pidfd = -1
            try:
                os.set_blocking(reading, False)
                pidfd = os.pidfd_open(pid)
                self._poller.register(pidfd, select.EPOLLIN)
            except BaseException:
                if pidfd >= 0:
                    os.close(pidfd)
                _kill_group(pid)
                os.waitpid(pid, 0)
                raise
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        return _Program(number, pid, pidfd, reading, kills)

    def _read(self, program: _Program) -> None:
        """The beginning of its output is kept, the rest drained so that it never blocks."""
        try:
            data = os.read(program.output, _PIPE)
        except BlockingIOError:
            return
        if not data:
            self._close_output(program)
        elif len(program.kept) < self._most:
            program.kept = (program.kept + data).lstrip()[: self._most]

    def _close_output(self, program: _Program) -> None:
        del self._watched[program.output]
        os.close(program.output)
        program.output = -1

    def _reap(self, program: _Program) -> None:
        # Before the reaping: until then the number of the group cannot be another's.
        _kill_group(program.pid)
        status: int | None = None
        with contextlib.suppress(ChildProcessError):
            status = os.waitstatus_to_exitcode(os.waitpid(program.pid, 0)[1])
        if program.output >= 0:
            self._read(program)
        if program.output >= 0:
            self._close_output(program)
        del self._watched[program.pidfd], self._programs[program.number]
        os.close(program.pidfd)
        self._quick.pop(program, None)
        taken = None
        if status and program.kills is not None and (now := oom.kills()) is not None:
            taken = now != program.kills
        line = program.kept.split(b"\n", 1)[0].decode(errors="replace")
        self._say("ended", program.number, program.pid, status, taken, line)

    def _say(self, *what: Any) -> None:
        self._said.append(json.dumps(what))

    def _flush(self) -> bool:
        """False: nobody listens any more."""
        if self._said:
            said = "\n".join([*self._said, ""])
            self._said.clear()
            try:
                self._line.sendall(said.encode())
            except OSError:
                return False
        return True

    def _end_all(self) -> None:
        for program in self._programs.values():
            _kill_group(program.pid)
        self._line.close()
        until = time.monotonic() + _GONE
        for program in self._programs.values():
            # One that hangs in the kernel goes when it can; it has its death in it.
            gone = select.poll()
            gone.register(program.pidfd, select.POLLIN)
            gone.poll(max(0.0, until - time.monotonic()) * 1000)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def main() -> None:
    line = socket.socket(fileno=int(sys.argv[1]))
    line.set_inheritable(False)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else the status of programs is lost
    os.chdir("/")
    oom.give_up_protection(os.getpid())  # nor have the programs any, which inherit it
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as name:
        name.write(NAME)
    Forker(line, int(sys.argv[2])).serve()


if __name__ == "__main__":
    main()
