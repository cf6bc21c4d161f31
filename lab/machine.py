"""The kernel the lab runs in, and commands inside it.

Where this kernel has IPVS the lab is a set of fresh namespaces (mount, process, network), else
User-Mode-Linux is booted with this machine's own files. Both are one process that runs `lab/guest.py` as
process 1 and speaks `lab.wire` over one socket; when either side dies, the whole lab is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Self

from lab import suites
from lab.errors import LabError
from lab.keeper import Keeper
from lab.private import COVERED
from lab.wire import CHUNK, WINDOW, Decoder, Frame, Kind, credit, encode

GUEST = Path(__file__).resolve().with_name("guest.py")
MEMORY = int(os.environ.get("ANYCAST_LAB_MEMORY", "2048"))  # MiB
BOOT_TIMEOUT = 60.0  # seconds
_SPEED_UP = "raid6_select_algo,calibrate_xor_blocks"  # benchmarks nobody here needs: 0.9 s of a boot


class Place(StrEnum):
    INSIDE = "inside"  # this process already runs in the lab's kernel
    NAMESPACES = "namespaces"
    UML = "uml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    place: Place
    reason: str  # one line for the operator


@dataclass(frozen=True, slots=True)
class Uml:
    """A User-Mode-Linux. `debian`: the root of the Debian it is of; None: this machine's."""

    debian: Path | None
    binary: str

    @property
    def modules(self) -> Path:
        return (self.debian or Path("/")) / "usr/lib/uml/modules"

    def release(self) -> str:
        """Raises OSError: there are no modules of it."""
        return ", ".join(sorted(os.listdir(self.modules)))

    def command(self, argv: Sequence[str], files: str = "/") -> list[str]:
        """Boots with this machine's files. That of another Debian runs with its libraries, and has our files beside."""
        flags = ["root=/dev/root", "rootfstype=hostfs"]
        if self.debian is None:
            return [self.binary, *flags, f"rootflags={files}", *argv]
        return suites.enter(self.debian, [self.binary, *flags, f"rootflags={suites.OURS}{files}", *argv])


def uml(env: Mapping[str, str] = os.environ) -> Uml:
    """ANYCAST_UML names the root of a Debian (`python -m lab.suites` makes some). Raises LabError: it is not there."""
    if place := env.get("ANYCAST_UML"):
        found = Path(place).resolve()
        if not (found / "usr/bin/linux.uml").exists():
            raise LabError(f"ANYCAST_UML={place}: no usr/bin/linux.uml in it: python -m lab.suites makes it")
        return Uml(found, "/usr/bin/linux.uml")
    binary = shutil.which("linux.uml")
    if binary is None:
        raise LabError("linux.uml is not installed: run lab/install")
    return Uml(None, binary)


def choose(env: Mapping[str, str] = os.environ) -> Choice:
    """Which kernel to use. ANYCAST_LAB=namespaces or uml decides, ANYCAST_UML which uml; otherwise namespaces where IPVS works.

    Raises LabError where neither is possible.
    """
    if env.get("ANYCAST_LAB_GUEST"):
        return Choice(place=Place.INSIDE, reason="lab: already inside")
    forced = env.get("ANYCAST_LAB", Place.UML if env.get("ANYCAST_UML") else "")
    if forced not in ("", Place.NAMESPACES, Place.UML):
        raise LabError(f"ANYCAST_LAB={forced}: expected {Place.NAMESPACES} or {Place.UML}")
    lack = None if forced == Place.NAMESPACES else "asked to" if forced == Place.UML else _lack_of_ipvs()
    if lack is None:
        return Choice(place=Place.NAMESPACES, reason=f"lab: namespaces of this kernel, {os.uname().release}")
    try:
        version = uml(env).release()
    except (LabError, OSError) as error:
        raise LabError(f"lab: {lack}, and {error}") from error
    return Choice(place=Place.UML, reason=f"lab: {lack}: booting User-Mode-Linux {version}")


