"""Each node's own files: its /etc, /var, /root and /run, held in a mount namespace beside its network namespace.

What a node's programs write there no other node sees, and not the machine either.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue

from lab import netns, private
from lab.errors import LabError

PLACES = Path("/run/places")
OWN = ("/etc", "/var", "/root")
_CLONE_NEWNS = 0x00020000

_libc = ctypes.CDLL(None, use_errno=True)


def entry(node: str) -> list[str]:
    """What to put before a command that is to run in `node`, or in a plain network namespace of that name."""
    place = PLACES / node / "namespace"
    return enter(node) if place.exists() else ["ip", "netns", "exec", node]


def enter(node: str) -> list[str]:
    """The same for a node of the site, without a look whether it is there."""
    return ["nsenter", f"--net={netns.PLACE / node}", f"--mount={PLACES / node / 'namespace'}", "--"]


def make(node: str, shared: Mapping[str, Path], links: Mapping[str, Path]) -> None:
    """Makes the place of a node whose network namespace exists.

    `shared`: directories of the lab that are to be found below the node's /run, by their name there. `links`: symbolic
    links in the node, each to its target. Raises LabError.
    """
    home = PLACES / node
    home.mkdir(parents=True)
    (home / "namespace").touch()
    processors, problem = os.sched_getaffinity(0), ""
    # A namespace may only be held in an older one, by a number that newer kernels give out by processor (seen on 6.18):
    # where this one's came from another processor, the next one's may be smaller.
    for tried in ({*processors}, *({one} for one in sorted(processors))):
        try:
            problem = _make(home, tried, lambda: _set_up(node, home, shared, links))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            problem = str(error)
        else:
            break
    if problem:
        raise LabError(f"{node}: its own files could not be set up: {problem}")


def _make(home: Path, processors: set[int], set_up: Callable[[], None]) -> str:
    """What went wrong in the new namespace; empty: nothing. Raises OSError: it cannot be held."""
    told, go = SimpleQueue[int | str](), SimpleQueue[bool]()
    # A thread, not a fork: for a large process that is dear in the lab's kernel.
    thread = threading.Thread(target=_thread, args=(processors, set_up, told, go))
    thread.start()
    try:
        first = told.get()
        if isinstance(first, str):
            return first
        private.bind(f"/proc/self/task/{first}/ns/mnt", home / "namespace")
        go.put(True)
        return str(told.get())
    finally:
        go.put(False)
        thread.join()


def _thread(
    processors: set[int], set_up: Callable[[], None], tell: SimpleQueue[int | str], go: SimpleQueue[bool]
) -> None:
    """Makes a namespace, tells its own number, and sets the namespace up once it is held. Tells an error as text."""
    try:
        every = os.sched_getaffinity(0)
        os.sched_setaffinity(0, processors)
        if _libc.unshare(_CLONE_NEWNS) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        os.sched_setaffinity(0, every)
        tell.put(threading.get_native_id())
        if go.get():
            set_up()
            tell.put("")
    except BaseException as error:  # noqa: BLE001  (whatever it is, who waits says it)
        tell.put(str(error) or "?")


def _set_up(node: str, home: Path, shared: Mapping[str, Path], links: Mapping[str, Path]) -> None:
    private.make_private()
    with netns.inside(node):
        private.detach("/sys")
        private.mount("sysfs", "/sys")
    _fill(home, shared, links)


def _fill(home: Path, shared: Mapping[str, Path], links: Mapping[str, Path]) -> None:
    for path in OWN:
        below = private.MACHINE / path[1:]
        if below.is_dir():
            private.layer(below, home / path[1:], path)
    private.mount("tmpfs", "/var/tmp", "mode=1777")
    run = home / "run"
    for name in ("lock", "netns"):
        (run / name).mkdir(parents=True)
    for name, source in shared.items():
        (run / name).mkdir(parents=True, exist_ok=True)
        private.bind(source, run / name)
    private.bind(run, "/run")
    for link, target in links.items():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(link)
        Path(link).symlink_to(target)


def destroy(node: str) -> None:
    """Takes the place of a node away, as much of it as there is; its processes have ended."""
    with contextlib.suppress(OSError):
        private.detach(PLACES / node / "namespace")
    shutil.rmtree(PLACES / node, ignore_errors=True)
