"""The fleet's part of the page: a bar for each node, as it is and with one node less, and what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from markupsafe import Markup

from anycast.ops.amounts import percent
from anycast.ops.markup import Look, el, joined, lasts, short

TROUBLES = 10
VIPS = 10  # that some node does not announce
ALONE = 5  # that one node alone announces
ELSEWHERE = 5  # nodes of such a VIP that are named
KNOWN = ("here", "heard", "late")
_WIDTH, _HEIGHT = 240, 26  # of a picture
_UP, _BELOW, _TALL = 2, 15, 9  # of its two bars

Told: TypeAlias = Mapping[str, Any]


def section(told: Told) -> Markup:
    """`told`: from `fleet_seen.document`."""
    nodes, away = told["nodes"], [vip for vip in told["vips"] if len(vip["announced"]) < len(told["nodes"])]
    most = max([1.0, *(one["used"] for node in nodes for one in (node["today"], node["one_less"]) if one)])
    return el(
        "section",
        el("h2", "Fleet", id="fleet"),
        el(
            "div",
            el("p", _head(told)),
            el("ul", *_troubles(told["troubles"]), class_="alerts") if told["troubles"] else None,
            el("ul", *(_node(node, most) for node in nodes), class_="nodes"),
            _key(nodes),
            _queue(told["queue"]),
            _alone(told),
            _away(away, len(nodes)),
            class_="plain card",
        ),
        aria_labelledby="fleet",
    )


def _head(told: Told) -> Markup:
    nodes = told["nodes"]
    heard = sum(node["seen"] in KNOWN for node in nodes)
    out = sum(one["claim"] == "held" and not one["scope"] for one in told["queue"])
    return joined(
        (
            f"{heard} of {len(nodes)} nodes are known to this one, {out} out for maintenance, of {told['max_out']} that may be. ",
            el("span", f"View: {told['view']}.", class_="dim"),
        )
    )


def _troubles(troubles: Sequence[Told]) -> Iterator[Markup]:
    for one in troubles[:TROUBLES]:
        yield el("li", short(one["text"]))
    if (more := len(troubles) - TROUBLES) > 0:
        yield el("li", f"and {more} more")


def look(node: Told) -> Look:
    if node["seen"] in ("gone", "unknown"):
        return Look("bad", node["seen"])
    if node["seen"] == "late":
        return Look("warn", "late")
    if node["maintenance"] == "down":
        return Look("plan", "in maintenance")
    if node["maintenance"] != "active":
        return Look("warn", node["maintenance"])
    return Look("ok", "active") if node["ready"] else Look("bad", "not ready")


def _node(node: Told, most: float) -> Markup:
    age = node["age_s"]
    facts = [
        None if node["vips"] is None else f"{node['announced']:,} of {node['vips']:,} VIPs",
        None if node["share"] is None else f"{percent(node['share'])} of the packets",
        None if not node["version"] else f"anycast {node['version']}",
    ]
    return el(
        "li",
        el(
            "span",
            el("strong", node["name"]),
            look(node).badge,
            el("span", "this node", class_="dim small") if node["seen"] == "here" else None,
            el("span", "heard ", lasts(age), " ago", class_="dim small") if age is not None else None,
            class_="who",
        ),
        _bars(node, most),
        el("span", ", ".join(one for one in facts if one), class_="dim small facts-of"),
    )


def _bars(node: Told, most: float) -> Markup:
    today, less = node["today"], node["one_less"]
    if today is None:
        why = (
            "its load or its capacity is not known"
            if node["seen"] in ("here", "heard")
            else "what it carries is not known"
        )
        return el("span", why, class_="dim small picture")
    words = [el("b", percent(today["used"])), " now"]
    told = f"now {today['text']}"
    if less is not None:
        gone = ", ".join(less["gone"])
        words += [", ", el("b", percent(less["used"]), "+" if less["at_least"] else ""), f" without {gone}"]
        told += f"; {less['text']}"
    over = [one for one in (today, less) if one is not None and one["used"] > one["limit"]]
    return el(
        "span",
        _picture(today, less, most, told),
        el(
            "span", *words, el("span", "over its limit", class_="bad badge") if over else None, class_="small"
        ),
        class_="picture",
    )


def _picture(today: Told, less: Told | None, most: float, told: str) -> Markup:
    """Two bars, one above the other, and the line of the limit across both."""
    shapes = "".join(
        _bar(one, y, most, kind)
        for one, y, kind in ((today, _UP, "now"), (less, _BELOW, "less"))
        if one is not None
    )
    limit = round(_WIDTH * today["limit"] / most, 1)
    title = el("title", told)
    return Markup(  # noqa: S704 - of numbers and escaped text
        f'<svg class="load" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img">{title}{shapes}'
        f'<path class="limit" d="M{limit} 0v{_HEIGHT}"/></svg>'
    )


def _bar(one: Told, y: int, most: float, kind: str) -> str:
    wide = round(_WIDTH * min(one["used"], most) / most, 1)
    kind += " over" if one["used"] > one["limit"] else ""
    return (
        f'<rect class="track" y="{y}" width="{_WIDTH}" height="{_TALL}"/>'
        f'<rect class="{kind}" y="{y}" width="{wide}" height="{_TALL}"/>'
    )


def _key(nodes: Sequence[Told]) -> Markup | None:
    if not any(node["today"] for node in nodes):
        return None
    words = (
        "Above what a node uses of its capacity now, below what it would with that other node gone that brings it the most; "
        "the line is its limit. Of packets, bits, new and open connections the one of which it has the least left."
    )
    return el("p", words, class_="dim small")


def _queue(queue: Sequence[Told]) -> Markup | None:
    if not queue:
        return None
    return el("ol", *(_turn(one) for one in queue), class_="turns")


def _turn(one: Told) -> Markup:
    held, vip = one["claim"] == "held", one["scope"]
    by = f" by {one['by']}" if one["by"] else ""
    why = f": {short(one['reason'])}" if one["reason"] else ""
    return el(
        "li",
        Look("plan", "takes out" if vip else "out").badge if held else Look("calm", "waits").badge,
        el("strong", f" {one['node']}{f', VIP {short(vip)}' if vip else ''} "),
        el("span", lasts(one["ago_s"]), by, why, " (forced)" if one["forced"] else None),
    )


def _alone(told: Told) -> Markup | None:
    if not (number := told["alone_count"]):
        return None
    names = ", ".join(f"{one['name']} ({one['node']})" for one in told["alone"][:ALONE])
    more = f" and {number - ALONE:,} more" if number > ALONE else ""
    return el("p", f"With one node gone nobody announces: {names}{more}.")


def _away(vips: Sequence[Told], nodes: int) -> Markup | None:
    """VIPs that some node does not announce: those that the fewest do first."""
    if not vips:
        return None
    first = sorted(vips, key=lambda vip: (len(vip["announced"]), vip["name"]))[:VIPS]
    more = len(vips) - len(first)
    return joined(
        (
            el("h3", "Not announced by every node", class_="away"),
            el("ul", *(_vip(vip, nodes) for vip in first)),
            el("p", f"and {more:,} more VIPs: ", el("code", "anycast fleet --all"), class_="dim small")
            if more
            else None,
        )
    )


def _vip(vip: Told, nodes: int) -> Markup:
    number = len(vip["announced"])
    kind = "warn" if number else "bad"
    words = [
        *(
            f"{one['node']} {one['standing'].replace('_', ' ')} ({one['reason'].replace('_', ' ')})"
            for one in vip["others"]
        ),
        *(f"{node} not known" for node in vip["unknown"]),
        *(f"{node} has it not" for node in vip["without"]),
    ]
    more = f" and {len(words) - ELSEWHERE} more" if len(words) > ELSEWHERE else ""
    return el(
        "li",
        el("strong", vip["name"]),
        " ",
        Look(kind, f"{number} of {nodes}").badge,
        el("span", f" {', '.join(words[:ELSEWHERE])}{more}", class_="dim small"),
    )
