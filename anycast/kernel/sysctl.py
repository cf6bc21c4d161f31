"""Sysctls of this network namespace, by their dotted names. Values lose surplus white space.

`root`: the directory that holds them.
"""

from __future__ import annotations

from collections.abc import Iterable

ROOT = "/proc/sys"
# As sysctl(8) has it: a slash in a name is a dot of the file's, as in `net.ipv4.conf.eth0/100.rp_filter`.
_TO_PATH = str.maketrans("./", "/.")


def read(names: Iterable[str], *, root: str = ROOT) -> dict[str, str | None]:
    """Each of them. None: it cannot be read; `net.ipv4.vs.*` are there once IPVS is loaded."""
    return {name: _value(name, root) for name in names}


def _value(name: str, root: str) -> str | None:
    try:
        with open(_path(name, root), encoding="ascii") as file:
            return " ".join(file.read().split())
    except OSError:
        return None


def write(name: str, value: str, *, root: str = ROOT) -> None:
    """What it has already is not written: a 1 over a 1 of IPv6's forwarding deletes routes. Raises OSError."""
    if _value(name, root) == " ".join(value.split()):
        return
    with open(_path(name, root), "w", encoding="ascii") as file:
        file.write(value)


def _path(name: str, root: str = ROOT) -> str:
    return f"{root}/{name.translate(_TO_PATH)}"
