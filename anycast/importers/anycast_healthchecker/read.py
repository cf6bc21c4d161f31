"""Files of anycast-healthchecker to VIPs, by the library that it reads them with itself."""

from __future__ import annotations

import configparser
import ipaddress
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anycast.importers import names, numbers
from anycast.importers.commands import line_of, words_of
from anycast.importers.model import Keys, Place, Setup, Value, Vip, check
from anycast.importers.networks import address_in
from anycast.importers.report import Report, shown
from anycast.importers.source import MOST_LINES, Files, SourceError, comments_above

_SECTION = re.compile(r"\s*\[([^\]]+)\]")
_OPTION = re.compile(r"([^\s=:#;][^=:]*)[=:]")
_NOT_SERVICES = ("DEFAULT", "daemon")
_DEFAULTS = {
    "interface": "lo",
    "check_interval": "10",
    "check_timeout": "2",
    "check_rise": "2",
    "check_fail": "2",
    "check_disabled": "true",
    "on_disabled": "withdraw",
}
_FALSE = ("0", "no", "false", "off")
_TIMES = {
    "check_interval": "interval",
    "check_timeout": "timeout",
    "check_rise": "rise",
    "check_fail": "fall",
}
_DAEMON = {
    "bird_conf": "BIRD's file keeps the VIPs when the old daemon is stopped: take it out of BIRD's configuration before the agent starts",
    "bird6_conf": "BIRD's file keeps the VIPs when the old daemon is stopped: take it out of BIRD's configuration before the agent starts",
    "dummy_ip_prefix": "a list of prefixes may be empty here",
    "dummy_ip6_prefix": "a list of prefixes may be empty here",
}


@dataclass(slots=True)
class _Lines:
    """Where sections and options stand."""

    sections: dict[str, Place] = field(default_factory=dict)
    options: dict[tuple[str, str], Place] = field(default_factory=dict)
    first: Place = field(default_factory=lambda: Place(""))
    comments: dict[Place, str] = field(default_factory=dict)

    def note(self, text: str, path: Path) -> None:
        section = ""
        lines = text.split("\n")
        self.comments |= {Place(str(path), number): said for number, said in comments_above(lines).items()}
        for number, line in enumerate(lines, 1):
            place = Place(str(path), number)
            if match := _SECTION.match(line):
                section = match[1]
                self.sections.setdefault(section, place)
            elif match := _OPTION.match(line):
                self.options[section, match[1].strip().lower()] = place

    def of(self, section: str, option: str = "") -> Place:
        """Of an option that has a line of its own, there or among the defaults; else of its section."""
        for one in (section, "DEFAULT"):
            if (one, option) in self.options:
                return self.options[one, option]
        return self.sections.get(section, self.first)

    def each(self, section: str, say: Callable[[Place], None]) -> None:
        """Says it of the section and of each of its lines."""
        say(self.of(section))
        for (of, _), place in self.options.items():
            if of == section:
                say(place)


def read(paths: Sequence[Path], report: Report) -> Setup:
    """Raises SourceError."""
    files = Files(report)
    lines = _Lines(first=Place(str(paths[0])))
    parser = configparser.ConfigParser(defaults=_DEFAULTS, strict=False)
    for path in paths:
        text = files.text(path)
        if text.count("\n") > MOST_LINES:
            raise SourceError(
                Place(str(path)), f"it has more than {MOST_LINES:,} lines", "import it in parts"
            )
        lines.note(text, path)
        try:
            parser.read_string(text, str(path))
        except configparser.Error as error:
            number = getattr(error, "lineno", 0) or next((at for at, _ in getattr(error, "errors", [])), 0)
            raise SourceError(
                Place(str(path), number),
                "this is no INI file",
                "name the files that anycast-healthchecker reads",
            ) from None
    services = [name for name in parser.sections() if name not in _NOT_SERVICES]
    _defaults(lines, report)
    if not services:
        raise SourceError(
            lines.first,
            "there is no section of a service in it",
            "name the files of its services too, as in /etc/anycast-healthchecker.d/*.conf",
        )
    vips = [vip for name in services if (vip := _service(name, parser, lines, report)) is not None]
    return Setup(vips=tuple(names.unique(_apart(vips, report))))


def _defaults(lines: _Lines, report: Report) -> None:
    """What is said of the daemon itself."""
    for (section, option), place in lines.options.items():
        if section == "daemon":
            report.different(
                place,
                f"{shown(option)}: {_DAEMON.get(option, 'BIRD, its reloads and the log of the daemon are not needed here')}",
            )
        elif section == "DEFAULT":
            report.carried(place, "of every section that does not say otherwise")
    for section in _NOT_SERVICES:
        if section in lines.sections:
            report.carried(lines.sections[section], "a section that is of no service")


def _apart(vips: Sequence[Vip], report: Report) -> list[Vip]:
    seen: dict[str, Place] = {}
    found: list[Vip] = []
    for vip in vips:
        (address,) = vip.addresses
        if seen.setdefault(address, vip.place) is vip.place:
            found.append(vip)
        else:
            report.impossible(vip.place, "an address that another section has too: the first one counts")
    return found


