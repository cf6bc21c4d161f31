"""What a reload would do, asked of the engine: it reads, works it out, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import zlib
from ipaddress import ip_network
from pathlib import Path
from unittest.mock import patch

import pytest

from anycast.agent import planning
from anycast.agent.answers import PlanAnswer, PlanWish, TooLateError
from anycast.agent.engine import Engine
from anycast.config.kept import pieces
from anycast.config.load import load_with_texts
from anycast.core.in_force import conditions
from anycast.core.planned import Plan, ServerChange, ServiceChange
from anycast.core.values.fates import Fate, Way
from tests.unit.agent.test_engine import MAIL, WEB, Site, play, running

pytestmark = pytest.mark.usefixtures("reads_here")

PLAIN = PlanWish()


def packed(path: Path) -> PlanWish:
    """A file as `anycast check --against-running` sends it."""
    loaded, contents = load_with_texts(path)
    return PlanWish(texts=zlib.compress(b"".join(pieces(loaded, contents))))


async def unchanged(site: Site, engine: Engine, wish: PlanWish = PLAIN) -> PlanAnswer:
    """The answer, after which all is as it was."""
    before = engine.state.config, engine.facts.force, len(site.kernel.played), engine.state.owned
    answer = await engine.plan(wish)
    assert (engine.state.config, engine.facts.force, len(site.kernel.played), engine.state.owned) == before
    assert not conditions(engine.facts.force, engine.state.seen)
    return answer


def ways(answer: PlanAnswer) -> dict[str, Way]:
    assert answer.plan is not None
    return {str(one.prefix): one.way for one in answer.plan.routes}


def test_a_file_that_changes_nothing_has_an_empty_plan(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            site.file.write_text(site.file.read_text() + "\n# a comment\n")
            assert await unchanged(site, engine) == PlanAnswer(ok=True, plan=Plan())

    play(tmp_path, story)


def test_what_is_planned_is_what_the_reload_then_does(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            site.write_with_mail()
            answer = await unchanged(site, engine)
            assert ways(answer) == {str(MAIL): Way.COMING}
            reloaded = await engine.reload()
            assert answer.changes == reloaded.changes == ("pool mail: served", "vip mail: added")
            await site.announced(WEB, MAIL)
            text = site.file.read_text()
            site.file.write_text(
                text.replace(f"web: {{address: {WEB.network_address}", "web: {address: 192.0.2.77")
            )
            answer = await unchanged(site, engine)
            assert ways(answer) == {str(WEB): Way.WITHDRAWN, "192.0.2.77/32": Way.COMING}
            assert answer.plan is not None
            (leaving,) = [one for one in answer.plan.services if one.change == "removed"]
            assert [server.fate for server in leaving.servers] == [Fate.LEAVES]
            assert (await engine.reload()).ok
            await site.announced(MAIL)

    play(tmp_path, story)


def test_what_would_be_refused_says_why_and_what_it_would_have_done(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            good = site.file.read_text()
            site.file.write_text(good[: good.index("vips:")] + "vips: {}")
            answer = await unchanged(site, engine)
            assert not answer.ok
            assert "no VIP would be left" in answer.problems[0]
            assert ways(answer) == {str(WEB): Way.WITHDRAWN}
            assert (await unchanged(site, engine, PlanWish(allow_removal=True))).ok
            site.file.write_text("vips: 7")
            answer = await unchanged(site, engine)
            assert (answer.ok, answer.plan) == (False, None)
            assert answer.problems

    play(tmp_path, story)


def test_another_file_is_compared_with_what_is_in_force(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            other = tmp_path / "other.yaml"
            original = site.file.read_text()
            site.write_with_mail()
            site.file.rename(other)
            site.file.write_text(original)
            answer = await unchanged(site, engine, packed(other))
            assert ways(answer) == {str(MAIL): Way.COMING}
            assert await unchanged(site, engine, packed(site.file)) == PlanAnswer(ok=True, plan=Plan())
            assert os.listdir(site.touch_file.parent) == []

    play(tmp_path, story)


@pytest.mark.parametrize(
    "sent", [b"", b"no zlib", zlib.compress(b"no configuration"), zlib.compress(bytes(10**7)), b"cut"]
)
def test_what_is_no_configuration_is_told(tmp_path: Path, sent: bytes) -> None:
    async def story(site: Site) -> None:
        good = packed(site.file).texts
        assert good is not None
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            answer = await unchanged(site, engine, PlanWish(texts=good[:-5] if sent == b"cut" else sent))
            assert not answer.ok
            assert len(answer.problems) == 1

    play(tmp_path, story)


def test_a_plan_for_another_node_is_asked_of_that_one(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            assert (await unchanged(site, engine, PlanWish(node="lb1"))).ok
            answer = await unchanged(site, engine, PlanWish(node="lb2"))
            assert answer == PlanAnswer(ok=False, problems=("this agent is lb1, not lb2: ask on that node",))

    play(tmp_path, story)


def test_a_plan_that_comes_too_late_is_not_made(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            with pytest.raises(TooLateError):
                await engine.plan(PLAIN, deadline=0.0)

    play(tmp_path, story)


def test_a_reload_that_comes_in_between_is_what_the_plan_is_for(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            site.write_with_mail()
            async with engine._reload_lock:
                asked = asyncio.create_task(engine.plan(PLAIN))
                reload = asyncio.create_task(engine.reload())
                await asyncio.sleep(0)
            assert (await reload).ok
            answer = await asked
            assert answer.ok
            assert ways(answer) in ({}, {str(MAIL): Way.COMING})  # before the reload, or after it

    play(tmp_path, story)


def test_leases_go_out_between_the_parts_of_a_plan(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            vips = [
                f"  v{n}: {{address: 198.51.100.{n}, port: {site.port}, servers: [127.0.0.1, 127.0.0.2]}}"
                for n in range(1, 41)
            ]
            site.write(*vips)
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    await asyncio.sleep(0)
                    turns += 1

            with patch.object(planning, "PART", 1):
                counting = asyncio.create_task(count())
                answer = await unchanged(site, engine)
                counting.cancel()
            assert len(ways(answer)) == 40
            assert turns >= 40

    play(tmp_path, story)


def test_services_that_stay_as_they_are_are_looked_at_in_turns_too(tmp_path: Path) -> None:
    """A MED that changes has every service looked at, and none of them named."""

    async def story(site: Site) -> None:
        vips = [
            f"  v{n}: {{address: 198.51.100.{n}, port: {site.port}, servers: [127.0.0.1]}}"
            for n in range(1, 41)
        ]
        site.write(*vips)
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB, *(ip_network(f"198.51.100.{n}/32") for n in range(1, 41)))
            site.write(*(line.replace("{", "{med: 7, ") for line in vips))
            breaths = 0
            sleep = asyncio.sleep

            async def counted(seconds: float) -> None:
                nonlocal breaths
                breaths += seconds == planning.BREATH
                await sleep(seconds)

            with patch.object(planning, "SLICE", -1.0), patch.object(asyncio, "sleep", counted):
                answer = await unchanged(site, engine)
            assert answer.plan is not None
            assert (len(answer.plan.routes), answer.plan.services) == (40, ())
            assert breaths >= 80  # for each route, and for each service

    play(tmp_path, story)


def test_as_json_what_goes_is_named_first_and_the_rest_is_counted() -> None:
    def server(number: int, fate: Fate) -> ServerChange:
        return ServerChange(server=f"p/{number}", at=(MAIL.network_address, number), fate=fate, connections=2)

    service = ServiceChange(
        key=None,  # type: ignore[arg-type]
        vip="web",
        service="tcp/80",
        change="changed",
        servers=(server(1, Fate.ADDED), server(2, Fate.ADDED), server(3, Fate.DRAINS)),
        connections=9,
    )
    with patch.multiple(planning, LISTED=2, SERVERS=2):
        found = planning.body(Plan(services=(service, service, service)))
    json.dumps(found)
    assert [one["server"] for one in found["services"][0]["servers"]] == ["p/3", "p/1"]
    assert [one["more_servers"] for one in found["services"]] == [1, 3]
    assert found["more_services"] == 1
    assert found["counts"]["servers_drains"] == 3
    assert found["counts"]["connections_of_leaving"] == 6
