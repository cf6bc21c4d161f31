"""What is wrong with the node itself for a while: said when it begins, and it stands until it is over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_TEXT = 500  # characters


class Condition(StrEnum):
    """Stable words: the status, the metrics and alert rules use them."""

    MAINTENANCE_NOT_SAVED = "maintenance_not_saved"
    OWNED_NOT_SAVED = "owned_not_saved"
    STARTS_NOT_SAVED = "starts_not_saved"
    EVENTS_NOT_SAVED = "events_not_saved"
    STATE_SHARED = "state_shared"  # another agent has the state directory
    OWNED_DAMAGED = "owned_damaged"
    RECORDING_ENDED = "recording_ended"
    RELOAD_REFUSED = "reload_refused"
    LAST_GOOD = "last_good"  # the agent runs with it, for the file could not be used
    CONFIRMATION_AWAITED = "confirmation_awaited"
    GONE_BACK = "gone_back"  # from a configuration that the file still has
    CONFIG_NOT_SAVED = "config_not_saved"  # as the last good one
    AGENT_OUTDATED = "agent_outdated"  # it has settings that a reload does not change
    EXABGP_OUTDATED = "exabgp_outdated"  # it runs with another configuration than the agent
    EXABGP_VULNERABLE = "exabgp_vulnerable"  # its version has a known fault that a BGP peer can use
    EXABGP_SILENT = "exabgp_silent"  # what it announces is not known, and routers drop it after the hold time
    TABLE_TROUBLE = (
        "table_trouble"  # the speaker's table of the kernel has routes of others, or cannot be used
    )
    SPEAKER_UNSEEN = "speaker_unseen"  # what the daemon has learned, and which sessions are up, is not known
    TWO_SPEAKERS = "two_speakers"  # another than `speaker` names announces too
    ADVERTISED_BUT_NOT_RECEIVED = "advertised_but_not_received"  # a router does not have what it was sent
    ROUTER_DEAF = "router_deaf"  # it takes nothing of what it is sent
    FLEET_UNSEEN = "fleet_unseen"  # nothing new is known of the other nodes
    FLEET_NODE_SILENT = "fleet_node_silent"  # one of them is not heard
    FLEET_TABLES_DIFFER = "fleet_tables_differ"  # one of them chooses other real servers
    FLEET_HEADROOM_LOW = "fleet_headroom_low"  # with one node less this one would be over its limit
    NODE_OVER_LIMIT = "node_over_limit"  # of its capacity
    PLUGIN_REFUSED = "plugin_refused"
    PLUGIN_JOURNAL = "plugin_journal"
    CLOCK_SET = "clock_set"
    CLOCK_BEHIND = "clock_behind"  # it shows a time before a maintenance began
    TOO_MANY_OUT = "too_many_out"  # more nodes are out than fleet.max_out
    MAINTENANCE_ORPHANED = "maintenance_orphaned"
    MAINTENANCE_FILE_UNREADABLE = "maintenance_file_unreadable"
    SERVERS_NOT_REPLACED = "servers_not_replaced"  # the new ones fail, and the old ones go on
    WITHDRAWALS_LIMITED = "withdrawals_limited"  # the fleet's limit keeps routes that would be taken back
    KERNEL_REFUSES = "kernel_refuses"
    ADDRESSES_CONTESTED = "addresses_contested"  # another program changes them again and again
    KERNEL_UNWATCHED = "kernel_unwatched"
    SOCKET_UNAVAILABLE = "socket_unavailable"
    OPS_UNAVAILABLE = "ops_unavailable"  # HTTP
    OVERLOADED = "overloaded"
    HOOK_FAILING = "hook_failing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One condition. `since`: monotonic instant. `text`: what it is and what to do, for people.

    `about`: which of several of a kind; empty: there is one.
    """

    kind: Condition
    since: float
    text: str
    about: str = ""
