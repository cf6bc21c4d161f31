"""Breaking the logging site, and counting what became of every message meanwhile. Inside the lab's kernel."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

from lab import configs, places
from lab.chaos_plan import Fault
from lab.errors import LabError
from lab.faults import Faults, set_link
from lab.logs_count import Window
from lab.logs_figures import LogRow
from lab.logs_plan import LOG_FAULTS, STREAMS
from lab.logs_site import (
    AFTER,
    NAME,
    NAME6,
    POOL,
    STRAIGHT,
    TLS,
    Collectors,
    LogSite,
    Machine,
    Senders,
    certify,
)
from lab.measuring import say
from lab.sampler import Sampler
from lab.topology import LAN, VIP4, VIP6
from lab.trial import NOT_DONE, PATIENCE, SPAN, Facts, Trial
from lab.waiting import until

POSTERS = 8
DATAGRAMS = 20  # senders
INTERVALS = {"log": 0.5, "datagram": 0.5, "post": 1.0}  # seconds between two messages of one sender
STILL = 15.0  # seconds in which nothing that is missing has come: it is lost
HUNG = 20.0  # seconds for which a receiver hangs
WATCHED = 30.0  # seconds for which a receiver's share is watched after its return
LATEST = 5.0  # seconds whose messages are the spread at the end
REBIND = 20  # messages
SHORTEST = 15.0  # seconds of a row


class Sends(Protocol):
    """Whoever sends numbered messages.

    `protocols`: the names of its senders over each; `straight`: of those that send without a balancer.
    """

    protocols: Mapping[str, Sequence[str]]
    straight: Mapping[str, Sequence[str]]

    def sent(self) -> dict[str, Any]:
        """`sent`: the last number of each sender; `retries`: what had to be tried again so far. Raises LabError."""
        ...


class Sending:
    """A program that sends numbered messages. Use as a context manager."""

    def __init__(
        self,
        program: str,
        words: Sequence[str],
        protocols: Mapping[str, Sequence[str]],
        straight: Mapping[str, Sequence[str]],
    ) -> None:
        self.protocols = protocols
        self.straight = straight
        self._process = subprocess.Popen(
            [*places.entry("cl"), *AFTER, sys.executable, "-m", program, *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=configs.program_environment(),
        )  # fmt: skip

    def sent(self) -> dict[str, Any]:
        return self.ask(do="sent")

    def ask(self, **what: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise LabError("the source of messages has ended")
        found: dict[str, Any] = json.loads(line)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:  # closes its streams
            pass


def of_machines(senders: Senders, straight: str) -> Sending:
    """What the machines' rsyslog sends, with datagrams and posts beside. `straight`: the address of a receiver."""
    protocols = {
        **{protocol: [one.name for one in senders.sending if one.name[0] == "m"] for protocol in STREAMS},
        "https": [f"h{number}" for number in range(1, POSTERS + 1)],
        "udp": [f"u{number}" for number in range(1, DATAGRAMS + 1)],
    }
    without = {
        **{protocol: [one.name for one in senders.sending if one.name[0] == "s"] for protocol in STREAMS},
        "udp": ["su1", "su2", "su3"],
        "https": ["sh1", "sh2", "sh3"],
    }
    words = [f"--ca={TLS}/ca.pem"]
    words += [f"--log={one.name}={senders.socket(one)}" for one in senders.sending]
    words += [f"--datagram={name}={(VIP4, VIP6)[n % 2]}" for n, name in enumerate(protocols["udp"])]
    words += [f"--datagram={name}={straight}" for name in without["udp"]]
    words += [
        f"--post={name}=https://{(NAME, NAME6)[n % 2]}/logs" for n, name in enumerate(protocols["https"])
    ]
    words += [f"--post={name}=https://{STRAIGHT}/logs" for name in without["https"]]
    words += [f"--{kind}-interval={seconds}" for kind, seconds in INTERVALS.items()]
    return Sending("lab.logs_source", words, protocols, without)


