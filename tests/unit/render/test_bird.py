"""What `anycast render bird` and `table-env` write. What BIRD makes of it: tests/contract/test_kernel_table.py."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from anycast.cli.main import main
from anycast.config.load import load, loads
from anycast.core.rendering import listed, table_digest
from anycast.core.values.configuration import Config
from anycast.core.values.speaker import Speaker, SpeakerType
from anycast.render.bird import bird_conf, table_env
from anycast.render.frr_bfd import frr_bfd_conf
from anycast.render.router import router

ROOT = Path(__file__).parents[3]
TABLE = Speaker(type=SpeakerType.KERNEL_TABLE)


def example(name: str) -> Config:
    config = load(ROOT / "examples" / f"{name}.yaml", hostname="lb1").config
    return config if config.speaker.is_table else replace(config, speaker=TABLE)


@pytest.mark.skipif(shutil.which("bird") is None, reason="no BIRD here: apt install bird2")
@pytest.mark.parametrize("name", ["bird", "ospf", "full", "primary-backup", "two-fabrics", "dual-stack"])
def test_bird_takes_what_is_rendered(name: str, tmp_path: Path) -> None:
    config = example(name)
    neighbors = tuple(replace(one, password_from=None) for one in config.bgp.neighbors)
    config = replace(config, bgp=replace(config.bgp, neighbors=neighbors))
    file = tmp_path / "bird.conf"
    file.write_text(f"router id 10.0.0.1;\nprotocol device {{}}\n{bird_conf(config)}")
    done = subprocess.run(["bird", "-p", "-c", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_each_router_is_told_what_is_its_own() -> None:
    text = """
speaker: kernel-table
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors:
    - {address: 10.2.1.254, remote_as: 65000, export: [{vips: a, med: 7}]}
    - {address: 10.2.2.254, remote_as: 65001, local_address: 10.2.2.1}
vips:
  a: {address: 192.0.2.1, port: 80, servers: [10.9.2.1], extended_communities: ["target:65000:1"]}
  b: {address: 192.0.2.2, port: 80, servers: [10.9.2.1], role: backup}
"""
    rendered = bird_conf(loads(text, hostname="lb1").config)
    first, second = (
        rendered.split(f"filter anycast_to_{n}_ipv4")[1].split("protocol bgp")[0] for n in (1, 2)
    )
    assert "bgp_med = 7;" in first
    assert "bgp_ext_community.add((generic, 0x2fde8, 0x1));" in first
    assert "192.0.2.2/32\n    ] then reject;" in first
    assert "bgp_local_pref = 0;" not in first
    assert "bgp_local_pref = 50;" in second
    assert "bgp_path.prepend" not in second
    assert "bgp_local_pref = 0;" in second


def test_what_a_node_with_bird_does_not_need_is_said() -> None:
    with pytest.raises(ValueError, match="run no bfdd beside it"):
        frr_bfd_conf(example("bird"))
    with pytest.raises(ValueError, match="no neighbor is configured: routers that speak OSPF alone"):
        router([example("ospf")])


SESSIONS = """
speaker: kernel-table
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  listen_port: 1790
  weight: 3
  neighbors:
    - {address: 10.2.1.254, remote_as: 65000, port: 179, ttl_security: true}
    - {address: 10.2.2.254, local_address: 10.2.2.1, remote_as: 65000, port: 1791, multihop: 4}
    - {address: "fe80::1", local_address: "fe80::2", remote_as: 65000, interface: eth0, families: [ipv4, ipv6],
       extended_next_hop: true, passive: true}
vips:
  a: {addresses: [192.0.2.1, "2001:db8::1"], port: 80, servers: [{name: x, addresses: [10.9.2.1, "fd00::1"]}]}
