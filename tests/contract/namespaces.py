"""A network namespace of its own for a test of the kernel, so that it starts empty and leaves nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import AsyncIterator, Iterator

from anycast.kernel.adapter import Kernel

_CLONE_NEWNET = 0x40000000
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
            run("ip", "link", "set", "lo", "up")
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
