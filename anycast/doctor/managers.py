"""Other programs that manage interfaces, as findings. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from anycast.analysis.managers import IFUPDOWN2, NETWORK_MANAGER, NETWORKD, dangers
from anycast.core.values.configuration import Config
from anycast.core.values.managers import Networkd
from anycast.doctor.demands import vips
from anycast.doctor.facts import Facts
from anycast.doctor.finding import Code, Finding, Severity, some
from anycast.doctor.others import ROUTING

_CODES = {
    NETWORKD: Code.NETWORKD_ADDRESSES,
    NETWORK_MANAGER: Code.NETWORK_MANAGER,
    IFUPDOWN2: Code.IFUPDOWN2,
}
_SWITCHES = {  # and the version of systemd that brought each
    "ManageForeignRoutes": 248,
    "ManageForeignRoutingPolicyRules": 248,
    "ManageForeignNextHops": 256,
}
_KEEPS_ADDRESS_SINCE = 253  # before, networkd takes its own static addresses away for a moment


def managers(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """Those that take VIPs away, or make them source addresses."""
    if config is None:
        return
    for one in dangers(facts.managers, config.node.interface, [address for _, address in vips(config)]):
        yield Finding(
            severity=Severity.WARNING if one.now else Severity.INFO,
            code=_CODES[one.program],
            text=one.text,
            fix=one.fix,
        )


def foreign_routes(facts: Facts, config: Config | None = None) -> Iterator[Finding]:
    """What networkd takes away of a routing daemon beside it, which then goes on as if it were there."""
    networkd, daemons = facts.managers.networkd, sorted(ROUTING & facts.programs)
    if config is not None and any(vip.announce for vip in config.vips):
        daemons.append("the agent, which puts them back within timing.reconcile,")
    uplinks = [one for one in networkd.links if one.interface != "lo"] if networkd is not None else []
    if networkd is None or not daemons or not uplinks:
        return
    version = networkd.version
    missing = [
        name
        for name, since in _SWITCHES.items()
        if networkd.foreign.get(name, True) and (version is None or version >= since)
    ]
    if missing:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.NETWORKD_ROUTES,
            text=f"systemd-networkd{_version(networkd)} manages {some(one.interface for one in uplinks)} beside {some(daemons)}: at its restart "
            "(an upgrade of systemd) and at a reload with changed files it removes their routes, rules and nexthop objects, "
            "while sessions and VIPs stay",
            fix=f"`[Network]` {' '.join(f'`{name}=no`' for name in missing)} in /etc/systemd/networkd.conf.d/anycast.conf, "
            "then `systemctl restart systemd-networkd`, in maintenance",
        )
    if version is None or version >= _KEEPS_ADDRESS_SINCE:
        return
    bare = [one for one in uplinks if one.keep.lower() != "static"]  # with `yes` they go all the same
    if bare:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.NETWORKD_ROUTES,
            text=f"systemd-networkd {version} takes its own static IPv4 addresses of {some(one.interface for one in bare)} away for 10 ms at each "
            f"restart: the kernel then flushes every IPv4 route by them, those of {some(daemons)} too",
            fix=f"`[Network]` `KeepConfiguration=static` in a drop-in of {some(one.file for one in bare)} (not `yes`), and no `networkctl "
            "reconfigure` of them outside a maintenance, which flushes all the same",
        )


def _version(networkd: Networkd) -> str:
    return "" if networkd.version is None else f" {networkd.version}"
