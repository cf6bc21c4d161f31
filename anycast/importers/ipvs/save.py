"""`ipvsadm-save`, `ipvsadm -S`, and scripts that call ipvsadm."""

from __future__ import annotations

import argparse
import ipaddress
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from anycast.importers import numbers
from anycast.importers.model import Keys, Place, Setup, keys
from anycast.importers.report import Report
from anycast.importers.services import DEFAULT_PERSISTENCE, NUMBERED_FLAGS
from anycast.importers.source import MOST_LINES, Files, SourceError, comments_above
from anycast.importers.table import Listed, Real, served
from anycast.importers.vips import by_address

_PROGRAM = re.compile(r"(?:\S*/)?ipvsadm\Z")
UNCHECKED = "checks: the table has none; the servers are checked by a TCP handshake, of UDP for `port unreachable`, and you know better ones (docs/checks.md)"
THRESHOLDS = (
    "thresholds: `ipvsadm -S` leaves those of real servers out, whatever the table has: import the running table (`anycast import ipvs`), or look "
    "at it (`ipvsadm -Ln --thresholds`) and write upper_threshold and lower_threshold"
)


class _UsageError(Exception):
    """Words that ipvsadm would not take."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _UsageError(message)


def _parser() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    act = parser.add_mutually_exclusive_group(required=True)
    for short, long in (
        ("-A", "--add-service"),
        ("-E", "--edit-service"),
        ("-a", "--add-server"),
        ("-e", "--edit-server"),
    ):
        act.add_argument(short, long, dest="act", action="store_const", const=short)
    for short, long in (
        ("-D", "--delete-service"),
        ("-d", "--delete-server"),
        ("-C", "--clear"),
        ("-R", "--restore"),
        ("-Z", "--zero"),
    ):
        act.add_argument(short, long, dest="act", action="store_const", const=short)
    for short, long in (("-S", "--save"), ("-L", "--list"), ("-l", "--List")):
        act.add_argument(short, long, dest="act", action="store_const", const="-L")
    for long in ("--set", "--start-daemon", "--stop-daemon"):
        act.add_argument(long, dest="act", nargs="+" if long == "--set" else 1)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-t", "--tcp-service", dest="tcp")
    which.add_argument("-u", "--udp-service", dest="udp")
    which.add_argument("--sctp-service", dest="sctp")
    which.add_argument("-f", "--fwmark-service", dest="mark", type=int)
    parser.add_argument("-s", "--scheduler", default="wlc")
    parser.add_argument("-p", "--persistent", nargs="?", type=int, const=DEFAULT_PERSISTENCE)
    parser.add_argument("-M", "--netmask")
    parser.add_argument("--pe")
    parser.add_argument("-b", "--sched-flags", dest="flags", default="")
    parser.add_argument("-r", "--real-server", dest="real")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("-g", "--gatewaying", dest="way", action="store_const", const="dr", default="dr")
    way.add_argument("-i", "--ipip", dest="way", action="store_const", const="tunnel")
    way.add_argument("-m", "--masquerading", dest="way", action="store_const", const="nat")
    parser.add_argument("--tun-type", choices=("ipip", "gue", "gre"), default="ipip")
    parser.add_argument("--tun-port", type=int)
    parser.add_argument("--tun-nocsum", dest="checksum", action="store_const", const=None)
    parser.add_argument("--tun-csum", dest="checksum", action="store_const", const="csum")
    parser.add_argument("--tun-remcsum", dest="checksum", action="store_const", const="remcsum")
    parser.add_argument("-w", "--weight", type=int, default=1)
    parser.add_argument("-x", "--u-threshold", dest="upper", type=int, default=0)
    parser.add_argument("-y", "--l-threshold", dest="lower", type=int, default=0)
    for option in ("-6", "--ipv6"):
        parser.add_argument(option, dest="six", action="store_true")
    for option in ("-o", "--ops"):
        parser.add_argument(option, dest="ops", action="store_true")
    for option in ("-n", "--numeric", "--nosort", "--sort"):
        parser.add_argument(option, dest="shown", action="store_true")
    return parser


_PARSER = _parser()


def read(paths: Sequence[Path], report: Report, addresses: Sequence[str] = ()) -> Setup:
    """Raises SourceError."""
    files = Files(report)
    found: dict[tuple[object, ...], Listed] = {}
    for path in paths:
        lines = files.lines(path)
        if len(lines) > MOST_LINES:
            raise SourceError(
                Place(str(path)), f"it has more than {MOST_LINES:,} lines", "import it in parts"
            )
        comments = comments_above(lines)
        for number, line in enumerate(lines, 1):
            place = Place(str(path), number)
            text = line.strip()
            if text and not text.startswith("#"):
                _line(text, place, comments.get(number, ""), found, report)
        if _lost_thresholds(lines, path, found.values()):
            report.to_write(Place(str(path)), THRESHOLDS)
    if not found:
        raise SourceError(
            Place(str(paths[0])), "there is no service in it", "name what `ipvsadm-save -n` has written"
        )
    services = list(found.values())
    report.to_write(Place(str(paths[0])), UNCHECKED)
    for one in services:
        one.check = one.default_check
    return Setup(vips=tuple(by_address(served(services, report, addresses))))


def _lost_thresholds(lines: Sequence[str], path: Path, services: Iterable[Listed]) -> bool:
    """It is what ipvsadm has saved, in whose lines no program is named, and nobody has added a threshold."""
    reals = [one for listed in services for one in listed.reals if one.place.file == str(path)]
    saved = any(lines[one.place.line - 1].lstrip().startswith("-") for one in reals)
    return saved and not any(one.upper or one.lower for one in reals)


def _line(
    text: str, place: Place, comment: str, found: dict[tuple[object, ...], Listed], report: Report
) -> None:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:
        words = text.split()
    if words and _PROGRAM.match(words[0]):
        words = words[1:]
    elif words and not words[0].startswith("-"):
        report.impossible(
            place,
            "this is no call of ipvsadm, and is not run: import the table once it stands (`anycast import ipvs`)",
        )
        return
    if any("$" in word or "`" in word for word in words):
        report.impossible(
            place,
            "a variable of a shell: what it stands for is not known; run the script, and import the table (`anycast import ipvs`)",
        )
        return
    if not words:
        return
    try:
        args = _PARSER.parse_args(words)
        _take(args, place, comment, found, report)
    except _UsageError as error:
        report.impossible(place, f"ipvsadm does not take this, or it is not known here: {error}")


def _take(
    args: argparse.Namespace,
    place: Place,
    comment: str,
    found: dict[tuple[object, ...], Listed],
    report: Report,
) -> None:
    """Raises _UsageError."""
    match args.act:
        case "-A" | "-E":
            key, listed = _service(args)
            before = found.get(key)
            if args.act == "-A" and before is not None:
                report.no_effect(place, "the service is written above already, and ipvsadm refuses it")
                return
            listed.place, listed.comment = place, comment
            if before is not None:
                listed.reals = before.reals
            found[key] = listed
            report.carried(place, "a service")
        case "-a" | "-e":
            key, _ = _service(args)
            service = found.get(key)
            if service is None:
                report.no_effect(place, "its service is not written above, and ipvsadm refuses it")
                return
            real = _real(args, place)
            others = [one for one in service.reals if (one.address, one.port) != (real.address, real.port)]
            if args.act == "-a" and len(others) < len(service.reals):
                report.no_effect(place, "the real server is written above already, and ipvsadm refuses it")
                return
            service.reals = [*others, real]
            report.carried(place, "a real server")
            if not real.weight:
                report.to_write(
                    place,
                    "weight 0: it is drained or was down; it is written as drained: remove `weight: 0` if it is to have clients",
                )
        case "-C" | "-L" | "-R" | "-Z":
            report.no_effect(place, "nothing to import: the table is cleared, read or counted")
        case _:
            report.impossible(
                place,
                "what deletes or sets is not followed: import the table once it stands (`anycast import ipvs`)",
            )


def _service(args: argparse.Namespace) -> tuple[tuple[object, ...], Listed]:
    """Raises _UsageError."""
    scheduler = args.scheduler.lower()
    numbered = NUMBERED_FLAGS.get(scheduler, {})
    flags = tuple(numbered.get(word, word) for word in args.flags.split(",") if word)
    listed = Listed(
        scheduler=scheduler,
        flags=flags,
        one_packet=args.ops,
        timeout=args.persistent,
        engine=args.pe is not None,
    )
    if args.mark is not None:
        if not 1 <= args.mark < 2**32:
            raise _UsageError("this is no mark")
        listed.mark = args.mark
        listed.version = 6 if args.six else 4
    else:
        protocol = next((name for name in ("tcp", "udp", "sctp") if getattr(args, name) is not None), None)
        if protocol is None:
            raise _UsageError("it names no service")
        listed.protocol = protocol
        listed.address, listed.port = _end(getattr(args, protocol))
        listed.version = ipaddress.ip_address(listed.address).version
    if args.netmask is not None:
        listed.prefix = (
            numbers.number([args.netmask]) if args.netmask.isdecimal() else numbers.prefix_of(args.netmask)
        )
        if listed.prefix is None or not 1 <= listed.prefix <= (32 if listed.version == 4 else 128):
            raise _UsageError("only masks without holes can be written")
    return (listed.protocol, listed.address, listed.port, listed.mark, listed.version), listed


def _real(args: argparse.Namespace, place: Place) -> Real:
    """Raises _UsageError."""
    if args.real is None:
        raise _UsageError("it names no real server")
    address, port = _end(args.real)
    tunnel: Keys | None = None
    if args.way == "tunnel":
        tunnel = keys(type=args.tun_type, port=args.tun_port, checksum=args.checksum)
    if args.weight < 0 or args.upper < 0 or args.lower < 0:
        raise _UsageError("a number below 0")
    return Real(
        address=address,
        port=port,
        weight=args.weight,
        forwarding=args.way,
        tunnel=tunnel,
        upper=args.upper,
        lower=args.lower,
        place=place,
    )


def _end(text: str) -> tuple[str, int]:
    """`192.0.2.1:80`, `[2001:db8::1]:80`; without a port 0. Raises _UsageError."""
    match = re.fullmatch(r"\[([^\]]+)\](?::([0-9]{1,5}))?|([^:]+)(?::([0-9]{1,5}))?", text)
    try:
        address = str(ipaddress.ip_address((match[1] or match[3]) if match else ""))
    except ValueError:
        raise _UsageError("addresses and ports are read as numbers; save it with `ipvsadm-save -n`") from None
    port = int((match and (match[2] or match[4])) or 0)
    if port > 65535:
        raise _UsageError("this is no port")
    return address, port
