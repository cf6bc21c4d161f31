"""ldirectord.cf to a setup."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anycast.importers import numbers
from anycast.importers.ldirectord.checks import Asked, check_of, unquoted
from anycast.importers.model import Place, Server, Setup
from anycast.importers.report import Report, shown
from anycast.importers.source import MOST_LINES, Files, SourceError, comments_above
from anycast.importers.table import Listed, Real, served
from anycast.importers.vips import by_address

_MOST_OF_RANGE = 1024
_LINE = re.compile(r"(\s*)([A-Za-z][A-Za-z0-9_:.]*)\s*=\s*(.*)\Z")
_REAL = re.compile(
    r'(\S+)\s+(gate|masq|ipip)(?:\s+([0-9]+))?(?:\s+("(?:[^"\\]|\\.)*"|[^",\s]+)\s*,\s*("(?:[^"\\]|\\.)*"|.+))?\s*\Z'
)
_FALLBACK = ("fallback", "fallback6")
_WAYS = {"gate": "dr", "masq": "nat", "ipip": "tunnel"}
_OF_CHECKS = frozenset(
    [
        "checktype",
        "service",
        "checkcommand",
        "checkport",
        "request",
        "receive",
        "httpmethod",
        "virtualhost",
        "login",
        "passwd",
        "database",
        "secret",
        "checktimeout",
        "negotiatetimeout",
        "checkinterval",
        "failurecount",
    ]
)
_MEANS: Mapping[str, tuple[str, str]] = {
    "fallbackcommand": ("impossible", "fallbackcommand: the program is not run; a hook gets the events of the VIP (docs/hooks.md)"),
    "callback": ("impossible", "callback: the program is not run; a hook gets the events of a reload (docs/hooks.md)"),
    "execute": ("impossible", "execute: another configuration: import it too"),
    "maintenancedir": ("impossible", "maintenancedir: files drain no server: `anycast drain-server` does"),
    "quiescent": ("different", "quiescent: a server that fails gets weight 0; its connections are ended after expire_failed (60s, of UDP 0)"),
    "readdquiescent": ("different", "readdquiescent: what others remove from the table is put back"),
    "cleanstop": ("different", "cleanstop: when the agent stops, the routes go first and the kernel's table stays"),
    "autoreload": ("different", "autoreload: a changed file counts after `anycast reload`"),
    "checkcount": ("different", "checkcount: one echo is sent each time; `fall` says how often it may fail"),
    **dict.fromkeys(
        ("emailalert", "emailalertfrom", "emailalertfreq", "emailalertstatus", "smtp"),
        ("impossible", "mail is not sent; a hook or the alert rules do that (docs/hooks.md, docs/monitoring.md)"),
    ),
    **dict.fromkeys(
        ("logfile", "supervised", "fork", "monitorfile"),
        ("different", "a matter of ldirectord's own process and log: there is nothing of the kind here"),
    ),
}  # fmt: skip


@dataclass(slots=True)
class _Virtual:
    """A virtual service as it is written."""

    text: str
    place: Place
    comment: str
    said: dict[str, tuple[str, Place]] = field(default_factory=dict)
    reals: list[tuple[str, Place]] = field(default_factory=list)
    lines: list[Place] = field(default_factory=list)  # its own


def read(paths: Sequence[Path], report: Report, addresses: Sequence[str] = ()) -> Setup:
    """Raises SourceError."""
    files = Files(report)
    virtuals: list[_Virtual] = []
    for path in paths:
        lines = files.lines(path)
        if len(lines) > MOST_LINES:
            raise SourceError(
                Place(str(path)), f"it has more than {MOST_LINES:,} lines", "import it in parts"
            )
        virtuals += _file(lines, str(path), report)
    if not virtuals:
        raise SourceError(
            Place(str(paths[0])), "there is no virtual service in it", "name the file that ldirectord reads"
        )
    services: list[Listed] = []
    for one in virtuals:
        if (made := _listed(one, report)) is not None:
            services.append(made)
            continue
        for place in one.lines:
            report.impossible(place, "left out with its virtual service")
    used = {one.sorry.place for one in services if one.sorry is not None}
    for virtual in virtuals:
        for word in _FALLBACK:
            text, place = virtual.said.get(word, ("", virtual.place))
            if text and place not in used and _end(text.split()[0]) is not None:
                report.no_effect(place, f"{word}: there is no service of its address family that has it")
    known: set[tuple[str, str, int, int]] = set()
    apart: list[Listed] = []
    for listed in services:
        key = listed.protocol, listed.address, listed.port, listed.mark
        if key in known:
            report.no_effect(
                listed.place, "virtual: it is written above already, and ldirectord refuses the file"
            )
            continue
        known.add(key)
        apart.append(listed)
    return Setup(vips=tuple(by_address(served(apart, report, addresses))))


def _file(lines: Sequence[str], file: str, report: Report) -> list[_Virtual]:
    common: dict[str, tuple[str, Place]] = {}
    found: list[_Virtual] = []
    current: _Virtual | None = None
    comments = comments_above(lines)
    for number, line in enumerate(lines, 1):
        place = Place(file, number)
        text = line.expandtabs(4)
        stripped = text.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.match(text.rstrip())
        if match is None:
            report.no_effect(place, "this is no setting, and ldirectord knows none of its kind")
            continue
        indented, name, value = bool(match[1]), match[2].lower(), _without_comment(match[3])
        if name in ("virtual", "virtual6") and not indented:
            current = _Virtual(value, place, comments.get(number, ""), dict(common))
            found.append(current)
        elif indented and current is not None and name in ("real", "real6"):
            current.lines.append(place)
            current.reals.append((value, place))
        elif indented and current is not None:
            current.lines.append(place)
            current.said[name] = value, place
            _say(name, place, report)
        elif name in ("real", "real6"):
            report.no_effect(place, "real: it belongs to a virtual service above it, and is indented")
        else:
            current = None if not indented else current
            common[name] = value, place
            _say(name, place, report)
    return found


def _without_comment(value: str) -> str:
    """Comments begin at a # outside of quotes."""
    quoted = ""
    for n, char in enumerate(value):
        if quoted:
            quoted = "" if char == quoted else quoted
        elif char in "\"'":
            quoted = char
        elif char == "#":
            return value[:n].rstrip()
    return value


