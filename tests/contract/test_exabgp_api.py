"""What ExaBGP makes of its API: the faults that the plugin's rules are made for, in each version we say works.

A test that fails here says that ExaBGP has changed: then a rule may have become needless, or another needed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast.core.values.route import Route
from anycast.plugin import codec
from tests.contract import bgp, raw_script
from tests.contract.bgp import MARKERS, NODE4, NODE6, ROUTER4, ROUTER6, VIPS4, VIPS6, Site, Speaker
from tests.contract.routers import until

pytestmark = [pytest.mark.bgp, pytest.mark.skipif(bool(bgp.missing()), reason=bgp.missing() or "")]

V4 = VIPS4[0]
ANNOUNCE = f"announce route {V4} next-hop self med 100"
PLAIN = f"withdraw route {V4}"
EXACT = f"withdraw route {V4} next-hop self med 100"


class Script:
    """ExaBGP whose script says what the test says."""

    def __init__(self, around: Site, folder: Path) -> None:
        self.router = around.router
        self._orders, self._answers = folder / "orders", folder / "answers"
        os.mkfifo(self._orders)
        self._answers.touch()
        run = [sys.executable, raw_script.__file__, str(self._orders), str(self._answers)]
        text = bgp._exabgp_conf(run, bgp.BOTH_SESSIONS)
        self.speaker = Speaker(around.place, folder, text, [NODE4, NODE6], env={})
        self.until_up()

    def until_up(self) -> None:
        until(lambda: all(self._is_up(end) for end in (NODE4, NODE6)), "both sessions up at the router")

    def _is_up(self, end: str) -> bool:
        return str(self.router.neighbor(end)["bgpState"]) == "Established"

    def heard(self) -> list[str]:
        return [line for line in self._answers.read_text().splitlines() if line in {"done", "error"}]

    def events(self) -> list[bytes]:
        return [line for line in self._answers.read_bytes().splitlines() if line.startswith(b"{")]

    def say(self, *commands: str, answered: bool = True) -> list[str]:
        """In one write. The answers, once all have come."""
        before = len(self.heard())
        fifo = until(self._open, "the script")
        os.write(fifo, "".join(f"{command}\n" for command in commands).encode())
        os.close(fifo)
        if answered:
            until(lambda: len(self.heard()) >= before + len(commands), "an answer to each command")
        return self.heard()[before:]

    def _open(self) -> int | None:
        """Once somebody reads it."""
        with contextlib.suppress(OSError):
            return os.open(self._orders, os.O_WRONLY | os.O_NONBLOCK)
        return None

    def barrier(self) -> None:
        """Until what was said so far is in the router's kernel."""
        marker = MARKERS[0]
        self.say(f"announce route {marker} next-hop self")
        self.router.wait_for(marker)
        self.say(f"withdraw route {marker} next-hop self")
        self.router.wait_without(marker)


@contextlib.contextmanager
def script(site: Site) -> Iterator[Script]:
    with bgp.open_folder() as folder:
        one = Script(site, folder)
        try:
            yield one
        finally:
            one.speaker.stop()
    site.router.wait_without(*VIPS4, *VIPS6, *MARKERS)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with bgp.site() as one:
        yield one


@pytest.fixture(scope="module")
def raw(site: Site) -> Iterator[Script]:
    with script(site) as one:
        yield one


@pytest.mark.parametrize("story", ["-+-", "+-+"])
@pytest.mark.parametrize("withdraw", [PLAIN, EXACT], ids=["plain", "exact"])
def test_commands_for_one_prefix_in_one_write_hold_only_with_exact_withdraws(
    raw: Script, story: str, withdraw: str
) -> None:
    raw.say(ANNOUNCE if story[0] == "-" else EXACT)
    raw.barrier()
    assert raw.say(*(ANNOUNCE if sign == "+" else withdraw for sign in story)) == ["done"] * 3
    raw.barrier()
    right = raw.router.has(V4) == story.endswith("+")
    assert right == (withdraw is EXACT)
    raw.say(ANNOUNCE)
    raw.say(EXACT)
    raw.barrier()


@pytest.mark.parametrize("withdraw", [PLAIN, EXACT], ids=["plain", "exact"])
def test_a_withdraw_while_the_session_is_down_holds_only_when_it_is_exact(raw: Script, withdraw: str) -> None:
    raw.say(ANNOUNCE)
    raw.barrier()
    shut = f"neighbor {NODE4} shutdown"
    raw.router.vtysh("configure terminal", "router bgp 65000", shut)
    raw.router.wait_without(V4)
    for command in (withdraw, ANNOUNCE, withdraw):
        assert raw.say(command) == ["done"]
    raw.router.vtysh("configure terminal", "router bgp 65000", f"no {shut}")
    raw.until_up()
    raw.barrier()
    assert raw.router.has(V4) == (withdraw is PLAIN)
    raw.say(ANNOUNCE)
    raw.say(EXACT)
    raw.barrier()


def test_one_command_for_several_prefixes_is_what_as_many_commands_are(raw: Script) -> None:
    routes = [Route(prefix=prefix, med=100, communities=("65001:7",)) for prefix in VIPS4[:3]]
    for announce in ([codec.announce_all(routes)], [codec.announce(route) for route in routes]):
        for withdraw in (
            [codec.withdraw_all(routes)],
            [codec.withdraw(route) for route in routes],
            [codec.withdraw_all_bare(VIPS4[:3])],
        ):
            assert raw.say(*announce) == ["done"] * len(announce)
            raw.router.wait_for(*VIPS4[:3])
            assert raw.router.path(V4)["community"]["string"] == "65001:7"
            assert raw.say(*withdraw) == ["done"] * len(withdraw)
            raw.router.wait_without(*VIPS4[:3])
    raw.say(*(codec.withdraw(route) for route in routes))


