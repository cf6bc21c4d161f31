"""What must fit together, and the core's `Config` out of it.

Runs on whatever validated. A complaint is made only where everything it rests on was whole: a consequence of
another mistake is not a mistake.
"""

from __future__ import annotations

import difflib
import importlib.util
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, TypeAlias

from anycast.config import schema
from anycast.config.problem import NeededPath, Path, Problem, dotted, shown
from anycast.core import kinds, model
from anycast.core.compose import leaves
from anycast.core.model import Address, Forwarding, Scheduler, SchedulerFlag

if TYPE_CHECKING:
    from anycast.config.validate import Source

_MH_TABLE = 4093  # slots of the kernel's Maglev table
_FLAGS = {
    Scheduler.MH: frozenset({SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK}),
    Scheduler.SH: frozenset({SchedulerFlag.SH_PORT, SchedulerFlag.SH_FALLBACK}),
}


_Part: TypeAlias = model.Check | model.Rule | kinds.BgpSession


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """A pool under construction. `whole`: no server was left out, so that counts mean something."""

    name: str
    path: Path
    servers: tuple[model.RealServer, ...]
    check: model.Check | model.Rule
    check_given: bool
    whole: bool
    places: tuple[Path, ...]  # of the servers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """A pool served on ports: a service as written."""

    path: Path
    serving: schema.Serving
    ports: tuple[tuple[Path, int], ...]
    pool: _Pool | None
    check: model.Check | model.Rule | None  # overrides the pool's


def build(
    file: schema.File, source: Source, hostname: str
) -> tuple[model.Config | None, dict[str, _Part], tuple[NeededPath, ...], list[Problem]]:
    """The configuration, its named checks and the paths they need, or None and the reasons.

    `hostname` is the default of `node.name`.
    """
    builder = _Builder(file, source)
    config = builder.config(hostname)
    return config, builder.named, tuple(builder.paths), builder.problems


