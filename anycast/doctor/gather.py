"""Reads a node. Changes nothing, loads nothing, and takes what it may not read for unread instead of failing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from anycast import files_below, managers
from anycast.announcer.kernel import Table as KernelTable
from anycast.core.dataplane.limit import CONN_MAX_FILE, STATUS, entries, limit_of
from anycast.core.values.configuration import Address, Config, Node
from anycast.core.values.speaker import Speaker
from anycast.doctor import multicast, network, programs, ruleset
from anycast.doctor.demands import addresses_to_reach, routers, sysctls_to_read
from anycast.doctor.facts import (
    Facts,
    Heard,
    LeaseSocket,
    Modules,
    Route,
    SpeakersTable,
    TableOption,
    Unread,
    conf,
)
from anycast.doctor.filter.rules import Table
from anycast.doctor.fleet_asked import asked
from anycast.doctor.served_here import udp_ports
from anycast.files_below import FilesBelow
from anycast.kernel import sysctl
from anycast.kernel.errors import KernelUnavailable

# As modprobe(8) and modules-load.d(5) have it: a file hides those of its name in later directories.
MODULES_UNIT = "anycast-modules.service"
_ALL_USERS = ["0", "0", "4294967295"]
_OPTION = re.compile(r"\s*options\s+ip_vs\s(?:.*\s)?conn_tab_bits=(\d+)")


async def gather(config: Config | None, root: Path = Path("/")) -> Facts:
    """The node's files below `root`, and the network namespace this process is in."""
    facts = read_files(config, root)
    unread = list(facts.unread)
    try:
        interfaces = await network.read_interfaces()
        reach = {*addresses_to_reach(config), *network.ANYWHERE, *facts.resolvers}
        ways = await network.read_routes(reach, interfaces)
        advertised = await network.read_advertised()
    except (OSError, KernelUnavailable) as error:
        unread.append(Unread(what="interfaces and routes", why=_why(error)))
    else:
        ends = routers(config) if config is not None else network.ANYWHERE
        named = (
            {one.interface for one in config.bgp.neighbors if one.interface} if config is not None else set()
        )
        facts = replace(
            facts,
            interfaces=interfaces,
            routes=ways,
            uplinks=_interfaces_of(ways[end] for end in ends) | named,
            advertised=advertised,
        )
    facts = await _with_reverse_path6(facts, root, unread)
    if config is not None and config.speaker.is_table:
        facts = await _with_table(facts, config.speaker.table, unread)
    # Not before ip_vs is there: asking for it loads it.
    if facts.modules.works("ip_vs"):
        try:
            table = await network.read_table()
        except KernelUnavailable as error:
            unread.append(Unread(what="the IPVS table", why=error.reason))
        else:
            facts = replace(facts, ipvs=frozenset(table.table))
    (rules, hidden), heard = await asyncio.gather(
        asyncio.to_thread(ruleset.read, root, facts.modules), _heard(facts, config, unread)
    )
    if config is not None and config.fleet is not None:
        facts = replace(facts, fleet=await asked(config.fleet))
    return replace(facts, heard=heard, packet_filter=rules, unread=(*unread, *hidden))


async def _with_table(facts: Facts, number: int, unread: list[Unread]) -> Facts:
    table = KernelTable(number)
    try:
        rules, foreign = await asyncio.to_thread(lambda: (table.rules(), table.foreign()))
    except (OSError, ValueError) as error:
        unread.append(Unread(what=f"the table {number}", why=str(error)))
        return facts
    finally:
        table.close()
    return replace(facts, speakers_table=SpeakersTable(rules=rules, foreign=tuple(map(str, foreign))))


async def _heard(facts: Facts, config: Config | None, unread: list[Unread]) -> Heard | None:
    if config is None or config.connection_sync is None:
        return None
    own = {str(address.ip) for one in facts.interfaces or () for address in one.addresses}
    try:
        return await multicast.listen(config.connection_sync, own)
    except OSError as error:
        unread.append(Unread(what="what other balancers announce by connection sync", why=_why(error)))
        return None


async def _with_reverse_path6(facts: Facts, root: Path, unread: list[Unread]) -> Facts:
    """The rules that drop what came in by another way than back, and the ways back if there are any."""
    try:
        strict = await asyncio.to_thread(ruleset.strict_reverse_path, root, facts.modules)
    except ruleset.UnreadableError:  # which is told of with all rules
        by_file = "firewalld" in facts.programs and _firewalld_is_strict(FilesBelow(root))
        strict = ("IPv6_rpfilter of firewalld",) if by_file else ()
    if not strict:
        return facts
    try:
        routes = await network.read_default_routes6()
    except (OSError, KernelUnavailable) as error:
        unread.append(Unread(what="the IPv6 default routes", why=_why(error)))
        routes = ()
    return replace(facts, strict_reverse_path6=strict, default_routes6=routes)


