"""What the status says of the capacity of nodes: of this one always, of others where they would be over their limit."""

from __future__ import annotations

from typing import Any

from anycast.cli.text import _headroom


def figure(share: float, limit: float = 0.7) -> dict[str, Any]:
    return {"share": share, "limit": limit, "text": f"{share:.0%} of 10 Gbit/s, limit {limit:.0%}"}


def node(name: str, now: float | None, *less: float | None) -> dict[str, Any]:
    return {
        "node": name,
        "today": None if now is None else figure(now),
        "less": [
            {
                "nodes": number,
                "figure": None if one is None else figure(one),
                "text": f"if {number} fail now, {name} would stand at {one}",
            }
            for number, one in enumerate(less, 1)
        ],
    }


def document(
    *nodes: dict[str, Any], silent: tuple[str, ...] = (), alone: dict[str, str] | None = None
) -> dict[str, Any]:
    only = [{"name": name, "node": one} for name, one in (alone or {}).items()]
    found = {"nodes": list(nodes), "silent": list(silent), "alone": only, "alone_count": len(only)}
    return {"node": {"name": "lb1"}, "headroom": found}


def test_this_node_is_told_first_and_always() -> None:
    told = _headroom(document(node("lb0", 0.1, 0.2, 0.9), node("lb1", 0.3, 0.4, 0.6)))
    assert told == (
        "  stands at 30% of 10 Gbit/s, limit 70%\n"
        "  if 1 fail now, lb1 would stand at 0.4\n"
        "  if 2 fail now, lb1 would stand at 0.6\n"
    )


def test_others_are_told_where_one_node_less_is_too_much_for_them() -> None:
    told = _headroom(document(node("lb1", 0.3, 0.4), node("lb2", 0.6, 0.8, 0.9)))
    assert told.splitlines()[-1] == "  if 1 fail now, lb2 would stand at 0.8"


def test_what_is_not_known_is_named() -> None:
    told = _headroom(document(node("lb1", 0.3), silent=("lb2", "lb3")))
    assert told.splitlines()[-1] == "  without what is not known of lb2, lb3"


def test_vips_that_one_node_alone_announces_are_named() -> None:
    assert _headroom(document(alone={"web": "lb2"})) == "  lb2 alone announces web\n"
    many = {f"v{n}": "lb2" for n in range(10)}
    assert _headroom(document(alone=many)) == (
        "  lb2 alone announces v0, v1, v2, v3, v4, v5, v6, v7 and 2 more\n"
    )
    assert _headroom(document(alone={"web": "lb2", "mail": "lb1"})) == (
        "  one node alone announces each of web, mail\n"
    )


def test_where_there_are_no_figures_nothing_is_told() -> None:
    assert _headroom(document(node("lb1", None, None), silent=("lb2",))) == ""
    assert _headroom({"node": {"name": "lb1"}, "headroom": None}) == ""
    assert _headroom({"node": {"name": "lb1"}}) == ""
