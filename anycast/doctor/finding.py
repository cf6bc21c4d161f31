"""A finding and what it may change, as values, and the words they share. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from anycast.core.dataplane.kernel import SetSysctl

SYSCTL_FILE = "/etc/sysctl.d/60-anycast.conf"
BOOT_FILE = "/etc/modules-load.d/anycast.conf"
OPTION_FILE = "/etc/modprobe.d/anycast.conf"
_SHOWN = 5  # names in one line, before "and 7 more"


class Severity(StrEnum):
    ERROR = "error"  # the VIPs, or some of them, cannot be served
    WARNING = "warning"  # they can, and something breaks under load, in a fault or by another program
    INFO = "info"


class Code(StrEnum):
    """Stable: monitoring goes by them. Each has its row in docs/doctor.md."""

    NO_CONFIGURATION = "no_configuration"
    NOT_IN_FORCE = "not_in_force"
    USER_NAMESPACE = "user_namespace"
    NO_NET_ADMIN = "no_net_admin"
    NO_NET_RAW = "no_net_raw"
    NO_BIND_SERVICE = "no_bind_service"
    LEASE_SOCKET = "lease_socket"
    MODULE_MISSING = "module_missing"
    MODULE_NOT_LOADED = "module_not_loaded"
    MODULE_NOT_AT_BOOT = "module_not_at_boot"
    MODULE_UNNEEDED = "module_unneeded"
    KERNEL_SCHEDULER = "kernel_scheduler"
    KERNEL_TUNNEL = "kernel_tunnel"
    KERNEL_CONN_REUSE = "kernel_conn_reuse"
    KERNEL_ESTIMATION = "kernel_estimation"
    KERNEL_COUNTS_NOTHING = "kernel_counts_nothing"
    CONN_TAB = "conn_tab"
    CONN_TAB_SMALL = "conn_tab_small"
    CONN_TAB_PENDING = "conn_tab_pending"
    CONN_MEMORY = "conn_memory"
    CONN_MAX = "conn_max"
    LFACTOR = "lfactor"
    SYSCTL_DIFFERS = "sysctl_differs"
    SYSCTL_MISSING = "sysctl_missing"
    SYSCTL_READ_ONLY = "sysctl_read_only"
    VS_CONNTRACK = "vs_conntrack"
    CONNTRACK_RULES = "conntrack_rules"
    CONNTRACK_FULL = "conntrack_full"
    FIREWALL_DROPS = "firewall_drops"
    FIREWALL_OUTDATED = "firewall_outdated"
    MARK_UNSET = "mark_unset"
    CLOCK_STEPS = "clock_steps"
    FROZEN = "frozen"
    STATIC_ROUTE = "static_route"
    IPVSADM_AUTO = "ipvsadm_auto"
    IPVSADM_DAEMON = "ipvsadm_daemon"
    FRR_REPLACED = "frr_replaced"
    EXABGP_HEALTHCHECK = "exabgp_healthcheck"
    SYSCTL_CONF = "sysctl_conf"
    ROUTING_DAEMON = "routing_daemon"
    NO_BIRD = "no_bird"
    NO_BFDD = "no_bfdd"
    TABLE_RULE = "table_rule"
    TABLE_SHARED = "table_shared"
    LO_DOWN = "lo_down"
    INTERFACE_MISSING = "interface_missing"
    INTERFACE_DOWN = "interface_down"
    IPV6_OFF = "ipv6_off"
    VIP_ELSEWHERE = "vip_elsewhere"
    VIP_PREFIX_WIDE = "vip_prefix_wide"
    VIP_ON_LINK = "vip_on_link"
    LOCAL_WILDCARD = "local_wildcard"
    RP_FILTER_STRICT = "rp_filter_strict"
    RP_FILTER_STRICT6 = "rp_filter_strict6"
    SOURCE_ADDRESS = "source_address"
    ADVERTISED_ROUTE = "advertised_route"
    NETWORKD_ADDRESSES = "networkd_addresses"
    NETWORKD_ROUTES = "networkd_routes"
    NETWORK_MANAGER = "network_manager"
    IFUPDOWN2 = "ifupdown2"
    NEXT_HOP_MISSING = "next_hop_missing"
    NEXT_HOP_OFF_LINK = "next_hop_off_link"
    PREFIXES = "prefixes"
    WIDE_PREFIX = "wide_prefix"
    NO_ROUTE = "no_route"
    VRF_INTERFACE = "vrf_interface"
    VRF_ROUTE = "vrf_route"
    DR_BEHIND_ROUTER = "dr_behind_router"
    TUNNEL_MTU = "tunnel_mtu"
    TUNNEL_REAL_SERVERS = "tunnel_real_servers"
    SYNC_INTERFACE = "sync_interface"
    SYNC_ID = "sync_id"
    SYNC_SERVERS = "sync_servers"
    FLEET_TOKEN = "fleet_token"  # noqa: S105 - the name of a finding
    FLEET_CERTIFICATE = "fleet_certificate"
    FLEET_NODE = "fleet_node"
    FLEET_ETCD = "fleet_etcd"
    CONDITION = "condition"
    IPVS_FOREIGN = "ipvs_foreign"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadAtBoot:
    """A line of a file in modules-load.d."""

    module: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleOption:
    """An `options` line of a file in modprobe.d."""

    module: str
    option: str
    value: str


Change: TypeAlias = SetSysctl | LoadAtBoot | ModuleOption


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line. `changes` is as much of the fix as may be made without asking what else runs on the node."""

    severity: Severity
    code: Code
    text: str
    fix: str = ""
    changes: tuple[Change, ...] = ()


def unchecked(what: str, why: str) -> Finding:
    return Finding(severity=Severity.INFO, code=Code.UNCHECKED, text=f"{what} could not be checked: {why}")


def set_sysctls(*changes: SetSysctl) -> str:
    words = " ".join(f"{change.name}={change.value}" for change in changes)
    return f"`sysctl -w {words}`, and for the next boot in {SYSCTL_FILE}"


def set_back(name: str, value: str | int) -> str:
    """For a sysctl whose default would do: somebody has set it otherwise, and will do so again."""
    now = set_sysctls(SetSysctl(name=name, value=str(value)))
    word = name.rpartition(".")[2]
    return f"{now}; the file that sets it now: `grep -rs {word} /etc/sysctl.conf /etc/sysctl.d /usr/lib/sysctl.d`"


def some(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    every = list(dict.fromkeys(names))
    rest = len(every) - _SHOWN
    return ", ".join(every[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def size_of(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 1000)):
        if count >= size:
            return f"{count / size:.{0 if count >= 10 * size else 1}f} {unit}"
    return f"{count} B"


def dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
