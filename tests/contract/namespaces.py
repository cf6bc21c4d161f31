"""A network namespace of its own for a test of the kernel, so that it starts empty and leaves nothing."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator

from anycast.kernel.adapter import Kernel
from lab import private

_CLONE_NEWNET = 0x40000000
_CLONE_NEWNS = 0x20000
_SET_FLAGS = 0x8914  # of an interface
_UP = 1
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def network_namespace(*, loopback: bool = True) -> Iterator[None]:
    """Moves this thread into a new network namespace, and back. `loopback`: lo is brought up."""
    with made_namespace(loopback=loopback) as namespace, entered(namespace):
        yield


@contextlib.contextmanager
def made_namespace(*, loopback: bool = True) -> Iterator[int]:
    """A new network namespace as a file descriptor. It ends with the block and the last socket in it."""
    with _returning():
        _check(_libc.unshare(_CLONE_NEWNET), "unshare")
        namespace = _here()
        if loopback:
            # No program is started for it: that is dear in the lab's kernel, and hundreds of tests do it.
            with socket.socket() as control:
                fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))
    try:
        yield namespace
    finally:
        os.close(namespace)


@contextlib.contextmanager
def entered(namespace: int) -> Iterator[None]:
    """This thread is in `namespace` for the block: what it opens and starts there stays there."""
    with _returning():
        _check(_libc.setns(namespace, _CLONE_NEWNET), "setns")
        yield


def unshare_mounts() -> None:
    """What this process mounts from here on is seen by no other."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    private.make_private()


@contextlib.contextmanager
def _returning() -> Iterator[None]:
    home = _here()
    try:
        yield
    finally:
        _check(_libc.setns(home, _CLONE_NEWNET), "setns")
        os.close(home)


def _here() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.asynccontextmanager
async def closing_kernel(interface: str = "lo") -> AsyncIterator[Kernel]:
    kernel = Kernel(interface)
    try:
        yield kernel
    finally:
        await kernel.close()


def run(*argv: str, stdin: str | None = None) -> str:
    """Runs a program in the namespace; returns its output. Raises AssertionError with what it complained of."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{' '.join(argv)}: {done.stderr or done.stdout}")
    return done.stdout


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