def _lack_of_ipvs() -> str | None:
    if os.geteuid() != 0:
        return "not root"
    for module in ("ip_vs", "ip_vs_mh"):
        if Path("/sys/module", module).exists():
            continue
        done = subprocess.run(["modprobe", "-q", module], check=False, stderr=subprocess.DEVNULL)
        if done.returncode != 0:
            return f"this kernel has no {module}"
    probe = subprocess.run(["unshare", "--mount", "--net", "--pid", "--fork", "true"], check=False, stderr=subprocess.DEVNULL)  # fmt: skip
    return None if probe.returncode == 0 else "this process may not make namespaces"


class Machine:
    """A running lab kernel and the socket to it. Use as a context manager, or call `stop`."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket, console: IO[bytes]) -> None:
        self.process = process
        self.line = line
        self.ipvs = False  # its kernel has IPVS
        self._console = console

    @classmethod
    def start(cls, choice: Choice, keep: Sequence[str] = ()) -> Machine:
        """Boots; returns when commands can be run. Raises LabError with the console's end when it cannot.

        What is written in the lab stays in the lab, but for the checkout and the directories of `keep`.
        """
        keep = sorted({os.path.realpath(path) for path in (*keep, str(GUEST.parent.parent), sys.prefix)})
        ours, theirs = socket.socketpair()
        # Nothing of it stays on disk once it is up, so that even a killed lab leaves no trace.
        with tempfile.TemporaryDirectory(prefix="anycast-lab-", ignore_cleanup_errors=True) as folder, theirs:
            console = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the kernel)
            make = _uml if choice.place is Place.UML else _namespaces
            argv = make(Path(folder), theirs, keep)
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, pass_fds=[theirs.fileno()],
                start_new_session=True, env={**os.environ, **_memory_place(), **_wide_registers(choice, Path(folder))},
            )  # fmt: skip
            theirs.close()
            machine = cls(process, ours, console)
            try:
                machine._await_ready()
            except BaseException:
                machine.stop(grace=0)
                raise
        return machine

    def _await_ready(self) -> None:
        self.line.settimeout(BOOT_TIMEOUT)
        decoder = Decoder()
        while True:
            try:
                data = self.line.recv(65536)
            except TimeoutError:
                data = b""
            if not data:
                raise LabError(f"lab: the kernel did not come up\n{self.console()}")
            for frame in decoder.feed(data):
                if frame.kind is Kind.READY:
                    self.ipvs = json.loads(frame.body)["ipvs"]
                    self.line.settimeout(None)
                    return

    def console(self) -> str:
        """The end of what the kernel said."""
        with contextlib.suppress(ValueError, OSError):
            size = os.fstat(self._console.fileno()).st_size
            return os.pread(self._console.fileno(), 4096, max(0, size - 4096)).decode("utf-8", "replace")
        return ""

    def stop(self, grace: float = 10.0) -> None:
        """Ends everything inside and waits for it; what is left after `grace` seconds is killed."""
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_WR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.line.close()
        self._console.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop(grace=0 if kind else 10.0)


def _uml(folder: Path, line: socket.socket, keep: Sequence[str]) -> list[str]:
    init = folder / "init"
    command = shlex.join([sys.executable, "-I", "-S", str(GUEST), "/dev/ttyS0", *keep])
    kernel = uml()
    modules = shlex.quote(str(kernel.modules))
    init.write_text(
        f"#!/bin/sh\nANYCAST_UML_MODULES={modules} PATH=/usr/sbin:/usr/bin:/sbin:/bin exec {command}\n"
    )
    init.chmod(0o755)
    processor = max(os.sched_getaffinity(0))
    return [
        # On several processors a system call of User-Mode-Linux costs up to six times as much: each is two
        # switches between its processes, and every switch may wake another processor.
        "taskset", "--cpu-list", str(processor),
        *kernel.command([
            f"mem={MEMORY}M", "rw", f"init={init}", f"uml_dir={folder}/", "con=null", "con0=null,fd:1",
            f"ssl0=fd:{line.fileno()}", "quiet", "panic=1", f"initcall_blacklist={_SPEED_UP}",
            # From Linux 6.16 on: no tracing of its processes, which costs most of a page fault. Older ones pass it over.
            "seccomp=auto",
        ]),
    ]  # fmt: skip


def _namespaces(_: Path, line: socket.socket, keep: Sequence[str]) -> list[str]:
    return [
        "unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child",
        sys.executable, "-I", "-S", str(GUEST), str(line.fileno()), *keep,
    ]  # fmt: skip


def _wide_registers(choice: Choice, folder: Path) -> dict[str, str]:
    """Where the processor has AMX, User-Mode-Linux needs help with its registers: see `xstate.c`."""
    if choice.place is not Place.UML or "amx_tile" not in Path("/proc/cpuinfo").read_text("ascii").split():
        return {}
    library = folder / "xstate.so"
    source = Path(__file__).with_name("xstate.c")
    try:
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabError(f"lab: {source.name} could not be compiled ({error}): run lab/install") from error
    return {"LD_PRELOAD": str(library)}


def _memory_place() -> dict[str, str]:
    """User-Mode-Linux keeps the guest's memory in a file, by choice in /dev/shm; a small one would kill it."""
    with contextlib.suppress(OSError):
        room = os.statvfs("/dev/shm")
        if room.f_bavail * room.f_frsize > MEMORY * 2**20:
            return {}
    return {"TMPDIR": tempfile.gettempdir()}


