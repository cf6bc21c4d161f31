"""The kernel's limit of entries in its table of connections, since Linux 7.2. Pure.

At the limit new connections, those that come from another balancer and one-packet datagrams are dropped, and nothing
counts them. /proc/net/ip_vs_status shows how many entries there are, persistence and closed connections included. To
read it the kernel walks the whole table: not in an event loop, and not where the limit is out of reach.
"""

from __future__ import annotations

import re

CONN_MAX = "net.ipv4.vs.conn_max"
NO_LIMIT = 2**30
"""Its default and largest value: so many entries would take 367 GB."""
STATUS = "net/ip_vs_status"  # below /proc
CONN_MAX_FILE = f"sys/{CONN_MAX.replace('.', '/')}"

_NUMBER = re.compile(r"[0-9]{1,10}")
_CONNECTIONS = re.compile(rf"^Conns:\s*({_NUMBER.pattern})\s*$", re.MULTILINE)


def limit_of(text: str) -> int | None:
    """The limit by the text of its sysctl; None: there is none that could be reached."""
    text = text.strip()
    found = int(text) if _NUMBER.fullmatch(text) else NO_LIMIT
    return found if found < NO_LIMIT else None


def entries(status: str) -> int | None:
    """How many entries there are by /proc/net/ip_vs_status; None: it does not say."""
    found = _CONNECTIONS.search(status)
    return int(found[1]) if found is not None else None