"""


def test_sessions_that_are_not_the_plain_one_are_written_for_bird_as_for_exabgp(tmp_path: Path) -> None:
    loaded = loads(SESSIONS, hostname="lb1")
    assert loaded.warnings == ()
    rendered = bird_conf(loaded.config)
    near, far, link = (part.split("protocol bgp")[0] for part in rendered.split("protocol bgp ")[1:])
    assert "local 10.2.1.1 port 1790 as 65001;" in near
    assert "    direct;\n    ttl security on;\n" in near
    assert "neighbor 10.2.2.254 port 1791 as 65000;\n    multihop 4;\n" in far
    assert '    interface "eth0";\n    direct;\n    passive;\n' in link
    assert link.count("extended next hop on;") == 1
    assert rendered.count("bgp_ext_community.add((generic, 0x4fde9, 0x4a371b00));  # this node's share") == 4
    assert not list(listed(loaded.config)), "a weight needs no list of the VIPs"
    if shutil.which("bird"):
        file = tmp_path / "bird.conf"
        file.write_text(f"router id 10.0.0.1;\nprotocol device {{}}\n{rendered}")
        done = subprocess.run(["bird", "-p", "-c", str(file)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_the_digest_moves_with_every_setting_of_a_session() -> None:
    config = loads(SESSIONS, hostname="lb1").config
    first, *rest = config.bgp.neighbors
    others = [
        *(replace(first, port=5), replace(first, multihop=3), replace(first, ttl_security=2)),
        replace(first, extended_next_hop=True),
    ]
    bgps = [
        *(replace(config.bgp, neighbors=(one, *rest)) for one in others),
        *(replace(config.bgp, weight=weight) for weight in (4, None)),
        replace(config.bgp, listen_port=5),
    ]
    seen = {table_digest(replace(config, bgp=one)) for one in (config.bgp, *bgps)}
    assert len(seen) == 8


def test_a_backup_costs_more_by_ospf_and_a_drained_one_most() -> None:
    text = """
speaker: {type: kernel-table, ospf: {interfaces: [eth1], router_id: 10.2.1.1}}
vips:
  a: {address: 192.0.2.1, port: 80, servers: [10.9.2.1]}
  b: {address: 192.0.2.2, port: 80, servers: [10.9.2.1], role: backup}
"""
    rendered = (
        bird_conf(loads(text, hostname="lb1").config).split("filter anycast_to_ospf4")[1].split("protocol")[0]
    )
    drained, backup, usual = (
        rendered.index(what) for what in ("metric2 = 16000000", "metric2 = 1000;", "metric1 = 10;")
    )
    assert drained < backup < usual
    assert "192.0.2.2/32 ]" in rendered
    assert "192.0.2.1/32" not in rendered


def test_the_digest_moves_with_what_bird_must_know_and_with_nothing_else() -> None:
    config = example("bird")
    (vip,) = config.vips
    same = replace(config, vips=(vip, replace(vip, name="other", addresses=(vip.addresses[0] + 1,))))
    assert table_digest(same) == table_digest(config)  # a VIP without attributes needs nothing
    assert table_digest(replace(config, vips=(replace(vip, med=7),))) != table_digest(config)
    assert table_digest(replace(config, bgp=replace(config.bgp, hold_time=9))) != table_digest(config)
    assert f'define anycast_rendered = "{table_digest(config)}";' in bird_conf(config)


def test_the_announcer_gets_its_environment_and_none_where_exabgp_announces() -> None:
    assert "\nANYCAST_TABLE=1179\n" in table_env(example("bird"))
    assert "ANYCAST_BIRD=/run/bird/bird.ctl\n" in table_env(example("bird"))
    assert "\nANYCAST_TABLE=\n" in table_env(load(ROOT / "examples" / "minimal.yaml", hostname="lb1").config)


def test_what_is_not_this_nodes_speaker_is_not_rendered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bird, minimal = (str(ROOT / "examples" / f"{name}.yaml") for name in ("bird", "minimal"))
    assert main(["render", "bird", "--config", minimal]) == 78
    assert "write speaker: {type: kernel-table}" in capsys.readouterr().err
    assert main(["render", "exabgp", "--config", bird]) == 78
    # What its unit asks for is empty, and ExaBGP does not start with it.
    file = tmp_path / "exabgp.conf"
    file.write_text("neighbor")
    assert main(["render", "exabgp", "--config", bird, "-o", str(file)]) == 0
    assert file.read_text() == ""
