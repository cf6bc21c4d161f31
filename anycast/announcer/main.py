"""`anycast announce-table`: the loop between the agent's lease and a table of the kernel. Its unit runs it, one thread.

Nothing removes the routes of a program that has died or hangs. So the first act of every life, and of `--clear`, which the
unit runs after each end, is to remove what is ours; and the service manager's watchdog ends one that hangs.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from anycast.announcer.kernel import Table
from anycast.announcer.link import BirdLink
from anycast.announcer.plan import MOST_MOVES, Plan
from anycast.kernel.netlink_codec import Malformed
from anycast.plugin import link, loop
from anycast.plugin.loop import IDLE
from anycast.service_manager import ServiceManager

GOODBYE = 2.0  # seconds that the removal may take after SIGTERM
READ_EVERY = 1.0  # seconds between two looks at what is ours in the table
LOOK_EVERY = 30.0  # seconds between two looks at what is not ours
CLEAR_TRIES = 20
_NAME = "anycast announce-table"

HELP = """\
usage: anycast announce-table [--table N] [--socket PATH] [--bird PATH] [--clear]

The unit anycast-table runs this, not a person. It writes the routes that the agent leases to it into the table N of the
kernel, where a routing daemon learns them, and removes them when the lease runs out. What is not given is taken from the
environment, as `anycast render table-env` writes it: ANYCAST_TABLE, ANYCAST_LEASE, ANYCAST_BIRD (empty: no BIRD is asked).
With --clear it removes what is ours in the table, and ends. To see what is announced: `anycast status`.
"""

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_CONFIG = 0, 1, 2, 78


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`error`: why the command line cannot be used. `bird`: empty: it is not asked."""

    table: int = 0
    socket: str = ""
    bird: str = ""
    clear: bool = False
    error: str = ""


def parse_options(argv: list[str], environ: dict[str, str]) -> Options:
    """By hand, as argparse is slow to import."""
    given = {
        "--table": environ.get("ANYCAST_TABLE", ""),
        "--socket": environ.get("ANYCAST_LEASE", ""),
        "--bird": environ.get("ANYCAST_BIRD", ""),
    }
    clear, error = False, ""
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name == "--clear":
            clear = True
        elif name not in given:
            error = error or f"{word}: not an option of {_NAME}"
        elif (text := value if equals else next(words, None)) is None:
            error = error or f"{word}: a value is missing"
        else:
            given[name] = text
    number = given["--table"]
    table = int(number) if number.isascii() and number.isdigit() and len(number) <= 10 else 0
    if not 0 < table < 2**32 or table in (253, 254, 255):
        error = error or (
            f"--table {number}: not the number of a table of our own"
            if number
            else "no table is given: the routes of this node are ExaBGP's to announce (speaker in its configuration)"
        )
    if not given["--socket"] and not clear:
        error = error or "--socket PATH is missing"
    return Options(table=table, socket=given["--socket"], bird=given["--bird"], clear=clear, error=error)


def main(argv: list[str]) -> int:
    """Exit status: 0 by SIGTERM, 1 on failure, 2 on a wrong command line, 78 where there is no table to write to."""
    if argv in (["--help"], ["-h"]):
        os.write(1, HELP.encode())
        return EXIT_OK
    options = parse_options(argv, dict(os.environ))
    log = link.Log(name=_NAME)
    if options.clear and not options.table and not argv[1:]:
        return EXIT_OK  # nothing of ours has been written
    if options.error:
        log(options.error, time.monotonic())
        return EXIT_USAGE if argv and not options.clear else EXIT_CONFIG
    os.chdir("/")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if options.clear:
        return clear(options.table, log)
    try:
        return Announcer(options, log).run()
    except Exception as error:  # noqa: BLE001 - the next life removes, so end and say why
        loop.unexpected(error, log)
        return EXIT_FAILURE