def test_of_a_command_for_several_prefixes_in_one_write_the_last_counts_where_it_is_exact(
    raw: Script,
) -> None:
    routes = [Route(prefix=prefix, med=100) for prefix in VIPS4[:3]]
    up, down = codec.announce_all(routes), codec.withdraw_all(routes)
    raw.say(down, codec.announce_all(routes[:2]), codec.withdraw(routes[0]))
    raw.barrier()
    assert [raw.router.has(prefix) for prefix in VIPS4[:3]] == [False, True, False]
    raw.say(up, down, up)
    raw.barrier()
    assert all(raw.router.has(prefix) for prefix in VIPS4[:3])
    raw.say(down)
    raw.router.wait_without(*VIPS4[:3])


def test_of_two_families_in_one_command_one_is_forgotten(raw: Script) -> None:
    routes = [Route(prefix=V4), Route(prefix=VIPS6[0])]
    assert raw.say(codec.announce_all(routes)) == ["done"]
    raw.barrier()
    assert [raw.router.has(route.prefix) for route in routes] == [False, True]
    raw.say(*map(codec.withdraw, routes))
    raw.barrier()


def test_of_a_command_for_several_prefixes_that_is_refused_nothing_is_announced(raw: Script) -> None:
    assert raw.say(f"announce attributes next-hop self nlri {V4} 10.99.0.7/24 {VIPS4[1]}") == ["error"]
    raw.barrier()
    assert not raw.router.has(V4)


def test_the_name_of_a_community_with_shutdown_in_it_ends_exabgp(raw: Script) -> None:
    raw.say(ANNOUNCE)
    raw.router.wait_for(V4)
    raw.say(f"{ANNOUNCE} community [no-export graceful-shutdown]", answered=False)
    assert raw.speaker.exabgp.wait(bgp.PATIENCE)
    raw.router.wait_without(V4)
    raw.speaker.start()
    raw.until_up()


def test_a_flush_without_a_session_is_answered(raw: Script) -> None:
    shut = [f"neighbor {end} shutdown" for end in (NODE4, NODE6)]
    raw.router.vtysh("configure terminal", "router bgp 65000", *shut)
    until(lambda: not any(raw._is_up(end) for end in (NODE4, NODE6)), "both sessions down")
    assert raw.say(codec.FLUSH) in (["done"], ["error"])
    raw.router.vtysh("configure terminal", "router bgp 65000", *(f"no {one}" for one in shut))
    raw.until_up()


def test_a_router_that_ends_the_session_is_heard_with_its_own_words(raw: Script) -> None:
    told = "moving racks, back at 18:30"
    raw.router.vtysh("configure terminal", "router bgp 65000", f"neighbor {NODE4} shutdown message {told}")

    def said() -> bool:
        heard = [codec.parse(line) for line in raw.events()]
        words = [
            n for n, line in enumerate(heard) if isinstance(line, codec.Notification) and line.words == told
        ]
        downs = [
            n
            for n, line in enumerate(heard)
            if isinstance(line, codec.NeighborEvent) and line.state == "down"
        ]
        return bool(words) and any(n > words[0] for n in downs)

    until(said, "the router's words, and then the end of the session")
    raw.router.vtysh("configure terminal", "router bgp 65000", f"no neighbor {NODE4} shutdown")
    raw.until_up()


def test_done_says_nothing_of_the_router(raw: Script) -> None:
    """Withdrawing what was never announced and a community of seventeen bits are done, too."""
    assert raw.say(f"withdraw route {VIPS4[9]}") == ["done"]
    assert raw.say(f"announce route {V4} next-hop self community [65000:70000]") == ["done"]
    raw.router.wait_for(V4)
    assert raw.router.path(V4)["community"]["string"] == "65001:4464"
    raw.say(f"withdraw route {V4} next-hop self community [65000:70000]")
    raw.barrier()


def test_a_command_goes_to_the_neighbors_it_names_that_are_there_and_is_refused_where_none_is(
    raw: Script,
) -> None:
    """Hence the plugin names those that ExaBGP has; the word before the command changes nothing of how it is found."""
    route, nobody = Route(prefix=V4, med=100, as_path=(65001, 65001)), "203.0.113.1"
    assert raw.say(codec.announce(route, [nobody])) == ["error"]
    assert raw.say(codec.announce(route, [ROUTER4, nobody])) == ["done"]
    raw.router.wait_for(V4)
    assert raw.say(codec.withdraw(route, [ROUTER6])) == ["done"]  # it never had it
    raw.barrier()
    assert raw.router.has(V4)
    assert raw.say(codec.withdraw_all([route, Route(prefix=VIPS4[1])], [ROUTER4, ROUTER6])) == ["done"]
    raw.router.wait_without(V4)


def test_a_withdraw_from_one_neighbor_leaves_what_another_one_is_sent_in_the_same_write(raw: Script) -> None:
    """Tables are kept for each neighbor: commands for one prefix do not meet there."""
    route = Route(prefix=V4, med=100)
    up, other = codec.announce(route, [ROUTER4]), codec.withdraw(route, [ROUTER6])
    assert raw.say(other, up, other, up, other) == ["done"] * 5
    raw.barrier()
    assert raw.router.has(V4)
    raw.say(codec.withdraw(route, [ROUTER4]))
    raw.router.wait_without(V4)
