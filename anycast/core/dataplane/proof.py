"""Whether the kernel holds what a VIP needs, by what was read of it. The machine is the table below."""

from __future__ import annotations

from enum import StrEnum


class Proof(StrEnum):
    UNREAD = "unread"  # nothing was read yet that could prove it
    PENDING = "pending"  # it differs, and is being changed or repaired for the first time
    FAILED = "failed"  # it still differs after it was written, or it is not ours to write
    PROVEN = "proven"


class Reading(StrEnum):
    """What the newest reading says."""

    NONE = "none"  # there is none that counts
    SAME = "same"
    DIFFERS = "differs"
    DIFFERS_AFTER = "differs_after"  # it was read after a program that aimed at just what is wanted now
    NOT_OURS = "not_ours"  # it differs in what this agent must not write


# Once failed, it stays so until it is read as wanted: otherwise each further try would bring a route up for a moment.
NEXT: dict[tuple[Proof, Reading], Proof] = {
    (Proof.UNREAD, Reading.NONE): Proof.UNREAD,
    (Proof.UNREAD, Reading.SAME): Proof.PROVEN,
    (Proof.UNREAD, Reading.DIFFERS): Proof.PENDING,
    (Proof.UNREAD, Reading.DIFFERS_AFTER): Proof.FAILED,
    (Proof.UNREAD, Reading.NOT_OURS): Proof.FAILED,
    (Proof.PENDING, Reading.NONE): Proof.UNREAD,
    (Proof.PENDING, Reading.SAME): Proof.PROVEN,
    (Proof.PENDING, Reading.DIFFERS): Proof.PENDING,
    (Proof.PENDING, Reading.DIFFERS_AFTER): Proof.FAILED,
    (Proof.PENDING, Reading.NOT_OURS): Proof.FAILED,
    (Proof.FAILED, Reading.NONE): Proof.FAILED,
    (Proof.FAILED, Reading.SAME): Proof.PROVEN,
    (Proof.FAILED, Reading.DIFFERS): Proof.FAILED,
    (Proof.FAILED, Reading.DIFFERS_AFTER): Proof.FAILED,
    (Proof.FAILED, Reading.NOT_OURS): Proof.FAILED,
    (Proof.PROVEN, Reading.NONE): Proof.UNREAD,
    (Proof.PROVEN, Reading.SAME): Proof.PROVEN,
    (Proof.PROVEN, Reading.DIFFERS): Proof.PENDING,
    (Proof.PROVEN, Reading.DIFFERS_AFTER): Proof.FAILED,
    (Proof.PROVEN, Reading.NOT_OURS): Proof.FAILED,
}
