from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from anycast.cli.main import main
from tests.unit.probes.peers import make

GOOD = """\
node: {name: lb1, exabgp_user: nobody}
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors:
    - {address: 10.2.1.254, remote_as: 65000, password: hunter2}
    - {address: 10.2.1.253, remote_as: 65000}
vips:
  web:
    address: 192.0.2.1
    ports: [80, 443]
    servers: [10.9.2.1, 10.9.2.2, 10.9.2.3, 10.9.2.4]
"""
BAD = GOOD.replace("65001", "none").replace("[80, 443]", "[80, 99999]")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "anycast.yaml"
    path.write_text(GOOD)
    return path


def test_what_a_check_lacks_on_this_machine_is_a_warning_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make(tmp_path, days=-1)
    expired, key = made.certificate, made.key
    (tmp_path / "plain").write_text("")
    path = tmp_path / "anycast.yaml"
    path.write_text(
        GOOD
        + f"""\
checks:
  good: {{type: command, argv: [/bin/sh]}}
  none: {{type: command, argv: [/no/such/program]}}
  plain: {{type: command, argv: [{tmp_path}/plain]}}
  tls: {{type: https, certificate: {expired}, key: {key}, ca: /no/ca.pem}}
"""
    )
    assert main(["check", str(path)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{path}: ok: ")
    lines = [line.removeprefix(f"{path}:") for line in said.err.splitlines()]
    assert lines[0].startswith(
        "15:32: warning: checks.none.argv[0]: there is no program /no/such/program on this machine ("
    )
    assert lines[1].startswith(
        f"16:33: warning: checks.plain.argv[0]: {tmp_path}/plain cannot be executed on this machine"
    )
    assert (
        lines[2]
        == f"17:35: warning: checks.tls.certificate: the certificate in {expired} has expired (renew it)"
    )
    assert "checks.tls.ca: /no/ca.pem cannot be read on this machine: No such file or directory" in lines[3]
    assert len(lines) == 4
    assert main(["check", "--json", str(path)]) == 0
    assert len(json.loads(capsys.readouterr().out)["warnings"]) == 4


def test_a_valid_file_is_summed_up_in_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file)]) == 0
    assert capsys.readouterr() == (f"{file}: ok: 1 VIP, 2 services, 4 real servers, 2 neighbors\n", "")


def test_every_problem_stands_on_its_own_line_with_a_count(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(BAD)
    assert main(["check", str(file)]) == 78
    out, err = capsys.readouterr()
    *problems, count = err.splitlines()
    assert out == ""
    assert [line.split(": ")[0] for line in problems] == [f"{file}:3:13", f"{file}:11:17"]
    assert count == f"{file}: 2 problems"


def test_a_check_for_programs_is_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(file), "--json"]) == 0
    good = json.loads(capsys.readouterr().out)
    assert (good["ok"], good["problems"], good["warnings"], good["real_servers"]) == (True, [], [], 4)
    file.write_text(BAD)
    assert main(["check", str(file), "--json"]) == 78
    out, err = capsys.readouterr()
    bad = json.loads(out)
    assert err == ""
    assert [(p["line"], p["path"]) for p in bad["problems"]] == [
        (3, ["bgp", "local_as"]),
        (11, ["vips", "web", "ports", 1]),
    ]


def test_a_warning_is_told_with_its_place_and_stops_nothing(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(GOOD.replace("10.9.2.4]", "{address: 10.9.2.4, weight: 2}]"))
    assert main(["check", str(file)]) == 0
    out, err = capsys.readouterr()
    assert out == f"{file}: ok: 1 VIP, 2 services, 4 real servers, 2 neighbors\n"
    (line,) = err.splitlines()
    assert line.startswith(f"{file}:12:73: warning: vips.web.servers[3].weight: weights 1 and 2: ")
    assert main(["check", str(file), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document = json.loads(out)
    assert document["ok"]
    assert [(one["line"], one["path"]) for one in document["warnings"]] == [
        (12, ["vips", "web", "servers", 3, "weight"])
    ]


def test_a_file_that_is_not_there_is_a_problem_of_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path / "none.yaml")]) == 78
    assert "none.yaml: the file cannot be read: No such file" in capsys.readouterr().err


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].startswith("https://json-schema.org/")


def test_exabgps_files_are_rendered(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "exabgp", "--config", str(file)]) == 0
    conf = capsys.readouterr().out
    assert "neighbor 10.2.1.254 {" in conf
    assert " announce --socket /run/anycast/lease.sock" in conf
    assert main(["render", "exabgp", "--config", str(file), "--env"]) == 0
    assert "exabgp_api_ack=true" in capsys.readouterr().out


