"""Which settings of a node do nothing, or something else, on the software that its routers run.

Measured with the versions that are named; docs/routers.md has all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from anycast.core.preference import Preference, export_of, is_internal, preference
from anycast.core.prefixes import prefixes_of
from anycast.core.values.configuration import Bgp, Config, Neighbor, Vip
from anycast.core.values.route import BANDWIDTH, TRANSITIVE_BANDWIDTH, Prefix, extended_community
from anycast.core.values.software import Daemon, Software
from anycast.core.values.speaker import LearnedBy

GOBGP_BFD = (4, 6)  # the first GoBGP with BFD
GOBGP_RANGE_PASSWORD = (3, 36)  # a password for nodes in a range
OPENBGPD_EXTENDED = (8, 8)  # `announce extended nexthop`
OPENBGPD_PASSWORD = 79  # characters
_NO_EXPORT, _NO_ADVERTISE, _BLACKHOLE = "65535:65281", "65535:65282", "65535:666"

Told: TypeAlias = tuple[tuple[str | int, ...], str, str]
"""Place in the configuration, what it is, what to do."""


def said(neighbor: Neighbor) -> Software | None:
    """What the configuration says that this router runs."""
    return neighbor.software


def unfit(config: Config, runs: Callable[[Neighbor], Software | None] = said) -> Iterator[Told]:
    """`runs`: the software of a router; None: unknown. Of each kind of software a thing is told once."""
    told: set[tuple[str, Software | None, str]] = set()
    for n, neighbor in enumerate(config.bgp.neighbors):
        software = runs(neighbor)
        found = _of_session(config, neighbor, software) if software else _of_unknown(config.bgp, neighbor)
        for setting, what, do in found:
            if (setting, software, what) not in told:
                told.add((setting, software, what))
                yield ("bgp", "neighbors", n, setting), what, do
    kinds = {one for neighbor in config.bgp.neighbors if (one := runs(neighbor)) is not None}
    yield from _of_routes(config, {one.daemon for one in kinds})
    yield from _of_weights(config, kinds)


def _of_session(config: Config, neighbor: Neighbor, software: Software) -> Iterator[tuple[str, str, str]]:
    if neighbor.bfd is not None and (without := without_bfd(config, neighbor, software)):
        yield (
            "bfd",
            f"{without}: it keeps the routes of a frozen node for the hold time of {config.bgp.hold_time}s",
            "write bfd: false there, and bgp.hold_time: 3",
        )
    elif (
        neighbor.bfd is not None
        and neighbor.software is None
        and bfd_hops(config.bgp, neighbor, software) != bfd_hops(config.bgp, neighbor, None)
    ):
        what = f"{_FRR_HOPS}, and the node's bfdd of one, for its file does not say what this router runs"
        yield "software", what, "write software: frr under the neighbor, and render frr-bfd again"
    if software.daemon is Daemon.FRR:
        yield from _of_frr(neighbor, software)
    if software.daemon is Daemon.OPENBGPD:
        yield from _of_openbgpd(neighbor, software)
    password = neighbor.password or ""
    if software.daemon is Daemon.OPENBGPD and len(password) > OPENBGPD_PASSWORD:
        what = f"OpenBGPD takes passwords of {OPENBGPD_PASSWORD} characters, this one has {len(password)}"
        yield "password", what, "write a shorter one at both ends"


def _of_unknown(bgp: Bgp, neighbor: Neighbor) -> Iterator[tuple[str, str, str]]:
    frr = Software(daemon=Daemon.FRR)
    if neighbor.bfd is not None and bfd_hops(bgp, neighbor, frr) != bfd_hops(bgp, neighbor, None):
        what = f"{_FRR_HOPS}, others of one: BFD comes up only where both ends speak the same"
        yield "ttl_security", what, "write software: frr under the neighbor, or what else runs there"


def _of_frr(neighbor: Neighbor, software: Software) -> Iterator[tuple[str, str, str]]:
    if software.since(10, 5) and not software.since(10, 7):
        what = (
            "FRR (10.5.2 and later of 10.5, and 10.6; the third number is not looked at here) can hold a session and use none of its routes after a short link flap "
            "(FRR#22780)"
        )
        yield "software", what, "upgrade to 10.7"
    if neighbor.address.is_link_local and software.since(10, 3) and not software.since(10, 7):
        what = (
            "FRR 10.3 (8.4 and 10.7 do not) leaves routes with a link-local next hop unused, of both families"
        )
        yield "address", what, "have addresses on the link, or another version there"


def _of_openbgpd(neighbor: Neighbor, software: Software) -> Iterator[tuple[str, str, str]]:
    if neighbor.extended_next_hop and not software.since(*OPENBGPD_EXTENDED):
        what = "OpenBGPD before 8.8 ends the session for an IPv4 route with an IPv6 next hop, again and again (7.7)"
        do = "remove it, or say which version runs there: `software: openbgpd 8.8`"
        yield "extended_next_hop", what, do
    secret = neighbor.password is not None or neighbor.password_from is not None
    if neighbor.ttl_security == 1 and secret:
        what = (
            "with a password and ttl_security there is no session: OpenBGPD on Linux takes no connection with a password, and "
            "the answer to its own has ExaBGP's TTL of 64"
        )
        yield "ttl_security", what, "keep one of them"
    if neighbor.ttl_security > 1:
        what = "OpenBGPD has ttl_security with neighbors on its own links alone: it sends, and takes, any TTL in this session"
        yield "ttl_security", what, "write true, or `multihop` in its place"


_FRR_HOPS = "FRR speaks BFD of several hops in this session, for ttl_security is there and the AS is another"


def bfd_hops(bgp: Bgp, neighbor: Neighbor, software: Software | None) -> bool:
    """Whether a router with this software speaks BFD of several hops (RFC 5883): the two kinds do not hear each other."""
    # FRR's ttl-security sets the TTL that it knows an `ebgp-multihop` by.
    frr = software is not None and software.daemon is Daemon.FRR
    external = not is_internal(bgp, neighbor)
    return bool(neighbor.distance or (frr and neighbor.ttl_security and external))


def without_bfd(config: Config, neighbor: Neighbor, software: Software | None) -> str:
    """Why a router with this software has none in this session, whatever the node has.

    Empty: it has, or nobody says what runs there.
    """
    if software is None:
        return ""
    match software.daemon:
        case Daemon.OPENBGPD:
            return "OpenBGPD has no BFD"
        case Daemon.GOBGP if neighbor.distance:
            return "GoBGP has BFD on its own links alone, not with multihop"
        case Daemon.GOBGP if software.version is None:
            return "GoBGP has BFD from 4.6 on, and its version is not told"
        case Daemon.GOBGP if not software.since(*GOBGP_BFD):
            return f"{software} has no BFD, which came with 4.6"
        case Daemon.FRR if bfd_hops(config.bgp, neighbor, software) and not neighbor.distance:
            several = "FRR speaks BFD of several hops where ttl_security is"
            if neighbor.address.is_link_local:
                return f"{several}, which link-local addresses do not have"
            bird = config.speaker.is_table and config.speaker.daemon is LearnedBy.BIRD
            return f"{several}, and the node's BIRD of one" if bird else ""
        case _:
            return ""


def _of_routes(config: Config, daemons: set[Daemon]) -> Iterator[Told]:
    kept = [vip.name for vip in config.vips if {_NO_EXPORT, _NO_ADVERTISE} & {*vip.communities}]
    if Daemon.GOBGP in daemons and kept:
        what = (
            f"GoBGP (3.36 and 4.8) announces routes with NO_EXPORT or NO_ADVERTISE to everybody: {some(kept)}"
        )
        do = "refuse them in the export policy of its other neighbors"
        yield ("vips", kept[0], "communities"), what, do
    dark = [vip.name for vip in config.vips if _BLACKHOLE in vip.communities]
    if Daemon.FRR in daemons and dark:
        what = f"FRR adds NO_EXPORT to routes with BLACKHOLE, so no other AS learns them: {some(dark)}"
        yield ("vips", dark[0], "communities"), what, "remove the community"


def _of_weights(config: Config, kinds: set[Software]) -> Iterator[Told]:
    """Link bandwidth, in its two forms (draft-ietf-idr-link-bandwidth)."""
    transitive, other = (
        [vip.name for vip in config.vips if any(_begins(text, form) for text in vip.extended_communities)]
        for form in (TRANSITIVE_BANDWIDTH, BANDWIDTH)
    )
    if config.bgp.weight is not None:
        for daemon in sorted({one.daemon for one in kinds} & _NO_WEIGHTS.keys()):
            yield ("bgp", "weight"), _NO_WEIGHTS[daemon], "remove it, or let other routers weigh"
    if weighed := [*transitive, *other]:
        place = ("vips", weighed[0], "extended_communities")
        if any(one.daemon is Daemon.BIRD for one in kinds):
            what = f"BIRD (2.0.12) gives all nodes the same weight, whatever their link bandwidth: {some(weighed)}"
            yield place, what, "remove the community, or let other routers weigh"
    if other:
        place = ("vips", other[0], "extended_communities")
        what = f"FRR 10.3 (8.4 and 10.7 do not) wants link bandwidth in its transitive form, else all nodes weigh the same: {some(other)}"
        if any(one.daemon is Daemon.FRR and one.since(10, 3) and not one.since(10, 7) for one in kinds):
            yield place, what, "write 0x0004 in the place of 0x4004, on all nodes"
        if any(one.daemon is Daemon.OPENBGPD for one in kinds):
            what = f"OpenBGPD removes communities of 0x40… from routes of another AS: {some(other)}"
            yield place, what, "write 0x0004 in the place of 0x4004, on all nodes"


_NO_WEIGHTS = {
    Daemon.BIRD: "BIRD (2.0.12, 2.17, 3.4) gives all nodes the same weight, whatever their link bandwidth",
    Daemon.GOBGP: "GoBGP keeps the link bandwidth on the routes, and forwards nothing by itself",
    Daemon.OPENBGPD: "OpenBGPD chooses one node for a VIP, and weighs nothing",
}


_SCALED = (10, 0)  # FRR: the largest weight becomes 255; before it each is a percentage of all
_OFF = 0.1  # of its share


Rank: TypeAlias = tuple[Preference, str | None]
"""What routers compare of a VIP from several nodes: those with the best share its flows."""


def sent(config: Config, neighbors: Iterable[Neighbor]) -> Iterator[tuple[Prefix, Vip, Rank]]:
    """What a node sends the router that these neighbors of it are: each prefix once, as its first VIP has it."""
    exports = [one.export for one in neighbors]
    told: set[Prefix] = set()
    for vip in config.vips:
        gets = next((got for each in exports if (got := export_of(each, vip.name)) is not None), None)
        if gets is None:
            continue
        rank = preference(vip, gets), gets.origin or vip.origin
        for prefix in prefixes_of(vip):
            if prefix not in told:
                told.add(prefix)
                yield prefix, vip, rank


class Weights:
    """The weights of the nodes that share the flows of a VIP at one router. Of a node it keeps what no other has alike."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[int | None, dict[Rank, frozenset[Prefix]]]] = {}
        self._alike: dict[frozenset[Prefix], frozenset[Prefix]] = {}

    def add(self, config: Config, neighbors: Iterable[Neighbor]) -> None:
        """`neighbors`: of this node, that are the router."""
        ranks: dict[Rank, set[Prefix]] = {}
        for prefix, _, rank in sent(config, neighbors):
            ranks.setdefault(rank, set()).add(prefix)
        found = {rank: frozenset(prefixes) for rank, prefixes in ranks.items()}
        kept = {rank: self._alike.setdefault(prefixes, prefixes) for rank, prefixes in found.items()}
        self._nodes[config.node.name] = config.bgp.weight, kept

    def told(self, software: Software | None) -> Iterator[Told]:
        """As `shares` has it, of each group of nodes. A backup has no flows while there is a primary."""
        if all(weight is None for weight, _ in self._nodes.values()):
            return
        told: dict[Told, None] = {}
        for rank in dict.fromkeys(rank for _, ranks in self._nodes.values() for rank in ranks):
            nodes = {
                name: (weight, ranks[rank]) for name, (weight, ranks) in self._nodes.items() if rank in ranks
            }
            every = dict.fromkeys(prefix for _, prefixes in nodes.values() for prefix in prefixes)
            groups = {
                tuple(name for name, (_, prefixes) in nodes.items() if prefix in prefixes) for prefix in every
            }
            for names in sorted(groups):
                told |= dict.fromkeys(shares({name: nodes[name][0] for name in names}, software))
        yield from told


