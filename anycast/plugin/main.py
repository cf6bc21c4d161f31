"""`anycast announce`: the loop between ExaBGP's pipes and the agent's lease. Run by ExaBGP, one thread.

It ends when ExaBGP ends, and ends ExaBGP when that no longer answers: routes nobody answers for must go.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from ipaddress import ip_network

from anycast.core.values.route import Mark, Prefix, Route
from anycast.plugin import has, journal, link, loop
from anycast.plugin.guardian import PATIENCE, Guardian
from anycast.plugin.loop import REPORT_EVERY
from anycast.plugin.plan import Planner
from anycast.service_manager import ServiceManager

GOODBYE = 2.0  # seconds the withdraws may take after SIGTERM
START_ERROR_PAUSE = 15.0  # seconds: ExaBGP gives up on a plugin that dies more than five times in 64 s
NO_JOURNAL = "no --journal was given"

HELP = """\
usage: anycast announce --socket PATH [--journal FILE] [--own PREFIX]... [--view AS:N:ID] [--hang-limit SECONDS]

ExaBGP runs this, not a person. It announces the routes that the agent leases to it, and withdraws them when the lease
runs out. It stands on the `run` line of ExaBGP's process section, as `anycast render exabgp` writes it.
To see what is announced: `anycast status`.
"""

EXIT_OK, EXIT_FAILURE, EXIT_USAGE = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """`hang_limit`: seconds after which a hung plugin takes ExaBGP along, where no watchdog does; 0: never.

    `rendered`: which configuration ExaBGP runs with, for the agent to compare. `view`: the mark of this node's paths, where
    routers send back what they have. `error`: why the command line cannot be used; what is owned is withdrawn nevertheless.
    """

    socket: str = ""
    journal: str = ""
    own: tuple[Prefix, ...] = ()
    hang_limit: float = PATIENCE
    rendered: str = ""
    view: Mark | None = None
    error: str = ""


_WORDS = ("--socket", "--journal", "--own", "--hang-limit", "--rendered", "--view")


def parse_options(argv: list[str]) -> Options:
    """By hand: argparse takes a second for the prefixes of five thousand VIPs, in which they stay announced."""
    given: dict[str, list[str]] = {word: [] for word in _WORDS}
    words = iter(argv)
    wrong = ""
    for word in words:
        name, equals, value = word.partition("=")
        if name not in given:
            wrong = wrong or f"{word}: not an option of anycast announce"
        elif (text := value if equals else next(words, None)) is None:
            wrong = wrong or f"{word}: a value is missing"
        else:
            given[name].append(text)
    own: list[Prefix] = []
    for text in given["--own"]:
        try:
            own.append(ip_network(text))
        except ValueError as error:
            wrong = wrong or f"--own {text}: {error}"
    hang_limit = PATIENCE
    try:
        hang_limit = float(given["--hang-limit"][-1]) if given["--hang-limit"] else PATIENCE
    except ValueError as error:
        wrong = wrong or f"--hang-limit: {error}"
    view = None
    try:
        view = _mark(given["--view"][-1]) if given["--view"] else None
    except ValueError as error:
        wrong = wrong or f"--view: {error}"
    socket_path, journal_path, rendered = (
        next(reversed(given[word]), "") for word in ("--socket", "--journal", "--rendered")
    )
    return Options(
        socket=socket_path,
        journal=journal_path,
        own=tuple(own),
        hang_limit=hang_limit,
        rendered=rendered,
        view=view,
        error=wrong or ("" if socket_path else "--socket PATH is missing"),
    )


def _mark(text: str) -> Mark:
    try:
        asn, function, number = map(int, text.split(":"))
    except ValueError:
        raise ValueError(f"expected three numbers as in 65001:1179:1, found {text}") from None
    return asn, function, number


def main(argv: list[str]) -> int:
    """Exit status: 0 at the end of ExaBGP or by SIGTERM, 1 on failure, 2 on a wrong command line."""
    if argv in (["--help"], ["-h"]) or os.isatty(0):
        # Not on standard output: what stands there is a command to ExaBGP.
        os.write(2, HELP.encode())
        return EXIT_OK if argv and argv[0] in ("--help", "-h") else EXIT_USAGE
    # A stray print must never become a command: from here on 1 is stderr.
    commands_fd = os.dup(1)
    os.dup2(2, 1)
    os.umask(0o022)
    os.chdir("/")
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    log = link.Log()
    options = parse_options(argv)
    try:
        exabgp = link.ExaBgpLink(0, commands_fd)
        return Plugin(options, exabgp, log).run()
    except link.Gone:
        return EXIT_OK
    except Exception as error:  # noqa: BLE001 - the next life withdraws, so end and say why
        loop.unexpected(error, log)
        return EXIT_FAILURE


class Plugin:
    """Everything with a file descriptor or a clock around one `Planner`."""

    def __init__(self, options: Options, exabgp: link.ExaBgpLink, log: link.Log) -> None:
        self._options = options
        self._exabgp = exabgp
        self._say = log
        self._pid, self._parent = os.getpid(), os.getppid()
        now = time.monotonic()
        self._plan = Planner(own=options.own, journal=self._load(now), mark=options.view, now=now)
        if not options.journal:
            self._plan.journal_failed(NO_JOURNAL, now)
        self._agent = link.AgentLink(options.socket)
        self._manager = ServiceManager(os.environ)
        # A service manager that looks after the plugin does the same, and knows better.
        guarded = options.hang_limit > 0 and self._manager.interval is None
        self._guardian = Guardian(self._parent, options.hang_limit, log) if guarded else None
        self._stop_at: float | None = None  # the instant after which nothing is waited for
        self._showed_at = 0.0
        self._has: has.Has | None = None  # as it was written
        self._has_at = now  # the instant from which it may be
        self._waiting = loop.Waiting()
        denied = (
            f"{options.socket}: permission denied for uid {os.geteuid()}: nothing is announced (run ExaBGP as "
            "node.exabgp_user, in the group of the socket: node.lease_group)"
        )
        self._leases = loop.LeaseEnd(self._agent, self._plan, self._waiting, log, denied)

    def run(self) -> int:
        """Until the end. Raises link.Gone when ExaBGP has gone."""
        try:
            return self._run()
        finally:
            if self._guardian is not None:
                self._guardian.close()

    def _run(self) -> int:
        self._waiting.catch_signals()
        now = time.monotonic()
        # Before anything else: what we may own is withdrawn.
        self._write(now)
        try:
            self._waiting.read(self._exabgp.stdin)
        except PermissionError:
            self._say("stdin is no pipe: ExaBGP runs this, on the `run` line of a process section", now)
            return EXIT_USAGE
        self._feed_guardian(now)
        give_up = now + START_ERROR_PAUSE if self._options.error else None
        if self._options.error:
            self._say(f"{self._options.error}; everything owned is withdrawn", now)
        while True:
            self._wait(now)
            now = time.monotonic()
            status = self._pass(now)
            if status is not None:
                return status
            self._feed_guardian(now)
            if give_up is not None and now >= give_up:
                return EXIT_USAGE

    def _pass(self, now: float) -> int | None:
        for line in self._exabgp.read():
            self._plan.line(line, now)
        if self._plan.stopped:
            return EXIT_OK
        if not self._options.error:
            self._leases.read(now)
        self._waiting.awake()
        if self._waiting.signalled and self._stop_at is None:
            self._stop_at = now + GOODBYE
            self._plan.stop(now)
        self._plan.tick(now)
        if self._plan.stuck is not None:
            return self._end_exabgp(self._plan.stuck, now)
        self._write(now)
        if self._leases.is_due(now):
            rendered = self._options.rendered
            report = self._plan.report(pid=self._pid, exabgp_pid=self._parent, rendered=rendered)
            self._leases.send(report, now)
        self._show(now)
        self._tell_what_it_has(now)
        for text in self._plan.log:
            self._say(text, now)
        self._plan.log.clear()
        self._manager.passed(now, ready=self._plan.ready)
        if self._stop_at is not None and (self._plan.all_down or now >= self._stop_at):
            return EXIT_OK
        return None

    def _feed_guardian(self, now: float) -> None:
        if self._guardian is not None:
            self._guardian.passed(now)

    def _wait(self, now: float) -> None:
        self._waiting.watch("stdout", self._exabgp.stdout, read=False, write=self._exabgp.wants_write)
        self._waiting.until(self._leases.wakes(now, self._manager.interval))

    def _write(self, now: float) -> None:
        writing = self._plan.journal(now)
        if writing is not None:
            self._store(writing, now)
        self._exabgp.write(self._plan.commands(now))

    def _load(self, now: float) -> tuple[Route, ...]:
        if not self._options.journal:
            return ()
        try:
            return journal.load(self._options.journal)
        except FileNotFoundError:
            return ()
        except (OSError, ValueError) as error:
            self._say(f"the journal is not usable, only the prefixes of --own are known: {error}", now)
            return ()

    def _store(self, writing: journal.Writing, now: float) -> None:
        if not self._options.journal:
            self._plan.journal_failed(NO_JOURNAL, now)
            return
        try:
            try:
                journal.store(self._options.journal, writing)
            except FileNotFoundError:
                writing = self._plan.whole_journal()
                journal.store(self._options.journal, writing)
        except OSError as error:
            self._plan.journal_failed(str(error), now)
        else:
            self._plan.journaled(writing, now)

    def _show(self, now: float) -> None:
        """What the routers have: now and then, and some of it at a time."""
        if now - self._showed_at < REPORT_EVERY or not self._agent.is_ready(now):
            return
        change = self._plan.view()
        if change is not None:
            self._showed_at = now
            self._agent.show(change)

    def _tell_what_it_has(self, now: float) -> None:
        found = self._plan.has(self._parent)
        if found == self._has or not self._options.journal or not found.mark or now < self._has_at:
            return
        try:
            has.store(has.path_beside(self._options.journal), found)
            self._has = found
        except OSError as error:
            self._has_at = now + journal.RETRY
            self._say(
                f"what ExaBGP has read cannot be written, and no reload of it can be confirmed: {error}", now
            )

    def _end_exabgp(self, why: str, now: float) -> int:
        """ExaBGP holds routes and does not answer: without it they go within 80 ms."""
        self._say(f"ExaBGP is stuck ({why}): ending process {self._parent}", now)
        stdin = self._exabgp.stdin
        error = link.end_exabgp(
            self._parent, plugin=self._pid, ended=lambda seconds: link.drained(stdin, seconds)
        )
        if error:
            self._say(f"ExaBGP is stuck and could not be ended: {error}", now)
        return EXIT_FAILURE
