"""All that a service and a real server can be: written, seen by ipvsadm, read back without a difference, repaired."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from anycast.core.dataplane import kernel as core
from anycast.core.dataplane.ipvs import (
    AddDestination,
    AddService,
    Destination,
    IpvsOp,
    Key,
    MarkKey,
    MoveDestination,
    Persistent,
    RemoveDestination,
    RemoveService,
    ServiceEntry,
    ServiceKey,
    SetDestination,
    SetService,
    Settings,
    Table,
    forgotten,
)
from anycast.core.values.configuration import (
    Forwarding,
    Protocol,
    Scheduler,
    SchedulerFlag,
    Timeouts,
    Tunnel,
    TunnelChecksum,
    TunnelType,
)
from tests.contract.namespaces import network_namespace, run
from tests.contract.tables import (
    desired,
    established,
    ipvsadm,
    played,
    read,
    restore,
    server,
    settled,
    snapshot,
)

pytestmark = pytest.mark.lab

V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
TCP4, UDP4, SCTP4 = (ServiceKey(protocol=one, address=V4, port=80) for one in Protocol)
TCP6, UDP6, SCTP6 = (ServiceKey(protocol=one, address=V6, port=80) for one in Protocol)
MARK4, MARK6 = MarkKey(mark=7, version=4), MarkKey(mark=7, version=6)
MH = frozenset({SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK})
SH = frozenset({SchedulerFlag.SH_PORT, SchedulerFlag.SH_FALLBACK})
NAMES: dict[Key, str] = {
    TCP4: "-t 192.0.2.1:80",
    UDP4: "-u 192.0.2.1:80",
    SCTP4: "--sctp-service 192.0.2.1:80",
    MARK4: "-f 7",
    TCP6: "-t [2001:db8::1]:80",
    UDP6: "-u [2001:db8::1]:80",
    SCTP6: "--sctp-service [2001:db8::1]:80",
    MARK6: "-f 7 -6",
}
NOCSUM, CSUM, REMCSUM = TunnelChecksum.NONE, TunnelChecksum.FULL, TunnelChecksum.REMOTE
# A tunnel, and what ipvsadm calls it.
TUNNELS = {
    Tunnel(): "--tun-type ipip",
    Tunnel(type=TunnelType.GUE, port=5555): "--tun-type gue --tun-port 5555 --tun-nocsum",
    Tunnel(type=TunnelType.GUE, port=1, checksum=CSUM): "--tun-type gue --tun-port 1 --tun-csum",
    Tunnel(
        type=TunnelType.GUE, port=65535, checksum=REMCSUM
    ): "--tun-type gue --tun-port 65535 --tun-remcsum",
    Tunnel(type=TunnelType.GRE): "--tun-type gre --tun-nocsum",
    Tunnel(type=TunnelType.GRE, checksum=CSUM): "--tun-type gre --tun-csum",
}


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        yield


def entry(settings: Settings, *servers: Destination) -> ServiceEntry:
    return ServiceEntry(
        scheduler=settings.scheduler,
        flags=settings.flags,
        one_packet=settings.one_packet,
        persistent=settings.persistent,
        destinations=servers,
    )


def settled_as(table: Table, *lines: str) -> None:
    """Writes the table, which ipvsadm shows as `lines`, and which reads back as itself."""
    settled(desired(table))
    assert ipvsadm() == list(lines)
    assert read() == forgotten(table)


def thresholds() -> list[tuple[str, ...]]:
    """Real server, upper and lower threshold of every line that has one."""
    rows = (line.split() for line in ipvsadm("-Ln", "--thresholds"))
    return [tuple(row[1:4]) for row in rows if row[0] == "->" and row[1][-1].isdigit()]


@pytest.mark.parametrize("key", NAMES, ids=str)
def test_services_of_every_protocol_and_family_and_of_firewall_marks(key: Key) -> None:
    six = key in (TCP6, UDP6, SCTP6, MARK6)
    port = 0 if isinstance(key, MarkKey) else 80
    servers = [
        server("fd00::1" if six else "10.0.0.1", port, 3),
        server("fd00::2" if six else "10.0.0.2", port),
    ]
    shown = [f"[{one.address}]:{port}" if six else f"{one.address}:{port}" for one in servers]
    settled_as(
        {key: entry(Settings(scheduler="wrr"), *servers)},
        f"-A {NAMES[key]} -s wrr",
        f"-a {NAMES[key]} -r {shown[0]} -g -w 3",
        f"-a {NAMES[key]} -r {shown[1]} -g -w 1",
    )


def test_a_mark_of_one_family_is_not_that_of_the_other() -> None:
    table: Table = {
        MARK4: entry(Settings(scheduler="rr"), server("10.0.0.1", 0)),
        MARK6: entry(Settings(scheduler="wlc"), server("fd00::1", 0)),
    }
    settled(desired(table))
    assert read() == table
    only: Table = {MARK4: table[MARK4]}
    ops = established(desired(only, owned_marks=frozenset({MARK4, MARK6})))
    assert ops == (RemoveService(service=MARK6),)
    assert ipvsadm() == ["-A -f 7 -s rr", "-a -f 7 -r 10.0.0.1:0 -g -w 1"]


FLAGS = [
    (scheduler, frozenset(chosen))
    for scheduler, flags in (("mh", MH), ("sh", SH))
    for count in range(3)
    for chosen in itertools.combinations(sorted(flags), count)
]


@pytest.mark.parametrize(("scheduler", "flags"), FLAGS, ids=lambda one: "+".join(one) if one else "none")
def test_scheduler_flags_in_every_combination(scheduler: str, flags: frozenset[SchedulerFlag]) -> None:
    words = f" -b {','.join(sorted(flags))}" if flags else ""
    settled_as(
        {UDP4: entry(Settings(scheduler=scheduler, flags=flags), server("10.0.0.1"))},
        f"-A -u 192.0.2.1:80 -s {scheduler}{words}",
        "-a -u 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1",
    )


def test_every_scheduler_is_changed_to_every_other_and_back() -> None:
    flags = {Scheduler.MH: MH, Scheduler.SH: SH}
    servers = [server("10.0.0.1", weight=2), server("10.0.0.2", weight=0, table_weight=2)]
    before: Table = {}
    last = None
    for one, other in itertools.combinations(Scheduler, 2):
        for scheduler in (one, other, one):
            if scheduler is last:
                continue
            last = scheduler
            settings = Settings(scheduler=scheduler, flags=flags.get(scheduler, frozenset()))
            table: Table = {TCP4: entry(settings, *servers)}
            established(desired(table), before)
            assert established(desired(table), table) == ()
            assert ipvsadm()[0].split()[:5] == ["-A", "-t", "192.0.2.1:80", "-s", scheduler]
            assert read() == forgotten(table)
            before = table


@pytest.mark.parametrize(
    ("key", "settings", "line"),
    [
        (UDP4, Settings(scheduler="rr", one_packet=True), "-s rr -o"),
        (UDP6, Settings(scheduler="rr", one_packet=True), "-s rr -o"),
        (MARK4, Settings(scheduler="rr", one_packet=True), "-s rr -o"),
        (UDP4, Settings(scheduler="mh", flags=MH, one_packet=True), "-s mh -o -b mh-fallback,mh-port"),
        (TCP4, Settings(scheduler="wlc", persistent=Persistent(timeout=360, prefix=32)), "-s wlc -p 360"),
        (
            TCP4,
            Settings(scheduler="wlc", persistent=Persistent(timeout=300, prefix=24)),
            "-s wlc -p 300 -M 255.255.255.0",
        ),
        (
            MARK4,
            Settings(scheduler="lc", persistent=Persistent(timeout=1, prefix=8)),
            "-s lc -p 1 -M 255.0.0.0",
        ),
        (SCTP4, Settings(scheduler="rr", persistent=Persistent(timeout=86400, prefix=31)), "-s rr -p 86400 -M 255.255.255.254"),
        (TCP6, Settings(scheduler="wlc", persistent=Persistent(timeout=360, prefix=128)), "-s wlc -p 360"),
        (TCP6, Settings(scheduler="wlc", persistent=Persistent(timeout=360, prefix=64)), "-s wlc -p 360 -M 64"),
        (MARK6, Settings(scheduler="rr", persistent=Persistent(timeout=9, prefix=1)), "-s rr -p 9 -M 1"),
        (
            UDP4,
            Settings(scheduler="mh", flags=MH, persistent=Persistent(timeout=60, prefix=24)),
            "-s mh -p 60 -M 255.255.255.0 -b mh-fallback,mh-port",
        ),
    ],
)  # fmt: skip
def test_one_packet_scheduling_and_persistence(key: Key, settings: Settings, line: str) -> None:
    settled_as({key: entry(settings)}, f"-A {NAMES[key]} {line}")


@pytest.mark.parametrize("tunnel", TUNNELS, ids=lambda one: f"{one.type}-{one.port}-{one.checksum}")
@pytest.mark.parametrize("key", [TCP4, UDP6, MARK4, MARK6], ids=str)
@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_tunnels_of_every_kind_to_real_servers_of_either_family(
    key: Key, tunnel: Tunnel, address: str
) -> None:
    port = 0 if isinstance(key, MarkKey) else 80
    shown = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    settled_as(
        {key: entry(Settings(scheduler="mh", flags=MH), server(address, port, 2, tunnel=tunnel))},
        f"-A {NAMES[key]} -s mh -b mh-fallback,mh-port",
        f"-a {NAMES[key]} -r {shown} -i -w 2 {TUNNELS[tunnel]}",
    )


def test_a_service_may_have_every_way_of_forwarding_at_once() -> None:
    ways = [
        server("10.0.0.1"),
        server("10.0.0.2", 8080, forwarding=Forwarding.NAT),
        *(server(f"10.0.1.{number}", tunnel=tunnel) for number, tunnel in enumerate(TUNNELS)),
        *(server(f"fd00::{number:x}", tunnel=tunnel) for number, tunnel in enumerate(TUNNELS, 1)),
    ]
    settled_as(
        {TCP4: entry(Settings(scheduler="mh", flags=MH), *ways)},
        "-A -t 192.0.2.1:80 -s mh -b mh-fallback,mh-port",
        *(f"-a -t 192.0.2.1:80 -r [fd00::{n:x}]:80 -i -w 1 {text}" for n, text in enumerate(TUNNELS.values(), 1)),
        "-a -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 1",
        "-a -t 192.0.2.1:80 -r 10.0.0.2:8080 -m -w 1",
        *(f"-a -t 192.0.2.1:80 -r 10.0.1.{n}:80 -i -w 1 {text}" for n, text in enumerate(TUNNELS.values())),
    )  # fmt: skip


def test_thresholds() -> None:
    limited = server("10.0.0.1", upper=1000, lower=500)
    table: Table = {
        TCP4: entry(
            Settings(scheduler="mh", flags=MH), limited, server("10.0.0.2", upper=7), server("10.0.0.3")
        ),
        TCP6: entry(Settings(scheduler="wlc"), server("fd00::1", weight=0, upper=2**31 - 1, lower=2**31 - 1)),
    }
    settled(desired(table))
    assert thresholds() == [
        ("10.0.0.1:80", "1000", "500"),
        ("10.0.0.2:80", "7", "0"),
        ("10.0.0.3:80", "0", "0"),
        ("[fd00::1]:80", str(2**31 - 1), str(2**31 - 1)),
    ]
    assert read() == forgotten(table)


def test_a_threshold_that_newer_kernels_refuse_is_told_in_words() -> None:
    failures = played(
        AddService(service=TCP4, settings=RR),
        AddDestination(service=TCP4, destination=server("10.0.0.1", upper=2**31)),
    )
    texts = [failure.text for failure in failures]
    assert texts == [] or (len(texts) == 1 and "a threshold above 2147483647" in texts[0])


def test_everything_at_once_is_written_and_a_second_time_nothing() -> None:
    persistent = {4: Persistent(timeout=300, prefix=24), 6: Persistent(timeout=300, prefix=64)}
    table: dict[Key, ServiceEntry] = {}
    for place, key in enumerate(NAMES):
        version = 6 if key in (TCP6, UDP6, SCTP6, MARK6) else 4
        port = 0 if isinstance(key, MarkKey) else 80
        own = "fd00::{}" if version == 6 else "10.0.0.{}"
        settings = Settings(
            scheduler=list(Scheduler)[place % len(Scheduler)],
            one_packet=key in (UDP4, UDP6),
            persistent=persistent[version] if place % 2 else None,
        )
        table[key] = entry(
            settings,
            server(own.format(1), port, upper=9, lower=3),
            server(own.format(2), port, weight=0, table_weight=2),
            *(server(own.format(10 + number), port, tunnel=one) for number, one in enumerate(TUNNELS)),
        )
    assert settled(desired(table)) != ()
    assert read() == forgotten(table)


PERSISTENT = Settings(scheduler="wlc", persistent=Persistent(timeout=300, prefix=64))
TUNNELLED = server("fd00::1", 0, 2, tunnel=Tunnel(type=TunnelType.GUE, port=5555, checksum=CSUM))
LIMITED = server("10.0.0.1", weight=3, upper=100, lower=50)
DOWN = server("10.0.0.2", weight=0, table_weight=3)
OURS: Table = {
    TCP4: entry(Settings(scheduler="mh", flags=MH), LIMITED, DOWN),
    UDP4: entry(Settings(scheduler="rr", one_packet=True), server("10.0.0.1")),
    MARK6: entry(PERSISTENT, TUNNELLED),
    SCTP6: entry(Settings(scheduler="wrr"), server("fd00::1", forwarding=Forwarding.NAT)),
}


def service_of(key: Key) -> SetService:
    return SetService(service=key, settings=OURS[key].settings)


def server_of(key: Key, one: Destination, *, rebuild: bool = False) -> SetDestination:
    return SetDestination(service=key, destination=one, rebuild=rebuild)


@pytest.mark.parametrize(
    ("by_hand", "repair"),
    [
        ("-E -t 192.0.2.1:80 -s wlc", service_of(TCP4)),
        ("-E -t 192.0.2.1:80 -s sh -b sh-fallback,sh-port", service_of(TCP4)),
        ("-E -t 192.0.2.1:80 -s mh -b mh-port", service_of(TCP4)),
        ("-E -t 192.0.2.1:80 -s mh", service_of(TCP4)),
        ("-E -t 192.0.2.1:80 -s mh -b mh-fallback,mh-port -p 300", service_of(TCP4)),
        ("-E -u 192.0.2.1:80 -s rr", service_of(UDP4)),
        ("-E -u 192.0.2.1:80 -s lc -o", service_of(UDP4)),
        ("-E -f 7 -6 -s wlc -p 301 -M 64", service_of(MARK6)),
        ("-E -f 7 -6 -s wlc -p 300 -M 65", service_of(MARK6)),
        ("-E -f 7 -6 -s wlc -p 300", service_of(MARK6)),
        ("-E -f 7 -6 -s wlc", service_of(MARK6)),
        ("-E -f 7 -6 -s wlc -p 300 -M 64 -o", service_of(MARK6)),
        ("-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 0 -x 100 -y 50", server_of(TCP4, LIMITED)),
        ("-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 4 -x 100 -y 50", server_of(TCP4, LIMITED)),
        ("-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3 -x 101 -y 50", server_of(TCP4, LIMITED)),
        ("-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3 -x 100 -y 49", server_of(TCP4, LIMITED)),
        ("-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3", server_of(TCP4, LIMITED)),
        ("-e -t 192.0.2.1:80 -r 10.0.0.1:80 -m -w 3 -x 100 -y 50", server_of(TCP4, LIMITED)),
        ("-e -t 192.0.2.1:80 -r 10.0.0.1:80 -i -w 3 -x 100 -y 50", server_of(TCP4, LIMITED)),
        ("-e -t 192.0.2.1:80 -r 10.0.0.2:80 -g -w 2", server_of(TCP4, DOWN, rebuild=True)),
        ("-e -t 192.0.2.1:80 -r 10.0.0.2:80 -m -w 0", server_of(TCP4, DOWN)),
        (
            "-e -f 7 -6 -r [fd00::1]:0 -i -w 2 --tun-type gue --tun-port 5556 --tun-csum",
            server_of(MARK6, TUNNELLED),
        ),
        (
            "-e -f 7 -6 -r [fd00::1]:0 -i -w 2 --tun-type gue --tun-port 5555 --tun-nocsum",
            server_of(MARK6, TUNNELLED),
        ),
        (
            "-e -f 7 -6 -r [fd00::1]:0 -i -w 2 --tun-type gue --tun-port 5555 --tun-remcsum",
            server_of(MARK6, TUNNELLED),
        ),
        ("-e -f 7 -6 -r [fd00::1]:0 -i -w 2 --tun-type gre --tun-csum", server_of(MARK6, TUNNELLED)),
        ("-e -f 7 -6 -r [fd00::1]:0 -i -w 2", server_of(MARK6, TUNNELLED)),
        (
            "-e --sctp-service [2001:db8::1]:80 -r [fd00::1]:80 -g -w 1",
            server_of(SCTP6, OURS[SCTP6].destinations[0]),
        ),
        (
            "-d --sctp-service [2001:db8::1]:80 -r [fd00::1]:80",
            AddDestination(service=SCTP6, destination=OURS[SCTP6].destinations[0]),
        ),
        (
            "-a -f 7 -6 -r [fd00::2]:0 -g -w 1",
            RemoveDestination(service=MARK6, key=(ip_address("fd00::2"), 0)),
        ),
    ],
)
def test_one_thing_that_is_changed_by_hand_is_repaired_by_one_operation(by_hand: str, repair: IpvsOp) -> None:
    settled(desired(OURS))
    expected = ipvsadm(), thresholds()
    run("ipvsadm", *by_hand.split())
    assert (ipvsadm(), thresholds()) != expected
    if isinstance(repair, RemoveDestination):
        assert established(desired(OURS), OURS) == (
            core.ExpireDestinations(removals=(repair,), write_sysctl=False),
        )
    else:
        assert established(desired(OURS), OURS) == (repair,)
    assert (ipvsadm(), thresholds()) == expected


def test_a_persistence_engine_that_somebody_put_on_is_taken_off() -> None:
    settings = Settings(scheduler="wlc", persistent=Persistent(timeout=300, prefix=32))
    table: Table = {UDP4: entry(settings)}
    settled(desired(table))
    run("ipvsadm", "-E", "-u", "192.0.2.1:80", "-s", "wlc", "-p", "300", "--pe", "sip")
    assert read()[UDP4].settings == replace(settings, foreign="pe=sip")
    assert established(desired(table)) == (SetService(service=UDP4, settings=settings),)
    assert ipvsadm() == ["-A -u 192.0.2.1:80 -s wlc -p 300"]


def test_what_ipvsadm_wrote_is_adopted_without_a_write() -> None:
    settled(desired(OURS))
    lines = ipvsadm()
    run("ipvsadm", "-C")
    restore("\n".join([*lines, "-e -t 192.0.2.1:80 -r 10.0.0.1:80 -g -w 3 -x 100 -y 50"]))
    assert ipvsadm() == lines
    assert established(desired(OURS), OURS) == ()


def test_timeouts_are_set_and_set_again_when_somebody_changed_one() -> None:
    ours = Timeouts(tcp=3600, tcp_fin=60, udp=30)
    assert settled(desired({}, timeouts=ours)) == (core.SetTimeouts(timeouts=ours),)
    for by_hand in ("3601 60 30", "3600 61 30", "3600 60 31"):
        run("ipvsadm", "--set", *by_hand.split())
        assert ipvsadm("-L", "--timeout") == [f"Timeout (tcp tcpfin udp): {by_hand}"]
        assert established(desired({}, timeouts=ours)) == (core.SetTimeouts(timeouts=ours),)
        assert ipvsadm("-L", "--timeout") == ["Timeout (tcp tcpfin udp): 3600 60 30"]


def test_timeouts_are_left_alone_where_none_are_wanted() -> None:
    run("ipvsadm", "--set", "10", "11", "12")
    assert established(desired({})) == ()
    assert snapshot().timeouts == Timeouts(tcp=10, tcp_fin=11, udp=12)


RR = Settings(scheduler="rr")
ADDED = AddService(service=TCP4, settings=RR)


def adding(one: Destination) -> AddDestination:
    return AddDestination(service=TCP4, destination=one)


@pytest.mark.parametrize(
    ("op", "words", "code"),
    [
        (AddService(service=TCP4, settings=RR), "exists already: another program", "EEXIST"),
        (AddService(service=UDP4, settings=Settings(scheduler="nosuch")), "run `modprobe ip_vs_nosuch`", "ENOENT"),
        (SetService(service=TCP4, settings=Settings(scheduler="nosuch")), "run `modprobe ip_vs_nosuch`", "ENOENT"),
        (SetService(service=UDP4, settings=RR), "service does not exist", "ESRCH"),
        (RemoveService(service=MARK6), "service does not exist", "ESRCH"),
        (AddDestination(service=MARK4, destination=server("10.0.0.9", 0)), "service does not exist", "ESRCH"),
        (MoveDestination(service=UDP4, destination=server("10.0.0.9")), "service does not exist", "ESRCH"),
        (adding(server("10.0.0.1")), "exists already: another program", "EEXIST"),
        (adding(server("10.0.0.9", upper=5, lower=6)), "upper threshold must not be below the lower", "ERANGE"),
        (adding(server("10.0.0.9", weight=2**31)), "nor a weight above 2147483647", "ERANGE"),
        (adding(server("fd00::9")), "other address family needs forwarding tunnel", "EINVAL"),
        (adding(server("fd00::9", forwarding=Forwarding.NAT)), "other address family needs forwarding tunnel", "EINVAL"),
        (adding(server("10.0.0.9", tunnel=Tunnel(type=TunnelType.GUE))), "GUE needs a port", "EINVAL"),
        (adding(server("224.0.0.1")), "the address that of one host", "EINVAL"),
        (adding(server("255.255.255.255")), "the address that of one host", "EINVAL"),
        (SetDestination(service=TCP4, destination=server("10.0.0.9")), "real server does not exist", "ENOENT"),
        (
            SetDestination(service=TCP4, destination=server("10.0.0.1", lower=1)),
            "upper threshold must not be below the lower",
            "ERANGE",
        ),
        (
            SetDestination(service=TCP4, destination=server("10.0.0.1", tunnel=Tunnel(type=TunnelType.GUE))),
            "GUE needs a port",
            "EINVAL",
        ),
        (MoveDestination(service=TCP4, destination=server("10.0.0.1", lower=1)), "must not be below", "ERANGE"),
        (RemoveDestination(service=TCP4, key=(V4, 9)), "real server does not exist", "ENOENT"),
        (
            core.ExpireDestinations(removals=(RemoveDestination(service=TCP4, key=(V4, 9)),)),
            "real server does not exist",
            "ENOENT",
        ),
        (core.SetTimeouts(timeouts=Timeouts(tcp=2**31)), "longer than this kernel can count", "EINVAL"),
    ],
)  # fmt: skip
def test_what_the_kernel_refuses_is_told_in_words_with_the_code(
    op: core.KernelOp, words: str, code: str
) -> None:
    (failure,) = played(ADDED, adding(server("10.0.0.1")), op)
    assert failure.ops == (op.removals if isinstance(op, core.ExpireDestinations) else (op,))
    assert words in failure.text
    assert failure.text.endswith(f"({code})")


def test_a_real_server_on_the_links_own_ipv6_address_is_refused_in_words() -> None:
    (failure,) = played(
        AddService(service=TCP6, settings=RR), AddDestination(service=TCP6, destination=server("fe80::1"))
    )
    assert "not a link's own (fe80::/10) (EINVAL)" in failure.text


def test_after_a_refusal_the_rest_of_the_batch_is_carried_out() -> None:
    refused = adding(server("10.0.0.2", lower=1))
    failures = played(ADDED, adding(server("10.0.0.1")), refused, adding(server("10.0.0.3")))
    assert [failure.ops for failure in failures] == [(refused,)]
    assert [str(one.address) for one in read()[TCP4].destinations] == ["10.0.0.1", "10.0.0.3"]
