"""The hooks that get a node's events. What they get, and in which order, is in `anycast/notify/`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import TypeAlias
from urllib.parse import urlsplit

VERDICT = "vip.verdict_changed"

EVENTS: tuple[str, ...] = (
    VERDICT,
    "agent.displaced",
    "agent.overload_ended",
    "agent.overloaded",
    "agent.start_held",
    "agent.started",
    "agent.stopped",
    "agent.stopping",
    "agent.suspended",
    "agent.task_failed",
    "check.defect",
    "check.down",
    "check.unknown",
    "check.unproven",
    "check.up",
    "check.warned",
    "clock.stepped",
    "condition.began",
    "condition.ended",
    "config.applied",
    "config.confirmed",
    "config.gone_back",
    "config.last_good_damaged",
    "config.last_good_used",
    "config.not_saved",
    "config.rejected",
    "config.unexpected",
    "config.warned",
    "control.unexpected",
    "events.not_saved",
    "fleet.ended",
    "fleet.started",
    "kernel.available",
    "kernel.drifted",
    "kernel.program_failed",
    "kernel.programmed",
    "kernel.unavailable",
    "kernel.unexpected",
    "kernel.watch_failed",
    "local.down",
    "local.up",
    "maintenance.began",
    "maintenance.carried_over",
    "maintenance.damaged",
    "maintenance.ended",
    "maintenance.file_unreadable",
    "maintenance.kept",
    "maintenance.not_saved",
    "maintenance.orphaned",
    "maintenance.overdue",
    "maintenance.stage_changed",
    "neighbor.changed",
    "ops.ended",
    "ops.started",
    "owned.damaged",
    "owned.not_saved",
    "plugin.connected",
    "plugin.dropped",
    "plugin.group_unavailable",
    "plugin.journal_unavailable",
    "plugin.lost",
    "plugin.refused",
    "plugin.user_unknown",
    "recording.ended",
    "requirement.failed",
    "requirement.met",
    "route.announced",
    "route.not_received",
    "route.received",
    "route.refused",
    "route.withdrawn",
    "server.connections_expired",
    "server.down",
    "server.removed",
    "server.up",
    "servers.kept",
    "servers.released",
    "session.ended",
    "socket.rebound",
    "socket.unavailable",
    "starts.damaged",
    "starts.not_saved",
    "state.shared",
    "tripwire.given_up",
    "tripwire.learned",
    "turn.asked",
    "turn.gave_way",
    "turn.given_up",
    "turn.granted",
    "turn.queued",
    "turn.refused",
    "turn.skipped",
)
"""The events a hook can get: those of docs/log-events.md, except those about hooks, which would never end, and the
agent's end by a defect, which hooks do not survive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Where a secret is found when it is needed: a file, or a variable in the agent's environment."""

    file: str = ""
    variable: str = ""

    def __str__(self) -> str:
        return self.file or f"${self.variable}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A program; it gets the payload on its standard input. Arguments may hold secrets: the program alone is shown."""

    argv: tuple[str, ...] = field(repr=False)

    def __str__(self) -> str:
        return self.argv[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """An HTTP POST. What follows the host in the URL may be a secret, as with most chat services."""

    url: str = field(repr=False)
    host: str  # with the port, where one is written; where the URL is kept elsewhere: where
    url_from: Secret | None = None  # then `url` is empty
    token: Secret | None = None  # Authorization: Bearer
    signature: Secret | None = None  # key of the HMAC
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # may hold secrets
    headers_from: Secret | None = None  # more of them
    ca: str | None = None  # file with the certificates to trust; None: the system's
    retries: int = 4

    def __str__(self) -> str:
        return self.host


def wrong_url(url: str) -> tuple[str, str] | None:
    """Why a webhook cannot be called there, and what to do. Its text is not repeated: it may be a secret."""
    do = "write https://HOST/PATH"
    if not re.fullmatch("[!-~]{1,2000}", url):
        return "this is not a URL", f"{do}, in printable ASCII without spaces, 2000 characters at most"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "this is not a URL", f"{do}; a port is a number, an IPv6 address stands in []"
    if parts.scheme not in ("http", "https"):
        return "the scheme of the URL is neither https nor http", do
    if parts.username is not None or parts.password is not None:
        return "the URL holds a user or a password", "remove what is before the @, and use token_file"
    if not host or port == 0:
        return "the URL names no host and port that can be asked", do
    if parts.fragment:
        return "the URL has a part behind #, which is never sent", "remove it"
    return None


def is_exposed(url: str) -> bool:
    """Whether what is sent there can be read on the way."""
    parts = urlsplit(url)
    try:
        here = ip_address(parts.hostname or "").is_loopback
    except ValueError:
        here = parts.hostname == "localhost"
    return parts.scheme == "http" and not here


Action: TypeAlias = Command | Webhook


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """Runs one after another, each for `timeout` seconds at most, `limit` of them in `per` seconds."""

    name: str
    action: Action
    events: frozenset[str] = frozenset({VERDICT})
    timeout: float = 10.0
    limit: int = 20
    per: float = 60.0


class Ending(StrEnum):
    """Stable words, used in metric labels."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"


@dataclass(slots=True)
class Tally:
    """The results of a hook's runs since the start of the agent."""

    runs: dict[Ending, int] = field(default_factory=lambda: dict.fromkeys(Ending, 0))
    seconds: float = 0.0  # of all runs
    suppressed: int = 0  # a newer one was delivered in their place
    dropped: int = 0  # never delivered
    failing: bool = False
    why: str = ""  # it fails
    since: float = 0.0  # it fails; monotonic
    waiting: int = 0
