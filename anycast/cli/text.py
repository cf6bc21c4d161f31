"""The agent's answers as text for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anycast.cli.overview import Overview, everything
from anycast.cli.table import Cell, Colour, duration, paint, printable, table
from anycast.ops.amounts import amount, bits, percent

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
    "quiet": Colour.WARN,
    "drained": Colour.WARN,
}

_LINES = 20  # of one kind about the node
_SILENT = 8  # names in a line: of nodes of which nothing is known, of VIPs that one node alone announces
NOT_COUNTED = (
    "traffic is not counted: net.ipv4.vs.run_estimation is 0, or net.ipv4.vs.est_cpulist names no processor"
)
_LEASE = {None: Cell("-"), False: Cell("valid"), True: Cell("expired", Colour.BAD)}


def status(document: Mapping[str, Any], *, colour: bool, shown: Overview | None = None) -> str:
    """The status document: one line about the node, then a table for each kind of thing there is.

    `shown`: of the VIPs; None: all there is.
    """
    shown = shown or everything(document["vips"])
    parts = [
        _node(document, colour=colour)
        + _carried(document)
        + _headroom(document)
        + _tripwires(document)
        + "".join(f"{line}\n" for line in shown.head),
        _vips(shown.lines, colour=colour),
        *(
            [_traffic(shown.busy, document["traffic"], colour=colour)]
            if any(map(_carries, shown.busy))
            else []
        ),
        *(
            [_tables(shown.whole, colour=colour), _servers(shown.whole, colour=colour)]
            if not shown.lines or any(vip["services"] for vip in shown.lines)
            else []
        ),
        *([_local(shown.whole, colour=colour)] if any(vip.get("local") for vip in shown.whole) else []),
        *([_requirements(document["requirements"], colour=colour)] if document.get("requirements") else []),
        *([_routers(asked, colour=colour)] if (asked := _asked(shown.lines)) else []),
        _neighbors(document["neighbors"], colour=colour),
        _plugins(document["plugins"], colour=colour),
    ]
    if document["maintenance"]:
        parts.append(maintenance(document["maintenance"], colour=colour))
    if shown.tail:
        parts.append("".join(f"{line}\n" for line in shown.tail))
    return "\n".join(parts)


def _tripwires(document: Mapping[str, Any]) -> str:
    """How many stand, and the servers that are not as others."""
    found = document.get("tripwires")  # an older agent says nothing of them
    if not found:
        return ""
    lines = [f"tripwires: {found['standing']} of {found['wanted']} stand"]
    if found["given_up"]:
        lines[0] += f"; {found['given_up']} are given up for lack of descriptors (raise LimitNOFILE)"
    lines += _some([printable(f"{one['server']}: {one['detail']}") for one in found["servers"]])
    return "".join(f"  {line}\n" for line in lines)


def _word(word: str) -> Cell:
    return Cell(word, _COLOURS.get(word, Colour.PLAIN))


def _node(document: Mapping[str, Any], *, colour: bool) -> str:
    node, ready = document["node"], document["ready"]
    word = Cell("ready", Colour.GOOD) if ready["ready"] else Cell("not ready", Colour.BAD)
    name = f"{printable(node['name'])}: anycast {node['version']}, pid {node['pid']}"
    lines = [f"{name}, up {duration(node['uptime_s'])}, {paint(word, colour=colour)}"]
    lines += _configuration(document)
    lines += [f"  {line}" for line in _some([printable(reason) for reason in ready["reasons"]])]
    standing = [
        f"{printable(one['text'])} (for {duration(one['since_s'])})" for one in document.get("standing", [])
    ]
    lines += [f"  {line}" for line in _some(standing)]
    return "\n".join(lines) + "\n"


def _configuration(document: Mapping[str, Any]) -> list[str]:
    """Of a fleet: what tells its nodes apart that have another file in force."""
    config = document.get("config", {})
    if not config.get("nodes"):  # an older agent says nothing of them
        return []
    number = len(config["nodes"])
    fleet = "one node" if number == 1 else f"{number} nodes"
    return [f"  configuration {printable(config['fingerprint'])}, of a fleet of {fleet}"]


def _carried(document: Mapping[str, Any]) -> str:
    """What the node carries, in a line."""
    traffic = document.get("traffic")  # an older agent says nothing of it
    if traffic is None:
        return ""
    if not traffic["counted"]:
        return f"  {NOT_COUNTED}\n"
    if (rates := traffic["rates"]) is None:
        return ""
    told = [f"{amount(rates['connections_per_s'])} new connections/s"]
    told.append(f"in {amount(rates['packets_in_per_s'])} packets/s, {bits(rates['bits_in_per_s'])}")
    if rates["bits_out_per_s"] is not None:
        told.append(f"out {amount(rates['packets_out_per_s'])} packets/s, {bits(rates['bits_out_per_s'])}")
    else:
        told.append("answers do not come back this way")  # direct routing, tunnels
    return f"  carries {'; '.join(told)} (over {traffic['over_s']:.0f} s)\n"


def _headroom(document: Mapping[str, Any]) -> str:
    """How far this node is from its limit, now and with one node less, and which others would be over theirs then."""
    found = document.get("headroom")  # an older agent says nothing of it
    if found is None:
        return ""
    mine = [one for one in found["nodes"] if one["node"] == document["node"]["name"]]
    lines = [f"stands at {one['today']['text']}" for one in mine if one["today"] is not None]
    for one in (*mine, *(one for one in found["nodes"] if one not in mine)):
        for less in one["less"]:
            figure = less["figure"]
            over = figure is not None and figure["share"] > figure["limit"]
            if figure is not None and (less["nodes"] == 1 or one in mine) and (over or one in mine):
                lines.append(less["text"])
    if found["alone_count"]:
        nodes = {one["node"] for one in found["alone"]}
        names = ", ".join(one["name"] for one in found["alone"][:_SILENT])
        more = f" and {found['alone_count'] - _SILENT:,} more" if found["alone_count"] > _SILENT else ""
        who = f"{nodes.pop()} alone announces" if len(nodes) == 1 else "one node alone announces each of"
        lines.append(f"{who} {names}{more}")
    if lines and found["silent"]:
        lines.append(f"without what is not known of {', '.join(found['silent'][:_SILENT])}")
    return "".join(f"  {printable(line)}\n" for line in _some(lines))


def _carries(vip: Mapping[str, Any]) -> bool:
    return vip.get("traffic") is not None


def _traffic(vips: Sequence[Mapping[str, Any]], whole: Mapping[str, Any], *, colour: bool) -> str:
    """What VIPs and their services carry through this node. Answers only where any are seen."""
    answers = any(vip["traffic"] and vip["traffic"]["bits_out_per_s"] is not None for vip in vips)
    rows = []
    for vip in vips:
        rows.append((vip["name"], "", *_rates(vip["traffic"], whole["rates"], "node", answers=answers)))
        if len(vip["services"]) > 1:
            rows += [
                (vip["name"], one["name"], *_rates(one["traffic"], vip["traffic"], "VIP", answers=answers))
                for one in vip["services"]
            ]
    head = ("TRAFFIC", "SERVICE", "CONNS/S", "SHARE", "PACKETS/S", "BITS/S")
    return table((*head, *(("PACKETS/S OUT", "BITS/S OUT") if answers else ())), rows, colour=colour)


def _rates(
    rates: Mapping[str, Any] | None, whole: Mapping[str, Any] | None, of: str, *, answers: bool
) -> tuple[str, ...]:
    every = whole["connections_per_s"] if whole is not None else 0
    share = "-" if rates is None or not every else f"{percent(rates['connections_per_s'] / every)} of {of}"
    names = ("packets_out_per_s", "bits_out_per_s") if answers else ()
    return (
        _amount(rates, "connections_per_s"),
        share,
        *(_amount(rates, name) for name in ("packets_in_per_s", "bits_in_per_s", *names)),
    )


def _amount(rates: Mapping[str, Any] | None, name: str) -> str:
    return "-" if rates is None or rates[name] is None else amount(rates[name])


def _some(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _LINES
    return [*lines[:_LINES], *([f"and {more:,} more like these"] if more > 0 else [])]


def _vips(vips: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    rows = [
        (
            vip["name"],
            ", ".join(vip["addresses"]),
            _at_level(_word(vip["advertise"]), vip),
            _at_level(_announced(vip), vip),
            vip["reason"],
            duration(vip["since_s"]),
            "; ".join(_details(vip)),
        )
        for vip in vips
    ]
    head = ("VIP", "ADDRESSES", "ADVERTISE", "EXABGP", "REASON", "SINCE", "DETAIL")
    return table(head, rows, colour=colour)


def _announced(vip: Mapping[str, Any]) -> Cell:
    """What ExaBGP has of it: `acknowledged`, `no`, `unknown`, or the family that is. The routers may have refused it."""
    if vip["announced"]:
        return Cell("acknowledged", Colour.GOOD)
    if vip.get("obstacle_reason") == "exabgp_silent":
        return _word("unknown")
    families: dict[str, list[bool]] = {}
    for one in vip["prefixes"]:
        families.setdefault("IPv6" if ":" in one["prefix"] else "IPv4", []).append(one["announced"])
    whole = [family for family, announced in families.items() if all(announced)]
    return Cell(f"{whole[0]} only", Colour.BAD) if whole else _word("no")


def _at_level(cell: Cell, vip: Mapping[str, Any]) -> Cell:
    """What somebody has taken out is no alarm."""
    planned = vip.get("level") == "planned" and cell.colour is Colour.BAD
    return Cell(cell.text, Colour.WARN) if planned else cell


def _details(vip: Mapping[str, Any]) -> list[str]:
    role = "backup" if vip.get("role") == "backup" else ""  # an older agent has no roles
    last = "last resort" if vip.get("last_resort") else ""
    stays = [
        one["shared"]["stays"] for one in vip["prefixes"] if one.get("shared")
    ]  # an older agent has none
    return [text for text in (role, last, vip["detail"], vip["obstacle"], *stays) if text]


_RECEIPTS = {
    "received": Cell("received", Colour.GOOD),
    "not_received": Cell("NOT received", Colour.BAD),
    "awaited": Cell("not yet", Colour.WARN),
    "not_announced": Cell("not announced"),
}


def _asked(vips: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Of each VIP its prefixes, and what the routers have of them that are asked. An older agent asks none."""
    return [
        (vip["name"], prefix["prefix"], one)
        for vip in vips
        for prefix in vip["prefixes"]
        for one in prefix.get("routers", ())
    ]


