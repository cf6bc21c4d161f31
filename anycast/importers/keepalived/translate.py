"""Statements of keepalived.conf for one node to what they mean."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from anycast.importers import names, numbers
from anycast.importers.keepalived import vrrp
from anycast.importers.keepalived.checkers import OURS, Checkers, Target, Timing, command
from anycast.importers.keepalived.grammar import CHECKERS
from anycast.importers.keepalived.language import Statement
from anycast.importers.model import Keys, Place, Server, Service, Setup, Value, Vip, check, keys, together
from anycast.importers.quorum import servers_for
from anycast.importers.report import Report, shown
from anycast.importers.services import (
    DEFAULT_PERSISTENCE,
    LOCAL_CHOICE,
    NUMBERED_FLAGS,
    OTHER_SCHEDULERS,
    PERSISTENCE,
    flags_that_can_be,
    named_apart,
    one_packet_that_can_be,
    places_address,
    scheduler_that_can_be,
)
from anycast.importers.vips import Served, by_address, of_version

_MOST_WEIGHT = 65535
_DAY = 86400
_SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sh", "mh", "dh", *OTHER_SCHEDULERS)
_FORWARDING = {"NAT": "nat", "DR": "dr", "TUN": "tunnel"}
_CHECKSUMS = {"nocsum": None, "csum": "csum", "remcsum": "remcsum"}

_MEANS: Mapping[str, tuple[str, str]] = {
    "ha_suspend": ("different", "ha_suspend: checks always run, for every node has the VIP"),
    "omega": ("different", "omega: not needed: when the agent stops, the routes go first and the kernel's table stays"),
    "alpha": ("carried", "alpha: always so: a server gets no new clients before its check has succeeded"),
    "inhibit_on_failure": (
        "carried",
        "inhibit_on_failure: always so: a server that fails gets weight 0; its connections are ended after expire_failed (60s, of UDP 0)",
    ),
    "quorum_up": (
        "impossible",
        ("quorum_up: the program is not run: the VIP is announced and its address is on the node without it; for anything else a hook "
        "gets the event vip.verdict_changed (docs/hooks.md)"),
    ),
    "quorum_down": (
        "impossible",
        ("quorum_down: the program is not run: below the quorum the VIP is withdrawn without it; for anything else a hook gets the event "
        "vip.verdict_changed (docs/hooks.md)"),
    ),
    "notify_up": ("impossible", "notify_up: the program is not run; a hook gets the events server.up and server.down (docs/hooks.md)"),
    "notify_down": ("impossible", "notify_down: the program is not run; a hook gets the events server.up and server.down (docs/hooks.md)"),
    "smtp_alert": ("impossible", "smtp_alert: no mail is sent; a hook or the alert rules do that (docs/hooks.md, docs/monitoring.md)"),
    "snmp_name": ("different", "snmp_name: there is no SNMP; the metrics have the name of the VIP"),
    "persistence_engine": (
        "impossible",
        ("persistence_engine: clients are told apart by their address alone: calls of one client that had several real servers, or of "
        "several clients that had one, are sent elsewhere"),
    ),
    "sorry_server": (
        "impossible",
        ("sorry_server: there is none: when too few real servers are usable the VIP is withdrawn, and the routers use the other nodes; "
        "if all nodes withdraw it, clients get no answer in the place of the sorry server's"),
    ),
    "sorry_server_inhibit": ("impossible", "sorry_server_inhibit: there is no sorry server"),
    "sorry_server_lvs_method": ("impossible", "sorry_server_lvs_method: there is no sorry server"),
    "warmup": ("different", "warmup: the checks of a pool are spread over the interval"),
    "ip_family": ("carried", "ip_family: that of the address"),
    "hashed": ("no_effect", "hashed: keepalived does nothing with it"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Way:
    """How packets reach a real server."""

    forwarding: str
    tunnel: Keys | None = None


@dataclass(slots=True)
class _Real:
    """A real server as it is written. `port` 0: none."""

    address: str
    port: int
    weight: int
    way: _Way | None
    upper: int
    lower: int
    checkers: list[Statement]
    timing: Timing
    virtualhost: str
    place: Place
    comment: str


@dataclass(slots=True)
class _Virtual:
    """A virtual server as it is written."""

    place: Place
    comment: str
    protocol: str = ""
    scheduler: str = ""
    way: _Way | None = None
    flags: list[str] = field(default_factory=list)
    numbered: list[tuple[str, Place]] = field(default_factory=list)
    one_packet: bool = False
    persistence: int | None = None
    granularity: tuple[str, int] | None = None
    quorum: int | None = None
    quorum_place: Place | None = None
    hysteresis: int = 0
    weight: int = 1
    timing: Timing = Timing()
    virtualhost: str = ""
    snmp_name: str = ""
    reals: list[_Real] = field(default_factory=list)
    said: dict[str, Place] = field(default_factory=dict)


_End: TypeAlias = tuple[str, int, int]
"""Address, port, mark."""


class Translation:
    """One node's."""

    def __init__(self, statements: Sequence[Statement], report: Report, addresses: Sequence[str]) -> None:
        self._statements = statements
        self._addresses = addresses
        self._report = report
        self._checkers = Checkers(report)

    def setup(self) -> tuple[Setup, list[vrrp.Instance]]:
        self._unknown()
        instances = vrrp.instances(self._statements, self._report)
        groups = {
            one.first: one
            for one in self._statements
            if one.word == "virtual_server_group" and one.block is not None
        }
        served: list[Served] = []
        for statement in self._statements:
            if statement.word == "virtual_server":
                served += self._virtual_server(statement, groups)
        used = {
            one.first
            for one in self._statements
            if one.word == "virtual_server" and one.args[:1] == ("group",)
        }
        used |= {
            one.args[1]
            for one in self._statements
            if one.word == "virtual_server" and one.args[:1] == ("group",) and len(one.args) > 1
        }
        for name, group in groups.items():
            if name not in used:
                for one in [group, *(group.block or [])]:
                    self._report.no_effect(one.place, "virtual_server_group: no virtual_server uses it")
        held = {one.address: one for instance in instances for one in instance.held}
        served = self._with_addresses(_merged(served, self._report), held)
        vips = by_address(served)
        vips = self._with_vrrp(vips, instances)
        return Setup(vips=tuple(vips), settings=self._globals()), instances

    def _unknown(self) -> None:
        for one in self._statements:
            if not one.known:
                self._report.no_effect(
                    one.place, f"{shown(one.word)}: keepalived does not know it there, and only logs that"
                )
            elif one.word in _ROOT_WORDS:
                getattr(self._report, _ROOT_WORDS[one.word][0])(one.place, _ROOT_WORDS[one.word][1])
                for inner in one.block or []:
                    getattr(self._report, _ROOT_WORDS[one.word][0])(inner.place, _ROOT_WORDS[one.word][1])

    # Virtual servers

    def _virtual_server(self, statement: Statement, groups: Mapping[str, Statement]) -> Iterator[Served]:
        virtual = self._read(statement)
        report, place = self._report, statement.place
        if not virtual.reals:
            report.no_effect(
                place, "virtual_server: it has no real server that can be used, and keepalived leaves it out"
            )
            return
        kind, second = (*statement.args, "", "")[:2]
        name = virtual.snmp_name or virtual.virtualhost
        if kind == "group":
            group = groups.get(second)
            if group is None:
                report.no_effect(
                    place, "virtual_server: there is no group of this name, and keepalived leaves it out"
                )
                return
            report.carried(place, "virtual_server: a VIP with its services")
            yield from self._of_group(virtual, group)
            return
        if kind == "fwmark":
            mark = numbers.number([second], 1)
            if mark is None:
                report.no_effect(place, "virtual_server: this is no mark, and keepalived leaves it out")
                return
            report.carried(place, "virtual_server: a service with a mark")
            yield from self._served(virtual, [(("", 0, mark), place)], name, "")
            return
        address, port = numbers.address(kind), numbers.port([second] if second else [])
        if address is None or port is None:
            report.no_effect(
                place, "virtual_server: this is no address and port, and keepalived leaves it out"
            )
            return
        if port == 0:
            report.impossible(
                place,
                "virtual_server without a port: a service of all ports is not served; write the ports, or a `mark` that rules of nftables "
                "give the packets of all ports",
            )
            return
        report.carried(place, "virtual_server: a service of a VIP")
        yield from self._served(virtual, [((address, port, 0), place)], name, "")

    def _of_group(self, virtual: _Virtual, group: Statement) -> Iterator[Served]:
        report = self._report
        report.carried(group.place, "virtual_server_group: the addresses of the VIPs")
        if virtual.granularity is not None:
            virtual.granularity = None
            report.no_effect(
                virtual.said["persistence_granularity"],
                "persistence_granularity: of a group keepalived tells the kernel nothing of it, so each address is a client of its own; it "
                "switches persistence on all the same",
            )
        ends: dict[_End, Place] = {}
        full = False
        for line in group.block or []:
            words = line.line.words
            if words[0] == "fwmark":
                mark = numbers.number(words[1:], 1)
                if mark is None:
                    report.no_effect(line.place, "fwmark: this is no mark, and keepalived ignores it")
                else:
                    report.carried(line.place, "fwmark: mark of a service")
                    ends.setdefault(("", 0, mark), line.place)
                continue
            found, port = ([] if full else numbers.addresses(words[0])), numbers.port(words[1:])
            full = full or (found is not None and len(ends) + len(found) > numbers.MOST_ADDRESSES)
            if full:
                report.impossible(
                    line.place, f"an address of a group that has more than {numbers.MOST_ADDRESSES:,} of them"
                )
            elif found is None or port is None:
                report.impossible(
                    line.place,
                    f"{shown(words[0])}: this is no address, range and port that can be imported (1,024 addresses at most)",
                )
            elif port == 0:
                report.impossible(
                    line.place,
                    "an address without a port: a service of all ports is not served; write the ports, or a `mark`",
                )
            else:
                report.carried(line.place, "an address of a VIP, and the port")
                for address in found:
                    ends.setdefault((address, port, 0), line.place)
        yield from self._served(virtual, ends.items(), "", group.first)

    def _served(
        self, virtual: _Virtual, ends: Iterable[tuple[_End, Place]], name: str, group: str
    ) -> Iterator[Served]:
        made: dict[tuple[int, int, int], Service | None] = {}
        for (address, port, mark), place in ends:
            version = ipaddress.ip_address(address).version if address else 0
            key = port, mark, version
            if key not in made:
                made[key] = self._service(virtual, port, mark, version)
            if (service := made[key]) is not None:
                yield Served(
                    address=address,
                    service=service,
                    place=place,
                    name=name,
                    group=group,
                    comment=virtual.comment,
                )

    def _read(self, statement: Statement) -> _Virtual:
        """With what becomes of its lines."""
        report = self._report
        block = statement.block or []
        virtual = _Virtual(statement.place, statement.line.above or statement.line.beside)
        if virtual.comment.lower().startswith("configuration file"):
            virtual.comment = ""
        virtual.timing = Timing().under(block)
        for one in block:
            virtual.said.setdefault(one.word, one.place)
            match one.word:
                case "real_server":
                    continue
                case "lb_algo" | "lvs_sched":
                    if one.first in _SCHEDULERS:
                        virtual.scheduler = one.first
                        report.carried(one.place, f"{one.word}: scheduler")
                    else:
                        report.no_effect(
                            one.place,
                            f"{one.word}: keepalived does not know this scheduler, and takes {virtual.scheduler or 'wlc'}",
                        )
                case "lb_kind" | "lvs_method":
                    virtual.way = self._way(one) or virtual.way
                case "protocol":
                    if one.first.lower() in ("tcp", "udp", "sctp"):
                        virtual.protocol = one.first.lower()
                        report.carried(one.place, "protocol: protocol")
                    else:
                        report.no_effect(one.place, "protocol: keepalived does not know it, and ignores it")
                case "ops":
                    virtual.one_packet = True
                case "flag-1" | "flag-2" | "flag-3":
                    virtual.numbered.append((one.word, one.place))
                case "mh-port" | "mh-fallback" | "sh-port" | "sh-fallback":
                    if one.word.startswith(f"{virtual.scheduler}-"):
                        virtual.flags.append(one.word)
                        report.carried(one.place, f"{one.word}: flags")
                    else:
                        why = "stands before lb_algo, or with another scheduler"
                        report.no_effect(one.place, f"{one.word}: it {why}, and keepalived ignores it there")
                case "persistence_timeout":
                    found = numbers.number(one.args, 1, 31 * _DAY) if one.args else DEFAULT_PERSISTENCE
                    if found is None:
                        report.no_effect(
                            one.place,
                            "persistence_timeout: keepalived refuses the value: there is no persistence",
                        )
                    else:
                        virtual.persistence = found
                        report.carried(one.place, "persistence_timeout: persistence")
                case "persistence_granularity":
                    self._granularity(one, statement, virtual)
                case "quorum":
                    virtual.quorum = numbers.number(one.args, 1) or 1
                    virtual.quorum_place = one.place
                case "hysteresis":
                    virtual.hysteresis = numbers.number(one.args) or 0
                    virtual.quorum_place = virtual.quorum_place or one.place
                case "weight":
                    virtual.weight = numbers.number(one.args, 1) or 1
                    report.carried(one.place, "weight: of the real servers that have none of their own")
                case "virtualhost":
                    virtual.virtualhost = one.first
                    report.carried(one.place, "virtualhost: host of the checks")
                case word if word in OURS:
                    report.carried(one.place, f"{word}: {OURS[word]} of the checks")
                case "quorum_up" | "quorum_down" if places_address(" ".join(command(one))):
                    what = "the agent places the address and announces it; it stays on the node while the route is withdrawn"
                    report.different(one.place, f"{one.word}: not needed: {what}")
                case word if word in _MEANS:
                    how, text = _MEANS[word]
                    getattr(report, how)(one.place, text)
                    if word == "snmp_name":
                        virtual.snmp_name = one.first
                case _:
                    report.no_effect(
                        one.place,
                        f"{shown(one.word)}: keepalived does not know it in a virtual_server, and only logs that",
                    )
        for one in block:
            if one.word == "real_server" and (real := self._real(one, virtual)) is not None:
                virtual.reals.append(real)
        return virtual

    def _granularity(self, one: Statement, statement: Statement, virtual: _Virtual) -> None:
        six = (
            ":" in (one.first or "")
            or ":" in statement.first
            or (one.first.isdigit() and "." not in statement.first)
        )
        found = numbers.number(one.args, 1, 128) if six else numbers.prefix_of(one.first)
        if found is None or not found:
            self._report.impossible(
                one.place,
                "persistence_granularity: only masks without holes can be written; each address counts as a client of its own",
            )
            return
        virtual.granularity = ("ipv6_prefix" if six else "ipv4_prefix", found)
        if virtual.persistence is None:
            virtual.persistence = DEFAULT_PERSISTENCE
        self._report.carried(
            one.place, "persistence_granularity: persistence, which it switches on by itself"
        )

    def _way(self, one: Statement) -> _Way | None:
        """None: keepalived refuses it, which is said."""
        report = self._report
        forwarding = _FORWARDING.get(one.first)
        refused = f"{one.word}: keepalived refuses it, as if the line were not there"
        if one.first in ("FNAT", "SNAT"):
            what = f"{one.first} is of DPVS, and neither keepalived nor the kernel has it: nat is written, so answers must come back through this node"
            report.impossible(one.place, f"{one.word}: {what}")
            return None
        if forwarding is None:
            report.no_effect(one.place, refused)
            return None
        tunnel = keys(type="ipip")
        words = list(one.args[1:])
        while words:
            word = words.pop(0)
            if word == "type" and words and words[0] in ("ipip", "gue", "gre"):
                tunnel = tunnel.with_(type=words.pop(0))
            elif word == "port" and words and (port := numbers.port(words[:1])):
                tunnel = tunnel.with_(port=port)
                words.pop(0)
            elif word in _CHECKSUMS:
                if (checksum := _CHECKSUMS[word]) is not None:
                    tunnel = tunnel.with_(checksum=checksum)
            else:
                report.no_effect(one.place, refused)
                return None
        report.carried(one.place, f"{one.word}: forwarding")
        return _Way(forwarding, tunnel if forwarding == "tunnel" else None)

    def _real(self, statement: Statement, virtual: _Virtual) -> _Real | None:
        report = self._report
        block = statement.block or []
        address, port = numbers.address(statement.first), numbers.port(statement.args[1:2])
        if address is None or port is None:
            report.no_effect(
                statement.place, "real_server: this is no address and port, and keepalived leaves it out"
            )
            return None
        report.carried(statement.place, "real_server: a real server")
        real = _Real(
            address, port, virtual.weight, virtual.way, 0, 0, [], virtual.timing.under(block), virtual.virtualhost,
            statement.place, statement.line.beside or statement.line.above,
        )  # fmt: skip
        for one in block:
            match one.word:
                case "weight":
                    weight = numbers.number(one.args)
                    if weight is None:
                        report.no_effect(one.place, "weight: keepalived refuses the value")
                    elif weight > _MOST_WEIGHT:
                        real.weight = _MOST_WEIGHT
                        report.different(
                            one.place, f"weight: {_MOST_WEIGHT} is the most, so its share is smaller"
                        )
                    else:
                        real.weight = weight
                        report.carried(one.place, "weight: weight")
                case "lvs_method":
                    real.way = self._way(one) or real.way
                case "uthreshold":
                    real.upper = min(numbers.number(one.args) or 0, 2**31 - 1)
                    report.carried(one.place, "uthreshold: upper_threshold")
                case "lthreshold":
                    real.lower = min(numbers.number(one.args) or 0, 2**31 - 1)
                    report.carried(one.place, "lthreshold: lower_threshold")
                case "virtualhost":
                    real.virtualhost = one.first
                    report.carried(one.place, "virtualhost: host of the checks")
                case "inhibit_on_failure" if numbers.truth(one.args) is False:
                    report.different(
                        one.place,
                        "inhibit_on_failure off: a server that fails stays in the table with weight 0; its connections are ended after "
                        "expire_failed (60s, of UDP 0)",
                    )
                case word if word in CHECKERS:
                    real.checkers.append(one)
                case word if word in OURS:
                    report.carried(one.place, f"{word}: {OURS[word]} of the checks")
                case word if word in _MEANS and one.known:
                    how, text = _MEANS[word]
                    getattr(report, how)(one.place, text)
                case _:
                    report.no_effect(
                        one.place,
                        f"{shown(one.word)}: keepalived does not know it in a real_server, and only logs that",
                    )
        if real.lower > real.upper:
            report.different(
                statement.place,
                "lthreshold is above uthreshold: it is left out, and three quarters of uthreshold count",
            )
            real.lower = 0
        return real

    # Services

    def _service(self, virtual: _Virtual, port: int, mark: int, version: int) -> Service | None:
        """The service of one port or mark. `version`: of the address; 0: there is none."""
        protocol = self._protocol(virtual, mark)
        way = self._common_way(virtual)
        reals = self._of_family(virtual, version, way)
        if not reals:
            return None
        persistence = self._persistence(virtual)
        scheduler = self._scheduler(virtual, len(reals))
        flags = self._flags(virtual, scheduler)
        servers = self._servers(reals, virtual, port, mark, way)
        tested = self._check(reals, port, mark, protocol, way)
        quorum = self._quorum(virtual, servers)
        if virtual.one_packet and protocol != "udp" and not mark:
            self._report.no_effect(virtual.said["ops"], "ops: it is for UDP, and keepalived resets it here")
        elif virtual.one_packet:
            self._report.carried(virtual.said["ops"], "ops: one_packet")
        one_packet = one_packet_that_can_be(
            wanted=virtual.one_packet,
            protocol="" if mark else protocol,
            forwarding=way.forwarding,
            persistent=persistence is not None,
            place=virtual.said.get("ops", virtual.place),
            report=self._report,
        )
        return Service(
            port=port,
            mark=mark,
            protocol=protocol,
            scheduler=scheduler,
            flags=flags,
            forwarding=way.forwarding,
            tunnel=way.tunnel,
            one_packet=one_packet,
            persistence=persistence,
            quorum=quorum,
            check=tested,
            servers=servers,
            place=virtual.place,
        )

    def _protocol(self, virtual: _Virtual, mark: int) -> str:
        if mark:
            if "protocol" in virtual.said:
                self._report.no_effect(
                    virtual.said["protocol"],
                    "protocol: a service with a mark has none, and keepalived ignores it",
                )
            return "tcp"
        if virtual.protocol:
            return virtual.protocol
        self._report.to_write(
            virtual.place,
            "virtual_server: it has no protocol, so keepalived serves UDP, and so does this; if TCP is meant, write the port without /udp",
        )
        return "udp"

    def _common_way(self, virtual: _Virtual) -> _Way:
        """One for all real servers of a service."""
        ways = Counter(real.way or virtual.way or _Way("nat") for real in virtual.reals)
        way = ways.most_common(1)[0][0]
        if virtual.way is None and all(real.way is None for real in virtual.reals):
            self._report.carried(
                virtual.place, "virtual_server: it has no lb_kind, so forwarding is nat, keepalived's default"
            )
        for real in virtual.reals:
            if (real.way or virtual.way or _Way("nat")) != way:
                self._report.impossible(
                    real.place,
                    f"real_server: it has a forwarding method of its own; all of a service have one here, so it is served by {way.forwarding} too: "
                    "put it into a service of its own if it cannot be",
                )
        return way

    def _of_family(self, virtual: _Virtual, version: int, way: _Way) -> list[_Real]:
        """Without those that keepalived skips: of another family, where nothing is tunnelled, and the same once more."""
        reals: list[_Real] = []
        version = version or ipaddress.ip_address(virtual.reals[0].address).version
        for real in virtual.reals:
            if way.forwarding != "tunnel" and ipaddress.ip_address(real.address).version != version:
                self._report.no_effect(
                    real.place,
                    "real_server: it is of another address family than the virtual server, and keepalived skips it",
                )
            elif any((one.address, one.port) == (real.address, real.port) for one in reals):
                self._report.no_effect(
                    real.place, "real_server: it is written twice, and keepalived removes the second one"
                )
            else:
                reals.append(real)
        return reals

    def _scheduler(self, virtual: _Virtual, servers: int) -> str:
        place = virtual.said.get("lb_algo") or virtual.said.get("lvs_sched") or virtual.place
        if not virtual.scheduler:
            self._report.carried(
                virtual.place, "virtual_server: it has no scheduler, so it is wlc, keepalived's default"
            )
        found = virtual.scheduler or "wlc"
        written = scheduler_that_can_be(found, servers, place, self._report)
        if written in LOCAL_CHOICE:
            self._report.different(place, LOCAL_CHOICE[written])
        return written

    def _flags(self, virtual: _Virtual, scheduler: str) -> tuple[str, ...] | None:
        found = list(virtual.flags)
        for word, place in virtual.numbered:
            named = NUMBERED_FLAGS.get(virtual.scheduler, {}).get(word)
            if named is None:
                self._report.no_effect(place, f"{word}: this scheduler has no such flag")
            else:
                self._report.carried(place, f"{word}: flags, as {named}")
                found.append(named)
        if virtual.scheduler != scheduler:
            return None
        place = virtual.said.get("lb_algo") or virtual.said.get("lvs_sched") or virtual.place
        persistent = virtual.persistence is not None
        return flags_that_can_be(scheduler, found, place, self._report, persistent=persistent)

    def _persistence(self, virtual: _Virtual) -> Value | None:
        if virtual.persistence is None:
            return None
        place = (
            virtual.said.get("persistence_timeout")
            or virtual.said.get("persistence_granularity")
            or virtual.place
        )
        if virtual.persistence > _DAY:
            self._report.different(place, "persistence_timeout: 24h is the longest here")
        timeout = numbers.duration(min(virtual.persistence, _DAY))
        self._report.different(place, PERSISTENCE)
        if virtual.granularity is None or virtual.granularity[1] == (
            32 if virtual.granularity[0] == "ipv4_prefix" else 128
        ):
            return timeout
        return Keys((("timeout", timeout), virtual.granularity))

    def _servers(
        self, reals: Sequence[_Real], virtual: _Virtual, port: int, mark: int, way: _Way
    ) -> tuple[Server, ...]:
        found: dict[tuple[str, int | None], Server] = {}
        for real in reals:
            own: int | None = real.port or None
            if way.forwarding != "nat":
                if own not in (None, port):
                    text = (
                        "real_server: its port is not used: packets with a mark keep theirs, and keepalived clears it too"
                        if mark
                        else f"real_server: with {way.forwarding} no port is changed: keepalived serves it at the virtual server's port, and so do we; its own one is that of the check"
                    )
                    self._report.different(real.place, text)
                own = None
            elif own == port:
                own = None
            server = Server(
                address=real.address, port=own, weight=real.weight, upper=real.upper, lower=real.lower,
                comment=real.comment, place=real.place,
            )  # fmt: skip
            before = found.setdefault((real.address, own), server)
            if before is not server:
                self._report.different(
                    real.place,
                    "real_server: with its port reset it is one that is written above; they are one server here, which must pass the checks "
                    "of both, with the weight of the first (keepalived: of the one that came up last)",
                )
        servers = named_apart(found.values())
        if servers and not any(server.weight for server in servers):
            self._report.to_write(
                virtual.place,
                "virtual_server: all its real servers have weight 0: nobody is served until one has a weight",
            )
        return servers

    def _check(self, reals: Sequence[_Real], port: int, mark: int, protocol: str, way: _Way) -> Value | None:
        """One for all real servers of a service: the one that most have."""
        report = self._report
        of_server: dict[tuple[str, int], list[Keys]] = {}
        for real in reals:
            served = real.port if way.forwarding == "nat" and real.port else port
            target = Target(address=real.address, port=real.port, served=served, virtualhost=real.virtualhost)
            made = (self._checkers.of(one, target, real.timing) for one in real.checkers)
            of_server.setdefault((real.address, served), []).extend(one for one in made if one is not None)
        found = {server: together(checks) for server, checks in of_server.items()}
        alike = len({*found.values()}) == 1
        common = Counter(one for one in found.values() if one is not None and (alike or not _is_aimed(one)))
        default = _default_check(protocol, mark)
        # Of two that are as frequent, the one that others pass more likely.
        chosen = max(common, key=lambda one: (common[one], -len(str(one)))) if common else None
        if (
            mark
            and chosen is not None
            and not _has_ports(chosen)
            and not all(real.port and way.forwarding == "nat" for real in reals)
        ):
            report.impossible(
                reals[0].place,
                "the check has no port, and packets with a mark have any: the servers are checked by icmp, until you write a check with a port",
            )
            chosen = None
        how = "as most others of the service" if chosen is not None else _DEFAULTS[default]
        for real in reals:
            served = real.port if way.forwarding == "nat" and real.port else port
            own = found[real.address, served]
            if not real.checkers:
                what = "it has no check, so keepalived uses it whatever becomes of it"
                report.different(real.place, f"real_server: {what}; here it is checked {how}")
            elif own is None:
                report.different(
                    real.place, f"real_server: none of its checks can be carried over; it is checked {how}"
                )
            elif own != chosen and _is_aimed(own):
                what = "its check goes to an address of its own, and all of a service have one check here"
                report.impossible(real.place, f"real_server: {what}; it is checked {how}")
            elif own != chosen and chosen is not None:
                what = "its checks are not those of most others, and all of a service have one check here"
                report.impossible(real.place, f"real_server: {what}; it is checked {how}")
        if chosen is None:
            return None if default == "tcp" else check(default)
        return None if chosen == check("tcp") and protocol == "tcp" and not mark else chosen

    def _quorum(self, virtual: _Virtual, servers: Sequence[Server]) -> Value | None:
        if virtual.quorum_place is None:
            return None
        total = sum(server.weight for server in servers)
        quorum = min(virtual.quorum or 1, total)
        hysteresis = virtual.hysteresis if virtual.hysteresis < quorum else max(quorum - 1, 0)
        weights = [server.weight for server in servers if server.weight]
        if not weights:
            return None
        low, high = servers_for(quorum - hysteresis, weights), servers_for(quorum + hysteresis, weights)
        if quorum == 1 == high.number and virtual.quorum == 1:
            self._report.carried(virtual.quorum_place, "quorum: one usable server, as is the default")
            if "hysteresis" in virtual.said:
                self._report.carried(virtual.said["hysteresis"], "hysteresis: none")
            return None
        words = f"quorum: it is a sum of weights, {quorum} of {total}"
        words += f", with hysteresis {hysteresis}" if hysteresis else ""
        if virtual.quorum is not None and virtual.quorum > total:
            words += f" (keepalived reduces {virtual.quorum} to that)"
        words += f"; here servers count: quorum {low.number}" + (
            f", and {high.number} to come back" if high.number != low.number else ""
        )
        if low.least != low.most:
            words += f" (by weight it were {low.least} to {low.most} servers, depending on which)"
        self._report.different(
            virtual.quorum_place,
            f"{words}. Below it the VIP is withdrawn; keepalived ran quorum_down and used the sorry server",
        )
        if "hysteresis" in virtual.said:
            self._report.different(virtual.said["hysteresis"], "hysteresis: low and high of quorum")
        if high.number == low.number:
            return None if low.number == 1 else low.number
        return keys(low=low.number, high=high.number)

    # VIPs

    def _with_addresses(self, served: list[Served], held: Mapping[str, vrrp.Held]) -> list[Served]:
        """Marks get the address that they need here to be announced; those of a group with addresses have its own."""
        known = {one.address for one in served if one.address}
        groups = {one.group for one in served if one.address and one.group}
        free = [address for address in held if address not in known]
        found: list[Served] = []
        for one in served:
            if one.address or one.group in groups:
                found.append(one)
                continue
            place, mark = one.service.place, one.service.mark
            version = ipaddress.ip_address(one.service.servers[0].address).version
            mine = [address for address in free if ipaddress.ip_address(address).version == version]
            if (given := of_version(self._addresses, version)) is not None:
                self._report.carried(place, f"mark {mark}: it is served at the address that --address names")
                found.append(replace(one, address=given))
            elif len(mine) == 1:
                self._report.to_write(
                    place,
                    f"mark {mark}: it is served at {mine[0]}, the one address of VRRP that nothing else serves; see that it is the right one",
                )
                found.append(replace(one, address=mine[0]))
            else:
                self._report.impossible(
                    place,
                    f"mark {mark}: the file does not say which address the packets are sent to, and an address is announced: "
                    "name it with --address",
                )
        return found

    def _with_vrrp(self, vips: list[Vip], instances: Sequence[vrrp.Instance]) -> list[Vip]:
        report = self._report
        by_address = {address: vip.name for vip in vips for address in vip.addresses}
        tracked: dict[str, dict[str, None]] = {}
        used: dict[str, None] = {}
        local: dict[str, list[vrrp.Held]] = {}
        for instance in instances:
            for held in instance.held:
                name = by_address.get(held.address)
                if name is None and instance.scripts:
                    local.setdefault(instance.name, []).append(held)
                elif name is None:
                    report.impossible(
                        held.place,
                        "virtual_ipaddress: no virtual_server has this address, and no script is tracked: if the node itself serves it, write a "
                        "VIP with local: true and a check; the gateway of a network cannot be announced",
                    )
                    continue
                report.carried(held.place, "virtual_ipaddress: an address of a VIP")
                if name is not None:
                    tracked.setdefault(name, {}).update(dict.fromkeys(instance.scripts))
                used.update(dict.fromkeys(instance.scripts))
                if held.network is not None:
                    report.different(
                        held.place,
                        "virtual_ipaddress: the VIP is an address of a network of the node's; hosts on that link ask for it by ARP or ND and reach "
                        "whichever node answers, past the routers: announce an address outside of that network",
                    )
        found = vrrp.scripts(self._statements, used, report)
        with_require: list[Vip] = []
        for vip in vips:
            require = tuple(found[name] for name in tracked.get(vip.name, ()) if name in found)
            with_require.append(
                replace(vip, settings=vip.settings.with_(require=require)) if require else vip
            )
        scripts_of = {instance.name: instance.scripts for instance in instances}
        for name, some in local.items():
            require = tuple(found[script] for script in scripts_of[name] if script in found)
            if not require:
                report.impossible(
                    some[0].place,
                    "virtual_ipaddress: none of the scripts that it tracks is in the file, so nothing would be checked",
                )
                continue
            report.different(
                some[0].place,
                "virtual_ipaddress: no virtual_server has this address: the node itself serves it (local: true)",
            )
            with_require.append(
                Vip(
                    name=names.sanitized(name) or "local",
                    addresses=tuple(dict.fromkeys(held.address for held in some)),
                    settings=Keys((("local", True), ("require", require))),
                    place=some[0].place,
                )
            )
        return names.unique(with_require)

    def _globals(self) -> Keys:
        found: list[tuple[str, Value]] = []
        for statement in self._statements:
            if statement.word != "global_defs":
                continue
            self._report.carried(
                statement.place, "global_defs: as far as there is something of the kind here"
            )
            for one in statement.block or []:
                if one.word == "lvs_timeouts":
                    if (timeouts := _timeouts(one)).items:
                        found.append(("timeouts", timeouts))
                    self._report.carried(one.place, "lvs_timeouts: timeouts")
                elif one.word == "lvs_sync_daemon":
                    if (sync := _sync(one)) is not None:
                        found.append(("connection_sync", sync))
                        self._report.different(
                            one.place,
                            "lvs_sync_daemon: connection_sync: every node sends and receives at all times",
                        )
                    else:
                        self._report.no_effect(
                            one.place, "lvs_sync_daemon: it has no interface, and keepalived ignores it"
                        )
                elif one.word in ("lvs_flush", "lvs_flush_onstop", "lvs_flush_on_stop"):
                    self._report.different(
                        one.place,
                        f"{one.word}: the table is made equal to the file, never flushed; `ipvs: exclusive` removes services that are not in it",
                    )
                else:
                    text = _GLOBAL.get(one.word, "nothing of the kind is set here")
                    for inner in [one, *(one.block or [])]:
                        self._report.different(inner.place, f"global_defs {shown(one.word)}: {text}")
        return Keys(tuple(dict(found).items()))


