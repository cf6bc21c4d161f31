"""Process 1 of the lab: prepares a fresh kernel (or fresh namespaces) and runs the host's commands.

Started as a script without site-packages: the standard library and modules of the lab that need no more. It listens on one byte
stream (a serial line in User-Mode-Linux, a socket in namespaces); when that stream ends, the lab ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
import tty
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lab import netns, private
from lab.wire import CHUNK, WINDOW, Decoder, Frame, Kind, WireError, credit, encode

MODULES = ("overlay", "ipv6", "ip_vs", "ip_vs_mh", "ip_vs_rr", "veth", "dummy", "bridge")
UML_MODULES = os.environ.get("ANYCAST_UML_MODULES", "/usr/lib/uml/modules")
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_POWER_OFF = 0x4321FEDC

_libc = ctypes.CDLL(None, use_errno=True)


def prepare(keep: Sequence[str], *, uml: bool) -> None:
    """Mounts, loopback, limits, modules. What is written outside of `keep` is gone with the lab."""
    kept = private.hold(keep)
    private.read_only("/")
    private.mount("proc", "/proc")
    private.mount("sysfs", "/sys")
    if uml:
        private.read_only("/dev", on=False)
        private.mount("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666", flags=2)
        for link, target in (("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
            with contextlib.suppress(FileExistsError):
                os.symlink(f"/proc/self/{target}", f"/dev/{link}")
    private.mount("tmpfs", "/dev/shm", "mode=1777")
    private.mount("tmpfs", "/run", "mode=755")
    for name in ("lock", "netns"):
        Path("/run", name).mkdir()
    Path("/run/tmp").mkdir()
    Path("/run/tmp").chmod(0o1777)
    load_modules(uml=uml)
    private.cover()
    private.mount("tmpfs", "/tmp", "mode=1777")
    private.mount("tmpfs", "/var/tmp", "mode=1777")  # FRR's crash buffers
    private.put_back(kept)
    # ExaBGP looks its own name up when it starts; one that is in no /etc/hosts costs it five seconds of DNS.
    socket.sethostname("localhost")
    with socket.socket() as control:  # interface flags of lo: up, running
        fcntl.ioctl(control, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
    hard = 65536 if uml else resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def load_modules(*, uml: bool) -> None:
    """Loads MODULES. In User-Mode-Linux the package keeps them where modprobe does not look, so it is told."""
    if uml:
        place = Path("/run/modules/lib/modules")
        place.mkdir(parents=True)
        (place / os.uname().release).symlink_to(f"{UML_MODULES}/{os.uname().release}")
        os.environ["MODPROBE_OPTIONS"] = "-d /run/modules"
        loader = Path("/run/modules/modprobe")  # for the kernel's own requests, which carry no environment
        loader.write_text('#!/bin/sh\nexec /sbin/modprobe -d /run/modules "$@"\n')
        loader.chmod(0o755)
        Path("/proc/sys/kernel/modprobe").write_text(str(loader))
    subprocess.run(["modprobe", "-a", "-q", *MODULES], check=False, stderr=subprocess.DEVNULL)


@dataclass
class Job:
    """One running command, or, without a process, one TCP connection: `stdin` and its output are one socket."""

    process: subprocess.Popen[bytes] | None
    stdin: int | None
    outputs: dict[int, Kind]
    terminal: int | None = None
    pending: bytearray = field(default_factory=bytearray)  # for stdin
    stdin_ended: bool = False
    unacknowledged: int = 0
    status: int | None = None


class Server:
    """Runs the commands that arrive on `line`."""

    def __init__(self, line: int) -> None:
        self._line = line
        self._selector = selectors.DefaultSelector()
        self._decoder = Decoder()
        self._out = bytearray()
        self._jobs: dict[int, Job] = {}
        self._running = True

    def run(self, hello: bytes) -> None:
        wake, alarm = socket.socketpair()
        for end in (wake, alarm):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(alarm.fileno(), warn_on_full_buffer=False)
        os.set_blocking(self._line, False)
        self._selector.register(wake, selectors.EVENT_READ, None)
        self._selector.register(self._line, selectors.EVENT_READ, None)
        self._send(Frame(0, Kind.READY, hello))
        while self._running or self._out:
            for key, events in self._selector.select():
                if key.fd == self._line:
                    if events & selectors.EVENT_WRITE:
                        self._flush()
                    if events & selectors.EVENT_READ:
                        self._receive()
                elif key.fileobj is wake:
                    wake.recv(4096)
                    self._reap()
                elif key.data in self._jobs:
                    if events & selectors.EVENT_WRITE:
                        self._write_stdin(key.data)
                    else:
                        self._read_output(key.data, key.fd)

    def _send(self, frame: Frame) -> None:
        self._out += encode(frame)
        self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: os.write(self._line, self._out[:CHUNK])]
        except BlockingIOError:
            pass
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)
        self._selector.modify(self._line, events, None)

    def _receive(self) -> None:
        try:
            data = os.read(self._line, 65536)
        except BlockingIOError:
            return
        if not data:
            raise EOFError
        self._send(credit(0, len(data)))  # the keeper counts what is under way to us
        for frame in self._decoder.feed(data):
            self._handle(frame)

    def _handle(self, frame: Frame) -> None:
        if frame.kind is Kind.POWEROFF:
            self._running = False
            return
        if frame.kind is Kind.OPEN:
            command = json.loads(frame.body)
            if "port" in command:
                self._connect(frame.channel, command["node"], command["port"])
            else:
                self._open(frame.channel, command)
            return
        job = self._jobs.get(frame.channel)
        if job is None:
            return
        match frame.kind:
            case Kind.STDIN:
                job.pending += frame.body
                job.stdin_ended = job.stdin_ended or not frame.body
                self._write_stdin(frame.channel)
            case Kind.CREDIT:
                job.unacknowledged -= int.from_bytes(frame.body, "big")
                self._watch_outputs(frame.channel)
            case Kind.RESIZE if job.terminal is not None:
                fcntl.ioctl(job.terminal, termios.TIOCSWINSZ, frame.body + bytes(4))
            case Kind.HANGUP if job.process is None:
                self._disconnect(frame.channel)
            case Kind.HANGUP if job.process is not None:
                end = signal.SIGTERM if job.terminal is None else signal.SIGHUP
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job.process.pid, end)
            case _:
                pass

    def _open(self, channel: int, command: dict[str, Any]) -> None:
        env = {**command["env"], **{k: v for k, v in os.environ.items() if k.startswith("MODPROBE")}}
        env.update(TMPDIR="/run/tmp", ANYCAST_LAB_GUEST="1")
        env["PATH"] = f"{env['PATH']}:{SEARCH_PATH}" if env.get("PATH") else SEARCH_PATH
        cwd = command["cwd"] if os.path.isdir(command["cwd"]) else "/"  # it may be none of those the lab has
        terminal: int | None = None
        try:
            if command["terminal"]:
                terminal, slave = os.openpty()
                fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *command["size"], 0, 0))
                try:
                    process = subprocess.Popen(
                        command["argv"], stdin=slave, stdout=slave, stderr=slave, env=env, cwd=cwd,
                        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
                    )  # fmt: skip
                finally:
                    os.close(slave)
                job = Job(process, os.dup(terminal), {terminal: Kind.STDOUT}, terminal)
            else:
                pipe = subprocess.PIPE
                process = subprocess.Popen(
                    command["argv"], stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd=cwd,
                    start_new_session=True,
                )  # fmt: skip
                assert process.stdin
                assert process.stdout
                assert process.stderr
                outputs = {process.stdout.fileno(): Kind.STDOUT, process.stderr.fileno(): Kind.STDERR}
                job = Job(process, process.stdin.fileno(), outputs)
        except OSError as error:
            if terminal is not None:
                os.close(terminal)
            reason = f"lab: {command['argv'][0]}: {error.strerror or error}\n"
            self._send(Frame(channel, Kind.STDERR, reason.encode()))
            self._send(Frame(channel, Kind.EXIT, bytes([126 if isinstance(error, PermissionError) else 127])))
            return
        self._jobs[channel] = job
        for fd in (*job.outputs, job.stdin):
            assert fd is not None
            os.set_blocking(fd, False)
        self._watch_outputs(channel)

    def _connect(self, channel: int, node: str, port: int) -> None:
        """A TCP connection to a port of a node's own loopback, in the place of a command. Status 1: nobody listens."""
        sock = None
        try:
            sock = netns.open_socket(node, socket.AF_INET, socket.SOCK_STREAM)
            sock.connect(("127.0.0.1", port))
        except OSError:
            if sock is not None:
                sock.close()
            self._send(Frame(channel, Kind.EXIT, bytes([1])))
            return
        sock.setblocking(False)
        fd = sock.detach()
        self._jobs[channel] = Job(None, os.dup(fd), {fd: Kind.STDOUT})
        self._watch_outputs(channel)

    def _disconnect(self, channel: int) -> None:
        job = self._jobs.pop(channel)
        for fd in list(job.outputs):
            self._close_output(job, fd)
        self._close_stdin(job)
        self._send(Frame(channel, Kind.EXIT, bytes([0])))

    def _watch_outputs(self, channel: int) -> None:
        job = self._jobs[channel]
        for fd in list(job.outputs):
            watched = fd in self._selector.get_map()
            wanted = job.unacknowledged < WINDOW
            if wanted and not watched:
                self._selector.register(fd, selectors.EVENT_READ, channel)
            elif watched and not wanted:
                self._selector.unregister(fd)
        if job.status is not None:
            self._drain(channel)

    def _read_output(self, channel: int, fd: int) -> bool:
        """Hands on one piece. False: nothing there now."""
        job = self._jobs[channel]
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last holder of the terminal is gone
            data = b""
        if not data and job.process is None:
            self._disconnect(channel)
            return False
        if not data:
            self._close_output(job, fd)
            return False
        job.unacknowledged += len(data)
        self._send(Frame(channel, job.outputs[fd], data))
        if job.unacknowledged >= WINDOW:
            self._watch_outputs(channel)
        return True

    def _close_output(self, job: Job, fd: int) -> None:
        del job.outputs[fd]
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)
        for stream in (job.process.stdout, job.process.stderr) if job.process is not None else ():
            if stream is not None and not stream.closed and stream.fileno() == fd:
                stream.close()
                return
        os.close(fd)

    def _write_stdin(self, channel: int) -> None:
        job = self._jobs[channel]
        if job.stdin is None:
            return
        written = 0
        broken = False
        try:
            while job.pending:
                count = os.write(job.stdin, job.pending[:CHUNK])
                del job.pending[:count]
                written += count
        except BlockingIOError:
            pass
        except OSError:
            broken = True
        if written:
            self._send(credit(channel, written))
        watched = job.stdin in self._selector.get_map()
        if broken or (job.stdin_ended and not job.pending and job.terminal is None):
            if watched:
                self._selector.unregister(job.stdin)
            self._close_stdin(job)
        elif job.pending and not watched:
            self._selector.register(job.stdin, selectors.EVENT_WRITE, channel)
        elif not job.pending and watched:
            self._selector.unregister(job.stdin)

    def _close_stdin(self, job: Job) -> None:
        if job.stdin is None:
            return
        with contextlib.suppress(KeyError):
            self._selector.unregister(job.stdin)
        if job.process is not None and job.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                job.process.stdin.close()
        else:
            if job.process is None:
                with contextlib.suppress(OSError):
                    socket.socket(fileno=os.dup(job.stdin)).shutdown(socket.SHUT_WR)
            os.close(job.stdin)
        job.stdin = None

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for channel, job in list(self._jobs.items()):
                if job.process is not None and job.process.pid == pid:
                    code = os.waitstatus_to_exitcode(status)
                    job.process.returncode = code
                    job.status = code if code >= 0 else 128 - code
                    self._drain(channel)

    def _drain(self, channel: int) -> None:
        """After the command's end: hand on what it wrote. A daemon it left behind may hold the pipe for ever,
        so an empty pipe counts as the end.
        """
        job = self._jobs[channel]
        for fd in list(job.outputs):
            while fd in job.outputs and job.unacknowledged < WINDOW and self._read_output(channel, fd):
                pass
            if fd in job.outputs:
                if job.unacknowledged >= WINDOW:
                    return
                self._close_output(job, fd)
        self._close_stdin(job)
        del self._jobs[channel]
        os.sync()  # files written to the host's file system are there when the command has ended
        assert job.status is not None
        self._send(Frame(channel, Kind.EXIT, bytes([job.status])))


def main() -> None:
    where, *keep = sys.argv[1:]
    uml = where.startswith("/dev/")
    prepare(keep, uml=uml)
    if uml:
        line = os.open(where, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(line)
    else:
        line = int(where)
    hello = json.dumps({"kernel": os.uname().release, "ipvs": Path("/proc/net/ip_vs").exists()}).encode()
    with contextlib.suppress(EOFError, OSError, WireError):
        Server(line).run(hello)
    os.sync()
    if uml:
        _libc.reboot(_POWER_OFF)


if __name__ == "__main__":
    main()
