"""`anycast import`: a file of another program in, ours out; no file is replaced unasked."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from anycast.cli.main import main
from anycast.config.load import load
from anycast.importers import source as source_module

KEEPALIVED = """\
virtual_server 192.0.2.1 80 {
    protocol TCP
    lb_kind DR
    lb_algo wlc
    real_server 10.9.2.1 80 {
        TCP_CHECK {
        }
    }
}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "keepalived.conf"
    file.write_text(KEEPALIVED)
    return file


def run(*words: object) -> int:
    try:
        return int(main(["import", *map(str, words)]))
    except SystemExit as exit_:
        return int(exit_.code or 0)


def test_the_file_goes_to_standard_output_and_the_report_beside_it(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("keepalived", source) == 0
    out, err = capsys.readouterr()
    assert "192.0.2.1" in out
    assert f"{source}:1: virtual_server: a service of a VIP" in err


def test_the_source_is_seen_from_the_file(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "anycast.yaml"
    assert run(source, "-o", new) == 0
    assert load(new, hostname="lb1").config.vips[0].name == "web"
    assert new.stat().st_mode & 0o007 == 0
    assert "1 VIP, 1 service, 1 real server" in capsys.readouterr().out


def test_a_file_that_is_there_stays_unless_it_is_forced(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "anycast.yaml"
    new.write_text("mine")
    assert run(source, "-o", new) == 1
    assert new.read_text() == "mine"
    assert "stays as it is" in capsys.readouterr().err
    assert run(source, "-o", new, "--force") == 0
    assert "192.0.2.1" in new.read_text()


def test_what_is_read_is_not_written_over(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(source)
    for target in (source, link):
        assert run(source, "-o", target, "--force") == 1
        assert "is what is read, and stays as it is" in capsys.readouterr().err
    assert "virtual_server" in source.read_text()


def test_strict_writes_nothing_where_a_line_is_lost(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "anycast.yaml"
    assert run(source, "-o", new, "--strict") == 0
    new.unlink()
    source.write_text(KEEPALIVED.replace("lb_algo", "smtp_alert\nlb_algo"))
    assert run(source, "-o", new, "--strict") == 1
    assert not new.exists()
    assert "1 line cannot be carried over" in capsys.readouterr().err


def test_a_warning_names_the_file_that_is_written(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_text(
        KEEPALIVED.replace("lb_algo wlc", "lb_algo mh\n    mh-port\n    persistence_timeout 60")
    )
    new = tmp_path / "anycast.yaml"
    assert run(source, "-o", new) == 0
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"{new}:")
    assert "with mh-port another balancer chooses by the client's port" in warning


def test_programs_get_every_line(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["vips"] == 1
    assert {"fate": "carried", "text": "lb_kind: forwarding", "file": str(source), "line": 3} in told["lines"]


@pytest.mark.parametrize("words", [("keepalived",), ("nothing.conf",), ("ldirectord", "."), ("README.md",)])
def test_what_cannot_be_imported_is_one_line(
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.md").write_text("# Nothing to import\n")
    assert run(*words) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("anycast import: ")
    assert err.count("\n") == 1


def test_a_mark_gets_the_address_that_is_named(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source.write_text(KEEPALIVED.replace("192.0.2.1 80", "fwmark 7").replace("protocol TCP", ""))
    assert run(source) == 78
    assert "--address" in capsys.readouterr().err
    assert run(source, "--address", "192.0.2.9", "--address", "2001:db8::9") == 0
    out = capsys.readouterr().out
    assert "address: 192.0.2.9\n    mark: 7\n" in out


def test_mh_takes_the_place_of_what_each_node_chooses_by_itself(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, "--mh") == 0
    out, err = capsys.readouterr()
    assert "scheduler" not in out  # it is the default
    assert "scheduler wlc: mh is written in its place" in err
    assert "each node chooses by itself" not in err


def test_a_table_comes_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = b"-A -t 192.0.2.1:80 -s mh -b mh-fallback,mh-port\n-a -t 192.0.2.1:80 -r 10.9.2.1:80 -g -w 1\n"
    source_module._stdin.cache_clear()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(saved)))
    assert run("-") == 0
    source_module._stdin.cache_clear()
    assert "servers: [10.9.2.1]" in capsys.readouterr().out