def _routers(asked: Sequence[tuple[str, str, Mapping[str, Any]]], *, colour: bool) -> str:
    rows = [
        (
            vip,
            prefix,
            one["neighbor"],
            _RECEIPTS.get(one["receipt"], _word("unknown")),
            duration(one["since_s"]),
            _others(one),
            one["why"],
        )
        for vip, prefix, one in asked
    ]
    head = ("ROUTERS", "PREFIX", "ROUTER", "THIS NODE'S PATH", "SINCE", "OTHER NODES", "DETAIL")
    return table(head, rows, colour=colour)


def _others(one: Mapping[str, Any]) -> str:
    if one["others"] is None:
        return "-"
    least = "+" if one["at_least"] else ""
    return f"{one['others']}{least}" + (f", {one['last_resort']} last resort" if one["last_resort"] else "")


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
            _amount(server.get("traffic"), "connections_per_s"),
            "-" if server.get("share") is None else percent(server["share"]),
            _amount(server.get("traffic"), "bits_in_per_s"),
            duration(server.get("drained_since_s") or server["since_s"]),
            "; ".join(filter(None, ("of the sorry pool" if server.get("sorry") else "", server["detail"]))),
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
            *("-", "-", "-", "-"),
            f"no longer configured, removed in {duration(gone['left_s'])} at the latest",
        )
        for vip in vips
        for service in vip["services"]
        for gone in service["removing"]
    ]
    rows += [
        (
            vip["name"],
            service["name"],
            old["name"] or "-",
            f"{_host(old['address'])}:{old['port']}",
            _word(old["phase"]),
            str(old["weight"]),
            "-",
            str(old["active"]),
            *("-", "-", "-"),
            duration(old["since_s"]),
            "replaced, in use until enough of the new ones are proven"
            + (f"; {old['detail']}" if old["detail"] else ""),
        )
        for vip in vips
        for service in vip["services"]
        for old in service.get("kept", ())
    ]
    head = ("VIP", "SERVICE", "SERVER", "ADDRESS", "PHASE", "WEIGHT", "KERNEL", "ACTIVE")
    return table((*head, "CONNS/S", "SHARE", "BITS/S", "SINCE", "DETAIL"), rows, colour=colour)


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _weights(server: Mapping[str, Any]) -> tuple[Cell, Cell]:
    wanted, kernel = server["weight"], server["kernel_weight"]
    colour = Colour.PLAIN if wanted == kernel else Colour.BAD
    return Cell(_number(wanted)), Cell(_number(kernel), colour)