_GLOBAL = {
    **dict.fromkeys(
        (
            "notification_email",
            "notification_email_from",
            "smtp_server",
            "smtp_connect_timeout",
            "smtp_alert",
            "smtp_helo_name",
            "smtp_alert_checker",
        ),
        "no mail is sent; a hook or the alert rules do that (docs/hooks.md, docs/monitoring.md)",
    ),
    "router_id": "the name of a node is its host name, or `node.name`",
    "script_user": "programs run as the user of the agent, `anycast`",
    "enable_script_security": "programs run as the user of the agent, which is not root",
}
_ROOT_WORDS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("static_ipaddress", "static_routes", "static_rules"),
        ("impossible", "static addresses, routes and rules: they are not made here; leave them to the host's own network configuration"),
    ),
    **dict.fromkeys(
        ("track_file", "vrrp_track_file", "vrrp_track_process", "track_group"),
        ("impossible", "what VRRP tracks: not carried over; write `require` of the VIP or the node (docs/checks.md)"),
    ),
    "bfd_instance": ("impossible", "bfd_instance: not carried over; BFD with the routers is `bgp: {bfd: true}`"),
    "SSL": ("impossible", "SSL: not carried over; write ca, certificate and key in the https checks"),
    **dict.fromkeys(
        ("net_namespace", "net_namespace_ipvs", "namespace_with_ipsets", "instance"),
        ("different", "namespaces and instances of keepalived: the agent runs in the namespace that its unit gives it"),
    ),
    **dict.fromkeys(
        ("garp_group", "interface_up_down_delays", "vrrp_virtual_iproute", "use_pid_dir", "linkbeat_use_polling", "child_wait_time", "process_names", "config_copy_directory"),
        ("different", "a setting of keepalived's own: there is nothing of the kind here"),
    ),
}  # fmt: skip
_DEFAULTS = {
    "tcp": "by a TCP handshake at the service's port",
    "udp": "for `port unreachable` at the service's port",
    "icmp": "by icmp",
}


