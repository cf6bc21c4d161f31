"""What somebody probably meant by a name that there is not. Pure."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Sequence

LOOKED_THROUGH = 200  # names: to compare a word with thousands takes a second
_LONGEST = 63  # characters of a word: a longer one is compared with none


def nearest(
    word: str, known: Iterable[str], cutoff: float = 0.6, *, most: int = LOOKED_THROUGH
) -> str | None:
    """The known word that is most alike, whatever its case, of the first `most`; None: none is."""
    if len(word) > _LONGEST:
        return None
    by_lower = {one[:_LONGEST].lower(): one for one in itertools.islice(known, most)}
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def listed(words: Sequence[str]) -> str:
    """`a, b or c`."""
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else "".join(words)
