"""Facts from the files of a node that is a directory of the test, and from this machine's network."""

from __future__ import annotations

import asyncio
import os
import pwd
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.core.values.configuration import Node
from anycast.core.values.speaker import Speaker, SpeakerType
from anycast.doctor import network
from anycast.doctor.facts import CAP_NET_ADMIN, Facts, Module, TableOption
from anycast.doctor.gather import gather, lease_socket, read_files
from anycast.sockets import bind_unix
from tests.unit.doctor.node import config

RELEASE = "6.1.0-18-amd64"
FILES = {
    "proc/sys/kernel/osrelease": f"{RELEASE}\n",
    "proc/self/status": "Name:\tpython3\nUid:\t1000\t0\t0\t0\nCapInh:\t0\nCapEff:\t0000000000001400\n",
    "proc/self/uid_map": "         0          0 4294967295\n",
    "proc/self/mounts": "proc /proc proc rw,nosuid 0 0\n",
    "proc/meminfo": "MemTotal:       16000000 kB\nMemFree: 1 kB\n",
    "proc/modules": "ip_vs_mh 16384 0 - Live 0x0\n",
    "proc/sys/net/ipv4/conf/all/rp_filter": "1\n",
    "proc/sys/net/ipv4/conf/eth0.7/arp_ignore": "1\n",
    "proc/sys/net/ipv4/vs/sloppy_tcp": "0\n",
    "sys/module/ip_vs/parameters/conn_tab_bits": "12\n",
    f"lib/modules/{RELEASE}/modules.builtin": "kernel/net/netfilter/ipvs/ip_vs_rr.ko\n",
    f"lib/modules/{RELEASE}/modules.dep": (
        "kernel/net/netfilter/ipvs/ip_vs.ko.xz: kernel/net/netfilter/nf_conntrack.ko.xz\n"
        "kernel/net/netfilter/ipvs/ip-vs-wlc.ko: kernel/net/netfilter/ipvs/ip_vs.ko.xz\n"
    ),
}

EXABGP = Speaker()


def write(root: Path, **files: str | None) -> None:
    for path, text in files.items():
        file = root / path
        if text is None:
            file.unlink()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, **FILES)
    return tmp_path


def read(root: Path) -> Facts:
    return read_files(config(), root)


def test_everything_of_a_whole_node_can_be_read(root: Path) -> None:
    facts = read(root)
    assert facts.unread == ()
    assert (facts.release, facts.memory, facts.conn_tab_bits) == (RELEASE, 16_384_000_000, 12)
    assert facts.initial_user_namespace is True


def test_the_effective_user_and_capabilities_count(root: Path) -> None:
    facts = read(root)
    assert facts.root
    assert facts.capabilities == frozenset({10, CAP_NET_ADMIN})


def test_a_mapped_user_namespace_is_seen(root: Path) -> None:
    write(root, **{"proc/self/uid_map": "0 1000 1\n"})
    assert read(root).initial_user_namespace is False


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("ip_vs", Module.LOADED),
        ("ip_vs_mh", Module.LOADED),
        ("ip_vs_rr", Module.BUILT_IN),
        ("ip_vs_wlc", Module.AVAILABLE),
        ("ip_vs_sh", Module.MISSING),
    ],
)
def test_what_there_is_of_a_module_is_known_without_loading_it(root: Path, name: str, state: Module) -> None:
    assert read(root).modules.state(name) is state


def test_without_a_list_a_module_that_is_not_loaded_is_unknown(root: Path) -> None:
    write(root, **{f"lib/modules/{RELEASE}/modules.dep": None})
    assert read(root).modules.state("ip_vs_sh") is Module.UNKNOWN
    assert read(root).modules.state("ip_vs") is Module.LOADED


def test_sysctls_are_read_by_their_names_those_of_each_interface_too(root: Path) -> None:
    assert read(root).sysctls == {
        "net.ipv4.vs.sloppy_tcp": "0",
        "net.ipv4.conf.all.rp_filter": "1",
        "net.ipv4.conf.eth0/7.arp_ignore": "1",
    }


def test_modules_at_boot_come_from_every_folder_without_comments(root: Path) -> None:
    write(
        root,
        **{
            "etc/modules-load.d/ours.conf": "# ip_vs_sh\nip_vs\n\n",
            "usr/lib/modules-load.d/theirs.conf": "ip-vs-mh\n; dummy\n",
            "usr/lib/modules-load.d/ours.conf": "hidden_by_etc\n",
            "etc/modules-load.d/ours.conf.bak": "no_conf_file\n",
        },
    )
    assert read(root).modules.at_boot == {"ip_vs", "ip_vs_mh"}


