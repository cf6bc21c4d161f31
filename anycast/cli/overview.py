"""What of a status document people are shown at once: what is wrong in full, and of the rest as much as is read. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from anycast.ops.amounts import machines

VIPS = 20  # up to which everything is shown
SERVERS = 100
WELL = 20  # VIPs that are shown with a line each, if there are more
WRONG = 200  # VIPs, and real servers, that want looking after and are shown
BUSY = 10  # VIPs whose traffic is shown, if there are more

Vip: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """`lines`: VIPs with a line each. `whole`: those of them whose services and real servers are shown too. `busy`: those
    whose traffic is shown.

    `head` and `tail`: what is said before and after, on what is left out too.
    """

    lines: Sequence[Vip]
    whole: Sequence[Vip]
    busy: Sequence[Vip]
    head: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()


def everything(vips: Sequence[Vip]) -> Overview:
    return Overview(lines=vips, whole=vips, busy=vips)


def matching(vips: Sequence[Vip], patterns: Sequence[str]) -> list[Vip]:
    """Those with such a name, `*` and `?` as a shell has them."""
    return [vip for vip in vips if any(fnmatchcase(vip["name"], pattern) for pattern in patterns)]


def overview(vips: Sequence[Vip]) -> Overview:
    """Of a few VIPs everything; of many what is wrong, and a few lines of the rest."""
    servers = [server for vip in vips for service in vip["services"] for server in service["servers"]]
    if len(vips) <= VIPS and len(servers) <= SERVERS:
        return everything(vips)
    wrong = sorted(filter(is_wrong, vips), key=lambda vip: (_rank(vip), vip["name"]))
    well = sorted((vip for vip in vips if not is_wrong(vip)), key=lambda vip: vip["name"])
    some = wrong[:WRONG]
    left = WRONG
    whole = []
    for vip in some:
        lesser, used = _lesser(vip, left)
        whole.append(lesser)
        left -= used
    tail = []
    if len(wrong) > WRONG:
        tail.append(f"and {len(wrong) - WRONG:,} more VIPs that want looking after")
    if len(well) > WELL:
        tail.append(f"and {len(well) - WELL:,} more VIPs that are well")
    hidden = len(servers) - sum(len(service["servers"]) for vip in whole for service in vip["services"])
    if hidden:
        ill = sum(map(is_ill, servers)) - sum(
            is_ill(server) for vip in whole for service in vip["services"] for server in service["servers"]
        )
        what = f", {ill:,} of them to look after" if ill else ", all of them well"
        tail.append(f"and {hidden:,} more real servers{what}")
    if tail:
        tail.append(
            "(all of it: `anycast status --all`; one VIP or some: `--vip NAME`, `--vip 'web*'`; for programs: `--json`)"
        )
    return Overview(
        lines=[*some, *well[:WELL]],
        whole=whole,
        busy=_busiest(vips),
        head=(_counts(vips, servers),),
        tail=tuple(tail),
    )


def _busiest(vips: Sequence[Vip]) -> list[Vip]:
    """The most new connections first, and of as many the most bits."""

    def carried(vip: Vip) -> tuple[float, float]:
        rates = vip.get("traffic")  # an older agent says nothing of it
        return (0, 0) if rates is None else (rates["connections_per_s"], rates["bits_in_per_s"])

    return [vip for vip in sorted(vips, key=carried, reverse=True)[:BUSY] if any(carried(vip))]


def _counts(vips: Sequence[Vip], servers: Sequence[Mapping[str, Any]]) -> str:
    announced = sum(vip["announced"] for vip in vips)
    words = [f"{announced:,} of {len(vips):,} VIPs acknowledged by ExaBGP"]
    out = sum(vip["stage"] != "active" for vip in vips)
    words += [f"{out:,} in maintenance"] if out else []
    numbers = machines(
        ((service["sorry_pool" if server.get("sorry") else "pool"], server["name"]), server["address"])
        for vip in vips
        for service in vip["services"]
        for server in service["servers"]
    )
    ill = {number for number, server in zip(numbers, servers, strict=True) if is_ill(server)}
    there = len(set(numbers))
    words.append(f"{there - len(ill):,} of {there:,} real servers are well")
    # One machine is in several services, and in each with every address.
    words[-1] += f" ({len(servers):,} entries in services)" if there != len(servers) else ""
    return ", ".join(words)


def is_wrong(vip: Vip) -> bool:
    """Whether anything of it wants looking after, or is out on purpose."""
    return (
        not vip["announced"]
        or vip["advertise"] != "yes"
        or bool(vip["obstacle"])
        or vip["stage"] != "active"
        or any(
            one["receipt"] == "not_received"
            for prefix in vip["prefixes"]
            for one in prefix.get("routers", ())  # an older agent has none
        )
        or any(one["phase"] not in ("up", None) or one["detail"] for one in vip.get("local", ()))
        or any(
            service["removing"] or service.get("kept") or any(map(is_ill, service["servers"]))
            for service in vip["services"]
        )
    )


def is_ill(server: Mapping[str, Any]) -> bool:
    return bool(
        server["phase"] != "up"
        or server["drained"]
        or server["check_failed_to_run"]
        or server["detail"]
        or server["weight"] != server["kernel_weight"]
    )


def _rank(vip: Vip) -> int:
    if vip["stage"] != "active":
        return 2
    return 0 if not vip["announced"] else 1


def _lesser(vip: Vip, most: int) -> tuple[Vip, int]:
    """With its real servers that want looking after alone, `most` of them, and how many those are."""
    services, used = [], 0
    for service in vip["services"]:
        ill = [server for server in service["servers"] if is_ill(server)][: most - used]
        used += len(ill)
        services.append({**service, "servers": ill})
    return {**vip, "services": services}, used
