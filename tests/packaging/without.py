"""Runs in a Debian that systemd has booted on a kernel without IPVS, with the package; the node itself serves its VIP.

What `inside.py` has is in the machine too. The result is /inside.json.
"""

from __future__ import annotations

from pathlib import Path

from tests.packaging.inside import (
    AGENT,
    CONFIG,
    EXABGP,
    GOOD,
    announced,
    codes,
    facts,
    main,
    prepare,
    run,
    shown,
    status,
    until,
)

MODULES = "anycast-modules.service"
ROUTER = "router.service"
LOCAL = """\
node: {name: lb1}
bgp:
  local_as: 65001
  router_id: 127.0.0.1
  neighbors: [{address: 127.0.0.2, remote_as: 65000}]
vips:
  dns: {address: 192.0.2.1, local: true, port: 53/udp, check: {type: command, argv: [/bin/true]}}
"""


def story() -> None:
    facts["modules"] = [name for name in ("ip_vs", "ip_vs_mh") if Path("/sys/module", name).exists()]
    facts["ipvs"] = Path("/proc/net/ip_vs").exists()
    facts["unit of the modules"] = [shown(MODULES, name) for name in ("ActiveState", "Result")]
    prepare()
    run("systemctl", "start", ROUTER)
    facts["start"] = run("systemctl", "restart", AGENT, EXABGP)
    until("announced", announced)
    facts["failed units"] = run("systemctl", "--failed", "--no-legend", "--plain")[1]
    facts["ready"] = status()["ready"]
    facts["doctor"] = codes()
    CONFIG.write_text(GOOD)
    facts["doctor with a VIP that needs it"] = codes()


if __name__ == "__main__":
    main(story)
