"""Files of ExaBGP to a setup: neighbors to `bgp`, healthcheck processes to VIPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from anycast.importers import names, numbers
from anycast.importers.exabgp import options
from anycast.importers.exabgp.healthcheck import Announced, announced
from anycast.importers.exabgp.language import Statement, listed, statements
from anycast.importers.exabgp.options import Option
from anycast.importers.model import Keys, Place, Setup, Value, Vip
from anycast.importers.report import Report, shown
from anycast.importers.source import Files, SourceError, comments_above

_BLOCKS = ("neighbor", "process", "group", "template")
_GENERAL = {
    "description": "a comment",
    "host-name": "the node's name is its host name, or node.name",
    "domain-name": "the node's name is its host name, or node.name",
    "group-updates": "how updates are packed is ExaBGP's matter",
    "auto-flush": "how updates are packed is ExaBGP's matter",
    "manual-eor": "not used",
    "adj-rib-out": "kept as it is needed",
    "adj-rib-in": "not kept: a full table that a router sends costs no memory",
    "rate-limit": "not used",
    "listen": "`bgp.listen_port`, if the routers open the sessions",
}
_NO_FAMILY = "only ipv4 unicast and ipv6 unicast are announced"


@dataclass(slots=True)
class _Neighbor:
    """`processes`: those that may announce to it; None: it says nothing of that."""

    address: str
    place: Place
    said: dict[str, Statement] = field(default_factory=dict)
    families: list[str] = field(default_factory=list)
    processes: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Process:
    name: str
    place: Place
    run: Statement | None


@dataclass(slots=True)
class _Files:
    """What is named on the command line: configurations, and files of options beside them."""

    files: Files
    report: Report
    others: dict[Path, list[str]] = field(default_factory=dict)
    used: set[Path] = field(default_factory=set)
    comments: dict[Place, str] = field(default_factory=dict)

    def lines(self, name: str, config: Path, place: Place) -> tuple[str, list[str]] | None:
        """Of the file that --config names: as it is named, beside the configuration, or one of those that were given."""
        base = Path(name).name
        for other, lines in self.others.items():
            if other.name == base:
                self.used.add(other)
                return str(other), lines
        for path in (Path(name), config.parent / name, config.parent / base):
            try:
                return str(path), self.files.lines(path)
            except SourceError:
                continue
        if len(self.others) == 1:
            other, lines = next(iter(self.others.items()))
            self.used.add(other)
            self.report.different(
                place, "--config: its file is not here; the one that was named beside it is taken"
            )
            return str(other), lines
        return None


def read(paths: Sequence[Path], report: Report, addresses: Sequence[str] = ()) -> Setup:
    """Raises SourceError."""
    found = _Files(Files(report), report)
    configs: list[tuple[Path, list[Statement]]] = []
    for path in paths:
        text = found.files.text(path)
        above = comments_above(text.split("\n"))
        found.comments |= {Place(str(path), number): said for number, said in above.items()}
        tree = statements(text, path, Report())
        if any(one.block is not None and one.word in _BLOCKS for one in tree):
            configs.append((path, statements(text, path, report)))
        else:
            found.others[path] = text.split("\n")
    if not configs:
        raise SourceError(
            Place(str(paths[0])),
            "there is no neighbor and no process in it",
            "name the file that ExaBGP reads",
        )
    neighbors: list[_Neighbor] = []
    made: list[tuple[str, Announced]] = []
    for path, tree in configs:
        mine, processes = _Reading(tree, report).read()
        neighbors += mine
        each = ((process.name, _announced(process, path, found, report, addresses)) for process in processes)
        made += [(name, one) for name, one in each if one is not None]
    for other in found.others:
        if other not in found.used:
            report.no_effect(Place(str(other)), "the file: no healthcheck names it with --config")
    vips = names.unique([vip for _, one in made for vip in one.vips])
    owners = [name for name, one in made for _ in one.vips]
    asked = [one.neighbors for _, one in made for _ in one.vips]
    hops = dict.fromkeys(hop for _, one in made for hop in one.next_hops)
    bgp = (
        _bgp(neighbors, list(zip(vips, owners, asked, strict=True)), list(hops), report)
        if neighbors
        else None
    )
    return Setup(vips=tuple(_merged(vips, report)), bgp=bgp)


def _merged(vips: Sequence[Vip], report: Report) -> list[Vip]:
    """An address belongs to one VIP."""
    seen: set[str] = set()
    found: list[Vip] = []
    for vip in vips:
        mine = tuple(address for address in vip.addresses if address not in seen)
        if len(mine) < len(vip.addresses):
            report.impossible(
                vip.place, "an address that another healthcheck announces too: the first one counts"
            )
        seen.update(mine)
        if mine:
            found.append(replace(vip, addresses=mine))
    return found


def _announced(
    process: _Process, path: Path, files: _Files, report: Report, addresses: Sequence[str]
) -> Announced | None:
    if process.run is None:
        report.impossible(process.place, "process: it has no run line")
        return None
    place = process.run.place
    words = options.arguments(process.run.text)
    if words is None:
        report.impossible(place, "run: this is not ExaBGP's healthcheck, so what it announces is not known")
        return None
    given = options.of_line(words, place)
    more: list[Option] = []
    for option in given:
        if option.name != "config":
            continue
        lines = files.lines(option.value, path, place)
        if lines is None:
            report.impossible(
                place,
                "--config: its file is not here, so its options are not known; name it behind the configuration",
            )
        else:
            more += options.of_file(lines[1], lines[0])
    # What stands on the command line counts, as it is read last.
    comment = files.comments.get(process.place, "")
    return announced(place, process.name, [*more, *given], report, addresses=addresses, comment=comment)


class _Reading:
    """One configuration."""

    def __init__(self, tree: list[Statement], report: Report) -> None:
        self._tree = tree
        self._report = report
        self._neighbors: list[_Neighbor] = []
        self._processes: list[_Process] = []
        self._templates: dict[str, list[Statement]] = {}

    def read(self) -> tuple[list[_Neighbor], list[_Process]]:
        for one in self._tree:
            if one.word == "template":
                self._report.carried(one.place, "template: what it says is said of its neighbors")
                for inner in one.block or []:
                    self._report.carried(inner.place, "template: what it says is said of its neighbors")
                    self._templates[inner.first] = inner.block or []
        for one in self._tree:
            match one.word:
                case "neighbor" if one.block is not None:
                    self._neighbor(one, [])
                case "group" if one.block is not None:
                    self._report.carried(one.place, "group: what it says is said of its neighbors")
                    shared = [inner for inner in one.block if inner.word != "neighbor"]
                    for inner in one.all("neighbor"):
                        self._neighbor(inner, shared)
                    for inner in one.all("process"):
                        self._process(inner)
                case "process" if one.block is not None:
                    self._process(one)
                case "template":
                    pass
                case _:
                    self._report.impossible(
                        one.place, f"{shown(one.word)}: not known in exabgp.conf, or not imported"
                    )
        return self._neighbors, self._processes

    def _process(self, statement: Statement) -> None:
        report = self._report
        run = next(statement.all("run"), None)
        report.carried(statement.place, "process: as far as it runs a healthcheck")
        for one in statement.block or []:
            if one.word != "run":
                report.different(one.place, "process: how it speaks with ExaBGP is not needed")
        name = statement.first or "process"
        for before in self._processes:
            if (
                before.name == name
                and before.run is not None
                and run is not None
                and before.run.text == run.text
            ):
                report.carried(run.place, "run: the same process as above, of another neighbor")
                return
        self._processes.append(_Process(name, statement.place, run))

    def _neighbor(self, statement: Statement, shared: Sequence[Statement]) -> None:
        report = self._report
        address = numbers.address(statement.first)
        if address is None:
            report.impossible(
                statement.place,
                "neighbor: this is no single address (a range of neighbors cannot be written)",
            )
            return
        neighbor = _Neighbor(address, statement.place)
        report.carried(statement.place, "neighbor: a neighbor of bgp")
        own = list(statement.block or [])
        inherited = [one for name in self._inherited(own) for one in self._templates.get(name, [])]
        for one in [*inherited, *shared, *own]:
            self._take(one, neighbor, of_neighbor=one in own)
        self._neighbors.append(neighbor)

    @staticmethod
    def _inherited(block: Sequence[Statement]) -> list[str]:
        return [name for one in block if one.word == "inherit" for name in listed(one.words[1:])]

    def _take(self, one: Statement, neighbor: _Neighbor, *, of_neighbor: bool) -> None:
        report = self._report
        match one.word:
            case "family":
                for inner in one.block or []:
                    family = " ".join(inner.words)
                    if family in ("ipv4 unicast", "ipv6 unicast"):
                        neighbor.families.append(family[:4])
                        report.carried(inner.place, "family: families")
                    else:
                        report.different(inner.place, f"family: {_NO_FAMILY}")
            case "api":
                for inner in one.block or []:
                    if inner.word == "processes":
                        neighbor.processes.update(listed(inner.words[1:]))
                        report.carried(inner.place, "api: which VIPs the neighbor gets (export)")
                    else:
                        for deeper in [inner, *(inner.block or [])]:
                            report.different(deeper.place, "api: what ExaBGP tells the process is not needed")
            case "process" if one.block is not None:
                neighbor.processes.add(one.first or "process")
                if of_neighbor:
                    self._process(one)
            case "capability":
                for inner in one.block or []:
                    if inner.word == "graceful-restart":
                        report.different(
                            inner.place,
                            "graceful-restart: not offered: a router that keeps the routes of a node that has died sends clients there",
                        )
                    else:
                        report.different(inner.place, "capability: what is needed is offered by itself")
            case "static" | "announce" | "route" | "flow" | "l2vpn":
                self._static(one)
            case "inherit":
                report.carried(one.place, "inherit: what the template says")
            case word if word in _GENERAL:
                report.different(one.place, f"{word}: {_GENERAL[word]}")
            case _:
                neighbor.said[one.word] = one

    def _static(self, one: Statement) -> None:
        for inner in [one, *(one.block or [])]:
            for deeper in [inner, *(inner.block or [])]:
                if "watchdog" in deeper.words:
                    text = (
                        "a static route with a watchdog: left out: what the watchdog has withdrawn comes back at each reload of ExaBGP; write a VIP "
                        "with the check behind it"
                    )
                    self._report.impossible(deeper.place, text)
                else:
                    self._report.impossible(
                        deeper.place,
                        "a static route: left out: only VIPs are announced; one of a VIP would come back at each reload of ExaBGP",
                    )


def _bgp(
    neighbors: Sequence[_Neighbor],
    vips: Sequence[tuple[Vip, str, tuple[str, ...]]],
    hops: Sequence[str],
    report: Report,
) -> Keys:
    """Of all neighbors. What all of them have in common stands once."""
    first = neighbors[0]
    local_as = _common(neighbors, "local-as", "local_as", report)
    router_id = _common(neighbors, "router-id", "router_id", report)
    hold_time = _common(neighbors, "hold-time", "hold_time", report)
    entries: list[tuple[str, Value]] = []
    if (number := _as(local_as)) is not None:
        entries.append(("local_as", number))
    else:
        entries.append(("local_as", 64496))
        report.to_write(
            first.place, "bgp: the own AS number: it is not written, or `auto`; there is a placeholder now"
        )
    own = next(
        (
            a
            for one in neighbors
            if (a := _value(one, "local-address")) and ":" not in a and numbers.address(a)
        ),
        None,
    )
    if router_id and numbers.address(router_id) and ":" not in router_id:
        entries.append(("router_id", router_id))
    elif own is not None:
        entries.append(("router_id", own))
    else:
        entries.append(("router_id", "198.51.100.1"))
        report.to_write(
            first.place,
            "bgp: the router id, an IPv4 number that no other node has; there is a placeholder now",
        )
    if hold_time is None:
        report.different(
            first.place,
            "hold-time: it is not written, and 180 s for ExaBGP; here 9 s: a dead node is out sooner",
        )
    elif (seconds := numbers.number([hold_time], 3, 65535)) is not None:
        if seconds != 9:
            entries.append(("hold_time", seconds))
    else:
        report.impossible(
            first.place,
            "hold-time: 3 s or more can be written (0 would keep the routes of a dead node for ever); 9 s it is",
        )
    if hops:
        by_family: dict[str, Value] = {}
        for hop in hops:
            by_family.setdefault("ipv6" if ":" in hop else "ipv4", hop)
        if len(by_family) < len(hops):
            report.impossible(
                first.place, "--next-hop: one for each address family can be written; the first is"
            )
        entries.append(("next_hop", Keys(tuple(by_family.items()))))
    six = any(":" in address for vip, _, _ in vips for address in vip.addresses)
    four = any(":" not in address for vip, _, _ in vips for address in vip.addresses)
    known = dict(entries)
    found = [
        _neighbor(one, known, vips, hops, carried=(four, six), report=report)
        for one in _apart(neighbors, report)
    ]
    if len(serving := [one for one in found if one.get("export") != ()]) < len(found):
        report.impossible(
            first.place, "neighbor: a router to which no VIP that is imported is announced is left out"
        )
    entries.append(("neighbors", tuple(serving)))
    return Keys(tuple(entries))


def _apart(neighbors: Sequence[_Neighbor], report: Report) -> list[_Neighbor]:
    found: dict[str, _Neighbor] = {}
    for one in neighbors:
        if found.setdefault(one.address, one) is not one:
            report.impossible(one.place, "neighbor: there is one of this address already")
    return list(found.values())


def _value(neighbor: _Neighbor, word: str) -> str | None:
    statement = neighbor.said.get(word)
    return None if statement is None or not statement.first else statement.first


def _common(neighbors: Sequence[_Neighbor], word: str, ours: str, report: Report) -> str | None:
    """The value of all neighbors: the first one's where they differ."""
    found: str | None = None
    for one in neighbors:
        value = _value(one, word)
        if value is None:
            continue
        place = one.said[word].place
        if found is None or found == value:
            found = found or value
            report.carried(place, f"{word}: {ours} of bgp")
        else:
            report.impossible(place, f"{word}: a node has one, and that of the first neighbor is written")
    return found


