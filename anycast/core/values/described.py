"""How a setting is described where it is defined.

The class of a section, or of a kind of check, is its one description: names, types, defaults, and what each setting
means: by `setting`, or by a `Doc` in the annotation of what has no default. The reader of the configuration, its reference and its JSON Schema are
made of it (`anycast.config.schema.part`).

The aliases say what a setting holds; `anycast.config.schema.scalars` has the bounds of each under the same name.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Doc:
    """What a setting means. `shown`: its default as the file writes it, where that is not plain; None: the default
    depends on other settings, and `text` tells it.

    `lacks` and `write`, of a setting without a default: what is said where it is not written, and what to do.
    """

    text: str
    shown: str | None = ""
    lacks: str = "it is missing"
    write: str = ""


def setting(text: str, default: T, *, shown: str | None = "", repr: bool = True) -> T:  # noqa: A002
    """A field with its default, and what it means: see `Doc`."""
    return field(default=default, repr=repr, metadata={"doc": Doc(text, shown)})


@dataclass(frozen=True, slots=True)
class Percent:
    """A share."""

    value: int

    def __str__(self) -> str:
        return f"{self.value}%"


def amount(number: int | Percent, whole: int) -> int:
    """A number, or a share of the whole."""
    return number if isinstance(number, int) else whole * number.value // 100


Amount: TypeAlias = float
AnyAddress: TypeAlias = IPv4Address | IPv6Address
Area: TypeAlias = IPv4Address
Argument: TypeAlias = str
AskInterval: TypeAlias = float
BfdInterval: TypeAlias = float
Count: TypeAlias = int
Directory: TypeAlias = str
Domain: TypeAlias = str
Endpoint: TypeAlias = str
EtcdUser: TypeAlias = str
Expression: TypeAlias = str
FileName: TypeAlias = str
Nodes: TypeAlias = int
Fill: TypeAlias = int | Percent
Group: TypeAlias = IPv4Address | IPv6Address
GroupName: TypeAlias = str
HeaderName: TypeAlias = str
HeaderValue: TypeAlias = str
Hold: TypeAlias = float
HostName: TypeAlias = str
HttpHost: TypeAlias = str
HttpMethod: TypeAlias = str
HttpPath: TypeAlias = str
Interface: TypeAlias = str
KernelTimeout: TypeAlias = int
KeyPrefix: TypeAlias = str
LeaseTtl: TypeAlias = float
Lifetime: TypeAlias = float
Limit: TypeAlias = float
Listen: TypeAlias = str
Load: TypeAlias = float
Memory: TypeAlias = int | Percent
Minutes: TypeAlias = int
Name: TypeAlias = str
OspfTimer: TypeAlias = int
OtherNodes: TypeAlias = int
PacketRate: TypeAlias = int
Pause: TypeAlias = float
Penalty: TypeAlias = float
Period: TypeAlias = float
PersistenceTimeout: TypeAlias = int
Port: TypeAlias = int
PrefixLength4: TypeAlias = int
PrefixLength6: TypeAlias = int
Rcode: TypeAlias = str
Reconcile: TypeAlias = float
RecordType: TypeAlias = str
RouterId: TypeAlias = IPv4Address
RouteTable: TypeAlias = int
ServerDrain: TypeAlias = float
ServerName: TypeAlias = str
ServiceName: TypeAlias = str
Share: TypeAlias = Percent
Status: TypeAlias = int
SocketPath: TypeAlias = str
SyncId: TypeAlias = int
TimeToLive: TypeAlias = int
UserName: TypeAlias = str
Variable: TypeAlias = str
Version: TypeAlias = int
Window: TypeAlias = float
