"""Agent, plugin and ExaBGP together, each of which may crash, hang or lose what it was told, at any point.

The agent is the core with an ideal kernel, its crashes counted as on disk. The plugin is the whole of `Plugin` with
pipes, journal and socket as they are; only its clock is ours. ExaBGP is the model of test_plugin_model.py behind
real pipes, and a router that forgets what a dead session announced. What must hold in every instant: no route outlives
the last lease that had it by more than the TTL and the bound of the failure at hand.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from anycast.core import events as ev
from anycast.core.dataplane.kernel import Snapshot
from anycast.core.health.phase import Outcome
from anycast.core.maintenance.stages import NODE
from anycast.core.step import next_wake
from anycast.core.values.configuration import Timing
from anycast.core.values.report import Report
from anycast.core.values.route import Prefix
from anycast.core.vip import hold
from anycast.core.vip.hold import Starts
from anycast.lease import (
    NO_REPORT,
    Ask,
    Decoder,
    Hello,
    Lease,
    ReportChange,
    change_of,
    encode,
    report_after,
)
from anycast.plugin import link, main
from anycast.plugin.conversation import SILENCE
from anycast.plugin.plan import SETTLE as SAY_AGAIN
from anycast.plugin.prefixes import RETRY_ANNOUNCE
from tests.fakes import Node, route, vip
from tests.property.exabgp_model import PILE, ExaBgp

STEP = 0.1  # seconds; every process that runs gets a turn in each
TTL = 2.0
HOLD_TIME = 9.0  # of the session
WATCHDOG = 10.0  # of the plugin
EXABGP_RESTART = 1.0
RECONNECT = 1.0
DEATHS, DEATHS_IN = 5, 64.0  # of plugins that ExaBGP bears
CHECK_EVERY = 0.5
# With all three at work: the turns it takes, and what a session that has just come up says twice.
SLACK = SAY_AGAIN + PILE + 6 * STEP
# Whatever fails: a hung plugin is ended and its successor meets an ExaBGP that has just hung.
WORST = WATCHDOG + HOLD_TIME + SLACK
CONVERGED = RETRY_ANNOUNCE + SILENCE + EXABGP_RESTART + RECONNECT + 2 * WATCHDOG + 10.0
VIPS = {route(1): (1, 2, 3), route(2): (4, 5, 6)}
QUIET = SILENCE + 2 * SAY_AGAIN  # so long it must stay as it is wanted
TIMING = Timing(lease_ttl=TTL, drain=0.5, settle=0.3, quiet_limit=1.0, start_hold_limit=2.0)
PAGE = 4096
BOOT = "boot"
JUNK = b'{ "exabgp": "5.0.0", "type": "signal" }\n'


# Steps after something happened: the next may come at once, or when it has taken its course.
THEN = st.sampled_from((0, 1, 3, 8, 30, 60))


def happens(**drawn: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule after which some time passes."""

    def made(fault: Callable[..., None]) -> Any:
        @functools.wraps(fault)
        def both(self: Triangle, then: int, **values: Any) -> None:
            fault(self, **values)
            self.run(then)

        decorate: Any = rule(then=THEN, **drawn)
        return decorate(both)

    return made


@dataclass
class Peer:
    """A plugin, as the agent sees it."""

    socket: socket.socket
    decoder: Decoder
    backlog: bytearray
    knows_changes: bool = False
    seq: int | None = None  # of the lease that is at the end of the backlog
    newest: bytes = b""
    report: Report = NO_REPORT

    def give(self, lease: Lease, before: Lease | None) -> None:
        if self.knows_changes and before is not None and self.seq == lease.base == before.seq:
            self.newest = encode(change_of(lease, before.owned))
        else:
            self.newest = encode(lease)
        self.seq = lease.seq
        self.backlog += self.newest

    def heard(self, message: Report | ReportChange) -> None:
        if isinstance(message, ReportChange):
            message = report_after(self.report, message)
        self.report = message