@contextlib.contextmanager
def _raw_terminal(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    tty.setraw(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def attach(
    line: socket.socket,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    terminal: bool = False,
    timeout: float | None = None,
    stdin: int = 0,
    stdout: int = 1,
    stderr: int = 2,
) -> int:
    """Runs one command at the other end of `line` and carries its streams; returns its exit status.

    `terminal`: give it a terminal of its own, with `stdin` as the keyboard. Raises TimeoutError after
    `timeout` seconds and LabError when the lab goes away.
    """
    size = os.get_terminal_size(stdin) if terminal else os.terminal_size((80, 24))
    command = {
        "argv": list(argv), "env": dict(env), "cwd": str(Path.cwd()), "terminal": terminal,
        "size": [size.lines, size.columns],
    }  # fmt: skip
    _open(line, command)
    with contextlib.ExitStack() as stack:
        if terminal:
            stack.enter_context(_raw_terminal(stdin))
        resized = stack.enter_context(_resizes()) if terminal else None
        return _carry(line, stdin, {Kind.STDOUT: stdout, Kind.STDERR: stderr}, timeout, resized)


def connect(line: socket.socket, node: str, port: int, stream: socket.socket) -> bool:
    """Carries `stream` to `port` of a node's own loopback at the other end of `line`, until either side ends.

    False: nobody listens there. Raises OSError and LabError when either side is gone.
    """
    _open(line, {"node": node, "port": port})
    return _carry(line, stream.fileno(), {Kind.STDOUT: stream.fileno()}, None, None) == 0


def _open(line: socket.socket, what: Mapping[str, Any]) -> None:
    line.sendall(encode(Frame(1, Kind.OPEN, json.dumps(what).encode())))


@contextlib.contextmanager
def _resizes() -> Iterator[socket.socket]:
    heard, told = socket.socketpair()
    with heard, told:
        told.setblocking(False)
        before = signal.signal(signal.SIGWINCH, lambda *_: None)
        wakeup = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        try:
            yield heard
        finally:
            signal.set_wakeup_fd(wakeup)
            signal.signal(signal.SIGWINCH, before)


def _carry(
    line: socket.socket,
    stdin: int,
    outputs: Mapping[Kind, int],
    timeout: float | None,
    resized: socket.socket | None,
) -> int:
    deadline = None if timeout is None else time.monotonic() + timeout
    decoder = Decoder()
    under_way = 0  # bytes of stdin the command has not taken yet
    with selectors.PollSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        if resized is not None:
            selector.register(resized, selectors.EVENT_READ)
        reading = _watch_stdin(selector, line, stdin)
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"no end after {timeout:g} s")
            for key, _ in selector.select(left):
                if key.fileobj is resized and resized is not None:
                    resized.recv(4096)
                    window = fcntl.ioctl(stdin, termios.TIOCGWINSZ, bytes(8))
                    line.sendall(encode(Frame(1, Kind.RESIZE, window[:4])))
                elif key.fd == stdin and key.fileobj is not line:
                    data = os.read(stdin, CHUNK)
                    line.sendall(encode(Frame(1, Kind.STDIN, data)))
                    under_way += len(data)
                    reading = bool(data)
                    if not data or under_way >= WINDOW:
                        selector.unregister(stdin)
                else:
                    received = line.recv(65536)
                    if not received:
                        raise LabError("lab: it is gone (its kernel or its keeper has ended)")
                    for frame in decoder.feed(received):
                        if frame.kind is Kind.EXIT:
                            return frame.body[0]
                        if frame.kind is Kind.CREDIT:
                            paused = reading and under_way >= WINDOW
                            under_way -= int.from_bytes(frame.body, "big")
                            if paused and under_way < WINDOW:
                                selector.register(stdin, selectors.EVENT_READ)
                        elif frame.kind in outputs:
                            _write_all(outputs[frame.kind], frame.body)
                            line.sendall(encode(credit(1, len(frame.body))))


def _watch_stdin(selector: selectors.BaseSelector, line: socket.socket, stdin: int) -> bool:
    try:
        os.fstat(stdin)
    except OSError:  # closed
        line.sendall(encode(Frame(1, Kind.STDIN)))
        return False
    selector.register(stdin, selectors.EVENT_READ)
    return True


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextlib.contextmanager
def session(choice: Choice) -> Iterator[Callable[..., int]]:
    """A fresh lab kernel for the block; yields `attach` to it: call it with argv and `env`.

    Besides the checkout, what is written in the current directory and where temporary files go stays.
    """
    here = str(Path.cwd())
    keep = [tempfile.gettempdir(), *([] if here in ("/", *COVERED) else [here])]
    with Machine.start(choice, keep) as machine:
        if not machine.ipvs:
            print("lab: this kernel has no IPVS", file=sys.stderr, flush=True)
        ours, theirs = socket.socketpair()
        keeper = Keeper(machine.line)
        keeper.add(theirs)
        threading.Thread(target=keeper.serve, daemon=True).start()
        with ours:
            yield functools.partial(attach, ours)


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] = os.environ,
    timeout: float | None = None,
    before: Sequence[Sequence[str]] = (),
) -> int:
    """Runs one command in a fresh lab kernel, its streams connected to ours; returns its exit status.

    The commands of `before` run first; one that fails ends it all with its status. Inside the lab everything
    simply runs. 124 after `timeout` seconds, 130 on Ctrl-C: whatever runs inside is killed.
    """
    choice = choose(env)
    try:
        if choice.place is Place.INSIDE:
            for one in before:
                if status := subprocess.run(list(one), env=dict(env), check=False).returncode:
                    return status
            status = subprocess.run(list(argv), env=dict(env), timeout=timeout, check=False).returncode
            return status if status >= 0 else 128 - status
        print(choice.reason, file=sys.stderr, flush=True)
        with session(choice) as inside:
            for one in before:
                if status := inside(one, env=env):
                    return status
            return inside(argv, env=env, timeout=timeout)
    except (TimeoutError, subprocess.TimeoutExpired):
        print(f"lab: {argv[0]}: no end after {timeout:g} s", file=sys.stderr, flush=True)
        return 124
    except KeyboardInterrupt:
        return 130