def test_modules_of_the_packages_unit_are_loaded_at_boot_unless_it_is_masked(root: Path) -> None:
    unit = (Path(__file__).parents[3] / "packaging/systemd/anycast-modules.service").read_text()
    write(root, **{"usr/lib/systemd/system/anycast-modules.service": unit})
    found = read(root).modules
    assert found.by_unit == {"ip_vs", "ip_vs_mh", "ip_vs_rr"}
    assert not found.by_file
    masked = root / "etc/systemd/system/anycast-modules.service"
    masked.parent.mkdir(parents=True)
    masked.symlink_to("/dev/null")
    assert read(root).modules.at_boot == set()


@pytest.mark.parametrize(
    "line",
    [
        "options ip_vs conn_tab_bits=18",
        "options  ip_vs  other=1 conn_tab_bits=18",
        "options ip_vs \\\n  conn_tab_bits=18",
    ],
)
def test_the_option_of_the_table_is_found_as_modprobe_would(root: Path, line: str) -> None:
    write(root, **{"etc/modprobe.d/local.conf": f"{line}\n"})
    assert read(root).conn_tab_option == TableOption(bits=18, file="/etc/modprobe.d/local.conf")


@pytest.mark.parametrize(
    "line",
    ["# options ip_vs conn_tab_bits=18", "options ip_vs_mh conn_tab_bits=18", "alias ip_vs conn_tab_bits=18"],
)
def test_a_line_that_only_looks_like_the_option_is_none(root: Path, line: str) -> None:
    write(root, **{"etc/modprobe.d/local.conf": f"{line}\n"})
    assert read(root).conn_tab_option is None


def test_of_several_options_the_file_with_the_last_name_wins(root: Path) -> None:
    write(
        root,
        **{
            "usr/lib/modprobe.d/a.conf": "options ip_vs conn_tab_bits=14\n",
            "etc/modprobe.d/b.conf": "options ip_vs conn_tab_bits=18\n",
        },
    )
    assert read(root).conn_tab_option == TableOption(bits=18, file="/etc/modprobe.d/b.conf")


@pytest.mark.parametrize(
    ("mounts", "is_read_only"),
    [
        ("proc /proc proc rw 0 0\nproc /proc/sys proc ro,nosuid 0 0\n", True),
        ("proc /proc/sys proc rw 0 0\nproc /proc proc ro 0 0\n", False),
        ("proc /proc proc ro 0 0\nproc /proc proc rw 0 0\n", False),
        ("proc /proc proc ro 0 0\n", True),
        ("sysfs /sys sysfs ro 0 0\n", False),
    ],
)
def test_the_innermost_and_last_mount_says_whether_sysctls_can_be_written(
    root: Path, mounts: str, *, is_read_only: bool
) -> None:
    write(root, **{"proc/self/mounts": mounts})
    assert read(root).sysctls_read_only is is_read_only


def test_what_cannot_be_read_is_said_with_file_and_reason(root: Path) -> None:
    write(root, **{"proc/meminfo": None, "sys/module/ip_vs/parameters/conn_tab_bits": None})
    facts = read(root)
    assert (facts.memory, facts.conn_tab_bits) == (None, None)
    assert [(one.what, one.why) for one in facts.unread] == [
        ("memory", "/proc/meminfo: No such file or directory"),
        (
            "the size of the connection table",
            "/sys/module/ip_vs/parameters/conn_tab_bits: No such file or directory",
        ),
    ]


def test_a_node_without_any_file_is_no_failure(tmp_path: Path) -> None:
    facts = read_files(None, tmp_path)
    assert facts.release == "unknown"
    assert {one.what for one in facts.unread} > {"capabilities", "rp_filter and ARP settings"}


def test_a_node_without_ip_vs_is_not_asked_for_its_table(tmp_path: Path) -> None:
    """Asking would load the module."""
    facts = asyncio.run(gather(None, tmp_path))
    assert facts.ipvs is None
    assert "the IPVS table" not in {one.what for one in facts.unread}


def test_the_interfaces_of_this_namespace_are_read_without_a_right() -> None:
    every = {one.name: one for one in asyncio.run(network.read_interfaces())}
    assert (every["lo"].neighbours, every["lo"].mtu > 0) == (False, True)


def test_a_route_says_by_which_interface_and_how_large() -> None:
    here = ip_address("127.0.0.1")
    interfaces = asyncio.run(network.read_interfaces())
    mtu = next(one.mtu for one in interfaces if one.name == "lo")
    route = asyncio.run(network.read_routes([here], interfaces))[here]
    assert route is not None
    assert (route.interface, route.mtu, route.gateway, route.local) == ("lo", mtu, None, True)


