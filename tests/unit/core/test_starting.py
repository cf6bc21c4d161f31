from __future__ import annotations

import itertools

import pytest

from anycast.core.starting import Choice, Facts, choose


@pytest.mark.parametrize(
    ("facts", "choice", "why"),
    [
        (Facts(), Choice.FILE, ""),
        (Facts(kept=True), Choice.FILE, ""),
        (Facts(wrong="line 3"), Choice.NEITHER, "line 3"),
        (Facts(wrong="line 3", kept=True), Choice.LAST_GOOD, "line 3"),
        (Facts(kept=True, suspicious="no VIP"), Choice.LAST_GOOD, "no VIP"),
        (Facts(kept=True, same=True, on_trial=True, suspicious="no VIP"), Choice.FILE, ""),
        (Facts(on_trial=True, suspicious="no VIP"), Choice.FILE, ""),
    ],
)
def test_the_file_is_taken_unless_it_cannot_be_or_would_do_harm(
    facts: Facts, choice: Choice, why: str
) -> None:
    verdict = choose(facts)
    assert (verdict.choice, verdict.why, verdict.gone_back) == (choice, why, False)


def test_what_was_on_trial_is_not_started_with() -> None:
    verdict = choose(Facts(kept=True, on_trial=True, suspicious="no VIP"))
    assert (verdict.choice, verdict.gone_back) == (Choice.LAST_GOOD, True)
    assert "was not confirmed" in verdict.why


def test_who_is_strict_never_gets_the_last_good_one_and_otherwise_the_same() -> None:
    texts, flags = ("", "why"), (False, True)
    for wrong, kept, same, on_trial, suspicious in itertools.product(texts, flags, flags, flags, texts):
        facts = Facts(wrong=wrong, kept=kept, same=same, on_trial=on_trial, suspicious=suspicious)
        lax, strict = choose(facts), choose(facts, strict=True)
        if lax.choice is Choice.LAST_GOOD:
            assert (strict.choice, strict.why) == (Choice.NEITHER, lax.why)
        else:
            assert strict == lax
        assert lax.choice is not Choice.LAST_GOOD or kept
        assert lax.choice is not Choice.FILE or not wrong