def _say(name: str, place: Place, report: Report) -> None:
    if name in _MEANS:
        fate, text = _MEANS[name]
        getattr(report, fate)(place, text)
    elif name not in _OF_CHECKS and name not in (
        "scheduler",
        "persistent",
        "netmask",
        "protocol",
        "ops",
        *_FALLBACK,
    ):
        report.no_effect(place, f"{shown(name)}: ldirectord does not know it")


def _listed(virtual: _Virtual, report: Report) -> Listed | None:
    place = virtual.place
    listed = Listed(place=place, comment=virtual.comment, scheduler="wrr", lines=(place, *virtual.lines))
    said = virtual.said
    if (mark := numbers.number([virtual.text], 1)) is not None:
        listed.mark = mark
    else:
        end = _end(virtual.text)
        if end is None:
            report.impossible(
                place,
                "virtual: names of hosts and ports are not looked up: write the address and the port as numbers",
            )
            return None
        listed.address, listed.port = end
        listed.version = ipaddress.ip_address(listed.address).version
        listed.protocol = (
            said["protocol"][0].lower() if "protocol" in said else "udp" if listed.port == 53 else "tcp"
        )
        if listed.protocol not in ("tcp", "udp"):
            report.impossible(said["protocol"][1], "protocol: ldirectord takes tcp or udp here")
            return None
    report.carried(place, "virtual: a service of a VIP")
    _settings(said, listed, report)
    if said.get("checktype", ("", place))[0].lower() == "off":
        report.impossible(
            said["checktype"][1],
            "checktype off: ldirectord then uses no real server; the service is left out",
        )
        return None
    own: list[tuple[Place, str, str]] = []
    for text, at in virtual.reals:
        if len(listed.reals) > numbers.MOST_OF_RANGE * 8:
            report.impossible(at, "real: a service that has too many real servers by then")
        else:
            listed.reals += _reals(text, at, own, report)
    for at, _, _ in own:
        report.impossible(
            at,
            "real: it has a request of its own, and all of a service have one check here; it is checked as the others",
        )
    _fallback(said, listed, report)
    address = str(listed.mark) if listed.mark else listed.address
    asked = Asked(
        protocol=listed.protocol,
        port=listed.port,
        virtual=(address, str(listed.port)),
        said={name: (unquoted(value), at) for name, (value, at) in said.items()},
        place=place,
        report=report,
    )
    listed.check = check_of(asked)
    return listed


