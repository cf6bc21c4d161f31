"""What the measurement over size says of its figures, and the programs that both builds run."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from anycast.config.load import loads
from lab import bench_scale, configs
from lab.scale import builds, fake_exabgp, nodes
from lab.scale.bench import Bench
from lab.scale.fabric import Hops, bgpd_conf, bird_conf
from lab.scale.figures import NEVER, Figure, Goal, Point, figures_table, slope
from lab.scale.picture import picture, time_of
from lab.scale.sites import Checked, Node, Size, server, site, vip
from lab.scale.watched_agent import Watch, answer

SVG = "{http://www.w3.org/2000/svg}"
PLACE = Node("/run/anycast")


def figure(
    base: tuple[float, ...], ours: tuple[float, ...], goal: Goal | None = None, *, worst: bool = False
) -> Figure:
    return Figure(row="row", work="a work", unit="ms", base=base, ours=ours, goal=goal, worst=worst)


def test_the_ratio_is_of_the_medians() -> None:
    assert figure((100, 900, 110), (11, 10, 99)).ratio == 0.1


def test_what_must_not_be_exceeded_is_judged_by_its_worst() -> None:
    times = (5.0, 5.0, 25.0)
    assert figure((), times, Goal(most=20)).reached is True
    assert figure((), times, Goal(most=20), worst=True).reached is False


@pytest.mark.parametrize(
    ("base", "ours", "reached"),
    [(10.0, 0.9, True), (10.0, 1.1, False), (100.0, 1.1, False), (5.0, 0.9, False), (10.0, NEVER, False)],
    ids=["held", "both missed", "above the limit", "above the ratio", "never"],
)
def test_both_parts_of_a_goal_count(base: float, ours: float, *, reached: bool) -> None:
    assert figure((base,), (ours,), Goal(ratio=0.1, most=1)).reached is reached


def test_without_a_baseline_a_ratio_says_nothing_and_a_limit_does() -> None:
    assert figure((), (1.0,), Goal(ratio=0.1)).reached is None
    assert figure((), (1.0,), Goal(ratio=0.1, most=2)).reached is True


def test_never_is_no_ratio_and_stands_in_table_and_json() -> None:
    one = figure((NEVER,), (4.0,), Goal(most=5))
    assert one.ratio is None
    assert one.reached is True
    found = json.loads(json.dumps(one.document(), allow_nan=False))
    assert found["base"] == "never"
    assert found["values"] == {"base": ["never"], "ours": [4.0]}
    assert one.cells() == ("row", "a work, ms", "never", "4", "-", "≤ 5", "yes")


def test_a_note_stands_below_the_table() -> None:
    text = figures_table([Figure(row="fifth", work="a fifth", unit="s", note="not measurable: no cgroup")])
    assert text.splitlines()[-1] == "fifth, a fifth: not measurable: no cgroup"


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_slope_is_the_power_of_the_size(power: float) -> None:
    points = [Point(work="w", build="ours", vips=n, cost=1e-4 * n**power) for n in (10, 100, 1000)]
    assert slope(points, "ours", "w") == pytest.approx(power, abs=1e-9)
    assert slope(points, "base", "w") is None


def test_the_slope_leaves_out_what_costs_the_same_at_every_size() -> None:
    sizes = (1, 10, 100)
    points = [Point(work="w", build="ours", vips=n, cost=1.0 if n == 1 else n / 1000) for n in sizes]
    assert slope(points, "ours", "w") == pytest.approx(1.0)


def test_each_work_has_a_panel_with_a_line_of_each_build_and_all_lies_on_the_page() -> None:
    works = ("a check fails", "a tick", "a < b", "one more")
    points = [
        Point(work=work, build=build, vips=vips, cost=cost * vips)
        for work in works
        for build, cost in (("base", 1e-3), ("ours", 1e-6))
        for vips in (1, 10, 1000)
    ]
    root = ET.fromstring(picture(points, "commit abc"))  # noqa: S314
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    assert len(list(root.iter(f"{SVG}polyline"))) == 2 * len(works)
    said = [text.text for text in root.iter(f"{SVG}text")]
    assert {*works, "commit abc", "this build", "then: size^1.00", "now: size^1.00", "1 s", "1 ms"} <= set(
        said
    )
    for circle in root.iter(f"{SVG}circle"):
        assert 0 <= float(circle.attrib["cx"]) <= width
        assert 0 <= float(circle.attrib["cy"]) <= height
    for text in root.iter(f"{SVG}text"):
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height


def test_a_picture_of_a_single_size_can_be_drawn() -> None:
    ET.fromstring(picture([Point(work="w", build="ours", vips=1, cost=1e-3)], "commit abc"))  # noqa: S314


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.0, "2 s"), (0.5436, "544 ms"), (0.0015, "1.5 ms"), (1e-5, "10 µs"), (5e-8, "50 ns")],
)
def test_times_are_shown_in_their_unit(seconds: float, text: str) -> None:
    assert time_of(seconds) == text


def test_a_site_has_the_servers_it_is_asked_for_and_none_twice() -> None:
    size = Size.read("20x3")
    config = loads(site(size, PLACE, strict=True, further=2), hostname="lb1").config
    assert [one.addresses for one in config.vips] == [(vip(number),) for number in range(20)]
    servers = [one for each in config.vips for service in each.services for one in service.pool.servers]
    addresses = {address for one in servers for address in one.addresses}
    assert len(addresses) == len(servers) == size.servers + 2
    assert server(size, 19, 2) in addresses


def test_a_check_that_is_carried_out_has_its_port_and_interval() -> None:
    text = site(Size(1, 1), PLACE, checked=Checked(8080, "5s"))
    assert "port: 8080, interval: 5s" in text
    assert len(loads(text, hostname="lb1").config.vips) == 1


def test_the_core_driver_does_every_work_with_this_build(tmp_path: Path) -> None:
    for name, further in (("site", 0), ("more", 1)):
        (tmp_path / name).write_text(site(Size(3, 2), PLACE, further=further))
    build = here()
    argv = build.program("core_driver.py", str(tmp_path / "site"), str(tmp_path / "more"))
    works = ["outcome", "tick", "reading", "burst", "reload", "outcome"]
    done = subprocess.run(
        argv, input="\n".join(works), env=build.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, *answers = map(json.loads, done.stdout.splitlines())
    assert first["load"] > 0
    assert [one["cpu"] >= 0 for one in answers] == [True] * len(works)


def test_the_stand_in_for_exabgp_counts_routes_and_answers() -> None:
    announced: set[str] = set()
    assert fake_exabgp.answer("announce route 198.18.0.1/32 next-hop self", announced) == ("done\n", 0)
    assert announced == {"198.18.0.1/32"}
    assert fake_exabgp.answer("withdraw route 198.18.0.9/32", announced) == ("done\n", 0)
    assert fake_exabgp.answer("withdraw route 198.18.0.1/32 next-hop self", announced) == ("done\n", 1)
    assert announced == set()
    text, _ = fake_exabgp.answer("show neighbor json", announced)
    table, done = text.splitlines()
    assert json.loads(table)[0]["state"] == "up"
    assert done == "done"


def test_the_stand_in_for_exabgp_knows_many_prefixes_in_one_command() -> None:
    announced = {"198.18.0.3/32"}
    line = "attributes next-hop self nlri 198.18.0.1/32 198.18.0.2/32"
    assert fake_exabgp.answer(f"announce {line}", announced)[1] == 0
    assert announced == {"198.18.0.1/32", "198.18.0.2/32", "198.18.0.3/32"}
    assert fake_exabgp.answer(f"withdraw {line} 198.18.0.4/32", announced)[1] == 2
    assert announced == {"198.18.0.3/32"}


def test_the_watch_tells_the_longest_turn_since_its_mark() -> None:
    watch = Watch()
    watch.turn(5.0)
    answer(watch, "mark")
    watch.turn(0.25)
    watch.turn(0.5)
    found = answer(watch, "read")
    assert (found["longest"], found["turns"]) == (0.5, 2)


def test_the_tap_passes_on_both_ways_and_notes_leases_alone(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as plugin:
        listener.bind(str(tmp_path / "agent"))
        listener.listen()
        tap = nodes.Tap(tmp_path / "agent", tmp_path / "tap")
        try:
            plugin.connect(str(tmp_path / "tap"))
            agent, _ = listener.accept()
            with agent:
                plugin.sendall(b'{"type":"report"}\n')
                assert agent.recv(100) == b'{"type":"report"}\n'
                lines = b'{"type":"lease","seq":1}\n{"type":"other"}\n{"type":"lease","seq":2}\n'
                agent.sendall(lines)
                got = b""
                while len(got) < len(lines):
                    got += plugin.recv(100)
                assert got == lines
        finally:
            tap.close()
    assert len(tap.leases) == 2
    first, last = (arrived for arrived, _ in tap.leases)
    assert tap.pauses(-math.inf, last + 5.0) == [last - first, 5.0]


def test_hops_are_counted_by_what_a_prefix_has_now() -> None:
    hops = Hops()
    hops.put("198.18.0.1/32", ("10.2.1.1", "10.2.2.1"))
    hops.put("198.18.0.2/32", ("10.2.1.1",))
    hops.put("198.18.0.1/32", ("10.2.2.1",))
    assert (hops.counts["10.2.1.1"], hops.counts["10.2.2.1"]) == (1, 1)
    hops.put("198.18.0.2/32", ())
    assert hops.counts["10.2.1.1"] == 0


def test_bird_has_the_first_route_apart() -> None:
    text = bird_conf("10.2.2.1", "10.2.2.254", 65002, 3)
    assert "protocol static one { ipv4; route 198.18.0.1/32 blackhole; }" in text
    assert "rest { ipv4; route 198.18.0.2/32 blackhole; route 198.18.0.3/32 blackhole; }" in text
    assert "neighbor 10.2.2.1 remote-as 65002" in bgpd_conf()


def test_without_the_git_history_there_is_no_baseline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lab.configs.checkout", lambda: tmp_path)
    assert builds.base() is None
    assert list(tmp_path.iterdir()) == []


def test_rows_are_those_asked_for_or_all_but_the_long_ones() -> None:
    assert bench_scale.wanted_rows("tick,load", long=False) == {"tick", "load"}
    usual, all_of_them = (bench_scale.wanted_rows("", long=long) for long in (False, True))
    assert all_of_them - usual == {"leases", "fifth"}
    with pytest.raises(ValueError, match="no such row: nothing"):
        bench_scale.wanted_rows("tick,nothing", long=False)


def test_a_row_that_cannot_be_measured_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    def fail(_: object) -> list[Figure]:
        raise RuntimeError("no such luck")

    group = bench_scale.Group(rows={"a": "one", "b": "another"}, measure=fail)
    bench = Bench(tmp_path, None, here(), frozenset({"b"}), quick=True, seconds=1.0)
    (found,) = bench_scale.measured(group, bench)
    assert (found.row, found.reached) == ("b", None)
    assert "no such luck" in found.note


def test_help_lists_every_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_scale.main(["--rows", "help"]) == 0
    said = capsys.readouterr().out
    assert {line.split()[0] for line in said.splitlines()} == {
        row for group in bench_scale.GROUPS for row in group.rows
    }


def test_the_programs_of_both_builds_import_nothing_of_this_folder() -> None:
    for name in ("core_driver", "watched_agent", "fake_exabgp"):
        text = Path(bench_scale.__file__).with_name("scale").joinpath(f"{name}.py").read_text()
        assert "lab.scale" not in text.split('"""', 2)[2]


def here() -> builds.Build:
    """This checkout with the libraries of the tests: what is measured has an environment of its own."""
    return builds.Build(name="ours", python=Path(sys.executable), root=configs.checkout())
