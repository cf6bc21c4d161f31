"""What must fit together, and the core's `Config` out of it.

Runs on whatever validated. A complaint is made only where everything it rests on was whole: a consequence of
another mistake is not a mistake.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, TypeAlias

from anycast.config import schema
from anycast.config.problem import NeededPath, Path, Problem, dotted, shown
from anycast.config.warn import Served, warnings
from anycast.core import kinds, model
from anycast.core.compose import leaves
from anycast.core.ipvs import MAGLEV_SLOTS
from anycast.core.members import server_address
from anycast.core.model import (
    Address,
    Forwarding,
    Protocol,
    Scheduler,
    SchedulerFlag,
    TunnelChecksum,
    TunnelType,
)

if TYPE_CHECKING:
    from anycast.config.validate import Source

_FLAGS = {
    Scheduler.MH: frozenset({SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK}),
    Scheduler.SH: frozenset({SchedulerFlag.SH_PORT, SchedulerFlag.SH_FALLBACK}),
}


_Tree: TypeAlias = model.Check | model.Rule[model.Leaf]
"""Of a real server: a session alone is a rule there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a file comes to: the configuration, or None and why. `warnings`: what is allowed and rarely meant.

    `checks`: those with a name, used or not. `paths`: files that checks need on the node.
    """

    config: model.Config | None
    problems: list[Problem]
    warnings: list[Problem] = field(default_factory=list)
    checks: Mapping[str, model.Tree] = field(default_factory=dict)
    paths: tuple[NeededPath, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pool:
    """A pool under construction. `whole`: no server was left out, so that counts mean something."""

    name: str
    path: Path
    servers: tuple[model.RealServer, ...]
    check: _Tree | None  # None: what is written is wrong
    check_given: bool
    whole: bool
    places: tuple[Path, ...]  # of the servers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """A pool served on ports or for a mark: a service as written."""

    path: Path
    serving: schema.Serving
    ports: tuple[tuple[Path, int], ...]  # none with a mark
    pool: _Pool | None
    check: _Tree | None  # overrides the pool's


def build(file: schema.File, source: Source, hostname: str) -> Built:
    """`hostname` is the default of `node.name`."""
    builder = _Builder(file, source)
    config = builder.config(hostname)
    problems = builder.problems
    if config is None:
        return Built(config=None, problems=problems)
    told = warnings(builder.served, config.timeouts or model.Timeouts())
    return Built(
        config=config,
        problems=problems,
        warnings=[Problem(source.mark(place), place, what, do) for place, what, do in told],
        checks=builder.named,
        paths=tuple(builder.paths),
    )


class _Builder:
    def __init__(self, file: schema.File, source: Source) -> None:
        self._file = file
        self._source = source
        self.problems: list[Problem] = []
        self.paths: list[NeededPath] = []
        self._checks: dict[str, model.Tree | None] = {}
        self._resolving: list[str] = []  # names of the checks being looked up, the outermost first
        self._pools: dict[str, _Pool | None] = {}
        self._own_pools: list[_Pool] = []
        self._claimed: dict[object, Path] = {}
        self._said: set[object] = set()
        self.served: list[Served] = []

    def config(self, hostname: str) -> model.Config | None:
        self._names()
        node = self._node(hostname)
        bgp = self._bgp()
        sync = self._sync()
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
                server_drain=timing.server_drain,
            ),
            ipvs_exclusive=self._file.ipvs == "exclusive",
            manage_sysctls=self._file.sysctls == "manage",
            timeouts=self._timeouts(),
            connection_sync=sync,
            require=require,
        )

    def _timeouts(self) -> model.Timeouts | None:
        timeouts = self._file.timeouts
        if timeouts is None:
            return None
        return model.Timeouts(tcp=timeouts.tcp, tcp_fin=timeouts.tcp_fin, udp=timeouts.udp)

    def _sync(self) -> model.ConnectionSync | None:
        sync = self._file.connection_sync
        if sync is None:
            return None
        if sync.interface is None:
            self._say_missing(
                ("connection_sync", "interface"), "it is missing", "write the interface between the balancers"
            )
            return None
        return model.ConnectionSync(
            interface=sync.interface, id=sync.id, group=sync.group, port=sync.port, ttl=sync.ttl
        )

    @property
    def named(self) -> dict[str, model.Tree]:
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
            bfd=_bfd(neighbor.bfd, bgp.bfd),
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

    def _named_check(self, name: str) -> model.Tree | None:
        if name not in self._checks:
            self._resolving.append(name)
            self._checks[name] = self._part(("checks", name), self._file.checks[name])
            self._resolving.pop()
        return self._checks[name]

    def _part(self, path: Path, check: schema.Check) -> model.Tree | None:
        match check:
            case schema.BgpCheck():
                return self._session(path, check)
            case schema.AllCheck() | schema.AnyCheck():
                references = [(reference, 1) for reference in check.of or []]
                parts = self._parts(path, references)
                if parts is None:
                    return None
                needed = len(parts) if isinstance(check, schema.AllCheck) else 1
                return model.Rule(needed=needed, parts=parts)
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

    def _at_least(self, path: Path, check: schema.AtLeastCheck) -> model.Rule[model.Leaf] | None:
        references: list[tuple[schema.CheckReference, int]] = []
        for n, one in enumerate(check.of or []):
            if not isinstance(one, schema.Member):
                references.append((one, 1))
            elif one.check is not None:
                references.append((one.check, one.weight))
            else:
                self._say_missing((*path, "of", n, "check"), "it is missing", "write the name of a check")
        parts = self._parts(path, references)
        if check.needed is None:
            self._say_missing((*path, "needed"), "it is missing", "write the sum of weights that is needed")
        if parts is None or check.needed is None:
            return None
        most = sum(part.weight for part in parts)
        if check.needed > most and self._whole((*path, "of")):
            what = f"{check.needed} can never be, for all together come to {most}"
            self._say((*path, "needed"), what, f"write {most} or less")
        return model.Rule(needed=min(check.needed, most), parts=parts)

    def _parts(
        self, path: Path, references: Sequence[tuple[schema.CheckReference, int]]
    ) -> tuple[model.Part[model.Leaf], ...] | None:
        if not references:
            self._say_missing((*path, "of"), "there is no check in it", "write names of checks, or checks")
            return None
        parts: list[model.Part[model.Leaf]] = []
        for n, (reference, weight) in enumerate(references):
            part = self._reference((*path, "of", n), reference)
            if part is not None:
                parts.append(model.Part(name=_called(reference), check=part, weight=weight))
        return tuple(parts) if len(parts) == len(references) else None

    def _require(
        self, path: Path, references: Sequence[schema.CheckReference]
    ) -> model.Rule[model.Leaf] | None:
        """All of these, each with an aim of its own: there is no real server to aim at."""
        parts: list[model.Part[model.Leaf]] = []
        for n, reference in enumerate(references):
            place = (*path, "require", n)
            part = self._reference(place, reference)
            if part is None:
                continue
            parts.append(model.Part(name=_called(reference), check=part))
            aimless = [one for one in _leaves(part) if isinstance(one, model.Check) and not _has_aim(one)]
            if aimless:
                kind = type(aimless[0].kind).__name__.removesuffix("Check").lower()
                what = f"a check of {kind} is aimed at a real server, and there is none here"
                self._say(place, what, "write address and port in the check")
        return model.Rule(needed=len(parts), parts=tuple(parts)) if parts else None

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

    def _reference(self, path: Path, check: str | schema.Check) -> model.Tree | None:
        if not isinstance(check, str):
            found = self._part(path, check)
            return found if self._whole(path) else None
        if check not in self._written("checks"):
            self._unknown(path, "checks", check)
        if check in self._resolving:
            way = " -> ".join([*self._resolving[self._resolving.index(check) :], check])
            self._say(path, f"it contains itself: {way}", "take one of them out of the other")
            return None
        if check not in self._file.checks or not self._whole(("checks", check)):
            return None
        return self._named_check(check)

    def _tree(self, path: Path, check: str | schema.Check) -> _Tree | None:
        """A check of a real server: one that is probed, or a rule."""
        part = self._reference(path, check)
        if isinstance(part, kinds.BgpSession):
            return model.Rule(needed=1, parts=(model.Part(name=_called(check), check=part),))
        return part

    def _pool(self, path: Path, name: str, pool: schema.Pool | schema.Vip) -> _Pool:
        if not pool.servers:
            what = "there is no server"
            self._say_missing((*path, "servers"), what, "write the addresses of the real servers")
        check: _Tree | None = _DEFAULT_CHECK
        if pool.check is not None:
            check = self._tree((*path, "check"), pool.check)
        elif not self._whole((*path, "check")):
            check = None
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
            check=check,
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
            if before := self._first((pool, address, server.port), path):
                self._say(place, f"{address} is at {before} already", "write each real server once")
        self._thresholds(path, server)
        if not addresses:
            return None
        name = server.name or str(addresses[0][1])
        # An address that is there twice makes a default name that is there twice: said already.
        said = server.name is None and self._first((pool, addresses[0][1], server.port), path) is not None
        if (before := self._first((pool, name), path)) and not said:
            self._say(
                (*path, "name") if server.name else path,
                f"{shown(name)} is the name of {before} already",
                "give each server a name of its own",
            )
        return model.RealServer(
            name=name,
            addresses=tuple(address for _, address in addresses),
            weight=server.weight,
            upper=server.upper_threshold,
            lower=server.lower_threshold,
            port=server.port,
        )

    def _thresholds(self, path: Path, server: schema.Server) -> None:
        upper, lower, place = server.upper_threshold, server.lower_threshold, (*path, "lower_threshold")
        if lower <= upper or not self._whole((*path, "upper_threshold")):
            return
        if upper:
            self._say(place, f"{lower} is more than the upper_threshold {upper}", f"write {upper} or less")
        else:
            what = "it has no meaning without an upper_threshold"
            self._say(place, what, "write upper_threshold too, or remove this")

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
        families = tuple(sorted({address.version for _, address in addresses}))
        require = self._require(path, vip.require)
        services: list[model.Service] = []
        lacking: set[tuple[Path, str]] = set()
        for use in self._uses(path, name, vip):
            services += self._serve(use, path, families)
            if use.pool is None or not use.pool.whole or not self._whole((*use.path, "forwarding")):
                continue
            for place, address in addresses:
                count = _count(use.pool, address.version, use.serving.forwarding)
                if count == 0 and (place, use.pool.name) not in lacking:
                    lacking.add((place, use.pool.name))
                    what = f"no server at {dotted(use.pool.path)} has an IPv{address.version} address to serve {address}"
                    self._say(place, what, "give the servers one, or remove this address")
            self._mixed(use, addresses)
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

    def _mixed(self, use: _Use, addresses: Sequence[tuple[Path, Address]]) -> None:
        """Real servers of the other family exclude connection sync."""
        pool = use.pool
        if (
            pool is None
            or self._file.connection_sync is None
            or use.serving.forwarding is not Forwarding.TUNNEL
        ):
            return
        do = "or remove connection_sync"
        for place, address in addresses:
            version = address.version
            others = [
                at
                for at, server in zip(pool.places, pool.servers, strict=True)
                if all(one.version != version for one in server.addresses)
            ]
            why = f"the kernel refuses real servers of another family than {address} with connection_sync"
            if others and len(others) == len(pool.servers):
                if self._once("mixed", pool.path, place):
                    what = f"no server at {dotted(pool.path)} has an IPv{version} address, and {why}"
                    self._say(place, what, f"give the servers one, {do}")
                continue
            for at in others:
                if self._whole((*at, "addresses")) and self._once("mixed", at, version):
                    self._say(at, f"it has no IPv{version} address, and {why}", f"give it one, {do}")

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
        if service.mark is not None:
            self._excluded(path, service, "port")
        elif service.port is None and self._whole((*path, "mark")):
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
        if vip.mark is not None:
            self._excluded(path, vip, "port", "ports")
        elif vip.port is not None and vip.ports is not None:
            self._say((*path, "port"), "both port and ports are written", "keep one of them", key=True)
        elif vip.port is None and not vip.ports and self._whole((*path, "ports"), (*path, "mark")):
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
            return _Use(path=path, serving=vip, ports=tuple(ports), pool=pool, check=pool.check)
        return _Use(
            path=path,
            serving=vip,
            ports=tuple(ports),
            pool=self._named((*path, "pool"), vip.pool),
            check=self._tree((*path, "check"), vip.check) if vip.check is not None else None,
        )

    def _excluded(self, path: Path, serving: schema.Serving, *fields: str) -> None:
        """What says which packets are served, where a firewall mark says it."""
        for name in (*fields, "protocol"):
            if name in serving.model_fields_set:
                what = "a firewall mark is served, whatever the protocol and port of the packets"
                self._say((*path, name), what, "remove this line, or mark", key=True)

    def _named(self, path: Path, name: str | None) -> _Pool | None:
        if name is None:
            return None
        if name not in self._written("pools"):
            self._unknown(path, "pools", name)
        return self._pools.get(name)

    def _serve(self, use: _Use, vip: Path, families: tuple[int, ...]) -> list[model.Service]:
        """The core's services of one use: one for each port."""
        serving, pool = use.serving, use.pool
        flags = self._flags(use)
        quorum = self._quorum(use, families)
        tunnel = self._tunnel(use)
        one_packet = self._one_packet(use)
        self._ports(use, vip)
        self._mark(use, families)
        if pool is None:
            return []
        self._pool_fits(use, pool, families)
        require = self._require(use.path, serving.require) if isinstance(serving, schema.Service) else None
        core_pool = model.Pool(
            name=pool.name, servers=pool.servers, check=use.check or pool.check or _DEFAULT_CHECK
        )
        services = [
            model.Service(
                protocol=Protocol.TCP if serving.mark else serving.protocol,
                port=port,
                mark=serving.mark or 0,
                pool=core_pool,
                scheduler=serving.scheduler,
                flags=flags,
                forwarding=serving.forwarding,
                tunnel=tunnel,
                one_packet=one_packet,
                persistence=_persistence(serving.persistence),
                expire_failed=_expiry(serving),
                quorum=quorum,
                require=require,
            )
            for port in ([0] if serving.mark else [port for _, port in use.ports])
        ]
        self.served += [
            Served(
                place=self._source.place(use.path),
                pool=self._source.place(pool.path),
                servers=tuple(self._source.place(place) for place in pool.places),
                service=service,
                versions=families,
            )
            for service in services
        ]
        return services

    def _tunnel(self, use: _Use) -> model.Tunnel:
        tunnel, path = use.serving.tunnel, (*use.path, "tunnel")
        if tunnel is None:
            return model.Tunnel()
        if use.serving.forwarding is not Forwarding.TUNNEL and self._whole((*use.path, "forwarding")):
            what = f"nothing is tunnelled with forwarding: {use.serving.forwarding}"
            self._say(path, what, "write forwarding: tunnel, or remove this", key=True)
        if self._whole((*path, "type")):
            self._tunnel_fits(path, tunnel)
        return model.Tunnel(type=tunnel.type, port=tunnel.port or 0, checksum=tunnel.checksum)

    def _tunnel_fits(self, path: Path, tunnel: schema.Tunnel) -> None:
        kind, checksum = tunnel.type, tunnel.checksum
        if kind is TunnelType.GUE and tunnel.port is None and self._whole((*path, "port")):
            what = "gue needs the UDP port the real servers receive it at"
            self._say(path, what, "write {type: gue, port: 6080}, with their port")
        if kind is not TunnelType.GUE and tunnel.port is not None:
            self._say((*path, "port"), f"{kind} has no port", "remove it, or write type: gue")
        if kind is TunnelType.IPIP and checksum is not TunnelChecksum.NONE:
            what = "ipip has no checksum"
            self._say((*path, "checksum"), what, "remove it, or write type: gue or gre")
        if kind is TunnelType.GRE and checksum is TunnelChecksum.REMOTE:
            what = "gre has no remote checksum offload"
            self._say((*path, "checksum"), what, "write csum or nocsum, or type: gue")

    def _one_packet(self, use: _Use) -> bool:
        serving, path = use.serving, (*use.path, "one_packet")
        if serving.one_packet is None:
            udp = serving.mark is None and serving.protocol is Protocol.UDP
            return udp and serving.persistence is None and serving.forwarding is not Forwarding.NAT
        if not serving.one_packet:
            return False
        if (
            serving.mark is None
            and serving.protocol is not Protocol.UDP
            and self._whole((*use.path, "protocol"), (*use.path, "mark"))
        ):
            self._say(path, f"a packet of {serving.protocol} cannot be served by itself", "remove this")
        if serving.persistence is not None:
            what = "where each packet is served by itself no client is remembered, and persistence is written"
            self._say(path, what, "remove one of them")
        if serving.forwarding is Forwarding.NAT:
            what = "with forwarding: nat the answers could not be translated back"
            self._say(path, what, "remove this, or write forwarding: dr or tunnel")
        return True

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

    def _quorum(self, use: _Use, families: tuple[int, ...]) -> model.Quorum:
        quorum, path = use.serving.quorum, (*use.path, "quorum")
        size: int | None = None
        if use.pool and self._whole((*use.path, "forwarding")):
            forwarding = use.serving.forwarding
            counts = [_count(use.pool, version, forwarding) for version in families]
            size = min(filter(None, counts), default=None)
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
        if use.serving.mark is not None or not self._whole((*use.path, "protocol")):
            return
        protocol = use.serving.protocol
        for place, port in use.ports:
            if before := self._first((vip, protocol, port), place):
                self._say(
                    place, f"{protocol}/{port} is at {before} already", "write each service of a VIP once"
                )
        if protocol is Protocol.TCP or use.serving.check is not None:
            return
        if use.pool and not use.pool.check_given and self._whole((*use.path, "check"), (*use.path, "mark")):
            what, do = {
                Protocol.UDP: (
                    "UDP has no handshake to check, and no check is written",
                    "write a check: udp, dns, syslog, tcp with a port, http, or a command",
                ),
                Protocol.SCTP: (
                    "the default check, a TCP handshake, proves nothing of SCTP",
                    "write a check: icmp, tcp with a port, http, or a command",
                ),
            }[protocol]
            self._say((*use.path, "protocol"), what, do)

    def _mark(self, use: _Use, families: tuple[int, ...]) -> None:
        mark, place, pool = use.serving.mark, (*use.path, "mark"), use.pool
        if mark is None:
            return
        # Both families of a VIP are claimed, whichever says it first.
        before = [self._first(("mark", mark, version), place) for version in families]
        if first := next(filter(None, before), None):
            what = f"mark {mark} is at {first} already, and the VIPs share an address family"
            self._say(place, what, "give each service a mark of its own")
        if pool is None or not self._whole((*use.path, "check")):
            return
        check = pool.check if use.serving.check is None else use.check
        if check is None or all(_has_port(leaf) for leaf in _leaves(check)):
            return
        if pool.servers and any(server.port is None for server in pool.servers):
            what = "packets with a mark come to any port, and the check has none of its own"
            self._say(place, what, "write a check with a port, or a command")

    def _pool_fits(self, use: _Use, pool: _Pool, families: tuple[int, ...]) -> None:
        forwarding = use.serving.forwarding
        mh = use.serving.scheduler is Scheduler.MH and self._whole((*use.path, "scheduler"))
        if mh and self._whole((*use.path, "forwarding")):
            count = max(_count(pool, version, forwarding) for version in families or (4, 6))
            if count > MAGLEV_SLOTS:
                what = f"{count} servers, and the kernel's mh table has {MAGLEV_SLOTS} slots"
                field = "servers" if pool.path == use.path else "pool"
                self._say((*use.path, field), what, "use fewer servers, or another scheduler")
        for _, port in use.ports:
            self._one_each(use, pool, port)
        if forwarding is Forwarding.NAT or not self._whole((*use.path, "forwarding")):
            return
        served = (
            [(0, f"mark {use.serving.mark}")]
            if use.serving.mark
            else [(port, str(port)) for _, port in use.ports]
        )
        for place, server in zip(pool.places, pool.servers, strict=True):
            for port, words in served:
                if server.port not in (None, port):
                    what = (
                        f"{server.name} listens on {server.port}, and {dotted(use.path)} serves {words} "
                        f"with forwarding: {forwarding}, which cannot change a port"
                    )
                    self._say((*place, "port"), what, "remove the port, or write forwarding: nat")

    def _one_each(self, use: _Use, pool: _Pool, port: int) -> None:
        """The same address with the service's port written and not written is the same real server."""
        first: dict[Address, tuple[Path, int | None]] = {}
        for place, server in zip(pool.places, pool.servers, strict=True):
            if server.port not in (None, port):
                continue
            for address in server.addresses:
                before, written = first.setdefault(address, (place, server.port))
                if written != server.port and self._once("twice", place, address):
                    what = f"{address} with port {port} is at {dotted(self._source.place(before))} already"
                    self._say(place, what, f"{dotted(use.path)} serves {port}: write each real server once")

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

    def _once(self, *key: object) -> bool:
        """Whether this is the first time `key` is asked about."""
        if key in self._said:
            return False
        self._said.add(key)
        return True

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


