"""`anycast doctor` on a node whose files are a directory of the test."""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
from pathlib import Path

import pytest

from anycast.cli import doctor
from anycast.cli.main import main
from anycast.cli.parser import CONFIG, parser
from anycast.config import kept
from anycast.config.load import load
from anycast.core.dataplane.kernel import IPVS_SYSCTLS

RELEASE = "6.1.0-18-amd64"
FILES = {
    "proc/sys/kernel/osrelease": RELEASE,
    "proc/self/status": "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n",
    "proc/self/uid_map": "0 0 4294967295",
    "proc/self/mounts": "proc /proc proc rw 0 0\n",
    "proc/meminfo": "MemTotal: 16000000 kB\n",
    "proc/sys/net/ipv4/conf/all/rp_filter": "0",
    "sys/module/ip_vs/parameters/conn_tab_bits": "20",
    f"lib/modules/{RELEASE}/modules.builtin": "kernel/ip_vs.ko\nkernel/ip_vs_mh.ko\n",
    f"lib/modules/{RELEASE}/modules.dep": "",
    **{f"proc/sys/{name.replace('.', '/')}": value for name, value in IPVS_SYSCTLS.items()},
}
SLOPPY = "proc/sys/net/ipv4/vs/sloppy_tcp"
BAD = "bgp: {local_as: none}\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ANYCAST_CONFIG", raising=False)
    for path, text in FILES.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(root: Path, *argv: str) -> int:
    return doctor.run(parser().parse_args(["doctor", *argv]), root)


def break_it(root: Path) -> None:
    (root / SLOPPY).write_text("0")


def test_a_good_node_is_exit_code_0_and_says_what_was_not_checked(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root) == 0
    assert "info no_configuration: " in capsys.readouterr().out


