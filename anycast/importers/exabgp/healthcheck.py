"""A healthcheck process to VIPs that the node itself serves."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from anycast.importers import names, numbers
from anycast.importers.commands import line_of
from anycast.importers.exabgp.language import listed
from anycast.importers.exabgp.options import Option
from anycast.importers.model import Keys, Place, Value, Vip, check
from anycast.importers.networks import address_in
from anycast.importers.report import Report
from anycast.importers.services import places_address

_MOST_OF_NETWORK = 256  # addresses of a network that are written out


@dataclass(frozen=True, slots=True)
class Announced:
    """`neighbors`: to whom; empty: to all that the process is attached to."""

    vips: tuple[Vip, ...]
    neighbors: tuple[str, ...]
    next_hops: tuple[str, ...]


@dataclass(slots=True)
class _Asked:
    """What the options come to, with healthcheck's defaults."""

    name: str = ""
    interval: float = 5.0
    fast: float = 1.0
    timeout: float = 5.0
    rise: int = 3
    fall: int = 3
    command: str = ""
    disable: str = ""
    ips: list[tuple[str, Place]] = field(default_factory=list)
    deaggregate: bool = False
    start: int = 0
    metric: int = 100
    increase: int = 1
    settings: dict[str, Value] = field(default_factory=dict)
    withdraws: bool = False
    neighbors: list[str] = field(default_factory=list)
    next_hops: list[str] = field(default_factory=list)
    label: bool = False


_NUMBERS = {"interval": "interval", "fast-interval": "fast", "timeout": "timeout"}
_COUNTS = {"rise": "rise", "fall": "fall"}
_COMMUNITIES = {
    "community": "communities",
    "large-community": "large_communities",
    "extended-community": "extended_communities",
}
_MEANS = {
    **dict.fromkeys(("silent", "syslog-facility", "no-syslog", "debug", "no-ack", "pid"), "of its log and its pipe: the agent has its own"),
    **dict.fromkeys(("user", "group", "sudo"), "programs run as the user of the agent, `anycast`"),
    "debounce": "the lease is always the full truth, and nothing is announced twice",
    "dynamic-ip-setup": "the address stays on the node while the route is withdrawn",
    "no-ip-setup": "the agent places the address on lo by itself: take it out of the host's network configuration",
    "label-exact-match": "addresses are written, not looked for by a label",
    "disabled-metric": "while the file is there the route is withdrawn; ExaBGP announced it with this MED",
    "disabled-community": "while the file is there, or the check fails, the route is withdrawn; ExaBGP announced it with this community",
    "down-as-path": "while the check fails the route is withdrawn",
    "disabled-as-path": "while the file is there the route is withdrawn",
}  # fmt: skip


def announced(
    place: Place,
    process: str,
    options: Sequence[Option],
    report: Report,
    *,
    addresses: Sequence[str] = (),
    comment: str = "",
) -> Announced:
    """What a process announces, with what becomes of each option. `place`: of the process.

    `addresses`: of lo, where it is not told which.
    """
    asked = _Asked()
    for option in options:
        _take(option, asked, report)
    silent = asked.interval + (asked.fall - 1) * asked.fast + asked.fall * asked.timeout
    report.carried(
        place, f"run: a healthcheck; a service that hangs is out after {silent:g} s at most, as before"
    )
    if not asked.withdraws:
        report.different(
            place,
            "healthcheck without --withdraw-on-down: while the check fails ExaBGP announces with another MED (1000 or --down-metric); here the "
            "route is withdrawn: when the check fails on every node there is no route",
        )
    report.different(
        place,
        "healthcheck: when it ends it takes the addresses off lo that it has put there (ExaBGP 5 also those of the host): stop ExaBGP before the "
        "agent starts",
    )
    if not asked.ips and addresses:
        report.carried(place, "healthcheck without --ip: it announces the addresses that --address names")
        asked.ips = [(address, place) for address in addresses]
    elif not asked.ips:
        which = "the addresses of lo with this label" if asked.label else "all addresses of lo"
        report.impossible(
            place,
            f"healthcheck without --ip: it announces {which}, which are not known here: name them with --address",
        )
    require = _require(asked, place, report)
    ips = _addresses(asked, report)
    name = names.sanitized(asked.name) or names.sanitized(process) or "local"
    by_metric: dict[int, list[_Ip]] = {}
    for n, one in enumerate(ips):
        by_metric.setdefault(asked.metric + n * asked.increase, []).append(one)
    vips = tuple(
        Vip(
            name=name,
            addresses=tuple(dict.fromkeys(one.address for one in some)),
            settings=Keys(
                (
                    ("local", True),
                    *_announce(some),
                    *asked.settings.items(),
                    ("med", metric),
                    ("require", require),
                )
            ),
            comment=comment,
            place=some[0].place,
        )
        for metric, some in by_metric.items()
    )
    return Announced(vips, tuple(asked.neighbors), tuple(asked.next_hops))


