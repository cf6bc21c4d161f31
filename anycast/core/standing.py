"""The conditions that stand: those that others tell of, and those that follow from the state itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from heapq import nsmallest
from math import floor

from anycast.core import limited, view
from anycast.core.dataplane import ipvs
from anycast.core.events import Effect, Log, NameOthers
from anycast.core.fleet.alarms import alarms
from anycast.core.maintenance.stages import NODE_SCOPES, is_server
from anycast.core.reload import server_names
from anycast.core.rendering import (
    LEARN,
    RELOAD,
    RESTART,
    accepted,
    differing,
    sessions,
    setups,
    table_digest,
    untold,
)
from anycast.core.state import CONTEST_ENDS, CONTESTED, State
from anycast.core.values.configuration import Config
from anycast.core.values.report import SILENT, Report, silent_for, vulnerable
from anycast.core.values.standing import MAX_TEXT, Condition, Standing

CLOCK_STANDS = 600.0  # seconds after the clock was set
NAMED = 5  # scopes, addresses
_LACKS = {
    1: "leaves out AS path, local preference, extended communities and origin, and sends every router the same: "
    "routers take a backup for a primary",
    2: "sends every router the same",
    3: "announces no IPv4 VIP with an IPv6 next hop",
}
_FLEET = (Condition.FLEET_UNSEEN, Condition.FLEET_NODE_SILENT, Condition.FLEET_TABLES_DIFFER)
_FOUGHT = (Condition.ADDRESSES_CONTESTED, "")


def told(state: State, kind: Condition, about: str, text: str, now: float) -> tuple[State, list[Effect]]:
    """Of what is outside the core. An empty `text`: it is over."""
    if kind is Condition.PLUGIN_REFUSED and _reports(state):
        return state, []  # the one that is wanted is there
    return _with(state, {(kind, about): text}, now)


def outdated(state: State, config: Config) -> Mapping[int, float]:
    """The processes of ExaBGP that have other settings than `config` gives, of those that they do not tell."""
    if config.bgp is state.config.bgp:
        return state.outdated
    before, after = (
        {one.address: untold(one) for one in bgp.neighbors} for bgp in (state.config.bgp, config.bgp)
    )
    if all(after[address] == before[address] for address in after if address in before):
        return state.outdated
    return {**state.outdated, **{report.exabgp_pid: state.seen for report in _reports(state)}}


def concluded(before: State, state: State, now: float) -> tuple[State, list[Effect]]:
    """What follows from the state, where it can be other than before."""
    if state.clock_set is not None and not _clock_stands(state, now):
        state = replace(state, clock_set=None)
    config = state.config is not before.config
    maintenance = state.maintenance is not before.maintenance
    found: dict[tuple[Condition, str], str] = {}
    if config or state.plugins is not before.plugins:
        state = _running(_rendered(before, state))
        found |= _of_plugins(state)
    if (Condition.EXABGP_SILENT, "") in state.standing or any(
        one.silent_since is not None for one in _reports(state)
    ):
        found[Condition.EXABGP_SILENT, ""] = _of_silence(state, now)
    if maintenance or state.wall_offset != before.wall_offset or state.clock_set is not before.clock_set:
        found |= _of_clock(state, now)
    if config or maintenance:
        found[Condition.MAINTENANCE_ORPHANED, ""] = _orphans(state)
    if state.kernel.problems is not before.kernel.problems:
        found[Condition.KERNEL_REFUSES, ""] = _of_kernel(state)
    if state.unreplaced is not before.unreplaced or (state.unreplaced and config):
        found[Condition.SERVERS_NOT_REPLACED, ""] = _unreplaced(state)
    if state.limited is not before.limited:
        found[Condition.WITHDRAWALS_LIMITED, ""] = limited.alarm(state)
    if state.views.told is not before.views.told or (state.views.told and config):
        for neighbor in {*before.views.told, *state.views.told}:
            found[Condition.ADVERTISED_BUT_NOT_RECEIVED, neighbor] = view.alarm(state, neighbor)
    if config or state.fleet is not before.fleet or (state.config.fleet and floor(now) > floor(before.seen)):
        found |= _of_fleet(before, state, now)
    effects: list[Effect] = []
    if state.kernel.contests is not before.kernel.contests:
        text = found[_FOUGHT] = _of_contests(state)
        if bool(text) != (_FOUGHT in state.standing):
            effects = [NameOthers(over=not text)]
    if not found:
        return state, []
    state, more = _with(state, found, now)
    return state, [*more, *effects]


def _with(state: State, texts: Mapping[tuple[Condition, str], str], now: float) -> tuple[State, list[Effect]]:
    if not any(texts.values()) and state.standing.keys().isdisjoint(texts):
        return state, []
    standing = dict(state.standing)
    effects: list[Effect] = []
    for (kind, about), whole in texts.items():
        text = whole[:MAX_TEXT]
        known = standing.get((kind, about))
        if not text:
            if known is not None:
                del standing[kind, about]
                fields = {"kind": str(kind), "about": about, "seconds": round(now - known.since, 1)}
                effects.append(Log(event="condition.ended", fields=fields))
            continue
        if known is None:
            standing[kind, about] = Standing(kind=kind, since=now, text=text, about=about)
            fields = {"kind": str(kind), "about": about, "text": text}
            effects.append(Log(event="condition.began", fields=fields, level="warning"))
        elif known.text != text:
            standing[kind, about] = replace(known, text=text)
    return (state if standing == state.standing else replace(state, standing=standing)), effects


def _reports(state: State) -> list[Report]:
    return [report for report in state.plugins.values() if report is not None]


def _rendered(before: State, state: State) -> State:
    """With the digests of the configuration in force, once a plugin tells of its own."""
    if not any(report.rendered for report in _reports(state)):
        return state
    if state.config.speaker.is_table or before.config.speaker.is_table:
        return state if state.rendered and state.config is before.config else _anew(state)
    # What does for these neighbors does for them with any VIPs.
    if state.rendered and state.config.bgp == before.config.bgp:
        return state
    return _anew(state)


def _anew(state: State) -> State:
    bgp = state.config.bgp
    if state.config.speaker.is_table:
        return replace(state, rendered=frozenset({table_digest(state.config)}), setups=frozenset())
    return replace(state, rendered=accepted(bgp, state.index.addresses), setups=setups(bgp))


def _running(state: State) -> State:
    """With what ExaBGP runs with: the configuration in force, once it reports that."""
    loaded = {one.exabgp_pid: one.loaded for one in _reports(state) if one.loaded is not None}
    old = {pid: at for pid, at in state.outdated.items() if loaded.get(pid, at) <= at}
    if len(old) < len(state.outdated):
        state = replace(state, outdated=old)
    if state.running is state.config.bgp:
        return state
    same = any(report.rendered and not _is_old(state, report) for report in _reports(state))
    return replace(state, running=state.config.bgp) if same else state


def _is_old(state: State, report: Report) -> bool:
    """Whether ExaBGP has something else. Its command line is as old as its plugin: a reload of ExaBGP leaves it."""
    if not report.rendered:
        return False  # kept by hand
    if report.setups and state.setups != frozenset(report.setups):
        return True
    other = report.rendered not in state.rendered and report.loaded is None
    return other or report.exabgp_pid in state.outdated


def _waits(state: State, report: Report) -> str:
    """What of the configuration ExaBGP does not have, as far as it is known."""
    found = [] if state.running is None else list(sessions(state.running, state.config.bgp))
    if not found and report.setups:
        found = list(differing(state.setups, report.setups))
    if found:
        return _some(list(map(str, found)))
    wanted = {str(one.address) for one in state.config.bgp.neighbors}
    there = {one.address for one in report.neighbors}
    if wanted != there:
        words = [f"neighbor {at} is not there yet" for at in sorted(wanted - there)]
        return _some([*words, *(f"neighbor {at} is still there" for at in sorted(there - wanted))])
    return "a neighbor or a setting of BGP has changed since it was started"


def _some(words: list[str]) -> str:
    return "; ".join(words[:NAMED]) + (f" and {len(words) - NAMED} more" if len(words) > NAMED else "")


def _of_plugins(state: State) -> dict[tuple[Condition, str], str]:
    old = open_to_peers = journal = trouble = unseen = two = ""
    is_table = state.config.speaker.is_table
    for report in _reports(state):
        trouble, unseen = report.trouble or trouble, report.unseen or unseen
        if bool(report.speaker) != is_table:
            two = _other_speaker(report, is_table=is_table)
            continue
        if is_table:
            if report.rendered and report.rendered not in state.rendered:
                old = f"BIRD runs with another configuration than the agent ({LEARN})"
            continue
        if _is_old(state, report):
            old = (
                f"ExaBGP (pid {report.exabgp_pid}) runs with another configuration than the agent ("
                # One that tells how it has the sessions tells of a reload too.
                f"{RELOAD if report.setups else RESTART}): {_waits(state, report)}"
            )
        if report.attributes < state.index.attributes:
            old = (
                f"ExaBGP (pid {report.exabgp_pid}) runs a plugin of an older release, which {_LACKS[max(report.attributes, 1)]} "
                f"(restart it: {RESTART})"
            )
        if (cure := vulnerable(report.exabgp_version)) is not None:
            open_to_peers = (
                "a BGP peer can write events of its own to the processes of ExaBGP "
                f"{report.exabgp_version} (pid {report.exabgp_pid}): {cure}, then restart it ({RESTART})"
            )
        if report.journal_error:
            journal = (
                f"the plugin cannot write its journal ({report.journal_error}): routes that are not on its command "
                "line are not announced"
            )
    found = {
        (Condition.EXABGP_OUTDATED, ""): old,
        (Condition.EXABGP_VULNERABLE, ""): open_to_peers,
        (Condition.PLUGIN_JOURNAL, ""): journal,
        (Condition.TABLE_TROUBLE, ""): trouble,
        (Condition.SPEAKER_UNSEEN, ""): unseen if is_table else "",
        (Condition.TWO_SPEAKERS, ""): two,
    }
    if _reports(state):
        found[Condition.PLUGIN_REFUSED, ""] = ""  # another one was let in
    return found


def _other_speaker(report: Report, *, is_table: bool) -> str:
    if is_table:
        return (
            f"ExaBGP (pid {report.exabgp_pid}) announces besides the kernel's table, which `speaker` names (once BIRD announces: "
            "`systemctl disable --now anycast-exabgp`)"
        )
    return (
        f"the announcer (pid {report.pid}) writes routes for a routing daemon besides ExaBGP, which `speaker` names (once ExaBGP "
        "announces: `systemctl disable --now anycast-table`)"
    )


def wakes(state: State, now: float) -> list[float]:
    """Future instants at which an ExaBGP that owes an answer counts as silent."""
    silences = [one.silent_since + SILENT for one in _reports(state) if one.silent_since is not None]
    return [at for at in silences if at > now]


def _of_silence(state: State, now: float) -> str:
    """The text does not grow with the silence: it stands as it began."""
    hold = state.config.bgp.hold_time
    for report in _reports(state):
        if silent_for(report, now) is None:
            continue
        if report.speaker:
            return _of_silent_table(report, hold)
        dropped = f"routers drop what it announced within {hold} s of its last keepalive (bgp.hold_time)"
        if report.mute:
            return (
                f"the plugin (pid {report.pid}) of ExaBGP (pid {report.exabgp_pid}) does not answer: if both stand still, "
                f"{dropped}, and nobody ends them (`anycast doctor` names a frozen unit: `systemctl thaw anycast-exabgp`; "
                "else `systemctl restart anycast-exabgp`: its sessions and routes are away until it is up again)"
            )
        return (
            f"ExaBGP (pid {report.exabgp_pid}) does not answer: {dropped}; after 5 s the plugin ends it, and its unit starts "
            "it again (if this stays: `systemctl restart anycast-exabgp`; its sessions and routes are away until it is up "
            "again)"
        )
    return ""


def _of_silent_table(report: Report, hold: int) -> str:
    if report.mute:
        return (
            f"the announcer (pid {report.pid}) does not answer: its watchdog ends it after 2.5 s, its routes go, and the next one "
            "starts (if this stays: `systemctl restart anycast-table`)"
        )
    return (
        f"{report.daemon or 'BIRD'} does not answer: what it announces is not known, and routers drop it within {hold} s of its "
        "last keepalive (bgp.hold_time; with OSPF speaker.ospf.dead) (`systemctl restart bird`)"
    )


def _of_fleet(before: State, state: State, now: float) -> dict[tuple[Condition, str], str]:
    """At most once a second where nothing is heard. What is said of nodes that are not configured any more is over."""
    found = alarms(state.fleet, state.config.fleet, now)
    over = dict.fromkeys((one for one in before.standing if one[0] in _FLEET and one not in found), "")
    return {**over, **found}


def _orphans(state: State) -> str:
    scopes = [scope for scope in state.maintenance if scope not in NODE_SCOPES]
    servers = server_names(state.configured) if any(map(is_server, scopes)) else frozenset[str]()
    orphans = sorted(
        scope for scope in scopes if scope not in (servers if is_server(scope) else state.index.vips)
    )
    if not orphans:
        return ""
    named = ", ".join(orphans[:NAMED]) + (f" and {len(orphans) - NAMED} more" if len(orphans) > NAMED else "")
    return (
        f"nothing of the name {named} is configured, and its maintenance is kept (`anycast maintenance off --vip NAME` "
        "or `anycast undrain-server POOL/SERVER` ends it)"
    )


def _unreplaced(state: State) -> str:
    services = state.index.services
    first = nsmallest(
        NAMED, ((state.index.place[services[key].vip], ipvs.order_of(key), key) for key in state.unreplaced)
    )
    named = ", ".join(f"{services[key].vip} {state.services[key].name}" for _, _, key in first)
    if not named:
        return ""
    more = f" and {len(state.unreplaced) - NAMED} more" if len(state.unreplaced) > NAMED else ""
    return (
        f"too few of the new real servers of {named}{more} can be used, so those that they replace go on (`anycast why "
        "--vip NAME` says what the checks find; mend them, or `anycast reload --undo`)"
    )


def _of_kernel(state: State) -> str:
    if not state.kernel.problems:
        return ""
    text = "; ".join(state.kernel.problems[:NAMED])
    return f"the kernel refuses what is wanted: {text} (`anycast doctor` says what is missing)"


def _of_contests(state: State) -> str:
    times = {address: one.times for address, one in state.kernel.contests.items() if one.times >= CONTESTED}
    if not times:
        return ""
    named = ", ".join(str(address) for address in list(times)[:NAMED])
    more = f" and {len(times) - NAMED} more" if len(times) > NAMED else ""
    return (
        f"another program takes {named}{more} from {state.config.node.interface} or makes it a source address, again and "
        f"again ({max(times.values())} times, each within {CONTEST_ENDS / 60:g} min of the one before): the agent puts it "
        "right each time (networkd, NetworkManager or ifupdown2 is named beside this, with its cure; if none is, see in the "
        "journal what ran at the times that `anycast events` shows for kernel.drifted)"
    )


def _clock_stands(state: State, now: float) -> bool:
    known = state.clock_set
    if known is None:
        return False
    return now - known.at < CLOCK_STANDS or any(entry.end for entry in state.maintenance.values())


def _of_clock(state: State, now: float) -> dict[tuple[Condition, str], str]:
    was_set = behind = ""
    if state.clock_set is not None:
        by = state.clock_set.by
        was_set = (
            f"the clock of this node was set {'forward' if by > 0 else 'back'} by {abs(by):.0f} s: ends given as a time "
            "(--until) are by the new clock (compare it with another one)"
        )
    wall = now + (state.wall_offset or 0.0)
    ends = ((entry.end, entry.since) for entry in state.maintenance.values() if entry.end is not None)
    if state.wall_offset is not None and any(end.due is None and wall < said for end, said in ends):
        behind = "the clock of this node shows a time before a maintenance began, so it ends none by itself (set the clock)"
    return {(Condition.CLOCK_SET, ""): was_set, (Condition.CLOCK_BEHIND, ""): behind}
