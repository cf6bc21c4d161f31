"""The whole of a configuration out of its parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from anycast.analysis import announced
from anycast.analysis.roles import contradictions, doubtful
from anycast.analysis.routers import unfit
from anycast.analysis.views import blind, taken_marks
from anycast.config.assemble.checks import Checks
from anycast.config.assemble.context import Assembler, Context
from anycast.config.assemble.fleet import Fleet
from anycast.config.assemble.hooks import hooks
from anycast.config.assemble.node import Node, carried
from anycast.config.assemble.pools import Pools
from anycast.config.assemble.services import Vips
from anycast.config.problem import NeededPath, Path, Problem, TooManyError
from anycast.config.schema import file as schema
from anycast.config.schema.scalars import NAME
from anycast.config.warn import Served, Warned, next_hops, unchecked, warnings
from anycast.core.values import configuration as model
from anycast.core.values.configuration import Address

if TYPE_CHECKING:
    from anycast.config.validate import Source


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
    ended: bool = False  # there are so many problems that no more was looked for


def build(file: schema.File, source: Source, hostname: str) -> Built:
    """`hostname` is the default of `node.name`."""
    context = Context(file, source)
    builder = _Builder(context, source)
    try:
        config = builder.config(hostname)
    except TooManyError:
        return Built(config=None, problems=context.problems, ended=True)
    problems = context.problems
    if config is None:
        return Built(config=None, problems=problems)
    told = [
        *_empty(config),
        *warnings(builder.vips.served, config),
        *_limitless(builder.vips.served, source),
        *next_hops(config.bgp),
        *(() if config.speaker.is_table else unchecked(config.bgp)),
        *unfit(config),
        *doubtful(config),
        *announced.doubtful(config),
        *blind(config),
        *builder.fleet.warned,
        *builder.checks.unwired(config),
    ]
    return Built(
        config=config,
        problems=problems,
        warnings=[Problem(source.mark(place), place, what, do) for place, what, do in told],
        checks=builder.checks.named,
        paths=tuple(context.paths),
    )


def _limitless(served: Iterable[Served], source: Source) -> Iterator[Warned]:
    """A limit of 0 that somebody wrote, perhaps to keep clients away. One for each pool."""
    pools: set[Path] = set()
    for one in served:
        if one.pool in pools:
            continue
        pools.add(one.pool)
        for place, server in zip(one.servers, one.service.pool.servers, strict=True):
            if not server.upper and source.stands((*place, "upper_threshold")):
                do = "write weight: 0 for a real server that gets no new clients, or remove the line"
                yield (*place, "upper_threshold"), "0 is no limit, and not a limit of none", do
                break


class _Builder(Assembler):
    def __init__(self, context: Context, source: Source) -> None:
        super().__init__(context)
        self._node = Node(context)
        self.fleet = Fleet(context, source)
        self.checks = Checks(context)
        self._pools = Pools(context, self.checks)
        self.vips = Vips(context, self.checks, self._pools)

    def config(self, hostname: str) -> model.Config | None:
        file = self._context.file
        self._names()
        node = self._node.node(hostname)
        speaker = self._node.speaker()
        bgp = self._node.bgp(None if speaker is None else speaker.ospf)
        if bgp is not None and speaker is not None and speaker.is_table:
            bgp = replace(bgp, hears=False)
        timeouts = self._built(("timeouts",), file.timeouts, model.Timeouts)
        sync = self._built(("connection_sync",), file.connection_sync, model.ConnectionSync)
        for name in file.checks:
            self.checks.named_check(name)
        require = self.checks.require(("node",), file.node.require)
        for name, pool in file.pools.items():
            self._pools.add(name, pool)
        vips = [self.vips.vip(name, vip) for name, vip in file.vips.items()]
        told = hooks(self._context)
        fleet = self.fleet.fleet(None if node is None else node.name, None if bgp is None else bgp.router_id)
        self._addresses(ospf=speaker is not None and speaker.ospf is not None)
        timing = self._built(("timing",), file.timing, model.Timing)
        if bgp is not None:
            built = tuple(vip for vip in vips if vip is not None)
            wrong = (
                *contradictions(bgp, built),
                *taken_marks(bgp, built),
                *announced.contradictions(bgp, built),
            )
            for place, what, do in wrong:
                self._say(place, what, do, key=len(place) < 3)
        if bgp is None or node is None or timing is None or speaker is None or not self._context.sound:
            return None
        return model.Config(
            node=node,
            bgp=bgp,
            vips=tuple(vip for vip in vips if vip is not None),
            timing=timing,
            ipvs_exclusive=file.ipvs == "exclusive",
            manage_sysctls=file.sysctls == "manage",
            timeouts=timeouts,
            connection_sync=sync,
            require=require,
            hooks=told,
            speaker=speaker,
            fleet=fleet,
        )

    def _names(self) -> None:
        for section in ("hooks", "checks", "pools", "vips"):
            for name in self._context.written(section):
                if not NAME.match(name):
                    self._context.misnamed(section, name)

    def _addresses(self, *, ospf: bool) -> None:
        """What concerns the VIPs' addresses against everything else's. `ospf`: it carries both families."""
        bgp = self._context.file.bgp
        neighbors = bgp.neighbors or [] if bgp else []
        taken: dict[Address, str] = {}
        for neighbor in neighbors:
            if neighbor.local_address:
                taken[neighbor.local_address] = "this node's own address in a BGP session"
            if neighbor.address:
                taken[neighbor.address] = "a neighbor's address"
        self._next_hops(bgp.next_hop if bgp else schema.NextHop())
        vips = {
            int(address)
            for vip in self._context.file.vips.values()
            for address in (*([] if vip.address is None else [vip.address]), *(vip.addresses or []))
        }
        for server in self._pools.servers:
            for address in server.addresses:
                if int(address) in vips:
                    taken[address] = f"the address of the real server {server.name}"
        families = {version for neighbor in neighbors for version in carried(neighbor)}
        known = self._context.whole_list(("bgp", "neighbors"), "address", "families") and all(
            one.address for one in neighbors
        )
        for name, vip in self._context.file.vips.items():
            path: Path = ("vips", name)
            several = (*path, "addresses" if self._context.stands((*path, "addresses")) else "address")
            if vip.address is not None:
                found: list[tuple[Path, Address]] = [((*path, "address"), vip.address)]
            else:
                found = [((*several, n), one) for n, one in enumerate(vip.addresses or [])]
            for place, address in found:
                if kind := _unroutable(address):
                    self._say(
                        place, f"{address} is {kind}, which no router carries", "write a routable address"
                    )
                if before := self._context.first(("vip", address), place):
                    self._say(place, f"{address} is at {before} already", "an address belongs to one VIP")
                if address in taken:
                    self._say(place, f"{address} is {taken[address]}", "a VIP needs an address of its own")
                if neighbors and known and not ospf and address.version not in families:
                    what = f"no neighbor carries IPv{address.version} routes"
                    self._say(place, what, "add a neighbor, or to its families with bgp.next_hop")

    def _next_hops(self, hops: schema.NextHop) -> None:
        """What a router refuses, though ExaBGP says that it is announced."""
        file = self._context.file
        others = {one.address: "a neighbor's address" for one in (file.bgp and file.bgp.neighbors) or []}
        for name, vip in file.vips.items():
            others |= dict.fromkeys([vip.address, *(vip.addresses or [])], f"an address of the VIP {name}")
        for family, hop in (("ipv4", hops.ipv4), ("ipv6", hops.ipv6)):
            if hop is not None and (what := others.get(hop) or _unroutable(hop)):
                do = "write an address of this node in the network it shares with the routers"
                self._say(("bgp", "next_hop", family), f"{hop} is {what}", do)


def _empty(config: model.Config) -> Iterator[Warned]:
    """A new node may be so. One that has VIPs loses none of them by it: see `anycast.core.removal`."""
    if not config.vips:
        yield ("vips",), "there is no VIP: the node announces nothing", "write one"


def _unroutable(address: Address) -> str | None:
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if isinstance(address, IPv4Address) and (address.is_reserved or address.packed[0] == 0):
        return "a reserved address"
    return None
