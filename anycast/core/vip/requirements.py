"""What a node, a VIP or a service requires besides real servers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from anycast.core.health.aim import aimed, aimer
from anycast.core.health.compose import leaves
from anycast.core.values.checks import BgpSession, GatewayCheck
from anycast.core.values.configuration import HERE, Address, Aimed, Config, Local, Rule, Target, Vip
from anycast.core.vip.decide import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A rule about the node, a VIP or a service, and what it is about.

    `port` not 0: that the node itself serves this port of the VIP. `address` None: at all of its addresses.
    """

    check: Aimed
    reason: Reason
    vip: str = ""  # empty: the node
    service: str = ""  # empty: the whole VIP
    address: Address | None = None
    port: int = 0

    @property
    def is_local(self) -> bool:
        """Whether it is about what the node itself serves, and nothing that an operator has required beside."""
        return self.port != 0

    @property
    def scope(self) -> str:
        return " ".join(word for word in ("vip" if self.vip else "node", self.vip, self.service) if word)

    @property
    def subject(self) -> str:
        """What a sentence about its health begins with: `udp/53 at 192.0.2.53`. Empty: the VIP or the node."""
        return f"{self.service} at {self.address}" if self.address is not None else self.service

    def of_node(self, addresses: AbstractSet[Address]) -> bool:
        """Whether it looks at this node, with a part of it at least. `addresses`: of the node's VIPs.

        A command without an address may look at anything.
        """
        return not self.vip or any(
            isinstance(leaf, BgpSession) or _is_here(leaf, addresses) for leaf in self._leaves()
        )

    def beyond(self, addresses: AbstractSet[Address]) -> bool:
        """Whether it looks at nothing in this node, but at its gateway, its sessions or things elsewhere."""
        return all(
            isinstance(leaf, BgpSession)
            or isinstance(leaf.check.kind, GatewayCheck)
            or not _is_here(leaf, addresses)
            for leaf in self._leaves()
        )

    def _leaves(self) -> Iterable[Target | BgpSession]:
        return leaves(self.check) if isinstance(self.check, Rule) else (self.check,)


def _is_here(target: Target, addresses: AbstractSet[Address]) -> bool:
    return target.address == HERE or target.address.is_loopback or target.address in addresses


def requirements(config: Config) -> tuple[Requirement, ...]:
    """All of them, the node's first."""
    return (*node_requirements(config), *(one for vip in config.vips for one in vip_requirements(vip)))


def node_requirements(config: Config) -> Iterator[Requirement]:
    if config.require is not None:
        yield Requirement(check=aimed(config.require), reason=Reason.NODE_CHECK_FAILED)


def vip_requirements(vip: Vip) -> Iterator[Requirement]:
    """Of the VIP and its services."""
    for local in vip.local:
        yield from _served(vip, local)
    if vip.require is not None:
        yield Requirement(check=aimed(vip.require), reason=Reason.VIP_CHECK_FAILED, vip=vip.name)
    of_services = [(one.name, one.require) for one in vip.services]
    of_services += [(one.name, one.require) for one in vip.local]
    for service, require in of_services:
        if require is not None:
            yield Requirement(
                check=aimed(require), reason=Reason.VIP_CHECK_FAILED, vip=vip.name, service=service
            )


def _served(vip: Vip, local: Local) -> Iterator[Requirement]:
    """At each address of the VIP; once for all of them where the check looks at another place."""
    if local.check is None:
        return
    at = aimer(local.check)
    checks = {address: at(address, local.port) for address in vip.addresses}
    same = len(checks) > 1 and len(set(checks.values())) == 1
    for address, check in list(checks.items())[: 1 if same else None]:
        yield Requirement(
            check=check,
            reason=Reason.LOCAL_CHECK_FAILED,
            vip=vip.name,
            service=local.name,
            address=None if same else address,
            port=local.port,
        )