def _firewalld_is_strict(files: FilesBelow) -> bool:
    """Its default is; `loose` is strict too before 2.0, which only its rules tell."""
    for line in (files.optional("etc/firewalld/firewalld.conf") or "").splitlines():
        name, assigned, value = line.partition("=")
        if assigned and name.strip() == "IPv6_rpfilter":
            return value.strip().lower() in ("yes", "true", "strict")
    return True


def _resolvers(files: FilesBelow) -> tuple[Address, ...]:
    """resolv.conf(5)."""
    found: dict[Address, None] = {}
    for line in (files.optional("etc/resolv.conf") or "").splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                found[ip_address(words[1])] = None
    return tuple(one for one in found if not one.is_link_local)


def _interfaces_of(routes: Iterable[Route | None]) -> frozenset[str]:
    return frozenset(route.interface for route in routes if route is not None and not route.local)


def read_rules(root: Path, *, deadline: float) -> list[Table]:
    """Those of the packet filter that can be read. `deadline`: seconds for each program."""
    files = FilesBelow(root)
    release = (files.optional("proc/sys/kernel/osrelease") or "").strip()
    return ruleset.seen(root, _modules(files, release), deadline=deadline)[0]


def read_files(config: Config | None, root: Path) -> Facts:
    """What /proc, /sys, /etc and /lib tell."""
    files = FilesBelow(root)
    release = (files.needed("proc/sys/kernel/osrelease", "the kernel's release") or "unknown").strip()
    status = dict(_pairs(files.needed("proc/self/status", "capabilities") or ""))
    users = status.get("Uid", "").split()
    capabilities = status.get("CapEff", "").strip()
    mapped = files.needed("proc/self/uid_map", "the user namespace")
    memory = dict(_pairs(files.needed("proc/meminfo", "memory") or "")).get("MemTotal", "").split()
    modules = _modules(files, release)
    managed = managers.read(root)
    files.unread += [files_below.Unread("what manages the interfaces", why) for why in managed.unread]
    return Facts(
        release=release,
        root=users[1:2] == ["0"],
        capabilities=_bits(int(capabilities, 16)) if capabilities else None,
        initial_user_namespace=mapped.split() == _ALL_USERS if mapped is not None else None,
        memory=int(memory[0]) * 1024 if memory else None,
        modules=modules,
        conn_tab_bits=_conn_tab_bits(files) if modules.works("ip_vs") else None,
        conn_tab_option=_conn_tab_option(files),
        entries=_entries(files),
        bound=_bound(files) if config is not None and udp_ports(config) else None,
        sysctls=_sysctls(files, config),
        lease_socket=None if config is None else lease_socket(config.node, config.speaker, root),
        programs=managers.programs(root),
        managers=managed,
        beside=programs.read(files),
        clock_steps=_clock_steps(files),
        resolvers=_resolvers(files),
        sysctls_read_only=_read_only(files.needed("proc/self/mounts", "how /proc/sys is mounted") or ""),
        unread=tuple(Unread(what=what, why=why) for what, why in files.unread),
    )


def lease_socket(node: Node, speaker: Speaker, root: Path) -> LeaseSocket | None:
    """The unit of the announcer puts it into the group of ExaBGP, whom the agent gives the socket to."""
    path = Path(node.runtime_dir) / "lease.sock"
    try:
        found = os.stat(root / path.relative_to("/"))
        user = pwd.getpwnam(speaker.user if speaker.is_table else node.exabgp_user)
        also = {pwd.getpwnam(node.exabgp_user).pw_gid} if speaker.is_table else set()
    except (OSError, KeyError):
        return None
    return LeaseSocket(
        path=str(path),
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        user=user.pw_uid,
        groups=frozenset(os.getgrouplist(user.pw_name, user.pw_gid)) | also,
    )


def _configuration(files: FilesBelow, kind: str) -> Iterator[tuple[str, str]]:
    """Path and text of every `*.conf` of modprobe.d and its like, in the order of their names."""
    for path in files.drop_ins(kind):
        if (text := files.text(path)) is not None:
            yield f"/{path}", text.replace("\\\n", " ")


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """`Name: value` lines."""
    for line in text.splitlines():
        name, found, value = line.partition(":")
        if found:
            yield name, value


def _bits(mask: int) -> frozenset[int]:
    return frozenset(bit for bit in range(mask.bit_length()) if mask >> bit & 1)


