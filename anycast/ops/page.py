"""The page at `/`: what the status says, for people. It is whole without a script; `page.js` only keeps it fresh.

Of thousands of real servers it shows those that want looking after and counts the others: its size has a bound.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import islice
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup

from anycast.core.health.aim import targets_of
from anycast.core.health.phase import Phase
from anycast.core.maintenance.progress import stage_ends
from anycast.core.maintenance.stages import Stage
from anycast.core.state import State
from anycast.core.values.configuration import Address, Config, Role, Service, Vip
from anycast.core.values.moment import iso
from anycast.ops import page_fleet, status
from anycast.ops.amounts import amount, bits, machines, percent
from anycast.ops.board import Block, Board, Key
from anycast.ops.find import LONGEST as LONGEST_QUERY
from anycast.ops.find import WRONG, Query, Words, query, state_words
from anycast.ops.hub import Event
from anycast.ops.markup import LONGEST, SIGNS, Look, badge, el, joined, lasts, rough, short
from anycast.ops.servers import Row, Seen, sees_answers
from anycast.ops.source import Source
from anycast.ops.traffic import NO_RATES, SPAN, Graph, Rates, Traffic, keys_of

VIPS = 100  # on one page
SEARCHED = 3  # VIPs up to which there is no search
SERVICES = 200
ROWS = 150  # real servers
ILL = 20  # of them in one service that want looking after
FOLDED = 40  # real servers on the page from which on services that are well are folded
PICTURED = 20  # VIPs on the page up to which there are pictures of what each carries in full
OPEN = 10  # services with something to look after that are not folded
EVENTS = 30
NAMED = 50  # neighbors, requirements, maintenances, addresses, lines of trouble

_FLOW_WIDTH, _FLOW_HEIGHT = 120, 24  # of a picture of traffic
_SLOTS = 30  # runs in a picture of check times
_WIDTH, _HEIGHT = 90, 18
_BARS = [
    [f"M{3 * place + 1} {_HEIGHT}V{_HEIGHT - max(1, tall)}" for tall in range(_HEIGHT + 1)]
    for place in range(_SLOTS)
]


_SERVER_HEAD = Markup(
    '<thead><tr><th scope="col">State</th><th scope="col">Real server</th><th scope="col" class="n">Weight</th>'
    '<th scope="col" class="n">Open</th><th scope="col" class="n">New/s</th><th scope="col" class="n">In</th>'
    '<th scope="col" class="n">Check time</th></tr></thead>'
)


_RANKS = {"bad": 0, "warn": 1, "plan": 2, "calm": 2, "ok": 3}


def vip_look(state: State, vip: Vip, routes: status.Routing) -> Look:
    verdict = state.vips[vip.name].verdict
    stage = status.vip_progress(state, vip.name).stage
    if stage is Stage.DRAINING:
        return Look("warn", "draining")
    if stage is Stage.DOWN:
        return Look("plan", "in maintenance")
    if stage is not Stage.ACTIVE:
        return Look("warn", f"leaving: {stage}")
    if status.is_announced(routes, vip) and verdict.advertise != "no":
        if verdict.reason == "sorry":
            return Look("bad", "sorry pool")
        return Look("bad", "last resort") if verdict.is_last_resort else Look("ok", "announced")
    if verdict.reason in ("starting", "stopping"):
        return Look("warn", str(verdict.reason))
    return Look("bad", "not announced" if routes.silence is None else "not known")


def server_look(found: Seen) -> Look:
    health = found.health
    if found.drained:
        return Look("plan", "drained")
    if health.unknown and health.phase is not Phase.UNPROVEN:
        return Look("warn", "check could not run")
    match health.phase:
        case Phase.UNDECIDED:
            return Look("warn", "no result yet")
        case Phase.UNPROVEN:
            return Look("bad", "cannot be checked")
        case Phase.DOWN:
            return Look("bad", "down")
        case Phase.RISING:
            return Look("bad", "down, rising")
        case Phase.FALLING:
            return Look("warn", "up, failing")
        case Phase.UP:
            return Look("warn", "up, warned") if health.detail else _UP


_UP = Look("ok", "up")


def _has(view: Mapping[str, Any] | None) -> str:
    """What a router is known to have."""
    if view is None:
        return "it is not asked"
    words = [f"{view['received']:,} received"] if view["received"] or view["complete"] else []
    if view["not_received"]:
        words.append(f"{view['not_received']:,} NOT received")
    return ", ".join([*words, *([] if view["complete"] else [short(view["why"])])])


def neighbor_look(state: str) -> Look:
    return Look("ok" if state == "up" else "warn" if state == "unknown" else "bad", state)


WRONG_FIRST = "wrong"
SORTS = {WRONG_FIRST: "what is wrong", "name": "name", "connections": "new connections", "bits": "bits in"}
"""By what VIPs can be sorted, and that in words."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be shown: the VIPs that are looked for, which hundred of them, from 1 on, and in which order."""

    query: Query = Query()
    number: int = 1
    sort: str = WRONG_FIRST


def asked(text: str, number: str, sort: str = "") -> Asked:
    """By the parameters of an address; what is no number is the first, and what is no order is as ever."""
    known = number.isascii() and number.isdecimal() and 0 < len(number) < 6
    return Asked(query(text), max(1, int(number)) if known else 1, sort if sort in SORTS else WRONG_FIRST)