def clear(number: int, log: link.Log) -> int:
    """Removes what is ours, until nothing is: another life may still be writing."""
    table, plan = Table(number), Plan(number)
    why = ""
    for _ in range(CLEAR_TRIES):
        now = time.monotonic()
        try:
            plan.found(table.ours(), now)
            while moves := plan.moves(now):
                plan.wrote(moves, table.write(moves), now)
        except (OSError, Malformed) as error:
            why = str(error)
            time.sleep(0.05)
            continue
        if plan.all_down:
            return EXIT_OK
        why = plan.log[-1] if plan.log else ""
        time.sleep(0.05)
    log(f"routes of ours may still be in the table {number}: {why}", time.monotonic())
    return EXIT_FAILURE


class Announcer:
    """Everything with a file descriptor or a clock around one `Plan`."""

    def __init__(self, options: Options, log: link.Log) -> None:
        self._say = log
        self._pid = os.getpid()
        now = time.monotonic()
        self._plan = Plan(options.table)
        self._table = Table(options.table)
        self._bird = BirdLink(options.bird, now) if options.bird else None
        self._manager = ServiceManager(os.environ)
        self._read_at = self._look_at = now
        self._wrote_at = 0.0
        self._stop_at: float | None = None  # the instant after which nothing is waited for
        self._waiting = loop.Waiting()
        denied = (
            f"{options.socket}: permission denied for uid {os.geteuid()}: nothing is announced (run the announcer as "
            "speaker.user, in the group of the socket: node.lease_group)"
        )
        self._leases = loop.LeaseEnd(link.AgentLink(options.socket), self._plan, self._waiting, log, denied)

    def run(self) -> int:
        """Until SIGTERM."""
        self._waiting.catch_signals()
        now = time.monotonic()
        while True:
            status = self._pass(now)
            if status is not None:
                return status
            self._wait(now)
            now = time.monotonic()

    def _pass(self, now: float) -> int | None:
        # Before anything is heard of the agent: what a life before has left is removed.
        self._kernel(now)
        if self._plan.ready:
            self._leases.read(now)
        self._waiting.awake()
        if self._waiting.signalled and self._stop_at is None:
            self._stop_at = now + GOODBYE
            self._manager.stopping()
            self._plan.stop(now)
        self._plan.tick(now)
        self._write(now)
        self._ask_bird(now)
        if self._leases.is_due(now):
            self._leases.send(self._plan.report(pid=self._pid), now)
        for text in self._plan.log:
            self._say(text, now)
        self._plan.log.clear()
        self._manager.passed(now, ready=self._plan.ready)
        if self._stop_at is not None and (self._plan.all_down or now >= self._stop_at):
            return EXIT_OK if self._plan.all_down else EXIT_FAILURE
        return None

    def _kernel(self, now: float) -> None:
        if now >= self._read_at:
            self._read_at = now + (READ_EVERY if self._plan.read else IDLE)
            try:
                self._plan.found(self._table.ours(), now)
                if now >= self._look_at:
                    self._look_at = now + LOOK_EVERY
                    self._plan.foreign(self._table.foreign())
            except (OSError, Malformed) as error:
                self._plan.unread(f"the table cannot be read: {error}")
            self._write(now)

    def _write(self, now: float) -> None:
        """All that is due, a batch at a time: none waits for the next pass, for a lease may be over by then."""
        for _ in range(MOST_MOVES):
            moves = self._plan.moves(now)
            if not moves:
                return
            try:
                self._plan.wrote(moves, self._table.write(moves), now)
            except (OSError, Malformed) as error:
                self._plan.unread(f"the table cannot be written: {error}")
                self._read_at = now
                return
            self._manager.passed(time.monotonic(), ready=self._plan.ready)

    def _ask_bird(self, now: float) -> None:
        if self._bird is None:
            return
        if self._plan.wrote_at != self._wrote_at:
            self._wrote_at = self._plan.wrote_at
            self._bird.bird.changed(now)
        before = self._bird.connections, self._bird.fileno
        self._bird.step(now)
        if (self._bird.connections, self._bird.fileno) != before:
            self._waiting.forget("bird")  # its number may be another connection's now
        self._plan.seen(self._bird.bird.view)

    def _wait(self, now: float) -> None:
        if self._bird is not None:
            self._waiting.watch("bird", self._bird.fileno, write=self._bird.wants_write)
        self._waiting.until(self._leases.wakes(now, self._manager.interval))
