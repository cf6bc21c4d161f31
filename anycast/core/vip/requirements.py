"""What a node, a VIP or a service requires besides real servers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from anycast.core.health.aim import aimed
from anycast.core.values.configuration import Aimed, Config, Vip
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
