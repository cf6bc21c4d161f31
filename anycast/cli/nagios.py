"""The status as one line for Nagios and its kin, with its exit code. Pure.

What takes a VIP away is critical, what somebody did on purpose or what the node can still do without is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

from anycast.cli.table import printable


class State(IntEnum):
    """As the plugins' convention has them; the name is the second word of the line."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


_ON_PURPOSE = ("node_maintenance", "vip_maintenance", "stopping")
_NAMED = 5  # problems that are told; more are counted


def report(document: Mapping[str, Any]) -> tuple[State, str]:
    """The status document as a state and a line."""
    critical, warnings = list(_critical(document)), list(_warnings(document))
    state = State.CRITICAL if critical else State.WARNING if warnings else State.OK
    vips = document["vips"]
    by = "announced" if any(one.get("speaker") for one in document["plugins"]) else "acknowledged by ExaBGP"
    announced = f"{sum(vip['announced'] for vip in vips)} of {len(vips)} VIPs {by}"
    problems = [*critical, *warnings]
    if len(problems) > _NAMED:
        problems = [*problems[:_NAMED], f"and {len(problems) - _NAMED} more"]
    return state, f"{_line(state, '; '.join([*problems, announced]))} | {_figures(document)}"


def unknown(why: str) -> tuple[State, str]:
    return State.UNKNOWN, _line(State.UNKNOWN, why)


def _line(state: State, text: str) -> str:
    # What stands behind a bar would be read as figures.
    return f"ANYCAST {state.name}: {printable(text.replace('|', '/'))}"


def _critical(document: Mapping[str, Any]) -> Iterator[str]:
    kernel = document["kernel"]
    if not kernel["available"]:
        yield f"kernel unavailable: {kernel['error']}"
    for plugin in document["plugins"]:
        if plugin.get("silent"):
            if plugin.get("speaker"):
                whose = (
                    "the announcer" if plugin.get("mute") else plugin.get("daemon") or "the routing daemon"
                )
            else:
                whose = "the plugin of ExaBGP" if plugin.get("mute") else "ExaBGP"
                whose += f" (pid {plugin['exabgp_pid']})"
            yield (
                f"{whose} has not answered for {plugin['oldest_ack_age_s']:.0f} s: routers drop "
                "its routes within the hold time"
            )
    for vip in document["vips"]:
        if not vip["announced"] and vip["reason"] not in _ON_PURPOSE:
            why = "; ".join(text for text in (vip["detail"], vip["obstacle"]) if text)
            word = "not known to be" if vip.get("obstacle_reason") == "exabgp_silent" else "not"
            yield f"{vip['name']} {word} announced ({vip['reason']}{': ' + why if why else ''})"
        elif vip.get("last_resort"):
            yield f"{vip['name']} announced as the last resort ({vip['reason']}: {vip['detail']})"


def _warnings(document: Mapping[str, Any]) -> Iterator[str]:
    if document["node"]["stopping"]:
        yield "the agent is stopping"
    for one in document.get("standing", []):
        if one["kind"] != "exabgp_silent":  # which is critical
            yield one["text"]
    if not document["vips"]:
        yield "no VIP is configured"
    for entry in document["maintenance"]:
        scope = entry["scope"] or "node"
        word = (
            "drained" if "/" in scope else "in maintenance, overdue" if entry["overdue"] else "in maintenance"
        )
        yield f"{scope} {word} ({entry['reason'] or 'no reason given'})"
    for vip, service in _services(document):
        down = [
            one for one in service["servers"] if not one["drained"] and one["phase"] in ("down", "rising")
        ]
        if down:
            names = ", ".join(dict.fromkeys(one["name"] for one in down[:_NAMED]))
            yield f"{vip['name']} {service['name']}: {len(down)} of {len(service['servers'])} servers down ({names})"
    for vip in document["vips"]:
        for one in vip.get("local", ()):
            if one["phase"] in ("down", "rising"):
                yield f"{vip['name']} {one['name']} on this node: {one['detail'] or one['phase']}"
    for one in document.get("requirements", []):
        if one["phase"] in ("down", "rising"):
            yield f"required by {one['scope']}: {one['detail'] or one['phase']}"
    blind = sum(
        one["check_failed_to_run"] for _, service in _services(document) for one in service["servers"]
    ) + sum(one["check_failed_to_run"] for vip in document["vips"] for one in vip.get("local", ()))
    if blind:
        yield f"{blind} checks could not run"
    warned = {
        one["name"]: one["detail"]
        for _, service in _services(document)
        for one in service["servers"]
        if one.get("warned")
    }
    if warned:
        name, detail = next(iter(warned.items()))
        more = f" and {len(warned) - 1} more" if len(warned) > 1 else ""
        yield f"the check of {name}{more} warns: {detail}"
    sessions = document["neighbors"]
    for session in sessions:
        # With none up no VIP is announced, which has been said.
        if session["state"] != "up" and any(one["state"] == "up" for one in sessions):
            carries = " and ".join(session.get("families", ()))
            yield f"session {session['address']} {session['state']}{f' (carries {carries})' if carries else ''}"


def _services(document: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    for vip in document["vips"]:
        for service in vip["services"]:
            yield vip, service


def _figures(document: Mapping[str, Any]) -> str:
    vips, sessions = document["vips"], document["neighbors"]
    servers = [server for _, service in _services(document) for server in service["servers"]]
    ours = [one for one in servers if not one.get("sorry")]
    usable = sum(one["phase"] in ("up", "falling") and not one["drained"] for one in ours)
    figures = {
        "announced": f"{sum(vip['announced'] for vip in vips)};;;0;{len(vips)}",
        "servers": f"{usable};;;0;{len(ours)}",
        "sessions": f"{sum(one['state'] == 'up' for one in sessions)};;;0;{len(sessions)}",
        "connections": f"{sum(one['active'] for one in servers)};;;0",
        "maintenance": f"{len(document['maintenance'])};;;0",
    }
    return " ".join(f"{name}={figure}" for name, figure in figures.items())