def test_the_lease_socket_is_read_with_the_groups_of_its_user(tmp_path: Path) -> None:
    node = Node(name="lb1", runtime_dir="/run/here", exabgp_user="nobody")
    assert lease_socket(node, EXABGP, tmp_path) is None
    path = tmp_path / "run/here/lease.sock"
    path.parent.mkdir(parents=True)
    with bind_unix(path, mode=0o640):
        found = lease_socket(node, EXABGP, tmp_path)
        assert found is not None
        assert (found.mode, found.uid, found.gid) == (0o640, os.geteuid(), path.stat().st_gid)
        user = pwd.getpwnam("nobody")
        assert found.user == user.pw_uid
        assert user.pw_gid in found.groups
        assert lease_socket(replace(node, exabgp_user="nobody-here"), EXABGP, tmp_path) is None


def test_the_announcer_is_in_the_group_of_exabgp_too(tmp_path: Path) -> None:
    """Its unit puts it there."""
    node = Node(name="lb1", runtime_dir="/run/here", exabgp_user="daemon")
    path = tmp_path / "run/here/lease.sock"
    path.parent.mkdir(parents=True)
    with bind_unix(path, mode=0o660):
        found = lease_socket(node, Speaker(type=SpeakerType.KERNEL_TABLE, user="nobody"), tmp_path)
        assert found is not None
        user, exabgp = pwd.getpwnam("nobody"), pwd.getpwnam("daemon")
        assert found.user == user.pw_uid
        assert {user.pw_gid, exabgp.pw_gid} <= found.groups


def test_programs_are_those_of_this_network_namespace(root: Path) -> None:
    write(
        root, **{f"proc/{pid}/comm": f"{name}\n" for pid, name in ((7, "bgpd"), (8, "chronyd"), (9, "bird"))}
    )
    for name, namespace in (("self", "net:[1]"), ("7", "net:[1]"), ("9", "net:[2]")):
        (root / f"proc/{name}/ns").mkdir(parents=True, exist_ok=True)
        (root / f"proc/{name}/ns/net").symlink_to(namespace)
    assert read(root).programs == {"bgpd", "chronyd"}  # whose cannot be read counts


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, None),
        ({"etc/chrony/chrony.conf": "makestep 1 3\n"}, None),
        (
            {"etc/chrony/chrony.conf": "# makestep 1 3\nmakestep 0.1 -1\n"},
            "/etc/chrony/chrony.conf:2 (makestep 0.1 -1)",
        ),
        ({"etc/chrony.conf": "makestep 1.0 -1\nmakestep 1 3\n"}, None),
        (
            {"etc/chrony/chrony.conf": "makestep 1 3\n", "etc/chrony/conf.d/a.conf": "makestep 1 -1\n"},
            "/etc/chrony/conf.d/a.conf:1 (makestep 1 -1)",
        ),
        ({"etc/chrony/chrony.conf": "makestep\n"}, None),
    ],
)
def test_a_chrony_that_may_always_set_the_clock_is_found_by_its_last_line(
    root: Path, files: dict[str, str], told: str | None
) -> None:
    write(root, **files)
    assert read(root).clock_steps == told


def test_resolvers_are_those_of_resolv_conf(root: Path) -> None:
    text = "# x\nnameserver 10.0.0.53\nnameserver fe80::1%up0\nnameserver ?\noptions edns0\nnameserver 2001:db8::53\n"
    write(root, **{"etc/resolv.conf": text})
    assert read(root).resolvers == (ip_address("10.0.0.53"), ip_address("2001:db8::53"))


@pytest.mark.parametrize(
    ("text", "strict"),
    [
        (None, True),
        ("DefaultZone=public\n", True),
        ("IPv6_rpfilter=yes\n", True),
        ("IPv6_rpfilter = loose\n", False),
        ("IPv6_rpfilter=no\n", False),
    ],
)
def test_without_nft_firewalld_is_believed_what_its_file_says(
    root: Path, text: str | None, *, strict: bool
) -> None:
    write(root, **{"proc/7/comm": "firewalld\n", "sys/module/nf_tables/refcnt": "1\n"})
    if text is not None:
        write(root, **{"etc/firewalld/firewalld.conf": text})
    found = asyncio.run(gather(config(), root)).strict_reverse_path6
    assert bool(found) is strict


STRICT = """{"nftables": [{"rule": {"family": "inet", "table": "t", "chain": "c", "expr": [
{"match": {"op": "==", "left": {"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, "right": false}}, {"drop": null}]}}]}"""


@pytest.mark.parametrize(
    ("program", "strict"),
    [
        (f"cat <<'END'\n{STRICT}\nEND", ("table inet t, chain c",)),
        ("echo '{\"nftables\": []}'", ()),
        ("echo no JSON", ()),
        ("echo Operation not permitted >&2; exit 1", ()),
    ],
)
def test_strict_rules_are_those_that_nft_tells(root: Path, program: str, strict: tuple[str, ...]) -> None:
    write(root, **{"usr/sbin/nft": f"#!/bin/sh\n{program}\n", "sys/module/nf_tables/refcnt": "1\n"})
    (root / "usr/sbin/nft").chmod(0o755)
    assert asyncio.run(gather(config(), root)).strict_reverse_path6 == strict
