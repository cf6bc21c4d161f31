"""Virtual servers to our services: one for each port or mark, with what keepalived makes of it."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from anycast.importers import numbers
from anycast.importers.keepalived.checkers import Checkers, Target
from anycast.importers.keepalived.written import PROTOCOL, Real, Virtual, Way
from anycast.importers.model import Keys, Place, Server, Service, Sorry, Value, check, keys, together
from anycast.importers.quorum import servers_for
from anycast.importers.report import Report
from anycast.importers.services import (
    LOCAL_CHOICE,
    NO_PLACE,
    NUMBERED_FLAGS,
    PERSISTENCE,
    flags_that_can_be,
    named_apart,
    one_packet_that_can_be,
    scheduler_that_can_be,
    sorry_that_can_be,
)

_DAY = 86400


class Services:
    """What is said of them goes to the report."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._carried: set[Place] = (
            set()
        )  # lines that one service or another has; the rest may be said to be lost

    def of(self, virtual: Virtual, port: int, mark: int, version: int) -> Service | None:
        """The service of one port or mark. `version`: of the address; 0: there is none."""
        protocol = self._protocol(virtual, mark)
        way = self._common_way(virtual)
        reals = self._of_family(virtual, version, way)
        if not reals:
            return None
        persistence = self._persistence(virtual)
        scheduler = self._scheduler(virtual, len(reals) + (virtual.sorry is not None))
        flags = self._flags(virtual, scheduler)
        servers = self._servers(reals, virtual, port, mark, way)
        for real in reals:
            if virtual.scheduler == "mh" and (not real.weight or real.begins_at_0):
                self._report.different(real.place, NO_PLACE)
        tested = self._check(virtual, reals, way, port=port, mark=mark, protocol=protocol)
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
        service = Service(
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
            lines=virtual.lines,
        )
        return replace(service, sorry=self._sorry(virtual, service, version))

    def _sorry(self, virtual: Virtual, service: Service, version: int) -> Sorry | None:
        report, sorry = self._report, None
        if virtual.sorry is not None:
            version = version or ipaddress.ip_address(service.servers[0].address).version
            sorry = sorry_that_can_be("sorry_server", virtual.sorry, service, report, version=version)
        inhibit, way = (virtual.said.get(f"sorry_server_{word}") for word in ("inhibit", "lvs_method"))
        if sorry is None:
            for place in (inhibit, way):
                if place is not None:
                    report.no_effect(place, "there is no sorry_server here that it could be about")
            return None
        if inhibit is not None:
            report.carried(
                inhibit,
                "sorry_server_inhibit: always so; under mh it has its places from the start and on every node here, and not from the first outage on",
            )
        if way is not None and virtual.sorry_way is None:
            report.no_effect(way, "sorry_server_lvs_method: keepalived refuses it")
        elif way is not None and virtual.sorry_way == service.forwarding:
            report.carried(way, "sorry_server_lvs_method: forwarding of the service")
        elif way is not None:
            report.impossible(
                way,
                f"sorry_server_lvs_method: all of a service are reached in one way here, so by {service.forwarding} too",
            )
        return sorry

    def _protocol(self, virtual: Virtual, mark: int) -> str:
        if mark:
            if (place := virtual.protocol_place) is not None and place not in self._carried:
                self._report.not_carried(place, PROTOCOL)
                self._report.no_effect(
                    place, "protocol: a service with a mark has none, and keepalived ignores it"
                )
            return "tcp"
        if virtual.protocol_place is not None:
            self._keep([(virtual.protocol_place, PROTOCOL)])
            return virtual.protocol
        self._report.to_write(
            virtual.place,
            "virtual_server: it has no protocol, so keepalived serves UDP, and so does this; if TCP is meant, write the port without /udp",
        )
        return "udp"

    def _common_way(self, virtual: Virtual) -> Way:
        """One for all real servers of a service."""
        ways = Counter(real.way or virtual.way or Way("nat") for real in virtual.reals)
        way = ways.most_common(1)[0][0]
        if virtual.way is None and all(real.way is None for real in virtual.reals):
            self._report.carried(
                virtual.place, "virtual_server: it has no lb_kind, so forwarding is nat, keepalived's default"
            )
        for real in virtual.reals:
            if (real.way or virtual.way or Way("nat")) != way:
                self._report.impossible(
                    real.place,
                    f"real_server: it has a forwarding method of its own; all of a service have one here, so it is served by {way.forwarding} too: "
                    "put it into a service of its own if it cannot be",
                )
        return way

    def _of_family(self, virtual: Virtual, version: int, way: Way) -> list[Real]:
        """Without those that keepalived skips: of another family, where nothing is tunnelled, and the same once more."""
        reals: list[Real] = []
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

    def _scheduler(self, virtual: Virtual, servers: int) -> str:
        place = virtual.said.get("lb_algo") or virtual.said.get("lvs_sched") or virtual.place
        if not virtual.scheduler and place == virtual.place:
            self._report.carried(
                virtual.place, "virtual_server: it has no scheduler, so it is wlc, keepalived's default"
            )
        found = virtual.scheduler or "wlc"
        written = scheduler_that_can_be(found, servers, place, self._report)
        if written in LOCAL_CHOICE:
            self._report.different(place, LOCAL_CHOICE[written])
        return written

    def _flags(self, virtual: Virtual, scheduler: str) -> tuple[str, ...] | None:
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

    def _persistence(self, virtual: Virtual) -> Value | None:
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
        self, reals: Sequence[Real], virtual: Virtual, port: int, mark: int, way: Way
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

    def _keep(self, lines: Iterable[tuple[Place, str]]) -> None:
        for place, text in lines:
            self._carried.add(place)
            self._report.carried(place, text)

    def _lines_of_checks(self, virtual: Virtual, reals: Sequence[Real], carried: Collection[Place]) -> None:
        """What becomes of lines around the checks. `carried`: the real servers whose own checks are those of the service."""
        tested = any(real.checkers for real in reals)
        owners: list[tuple[Virtual | Real, bool, bool]] = [(virtual, tested, bool(carried))]
        owners += [(real, bool(real.checkers), real.place in carried) for real in reals]
        for owner, has_checks, kept in owners:
            if kept:
                self._keep(owner.of_checks)
                continue
            for place, text in owner.of_checks:
                if place in self._carried:
                    continue
                self._report.not_carried(place, text)
                if has_checks:
                    self._report.impossible(place, _NOT_CARRIED)
                else:
                    self._report.no_effect(place, "a line about checks: there is no check")

    def _check(
        self, virtual: Virtual, reals: Sequence[Real], way: Way, *, port: int, mark: int, protocol: str
    ) -> Value | None:
        """One for all real servers of a service: the one that most have."""
        report = self._report
        of_server: dict[tuple[str, int], list[Keys]] = {}
        said: dict[tuple[str, int], Report] = {}
        for real in reals:
            served = real.port if way.forwarding == "nat" and real.port else port
            target = Target(address=real.address, port=real.port, served=served, virtualhost=real.virtualhost)
            checkers = Checkers(said.setdefault((real.address, served), Report()))
            made = (checkers.of(one, target, real.timing) for one in real.checkers)
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
        for server, lines in said.items():
            report.take(lines if found[server] == chosen else lines.instead_of_carried(_NOT_CARRIED))
        carried: set[Place] = set()
        how = "as most others of the service" if chosen is not None else _DEFAULTS[default]
        for real in reals:
            served = real.port if way.forwarding == "nat" and real.port else port
            own = found[real.address, served]
            if own is not None and own == chosen:
                carried.add(real.place)
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
        self._lines_of_checks(virtual, reals, carried)
        if chosen is None:
            return None if default == "tcp" else check(default)
        return None if chosen == check("tcp") and protocol == "tcp" and not mark else chosen

    def _quorum(self, virtual: Virtual, servers: Sequence[Server]) -> Value | None:
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
            f"{words}. {_BELOW[virtual.sorry is not None]}",
        )
        if "hysteresis" in virtual.said:
            self._report.different(virtual.said["hysteresis"], "hysteresis: low and high of quorum")
        if high.number == low.number:
            return None if low.number == 1 else low.number
        return keys(low=low.number, high=high.number)


_BELOW = {
    True: "Below it the sorry pool serves, as before",
    False: "Below it the VIP is withdrawn, where keepalived ran quorum_down",
}
_NOT_CARRIED = "a line about checks: not carried over, see what is said of the real_server"
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
