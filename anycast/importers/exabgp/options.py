"""Options of ExaBGP's healthcheck, on its command line and in the file that `--config` names."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anycast.importers.model import Place

_FLAGS = frozenset(
    [
        "silent",
        "no-syslog",
        "debug",
        "no-ack",
        "sudo",
        "deaggregate-networks",
        "no-ip-setup",
        "dynamic-ip-setup",
        "label-exact-match",
        "withdraw-on-down",
        "debounce",
    ]
)
_VALUES = frozenset(
    [
        "syslog-facility",
        "name",
        "config",
        "pid",
        "user",
        "group",
        "interval",
        "fast-interval",
        "timeout",
        "rise",
        "fall",
        "disable",
        "command",
        "next-hop",
        "ip",
        "ip-ifname",
        "local-preference",
        "label",
        "start-ip",
        "up-metric",
        "down-metric",
        "disabled-metric",
        "increase",
        "community",
        "extended-community",
        "large-community",
        "disabled-community",
        "as-path",
        "up-as-path",
        "down-as-path",
        "disabled-as-path",
        "path-id",
        "neighbor",
        "execute",
        "up-execute",
        "down-execute",
        "disabled-execute",
    ]
)
_SHORT: Mapping[str, str] = {
    "s": "silent", "d": "debug", "a": "no-ack", "n": "name", "F": "config", "p": "pid", "i": "interval", "f": "fast-interval",
    "t": "timeout", "c": "command", "N": "next-hop", "sF": "syslog-facility",
}  # fmt: skip
_ALIASES = {"cmd": "command"}
_NAMES = _FLAGS | _VALUES | frozenset(_ALIASES)
_PROGRAMS = ("healthcheck", "healthcheck.py", "exabgp-healthcheck")


@dataclass(frozen=True, slots=True)
class Option:
    """`value` is nothing for a flag. `known`: healthcheck has it. `is_named`: False of a word that belongs to no option."""

    name: str
    value: str
    place: Place
    known: bool = True
    is_named: bool = True


def arguments(text: str) -> list[str] | None:
    """Those of a command line that runs healthcheck. None: it runs something else."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.replace('"', " ").replace("'", " ").split()
    for n, word in enumerate(words):
        if word.startswith("-") and word not in ("-m", "-u", "-E", "-s", "-B", "-I", "-O"):
            return None
        if word.rpartition("/")[2] in _PROGRAMS or word == "exabgp.application.healthcheck":
            return words[n + 1 :]
    return None


def of_line(words: Sequence[str], place: Place) -> list[Option]:
    """Of a command line."""
    found: list[Option] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word.startswith("--"):
            name, given, value = word[2:].partition("=")
            full = _full(name)
            if full in _FLAGS:
                found.append(Option(full, "", place))
            elif full is None:
                # What stands behind it was meant for it.
                has_value = not given and left and not left[0].startswith("-")
                found.append(Option(name, left.pop(0) if has_value else value, place, known=False))
            else:
                found.append(Option(full, value if given else (left.pop(0) if left else ""), place))
        elif word.startswith("-") and word[1:] in _SHORT:
            full = _SHORT[word[1:]]
            found.append(Option(full, "" if full in _FLAGS else (left.pop(0) if left else ""), place))
        elif len(word) > 2 and word[0] == "-" and word[1] in _SHORT:
            full = _SHORT[word[1]]
            if full in _FLAGS:
                found.append(Option(full, "", place))
                left.insert(0, f"-{word[2:]}")
            else:
                found.append(Option(full, word[2:], place))
        else:
            found.append(Option(word, "", place, known=False, is_named=word.startswith("-")))
    return found


def of_file(lines: Sequence[str], file: str) -> list[Option]:
    """Of a file: `name = value` or a flag on each line."""
    found: list[Option] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, _, value = text.partition("=")
        place = Place(file, number)
        full = _full(name.strip())
        if full is None:
            found.append(Option(name.strip(), "", place, known=False))
        else:
            found.append(Option(full, "" if full in _FLAGS else value.strip(), place))
    return found


def _full(name: str) -> str | None:
    """The option that a name or the beginning of one stands for, as argparse has it."""
    if name in _NAMES:
        return _ALIASES.get(name, name)
    near = {_ALIASES.get(one, one) for one in _NAMES if one.startswith(name)} if name else set()
    return near.pop() if len(near) == 1 else None
