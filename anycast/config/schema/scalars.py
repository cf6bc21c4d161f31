"""Single values of the file: how each is read, what is said of a wrong one, and how JSON Schema describes it.

Words are taken in any case and numbers in quotes too; JSON Schema knows the one spelling that the examples use.
`anycast.core.values.described` has what the core's settings hold under the same names.
"""

from __future__ import annotations

import functools
import math
import re
import shlex
import socket
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from anycast.config.problem import shown
from anycast.core.amounts import MULTIPLES
from anycast.core.hooks import EVENTS, wrong_url
from anycast.core.names import listed, nearest
from anycast.core.values.configuration import Protocol
from anycast.core.values.described import Percent
from anycast.core.values.route import extended_community
from anycast.core.values.software import Daemon, Software, software
from anycast.regex import LONGEST, RegexError, compiled

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
NAME_ADVICE = "letters, digits, _ . and - only, 63 at most, the first a letter or digit"
DAY = 86400


def wrong(what: str, do: str) -> PydanticCustomError:
    """A complaint about one value: what is wrong, and what to do."""
    return PydanticCustomError("anycast", "{what} ({do})", {"what": what, "do": do})


def unlike(value: Any, noun: str, do: str) -> PydanticCustomError:
    return wrong(f"{shown(value)} is not {noun}", do)


