"""What went into `step` can be played again: the same verdicts, leases and log come out."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from anycast.agent import recording
from anycast.agent.recording import Recorder, Writer
from anycast.config.load import load
from anycast.core import events as ev
from anycast.core.dataplane import kernel as kernels
from anycast.core.maintenance.stages import NODE
from anycast.core.state import State
from anycast.core.values.configuration import Check, Config, HttpCheck
from tests.property.worlds import CONFIGS
from tests.replay import BadRecordingError, Reader, replay
from tests.unit.agent.test_engine import WEB, Site, play, running
from tests.unit.ops.node import CONFIG, Node
from tests.unit.ops.test_documents import HAPPENINGS, RICH

pytestmark = pytest.mark.usefixtures("reads_here")

FULL = load(Path(__file__).parents[3] / "examples" / "full.yaml", hostname="lb1").config


class Recorded(Node):
    """Writes down what it is told."""

    def __init__(self, config: Config, path: Path) -> None:
        self.recorder = Recorder(path, pytest.fail)
        self.recorder.begin(config, {}, 1000.0, None, "1")
        super().__init__(config)

    def _step(self, event: ev.Event) -> None:
        self.recorder.event(event, self.now)
        super()._step(event)


def played(path: Path) -> tuple[State, list[ev.Log]]:
    with path.open() as lines:
        steps = list(replay(lines))
    logs = [effect for _, _, _, effects in steps for effect in effects if isinstance(effect, ev.Log)]
    return steps[-1][2], logs


def without_traffic(state: State) -> State:
    """What services have carried is in no recording: it decides nothing."""
    readings = tuple(replace(one, traffic={}) for one in state.kernel.readings)
    return replace(state, kernel=replace(state.kernel, readings=readings))


@settings(max_examples=40)
@given(happenings=st.lists(st.sampled_from(HAPPENINGS), max_size=8))
def test_every_history_can_be_played_again(
    tmp_path_factory: pytest.TempPathFactory, happenings: list[Callable[[Node], None]]
) -> None:
    path = tmp_path_factory.mktemp("recording") / "node.jsonl"
    node = Recorded(RICH, path)
    for happening in happenings:
        happening(node)
    assert node.recorder.drain(60)
    state, logs = played(path)
    assert state == without_traffic(node.state)
    assert [(log.event, log.fields) for log in logs] == [(log.event, log.fields) for log in node.log]


def test_what_an_engine_decided_is_decided_again(tmp_path: Path) -> None:
    async def story(site: Site) -> None:
        recorder = Recorder(path, pytest.fail)
        engine = site.engine(recorder=recorder)
        async with running(engine):
            await site.announced(WEB)
            await engine.set_maintenance(NODE, on=True, reason="disks", by="alice")
            await site.announced()
            await engine.set_maintenance(NODE, on=False, reason="", by="alice")
            await site.announced(WEB)
            site.write_with_mail()
            await engine.reload()
        assert recorder.drain(60)

    path = tmp_path / "recording.jsonl"
    with structlog.testing.capture_logs() as said:
        play(tmp_path, story)
    _, logs = played(path)
    verdicts = [
        (one["vip"], one["advertise"], one["reason"], one["detail"])
        for one in said
        if one["event"] == "vip.verdict_changed"
    ]
    assert len(verdicts) > 3
    assert verdicts == [
        (log.fields["vip"], log.fields["advertise"], log.fields["reason"], log.fields["detail"])
        for log in logs
        if log.event == "vip.verdict_changed"
    ]


def test_a_reading_that_was_the_one_before_is_still_that() -> None:
    snapshot, other = (kernels.Snapshot(table={}, addresses=frozenset(), sysctls={}) for _ in range(2))
    writer, reader = Writer(), Reader()
    first, same, equal = (
        reader.read(json.loads(json.dumps(writer.write(ev.KernelRead(snapshot=one)))))
        for one in (snapshot, snapshot, other)
    )
    assert same.snapshot is first.snapshot
    assert equal.snapshot is not first.snapshot


@pytest.mark.parametrize("config", [*CONFIGS, CONFIG, RICH])
def test_a_configuration_survives_the_recording(config: Config) -> None:
    assert Reader().read(json.loads(json.dumps(Writer().write(config)))) == config


def test_everything_that_can_be_written_can_be_recorded() -> None:
    assert Reader().read(json.loads(json.dumps(Writer().write(FULL)))).require == FULL.require


def test_no_secret_is_written_and_checks_that_differ_by_one_still_differ() -> None:
    def secret(token: str) -> Config:
        kind = HttpCheck(tls=False, headers=(("Authorization", token),))
        vip = CONFIG.vips[0]
        pool = replace(vip.services[0].pool, check=Check(kind=kind))
        neighbor = replace(CONFIG.bgp.neighbors[0], password=token)
        return replace(
            CONFIG,
            bgp=replace(CONFIG.bgp, neighbors=(neighbor,)),
            vips=(replace(vip, services=(replace(vip.services[0], pool=pool),)),),
        )

    first, second = (json.dumps(Writer().write(secret(token))) for token in ("s3cret", "s4cret"))
    assert "cret" not in first + second
    assert first != second
    assert first == json.dumps(Writer().write(secret("s3cret")))
    Reader().read(json.loads(first))


def test_a_recording_ends_where_it_would_be_too_large_and_what_is_there_can_be_played(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "node.jsonl"
    recorder = Recorder(path, said.append, limit=1000)
    recorder.begin(CONFIG, {}, 1000.0, None, "1")
    assert recorder.drain(60)
    recorder.event(ev.Tick(), 1001.0)
    assert recorder.drain(60)
    assert said == ["it has reached 1000 bytes"]
    played(path)


def test_a_recording_ends_where_the_disk_is_too_slow_and_has_no_gap_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MAX_WAITING", 3)
    said: list[str] = []
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    recorder = Recorder(pipe, said.append)
    recorder.begin(CONFIG, {}, 1000.0, None, "1")
    for number in range(100_000):  # far more than a pipe holds
        recorder.event(ev.Tick(), float(number))
        if number < 10:
            assert recorder.drain(60)
    os.set_blocking(reading, True)
    with os.fdopen(reading) as lines:
        recorder.event(ev.Tick(), 0.0)
        instants = [json.loads(line)[0] for line in itertools.islice(lines, 1, None)]
    assert recorder.drain(60)
    assert said == ["the disk is too slow"]
    assert len(instants) >= 10
    assert instants == [float(number) for number in range(len(instants))]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_ends_a_recording_and_nothing_else() -> None:
    said: list[str] = []
    recorder = Recorder(Path("/dev/full"), said.append)
    recorder.begin(CONFIG, {}, 1000.0, None, "1")
    assert recorder.drain(60)
    recorder.event(ev.Tick(), 1001.0)
    assert recorder.drain(60)
    assert len(said) == 1
    assert "No space left" in said[0]


def test_a_last_line_that_was_cut_is_passed_over_and_any_other_is_not(tmp_path: Path) -> None:
    path = tmp_path / "node.jsonl"
    node = Recorded(CONFIG, path)
    node.probe()
    assert node.recorder.drain(60)
    lines = path.read_text().splitlines()
    cut = [*lines[:-1], lines[-1][:-3]]
    assert len(list(replay(cut))) == len(lines) - 1
    with pytest.raises(BadRecordingError, match="line 2"):
        list(replay([lines[0], "{", *lines[1:]]))
    with pytest.raises(BadRecordingError, match="line 1"):
        list(replay(['{"recording": 2}']))