def _settings(said: Mapping[str, tuple[str, Place]], listed: Listed, report: Report) -> None:
    if "protocol" in said:
        report.carried(said["protocol"][1], "protocol: protocol")
    if "scheduler" in said:
        words, at = said["scheduler"][0].split(), said["scheduler"][1]
        listed.scheduler = words[0].lower() if words else "wrr"
        report.carried(at, "scheduler: scheduler")
        if len(words) > 1:
            report.no_effect(at, "scheduler: what stands behind the name is dropped by ldirectord")
        if listed.scheduler not in _SCHEDULERS:
            report.impossible(at, "scheduler: the kernel has none of this name; wlc is written")
            listed.scheduler = "wlc"
    if "persistent" in said:
        listed.timeout = numbers.number([said["persistent"][0]], 1)
        report.carried(said["persistent"][1], "persistent: persistence")
    if "netmask" in said:
        text, at = said["netmask"]
        prefix = numbers.number([text], 1, 128) if text.isdecimal() else numbers.prefix_of(text)
        if prefix is None or not 1 <= prefix <= (32 if listed.version == 4 else 128):
            report.impossible(
                at,
                "netmask: only masks without holes can be written; each address counts as a client of its own",
            )
        else:
            listed.prefix = prefix
            report.carried(at, "netmask: persistence")
    if "ops" in said:
        listed.one_packet = said["ops"][0].lower() == "yes"
        report.carried(said["ops"][1], "ops: one_packet")


def _fallback(said: Mapping[str, tuple[str, Place]], listed: Listed, report: Report) -> None:
    """The one of the family. Of common ones the other is of other services."""
    for word in _FALLBACK:
        text, place = said.get(word, ("", listed.place))
        words = text.split()
        end = _end(words[0]) if words else None
        if words and end is None:
            report.impossible(place, f"{word}: this is no address and port; names of hosts are not looked up")
        if end is None or ipaddress.ip_address(end[0]).version != listed.version:
            continue
        listed.sorry = Server(address=end[0], port=end[1], place=place)
        listed.sorry_word = word
        ways = {real.forwarding for real in listed.reals}
        if len(words) > 1 and _WAYS.get(words[1], words[1]) not in ways:
            report.impossible(place, f"{word}: {words[1]}: it is reached as the real servers are")


_SCHEDULERS = frozenset(
    ["rr", "wrr", "lc", "wlc", "sh", "mh", "dh", "sed", "nq", "lblc", "lblcr", "fo", "ovf", "twos"]
)


def _reals(text: str, place: Place, own: list[tuple[Place, str, str]], report: Report) -> list[Real]:
    match = _REAL.match(text)
    ends = _ends(match[1]) if match else None
    if match is None or ends is None:
        report.impossible(
            place, "real: this is no address, port and gate, masq or ipip; names of hosts are not looked up"
        )
        return []
    if match[4] is not None:
        own.append((place, match[4], match[5]))
    report.carried(place, "real: a real server")
    weight = int(match[3]) if match[3] is not None and len(match[3]) < 10 else 1
    return [
        Real(address=address, port=port, weight=weight, forwarding=_WAYS[match[2]], place=place)
        for address, port in ends
    ]


def _ends(text: str) -> list[tuple[str, int]] | None:
    """Of `10.9.2.1:80` and of a range, `10.9.2.1->10.9.2.5:80`."""
    first, arrow, second = text.partition("->")
    if not arrow:
        end = _end(first)
        return None if end is None else [end]
    last, start = _end(second), numbers.address(first)
    if last is None or start is None:
        return None
    low, high = ipaddress.ip_address(start), ipaddress.ip_address(last[0])
    if low.version != 4 or high.version != 4 or not 0 <= int(high) - int(low) < _MOST_OF_RANGE:
        return None
    return [(str(ipaddress.IPv4Address(number)), last[1]) for number in range(int(low), int(high) + 1)]


def _end(text: str) -> tuple[str, int] | None:
    """`192.0.2.1:80`, `[2001:db8::1]:80`; without a port 0."""
    match = re.fullmatch(r"\[([^\]]+)\](?::([0-9]{1,5}))?|([^:]+)(?::([0-9]{1,5}))?", text)
    address = numbers.address((match[1] or match[3]) if match else "")
    port = numbers.port([(match[2] or match[4]) or ""]) if match else None
    return None if address is None or port is None else (address, port)
