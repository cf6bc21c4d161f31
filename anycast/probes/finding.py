"""What the check kinds have in common: the finding, and what an error of the kernel says about the target."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from errno import (
    EACCES,
    EADDRNOTAVAIL,
    EAGAIN,
    ECONNABORTED,
    ECONNREFUSED,
    ECONNRESET,
    EHOSTDOWN,
    EHOSTUNREACH,
    EMFILE,
    EMSGSIZE,
    ENETUNREACH,
    ENFILE,
    ENONET,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
    EPROTO,
    ETIMEDOUT,
    errorcode,
)
from typing import NamedTuple

from anycast.core.health.phase import Outcome

__all__ = ["OK", "Finding", "Progress", "fail", "judge", "one_line", "place", "unknown", "warn"]

_LONGEST = 300  # characters of a detail

# The whole list of what the kernel makes of answers from the network (ICMP, ICMPv6, RST, silence) and of a
# missing route. IPVS would send along the same route, so no route is the target's failure too. EACCES is what
# a firewall's "administratively prohibited" becomes over IPv6. Every other error is of this node's making
# (descriptors, memory, ports, ENETDOWN, a disabled family, a security policy): it proves nothing.
_FROM_THE_NETWORK = frozenset(
    {
        EACCES,
        ECONNABORTED,
        ECONNREFUSED,
        ECONNRESET,
        EHOSTDOWN,
        EHOSTUNREACH,
        EMSGSIZE,
        ENETUNREACH,
        ENONET,
        ENOPROTOOPT,
        EOPNOTSUPP,
        EPIPE,
        EPROTO,
        ETIMEDOUT,
    }
)

_WHAT_TO_DO = {
    EADDRNOTAVAIL: "no free local port or no local address: see net.ipv4.ip_local_port_range",
    EAGAIN: "raise TasksMax or LimitNPROC of the agent",
    EMFILE: "raise LimitNOFILE of the agent",
    ENFILE: "raise fs.file-max",
    EPERM: "a security policy of this node forbids it",
}


class Finding(NamedTuple):
    """What one run found out. `detail` is one short line for people; with OK it is a warning, or empty."""

    outcome: Outcome
    detail: str = ""


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


def unknown(detail: str) -> Finding:
    """The check itself could not run."""
    return Finding(Outcome.UNKNOWN, one_line(detail))


def judge(error: OSError) -> Finding:
    """Whose fault an error of the kernel is: the target's or this node's."""
    code = error.errno
    if code is None:
        return unknown(f"the check could not run: {error}")
    text = os.strerror(code)
    if code in _FROM_THE_NETWORK:
        return fail(text[:1].lower() + text[1:])
    name = errorcode.get(code, str(code))
    advice = f"; {_WHAT_TO_DO[code]}" if code in _WHAT_TO_DO else ""
    return unknown(f"the check could not run: {text[:1].lower()}{text[1:]} ({name}{advice})")


def one_line(text: str) -> str:
    """`text` safe for a terminal and a log line: printable, on one line, of bounded length."""
    flat = "".join(c if c.isprintable() else " " for c in text[: 2 * _LONGEST]).strip()
    return flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"
