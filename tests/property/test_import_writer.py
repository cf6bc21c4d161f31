"""What is written means what was imported, however much of it is shared, lifted to the VIP or left out."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from anycast.config.load import loads
from anycast.core.values import configuration as core
from anycast.importers.importing import NAME
from anycast.importers.model import Keys, Server, Service, Setup, Value, Vip, check, keys
from anycast.importers.services import named_apart
from anycast.importers.writer import write

BGP = keys(local_as=65001, router_id="10.2.1.1", neighbors=(keys(address="10.2.1.254", remote_as=65000),))
CHECKS: tuple[Value, ...] = (
    check("tcp", port=8080),
    check("icmp"),
    check("http", path="/health", host="www.example.net", expect=(200, "3xx"), rise=1),
    check("all", of=(check("tcp", port=22), check("icmp", interval="6s"))),
)
USUAL = {"mh": ("mh-fallback", "mh-port"), "sh": ("sh-fallback",)}

servers = st.lists(
    st.builds(
        Server,
        address=st.integers(1, 5).map(lambda n: f"10.9.2.{n}"),
        weight=st.integers(0, 3),
        upper=st.sampled_from([0, 0, 100]),
        comment=st.sampled_from(["", "", "the old one: [a] {b}"]),
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda one: one.address,
).map(tuple)


@st.composite
def services(draw: st.DrawFn) -> Service:
    protocol = draw(st.sampled_from(["tcp", "tcp", "udp"]))
    scheduler = draw(st.sampled_from(["mh", "rr", "wlc", "sh"]))
    forwarding = draw(st.sampled_from(["dr", "nat", "tunnel"]))
    persistence: Value | None = draw(st.sampled_from([None, None, "5m", keys(timeout="5m", ipv4_prefix=24)]))
    tunnel = None
    if forwarding == "tunnel":
        tunnel = draw(st.sampled_from([keys(type="ipip"), keys(type="gre"), keys(type="gue", port=6080)]))
    found = draw(servers)
    if forwarding == "nat" and draw(st.booleans()):
        found = tuple(replace(one, port=8000 + n) for n, one in enumerate(found))
    one_packet = draw(st.sampled_from([None, False])) if protocol == "udp" else None
    return Service(
        port=draw(st.sampled_from([53, 80, 443])),
        protocol=protocol,
        scheduler=scheduler,
        flags=draw(st.sampled_from([None, (f"{scheduler}-fallback",)])) if scheduler in USUAL else None,
        forwarding=forwarding,
        tunnel=tunnel,
        one_packet=one_packet,
        persistence=persistence,
        quorum=draw(st.sampled_from([None, None, 1])),
        check=draw(st.sampled_from([*CHECKS, None] if protocol == "tcp" else CHECKS)),
        servers=named_apart(found),
    )


@st.composite
def setups(draw: st.DrawFn) -> Setup:
    few = draw(st.lists(services(), min_size=1, max_size=4))
    vips = []
    for number in range(draw(st.integers(1, 4))):
        mine = draw(st.lists(st.sampled_from(few), min_size=1, max_size=4))
        apart = {(one.protocol, one.port): one for one in mine}
        backup = draw(st.sampled_from([(), ("lb1",)]))
        vips.append(
            Vip(
                name=f"web-{number}",
                addresses=(f"192.0.2.{number + 1}",),
                services=tuple(apart.values()),
                settings=draw(st.sampled_from([Keys(), keys(med=5)])),
                backups=backup,
                comment=draw(st.sampled_from(["", "The shop: a {b}"])),
            )
        )
    return Setup(vips=tuple(vips), bgp=BGP)


def expected(service: Service) -> tuple[object, ...]:
    """What the core is to have of it."""
    usual = USUAL.get(service.scheduler, ())
    if service.scheduler == "mh" and service.persistence is not None:
        usual = ("mh-fallback",)
    flags = usual if service.flags is None else service.flags
    one_packet = service.one_packet
    if one_packet is None:
        one_packet = service.protocol == "udp" and service.forwarding != "nat" and service.persistence is None
    tunnel = service.tunnel.get("type") if service.tunnel is not None else "ipip"
    prefix = service.persistence.get("ipv4_prefix") if isinstance(service.persistence, Keys) else 32
    return (
        service.protocol,
        service.port,
        service.scheduler,
        frozenset(flags),
        service.forwarding,
        tunnel,
        one_packet,
        service.persistence is not None,
        prefix if service.persistence is not None else None,
        tuple((one.address, one.port, one.weight, one.upper) for one in service.servers),
    )


def found(service: core.Service) -> tuple[object, ...]:
    persistence = service.persistence
    return (
        str(service.protocol),
        service.port,
        str(service.scheduler),
        frozenset(map(str, service.flags)),
        str(service.forwarding),
        str(service.tunnel.type),
        service.one_packet,
        persistence is not None,
        persistence.ipv4_prefix if persistence is not None else None,
        tuple((str(one.addresses[0]), one.port, one.weight, one.upper) for one in service.pool.servers),
    )


def shape(value: Value | None) -> object:
    """What a check is, as far as both sides tell."""
    if value is None:
        return ("tcp", None)
    assert isinstance(value, Keys)
    inner = value.get("of")
    if isinstance(inner, tuple):
        return [shape(one) for one in inner]
    return (value.get("type"), value.get("port"))


def shape_of(tree: core.Tree) -> object:
    if isinstance(tree, core.Rule):
        return [shape_of(part.check) for part in tree.parts]
    assert isinstance(tree, core.Check)
    return (tree.kind.type, getattr(tree.kind, "port", None))


@given(setup=setups())
def test_the_file_means_what_was_imported(setup: Setup) -> None:
    text = write(setup)
    config = loads(text, NAME, hostname="lb1").config
    assert [vip.name for vip in config.vips] == [vip.name for vip in setup.vips]
    for there, vip in zip(config.vips, setup.vips, strict=True):
        assert {found(one) for one in there.services} == {expected(one) for one in vip.services}, text
        checks = {(str(one.protocol), one.port): shape_of(one.pool.check) for one in there.services}
        assert checks == {(one.protocol, one.port): shape(one.check) for one in vip.services}, text
        assert there.med == vip.settings.get("med")
        assert str(there.role) == ("backup" if vip.backups else "primary")
