"""What an agent starts with: the file, or the last good configuration where the file cannot be used."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from errno import ENOENT
from pathlib import Path

import structlog

from anycast.agent import last_good
from anycast.agent.last_good import Found
from anycast.config.apart import Reading
from anycast.config.kept import census_of
from anycast.config.loaded import Loaded
from anycast.config.problem import ConfigError, named
from anycast.core.confirmation import Stage
from anycast.core.in_force import InForce, LastGood
from anycast.core.removal import suspicions
from anycast.core.starting import Choice, Facts, choose
from anycast.core.values.configuration import Config

QUICKLY_READ = 256 * 1024  # bytes of a last good configuration: some hundredths of a second
LONGEST = 300  # characters of a problem that is told again and again
ABSENT = 10.0  # seconds that a file which is not there has to come

log = structlog.get_logger()


class NotStartedError(Exception):
    """There is nothing to start with. The text says why. `absent`: for the file is not there."""

    def __init__(self, why: str, *, bad_configuration: bool, absent: bool = False) -> None:
        super().__init__(why)
        self.bad_configuration = bad_configuration
        self.absent = absent


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """`saved`: the digest of the last good configuration on disk; empty: there is none.

    `told`: what the log says of a start that the file does not have.
    """

    loaded: Loaded
    force: InForce = InForce()
    saved: str = ""
    told: Mapping[str, str] = field(default_factory=dict)
    before: Config | None = None  # what was in force until now, where it is another


def begin_patiently(
    path: Path,
    reading: Reading | None = None,
    *,
    strict: bool = False,
    state_dir: Path | None = None,
    node: str | None = None,
    patience: float = ABSENT,
    meanwhile: Callable[[], object] = int,
) -> Start:
    """As `begin`, but where nothing can be started with, a file that is not there has `patience` seconds to come.

    Whoever replaces it may take it away first, or its file system is not mounted yet. `meanwhile` is called once while
    it is waited for.
    """
    ends = time.monotonic() + patience
    told = False
    while True:
        try:
            return begin(path, reading, strict=strict, state_dir=state_dir, node=node)
        except NotStartedError as error:
            left = ends - time.monotonic()
            if not error.absent or left <= 0:
                raise
        # In a fork, which is spared the imports: it waits, and reads the file as soon as it comes.
        reading = Reading(path, fork=threading.active_count() == 1, wait=left, node=node)
        if not told:
            print(f"anycast: {named(str(path))} has {patience:g} s to come", file=sys.stderr)
            meanwhile()
            told = True


def _is_there(path: Path) -> bool:
    return os.path.exists(path)


def begin(
    path: Path,
    reading: Reading | None = None,
    *,
    strict: bool = False,
    state_dir: Path | None = None,
    node: str | None = None,
) -> Start:
    """`reading`: of `path`, where it has begun already. Raises NotStartedError.

    `strict`: never with the last good configuration. `state_dir`: where that is, if the file does not say it. `node`:
    which one of a fleet this is, whatever the file and the host say.
    """
    loaded: Loaded | None = None
    wrong, bad, absent = "", True, False
    try:
        loaded = (Reading(path, node=node) if reading is None else reading).result()
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        wrong = error.count
        first = cut(str(error.problems[0]))
        # Not a file that it includes: nobody waits for that.
        absent = error.problems[0].what.endswith(os.strerror(ENOENT)) and not _is_there(path)
    except RuntimeError as error:
        wrong = first = str(error)
        bad = False
    else:
        first = ""
    found = _found(path, loaded, state_dir)
    facts = Facts(
        wrong=first,
        kept=found is not None,
        same=found is not None and loaded is not None and found.head.digest == loaded.digest,
        on_trial=found is not None
        and loaded is not None
        and last_good.is_marked(found.path.parent, loaded.digest),
        suspicious=_suspicious(found, loaded),
    )
    verdict = choose(facts, strict=strict)
    saved = "" if found is None else found.head.digest
    if verdict.choice is Choice.LAST_GOOD:
        assert found is not None  # noqa: S101 - it was chosen
        try:
            return _with_last_good(path, found, verdict.why, gone_back=verdict.gone_back, node=node)
        except _UnusableError as error:
            _damaged(str(error))
    if loaded is None or verdict.choice is Choice.NEITHER:
        said = f"{named(str(path))}: {wrong or verdict.why}" if bad else wrong
        raise NotStartedError(said, bad_configuration=bad, absent=absent)
    return Start(loaded=loaded, saved=saved, before=None if facts.same else _before(found, node))


def _before(found: Found | None, node: str | None) -> Config | None:
    """By its checks real servers serve on that the file has replaced. None: it is not known, or reading it takes too long."""
    try:
        if found is None or found.path.stat().st_size > QUICKLY_READ:
            return None
        return Reading(found.path, kept=True, node=node).result().config
    except (ConfigError, RuntimeError, OSError):
        return None  # nothing that the start needs


def cut(problem: str) -> str:
    return problem if len(problem) <= LONGEST else problem[: LONGEST - 3] + "..."


def _found(path: Path, loaded: Loaded | None, state_dir: Path | None) -> Found | None:
    environ = os.environ.get("STATE_DIRECTORY", "")
    if loaded is None:
        return last_good.find(path, last_good.directories(path, given=state_dir, environ=environ), _damaged)
    others = [state_dir] if state_dir is not None else [Path(one) for one in environ.split(":") if one]
    return last_good.find(path, [Path(loaded.config.node.state_dir), *others], _damaged)


def _damaged(why: str) -> None:
    log.error("config.last_good_damaged", error=why)


def _suspicious(found: Found | None, loaded: Loaded | None) -> str:
    if found is None or loaded is None or found.head.digest == loaded.digest:
        return ""
    return "; ".join(suspicions(found.head.census, census_of(loaded)))


class _UnusableError(Exception):
    pass


def _with_last_good(path: Path, found: Found, why: str, *, gone_back: bool, node: str | None = None) -> Start:
    """Raises _UnusableError."""
    try:
        loaded = Reading(found.path, kept=True, node=node).result()
    except ConfigError as error:
        raise _UnusableError(f"{found.path}: {cut(str(error.problems[0]))}") from None
    except RuntimeError as error:
        raise _UnusableError(str(error)) from None
    saved = datetime.fromtimestamp(found.head.saved, UTC).isoformat(timespec="seconds")
    print(
        f"anycast: {named(str(path))}: {why}: started with the last good configuration, of {saved}",
        file=sys.stderr,
    )
    now = time.monotonic()
    force = (
        InForce(stage=Stage.GONE_BACK, since=now)
        if gone_back
        else InForce(last_good=LastGood(since=now, saved=found.head.saved, why=why))
    )
    told = {"config": str(path), "why": why, "saved": saved}
    return Start(loaded=loaded, force=force, saved=found.head.digest, told=told)