class Agent(Node):
    """The core, and a lease socket whose buffers the test can hold back or cut."""

    def __init__(self, path: Path, *, now: float, found: Snapshot, crashes: int) -> None:
        self.newest: Lease | None = None
        self.issued: dict[Any, float] = {}
        self.peers: dict[int, Peer] = {}
        self.met = 0
        self.checked = now
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        path.unlink(missing_ok=True)
        self.listener.bind(str(path))
        self.listener.listen()
        vips = (vip("web", number=1, servers=(1, 2, 3)), vip("log", number=2, servers=(4, 5, 6)))
        super().__init__(*vips, found=found, now=now, crashes=crashes, timing=TIMING)

    def _perform(self, effects: tuple[ev.Effect, ...]) -> None:
        for effect in effects:
            if isinstance(effect, ev.SendLease):
                before, self.newest = self.newest, effect.lease
                for peer in self.peers.values():
                    peer.give(effect.lease, before)
                self.issued |= dict.fromkeys(effect.lease.routes, effect.lease.issued)
        super()._perform(effects)

    def turn(self, now: float, failing: set[int], *, silent: bool) -> None:
        self.now = now
        with contextlib.suppress(BlockingIOError):
            accepted, _ = self.listener.accept()
            accepted.setblocking(False)
            self.met += 1
            self.peers[self.met] = Peer(accepted, Decoder(), bytearray(encode(Hello())))
            self.send(ev.PluginConnected(source=self.met))
        for source, peer in list(self.peers.items()):
            self._hear(source, peer)
        if now >= self.checked + CHECK_EVERY:
            self.checked = now
            for servers in VIPS.values():
                for server in servers:
                    self.checks(Outcome.FAIL if server in failing else Outcome.OK, server, times=1)
        while self.exit is None and next_wake(self.state, now) <= now:
            self.tick()
        if not silent:
            self.flush()

    def _hear(self, source: int, peer: Peer) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                data = peer.socket.recv(1 << 20)
            except ConnectionError:
                data = b""
            if not data:
                peer.socket.close()
                del self.peers[source]
                self.send(ev.PluginLost(source=source))
            for message in peer.decoder.feed(data):
                if isinstance(message, Ask):
                    peer.knows_changes = True
                    if self.newest is not None:
                        peer.give(self.newest, None)
                else:  # an agent that says nothing may be one that knows no differences
                    assert isinstance(message, Report | ReportChange)
                    peer.heard(message)
                    self.send(ev.PluginReported(source=source, report=peer.report))

    def flush(self, size: int | None = None) -> None:
        for peer in self.peers.values():
            data = bytes(peer.backlog[:size])
            with contextlib.suppress(OSError):
                peer.socket.sendall(data)
            del peer.backlog[: len(data)]

    def again(self, times: int) -> None:
        """The newest that each was sent comes once more."""
        for peer in self.peers.values():
            peer.backlog += peer.newest * times

    def lose(self) -> None:
        """What waits for the plugins is lost, but for what they were told at first."""
        for peer in self.peers.values():
            if peer.seq is not None:
                peer.backlog.clear()

    def close(self) -> None:
        self.listener.close()
        for peer in self.peers.values():
            peer.socket.close()


class Silent(link.Log):
    def __call__(self, text: str, now: float) -> None:
        pass


class Plugin(main.Plugin):
    """`ended`: it ended ExaBGP."""

    ended = False

    def _end_exabgp(self, why: str, now: float) -> int:
        self.ended = True
        return main.EXIT_FAILURE

    def close(self) -> None:
        for fd in (self._exabgp.stdin, self._exabgp.stdout):
            os.close(fd)
        self._agent.close()
        self._waiting.close()


