"""The engine with the real core, real checks and real files; the kernel is one that keeps what it is told."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import MappingProxyType
from unittest.mock import Mock

import pytest

from anycast import managers
from anycast.agent import engine as engines
from anycast.agent import maintenance_file, touch_file
from anycast.agent.answers import TooLateError
from anycast.agent.engine import Engine
from anycast.agent.recording import Recorder
from anycast.config.load import load
from anycast.config.loaded import Loaded
from anycast.config.problem import ConfigError, Mark, Problem
from anycast.core import events as ev
from anycast.core import in_force
from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane.ipvs import AddService, Key, ServiceKey, Settings
from anycast.core.health.phase import Outcome, Result
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import FILE, NODE, STOP, Maintenance
from anycast.core.state import CONTESTED, State
from anycast.core.step import step
from anycast.core.values.configuration import Address, Config, Protocol
from anycast.core.values.managers import Managers, Networkd, NetworkdLink
from anycast.core.values.report import Report
from anycast.core.values.standing import Condition
from anycast.core.vip.decide import Reason
from anycast.kernel.errors import KernelUnavailable
from anycast.lease import Lease
from anycast.ops.source import Tally

pytestmark = pytest.mark.usefixtures("reads_here")

WEB, MAIL = ip_network("192.0.2.1/32"), ip_network("192.0.2.2/32")
Prefixes = set[object]


class FakeKernel:
    """A kernel in memory. `trouble` is raised by every reading; while `hanging`, no reading ends."""

    def __init__(self) -> None:
        self.holds = kernels.Snapshot(table={}, addresses=frozenset(), sysctls={})
        self.asked: list[frozenset[Key] | None] = []  # which services; None: all
        self.played: list[tuple[kernels.KernelOp, ...]] = []
        self.failures: tuple[kernels.Failure, ...] = ()
        self.trouble: Exception | None = None
        self.hanging = False
        self.readings = 0
        self.watchers: asyncio.Queue[Callable[[frozenset[Address]], None]] = asyncio.Queue()
        self.break_watch = asyncio.Event()
        self.closed = False

    async def read(
        self,
        wanted_sysctls: Iterable[str],
        *,
        only: Iterable[Key] | None = None,
        alike: kernels.Desired | None = None,
        need: kernels.IpvsNeed = kernels.IpvsNeed.NEEDED,
        arriving: Mapping[str, tuple[Address, ...]] = MappingProxyType({}),
        discards: bool = False,
    ) -> kernels.Snapshot:
        del alike, need, arriving, discards
        self.readings += 1
        self.asked.append(None if only is None else frozenset(only))
        if self.hanging:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble
        return replace(self.holds, sysctls={name: self.holds.sysctls.get(name) for name in wanted_sysctls})

    async def play(self, ops: Sequence[kernels.KernelOp]) -> tuple[kernels.Failure, ...]:
        await asyncio.sleep(0)
        self.holds = kernels.play(self.holds, ops)
        self.played.append(tuple(ops))
        failures, self.failures = self.failures, ()
        return failures

    async def watch(self, on_change: Callable[[frozenset[Address]], None]) -> None:
        self.watchers.put_nowait(on_change)
        await self.break_watch.wait()
        self.break_watch.clear()
        raise ZeroDivisionError

    async def close(self) -> None:
        self.closed = True


class Site:
    """A node in `directory`: its file, its kernel, and the leases its engine sends."""

    def __init__(self, directory: Path, port: int) -> None:
        self.file = directory / "anycast.yaml"
        self.state_dir = directory / "state"
        self.touch_file = directory / "run" / "maintenance"
        self.touch_file.parent.mkdir(exist_ok=True)
        self.port = port
        self.kernel = FakeKernel()
        self.leases: asyncio.Queue[Lease] = asyncio.Queue()
        self.sent: list[Lease] = []
        self.write()

    def write(self, *extra: str) -> None:
        self.file.write_text(
            "\n".join(
                [
                    f"node: {{name: lb1, state_dir: {self.state_dir}, runtime_dir: {self.touch_file.parent}}}",
                    "bgp:",
                    "  local_as: 65001",
                    "  router_id: 10.2.1.1",
                    "  neighbors: [{address: 10.2.1.254, remote_as: 65000}]",
                    "timing: {drain: 0s, reconcile: 60s}",
                    "vips:",
                    f"  web: {{address: {WEB.network_address}, port: {self.port}, servers: [127.0.0.1]}}",
                    *extra,
                ]
            )
        )

    def write_with_mail(self) -> None:
        self.write(f"  mail: {{address: {MAIL.network_address}, port: {self.port}, servers: [127.0.0.1]}}")

    def engine(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        cpu: Callable[[], float] = time.thread_time,
        stood: Callable[[float, float], float] = lambda since, until: until - since,
        recorder: Recorder | None = None,
        passed: Callable[[float], None] = lambda _: None,
        node: str | None = None,
    ) -> Engine:
        loaded = load(self.file, node=node)
        return Engine(
            loaded,
            self.file,
            kernel=self.kernel,
            send_lease=self.take,
            clock=clock,
            wall=wall,
            cpu=cpu,
            stood=stood,
            recorder=recorder,
            passed=passed,
        )

    def take(self, lease: Lease) -> None:
        self.sent.append(lease)
        self.leases.put_nowait(lease)

    async def announced(self, *prefixes: object) -> Lease:
        """The next lease with exactly these."""
        while True:
            lease = await self.leases.get()
            if lease.routes.keys() == set(prefixes):
                return lease

    async def lease_where(self, engine: Engine, holds: Callable[[State], bool]) -> None:
        """Leases come several times a second: a clock that ticks with the engine's own work."""
        for _ in range(30):
            if holds(engine.state):
                return
            await self.leases.get()
        pytest.fail("it does not happen")


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(engine.run())
    try:
        yield task
    finally:
        engine.post(ev.StopRequested())
        await asyncio.wait({task})


