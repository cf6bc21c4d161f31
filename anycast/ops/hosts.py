"""By which names this node may be asked over TCP.

A page of somebody else can have a browser ask a node of the browser's own network, under a name of that page that
leads to the node's address. Such a question has the foreign name in its `Host` header, and is not answered.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import ip_address

ANY = "*"
LOCAL = frozenset({"localhost"})
_AUTHORITY = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})(?:%[A-Za-z0-9._~%-]{1,32})?\]|([A-Za-z0-9._-]{1,253}))(?::[0-9]{0,5})?\Z",
    re.ASCII,
)


def host_of(authority: str) -> str | None:
    """The name or address in a `Host` header, in small letters; None: it has none."""
    found = _AUTHORITY.match(authority)
    return (found[1] or found[2]).lower().removesuffix(".") if found else None


def is_known(authority: str, names: Iterable[str]) -> bool:
    """Whether it is an address, or one of the names: `*` is any, `*.example.net` whatever is below it."""
    host = host_of(authority)
    if host is None:
        return False
    return _is_address(host) or any(_matches(host, name.lower().removesuffix(".")) for name in names)


def _is_address(host: str) -> bool:
    """No name can be made to lead elsewhere by an address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _matches(host: str, name: str) -> bool:
    return name in (ANY, host) or (name.startswith("*.") and host.endswith(name[1:]))


def machine_names() -> frozenset[str]:
    """This machine's host name, short and as it stands, and its full name. May take seconds, where DNS does not answer."""
    own = socket.gethostname()
    names = {own, own.partition(".")[0]}
    try:
        found = socket.getaddrinfo(own, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
    except OSError:
        found = []
    names |= {canonical for _, _, _, canonical, _ in found}
    return frozenset(filter(None, names))