class LogTrial(Trial):
    """Counts messages in the place of connections."""

    def __init__(self, site: LogSite, sampler: Sampler, collectors: Collectors, sending: Sends) -> None:
        self.lab = site.lab
        self.sampler = sampler
        self.nodes = site.nodes
        self.rows = []
        self.found: list[LogRow] = []
        self.started = time.monotonic()
        self.epoch = (
            time.time() - self.started
        )  # what seconds since the epoch are ahead of the monotonic clock
        self.collectors = collectors
        self.sending = sending
        self._tend = site.tend
        self._mend = site.mend
        self._ended = self.started

    def calm(self) -> None:
        """Until every sender has begun, and its last message but few has come, or is lost."""
        time.sleep(max(0.0, self._ended + SPAN - time.monotonic()))
        until(self._all_send, "every sender to begin", PATIENCE)
        now = {name: (last - 1, last) for name, last in self.sending.sent()["sent"].items()}
        self._arrived(now)

    def _all_send(self) -> bool:
        """A machine whose rsyslogd still starts has sent nothing that could be waited for."""
        sent = self.sending.sent()["sent"]
        protocols = (self.sending.protocols, self.sending.straight)
        return all(sent.get(name) for one in protocols for names in one.values() for name in names)

    @contextlib.contextmanager
    def count(
        self, fault: Fault, where: str = "", *, server: str = "", peer: bool = False
    ) -> Iterator[Facts]:
        """Until the end of the block, and until every message of that time has come, or nothing more comes."""
        del server, peer
        self.everywhere()
        self.calm()
        events = len(self.lab.watch().events)
        facts = Facts(began=time.monotonic())
        shares = self.sampler.shares(facts.began - SPAN)
        before = self.sending.sent()
        say(f"{' '.join(filter(None, (fault.name, where)))}: {fault.text}")
        facts.began = time.monotonic()
        try:
            yield facts
        except NOT_DONE as error:
            facts.wrong.append(str(error))
            say(f"  {error}")
            self._mend()
        if fault.quiet and len(self.lab.watch().events) != events:
            facts.wrong.append("the router's table changed")
        time.sleep(max(0.0, facts.began + SHORTEST - time.monotonic()))
        after = self.sending.sent()
        self._ended = time.monotonic()
        window = {name: (before["sent"].get(name, 0), last) for name, last in after["sent"].items()}
        self._arrived(window)
        (plan,) = (one for one in LOG_FAULTS if one.name == fault.name)
        ledger, sending = self.collectors.ledger, self.sending
        for protocol in sending.protocols:
            row = LogRow(
                fault=fault.name,
                where=where,
                protocol=protocol,
                promise=plan.promise(protocol),
                count=ledger.count(protocol, sending.protocols[protocol], window),
                straight=ledger.count(protocol, sending.straight.get(protocol, ()), window),
                took=self._ended - facts.began,
                share=shares.get(where, 0.0),
                retries=after["retries"] - before["retries"] if protocol == "https" else 0,
                route_gone_s=facts.gone,
                busy=round(self.sampler.busy(facts.began), 3),
                spread=self.spread(protocol, self._ended - LATEST, self._ended),
                began=facts.began - self.started,
                healed=None if facts.healed is None else facts.healed - self.started,
                ended=self._ended - self.started,
                wrong=tuple(facts.wrong) if protocol == next(iter(sending.protocols)) else (),
                note=facts.note,
            )
            self.found.append(row)
            self._tell(row)
        ledger.forget(window)

    def _tell(self, row: LogRow) -> None:
        count = row.count
        say(
            f"  {row.protocol:8} {count.lost} of {count.sent} lost, {count.twice} twice, {count.reordered} out of order, "
            f"p99 {count.p99:.2f} s, longest {count.longest:.2f} s; straight {row.straight.lost} of {row.straight.sent} "
            f"lost; {' '.join(f'{name} {share:.0%}' for name, share in row.spread.items())}, busy {row.busy:.0%}"
        )
        for text in row.missed:
            say(f"  MISSED: {text}")

    def _arrived(self, window: Window) -> None:
        """Until all of the window has come; or nothing of it for STILL seconds."""
        every: Mapping[str, Sequence[str]] = {
            protocol: [*senders, *self.sending.straight.get(protocol, ())]
            for protocol, senders in self.sending.protocols.items()
        }
        missing, since = -1, time.monotonic()
        while True:
            self.collectors.read()
            left = self.collectors.ledger.missing(every, window)
            now = time.monotonic()
            if left != missing:
                missing, since = left, now
            if not missing or now > since + STILL:
                return
            time.sleep(0.5)

    def spread(self, protocol: str, begin: float, end: float) -> dict[str, float]:
        """Parts of what each receiver has got of the senders to the VIP between these monotonic seconds."""
        senders = set(self.sending.protocols[protocol])
        got = Counter(
            one.collector
            for one in self.collectors.ledger.history
            if one.protocol == protocol and one.sender in senders and begin <= one.received - self.epoch < end
        )
        total = sum(got.values()) or 1
        return {name: round(count / total, 3) for name, count in sorted(got.items())}