def _as(text: str | None) -> int | None:
    if text is None:
        return None
    number = numbers.number([text], 1, 2**32 - 1)
    if number is None and text.count(".") == 1:
        high, _, low = text.partition(".")
        parts = numbers.number([high], 0, 65535), numbers.number([low], 0, 65535)
        number = None if None in parts else (parts[0] or 0) * 65536 + (parts[1] or 0)
    return number or None


def _neighbor(
    neighbor: _Neighbor,
    bgp: dict[str, Value],
    vips: Sequence[tuple[Vip, str, tuple[str, ...]]],
    hops: Sequence[str],
    *,
    carried: tuple[bool, bool],
    report: Report,
) -> Keys:
    entries: list[tuple[str, Value]] = [("address", neighbor.address)]
    six = ":" in neighbor.address
    if (number := _as(_value(neighbor, "peer-as"))) is not None:
        entries.append(("remote_as", number))
        report.carried(neighbor.said["peer-as"].place, "peer-as: remote_as")
    else:
        entries.append(("remote_as", 64497))
        report.to_write(
            neighbor.place,
            "neighbor: the AS number of the router: it is not written, or `auto`; there is a placeholder now",
        )
    local = numbers.address(_value(neighbor, "local-address") or "")
    if local is not None and local != bgp.get("router_id"):
        entries.append(("local_address", local))
    elif local is None and six:
        entries.append(("local_address", "2001:db8:ffff::1"))
        report.to_write(
            neighbor.place,
            "neighbor: this node's address in the session, which IPv6 needs; there is a placeholder now",
        )
    if "local-address" in neighbor.said:
        report.carried(neighbor.said["local-address"].place, "local-address: local_address")
    other = "ipv4" if six else "ipv6"
    if other in neighbor.families and carried[0 if six else 1]:
        if any((":" in hop) != six for hop in hops):
            entries.append(("families", tuple(dict.fromkeys(neighbor.families))))
        else:
            report.impossible(
                neighbor.place,
                f"family: {other} over a session of the other family needs `bgp.next_hop`: write families and it",
            )
    for word, statement in neighbor.said.items():
        _more(word, statement, neighbor, entries, report)
    wanted = [
        vip.name
        for vip, owner, asked in vips
        if (owner in neighbor.processes or not neighbor.processes)
        and (not asked or neighbor.address in asked)
    ]
    if len(wanted) < len(vips):
        entries.append(("export", tuple(wanted)))
        report.carried(neighbor.place, "neighbor: export: the VIPs of the processes that are attached to it")
    return Keys(tuple(entries))


def _more(
    word: str, one: Statement, neighbor: _Neighbor, entries: list[tuple[str, Value]], report: Report
) -> None:
    place = one.place
    match word:
        case "peer-as" | "local-as" | "local-address" | "router-id" | "hold-time":
            return
        case "md5-password" | "md5":
            file = f"/etc/anycast/{neighbor.address.replace(':', '-')}.password"
            entries.append(("password_file", file))
            report.to_write(
                place,
                f"{word}: put the password into {file}, readable for root alone (chmod 600); it is not repeated here",
            )
        case "passive" if one.first != "false":
            entries.append(("passive", True))
            report.carried(place, "passive: passive")
        case "connect" | "peer-port" if port := numbers.port([one.first]):
            if port != 179:
                entries.append(("port", port))
            report.carried(place, f"{word}: port")
        case "outgoing-ttl" if hops := numbers.number([one.first], 1, 255):
            if hops > 1:
                entries.append(("multihop", hops))
            report.carried(place, "outgoing-ttl: multihop")
        case "ttl-security" | "incoming-ttl":
            report.impossible(place, f"{word}: write ttl_security in the place of multihop, at both ends")
        case _:
            report.impossible(place, f"{shown(word)}: not known in a neighbor, or not imported")
