"""Services at addresses to VIPs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anycast.importers import names
from anycast.importers.model import Place, Service, Vip


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A service at an address. With a mark there may be none: then it is at those of its group.

    `group`: what is written together; `name`: what the VIP may be called.
    """

    address: str
    service: Service
    place: Place
    name: str = ""
    group: str = ""
    comment: str = ""


def of_version(addresses: Sequence[str], version: int) -> str | None:
    """The first address of a family."""
    return next((one for one in addresses if (":" in one) == (version == 6)), None)


def by_address(served: Sequence[Served]) -> list[Vip]:
    """Addresses of one group with the same services are one VIP."""
    at: dict[str, list[Served]] = {}
    marks: dict[str, list[Service]] = {}
    for one in served:
        if one.address:
            at.setdefault(one.address, []).append(one)
        else:
            marks.setdefault(one.group, []).append(one.service)
    alike: dict[tuple[str, tuple[Service, ...], str], list[str]] = {}
    for address, some in at.items():
        groups = {one.group for one in some}
        group = groups.pop() if len(groups) == 1 else ""
        key = (group, tuple(one.service for one in some), "" if group else address)
        alike.setdefault(key, []).append(address)
    found = []
    for (group, services, _), addresses in alike.items():
        first = at[addresses[0]][0]
        found.append(
            Vip(
                name=names.sanitized(group) or names.sanitized(first.name) or names.by_service(services),
                addresses=tuple(addresses),
                services=(*services, *marks.pop(group, ())),
                comment=first.comment,
                place=first.place,
            )
        )
    return names.unique(found)