@dataclass(frozen=True, eq=False)  # hashed by identity: unions of annotated types are hashed
class Scalar:
    """How one kind of value is read, and how JSON Schema describes it. `spell`: how the file writes a default."""

    parse: Callable[[Any], Any]
    schema: Mapping[str, Any]
    spell: Callable[[Any], str] | None = None

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(
        self, _core: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return dict(self.schema)


def scalar(**schema: Any) -> Callable[[Callable[[Any], Any]], Scalar]:
    """What the function reads, with its JSON Schema."""
    return lambda parse: Scalar(parse, schema)


def _is_number(value: Any, *kinds: type) -> bool:
    return isinstance(value, kinds or (int,)) and not isinstance(value, bool)


def up_to(high: int) -> str:
    """A pattern for the numbers from 0 to `high`, with no more digits than it has."""
    digits = str(high)
    shapes = [f"[0-9]{{1,{len(digits) - 1}}}"] if len(digits) > 1 else []
    for place, digit in enumerate(digits):
        if digit != "0":
            shapes.append(f"{digits[:place]}[0-{int(digit) - 1}]" + "[0-9]" * (len(digits) - place - 1))
    return f"(?:{'|'.join([*shapes, digits])})"


_DIGITS = re.compile(r"[0-9]{1,19}\Z", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?\Z", re.ASCII)


def unquoted(value: Any) -> Any:
    """A number that stands in quotes: the number. Anything else as it is."""
    return int(value) if isinstance(value, str) and _DIGITS.match(value) else value


def whole(noun: str, low: int, high: int, before: str = "") -> Scalar:
    """`before`: what may stand before the number, in any case."""
    do = f"write a whole number from {low} to {high}"

    def parse(value: Any) -> int:
        if type(value) is not int and isinstance(value, str):
            cut = len(before) if before and value[: len(before)].lower() == before else 0
            value = unquoted(value[cut:]) if _DIGITS.match(value[cut:]) else value
        if not _is_number(value) or not low <= value <= high:
            raise unlike(value, noun, do)
        return int(value)

    return Scalar(parse, {"type": "integer", "minimum": low, "maximum": high})


def need_text(value: Any, do: str = "write it in quotes") -> str:
    if not isinstance(value, str):
        raise unlike(value, "text", do)
    return value


def pattern(noun: str, pattern: str, do: str, first: Callable[[str], str] = str) -> Scalar:
    """`first`: makes the usual form of what is written."""
    compiled = re.compile(rf"(?:{pattern})\Z", re.ASCII)

    def parse(value: Any) -> str:
        if not isinstance(value, str):
            quoted = "" if isinstance(value, (list, dict)) else "; in quotes, for it must be text"
            raise unlike(value, noun, do + quoted)
        if not compiled.match(first(value)):
            raise unlike(value, noun, do)
        return first(value)

    return Scalar(parse, {"type": "string", "pattern": f"^(?:{pattern})$"})


def choice(
    words: Sequence[str],
    make: Callable[[str], Any] = str,
    *,
    also: Mapping[str, str] = types.MappingProxyType({}),
) -> Scalar:
    """One of some words, in any case. `also`: what other programs call them."""
    known = {**also, **{word.lower(): word for word in words}}

    def parse(value: Any) -> Any:
        word = known.get(value.lower()) if isinstance(value, str) else None
        if word is None:
            do = f"write {listed(words)}"
            if isinstance(value, str) and (near := nearest(value, words)):
                do = f"did you mean {near}? " + (do if len(words) > 1 else "")
            raise unlike(value, "a choice here", do.strip())
        return make(word)

    return Scalar(parse, {"enum": [*words]})


def words(command: str) -> list[str]:
    """A command line in the words a shell makes of it; nothing in it is expanded."""
    try:
        return shlex.split(command)
    except ValueError:
        raise wrong("a quote is not closed in this command", "write the words as a list") from None


_TRUTH = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}


def truth(value: Any) -> Any:
    """A word for true or false: which of them. Anything else as it is."""
    return _TRUTH.get(value.lower(), value) if isinstance(value, str) and len(value) < 6 else value


@scalar(type="boolean")
def _flag(value: Any) -> bool:
    value = truth(value)
    if not isinstance(value, bool):
        raise unlike(value, "a truth value", "write true or false")
    return value


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": float(DAY)}
_LONG_UNITS = {
    name: _UNITS[unit]
    for unit, names in (
        ("ms", "msec msecs millisecond milliseconds"),
        ("s", "sec secs second seconds"),
        ("m", "min mins minute minutes"),
        ("h", "hr hrs hour hours"),
        ("d", "day days"),
    )
    for name in (unit, *names.split())
}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?([A-Za-z]{1,12})", re.ASCII)
DURATION_TEXT = {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h|d)$"}


def _seconds_of(text: str) -> float:
    """`500ms`, `2 s`, `10 seconds`, `1h30m`; a number alone is of seconds. NaN: this is no time."""
    if _DECIMAL.match(text):
        return float(text)
    total, end = 0.0, 0
    for match in _DURATION.finditer(text[:100]):
        unit = _LONG_UNITS.get(match[2].lower())
        if unit is None or text[end : match.start()].strip():
            return math.nan
        total, end = total + float(match[1]) * unit, match.end()
    return round(total, 9) if end and end == len(text) else math.nan


def spell_duration(seconds: float) -> str:
    """`500ms`, `2s`, `24h`, `14d`: as the configuration writes it."""
    if seconds > DAY and seconds % DAY == 0:
        return f"{seconds / DAY:.12g}d"
    if seconds and seconds < 1:
        return f"{seconds * 1000:.12g}ms"
    if seconds > 3600 and seconds % 3600 == 0:
        return f"{seconds / 3600:.12g}h"
    return f"{seconds:.12g}s"


def duration(low: float, high: float) -> Scalar:
    do = f"write a time from {spell_duration(low)} to {spell_duration(high)}, as in 500ms, 2s or 1m"

    def parse(value: Any) -> float:
        seconds = math.nan
        if _is_number(value, int, float):
            seconds = float(value)
        elif isinstance(value, str):
            seconds = _seconds_of(value)
        if not low <= seconds <= high:
            raise unlike(value, "a time that can be used here", do)
        return seconds

    number = {"type": "number", "minimum": low, "maximum": high}
    return Scalar(parse, {"anyOf": [DURATION_TEXT, number]}, spell_duration)


def seconds(low: int, high: int) -> Scalar:
    """A time the kernel counts in whole seconds."""
    inner = duration(low, high)

    def parse(value: Any) -> int:
        seconds = float(inner.parse(value))
        if seconds != int(seconds):
            raise wrong(f"{shown(value)} is no whole number of seconds", "write one, as in 30s or 5m")
        return int(seconds)

    number = {"type": "integer", "minimum": low, "maximum": high}
    return Scalar(parse, {"anyOf": [DURATION_TEXT, number]}, spell_duration)


def milliseconds(low: int, high: int) -> Scalar:
    """A time that is counted in whole milliseconds."""
    inner = duration(low / 1000, high / 1000)

    def parse(value: Any) -> float:
        seconds = float(inner.parse(value))
        if round(seconds * 1000, 6) % 1:
            raise wrong(f"{shown(value)} is no whole number of milliseconds", "write one, as in 100ms")
        return seconds

    return Scalar(parse, inner.schema)


_TO_A_DAY = duration(0, DAY)


@scalar(anyOf=[{"type": "string", "format": "ipv4"}, {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}])
def _area(value: Any) -> IPv4Address:
    try:
        if _is_number(value, int) or isinstance(value, str):
            return IPv4Address(int(value) if isinstance(value, str) and _DIGITS.match(value) else value)
    except ValueError:
        pass
    raise unlike(value, "an OSPF area", "write a number, or one as in 0.0.0.1")


_KERNELS_OWN = {253: "default", 254: "main", 255: "local"}
_table_number = whole("a number of a table", 1, 2**32 - 1)


@scalar(type="integer", minimum=1, maximum=2**32 - 1)
def _route_table(value: Any) -> int:
    number = int(_table_number.parse(value))
    if number in _KERNELS_OWN:
        what = f"{number} is the kernel's table `{_KERNELS_OWN[number]}`, by which this node forwards"
        raise wrong(what, "write a number that nothing else uses, as in 1179")
    return number


@scalar(anyOf=[{"const": "never"}, *_TO_A_DAY.schema["anyOf"]])
def _expiry(value: Any) -> float:
    if isinstance(value, str) and value.lower() == "never":
        return math.inf
    if isinstance(value, str) and math.isnan(_seconds_of(value)):
        raise unlike(value, "a time", "write one, as in 60s or 5m, or never")
    return float(_TO_A_DAY.parse(value))


IP_TEXT = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}


@functools.lru_cache(2**18)  # one value for an address, however often it is written
def _read_address(text: str) -> tuple[IPv4Address | IPv6Address, tuple[str, str] | None]:
    """The address, and what is wrong with it if no host has it. Raises ValueError: it is none."""
    try:
        # As strict as ipaddress, in a tenth of its time.
        number = int.from_bytes(socket.inet_pton(socket.AF_INET, text))
    except (OSError, ValueError):
        address = ip_address(text)
    else:
        address = IPv4Address(number)
        if number and number >> 28 != 0b1110:
            return address, None
    if address.is_unspecified or address.is_multicast:
        kind = "multicast" if address.is_multicast else "unspecified"
        return address, (f"{address} is the {kind} address of no one host", "write a unicast address")
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address, (f"{shown(text)} is IPv4 in the shape of IPv6", f"write {address.ipv4_mapped}")
    return address, None


def _host(text: str) -> str:
    """The address of a prefix that is one address, as a router writes it."""
    address, _, length = text.partition("/")
    if length != ("128" if ":" in address else "32"):
        raise wrong(f"{shown(text)} is a prefix", "write the address alone, without /length")
    return address


