"""Whom an agent serves besides the plugin: commands, the ops process, hooks. Imported when its first lease has gone out."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from anycast.agent import ops_process
from anycast.agent.control import Control
from anycast.agent.engine import Engine
from anycast.agent.feed import Feed
from anycast.agent.fleet_process import FleetProcess, secrets_of
from anycast.agent.headroom import Headroom
from anycast.agent.send_hold import SendHold
from anycast.core.events import Effect
from anycast.core.in_force import conditions
from anycast.kernel.tcp import Tcp
from anycast.notify.hooks import Hooks
from anycast.ops.status import summary


class Serving:
    def __init__(self, engine: Engine, before: int) -> None:
        """`before`: the number of the last event that was there before the engine."""
        self._engine = engine
        self._feed = Feed(engine)
        self._fleet = FleetProcess(lambda: engine.state.config, engine.post)
        engine.stepped = self._stepped
        self.control = Control(engine, self._feed.mark)
        self.hooks = Hooks(engine, before)
        engine.hook_tallies = lambda: self.hooks.tallies

    def _stepped(self, effects: tuple[Effect, ...]) -> None:
        self._feed.stepped(effects)
        self._fleet.stepped()

    def summary(self, now: float) -> str:
        """One line for the service manager, with the worst that stands about the configuration."""
        standing = conditions(self._engine.force, now)
        return "; ".join([summary(self._engine.state, now), *(one.text for one in standing[:1])])

    async def hold_sending(self) -> None:
        """Ends the sessions of routers that take nothing."""
        engine = self._engine

        def up() -> frozenset[str]:
            return frozenset(each.address for each in engine.state.sessions or () if each.state == "up")

        with contextlib.closing(Tcp()) as tcp:
            guard = SendHold(
                bgp=lambda: engine.state.config.bgp, up=up, tcp=tcp, conditions=engine.conditions
            )
            await guard.watch()

    async def keep_ops(self, runtime: Path, listen: str) -> None:
        await ops_process.keep(
            self._feed, runtime, listen, lambda: secrets_of(self._engine.state.config.fleet)
        )

    async def watch_headroom(self) -> None:
        engine = self._engine
        await Headroom(lambda: engine.state.config, engine.conditions, time.monotonic).keep()

    async def keep_fleet(self) -> None:
        await self._fleet.keep()
