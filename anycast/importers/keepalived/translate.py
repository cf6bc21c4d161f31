"""Statements of keepalived.conf for one node to what they mean."""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from anycast.importers import names, numbers
from anycast.importers.keepalived import vrrp
from anycast.importers.keepalived.language import Statement
from anycast.importers.keepalived.service import Services
from anycast.importers.keepalived.written import Reading, Virtual
from anycast.importers.model import Keys, Place, Service, Setup, Value, Vip, keys
from anycast.importers.report import Report, shown
from anycast.importers.vips import Served, by_address, of_version

_DAY = 86400

_End: TypeAlias = tuple[str, int, int]
"""Address, port, mark."""


class Translation:
    """One node's."""

    def __init__(self, statements: Sequence[Statement], report: Report, addresses: Sequence[str]) -> None:
        self._statements = statements
        self._addresses = addresses
        self._report = report
        self._reading = Reading(report)
        self._services = Services(report)

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
                found = list(self._virtual_server(statement, groups))
                served += found
                if not found:
                    self._report.left_out(statement.places, "left out with its virtual_server")
        used = {
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
        virtual = self._reading.virtual(statement)
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

    def _of_group(self, virtual: Virtual, group: Statement) -> Iterator[Served]:
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
        self, virtual: Virtual, ends: Iterable[tuple[_End, Place]], name: str, group: str
    ) -> Iterator[Served]:
        made: dict[tuple[int, int, int], Service | None] = {}
        # Marks last: they have no protocol, and a line that says one is carried over if there are ports.
        for (address, port, mark), place in sorted(ends, key=lambda one: one[0][2] != 0):
            version = ipaddress.ip_address(address).version if address else 0
            key = port, mark, version
            if key not in made:
                made[key] = self._services.of(virtual, port, mark, version)
            if (service := made[key]) is not None:
                yield Served(
                    address=address,
                    service=service,
                    place=place,
                    name=name,
                    group=group,
                    comment=virtual.comment,
                )

    def _with_addresses(self, served: list[Served], held: Mapping[str, vrrp.Held]) -> list[Served]:
        """Marks get the address that they need here to be announced; those of a group with addresses have its own."""
        known = {one.address for one in served if one.address}
        named = self._addressed(served, held, known)
        staying = {line for one in named for line in one.service.lines}
        gone = {line for one in served for line in one.service.lines} - staying
        if gone:
            self._report.left_out(gone, "left out with its virtual_server")
        return named

    def _addressed(
        self, served: list[Served], held: Mapping[str, vrrp.Held], known: set[str]
    ) -> list[Served]:
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