def _modules(files: FilesBelow, release: str) -> Modules:
    folder = next((one for one in ("lib/modules", "usr/lib/modules") if files.names(f"{one}/{release}")), "")
    built_in = files.optional(f"{folder}/{release}/modules.builtin") if folder else None
    available = files.optional(f"{folder}/{release}/modules.dep") if folder else None
    proc = files.optional("proc/modules") or ""
    return Modules(
        loaded=frozenset(files.names("sys/module")) | {line.split()[0] for line in proc.splitlines()},
        built_in=None if built_in is None else frozenset(map(_module, built_in.splitlines())),
        available=None if available is None else frozenset(map(_module, available.splitlines())),
        by_file=frozenset(
            line.strip().replace("-", "_")
            for _, text in _configuration(files, "modules-load.d")
            for line in text.splitlines()
            if line.strip() and line.strip()[0] not in "#;"
        ),
        by_unit=_of_unit(files.first(f"systemd/system/{MODULES_UNIT}") or ""),
    )


def _of_unit(text: str) -> frozenset[str]:
    """What its `modprobe` loads. One that is masked is empty."""
    commands = (line.split() for line in text.splitlines() if line.startswith("ExecStart="))
    return frozenset(word for words in commands for word in words[1:] if not word.startswith("-"))


def _module(line: str) -> str:
    """`kernel/net/ipv4/ip-tunnel.ko.xz: …` is ip_tunnel."""
    return line.partition(":")[0].rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def _conn_tab_bits(files: FilesBelow) -> int | None:
    text = files.needed("sys/module/ip_vs/parameters/conn_tab_bits", "the size of the connection table")
    return int(text) if text is not None else None


def _entries(files: FilesBelow) -> int | None:
    """To count them the kernel walks the whole table."""
    limit = files.optional(f"proc/{CONN_MAX_FILE}")
    if limit is None or limit_of(limit) is None:
        return None
    return entries(files.optional(f"proc/{STATUS}") or "")


def _bound(files: FilesBelow) -> frozenset[tuple[Address, int]]:
    """By /proc/net/udp and udp6: each number is in the order of bytes of this machine, word by word."""
    found: set[tuple[Address, int]] = set()
    for name in ("udp", "udp6"):
        for line in (files.optional(f"proc/net/{name}") or "").splitlines()[1:]:
            words = line.split()
            text, _, port = words[1].partition(":") if len(words) > 1 else ("", "", "")
            try:
                found.add((_packed(bytes.fromhex(text)), int(port, 16)))
            except ValueError:
                continue
    return frozenset(found)


def _packed(kernels: bytes) -> Address:
    packed = b"".join(kernels[at : at + 4][::-1] for at in range(0, len(kernels), 4))
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _conn_tab_option(files: FilesBelow) -> TableOption | None:
    found = None
    for path, text in _configuration(files, "modprobe.d"):
        for line in text.splitlines():
            if match := _OPTION.match(line):
                found = TableOption(bits=int(match[1]), file=path)
    return found


def _clock_steps(files: FilesBelow) -> str | None:
    """chrony(5): `makestep threshold limit`; a negative limit is none, and the last line counts."""
    names = ["etc/chrony.conf", "etc/chrony/chrony.conf"]
    names += [
        f"etc/chrony/conf.d/{name}" for name in files.names("etc/chrony/conf.d") if name.endswith(".conf")
    ]
    found = None
    for path in names:
        for number, line in enumerate((files.optional(path) or "").splitlines(), 1):
            words = line.split()
            if len(words) > 2 and words[0].lower() == "makestep":
                found = (
                    f"/{path}:{number} (makestep {words[1]} {words[2]})" if words[2].startswith("-") else None
                )
    return found


def _sysctls(files: FilesBelow, config: Config | None) -> dict[str, str]:
    interfaces = files.names("proc/sys/net/ipv4/conf")
    if not interfaces:
        files.unread.append(
            files_below.Unread("rp_filter and ARP settings", "/proc/sys/net/ipv4/conf cannot be read")
        )
    keys = ("rp_filter", "arp_ignore", "arp_announce")
    names = {*sysctls_to_read(config), *(conf(one, key) for one in interfaces for key in keys)}
    sixes = ("accept_ra", "forwarding")
    names |= {conf(one, key, family=6) for one in files.names("proc/sys/net/ipv6/conf") for key in sixes}
    found = sysctl.read(names, root=str(files.root / "proc/sys"))
    return {name: value for name, value in found.items() if value is not None}


def _read_only(mounts: str) -> bool:
    """Whether the mount that /proc/sys is on is read-only. Of two on the same place the later one counts."""
    options = ""
    depth = 0
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) > 3 and fields[1] in ("/proc", "/proc/sys") and len(fields[1]) >= depth:
            depth, options = len(fields[1]), fields[3]
    return "ro" in options.split(",")


def _why(error: OSError | KernelUnavailable) -> str:
    return error.reason if isinstance(error, KernelUnavailable) else error.strerror or str(error)