def _take(option: Option, asked: _Asked, report: Report) -> None:
    name, value, place = option.name, option.value, option.place
    shown = f"{'--' if option.is_named else ''}{names.sanitized(name) or '?'}"
    if not option.known:
        what = "has no such option" if option.is_named else "takes no such word"
        report.impossible(place, f"{shown}: healthcheck {what}, and would not start")
    elif name in _NUMBERS:
        seconds = numbers.seconds([value])
        if name == "interval" and seconds == 0:
            report.to_write(
                place,
                "--interval 0: healthcheck ends after its first announcement, and ExaBGP with it after five starts; 5 s is written",
            )
        elif seconds is None:
            report.impossible(place, f"{shown}: this is no number; healthcheck's default is written")
        else:
            setattr(asked, _NUMBERS[name], seconds)
            report.carried(place, f"{shown}: {name.replace('-', '_')} of the check")
    elif name in _COUNTS:
        count = numbers.number([value])
        setattr(asked, name, min(max(count, 1), 1000) if count is not None else 3)
        report.carried(place, f"{shown}: {name} of the check")
    elif name in ("up-metric", "increase", "start-ip"):
        number = numbers.number([value], 0, 2**32 - 1)
        if number is None:
            report.impossible(place, f"{shown}: this is no number; healthcheck's default is written")
        else:
            setattr(asked, {"up-metric": "metric", "increase": "increase", "start-ip": "start"}[name], number)
            report.carried(place, f"{shown}: med")
    elif name == "ip":
        asked.ips.append((value, place))
    elif name in _COMMUNITIES:
        asked.settings[_COMMUNITIES[name]] = tuple(listed([value]))
        report.carried(place, f"{shown}: {_COMMUNITIES[name]}")
    elif name == "local-preference":
        preference = numbers.number([value])
        if preference is not None:
            asked.settings["local_preference"] = preference
        report.carried(place, "--local-preference: local_preference")
    elif name == "down-metric":
        report.different(place, "--down-metric: while the check fails the route is withdrawn")
    elif name == "withdraw-on-down":
        asked.withdraws = True
        report.carried(place, "--withdraw-on-down: always so")
    elif name == "command":
        asked.command = value
        report.carried(place, "--command: a command check that the VIP requires")
    elif name == "disable":
        asked.disable = value
        report.different(
            place,
            "--disable: a file check that the VIP requires: while the file is there the route is withdrawn",
        )
    elif name == "name":
        asked.name = value
        report.carried(place, "--name: the name of the VIP")
    elif name == "label":
        asked.label = True
        report.different(place, "--label: addresses are written, not looked for by a label")
    elif name == "deaggregate-networks":
        asked.deaggregate = True
        report.carried(place, "--deaggregate-networks: the addresses are written out")
    elif name == "neighbor":
        asked.neighbors += [] if value == "*" else [value]
        report.carried(place, "--neighbor: export of the neighbors")
    elif name == "next-hop":
        asked.next_hops += [address] if (address := numbers.address(value)) else []
        report.carried(place, "--next-hop: next_hop of bgp")
    elif name in ("execute", "up-execute", "down-execute", "disabled-execute"):
        if places_address(value):
            report.different(
                place, f"{shown}: the address is placed by the agent, and stays while the route is withdrawn"
            )
        else:
            report.impossible(
                place, f"{shown}: the program is not run; a hook gets the events of the VIP (docs/hooks.md)"
            )
    elif name in ("as-path", "up-as-path"):
        report.impossible(
            place, f"{shown}: write as_path_prepend, how often the own AS stands there once more"
        )
    elif name == "path-id":
        report.impossible(place, "--path-id: a route has none here")
    elif name == "ip-ifname":
        report.impossible(
            place, "--ip-ifname: VIPs are on the interface that `node.interface` names, by default lo"
        )
    elif name == "config":
        report.carried(place, "--config: its lines are imported too")
    else:
        report.different(place, f"{shown}: {_MEANS.get(name, 'nothing of the kind is needed here')}")


class _Ip(NamedTuple):
    """`prefix`: that is announced in the place of the address's host route; empty: none is."""

    address: str
    place: Place
    prefix: str = ""


def _announce(some: Sequence[_Ip]) -> Iterator[tuple[str, Value]]:
    prefixes = tuple(dict.fromkeys(one.prefix for one in some if one.prefix))
    if prefixes:
        yield "announce", prefixes if len(prefixes) > 1 else prefixes[0]


def _addresses(asked: _Asked, report: Report) -> list[_Ip]:
    """In the order in which they get their MED."""
    found: list[_Ip] = []
    for text, place in asked.ips:
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            report.impossible(place, "--ip: this is no address, and healthcheck would not start")
            continue
        if network.num_addresses == 1:
            report.carried(place, "--ip: an address of a VIP, which the node itself serves (local: true)")
            found.append(_Ip(str(network.network_address), place))
        elif asked.deaggregate and network.num_addresses <= _MOST_OF_NETWORK:
            found += [_Ip(str(address), place) for address in network]
            report.carried(place, "--ip: its addresses, each of which the node itself serves (local: true)")
        else:
            found.append(_Ip(address_in(network, "--ip", place, report), place, str(network)))
    start = asked.start % len(found) if found else 0
    return found[start:] + found[:start]


def _require(asked: _Asked, place: Place, report: Report) -> tuple[Value, ...]:
    found: list[Value] = []
    if asked.command:
        fast = min(max(asked.fast, 0.1), max(asked.interval, 0.01), 3600.0)
        found.append(
            check(
                "command",
                argv=line_of(asked.command),
                interval=None
                if asked.interval == 2
                else numbers.duration(min(max(asked.interval, 0.01), 3600.0)),
                fast_interval=None if fast == min(0.5, asked.interval) else numbers.duration(fast),
                timeout=None
                if asked.timeout == 1
                else numbers.duration(min(max(asked.timeout, 0.1), 3600.0)),
                rise=None if asked.rise == 2 else asked.rise,
                fall=None if asked.fall == 3 else asked.fall,
            )
        )
        report.different(
            place,
            "healthcheck: its command runs as the user of the agent, `anycast`, and not as that of ExaBGP",
        )
    else:
        found.append(check("command", argv="/bin/true"))
        report.to_write(
            place,
            "healthcheck without --command: it always announces, and so does this (/bin/true): write a check of the service",
        )
    if asked.disable.startswith("/"):
        found.append(check("file", path=asked.disable, present=False))
    elif asked.disable:
        report.impossible(place, "--disable: a path that does not begin at / is not looked at")
    return tuple(found)
