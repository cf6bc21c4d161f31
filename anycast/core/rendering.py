"""Which configuration ExaBGP runs with: a digest of all that a reload of the agent cannot give it.

`anycast render exabgp` writes it on the plugin's command line, and the plugin reports it. Everybody on the node can
read a command line, so passwords are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from anycast.core.values.configuration import Address, Bgp

FORMAT = 1  # of what is rendered: another number, and every ExaBGP is to be started again


def digest(bgp: Bgp, addresses: Iterable[Address]) -> str:
    """`addresses`: those that the node may announce."""
    neighbors = sorted(
        f"{one.address} {one.remote_as} {one.local_address} {sorted(one.families)} {one.passive}"
        for one in bgp.neighbors
    )
    text = f"{FORMAT} {bgp.local_as} {bgp.router_id} {bgp.hold_time} {neighbors}"
    if bgp.mark is not None:  # without it as it was before there were views
        text += f" {bgp.mark} {sorted(str(one.address) for one in bgp.neighbors if one.view)}"
    found = blake2b(text.encode(), digest_size=8)
    found.update(b"".join(sorted({one.packed for one in addresses})))
    return found.hexdigest()
