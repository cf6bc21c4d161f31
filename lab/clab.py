"""The same site for containerlab: `anycast.clab.yml` and the files under `clab/` that it binds.

They are kept in the repository so that containerlab needs nothing of ours to be run first; a test holds them
to the topology.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from lab import build, configs
from lab.topology import LAN, Node, Role, Topology, topology

HERE = Path(__file__).resolve().parent
FRR_IMAGE = "quay.io/frrouting/frr:10.5.1"
NODE_IMAGE = "anycast-lab"
_LAB = "/opt/anycast/lab"  # in the image
_HEAD = """\
# Written by `python -m lab clab --write`: change lab/topology.py and write it again.
# The balancers need ip_vs and ip_vs_mh in the host's kernel: `modprobe -a ip_vs ip_vs_mh`.
# Build the image first, from the top of the checkout: docker build -t anycast-lab -f lab/Dockerfile .
"""
_DAEMONS = """\
bgpd=yes
vtysh_enable=yes
zebra_options="  -A 127.0.0.1 -s 90000000 --v6-rr-semantics"
bgpd_options="   -A 127.0.0.1"
"""


def files(site: Topology | None = None) -> dict[str, str]:
    """Every file by its path below `lab/`."""
    site = site or topology()
    result = {
        "anycast.clab.yml": _HEAD + yaml.safe_dump(_document(site), sort_keys=False, width=110),
        "clab/r1/daemons": _DAEMONS,
        "clab/r1/frr.conf": configs.frr_conf(site),
        "clab/r1/vtysh.conf": "service integrated-vtysh-config\n",
        f"clab/{LAN}/ip.batch": _lines(build.bridge_commands(site)),
    }
    for node in site.nodes:
        result[f"clab/{node.name}/ip.batch"] = _lines(build.node_commands(site, node.name))
    for balancer in site.balancers:
        result[f"clab/{balancer.name}/anycast.yaml"] = configs.anycast_yaml(
            site, balancer, runtime_dir="/run/anycast", state_dir="/var/lib/anycast", listen="0.0.0.0:9644"
        )
    return result


def differing() -> list[Path]:
    """Files that are not as they should be, and such as should not be."""
    wanted = {HERE / name: text for name, text in files().items()}
    there = {path for path in (HERE / "clab").rglob("*") if path.is_file()}
    changed = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    return sorted([*changed, *(there - set(wanted))])


def write() -> None:
    shutil.rmtree(HERE / "clab", ignore_errors=True)
    for name, text in files().items():
        path = HERE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _document(site: Topology) -> dict[str, Any]:
    bridge = {
        "kind": "linux", "image": NODE_IMAGE, "cmd": "sleep infinity",
        "binds": [f"clab/{LAN}/ip.batch:/etc/ip.batch:ro"], "exec": ["ip -batch /etc/ip.batch"],
    }  # fmt: skip
    return {
        "name": "anycast",
        "topology": {
            "nodes": {LAN: bridge, **{node.name: _node(node) for node in site.nodes}},
            "links": [{"endpoints": [f"{a}:{x}", f"{b}:{y}"]} for (a, x), (b, y) in site.links],
        },
    }


def _node(node: Node) -> dict[str, Any]:
    folder = f"clab/{node.name}"
    binds = [f"{folder}/ip.batch:/etc/ip.batch:ro"]
    image: dict[str, Any]
    match node.role:
        case Role.ROUTER:
            image = {"image": FRR_IMAGE}
            binds += [f"{folder}/{name}:/etc/frr/{name}" for name in ("daemons", "frr.conf", "vtysh.conf")]
        case Role.BALANCER:
            image = {"image": NODE_IMAGE, "cmd": f"{_LAB}/node-entrypoint.sh"}
            binds += [f"{folder}/anycast.yaml:/etc/anycast/anycast.yaml"]
        case Role.SERVER:
            image = {"image": NODE_IMAGE, "cmd": f"python3 -I -S {_LAB}/server.py {node.name}"}
        case Role.CLIENT:
            image = {"image": NODE_IMAGE, "cmd": "sleep infinity"}
    return {
        "kind": "linux",
        **image,
        "binds": binds,
        "sysctls": {"net.ipv6.conf.all.disable_ipv6": "0", **node.sysctls},
        "exec": ["ip -batch /etc/ip.batch"],
    }


def _lines(lines: list[str]) -> str:
    return "\n".join([*lines, ""])
