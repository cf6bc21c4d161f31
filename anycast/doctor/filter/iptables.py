"""What iptables-save says, as tables. An option that is not known here makes its rule one that may apply or not."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from ipaddress import ip_network

from anycast.doctor.filter.rules import (
    Action,
    Base,
    Chain,
    Condition,
    Element,
    NotUnderstoodError,
    Range,
    Rule,
    Table,
    Verdict,
    condition,
    unknown,
)
from anycast.doctor.filter.words import ICMP, ICMPV6, PROTOCOLS, TCP_FLAGS

_PRIORITIES = {"raw": -300, "mangle": -150, "filter": 0, "security": 50}
_HOOKS = {"PREROUTING": "prerouting", "INPUT": "input", "FORWARD": "forward", "OUTPUT": "output"}
_VERDICTS = {
    "ACCEPT": Verdict.ACCEPT,
    "DROP": Verdict.DROP,
    "REJECT": Verdict.DROP,
    "RETURN": Verdict.RETURN,
    "NOTRACK": Verdict.NOTRACK,
}
# Modules that ask nothing but by options that are known here, or are told as unknown.
_MODULES = frozenset({"tcp", "udp", "sctp", "icmp", "icmp6", "multiport", "conntrack", "state", "comment"})
_WHOLE = 0xFFFFFFFF  # of a mark
_OF_CONNECTIONS = frozenset(
    {"--set-xmark", "--set-mark", "--save-mark"}
)  # of CONNMARK: they leave the packet alone
_ALSO_MARK = frozenset({"TPROXY", "SET"})
_TRACKING = ("-m conntrack", "-m state", "-j MASQUERADE", "-j SNAT", "-j DNAT", "-j REDIRECT", "-m connlimit")


def tables(text: str, family: int, program: str) -> list[tuple[str, Table]]:
    """By name. `program`: what said it, for the names of rules. Raises NotUnderstoodError."""
    try:
        return _tables(text, family, program)
    except (ValueError, IndexError) as error:
        raise NotUnderstoodError(str(error)) from None


def _tables(text: str, family: int, program: str) -> list[tuple[str, Table]]:
    found: list[tuple[str, Table]] = []
    name = ""
    policies: dict[str, str] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("*"):
            name, policies, lines = line[1:].strip(), {}, []
        elif line.startswith(":"):
            chain, policy, *_ = line[1:].split()
            policies[chain] = policy
        elif line.startswith("-A "):
            lines.append(line)
        elif line.strip() == "COMMIT":
            found.append((name, _table(name, policies, lines, family, program)))
    return found


def _table(name: str, policies: dict[str, str], lines: list[str], family: int, program: str) -> Table:
    where = f"{program.replace('-save', '')} -t {name}"
    rules: dict[str, list[Rule]] = {chain: [] for chain in policies}
    for line in lines:
        _, chain, *words = shlex.split(line)
        rules.setdefault(chain, []).append(_rule(words, family, f"`{where} {line}`"))
    return Table(
        families=frozenset({family}),
        chains={
            chain: Chain(
                name=f"chain {chain} ({where})",
                rules=tuple(some),
                base=_base(name, chain, policies.get(chain, "-")),
            )
            for chain, some in rules.items()
        },
        stateful=any(word in line for line in lines for word in _TRACKING),
        marks=frozenset(
            mark for line in lines if "mark" in line.lower() for mark in _marks(shlex.split(line))
        ),
    )


def _marks(words: list[str]) -> Iterator[int | None]:
    options = {option: values for option, values, _ in _options(words)}
    target = "".join(options.get("-j", ())[:1])
    if target == "MARK":
        value, _, mask = "".join(options.get("--set-xmark", options.get("--set-mark", ()))).partition("/")
        yield int(value, 0) if value and int(mask or "0xffffffff", 0) == _WHOLE else None
    elif (target.endswith("MARK") and options.keys().isdisjoint(_OF_CONNECTIONS)) or target in _ALSO_MARK:
        yield None


def _base(table: str, chain: str, policy: str) -> Base | None:
    if table not in _PRIORITIES or chain not in _HOOKS or policy == "-":
        return None
    verdict = Verdict.DROP if policy == "DROP" else Verdict.ACCEPT
    return Base(hook=_HOOKS[chain], priority=_PRIORITIES[table], policy=verdict)


def _rule(words: list[str], family: int, name: str) -> Rule:
    conditions: list[Condition] = []
    actions: list[Action] = []
    for option, values, negated in _options(words):
        if option in ("-j", "-g"):
            actions += _target(option, values)
        elif option == "--notrack":
            actions.append(Action(verdict=Verdict.NOTRACK))
        elif not actions:  # the options after a target are the target's
            conditions += _condition(option, values, family, negated=negated)
    return Rule(name=name, conditions=tuple(conditions), actions=tuple(actions))


def _options(words: list[str]) -> Iterator[tuple[str, list[str], bool]]:
    """Each option with its values, and whether it is the opposite that is asked."""
    negated = False
    option = ""
    values: list[str] = []
    for word in [*words, "-"]:
        if word == "!" or word.startswith("-"):
            if option:
                yield option, values, negated
                negated, option = False, ""
            if word == "!":
                negated = True
            else:
                option, values = word, []
        else:
            values.append(word)


def _target(option: str, values: list[str]) -> Iterator[Action]:
    name = values[0] if values else ""
    if option == "-g":
        yield Action(verdict=Verdict.GOTO, chain=name)
    elif name in _VERDICTS:
        yield Action(verdict=_VERDICTS[name])
    elif name != "CT":  # a chain, or a target such as LOG, which is no chain of this table
        yield Action(verdict=Verdict.JUMP, chain=name)


def _condition(option: str, values: list[str], family: int, *, negated: bool) -> Iterator[Condition]:
    first = values[0] if values else ""
    match option:
        case "-m" | "--comment":
            if option == "-m" and first not in _MODULES:
                yield unknown("limit" if first == "limit" else "")
        case "-d" | "-s":
            network = ip_network(first, strict=False)
            ends = (int(network.network_address), int(network.broadcast_address))
            yield condition((f"{option[1]}addr{family}",), [(_element(ends),)], negated=negated)
        case "-p":
            number = int(first) if first.isdigit() else PROTOCOLS.get(first, -1)
            yield condition(("protocol",), [(number,)], negated=negated)
        case "-i" | "-o":
            name = first[:-1] + "*" if first.endswith("+") else first
            yield condition((f"{option[1]}if",), [(name,)], negated=negated)
        case "--dport" | "--dports" | "--sport" | "--sports":
            ports = [(_element(_range(part)),) for part in first.split(",")]
            yield condition((option.strip("-").rstrip("s"),), ports, negated=negated)
        case "--tcp-flags":
            mask, comp = (sum(TCP_FLAGS.get(one.lower(), 0) for one in _flags(word)) for word in values)
            yield condition((f"tcp.flags&{mask}",), [(comp,)], negated=negated)
        case "--icmp-type" | "--icmpv6-type":
            yield from _icmp(first, family, negated=negated)
        case "--ctstate" | "--state":
            yield condition(("state",), [(one.lower(),) for one in first.split(",")], negated=negated)
        case "--limit" | "--limit-burst":
            pass
        case _:
            yield unknown()


def _flags(word: str) -> list[str]:
    return list(TCP_FLAGS) if word == "ALL" else word.split(",")


def _icmp(first: str, family: int, *, negated: bool) -> Iterator[Condition]:
    if first in ("any", "255"):
        return
    number, _, code = first.partition("/")
    kind = int(number) if number.isdigit() else (ICMP if family == 4 else ICMPV6).get(number, -1)
    yield condition(("icmp.type" if family == 4 else "icmpv6.type",), [(kind,)], negated=negated and not code)
    if code:
        yield unknown() if negated or family == 6 else condition(("icmp.code",), [(int(code),)])


def _range(part: str) -> Range:
    low, colon, high = part.partition(":")
    return int(low or 0), int(high or 65535) if colon else int(low)


def _element(ends: Range) -> Element:
    return ends[0] if ends[0] == ends[1] else ends
