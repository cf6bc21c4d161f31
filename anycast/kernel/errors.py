"""The one error of this package."""

from __future__ import annotations


class KernelUnavailable(Exception):  # noqa: N818 - the state the caller sees, and the reason word it shows
    """The kernel cannot be read or written at all; `reason` says what is missing and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