def _number(value: object) -> str:
    return "-" if value is None else str(value)


def _local(vips: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    """What the node itself serves. An older agent says nothing of it."""
    rows = [
        (
            vip["name"],
            one["name"],
            "-" if one["address"] is None else f"{_host(one['address'])}:{one['port']}",
            "-" if one["phase"] is None else _word(one["phase"]),
            duration(one["since_s"]),
            one["detail"],
        )
        for vip in vips
        for one in vip.get("local", ())
    ]
    return table(("ON THIS NODE", "SERVICE", "ADDRESS", "PHASE", "SINCE", "DETAIL"), rows, colour=colour)


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


def _plugins(plugins: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    if not plugins:
        return paint(Cell("no plugin connected", Colour.BAD), colour=colour) + "\n"
    rows = [
        (
            str(one["source"]),
            one.get("speaker") or one["exabgp_version"] or "-",
            one.get("daemon") or _number(one["exabgp_pid"]),
            _number(one["seq"]),
            Cell(_number(one["errors"]), Colour.BAD if one["errors"] else Colour.PLAIN),
            _LEASE[one["lease_expired"]],
        )
        for one in plugins
    ]
    whose = ("SPEAKER", "DAEMON") if any(one.get("speaker") for one in plugins) else ("EXABGP", "EXABGP PID")
    return table(("PLUGIN", *whose, "SEQ", "ERRORS", "LEASE"), rows, colour=colour)


def why(body: Mapping[str, Any], *, colour: bool) -> str:
    """The explanation: one line for each link, below it what it is made of, then what would change it."""
    lines = [paint(Cell(printable(body["text"]), Colour.HEAD), colour=colour), ""]
    for link in body["chain"]:
        lines.append(f"{_mark(link['holds'], colour=colour)} {link['link']}: {printable(link['text'])}")
        lines += [
            f"       {_mark(one['holds'], colour=colour)} {printable(one['text'])}" for one in link["items"]
        ]
    if body["would_change"]:
        lines += ["", paint(Cell("what would change it", Colour.HEAD), colour=colour)]
        lines += [f"  - {printable(sentence)}" for sentence in body["would_change"]]
    if body.get("standing"):
        lines += ["", paint(Cell("what is wrong with the node", Colour.HEAD), colour=colour)]
        lines += [f"  - {printable(one['text'])}" for one in body["standing"]]
    return "".join(f"{line}\n" for line in lines)


def _mark(holds: object, *, colour: bool) -> str:
    return paint(Cell("ok", Colour.GOOD) if holds else Cell("NO", Colour.BAD), colour=colour)


_LEVELS = {"error": Colour.BAD, "critical": Colour.BAD, "warning": Colour.WARN}


def event(body: Mapping[str, Any], *, colour: bool) -> str:
    """One line: when, how bad, what, and its fields."""
    level, name = str(body["level"]), str(body["event"])
    head = f"{body['time'][:19].replace('T', ' ')}Z  {level:<7}  {printable(name)}"
    fields = [
        f"{printable(str(key))}={_field(value)}"
        for key, value in body["fields"].items()
        if value not in ("", [], None)
    ]
    return "  ".join([paint(Cell(head, _LEVELS.get(level, Colour.PLAIN)), colour=colour), *fields])


def _field(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(_field, value))
    text = printable(str(value))
    return f'"{text}"' if " " in text else text


def maintenance(entries: Sequence[Mapping[str, Any]], *, colour: bool) -> str:
    """The table of what is in maintenance. `entries` as in the status document.

    One line for each scope, at the stage that counts; where several maintenances of it are in force, each has a line
    below with who, why and until when.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for one in entries:
        groups.setdefault(one["scope"], []).append(one)
    rows: list[tuple[str | Cell, ...]] = []
    for name, ones in groups.items():
        covering = groups.get("", []) if name and "/" not in name else []
        first = max([*ones, *covering], key=lambda one: _stage_order(one["stage"]))
        several = len(ones) > 1
        rows.append(
            (
                scope(name),
                _word(first["stage"]),
                duration(first["stage_since_s"]),
                duration(first["stage_left_s"]),
                _number(max(ones, key=lambda one: _stage_order(one["stage"]))["packets_per_s"]),
                duration(max(one["since_s"] for one in ones)),
                Cell(f"with the last of {len(ones)}") if several else _ends(ones[0], covered=bool(covering)),
                "" if several else ones[0]["by"],
                "" if several else ones[0]["reason"],
            )
        )
        rows += [
            ("  because", "", "", "", "", duration(one["since_s"]), _ends(one), one["by"], one["reason"])
            for one in (ones if several else ())
        ]
    head = ("MAINTENANCE", "STAGE", "FOR", "LEFT", "PACKETS/S", "SINCE", "ENDS", "BY", "REASON")
    return table(head, rows, colour=colour)


_STAGES = ("active", "draining", "withdrawn", "quiet", "down")


def _stage_order(stage: str) -> int:
    return _STAGES.index(stage) if stage in _STAGES else len(_STAGES)


def _ends(one: Mapping[str, Any], *, covered: bool = False) -> Cell:
    """What ends it. `covered`: a maintenance of the node keeps it out, too."""
    cell = _own_end(one)
    return Cell(f"{cell.text}, and the node's", cell.colour) if covered else cell


def _own_end(one: Mapping[str, Any]) -> Cell:
    match one["source"]:
        case "file":
            return Cell("when the file is removed")
        case "stop":
            return Cell("with the agent")
    if one["ends_in_s"] is None:
        return Cell("by command")
    hold = one["on_expiry"] == "hold"
    how = "by command" if hold else "by itself"
    if one["overdue"]:
        return Cell(f"{how}, overdue for {duration(max(0.0, -one['ends_in_s']))}", Colour.BAD)
    left = duration(max(0.0, one["ends_in_s"]))
    return Cell(f"by command, overdue in {left}" if hold else f"by itself in {left}")


def scope(name: str) -> str:
    if "/" in name:
        return f"server {name}"
    return f"VIP {name}" if name else "node"


def still(entry: Mapping[str, Any]) -> str:
    """That something goes on, and what ends it."""
    name = entry["scope"]
    if "/" in name:
        return f"still drained: {name} (it ends by `anycast undrain-server {name}`)"
    if entry["source"] == "file":
        return (
            f"still in maintenance: {scope(name)}, for as long as there is a file {entry['file']} (remove it)"
        )
    end = f"anycast maintenance off --vip {name}" if name else "anycast maintenance off"
    return f"still in maintenance: {scope(name)} (it ends by `{end}`)"


def progress(entry: Mapping[str, Any]) -> str:
    """How far it has come, in one line."""
    words = [f"{scope(entry['scope'])}: {entry['stage']}"]
    if entry["stage_left_s"] is not None:
        words.append(f"{duration(entry['stage_left_s'])} left at most")
    if entry["packets_per_s"] is not None:
        words.append(f"{entry['packets_per_s']:g} packets/s")
    return ", ".join(words)


def is_down(entry: Mapping[str, Any], waited: float) -> str:
    rate = entry["packets_per_s"]
    packets = f", {rate:g} packets/s still arrive" if rate else ""
    safe = "" if entry["scope"] else ": it may be rebooted"
    return f"{scope(entry['scope'])}: down after {waited:.0f} s{packets}{safe}"


def turn(name: str, told: Mapping[str, Any]) -> tuple[str, str]:
    """The stage of the turn that is asked for, by which a line is told once, and the line."""
    after = duration(told["asked_for_s"])
    if told["stage"] == "saying":
        waits = f": to hear from {', '.join(told['waits_for'])}" if told["waits_for"] else ""
        return "saying", f"{name}: asking the other nodes{waits}"
    behind = f", behind {', '.join(told['behind'])}" if told["behind"] else ""
    why = "; ".join(told["reasons"])
    line = f"{name}: in the queue for {after}, place {told['place']}{behind}{f': {why}' if why else ''}"
    return f"queued {told['place']} {told['behind']}", line


def maintenance_set(answer: Mapping[str, Any]) -> str:
    """What happens now that maintenance was switched on or off."""
    already = "" if answer["changed"] else "already "
    if "/" in answer["scope"]:
        word = "drained: no new clients" if answer["on"] else "in use, as far as its checks hold"
        lines = [f"{answer['scope']}: {already}{word}, {answer['connections']} active connections"]
    else:
        word = "on" if answer["on"] else "off"
        lines = [f"{scope(answer['scope'])}: maintenance {already}{word}"]
    if (replaced := answer.get("replaced")) is not None:
        lines.append(_replaced(replaced))
    if answer["on"] and any(vip["advertise"] == "drain" for vip in answer["vips"]):
        lines.append(f"draining: announced as the last resort for {answer['drain_s']:g} s, then withdrawn")
    lines += [f"  {vip['name']}: advertise {vip['advertise']}, {vip['reason']}" for vip in answer["vips"]]
    lines += [_of_shared(answer["scope"], one) for one in answer.get("shared", ())]
    if answer["on"]:
        lines += [_end_of(one) for one in answer["maintenance"] if _is_of(one, answer) and one["ends"]]
    else:
        lines += [still(one) for one in answer["maintenance"] if one["scope"] != answer["scope"]]
    if answer["temporary"] and answer["on"]:
        lines.append("not saved: it ends with this agent")
    elif answer["saved"] and answer["on"]:
        lines.append("saved: it survives a restart of the agent")
    return "".join(f"{printable(line)}\n" for line in lines)


def _of_shared(name: str, one: Mapping[str, Any]) -> str:
    """What becomes of a prefix that the VIP shares with others."""
    others = ", ".join(one["vips"])
    if one["stays"]:
        return f"{one['prefix']} stays announced, for {others}: packets for {name} go on coming to this node"
    return f"{one['prefix']} goes with it, and {others} with that"


def _replaced(entry: Mapping[str, Any]) -> str:
    why = f", “{entry['reason']}”" if entry["reason"] else ""
    return (
        f"it was so already, by {entry['by'] or 'nobody known'} {duration(entry['ago_s'])} ago{why}: "
        "reason and end are those of now"
    )


def _is_of(entry: Mapping[str, Any], answer: Mapping[str, Any]) -> bool:
    return bool(entry["scope"] == answer["scope"] and entry["source"] == "command")


def _end_of(entry: Mapping[str, Any]) -> str:
    then = "back into service" if entry["on_expiry"] == "resume" else "it stays in maintenance, overdue"
    how = "ends by itself" if entry["on_expiry"] == "resume" else "should end"
    return f"{how} at {entry['ends']}, in {duration(max(0.0, entry['ends_in_s']))}: then {then}"
