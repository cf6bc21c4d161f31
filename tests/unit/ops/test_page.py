from __future__ import annotations

import base64
import re
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

import pytest

from anycast.core import events as ev
from anycast.core.dataplane.ipvs import Destination, Key, ServiceKey
from anycast.core.dataplane.traffic import RUN_ESTIMATION
from anycast.core.maintenance.stages import Maintenance
from anycast.core.values.configuration import Role
from anycast.ops import page
from anycast.ops.board import Boards
from anycast.ops.http import FRESH, MAX_PAGES, _Kept, read_app
from tests.unit.ops import flows, scenes
from tests.unit.ops.node import CONFIG, Node, healthy
from tests.unit.ops.test_http import Client, ask

_VOID = {"meta", "link", "img", "br", "input"}
_QUIET = {"script", "style", "title"}


@dataclass
class Parsed(HTMLParser):
    """A page as a browser would take it apart. `rows`: the text of each row of real servers."""

    tags: Counter[str] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    handlers: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        self.handlers += [name for name in given if name.startswith("on") or name == "style"]
        self.sources += [given[name] for name in ("src", "href") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag == "tr":
            self.rows.append("")
        if tag not in _VOID:
            self._open.append((tag, given.get("class", "")))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag = self._open[-1][0] if self._open else ""
        if tag == "title" and not any(one == "svg" for one, _ in self._open):
            self.titles.append(data)
        if tag not in _QUIET:
            self.words.append(data)
            if any(one == "tr" for one, _ in self._open):
                self.rows[-1] += data + " "

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def rendered(node: Node, text: str = "", number: str = "", sort: str = "") -> str:
    board, asked = Boards().of(node.state), page.asked(text, number, sort)
    return page.page(node, board, version="1.2.3", now=time.monotonic(), wall=time.time(), asked=asked)


def parsed(node: Node, text: str = "", number: str = "", sort: str = "") -> Parsed:
    found = Parsed()
    found.feed(rendered(node, text, number, sort))
    found.close()
    return found


@pytest.mark.parametrize("scene", scenes.SCENES)
def test_every_scene_is_well_formed_and_has_no_source_elsewhere(scene: str) -> None:
    found = parsed(scenes.SCENES[scene]())
    assert not found._open
    assert [one for one, number in Counter(found.ids).items() if number > 1] == []
    assert (found.tags["main"], found.tags["h1"], found.tags["script"]) == (1, 1, 1)
    assert found.handlers == []
    assert not [one for one in found.sources if "//" in one.replace("http://www.w3.org/2000/svg", "")]


def test_a_healthy_node_says_so_in_its_title_and_shows_everything_there_is() -> None:
    found = parsed(scenes.healthy())
    assert found.titles == ["✓ lb1 healthy: 3 of 3 VIPs announced"]
    for words in (
        "web ✓ announced",
        "192.0.2.1",
        "tcp/443 → web",
        "BGP neighbors",
        "10.2.1.254",
        "as wanted",
    ):
        assert words in found.text
    assert sum("✓ up" in row and " ms" in row for row in found.rows) == 34
    # Of each real server its checks and its new connections, of each VIP and of the node connections and bits.
    assert found.tags["svg"] == 2 * 34 + 2 * 3 + 2
    assert "vips/web/why" in found.sources
    assert re.search(r"table fingerprint: 192\.0\.2\.1 +[0-9a-f]{12}", found.text)
    assert "vip.verdict_changed" in found.text


def test_a_backup_has_a_badge_and_is_found_by_it() -> None:
    vips = tuple(replace(one, role=Role.BACKUP) if one.name == "web" else one for one in CONFIG.vips)
    node = healthy(replace(CONFIG, vips=vips))
    assert "web ✓ announced – backup" in parsed(node).text
    assert "mail ✓ announced – backup" not in parsed(node).text
    found = parsed(node, "state:backup").text
    assert ("web ✓" in found, "mail ✓" in found) == (True, False)


def test_a_drain_tells_its_stage_its_limit_and_what_it_waits_for() -> None:
    html = rendered(scenes.draining())
    assert "<title>! lb1 changing: 3 of 3 VIPs announced</title>" in html
    assert '<li aria-current="step">draining</li><li>withdrawn</li>' in html
    found = parsed(scenes.draining())
    assert re.search(
        r"last resort, so that routers move to other nodes; at the latest in +2\d s +\(\d\d:", found.text
    )
    assert re.search(
        r"resolver +! draining +ada: new kernel for +4 s +in +(29|30) min +back into service", found.text
    )
    assert re.search(r"web/web2 .*? disk is being replaced", found.text)
    assert sum("‖ drained" in row and " ms" in row for row in found.rows) == 4  # two services, two addresses


def test_what_fails_stands_first_with_its_reason() -> None:
    node = scenes.failing()
    found = parsed(node)
    assert found.titles == ["✕ lb1 trouble: 2 of 3 VIPs announced"]
    assert found.text.index("resolver ✕ not announced") < found.text.index("web ✓ announced")
    assert "below quorum : udp/53 IPv4: 0 of 3 usable, 3 needed" in found.text
    assert "the changed configuration was refused" in found.text
    web = [row for row in found.rows if "web" in row][:2]
    assert ("✕ down" in web[0], "refused" in web[0], "✓ up" in web[1]) == (True, True, True)
    sessions = [row for row in found.rows if "10.2.1.254" in row or "fd00:2:1::fe" in row]
    assert ["✕ down" in row for row in sessions] == [True, False]
    assert "hold timer expired" in sessions[0]
    assert any("! up, failing" in row and "mail1" in row for row in found.rows)


def test_an_empty_node_says_that_it_is() -> None:
    found = parsed(scenes.empty())
    assert found.titles == ["– lb1 no VIPs: no VIPs"]
    assert "No VIP is configured: this node announces nothing." in found.text


def test_a_node_in_maintenance_is_amber_and_says_by_whom() -> None:
    found = parsed(scenes.maintenance())
    assert found.titles == ["‖ lb1 in maintenance: 0 of 3 VIPs announced"]
    assert "it is out and may be rebooted" in found.text.lower()
    assert re.search(r"the whole node +‖ down +grace: new power supply", found.text)


def test_what_others_have_written_is_text() -> None:
    html = rendered(scenes.hostile())
    assert "<img" not in html
    assert "alert(1)</script>" not in html
    found = parsed(scenes.hostile())
    assert found.tags["script"] == 1
    for place in ("h1", "pool", "detail"):
        assert found.text.count(scenes.HOSTILE) > 10, place
    assert [one for one in found.sources if scenes.HOSTILE[:8] in one] == []


def test_the_policy_lets_in_the_pages_own_script_and_style_alone() -> None:
    html, policy = rendered(scenes.healthy()), page.headers()["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    for tag in ("script", "style"):
        inside = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert len(inside) == 1
        digest = base64.b64encode(sha256(inside[0].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_of_thousands_of_servers_those_that_fail_are_shown_and_the_others_counted() -> None:
    node = scenes.large(5000, down=250)
    html = rendered(node)
    assert len(html) < 250_000
    found = parsed(node)
    shown = [row for row in found.rows if "✓ up" in row or "✕ down" in row]
    assert len(shown) <= page.ROWS + 2  # and the BGP sessions
    assert sum("✕ down" in row for row in shown) == 3 * page.ILL
    assert "4,750 of 5,000" in found.text
    assert "and 80 more real servers, 80 of them to look after" in found.text
    assert re.search(r"and \d+ more real servers, all of them well", found.text)
    assert html.count('data-open="1"') == 3


def test_of_very_many_vips_those_that_are_out_are_shown() -> None:
    node = scenes.large(300, pool=1)
    node.probe(f"10.16.1.{299 - 256}")
    node.report()
    found = parsed(node)
    assert "1 to 100 of 300 VIPs, what is wrong first" in found.text
    assert re.search(r"what is wrong first +v299 ✕ not announced", found.text)


def articles(found: Parsed) -> list[str]:
    return re.findall(r"vips/([^/]+)/why", " ".join(found.sources))


@pytest.fixture(scope="module")
def crowd() -> Node:
    """130 VIPs of one real server each: two are down, one is drained, and one VIP is in maintenance."""
    node = scenes.large(130, pool=1)
    node.now -= 600
    node.probe("10.16.0.77", "10.16.0.5")
    entry = Maintenance(reason="moved", by="ada", since=time.time())
    node.send(ev.MaintenanceSet(scope="v100", entry=entry, skip_drain=True))
    node.send(ev.MaintenanceSet(scope="p101/s101", entry=entry))
    for _ in range(4):
        node.report()
        node.send(ev.Tick(), after=100.0)
    node.jump(time.monotonic() - node.now)
    node.report()
    return node


def test_what_is_wrong_is_first_then_what_is_out_on_purpose_then_the_rest_by_name(crowd: Node) -> None:
    first = articles(parsed(crowd))
    assert first[:6] == ["v101", "v5", "v77", "v100", "v0", "v1"]
    several = scenes.large(60, pool=5)
    several.send(
        ev.MaintenanceSet(scope="v2", entry=Maintenance(reason="", by="ada", since=0.0), skip_drain=True)
    )
    for _ in range(4):
        several.send(ev.Tick(), after=100.0)
        several.report()
    several.probe("10.16.0.51")
    several.report()
    assert articles(parsed(several))[:4] == ["v10", "v2", "v0", "v1"]
    second = articles(parsed(crowd, number="2"))
    assert sorted(first + second) == sorted(f"v{number}" for number in range(130))
    assert second == sorted(second)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("vip:v77", {"v77"}),
        ("V77", {"v77"}),
        ("192.0.2.129", {"v129"}),
        ("address:192.0.2.129", {"v129"}),
        ("vip:192.0.2.129", set()),
        ("10.16.0.12 vip:v128", {"v128"}),
        ("server:s99", {"v99"}),
        ("server:10.16.0.99", {"v99"}),
        ("state:down", {"v5", "v77"}),
        ("state:below_quorum", {"v5", "v77", "v101"}),
        ("state:not-announced", {"v5", "v77", "v101"}),
        ("state:drained", {"v101"}),
        ("state:maintenance", {"v100"}),
        ("state:in-maintenance", {"v100"}),
        ("state:wrong", {"v5", "v77", "v101"}),
        ("state:wrong v7", {"v77"}),
        ("nothing of the kind", set()),
        (":", set()),
        ("<b>", set()),
    ],
)
def test_vips_are_found_by_name_address_server_and_state(crowd: Node, text: str, names: set[str]) -> None:
    found = parsed(crowd, text)
    assert set(articles(found)) == names
    assert (re.search(rf"\d VIPs? found by {re.escape(text)}", found.text) is not None) is bool(names)
    assert (re.search(rf"No VIP is found by {re.escape(text)}", found.text) is None) is bool(names)


def test_what_is_looked_for_stays_in_the_field_and_in_the_way_to_more(crowd: Node) -> None:
    html = rendered(crowd, 'v "', "1")
    assert ' name="q" value="v &#34;"' in html
    assert '<label for="q">Find VIPs</label>' in html
    found = parsed(crowd, "vip:v")
    assert "?q=vip%3Av&page=2" in found.sources
    assert "page 1 of 2" in found.text
    last = parsed(crowd, "vip:v", "99999")
    assert "page 2 of 2" in last.text
    assert "?q=vip%3Av" in last.sources
    for wrong in ("", "0", "-1", "x", "1" * 50, "٣"):
        assert "page 1 of 2" in parsed(crowd, "", wrong).text


def test_a_few_vips_need_no_search_unless_somebody_searches() -> None:
    node = scenes.healthy()
    assert parsed(node).tags["form"] == 0
    assert parsed(node, "web").tags["form"] == 1


def test_the_real_server_that_is_looked_for_is_shown_however_many_there_are() -> None:
    node = scenes.large(5000, pool=500)
    found = parsed(node, "server:s4321")
    assert articles(found) == ["v8"]
    shown = [row for row in found.rows if "✓ up" in row]
    assert "s4321 " in shown[0]
    assert found.tags["details"] == 1
    assert rendered(node, "server:s4321").count('data-open="1"') == 1


def test_many_readers_of_one_page_cost_one_writing_and_many_pages_have_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = []
    write = page.page

    def counted(*args: Any, **words: Any) -> str:
        written.append(words["asked"])
        return write(*args, **words)

    monkeypatch.setattr(page, "page", counted)
    monkeypatch.setattr("anycast.ops.http.FRESH", 60.0)

    async def read(client: Client) -> None:
        first = await client.get("/?q=web")
        for _ in range(9):
            again = await client.get("/?q=web")
            assert await again.read() == await first.read()
        for number in range(MAX_PAGES + 1):
            await client.get(f"/?page={number + 2}")
        await client.get("/?q=web")

    ask(read_app(scenes.healthy()), read)
    assert len(written) == 1 + MAX_PAGES + 1 + 1


def test_a_page_is_good_for_half_a_second_unless_something_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    node = scenes.healthy()
    kept, now, made = _Kept[bytes](), [1000.0], list[str]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def read() -> bytes:
        def make() -> bytes:
            made.append("")
            return str(len(made)).encode()

        return kept.read(make, node.events.newest)

    assert (read(), read()) == (b"1", b"1")
    now[0] += FRESH - 0.1
    assert read() == b"1"
    node.events.publish("plugin.lost", "warning", {})
    assert read() == b"2"
    now[0] += FRESH + 0.1
    assert read() == b"3"


def test_an_engine_that_stands_still_is_told() -> None:
    node = scenes.healthy()
    node.last_step -= 60
    assert re.search(r"the engine has not run for 6\d\.\d s", parsed(node).text)


def test_one_silence_has_one_age_wherever_the_page_speaks_of_it() -> None:
    node = scenes.healthy()
    node.report(silent_since=node.now - 206.0)
    told = re.findall(r"(?:not answered for|no answer for|unknown\s+\S+\s+for) (\d+ \w+)", parsed(node).text)
    assert len(told) >= 3
    # Time passes until the page is made.
    assert len({age for age in told if age.endswith(" s")}) == 1
    assert {age for age in told if not age.endswith(" s")} <= {"3 min"}


def test_a_plugin_that_stands_still_with_its_exabgp_is_on_the_page_with_what_it_means() -> None:
    node = scenes.healthy()
    node.report(silent_since=node.now - 4.0, mute=True)
    text = parsed(node).text
    assert re.search(r"no answer of the plugin for \d+ s", text)
    assert "routers drop its routes within 9 s of its last keepalive" in text
    assert "systemctl thaw anycast-exabgp" in text, "what stands"


def test_the_page_is_served_and_to_head() -> None:
    node = scenes.healthy()

    async def questions(client: Client) -> None:
        async with client.get("/") as response:
            body = await response.text()
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "script-src 'sha256-" in response.headers["Content-Security-Policy"]
        assert body.endswith("</html>\n")
        async with client.head("/") as response:
            assert (response.status, int(response.headers["Content-Length"]) > 10_000) == (200, True)
            assert await response.read() == b""

    ask(read_app(node), questions)


def test_a_picture_of_check_times_is_told_in_words_too() -> None:
    picture = page.sparkline([0.001, 0.002, -1.0])
    assert 'aria-label="3 checks, 1.0 ms to 1.0 s, 1 of them failed"' in picture
    assert 'd="M82 18V9M85 18V0"' in picture
    assert '<path class="f" d="M88 18V0"/>' in picture


def test_what_is_carried_is_told_of_the_node_each_vip_each_service_and_each_real_server() -> None:
    node = scenes.running(load=flows.steady(5.0))
    found = parsed(node)
    # 34 entries, five each: 16 of web, 12 of the resolver, 6 of mail.
    assert re.search(r"Traffic through this node 170 new/s 8\.2 Mbit/s in 1\.7k packets/s", found.text)
    assert re.search(r"web ✓ announced .*? 80 new/s 47% of the node", found.text)
    assert re.search(r"tcp/443 → web .*? · 40 new/s, 1\.9 Mbit/s in", found.text)
    (row, *_) = [row for row in found.rows if "mail1" in row]
    assert re.search(r"5 +17% +240 kbit/s", row)
    assert "Answers do not come back this way" in found.text
    assert "new connections a second in the last 5 min: now 170, at most 170" in rendered(node)


def test_without_traffic_there_are_zeros_and_no_pictures_and_before_two_readings_nothing() -> None:
    node = scenes.running(load=flows.steady(0.0))
    found = parsed(node)
    assert found.text.count("No traffic in the last 5 minutes.") == 3
    assert found.tags["svg"] == 34
    assert "Not known: a rate takes two readings of the kernel" in parsed(Node()).text


def test_where_the_kernel_does_not_count_that_is_said_instead_of_zeros() -> None:
    node = scenes.running(load=flows.steady(5.0))
    node.kernel = replace(node.kernel, sysctls={**node.kernel.sysctls, RUN_ESTIMATION: "0"})
    node.now -= 1
    node.send(ev.Tick(), after=6.0)
    found = parsed(node)
    assert "Traffic not counted : the kernel's counters stand still" in found.text
    assert "new/s" not in found.text.lower().replace("new/s in check time", "")
    assert "No traffic" not in found.text


def by_vip(key: Key, _: Destination, __: int) -> float:
    """The more, the later the VIP."""
    assert isinstance(key, ServiceKey)
    return float(int(key.address) % 256)


def test_vips_are_in_the_order_that_is_asked_for_and_stay_in_it_when_somebody_searches() -> None:
    node = scenes.large(40, pool=2, load=by_vip)
    first = [f"v{number}" for number in range(20)]
    assert articles(parsed(node, sort="connections")) == first[::-1]
    assert articles(parsed(node, sort="bits")) == first[::-1]
    assert articles(parsed(node, sort="name")) == sorted(first)
    assert articles(parsed(node, sort="whatever")) == sorted(first)
    found = parsed(node, "v1", sort="connections")
    assert articles(found) == [f"v{number}" for number in (*range(19, 9, -1), 1)]
    assert "?q=v1&sort=name" in found.sources
    assert "?q=state%3Awrong&sort=connections" in found.sources
    assert "found by v1 , the most new connections first" in found.text


def test_machines_are_counted_once_however_many_services_they_are_in() -> None:
    node = scenes.healthy()
    node.probe("10.9.2.4")
    node.probe("10.9.2.4")
    node.report()
    found = parsed(node)
    assert "Real servers well 9 of 10 34 entries in services" in found.text


@pytest.mark.parametrize(("down", "kind"), [((), "plan"), (("10.16.0.0", "10.16.0.1"), "bad")])
def test_what_is_out_on_purpose_is_amber_unless_something_is_wrong_besides(
    down: tuple[str, ...], kind: str
) -> None:
    node = scenes.large(20, pool=2)
    node.probe(*down)
    entry = Maintenance(reason="moved", by="ada", since=time.time())
    node.send(ev.MaintenanceSet(scope="v7", entry=entry, skip_drain=True))
    for _ in range(4):
        node.send(ev.Tick(), after=20.0)
        node.report()
    told = f'<div class="{kind}"><dt>VIPs acknowledged by ExaBGP</dt><dd>{9 - (kind == "bad")} of 10<small>1 out on purpose'
    assert told in rendered(node)
    assert '<article class="plan card"' in rendered(node)
