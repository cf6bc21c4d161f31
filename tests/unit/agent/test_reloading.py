"""What a reload refuses, what is on trial, what is kept: the engine with real files."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path

import pytest
import structlog

from anycast.agent import engine as engines
from anycast.agent import last_good
from anycast.agent.answers import NothingThereError, PlanWish, ReloadAnswer, ReloadWish
from anycast.agent.engine import Engine
from anycast.agent.serving import Serving
from anycast.config import kept
from anycast.config.load import load
from anycast.core.confirmation import Stage
from anycast.core.in_force import conditions
from anycast.core.values.standing import Condition
from tests.unit.agent.test_engine import MAIL, WEB, Site, play, running

pytestmark = pytest.mark.usefixtures("reads_here")

ALLOWED = ReloadWish(allow_removal=True)
TRIED = ReloadWish(confirm_within=3600.0)


def kinds(engine: Engine) -> list[Condition]:
    return [one.kind for one in conditions(engine.facts.force, engine.state.seen)]


def names(engine: Engine) -> list[str]:
    return [vip.name for vip in engine.state.config.vips]


def saved(site: Site) -> str:
    """The digest of what is kept on disk."""
    found = kept.head(site.state_dir / kept.FILE)
    return "" if found is None else found.digest


async def idle(engine: Engine) -> None:
    """Until nothing is being saved."""
    while jobs := {job for job in engine._jobs if job is not engine._trial}:
        await asyncio.wait(jobs)


def without_vips(site: Site) -> None:
    text = site.file.read_text()
    site.file.write_text(text[: text.index("vips:")] + "vips: {}")


def cut_off(site: Site) -> None:
    site.write_with_mail()
    site.file.write_text(site.file.read_text() + "\n" + f"# {'x' * 40}")


def elsewhere(site: Site) -> None:
    site.file.write_text(site.file.read_text().replace(str(WEB.network_address), "192.0.2.99"))


def empty(site: Site) -> None:
    site.file.write_text("")


def gone(site: Site) -> None:
    site.file.unlink()


def half_written(site: Site) -> None:
    text = site.file.read_text()
    site.file.write_text(text[: text.index("vips:") + 8])


@pytest.mark.parametrize("damage", [without_vips, cut_off, elsewhere, empty, gone, half_written])
def test_a_file_that_may_be_an_accident_changes_nothing(tmp_path: Path, damage: object) -> None:
    async def story(site: Site) -> None:
        site.file.write_text(site.file.read_text() + "\n")
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            good, before, steps = site.file.read_text(), engine.state.config, len(site.kernel.played)
            assert callable(damage)
            damage(site)
            for _ in range(2):
                answer = await engine.reload()
                assert not answer.ok
                assert answer.problems
            assert engine.state.config is before
            assert len(site.kernel.played) == steps
            assert kinds(engine) == [Condition.RELOAD_REFUSED]
            assert not engine.reload_ok
            site.file.write_text(good)
            assert (await engine.reload()).ok
            assert kinds(engine) == []
        assert all(lease.routes.keys() == {WEB} for lease in site.sent[:-1] if lease.routes)

    play(tmp_path, story)


def test_what_is_refused_for_what_it_removes_is_applied_once_somebody_says_so(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            without_vips(site)
            (problem,) = (await engine.reload()).problems
            assert "no VIP would be left: 1 of 1 VIP addresses (192.0.2.1) would be removed" in problem
            assert problem.endswith("(`anycast reload --allow-removal` if it is meant)")
            assert (await engine.reload(ALLOWED)).ok
            assert names(engine) == []
            await site.announced()
            site.write()
            assert (await engine.reload()).ok  # what comes needs no word

    play(tmp_path, story)


def test_a_conf_d_that_is_not_mounted_takes_nothing_along(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        folder = site.file.parent / "conf.d"
        folder.mkdir()
        part = folder / "mail.yaml"
        part.write_text(
            f"vips:\n  mail: {{address: {MAIL.network_address}, port: {site.port}, servers: [127.0.0.1]}}\n"
        )
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB, MAIL)
            for path, away in ((folder, tmp_path / "away"), (part, folder / "mail.yaml~")):
                path.rename(away)
                (problem,) = (await engine.reload()).problems
                assert "conf.d has no file any more (it had 1)" in problem
                assert names(engine) == ["web", "mail"]
                away.rename(path)
                assert (await engine.reload()).ok

    play(tmp_path, story)


def test_the_share_that_may_go_is_changed_by_a_reload(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            text = site.file.read_text()
            site.file.write_text(text.replace("{name: lb1,", "{name: lb1, max_removed: 100%,"))
            assert (await engine.reload()).changes == ("node: max_removed 50% -> 100%",)
            elsewhere(site)
            assert (await engine.reload()).ok

    play(tmp_path, story)


def test_what_is_in_force_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            site.write_with_mail()
            assert (await engine.reload()).ok
            await idle(engine)
            assert saved(site) == load(site.file).digest
            assert stat.S_IMODE((site.state_dir / kept.FILE).stat().st_mode) == 0o600
            text = site.file.read_bytes()
            assert kept.contents(site.state_dir / kept.FILE) == [(str(site.file), text)]
            good = saved(site)
            without_vips(site)
            assert not (await engine.reload()).ok
            await idle(engine)
            assert saved(site) == good

    play(tmp_path, story)


def test_what_cannot_be_kept_is_told_until_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "SAVE_AGAIN", 0.0)
    full = True
    save = last_good.save

    def unless_full(directory: Path, texts: kept.Texts) -> None:
        if full:
            raise OSError(28, "No space left on device")
        save(directory, texts)

    monkeypatch.setattr(last_good, "save", unless_full)

    async def story(site: Site) -> None:
        nonlocal full
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            site.write_with_mail()
            assert (await engine.reload()).ok
            while Condition.CONFIG_NOT_SAVED not in kinds(engine):
                await site.leases.get()
            assert engine.reload_ok
            full = False
            while kinds(engine):
                await site.leases.get()
            assert saved(site) == load(site.file).digest

    with structlog.testing.capture_logs() as logs:
        play(tmp_path, story)
    (first, *_) = [entry for entry in logs if entry["event"] == "config.not_saved"]
    assert first["path"].endswith(kept.FILE)


async def on_trial(site: Site, engine: Engine, wish: ReloadWish = TRIED) -> str:
    """A VIP more, on trial. Returns the digest of what was in force before, which is what is kept."""
    await site.announced(WEB)
    assert (await engine.reload()).ok
    await idle(engine)
    before = saved(site)
    site.write_with_mail()
    answer = await engine.reload(wish)
    assert answer.ok
    assert answer.confirm_s == pytest.approx(wish.confirm_within, abs=60)
    assert names(engine) == ["web", "mail"]
    assert before == saved(site) != load(site.file).digest
    assert last_good.is_marked(site.state_dir, load(site.file).digest)
    return before


def test_what_is_confirmed_stays_and_is_kept(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await on_trial(site, engine)
            assert kinds(engine) == [Condition.CONFIRMATION_AWAITED]
            assert "; the configuration is on trial: in " in Serving(engine, 0).summary(engine.state.seen)
            assert (await engine.confirm()) == ReloadAnswer(ok=True)
            assert kinds(engine) == []
            assert "; " not in Serving(engine, 0).summary(engine.state.seen)
            await idle(engine)
            assert saved(site) == load(site.file).digest
            assert not (site.state_dir / last_good.MARK).exists()
            with pytest.raises(NothingThereError):
                await engine.confirm()
            assert names(engine) == ["web", "mail"]
            assert (await engine.undo()).ok  # what was confirmed can still be undone, once
            assert names(engine) == ["web"]
            with pytest.raises(NothingThereError):
                await engine.undo()

    play(tmp_path, story)


def test_what_nobody_confirms_goes_back_by_itself_and_says_so_until_the_next_reload(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            before = await on_trial(site, engine, ReloadWish(confirm_within=0.3))
            await site.announced(WEB, MAIL)
            await site.announced(WEB)
            while engine.facts.force.stage is not Stage.GONE_BACK:
                await site.leases.get()
            assert kinds(engine) == [Condition.GONE_BACK]
            assert not engine.reload_ok
            await idle(engine)
            assert saved(site) == before
            assert last_good.is_marked(site.state_dir, load(site.file).digest)
            assert (await engine.reload()).ok  # now somebody says so
            assert names(engine) == ["web", "mail"]
            assert kinds(engine) == []
            await idle(engine)
            assert not (site.state_dir / last_good.MARK).exists()

    with structlog.testing.capture_logs() as logs:
        play(tmp_path, story)
    (told,) = [entry for entry in logs if entry["event"] == "config.gone_back"]
    assert (told["log_level"], told["why"]) == ("warning", "not_confirmed")
    assert any("mail" in change for change in told["changes"])


def test_going_back_asks_no_guard(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            without_vips(site)
            assert (await engine.reload(ALLOWED)).ok
            site.write_with_mail()
            assert (await engine.reload(TRIED)).ok
            assert (await engine.undo()).ok
            assert names(engine) == []
            assert engine.facts.force.stage is Stage.GONE_BACK

    play(tmp_path, story)


def test_a_reload_during_a_trial_belongs_to_it(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            before = await on_trial(site, engine)
            ends = engine.facts.force.ends
            site.file.write_text(site.file.read_text().replace("drain: 0s", "drain: 1s"))
            answer = await engine.reload()
            assert answer.ok
            assert answer.confirm_s is not None
            assert engine.facts.force.ends == ends
            assert last_good.is_marked(site.state_dir, load(site.file).digest)
            longer = await engine.reload(ReloadWish(confirm_within=7200.0))
            assert longer.confirm_s is not None
            assert longer.confirm_s > 3600
            assert (await engine.undo()).ok
            assert names(engine) == ["web"]
            assert engine.state.config.timing.drain == 0
            assert saved(site) == before

    play(tmp_path, story)


def test_a_file_put_back_ends_the_trial(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await on_trial(site, engine)
            site.write()
            answer = await engine.reload()
            assert answer.ok
            assert answer.confirm_s is None
            assert engine.facts.force.stage is Stage.CONFIRMED
            await idle(engine)
            assert not (site.state_dir / last_good.MARK).exists()

    play(tmp_path, story)


def test_a_trial_that_a_restart_would_not_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(directory: Path, digest: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(last_good, "mark", full)

    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            site.write_with_mail()
            answer = await engine.reload(TRIED)
            assert answer.problems == (
                "a restart would not go back, for it cannot be marked as on trial: No space left on device",
            )
            assert names(engine) == ["web"]

    play(tmp_path, story)


def test_a_trial_keeps_its_state_where_a_restart_looks_for_it(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            text = site.file.read_text()
            site.file.write_text(text.replace(str(site.state_dir), f"{site.state_dir}2"))
            (problem,) = (await engine.reload(TRIED)).problems
            assert "node.state_dir cannot be changed on trial" in problem
            assert (await engine.reload()).ok

    play(tmp_path, story)


def test_a_file_that_was_refused_during_a_trial_is_so_after_it_too(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            await on_trial(site, engine)
            site.file.write_text("vips: [\n")
            assert not (await engine.reload()).ok
            assert (await engine.confirm()).ok
            assert kinds(engine) == [Condition.RELOAD_REFUSED]

    play(tmp_path, story)


def test_those_who_ask_for_different_things_get_different_answers(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            without_vips(site)
            plain, allowed = await asyncio.gather(engine.reload(), engine.reload(ALLOWED))
            assert (plain.ok, allowed.ok) == (False, True)

    play(tmp_path, story)


def test_an_engine_that_starts_has_what_it_is_told_and_does_not_keep_it_again(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        loaded = load(site.file)
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            await idle(engine)
        assert not (site.state_dir / kept.FILE).exists(), (
            "there are no texts of what was read in this process"
        )
        assert loaded.texts is None

    play(tmp_path, story)


def test_texts_are_gone_with_what_held_them(tmp_path: Path) -> None:
    descriptor = os.memfd_create("texts")
    texts = kept.Texts(descriptor)
    os.fstat(descriptor)
    del texts
    with pytest.raises(OSError):
        os.fstat(descriptor)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        (None, False),
        ({"version": 1, "digest": "abc"}, True),
        ({"version": 1, "digest": "abd"}, False),
        ({}, True),
        ([], True),
    ],
)
def test_a_mark_that_cannot_be_read_may_be_of_any(tmp_path: Path, text: object, *, marks: bool) -> None:
    if text is not None:
        (tmp_path / last_good.MARK).write_text(json.dumps(text))
    assert last_good.is_marked(tmp_path, "abc") is marks


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("node: {name: lb1, state_dir: /var/lib/x}\nvips: {", "/var/lib/x"),
        ("node:\n  state_dir: '/srv/a b'\n", None),
        ('node:\n  "state_dir": "/srv/state"  # here\n: :', "/srv/state"),
        ("node:\n  state_dir: /srv/state\n: :", "/srv/state"),
        ("node:\n  state_dir: relative\n", None),
        ("", None),
    ],
)
def test_the_state_directory_of_a_broken_file_is_made_out_where_it_stands_there(
    tmp_path: Path, text: str, found: str | None
) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text(text)
    places = list(last_good.directories(file, given=None, environ="/run/one:/run/two"))
    others = [Path("/run/one"), Path("/run/two"), last_good.DEFAULT_DIRECTORY]
    assert places == ([Path(found)] if found else []) + others
    assert list(last_good.directories(file, given=Path("/srv"), environ="/run/one")) == [Path("/srv")]


def fleet(site: Site, *nodes: str, name: str = "") -> None:
    """The file of a fleet, each node with a router id of its own."""
    site.write("nodes:", *(f"  {node}: 10.2.1.{n}" for n, node in enumerate(nodes, 1)))
    text = site.file.read_text().replace("name: lb1, ", f"name: {name}, " if name else "")
    site.file.write_text(text.replace("  router_id: 10.2.1.1\n", "") + "\n")


@pytest.mark.parametrize(
    ("left", "said"),
    [
        ((), "the file names no nodes any more (it had 4): a fleet's part of it is missing"),
        (("lb1",), "3 of 4 nodes of the fleet (lb2, lb3, lb4) would be removed, and node.max_removed is 50%"),
    ],
)
def test_a_fleet_that_is_suddenly_small_or_gone_is_refused_unless_it_is_meant(
    tmp_path: Path, left: tuple[str, ...], said: str
) -> None:
    async def story(site: Site) -> None:
        fleet(site, "lb1", "lb2", "lb3", "lb4", name="lb1")
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            if left:
                fleet(site, *left, name="lb1")
            else:
                site.write("")
            (problem,) = (await engine.reload()).problems
            assert said in problem
            assert (await engine.reload(ALLOWED)).ok
            assert engine.facts.force.nodes == left

    play(tmp_path, story)


def guarded(site: Site, *lines: str) -> None:
    fleet(site, "lb1", "lb2", name="lb1")
    text = site.file.read_text()
    site.file.write_text(text + "".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((), "the file has no `fleet:` any more"),
        (("fleet: {view: none, max_out: 3}",), "fleet.max_out would go up from 1 to 3"),
    ],
)
def test_a_reload_that_lowers_a_guard_is_refused_unless_it_is_meant(
    tmp_path: Path, lines: tuple[str, ...], said: str
) -> None:
    async def story(site: Site) -> None:
        guarded(site, "fleet: {view: none}")
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            before = engine.state.config.fleet
            guarded(site, *lines)
            (planned,) = (await engine.plan(PlanWish())).problems
            (problem,) = (await engine.reload()).problems
            assert said in problem
            assert said in planned
            assert problem.endswith("(`anycast reload --allow-removal` if it is meant)")
            assert engine.state.config.fleet == before
            assert (await engine.reload(ALLOWED)).ok
            assert engine.state.config.fleet != before

    play(tmp_path, story)


def test_a_fleets_file_from_which_this_node_has_vanished_is_refused_whatever_is_allowed(
    tmp_path: Path,
) -> None:
    async def story(site: Site) -> None:
        fleet(site, "lb1", "lb2", "lb3", name="lb1")
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            fleet(site, "lb2", "lb3", name="lb1")
            (problem,) = (await engine.reload(ALLOWED)).problems
            assert "'lb1' is not among the nodes" in problem
            assert engine.facts.force.nodes == ("lb1", "lb2", "lb3")
            assert engine.state.config.vips

    play(tmp_path, story)


def test_a_file_that_makes_the_agent_another_node_is_refused_whatever_is_allowed(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        fleet(site, "lb1", "lb2", name="lb1")
        engine = site.engine()
        async with running(engine):
            await site.announced(WEB)
            fleet(site, "lb1", "lb2", name="lb2")
            for answer in (await engine.reload(ALLOWED), await engine.plan(PlanWish(allow_removal=True))):
                (problem,) = answer.problems
                assert "it is read as that of the node lb2 now, and this agent is lb1" in problem
            assert str(engine.state.config.bgp.router_id) == "10.2.1.1"

    play(tmp_path, story)


def test_an_agent_that_was_given_a_name_reads_its_part_at_every_reload(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        fleet(site, "lb1", "lb2")
        engine = site.engine(node="lb2")
        async with running(engine):
            await site.announced(WEB)
            before = engine.facts.force.fingerprint
            assert len(engine.facts.force.nodes) == 2
            fleet(site, "lb1", "lb2", "lb3")
            assert (await engine.reload()).ok
            assert engine.state.config.node.name == "lb2"
            assert len(engine.facts.force.nodes) == 3
            assert engine.facts.force.fingerprint != before
            assert (await engine.undo()).ok
            assert engine.facts.force.fingerprint == before

    play(tmp_path, story)
