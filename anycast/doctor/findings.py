"""What is wrong with the node, from facts and configuration. Pure: the same facts, the same findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from anycast.core.dataplane.kernel import SetSysctl
from anycast.core.dataplane.members import service_key
from anycast.core.dataplane.traffic import EST_CPULIST, RUN_ESTIMATION, uncounted
from anycast.core.values.configuration import Config, Scheduler, TunnelType
from anycast.doctor.beside import beside, speakers_table
from anycast.doctor.demands import (
    FORWARDING6,
    schedulers,
    services,
    set_by_agent,
    sysctls_wanted,
    tunnel_types,
    vip_checks,
    ways,
)
from anycast.doctor.facts import CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW, Facts, Module
from anycast.doctor.finding import (
    BOOT_FILE,
    Code,
    Finding,
    LoadAtBoot,
    Severity,
    dotted,
    set_back,
    set_sysctls,
    some,
    unchecked,
)
from anycast.doctor.firewall import firewall
from anycast.doctor.fleet import fleet
from anycast.doctor.managers import foreign_routes, managers
from anycast.doctor.others import bfd, clock, speakers
from anycast.doctor.packets import (
    interfaces,
    next_hops,
    on_link,
    prefixes,
    reachability,
    reverse_path,
    tunnels,
    vip_addresses,
)
from anycast.doctor.served_here import served_here
from anycast.doctor.sources import accept_ra, advertised_routes, reverse_path6, source_addresses
from anycast.doctor.sync import synced
from anycast.doctor.table import load_factors, table
from anycast.doctor.wide import rest_of_prefixes

_MANY_SERVERS = 1000
_BGP_PORT = 179
# The kernels that brought them. A distribution may have taken them into an older one.
_SCHEDULER_SINCE = {Scheduler.MH: (4, 18)}
_TUNNEL_SINCE = {TunnelType.GUE: (5, 2), TunnelType.GRE: (5, 3)}
_CONN_REUSE_SINCE = (5, 9)
_RUN_ESTIMATION_SINCE = (5, 16)
_ESTIMATION_THREADS_SINCE = (6, 2)
_WHY = {
    "net.ipv4.vs.sloppy_tcp": "a connection that the routers move here from another balancer is dropped",
    "net.ipv4.vs.schedule_icmp": "path MTU messages for connections of another balancer are dropped",
    "net.ipv4.vs.expire_nodest_conn": "a client that meets a real server as it dies stays with it until it gives up",
    "net.ipv4.vs.conn_reuse_mode": "a client that uses a port again stays with a drained real server",
    "net.ipv4.vs.pmtu_disc": "packets too long for a tunnel are fragmented or lost, and the client is not told",
    "net.ipv4.ip_forward": "answers of real servers with forwarding nat are not routed back",
    "net.ipv6.conf.all.forwarding": "answers of real servers with forwarding nat are not routed back",
}


def findings(facts: Facts, config: Config | None, *, connections: int | None = None) -> tuple[Finding, ...]:
    """Errors first, then warnings, then what is only said. `connections`: expected at once on this node."""
    of_ipvs: tuple[Iterable[Finding], ...] = (
        _modules(facts, config),
        _kernel(facts, config),
        table(facts, config, connections),
        load_factors(facts),
        _sysctls(facts, config),
    )
    rules: tuple[Iterable[Finding], ...] = (
        _configuration(config),
        _privileges(facts, config),
        _lease_socket(facts, config),
        *(of_ipvs if config is None or config.needs_ipvs else (_unneeded(facts),)),
        *(() if config is None else (served_here(facts, config),)),
        firewall(facts, config),
        clock(facts, config),
        beside(facts.beside, config),
        speakers_table(facts.speakers_table, config),
        speakers(facts, config),
        bfd(facts, config),
        interfaces(facts, config),
        vip_addresses(facts, config),
        on_link(facts, config),
        reverse_path(facts, config),
        reverse_path6(facts, config),
        source_addresses(facts, config),
        advertised_routes(facts, config),
        managers(facts, config),
        foreign_routes(facts, config),
        next_hops(facts, config),
        prefixes(config),
        rest_of_prefixes(facts, config),
        reachability(facts, config),
        tunnels(facts, config),
        _sync(facts, config),
        synced(facts, config),
        fleet(facts.fleet, config),
        _foreign(facts, config),
        _unread(facts),
    )
    found = [finding for rule in rules for finding in rule]
    if facts.sysctls_read_only:
        found = [*_read_only(found, config), *map(_without_sysctls, found)]
    order = list(Severity)
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _configuration(config: Config | None) -> Iterator[Finding]:
    if config is None:
        yield Finding(
            severity=Severity.INFO,
            code=Code.NO_CONFIGURATION,
            text="no configuration: only the node is checked, not its VIPs, real servers and routers",
            fix="anycast doctor --config FILE",
        )


def _privileges(facts: Facts, config: Config | None) -> Iterator[Finding]:
    if facts.initial_user_namespace is False and (config is None or config.needs_ipvs):
        yield Finding(
            severity=Severity.ERROR,
            code=Code.USER_NAMESPACE,
            text="this is a user namespace: the kernel answers every IPVS request here with EPERM",
            fix="run it outside: no userns-remap, no rootless container",
        )
    elif facts.capabilities is not None and CAP_NET_ADMIN not in facts.capabilities:
        yield Finding(
            severity=Severity.ERROR if facts.root else Severity.WARNING,
            code=Code.NO_NET_ADMIN,
            text="this process has no CAP_NET_ADMIN: IPVS, addresses and sysctls are refused with EPERM",
            fix="start the container with `--cap-add NET_ADMIN`"
            if facts.root
            else "run it as root; an agent of another user needs `AmbientCapabilities=CAP_NET_ADMIN` in its unit",
        )
    places = vip_checks(config)
    if places and facts.capabilities is not None and CAP_NET_RAW not in facts.capabilities:
        yield Finding(
            severity=Severity.ERROR if facts.root else Severity.WARNING,
            code=Code.NO_NET_RAW,
            text=f"this process has no CAP_NET_RAW: checks with to: vip cannot run, those of {some(places)}",
            fix="start the container with `--cap-add NET_RAW`"
            if facts.root
            else "run it as root; an agent of another user needs `AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW` in its unit",
        )
    here = [] if config is None else [vip.name for vip in config.vips if vip.local or not vip.services]
    if here and facts.capabilities is not None and CAP_NET_RAW not in facts.capabilities:
        yield Finding(
            severity=Severity.WARNING if facts.root else Severity.INFO,
            code=Code.NO_NET_RAW,
            text="this process has no CAP_NET_RAW: packets for what the node itself serves cannot be counted, so a "
            f"maintenance of {some(here)} waits for timing.quiet_limit instead of the last packet",
            fix="start the container with `--cap-add NET_RAW`, or leave the agent's unit its `AmbientCapabilities=`",
        )
    unprivileged = facts.number("net.ipv4.ip_unprivileged_port_start")
    if (
        config is not None
        and not config.speaker.is_table
        and facts.root
        and facts.capabilities is not None
        and CAP_NET_BIND_SERVICE not in facts.capabilities
        and (unprivileged is None or unprivileged > _BGP_PORT)
    ):
        yield Finding(
            severity=Severity.WARNING,
            code=Code.NO_BIND_SERVICE,
            text=f"this process has no CAP_NET_BIND_SERVICE: ExaBGP cannot listen on port {_BGP_PORT}",
            fix="start the container with `--cap-add NET_BIND_SERVICE`",
        )


def _modules(facts: Facts, config: Config | None) -> Iterator[Finding]:
    places = {"ip_vs": ["every service"]} | {
        f"ip_vs_{scheduler}": where for scheduler, where in schedulers(config).items()
    }
    states = {name: facts.modules.state(name) for name in places}
    install = (
        f"install the modules of kernel {facts.release} (Ubuntu: linux-modules-extra-{facts.release})"
        ", or boot a kernel with CONFIG_IP_VS"
    )
    for name, state in states.items():
        if state is Module.MISSING:
            other = "" if name == "ip_vs" else ", or use another scheduler"
            yield Finding(
                severity=Severity.ERROR,
                code=Code.MODULE_MISSING,
                text=f"kernel {facts.release} has no {name}, needed by {some(places[name])}",
                fix=install + other,
            )
        elif state is Module.UNKNOWN and facts.modules.works("ip_vs"):
            yield unchecked(name, "it is not loaded, and there is no list of this kernel's modules")
    if states["ip_vs"] in (Module.AVAILABLE, Module.UNKNOWN):
        known = states["ip_vs"] is Module.AVAILABLE
        doubt = "" if known else f", and there is no /lib/modules/{facts.release} to say whether there is one"
        yield Finding(
            severity=Severity.WARNING,
            code=Code.MODULE_NOT_LOADED,
            text=f"the module ip_vs is not loaded{doubt}",
            fix=f"modprobe -a {' '.join(states)}" + ("" if known else " (in a container: on the host)"),
        )
    late = [
        name
        for name, state in states.items()
        if state in (Module.LOADED, Module.AVAILABLE) and name not in facts.modules.at_boot
    ]
    if late:
        yield Finding(
            severity=Severity.INFO,
            code=Code.MODULE_NOT_AT_BOOT,
            text=f"nothing loads {some(late)} at boot: net.ipv4.vs sysctls in sysctl.d have no effect "
            "at boot",
            fix=f"{', '.join(late)} on a line each in {BOOT_FILE}",
            changes=tuple(LoadAtBoot(module=name) for name in late),
        )


def _unneeded(facts: Facts) -> Iterator[Finding]:
    """This node itself serves every VIP."""
    if facts.modules.state("ip_vs") is Module.MISSING and "ip_vs" in facts.modules.by_file:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.MODULE_UNNEEDED,
            text=f"no VIP needs IPVS, kernel {facts.release} has none, and a file in modules-load.d names it: "
            "systemd-modules-load.service fails at boot",
            fix="take it out of that file: `grep -r ip_vs /etc/modules-load.d /usr/lib/modules-load.d` finds it",
        )


def _kernel(facts: Facts, config: Config | None) -> Iterator[Finding]:
    """What only the version tells. A release that does not begin with numbers tells nothing."""
    version = facts.version
    if version == (0, 0):
        yield unchecked("what is particular to this kernel", f"its release {facts.release!r} has no version")
        return
    for scheduler, where in schedulers(config).items():
        since = _SCHEDULER_SINCE.get(scheduler, (0, 0))
        # Known to be there, it was taken into this kernel by its distribution.
        if version < since and not facts.modules.works(f"ip_vs_{scheduler}"):
            yield Finding(
                severity=Severity.ERROR,
                code=Code.KERNEL_SCHEDULER,
                text=f"kernel {facts.release} is older than {dotted(since)}, which brought the scheduler "
                f"{scheduler}, needed by {some(where)}",
                fix=f"a kernel of {dotted(since)} or later",
            )
    for encapsulation, where in tunnel_types(config).items():
        since = _TUNNEL_SINCE.get(encapsulation, (0, 0))
        if version < since:
            yield Finding(
                severity=Severity.ERROR,
                code=Code.KERNEL_TUNNEL,
                text=f"kernel {facts.release} is older than {dotted(since)}, which brought {encapsulation} tunnels "
                f"to IPVS, needed by {some(where)}",
                fix=f"a kernel of {dotted(since)} or later, or the tunnel ipip",
            )
    if version < _CONN_REUSE_SINCE and facts.number("net.ipv4.vs.conntrack") == 1:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.KERNEL_CONN_REUSE,
            text=f"kernel {facts.release} (before {dotted(_CONN_REUSE_SINCE)}) with net.ipv4.vs.conntrack=1 drops "
            "the first packet of a client that uses a port again: its connection takes 1 s longer",
            fix=f"{set_sysctls(SetSysctl(name='net.ipv4.vs.conntrack', value='0'))}; or a kernel of "
            f"{dotted(_CONN_REUSE_SINCE)} or later",
        )
    if (why := uncounted(facts.sysctls)) is not None:
        limit = (
            "timing.quiet_limit" if config is None else f"timing.quiet_limit, {config.timing.quiet_limit:g} s"
        )
        yield Finding(
            severity=Severity.WARNING,
            code=Code.KERNEL_COUNTS_NOTHING,
            text=f"{why}: the kernel counts no packets, so traffic is not known, and a maintenance waits for {limit} "
            "instead of the last packet",
            fix=set_back(RUN_ESTIMATION, 1)
            if facts.sysctls.get(RUN_ESTIMATION) == "0"
            else f"{set_back(EST_CPULIST, 0)} (0, or a list such as 0-3: the processors that may count)",
        )
    servers = len(ways(config)) if config is not None else 0
    if (
        version < _ESTIMATION_THREADS_SINCE
        and servers >= _MANY_SERVERS
        and facts.sysctls.get("net.ipv4.vs.run_estimation", "1") != "0"
    ):
        switch = version >= _RUN_ESTIMATION_SINCE
        yield Finding(
            severity=Severity.WARNING,
            code=Code.KERNEL_ESTIMATION,
            text=f"kernel {facts.release} (before {dotted(_ESTIMATION_THREADS_SINCE)}) estimates the rates of "
            f"{servers:,} entries of real servers in one timer: packets wait for it every 2 s",
            fix="a kernel of 6.2 or later; or "
            f"{set_sysctls(SetSysctl(name=RUN_ESTIMATION, value='0'))}, after which nothing counts packets and every "
            "drain waits for timing.quiet_limit"
            if switch
            else f"a kernel of {dotted(_ESTIMATION_THREADS_SINCE)} or later",
        )


def _sysctls(facts: Facts, config: Config | None) -> Iterator[Finding]:
    wanted = sysctls_wanted(config)
    if facts.initial_user_namespace is False or not facts.modules.works("ip_vs"):
        wanted = {name: value for name, value in wanted.items() if not name.startswith("net.ipv4.vs.")}
    if facts.initial_user_namespace is not False and not facts.modules.works("ip_vs"):
        yield unchecked("net.ipv4.vs sysctls", "they are there once ip_vs is loaded")
    for name, value in wanted.items():
        why = f": {_WHY[name]}" if name in _WHY else ""
        found = facts.sysctls.get(name)
        if found is None:
            yield Finding(
                severity=Severity.ERROR,
                code=Code.SYSCTL_MISSING,
                text=f"kernel {facts.release} has no sysctl {name}, wanted {value}{why}",
                fix="IPv6 in the kernel: no `ipv6.disable=1`" if "ipv6" in name else "a newer kernel",
            )
        elif found != value:
            agents = set_by_agent(name, config)
            # In this order, or a default route is gone.
            before = accept_ra(facts) if name == FORWARDING6 else ()
            changes = (*before, SetSysctl(name=name, value=value))
            then = "; the agent sets it when it runs" if agents else ""
            yield Finding(
                severity=Severity.INFO if agents else Severity.WARNING,
                code=Code.SYSCTL_DIFFERS,
                text=f"{name} is {found}, wanted {value}{why}{then}",
                fix=set_sysctls(*changes),
                changes=changes,
            )


def _lease_socket(facts: Facts, config: Config | None) -> Iterator[Finding]:
    found = facts.lease_socket
    if found is None or config is None:
        return
    speaker = config.speaker
    user = speaker.user if speaker.is_table else config.node.exabgp_user
    who = "speaker.user" if speaker.is_table else "node.exabgp_user"
    if not found.is_for_user:
        yield Finding(
            severity=Severity.ERROR,
            code=Code.LEASE_SOCKET,
            text=f"{found.path} (mode {found.mode:04o}, group {found.gid}) cannot be opened by {who} {user}: "
            "nothing is announced",
            fix=f"name a group of {user} in node.lease_group, or leave that out, and restart the agent",
        )
    elif found.is_for_all:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.LEASE_SOCKET,
            text=f"{found.path} can be opened by every user, for the agent could not give it to the group of {user}",
            fix="`SupplementaryGroups=` with that group in the agent's unit, and restart the agent",
        )


def _read_only(found: Iterable[Finding], config: Config | None) -> Iterator[Finding]:
    names = [change.name for finding in found for change in finding.changes if isinstance(change, SetSysctl)]
    if not names:
        return
    agents = [name for name in names if set_by_agent(name, config)]
    yield Finding(
        severity=Severity.ERROR if agents else Severity.WARNING,
        code=Code.SYSCTL_READ_ONLY,
        text=f"/proc/sys is read-only here: {some(names)} cannot be set"
        + (", and the agent announces nothing until they are" if agents else ""),
        fix="set them on the host or by the container's options (docker: --sysctl NAME=VALUE)"
        + (", and write `sysctls: check`" if agents else ""),
    )


def _without_sysctls(finding: Finding) -> Finding:
    kept = tuple(change for change in finding.changes if not isinstance(change, SetSysctl))
    return replace(finding, changes=kept)


def _sync(facts: Facts, config: Config | None) -> Iterator[Finding]:
    sync = config.connection_sync if config is not None else None
    if sync is None or facts.interfaces is None:
        return
    interface = facts.interface(sync.interface)
    if interface is None:
        what = "there is no such interface"
    elif not interface.up:
        what = "it is down"
    elif not any(one.ip.version == sync.group.version for one in interface.addresses):
        what = f"it has no IPv{sync.group.version} address, and the group is {sync.group}"
    else:
        return
    yield Finding(
        severity=Severity.ERROR,
        code=Code.SYNC_INTERFACE,
        text=f"connection_sync on {sync.interface}: {what}: no connection is exchanged",
        fix="name the interface that leads to the other balancers in connection_sync.interface",
    )


def _foreign(facts: Facts, config: Config | None) -> Iterator[Finding]:
    if config is None or facts.ipvs is None:
        return
    ours = {service_key(address, service) for vip, service in services(config) for address in vip.addresses}
    names = sorted(map(str, facts.ipvs - ours))
    if names:
        removed = config.ipvs_exclusive
        yield Finding(
            severity=Severity.WARNING if removed else Severity.INFO,
            code=Code.IPVS_FOREIGN,
            text=f"IPVS services that are not in this configuration: {some(names)}: "
            + ("`ipvs: exclusive` has the agent remove them" if removed else "they are left alone"),
            fix="`ipvs: shared`, if another program owns them"
            if removed
            else "`ipvsadm -D` each, if nobody owns them any more",
        )


def _unread(facts: Facts) -> Iterator[Finding]:
    for one in facts.unread:
        yield unchecked(one.what, one.why)
