"""What a node, a VIP or a service requires besides real servers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from anycast.core.health.aim import aimed
from anycast.core.health.compose import leaves
from anycast.core.values.checks import BgpSession, GatewayCheck
from anycast.core.values.configuration import HERE, Address, Aimed, Config, Rule, Target, Vip
from anycast.core.vip.decide import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A rule about the node, a VIP or a service, and what it is about."""

    check: Aimed
    reason: Reason
    vip: str = ""  # empty: the node
    service: str = ""  # empty: the whole VIP

    @property
    def scope(self) -> str:
        return " ".join(word for word in ("vip" if self.vip else "node", self.vip, self.service) if word)

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
    if vip.require is not None:
        yield Requirement(check=aimed(vip.require), reason=Reason.VIP_CHECK_FAILED, vip=vip.name)
    for service in vip.services:
        if service.require is not None:
            yield Requirement(
                check=aimed(service.require),
                reason=Reason.VIP_CHECK_FAILED,
                vip=vip.name,
                service=service.name,
            )