def play(directory: Path, story: Callable[[Site], Awaitable[None]]) -> None:
    """Runs a story on a node with one real server that accepts. Nothing may go wrong unseen in the loop."""
    complaints: list[dict[str, object]] = []

    async def whole() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            await story(Site(directory, server.sockets[0].getsockname()[1]))
            assert asyncio.all_tasks() == {asyncio.current_task()}, "a task was left behind"

    asyncio.run(whole())
    assert complaints == []


def test_a_route_comes_up_once_the_kernel_holds_what_it_needs(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        async with running(site.engine()):
            await site.announced(WEB)
            assert WEB.network_address in site.kernel.holds.addresses
            assert [str(key) for key in site.kernel.holds.table] == [f"tcp {WEB.network_address}:{site.port}"]

    play(tmp_path, story)


def test_an_engine_that_is_stopped_withdraws_and_leaves_the_kernel_as_it_is(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            before = site.kernel.holds
        assert not site.sent[-1].routes
        assert engine.clean_exit
        assert site.kernel.holds == before
        assert site.kernel.closed

    play(tmp_path, story)


def test_after_a_program_only_what_it_touched_is_read_unless_something_failed(tmp_path: Path) -> None:
    key: Key = ServiceKey(protocol=Protocol.TCP, address=ip_address("192.0.2.9"), port=80)
    op = AddService(service=key, settings=Settings(scheduler="rr"))
    read, program = ev.ReadKernel(sysctls=()), ev.ProgramKernel(ops=(op,), sysctls=())

    async def story(site: Site) -> None:
        engine = site.engine()
        partial: list[bool] = []

        async def use(effect: ev.ReadKernel | ev.ProgramKernel) -> frozenset[Key] | None:
            await engine._use_kernel(effect)
            event = engine._inbox.take()
            partial.append(isinstance(event, ev.KernelRead) and event.partial)
            return site.kernel.asked[-1]

        assert await use(program) is None  # nothing was read yet
        assert await use(program) == frozenset({key})
        assert await use(read) is None
        site.kernel.failures = (kernels.Failure((op,), "refused"),)
        assert await use(program) is None
        site.kernel.trouble = KernelUnavailable("no ip_vs")
        assert await use(program) == frozenset({key})
        site.kernel.trouble = None
        assert await use(program) is None
        assert await use(program) == frozenset({key})
        assert partial == [False, True, False, False, False, False, True]

    play(tmp_path, story)


def test_a_pass_is_told_after_its_effects_and_not_of_an_event_that_failed(tmp_path: Path) -> None:
    """What feeds the watchdog: only work that was done may."""

    async def story(site: Site) -> None:
        passes: list[int] = []  # leases that had been sent at each
        engine = site.engine(passed=lambda _: passes.append(len(site.sent)))

        def broken(lease: Lease) -> None:
            site.sent.append(lease)
            raise ZeroDivisionError

        async with running(engine) as task:
            await site.announced(WEB)
            await site.leases.get()
            assert set(passes) >= set(range(1, len(site.sent)))
            engine._send_lease = broken
            await asyncio.wait({task})
            assert isinstance(task.exception(), ZeroDivisionError)
            assert len(site.sent) not in passes

    play(tmp_path, story)


def test_it_waits_until_the_plugin_has_withdrawn(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine) as task:
            engine.post(ev.PluginConnected(source=1))
            up = await site.announced(WEB)
            engine.post(ev.PluginReported(source=1, report=Report(seq=up.seq, announced=frozenset({WEB}))))
            engine.post(ev.StopRequested())
            engine.post(ev.StopRequested())  # a second SIGTERM
            down = await site.announced()
            assert not task.done()
            engine.post(ev.PluginReported(source=1, report=Report(seq=down.seq)))
            await task
        assert engine.clean_exit

    play(tmp_path, story)


def test_a_plugin_that_does_not_answer_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anycast.core.step.STOP_PATIENCE", 0.01)

    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine) as task:
            engine.post(ev.PluginConnected(source=1))
            await site.announced(WEB)
            engine.post(ev.StopRequested())
            await task
        assert not engine.clean_exit

    play(tmp_path, story)


def test_what_somebody_removed_is_put_back_at_once(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            changed = await site.kernel.watchers.get()
            await site.announced(WEB)
            for _ in range(2):
                site.kernel.holds = replace(site.kernel.holds, addresses=frozenset())
                before = site.kernel.readings
                for _ in range(1000):
                    changed(frozenset())
                await site.lease_where(engine, lambda _: WEB.network_address in site.kernel.holds.addresses)
                assert site.kernel.readings - before < 10, "a thousand changes at once ask for one reading"

    play(tmp_path, story)


def test_a_program_that_takes_an_address_again_and_again_is_named_with_its_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = NetworkdLink(interface="lo", file="/etc/systemd/network/10-lo.network")
    known = Managers(networkd=Networkd(version=257, links=(link,)))
    monkeypatch.setattr(managers, "read", lambda: known)
    gone = frozenset({WEB.network_address})

    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            changed = await site.kernel.watchers.get()
            await site.announced(WEB)
            for times in range(1, CONTESTED + 1):
                site.kernel.holds = replace(site.kernel.holds, addresses=frozenset())
                changed(gone)
                await site.lease_where(
                    engine,
                    lambda state, times=times: (  # type: ignore[misc]
                        any(one.times == times for one in state.kernel.contests.values())
                        and not state.kernel.busy
                    ),
                )
            who = (Condition.ADDRESSES_CONTESTED, "systemd-networkd")
            await site.lease_where(engine, lambda state: who in state.standing)
            text = engine.state.standing[who].text
            assert "systemd-networkd 257 manages lo by /etc/systemd/network/10-lo.network" in text
            assert "`KeepConfiguration=yes`" in text

    play(tmp_path, story)


def test_a_watch_that_breaks_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "WATCH_RETRY", 0.0)

    async def story(site: Site) -> None:
        async with running(site.engine()):
            await site.kernel.watchers.get()
            site.kernel.break_watch.set()
            await site.kernel.watchers.get()

    play(tmp_path, story)


@pytest.mark.parametrize(
    "trouble", [KernelUnavailable("no ip_vs"), ZeroDivisionError("a defect"), TimeoutError()], ids=repr
)
def test_whatever_the_kernel_raises_takes_the_route_down_and_it_comes_back(
    tmp_path: Path, trouble: Exception
) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            changed = await site.kernel.watchers.get()
            await site.announced(WEB)
            site.kernel.trouble = trouble
            changed(frozenset())
            await site.announced()
            assert engine.state.vips["web"].verdict.reason is Reason.KERNEL_UNAVAILABLE
            site.kernel.trouble = None
            await site.announced(WEB)

    play(tmp_path, story)


def test_a_reading_that_never_ends_is_given_up_and_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "KERNEL_PATIENCE", 0.01)

    async def story(site: Site) -> None:
        async with running(site.engine()):
            changed = await site.kernel.watchers.get()
            await site.announced(WEB)
            site.kernel.hanging = True
            changed(frozenset())
            await site.announced()
            site.kernel.hanging = False
            await site.announced(WEB)

    play(tmp_path, story)


