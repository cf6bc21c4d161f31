"""Programs beside the agent that stand still, run on from replaced files, or work against it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network

from anycast.core.prefixes import host_route, prefixes_of
from anycast.core.values.configuration import Config
from anycast.doctor.facts import Beside, SpeakersTable
from anycast.doctor.finding import Code, Finding, Severity, some


def beside(found: Beside, config: Config | None) -> Iterator[Finding]:
    yield from _frozen(found)
    yield from _file_routes(found, config)
    if found.ipvsadm_auto is not None:
        yield Finding(
            severity=Severity.ERROR,
            code=Code.IPVSADM_AUTO,
            text=f"{found.ipvsadm_auto} has AUTO=true: ipvsadm.service empties the IPVS table at each start and stop, and "
            "whenever its package is upgraded; with a DAEMON that cannot start it leaves the table empty",
            fix='AUTO="false" and DAEMON="none" there',
        )
    elif found.ipvsadm_daemon is not None and config is not None and config.connection_sync is not None:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.IPVSADM_DAEMON,
            text=f"{found.ipvsadm_daemon} has a DAEMON: ipvsadm.service stops the kernel's daemons of connection_sync at each stop and "
            "whenever its package is upgraded, and starts one with settings of its own; the agent puts that right at its next "
            "reading, and connections of the time between are not known to the other balancers",
            fix='DAEMON="none" there',
        )
    if found.replaced:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.FRR_REPLACED,
            text=f"{some(sorted(found.replaced))} of FRR run on from files that an upgrade has replaced (vtysh tells the new "
            "version): one that ends does not come back, and a reload loses what is new in frr.conf",
            fix="`systemctl restart frr`, in maintenance; until then neither `systemctl reload frr` nor `write memory`",
        )
    if found.healthchecks:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.EXABGP_HEALTHCHECK,
            text="ExaBGP's own healthcheck runs here: it announces by itself, and takes addresses off lo when it ends, those "
            "that others have set too",
            fix="`--no-ip-setup` for it; or end it before the agent sets its VIPs",
        )
    if found.sysctl_conf:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.SYSCTL_CONF,
            text=f"{some(found.sysctl_conf)}: nothing reads its net lines at boot (Debian 13 has no link to it in "
            "/etc/sysctl.d any more), and no file of sysctl.d has all of them: they hold until the next boot",
            fix="move them into a file of /etc/sysctl.d",
        )


def speakers_table(found: SpeakersTable, config: Config | None) -> Iterator[Finding]:
    """What else uses the table of `speaker: kernel-table`."""
    if config is None or not config.speaker.is_table:
        return
    number = config.speaker.table
    if found.rules:
        yield Finding(
            severity=Severity.ERROR,
            code=Code.TABLE_RULE,
            text=f"a rule leads to the table {number} (priority {some(map(str, found.rules))}): it has a blackhole for each VIP, "
            "by which this node would drop what it forwards to one",
            fix=f"`ip rule del table {number}` (and `ip -6`), or write another speaker.table",
        )
    if found.foreign:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.TABLE_SHARED,
            text=f"the table {number} has routes of others, which are left alone and not announced: {some(found.foreign)}",
            fix="write another speaker.table, or have the other program use another table",
        )


def _frozen(found: Beside) -> Iterator[Finding]:
    for unit in sorted(found.frozen):
        yield Finding(
            severity=Severity.ERROR,
            code=Code.FROZEN,
            text=f"{unit} is frozen: its processes stand still, while `systemctl is-active` says active; from systemd 257 on "
            "its watchdog does not end it, and `systemctl restart` and `stop` are refused",
            fix=f"`systemctl thaw {unit}`",
        )


def _file_routes(found: Beside, config: Config | None) -> Iterator[Finding]:
    every = config.vips if config is not None else ()
    vips = {
        prefix: vip.name for vip in every for prefix in (*map(host_route, vip.addresses), *prefixes_of(vip))
    }
    for route in found.routes:
        try:
            name = vips.get(ip_network(route.address, strict=False))
        except ValueError:
            continue
        if name is not None:
            yield Finding(
                severity=Severity.ERROR,
                code=Code.STATIC_ROUTE,
                text=f"{route.where}: ExaBGP announces {route.address} (VIP {name}) by itself at each start and each reload, "
                "whatever the agent has decided, until the plugin withdraws it",
                fix="remove the route from the file, and restart ExaBGP in maintenance",
            )