class Daemon(ExaBgp):
    """ExaBGP with pipes to a plugin that it starts again and again."""

    def __init__(self, world: Triangle) -> None:
        super().__init__()
        self.world = world
        self.refuses = world.refused
        self.plugin: Plugin | None = None
        self.deaths: list[float] = []
        self.own: set[str] = set()  # prefixes that this life of the plugin has announced
        self.reading = bytearray()
        self.writing = bytearray()
        self.to_plugin = self.from_plugin = -1
        self.swallow = 0  # answers that get lost
        self.lossy = False
        self.blocked = False  # in a write to a plugin that does not read

    def spawn(self, now: float) -> None:
        stdin, self.to_plugin = os.pipe()
        self.from_plugin, stdout = os.pipe()
        for fd in (self.to_plugin, self.from_plugin):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PAGE)
            os.set_blocking(fd, False)
        self.reading.clear()
        self.own.clear()
        self.plugin = Plugin(self.world.options, link.ExaBgpLink(stdin, stdout), Silent())
        self.plugin._write(now)  # what `run` does first

    def bury(self, now: float) -> None:
        """The plugin is dead: its pipes go, its routes stay."""
        assert self.plugin is not None
        self.plugin.close()
        self.plugin = None
        self.deaths = [at for at in self.deaths if now - at < DEATHS_IN] + [now]

    def turn(self, now: float) -> None:
        """Raises ChildProcessError: too many plugins died."""
        self._read()
        self.send(now)
        self._write()
        if self.plugin is None:
            self.drop_pipes()
            if len(self.deaths) > DEATHS:
                raise ChildProcessError
            self.spawn(now)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.from_plugin >= 0 and not self.blocked and (data := os.read(self.from_plugin, PAGE)):
                self.reading += data
        *lines, rest = bytes(self.reading).split(b"\n")
        self.reading[:] = rest
        for line in filter(None, lines):
            text = line.decode("ascii")
            if text.startswith("announce"):
                assert self.cache.keys() <= self.own, "announced before what was there is withdrawn"
                self.own.add(text.split()[2])
            self.commands.append(text)
            self.read_one()

    def _write(self) -> None:
        for line in self.output:
            if self.swallow and line in {"done", "error"}:
                self.swallow -= 1
                self.lossy = True
            else:
                self.writing += line.encode() + b"\n"
        self.output.clear()
        self.blocked = False
        if self.to_plugin < 0 or self.plugin is None:
            return
        try:
            while self.writing:
                del self.writing[: os.write(self.to_plugin, self.writing)]
        except BlockingIOError:
            self.blocked = True

    def drop_pipes(self) -> None:
        for fd in (self.to_plugin, self.from_plugin):
            if fd >= 0:
                os.close(fd)
        self.to_plugin = self.from_plugin = -1

    def close(self) -> None:
        if self.plugin is not None:
            self.plugin.close()
            self.plugin = None
        self.drop_pipes()