def test_an_engine_whose_kernel_hangs_can_still_be_stopped(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.kernel.hanging = True
        engine = site.engine()
        async with running(engine):
            await site.announced()
        assert engine.clean_exit

    play(tmp_path, story)


def test_maintenance_is_answered_once_it_is_in_force_and_on_the_disk(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            answer = await engine.set_maintenance(NODE, on=True, reason="racks", by="op")
            assert answer.saved
            assert engine.state.vips["web"].verdict.reason is Reason.NODE_MAINTENANCE
            (kept,) = maintenance_file.load(site.state_dir / "maintenance.json").values()
            assert (kept.reason, kept.by) == ("racks", "op")
        site.sent.clear()
        again = site.engine()
        async with running(again):
            await site.lease_where(again, lambda state: not state.kernel.busy and bool(state.health))
            assert (await again.set_maintenance(NODE, on=False, reason="", by="op")).saved
            assert all(not lease.routes for lease in site.sent[:1])
            await site.announced(WEB)

    play(tmp_path, story)


def test_maintenance_that_cannot_be_saved_is_in_force_and_says_so(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        site.state_dir.write_text("a file where the directory should be")
        async with running(engine):
            await site.announced(WEB)
            answer = await engine.set_maintenance(NODE, on=True, reason="", by="op")
            assert not answer.saved
            assert str(site.state_dir) in answer.error
            await site.announced()
            site.state_dir.unlink()
            assert (await engine.set_maintenance(NODE, on=False, reason="", by="op")).saved

    play(tmp_path, story)


def test_a_damaged_maintenance_file_keeps_the_node_out_until_somebody_ends_it(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.state_dir.mkdir()
        (site.state_dir / "maintenance.json").write_bytes(b'{"version": 1, "mainte')
        engine = site.engine()
        async with running(engine):
            await site.announced()
            assert engine.state.vips["web"].verdict.reason is Reason.NODE_MAINTENANCE
            assert "damaged" in engine.state.maintenance[NODE].reason
            assert (await engine.set_maintenance(NODE, on=False, reason="", by="op")).saved
            await site.announced(WEB)

    play(tmp_path, story)


def test_the_file_means_maintenance_for_as_long_as_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "FILE_PERIOD", 0.01)

    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            site.touch_file.write_text("new disks\n")
            await site.announced()
            assert engine.state.maintenance[FILE].reason == "new disks"
            site.touch_file.write_text("newer disks\n")
            await site.lease_where(engine, lambda state: state.maintenance[FILE].reason == "newer disks")
            site.touch_file.unlink()
            await site.announced(WEB)
            assert engine.state.maintenance == {}
        assert not (site.state_dir / "maintenance.json").exists(), "the file speaks for itself"

    play(tmp_path, story)


def test_an_agent_that_starts_with_the_file_there_announces_nothing(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        site.touch_file.write_text("new disks\n")
        engine = site.engine()
        async with running(engine):
            await site.lease_where(engine, lambda state: bool(state.health) and not state.kernel.busy)
            assert engine.state.vips["web"].verdict.reason is Reason.NODE_MAINTENANCE
            assert all(not lease.routes for lease in site.sent)

    play(tmp_path, story)


def test_a_look_for_the_file_that_fails_changes_nothing_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "FILE_PERIOD", 0.01)
    looks: asyncio.Queue[None] = asyncio.Queue()
    loop: list[asyncio.AbstractEventLoop] = []
    look = touch_file.look
    broken = True

    def sometimes(path: Path) -> Maintenance | None:
        if loop:
            loop[0].call_soon_threadsafe(looks.put_nowait, None)
            if broken:
                raise OSError(5, "Input/output error")
        return look(path)

    monkeypatch.setattr(touch_file, "look", sometimes)

    async def story(site: Site) -> None:
        nonlocal broken
        site.touch_file.write_text("new disks\n")
        engine = site.engine()
        loop.append(asyncio.get_running_loop())
        async with running(engine):
            for _ in range(3):
                await looks.get()
            assert set(engine.state.maintenance) == {FILE}
            broken = False
            site.touch_file.unlink()
            await site.announced(WEB)

    play(tmp_path, story)


def test_a_drain_before_a_stop_is_over_with_the_agent(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            answer = await engine.set_maintenance(STOP, on=True, reason="stop", by="root")
            assert (answer.saved, answer.error) == (False, "")
            await site.announced()
        assert not (site.state_dir / "maintenance.json").exists()
        async with running(site.engine()):
            await site.announced(WEB)

    play(tmp_path, story)


def test_maintenance_with_an_end_ends_by_itself_and_is_gone_from_the_disk(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        began = time.time()
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            end = End(at=began + 0.5, lasts=True)
            assert (await engine.set_maintenance(NODE, on=True, reason="", by="op", end=end)).saved
            kept = maintenance_file.load(site.state_dir / "maintenance.json")
            assert kept[NODE].end == End(at=began + 0.5, lasts=True, due=None)
            await site.announced(WEB)
            assert time.time() >= began + 0.5
        assert maintenance_file.load(site.state_dir / "maintenance.json") == {}

    play(tmp_path, story)


def test_the_end_outlives_the_agent_and_a_clock_set_meanwhile_does_not_bring_it_on(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            end = End(at=time.time() + 3600.0, then=Expiry.RESUME, lasts=True)
            assert (await engine.set_maintenance(NODE, on=True, reason="", by="op", end=end)).saved
        site.sent.clear()
        again = site.engine(wall=lambda: time.time() + 86400.0)
        async with running(again):
            await site.lease_where(again, lambda state: bool(state.health) and not state.kernel.busy)
            kept = again.state.maintenance[NODE].end
            assert kept is not None
            assert kept.at == pytest.approx(time.time() + 86400.0 + 3600.0, abs=60.0), "an hour is left"
            assert all(not lease.routes for lease in site.sent)

    play(tmp_path, story)


def test_a_clock_that_is_set_is_seen_by_the_next_tick(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        ahead = 0.0
        engine = site.engine(wall=lambda: time.time() + ahead)
        async with running(engine):
            await site.announced(WEB)
            before = engine.state.wall_offset
            assert before is not None
            ahead = 86400.0
            await site.lease_where(
                engine, lambda state: state.wall_offset is not None and state.wall_offset > before + 86000.0
            )

    play(tmp_path, story)


def test_a_disk_that_is_full_does_not_keep_maintenance_from_being_in_force(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        site.state_dir.mkdir()
        async with running(engine):
            await site.announced(WEB)
            (site.state_dir / "maintenance.json.new").symlink_to("/dev/full")
            answer = await engine.set_maintenance(NODE, on=True, reason="racks", by="op")
            assert not answer.saved
            assert "No space left on device" in answer.error
            await site.announced()
            assert (await engine.set_maintenance(NODE, on=True, reason="racks", by="op")).saved
        assert set(maintenance_file.load(site.state_dir / "maintenance.json")) == {NODE}

    play(tmp_path, story)


def test_a_save_that_fails_stands_and_is_tried_again_until_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "SAVE_AGAIN", 0.05)

    async def story(site: Site) -> None:
        engine = site.engine()
        site.state_dir.mkdir()
        for name in ("maintenance.json", "owned.json"):
            (site.state_dir / f"{name}.new").mkdir()  # a directory: nothing can be written there
        async with running(engine):
            await engine.set_maintenance(NODE, on=True, reason="racks", by="op")
            await site.lease_where(engine, lambda state: len(state.standing) == 2)
            assert {kind for kind, _ in engine.state.standing} == {
                Condition.MAINTENANCE_NOT_SAVED,
                Condition.OWNED_NOT_SAVED,
            }
            for name in ("maintenance.json", "owned.json"):
                (site.state_dir / f"{name}.new").rmdir()
            await site.lease_where(engine, lambda state: not state.standing)
            assert set(maintenance_file.load(site.state_dir / "maintenance.json")) == {NODE}

    play(tmp_path, story)


def test_settings_of_the_node_that_wait_for_the_next_agent_stand(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            before = site.file.read_text()
            site.file.write_text(before.replace("node: {", "node: {listen: '127.0.0.1:9999', "))
            assert (await engine.reload()).ok
            await site.lease_where(engine, lambda state: (Condition.AGENT_OUTDATED, "") in state.standing)
            assert "node.listen" in engine.state.standing[Condition.AGENT_OUTDATED, ""].text
            site.file.write_text(before)
            assert (await engine.reload()).ok
            await site.lease_where(engine, lambda state: not state.standing)

    play(tmp_path, story)


def test_a_reload_is_in_force_when_it_is_answered(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            site.write_with_mail()
            answer = await engine.reload()
            assert answer.ok
            assert "mail" in " ".join(answer.changes)
            assert set(engine.state.vips) == {"web", "mail"}
            await site.announced(WEB, MAIL)
            assert (await engine.reload()).changes == ()

    play(tmp_path, story)


def test_however_many_ask_for_a_reload_while_one_is_under_way_the_file_is_read_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        loop, reading, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
        read: list[Path] = []

        def slowly(path: Path, before: Loaded) -> Loaded:
            read.append(path)
            loop.call_soon_threadsafe(reading.set)
            go_on.wait(60)
            return load(path)

        monkeypatch.setattr(Engine, "_read", lambda self: slowly(self._path, self._loaded))
        async with running(engine):
            await site.announced(WEB)
            first = asyncio.create_task(engine.reload())
            await reading.wait()
            past = asyncio.create_task(engine.reload(deadline=time.monotonic() - 1))
            others = [asyncio.create_task(engine.reload()) for _ in range(100)]
            await asyncio.sleep(0)
            site.write_with_mail()
            go_on.set()
            answers = await asyncio.gather(first, past, *others)
        assert len(read) == 2
        assert len({answer.changes for answer in answers[1:]}) == 1, "they asked for the same thing"
        assert all(answer.ok for answer in answers)

    play(tmp_path, story)


def test_a_reload_that_is_refused_names_every_problem_and_changes_nothing(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            before = engine.state.config
            site.write("  mail: {address: nowhere, port: 0, servers: []}")
            answer = await engine.reload()
            assert not answer.ok
            assert len(answer.problems) > 1
            assert engine.state.config is before
            assert not engine.reload_ok
            assert Condition.RELOAD_REFUSED in _of_configuration(engine)
            site.write()
            assert (await engine.reload()).ok
            assert engine.reload_ok
            assert not _of_configuration(engine)

    play(tmp_path, story)


def _of_configuration(engine: Engine) -> set[Condition]:
    return {one.kind for one in in_force.conditions(engine.force, 0.0)}


def test_a_defect_in_reading_the_file_refuses_the_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)

            def broken(path: Path, before: Loaded) -> None:
                raise ZeroDivisionError

            monkeypatch.setattr(Engine, "_read", lambda self: broken(self._path, self._loaded))
            answer = await engine.reload()
            assert not answer.ok
            assert "ZeroDivisionError" in answer.problems[0]
            assert not engine.reload_ok

    play(tmp_path, story)


def test_what_is_commanded_while_it_stops_is_kept_and_what_comes_after_is_answered(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine) as task:
            engine.post(ev.PluginConnected(source=1))
            await site.announced(WEB)
            engine.post(ev.StopRequested())
            down = await site.announced()
            assert (await engine.set_maintenance(NODE, on=True, reason="", by="op")).saved
            engine.post(ev.PluginReported(source=1, report=Report(seq=down.seq)))
            behind = asyncio.create_task(engine.set_maintenance("web", on=True, reason="", by="op"))
            await task
        assert set(maintenance_file.load(site.state_dir / "maintenance.json")) == {NODE}
        late = await engine.set_maintenance("web", on=True, reason="", by="op")
        assert (await behind).error == late.error == engines.ENDED
        assert (await engine.reload()).problems == (engines.ENDED,)

    play(tmp_path, story)


def test_a_save_under_way_is_finished_before_the_end(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            entry = Maintenance(reason="", by="op", since=1.0)
            for number in range(20):
                engine.post(ev.MaintenanceSet(scope=NODE, entry=entry if number % 2 else None))
            engine.post(ev.MaintenanceSet(scope="web", entry=entry))
        assert set(maintenance_file.load(site.state_dir / "maintenance.json")) == {NODE, "web"}

    play(tmp_path, story)


def test_a_defect_in_the_core_ends_the_engine_and_answers_whoever_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine) as task:
            await site.announced(WEB)

            def broken(state: State, event: ev.Event, now: float) -> None:
                raise ZeroDivisionError

            monkeypatch.setattr(engines, "step", broken)
            answer = await engine.set_maintenance(NODE, on=True, reason="", by="op")
            assert answer.error == engines.ENDED
            with pytest.raises(ZeroDivisionError):
                await task
        assert site.kernel.closed

    play(tmp_path, story)


def test_the_lease_does_not_wait_behind_a_queue_of_events(tmp_path: Path) -> None:
    """By a clock of which every glance takes 0.1 s."""

    async def story(site: Site) -> None:
        glances = itertools.count()
        engine = site.engine(clock=lambda: 100.0 + next(glances) / 10)
        for _ in range(500):
            engine.post(ev.Probed(results=()))
        async with running(engine):
            for _ in range(50):
                await site.leases.get()
            assert engine._inbox, "they wait still"
        issued = [lease.issued for lease in site.sent]
        assert max(after - before for before, after in itertools.pairwise(issued)) < site.sent[0].ttl

    play(tmp_path, story)


def test_a_loop_that_stands_still_sends_no_lease_and_feeds_no_watchdog(tmp_path: Path) -> None:
    """Nothing is told of the time in which it stood: the lease of before is over, the next is of after."""

    async def story(site: Site) -> None:
        stood, passes = 0.0, list[float]()
        engine = site.engine(clock=lambda: time.monotonic() + stood, passed=passes.append)
        async with running(engine):
            before = await site.announced(WEB)
            while not site.leases.empty():
                before = site.leases.get_nowait()
            began = passes[-1]
            stood = 10.0
            ended = time.monotonic() + stood
            after = await site.leases.get()
            assert not [at for at in (*passes, after.issued) if began < at < ended]
            assert before.expires(began) < ended <= after.issued
            assert after.routes.keys() == {WEB}

    play(tmp_path, story)


def test_a_command_whose_deadline_has_passed_when_its_turn_comes_changes_nothing(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            past = time.monotonic() - 1
            with pytest.raises(TooLateError, match="nothing was changed"):
                await engine.set_maintenance(NODE, on=True, reason="", by="op", deadline=past)
            assert engine.state.maintenance == {}
            assert (await engine.set_maintenance(NODE, on=True, reason="", by="op", deadline=past + 60)).saved
        assert set(maintenance_file.load(site.state_dir / "maintenance.json")) == {NODE}

    play(tmp_path, story)


def test_a_reload_whose_deadline_has_passed_is_refused_and_says_so(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            answer = await engine.reload(deadline=time.monotonic() - 1)
            assert (answer.ok, len(answer.problems)) == (False, 1)
            assert "nothing was changed" in answer.problems[0]

    play(tmp_path, story)


def test_a_disk_that_hangs_does_not_keep_a_command_from_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = threading.Event()
    monkeypatch.setattr(maintenance_file, "save", lambda *_: stuck.wait(60))

    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            soon = time.monotonic() + 0.3
            answer = await engine.set_maintenance(NODE, on=True, reason="", by="op", deadline=soon)
            assert (answer.saved, "the disk is slow" in answer.error) == (False, True)
            assert set(engine.state.maintenance) == {NODE}
            stuck.set()

    play(tmp_path, story)


def test_thousands_of_lines_of_the_log_are_written_in_turns_and_all_of_them_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And before its end the engine writes what is left."""
    turns = 0

    class Log:
        def __init__(self) -> None:
            self.lines: list[tuple[int, str]] = []

        def info(self, event: str, **_: object) -> None:
            self.lines.append((turns, event))

        warning = error = info

    log = Log()
    monkeypatch.setattr(engines, "log", log)
    monkeypatch.setattr(engines, "SLICE", 0.0)  # a turn of the loop after each of the engine's
    names = [f"test.{number}" for number in range(1000)]

    def chatty(state: State, event: ev.Event, now: float) -> tuple[State, tuple[ev.Effect, ...]]:
        effects = step(state, event, now)
        if not isinstance(event, ev.KernelChanged):
            return effects
        return effects[0], (*effects[1], *(ev.Log(event=name) for name in names))

    async def story(site: Site) -> None:
        nonlocal turns
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            monkeypatch.setattr(engines, "step", chatty)
            for _ in range(2):
                engine.post(ev.KernelChanged())
            while not any(event == names[-1] for _, event in log.lines):
                turns += 1
                await asyncio.sleep(0)
        told = [(turn, event) for turn, event in log.lines if event in names]
        assert [event for _, event in told] == 2 * names
        assert max(Counter(turn for turn, _ in told[:1000]).values()) <= 2 * engines.LINES

    play(tmp_path, story)


def test_the_lease_goes_out_before_anything_else_that_a_step_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)

            def send(lease: Lease) -> None:
                done.append("lease")
                site.take(lease)

            monkeypatch.setattr(engine, "_send_lease", send)
            monkeypatch.setattr(engine._checker, "schedule", lambda *_, **__: done.append("probe"))
            monkeypatch.setattr(engines, "log", Mock(warning=lambda event, **_: done.append(event)))
            engine.post(ev.MaintenanceSet(scope=NODE, entry=Maintenance(reason="", by="op", since=1.0)))
            await site.lease_where(engine, lambda _: bool(done))
        assert done[0] == "lease"

    play(tmp_path, story)


def test_what_takes_longer_than_a_third_of_the_time_to_live_is_told_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, dict[str, object]]] = []
    monkeypatch.setattr(engines, "log", Mock(error=lambda event, **fields: told.append((event, fields))))
    stood = 0.0

    def slow(state: State, event: ev.Event, now: float) -> tuple[State, tuple[ev.Effect, ...]]:
        nonlocal stood
        stood += 7.0 if isinstance(event, ev.KernelChanged) else 0.0
        return step(state, event, now)

    async def story(site: Site) -> None:
        site.file.write_text(site.file.read_text().replace("timing: {", "timing: {lease_ttl: 20s, "))
        engine = site.engine(clock=lambda: time.monotonic() + stood, cpu=lambda: stood)
        async with running(engine):
            await site.announced(WEB)
            monkeypatch.setattr(engines, "step", slow)
            for _ in range(2):
                engine.post(ev.KernelChanged())
                await site.leases.get()
            strain = engine.facts.work.strain
            assert strain.overload is not None
            assert strain.overload.doing == "a change of the kernel"
            assert (strain.overloads, strain.overload.times) == (1, 2)
            assert sum(strain.buckets) >= 1
        assert [event for event, _ in told] == ["agent.overloaded"]
        assert told[0][1]["doing"] == "a change of the kernel"

    play(tmp_path, story)


def test_a_loop_that_stood_without_working_has_waited_for_the_processor(tmp_path: Path) -> None:
    """With a lease of 20 s, which is due every 6.7 s and may be late for as long."""
    stood = worked = 0.0

    async def story(site: Site) -> None:
        nonlocal stood, worked
        site.file.write_text(site.file.read_text().replace("timing: {", "timing: {lease_ttl: 20s, "))
        engine = site.engine(clock=lambda: time.monotonic() + stood, cpu=lambda: worked)
        async with running(engine):
            await site.announced(WEB)
            for seconds, work, doing in ((14.0, 0.0, engines.NO_PROCESSOR), (16.0, 10.0, engines.OTHER_WORK)):
                stood += seconds
                worked += work
                engine.kernel_changed()
                await site.leases.get()
                for _ in range(3):
                    await asyncio.sleep(0)
                strain = engine.facts.work.strain
                assert strain.overload is not None
                assert strain.overload.doing == doing

    play(tmp_path, story)


def test_a_reload_that_this_machine_cannot_carry_is_refused_with_the_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Config] = []

    def trial(config: Config, cpu: Callable[[], float]) -> float:
        tried.append(config)
        return 1.25

    monkeypatch.setattr("anycast.analysis.capacity.conclusion", trial)

    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            assert (await engine.reload()).ok
            assert not tried, "it asks for no more than what is carried"
            site.write_with_mail()
            answer = await engine.reload()
            assert not answer.ok
            assert len(tried) == 1
            assert "to conclude everything anew takes" in answer.problems[0]
            assert set(engine.state.vips) == {"web"}
            assert not engine.reload_ok

    play(tmp_path, story)


def test_at_a_start_the_same_is_a_warning_and_the_node_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[object] = []

    async def story(site: Site) -> None:
        readings = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(engines, "log", Mock(warning=lambda _, **fields: warned.append(fields["warning"])))
            engine = site.engine(cpu=lambda: 1.25 * next(readings))
        async with running(engine):
            await site.announced(WEB)
            assert (await engine.reload()).ok, "what is in force is not refused"

    play(tmp_path, story)
    assert len(warned) == 1
    assert "1.25 s" in str(warned[0])


def test_failures_are_counted_and_forgotten_with_their_target(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            (target,) = engine.facts.numbers.values()
            assert dict(engine.facts.tallies) == {}
            for outcome in (Outcome.FAIL, Outcome.OK, Outcome.FAIL, Outcome.FAIL):
                engine._report(target, Result(outcome=outcome))
            before = engine.facts.tallies
            assert dict(before) == {target: Tally(failures=3, in_a_row=2)}
            site.port += 1
            site.write()
            await engine.reload()
            assert target not in engine.facts.tallies
            assert dict(before) == {target: Tally(failures=3, in_a_row=2)}, "what was handed out stays"

    play(tmp_path, story)


@pytest.mark.parametrize(("longest", "suspended"), [(1.9, False), (2.1, True)])
def test_work_that_takes_longer_than_a_lease_lasts_is_no_suspension(
    tmp_path: Path, longest: float, *, suspended: bool
) -> None:
    """With a lease of 2 s: what was proven stays so, unless the process itself stood for as long."""

    async def story(site: Site) -> None:
        late = 0.0
        engine = site.engine(clock=lambda: time.monotonic() + late, stood=lambda *_: longest)
        async with running(engine):
            await site.announced(WEB)
            health = engine.state.health
            late = 5.0
            await site.leases.get()
            await site.leases.get()
            stays = all(engine.state.health.get(target) == known for target, known in health.items())
            assert stays is not suspended
            gaps = [after.issued - before.issued for before, after in itertools.pairwise(site.sent)]
            assert (max(gaps) > 2.0) is suspended

    play(tmp_path, story)


def test_of_many_mistakes_the_first_are_told_and_the_others_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(Mark("anycast.yaml", 1, 1), ("vips",), "wrong", "right it")

    def mistaken(_: Path, before: Loaded) -> None:
        raise ConfigError((problem,) * 200_000)

    monkeypatch.setattr(Engine, "_read", lambda self: mistaken(self._path, self._loaded))

    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            answer = await engine.reload()
        assert len(answer.problems) == engines.TOLD + 1
        assert answer.problems[-engines.LAST - 1] == "… 199,000 more (`anycast check` shows more) …"
        assert answer.problems[-1] == str(problem)

    play(tmp_path, story)