class _Builder:
    def __init__(self, file: schema.File, source: Source) -> None:
        self._file = file
        self._source = source
        self.problems: list[Problem] = []
        self.paths: list[NeededPath] = []
        self._checks: dict[str, _Part | None] = {}
        self._resolving: list[str] = []  # names of the checks being looked up, the outermost first
        self._pools: dict[str, _Pool | None] = {}
        self._own_pools: list[_Pool] = []
        self._claimed: dict[object, Path] = {}

    def config(self, hostname: str) -> model.Config | None:
        self._names()
        node = self._node(hostname)
        bgp = self._bgp()
        for name in self._file.checks:
            self._named_check(name)
        require = self._require(("node",), self._file.node.require)
        for name, pool in self._file.pools.items():
            self._pools[name] = self._pool(("pools", name), name, pool)
        vips = [self._vip(name, vip) for name, vip in self._file.vips.items()]
        self._addresses()
        if bgp is None or node is None or self.problems or self._source.holes:
            return None
        timing = self._file.timing
        return model.Config(
            node=node,
            bgp=bgp,
            vips=tuple(vip for vip in vips if vip is not None),
            timing=model.Timing(
                lease_ttl=timing.lease_ttl,
                drain=timing.drain,
                settle=timing.settle,
                reconcile=timing.reconcile,
            ),
            ipvs_exclusive=self._file.ipvs == "exclusive",
            manage_sysctls=self._file.sysctls == "manage",
            require=require,
        )

    @property
    def named(self) -> dict[str, _Part]:
        return {name: part for name, part in self._checks.items() if part is not None}

    def _say(self, path: Path, what: str, do: str, *, key: bool = False) -> None:
        """Complain about a path of the remaining tree."""
        place = self._source.place(path)
        self.problems.append(Problem(self._source.mark(place, key=key), place, what, do))

    def _say_missing(self, path: Path, what: str, do: str) -> None:
        if self._whole(path):
            self._say(path, what, do)

    def _whole(self, *paths: Path) -> bool:
        """Nothing was left out at or below these paths, nor hidden by a merge key beside them."""
        for path in paths:
            place = self._source.place(path)
            if not self._source.intact(place) or (*place[:-1], "<<") in self._source.holes:
                return False
        return True

    def _whole_list(self, path: Path, *fields: str) -> bool:
        """No item was left out of this list, nor one of these fields out of an item."""
        place = self._source.place(path)
        length = len(place)
        for hole in self._source.holes:
            if hole == place[: len(hole)]:
                return False
            if hole[:length] == place and (len(hole) == length + 1 or hole[length + 1] in (*fields, "<<")):
                return False
        return True

    # The places where something can be referred to by name are looked up in what was written, not in what is
    # left: a pool that is wrong is not an unknown pool.
    def _written(self, section: str) -> list[str]:
        written = self._source.tree.get(section)
        return list(written) if isinstance(written, dict) else []

    def _unknown(self, path: Path, section: str, name: str) -> None:
        if not self._source.complete or not self._whole((section, name)):
            return
        known = [one for one in self._written(section) if schema.NAME.match(one)]
        if near := difflib.get_close_matches(name, known, n=1):
            do = f"did you mean {near[0]}?"
        else:
            do = f"add it under {section}" + (f", or use one of {', '.join(known[:8])}" if known else "")
        self._say(path, f"there is no {section[:-1]} named {shown(name)}", do)

    def _names(self) -> None:
        for section in ("checks", "pools", "vips"):
            for name in self._written(section):
                if not schema.NAME.match(name):
                    mark = self._source.mark((section, name), key=True)
                    what = f"{shown(name)} is not a name"
                    self.problems.append(Problem(mark, (section, name), what, f"use {schema.NAME_ADVICE}"))

    def _node(self, hostname: str) -> model.Node | None:
        node = self._file.node
        name = node.name or hostname.partition(".")[0]
        if not schema.NAME.match(name):
            self._say_missing(
                ("node", "name"),
                f"this machine's host name {shown(name)} cannot be the node's name",
                "write node.name",
            )
            return None
        return model.Node(
            name=name,
            interface=node.interface,
            runtime_dir=node.runtime_dir,
            state_dir=node.state_dir,
            exabgp_user=node.exabgp_user,
            listen=node.listen,
        )

    def _bgp(self) -> model.Bgp | None:
        bgp = self._file.bgp
        if bgp is None:
            self._say_missing(("bgp",), "the section is missing", "write local_as and neighbors in it")
            return None
        if bgp.local_as is None:
            self._say_missing(("bgp", "local_as"), "it is missing", "write this node's AS number")
        if not bgp.neighbors:
            self._say_missing(
                ("bgp", "neighbors"), "there is no neighbor", "write the routers to announce to"
            )
        router_id = self._router_id(bgp)
        neighbors = [
            neighbor
            for n, one in enumerate(bgp.neighbors or [])
            if (neighbor := self._neighbor(("bgp", "neighbors", n), one, bgp, router_id))
        ]
        if bgp.local_as is None or router_id is None:
            return None
        return model.Bgp(
            local_as=bgp.local_as,
            router_id=router_id,
            neighbors=tuple(neighbors),
            hold_time=bgp.hold_time,
            next_hop_v4=bgp.next_hop.ipv4,
            next_hop_v6=bgp.next_hop.ipv6,
        )

    def _router_id(self, bgp: schema.Bgp) -> IPv4Address | None:
        if bgp.router_id is not None:
            return bgp.router_id
        for neighbor in bgp.neighbors or []:
            if isinstance(neighbor.local_address, IPv4Address):
                return neighbor.local_address
        if self._whole_list(("bgp", "neighbors"), "local_address"):
            self._say_missing(
                ("bgp", "router_id"),
                "it is missing, and no neighbor has an IPv4 local_address to take it from",
                "write this node's own IPv4 address",
            )
        return None

    def _neighbor(
        self, path: Path, neighbor: schema.Neighbor, bgp: schema.Bgp, router_id: IPv4Address | None
    ) -> model.Neighbor | None:
        address, local = neighbor.address, neighbor.local_address
        if neighbor.remote_as is None:
            self._say_missing((*path, "remote_as"), "it is missing", "write the router's AS number")
        if address is None:
            self._say_missing((*path, "address"), "it is missing", "write the router's address")
            return None
        if address.is_link_local:
            self._say(
                (*path, "address"), f"{address} is link-local", "write an address that needs no interface"
            )
        if before := self._first(("neighbor", address), path):
            self._say((*path, "address"), f"{address} is at {before} already", "write each router once")
        if local is None:
            if address.version == 6:
                what = "it is missing, and with IPv6 there is no default"
                self._say_missing((*path, "local_address"), what, "write this node's address in the session")
            local = router_id if address.version == 4 else None
        elif local.version != address.version:
            what = f"{local} is not of the family of the neighbor's address {address}"
            self._say((*path, "local_address"), what, f"write an IPv{address.version} address of this node")
        if local == address:
            self._say((*path, "address"), f"{address} is this node's own address", "write the router's")
        self._families(path, neighbor, address, bgp)
        if neighbor.remote_as is None:
            return None
        return model.Neighbor(
            address=address,
            remote_as=neighbor.remote_as,
            local_address=local,
            families=frozenset(_carried(neighbor)),
            password=neighbor.password,
            passive=neighbor.passive,
        )

    def _families(self, path: Path, neighbor: schema.Neighbor, address: Address, bgp: schema.Bgp) -> None:
        if neighbor.families == []:
            do = "write ipv4, ipv6 or both, or remove the line"
            self._say_missing((*path, "families"), "no family is carried", do)
        for n, family in enumerate(neighbor.families or []):
            version = _VERSION[family]
            next_hop = bgp.next_hop.ipv4 if version == 4 else bgp.next_hop.ipv6
            if version != address.version and next_hop is None:
                if not self._whole(("bgp", "next_hop", str(family))):
                    continue
                what = f"a session over IPv{address.version} has no next hop for {family} routes"
                self._say(
                    (*path, "families", n), what, f"write bgp.next_hop.{family}, or a neighbor over {family}"
                )

    def _named_check(self, name: str) -> _Part | None:
        if name not in self._checks:
            self._resolving.append(name)
            self._checks[name] = self._part(("checks", name), self._file.checks[name])
            self._resolving.pop()
        return self._checks[name]

    def _part(self, path: Path, check: schema.Check) -> _Part | None:
        match check:
            case schema.BgpCheck():
                return self._session(path, check)
            case schema.AllCheck() | schema.AnyCheck():
                references = [(reference, 1) for reference in check.of or []]
                members = self._members(path, references)
                if members is None:
                    return None
                needed = len(members) if isinstance(check, schema.AllCheck) else 1
                return model.Rule(needed=needed, members=members)
            case schema.AtLeastCheck():
                return self._at_least(path, check)
            case _:
                return self._check(path, check)

    def _session(self, path: Path, check: schema.BgpCheck) -> kinds.BgpSession:
        known = self._file.bgp.neighbors or [] if self._file.bgp else []
        addresses = [neighbor.address for neighbor in known]
        listed = self._whole_list(("bgp", "neighbors"), "address") and self._whole(("bgp",))
        if check.neighbor is not None and check.neighbor not in addresses and listed:
            do = "write an address from bgp.neighbors, or remove the line"
            self._say((*path, "neighbor"), f"{check.neighbor} is no neighbor of this node", do)
        return kinds.BgpSession(check.neighbor)

    def _at_least(self, path: Path, check: schema.AtLeastCheck) -> model.Rule | None:
        references: list[tuple[schema.CheckReference, int]] = []
        for n, one in enumerate(check.of or []):
            if not isinstance(one, schema.Member):
                references.append((one, 1))
            elif one.check is not None:
                references.append((one.check, one.weight))
            else:
                self._say_missing((*path, "of", n, "check"), "it is missing", "write the name of a check")
        members = self._members(path, references)
        if check.needed is None:
            self._say_missing((*path, "needed"), "it is missing", "write the sum of weights that is needed")
        if members is None or check.needed is None:
            return None
        most = sum(member.weight for member in members)
        if check.needed > most and self._whole((*path, "of")):
            what = f"{check.needed} can never be, for all together come to {most}"
            self._say((*path, "needed"), what, f"write {most} or less")
        return model.Rule(needed=min(check.needed, most), members=members)

    def _members(
        self, path: Path, references: Sequence[tuple[schema.CheckReference, int]]
    ) -> tuple[model.Member, ...] | None:
        if not references:
            self._say_missing((*path, "of"), "there is no check in it", "write names of checks, or checks")
            return None
        members: list[model.Member] = []
        for n, (reference, weight) in enumerate(references):
            part = self._reference((*path, "of", n), reference)
            if part is not None:
                members.append(model.Member(name=_called(reference), part=part, weight=weight))
        return tuple(members) if len(members) == len(references) else None

    def _require(self, path: Path, references: Sequence[schema.CheckReference]) -> model.Rule | None:
        """All of these, each with an aim of its own: there is no real server to aim at."""
        members: list[model.Member] = []
        for n, reference in enumerate(references):
            place = (*path, "require", n)
            part = self._reference(place, reference)
            if part is None:
                continue
            members.append(model.Member(name=_called(reference), part=part))
            aimless = [one for one in _leaves(part) if isinstance(one, model.Check) and not _has_aim(one)]
            if aimless:
                kind = type(aimless[0].kind).__name__.removesuffix("Check").lower()
                what = f"a check of {kind} is aimed at a real server, and there is none here"
                self._say(place, what, "write address and port in the check")
        return model.Rule(needed=len(members), members=tuple(members)) if members else None

    def _check(self, path: Path, check: _Probed) -> model.Check | None:
        kind = self._kind(path, check)
        if kind is None:
            return None
        fast = check.fast_interval
        return model.Check(
            kind=kind,
            address=(check.address if isinstance(check, schema.Aimed | schema.IcmpCheck) else None),
            interval=check.interval,
            fast_interval=min(_DEFAULT_CHECK.fast_interval, check.interval) if fast is None else fast,
            timeout=check.timeout,
            rise=check.rise,
            fall=check.fall,
        )

    def _kind(self, path: Path, check: _Probed) -> model.CheckKind | None:
        match check:
            case schema.TcpCheck():
                return model.TcpCheck(port=check.port)
            case schema.HttpCheck():
                return self._http(path, check)
            case schema.UdpCheck():
                return self._udp(path, check)
            case schema.BannerCheck():
                return self._banner(path, check)
            case schema.SyslogCheck():
                return self._syslog(path, check)
            case schema.DnsCheck():
                return self._dns(path, check)
            case schema.GrpcCheck():
                return self._grpc(path, check)
            case schema.IcmpCheck():
                return kinds.IcmpCheck()
            case schema.RelpCheck():
                return kinds.RelpCheck(port=check.port, tls=self._tls((*path, "tls"), check.tls))
            case schema.CommandCheck():
                if not check.argv:
                    self._say_missing(
                        (*path, "argv"), "there is no program", "write [/path/of/program, argument]"
                    )
                    return None
                if not check.argv[0].startswith("/"):
                    if self._whole((*path, "argv")):
                        what = f"{shown(check.argv[0])} is not an absolute path"
                        self._say(
                            (*path, "argv", 0), what, "write where the program lies, as in /usr/bin/true"
                        )
                    return None
                self._need((*path, "argv", 0), check.argv[0], "program")
                return model.CommandCheck(argv=tuple(check.argv))
            case schema.CarrierCheck():
                if check.interface is None:
                    self._say_missing((*path, "interface"), "it is missing", "write the interface")
                    return None
                return kinds.CarrierCheck(interface=check.interface)
            case schema.GatewayCheck():
                return self._gateway(path, check)
            case schema.LoadCheck():
                if check.max is None:
                    self._say_missing((*path, "max"), "it is missing", "write the load that is fine")
                    return None
                return kinds.LoadCheck(most=check.max, minutes=check.minutes)
            case schema.MemoryCheck():
                if check.min_free is None:
                    self._say_missing((*path, "min_free"), "it is missing", "write it as in 256MiB")
                    return None
                if isinstance(check.min_free, schema.Percent):
                    return kinds.MemoryCheck(free_percent=check.min_free.value)
                return kinds.MemoryCheck(free=check.min_free)
            case schema.FileCheck():
                if check.path is None:
                    self._say_missing((*path, "path"), "it is missing", "write the path")
                    return None
                return kinds.FileCheck(path=check.path, present=check.present)
            case schema.IpvsConnectionsCheck():
                if check.max is None:
                    self._say_missing((*path, "max"), "it is missing", "write a number of connections")
                    return None
                if isinstance(check.max, schema.Percent):
                    return kinds.IpvsConnectionsCheck(most_percent=check.max.value)
                return kinds.IpvsConnectionsCheck(most=check.max)

    def _gateway(self, path: Path, check: schema.GatewayCheck) -> kinds.GatewayCheck:
        if check.by == "neighbor" and check.address is not None and check.interface is None:
            self._say_missing(
                (*path, "interface"),
                "it is missing, and by: neighbor needs it",
                "write the gateway's interface",
            )
        if check.interface is not None and (check.address is None or check.by == "ping"):
            what = "it is for an address with by: neighbor"
            self._say((*path, "interface"), what, "remove the line", key=True)
        return kinds.GatewayCheck(
            address=check.address,
            family=_VERSION[check.family],
            interface=check.interface,
            by_neighbor=check.by == "neighbor",
        )

    def _udp(self, path: Path, check: schema.UdpCheck) -> kinds.UdpCheck:
        if check.send is not None and check.send_hex is not None:
            self._say((*path, "send_hex"), "send is written too", "keep one of the two", key=True)
        if check.quiet is not None:
            if check.expect is not None or check.expect_hex is not None:
                what = "it is for checks that expect no reply"
                self._say((*path, "quiet"), what, "remove it: the timeout bounds the wait", key=True)
            elif check.quiet >= check.timeout and self._whole((*path, "timeout")):
                self._say((*path, "quiet"), "it is not shorter than the timeout", "write a shorter time")
        return kinds.UdpCheck(
            port=check.port,
            send=check.send or check.send_hex or b"",
            expect=check.expect,
            prefix=check.expect_hex or b"",
            quiet=min(_QUIET, check.timeout / 2) if check.quiet is None else check.quiet,
        )

    def _banner(self, path: Path, check: schema.BannerCheck) -> kinds.BannerCheck | None:
        if not check.steps:
            what = "there is no step"
            self._say_missing((*path, "steps"), what, 'write [{expect: "^220 "}], for example')
        steps: list[kinds.Expect | kinds.Send] = []
        for n, step in enumerate(check.steps or []):
            if (step.expect is None) == (step.send is None):
                place = (*path, "steps", n)
                if self._whole(place):
                    self._say(place, "a step is either expect or send", "write one of them in each step")
            elif step.expect is not None:
                steps.append(kinds.Expect(step.expect))
            elif step.send is not None:
                steps.append(kinds.Send(step.send if step.send.endswith(b"\n") else step.send + b"\r\n"))
        tls = self._tls((*path, "tls"), check.tls)
        return kinds.BannerCheck(steps=tuple(steps), port=check.port, tls=tls) if steps else None

    def _syslog(self, path: Path, check: schema.SyslogCheck) -> kinds.SyslogCheck | kinds.SyslogCanaryCheck:
        proofs = [name for name in ("proof_port", "proof_file") if getattr(check, name) is not None]
        if check.transport == "udp":
            if check.tls is not None:
                self._say(
                    (*path, "tls"), "UDP has no TLS", "write transport: tcp, or remove the line", key=True
                )
            if not proofs and self._whole((*path, "proof_port"), (*path, "proof_file")):
                what = "over UDP nothing tells that a message arrived"
                do = "write proof_port or proof_file, or use type: udp"
                self._say((*path, "transport"), what, do)
            if len(proofs) == 2:
                self._say((*path, "proof_file"), "proof_port is written too", "keep one of the two", key=True)
            return kinds.SyslogCanaryCheck(
                port=check.port, proof_port=check.proof_port, proof_file=check.proof_file
            )
        for name in proofs:
            if self._whole((*path, "transport")):
                what = "over TCP no message is sent"
                self._say((*path, name), what, "write transport: udp, or remove the line", key=True)
        return kinds.SyslogCheck(port=check.port, tls=self._tls((*path, "tls"), check.tls))

    def _dns(self, path: Path, check: schema.DnsCheck) -> kinds.DnsCheck | None:
        if check.name is None:
            self._say_missing((*path, "name"), "it is missing", "write the name to ask for")
            return None
        from dns.exception import DNSException
        from dns.name import root
        from dns.rdata import from_text

        answer: list[str] = []
        for n, text in enumerate(check.answer):
            try:
                record = from_text("IN", check.record, text, origin=root, relativize=False)
                answer.append(record.to_text())
            except (DNSException, ValueError) as error:
                if self._whole((*path, "record")):
                    what = f"{shown(text)} is not what a record of type {check.record} holds: {error}"
                    self._say((*path, "answer", n), what, "write it as a zone file does")
        if check.answer and check.rcode != "NOERROR":
            what = f"there are no answers with {check.rcode}"
            self._say((*path, "answer"), what, "remove one of the two lines", key=True)
        return kinds.DnsCheck(
            name=check.name,
            record=check.record,
            rcode=check.rcode,
            answer=tuple(answer),
            tcp=check.transport == "tcp",
            port=check.port,
        )

    def _grpc(self, path: Path, check: schema.GrpcCheck) -> kinds.GrpcCheck:
        if importlib.util.find_spec("h2") is None:
            what = "a grpc check needs h2, which is not installed"
            self._say((*path, "type"), what, "pip install 'anycast[grpc]'")
        tls = self._tls((*path, "tls"), check.tls)
        return kinds.GrpcCheck(service=check.service, authority=check.authority, port=check.port, tls=tls)

    def _tls(self, path: Path, tls: schema.Tls | None) -> kinds.Tls | None:
        if tls is None:
            return None
        self._key(path, tls)
        return kinds.Tls(
            verify=tls.verify,
            name=tls.sni,
            ca=tls.ca,
            certificate=tls.certificate,
            key=tls.key,
            expiry_warning=tls.expiry_warning,
        )

    def _http(self, path: Path, check: schema.HttpCheck) -> model.HttpCheck:
        if check.expect == []:
            self._say_missing((*path, "expect"), "no status is success", 'write one, as in [200] or ["2xx"]')
        for name in check.headers:
            if instead := _OWN_HEADERS.get(name.lower()):
                self._say((*path, "headers", name), "the check writes this header itself", instead, key=True)
        if check.body is not None and check.method == "HEAD":
            what = "the answer to HEAD has no body"
            self._say((*path, "body"), what, "write method: GET, or remove the line", key=True)
        kind = model.HttpCheck(
            tls=False,
            port=check.port,
            method=check.method,
            path=check.path,
            host=check.host,
            headers=tuple(check.headers.items()),
            expect=frozenset[int]().union(*check.expect) if check.expect else frozenset(range(200, 300)),
            body=check.body,
        )
        if not isinstance(check, schema.HttpsCheck):
            return kind
        self._key(path, check)
        return replace(
            kind,
            tls=True,
            verify=check.verify,
            sni=check.sni,
            ca=check.ca,
            certificate=check.certificate,
            key=check.key,
            expiry_warning=check.expiry_warning,
        )

    def _need(self, path: Path, name: str | None, use: str) -> None:
        if name is not None:
            place = self._source.place(path)
            self.paths.append(NeededPath(self._source.mark(place), place, name, use))

    def _key(self, path: Path, check: schema.HttpsCheck | schema.Tls) -> None:
        self._need((*path, "ca"), check.ca, "authority")
        self._need((*path, "certificate"), check.certificate, "certificate")
        self._need((*path, "key"), check.key, "key")
        if check.key is not None and check.certificate is None:
            self._say_missing(
                (*path, "certificate"),
                "it is missing, and there is a key",
                "write the certificate's file too",
            )
        if check.ca is not None and not check.verify:
            what = "nothing is verified with verify: false"
            self._say((*path, "ca"), what, "remove one of the two lines", key=True)

    def _reference(self, path: Path, check: str | schema.Check) -> _Part | None:
        if not isinstance(check, str):
            return self._part(path, check)
        if check not in self._written("checks"):
            self._unknown(path, "checks", check)
        if check in self._resolving:
            way = " -> ".join([*self._resolving[self._resolving.index(check) :], check])
            self._say(path, f"it contains itself: {way}", "take one of them out of the other")
            return None
        return self._named_check(check) if check in self._file.checks else None

    def _tree(self, path: Path, check: str | schema.Check) -> model.Check | model.Rule | None:
        """A check of a real server: one that is probed, or a rule."""
        part = self._reference(path, check)
        if isinstance(part, kinds.BgpSession):
            return model.Rule(needed=1, members=(model.Member(name=_called(check), part=part),))
        return part

    def _pool(self, path: Path, name: str, pool: schema.Pool | schema.Vip) -> _Pool:
        if not pool.servers:
            what = "there is no server"
            self._say_missing((*path, "servers"), what, "write the addresses of the real servers")
        check = self._tree((*path, "check"), pool.check) if pool.check is not None else None
        servers: list[model.RealServer] = []
        places: list[Path] = []
        for n, one in enumerate(pool.servers or []):
            place = (*path, "servers", n)
            if server := self._server(place, path, one):
                servers.append(server)
                places.append(place)
        return _Pool(
            name=name,
            path=path,
            servers=tuple(servers),
            check=check or _DEFAULT_CHECK,
            check_given=pool.check is not None or not self._whole((*path, "check")),
            whole=(
                self._whole_list((*path, "servers"), "address", "addresses")
                and len(servers) == len(pool.servers or []) > 0
            ),
            places=tuple(places),
        )

    def _server(self, path: Path, pool: Path, server: schema.Server) -> model.RealServer | None:
        addresses = self._own_addresses(path, server.address, server.addresses)
        families = Counter(address.version for _, address in addresses)
        for version, count in families.items():
            if count > 1:
                what = f"a server has {count} IPv{version} addresses"
                self._say(
                    (*path, "addresses"), what, "write one of each family; another one is another server"
                )
        for place, address in addresses:
            if before := self._first((pool, address), path):
                self._say(place, f"{address} is at {before} already", "write each real server once")
        if not addresses:
            return None
        name = server.name or str(addresses[0][1])
        if before := self._first((pool, name), path):
            place = (*path, "name") if server.name else path
            if server.name or name not in {str(address) for _, address in addresses}:
                self._say(
                    place,
                    f"{shown(name)} is the name of {before} already",
                    "give each server a name of its own",
                )
        return model.RealServer(
            name=name,
            addresses=tuple(address for _, address in addresses),
            weight=server.weight,
            port=server.port,
        )

    def _own_addresses(
        self, path: Path, address: Address | None, addresses: Sequence[Address] | None
    ) -> list[tuple[Path, Address]]:
        """The addresses of a server or VIP, which has `address` or `addresses`."""
        if address is not None and addresses is not None:
            self._say(
                (*path, "address"), "both address and addresses are written", "keep one of them", key=True
            )
        if address is not None:
            return [((*path, "address"), address)]
        if not addresses and self._whole((*path, "address"), (*path, "addresses")):
            self._say(path, "there is no address", "write address or addresses")
        return [((*path, "addresses", n), one) for n, one in enumerate(addresses or [])]

    def _vip(self, name: str, vip: schema.Vip) -> model.Vip | None:
        path: Path = ("vips", name)
        addresses = self._own_addresses(path, vip.address, vip.addresses)
        families = sorted({address.version for _, address in addresses})
        require = self._require(path, vip.require)
        services: list[model.Service] = []
        lacking: set[tuple[Path, str]] = set()
        for use in self._uses(path, name, vip):
            services += self._serve(use, path, families)
            if use.pool is None or not use.pool.whole:
                continue
            for place, address in addresses:
                if _count(use.pool, address.version) == 0 and (place, use.pool.name) not in lacking:
                    lacking.add((place, use.pool.name))
                    what = f"no server at {dotted(use.pool.path)} has an IPv{address.version} address to serve {address}"
                    self._say(place, what, "give the servers one, or remove this address")
        if not addresses or not services:
            return None
        return model.Vip(
            name=name,
            addresses=tuple(address for _, address in addresses),
            services=tuple(services),
            med=vip.med,
            communities=tuple(dict.fromkeys(vip.communities)),
            large_communities=tuple(dict.fromkeys(vip.large_communities)),
            require=require,
        )

    def _uses(self, path: Path, name: str, vip: schema.Vip) -> Iterator[_Use]:
        """What a VIP serves: its list of services, or the one it describes itself."""
        own = [field for field in type(vip).model_fields if field in vip.model_fields_set & vip.ONE_SERVICE]
        if vip.services is not None:
            for field in own:
                what = "this belongs to a service, and the VIP has a list of services"
                self._say((*path, field), what, "move it into the services", key=True)
            if not vip.services:
                self._say_missing(
                    (*path, "services"), "nothing is served", "write port and pool of a service"
                )
            for n, service in enumerate(vip.services):
                yield self._listed((*path, "services", n), service)
            return
        if not self._whole((*path, "services")):
            return
        if not own and all(self._whole((*path, field)) for field in vip.ONE_SERVICE):
            self._say(
                path, "nothing is served", "write port and servers, port and pool, or services", key=True
            )
            return
        yield self._described(path, name, vip)

    def _listed(self, path: Path, service: schema.Service) -> _Use:
        if service.port is None:
            self._say_missing((*path, "port"), "it is missing", "write the port that is served")
        if service.pool is None:
            self._say_missing((*path, "pool"), "it is missing", "write the name of a pool")
        return _Use(
            path=path,
            serving=service,
            ports=() if service.port is None else (((*path, "port"), service.port),),
            pool=self._named((*path, "pool"), service.pool),
            check=self._tree((*path, "check"), service.check) if service.check is not None else None,
        )

    def _described(self, path: Path, name: str, vip: schema.Vip) -> _Use:
        if vip.port is not None and vip.ports is not None:
            self._say((*path, "port"), "both port and ports are written", "keep one of them", key=True)
        if vip.port is None and not vip.ports and self._whole((*path, "ports")):
            self._say_missing((*path, "port"), "it is missing", "write the port that is served")
        ports: list[tuple[Path, int]] = [((*path, "port"), vip.port)] if vip.port is not None else []
        ports += [((*path, "ports", n), port) for n, port in enumerate(vip.ports or [])]
        if vip.servers is not None and vip.pool is not None:
            self._say((*path, "pool"), "both pool and servers are written", "keep one of them", key=True)
        if vip.servers is None and vip.pool is None and self._whole((*path, "pool")):
            self._say_missing((*path, "servers"), "it is missing", "write the real servers, or a pool")
        if vip.servers is not None and name in self._written("pools"):
            what = f"these servers make a pool named {name}, and pools has one of that name"
            self._say(
                (*path, "servers"), what, f"write pool: {name}, or name the other pool otherwise", key=True
            )
        if vip.servers is not None:
            pool = self._pool(path, name, vip)
            self._own_pools.append(pool)
            return _Use(path=path, serving=vip, ports=tuple(ports), pool=pool, check=None)
        return _Use(
            path=path,
            serving=vip,
            ports=tuple(ports),
            pool=self._named((*path, "pool"), vip.pool),
            check=self._tree((*path, "check"), vip.check) if vip.check is not None else None,
        )

    def _named(self, path: Path, name: str | None) -> _Pool | None:
        if name is None:
            return None
        if name not in self._written("pools"):
            self._unknown(path, "pools", name)
        return self._pools.get(name)

    def _serve(self, use: _Use, vip: Path, families: Sequence[int]) -> list[model.Service]:
        """The core's services of one use: one for each port."""
        serving, pool = use.serving, use.pool
        flags = self._flags(use)
        quorum = self._quorum(use, families)
        self._ports(use, vip)
        if pool is None:
            return []
        self._pool_fits(use, pool)
        require = self._require(use.path, serving.require) if isinstance(serving, schema.Service) else None
        core_pool = model.Pool(name=pool.name, servers=pool.servers, check=use.check or pool.check)
        return [
            model.Service(
                protocol=serving.protocol,
                port=port,
                pool=core_pool,
                scheduler=serving.scheduler,
                flags=flags,
                forwarding=serving.forwarding,
                quorum=quorum,
                require=require,
            )
            for _, port in use.ports
        ]

    def _flags(self, use: _Use) -> frozenset[SchedulerFlag]:
        scheduler, given = use.serving.scheduler, use.serving.flags
        if given is None:
            return _FLAGS[scheduler] if scheduler is Scheduler.MH else frozenset()
        if not self._whole((*use.path, "scheduler")):
            return frozenset()
        for n, flag in enumerate(given):
            if flag not in _FLAGS.get(scheduler, ()):
                what = f"{flag} is not a flag of the scheduler {scheduler}"
                self._say(
                    (*use.path, "flags", n), what, f"remove it, or write scheduler: {flag.partition('-')[0]}"
                )
        if scheduler is Scheduler.MH and SchedulerFlag.MH_FALLBACK not in given:
            what = "with mh and without mh-fallback, a drained server's share of new clients gets no server"
            self._say_missing((*use.path, "flags"), what, "add mh-fallback, or remove the line")
        return frozenset(given)

    def _quorum(self, use: _Use, families: Sequence[int]) -> model.Quorum:
        quorum, path = use.serving.quorum, (*use.path, "quorum")
        counts = [count for version in families if (count := _count(use.pool, version))] if use.pool else []
        size = min(counts, default=None)
        low = _resolve(quorum.low, size)
        high = low if quorum.high is None else _resolve(quorum.high, size)
        if not self._whole(path) or low is None or high is None:
            return model.Quorum()
        if low > high:
            what = f"low is {low} servers, more than the {high} of high"
            self._say((*path, "low"), what, "a VIP must not come up with fewer than keep it up: raise high")
        elif use.pool and use.pool.whole and size is not None and high > size:
            what = f"{high} usable servers can never be, for {dotted(use.pool.path)} has {size} of a family"
            self._say((*path, "low" if quorum.high is None else "high"), what, f"write {size} or less")
        return model.Quorum(low=low, high=high)

    def _ports(self, use: _Use, vip: Path) -> None:
        if not self._whole((*use.path, "protocol")):
            return
        protocol = use.serving.protocol
        for place, port in use.ports:
            if before := self._first((vip, protocol, port), place):
                self._say(
                    place, f"{protocol}/{port} is at {before} already", "write each service of a VIP once"
                )
        if protocol is not model.Protocol.UDP or use.serving.check is not None:
            return
        if use.pool and not use.pool.check_given and self._whole((*use.path, "check")):
            what = "UDP has no handshake to check, and no check is written"
            self._say(
                (*use.path, "protocol"),
                what,
                "write a check: udp, dns, syslog, tcp with a port, http, or a command",
            )

    def _pool_fits(self, use: _Use, pool: _Pool) -> None:
        for version in (4, 6):
            count = _count(pool, version)
            if (
                use.serving.scheduler is Scheduler.MH
                and count > _MH_TABLE
                and self._whole((*use.path, "scheduler"))
            ):
                what = f"{count} servers, and the kernel's mh table has {_MH_TABLE} slots"
                field = "servers" if pool.path == use.path else "pool"
                self._say((*use.path, field), what, "use fewer servers, or another scheduler")
        if use.serving.forwarding is Forwarding.NAT or not self._whole((*use.path, "forwarding")):
            return
        for place, server in zip(pool.places, pool.servers, strict=True):
            for _, port in use.ports:
                if server.port not in (None, port):
                    what = (
                        f"{server.name} listens on {server.port}, and {dotted(use.path)} serves {port} "
                        f"with forwarding: {use.serving.forwarding}, which cannot change a port"
                    )
                    self._say((*place, "port"), what, "remove the port, or write forwarding: nat")

    def _addresses(self) -> None:
        """What concerns the VIPs' addresses against everything else's."""
        bgp = self._file.bgp
        neighbors = bgp.neighbors or [] if bgp else []
        taken: dict[Address, str] = {}
        for neighbor in neighbors:
            if neighbor.local_address:
                taken[neighbor.local_address] = "this node's own address in a BGP session"
            if neighbor.address:
                taken[neighbor.address] = "a neighbor's address"
        for pool in [*self._pools.values(), *self._own_pools]:
            for server in pool.servers if pool else ():
                taken.update(dict.fromkeys(server.addresses, f"the address of the real server {server.name}"))
        carried = {version for neighbor in neighbors for version in _carried(neighbor)}
        known = self._whole_list(("bgp", "neighbors"), "address", "families") and all(
            one.address for one in neighbors
        )
        for name, vip in self._file.vips.items():
            path: Path = ("vips", name)
            if vip.address is not None:
                found: list[tuple[Path, Address]] = [((*path, "address"), vip.address)]
            else:
                found = [((*path, "addresses", n), one) for n, one in enumerate(vip.addresses or [])]
            for place, address in found:
                if kind := _unroutable(address):
                    self._say(
                        place, f"{address} is {kind}, which no router carries", "write a routable address"
                    )
                if before := self._first(("vip", address), place):
                    self._say(place, f"{address} is at {before} already", "an address belongs to one VIP")
                if address in taken:
                    self._say(place, f"{address} is {taken[address]}", "a VIP needs an address of its own")
                if neighbors and known and address.version not in carried:
                    what = f"no neighbor carries IPv{address.version} routes"
                    self._say(place, what, "add a neighbor, or to its families with bgp.next_hop")

    def _first(self, key: object, path: Path) -> str | None:
        """None for the first that claims `key`; for others, where the first one stands."""
        first = self._claimed.setdefault(key, path)
        return None if first == path else dotted(self._source.place(first))


