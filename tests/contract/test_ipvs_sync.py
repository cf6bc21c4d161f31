"""The kernel's connection sync: its daemons started, seen by ipvsadm, read back, changed, stopped, refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from anycast.core.dataplane import kernel as core
from anycast.core.dataplane.ipvs import (
    AddDestination,
    AddService,
    ServiceEntry,
    ServiceKey,
    Settings,
    Table,
)
from anycast.core.dataplane.kernel import Failure, KernelOp, StartSync, StopSync, SyncRole
from anycast.core.values.configuration import ConnectionSync, Protocol, Tunnel
from tests.contract.namespaces import network_namespace, run
from tests.contract.tables import desired, established, ipvsadm, played, read, server, settled, snapshot

pytestmark = pytest.mark.lab

MASTER, BACKUP = SyncRole.MASTER, SyncRole.BACKUP
OURS = ConnectionSync(interface="veth0", id=7)
SIX = ip_address("ff02::81")
WEB = ServiceKey(protocol=Protocol.TCP, address=ip_address("192.0.2.1"), port=80)
MIXED: Table = {WEB: ServiceEntry(scheduler="rr", destinations=(server("fd00::9", tunnel=Tunnel()),))}


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        run("ip", "-batch", "-", stdin=LINKS)
        yield


LINKS = """\
link add veth0 type veth peer name veth1
link set veth0 up
link set veth1 up
addr add 10.0.0.1/24 dev veth0
addr add fd00::1/64 dev veth0 nodad
link add other0 type dummy
link set other0 up
addr add 10.0.1.1/24 dev other0
link add bare0 type dummy
link set bare0 addrgenmode none
link set bare0 up
link add down0 type dummy
addr add 10.0.2.1/24 dev down0
"""


def daemons() -> list[str]:
    """As ipvsadm shows them, without the length that comes of the interface's MTU."""
    return [
        " ".join(word for word in line.split() if not word.startswith("maxlen="))
        for line in ipvsadm("-L", "--daemon")
    ]


@pytest.mark.parametrize(
    ("sync", "words"),
    [
        (OURS, "(mcast=veth0, syncid=7, group=224.0.0.81, port=8848, ttl=1)"),
        (
            ConnectionSync(interface="other0", id=0),
            "(mcast=other0, syncid=0, group=224.0.0.81, port=8848, ttl=1)",
        ),
        (
            ConnectionSync(interface="veth0", id=255, group=ip_address("239.1.2.3"), port=1, ttl=255),
            "(mcast=veth0, syncid=255, group=239.1.2.3, port=1, ttl=255)",
        ),
        (replace(OURS, group=SIX), "(mcast=veth0, syncid=7, group=ff02::81, port=8848, ttl=1)"),
        (
            replace(OURS, group=ip_address("ff05::1:2"), port=65535, ttl=64),
            "(mcast=veth0, syncid=7, group=ff05::1:2, port=65535, ttl=64)",
        ),
    ],
)
def test_a_node_is_master_and_backup_with_every_setting(sync: ConnectionSync, words: str) -> None:
    want = desired({}, sync=sync, sync_owned=True)
    assert settled(want) == (StartSync(role=MASTER, sync=sync), StartSync(role=BACKUP, sync=sync))
    assert daemons() == [f"master sync daemon {words}", f"backup sync daemon {words}"]
    assert snapshot().sync == {MASTER: sync, BACKUP: sync}


@pytest.mark.parametrize(
    "changed",
    [
        replace(OURS, id=8),
        replace(OURS, interface="other0"),
        replace(OURS, group=ip_address("224.0.0.82")),
        replace(OURS, group=SIX),
        replace(OURS, port=8849),
        replace(OURS, ttl=2),
    ],
    ids=["id", "interface", "group", "family", "port", "ttl"],
)
def test_a_change_stops_and_starts_both_daemons(changed: ConnectionSync) -> None:
    settled(desired({}, sync=OURS, sync_owned=True))
    assert settled(desired({}, sync=changed, sync_owned=True)) == (
        StopSync(role=MASTER),
        StartSync(role=MASTER, sync=changed),
        StopSync(role=BACKUP),
        StartSync(role=BACKUP, sync=changed),
    )
    assert snapshot().sync == {MASTER: changed, BACKUP: changed}


@pytest.mark.parametrize("role", SyncRole)
def test_a_daemon_that_somebody_stopped_is_started_again_and_the_other_left_alone(role: SyncRole) -> None:
    want = desired({}, sync=OURS, sync_owned=True)
    settled(want)
    run("ipvsadm", "--stop-daemon", role)
    assert settled(want) == (StartSync(role=role, sync=OURS),)


def test_a_daemon_that_somebody_started_otherwise_is_replaced() -> None:
    run("ipvsadm", "--start-daemon", "backup", "--mcast-interface", "veth0", "--syncid", "9")
    assert settled(desired({}, sync=OURS, sync_owned=True)) == (
        StartSync(role=MASTER, sync=OURS),
        StopSync(role=BACKUP),
        StartSync(role=BACKUP, sync=OURS),
    )


