"""What `nft -j list ruleset` says (libnftables-json(5)), as tables. A statement or expression that is not known here
makes its rule one that may apply or not.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any, TypeAlias

from anycast.doctor.filter.rules import (
    ANY,
    Action,
    Base,
    Chain,
    Condition,
    Element,
    Lookup,
    NotUnderstoodError,
    Rule,
    Table,
    Verdict,
    condition,
    unknown,
)
from anycast.doctor.filter.words import ICMP, ICMPV6, PROTOCOLS, TCP_FLAGS

_FAMILIES = {"ip": frozenset({4}), "ip6": frozenset({6}), "inet": frozenset({4, 6})}
_VERDICTS = {
    "accept": Verdict.ACCEPT,
    "drop": Verdict.DROP,
    "reject": Verdict.DROP,
    "return": Verdict.RETURN,
    "jump": Verdict.JUMP,
    "goto": Verdict.GOTO,
    "notrack": Verdict.NOTRACK,
}
_NOTHING = frozenset(
    {"counter", "log", "comment", "mangle", "set", "map", "ct helper", "ct timeout", "quota", "dup"}
)
_PAYLOAD = {
    ("ip", "daddr"): "daddr4",
    ("ip", "saddr"): "saddr4",
    ("ip6", "daddr"): "daddr6",
    ("ip6", "saddr"): "saddr6",
    ("ip", "protocol"): "protocol4",
    ("ip6", "nexthdr"): "protocol6",
    ("th", "dport"): "dport",
    ("th", "sport"): "sport",
    ("icmp", "type"): "icmp.type",
    ("icmp", "code"): "icmp.code",
    ("icmpv6", "type"): "icmpv6.type",
    ("tcp", "flags"): "tcp.flags",
    **{(one, end): f"{one}.{end}" for one in ("tcp", "udp", "sctp") for end in ("dport", "sport")},
}
_META = {
    "l4proto": "protocol",
    "nfproto": "family",
    "protocol": "family",
    "iifname": "iif",
    "iif": "iif",
    "oifname": "oif",
    "oif": "oif",
}
_WORDS = {
    **dict.fromkeys(("protocol", "protocol4", "protocol6"), PROTOCOLS),
    "icmp.type": ICMP,
    "icmpv6.type": ICMPV6,
    "icmp.code": {"frag-needed": 4},
    "family": {"ipv4": 4, "ipv6": 6, "ip": 4, "ip6": 6},
    "tcp.flags": TCP_FLAGS,
}
_NAMES = frozenset({"iif", "oif", "state", "status"})
_ALIKE = frozenset({"==", "in", "!="})
_TRACKING = ('"ct"', '"masquerade"', '"snat"', '"dnat"', '"redirect"', '"flow"')
_Place: TypeAlias = tuple[str, str]  # family and name of a table


@dataclass(slots=True)
class _Sets:
    """Named sets and maps. Many rules may go by one of a hundred thousand elements: it is taken in once."""

    listed: dict[tuple[str, str, str], list[Any]] = field(default_factory=dict)
    known: dict[tuple[_Place, str, tuple[str, ...], bool], Condition] = field(default_factory=dict)

    def condition(self, name: str, fields: tuple[str, ...], place: _Place, *, negated: bool) -> Condition:
        key = (place, name, fields, negated)
        if key not in self.known:
            self.known[key] = condition(fields, list(_elements(name, fields, place, self)), negated=negated)
        return self.known[key]


def tables(text: str) -> tuple[list[Table], list[tuple[str, str]]]:
    """The tables, and family and name of those that only iptables can tell of. Raises NotUnderstoodError."""
    try:
        listed = json.loads(text)["nftables"]
        kinds = [next(iter(one.items())) for one in listed if one]
        return _tables(kinds)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotUnderstoodError(f"{type(error).__name__}: {error}") from None


def _tables(kinds: list[tuple[str, Any]]) -> tuple[list[Table], list[tuple[str, str]]]:
    sets = _Sets()
    rules: dict[tuple[str, str, str], list[Any]] = {}
    foreign: dict[tuple[str, str], None] = {}
    for kind, one in kinds:
        if kind in ("set", "map"):
            sets.listed[one["family"], one["table"], one["name"]] = one.get("elem", [])
        elif kind == "rule":
            rules.setdefault((one["family"], one["table"], one["chain"]), []).append(one)
            if any("xt" in statement for statement in one["expr"]):
                foreign[one["family"], one["table"]] = None
    found: dict[tuple[str, str], dict[str, Chain]] = {}
    for kind, one in kinds:
        place = (one.get("family"), one.get("table"))
        if kind == "chain" and place[0] in _FAMILIES and place not in foreign:
            made = [_rule(rule, sets) for rule in rules.get((*place, one["name"]), [])]
            found.setdefault(place, {})[one["name"]] = _chain(one, tuple(made))
    stateful = {
        (family, table)
        for (family, table, _), some in rules.items()
        if any(word in json.dumps(some) for word in _TRACKING)
    }
    marks: dict[tuple[str, str], set[int | None]] = {}
    for (family, table, _), some in rules.items():
        marks.setdefault((family, table), set()).update(
            mark for rule in some for mark in _marks(rule["expr"])
        )
    made_tables = [
        Table(
            families=_FAMILIES[place[0]],
            chains=chains,
            stateful=place in stateful,
            marks=frozenset(marks.get(place, ())),
        )
        for place, chains in found.items()
    ]
    elsewhere = [some for (family, _), some in marks.items() if family not in _FAMILIES and some]
    if elsewhere:  # of an interface (netdev) or a bridge
        made_tables.append(Table(families=frozenset({4, 6}), marks=frozenset().union(*elsewhere)))
    return made_tables, [place for place in foreign if place[0] in ("ip", "ip6")]


def _marks(statements: list[Any]) -> Iterator[int | None]:
    for statement in statements:
        mangled = statement.get("mangle")
        if mangled is not None and mangled["key"] == {"meta": {"key": "mark"}}:
            yield mangled["value"] if isinstance(mangled["value"], int) else None


def _chain(one: Any, rules: tuple[Rule, ...]) -> Chain:
    base = None
    if one.get("type") in ("filter", "route"):
        policy = Verdict.DROP if one.get("policy") == "drop" else Verdict.ACCEPT
        base = Base(hook=one["hook"], priority=int(one["prio"]), policy=policy)
    return Chain(name=f"chain {one['family']} {one['table']} {one['name']}", rules=rules, base=base)


def _rule(one: Any, sets: _Sets) -> Rule:
    conditions: list[Condition] = []
    actions: list[Action | Lookup] = []
    place = (one["family"], one["table"])
    for statement in one["expr"]:
        ((name, body),) = statement.items()
        if name == "match":
            conditions.append(_match(body, place, sets))
        elif name == "vmap":
            actions += _lookup(body, place, sets)
        elif name in _VERDICTS:
            actions.append(_action(name, body))
        elif name not in _NOTHING:
            over = isinstance(body, dict) and body.get("inv")
            conditions.append(unknown("limit" if name == "limit" and not over else ""))
    where = f"{one['family']} {one['table']} {one['chain']}, handle {one['handle']}"
    says = _says(one["expr"])
    return Rule(
        name=f"`{says}` ({where})" if says else f"rule {where}",
        conditions=tuple(conditions),
        actions=tuple(actions),
    )


def _says(statements: list[Any]) -> str:
    """A rule about states alone, in nft's words; empty: it says more than that."""
    words = []
    for statement in statements:
        ((name, body),) = statement.items()
        if name == "match" and body["left"] == {"ct": {"key": "state"}} and isinstance(body["right"], str):
            words.append(f"ct state {body['right']}")
        elif name in ("drop", "reject"):
            words.append(name)
        elif name not in _NOTHING:
            return ""
    return " ".join(words)