_QUIET = 0.2  # seconds
_OWN_HEADERS = {
    "connection": "remove it: the check always asks to close",
    "content-length": "remove it",
    "expect": "remove it: the check sends no body",
    "host": "write host: beside headers",
    "transfer-encoding": "remove it",
    "upgrade": "remove it",
}
_DEFAULT_CHECK = model.Check(kind=model.TcpCheck())
_VERSION = {schema.Family.IPV4: 4, schema.Family.IPV6: 6}


_Probed: TypeAlias = (
    schema.TcpCheck
    | schema.HttpCheck
    | schema.UdpCheck
    | schema.BannerCheck
    | schema.SyslogCheck
    | schema.RelpCheck
    | schema.DnsCheck
    | schema.GrpcCheck
    | schema.IcmpCheck
    | schema.CommandCheck
    | schema.CarrierCheck
    | schema.GatewayCheck
    | schema.LoadCheck
    | schema.MemoryCheck
    | schema.FileCheck
    | schema.IpvsConnectionsCheck
)


def _called(reference: str | schema.Check) -> str:
    return reference if isinstance(reference, str) else reference.type


def _leaves(part: _Part) -> Iterator[model.Check | kinds.BgpSession]:
    return iter((part,)) if isinstance(part, kinds.BgpSession) else leaves(part)


def _has_aim(check: model.Check) -> bool:
    """Whether the check knows by itself what it looks at."""
    kind = check.kind
    if isinstance(kind, kinds.NodeKind | model.CommandCheck):
        return True
    if isinstance(kind, kinds.IcmpCheck):
        return check.address is not None
    return check.address is not None and kind.port is not None


def _carried(neighbor: schema.Neighbor) -> set[int]:
    """4, 6: families of the routes a session carries."""
    if neighbor.families:
        return {_VERSION[family] for family in neighbor.families}
    return {neighbor.address.version} if neighbor.address else set()


def _count(pool: _Pool, version: int) -> int:
    return sum(any(address.version == version for address in server.addresses) for server in pool.servers)


def _resolve(number: int | schema.Percent, size: int | None) -> int | None:
    """A quorum's number as servers of a family of `size`; None if that is not known."""
    if isinstance(number, int):
        return number
    return None if size is None else max(1, -(-size * number.value // 100))


def _unroutable(address: Address) -> str | None:
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if isinstance(address, IPv4Address) and (address.is_reserved or address.packed[0] == 0):
        return "a reserved address"
    return None
