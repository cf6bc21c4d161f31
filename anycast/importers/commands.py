"""Commands of other programs as `argv`, which needs an absolute path and runs no shell. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from anycast.importers.model import Value

SHELL = "/bin/sh"
_FOR_A_SHELL = re.compile(r"[|&;<>()$`\\\"'*?\[\]#~=%{}\n]")


def words_of(words: Sequence[str]) -> Value:
    """Of a program that was found by PATH or by its own path, without a shell."""
    if not words[0].startswith("/"):
        return SHELL, "-c", f"exec {shlex.join(words)}"
    return tuple(words) if len(words) > 1 else words[0]


def line_of(command: str) -> Value:
    """Of a line that a shell was to read."""
    if not _FOR_A_SHELL.search(command):
        words = shlex.split(command)
        if words and words[0].startswith("/"):
            return words_of(words)
    return SHELL, "-c", command