def _address(version: int | None = None) -> Scalar:
    noun = f"an IPv{version} address" if version else "an IP address"
    do = f"write one, as in {'2001:db8::1' if version == 6 else '192.0.2.1'}"

    def parse(value: Any) -> IPv4Address | IPv6Address:
        if not isinstance(value, str):
            raise unlike(value, noun, do)
        if value[:1] == "[" and value[-1:] == "]":
            value = value[1:-1]
        if "/" in value:
            value = _host(value)
        if "%" in value:
            raise wrong(
                f"{shown(value)} names an interface", "write an address that needs none, not fe80::…%eth0"
            )
        try:
            address, why = _read_address(value)
        except ValueError:
            raise unlike(value, noun, do) from None
        if version and address.version != version:
            raise wrong(f"{address} is not {noun}", do)
        if why is not None:
            raise wrong(*why)
        return address

    return Scalar(parse, {"type": "string", "format": f"ipv{version}"} if version else IP_TEXT)


_LEAST = {4: 8, 6: 16}  # bits of a prefix: what is wider is no network of one's own


_PREFIX = re.compile("[0-9A-Fa-f:.]+/[0-9]{1,3}")


@scalar(type="string", pattern=f"^{_PREFIX.pattern}$")
def _network(value: Any) -> IPv4Network | IPv6Network:
    do = "write one, as in 192.0.2.0/24 or 2001:db8:53::/48"
    if not isinstance(value, str):
        raise unlike(value, "a prefix", do)
    try:
        if "/" in value and not _PREFIX.fullmatch(value):
            raise ValueError(value)
        network = ip_network(value, strict=False)
    except ValueError:
        raise unlike(value, "a prefix", do) from None
    if "/" not in value:
        raise wrong(f"{shown(value)} has no length", do)
    if network.network_address != ip_address(value.rpartition("/")[0]):
        raise wrong(f"{shown(value)} has bits behind its length", f"write {network}")
    if network.prefixlen < _LEAST[network.version]:
        raise wrong(f"{network} is wider than /{_LEAST[network.version]}", do)
    return network


_GROUP_TEXT = {
    "type": "string",
    "anyOf": [
        {"format": "ipv4", "pattern": r"^(22[4-9]|23[0-9])\."},
        {"format": "ipv6", "pattern": "^[fF][fF]"},
    ],
}


@scalar(**_GROUP_TEXT)
def _group(value: Any) -> IPv4Address | IPv6Address:
    try:
        address = ip_address(value) if isinstance(value, str) and "%" not in value else None
    except ValueError:
        address = None
    if address is None or not address.is_multicast:
        raise unlike(value, "a multicast address", "write one, as in 224.0.0.81 or ff02::81")
    return address


def _is_address(text: str, version: int) -> bool:
    try:
        return ip_address(text).version == version and "%" not in text
    except ValueError:
        return False


_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"


@scalar(
    type="string",
    pattern=rf"^({_OCTET}(\.{_OCTET}){{3}}|\[[0-9A-Fa-f:.]+\]):(?!0+$){up_to(65535)}$",
)
def _listen(value: Any) -> str:
    if isinstance(value, str):
        host, _, port = value.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = "127.0.0.1" if host.lower() == "localhost" else host
        fits = _is_address(host[1:-1], 6) if bracketed else _is_address(host, 4)
        if fits and re.match(r"[0-9]{1,5}\Z", port, re.ASCII) and 1 <= int(port) <= 65535:
            return f"{host}:{port}"
    do = 'write "127.0.0.1:9644" or "[::1]:9644"; "0.0.0.0:9644" is every IPv4 address'
    raise unlike(value, "an address and port", do)


_VERSIONS = {"ipv4": 4, "ipv6": 6, "4": 4, "6": 6, "inet": 4, "inet6": 6}


@scalar(enum=["ipv4", "ipv6"])
def _version(value: Any) -> int:
    version = None if isinstance(value, bool) else _VERSIONS.get(str(value).lower()[:8])
    if version is None:
        raise unlike(value, "a choice here", "write ipv4 or ipv6")
    return version


@scalar(
    anyOf=[
        {"type": "integer", "minimum": 1, "maximum": 2**32 - 1},
        {"type": "string", "pattern": "^0x(?!0+$)[0-9A-Fa-f]{1,8}$"},
    ]
)
def _mark(value: Any) -> int:
    is_hex = isinstance(value, str) and re.match(r"0x[0-9A-Fa-f]{1,8}\Z", value, re.ASCII)
    mark = int(value, 16) if is_hex else unquoted(value)
    if not _is_number(mark) or not 1 <= mark < 2**32:
        do = "write a whole number from 1 to 4294967295, or one as nftables shows it, such as 0x10"
        raise unlike(value, "a firewall mark", do)
    return int(mark)


@scalar(anyOf=[{"type": "integer", "minimum": 3, "maximum": 65535}, DURATION_TEXT])
def _hold_time(value: Any) -> int:
    do = "write a whole number of seconds from 3 to 65535"
    if isinstance(value, str) and (seconds := _seconds_of(value)) % 1 == 0:
        value = int(seconds)
    if value == 0 and _is_number(value):
        raise wrong("with a hold time of 0 a dead node's routes would stay for ever", do)
    if not _is_number(value) or not 3 <= value <= 65535:
        raise unlike(value, "a hold time", do)
    return int(value)


_WELL_KNOWN = {
    "no-export": "65535:65281",
    "no-advertise": "65535:65282",
    "no-peer": "65535:65284",
    "blackhole": "65535:666",
    "graceful-shutdown": "65535:0",
}


