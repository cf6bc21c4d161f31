from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from anycast.cli.main import main
from anycast.config.changes import changes
from anycast.config.load import load
from anycast.core.values.configuration import Config, Neighbor
from anycast.render.exabgp import exabgp_conf, exabgp_env
from anycast.render.template import render

ROOT = Path(__file__).parents[3]
GOLDEN = Path(__file__).parent / "golden"
SNIPPETS = ROOT / "exabgp.conf.d"
EXABGP = Path(sys.executable).with_name("exabgp")
COMMAND = "/usr/bin/env anycast"

validates = pytest.mark.skipif(not EXABGP.exists(), reason=f"ExaBGP is not installed at {EXABGP}")


def config(name: str = "full") -> Config:
    return load(ROOT / "examples" / f"{name}.yaml", hostname="lb1").config


def with_neighbor(**changes: object) -> Config:
    """The full example with its first neighbor changed, and no other."""
    full = config()
    neighbor = replace(full.bgp.neighbors[0], **changes)  # type: ignore[arg-type]
    return replace(full, bgp=replace(full.bgp, neighbors=(neighbor,)))


def validate(text: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "exabgp.conf"
    file.write_text(text, encoding="ascii")
    return subprocess.run(
        [EXABGP, "validate", file],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def variables(text: str) -> dict[str, str]:
    """As systemd's EnvironmentFile is read, quotes aside: there are none."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def environment(config: Config) -> dict[str, str]:
    """As `exabgp_env`, for a user that this machine has too: ExaBGP refuses to begin for one it does not find."""
    return variables(exabgp_env(replace(config, node=replace(config.node, exabgp_user="nobody"))))


def bare(text: str) -> list[str]:
    """The lines of a configuration without comments."""
    lines = [re.sub(r"\s*#.*", "", line).rstrip() for line in text.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("name", ["minimal", "full"])
def test_what_is_rendered_is_what_was_reviewed(name: str) -> None:
    conf = exabgp_conf(config(name), command=COMMAND)
    assert conf == (GOLDEN / f"{name}.conf").read_text(encoding="ascii")
    assert exabgp_env(config(name)) == (GOLDEN / f"{name}.env").read_text(encoding="ascii")


@validates
@pytest.mark.parametrize("name", ["minimal", "full", "web", "dns", "syslog"])
def test_exabgp_takes_what_is_rendered(name: str, tmp_path: Path) -> None:
    text = exabgp_conf(config(name), command=COMMAND)
    result = validate(text, tmp_path, **environment(config(name)))
    assert result.returncode == 0, result.stdout + result.stderr


@validates
@pytest.mark.parametrize(
    "neighbor",
    [
        {"passive": True},
        {"families": frozenset({4, 6})},
        {"password": "#{[1,2]}!$%&()*+-./:<=>?@^_`|~"},
        {"password": None},
        {"remote_as": 4200000000},
        {
            "address": IPv6Address("fd00::fe"),
            "local_address": IPv6Address("fd00::1"),
            "families": frozenset({4, 6}),
            "password": "x" * 80,
        },
    ],
    ids=str,
)
def test_exabgp_takes_every_kind_of_neighbor(neighbor: dict[str, object], tmp_path: Path) -> None:
    result = validate(exabgp_conf(with_neighbor(**neighbor), command=COMMAND), tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@validates
def test_exabgp_would_refuse_a_neighbor_it_does_not_understand(tmp_path: Path) -> None:
    text = exabgp_conf(config(), command=COMMAND).replace("hold-time 9", "hold-time 2")
    assert validate(text, tmp_path).returncode != 0


def test_the_process_stands_before_the_neighbors() -> None:
    text = exabgp_conf(config(), command=COMMAND)
    assert text.index("process anycast {") < text.index("neighbor 10.2.1.254 {")


def test_every_vip_address_is_owned_once() -> None:
    full = config()
    text = exabgp_conf(replace(full, vips=full.vips * 2), command=COMMAND)
    assert re.findall(r"--own (\S+)", text.replace(";", " ")) == [
        "192.0.2.1/32",
        "192.0.2.2/32",
        "192.0.2.3/32",
        "192.0.2.53/32",
        "2001:db8:99::1/128",
    ]


def test_vips_that_share_a_prefix_own_it_once() -> None:
    found = exabgp_conf(load(ROOT / "examples" / "internet-dns.yaml", hostname="lb1").config, command=COMMAND)
    assert re.findall(r"--own (\S+)", found.replace(";", " ")) == ["192.0.2.0/24", "2001:db8:53::/48"]


def test_nothing_that_lets_a_route_outlive_its_node_is_rendered() -> None:
    lines = bare(exabgp_conf(config(), command=COMMAND))
    assert not [line for line in lines if "graceful-restart" in line or "adj-rib-out false" in line]
    assert sum(line.strip() == "adj-rib-out true;" for line in lines) == 2


def test_no_capability_and_no_attribute_is_asked_for_that_a_router_may_end_the_session_for() -> None:
    """RFC 8950 (nexthop), AS paths and link bandwidth: docs/behaviours.md, Q03 to Q06."""
    text = " ".join(bare(exabgp_conf(config(), command=COMMAND)))
    text = text.replace("capability { add-path receive; }", "")  # each of four kinds of router takes it
    assert not [word for word in ("capability", "nexthop", "as-path", "extended-community") if word in text]


def test_without_a_view_nothing_is_asked_of_the_router() -> None:
    text = exabgp_conf(with_neighbor(view=False), command=COMMAND)
    assert not [word for word in ("--view", "add-path", "update", "negotiated") if word in text]
    assert "--view 65001:1179:167903489 " in exabgp_conf(config(), command=COMMAND)


def test_a_passive_neighbor_can_be_reached() -> None:
    text = exabgp_conf(with_neighbor(passive=True), command=COMMAND)
    assert "    passive true;\n    listen 179;\n" in text


@pytest.mark.parametrize(
    "command", ["", "/bin/a;b", "/bin/a 'b c'", "/bin/{a}", "/bin/a  b", "/bin/ä", "/bin/a\nb", "/a #"]
)
def test_a_command_exabgp_would_misread_is_refused(command: str) -> None:
    with pytest.raises(ValueError, match="cannot stand in ExaBGP's run line"):
        exabgp_conf(config(), command=command)


@pytest.mark.parametrize("password", ['a"b', "a b", "a\nb", "a;b", "ä", ""])
def test_a_password_that_would_end_early_is_refused(password: str) -> None:
    with pytest.raises(ValueError, match="a password cannot stand"):
        exabgp_conf(with_neighbor(password=password), command=COMMAND)


@pytest.mark.parametrize("user", ["a\nexabgp_api_cli=true", "a\r", "ä", "a\0"])
def test_no_value_reaches_beyond_its_line(user: str) -> None:
    full = config()
    with pytest.raises(ValueError, match="cannot stand in a configuration"):
        exabgp_env(replace(full, node=replace(full.node, exabgp_user=user)))


def test_a_template_that_asks_for_what_is_not_given_is_a_defect_that_shows() -> None:
    with pytest.raises(UndefinedError, match="'user' is undefined"):
        render("exabgp.env", bind="")


def test_an_ipv6_neighbor_without_a_local_address_is_refused() -> None:
    lost = with_neighbor(address=IPv6Address("fd00::fe"), local_address=None)
    with pytest.raises(ValueError, match="neighbor fd00::fe has no local address"):
        exabgp_conf(lost, command=COMMAND)


def test_the_router_id_serves_as_the_local_address_of_ipv4() -> None:
    lost = with_neighbor(local_address=None)
    assert "    local-address 10.2.1.1;\n" in exabgp_conf(lost, command=COMMAND)
    assert variables(exabgp_env(lost))["exabgp_tcp_bind"] == "10.2.1.1"


def test_each_local_address_is_listened_on_once() -> None:
    full = config()
    second = Neighbor(
        address=IPv4Address("10.2.1.253"), remote_as=65000, local_address=IPv4Address("10.2.1.1")
    )
    more = replace(full, bgp=replace(full.bgp, neighbors=(*full.bgp.neighbors, second)))
    assert variables(exabgp_env(more))["exabgp_tcp_bind"] == "10.2.1.1 fd00:2:1::1"


def test_root_keeps_its_rights_and_others_drop_theirs() -> None:
    full = config()
    root = replace(full, node=replace(full.node, exabgp_user="root"))
    assert variables(exabgp_env(full))["exabgp_daemon_drop"] == "true"
    assert variables(exabgp_env(root))["exabgp_daemon_drop"] == "false"
    assert variables(exabgp_env(root))["exabgp_daemon_user"] == "root"


@validates
def test_exabgp_understands_the_environment() -> None:
    wanted = environment(config())
    clean = {key: value for key, value in os.environ.items() if not key.startswith("exabgp")}
    result = subprocess.run(
        [EXABGP, "env", "--env"],
        env={**clean, **wanted},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    seen = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
    for name, value in wanted.items():
        assert seen[name.replace("_", ".")].strip("'") == value


def test_the_snippets_are_what_is_rendered_from_the_full_example() -> None:
    snippets = [path.read_text(encoding="utf-8") for path in sorted(SNIPPETS.glob("*.conf"))]
    assert len(snippets) == 3
    assert bare("\n".join(snippets)) == bare(exabgp_conf(config(), command=COMMAND))
    assert (SNIPPETS / "exabgp.env").read_text(encoding="ascii") == exabgp_env(config())


@validates
def test_exabgp_takes_the_snippets_put_together(tmp_path: Path) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(SNIPPETS.glob("*.conf")))
    result = validate(text, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_readme_names_every_file() -> None:
    readme = (SNIPPETS / "README.md").read_text(encoding="utf-8")
    for path in SNIPPETS.iterdir():
        assert path.name == "README.md" or f"| `{path.name}` |" in readme


def secret_config(folder: Path, lines: str) -> Path:
    file = folder / "anycast.yaml"
    file.write_text(
        "bgp:\n  local_as: 65001\n  router_id: 10.2.1.1\n  remote_as: 65000\n"
        f"  neighbors: [10.2.1.254]\n{lines}vips: {{w: {{address: 192.0.2.1, port: 80, servers: 10.9.2.1}}}}\n",
        encoding="utf-8",
    )
    return file


def test_a_password_in_a_file_or_a_variable_is_only_in_what_is_rendered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret-word\n", encoding="utf-8")
    monkeypatch.setenv("A_BGP_PASSWORD", "s3cret-word")
    for lines in (f"  password_file: {secret}\n", "  password_env: A_BGP_PASSWORD\n"):
        file = secret_config(tmp_path, lines)
        assert "s3cret-word" not in repr(load(file, hostname="lb1"))
        assert main(["render", "exabgp", "--config", str(file)]) == 0
        assert 'md5-password "s3cret-word";' in capsys.readouterr().out
        assert main(["render", "router-frr", "--config", str(file)]) == 0
        assert "s3cret-word" in capsys.readouterr().out
        assert main(["check", str(file)]) == 0
        said = capsys.readouterr()
        assert "s3cret-word" not in said.out + said.err


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "cannot be read: No such file"),
        ("", "is empty"),
        ("hid den", "cannot be used"),
        ("x" * 81, "cannot be used"),
    ],
)
def test_a_password_that_cannot_be_used_is_told_without_it(
    text: str | None, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = tmp_path / "password"
    if text is not None:
        secret.write_text(text, encoding="utf-8")
    file = secret_config(tmp_path, f"  password_file: {secret}\n")
    assert main(["render", "exabgp", "--config", str(file)]) == 78
    said = capsys.readouterr().err
    assert "the password of the neighbor 10.2.1.254" in said
    assert why in said
    assert "hid den" not in said
    # Without it the environment can be written all the same.
    assert main(["render", "exabgp", "--env", "--config", str(file)]) == 0


def test_all_passwords_that_cannot_be_used_are_told_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = secret_config(tmp_path, "").with_name("two.yaml")
    neighbors = [
        f"{{address: 10.2.1.{n}, password_file: {tmp_path}/{'one' if n < 9 else 'two'}}}" for n in (1, 2, 9)
    ]
    text = (tmp_path / "anycast.yaml").read_text().replace("[10.2.1.254]", f"[{', '.join(neighbors)}]")
    file.write_text(text.replace("router_id: 10.2.1.1", "router_id: 10.2.1.100"))
    (tmp_path / "two").write_text("")
    assert main(["render", "exabgp", "--config", str(file)]) == 78
    assert capsys.readouterr().err == (
        f"{file}: the password of the neighbors 10.2.1.1, 10.2.1.2: {tmp_path}/one cannot be read: No such file or "
        f"directory; the password of the neighbor 10.2.1.9: {tmp_path}/two is empty, or larger than 4096 bytes\n"
    )


def test_another_place_of_a_password_is_a_change_that_exabgp_needs_a_restart_for(tmp_path: Path) -> None:
    before = load(secret_config(tmp_path, "  password_file: /a\n"), hostname="lb1").config
    after = load(secret_config(tmp_path, "  password_env: A\n"), hostname="lb1").config
    (change,) = changes(before, after)
    assert change.startswith("bgp: neighbor 10.2.1.254 changed (password)")


def test_the_environment_does_not_ask_for_what_has_the_passwords_in_clear() -> None:
    said = variables(exabgp_env(config()))
    log = {name: value for name, value in said.items() if name.startswith(("exabgp_log", "exabgp_debug"))}
    assert log == {
        "exabgp_log_level": "WARNING",
        "exabgp_log_configuration": "false",
        "exabgp_log_all": "false",
    }


@validates
@pytest.mark.parametrize("shown", [False, True])
def test_exabgp_does_not_tell_a_password_even_at_debug(tmp_path: Path, *, shown: bool) -> None:
    """And it would, without the line in the environment."""
    file = tmp_path / "exabgp.conf"
    file.write_text(
        "neighbor 127.0.0.1 { router-id 192.0.2.1; local-address 127.0.0.1; local-as 1; peer-as 2; passive true;\n"
        'md5-password "very-secret"; }\n'
    )
    said = {
        **environment(config()),
        "exabgp_log_level": "DEBUG",
        "exabgp_tcp_bind": "",
        "exabgp_daemon_drop": "false",
    }
    if shown:
        del said["exabgp_log_configuration"]
    with subprocess.Popen(
        [EXABGP, "server", file],
        env={**os.environ, **said},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        log = ""
        for line in process.stdout:
            log += line
            if "loaded new configuration" in line:
                break
        process.kill()
    assert "loaded new configuration" in log
    assert ("very-secret" in log) is shown