def _service(name: str, parser: configparser.ConfigParser, lines: _Lines, report: Report) -> Vip | None:
    """None: it cannot be, which is said."""
    try:
        said: Mapping[str, str] = dict(parser.items(name))
    except configparser.Error:
        report.impossible(lines.of(name), "a % that begins nothing: the daemon would not start")
        return None
    place = lines.of(name)
    found = _address(said.get("ip_prefix", ""), lines.of(name, "ip_prefix"), report)
    disabled = said["check_disabled"].lower() not in _FALSE
    if disabled and said["on_disabled"].lower() != "advertise":
        text = "check_disabled is true where nothing else is written, and then the daemon does not announce the prefix: the section is left out"
        lines.each(name, lambda at: report.no_effect(at, text))
        return None
    if found is None:
        lines.each(name, lambda at: report.impossible(at, "left out with its section"))
        return None
    for option in said:
        _option(name, option, said, lines, report)
    if disabled:
        report.to_write(
            lines.of(name, "check_disabled"),
            "check_disabled: the prefix is announced without a check, and so it is here (/bin/true): write a check",
        )
        require: tuple[Value, ...] = (check("command", argv="/bin/true"),)
    else:
        require = (_check(said, name, lines, report),)
    report.carried(place, "a VIP that the node itself serves (local: true)")
    address, announce = found
    settings = Keys(
        (("local", True), *(() if announce is None else (("announce", announce),)), ("require", require))
    )
    return Vip(
        name=names.sanitized(name) or "local",
        addresses=(address,),
        settings=settings,
        comment=lines.comments.get(place, ""),
        place=place,
    )


def _address(text: str, place: Place, report: Report) -> tuple[str, str | None] | None:
    """The VIP's address, and the prefix that is announced in the place of its host route."""
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError:
        report.impossible(place, "ip_prefix: this is no prefix, and the daemon would not start")
        return None
    if network.num_addresses > 1:
        return address_in(network, "ip_prefix", place, report), str(network)
    return str(network.network_address), None


def _option(name: str, option: str, said: Mapping[str, str], lines: _Lines, report: Report) -> None:
    if (name, option) not in lines.options:
        return
    place = lines.of(name, option)
    match option:
        case (
            "ip_prefix"
            | "check_cmd"
            | "check_disabled"
            | "check_interval"
            | "check_timeout"
            | "check_rise"
            | "check_fail"
        ):
            report.carried(place, f"{option}: {_OURS[option]}")
        case "interface" if said[option] == "lo":
            report.carried(place, "interface: lo, where VIPs are by default")
        case "interface":
            report.different(
                place, "interface: VIPs are on the interface that `node.interface` names, by default lo"
            )
        case "on_disabled":
            report.different(
                place, "on_disabled: maintenance withdraws a VIP (`anycast maintenance on --vip`)"
            )
        case "ip_check_disabled":
            report.different(
                place, "ip_check_disabled: the agent places the address on the interface, and puts it back"
            )
        case _:
            report.different(place, f"{shown(option)}: BIRD and its reloads are not needed here")


_OURS = {
    "ip_prefix": "the address",
    "check_cmd": "argv of a command check that the VIP requires",
    "check_disabled": "the VIP is imported",
    "check_interval": "interval of the check",
    "check_timeout": "timeout of the check",
    "check_rise": "rise of the check",
    "check_fail": "fall of the check",
}


def _check(said: Mapping[str, str], name: str, lines: _Lines, report: Report) -> Value:
    found: dict[str, float] = {}
    for option, ours in _TIMES.items():
        value = numbers.seconds([said[option].strip()])
        if value is None or value < 0.01:
            report.impossible(
                lines.of(name, option),
                f"{option}: this is no number above 0; the daemon's default is written",
            )
            value = float(_DEFAULTS[option])
        found[ours] = min(value, 3600.0 if ours in ("interval", "timeout") else 1000.0)
    interval, timeout = found["interval"], found["timeout"]
    rise, fall = max(1, int(found["rise"])), max(1, int(found["fall"]))
    before = interval * fall + timeout
    here = interval + (fall - 1) * min(0.5, interval) + fall * timeout
    report.different(
        lines.of(name),
        f"check_cmd: once it has failed it is run each {min(0.5, interval):g} s: a service that hangs is out after {here:g} s at most, before after "
        f"{before:g} s; it runs as the user of the agent, `anycast`",
    )
    command = said.get("check_cmd", "").strip()
    if not command:
        report.impossible(
            lines.of(name), "it has no check_cmd, and the daemon would not start; /bin/false is written"
        )
    return check(
        "command",
        argv=_argv(command or "/bin/false"),
        interval=None if interval == 2 else numbers.duration(interval),
        timeout=None if timeout == 1 else numbers.duration(timeout),
        rise=None if rise == 2 else rise,
        fall=None if fall == 3 else fall,
    )


def _argv(command: str) -> Value:
    """The daemon runs no shell."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    return words_of(words) if words else line_of(command)
