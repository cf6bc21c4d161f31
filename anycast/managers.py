"""Which programs manage this node's interfaces, read from their files below a root. Nothing is asked over a bus.

What a program keeps below /run tells of the one that runs, and may be read by everybody.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from ipaddress import ip_interface
from pathlib import Path

from anycast.core.values.configuration import Address
from anycast.core.values.managers import (
    Managers,
    Networkd,
    NetworkdLink,
    NetworkManager,
    Stanza,
    StoredProfile,
)
from anycast.files_below import FilesBelow

NETWORKD, NETWORK_MANAGER = "systemd-network", "NetworkManager"  # the kernel keeps fifteen characters
_LINKS = "run/systemd/netif/links"
_SHARED = re.compile(r"libsystemd-shared-(\d+)")
_PLACES = ("etc", "run", "usr/local/lib", "usr/lib", "lib")
_NO = frozenset({"0", "no", "n", "false", "f", "off"})
_INCLUDES = 64  # files that /etc/network/interfaces may come to


def programs(root: Path = Path("/")) -> frozenset[str]:
    """The names of those that run in this network namespace, and of those of which it cannot be read."""
    files = FilesBelow(root)
    here = files.link("proc/self/ns/net")
    found = (
        files.optional(f"proc/{name}/comm")
        for name in files.names("proc")
        if name.isdigit() and files.link(f"proc/{name}/ns/net") in (here, None)
    )
    return frozenset(name.strip() for name in found if name)


def read(root: Path = Path("/")) -> Managers:
    """What cannot be read is named, and nothing is raised."""
    files = FilesBelow(root)
    # A user who does not see the programs of others takes what they have left below /run for running.
    running = programs(root) if files.optional("proc/1/comm") is not None else {NETWORKD, NETWORK_MANAGER}
    return Managers(
        networkd=_networkd(files) if NETWORKD in running else None,
        network_manager=_network_manager(files) if NETWORK_MANAGER in running else None,
        ifupdown2=_ifupdown2(files),
        unread=tuple(f"{one.what}: {one.why}" for one in files.unread),
    )


def _interfaces(files: FilesBelow) -> dict[str, str]:
    """Their names by their indexes."""
    found = {}
    for name in files.names("sys/class/net"):
        index = files.text(f"sys/class/net/{name}/ifindex")
        if index is not None:
            found[index.strip()] = name
    return found


def _networkd(files: FilesBelow) -> Networkd | None:
    indexes = _interfaces(files)
    links = []
    for index in files.names(_LINKS):
        state = dict(_assignments(files.text(f"{_LINKS}/{index}") or ""))
        file = state.get("NETWORK_FILE", "")
        if index in indexes and file and state.get("ADMIN_STATE") not in ("unmanaged", "linger"):
            links.append(NetworkdLink(interface=indexes[index], file=file, keep=_keep(files, file)))
    if not files.names(_LINKS):
        return None
    return Networkd(version=_systemd(files), links=tuple(links), foreign=_foreign(files))


def _systemd(files: FilesBelow) -> int | None:
    """By the name of the library that comes with it."""
    folders = ["usr/lib/systemd", *(f"usr/lib/{name}/systemd" for name in files.names("usr/lib"))]
    found = [
        int(match[1])
        for folder in folders
        for name in files.names(folder)
        if (match := _SHARED.match(name)) is not None
    ]
    return max(found, default=None)


def _keep(files: FilesBelow, file: str) -> str:
    """The last KeepConfiguration of a .network file and what is dropped in beside it."""
    name = file.rpartition("/")[2]
    paths = [file.lstrip("/"), *files.drop_ins(f"systemd/network/{name}.d")]
    return _last(files, paths, "KeepConfiguration") or ""


def _foreign(files: FilesBelow) -> dict[str, bool]:
    paths = [
        next(
            (path for place in _PLACES if files.text(path := f"{place}/systemd/networkd.conf") is not None),
            "etc/systemd/networkd.conf",
        ),
        *files.drop_ins("systemd/networkd.conf.d"),
    ]
    names = ("ManageForeignRoutes", "ManageForeignRoutingPolicyRules", "ManageForeignNextHops")
    values = {name: _last(files, paths, name) for name in names}
    return {name: value.lower() not in _NO for name, value in values.items() if value}


def _last(files: FilesBelow, paths: list[str], wanted: str) -> str | None:
    """The last value of a setting in the section [Network]."""
    found = None
    for path in paths:
        section = ""
        for raw in (files.text(path) or "").splitlines():
            line = raw.strip()
            if line.startswith("["):
                section = line
            name, assigned, value = line.partition("=")
            if assigned and section == "[Network]" and name.strip() == wanted:
                found = value.strip()
    return found


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, assigned, value = line.partition("=")
        if assigned and not line.startswith("#"):
            yield name.strip(), value.strip()


def _network_manager(files: FilesBelow) -> NetworkManager | None:
    devices = files.names("run/NetworkManager/devices")
    if not devices:
        return None
    indexes = _interfaces(files)
    managed = {
        indexes[index]
        for index in devices
        if index in indexes and _is_managed(files.text(f"run/NetworkManager/devices/{index}"))
    }
    return NetworkManager(managed=frozenset(managed), stored=tuple(_stored(files)))


def _is_managed(text: str | None) -> bool:
    state = _ini(text or "")
    return state.get("device", {}).get("managed", "").lower() not in ("", "false", "0")


def _stored(files: FilesBelow) -> Iterator[StoredProfile]:
    """Those on disk: what it has made for what it found is below /run, and gone with it."""
    folder = "etc/NetworkManager/system-connections"
    for name in files.names(folder):
        profile = _ini(files.text(f"{folder}/{name}") or "")
        interface = profile.get("connection", {}).get("interface-name", "")
        addresses = tuple(
            address
            for section in ("ipv4", "ipv6")
            for key, value in profile.get(section, {}).items()
            if re.fullmatch(r"address\d+", key) and (address := _address(value)) is not None
        )
        if interface and addresses:
            yield StoredProfile(file=f"/{folder}/{name}", interface=interface, addresses=addresses)


def _address(value: str) -> Address | None:
    """`192.0.2.1/32` or `192.0.2.1/32,GATEWAY`."""
    try:
        return ip_interface(value.partition(",")[0].strip()).ip
    except ValueError:
        return None


def _ini(text: str) -> Mapping[str, Mapping[str, str]]:
    """A key file of GLib. What is none has no sections."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    try:
        parser.read_string(text)
    except configparser.Error:
        return {}
    return {section: dict(parser.items(section)) for section in parser.sections()}


