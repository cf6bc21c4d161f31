"""Services as IPVS has them, without checks, to what they mean. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from anycast.importers.model import NOWHERE, Keys, Place, Server, Service, Value, check, keys
from anycast.importers.numbers import duration
from anycast.importers.report import Report
from anycast.importers.services import (
    LOCAL_CHOICE,
    NO_PLACE,
    PERSISTENCE,
    flags_that_can_be,
    named_apart,
    one_packet_that_can_be,
    scheduler_that_can_be,
    sorry_that_can_be,
)
from anycast.importers.vips import Served, of_version

_DAY = 86400
_MOST_WEIGHT = 65535
_OLD_PORT = "the port of a real server is that of the service with dr and tunnel, whatever is written"


@dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """`forwarding`: dr, nat or tunnel. `place`: where it is written."""

    address: str
    port: int = 0
    weight: int = 1
    forwarding: str = "dr"
    tunnel: Keys | None = None
    upper: int = 0
    lower: int = 0
    comment: str = ""
    place: Place = NOWHERE


@dataclass(slots=True, kw_only=True)
class Listed:
    """A service. `address` empty: of a mark. `prefix`: of persistence; None: an address is a client."""

    protocol: str = "tcp"
    address: str = ""
    port: int = 0
    mark: int = 0
    version: int = 4
    scheduler: str = "wlc"
    flags: tuple[str, ...] = ()
    one_packet: bool = False
    timeout: int | None = None
    prefix: int | None = None
    engine: bool = False
    check: Value | None = None
    quorum: Value | None = None
    place: Place = NOWHERE
    name: str = ""
    comment: str = ""
    reals: list[Real] = field(default_factory=list)
    sorry: Server | None = None  # with the port that is written
    sorry_word: str = ""  # of its line
    lines: tuple[Place, ...] = ()  # all of it

    @property
    def default_check(self) -> Value | None:
        """Where nothing is known of the daemon."""
        if self.mark or self.protocol == "sctp":
            return check("icmp")
        return check("udp") if self.protocol == "udp" else None


def served(services: Sequence[Listed], report: Report, addresses: Sequence[str]) -> list[Served]:
    """What cannot be is left out and said. `addresses`: of marks."""
    for one in services:
        if one.mark and not one.address:
            one.address = of_version(addresses, one.version) or ""
    return [made for one in services if (made := _served(one, report)) is not None]


def _served(one: Listed, report: Report) -> Served | None:
    if not one.mark and not one.port:
        report.impossible(
            one.place,
            "a service of all ports is not served; write the ports, or a `mark` that rules give the packets of all ports",
        )
        return None
    if one.mark and not one.address:
        report.impossible(
            one.place,
            f"mark {one.mark}: it is not known which address the packets are sent to, and an address is announced: name it with --address",
        )
        return None
    if not one.reals:
        report.impossible(
            one.place, "a service without real servers: a VIP needs one; write it once there is one"
        )
        return None
    scheduler = scheduler_that_can_be(
        one.scheduler, len(one.reals) + (one.sorry is not None), one.place, report
    )
    if scheduler in LOCAL_CHOICE:
        report.different(one.place, LOCAL_CHOICE[scheduler])
    persistent = one.timeout is not None
    if one.engine:
        report.impossible(one.place, "a persistence engine: clients are told apart by their address alone")
    if persistent:
        report.different(one.place, PERSISTENCE)
    flags = (
        flags_that_can_be(scheduler, one.flags, one.place, report, persistent=persistent)
        if scheduler == one.scheduler
        else None
    )
    way, tunnel = Counter((real.forwarding, real.tunnel) for real in one.reals).most_common(1)[0][0]
    service = Service(
        port=one.port,
        mark=one.mark,
        protocol=one.protocol,
        scheduler=scheduler,
        flags=flags,
        forwarding=way,
        tunnel=tunnel if way == "tunnel" else None,
        one_packet=one_packet_that_can_be(
            wanted=one.one_packet,
            protocol="" if one.mark else one.protocol,
            forwarding=way,
            persistent=persistent,
            place=one.place,
            report=report,
        ),
        persistence=_persistence(one, report),
        quorum=one.quorum,
        check=one.check,
        servers=_servers(one, way, tunnel, report),
        place=one.place,
        lines=one.lines,
    )
    if one.sorry is not None:
        sorry = sorry_that_can_be(one.sorry_word, one.sorry, service, report, version=one.version)
        service = replace(service, sorry=sorry)
    return Served(address=one.address, service=service, place=one.place, name=one.name, comment=one.comment)


def _persistence(one: Listed, report: Report) -> Value | None:
    if one.timeout is None:
        return None
    if one.timeout > _DAY:
        report.different(one.place, "persistence: 24h is the longest here")
    timeout = duration(min(max(one.timeout, 1), _DAY))
    if one.prefix is None or one.prefix == (32 if one.version == 4 else 128):
        return timeout
    return keys(timeout=timeout, **{f"ipv{one.version}_prefix": one.prefix})


def _servers(one: Listed, way: str, tunnel: Keys | None, report: Report) -> tuple[Server, ...]:
    found: dict[tuple[str, int | None], Server] = {}
    for real in one.reals:
        if (real.forwarding, real.tunnel) != (way, tunnel):
            report.impossible(
                real.place,
                f"a real server with a forwarding method of its own: all of a service have one here, so it is served by {way} too",
            )
        port: int | None = real.port or None
        if port == one.port or way != "nat":
            if port not in (None, one.port) and not one.mark:
                report.different(real.place, _OLD_PORT)
            port = None
        if not real.weight and one.scheduler == "mh":
            report.different(real.place, NO_PLACE)
        if real.weight > _MOST_WEIGHT:
            report.different(real.place, f"{_MOST_WEIGHT} is the largest weight, so its share is smaller")
        lower = real.lower
        if lower > real.upper:
            report.different(
                real.place,
                "its lower threshold is above the upper one: it is left out, and three quarters of the upper one count",
            )
            lower = 0
        server = Server(
            address=real.address,
            port=port,
            weight=min(real.weight, _MOST_WEIGHT),
            upper=min(real.upper, 2**31 - 1),
            lower=min(lower, 2**31 - 1),
            comment=real.comment,
            place=real.place,
        )
        if found.setdefault((real.address, port), server) is not server:
            report.no_effect(real.place, "a real server that is written above already")
    return named_apart(found.values())