def _community(parts: int, high: int) -> Scalar:
    shape = ":".join([f"0{{0,9}}{up_to(high)}"] * parts)
    do = f"write {':'.join(['N'] * parts)}, each a number from 0 to {high}"

    def parse(value: Any) -> str:
        if parts == 2 and isinstance(value, str):
            value = _WELL_KNOWN.get(value.lower(), value)
        if not isinstance(value, str) or not re.fullmatch(shape, value, re.ASCII):
            raise unlike(value, f"a community of {parts} numbers", do)
        return ":".join(str(int(number)) for number in value.split(":"))

    numbers = {"type": "string", "pattern": f"^{shape}$"}
    return Scalar(parse, {"anyOf": [numbers, {"enum": [*_WELL_KNOWN]}]} if parts == 2 else numbers)


_SHORT = {"rt": "target", "ro": "origin", "soo": "origin"}  # what routers call them


_SHORTER, _LONGER = up_to(2**16 - 1), up_to(2**32 - 1)
_EXTENDED = (
    f"(target|origin|rt|ro|soo):({_SHORTER}:{_LONGER}|({_LONGER}|{_OCTET}(\\.{_OCTET}){{3}}):{_SHORTER})"
    "|0x[0-9A-Fa-f]{16}"
)


@scalar(type="string", pattern=f"^({_EXTENDED})$")
def _extended_community(value: Any) -> str:
    text = value if isinstance(value, str) and re.fullmatch(_EXTENDED, value, re.ASCII) else ""
    word, colon, rest = text.lower().partition(":")
    text = f"{_SHORT.get(word, word)}{colon}{rest}"
    if extended_community(text) is None:
        do = (
            "write target:N:N or origin:N:N, an AS number or IPv4 address and a number (up to 4294967295 with an AS up to "
            "65535, else up to 65535), or 0x and 16 digits"
        )
        raise unlike(value, "an extended community", do)
    return text


# ExaBGP's configuration has no way to escape the other characters.
_VARIABLE = r"\$\{?([A-Za-z_][A-Za-z0-9_]{0,99})\}?"


@scalar(type="string", pattern=rf"^(?!{_VARIABLE}$)[!#-&(-:<-\[\]-~]{{1,80}}$", writeOnly=True)
def _password(value: Any) -> str:
    do = "write 1 to 80 printable ASCII characters; no quotes, backslash, semicolon or space"
    if not isinstance(value, str):
        raise wrong("the password is not text", "write it in quotes")
    if variable := re.fullmatch(_VARIABLE, value):
        do = f"write password_env: {variable[1]}, or password_file"
        raise wrong("this is the name of a variable, and nothing puts its value here", do)
    if not re.fullmatch(r"[!#-&(-:<-\[\]-~]{1,80}", value):
        raise wrong("the password cannot be used", do)
    return value


@scalar(type="string", pattern="^https?://[!-~]+$", maxLength=2000, writeOnly=True)
def _url(value: Any) -> str:
    """The text is never repeated: a URL may be all that keeps strangers out."""
    if why := wrong_url(value if isinstance(value, str) else ""):
        raise wrong(*why)
    return str(value)


_EVENT_KINDS = sorted({name.partition(".")[0] for name in EVENTS})


@scalar(enum=[*sorted(EVENTS), *(f"{kind}.*" for kind in _EVENT_KINDS)])
def _events(value: Any) -> frozenset[str]:
    kind, dot, rest = value.partition(".") if isinstance(value, str) else ("", "", "")
    if value in EVENTS:
        return frozenset({value})
    if dot and rest == "*" and kind in _EVENT_KINDS:
        return frozenset(name for name in EVENTS if name.startswith(f"{kind}."))
    if kind == "hook":
        raise wrong("a hook that is told of hooks would never end", "write another event")
    do = "write one of docs/log-events.md, or all of a kind, as in server.*"
    if value in ("all", "any", "*"):
        do = "write the kinds, as in [vip.*, server.*, neighbor.*, maintenance.*, condition.*]"
    elif kind == "vip":
        do = "write vip.verdict_changed: whenever a VIP may be announced, or may not any more"
    elif isinstance(value, str) and (near := nearest(value, EVENTS)):
        do = f"did you mean {near}?"
    raise unlike(value, "an event", do)


_STATUSES = re.compile("([2-5])xx|([2-5][0-9][0-9]) ?- ?([2-5][0-9][0-9])", re.ASCII | re.IGNORECASE)


@scalar(
    anyOf=[
        {"type": "integer", "minimum": 200, "maximum": 599},
        {"type": "string", "pattern": "^([2-5]xx|[2-5][0-9][0-9]-[2-5][0-9][0-9])$"},
    ]
)
def _status(value: Any) -> frozenset[int]:
    if isinstance(value, str) and (match := _STATUSES.fullmatch(value)):
        if match[1]:
            return frozenset(range(int(match[1]) * 100, int(match[1]) * 100 + 100))
        if int(match[2]) <= int(match[3]):
            return frozenset(range(int(match[2]), int(match[3]) + 1))
    value = unquoted(value)
    if not _is_number(value) or not 200 <= value <= 599:
        raise unlike(value, "a final HTTP status", 'write a number from 200 to 599, or "2xx" to "5xx"')
    return frozenset({value})


def _share(value: Any, highest: float) -> Percent | None:
    match = re.match(r"([1-9][0-9]{0,5}) ?%\Z", value, re.ASCII) if isinstance(value, str) else None
    return Percent(int(match[1])) if match and 1 <= int(match[1]) <= highest else None


@scalar(type="string", pattern="^(100|[1-9][0-9]?)%$")
def _percent(value: Any) -> Percent:
    if share := _share(value, 100):
        return share
    raise unlike(value, "a share", 'write it from "1%" to "100%"')


