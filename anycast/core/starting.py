"""Which configuration an agent starts with: that of the file, or the last good one. Pure; the first rule that applies wins."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Choice(StrEnum):
    FILE = "file"
    LAST_GOOD = "last_good"
    NEITHER = "neither"  # the agent does not start


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """`wrong`: why the file cannot be used; empty: it can.

    `kept`: there is a last good configuration of this node. `same`: it is what the file says. `on_trial`: the file has a
    configuration that was to be confirmed, and was not. `suspicious`: why the file may not take the place of the last good one.
    """

    wrong: str = ""
    kept: bool = False
    same: bool = False
    on_trial: bool = False
    suspicious: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`gone_back`: from a configuration that was on trial. `why`: the file is not taken."""

    choice: Choice
    why: str = ""
    gone_back: bool = False


def choose(facts: Facts, *, strict: bool = False) -> Verdict:
    """`strict`: rather none than one that the file does not have."""
    verdict = _choose(facts)
    if strict and verdict.choice is Choice.LAST_GOOD:
        return Verdict(choice=Choice.NEITHER, why=verdict.why)
    return verdict


def _choose(facts: Facts) -> Verdict:
    if facts.wrong:
        return Verdict(choice=Choice.LAST_GOOD if facts.kept else Choice.NEITHER, why=facts.wrong)
    if not facts.kept or facts.same:
        return Verdict(choice=Choice.FILE)
    if facts.on_trial:
        why = "the file has a configuration that was on trial and was not confirmed"
        return Verdict(choice=Choice.LAST_GOOD, why=why, gone_back=True)
    if facts.suspicious:
        return Verdict(choice=Choice.LAST_GOOD, why=facts.suspicious)
    return Verdict(choice=Choice.FILE)
