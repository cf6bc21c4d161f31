"""What runs on the node and how, by /proc, the control groups and a few files of other packages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from anycast.doctor.facts import Beside, FileRoute
from anycast.files_below import FilesBelow, Unread

# Whose standing still is not seen by asking systemd whether they are active.
_UNIT = re.compile(r"(/.*/((?:anycast-[\w-]+|exabgp|frr|bird6?)\.service))(?:/|$)")
# FRR's package starts no daemon anew when it is upgraded: the others do.
_FRR = frozenset(
    (
        "babeld", "bfdd", "bgpd", "eigrpd", "fabricd", "isisd", "ldpd", "mgmtd", "nhrpd", "ospf6d", "ospfd", "pathd", "pbrd",
        "pim6d", "pimd", "ripd", "ripngd", "staticd", "vrrpd", "watchfrr", "zebra",
    )
)  # fmt: skip
_DELETED = " (deleted)"
_IPVSADM = "etc/default/ipvsadm"
_AUTO = re.compile(r"""AUTO=["']?true["']?\s*(?:#.*)?""", re.IGNORECASE)
_DAEMON = re.compile(r"""DAEMON=["']?(?:master|backup|both)["']?\s*(?:#.*)?""", re.IGNORECASE)
# `route P next-hop …` of `static`, `unicast P next-hop …` of `announce`.
_ROUTE = re.compile(r"\b(?:route|unicast)\s+([0-9A-Fa-f:.]+)(?:/(\d+))?(?=[\s;{])")
_HOST = {4: "32", 6: "128"}
# systemd reads the folders alone; Debian 12 has a link to the first of these files in one of them.
_SYSCTL_CONF = ("etc/sysctl.conf", "etc/sysctl.conf.dpkg-bak")
_SYSCTL_LINK = "etc/sysctl.d/99-sysctl.conf"
_MOST = 256 * 1024  # bytes of a control group's or a process's file that are looked at


def read(files: FilesBelow) -> Beside:
    frozen: set[str] = set()
    replaced: set[str] = set()
    hidden: set[str] = set()
    confs: dict[str, None] = {}
    healthchecks = False
    here = files.link("proc/self/ns/net")
    for pid in (name for name in files.names("proc") if name.isdigit()):
        if (unit := _frozen_unit(files, pid)) is not None:
            frozen.add(unit)
        if files.link(f"proc/{pid}/ns/net") not in (here, None):
            continue
        name = (files.optional(f"proc/{pid}/comm") or "").strip()
        if name in _FRR:
            program = files.link(f"proc/{pid}/exe")
            if program is None:
                hidden.add(name)
            elif program.endswith(_DELETED):
                replaced.add(name)
        words = (files.optional(f"proc/{pid}/cmdline") or "")[:_MOST].split("\0")
        arguments = _of_exabgp(words)
        if arguments[:1] == ["healthcheck"]:
            healthchecks = healthchecks or "--no-ip-setup" not in arguments
        else:
            confs |= dict.fromkeys(word for word in arguments if word.startswith("/"))
    if hidden:
        what = f"whether {', '.join(sorted(hidden))} of FRR run on from files that an upgrade has replaced"
        files.unread.append(Unread(what, "which files they are may be seen by root alone"))
    return Beside(
        frozen=frozenset(frozen),
        replaced=frozenset(replaced),
        routes=tuple(route for conf in confs for route in _routes(files, conf)),
        healthchecks=healthchecks,
        ipvsadm_auto=_set(files, _AUTO),
        ipvsadm_daemon=_set(files, _DAEMON),
        sysctl_conf=tuple(_unread_sysctls(files)),
    )


def _frozen_unit(files: FilesBelow, pid: str) -> str | None:
    for line in (files.optional(f"proc/{pid}/cgroup") or "").splitlines():
        found = _UNIT.match(line.removeprefix("0::")) if line.startswith("0::") else None
        if found is not None:
            events = files.optional(f"sys/fs/cgroup{found[1]}/cgroup.events") or ""
            return found[2] if "frozen 1" in events.splitlines() else None
    return None


def _of_exabgp(words: list[str]) -> list[str]:
    """The arguments of an ExaBGP, however it was started; empty: it is none."""
    for place, word in enumerate(words[:4]):
        if word.rpartition("/")[2] == "exabgp":
            return [argument for argument in words[place + 1 :] if argument not in ("", "server")]
    return []


def _routes(files: FilesBelow, path: str) -> Iterator[FileRoute]:
    for number, line in enumerate((files.text(path.lstrip("/")) or "").splitlines(), 1):
        for address, length in _ROUTE.findall(line.partition("#")[0]):
            host = length in ("", _HOST[6 if ":" in address else 4])
            yield FileRoute(where=f"{path}:{number}", address=address if host else f"{address}/{length}")


def _set(files: FilesBelow, wanted: re.Pattern[str]) -> str | None:
    """Where ipvsadm's file sets a variable like that. The last line counts: a shell reads it."""
    variable = wanted.pattern.partition("=")[0] + "="
    found = None
    for number, line in enumerate((files.optional(_IPVSADM) or "").splitlines(), 1):
        if line.strip().startswith(variable):
            found = f"/{_IPVSADM}:{number}" if wanted.fullmatch(line.strip()) else None
    return found


def _unread_sysctls(files: FilesBelow) -> Iterator[str]:
    """Files with settings of the network that nobody reads at boot, nor finds in a file that is read."""
    if files.optional(_SYSCTL_LINK) is not None:
        return
    read = {name for path in files.drop_ins("sysctl.d") for name in _net_settings(files, path)}
    for path in _SYSCTL_CONF:
        if any(not any(fnmatchcase(name, one) for one in read) for name in _net_settings(files, path)):
            yield f"/{path}"


def _net_settings(files: FilesBelow, path: str) -> Iterator[str]:
    """Their names, which may be patterns. sysctl.d(5)."""
    for line in (files.optional(path) or "").splitlines():
        name = line.partition("=")[0].strip().removeprefix("-").strip().replace("/", ".")
        if name.startswith("net."):
            yield name