def _leaves(tree: model.Tree) -> Iterator[model.Leaf]:
    return leaves(tree) if isinstance(tree, model.Rule) else iter((tree,))


def _has_aim(check: model.Check) -> bool:
    """Whether the check knows by itself what it looks at."""
    if isinstance(check.kind, kinds.NodeKind | model.CommandCheck):
        return True
    return check.address is not None and _has_port(check)


def _has_port(leaf: model.Leaf) -> bool:
    """Whether it needs no port of a real server's."""
    if isinstance(leaf, kinds.BgpSession):
        return True
    kind = leaf.kind
    return isinstance(kind, kinds.NodeKind | kinds.IcmpCheck | model.CommandCheck) or kind.port is not None


def _bfd(own: schema.Bfd | None, shared: schema.Bfd | None) -> model.Bfd | None:
    """Of a neighbor: what it says itself, then what `bgp.bfd` says, then the defaults."""
    written = [one for one in (own, shared) if one is not None]
    if not written or not written[0].enabled:
        return None
    default = model.Bfd()
    return model.Bfd(
        interval=next((one.interval for one in written if one.interval is not None), default.interval),
        multiplier=next(
            (one.multiplier for one in written if one.multiplier is not None), default.multiplier
        ),
    )


def _carried(neighbor: schema.Neighbor) -> set[int]:
    """4, 6: families of the routes a session carries."""
    if neighbor.families:
        return {_VERSION[family] for family in neighbor.families}
    return {neighbor.address.version} if neighbor.address else set()


def _count(pool: _Pool, version: int, forwarding: Forwarding) -> int:
    return sum(server_address(server, version, forwarding) is not None for server in pool.servers)


def _persistence(written: schema.Persistence | None) -> model.Persistence | None:
    if written is None:
        return None
    return model.Persistence(
        timeout=written.timeout, prefix4=written.ipv4_prefix, prefix6=written.ipv6_prefix
    )


def _expiry(serving: schema.Serving) -> float | None:
    if serving.expire_failed is not None:
        return None if serving.expire_failed == math.inf else serving.expire_failed
    return 0.0 if serving.mark is None and serving.protocol is Protocol.UDP else 60.0


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
