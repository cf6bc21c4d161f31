"""The lease protocol between the agent and the plugin.

The agent listens on a unix stream socket, plugins connect and connect again. The agent sends a `Lease`, the full set
of routes, and renews it well within its time to live; a renewal is a `LeaseChange`: what differs from the lease
before it, and the digest of the full set. The plugin answers with its report, which is the difference to the one
before (`ReportChange`). Sequence numbers belong to a connection: after a new connection a report says 0 until the
plugin follows a lease of that connection.

Both ends may be of different releases. Whoever understands differences says so with its first word (`Hello` of the
agent, `Ask` of the plugin); without it he gets whole leases, or whole reports. What is not known is passed over.

Both ends run on one host, so instants are readings of one CLOCK_MONOTONIC.
"""

from __future__ import annotations

from anycast.core.values.lease import Lease
from anycast.core.values.report import Report
from anycast.lease.codec import MAX_LINE, Decoder, encode, route_body, route_of
from anycast.lease.messages import (
    NO_REPORT,
    PIECE,
    Ask,
    Hello,
    LeaseChange,
    Message,
    ProtocolError,
    ReportChange,
    change_of,
    changes_of,
    report_after,
    told_together,
)

__all__ = [
    "MAX_LINE",
    "NO_REPORT",
    "PIECE",
    "Ask",
    "Decoder",
    "Hello",
    "Lease",
    "LeaseChange",
    "Message",
    "ProtocolError",
    "Report",
    "ReportChange",
    "change_of",
    "changes_of",
    "encode",
    "report_after",
    "route_body",
    "route_of",
    "told_together",
]
