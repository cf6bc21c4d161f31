"""Imported configurations and the kernel: the table is that of the program they were written for."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import pytest
import yaml

from anycast.cli.main import main
from anycast.config.load import loads
from anycast.core.dataplane.ipvs import Table, entry
from anycast.core.dataplane.members import Memo, keys_of, membership
from anycast.core.values.configuration import Config
from anycast.importers.importing import Source, finished
from anycast.importers.ipvs.kernel import KERNEL, setup_of
from anycast.importers.model import Place
from anycast.importers.read import read
from anycast.importers.report import Fate, Report
from tests import corpus
from tests.contract.namespaces import network_namespace, run
from tests.contract.tables import desired, established, ipvsadm, snapshot

pytestmark = pytest.mark.lab

SAMPLES = Path(__file__).parents[1] / "unit" / "importers"
PATIENCE = 30.0  # seconds
GROWN = 3.0  # seconds after which a table that has something in it grows no more


@pytest.fixture(autouse=True)
def _namespace() -> Iterator[None]:
    with network_namespace():
        # Whoever is asked there does not answer, so no check fails before the table is looked at.
        run("ip", "link", "add", "void", "type", "dummy")
        run("ip", "link", "set", "void", "up")
        run("ip", "address", "add", "10.255.255.1/8", "dev", "void")
        run("ip", "address", "add", "fd00::ffff/8", "dev", "void", "nodad")
        yield


def table_of(config: Config) -> Table:
    """With every real server usable, so that no sorry pool serves."""
    memo = Memo()
    found: Table = {}
    for vip in config.vips:
        for address in vip.addresses:
            for key, service in zip(keys_of(vip, address), vip.services, strict=True):
                made = membership(vip, service, address.version, memo)
                found = {
                    **found,
                    key: entry(
                        made.empty, [member.down if member.sorry else member.up for member in made.members]
                    ),
                }
    return found


def imported(
    *files: Path, source: Source, node: str | None = None, addresses: Sequence[str] = ()
) -> tuple[list[str], Report]:
    """The table that our kernel has of it, as ipvsadm shows it, and the report. Of a fleet: that of a node."""
    report = Report()
    text = finished(*read(source, files, report, addresses), report, Place("")).text
    node = node or next(iter(yaml.safe_load(text).get("nodes", ())), None)
    established(desired(table_of(loads(text, node=node).config)))
    lines = sorted(ipvsadm())
    run("ipvsadm", "-C")
    return lines, report


class Keepalived:
    """The real one, its checkers alone."""

    def __init__(self, file: Path, folder: Path, *options: str) -> None:
        argv = ["keepalived", "--dont-fork", "--check", "--log-console", f"--use-file={file}", *options]
        argv += [f"--pid={folder}/pid", f"--checkers_pid={folder}/checkers"]
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=file.parent)

    def table(self, until: Sequence[str]) -> list[str]:
        """Once it is that; else the fullest that it was: what fails its check leaves it again."""
        deadline = time.monotonic() + PATIENCE
        fullest: list[str] = []
        while time.monotonic() < deadline and self._process.poll() is None:
            lines = sorted(ipvsadm())
            if len(lines) > len(fullest):
                fullest, deadline = lines, time.monotonic() + GROWN
            if lines == sorted(until):
                return lines
            time.sleep(0.05)
        return fullest

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)


@pytest.mark.skipif(shutil.which("keepalived") is None, reason="keepalived is not installed")
@pytest.mark.parametrize(
    ("name", "node", "only_there", "only_here"),
    [
        ("groups", None, [], []),
        ("checkers", None, [], []),
        ("pair", "lb1", [], []),
        (
            "language",
            None,
            ["-A -t 192.0.2.2:443 -s sh -b sh-port"],
            ["-A -t 192.0.2.2:443 -s sh -b sh-fallback,sh-port"],
        ),
    ],
)
def test_the_table_is_that_of_keepalived_but_for_what_the_report_says(
    name: str, node: str | None, only_there: list[str], only_here: list[str], tmp_path: Path
) -> None:
    file = SAMPLES / "keepalived" / f"{name}.conf"
    here, report = imported(file, source=Source.KEEPALIVED, node=node)
    # keepalived puts its sorry server into the table only when it serves.
    sorry = [line for line in here if " -r 10.9.2.99:" in line]
    assert all(line.endswith(" -w 0") for line in sorry)
    assert bool(sorry) == any(note.text.startswith("sorry_server: sorry") for note in report.notes())
    only_here = sorted(only_here + sorry)
    wanted = [line for line in here if line not in only_here] + only_there
    with Keepalived(file, tmp_path, *(["-i", node] if node else [])) as keepalived:
        there = keepalived.table(until=wanted)
    assert sorted(set(there) - set(here)) == only_there
    assert sorted(set(here) - set(there)) == only_here
    said = [note.text for note in report.notes() if note.fate is Fate.DIFFERENT]
    assert bool(only_here) == any(
        "sorry_server: sorry" in text or "fallback is added" in text for text in said
    )


MARKS_GO_TO = "198.51.100.77"  # the address whose packets a mark stands for: no file says it


@pytest.mark.skipif(shutil.which("keepalived") is None, reason="keepalived is not installed")
@pytest.mark.parametrize("file", [pytest.param(one, id=one.name) for one in corpus.files("keepalived")])
def test_the_table_of_other_peoples_files_is_that_of_keepalived_but_for_what_the_report_says(
    file: Path, tmp_path: Path
) -> None:
    run("ip", "route", "add", "default", "dev", "void")
    run("ip", "-6", "route", "add", "default", "dev", "void")
    here, report = imported(file, source=Source.KEEPALIVED, addresses=[MARKS_GO_TO])
    with Keepalived(file, tmp_path) as keepalived:
        there = keepalived.table(until=here)
    different = sorted(set(there) ^ set(here))
    told = [note.text for note in report.notes() if note.fate in (Fate.IMPOSSIBLE, Fate.DIFFERENT)]
    print(f"{file.name}: {len(there)} lines there, {len(here)} here; different: {different or 'none'}")
    assert not [line for line in different if not any(_about(line, text) for text in told)]


def _about(line: str, text: str) -> bool:
    """Whether a note tells of the service of this line of `ipvsadm -S`."""
    _, kind, where, *_ = line.split()
    service = f"mark {where}" if kind == "-f" else where.rpartition(":")[0].strip("[]")
    return re.search(rf"(?<![\w.:]){re.escape(service)}(?![\w.])", text) is not None


RUNNING = """\
-A -t 192.0.2.1:80 -s wrr -p 360 -M 255.255.255.0
-a -t 192.0.2.1:80 -r 10.9.2.1:8080 -m -w 3 -x 1000 -y 800
-a -t 192.0.2.1:80 -r 10.9.2.2:8080 -m -w 0
-A -t 192.0.2.1:443 -s mh -b mh-fallback,mh-port
-a -t 192.0.2.1:443 -r 10.9.2.1:443 -g -w 1
-a -t 192.0.2.1:443 -r 10.9.2.2:443 -g -w 1
-A -u 192.0.2.53:53 -s rr -o
-a -u 192.0.2.53:53 -r 10.9.2.5:53 -g -w 1
-A -t [2001:db8:99::1]:443 -s lc
-a -t [2001:db8:99::1]:443 -r [fd00:9:2::1]:443 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
"""


def test_the_running_table_is_imported_without_an_operation(capsys: pytest.CaptureFixture[str]) -> None:
    run("ipvsadm", "-R", stdin=RUNNING)
    before = ipvsadm()
    assert main(["import", "ipvs"]) == 0
    shown = capsys.readouterr().out
    there = snapshot()
    report = Report()
    assert there.timeouts is not None
    setup = setup_of(there.table, there.timeouts, (), report)
    text = finished(Source.IPVS, setup, report, KERNEL).text
    assert text == shown
    config = loads(text).config
    owned = frozenset(address for vip in config.vips for address in vip.addresses)
    assert established(desired(table_of(config), owned=owned), table_of(config)) == ()
    assert ipvsadm() == before