class Triangle(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.directory = Path(tempfile.mkdtemp(prefix="triangle"))
        self.socket = self.directory / "lease.sock"
        self.options = main.Options(socket=str(self.socket), journal=str(self.directory / "journal"))
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(main, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.kernel = Snapshot(table={}, addresses=frozenset(), sysctls={})
        self.starts: Starts | None = None
        self.agent: Agent | None = None
        self.agent_hangs = self.agent_is_silent = False
        self.daemon: Daemon | None = None
        self.plugin_hung: float | None = None
        self.exabgp_hung: float | None = None
        self.exabgp_back = self.now
        self.session_back = self.now
        self.router_away = False
        self.failing: set[int] = set()
        self.refused: set[str] = set()  # by ExaBGP, whichever runs
        self.proof: dict[str, float] = {}  # of the last lease that had the route
        self.calm_since = self.now  # something was not at work before

    @initialize(named=st.booleans())
    def start(self, *, named: bool) -> None:
        if named:  # on its command line: it can do without a journal
            self.options = main.Options(socket=str(self.socket), own=tuple(VIPS))
        self.start_agent()
        self.run(30)
        assert self.announced() == set(map(str, VIPS))

    def teardown(self) -> None:
        try:
            self.faults_end()
        finally:
            self.patch.undo()
            for one in (self.agent, self.daemon):
                if one is not None:
                    one.close()
            shutil.rmtree(self.directory)

    def announced(self) -> set[str]:
        """By the router."""
        return set() if self.daemon is None else set(self.daemon.router)

    # One step of time.

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.now = round(self.now + STEP, 3)
            self.turn_of_the_agent()
            self.turn_of_the_plugin()
            self.turn_of_exabgp()
            self.turn_of_the_plugin()
            self.no_route_outlives_its_proof()
            self.what_is_acknowledged_as_withdrawn_is_in_no_table()

    def turn_of_the_agent(self) -> None:
        if self.agent is None or self.agent_hangs:
            return
        self.agent.turn(self.now, self.failing, silent=self.agent_is_silent)
        self.proof |= {str(prefix): issued for prefix, issued in self.agent.issued.items()}

    def turn_of_the_plugin(self) -> None:
        daemon = self.daemon
        if daemon is None or daemon.plugin is None:
            return
        if self.plugin_hung is not None:
            if self.now - self.plugin_hung >= WATCHDOG:
                self.bury_plugin()
            return
        plugin = daemon.plugin
        try:
            ended = plugin._pass(self.now) is not None
        except link.Gone:
            ended = True
        if plugin.ended:
            self.bury_exabgp()
        elif ended:
            self.bury_plugin()

    def turn_of_exabgp(self) -> None:
        if self.daemon is None:
            if self.now >= self.exabgp_back:
                self.daemon = Daemon(self)
                self.daemon.spawn(self.now)
                self.session_back = self.now + RECONNECT
            return
        stands_still = self.exabgp_hung
        if stands_still is not None and self.now - stands_still >= HOLD_TIME and self.daemon.up:
            self.session_goes_down()
        if self.exabgp_hung is None:
            wants = not self.daemon.up and self.now >= self.session_back and not self.router_away
            if wants and not self.daemon.blocked:
                self.daemon.session(self.now, up=True)
            try:
                self.daemon.turn(self.now)
            except ChildProcessError:
                self.bury_exabgp()
                return
            if self.daemon.blocked:
                self.exabgp_hung = self.now  # nothing of it goes on, keepalives neither
        elif self.daemon.blocked:
            self.daemon._write()
            if not self.daemon.blocked:
                self.exabgp_hung = None

    def start_agent(self) -> None:
        self.starts = hold.started(self.starts, boot=BOOT, now=self.now)
        self.agent = Agent(self.socket, now=self.now, found=self.kernel, crashes=self.starts.count)
        self.agent_hangs = self.agent_is_silent = False

    def bury_plugin(self) -> None:
        assert self.daemon is not None
        self.plugin_hung = None
        self.daemon.bury(self.now)

    def bury_exabgp(self) -> None:
        assert self.daemon is not None
        self.daemon.close()
        self.daemon = None
        self.plugin_hung = self.exabgp_hung = None
        self.exabgp_back = self.now + EXABGP_RESTART

    def session_goes_down(self) -> None:
        assert self.daemon is not None
        self.daemon.session(self.now, up=False)
        self.session_back = self.now + RECONNECT

    def no_route_outlives_its_proof(self) -> None:
        daemon = self.daemon
        disturbed = (
            daemon is None
            or daemon.plugin is None
            or daemon.lossy
            or daemon.blocked
            or not daemon.up
            or self.plugin_hung is not None
            or self.exabgp_hung is not None
        )
        if disturbed:
            self.calm_since = self.now
        for prefix in self.announced():
            over = self.now - (self.proof[prefix] + TTL)
            assert over <= WORST, f"{prefix} outlives its proof by {over:g} s"
            calm = self.now - max(self.proof[prefix] + TTL, self.calm_since)
            assert calm <= SLACK, f"{prefix} outlives its proof by {over:g} s, {calm:g} s of them calm"

    def what_is_acknowledged_as_withdrawn_is_in_no_table(self) -> None:
        daemon = self.daemon
        if daemon is None or daemon.plugin is None or daemon.lossy:
            return
        report = daemon.plugin._plan.report(pid=1, exabgp_pid=2)
        assert daemon.cache.keys() <= {str(prefix) for prefix in report.announced}

    # What happens.

    @precondition(lambda self: self.agent is None)
    @happens()
    def agent_is_back(self) -> None:
        self.start_agent()

    @precondition(lambda self: self.agent is not None)
    @happens(cut=st.integers(0, 2000))
    def agent_crashes(self, cut: int) -> None:
        """Anywhere in what it writes."""
        assert self.agent is not None
        self.agent.flush(cut)
        self.kernel = self.agent.kernel
        self.agent.close()
        self.agent = None

    @precondition(lambda self: self.agent is not None)
    @happens()
    def agent_hangs_or_goes_on(self) -> None:
        self.agent_hangs = not self.agent_hangs

    @precondition(lambda self: self.agent is not None)
    @happens()
    def leases_are_held_back_or_come_at_once(self) -> None:
        self.agent_is_silent = not self.agent_is_silent

    @precondition(lambda self: self.agent is not None and not self.agent_is_silent)
    @happens(times=st.integers(1, 3))
    def a_lease_comes_again(self, times: int) -> None:
        assert self.agent is not None
        self.agent.again(times)

    @precondition(lambda self: self.agent is not None)
    @happens()
    def leases_that_were_held_back_are_lost(self) -> None:
        assert self.agent is not None
        self.agent.lose()

    @precondition(lambda self: self.agent is not None and not self.agent_hangs)
    @happens(on=st.booleans())
    def the_node_goes_into_maintenance_or_comes_back(self, *, on: bool) -> None:
        assert self.agent is not None
        self.agent.now = self.now
        self.agent.maintain(NODE, on=on)

    @happens(servers=st.sampled_from(((), (1, 2, 3), (4, 5, 6), (1, 2, 3, 4, 5, 6))))
    def servers_fail(self, servers: tuple[int, ...]) -> None:
        self.failing = set(servers)

    @precondition(lambda self: self.daemon is not None and self.daemon.plugin is not None)
    @happens()
    def plugin_is_killed(self) -> None:
        self.bury_plugin()

    @precondition(lambda self: self.daemon is not None and self.daemon.plugin is not None)
    @happens()
    def plugin_hangs_or_goes_on(self) -> None:
        self.plugin_hung = self.now if self.plugin_hung is None else None

    @precondition(lambda self: self.daemon is not None)
    @happens()
    def exabgp_is_killed(self) -> None:
        self.bury_exabgp()

    @precondition(lambda self: self.daemon is not None and not self.daemon.blocked)
    @happens()
    def exabgp_hangs_or_goes_on(self) -> None:
        self.exabgp_hung = self.now if self.exabgp_hung is None else None

    @precondition(lambda self: self.daemon is not None)
    @happens(answers=st.integers(1, 4))
    def answers_get_lost(self, answers: int) -> None:
        assert self.daemon is not None
        self.daemon.swallow = answers

    @happens(prefix=st.sampled_from(tuple(VIPS)))
    def exabgp_starts_or_ends_refusing(self, *, prefix: Prefix) -> None:
        self.refused ^= {str(prefix)}

    @precondition(lambda self: self.daemon is not None and self.daemon.up)
    @happens(away=st.booleans())
    def the_session_resets(self, *, away: bool) -> None:
        self.router_away = away
        self.session_goes_down()

    @precondition(lambda self: self.router_away)
    @happens()
    def the_router_comes_back(self) -> None:
        self.router_away = False

    @precondition(lambda self: self.exabgp_hung is not None and self.daemon.plugin is not None)
    @happens()
    def the_pipe_to_exabgp_is_full(self) -> None:
        assert self.daemon is not None
        assert self.daemon.plugin is not None
        self._fill(self.daemon.plugin._exabgp.stdout, b"\n" * PAGE)

    @precondition(lambda self: self.plugin_hung is not None and self.daemon.plugin is not None)
    @happens()
    def the_pipe_to_the_plugin_is_full(self) -> None:
        assert self.daemon is not None
        self.daemon.writing += JUNK * (2 * PAGE // len(JUNK))

    @staticmethod
    def _fill(fd: int, data: bytes) -> None:
        with contextlib.suppress(BlockingIOError):
            while data:
                data = data[os.write(fd, data) :]

    def is_as_wanted(self) -> bool:
        wanted = set(map(str, VIPS))
        return self.daemon is not None and set(self.daemon.cache) == set(self.daemon.router) == wanted

    def faults_end(self) -> None:
        if self.agent is None:
            self.start_agent()
        if self.daemon is not None and not self.daemon.blocked:
            self.exabgp_hung = None
        if self.daemon is not None:
            self.daemon.swallow = 0
        assert self.agent is not None
        self.agent_hangs = self.agent_is_silent = self.router_away = False
        self.plugin_hung = None
        self.failing = set()
        self.refused.clear()
        self.agent.now = self.now
        self.agent.maintain(NODE, on=False)
        deadline, since = self.now + CONVERGED, self.now
        while self.now < since + QUIET:
            self.run(1)
            if not self.is_as_wanted():
                since = self.now
            assert since < deadline, f"the router has {self.announced()}"
        assert self.daemon is not None
        assert not any("65535:0" in text for text in self.daemon.router.values())


TestTriangle = pytest.mark.timeout(300)(Triangle.TestCase)
TestTriangle.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