class LogFaults(Faults):
    """Those of a balancer and the router as they are; of the receivers, besides."""

    site: LogSite
    trial: LogTrial

    def __init__(self, site: LogSite, trial: LogTrial, senders: Senders) -> None:
        super().__init__(site, trial)
        self.collectors = trial.collectors
        self.senders = senders

    def node_kill(self, fault: Fault, nodes: Sequence[str], _server: str) -> None:
        node = nodes[0]
        victims = [self.site.process(node, what) for what in ("agent", self.site.speaker, self.site.writer)]
        with self.trial.count(fault, node) as facts:
            set_link(node, "up0", up=False)
            set_link(LAN, node, up=False)
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    victim.send(signal.SIGKILL)
            self.trial.gone(facts, node)
            self.trial.settled(facts)
            self.trial.healing(facts)
            set_link(LAN, node, up=True)
            self.site.uplink(node, up=True)
            for what in self.site.daemons:
                self.lab.start(node, what)
            self.trial.everywhere()

    def receiver_kill(self, fault: Fault, _nodes: Sequence[str], server: str) -> None:
        self._machines()  # connections stay where they are: what was killed before has none
        with self.trial.count(fault, server) as facts:
            self.collectors.signal(server, signal.SIGKILL)
            self.site.weight(server, {0})
            facts.note = f"out of every kernel after {time.monotonic() - facts.began:.2f} s"
            say(f"  {facts.note}")
            self.trial.settled(facts)
            self.trial.healing(facts)
            self._again(server)

    def receiver_return(self, fault: Fault, _nodes: Sequence[str], server: str) -> None:
        self._out(server)
        with self.trial.count(fault, server) as facts:
            self._again(server)
            self.trial.healing(facts)
            time.sleep(WATCHED)

    def receiver_rebind(self, fault: Fault, _nodes: Sequence[str], server: str) -> None:
        self._machines(rebind=REBIND)
        self._out(server)
        with self.trial.count(fault, server) as facts:
            self._again(server)
            self.trial.healing(facts)
            time.sleep(WATCHED)
        self._machines()

    def receiver_drain(self, fault: Fault, _nodes: Sequence[str], server: str) -> None:
        self._machines()  # connections stay where they are: what was killed before has none
        with self.trial.count(fault, server) as facts:
            self._drained(server, on=True)
            self.site.weight(server, {0})
            self.collectors.end(server)
            self.trial.settled(facts)
            self.trial.healing(facts)
            self.collectors.start(server)
            self._drained(server, on=False)
            self.site.weight(server, {1})

    def receiver_hang(self, fault: Fault, _nodes: Sequence[str], server: str) -> None:
        self._machines()  # connections stay where they are: what was killed before has none
        with self.trial.count(fault, server) as facts:
            self.collectors.signal(server, signal.SIGSTOP)
            self.site.weight(server, {0})
            facts.note = f"out of every kernel after {time.monotonic() - facts.began:.2f} s"
            say(f"  {facts.note}")
            time.sleep(max(0.0, facts.began + HUNG - time.monotonic()))
            self.trial.settled(facts)
            self.trial.healing(facts)
            self.collectors.signal(server, signal.SIGKILL)
            self._again(server)

    def certificate(self, fault: Fault, _nodes: Sequence[str], _server: str) -> None:
        receivers = [one.name for one in self.lab.topology.servers[: self.site.servers]]
        with self.trial.count(fault, "all") as facts:
            certify(self.collectors.certificates, again=True)
            for server in receivers:
                self.collectors.certify(server)
                self.collectors.process(server, "nginx").send(signal.SIGHUP)
                self.collectors.process(server, "rsyslogd").end(PATIENCE)
                self.collectors.start_rsyslog(server)
                self.collectors.listen(server)
                self.site.weight(server, {1})
            self.trial.settled(facts)

    def receiver_add(self, fault: Fault, _nodes: Sequence[str], _server: str) -> None:
        with self.trial.count(fault, self.added) as facts:
            self.site.reload(servers=self.site.servers + 1)
            self.site.weight(self.added, {1})
            self.trial.settled(facts)

    def _out(self, server: str) -> None:
        self.collectors.signal(server, signal.SIGKILL)
        self.site.weight(server, {0})

    def _again(self, server: str) -> None:
        self.collectors.start(server)
        self.site.weight(server, {1})

    def _drained(self, server: str, *, on: bool) -> None:
        for node in self.site.nodes:
            self.site.ask(
                node, "POST", "/maintenance", {"scope": f"{POOL}/{server}", "on": on, "reason": "logs"}
            )

    def _machines(self, *, rebind: int = 0) -> None:
        """All that send to the VIP end in order, and start again."""
        ours: list[Machine] = [one for one in self.senders.sending if one.name[0] == "m"]
        for one in ours:
            self.senders.stop(one)
        self.senders.start(*ours, rebind=rebind)