def _ifupdown2(files: FilesBelow) -> tuple[Stanza, ...] | None:
    if not files.names("usr/share/ifupdown2"):
        return None
    found: list[Stanza] = []
    for path, lines in _network_files(files, "etc/network/interfaces"):
        at = None  # the stanza that the lines belong to
        for number, line in enumerate(lines, 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] in ("iface", "auto", "source", "source-directory", "mapping", "vlan") or words[
                0
            ].startswith("allow-"):
                at = None
                if words[0] == "iface" and len(words) > 1:
                    at = len(found)
                    found.append(Stanza(place=f"/{path}:{number}", interface=words[1]))
            elif at is not None and words[0] == "address-purge" and len(words) > 1:
                purges = words[1].lower() not in _NO
                found[at] = Stanza(place=found[at].place, interface=found[at].interface, purges=purges)
    return tuple(found)


def _network_files(files: FilesBelow, first: str) -> Iterator[tuple[str, list[str]]]:
    """/etc/network/interfaces and what it names, with a limit."""
    waiting, seen = [first], set[str]()
    while waiting and len(seen) < _INCLUDES:
        path = waiting.pop(0)
        if path in seen:
            continue
        seen.add(path)
        lines = (files.text(path) or "").replace("\\\n", " ").splitlines()
        yield path, lines
        for line in lines:
            words = line.split()
            if len(words) == 2 and words[0] in ("source", "source-directory"):
                folder, _, pattern = words[1].lstrip("/").rpartition("/")
                if words[0] == "source-directory":
                    folder, pattern = words[1].strip("/"), "*"
                if not words[1].startswith("/"):
                    folder = f"etc/network/{folder}"
                waiting += [f"{folder}/{name}" for name in files.names(folder) if fnmatch(name, pattern)]
