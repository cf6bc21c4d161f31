"""The idle check, a run of it by itself: a connection that the server leaves open for a moment.

The agent leaves it open for good: `anycast.probes.wires`.
"""

from __future__ import annotations

from anycast.core.values.checks import IdleCheck, TcpQuietCheck
from anycast.core.values.configuration import Address
from anycast.probes import closes
from anycast.probes.finding import Finding, Progress
from anycast.probes.wires.wires import LEFT_OPEN

__all__ = ["check"]


async def check(kind: IdleCheck, address: Address, port: int, progress: Progress) -> Finding:
    """Raises OSError."""
    quiet = TcpQuietCheck(port=kind.port, quiet=LEFT_OPEN)
    return await closes.check(quiet, address, port, progress)