def shares(weights: Mapping[str, int | None], software: Software | None) -> Iterator[Told]:
    """What becomes of the weights of the nodes of one router, where it is not what they say. FRR alone weighs.

    `software` None: nobody says what it runs, and how it rounds is not known.
    """
    told = {name: weight for name, weight in weights.items() if weight is not None}
    if (software is not None and software.daemon is not Daemon.FRR) or not told:
        return
    if silent := [name for name in weights if name not in told]:
        has = "has" if len(silent) == 1 else "have"
        what = (
            f"{some(silent)} {has} no bgp.weight: {software or Daemon.FRR.spelt} then weighs all nodes alike"
        )
        yield ("nodes", silent[0], "bgp", "weight"), what, "write one for every node, or for none"
        return
    if software is None:
        return
    total, most = sum(told.values()), max(told.values())
    scaled = software.since(*_SCALED)
    there = {
        name: max(1, 255 * weight // most if scaled else 100 * weight // total)
        for name, weight in told.items()
    }
    for name, weight in told.items():
        wanted, gets = weight / total, there[name] / sum(there.values())
        if abs(gets - wanted) > _OFF * wanted:
            how = "counts in 255ths of the largest weight" if scaled else "rounds weights to whole percents"
            what = f"{name} gets {gets:.2%} of the flows, not {wanted:.2%}: {software} {how}, 1 at the least"
            yield ("nodes", name, "bgp", "weight"), what, "write weights that are nearer to one another"


def _begins(text: str, form: bytes) -> bool:
    return (extended_community(text) or b"").startswith(form)


def some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
