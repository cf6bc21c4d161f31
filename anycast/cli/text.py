"""The agent's answers as text for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anycast.cli.table import Cell, Colour, duration, paint, printable, table

_COLOURS = {
    "yes": Colour.GOOD,
    "drain": Colour.WARN,
    "no": Colour.BAD,
    "up": Colour.GOOD,
    "rising": Colour.WARN,
    "falling": Colour.WARN,
    "undecided": Colour.WARN,
    "connected": Colour.WARN,
    "unknown": Colour.WARN,
    "down": Colour.BAD,
    "draining": Colour.WARN,
    "withdrawn": Colour.WARN,
    "drained": Colour.WARN,
}

_LEASE = {None: Cell("-"), False: Cell("valid"), True: Cell("expired", Colour.BAD)}


def status(document: Mapping[str, Any], *, colour: bool) -> str:
    """The status document: one line about the node, then a table for each kind of thing there is."""
    parts = [
        _node(document, colour=colour),
        _vips(document["vips"], colour=colour),
        _tables(document["vips"], colour=colour),
        _servers(document["vips"], colour=colour),
        *([_requirements(document["requirements"], colour=colour)] if document.get("requirements") else []),
        _neighbors(document["neighbors"], colour=colour),
        _announcers(document["announcers"], colour=colour),
    ]
    if document["maintenance"]:
        parts.append(maintenance(document["maintenance"], colour=colour))
    return "\n".join(parts)


def _word(word: str) -> Cell:
    return Cell(word, _COLOURS.get(word, Colour.PLAIN))


def _yes(value: object) -> Cell:
    return _word("yes" if value else "no")


def _node(document: Mapping[str, Any], *, colour: bool) -> str:
    node, ready, kernel = document["node"], document["ready"], document["kernel"]
    word = Cell("ready", Colour.GOOD) if ready["ready"] else Cell("not ready", Colour.BAD)
    name = f"{printable(node['name'])}: anycast {node['version']}, pid {node['pid']}"
    lines = [f"{name}, up {duration(node['uptime_s'])}, {paint(word, colour=colour)}"]
    lines += [f"  {printable(reason)}" for reason in ready["reasons"]]
    lines += [f"  kernel: {printable(problem)}" for problem in kernel["problems"]]
    if not document["config"]["reload_ok"]:
        lines.append(
            "  the changed configuration was refused, the one before is in force (see `anycast check`)"
        )
    return "\n".join(lines) + "\n"


def _vips(vips: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    rows = [
        (
            vip["name"],
            ", ".join(vip["addresses"]),
            _word(vip["advertise"]),
            _yes(vip["announced"]),
            vip["reason"],
            duration(vip["since_s"]),
            "; ".join(_details(vip)),
        )
        for vip in vips
    ]
    head = ("VIP", "ADDRESSES", "ADVERTISE", "ANNOUNCED", "REASON", "SINCE", "DETAIL")
    return table(head, rows, colour=colour)


def _details(vip: Mapping[str, Any]) -> list[str]:
    return [text for text in (vip["detail"], vip["obstacle"]) if text]


def _tables(vips: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    """What each service chooses by. Nodes that agree show the same table."""
    rows = [
        (
            vip["name"],
            service["name"],
            one["address"],
            " ".join([service["scheduler"], *service["flags"], *(["ops"] if service["one_packet"] else [])]),
            service["tunnel"] or service["forwarding"],
            one["fingerprint"] or "-",
        )
        for vip in vips
        for service in vip["services"]
        for one in service["tables"]
    ]
    return table(("VIP", "SERVICE", "ADDRESS", "SCHEDULER", "FORWARDING", "TABLE"), rows, colour=colour)


def _servers(vips: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    rows: list[tuple[str | Cell, ...]] = [
        (
            vip["name"],
            service["name"],
            server["name"],
            f"{_host(server['address'])}:{server['port']}",
            _word("drained" if server["drained"] and server["phase"] == "up" else server["phase"]),
            *_weights(server),
            str(server["active"]),
            duration(server["since_s"]),
            server["detail"],
        )
        for vip in vips
        for service in vip["services"]
        for server in service["servers"]
    ]
    rows += [
        (
            vip["name"],
            service["name"],
            "-",
            f"{_host(gone['address'])}:{gone['port']}",
            _word("draining"),
            "-",
            "0",
            str(gone["active"]),
            "-",
            f"no longer configured, removed in {duration(gone['left_s'])} at the latest",
        )
        for vip in vips
        for service in vip["services"]
        for gone in service["removing"]
    ]
    head = ("VIP", "SERVICE", "SERVER", "ADDRESS", "PHASE", "WEIGHT", "KERNEL", "ACTIVE", "SINCE", "DETAIL")
    return table(head, rows, colour=colour)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _weights(server: Mapping[str, Any]) -> tuple[Cell, Cell]:
    wanted, kernel = server["weight"], server["kernel_weight"]
    colour = Colour.PLAIN if wanted == kernel else Colour.BAD
    return Cell(_number(wanted)), Cell(_number(kernel), colour)


def _number(value: object) -> str:
    return "-" if value is None else str(value)


def _requirements(requirements: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    rows = [
        (one["scope"], _word(one["phase"]), duration(one["since_s"]), one["detail"]) for one in requirements
    ]
    return table(("REQUIRED BY", "PHASE", "SINCE", "DETAIL"), rows, colour=colour)


def _neighbors(neighbors: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    rows = [
        (one["address"], _word(one["state"]), duration(one["since_s"]), one["reason"]) for one in neighbors
    ]
    return table(("NEIGHBOR", "STATE", "SINCE", "DETAIL"), rows, colour=colour)


def _announcers(announcers: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    if not announcers:
        return paint(Cell("no announcer connected", Colour.BAD), colour=colour) + "\n"
    rows = [
        (
            str(one["source"]),
            one["exabgp_version"] or "-",
            _number(one["exabgp_pid"]),
            _number(one["seq"]),
            Cell(_number(one["errors"]), Colour.BAD if one["errors"] else Colour.PLAIN),
            _LEASE[one["lease_expired"]],
        )
        for one in announcers
    ]
    return table(("ANNOUNCER", "EXABGP", "EXABGP PID", "SEQ", "ERRORS", "LEASE"), rows, colour=colour)


def maintenance(entries: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    """The table of what is in maintenance. `entries` as in the status document."""
    rows = [
        (_scope(one["scope"]), _word(one["stage"]), duration(one["since_s"]), one["by"], one["reason"])
        for one in entries
    ]
    return table(("MAINTENANCE", "STAGE", "SINCE", "BY", "REASON"), rows, colour=colour)


def _scope(scope: str) -> str:
    if "/" in scope:
        return f"server {scope}"
    return f"VIP {scope}" if scope else "node"


def _still(scope: str) -> str:
    if "/" in scope:
        return f"still drained: {scope} (it ends by `anycast undrain-server {scope}`)"
    end = f"anycast maintenance off --vip {scope}" if scope else "anycast maintenance off"
    return f"still in maintenance: {_scope(scope)} (it ends by `{end}`)"


def maintenance_set(answer: Mapping[str, Any]) -> str:
    """What happens now that maintenance was switched on or off."""
    already = "" if answer["changed"] else "already "
    if "/" in answer["scope"]:
        word = "drained: no new clients" if answer["on"] else "in use, as far as its checks hold"
        lines = [f"{answer['scope']}: {already}{word}, {answer['connections']} active connections"]
    else:
        word = "on" if answer["on"] else "off"
        lines = [f"{_scope(answer['scope'])}: maintenance {already}{word}"]
    if answer["on"] and any(vip["advertise"] == "drain" for vip in answer["vips"]):
        lines.append(f"draining: announced as the last resort for {answer['drain_s']:g} s, then withdrawn")
    lines += [f"  {vip['name']}: advertise {vip['advertise']}, {vip['reason']}" for vip in answer["vips"]]
    if not answer["on"]:
        lines += [_still(entry["scope"]) for entry in answer["maintenance"]]
    if answer["saved"] and answer["on"]:
        lines.append("saved: it stays over a restart of the agent")
    return "".join(f"{printable(line)}\n" for line in lines)
