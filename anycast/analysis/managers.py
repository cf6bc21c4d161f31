"""What other programs that manage interfaces do to the VIPs, and how to keep them from it. Pure.

Versions and actions are measured: docs/host.md has the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from anycast.core.values.configuration import Address
from anycast.core.values.managers import Managers, Networkd, NetworkManager, Stanza

_SPARES_LO = 252  # systemd-networkd up to here leaves what others have put on lo
_SHOWN = 3  # places of a list
MANAGERS = (NETWORKD, NETWORK_MANAGER, IFUPDOWN2) = ("systemd-networkd", "NetworkManager", "ifupdown2")


class Danger(NamedTuple):
    """One program, what it does to the VIPs, and the lines that cure it. Not `now`: from its next version on."""

    program: str
    text: str
    fix: str
    now: bool = True


def dangers(managers: Managers, interface: str, vips: Iterable[Address]) -> Iterator[Danger]:
    """Of the programs that manage the interface of the VIPs."""
    addresses = frozenset(vips)
    versions = frozenset(address.version for address in addresses)
    if managers.networkd is not None:
        yield from _networkd(managers.networkd, interface, versions)
    if managers.network_manager is not None:
        yield from _network_manager(managers.network_manager, interface, addresses)
    if managers.ifupdown2 is not None:
        yield from _ifupdown2(managers.ifupdown2, interface, versions)


def _networkd(networkd: Networkd, interface: str, versions: frozenset[int]) -> Iterator[Danger]:
    link = next((one for one in networkd.links if one.interface == interface), None)
    if link is None:
        return
    keep = link.keep.lower()
    lost = {"static": versions & {6}, "dynamic": versions & {4}, "dhcp": versions & {4}}.get(keep, versions)
    if keep in ("yes", "true", "1", "on") or not lost:
        return
    which = (
        "the VIPs"
        if lost == versions
        else f"the IPv{min(lost)} VIPs (KeepConfiguration={link.keep} keeps the others)"
    )
    name = link.file.rpartition("/")[2]
    spared = interface == "lo" and networkd.version is not None and networkd.version <= _SPARES_LO
    version = "" if networkd.version is None else f" {networkd.version}"
    takes = f"takes {which} away at its restart, at `networkctl reconfigure {interface}` and at a reload with changed files"
    yield Danger(
        program=NETWORKD,
        text=f"systemd-networkd{version} manages {interface} by {link.file}"
        + (f" and leaves it alone; a newer one (257) {takes}" if spared else f": it {takes}"),
        fix=f"`[Network]` `KeepConfiguration=yes` in /etc/systemd/network/{name}.d/anycast.conf, then `networkctl reload` "
        "(not `static`, which lets the IPv6 VIPs go)",
        now=not spared,
    )


def _network_manager(
    manager: NetworkManager, interface: str, addresses: frozenset[Address]
) -> Iterator[Danger]:
    alone = (
        f"`[keyfile]` `unmanaged-devices=interface-name:{interface}` in /etc/NetworkManager/conf.d/anycast.conf, then "
        f"`systemctl reload NetworkManager; ip link set {interface} up` in maintenance, for it takes {interface} down if it has "
        "activated it before"
    )
    if interface in manager.managed:
        yield Danger(
            program=NETWORK_MANAGER,
            text=f"NetworkManager manages {interface}: `nmcli device reapply {interface}`, `connection up` and `connection "
            "modify` make each VIP an ordinary source address, `connection down` and `networking off` take them all away",
            fix=alone,
        )
    for profile in manager.stored:
        held = addresses & frozenset(profile.addresses)
        if profile.interface == interface and held:
            yield Danger(
                program=NETWORK_MANAGER,
                text=f"{profile.file} has {len(held)} VIPs ({_some(sorted(map(str, held)))}): NetworkManager puts them on "
                f"{interface} whenever it starts or activates that, as ordinary source addresses, also those that are "
                "no longer configured here",
                fix=f"{alone}; after that `rm {profile.file}` and `nmcli connection reload`",
            )


def _ifupdown2(stanzas: Iterable[Stanza], interface: str, versions: frozenset[int]) -> Iterator[Danger]:
    places = [one.place for one in stanzas if one.interface == interface and one.purges]
    if places and 6 in versions:
        yield Danger(
            program=IFUPDOWN2,
            text=f"ifupdown2 has {interface} at {_some(places)}: `ifreload -a` and `ifup {interface}` remove the IPv6 VIPs "
            "from it and say nothing",
            fix=f"`address-purge no` in each `iface {interface}`",
        )


def _some(places: list[str]) -> str:
    rest = len(places) - _SHOWN
    return ", ".join(places[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
