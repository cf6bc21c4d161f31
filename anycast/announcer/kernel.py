"""The table: reading it, and writing what is ours. The kernel answers at once, so a conversation is waited for.

What it does not answer within PATIENCE is an error. A kernel that keeps a call for longer is the service manager's to
notice: the watchdog is not fed meanwhile.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Sequence

from anycast.announcer import codec
from anycast.announcer.codec import Found, Move
from anycast.core.values.route import Prefix
from anycast.kernel.netlink_codec import NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, Message, messages

PATIENCE = 1.0  # seconds for one datagram of an answer
MOST_FOREIGN = 500  # routes of others that are looked at
_TRIES = 5  # of a list that changes while it is read
_SOL_NETLINK = 270
_CAP_ACK, _STRICT = 10, 12
_RECEIVE = 65536
_OURS = (
    2**31
)  # the number of the question for what is ours: always the same, so that the answers can be compared


class Table:
    """Opens its socket when first used, and again after a failure."""

    def __init__(self, table: int) -> None:
        self._table = table
        self._socket: socket.socket | None = None
        self._sequence = 0
        self._said: dict[int, bytearray] = {}  # by the kernel, of what is ours in each family, and
        self._ours: frozenset[tuple[Prefix, int]] = frozenset()  # what that came to

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ours(self) -> frozenset[tuple[Prefix, int]]:
        """The routes that are ours, with their metrics. Raises OSError, Malformed.

        The object of before where the kernel says the same as before: a thousand routes are read each second.
        """
        # All anew where one differs: an answer has the number of the socket, which is another one then.
        if not all(map(self._says_the_same, codec.FAMILIES)):
            self._ours = frozenset[tuple[Prefix, int]]().union(*map(self._whole, codec.FAMILIES))
        return self._ours

    def foreign(self) -> tuple[Found, ...]:
        """Routes of others, MOST_FOREIGN of a family at the most. Raises OSError, Malformed."""
        found: list[Found] = []
        for version in codec.FAMILIES:
            try:
                for one in self._dump(version, ours=False):
                    if one is not None and not one.is_ours:
                        found.append(one)
                    if len(found) >= MOST_FOREIGN * len(codec.FAMILIES):
                        break
            finally:
                self.close()  # what was not read is not waited for
        return tuple(found)

    def rules(self) -> tuple[int, ...]:
        """The priorities of rules that lead to the table. Raises OSError, Malformed."""
        found: list[int] = []
        for version in codec.FAMILIES:
            self._sequence += 1
            for message, data in self._answers(codec.rules_question(version, self._sequence)):
                if message.error:
                    raise OSError(message.error, os.strerror(message.error))
                if message.kind == NLMSG_DONE:
                    break
                if (priority := codec.rule_of(data, message, self._table)) is not None:
                    found.append(priority)
        return tuple(sorted(set(found)))

    def write(self, moves: Sequence[Move]) -> list[int]:
        """The errno of each; 0: it is done. What is to be removed and is not there is done. Raises OSError, Malformed."""
        if not moves:
            return []
        first = self._sequence + 1
        self._sequence += len(moves)
        last = self._sequence
        question = b"".join(
            codec.request(move, self._table, first + n, answered=first + n == last)
            for n, move in enumerate(moves)
        )
        errors = [0] * len(moves)
        for message, _ in self._answers(question):
            if message.kind != NLMSG_ERROR or not first <= message.sequence <= last:
                continue
            place = message.sequence - first
            gone = not moves[place].add and message.error in (errno.ESRCH, errno.ENOENT)
            errors[place] = 0 if gone else message.error
            if message.sequence == last:
                return errors
        raise OSError(errno.EPROTO, "the kernel has ended its answer")

    def _says_the_same(self, version: int) -> bool:
        """Byte for byte, in datagrams of any size: they grow with the life of a socket."""
        known, offset = self._said.get(version, bytearray()), 0
        if not known:
            return False
        for data in self._datagrams(codec.question(version, self._table, _OURS, ours=True)):
            if not known.startswith(data, offset):
                self.close()  # what was not read is not waited for
                return False
            offset += len(data)
            if offset == len(known):
                break
        return True

    def _whole(self, version: int) -> frozenset[tuple[Prefix, int]]:
        """The list as it was at some instant."""
        for _ in range(_TRIES):
            said = self._said[version] = bytearray()
            found = list(self._dump(version, ours=True, said=said))
            if None not in found:
                return frozenset((one.prefix, one.metric) for one in found if one is not None and one.is_ours)
        self._said.clear()
        raise OSError(errno.EAGAIN, f"the table {self._table} changes all the time")

    def _dump(self, version: int, *, ours: bool, said: bytearray | None = None) -> Iterator[Found | None]:
        """None: the list has changed meanwhile, so it may lack what was there all the time. `said` gets it as it came."""
        self._sequence += 1
        sequence = _OURS if ours else self._sequence
        question = codec.question(version, self._table, sequence, ours=ours)
        for message, data in self._answers(question, said):
            if message.sequence != sequence:
                continue
            if message.error == errno.ENOENT:
                return  # there is no such table: nothing is in it
            if message.error:
                raise OSError(message.error, os.strerror(message.error))
            if message.flags & NLM_F_DUMP_INTR:
                yield None
            if message.kind == NLMSG_DONE:
                return
            if (one := codec.parse(data, message, self._table)) is not None:
                yield one

    def _answers(self, question: bytes, said: bytearray | None = None) -> Iterator[tuple[Message, bytes]]:
        for data in self._datagrams(question):
            if said is not None:
                said += data
            try:
                for message in messages(data):
                    yield message, data
            except ValueError:
                self.close()
                raise

    def _datagrams(self, question: bytes) -> Iterator[bytes]:
        """Without an end of its own: the kernel says no more than it was asked for."""
        try:
            line = self._line()
            line.send(question)
            while True:
                yield line.recv(_RECEIVE)
        except TimeoutError:
            self.close()
            raise OSError(errno.ETIMEDOUT, f"the kernel did not answer within {PATIENCE:g} s") from None
        except OSError:
            self.close()
            raise

    def _line(self) -> socket.socket:
        if self._socket is None:
            line = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            try:
                line.settimeout(PATIENCE)
                line.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
                line.setsockopt(_SOL_NETLINK, _STRICT, 1)
                line.bind((0, 0))
            except BaseException:
                line.close()
                raise
            self._socket = line
        return self._socket
