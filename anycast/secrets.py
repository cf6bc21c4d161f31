"""Secrets where they are kept: a file, or a variable in this process's environment. Read when they are needed.

What is wrong with one is told without a character of it. Standard library only.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable

from anycast.core.hooks import Secret

MOST = 4096  # bytes

_TOKEN = re.compile(r"[!-~]+\Z")
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}\Z")
_VALUE = re.compile(r"([!-~]([ -~]{0,1998}[!-~])?)?\Z")


class SecretError(Exception):
    """A secret is not where it should be, or not what it should be. `args[0]`: in words, without it."""


def read(secret: Secret) -> bytes:
    """Without white space around it. Raises SecretError."""
    if secret.variable:
        value = os.environb.get(secret.variable.encode(), b"").strip()
        if not value:
            raise SecretError(f"there is no variable {secret.variable} in the environment of this process")
        return value
    try:
        # A pipe in its place must not hold anybody up.
        file = os.open(secret.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise SecretError(f"{secret.file} is not a file")
            value = os.read(file, MOST + 1).strip()
        finally:
            os.close(file)
    except OSError as error:
        raise SecretError(f"{secret.file} cannot be read: {error.strerror}") from None
    if not value or len(value) > MOST:
        raise SecretError(f"{secret.file} is empty, or larger than {MOST} bytes")
    return value


def token(secret: Secret) -> str:
    """One word, as in `Authorization: Bearer`. Raises SecretError."""
    value = read(secret).decode("ascii", "replace")
    if not _TOKEN.match(value):
        raise SecretError(f"the token in {secret} is not one word of printable ASCII")
    return value


def headers(secret: Secret, ours: Iterable[str] = ()) -> tuple[tuple[str, str], ...]:
    """One `Name: value` a line. `ours`: names that must not be among them, in lower case. Raises SecretError."""
    found: list[tuple[str, str]] = []
    for number, line in enumerate(read(secret).decode("ascii", "replace").splitlines(), 1):
        name, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not (colon and _NAME.match(name) and _VALUE.match(value.strip())):
            raise SecretError(f"line {number} of {secret} is not `Name: value` in printable ASCII")
        if name.lower() in ours:
            raise SecretError(
                f"line {number} of {secret} has the header {name}, which is written by this program"
            )
        found.append((name, value.strip()))
    return tuple(found)


def ages(*secrets: Secret | None) -> tuple[int, ...]:
    """When each file was changed last, in nanoseconds: another value means that it must be read again."""
    return tuple(_age(secret.file) for secret in secrets if secret is not None)


def _age(file: str) -> int:
    try:
        return os.stat(file).st_mtime_ns if file else 0
    except OSError:
        return -1
