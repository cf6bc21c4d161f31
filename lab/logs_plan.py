"""What `lab.logs` does to the logging site, and what is promised of each protocol. No I/O."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field

from lab.chaos_plan import BY_NAME, Fault, OptionError

RELP = ("relp", "relp-tls")
TCP = ("tcp", "tcp-tls")
STREAMS = (*RELP, *TCP)  # what each machine's rsyslog sends
PROTOCOLS = (*STREAMS, "https", "udp")
CHECKED = 3.05  # seconds until three checks of the example have failed (`anycast budget`): 2 s, two more 0.5 s apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """`lost`: so many at the most; `of_share`: what a node gets in so many seconds; None: nothing is promised.

    `longest`: seconds that a message may be late. `retries`: posts that may be tried again.
    """

    lost: int | None = 0
    of_share: float | None = None
    longest: float | None = None
    retries: int | None = None

    @property
    def text(self) -> str:
        words = []
        if self.of_share is not None:
            words.append(f"<= {self.of_share:g} s of its share lost")
        elif self.lost is not None:
            words.append(f"{self.lost} lost")
        if self.longest is not None:
            words.append(f"<= {self.longest:g} s late")
        if self.retries is not None:
            words.append(f"{self.retries} retries")
        return ", ".join(words) or "-"


NOTHING = Promise(lost=None)
_NONE_LOST = Promise()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFault:
    """A fault, and what is promised of each protocol; of one that is not named: nothing."""

    fault: Fault
    promises: Mapping[str, Promise] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.fault.name

    def promise(self, protocol: str) -> Promise:
        return self.promises.get(protocol, NOTHING)


def _of_balancer(udp: Promise, https: Promise = _NONE_LOST) -> dict[str, Promise]:
    """No fault of a balancer may lose anything over a connection."""
    return {**dict.fromkeys(STREAMS, _NONE_LOST), "https": https, "udp": udp}


_RECEIVER = dict.fromkeys((*RELP, "https"), _NONE_LOST)
LOG_FAULTS = (
    LogFault(fault=BY_NAME["steady"], promises=_of_balancer(_NONE_LOST, Promise(retries=0))),
    LogFault(fault=BY_NAME["drain"], promises=_of_balancer(_NONE_LOST, Promise(retries=0))),
    LogFault(fault=BY_NAME["agent-kill"], promises=_of_balancer(_NONE_LOST)),
    LogFault(fault=BY_NAME["exabgp-kill"], promises=_of_balancer(_NONE_LOST)),
    LogFault(
        fault=Fault(
            name="node-kill",
            text="all processes of a node are killed, and its links go down, as without power",
            bound=0.2,
        ),
        promises=_of_balancer(Promise(of_share=0.2)),
    ),
    LogFault(fault=BY_NAME["freeze-bfd"], promises=_of_balancer(Promise(of_share=0.6))),
    LogFault(fault=BY_NAME["freeze-hold"], promises=_of_balancer(Promise(of_share=3.5))),
    LogFault(fault=BY_NAME["router-restart"], promises=_of_balancer(NOTHING)),
    LogFault(
        fault=Fault(
            name="receiver-kill",
            text="SIGKILL to rsyslogd and nginx of a receiver",
            where="server",
            quiet=True,
        ),
        promises=dict.fromkeys((*RELP, "https"), Promise(longest=CHECKED + 1.0)),
    ),
    LogFault(
        fault=Fault(
            name="receiver-return",
            text="they start again: what does it get?",
            where="server",
            quiet=True,
        ),
        promises=_of_balancer(_NONE_LOST),
    ),
    LogFault(
        fault=Fault(
            name="receiver-rebind",
            text="the same where the machines connect again after 20 messages (rebindInterval)",
            where="server",
            quiet=True,
        ),
        promises=_of_balancer(_NONE_LOST),
    ),
    LogFault(
        fault=Fault(
            name="receiver-drain",
            text="`anycast drain-server` on every node, then its rsyslogd and nginx stop in order, and start again",
            where="server",
            quiet=True,
        ),
        promises={**_RECEIVER, "udp": _NONE_LOST},
    ),
    LogFault(
        fault=Fault(
            name="receiver-hang",
            text="SIGSTOP to rsyslogd and nginx, whose ports still accept; 20 s later they are killed and started again",
            where="server",
            quiet=True,
        ),
        promises=_RECEIVER,
    ),
    LogFault(
        fault=Fault(
            name="certificate",
            text="another certificate: nginx reloads, rsyslogd stops and starts, one receiver after the other",
            where="server",
            quiet=True,
        ),
        promises=_RECEIVER,
    ),
    LogFault(
        fault=Fault(name="receiver-add", text="reload with one more receiver", where="server", quiet=True),
        promises=_of_balancer(_NONE_LOST),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    faults: tuple[LogFault, ...]
    nodes: int = 3
    servers: int = 3  # in the configuration at first; one more is added
    machines: int = 9

    @property
    def memory(self) -> int:
        """MiB of the lab's kernel."""
        return 2048 + 16 * (self.machines + self.servers)


def options(*, faults: str = "", machines: int = 9) -> LogOptions:
    """Raises OptionError. `faults`: names with commas; empty: all."""
    names = [name for name in (word.strip() for word in faults.split(",")) if name]
    unknown = [name for name in names if all(name != one.name for one in LOG_FAULTS)]
    wrong = []
    if unknown:
        wrong.append(f"FAULTS: no such fault: {', '.join(unknown)} (FAULTS=help lists them)")
    if not 1 <= machines <= 60:
        wrong.append(f"MACHINES={machines}: 1 to 60")
    if wrong:
        raise OptionError("\n".join(wrong))
    # In the order of the table: a receiver that returns was killed before.
    return LogOptions(
        faults=tuple(one for one in LOG_FAULTS if not names or one.name in names), machines=machines
    )


def listing() -> str:
    """For FAULTS=help."""
    width = max(len(one.name) for one in LOG_FAULTS)
    return "\n".join(
        line
        for one in LOG_FAULTS
        for line in textwrap.wrap(
            f"{one.name.ljust(width)}  {one.fault.text}", 110, subsequent_indent=" " * (width + 2)
        )
    )
