"""Names of VIPs, made of what is there. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from anycast.importers.model import Service, Vip

_LONGEST = 40  # characters; an address may follow
_BY_PORT = {
    21: "ftp", 22: "ssh", 25: "smtp", 53: "dns", 80: "web", 123: "ntp", 143: "imap", 389: "ldap", 443: "web", 465: "smtp", 514: "syslog",
    587: "smtp", 636: "ldap", 853: "dns", 993: "imap", 1812: "radius", 1813: "radius", 1883: "mqtt", 3306: "mysql",
    3389: "rdp", 5060: "sip", 5061: "sip", 5432: "postgresql", 6379: "redis", 6443: "kubernetes", 6514: "syslog", 8080: "web",
    8443: "web",
}  # fmt: skip


def sanitized(text: str) -> str:
    """With what a name may have; empty: nothing is left."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-._")[:_LONGEST].strip("-._").lower()


def by_service(services: Sequence[Service]) -> str:
    first = services[0]
    if first.mark:
        return f"mark-{first.mark}"
    return _BY_PORT.get(first.port, f"port-{first.port}")


def unique(vips: Sequence[Vip]) -> list[Vip]:
    """Those of one name get their address behind it."""
    times = Counter(vip.name for vip in vips)
    taken: set[str] = {name for name, count in times.items() if count == 1}
    found: list[Vip] = []
    for vip in vips:
        name = vip.name
        if times[name] > 1:
            name = f"{name}-{sanitized(vip.addresses[0].replace(':', '-'))}"
            number = 1
            base = name
            while name in taken:
                number += 1
                name = f"{base}-{number}"
            taken.add(name)
        found.append(replace(vip, name=name))
    return found