def test_both_of_exabgps_files_are_written_at_once(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = []
    for words in ([], ["--env"]):
        assert main(["render", "exabgp", "--config", str(file), *words]) == 0
        expected.append(capsys.readouterr().out)
    conf, env = tmp_path / "exabgp.conf", tmp_path / "exabgp.env"
    argv = ["render", "exabgp", "--config", str(file), "-o", str(conf), "--env", str(env)]
    assert main(argv) == 0
    assert capsys.readouterr().out == ""
    assert [conf.read_text(), env.read_text()] == expected
    assert main([*argv[:-1], "/proc/none/exabgp.env"]) == 1
    assert "/proc/none/exabgp.env: cannot be written" in capsys.readouterr().err


def test_the_rendered_process_starts_with_the_program_that_rendered_it(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "anycast", "render", "exabgp", "--config", str(file)],
        env={**os.environ, "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert f"run {sys.executable} -m anycast announce " in done.stdout


def test_the_journal_can_lie_elsewhere(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["render", "exabgp", "--config", str(file)]
    assert main(argv) == 0
    assert " --journal /run/anycast/plugin/journal.json " in capsys.readouterr().out
    assert main([*argv, "--journal", "/run/other/journal.json"]) == 0
    assert " --journal /run/other/journal.json " in capsys.readouterr().out
    assert main([*argv, "--journal", "/run/two words"]) == 78
    assert "cannot stand in ExaBGP's run line" in capsys.readouterr().err


def test_a_rendered_file_is_replaced_whole_and_for_exabgp_only(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "exabgp"
    folder.mkdir()
    output = folder / "exabgp.conf"
    output.write_text("old")
    output.chmod(0o644)
    assert main(["render", "exabgp", "--config", str(file), "-o", str(output)]) == 0
    assert capsys.readouterr() == ("", "")
    assert "hunter2" in output.read_text()
    assert stat.S_IMODE(output.stat().st_mode) == (0o600 if os.geteuid() else 0o640)
    assert os.listdir(folder) == ["exabgp.conf"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_root_renders_exabgp_can_read_again_when_it_is_no_longer_root(
    file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "exabgp.conf"
    assert main(["render", "exabgp", "--config", str(file), "-o", str(output)]) == 0
    assert (output.stat().st_uid, output.stat().st_gid) == (0, pwd.getpwnam("nobody").pw_gid)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_without_exabgps_user_a_rendered_file_is_for_its_owner_and_it_says_so(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(GOOD.replace("exabgp_user: nobody", "exabgp_user: nobody-here"))
    output = tmp_path / "exabgp.conf"
    assert main(["render", "exabgp", "--config", str(file), "-o", str(output)]) == 0
    assert "there is no user nobody-here" in capsys.readouterr().err
    assert stat.S_IMODE(output.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_rendered_file_stays_with_its_owner(file: Path, tmp_path: Path) -> None:
    output = tmp_path / "exabgp.conf"
    output.write_text("old")
    os.chown(output, 65534, 65534)
    assert main(["render", "exabgp", "--config", str(file), "-o", str(output)]) == 0
    assert (output.stat().st_uid, output.stat().st_gid) == (65534, 65534)


def test_a_link_to_a_rendered_file_stays_a_link(file: Path, tmp_path: Path) -> None:
    link, target = tmp_path / "link.conf", tmp_path / "target.conf"
    link.symlink_to(target)
    assert main(["render", "exabgp", "--config", str(file), "-o", str(link)]) == 0
    assert link.is_symlink()
    assert "neighbor" in target.read_text()


def test_what_is_no_file_is_not_replaced(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert main(["render", "exabgp", "--config", str(file), "-o", str(pipe)]) == 1
    assert "cannot be written: it is no regular file" in capsys.readouterr().err
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert main(["render", "exabgp", "--config", str(file), "-o", str(tmp_path / "none" / "x.conf")]) == 1
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["render", "exabgp"], ["status"], ["maintenance", "on"], ["reload"]], ids=" ".join
)
def test_every_verb_that_is_given_an_invalid_file_says_so(
    argv: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(BAD)
    assert main([*argv, "--config", str(file)]) == 78
    assert f"{file}: 2 problems" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "mode", "said"),
    [
        ("s3cret", 0o600, ""),
        ("s3cret", 0o644, "everybody on this machine can read {} (chmod 600: root reads it alone)"),
        ("", 0o600, "{} has no password that can be used: it must be 1 to 80 printable ASCII"),
        ("hid den", 0o600, "{} has no password that can be used: it must be"),
    ],
)
def test_a_file_with_a_password_is_looked_at(
    text: str, mode: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "password"
    secret.write_text(text)
    secret.chmod(mode)
    path = tmp_path / "anycast.yaml"
    path.write_text(
        f"bgp: {{local_as: 65001, router_id: 10.2.1.1, remote_as: 65000, neighbors: 10.2.1.254, password_file: {secret}}}\n"
        "vips: {web: {address: 192.0.2.1, port: 80, servers: 10.9.2.1}}\n"
    )
    assert main(["check", str(path)]) == 0
    found = capsys.readouterr().err
    assert (f"bgp.password_file: {said.format(secret)}" in found) if said else (found == "")
    assert "hid den" not in found
    assert "s3cret" not in found


def test_the_file_can_be_given_as_other_commands_have_it(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--config", str(file)]) == 0
    assert capsys.readouterr().out.startswith(f"{file}: ok: ")
    with pytest.raises(SystemExit):
        main(["check", "--config", str(file), "other.yaml"])
    assert f"two files are given: other.yaml and {file}" in capsys.readouterr().err
