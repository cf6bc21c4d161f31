"""What a DNS message answers, read with a bound on what it costs. Pure: bytes in.

dnspython's reader takes a whole message apart, and follows every pointer of every name: a message of 64 KiB can take
it ten seconds, in which nothing else of the agent would run. Here names are stepped over, what the check does not
look at is not read, and dnspython is given one record at a time.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from anycast.probes.finding import PeerError

__all__ = ["MOST_RECORDS", "Answer", "read"]

MOST_RECORDS = 100
"""Records of the type that was asked for, in one answer."""
_MOST = 1000  # records of all types in the answer section
_LARGEST = 4096  # bytes of one record
_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_IN = 1
_RESPONSE, _OPCODE, _RCODE = 0x8000, 0x7800, 0x000F
_TRUNCATED = 0x0200
_BARE = frozenset({1, 2, 4, 5})  # FORMERR, SERVFAIL, NOTIMP, REFUSED may come without the question


class Answer(NamedTuple):
    rcode: int
    truncated: bool
    records: list[tuple[int, int]]  # place and length of the data of those that were asked for


def read(question: bytes, record: int, wire: bytes) -> Answer | None:
    """What `wire` says to `question`, a message with one question, about records of one type.

    None: it is no answer to it. Raises PeerError.
    """
    number, asked, *_ = _HEADER.unpack_from(question)
    if len(wire) < _HEADER.size:
        if wire[:2] != question[:2]:
            return None
        raise PeerError("not a DNS answer: cut short")
    theirs, flags, questions, answers, _, _ = _HEADER.unpack_from(wire)
    if theirs != number:
        return None
    if not flags & _RESPONSE or flags & _OPCODE != asked & _OPCODE:
        return None
    place = _HEADER.size
    rcode = flags & _RCODE
    if questions or rcode not in _BARE:
        ours = question[place:]
        end = place + len(ours)
        if questions != 1 or _plain(wire[place:end]) != _plain(ours):
            return None
        place = end
    if answers > _MOST:
        raise PeerError(f"an answer of more than {_MOST} records")
    return Answer(rcode, bool(flags & _TRUNCATED), _records(wire, place, answers, record))


def _plain(question: bytes) -> bytes:
    """The case of a name makes no difference; the type and the class behind it are no text."""
    return question[:-4].lower() + question[-4:]


def _records(wire: bytes, place: int, count: int, record: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for _ in range(count):
        place = _behind_name(wire, place)
        if place + _RECORD.size > len(wire):
            raise PeerError("not a DNS answer: cut short")
        kind, class_, _, length = _RECORD.unpack_from(wire, place)
        place += _RECORD.size
        if place + length > len(wire):
            raise PeerError("not a DNS answer: cut short")
        if (kind, class_) == (record, _IN):
            if length > _LARGEST or len(found) == MOST_RECORDS:
                raise PeerError(f"an answer of more than {MOST_RECORDS} records, or {_LARGEST} bytes in one")
            found.append((place, length))
        place += length
    return found


def _behind_name(wire: bytes, place: int) -> int:
    while place < len(wire):
        size = wire[place]
        if size == 0:
            return place + 1
        if size >= 0xC0:  # a pointer ends it
            return place + 2
        if size > 0x3F:
            raise PeerError("not a DNS answer: a label of no known kind")
        place += 1 + size
    raise PeerError("not a DNS answer: cut short")
