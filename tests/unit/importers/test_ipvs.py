"""The table of IPVS, as ipvsadm writes it and as the kernel has it, becomes a configuration."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.config.load import loads
from anycast.core.dataplane.ipvs import Destination, MarkKey, Persistent, ServiceEntry, ServiceKey, Table
from anycast.core.values.configuration import (
    ConnectionSync,
    Forwarding,
    Protocol,
    SchedulerFlag,
    Timeouts,
    Tunnel,
    TunnelType,
)
from anycast.importers.importing import Source, finished
from anycast.importers.ipvs import save
from anycast.importers.ipvs.kernel import KERNEL, setup_of
from anycast.importers.report import Fate, Report
from anycast.importers.services import NO_PLACE
from anycast.importers.source import SourceError
from tests.unit.importers import golden

USUAL = Timeouts(tcp=900, tcp_fin=120, udp=300)
WEB = ServiceKey(protocol=Protocol.TCP, address=ip_address("192.0.2.1"), port=80)


@pytest.mark.parametrize("name", ["saved", "script"])
def test_what_ipvsadm_takes_becomes_what_is_expected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden.FOLDER)
    golden.check(Source.IPVS, f"ipvs/{name}", [f"ipvs/{name}.save"])


SAVED = "-A -t 192.0.2.1:80 -s wrr\n-a -t 192.0.2.1:80 -r 10.9.2.1:80 -g -w 1\n-a -t 192.0.2.1:80 -r 10.9.2.2:80 -g -w 1\n"


def reported(text: str, folder: Path) -> list[str]:
    """What is said of a file, with its places."""
    file = folder / "saved"
    file.write_text(text)
    report = Report()
    save.read([file], report)
    return [f"{note.fate}, {[place.line for place in note.places]}: {note.text}" for note in report.notes()]


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (SAVED, True),
        (SAVED.replace("-g -w 1\n", "-g -w 1 -x 100 -y 50\n", 1), False),
        (SAVED.replace("-A", "ipvsadm -A").replace("-a", "ipvsadm -a"), False),
        ("-A -t 192.0.2.1:80 -s wrr\n", False),
    ],
    ids=["as it is saved", "written by hand", "a script", "no real server"],
)
def test_thresholds_that_a_saved_table_has_lost_are_told_once(
    text: str, *, lost: bool, tmp_path: Path
) -> None:
    found = [one for one in reported(text, tmp_path) if "thresholds: `ipvsadm -S` leaves" in one]
    assert len(found) == lost
    assert all(one.startswith("to write by you, [0]: ") for one in found), found


@pytest.mark.parametrize(
    ("scheduler", "weight", "moves"), [("mh", 0, True), ("mh", 1, False), ("sh", 0, False), ("wlc", 0, False)]
)
def test_a_server_that_may_have_no_place_in_the_scheduler_s_table_is_told(
    scheduler: str, weight: int, *, moves: bool, tmp_path: Path
) -> None:
    """Under sh the present weight counts, and one of 0 has a place."""
    text = SAVED.replace("wrr", scheduler).replace("10.9.2.2:80 -g -w 1", f"10.9.2.2:80 -g -w {weight}")
    assert (f"different, [3]: {NO_PLACE}" in reported(text, tmp_path)) is moves
    table: Table = {
        WEB: ServiceEntry(
            scheduler=scheduler, destinations=(server("10.9.2.1"), server("10.9.2.2", weight=weight))
        )
    }
    report = Report()
    setup_of(table, USUAL, [], report)
    assert any(note.text == NO_PLACE for note in report.notes()) is moves


def server(
    address: str, weight: int = 1, forwarding: Forwarding = Forwarding.DR, tunnel: Tunnel | None = None
) -> Destination:
    return Destination(
        address=ip_address(address), port=80, weight=weight, forwarding=forwarding, tunnel=tunnel or Tunnel()
    )


def test_the_table_of_the_kernel_is_written_as_it_is() -> None:
    table: Table = {
        WEB: ServiceEntry(
            scheduler="mh",
            flags=frozenset({SchedulerFlag.MH_PORT, SchedulerFlag.MH_FALLBACK}),
            destinations=(server("10.9.2.1"), server("10.9.2.2", weight=0)),
        ),
        ServiceKey(protocol=Protocol.UDP, address=ip_address("192.0.2.2"), port=80): ServiceEntry(
            scheduler="rr",
            persistent=Persistent(timeout=360, prefix=24),
            destinations=(
                server(
                    "10.9.2.1", forwarding=Forwarding.TUNNEL, tunnel=Tunnel(type=TunnelType.GUE, port=6080)
                ),
            ),
        ),
        MarkKey(mark=7, version=4): ServiceEntry(scheduler="wlc", destinations=(server("10.9.2.1"),)),
    }
    report = Report()
    sync = ConnectionSync(interface="eth1", id=7)
    setup = setup_of(table, Timeouts(tcp=600, tcp_fin=60, udp=30), [sync], report)
    text = finished(Source.IPVS, setup, report, KERNEL).text
    config = loads(text).config
    web, other = config.vips
    assert [service.name for service in web.services] == ["tcp/80"]
    assert [one.weight for one in web.services[0].pool.servers] == [1, 0]
    (service,) = other.services
    assert service.tunnel == Tunnel(type=TunnelType.GUE, port=6080)
    assert service.persistence is not None
    assert service.persistence.ipv4_prefix == 24
    assert config.timeouts == Timeouts(tcp=600, tcp_fin=60, udp=30)
    assert config.connection_sync is not None
    assert config.connection_sync.interface == "eth1"
    said = [note.text for note in report.notes() if note.fate is Fate.IMPOSSIBLE]
    assert any(text.startswith("mark 7") for text in said)


def test_an_empty_table_is_said() -> None:
    with pytest.raises(SourceError, match="empty"):
        setup_of({}, USUAL, [], Report())
