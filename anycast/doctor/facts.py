"""Everything that was read of a node, as one value. What could not be read is None, and says why in `unread`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Interface, IPv6Interface
from typing import NamedTuple, TypeAlias

from anycast.core.dataplane.ipvs import Key
from anycast.core.values.configuration import Address
from anycast.core.values.managers import Managers
from anycast.doctor.filter.rules import Table

InterfaceAddress: TypeAlias = IPv4Interface | IPv6Interface

CAP_NET_BIND_SERVICE = 10
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13


class Module(StrEnum):
    """What is known of a kernel module."""

    LOADED = "loaded"
    BUILT_IN = "built in"
    AVAILABLE = "available"  # modprobe would find it
    MISSING = "missing"
    UNKNOWN = "unknown"  # not loaded, and no list says what there is


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """Names with underscores. None: there is no list to read."""

    loaded: frozenset[str] = frozenset()
    built_in: frozenset[str] | None = frozenset()
    available: frozenset[str] | None = frozenset()
    by_file: frozenset[str] = frozenset()  # loaded at boot by a file in modules-load.d
    by_unit: frozenset[str] = frozenset()  # by the package's unit, which does not fail where there is none

    @property
    def at_boot(self) -> frozenset[str]:
        return self.by_file | self.by_unit

    def state(self, name: str) -> Module:
        if self.built_in is not None and name in self.built_in:
            return Module.BUILT_IN
        if name in self.loaded:
            return Module.LOADED
        if self.available is None or self.built_in is None:
            return Module.UNKNOWN
        return Module.AVAILABLE if name in self.available else Module.MISSING

    def works(self, name: str) -> bool:
        return self.state(name) in (Module.LOADED, Module.BUILT_IN)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOption:
    """`options ip_vs conn_tab_bits=` as modprobe would use it: the last file that has it wins."""

    bits: int
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    name: str
    up: bool
    mtu: int  # bytes
    kind: str = ""  # the kernel's word for what is no hardware: dummy, bridge, ipip, gre …
    neighbours: bool = True  # ask on it for addresses, by ARP or neighbour discovery
    vrf: str = ""  # the VRF that it is in
    addresses: tuple[InterfaceAddress, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How this node reaches an address. `mtu` in bytes: the route's own, or else its interface's."""

    interface: str
    mtu: int
    gateway: Address | None = None
    local: bool = False  # the address is this node's own
    source: Address | None = (
        None  # of the node's own packets to it; 0.0.0.0 or ::, there is none; None: not known
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultRoute:
    interfaces: tuple[str, ...]  # of its next hops
    metric: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """Something that could not be checked, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRoute:
    """A route in the configuration of an ExaBGP that runs: to an address, or a prefix. `where`: file and line."""

    where: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """What stands still, is out of date, or works against the agent."""

    frozen: frozenset[str] = frozenset()  # units whose processes stand still
    replaced: frozenset[str] = frozenset()  # programs of FRR that run from files which are gone
    routes: tuple[FileRoute, ...] = ()
    healthchecks: bool = False  # ExaBGP's own healthcheck runs, and sets addresses
    ipvsadm_auto: str | None = None  # file and line that let ipvsadm.service fill the table
    ipvsadm_daemon: str | None = None  # that let it run a daemon of connection sync
    sysctl_conf: tuple[str, ...] = ()  # files with sysctls that nothing sets at boot


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakersTable:
    """What else there is to the table of `speaker`: priorities of rules that lead to it, and routes of others, as text."""

    rules: tuple[int, ...] = ()
    foreign: tuple[str, ...] = ()


class Announced(NamedTuple):
    """A connection that another balancer has told of."""

    protocol: int
    vip: Address
    port: int
    mark: int
    server: Address
    server_port: int

    @property
    def served(self) -> tuple[object, ...]:
        """By which service and at which real server. A mark has real servers without ports."""
        if self.mark:
            return self.mark, self.server
        return self.protocol, self.vip, self.port, self.server, self.server_port


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What other balancers announced by connection sync while they were listened to."""

    ids: Mapping[int, frozenset[str]] = field(default_factory=dict)  # sync id: the addresses it came from
    announced: frozenset[tuple[str, Announced]] = frozenset()  # with the address it came from; of our id


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSocket:
    """The agent's socket for the plugin, and the user that is to open it."""

    path: str
    mode: int  # permission bits
    uid: int
    gid: int
    user: int  # the number of node.exabgp_user, or of speaker.user
    groups: frozenset[int]  # it is in

    @property
    def is_for_all(self) -> bool:
        return bool(self.mode & 0o002)

    @property
    def is_for_user(self) -> bool:
        if self.user == 0 or self.is_for_all:
            return True
        if self.user == self.uid:
            return bool(self.mode & 0o200)
        return self.gid in self.groups and bool(self.mode & 0o020)


class Answered(NamedTuple):
    """Somebody of the fleet who was asked: another node, or a member of etcd. `why` empty: it answers."""

    name: str
    why: str = ""
    version: str = ""  # of etcd
    alarms: str = ""  # what a member of etcd says is wrong with it


class Runs(NamedTuple):
    """A certificate. `left`: seconds; None: it does not say. `why` empty: it can be read."""

    path: str
    left: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFacts:
    """What it takes to hear the others. `token`: why it cannot be used; empty: it can, or there is none."""

    token: str = ""
    token_is_for_all: str = ""  # the file that every user may read
    certificates: tuple[Runs, ...] = ()
    nodes: tuple[Answered, ...] = ()
    etcd: tuple[Answered, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One reading of a node. The defaults are those of a node about which nothing is known."""

    release: str  # of the kernel, as uname has it: 6.1.0-18-amd64
    root: bool  # this process is user 0
    capabilities: frozenset[int] | None = None  # effective, of this process
    initial_user_namespace: bool | None = None
    memory: int | None = None  # bytes
    modules: Modules = Modules(built_in=None, available=None)
    conn_tab_bits: int | None = None  # of the loaded module
    conn_tab_option: TableOption | None = None
    entries: int | None = None  # of the connection table, where a limit of them can be reached
    sysctls: Mapping[str, str] = field(default_factory=dict)  # those that could be read, by dotted name
    sysctls_read_only: bool = False
    interfaces: tuple[Interface, ...] | None = None
    # None: there is no route. An address that is not in here was not asked for.
    routes: Mapping[Address, Route | None] = field(default_factory=dict)
    uplinks: frozenset[str] = frozenset()  # interfaces that lead to the routers
    resolvers: tuple[Address, ...] = ()
    advertised: frozenset[str] = (
        frozenset()
    )  # interfaces with an IPv6 default route from router advertisements
    default_routes6: tuple[DefaultRoute, ...] = ()  # not read where nothing rests on them
    strict_reverse_path6: tuple[
        str, ...
    ] = ()  # where packets are dropped that came in by another way than back
    ipvs: frozenset[Key] | None = None
    bound: frozenset[tuple[Address, int]] | None = None  # address and port of UDP sockets; None: not read
    packet_filter: tuple[Table, ...] | None = None  # None: not all of its rules could be read
    lease_socket: LeaseSocket | None = None  # None: no agent has made it, or there is no such user
    managers: Managers = Managers()
    programs: frozenset[str] = frozenset()  # that run in this network namespace, by the kernel's names
    beside: Beside = Beside()
    speakers_table: SpeakersTable = SpeakersTable()
    heard: Heard | None = None  # None: there is no connection sync, or it was not listened to
    fleet: FleetFacts = FleetFacts()
    clock_steps: str | None = None  # file and line that let chrony set the clock at any time
    unread: tuple[Unread, ...] = ()

    @property
    def version(self) -> tuple[int, int]:
        """The kernel's major and minor number; (0, 0) where the release does not begin with them."""
        found = re.match(r"(\d+)\.(\d+)", self.release)
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def interface(self, name: str) -> Interface | None:
        return next((one for one in self.interfaces or () if one.name == name), None)

    def number(self, sysctl: str) -> int | None:
        """A sysctl as a number. None: it could not be read, or is none."""
        value = self.sysctls.get(sysctl)
        return int(value) if value is not None and value.lstrip("-").isdigit() else None


def conf(interface: str, key: str, *, family: int = 4) -> str:
    """The sysctl of one interface. A dot of the interface's name is a slash in it, as sysctl(8) has it."""
    return f"net.ipv{family}.conf.{interface.replace('.', '/')}.{key}"