def test_a_finding_is_one_line_with_its_fix_and_the_exit_code_1(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it(root)
    assert run(root) == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("warning sysctl_differs: net.ipv4.vs.sloppy_tcp is 0, wanted 1: ")
    assert first.endswith(
        "| fix: `sysctl -w net.ipv4.vs.sloppy_tcp=1`, and for the next boot in /etc/sysctl.d/60-anycast.conf (--fix writes it)"
    )
    assert last.startswith("0 errors, 1 warning, ")


def test_the_expected_connections_are_the_operators_to_say(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, "--connections", "5000000") == 1
    assert "5,000,000 connections take 1.7 GB" in capsys.readouterr().out


@pytest.mark.parametrize("number", ["0", "-1", "many", "1e6", "1000000001"])
def test_no_number_of_connections_is_wrong_usage(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["doctor", f"--connections={number}"])
    assert exit_.value.code == 2
    assert "expected a number from 1 to 1,000,000,000" in capsys.readouterr().err


def test_for_programs_it_is_one_document(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_it(root)
    assert run(root, "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["kernel"], document["configuration"], document["ok"]) == (RELEASE, None, False)
    worst = document["findings"][0]
    assert (worst["severity"], worst["code"], worst["automatic"]) == ("warning", "sysctl_differs", True)


@pytest.mark.parametrize("place", ["option", "environment", "default"])
def test_a_configuration_with_problems_is_explained_as_by_check(
    root: Path, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = root / CONFIG.lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_text(BAD)
    if place == "environment":
        monkeypatch.setenv("ANYCAST_CONFIG", str(file))
    assert run(root, *(["--config", str(file)] if place == "option" else [])) == 78
    problems = capsys.readouterr().err
    assert main(["check", str(file)]) == 78
    assert capsys.readouterr().err == problems


def test_a_configuration_with_problems_is_a_document_for_programs(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = root / "bad.yaml"
    file.write_text(BAD)
    assert run(root, "--json", "--config", str(file)) == 78
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_a_named_file_must_be_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "--config", str(root / "none.yaml")) == 78
    assert "none.yaml: the file cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--fix"], ["--fix", "--json"]], ids=" ".join)
def test_without_a_terminal_nothing_is_written_unasked(
    root: Path, argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it(root)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert run(root, *argv) == 2
    assert "needs --yes" in capsys.readouterr().err
    assert not (root / "etc").exists()


def test_a_document_is_not_mixed_with_questions(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_it(root)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert run(root, "--fix", "--json") == 2


def test_yes_alone_is_wrong_usage(root: Path) -> None:
    assert run(root, "--yes") == 2


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "ye\n"])
def test_on_a_terminal_only_a_yes_writes(
    root: Path, answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it(root)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert run(root, "--fix") == 1
    out = capsys.readouterr().out
    assert "sysctl -w net.ipv4.vs.sloppy_tcp=1" in out
    assert out.endswith("nothing was written\n")
    assert (root / SLOPPY).read_text() == "0"


def test_a_yes_on_the_terminal_writes_what_was_shown(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it(root)
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert run(root, "--fix") == 0
    shown, _, remains = capsys.readouterr().out.partition("written; what remains:")
    assert "+net.ipv4.vs.sloppy_tcp = 1" in shown
    assert "sysctl_differs" not in remains
    assert (root / SLOPPY).read_text() == "1"


def test_a_second_fix_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_it(root)
    assert run(root, "--fix", "--yes") == 0
    file = root / "etc/sysctl.d/60-anycast.conf"
    before = file.stat().st_ino, file.stat().st_mtime_ns
    capsys.readouterr()
    assert run(root, "--fix", "--yes") == 0
    assert capsys.readouterr().out.endswith("nothing to write\n")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == before


def test_a_fix_for_programs_tells_what_it_wrote_and_what_remains(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    break_it(root)
    assert run(root, "--fix", "--yes", "--json") == 0
    fix = json.loads(capsys.readouterr().out)["fix"]
    assert [one["path"] for one in fix["files"]] == ["/etc/sysctl.d/60-anycast.conf"]
    assert fix["sysctls"] == {"net.ipv4.vs.sloppy_tcp": "1"}
    assert fix["failures"] == []
    assert "sysctl_differs" not in {one["code"] for one in fix["remaining"]}


def test_a_fix_that_fails_is_exit_code_1_and_says_why(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_it(root)
    (root / "etc").mkdir()
    (root / "etc/sysctl.d").symlink_to("/proc/none")  # where nobody can make a directory
    assert run(root, "--fix", "--yes") == 1
    out, err = capsys.readouterr()
    assert err.startswith("anycast doctor: /etc/sysctl.d/60-anycast.conf: not written: ")
    assert "0 errors, 0 warnings" in out  # the sysctl itself was set


def test_a_file_that_is_no_text_is_left_as_it_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    break_it(root)
    file = root / "etc/sysctl.d/60-anycast.conf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\xff\xfe")
    assert run(root, "--fix", "--yes") == 1
    assert "60-anycast.conf" in capsys.readouterr().err
    assert file.read_bytes() == b"\xff\xfe"


def test_what_the_running_agent_says_is_wrong_is_a_finding(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = root / "run" / "anycast"
    runtime.mkdir(parents=True, exist_ok=True)
    body = json.dumps({"standing": [{"kind": "exabgp_outdated", "text": "ExaBGP is older"}]}).encode()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime / "ops.sock"))
        listener.listen()

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                head = f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                client.sendall(head + body)

        thread = threading.Thread(target=answer)
        thread.start()
        assert run(root) == 1
        thread.join()
    assert "warning condition: ExaBGP is older" in capsys.readouterr().out


def test_a_file_that_is_not_in_force_is_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = root / "anycast.yaml"
    text = (
        "bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}\n"
        "vips: {web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1]}}\n"
    )
    file.write_text(text)
    state = root / "var/lib/anycast"
    state.mkdir(parents=True)
    pieces = kept.pieces(load(file), [(str(file), text.encode())])
    (state / kept.FILE).write_bytes(b"".join(pieces))
    run(root, "--config", str(file))
    assert "not_in_force" not in capsys.readouterr().out
    file.write_text(text.replace("192.0.2.1", "192.0.2.2"))
    assert run(root, "--config", str(file)) == 1
    said = capsys.readouterr().out
    assert f"warning not_in_force: {file} is not the configuration that was in force last, since 20" in said
    assert "fix: `anycast reload`" in said
    (state / kept.FILE).write_text("damaged")  # or of another user
    run(root, "--config", str(file))
    assert "not_in_force" not in capsys.readouterr().out
