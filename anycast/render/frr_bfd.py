"""The configuration of FRR's bfdd and zebra on a node, beside ExaBGP, which has no BFD."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anycast.analysis.routers import bfd_hops
from anycast.core.values.speaker import LearnedBy
from anycast.render.router import local_address
from anycast.render.template import render

if TYPE_CHECKING:
    from anycast.core.values.configuration import Config


def frr_bfd_conf(config: Config) -> str:
    """The complete file for FRR, one BFD session for each neighbor that has BFD.

    Raises ValueError where none has, where BIRD announces, and for an IPv6 neighbor without a local address.
    """
    if config.speaker.is_table and config.speaker.daemon is LearnedBy.BIRD:
        raise ValueError(
            "BIRD announces for this node, and speaks BFD itself: run no bfdd beside it (anycast render bird)"
        )
    if not any(neighbor.bfd for neighbor in config.bgp.neighbors):
        raise ValueError("no neighbor has BFD: write `bfd: true` in the section bgp")
    return render("frr-bfd.conf", bgp=config.bgp, local_address=local_address, bfd_hops=bfd_hops)