@pytest.mark.parametrize("sync", [OURS, replace(OURS, group=SIX)], ids=["IPv4", "IPv6"])
def test_daemons_whose_interface_was_made_anew_are_started_again(sync: ConnectionSync) -> None:
    """They hear and send nothing more, while the kernel goes on saying that they run."""
    want = desired({}, sync=sync, sync_owned=True)
    settled(want)
    shown = daemons()
    run("ip", "-batch", "-", stdin="link set veth0 down\nlink set veth0 up\n")
    assert settled(want) == ()
    run("ip", "link", "del", "veth0")
    run("ip", "-batch", "-", stdin="\n".join(LINKS.splitlines()[:5]))
    assert daemons() == shown
    assert snapshot().sync_lost
    assert settled(want) == tuple(
        op(role=role, **more)
        for role in SyncRole
        for op, more in ((StopSync, {}), (StartSync, {"sync": sync}))
    )
    assert not snapshot().sync_lost
    assert daemons() == shown


def test_daemons_are_stopped_when_sync_is_no_longer_wanted_and_only_those_of_ours() -> None:
    run("ipvsadm", "--start-daemon", "master", "--mcast-interface", "veth0", "--syncid", "9")
    assert established(desired({})) == ()
    assert daemons() == ["master sync daemon (mcast=veth0, syncid=9, group=224.0.0.81, port=8848, ttl=1)"]
    assert settled(desired({}, sync_owned=True)) == (StopSync(role=MASTER),)
    assert daemons() == []


def test_a_daemon_that_has_not_begun_to_run_is_stopped_all_the_same() -> None:
    """The kernel answers nothing then. Unless it is asked again, that is a deadline's wait and a failure."""
    ops: list[KernelOp] = [StartSync(role=MASTER, sync=OURS), StopSync(role=MASTER)] * 5
    assert played(*ops) == ()
    assert daemons() == []


def test_stopping_what_does_not_run_is_no_failure() -> None:
    assert played(StopSync(role=MASTER), StopSync(role=BACKUP)) == ()


def failure_of(sync: ConnectionSync) -> Failure:
    op = StartSync(role=MASTER, sync=sync)
    (failure,) = played(op)
    assert failure.ops == (op,)
    assert failure.text.startswith(f"start connection sync, master on {sync.interface}: ")
    return failure


@pytest.mark.parametrize(
    ("sync", "words"),
    [
        (replace(OURS, interface="nosuch0"), "there is no interface nosuch0: name another in connection_sync (ENODEV)"),
        (replace(OURS, interface="down0"), "interface down0 is down: run `ip link set down0 up` (ENETUNREACH)"),
        (
            replace(OURS, interface="bare0", group=SIX),
            "bare0 has no address of the family of ff02::81 (EADDRNOTAVAIL)",
        ),
        (replace(OURS, group=ip_address("10.0.0.9")), "10.0.0.9 must be a multicast group (EINVAL)"),
        (replace(OURS, group=ip_address("fd00::9")), "fd00::9 must be a multicast group (EINVAL)"),
    ],
)  # fmt: skip
def test_a_daemon_that_the_kernel_does_not_start_is_told_in_words(sync: ConnectionSync, words: str) -> None:
    assert failure_of(sync).text.endswith(words)
    assert daemons() == []


def test_a_daemon_that_runs_already_is_told_in_words() -> None:
    assert played(StartSync(role=MASTER, sync=OURS)) == ()
    assert failure_of(OURS).text.endswith("it runs already: another program started it (EEXIST)")


def test_no_daemon_starts_while_a_service_has_a_real_server_of_the_other_family() -> None:
    settled(desired(MIXED))
    assert "no service may have a real server of the other address family" in failure_of(OURS).text
    assert snapshot().sync == {}


def test_no_real_server_of_the_other_family_is_taken_while_a_daemon_runs() -> None:
    assert played(StartSync(role=BACKUP, sync=OURS)) == ()
    (one,) = MIXED[WEB].destinations
    adding = AddDestination(service=WEB, destination=one)
    failures = played(AddService(service=WEB, settings=Settings(scheduler="rr")), adding)
    assert failures == (
        Failure(
            (adding,),
            "add real server [fd00::9]:80 to tcp 192.0.2.1:80: refused: a real server of the other "
            "address family needs forwarding tunnel and no connection sync (EINVAL)",
        ),
    )
    assert read()[WEB].destinations == ()


def test_sync_starts_with_the_change_that_takes_the_last_real_server_of_the_other_family_away() -> None:
    settled(desired(MIXED))
    one_family: Table = {WEB: ServiceEntry(scheduler="rr", destinations=(server("10.0.0.9"),))}
    settled(desired(one_family, sync=OURS, sync_owned=True))
    assert snapshot().sync == {MASTER: OURS, BACKUP: OURS}


def test_mixed_families_come_with_the_change_that_gives_up_sync() -> None:
    """The daemons stop after the real server was refused: it comes with the read that follows a failure."""
    settled(desired({}, sync=OURS, sync_owned=True))
    want = desired(MIXED, sync_owned=True)
    for _ in range(2):
        played(*core.diff(snapshot(), want))
    assert settled(want) == ()
    assert snapshot().sync == {}