def _default_check(protocol: str, mark: int) -> str:
    return "icmp" if mark or protocol == "sctp" else protocol


def _is_aimed(found: Value) -> bool:
    """Whether it goes to an address of its own."""
    if not isinstance(found, Keys):
        return False
    inner = found.get("of")
    return found.get("address") is not None or (isinstance(inner, tuple) and any(map(_is_aimed, inner)))


def _has_ports(found: Keys) -> bool:
    inner = found.get("of")
    if isinstance(inner, tuple):
        return all(_has_ports(one) for one in inner if isinstance(one, Keys))
    return found.get("port") is not None or found.get("type") in ("command", "icmp")


def _timeouts(one: Statement) -> Keys:
    ours = {"tcp": "tcp", "tcpfin": "tcp_fin", "udp": "udp"}
    words = one.args
    pairs = [
        (ours[name], numbers.number([value], 1, 24 * _DAY))
        for name, value in itertools.pairwise(words)
        if name in ours
    ]
    return Keys(tuple((name, numbers.duration(value)) for name, value in pairs if value))


def _sync(one: Statement) -> Keys | None:
    words = list(one.args)
    if not words or not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", words[0]):
        return None
    found = keys(interface=words[0])
    for name, value in itertools.pairwise(words):
        match name:
            case "id" if number := numbers.number([value], 1, 255):
                found = found.with_(id=number)
            case "port" if number := numbers.number([value], 1, 65535):
                found = found.with_(port=number)
            case "ttl" if number := numbers.number([value], 1, 255):
                found = found.with_(ttl=number)
            case "group" if numbers.address(value):
                found = found.with_(group=value)
    return found


def _merged(served: Iterable[Served], report: Report) -> list[Served]:
    """A service that is written twice is one: the first scheduler, the real servers of both."""
    found: dict[tuple[str, int, int, str], Served] = {}
    for one in served:
        service = one.service
        key = one.address, service.port, service.mark, service.protocol
        before = found.setdefault(key, one)
        if before is one:
            continue
        old = before.service
        have = {(server.address, server.port) for server in old.servers}
        more = tuple(server for server in service.servers if (server.address, server.port) not in have)
        report.different(
            service.place,
            "virtual_server: it is written above already: one service with the scheduler, the check and the quorum of the first and the real servers "
            "of both, as in the kernel's table; a quorum of its own for each there is not",
        )
        found[key] = replace(before, service=replace(old, servers=(*old.servers, *more)))
    return list(found.values())
