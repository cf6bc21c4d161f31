"""The configuration of FRR's bfdd and zebra on a node, beside ExaBGP, which has no BFD."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from anycast.render.exabgp import local_address

if TYPE_CHECKING:
    from anycast.core.values.configuration import Bgp, Config, Neighbor


def frr_bfd_conf(config: Config) -> str:
    """The complete file for FRR, one BFD session for each neighbor that has BFD.

    Raises ValueError where none has, and for an IPv6 neighbor without a local address.
    """
    peers = [line for neighbor in config.bgp.neighbors for line in _peer(config.bgp, neighbor)]
    if not peers:
        raise ValueError("no neighbor has BFD: write `bfd: true` in the section bgp")
    return "\n".join([_HEAD + "bfd", *peers, "exit", ""])


def _peer(bgp: Bgp, neighbor: Neighbor) -> Iterator[str]:
    if neighbor.bfd is None:
        return
    interval = round(neighbor.bfd.interval * 1000)
    yield f" peer {neighbor.address} local-address {local_address(bgp, neighbor)}"
    yield f"  detect-multiplier {neighbor.bfd.multiplier}"
    yield f"  receive-interval {interval}"
    yield f"  transmit-interval {interval}"
    yield "  no shutdown"
    yield " exit"


_HEAD = """\
! Written by `anycast render frr-bfd`: change the node's YAML and write it again.
! FRR on this node speaks BFD and nothing else; ExaBGP speaks BGP. In /etc/frr/daemons:
!   bfdd=yes
!   bgpd=no
! zebra runs too: bfdd learns of the interfaces from it. It changes no routes.
! This file is /etc/frr/frr.conf; systemctl restart frr. Then: vtysh -c 'show bfd peers brief'
frr defaults traditional
log syslog warnings
"""
