"""`anycast exabgp-reload`: ExaBGP is told to read a file, until it has. For ExecReload= of its unit; no agent is needed.

ExaBGP drops a reload in silence while a route waits to be sent to any neighbor that it would like a session with. So the
file gets a mark, and the plugin tells which mark ExaBGP has.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from anycast import whole_file
from anycast.cli.exits import ExitCode
from anycast.config.files import read_regular
from anycast.core.rendering import RELOAD, RESTART
from anycast.plugin import has

LOOK = 0.05  # seconds between two looks at what the plugin tells
AGAIN = 2.0  # seconds after which the signal counts as dropped
NAMED = 5  # neighbors
_LARGEST = 16 * 1024 * 1024  # bytes of a configuration: of 20,000 addresses it has 1.3 MB
_MARK = re.compile(r'^( +description "anycast )[0-9a-f]+(";)', re.MULTILINE)
_JOURNAL = re.compile(r"^ +run .* --journal (\S+)", re.MULTILINE)


def run(args: argparse.Namespace) -> int:
    new, file, pid = args.new, args.file, args.pid
    try:
        text = read_regular(new, _LARGEST).decode()
    except (OSError, ValueError) as error:
        return _no(f"{new}: cannot be read: {error}")
    mark = secrets.token_hex(8)
    text, marked = _MARK.subn(rf"\g<1>{mark}\g<2>", text)
    journal = _JOURNAL.search(text)
    if not marked or journal is None:
        return _no(
            f"{new}: it is not as `anycast render exabgp` of this release writes it, so nothing was done"
        )
    told = Path(has.path_beside(journal[1]))
    before = _has(told, pid)
    if before is None:
        return _no(
            f"{told}: the plugin of ExaBGP (pid {pid}) does not tell which file that has read, so nothing was done: it has "
            f"just been started (try it again), or is of an older release, or runs with a file of one (restart it: {RESTART})"
        )
    try:
        _put(text, new, file)
        if _reads(pid, told, mark, args.within):
            print(f"ExaBGP (pid {pid}) has read {file}")
            return ExitCode.OK
    except ProcessLookupError:
        return _no(f"there is no process {pid} any more: ExaBGP reads {file} when it is started")
    except OSError as error:
        return _no(f"{file}: {error.strerror or error}")
    return _no(not_taken(_has(told, pid) or before, file, args.within))


def _no(why: str) -> int:
    print(why, file=sys.stderr)
    return ExitCode.NEGATIVE


def _has(told: Path, pid: int) -> has.Has | None:
    """What this ExaBGP has read; None: that is not known."""
    try:
        found = has.load(str(told))
    except OSError:
        return None
    return found if found is not None and found.exabgp == pid and found.mark else None


def _put(text: str, new: Path, file: Path) -> None:
    """The marked file in the place of the old one, for whom `new` is for. Raises OSError."""
    owner = new.stat()

    def permit(descriptor: int) -> None:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fchmod(descriptor, owner.st_mode & 0o777)

    whole_file.replace(file, text, permit)
    new.unlink()


def _reads(pid: int, told: Path, mark: str, within: float) -> bool:
    """Raises OSError where it cannot be told."""

    def is_read() -> bool:
        found = _has(told, pid)
        return found is not None and found.mark == mark

    def signalled() -> bool:
        os.kill(pid, signal.SIGUSR1)
        return _until(is_read, LOOK, min(AGAIN, within))

    return _until(signalled, 0, within)


def _until(is_so: Callable[[], bool], every: float, within: float) -> bool:
    try:
        Retrying(
            retry=retry_if_result(lambda found: not found),
            wait=wait_fixed(every),
            stop=stop_after_delay(within),
        )(is_so)
    except RetryError:
        return False
    return True


def not_taken(now: has.Has, file: Path, within: float) -> str:
    """Why, as far as that is known, and what to do."""
    begin = f"ExaBGP (pid {now.exabgp}) has not read {file} within {within:g} s, and runs with what it had"
    if not now.down:
        return f"{begin}: `journalctl -u anycast-exabgp` may say why (try it again, or restart it: {RESTART})"
    verb = "has" if len(now.down) == 1 else "have"
    named = ", ".join(now.down[:NAMED]) + (
        f" and {len(now.down) - NAMED} more" if len(now.down) > NAMED else ""
    )
    return (
        f"{begin}: it reads none while a route that has changed waits for a neighbor, and {named} {verb} no session. It waits "
        "until an attempt to connect has failed (a minute where the router refuses, three where it does not answer), or, "
        f"where there is no way to it, until there is: then {RELOAD} does it. At once: {RESTART}"
    )
