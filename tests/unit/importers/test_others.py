"""ExaBGP's healthcheck, anycast-healthchecker and ldirectord become a configuration and a report of every line."""

from pathlib import Path

import pytest

from anycast.importers.exabgp.options import arguments, of_line
from anycast.importers.importing import Source
from anycast.importers.model import Place, Setup
from anycast.importers.read import read
from anycast.importers.report import Fate, Report
from anycast.importers.source import SourceError
from tests.unit.importers import golden

SAMPLES = [
    (Source.EXABGP, "exabgp/three", ["exabgp/three.conf"]),
    (Source.EXABGP, "exabgp/five", ["exabgp/five.conf"]),
    (Source.ANYCAST_HEALTHCHECKER, "anycast-healthchecker/main", ["anycast-healthchecker/main.conf"]),
    (Source.LDIRECTORD, "ldirectord/all", ["ldirectord/all.cf"]),
]


@pytest.mark.parametrize(("source", "name", "files"), [pytest.param(*one, id=one[1]) for one in SAMPLES])
def test_a_file_becomes_what_is_expected(
    source: Source, name: str, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(golden.FOLDER)
    golden.check(source, name, files)


@pytest.mark.parametrize("source", [Source.EXABGP, Source.LDIRECTORD])
def test_passwords_are_nowhere(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden.FOLDER)
    (files,) = [files for of, name, files in SAMPLES if of is source and name != "exabgp/three"]
    text, report = golden.imported(source, *files)
    assert "s3cret" in Path(files[0]).read_text()
    assert "s3cret" not in text + report


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("python3 -m exabgp healthcheck --ip 192.0.2.1", ["--ip", "192.0.2.1"]),
        ("/usr/bin/python -u /lab/healthcheck.py -s", ["-s"]),
        ("exabgp-healthcheck", []),
        ("/usr/local/bin/announce --healthcheck", None),
    ],
)
def test_a_healthcheck_is_known_by_its_command_line(line: str, found: list[str] | None) -> None:
    assert arguments(line) == found


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (["--cmd", "a b"], [("command", "a b")]),
        (["--fall=2", "--withdraw"], [("fall", "2"), ("withdraw-on-down", "")]),
        (["--med", "50", "--ip", "x"], [("med", "50"), ("ip", "x")]),
        (["--med", "--ip", "x", "50"], [("med", ""), ("ip", "x"), ("50", "")]),
        (["-sd", "-i5", "-c", "x"], [("silent", ""), ("debug", ""), ("interval", "5"), ("command", "x")]),
    ],
)
def test_options_are_read_as_healthcheck_reads_them(words: list[str], options: list[tuple[str, str]]) -> None:
    assert [(one.name, one.value) for one in of_line(words, Place("x"))] == options


def setup_of(source: Source, text: str, folder: Path) -> tuple[Setup, Report]:
    file = folder / "source"
    file.write_text(text)
    report = Report()
    return read(source, [file], report)[1], report


HEALTHCHECK = "process a {\n run python3 -m exabgp healthcheck --cmd /bin/x --ip 192.0.2.1%s;\n}\nneighbor 10.2.1.254 {\n local-as 65001;\n peer-as 65000;\n local-address 10.2.1.1;\n%s}\n"


def test_the_med_of_the_first_address_is_that_of_healthcheck(tmp_path: Path) -> None:
    setup, _ = setup_of(Source.EXABGP, HEALTHCHECK % (" --ip 192.0.2.2 --start-ip 1", ""), tmp_path)
    assert [(vip.addresses, vip.settings.get("med")) for vip in setup.vips] == [
        (("192.0.2.2",), 100),
        (("192.0.2.1",), 101),
    ]


def test_a_neighbor_gets_what_its_processes_announce(tmp_path: Path) -> None:
    text = HEALTHCHECK % ("", " api {\n  processes [ b ];\n }\n")
    more = "neighbor 10.2.1.253 {\n local-as 65001;\n peer-as 65000;\n api {\n  processes [ a ];\n }\n}\n"
    setup, report = setup_of(Source.EXABGP, text + more, tmp_path)
    assert setup.bgp is not None
    neighbors = setup.bgp.get("neighbors")
    assert isinstance(neighbors, tuple)
    assert len(neighbors) == 1
    assert any("is left out" in note.text for note in report.notes() if note.fate is Fate.IMPOSSIBLE)


def test_a_disabled_service_is_not_announced_here_either(tmp_path: Path) -> None:
    text = "[a]\ncheck_cmd = /bin/true\nip_prefix = 192.0.2.1/32\n"
    setup, _ = setup_of(Source.ANYCAST_HEALTHCHECKER, text, tmp_path)
    assert setup.vips == ()


def test_what_is_no_ini_file_is_said_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"source:2: this is no INI file"):
        setup_of(Source.ANYCAST_HEALTHCHECKER, "[a]\nnothing\n", tmp_path)


def test_port_53_is_udp_for_ldirectord(tmp_path: Path) -> None:
    text = "virtual=192.0.2.1:53\n\treal=10.9.2.1:53 gate\n\tchecktype=connect\n"
    setup, _ = setup_of(Source.LDIRECTORD, text, tmp_path)
    (service,) = setup.vips[0].services
    assert service.protocol == "udp"
    assert str(service.check).count("icmp") == 1


def test_a_process_in_each_of_several_neighbors_is_one(tmp_path: Path) -> None:
    process = " process a {\n  run exabgp-healthcheck --cmd /bin/x --ip 192.0.2.1 --withdraw-on-down;\n }\n"
    text = "".join(
        f"neighbor 10.2.1.{n} {{\n local-as 65001;\n peer-as 65000;\n local-address 10.2.1.1;\n{process}}}\n"
        for n in (253, 254)
    )
    setup, report = setup_of(Source.EXABGP, text, tmp_path)
    assert [vip.addresses for vip in setup.vips] == [("192.0.2.1",)]
    assert [note.text for note in report.notes() if note.fate is Fate.IMPOSSIBLE] == []
    assert setup.bgp is not None
    assert "export" not in str(setup.bgp)