def _action(name: str, body: Any) -> Action:
    chain = body["target"] if name in ("jump", "goto") else ""
    return Action(verdict=_VERDICTS[name], chain=chain)


def _lookup(body: Any, place: _Place, sets: _Sets) -> Iterator[Lookup]:
    fields = _fields(body["key"])
    data = body["data"]
    entries = sets.listed.get((*place, data[1:]), []) if isinstance(data, str) else data["set"]
    actions = []
    for key, verdict in entries:
        ((name, target),) = verdict.items()
        if name in _VERDICTS:
            actions += [(element, _action(name, target)) for element in _elements(key, fields, place, sets)]
    yield Lookup(fields=fields, actions=tuple(actions))


def _match(body: Any, place: _Place, sets: _Sets) -> Condition:
    left, op, right = body["left"], body["op"], body["right"]
    masked = left.get("&") if isinstance(left, dict) else None
    if masked is not None:
        return _flags(masked, op, right)
    fields = _fields(left)
    if "" in fields and len(fields) == 1:
        return unknown()
    if fields == ("tcp.flags",) and op in ("==", "in", "!="):
        # Without a mask "in" asks for any of the bits, and so does ==, as nft writes it.
        number = _number_of_flags(right)
        if number is None:
            return unknown()
        if op == "==" and not isinstance(right, str):
            return condition(("tcp.flags&255",), [(number,)])
        return condition((f"tcp.flags&{number}",), [(0,)], negated=op != "!=")
    if op in _ALIKE and isinstance(right, str) and right.startswith("@"):
        return sets.condition(right, fields, place, negated=op == "!=")
    elements = list(_elements(right, fields, place, sets))
    if op in _ALIKE:
        return condition(fields, elements, negated=op == "!=")
    low, high = ANY
    ((bound,),) = elements if len(elements) == 1 and len(fields) == 1 else (("",),)
    if not isinstance(bound, int):
        return unknown()
    ranges = {"<": (low, bound - 1), "<=": (low, bound), ">": (bound + 1, high), ">=": (bound, high)}
    return condition(fields, [(ranges[op],)]) if op in ranges else unknown()