class Memory:
    """What is worked out once for a configuration, and for what is seen of the servers of a service."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._words: dict[str, Words] = {}
        self._machines: tuple[Config, dict[Key, list[int]]] | None = None
        self._whole: tuple[object, float, Graph | None] | None = None
        self._ill: dict[Key, tuple[Sequence[Seen], list[int]]] = {}

    def ill(self, board: Board) -> dict[Key, list[int]]:
        """By service, the places of those that want looking after, the worst first."""
        known = self._ill
        fresh = {}
        for key, found in board.seen.items():
            before = known.get(key)
            fresh[key] = before if before is not None and before[0] is found else (found, _ill(found))
        self._ill = fresh
        return {key: places for key, (_, places) in fresh.items()}

    def machines(self, board: Board) -> dict[Key, list[int]]:
        """By service, which machine each of its entries is: one machine is in many, by each of its addresses."""
        config = board.state.config
        if self._machines is None or self._machines[0] is not config:
            numbers = iter(
                machines((row.scope, row.address) for block in board.blocks.values() for row in block.rows)
            )
            found = {key: list(islice(numbers, len(block.rows))) for key, block in board.blocks.items()}
            self._machines = config, found
        return self._machines[1]

    def whole(self, config: Config, traffic: Traffic) -> Graph | None:
        """What all VIPs carry: worked out once for each point."""
        if self._whole is None or self._whole[:2] != (config, traffic.drawn):
            keys = {key for vip in config.vips for one in vip.services for key in keys_of(vip, one)}
            self._whole = config, traffic.drawn, traffic.graph(keys)
        return self._whole[2]

    def words(self, board: Board) -> dict[str, Words]:
        if self._config is not board.state.config:
            self._config = board.state.config
            self._words = {
                vip.name: Words(
                    vip, [row for one in vip.services for row in board.blocks[vip.name, one.name].rows]
                )
                for vip in self._config.vips
            }
        return self._words


def page(
    source: Source,
    board: Board,
    *,
    version: str,
    now: float,
    wall: float,
    asked: Asked = Asked(),
    memory: Memory | None = None,
    fleet: Mapping[str, Any] | None = None,
) -> str:
    """`fleet`: from `fleet_seen.document`; None: the node takes part in none."""
    newest = source.events.newest
    writing = _Page(
        board=board,
        source=source,
        now=now,
        wall=wall,
        version=version,
        events=source.events.after(max(0, newest - EVENTS))[::-1],
        newest=newest,
        asked=asked,
        memory=memory or Memory(),
        fleet=fleet,
    )
    return "".join(writing.pieces())


@cache
def headers() -> Mapping[str, str]:
    """Nothing from elsewhere, and no script but the page's own."""
    script, style = (f"'sha256-{_digest(_asset(name))}'" for name in ("page.js", "page.css"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }


@cache
def _build() -> str:
    """Names this script and style: a page that has others must be loaded anew."""
    return _digest(_asset("page.js") + _asset("page.css"))[:12]


@cache
def _asset(name: str) -> str:
    return files("anycast.ops").joinpath(name).read_text("utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(sha256(text.encode()).digest()).decode()


class _Page:
    """One writing of it."""

    def __init__(
        self,
        *,
        board: Board,
        source: Source,
        now: float,
        wall: float,
        version: str,
        events: Sequence[Event],
        newest: int,
        asked: Asked,
        memory: Memory,
        fleet: Mapping[str, Any] | None,
    ) -> None:
        self.fleet = fleet
        self.state = state = board.state
        self.board = board
        self.asked = asked
        self.memory = memory
        self.ill = memory.ill(board)
        self.source = source
        self.now = now
        self.wall = wall
        self.events = events
        self.newest = newest
        self.routes = status.routing(state, now)
        self.frame = status.frame(
            state,
            [],
            now=now,
            wall=wall,
            version=version,
            pid=0,
            force=source.facts.force,
            overload=source.facts.work.strain.overload,
            hooks=source.facts.hooks,
        )
        self.looks = {vip.name: vip_look(state, vip, self.routes) for vip in state.config.vips}
        self.traffic = source.traffic
        self.lean = False  # whether pictures are smaller than they could be
        self.whole = status.node_rates(state, now, self.traffic)

    def pieces(self) -> Iterator[str]:
        overall = self.overall()
        script, style = _asset("page.js"), _asset("page.css")
        yield (
            f'<!doctype html>\n<html lang="en" data-build="{_build()}">\n<head>\n'
            '<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"{el('title', self.title(overall))}\n"
            f'<link rel="icon" href="{_icon(overall.kind)}">\n'
            '<noscript><meta http-equiv="refresh" content="30"></noscript>\n'
            f"<style>{style}</style>\n</head>\n<body>\n"
            f'<div id="live" role="status">As of {_clock_time(self.wall)}; without JavaScript it reloads every 30 s'
            f'</div>\n<main data-newest="{self.newest}">\n'
        )
        yield self.header(overall)
        troubles = list(self.troubles())
        if troubles:
            yield el("ul", *_capped([el("li", one) for one in troubles], "li"), class_="alerts", role="alert")
        yield self.tiles()
        yield self.carried()
        if self.fleet is not None:
            yield page_fleet.section(self.fleet)
        yield from self.vips()
        yield self.neighbors()
        yield self.maintenance()
        yield self.requirements()
        yield self.data_plane()
        yield self.recent()
        yield (
            "</main>\n<footer>The same for programs: "
            + ", ".join(
                f'<a href="{path}">/{path}</a>' for path in ("status", "metrics", "readyz", "openapi.json")
            )
            + f"; on this node: <code>anycast status</code></footer>\n<script>{script}</script>\n</body>\n</html>\n"
        )

    def overall(self) -> Look:
        """The worst there is, for the title and the icon."""
        kinds = [look.kind for look in self.looks.values()]
        if any(True for _ in self.troubles()) or "bad" in kinds:
            return Look("bad", "trouble")
        if self.state.stopping_since is not None or "warn" in kinds:
            return Look("warn", "changing")
        if not kinds:
            return Look("calm", "no VIPs")
        return Look("plan", "in maintenance") if "plan" in kinds else Look("ok", "healthy")

    def title(self, overall: Look) -> str:
        told = f"{self._announced()} of {len(self.looks)} VIPs announced" if self.looks else "no VIPs"
        return f"{SIGNS[overall.kind]} {self.state.config.node.name} {overall.word}: {told}"

    def _announced(self) -> int:
        return sum(status.is_announced(self.routes, vip) for vip in self.state.config.vips)

    def header(self, overall: Look) -> Markup:
        node = self.frame["node"]
        return el(
            "header",
            el("div", el("h1", node["name"]), overall.badge, class_="head"),
            el(
                "p",
                f"anycast {node['version']}, running for ",
                lasts(node["uptime_s"]),
                class_="dim small",
            ),
        )

    def troubles(self) -> Iterator[str]:
        # A node without VIPs has a place of its own for that.
        yield from (reason for reason in self.frame["ready"]["reasons"] if reason != status.NO_VIP)
        if lag := status.lag(self.state, self.source.facts.last_step, self.now):
            yield lag
        for one in self.frame["standing"]:
            yield one["text"]
        for one in self.frame["maintenance"]:
            if one["overdue"]:
                yield f"the maintenance of {one['scope'] or 'the node'} is overdue"

    def tiles(self) -> Markup:
        vips, sessions = self.state.config.vips, self.frame["neighbors"]
        announced, up = self._announced(), sum(one["state"] == "up" for one in sessions)
        servers, well, places = self._servers()
        entries = self.frame["maintenance"]
        kernel = self.frame["kernel"]
        out = sum(look.kind == "plan" for look in self.looks.values())
        kinds = {look.kind for look in self.looks.values()} - {"ok"}
        return el(
            "dl",
            _tile(
                "VIPs acknowledged by ExaBGP",
                f"{announced:,} of {len(vips):,}",
                # Of those that are not, the worst: what is out on purpose is no fault.
                "ok" if announced == len(vips) else min(kinds or {"bad"}, key=_RANKS.__getitem__),
                f"{out:,} out on purpose" if out else "",
            ),
            _tile(
                "Real servers well",
                f"{well:,} of {servers:,}",
                "ok" if well == servers else "warn",
                f"{places:,} entries in services" if places != servers else "",
            )
            if servers or not vips
            else None,
            _tile("BGP sessions up", f"{up} of {len(sessions)}", "ok" if up == len(sessions) else "bad"),
            _tile(
                "Kernel",
                "unavailable" if not kernel["available"] else "as wanted" if kernel["proven"] else "differs",
                "ok" if kernel["available"] and kernel["proven"] else "bad",
            ),
            _tile("In maintenance", str(len(entries)) if entries else "nothing", "plan" if entries else "ok"),
            class_="tiles",
        )

    def _servers(self) -> tuple[int, int, int]:
        """How many machines there are, how many are well wherever they are used, and how many entries they have."""
        numbers = self.memory.machines(self.board)
        there = {number for each in numbers.values() for number in each}
        ill = {numbers[key][place] for key, places in self.ill.items() for place in places}
        return len(there), len(there) - len(ill), sum(map(len, numbers.values()))

    # Traffic

    def carried(self) -> Markup:
        """What all VIPs together carry through this node."""
        if not any(vip.services for vip in self.state.config.vips):
            return Markup("")
        answers = any(sees_answers(one) for vip in self.state.config.vips for one in vip.services)
        if not self.traffic.counted:
            told: tuple[object, ...] = (
                el("strong", "not counted"),
                ": the kernel's counters stand still (net.ipv4.vs.run_estimation is 0, or net.ipv4.vs.est_cpulist names no processor)",
            )
            return el("div", el("h2", "Traffic", id="traffic"), el("p", *told), class_="plain card flows")
        graph = self.memory.whole(self.state.config, self.traffic)
        return el(
            "section",
            el("h2", "Traffic through this node", id="traffic"),
            el("p", _NOT_YET if self.whole is None else flow(self.whole, graph, answers=answers)),
            el(
                "p",
                "By the kernel's counters, over 10 s; pictures show 5 minutes. Other nodes are not in it. ",
                None if answers else "Answers do not come back this way (direct routing, tunnels).",
                class_="dim small",
            ),
            class_="plain card flows",
            aria_labelledby="traffic",
        )

    # VIPs

    def vips(self) -> Iterator[str]:
        yield Markup('<section aria-labelledby="vips"><h2 id="vips">VIPs</h2>\n')
        all_vips = self.state.config.vips
        if not all_vips:
            yield el("p", "No VIP is configured: this node announces nothing.", class_="plain card")
        wanted = self.asked.query
        if len(all_vips) > SEARCHED or wanted.text:
            yield self.search()
        found = [vip for vip in self._in_order() if self._takes(vip)]
        pages = max(1, -(-len(found) // VIPS))
        number = min(self.asked.number, pages)
        shown = found[VIPS * (number - 1) : VIPS * number]
        if shown or wanted.text:
            yield self.told(found, shown, number)
        blocks = [self.board.blocks[vip.name, service.name] for vip in shown for service in vip.services]
        plan = _Plan(blocks, self.ill, wanted)
        places = {vip.name: place for place, vip in enumerate(all_vips)} if shown else {}
        self.lean = len(shown) > PICTURED
        for vip in shown:
            yield from self.vip(vip, places[vip.name], plan)
        yield self.leaf(number, pages)
        yield Markup("</section>\n")

    def _in_order(self) -> list[Vip]:
        """The worst first, then what is out on purpose, then by name."""

        def key(vip: Vip) -> tuple[int, int, str]:
            rank, ill = _RANKS[self.looks[vip.name].kind], self._ill_in(vip)
            # One that is announced, with a real server to look after, goes before what is out on purpose.
            return (_RANKS["warn"] if rank > _RANKS["warn"] and ill else rank), -(ill > 0), vip.name

        match self.asked.sort:
            case "name":
                return sorted(self.state.config.vips, key=lambda vip: vip.name)
            case "connections" | "bits" as sort:
                of = {vip.name: self._rates(vip) for vip in self.state.config.vips}

                def most(vip: Vip) -> tuple[float, str]:
                    rates = of[vip.name]
                    return -(rates.connections if sort == "connections" else rates.bytes_in), vip.name

                return sorted(self.state.config.vips, key=most)
        return sorted(self.state.config.vips, key=key)

    def _rates(self, vip: Vip) -> Rates:
        return status.vip_rates(vip, self.now, self.traffic) or NO_RATES

    def _takes(self, vip: Vip) -> bool:
        wanted = self.asked.query
        if not wanted.words:
            return True
        words = self.memory.words(self.board)[vip.name]
        return wanted.takes(words, self._states(vip) if wanted.asks_for_states else "")

    def _states(self, vip: Vip) -> str:
        """The words by which a VIP is found: how it stands, why, and how the real servers stand that are not well."""
        look = self.looks[vip.name]
        words = [look.word, str(self.state.vips[vip.name].verdict.reason)]
        words += ["maintenance"] if look.word == "in maintenance" else []
        words += ["backup"] if vip.role is Role.BACKUP else []
        for service in vip.services:
            key = vip.name, service.name
            seen = self.board.seen[key]
            for place in self.ill[key]:
                words += [server_look(seen[place]).word, str(seen[place].health.phase)]
        if look.kind in ("bad", "warn") or self._ill_in(vip):
            words.append(WRONG)
        return state_words(words)

    def search(self) -> Markup:
        """A form: without a script it asks for the page anew, with it the page becomes what is asked for as one types."""
        text = self.asked.query.text
        vips = self.state.config.vips
        looks = list(self.looks.values())
        counts = [
            ("all", "", len(vips)),
            ("wrong", f"state:{WRONG}", sum(self._is_wrong(vip) for vip in vips)),
            ("not announced", "state:not-announced", sum(one.word == "not announced" for one in looks)),
            ("in maintenance", "state:in-maintenance", sum(one.word == "in maintenance" for one in looks)),
        ]
        return el(
            "form",
            el("label", "Find VIPs", for_="q"),
            Markup(
                '<input type="search" id="q" name="q" value="{}" maxlength="{}" autocomplete="off" spellcheck="false" '
                'aria-describedby="qhelp">'
            ).format(text, LONGEST_QUERY),
            el("button", "Find", type="submit"),
            el(
                "p",
                "By name, address, real server or state: words that must all be found. ",
                el("code", "vip:"),
                ", ",
                el("code", "address:"),
                ", ",
                el("code", "server:"),
                " or ",
                el("code", "state:"),
                " before a word names its place.",
                id="qhelp",
                class_="dim small",
            ),
            el(
                "p",
                *(
                    el(
                        "a",
                        f"{name} {count:,}",
                        href=_address(wanted, sort=self.asked.sort),
                        aria_current="true" if wanted == text else None,
                    )
                    for name, wanted, count in counts
                ),
                class_="ways",
            ),
            el(
                "p",
                el("span", "sorted by", class_="dim"),
                *(
                    el(
                        "a",
                        name,
                        href=_address(text, sort=sort),
                        aria_current="true" if sort == self.asked.sort else None,
                    )
                    for sort, name in SORTS.items()
                ),
                class_="ways",
            ),
            None
            if self.asked.sort == WRONG_FIRST
            else Markup('<input type="hidden" name="sort" value="{}">').format(self.asked.sort),
            role="search",
            method="get",
            action="?",
            id="find",
        )

    def _is_wrong(self, vip: Vip) -> bool:
        return self.looks[vip.name].kind in ("bad", "warn") or self._ill_in(vip) > 0

    def told(self, found: Sequence[Vip], shown: Sequence[Vip], number: int) -> Markup:
        """How many there are, for those who hear the page too."""
        text = self.asked.query.text
        if not self.state.config.vips:
            return Markup("")
        if not found:
            words: tuple[object, ...] = ("No VIP is found by ", el("strong", text), ".")
        else:
            first = VIPS * (number - 1) + 1
            which = (
                f"{len(found):,}"
                if len(shown) == len(found)
                else f"{first:,} to {first + len(shown) - 1:,} of {len(found):,}"
            )
            words = (
                f"{which} {'VIP' if len(found) == 1 else 'VIPs'}",
                *((" found by ", el("strong", text)) if text else ()),
                ", by name" if self.asked.sort == "name" else f", {_FIRST[self.asked.sort]} first",
            )
        return el("p", *words, id="told", role="status", class_="dim small")

    def leaf(self, number: int, pages: int) -> Markup:
        """The way to the others."""
        if pages == 1:
            return Markup("")
        text, sort = self.asked.query.text, self.asked.sort
        return el(
            "nav",
            el("a", "← back", href=_address(text, number - 1, sort), rel="prev") if number > 1 else None,
            el("span", f"page {number} of {pages}"),
            el("a", "show more →", href=_address(text, number + 1, sort), rel="next")
            if number < pages
            else None,
            aria_label="VIPs",
            class_="leaf",
        )

    def _ill_in(self, vip: Vip) -> int:
        return sum(len(self.ill[vip.name, service.name]) for service in vip.services)

    def vip(self, vip: Vip, place: int, plan: _Plan) -> Iterator[str]:
        """`place` in the configuration: by it the script finds what it has shown before."""
        look = self.looks[vip.name]
        found = status.vip_status(
            self.state, vip, now=self.now, wall=self.wall, routes=self.routes, view=_Tables(self.board)
        )
        why = found["reason"].replace("_", " ")
        yield Markup('<article class="{} card" id="v{}">').format(look.kind, place)
        yield el(
            "div",
            el("h3", vip.name),
            look.badge,
            badge("calm", "backup") if vip.role is Role.BACKUP else None,
            el("span", *_listed(found["addresses"], "code"), class_="dim"),
            el("span", "for ", lasts(found["since_s"], found["since"]), class_="dim small end")
            if found["since_s"] is not None
            else None,
            class_="head",
        )
        yield el(
            "p",
            el("strong", why),
            f": {short(found['detail'])}" if found["detail"] else None,
            " · ",
            el("a", "why?", href=f"vips/{quote(vip.name, safe='')}/why", aria_label=f"why: {vip.name}"),
        )
        if found["obstacle"]:
            yield el("p", short(found["obstacle"]), class_="bad under")
        for one in found["prefixes"]:
            if one["shared"] and one["shared"]["stays"]:
                yield el("p", short(one["shared"]["stays"]), class_="warn under")
        if absent := status.lacking(self.state, vip):
            named = ", ".join(absent[:NAMED])
            yield el("p", f"announced, and not at router {short(named)}", class_="bad under")
        yield self.stages(vip, found)
        yield self.flow(vip)
        left = 0
        for service, told in zip(vip.services, found["services"], strict=True):
            block = self.board.blocks[vip.name, service.name]
            if not plan.take_service(block):
                left += 1
                continue
            yield from self.service(f"v{place}-{service.name}", told, block, plan)
        yield _more(left, "services")
        yield self.local(found)
        yield Markup("</article>\n")

    def local(self, found: Mapping[str, Any]) -> Markup:
        """What this node itself serves of it."""
        if not found["local"]:
            return Markup("")
        rows = []
        for one in found["local"][:NAMED]:
            look = _look_of(one["phase"], cannot_run=one["check_failed_to_run"])
            place = (
                ""
                if one["address"] is None
                else f"[{one['address']}]"
                if ":" in one["address"]
                else one["address"]
            )
            rows.append(
                el(
                    "tr",
                    el("td", look.badge),
                    el(
                        "th",
                        one["name"],
                        el("span", f"{place}:{one['port']}", class_="in under mono"),
                        scope="row",
                    ),
                    el("td", *_since(one)),
                    el("td", short(one["detail"])),
                )
            )
        return joined(
            (
                el("p", "Served by this node itself, without IPVS:", class_="dim small"),
                _table(("State", "Service", "Since", "Detail"), rows),
                _more(len(found["local"]) - NAMED, "services"),
            )
        )

    def flow(self, vip: Vip) -> Markup:
        """What it carries, and which part of what this node carries that is."""
        rates = status.vip_rates(vip, self.now, self.traffic)
        if rates is None:
            return Markup("")
        graph = self.traffic.graph(key for one in vip.services for key in keys_of(vip, one))
        if graph is None and not any(rates):
            return el("p", "No traffic in the last 5 minutes.", class_="dim small")
        answers, part = any(map(sees_answers, vip.services)), status.share(rates, self.whole)
        return el("p", flow(rates, graph, answers=answers, part=part, lean=self.lean), class_="flow")

    def stages(self, vip: Vip, found: Mapping[str, Any]) -> Markup:
        """How far it is on its way out, what it waits for, and until when."""
        progress = status.vip_progress(self.state, vip.name)
        if progress.stage is Stage.ACTIVE:
            return Markup("")
        stages = [stage for stage in Stage if stage is not Stage.ACTIVE]
        at = stages.index(progress.stage)
        timing = self.state.config.timing
        packets = found["packets_per_s"]
        match progress.stage:
            case Stage.DRAINING:
                waits = "its routes stay announced as the last resort, so that routers move to other nodes"
            case Stage.WITHDRAWN if progress.waits_for_plugins:
                waits = "waits for the plugins to acknowledge the withdraw"
                waits += f"; {self.routes.silence.text}" if self.routes.silence is not None else ""
            case Stage.WITHDRAWN:
                waits = "waits for routers to follow the withdraw"
            case Stage.QUIET:
                now = "how many arrive is not known yet" if packets is None else f"{packets:g} a second now"
                waits = f"waits until no more packets arrive: {now}, at most {timing.quiet_rate:g} allowed"
            case _:
                waits = "it is out and may be rebooted"
        ends, left = stage_ends(self.state, progress), found["stage_left_s"]
        return joined(
            (
                el(
                    "ol",
                    *(
                        el(
                            "li",
                            stage,
                            class_="past" if place < at else None,
                            aria_current="step" if place == at else None,
                        )
                        for place, stage in enumerate(stages)
                    ),
                    class_="stages",
                    aria_label=f"drain of {vip.name}",
                ),
                el(
                    "p",
                    waits[0].upper() + waits[1:],
                    None
                    if ends is None or left is None
                    else joined(
                        (
                            "; at the latest in ",
                            el("span", rough(left), data_left=left),
                            f" ({_clock_time(self.wall + ends - self.now)})",
                        )
                    ),
                    class_="small",
                ),
            )
        )

    def service(self, name: str, told: Mapping[str, Any], block: Block, plan: _Plan) -> Iterator[str]:
        ill, chosen = self.ill[block.key], plan.rows(block)
        open_ = plan.is_open(block)
        low = told["quorum"]["low"]
        few = any(family["usable"] < low for family in told["families"])
        several = len(told["families"]) > 1
        usable = ", ".join(
            f"{family['usable']} of {family['total']}" + (f" {_family(family['family'])}" if several else "")
            for family in told["families"]
        )
        yield Markup('<details id="{}" data-open="{}"{}>').format(name, int(open_), " open" if open_ else "")
        yield el(
            "summary",
            el("strong", told["name"]),
            " → ",
            told["pool"],
            *self.sorry(told),
            " ",
            el("span", f"{usable} usable", class_=f"{'bad' if few else 'ok'} badge")
            if few
            else f"· {usable} usable",
            el("span", f" · needs {low} · {told['scheduler']}", class_="dim"),
            self.of_service(block),
            el("span", f"{len(ill)} need attention", class_="warn badge") if ill else None,
        )
        yield el("p", "table fingerprint: ", *_tables(told["tables"]), class_="dim small")
        if chosen:
            yield Markup('<table class="servers"><caption class="hidden">{}</caption>{}<tbody>\n').format(
                _caption(told, block, chosen), _SERVER_HEAD
            )
            whole = status.service_rates(block.vip, block.service, self.now, self.traffic)
            for number in chosen:
                seen = self.board.seen[block.key][number]
                yield self.server(block.rows[number], seen, whole, pictured=not plan.folds)
            yield Markup("</tbody></table>")
        yield _more(len(block.rows) - len(chosen), _rest(ill, chosen))
        for one in told["removing"][:NAMED]:
            yield el(
                "p",
                f"being removed: {one['address']} port {one['port']}, {one['active']} connections, "
                f"at most {rough(one['left_s'])} more",
                class_="dim small",
            )
        if kept := told["kept"]:
            named = ", ".join(f"{one['address']} port {one['port']} {one['phase']}" for one in kept[:NAMED])
            more = f" and {len(kept) - NAMED} more" if len(kept) > NAMED else ""
            yield el(
                "p",
                f"replaced, and in use until enough of the new ones are proven: {named}{more}",
                class_="dim small",
            )
        yield Markup("</details>\n")

    @staticmethod
    def sorry(told: Mapping[str, Any]) -> Iterator[Markup | str]:
        """Of a service with a sorry pool: whether it serves, and whether it could."""
        pools = [family["sorry"] for family in told["families"] if family["sorry"]]
        if not pools:
            return
        name = told["sorry_pool"]
        if any(one["serves"] for one in pools):
            yield " "
            yield el("span", f"served by the sorry pool {name}", class_="bad badge")
        elif all(one["usable"] for one in pools):
            yield el("span", f" (sorry: {name})", class_="dim")
        else:
            yield " "
            yield el("span", f"the sorry pool {name} cannot serve", class_="warn badge")

    def of_service(self, block: Block) -> Markup | None:
        """What it carries, where the VIP has others too."""
        if len(block.vip.services) == 1:
            return None
        rates = status.service_rates(block.vip, block.service, self.now, self.traffic)
        if rates is None or not any(rates):
            return None
        told = f" · {amount(rates.connections)} new/s, {bits(8 * rates.bytes_in)} in"
        return el("span", told, class_="dim")

    def server(self, row: Row, found: Seen, whole: Rates | None, *, pictured: bool) -> Markup:
        look, health = server_look(found), found.health
        since = status.since_of(found)
        seconds = None if since is None else max(0.0, self.now - since)
        detail = status.server_detail(health, self.now)
        weight, wanted = found.kernel_weight, found.weight
        place = f"[{row.address}]" if row.address.version == 6 else str(row.address)
        return el(
            "tr",
            el(
                "td",
                look.badge,
                el("span", "for ", lasts(seconds), class_="in under") if seconds is not None else None,
            ),
            el(
                "th",
                row.server.name,
                el("span", " sorry", class_="dim") if row.sorry else None,
                el("span", f"{place}:{row.port}", class_="in under mono"),
                el("span", short(detail), class_=f"{look.kind} under") if detail else None,
                scope="row",
            ),
            el(
                "td",
                "none" if weight is None else weight,
                el("span", "wanted ", "none" if wanted is None else wanted, class_="warn under")
                if weight != wanted
                else None,
                class_="n",
            ),
            el(
                "td",
                found.active,
                el("span", f"{found.inactive} inactive", class_="in under") if found.inactive else None,
                class_="n",
            ),
            *self.of_server(row, whole, pictured=pictured),
            el("td", self.times(row), class_="n"),
        )

    def of_server(self, row: Row, whole: Rates | None, *, pictured: bool) -> tuple[Markup, Markup]:
        """New connections with their share of those of the service, and what comes in and goes out."""
        rates = self.traffic.of_server(row, self.now)
        if rates is None:
            return _NO_CELL, _NO_CELL
        part, graph = status.share(rates, whole), self.traffic.graph_of_server(row) if pictured else None
        new = el(
            "span",
            None if graph is None else picture(graph.connections, graph.ages, "new connections a second"),
            amount(rates.connections),
            None if part is None else el("span", percent(part), class_="dim small"),
            class_="times",
        )
        out = el("span", f"{bits(8 * rates.bytes_out)} out", class_="under") if row.sees_answers else None
        return el("td", new, class_="n"), el("td", bits(8 * rates.bytes_in), out, class_="n")

    def times(self, row: Row) -> Markup:
        """A picture of the newest runs. Of a rule over several checks: of the first that is probed."""
        targets = targets_of(row.check)
        took = self.source.durations(targets[0]) if targets else ()
        if not took:
            return Markup("–")
        newest = f"{SIGNS['bad']} " if took[-1] < 0 else ""
        return el("span", sparkline(took), el("span", newest, _span(abs(took[-1]))), class_="times")

    # The node

    def neighbors(self) -> Markup:
        found = self.frame["neighbors"]
        asked = any(one["view"] is not None for one in found)
        rows = [
            el(
                "tr",
                el("td", neighbor_look(one["state"]).badge),
                el("th", el("code", one["address"]), scope="row"),
                el("td", "for ", lasts(one["since_s"], one["since"])),
                el("td", short(one["reason"])),
                *([el("td", _has(one["view"]))] if asked else []),
            )
            for one in sorted(found, key=lambda one: one["state"] == "up")
        ]
        return _section(
            "neighbors",
            "BGP neighbors",
            _table(("State", "Neighbor", "Since", "Reason", *(("Has of this node",) if asked else ())), rows)
            if rows
            else el("p", "No neighbor is configured, and no plugin reports one."),
        )

    def maintenance(self) -> Markup:
        found = self.frame["maintenance"]
        if not found:
            return Markup("")
        rows = [
            el(
                "tr",
                el("th", one["scope"] or "the whole node", scope="row"),
                el(
                    "td",
                    Look("plan" if one["stage"] in ("down", "drained") else "warn", one["stage"]).badge,
                    el("span", f"{one['connections']} connections", class_="under")
                    if one["connections"] is not None
                    else None,
                ),
                el(
                    "td",
                    f"{short(one['by'])}: {short(one['reason']) or 'no reason was given'}",
                    el(
                        "span",
                        "for ",
                        lasts(one["since_s"], one["since"]),
                        f"; remove {one['file']} to end it" if one["file"] else None,
                        class_="under",
                    ),
                ),
                el("td", *_ends(one)),
            )
            for one in found
        ]
        return _section("maintenance", "Maintenance", _table(("What", "Stage", "Who and why", "Ends"), rows))

    def requirements(self) -> Markup:
        found = self.frame["requirements"]
        if not found:
            return Markup("")
        rows = []
        for one in sorted(found, key=lambda one: one["phase"] == "up" and not one["check_failed_to_run"]):
            look = _look_of(one["phase"], cannot_run=one["check_failed_to_run"])
            rows.append(
                el(
                    "tr",
                    el("td", look.badge),
                    el("th", one["scope"], scope="row"),
                    el("td", *_since(one)),
                    el("td", short(one["detail"])),
                )
            )
        return _section("requirements", "Requirements", _table(("State", "Of", "Since", "Detail"), rows))

    def data_plane(self) -> Markup:
        kernel, plugins = self.frame["kernel"], self.frame["plugins"]
        repairs = (
            ", ".join(f"{kind} {number}" for kind, number in kernel["repairs"].items() if number) or "none"
        )
        read = kernel["read_ago_s"]
        sync = ", ".join(f"{role} on {one['interface']}" for role, one in kernel["connection_sync"].items())
        facts: list[tuple[str, object]] = [
            ("Kernel read", "never" if read is None else joined((lasts(read), " ago"))),
            ("Repairs since the start", repairs),
            ("Connection sync", sync or "off"),
            ("Foreign IPVS services", kernel["foreign_services"]),
        ]
        for one in plugins[:NAMED]:
            if one["seq"] is None:
                told = "connected, has not reported yet"
            else:
                told = _speaker(one)
                told += f"; {one['acks']} commands taken, {one['errors']} refused"
                told += "; its lease has run out" if one["lease_expired"] else ""
                whose = "no answer of the plugin" if one["mute"] else "no answer"
                told += f"; {whose} for {one['oldest_ack_age_s']:.0f} s" if one["silent"] else ""
            facts.append(("Plugin", told))
        if not plugins:
            facts.append(("Plugin", "none is connected"))
        return _section(
            "plane",
            "Kernel and plugin",
            el(
                "dl",
                *(el(tag, word) for fact in facts for tag, word in zip(("dt", "dd"), fact, strict=True)),
                class_="facts",
            ),
        )

    def recent(self) -> Markup:
        if not self.events:
            return _section("events", "Recent events", el("p", "Nothing has happened yet."))
        return _section(
            "events",
            "Recent events",
            el("ol", *(self.event(one) for one in self.events), class_="events"),
            el("p", "All that is kept: ", el("code", "anycast events"), class_="dim small"),
        )

    def event(self, one: Event) -> Markup:
        kind = {"info": "calm", "warning": "warn"}.get(one.level, "bad")
        words = " ".join(f"{name}={_plain(value)}" for name, value in islice(one.fields.items(), 20))
        return el(
            "li",
            el(
                "time",
                _clock_time(one.time, today=self.wall),
                datetime=iso(one.time),
                class_="dim small",
            ),
            el("span", Look(kind, one.level).badge),
            el("span", el("code", one.name), " ", el("span", short(words), class_="dim small")),
            id=f"e{one.id}",
        )


_NOT_YET = Markup("Not known: a rate takes two readings of the kernel, and the last must be fresh.")
_NO_CELL = Markup('<td class="n">–</td>')
_FIRST = {WRONG_FIRST: "what is wrong", "connections": "the most new connections", "bits": "the most bits in"}


def _address(text: str, number: int = 1, sort: str = WRONG_FIRST) -> str:
    """Of the page with these VIPs, relative to that of any others."""
    words = {"q": text} if text else {}
    words |= {"sort": sort} if sort != WRONG_FIRST else {}
    return "?" + urlencode(words | ({"page": str(number)} if number > 1 else {}))


class _Plan:
    """Which real servers are shown: first those that are looked for, then those that want looking after, then as many of
    each service as fit.
    """

    def __init__(self, blocks: Sequence[Block], ill: Mapping[Key, Sequence[int]], wanted: Query) -> None:
        self._all_ill = ill
        self._meant: dict[Key, list[int]] = {}
        shown = blocks[:SERVICES]
        self.folds = sum(len(block.rows) for block in shown) > FOLDED
        self._open = OPEN
        self._ill: dict[Key, Sequence[int]] = {}
        left = ROWS
        for block in shown:
            meant = self._meant[block.key] = _meant(block, wanted)[: min(ILL, left)]
            left -= len(meant)
        for block in shown:
            known = set(self._meant[block.key])
            some = [place for place in ill[block.key] if place not in known][: min(ILL, left)]
            self._ill[block.key] = some
            left -= len(some)
        self._well = self._share(shown, left)

    def _share(self, blocks: Sequence[Block], left: int) -> int:
        """How many that are well each service shows at most."""
        most, counts = 0, sorted(len(block.rows) - len(self._all_ill[block.key]) for block in blocks)
        for place, count in enumerate(counts):
            if (count - most) * (len(counts) - place) > left:
                return most + left // (len(counts) - place)
            left -= (count - most) * (len(counts) - place)
            most = count
        return most

    def take_service(self, block: Block) -> bool:
        return block.key in self._ill

    def rows(self, block: Block) -> list[int]:
        first = [*self._meant[block.key], *self._ill[block.key]]
        known = {*first, *self._all_ill[block.key]}
        well = (place for place in range(len(block.rows)) if place not in known)
        return [*first, *islice(well, self._well)]

    def is_open(self, block: Block) -> bool:
        if not self.folds or self._meant[block.key]:
            return True
        if not self._all_ill[block.key] or not self._open:
            return False
        self._open -= 1
        return True


def _meant(block: Block, wanted: Query) -> list[int]:
    """The places of the real servers that a word of the query is about, where it is not about all of them."""
    if not wanted.words:
        return []
    places = [
        place for place, row in enumerate(block.rows) if wanted.takes_server(row.server.name, row.address)
    ]
    return places if len(places) < len(block.rows) else []


class _Tables:
    """Of the parts that grow with the real servers, only the fingerprints: the rows are chosen here."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def servers(self, _vip: Vip, _service: Service) -> Any:
        return ()

    def fingerprint(self, vip: Vip, address: Address, service: Service) -> str | None:
        return self._board.fingerprint(vip, address, service)


def _ill(found: Sequence[Seen]) -> list[int]:
    """The places of those that want looking after, the worst first."""
    ranked = sorted((rank, place) for place, one in enumerate(found) if (rank := _rank(one)) is not None)
    return [place for _, place in ranked]


def _rank(found: Seen) -> int | None:
    health = found.health
    if health.phase is Phase.UP and not (found.drained or health.unknown or health.detail):
        return None if found.weight == found.kernel_weight else 2
    return _RANKS[server_look(found).kind]


def sparkline(took: Sequence[float]) -> Markup:
    """A bar for each run, as high as it took among those that went well; one that failed is of its own colour, dashed and always full."""
    took = took[-_SLOTS:]
    most = max((value for value in took if value >= 0), default=0.0) or 1.0
    first = _SLOTS - len(took)
    tall = _HEIGHT / most
    well = "".join(
        [bars[int(value * tall + 0.5)] for bars, value in zip(_BARS[first:], took, strict=True) if value >= 0]
    )
    ill = [bars[_HEIGHT] for bars, value in zip(_BARS[first:], took, strict=True) if value < 0]
    failed = len(ill)
    told = (
        f"{len(took)} checks, {_span(min(map(abs, took)))} to {_span(max(map(abs, took)))}, "
        f"{f'{failed} of them failed' if failed else 'none failed'}"
    )
    paths = f'<path d="{well}"/>' if well else ""
    paths += f'<path class="f" d="{"".join(ill)}"/>' if ill else ""
    return Markup(  # noqa: S704 - of numbers
        f'<svg class="spark" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{told}"><title>{told}</title>{paths}</svg>'
    )


def flow(
    rates: Rates, graph: Graph | None, *, answers: bool, part: float | None = None, lean: bool = False
) -> Markup:
    """Figures and pictures. `part`: of what this node carries. `lean`: one picture, with fewer points."""
    new, into = amount(rates.connections), bits(8 * rates.bytes_in)
    return el(
        "span",
        el(
            "span",
            None
            if graph is None
            else picture(graph.connections, graph.ages, "new connections a second", every=2 if lean else 1),
            el("b", new),
            " new/s",
            None if part is None else el("span", f" {percent(part)} of the node", class_="dim"),
        ),
        el(
            "span",
            None
            if graph is None or lean
            else picture(graph.bits_in, graph.ages, "bits a second in", unit=bits),
            el("b", into),
            " in",
            el("span", f" {amount(rates.packets_in)} packets/s", class_="dim"),
        ),
        el(
            "span",
            el("b", bits(8 * rates.bytes_out)),
            " out",
            el("span", f" {amount(rates.packets_out)} packets/s", class_="dim"),
        )
        if answers
        else None,
        class_="figures",
    )


def picture(
    values: Sequence[float],
    ages: Sequence[float],
    of: str,
    *,
    unit: Callable[[float], str] = amount,
    every: int = 1,
) -> Markup:
    """An area over the last minutes, as high as the most there was; now is at its right edge."""
    most = max(values, default=0.0)
    told = (
        f"{of} in the last {rough(ages[0]) if ages else '0 s'}: now {unit(values[-1])}, at most {unit(most)}"
    )
    values, ages = values[::-every][::-1], ages[::-every][::-1]
    places = [_FLOW_WIDTH - round(_FLOW_WIDTH * min(1.0, age / SPAN)) for age in ages]
    tall = [round((_FLOW_HEIGHT - 1) * value / most) if most else 0 for value in values]
    path, x, y = f"M{places[0]} {_FLOW_HEIGHT}v-{tall[0]}", places[0], tall[0]
    for place, height in zip(places[1:], tall[1:], strict=True):
        path += f"h{place - x}" if height == y else f"l{place - x} {y - height}"
        x, y = place, height
    return Markup(  # noqa: S704 - of numbers
        f'<svg class="flow" viewBox="0 0 {_FLOW_WIDTH} {_FLOW_HEIGHT}" preserveAspectRatio="none" role="img">'
        f'<title>{told}</title><path d="{path}V{_FLOW_HEIGHT}z"/></svg>'
    )


def _span(seconds: float) -> str:
    if seconds < 0.0095:
        return f"{1000 * seconds:.1f} ms"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _clock_time(wall: float, *, today: float | None = None) -> str:
    """The time of the day, with the date where it is another than `today`'s."""
    try:
        moment = datetime.fromtimestamp(wall, UTC)
        other = today is not None and moment.date() != datetime.fromtimestamp(today, UTC).date()
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"
    return f"{moment:%m-%d %H:%M:%SZ}" if other else f"{moment:%H:%M:%SZ}"


def _ends(one: Mapping[str, Any]) -> tuple[object, ...]:
    if one["overdue"]:
        return (Look("bad", "overdue").badge,)
    if one["ends_in_s"] is None:
        told = {"file": "with the file", "stop": "with the agent"}
        return (told.get(one["source"], "by command"),)
    then = "back into service" if one["on_expiry"] == "resume" else "stays out"
    left = max(0.0, one["ends_in_s"])
    return (
        "in ",
        el("span", rough(left), data_left=left, title=one["ends"]),
        el("span", then, class_="under"),
    )


def _icon(kind: str) -> str:
    colour = {"ok": "1f9d55", "warn": "d99000", "bad": "d22b2b", "plan": "d99000", "calm": "7a8794"}[kind]
    shape = {
        "ok": "%3Ccircle cx='8' cy='8' r='7'/%3E",
        "warn": "%3Cpath d='M8 1 15 15H1z'/%3E",
        "bad": "%3Cpath d='M1 1h14v14H1z'/%3E",
        "plan": "%3Cpath d='M2 1h4v14H2zM10 1h4v14h-4z'/%3E",
        "calm": "%3Cpath d='M1 6h14v4H1z'/%3E",
    }[kind]
    return (
        "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16' "
        f"fill='%23{colour}'%3E{shape}%3C/svg%3E"
    )


def _section(name: str, title: str, *children: object) -> Markup:
    return el(
        "section",
        el("h2", title, id=name),
        el("div", *children, class_="plain card"),
        aria_labelledby=name,
    )


def _table(heads: Sequence[str], rows: Sequence[Markup]) -> Markup:
    columns = el("tr", *(el("th", head, scope="col") for head in heads))
    more = len(rows) - NAMED
    return joined((el("table", el("thead", columns), el("tbody", *rows[:NAMED])), _more(more, "of them")))


def _tile(name: str, value: str, kind: str, more: str = "") -> Markup:
    return el("div", el("dt", name), el("dd", value, el("small", more) if more else None), class_=kind)


def _look_of(phase: str | None, *, cannot_run: bool) -> Look:
    """Of a check that decides by itself; None: there is none."""
    if cannot_run:
        return Look("warn", "check could not run")
    kind = {"up": "ok", "falling": "warn", "undecided": "warn", None: "calm"}.get(phase, "bad")
    return Look(kind, phase or "not checked by itself")


def _since(one: Mapping[str, Any]) -> tuple[object, ...]:
    return () if one["since_s"] is None else ("for ", lasts(one["since_s"], one["since"]))


def _more(number: int, of: str) -> Markup:
    return el("p", f"and {number:,} more {of}", class_="dim small") if number > 0 else Markup("")


def _capped(items: Sequence[Markup], tag: str) -> list[Markup]:
    more = len(items) - NAMED
    return [*items[:NAMED], *([el(tag, f"and {more} more")] if more > 0 else [])]


def _listed(words: Sequence[str], tag: str) -> Iterator[object]:
    for place, word in enumerate(words[:NAMED]):
        yield ", " if place else None
        yield el(tag, word)
    if len(words) > NAMED:
        yield f" and {len(words) - NAMED} more"


def _tables(tables: Sequence[Mapping[str, Any]]) -> Iterator[object]:
    """The fingerprints, which are equal on nodes that choose alike; those of one value together."""
    for place, one in enumerate(tables[:NAMED]):
        yield "; " if place else None
        yield f"{one['address']} "
        yield el("code", one["fingerprint"] or "not in the kernel")
    if len(tables) > NAMED:
        yield f" and {len(tables) - NAMED} more"


def _caption(told: Mapping[str, Any], block: Block, chosen: Sequence[int]) -> str:
    shown = (
        f"{len(chosen)} of {len(block.rows)} real servers"
        if len(chosen) < len(block.rows)
        else "Real servers"
    )
    return f"{shown} of {told['pool']}"


def _rest(ill: Sequence[int], chosen: Sequence[int]) -> str:
    hidden = len(set(ill).difference(chosen))
    return f"real servers, {hidden} of them to look after" if hidden else "real servers, all of them well"


def _family(name: str) -> str:
    return {"ipv4": "IPv4", "ipv6": "IPv6"}.get(name, name)


def _speaker(plugin: Mapping[str, Any]) -> str:
    if plugin["speaker"]:
        return f"{plugin['speaker']}, learned by {plugin['daemon'] or 'a daemon that is not asked'}"
    version = short(str(plugin["exabgp_version"] or "of unknown version"))
    return f"ExaBGP {version}, pid {plugin['exabgp_pid']}"


def _plain(value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        told = ", ".join(str(one) for one in islice(value, 5))
        return f"{told} and {len(value) - 5} more" if len(value) > 5 else told
    return "-" if value is None or value == "" else str(value)[:LONGEST]
