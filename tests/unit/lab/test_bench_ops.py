"""What bench-ops makes of its measurements, and that its agent's configuration is one."""

from __future__ import annotations

from pathlib import Path

from anycast.config.load import load
from lab.bench_ops import Figure, agent_yaml, summary


def test_a_goal_is_reached_by_the_share_it_speaks_of() -> None:
    values = [0.001] * 99 + [0.5]
    assert Figure(work="a", goal=0.01, share=0.5, values=values).reached == "yes"
    assert Figure(work="a", goal=0.01, values=values).reached == "NO"
    assert Figure(work="a", values=values).reached == "-"
    assert "p99 <= 10 ms" in summary([Figure(work="a", goal=0.01, values=values)])


def test_the_agent_gets_a_configuration_with_all_the_servers(tmp_path: Path) -> None:
    file = tmp_path / "anycast.yaml"
    file.write_text(agent_yaml(1000, tmp_path, 9644, 8080))
    loaded = load(file)
    servers = {
        server.name for vip in loaded.config.vips for one in vip.services for server in one.pool.servers
    }
    assert len(servers) == 1000
    assert len(loaded.config.vips) == 2
