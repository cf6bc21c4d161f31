"""What every part of the page is made of: elements, signs, lengths of time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

from markupsafe import Markup, escape

LONGEST = 300  # characters of a text that others have made


def el(tag: str, *children: object, **attributes: object) -> Markup:
    """An element. Children are escaped unless they are Markup; None is nothing. `class_` is class, `data_s` data-s."""
    words = "".join(
        f" {_name(name)}" if value is True else f' {_name(name)}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    return Markup(f"<{tag}{words}>{joined(children)}</{tag}>")  # noqa: S704 - of escaped parts


def joined(children: Iterable[object]) -> Markup:
    return Markup("").join(escape(child) for child in children if child is not None)


@cache
def _name(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


@dataclass(frozen=True, slots=True)
class Look:
    """How a thing stands, in a word and a sign: nothing is told by its colour alone."""

    kind: str  # ok, warn, bad, plan (out on purpose), calm
    word: str

    @property
    def badge(self) -> Markup:
        return badge(self.kind, self.word)


@lru_cache(maxsize=256)
def badge(kind: str, word: str) -> Markup:
    return el("span", f"{SIGNS[kind]} {word}", class_=f"{kind} badge", title=_TITLES.get(word))


KNOWN = "acknowledged by ExaBGP, with a session up; whether the router takes it, the router tells"
_TITLES = {
    "announced": KNOWN,
    "backup": "routers use this node's route while no primary announces the VIP",
    "last resort": "announced, and worse than the route of any healthy node",
}


SIGNS = {"ok": "✓", "warn": "!", "bad": "✕", "plan": "‖", "calm": "–"}


def rough(seconds: float) -> str:
    """As `words` in page.js."""
    whole = max(0, int(seconds))
    for below, unit, name in ((90, 1, "s"), (5400, 60, "min"), (172_800, 3600, "h")):
        if whole < below:
            return f"{whole / unit:.0f} {name}"
    return f"{whole / 86400:.0f} d"


def lasts(seconds: float, since: str | None = None) -> Markup:
    """How long it has lasted: `page.js` counts on."""
    return el("span", rough(seconds), data_s=round(seconds, 1), title=since)


def short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
