from __future__ import annotations

import dataclasses
import stat
import tarfile
from pathlib import Path

import pytest
import yaml

from anycast.cli import bug_report
from anycast.cli.bug_report import HIDDEN, _is_secret
from anycast.cli.main import main
from anycast.config.load import load
from anycast.core.values.checks import KINDS
from anycast.core.values.configuration import Neighbor
from tests.disks import files_of_at_most

PASSWORD = "correct-horse-battery"
CONFIG = f"""\
# the old one was hunter2hunter2
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{{address: 10.2.1.254, remote_as: 65000, password: {PASSWORD}}}]
vips:
  web: {{address: 192.0.2.1, port: 80, servers: [10.9.2.1]}}
  token: {{address: 192.0.2.2, port: 80, servers: [10.9.2.2]}}
"""
PART = """\
checks:
  login: {type: http, headers: {Authorization: Basic c2VjcmV0}}
"""


def written(folder: Path, text: str = CONFIG) -> Path:
    (folder / "conf.d").mkdir()
    (folder / "conf.d/checks.yaml").write_text(PART)
    file = folder / "anycast.yaml"
    file.write_text(text)
    return file


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return written(tmp_path)


def reported(config: Path) -> dict[str, str]:
    output = config.parent / "report.tar.gz"
    argv = ["bug-report", "--config", str(config), "--socket", str(config.parent / "none.sock")]
    assert main([*argv, "-o", str(output)]) == 0
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    with tarfile.open(output) as archive:
        found = {}
        for entry in archive:
            opened = archive.extractfile(entry)
            assert opened is not None
            found[entry.name.partition("/")[2]] = opened.read().decode()
    return found


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        # The programs of this machine are not there: what they would have told is not either.
        patch.setenv("PATH", "")
        return reported(written(tmp_path_factory.mktemp("report")))


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a configuration with a problem that quotes a secret, hooks in short form and a file that it includes."""
    text = CONFIG.replace("port: 80, servers: [10.9.2.2]", f"{PASSWORD}: 80")
    text += "include: more.yaml\nhooks: {chat: https://chat.example/hunter2-in-the-url}\n"
    file = written(tmp_path_factory.mktemp("report"), text)
    (file.parent / "more.yaml").write_text("hooks: {log: [/bin/log, --key, hunter2-of-a-program]}\n")
    return reported(file)


@pytest.fixture
def configuration_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is in the report: it takes three seconds."""
    monkeypatch.setattr(bug_report, "_told", lambda _: iter(()))


def test_it_holds_the_configuration_without_its_secrets(parts: dict[str, str]) -> None:
    main_file = yaml.safe_load(parts["configuration/00-anycast.yaml"])
    assert main_file["bgp"]["neighbors"] == [
        {"address": "10.2.1.254", "remote_as": 65000, "password": HIDDEN},
    ]
    assert main_file["vips"]["web"] == {"address": "192.0.2.1", "port": 80, "servers": ["10.9.2.1"]}
    assert yaml.safe_load(parts["configuration/01-checks.yaml"])["checks"]["login"]["headers"] == {
        "Authorization": HIDDEN
    }
    whole = "".join(parts.values())
    assert "c2VjcmV0" not in whole
    assert "hunter2" not in whole


def test_a_secret_is_taken_out_of_every_other_text(wrong: dict[str, str]) -> None:
    assert f"vips.token.{HIDDEN}" in wrong["check.txt"]
    others = {name: text for name, text in wrong.items() if not name.startswith("configuration/")}
    assert PASSWORD not in "".join(others.values())


def test_what_cannot_be_had_is_said_and_the_rest_is_there(parts: dict[str, str]) -> None:
    assert "not available" in parts["ipvs.txt"]
    assert "cannot reach" in parts["status.json"] or "no such socket" in parts["status.json"]
    assert parts["check.txt"].rstrip().endswith("1 neighbor")
    assert "show version" in parts["routers.txt"]


@pytest.mark.usefixtures("configuration_alone")
def test_a_configuration_that_cannot_be_read_is_left_out(config: Path) -> None:
    config.write_text(f"bgp: [{PASSWORD}\n")
    found = reported(config)
    assert "left out" in found["configuration/00-anycast.yaml"]
    assert PASSWORD not in found["configuration/00-anycast.yaml"]


def test_a_file_that_is_there_is_never_replaced(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = config.parent / "report.tar.gz"
    there.write_text("mine")
    assert main(["bug-report", "--config", str(config), "-o", str(there)]) == 1
    assert there.read_text() == "mine"
    assert "File exists" in capsys.readouterr().err


def test_every_setting_that_is_never_shown_is_a_secret_here() -> None:
    hidden = {
        field.name
        for kind in (*KINDS, Neighbor)
        for field in dataclasses.fields(kind)
        if not field.repr and not field.name.startswith("_")
    }
    assert hidden >= {"password", "headers", "send"}
    assert all(map(_is_secret, hidden))


@pytest.mark.usefixtures("configuration_alone")
def test_the_sample_with_every_option_keeps_none_of_its_secrets(tmp_path: Path) -> None:
    sample = Path(__file__).parents[3] / "examples/full.yaml"
    assert load(sample).config.bgp.neighbors
    file = tmp_path / "full.yaml"
    file.write_text(sample.read_text())
    text = reported(file)["configuration/00-full.yaml"]
    for secret in ("change-me", "pager.example.net", "EHLO"):
        assert secret in sample.read_text()
        assert secret not in text


def test_hooks_in_short_form_and_included_files_keep_their_secrets_too(wrong: dict[str, str]) -> None:
    assert yaml.safe_load(wrong["configuration/00-anycast.yaml"])["hooks"] == {"chat": HIDDEN}
    assert yaml.safe_load(wrong["configuration/01-more.yaml"])["hooks"] == {"log": [HIDDEN] * 3}
    assert "hunter2" not in "".join(wrong.values())


def test_an_archive_that_does_not_fit_is_told_and_not_left(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "report.tar.gz"
    argv = ["bug-report", "--config", str(config), "--socket", str(tmp_path / "none.sock"), "-o", str(output)]
    with files_of_at_most(100):
        assert main(argv) == 1
    assert "report.tar.gz cannot be written: File too large (name another file" in capsys.readouterr().err
    assert not output.exists()
