"""What the check kinds have in common: the finding, and what an error of the kernel says about the target."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from anycast.core.health.phase import Fault, Outcome, Result

__all__ = [
    "OK",
    "Finding",
    "PeerError",
    "Progress",
    "fail",
    "fault_of",
    "judge",
    "late",
    "misread",
    "one_line",
    "place",
    "reading",
    "unknown",
    "unusable",
    "warn",
]

_LONGEST = 300  # characters of a detail

# The whole list of what the kernel makes of answers from the network (ICMP, ICMPv6, RST, silence) and of a
# missing route. IPVS would send along the same route, so no route is the target's failure too. EACCES is what
# a firewall's "administratively prohibited" becomes over IPv6. ENOTCONN: the peer has reset the connection before
# we asked something of the socket. Every other error is of this node's making: it proves nothing.
_FROM_THE_NETWORK = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EMSGSIZE"),
        *("ENETUNREACH", "ENONET", "ENOPROTOOPT", "ENOTCONN", "EOPNOTSUPP", "EPIPE", "EPROTO", "ETIMEDOUT"),
    )
)

_FAULTS: dict[int, Fault] = {
    getattr(errno, name): fault
    for fault, names in {
        Fault.LINK: "ENETDOWN ENODEV ENXIO",
        Fault.DESCRIPTORS: "EADDRINUSE EADDRNOTAVAIL EMFILE ENFILE ENOBUFS ENOMEM ENOSR",
        Fault.FORK: "EAGAIN",  # sockets are waited for: a process or a thread cannot be started
        Fault.PERMISSION: "EACCES EISDIR ELOOP ENOENT ENOTDIR EPERM",
        Fault.CONFIGURATION: "EAFNOSUPPORT EPROTONOSUPPORT ESPIPE",
    }.items()
    for name in names.split()
}

_WHAT_TO_DO = {
    errno.EADDRNOTAVAIL: "no free local port or no local address: see net.ipv4.ip_local_port_range",
    errno.EAGAIN: "raise TasksMax or LimitNPROC of the agent",
    errno.EMFILE: "raise LimitNOFILE of the agent",
    errno.ENFILE: "raise fs.file-max",
    errno.EPERM: "a security policy of this node forbids it",
}


class Finding(NamedTuple):
    """What one run found out. `detail` is one short line for people; with OK it is a warning, or empty.

    `fault`: of this node's own, with UNKNOWN and only then.
    """

    outcome: Outcome
    detail: str = ""
    fault: Fault | None = None

    def result(self, took: float) -> Result:
        return Result(outcome=self.outcome, detail=self.detail, took=took, fault=self.fault)


OK = Finding(Outcome.OK)


@dataclass(slots=True)
class Progress:
    """How far a run has come: the noun that completes "no ... within 1.0 s", and what is said after it.

    `ours`: this is awaited of the node itself, so that no answer says nothing of the target. `tell`: told of every
    step, when somebody looks on.
    """

    missing: str = "answer"
    advice: str = ""
    ours: bool = False
    tell: Callable[[str], None] | None = None

    def say(self, step: str, *args: object) -> None:
        if self.tell is not None:
            self.tell(one_line(step % args if args else step))


def warn(detail: str) -> Finding:
    """The target is well, and something about it wants looking after."""
    return Finding(Outcome.OK, one_line(detail))


def place(name: tuple[object, ...]) -> str:
    """A socket's name as people write it."""
    host = str(name[0])
    return f"[{host}]:{name[1]}" if ":" in host else f"{host}:{name[1]}"


def fail(detail: str) -> Finding:
    """The target is at fault."""
    return Finding(Outcome.FAIL, one_line(detail))


def unknown(detail: str, fault: Fault) -> Finding:
    """This node is at fault: nothing is proven about the target."""
    return Finding(Outcome.UNKNOWN, one_line(detail), fault)


def unusable(why: object, fault: Fault = Fault.CONFIGURATION) -> Finding:
    """The check itself could not run."""
    return unknown(f"the check could not run: {why}", fault)


def late(seconds: float) -> Finding:
    """The answer was looked for so long after the timeout that it says nothing of now: the agent did not run."""
    return unknown(f"the agent read the answer {seconds:.1f} s too late", Fault.STALLED)


def judge(error: OSError) -> Finding:
    """Whose fault an error of the kernel is: the target's or this node's."""
    code = error.errno
    if code is None:
        return unusable(error, Fault.INTERNAL)
    if isinstance(error, socket.gaierror):
        return _unresolved(error)
    text = os.strerror(code)
    text = text[:1].lower() + text[1:]
    where = error.filename
    if code in _FROM_THE_NETWORK and where is None:
        return fail(text)
    name = errno.errorcode.get(code, str(code))
    advice = f"; {_WHAT_TO_DO[code]}" if code in _WHAT_TO_DO else ""
    place = f"{where}: " if where is not None else ""
    return unusable(f"{place}{text} ({name}{advice})", fault_of(error))


def fault_of(error: OSError) -> Fault:
    """What this node lacks, by an error that is not the target's."""
    return _FAULTS.get(error.errno or 0, Fault.INTERNAL)


def _unresolved(error: socket.gaierror) -> Finding:
    """Checks have addresses, not names: all that is looked up is the interface in the zone of an IPv6 address."""
    if error.errno == socket.EAI_NONAME:
        return unusable("this node has no interface of the name after the address's %", Fault.LINK)
    return unusable(f"the resolver: {error.strerror}", Fault.RESOLVER)


class PeerError(Exception):
    """The peer's bytes are not what the check takes. The target is at fault; the message says why."""


@contextmanager
def reading(otherwise: str) -> Iterator[None]:
    """Around what reads a peer's bytes: whatever it raises, the bytes are why. Raises PeerError: `otherwise: ...`."""
    try:
        yield
    except (OSError, MemoryError, PeerError):
        raise
    except Exception as error:
        raise misread(otherwise, error) from error


def misread(otherwise: str, error: Exception) -> PeerError:
    return PeerError(f"{otherwise}: {str(error) or type(error).__name__}")


def one_line(text: str) -> str:
    """`text` safe for a terminal and a log line: printable, on one line, of bounded length."""
    flat = "".join(c if c.isprintable() else " " for c in text[: 2 * _LONGEST]).strip()
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"