def _flags(masked: list[Any], op: str, right: Any) -> Condition:
    """`tcp flags & (fin | syn) == syn`."""
    mask, value = _number_of_flags(masked[1]), _number_of_flags(right)
    if _fields(masked[0]) != ("tcp.flags",) or mask is None or value is None or op not in ("==", "!="):
        return unknown()
    return condition((f"tcp.flags&{mask}",), [(value,)], negated=op == "!=")


def _number_of_flags(one: Any) -> int | None:
    match one:
        case int():
            return one
        case str():
            return TCP_FLAGS.get(one)
        case {"|": parts} | {"set": parts} | [*parts]:
            numbers = [_number_of_flags(part) for part in parts]
            return None if None in numbers else sum(number or 0 for number in set(numbers))
    return None


def _fields(left: Any) -> tuple[str, ...]:
    match left:
        case {"concat": parts}:
            return tuple(name for part in parts for name in _fields(part))
        case {"payload": {"protocol": protocol, "field": name}}:
            return (_PAYLOAD.get((protocol, name), ""),)
        case {"meta": {"key": key}}:
            return (_META.get(key, ""),)
        case {"ct": {"key": "state" | "status" as key}}:
            return (key,)
    return ("",)


def _elements(
    right: Any, fields: tuple[str, ...], place: _Place, sets: _Sets
) -> Iterator[tuple[Element, ...]]:
    match right:
        case str() if right.startswith("@"):
            for one in sets.listed.get((*place, right[1:]), []):
                yield from _elements(one[0] if isinstance(one, list) else one, fields, place, sets)
        case {"set": parts} | {"|": parts} | [*parts]:
            for part in parts:
                yield from _elements(part, fields, place, sets)
        case {"elem": {"val": part}}:
            yield from _elements(part, fields, place, sets)
        case {"concat": parts} if len(parts) == len(fields):
            yield tuple(_element(part, name) for part, name in zip(parts, fields, strict=True))
        case _ if len(fields) == 1:
            yield (_element(right, fields[0]),)


def _element(part: Any, name: str) -> Element:
    match part:
        case {"elem": {"val": inside}}:
            return _element(inside, name)
        case {"prefix": {"addr": address, "len": length}}:
            network = ip_network(f"{address}/{length}", strict=False)
            return int(network.network_address), int(network.broadcast_address)
        case {"range": [low, high]}:
            return _number(low, name), _number(high, name)
        case "*":
            return ANY
        case str() if name in _NAMES:
            return part
        case int() | str():
            return _number(part, name)
    return -1  # no packet has it: a rule with it is of another kind


def _number(part: int | str, name: str) -> int:
    if isinstance(part, int):
        return part
    if name.startswith(("daddr", "saddr")):
        with contextlib.suppress(ValueError):
            return int(ip_address(part))
    return _WORDS.get(name, {}).get(part, -1)
