"""What the lab says when it cannot."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot do that; the message says what to do."""