def _count_or_share(noun: str, do: str, highest: float, shares: str) -> Scalar:
    def parse(value: Any) -> int | Percent:
        if share := _share(value, highest):
            return share
        value = unquoted(value)
        if not _is_number(value) or value < 1:
            raise unlike(value, noun, do)
        return int(value)

    return Scalar(
        parse, {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": shares}]}
    )


_SIZES = {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SIZE = re.compile("([1-9][0-9]{0,8}) ?([kmg]i?b)", re.ASCII | re.IGNORECASE)


@scalar(type="string", pattern="^([1-9][0-9]{0,8}(KiB|MiB|GiB)|[1-9][0-9]?%)$")
def _memory(value: Any) -> int | Percent:
    if share := _share(value, 99):
        return share
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise unlike(value, "an amount of memory", 'write it as in 256MiB, 1GiB or "5%"')
    return int(match[1]) * _SIZES[match[2].lower()]


_AMOUNT = re.compile(
    r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?([kmgt])|([0-9]{1,15}(?:\.[0-9]{1,6})?)", re.ASCII | re.IGNORECASE
)
_MOST_AMOUNT = 1e18


@scalar(
    anyOf=[
        {"type": "number", "exclusiveMinimum": 0, "maximum": _MOST_AMOUNT},
        {
            "type": "string",
            "pattern": r"^(?!0+(\.0+)?[kMGT]?$)([0-9]{1,6}(\.[0-9]{1,6})?[kMGT]|[0-9]{1,15}(\.[0-9]{1,6})?)$",
        },
    ]
)
def _amount(value: Any) -> float:
    """How much a second, or at once: k is a thousand."""
    found = math.nan
    if _is_number(value, int, float):
        found = float(value)
    elif isinstance(value, str) and (match := _AMOUNT.fullmatch(value)):
        found = float(match[1] or match[3]) * MULTIPLES[(match[2] or "").lower()]
    if found == 0:
        raise wrong(
            "a node that carries nothing is none", "write what it carries, as in 10G, or leave it out"
        )
    if not 0 < found <= _MOST_AMOUNT:
        raise unlike(value, "an amount", "write a number above 0, as in 500, 50k, 1.5M or 10G")
    return found


def _spell_share(share: float) -> str:
    return f"{share * 100:.12g}%"


def _limit(value: Any) -> float:
    return _percent.parse(value).value / 100  # type: ignore[no-any-return]


def _decimal(noun: str, low: float, high: float, do: str, *, above: bool = False) -> Scalar:
    """`above`: `low` itself is too little."""

    def parse(value: Any) -> float:
        if isinstance(value, str) and _DECIMAL.match(value):
            value = float(value)
        if not _is_number(value, int, float) or not low <= value <= high or (above and value == low):
            raise unlike(value, noun, do)
        return float(value)

    return Scalar(parse, {"type": "number", "exclusiveMinimum" if above else "minimum": low, "maximum": high})


@scalar(enum=[1, 5, 15])
def _minutes(value: Any) -> int:
    value = unquoted(value)
    if isinstance(value, bool) or value not in (1, 5, 15):
        raise unlike(value, "a time the kernel averages over", "write 1, 5 or 15")
    return int(value)


@scalar(type="string", maxLength=LONGEST)
def _expression(value: Any) -> str:
    need_text(value, "write the regular expression in quotes")
    try:
        compiled(value)
    except RegexError as error:
        raise wrong(error.what, error.do) from None
    return str(value)


@scalar(type=["string", "integer"], pattern="^([!-~]([ -~]{0,1998}[!-~])?)?$")
def _header_value(value: Any) -> str:
    value = str(value) if type(value) is int else value
    if not re.fullmatch(r"[!-~]([ -~]{0,1998}[!-~])?|", need_text(value)):
        do = "write printable ASCII on one line, without blanks at its ends"
        raise wrong("a header cannot have this value", do)
    return str(value)


def _rooted(path: str) -> str:
    return path if path.startswith("/") or "://" in path else f"/{path}"


_PAYLOAD = 4096  # bytes


@scalar(type="string", maxLength=_PAYLOAD)
def _text(value: Any) -> bytes:
    data = need_text(value).encode("utf-8", "surrogatepass")
    if len(data) > _PAYLOAD:
        raise wrong(f"a text of {len(data)} bytes is too long", f"write at most {_PAYLOAD} bytes")
    return data


@scalar(type="string", pattern="^([0-9A-Fa-f]{2} *)+$")
def _hex(value: Any) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if not 1 <= len(data) <= _PAYLOAD:
        raise unlike(
            value, "hexadecimal", 'write pairs of digits in quotes, as in "00ff", for 1 to 4096 bytes'
        )
    return data


def _need_dns() -> None:
    try:
        import dns.name  # noqa: F401
    except ImportError:
        what = "a dns check needs dnspython, which is not installed"
        raise wrong(what, "pip install 'anycast[dns]'") from None


@scalar(type="string", maxLength=255)
def _domain(value: Any) -> str:
    need_text(value)
    _need_dns()
    from dns.exception import DNSException
    from dns.name import from_text

    try:
        return str(from_text(value))
    except (DNSException, UnicodeError) as error:
        raise unlike(value, f"a domain name: {error}", "write one, as in www.example.net") from None


@scalar(
    type="string",
    pattern="^(frr|bird|gobgp|openbgpd)( v?[0-9]{1,4}([.][0-9]{1,4})?([.+~-][A-Za-z0-9.+~-]{1,40})?)?$",
)
def _software(value: Any) -> Software:
    if isinstance(value, str) and (found := software(value)) is not None:
        return found
    near = nearest(value.split()[0], list(Daemon)) if isinstance(value, str) and value.split() else None
    hint = f"did you mean {near}? " if near and near != value.split()[0].lower() else ""
    raise unlike(
        value,
        "router software",
        f"{hint}write {listed(list(Daemon))}, and its version if you know it, as in `frr 10.3`",
    )


@scalar(type="string", pattern="^[A-Z0-9]{1,12}$")
def _record(value: Any) -> str:
    _need_dns()
    from dns.exception import DNSException
    from dns.rdatatype import from_text, is_metatype, to_text

    try:
        number = from_text(value.upper()) if isinstance(value, str) else None
    except (DNSException, ValueError):
        number = None
    if number is None or is_metatype(number):
        raise unlike(value, "a record type", "write one, as in A, AAAA, MX, SOA or TXT")
    return str(to_text(number))


@scalar(type="string", pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")
def _argument(value: Any) -> str:
    if not need_text(value).isprintable():
        what = "an argument holds a character that cannot be printed"
        raise wrong(what, "remove it, or put it into a script")
    return str(value)


_PORTS = {
    "ftp": 21, "ssh": 22, "telnet": 23, "smtp": 25, "dns": 53, "domain": 53, "tftp": 69, "http": 80, "kerberos": 88,
    "pop3": 110, "ntp": 123, "imap": 143, "snmp": 161, "ldap": 389, "https": 443, "smtps": 465, "syslog": 514,
    "submission": 587, "ldaps": 636, "dns-over-tls": 853, "imaps": 993, "pop3s": 995, "mqtt": 1883, "radius": 1812,
    "radius-acct": 1813, "mysql": 3306, "rdp": 3389, "sip": 5060, "sips": 5061, "postgresql": 5432, "postgres": 5432,
    "syslog-tls": 6514, "redis": 6379, "mqtts": 8883,
}  # fmt: skip
"""Well-known ports by name: the same on every machine, unlike /etc/services."""

MOST_PORTS = 256  # of a range
_PORT_DO = "write a whole number from 1 to 65535, or a name such as https"


def _read_port(value: Any) -> int:
    port = _PORTS.get(value.lower(), value) if isinstance(value, str) and len(value) < 20 else value
    port = unquoted(port)
    if not _is_number(port) or not 1 <= port <= 65535:
        raise unlike(value, "a port", _PORT_DO)
    return int(port)


_PORT_NAMES = {"enum": sorted(_PORTS)}
_port = Scalar(_read_port, {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535}, _PORT_NAMES]})
_RANGE = re.compile("([0-9]{1,5}) ?- ?([0-9]{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Ports:
    """What one entry of `ports` says. `protocol` None: that of the service."""

    numbers: tuple[int, ...]
    protocol: Protocol | None = None


def _read_ports(value: Any) -> Ports:
    """`80`, `https`, `53/udp`, `udp/53`, `8000-8010`, `"80, 443"`."""
    if not isinstance(value, str) or len(value) > 1000:
        return Ports((_read_port(value),))
    protocol, text = None, value
    words = [word.strip() for word in value.split("/")]
    if len(words) == 2:
        named = [one for one in Protocol if one in (words[0].lower(), words[1].lower())]
        if not named:
            raise unlike(value, "a port", "write it as in 443, https, 53/udp or 8000-8010")
        protocol, text = named[0], words[words[0].lower() == named[0]]
    numbers: dict[int, None] = {}
    for part in text.split(","):
        numbers |= dict.fromkeys(_range(part.strip()))
    if len(numbers) > MOST_PORTS:
        raise _too_many(len(numbers))
    return Ports(tuple(numbers), protocol)


def _too_many(number: int) -> PydanticCustomError:
    do = "write fewer, or a firewall mark (mark), which is one service however many ports it has"
    return wrong(f"these are {number} ports, and one entry has {MOST_PORTS} at most", do)


def _range(text: str) -> Iterable[int]:
    match = _RANGE.fullmatch(text)
    if match is None:
        return (_read_port(text),)
    first, last = int(match[1]), int(match[2])
    if not 1 <= first <= last <= 65535:
        raise unlike(text, "a range of ports", "write it as in 8000-8010")
    if last - first >= MOST_PORTS:
        raise _too_many(last - first + 1)
    return range(first, last + 1)


_PORTS_TEXT = {"type": "string", "pattern": "^[A-Za-z0-9, /-]+$"}
_ports = Scalar(_read_ports, {"anyOf": [_port.schema["anyOf"][0], _PORTS_TEXT]})


@scalar(anyOf=[{"type": "boolean"}, {"type": "integer", "minimum": 1, "maximum": 254}])
def _ttl_security(value: Any) -> int:
    """Hops; 0: none."""
    value = truth(unquoted(value))
    if isinstance(value, bool):
        return int(value)
    if not _is_number(value) or not 1 <= value <= 254:
        do = "write true, or how many hops the router is away at the most, 1 to 254"
        raise unlike(value, "a distance", do)
    return int(value)


@scalar(type="integer", minimum=1, maximum=1000)
def _node_weight(value: Any) -> int:
    value = unquoted(value)
    if value == 0 and _is_number(value):
        what = "0 would be taken for a small weight by some routers, and by others for the same weight everywhere"
        raise wrong(what, "write 1 or more; for no clients maintenance, or role: backup of the VIPs")
    if not _is_number(value) or not 1 <= value <= 1000:
        raise unlike(value, "a weight of a node", "write a whole number from 1 to 1000")
    return int(value)


@scalar(const=1)
def _format(value: Any) -> int:
    value = unquoted(value)
    if not _is_number(value) or value != 1:
        raise unlike(value, "a version of the format this program reads", "write 1, or remove the line")
    return 1


Address4 = Annotated[IPv4Address, _address(4)]
Address6 = Annotated[IPv6Address, _address(6)]
Amount = Annotated[float, _amount]
AnyAddress = Annotated[IPv4Address | IPv6Address, _address()]
Area = Annotated[IPv4Address, _area]
Argument = Annotated[str, _argument]
AskInterval = Annotated[float, duration(0.5, 60)]
any_address = _address().parse
any_ports = _ports.parse
listening = _listen.parse
_AS_NUMBER = whole("an AS number", 1, 2**32 - 1, before="as")
_AS_PART = "(0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_ASDOT = re.compile(rf"(?:as)?{_AS_PART}\.{_AS_PART}\Z", re.ASCII | re.IGNORECASE)
_RESERVED_AS = {
    23456: "what an AS number of four bytes looks like to old routers (RFC 6793)",
    65535: "reserved (RFC 7300)",
    2**32 - 1: "reserved (RFC 7300)",
}
_NO_ASDOT = ["0.0", *(f"{one >> 16}.{one & 65535}" for one in _RESERVED_AS)]


@scalar(
    anyOf=[
        {**_AS_NUMBER.schema, "not": {"enum": [*_RESERVED_AS]}},
        {"type": "string", "pattern": f"^{_AS_PART}[.]{_AS_PART}$", "not": {"enum": _NO_ASDOT}},
    ]
)
def _as_number(value: Any) -> int:
    """A number, or asdot (RFC 5396) as text: of what YAML reads as a decimal the zeros at its end are lost."""
    if isinstance(value, float):
        what = f"{shown(value)} is a decimal number, and zeros at its end are lost"
        raise wrong(what, f'write it in quotes, as in "{value}", or as one number')
    match = _ASDOT.match(value) if isinstance(value, str) else None
    found: int = _AS_NUMBER.parse(value if match is None else int(match[1]) * 2**16 + int(match[2]))
    if (why := _RESERVED_AS.get(found)) is not None:
        raise wrong(f"{shown(value)} is {why}", "write one that is assigned to you, or a private one")
    return found


as_number = _as_number.parse
AsNumber = Annotated[int, _as_number]
BfdInterval = Annotated[float, milliseconds(50, 60000)]
Community = Annotated[str, _community(2, 65535)]
Connections = Annotated[int, whole("a number of connections", 0, 2**31 - 1)]
Count = Annotated[int, whole("a number of outcomes", 1, 1000)]
# It is written into ExaBGP's configuration, and a socket's path holds 107 characters.
Directory = Annotated[
    str,
    pattern(
        "a directory that can be used",
        r"/[A-Za-z0-9_./@:+-]{0,89}",
        "write an absolute path of at most 90 characters, letters, digits and _ . / @ : + - only",
    ),
]
Domain = Annotated[str, _domain]
Endpoint = Annotated[
    str,
    pattern(
        "an address of etcd",
        r"https?://([A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,9}|\[[0-9A-Fa-f:]{2,39}\]):(?!0+$)"
        + up_to(65535),
        "write one, as in https://10.0.0.1:2379",
    ),
]
EtcdUser = Annotated[
    str, pattern("a user's name", r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,127}", "write one, as in anycast")
]
Events = Annotated[frozenset[str], _events]
Expiry = Annotated[float, _expiry]
Expression = Annotated[str, _expression]
FileName = Annotated[
    str,
    pattern("a file's absolute path", r"/[!-~][ -~]{0,1000}|/", "write one, as in /etc/anycast/client.pem"),
]
Fill = Annotated[
    int | Percent,
    _count_or_share(
        "a number of connections",
        'write 1 or more, or a share of the rows of the table, as in "200%"',
        math.inf,
        "^[1-9][0-9]{0,5}%$",
    ),
]
Flag = Annotated[bool, _flag]
FormatVersion = Annotated[int, _format]
Group = Annotated[IPv4Address | IPv6Address, Scalar(_group.parse, _GROUP_TEXT, str)]
GroupName = Annotated[
    str, pattern("a group's name", r"[A-Za-z_][A-Za-z0-9_-]{0,31}", "write one, as in anycast-exabgp")
]
HeaderName = Annotated[
    str, pattern("a header's name", r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", "write one, as in X-Check")
]
HeaderValue = Annotated[str, _header_value]
Hex = Annotated[bytes, _hex]
Hold = Annotated[float, duration(0.01, DAY)]
HoldTime = Annotated[int, _hold_time]
HookPeriod = Annotated[float, duration(1, 3600)]
HookTimeout = Annotated[float, duration(0.1, 300)]
HostName = Annotated[
    str, pattern("a host name", r"[A-Za-z0-9._:\[\]-]{1,253}", "write one, as in www.example.net")
]
HttpHost = Annotated[
    str,
    pattern(
        "a name to be asked by",
        r"\*|(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,9}",
        'write one, as in lb1.example.net, without a port; "*.example.net" for all below it, or "*" for any',
    ),
]
HttpMethod = Annotated[
    str, pattern("an HTTP method", "[A-Z]{1,20}", "write one, as in GET or HEAD", first=str.upper)
]
HttpPath = Annotated[
    str,
    pattern("a path", "/[!-~]{0,2000}", "write one that begins with /, without spaces", first=_rooted),
]
Hops = Annotated[int, whole("a number of hops", 2, 255)]
Interface = Annotated[
    str, pattern("an interface's name", r"(?!\.\.?$)[A-Za-z0-9_.@-]{1,15}", "write one, as in lo or dummy0")
]
# The kernel counts in its own ticks, in 31 bits: with 1,000 of them to a second it refuses more than 24.8 days.
KernelTimeout = Annotated[int, seconds(1, 24 * DAY)]
KeyPrefix = Annotated[
    str,
    pattern("a prefix of keys", r"/[A-Za-z0-9_.-][A-Za-z0-9_./-]{0,200}", "write one, as in /anycast/"),
]
ExtendedCommunity = Annotated[str, _extended_community]
LargeCommunity = Annotated[str, _community(3, 2**32 - 1)]
LeaseTtl = Annotated[float, duration(0.5, 30)]
LocalPreference = Annotated[int, whole("a local preference", 0, 2**32 - 1)]
Lifetime = Annotated[float, duration(0, 3650 * DAY)]
Limit = Annotated[float, Scalar(_limit, _percent.schema, _spell_share)]
Listen = Annotated[str, _listen]
Load = Annotated[float, _decimal("a load", 0, 10000, "write a number above 0, as in 2.5", above=True)]
Mark = Annotated[int, _mark]
Med = Annotated[int, whole("a MED", 0, 2**32 - 1)]
Memory = Annotated[int | Percent, _memory]
MemberWeight = Annotated[int, whole("a weight of a check", 1, 1000)]
Minutes = Annotated[int, _minutes]
Multiplier = Annotated[int, whole("a BFD multiplier", 2, 255)]
# One that is none is told with the check that was probably meant.
CheckName = Annotated[
    str, Scalar(need_text, {"type": "string", "pattern": "^(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,62})$"})
]
Name = Annotated[str, pattern("a name", r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", f"write {NAME_ADVICE}")]
Needed = Annotated[int, whole("a sum of weights", 1, 100_000)]
Network = Annotated[IPv4Network | IPv6Network, _network]
Nodes = Annotated[int, whole("a number of nodes", 1, 63)]
PacketRate = Annotated[int, whole("a number of packets a second", 0, 1_000_000)]
OtherNodes = Annotated[int, whole("a number of nodes", 0, 63)]
Password = Annotated[str, _password]
Pattern = Annotated[str, pattern("a path", r"[!-~][ -~]{0,999}", "write one, as in vips.d/*.yaml")]
Pause = Annotated[float, duration(0, 600)]
NodeWeight = Annotated[int, _node_weight]
Penalty = Annotated[
    float, _decimal("a penalty", 0.1, 1000, "write a number of falls from 0.1 to 1000, as in 1.5")
]
Prepend = Annotated[int, whole("a number of times", 0, 16)]
ViewMark = Annotated[int, whole("a number of a large community", 0, 2**32 - 1)]
Period = Annotated[float, duration(0.01, 3600)]
PERSISTENCE_TIMEOUT = seconds(1, DAY)
PersistenceTimeout = Annotated[int, PERSISTENCE_TIMEOUT]
PoolName = Annotated[
    str,
    pattern("the name of a pool", r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", "write one that stands under pools"),
]
Port = Annotated[int, _port]
PORTS_ALONE = _ports.schema
PortSet = Annotated[Ports, _ports]
PrefixLength4 = Annotated[int, whole("a prefix length", 1, 32)]
PrefixLength6 = Annotated[int, whole("a prefix length", 1, 128)]
QUORUM_NUMBER = _count_or_share(
    "a number of servers", 'write 1 or more, or a share from "1%" to "100%"', 100, "^(100|[1-9][0-9]?)%$"
)
QuorumNumber = Annotated[int | Percent, QUORUM_NUMBER]
Rcode = Annotated[str, choice(["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"])]
Reconcile = Annotated[float, duration(0.1, 3600)]
RecordType = Annotated[str, _record]
OspfTimer = Annotated[int, seconds(1, 65535)]
RouterId = Annotated[IPv4Address, _address(4)]
RouteTable = Annotated[int, _route_table]
Retries = Annotated[int, whole("a number of retries", 0, 10)]
Runs = Annotated[int, whole("a number of runs", 1, 1000)]
RouterSoftware = Annotated[Software, _software]
ServerDrain = Annotated[float, _TO_A_DAY]
ServerName = Annotated[
    str,
    pattern(
        "a server's name",
        r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,9}",
        "write one, as in www.example.net",
    ),
]
ServiceName = Annotated[
    str, pattern("a service's name", r"[A-Za-z0-9_.-]{0,200}", "write one, as in my.package.Service")
]
Share = Annotated[Percent, _percent]
Status = Annotated[frozenset[int], _status]
SocketPath = Annotated[
    str,
    pattern(
        "the path of a socket",
        r"/[A-Za-z0-9_./@:+-]{1,100}",
        "write an absolute path of at most 101 characters, letters, digits and _ . / @ : + - only",
    ),
]
SyncId = Annotated[int, whole("a sync id", 1, 255)]
Text = Annotated[bytes, _text]
TimeToLive = Annotated[int, whole("a TTL", 1, 255)]
TtlSecurity = Annotated[int, _ttl_security]
Url = Annotated[str, _url]
UserName = Annotated[
    str, pattern("a user's name", r"[A-Za-z_][A-Za-z0-9_-]{0,31}", "write one, as in anycast-exabgp")
]
VipPattern = Annotated[
    str,
    pattern(
        "a name of VIPs",
        r"[A-Za-z0-9_.*?\[\]!-]{1,63}",
        'write the name of a VIP, or a glob as in "dns-*"',
    ),
]
Variable = Annotated[
    str, pattern("a variable's name", r"[A-Za-z_][A-Za-z0-9_]{0,99}", "write one, as in PAGER_TOKEN")
]
Version = Annotated[int, _version]
Weight = Annotated[int, whole("a weight", 0, 65535)]
Window = Annotated[float, duration(1, DAY)]
