"""The file format, as pydantic models. Their descriptions are the reference; their JSON Schema is for editors.

Import it lazily: pydantic costs a tenth of a second. Nothing here looks at two values at once; what is
required, and what must fit together, is judged in `build`, so that one mistake hides no other.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic import Tag as UnionTag
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from anycast.config.problem import shown
from anycast.core.hooks import EVENTS
from anycast.core.values.configuration import (
    Forwarding,
    Protocol,
    Scheduler,
    SchedulerFlag,
    TunnelChecksum,
    TunnelType,
)
from anycast.regex import LONGEST, RegexError, compiled

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")
NAME_ADVICE = "letters, digits, _ . and - only, 63 at most, the first a letter or digit"


@dataclass(frozen=True, slots=True)
class Percent:
    """A share of the real servers, 1 to 100."""

    value: int


class Family(StrEnum):
    IPV4 = "ipv4"
    IPV6 = "ipv6"


def wrong(what: str, do: str) -> PydanticCustomError:
    """A complaint about one value: what is wrong, and what to do."""
    return PydanticCustomError("anycast", "{what} ({do})", {"what": what, "do": do})


@dataclass(frozen=True, eq=False)  # hashed by identity: unions of annotated types are hashed
class _Scalar:
    """How one kind of value is read, and how JSON Schema describes it."""

    parse: Callable[[Any], Any]
    schema: Mapping[str, Any]

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(
        self, _core: CoreSchema, _handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return dict(self.schema)


def _whole(noun: str, low: int, high: int) -> _Scalar:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise wrong(f"{shown(value)} is not {noun}", f"write a whole number from {low} to {high}")
        return value

    return _Scalar(parse, {"type": "integer", "minimum": low, "maximum": high})


def _pattern(noun: str, pattern: str, do: str) -> _Scalar:
    compiled = re.compile(rf"(?:{pattern})\Z", re.ASCII)

    def parse(value: Any) -> str:
        if not isinstance(value, str):
            raise wrong(f"{shown(value)} is not {noun}", f"{do}; in quotes, for it must be text")
        if not compiled.match(value):
            raise wrong(f"{shown(value)} is not {noun}", do)
        return value

    return _Scalar(parse, {"type": "string", "pattern": f"^(?:{pattern})$"})


def _choice(words: list[str], make: Callable[[str], Any] = str) -> _Scalar:
    def parse(value: Any) -> Any:
        if not isinstance(value, str) or value not in words:
            raise wrong(
                f"{shown(value)} is not a choice here", f"write {', '.join(words[:-1])} or {words[-1]}"
            )
        return make(value)

    return _Scalar(parse, {"enum": words})


def _hold_time(value: Any) -> int:
    do = "write a whole number of seconds from 3 to 65535"
    if value == 0 and isinstance(value, int) and not isinstance(value, bool):
        raise wrong("with a hold time of 0 a dead node's routes would stay for ever", do)
    if isinstance(value, bool) or not isinstance(value, int) or not 3 <= value <= 65535:
        raise wrong(f"{shown(value)} is not a hold time", do)
    return value


def _flag() -> _Scalar:
    def parse(value: Any) -> bool:
        if not isinstance(value, bool):
            raise wrong(f"{shown(value)} is not a truth value", "write true or false")
        return value

    return _Scalar(parse, {"type": "boolean"})


_DAY = 86400
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": float(_DAY)}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)\Z", re.ASCII)


def _duration(low: float, high: float) -> _Scalar:
    do = f"write a time from {spell_duration(low)} to {spell_duration(high)}, as in 500ms, 2s or 1m"

    def parse(value: Any) -> float:
        seconds = math.nan
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = float(value)
        elif isinstance(value, str) and (match := _DURATION.match(value)):
            seconds = round(float(match[1]) * _UNITS[match[2]], 9)
        if not low <= seconds <= high:
            raise wrong(f"{shown(value)} is not a time that can be used here", do)
        return seconds

    number = {"type": "number", "minimum": low, "maximum": high}
    return _Scalar(parse, {"anyOf": [_DURATION_TEXT, number]})


_DURATION_TEXT = {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h|d)$"}


def spell_duration(seconds: float) -> str:
    """`500ms`, `2s`, `24h`, `14d`: as the configuration writes it."""
    if seconds > _DAY and seconds % _DAY == 0:
        return f"{seconds / _DAY:g}d"
    if seconds and seconds < 1:
        return f"{seconds * 1000:g}ms"
    if seconds > 3600 and seconds % 3600 == 0:
        return f"{seconds / 3600:g}h"
    return f"{seconds:g}s"


def _seconds(low: int, high: int) -> _Scalar:
    """A time the kernel counts in whole seconds."""
    inner = _duration(low, high)

    def parse(value: Any) -> int:
        seconds = float(inner.parse(value))
        if seconds != int(seconds):
            raise wrong(f"{shown(value)} is no whole number of seconds", "write one, as in 30s or 5m")
        return int(seconds)

    return _Scalar(parse, {"anyOf": [_DURATION_TEXT, {"type": "integer", "minimum": low, "maximum": high}]})


def _milliseconds(low: int, high: int) -> _Scalar:
    """A time that is counted in whole milliseconds."""
    inner = _duration(low / 1000, high / 1000)

    def parse(value: Any) -> float:
        seconds = float(inner.parse(value))
        if round(seconds * 1000, 6) % 1:
            raise wrong(f"{shown(value)} is no whole number of milliseconds", "write one, as in 100ms")
        return seconds

    return _Scalar(parse, inner.schema)


def _expiry() -> _Scalar:
    inner = _duration(0, _DAY)

    def parse(value: Any) -> float:
        if value == "never":
            return math.inf
        if isinstance(value, str) and not _DURATION.match(value):
            raise wrong(f"{shown(value)} is not a time", "write one, as in 60s or 5m, or never")
        return float(inner.parse(value))

    return _Scalar(parse, {"anyOf": [{"const": "never"}, *inner.schema["anyOf"]]})


def _address(version: int | None = None) -> _Scalar:
    noun = f"an IPv{version} address" if version else "an IP address"
    example = "as in 2001:db8::1" if version == 6 else "as in 192.0.2.1"

    def parse(value: Any) -> IPv4Address | IPv6Address:
        if not isinstance(value, str):
            raise wrong(f"{shown(value)} is not {noun}", f"write one, {example}")
        if "/" in value:
            raise wrong(f"{shown(value)} is a prefix", "write the address alone, without /length")
        if "%" in value:
            raise wrong(
                f"{shown(value)} names an interface", "write an address that needs none, not fe80::…%eth0"
            )
        try:
            address = ip_address(value)
        except ValueError:
            raise wrong(f"{shown(value)} is not {noun}", f"write one, {example}") from None
        if version and address.version != version:
            raise wrong(f"{address} is not {noun}", f"write one, {example}")
        if address.is_unspecified or address.is_multicast:
            kind = "multicast" if address.is_multicast else "unspecified"
            raise wrong(f"{address} is the {kind} address of no one host", "write a unicast address")
        if isinstance(address, IPv6Address) and address.ipv4_mapped:
            raise wrong(f"{shown(value)} is IPv4 in the shape of IPv6", f"write {address.ipv4_mapped}")
        return address

    text: dict[int | None, dict[str, Any]] = {
        4: {"type": "string", "format": "ipv4"},
        6: {"type": "string", "format": "ipv6"},
    }
    text[None] = {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}
    return _Scalar(parse, text[version])


_HEX = re.compile(r"0x[0-9A-Fa-f]{1,8}\Z", re.ASCII)


def _mark(value: Any) -> int:
    mark = int(value, 16) if isinstance(value, str) and _HEX.match(value) else value
    if isinstance(mark, bool) or not isinstance(mark, int) or not 1 <= mark < 2**32:
        raise wrong(
            f"{shown(value)} is not a firewall mark",
            "write a whole number from 1 to 4294967295, or one as nftables shows it, such as 0x10",
        )
    return mark


def _group(value: Any) -> IPv4Address | IPv6Address:
    do = "write one, as in 224.0.0.81 or ff02::81"
    try:
        address = ip_address(value) if isinstance(value, str) and "%" not in value else None
    except ValueError:
        address = None
    if address is None or not address.is_multicast:
        raise wrong(f"{shown(value)} is not a multicast address", do)
    return address


_WELL_KNOWN = {
    "no-export": "65535:65281",
    "no-advertise": "65535:65282",
    "no-peer": "65535:65284",
    "blackhole": "65535:666",
    "graceful-shutdown": "65535:0",
}


def _community(parts: int, high: int) -> _Scalar:
    shape = ":".join(["N"] * parts)
    do = f"write {shape}, each a number from 0 to {high}"
    pattern = re.compile(":".join([r"([0-9]{1,10})"] * parts) + r"\Z", re.ASCII)

    def parse(value: Any) -> str:
        if isinstance(value, str) and value.lower() in _WELL_KNOWN:
            raise wrong(f"{shown(value)} is not a number", f'write "{_WELL_KNOWN[value.lower()]}"')
        match = pattern.match(value) if isinstance(value, str) else None
        if match is None or any(int(number) > high for number in match.groups()):
            raise wrong(f"{shown(value)} is not a community of {parts} numbers", do)
        return ":".join(str(int(number)) for number in match.groups())

    return _Scalar(parse, {"type": "string", "pattern": "^" + ":".join(["[0-9]{1,10}"] * parts) + "$"})


_PASSWORD = re.compile(r"[!#-&(-:<-\[\]-~]{1,80}\Z")  # ExaBGP's configuration has no way to escape the others


def _password(value: Any) -> str:
    do = "write 1 to 80 printable ASCII characters; no quotes, backslash, semicolon or space"
    if not isinstance(value, str):
        raise wrong("the password is not text", "write it in quotes")
    if not _PASSWORD.match(value):
        raise wrong("the password cannot be used", do)
    return value


_URL_CHARACTERS = re.compile(r"[!-~]{1,2000}\Z")


def _url(value: Any) -> str:
    """The text is never repeated: a URL may be all that keeps strangers out."""
    do = "write https://HOST/PATH"
    if not isinstance(value, str) or not _URL_CHARACTERS.match(value):
        raise wrong("this is not a URL", f"{do}, in printable ASCII without spaces, 2000 characters at most")
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong("this is not a URL", f"{do}; a port is a number, an IPv6 address stands in []") from None
    if parts.scheme not in ("http", "https"):
        raise wrong("the scheme of the URL is neither https nor http", do)
    if parts.username is not None or parts.password is not None:
        raise wrong("the URL holds a user or a password", "remove what is before the @, and use token_file")
    if not host or port == 0:
        raise wrong("the URL names no host and port that can be asked", do)
    if parts.fragment:
        raise wrong("the URL has a part behind #, which is never sent", "remove it")
    return value


_EVENT_KINDS = sorted({name.partition(".")[0] for name in EVENTS})


def _events(value: Any) -> frozenset[str]:
    kind, dot, rest = value.partition(".") if isinstance(value, str) else ("", "", "")
    if value in EVENTS:
        return frozenset({value})
    if dot and rest == "*" and kind in _EVENT_KINDS:
        return frozenset(name for name in EVENTS if name.startswith(f"{kind}."))
    if kind == "hook":
        raise wrong("a hook that is told of hooks would never end", "write another event")
    near = difflib.get_close_matches(value, EVENTS, n=1) if isinstance(value, str) else []
    do = (
        f"did you mean {near[0]}?"
        if near
        else "write one of docs/log-events.md, or all of a kind, as in server.*"
    )
    raise wrong(f"{shown(value)} is not an event", do)


_STATUS_CLASS = re.compile(r"[2-5]xx\Z")


def _status(value: Any) -> frozenset[int]:
    if isinstance(value, str) and _STATUS_CLASS.match(value):
        first = int(value[0]) * 100
        return frozenset(range(first, first + 100))
    if isinstance(value, bool) or not isinstance(value, int) or not 200 <= value <= 599:
        raise wrong(
            f"{shown(value)} is not a final HTTP status", 'write a number from 200 to 599, or "2xx" to "5xx"'
        )
    return frozenset({value})


_PERCENT = re.compile(r"([0-9]{1,3})%\Z", re.ASCII)


def _quorum(value: Any) -> int | Percent:
    match = _PERCENT.match(value) if isinstance(value, str) else None
    if match and 1 <= int(match[1]) <= 100:
        return Percent(int(match[1]))
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong(
            f"{shown(value)} is not a number of servers", 'write 1 or more, or a share from "1%" to "100%"'
        )
    return value


def _is_address(text: str, version: int) -> bool:
    try:
        return ip_address(text).version == version and "%" not in text
    except ValueError:
        return False


def _listen(value: Any) -> str:
    if isinstance(value, str):
        host, _, port = value.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        fits = _is_address(host[1:-1], 6) if bracketed else _is_address(host, 4)
        if fits and re.match(r"[0-9]{1,5}\Z", port, re.ASCII) and 1 <= int(port) <= 65535:
            return value
    raise wrong(f"{shown(value)} is not an address and port", 'write "127.0.0.1:9644" or "[::1]:9644"')


def _expression(value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(f"{shown(value)} is not text", "write the regular expression in quotes")
    try:
        compiled(value)
    except RegexError as error:
        raise wrong(error.what, error.do) from None
    return value


def _header_value(value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(f"{shown(value)} is not text", "write it in quotes")
    if not re.fullmatch(r"[!-~]([ -~]{0,1998}[!-~])?|", value):
        do = "write printable ASCII on one line, without blanks at its ends"
        raise wrong("a header cannot have this value", do)
    return value


def _text(value: Any) -> bytes:
    if not isinstance(value, str):
        raise wrong(f"{shown(value)} is not text", "write it in quotes")
    data = value.encode("utf-8", "surrogatepass")
    if len(data) > _PAYLOAD:
        raise wrong(f"a text of {len(data)} bytes is too long", f"write at most {_PAYLOAD} bytes")
    return data


_PAYLOAD = 4096  # bytes


def _hex(value: Any) -> bytes:
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else None
    except ValueError:
        data = None
    if data is None or not 1 <= len(data) <= _PAYLOAD:
        do = 'write pairs of digits in quotes, as in "00ff", for 1 to 4096 bytes'
        raise wrong(f"{shown(value)} is not hexadecimal", do)
    return data


def _domain(value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(f"{shown(value)} is not text", "write it in quotes")
    _need_dns()
    from dns.exception import DNSException
    from dns.name import from_text

    try:
        return str(from_text(value))
    except (DNSException, UnicodeError) as error:
        what = f"{shown(value)} is not a domain name: {error}"
        raise wrong(what, "write one, as in www.example.net") from None


def _record(value: Any) -> str:
    _need_dns()
    from dns.exception import DNSException
    from dns.rdatatype import from_text, is_metatype, to_text

    try:
        number = from_text(value) if isinstance(value, str) else None
    except (DNSException, ValueError):
        number = None
    if number is None or is_metatype(number):
        raise wrong(f"{shown(value)} is not a record type", "write one, as in A, AAAA, MX, SOA or TXT")
    return str(to_text(number))


def _need_dns() -> None:
    try:
        import dns.name  # noqa: F401
    except ImportError:
        raise wrong(
            "a dns check needs dnspython, which is not installed", "pip install 'anycast[dns]'"
        ) from None


_RCODES = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"]


def _load(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 10000:
        raise wrong(f"{shown(value)} is not a load", "write a number above 0, as in 2.5")
    return float(value)


def _penalty(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.1 <= value <= 1000:
        raise wrong(f"{shown(value)} is not a penalty", "write a number of falls from 0.1 to 1000, as in 1.5")
    return float(value)


def _minutes(value: Any) -> int:
    if isinstance(value, bool) or value not in (1, 5, 15):
        raise wrong(f"{shown(value)} is not a time the kernel averages over", "write 1, 5 or 15")
    return int(value)


_SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE = re.compile(r"([0-9]{1,9})(KiB|MiB|GiB|%)\Z", re.ASCII)
_SIZE_PATTERN = "^[0-9]{1,9}(KiB|MiB|GiB|%)$"


def _memory(value: Any) -> int | Percent:
    match = _SIZE.match(value) if isinstance(value, str) else None
    if match and match[2] == "%" and 1 <= int(match[1]) <= 99:
        return Percent(int(match[1]))
    if match and match[2] in _SIZES:
        return int(match[1]) * _SIZES[match[2]]
    raise wrong(f"{shown(value)} is not an amount of memory", 'write it as in 256MiB, 1GiB or "5%"')


_FILL = re.compile(r"([0-9]{1,6})%\Z", re.ASCII)
_FILL_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9]{1,6}%$"}]}


def _fill(value: Any) -> int | Percent:
    match = _FILL.match(value) if isinstance(value, str) else None
    if match and int(match[1]) > 0:
        return Percent(int(match[1]))
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        do = 'write 1 or more, or a share of the rows of the table, as in "200%"'
        raise wrong(f"{shown(value)} is not a number of connections", do)
    return value


def _argument(value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(f"{shown(value)} is not text", "write it in quotes")
    if not value.isprintable():
        raise wrong(
            "an argument holds a character that cannot be printed", "remove it, or put it into a script"
        )
    return value


def _version(value: Any) -> int:
    if isinstance(value, bool) or value != 1 or not isinstance(value, int):
        raise wrong(
            f"{shown(value)} is not a version of the format this program reads", "write 1, or remove the line"
        )
    return 1


AsNumber = Annotated[int, _whole("an AS number", 1, 2**32 - 1)]
Port = Annotated[int, _whole("a port", 1, 65535)]
Weight = Annotated[int, _whole("a weight", 0, 65535)]
Mark = Annotated[
    int,
    _Scalar(
        _mark,
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 2**32 - 1},
                {"type": "string", "pattern": "^0x[0-9A-Fa-f]{1,8}$"},
            ]
        },
    ),
]
Connections = Annotated[int, _whole("a number of connections", 0, 2**32 - 1)]
Count = Annotated[int, _whole("a number of outcomes", 1, 1000)]
PacketRate = Annotated[int, _whole("a number of packets a second", 0, 1_000_000)]
Address = Annotated[IPv4Address | IPv6Address, _address()]
Group = Annotated[
    IPv4Address | IPv6Address,
    _Scalar(_group, {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
]
Address4 = Annotated[IPv4Address, _address(4)]
Address6 = Annotated[IPv6Address, _address(6)]
Flag = Annotated[bool, _flag()]
Name = Annotated[str, _pattern("a name", r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", f"write {NAME_ADVICE}")]
Interface = Annotated[
    str, _pattern("an interface's name", r"(?!\.\.?$)[A-Za-z0-9_.@-]{1,15}", "write one, as in lo or dummy0")
]
# It is written into ExaBGP's configuration, and a socket's path holds 107 characters.
Directory = Annotated[
    str,
    _pattern(
        "a directory that can be used",
        r"/[A-Za-z0-9_./@:+-]{0,89}",
        "write an absolute path of at most 90 characters, letters, digits and _ . / @ : + - only",
    ),
]
UserName = Annotated[
    str, _pattern("a user's name", r"[A-Za-z_][A-Za-z0-9_-]{0,31}", "write one, as in anycast-exabgp")
]
Listen = Annotated[
    str, _Scalar(_listen, {"type": "string", "pattern": r"^([0-9.]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$"})
]
Community = Annotated[str, _community(2, 65535)]
LargeCommunity = Annotated[str, _community(3, 2**32 - 1)]
Password = Annotated[
    str, _Scalar(_password, {"type": "string", "pattern": r"^[!#-&(-:<-\[\]-~]{1,80}$", "writeOnly": True})
]
Url = Annotated[
    str,
    _Scalar(_url, {"type": "string", "pattern": "^https?://[!-~]+$", "maxLength": 2000, "writeOnly": True}),
]
Events = Annotated[
    frozenset[str],
    _Scalar(_events, {"enum": [*sorted(EVENTS), *(f"{kind}.*" for kind in _EVENT_KINDS)]}),
]
Variable = Annotated[
    str, _pattern("a variable's name", r"[A-Za-z_][A-Za-z0-9_]{0,99}", "write one, as in PAGER_TOKEN")
]
Retries = Annotated[int, _whole("a number of retries", 0, 10)]
Runs = Annotated[int, _whole("a number of runs", 1, 1000)]
HookTimeout = Annotated[float, _duration(0.1, 300)]
HookPeriod = Annotated[float, _duration(1, 3600)]
Status = Annotated[
    frozenset[int],
    _Scalar(
        _status,
        {
            "anyOf": [
                {"type": "integer", "minimum": 200, "maximum": 599},
                {"enum": ["2xx", "3xx", "4xx", "5xx"]},
            ]
        },
    ),
]
QuorumNumber = Annotated[
    int | Percent,
    _Scalar(
        _quorum,
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^(100|[1-9][0-9]?)%$"}]},
    ),
]
Expression = Annotated[str, _Scalar(_expression, {"type": "string", "maxLength": LONGEST})]
HeaderName = Annotated[
    str, _pattern("a header's name", r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", "write one, as in X-Check")
]
HeaderValue = Annotated[
    str, _Scalar(_header_value, {"type": "string", "pattern": "^([!-~]([ -~]{0,1998}[!-~])?)?$"})
]
FileName = Annotated[
    str,
    _pattern("a file's absolute path", r"/[!-~][ -~]{0,1000}|/", "write one, as in /etc/anycast/client.pem"),
]
ServerName = Annotated[
    str,
    _pattern(
        "a server's name",
        r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,9}",
        "write one, as in www.example.net",
    ),
]
Text = Annotated[bytes, _Scalar(_text, {"type": "string", "maxLength": _PAYLOAD})]
Hex = Annotated[bytes, _Scalar(_hex, {"type": "string", "pattern": "^([0-9A-Fa-f]{2} *)+$"})]
Argument = Annotated[str, _Scalar(_argument, {"type": "string"})]
Lifetime = Annotated[float, _duration(0, 3650 * 86400)]
BfdInterval = Annotated[float, _milliseconds(50, 60000)]
Period = Annotated[float, _duration(0.01, 3600)]
Pause = Annotated[float, _duration(0, 600)]
Hold = Annotated[float, _duration(0.01, _DAY)]
LeaseTtl = Annotated[float, _duration(0.5, 30)]
Reconcile = Annotated[float, _duration(0.1, 3600)]
ServerDrain = Annotated[float, _duration(0, _DAY)]
Expiry = Annotated[float, _expiry()]
PersistenceTimeout = Annotated[int, _seconds(1, _DAY)]
# The kernel counts in its own ticks, in 31 bits: with 1,000 of them to a second it refuses more than 24.8 days.
KernelTimeout = Annotated[int, _seconds(1, 24 * _DAY)]


def _required(*names: str) -> dict[str, Any]:
    return {"required": list(names)}


class Part(BaseModel):
    """A mapping of the file. Every field may be missing here: `build` says which may not."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _has_a_value(cls, value: Any) -> Any:
        if value is None:
            raise wrong("there is no value", "give one, or remove the line")
        return value


def _or_text(schema: Mapping[str, Any]) -> Any:
    """Annotation: JSON Schema lets the mapping also be the text `schema` describes."""

    class _OrText:
        def __get_pydantic_json_schema__(
            self, core: CoreSchema, handler: GetJsonSchemaHandler
        ) -> JsonSchemaValue:
            return {"anyOf": [dict(schema), handler(core)]}

    return _OrText()


class Node(Part):
    """This machine."""

    name: Name | None = Field(
        default=None, description="How this node is called. Default: the short host name."
    )
    interface: Interface = Field(default="lo", description="The interface that carries the VIP addresses.")
    runtime_dir: Directory = Field(
        default="/run/anycast",
        description="Where the sockets and the plugin's journal lie. Emptied by a reboot.",
    )
    state_dir: Directory = Field(
        default="/var/lib/anycast", description="What survives a reboot: maintenance that somebody began."
    )
    exabgp_user: UserName = Field(
        default="anycast-exabgp", description="The user ExaBGP and its process run as."
    )
    listen: Listen = Field(
        default="127.0.0.1:9644",
        description="Address and port of the status page, the metrics and the health endpoints. Read-only.",
    )
    require: Require = Field(
        default=[], description="Checks that must hold for any VIP to be announced: names, or checks."
    )


class Timing(Part):
    """How long things may take. A time is written `500ms`, `2s`, `1m`, or as a number of seconds."""

    lease_ttl: LeaseTtl = Field(
        default=2.0,
        json_schema_extra={"default": "2s"},
        description="How long the node's routes outlive a dead or hung agent. 500ms to 30s.",
    )
    drain: Pause = Field(
        default=2.0,
        json_schema_extra={"default": "2s"},
        description="How long a route that is to go is announced with GRACEFUL_SHUTDOWN before it is withdrawn.",
    )
    settle: Pause = Field(
        default=1.0,
        json_schema_extra={"default": "1s"},
        description="How long routers have to follow a withdraw: until then maintenance does not go on, and a VIP "
        "that is no longer configured stays in the kernel, for packets under way.",
    )
    quiet_rate: PacketRate = Field(
        default=1,
        description="Maintenance is `down` once the VIPs take in no more packets a second than this. 0 to 1000000.",
    )
    quiet_limit: Pause = Field(
        default=30.0,
        json_schema_extra={"default": "30s"},
        description="How long maintenance waits for that, before it is `down` all the same. 0 to 10m.",
    )
    reconcile: Reconcile = Field(
        default=5.0,
        json_schema_extra={"default": "5s"},
        description="How often the kernel is read back and repaired when nothing else happens.",
    )
    server_drain: ServerDrain = Field(
        default=60.0,
        json_schema_extra={"default": "60s"},
        description="How long a real server that was taken out of the configuration keeps the connections it has. "
        "It gets no new ones, and goes earlier when the last has ended. 0 to 24h.",
    )
    start_hold: Pause = Field(
        default=0.0,
        json_schema_extra={"default": "0s"},
        description="How long after the agent's start a VIP's kernel, servers and checks must be as they should be, "
        "without a break, before it is announced. Together with the start it should stay below `lease_ttl`, or every "
        "restart withdraws. After the second crash within 10 minutes it is 2s or twice this, and doubles with each. "
        "0 to 10m.",
    )
    start_hold_limit: Pause = Field(
        default=60.0,
        json_schema_extra={"default": "1m"},
        description="How long crashes make that at the most; 0: they do not. 0 to 10m.",
    )


class Timeouts(Part):
    """How long after its last packet IPVS forgets a connection. Whole seconds, 1s to 576h (24 days).

    Without this section the kernel's timeouts are left as they are. With it all three are set, for every IPVS
    service of the machine.
    """

    tcp: KernelTimeout = Field(
        default=900,
        json_schema_extra={"default": "15m"},
        description="An established TCP connection. Should exceed the keepalive interval of clients and servers: "
        "a connection that was forgotten is scheduled anew with its next packet.",
    )
    tcp_fin: KernelTimeout = Field(
        default=120, json_schema_extra={"default": "2m"}, description="A TCP connection after a FIN."
    )
    udp: KernelTimeout = Field(
        default=300,
        json_schema_extra={"default": "5m"},
        description="UDP packets between the same addresses and ports, where `one_packet` is false.",
    )


class ConnectionSync(Part):
    """The kernel's own exchange of connections between the balancers, by multicast, without authentication.

    Not needed with `scheduler: mh`, where every balancer chooses alike. It carries a connection through what
    changes the choice: another scheduler, persistence, a change of servers or weights. New connections arrive at
    the others with a delay, so a connection that moves in its first moments is still lost. Excludes real servers of
    the other address family (`forwarding: tunnel`).
    """

    model_config = ConfigDict(json_schema_extra=_required("interface"))

    interface: Interface | None = Field(
        default=None, description="The interface it is sent and received on: a network of the balancers' own."
    )
    id: Annotated[int, _whole("a sync id", 1, 255)] = Field(
        default=1, description="Balancers of one fleet share it; what comes with another one is ignored."
    )
    group: Group = Field(
        default=IPv4Address("224.0.0.81"),
        json_schema_extra={"default": "224.0.0.81"},
        description="The multicast group, IPv4 or IPv6.",
    )
    port: Port = Field(default=8848, description="The UDP port.")
    ttl: Annotated[int, _whole("a TTL", 1, 255)] = Field(
        default=1, description="Time to live of the messages; 1 keeps them on the link."
    )


class NextHop(Part):
    """Next hops of the announced routes. Needed where a session carries the other address family."""

    ipv4: Address4 | None = Field(
        default=None, description="Next hop of IPv4 VIPs. Default: the session's local address."
    )
    ipv6: Address6 | None = Field(
        default=None, description="Next hop of IPv6 VIPs. Default: the session's local address."
    )


class Bfd(Part):
    """Bidirectional forwarding detection: a dead node is noticed in a fraction of a second. true alone will do.

    ExaBGP has none: FRR's bfdd runs beside it (`anycast render frr-bfd`), and the routers need it too
    (`anycast render router-frr`). For routers on the node's own links.
    """

    interval: BfdInterval | None = Field(
        default=None,
        json_schema_extra={"default": "100ms"},
        description="How often each end sends a packet. Whole milliseconds, 50ms to 60s. Default: 100ms; of a "
        "neighbor: that of `bgp.bfd`.",
    )
    multiplier: Annotated[int, _whole("a BFD multiplier", 2, 255)] | None = Field(
        default=None,
        json_schema_extra={"default": 3},
        description="So many packets lost in a row, and the other end counts as dead. Default: 3; of a neighbor: "
        "that of `bgp.bfd`.",
    )

    enabled: Flag = Field(default=True, description="false: none. `false` alone says the same.")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {"enabled": value}
        if not isinstance(value, dict):
            do = "write true, false, or a mapping such as {interval: 100ms, multiplier: 3}"
            raise wrong(f"{shown(value)} is not a way to speak BFD", do)
        return value


BfdOption = Annotated[Bfd, _or_text({"type": "boolean"})]


class Neighbor(Part):
    """A BGP router this node announces to."""

    model_config = ConfigDict(json_schema_extra=_required("address", "remote_as"))

    address: Address | None = Field(
        default=None, description="The router's address. Its family is the session's."
    )
    remote_as: AsNumber | None = Field(default=None, description="The router's AS number.")
    local_address: Address | None = Field(
        default=None,
        description="This node's address in the session. Default with IPv4: `bgp.router_id`. Required with IPv6.",
    )
    families: list[Annotated[Family, _choice(list(Family), Family)]] | None = Field(
        default=None,
        description="Families of the routes carried. Default: the session's own. The other one needs `bgp.next_hop`.",
    )
    password: Password | None = Field(
        default=None,
        description="TCP MD5 password. Printable ASCII, no quotes, backslash, semicolon or space.",
    )
    passive: Flag = Field(default=False, description="true: wait for the router to connect.")
    bfd: BfdOption | None = Field(
        default=None,
        description="BFD with this neighbor: true, false, or settings of its own. Default: as `bgp.bfd`.",
    )


class Bgp(Part):
    """The BGP side, which ExaBGP speaks."""

    model_config = ConfigDict(json_schema_extra=_required("local_as", "neighbors"))

    local_as: AsNumber | None = Field(default=None, description="This node's AS number.")
    router_id: Address4 | None = Field(
        default=None, description="Default: the first IPv4 `local_address` of a neighbor."
    )
    hold_time: Annotated[int, _Scalar(_hold_time, {"type": "integer", "minimum": 3, "maximum": 65535})] = (
        Field(
            default=9,
            description="Seconds without a word after which a router drops the routes of a dead node. Not 0: the "
            "routes would outlive the node.",
        )
    )
    bfd: BfdOption | None = Field(
        default=None, description="BFD with every neighbor that does not say otherwise. Default: none."
    )
    next_hop: NextHop = Field(default=NextHop(), description="Next hops, where `self` does not serve.")
    neighbors: list[Neighbor] | None = Field(default=None, description="The routers.")


Penalty = Annotated[float, _Scalar(_penalty, {"type": "number", "minimum": 0.1, "maximum": 1000})]


class HoldDown(Part):
    """What flaps is held down, in the words of RFC 2439. Each fall adds a penalty of 1, which decays."""

    half_life: Period = Field(
        default=60.0,
        json_schema_extra={"default": "60s"},
        description="In which a penalty decays to half of it.",
    )
    suppress: Penalty = Field(default=3.0, description="At this penalty it is held down when it falls.")
    reuse: Penalty = Field(default=1.5, description="Until the penalty has decayed to this one.")
    max_hold: Hold | None = Field(
        default=None, description="The longest it is held down. Default: four half-lives."
    )


class _Check(Part):
    interval: Period = Field(
        default=2.0, json_schema_extra={"default": "2s"}, description="From one probe's start to the next."
    )
    fast_interval: Period | None = Field(
        default=None,
        description="The interval while the state is changing. Default: 500ms, or `interval` if that is shorter.",
    )
    timeout: Period = Field(
        default=1.0, json_schema_extra={"default": "1s"}, description="A slower answer is a failure."
    )
    rise: Count = Field(default=2, description="Successes in a row that make a real server usable.")
    fall: Count = Field(default=3, description="Failures in a row that make it unusable.")
    hold_down: HoldDown | None = Field(
        default=None, description="Hold down what flaps. Default: it comes up as soon as it has risen."
    )


class Aimed(_Check):
    address: Address | None = Field(default=None, description="Default: the real server's address.")
    port: Port | None = Field(default=None, description="Default: the port the real server is served on.")


class _TlsFields(Part):
    verify: Flag = Field(
        default=True,
        description="false: any certificate will do. Otherwise it must be valid for the server name.",
    )
    sni: ServerName | None = Field(default=None, description="TLS server name. Default: the address.")
    ca: FileName | None = Field(
        default=None, description="PEM file with the certificates to trust. Default: the system's."
    )
    certificate: FileName | None = Field(
        default=None, description="PEM file with the client's certificate. Read again when it was replaced."
    )
    key: FileName | None = Field(
        default=None, description="PEM file with its key, without a password. Default: in `certificate`."
    )
    expiry_warning: Lifetime | None = Field(
        default=None,
        description="Warn when the server's certificate is good for less than this, as in 14d. The check still succeeds.",
    )


class Tls(_TlsFields):
    """How TLS is spoken. `true` alone will do."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if value is True:
            return {}
        if not isinstance(value, dict):
            raise wrong(
                f"{shown(value)} is not a way to speak TLS", "write true, or a mapping, or remove the line"
            )
        return value


TlsOption = Annotated[Tls, _or_text({"const": True})]


class TcpCheck(Aimed):
    """A completed TCP handshake is success."""

    type: Literal["tcp"]
    to: Annotated[str, _choice(["server", "vip"])] = Field(
        default="server",
        description="vip: the handshake is with the VIP's address at the real server, as IPVS sends it there with "
        "forwarding: dr. It proves that the real server holds the VIP and listens on it. Needs CAP_NET_RAW.",
    )


class HttpCheck(Aimed):
    """One HTTP/1.1 request; a status that is expected is success."""

    type: Literal["http"]
    method: Annotated[str, _pattern("an HTTP method", "[A-Z]{1,20}", "write one, as in GET or HEAD")] = Field(
        default="GET", description="The request's method."
    )
    path: Annotated[
        str, _pattern("a path", "/[!-~]{0,2000}", "write one that begins with /, without spaces")
    ] = Field(default="/", description="The request's path, with a query if one is needed.")
    host: (
        Annotated[
            str, _pattern("a host name", r"[A-Za-z0-9._:\[\]-]{1,253}", "write one, as in www.example.net")
        ]
        | None
    ) = Field(
        default=None, description="Host header and TLS server name. Default: the real server's address."
    )
    headers: dict[HeaderName, HeaderValue] = Field(
        default={}, description="More headers. Not told in logs and differences: they may hold secrets."
    )
    expect: list[Status] | None = Field(
        default=None, description='Statuses that are success. Default: ["2xx"].'
    )
    body: Expression | None = Field(
        default=None,
        description="Regular expression (RE2) to be found in the first 64 KiB of the body. Default: the body is not "
        "waited for.",
    )
    keep_alive: Flag = Field(
        default=False,
        description="true: one connection serves one run after another, for a minute at most. Cheaper for both ends; a "
        "fresh connection also proves that the server still accepts one.",
    )


class HttpsCheck(HttpCheck, _TlsFields):
    """As http, over TLS."""

    type: Literal["https"]  # type: ignore[assignment]
    sni: ServerName | None = Field(default=None, description="TLS server name. Default: `host`.")


class UdpCheck(Aimed):
    """One datagram. The expected reply is success; where none is expected, no ICMP unreachable is."""

    type: Literal["udp"]
    send: Text | None = Field(default=None, description="What is sent. Default: an empty datagram.")
    send_hex: Hex | None = Field(default=None, description="The same in hexadecimal.")
    expect: Expression | None = Field(
        default=None, description="Regular expression (RE2) to be found in the reply."
    )
    expect_hex: Hex | None = Field(default=None, description="How the reply must begin, in hexadecimal.")
    quiet: Period | None = Field(
        default=None,
        description="With no reply expected: how long an ICMP unreachable is waited for. Default: 200ms, or half of "
        "`timeout` if that is shorter.",
    )


class BannerStep(Part):
    """A line to expect, or a text to send."""

    expect: Expression | None = Field(
        default=None, description="Regular expression (RE2) of a line. Lines before it are passed over."
    )
    send: Text | None = Field(
        default=None, description="Text to send. A line end (CR LF) is added where none is written."
    )


class BannerCheck(Aimed):
    """A dialogue of lines, as SMTP or IMAP speak. Success is its end."""

    model_config = ConfigDict(json_schema_extra=_required("type", "steps"))

    type: Literal["banner"]
    tls: TlsOption | None = Field(default=None, description="Speak TLS. Default: plain.")
    steps: list[BannerStep] | None = Field(default=None, description="The dialogue, one step after another.")


class SyslogCheck(Aimed):
    """Over TCP: a connection is opened and closed, without a message. Over UDP: a message is sent and looked for."""

    type: Literal["syslog"]
    transport: Annotated[str, _choice(["tcp", "udp"])] = Field(
        default="tcp", description="udp needs proof_port or proof_file, and writes a log line with every run."
    )
    tls: TlsOption | None = Field(default=None, description="Speak TLS. Default: plain.")
    proof_port: Port | None = Field(
        default=None, description="TCP port of the real server that sends the messages it gets."
    )
    proof_file: FileName | None = Field(
        default=None, description="File of this node to which the message finds its way."
    )


class RelpCheck(Aimed):
    """A RELP session is opened and closed, without a message."""

    type: Literal["relp"]
    tls: TlsOption | None = Field(default=None, description="Speak TLS. Default: plain.")


class DnsCheck(Aimed):
    """One question to the server itself."""

    model_config = ConfigDict(json_schema_extra=_required("type", "name"))

    type: Literal["dns"]
    name: Annotated[str, _Scalar(_domain, {"type": "string", "maxLength": 255})] | None = Field(
        default=None, description="The name that is asked for."
    )
    record: Annotated[str, _Scalar(_record, {"type": "string", "pattern": "^[A-Z0-9]{1,12}$"})] = Field(
        default="A", description="The record type, as in A, AAAA, MX, SOA or TXT."
    )
    rcode: Annotated[str, _choice(_RCODES)] = Field(default="NOERROR", description="The expected rcode.")
    answer: list[Argument] = Field(
        default=[],
        description="Records that must be in the answer, as a zone file writes them. Default: the rcode alone decides.",
    )
    transport: Annotated[str, _choice(["udp", "tcp"])] = Field(default="udp", description="How it is asked.")


class GrpcCheck(Aimed):
    """The standard gRPC health service (grpc.health.v1). SERVING is success."""

    type: Literal["grpc"]
    service: Annotated[
        str, _pattern("a service's name", r"[A-Za-z0-9_.-]{0,200}", "write one, as in my.package.Service")
    ] = Field(default="", description="The service asked about. Default: the server as a whole.")
    authority: ServerName | None = Field(
        default=None, description="The :authority, and the TLS server name. Default: address and port."
    )
    tls: TlsOption | None = Field(default=None, description="Speak TLS. Default: plain HTTP/2.")


class IcmpCheck(_Check):
    """An echo that comes back is success."""

    type: Literal["icmp"]
    address: Address | None = Field(default=None, description="Default: the real server's address.")


class CommandCheck(_Check):
    """A program that exits with 0 is success. It finds ANYCAST_ADDRESS and ANYCAST_PORT in its environment."""

    model_config = ConfigDict(json_schema_extra=_required("type", "argv"))

    type: Literal["command"]
    argv: list[Argument] | None = Field(
        default=None, description="The program, by its absolute path, and its arguments. There is no shell."
    )


class CarrierCheck(_Check):
    """An interface of this node that is up and has a link."""

    model_config = ConfigDict(json_schema_extra=_required("type", "interface"))

    type: Literal["carrier"]
    interface: Interface | None = Field(default=None, description="The interface.")


class GatewayCheck(_Check):
    """The next hop of this node."""

    type: Literal["gateway"]
    address: Address | None = Field(default=None, description="Default: the default route's next hop.")
    family: Annotated[Family, _choice(list(Family), Family)] = Field(
        default=Family.IPV4, description="Of the default route, where there is no `address`."
    )
    by: Annotated[str, _choice(["ping", "neighbor"])] = Field(
        default="ping",
        description="neighbor: its entry in the neighbor table must be alive. For gateways that answer no echo; a dead "
        "one is found out some seconds later.",
    )
    interface: Interface | None = Field(default=None, description="Where `address` is, with `by: neighbor`.")


class LoadCheck(_Check):
    """The load average per processor."""

    model_config = ConfigDict(json_schema_extra=_required("type", "max"))

    type: Literal["load"]
    max: (
        Annotated[float, _Scalar(_load, {"type": "number", "exclusiveMinimum": 0, "maximum": 10000})] | None
    ) = Field(default=None, description="As much is fine, per processor.")
    minutes: Annotated[int, _Scalar(_minutes, {"enum": [1, 5, 15]})] = Field(
        default=1, description="Averaged over 1, 5 or 15 minutes."
    )


class MemoryCheck(_Check):
    """The memory that is available."""

    model_config = ConfigDict(json_schema_extra=_required("type", "min_free"))

    type: Literal["memory"]
    min_free: (
        Annotated[int | Percent, _Scalar(_memory, {"type": "string", "pattern": _SIZE_PATTERN})] | None
    ) = Field(default=None, description="So much is needed, as in 256MiB, 1GiB or 5%.")


class FileCheck(_Check):
    """A path of this node that is there, or is not."""

    model_config = ConfigDict(json_schema_extra=_required("type", "path"))

    type: Literal["file"]
    path: FileName | None = Field(default=None, description="The path.")
    present: Flag = Field(default=True, description="false: it must not be there.")


class BgpCheck(Part):
    """A BGP session of this node that is established, as ExaBGP tells it. There is nothing to probe."""

    type: Literal["bgp"]
    neighbor: Address | None = Field(default=None, description="The router's address. Default: any one.")


class IpvsConnectionsCheck(_Check):
    """How full IPVS's table of connections is."""

    model_config = ConfigDict(json_schema_extra=_required("type", "max"))

    type: Literal["ipvs_connections"]
    max: Annotated[int | Percent, _Scalar(_fill, _FILL_SCHEMA)] | None = Field(
        default=None,
        description="So many connections are fine, or so many for each hundred rows of the table, as in 200%.",
    )


class Member(Part):
    """A check with a weight."""

    model_config = ConfigDict(json_schema_extra=_required("check"))

    check: CheckReference | None = Field(default=None, description="A name from `checks`, or a check.")
    weight: Annotated[int, _whole("a weight of a check", 1, 1000)] = Field(
        default=1, description="What it counts for."
    )


class AllCheck(Part):
    """Holds while every one of several checks does."""

    model_config = ConfigDict(json_schema_extra=_required("type", "of"))

    type: Literal["all"]
    of: list[CheckReference] | None = Field(default=None, description="Names from `checks`, or checks.")


class AnyCheck(Part):
    """Holds while at least one of several checks does."""

    model_config = ConfigDict(json_schema_extra=_required("type", "of"))

    type: Literal["any"]
    of: list[CheckReference] | None = Field(default=None, description="Names from `checks`, or checks.")


class AtLeastCheck(Part):
    """Holds while the weights of the checks that hold come to `needed`."""

    model_config = ConfigDict(json_schema_extra=_required("type", "needed", "of"))

    type: Literal["at_least"]
    needed: Annotated[int, _whole("a sum of weights", 1, 100_000)] | None = Field(
        default=None, description="So much is needed. A check without a weight counts for 1."
    )
    of: list[OfMember] | None = Field(
        default=None, description="Names from `checks`, checks, or mappings with `check` and `weight`."
    )


CHECKS: Mapping[str, type[Part]] = {
    "tcp": TcpCheck,
    "http": HttpCheck,
    "https": HttpsCheck,
    "udp": UdpCheck,
    "banner": BannerCheck,
    "syslog": SyslogCheck,
    "relp": RelpCheck,
    "dns": DnsCheck,
    "grpc": GrpcCheck,
    "icmp": IcmpCheck,
    "command": CommandCheck,
    "carrier": CarrierCheck,
    "gateway": GatewayCheck,
    "load": LoadCheck,
    "memory": MemoryCheck,
    "file": FileCheck,
    "bgp": BgpCheck,
    "ipvs_connections": IpvsConnectionsCheck,
    "all": AllCheck,
    "any": AnyCheck,
    "at_least": AtLeastCheck,
}
CHECK_TYPES = f"{', '.join([*CHECKS][:-1])} or {[*CHECKS][-1]}"
NO_CHECK = f"this is no check of a known type (write a mapping with type: {CHECK_TYPES})"
NO_REFERENCE = (
    "this is neither a check's name nor a check of a known type (write a name, or a mapping with type)"
)


def _form_of_check(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"({kind})" if isinstance(kind, str) and kind in CHECKS else None


def _form_of_member(value: Any) -> str | None:
    if (isinstance(value, dict) and "check" in value) or isinstance(value, Member):
        return "(member)"
    return _form_of_reference(value)


def _form_of_reference(value: Any) -> str | None:
    return "(name)" if isinstance(value, str) else _form_of_check(value)


Check = Annotated[
    Annotated[TcpCheck, UnionTag("(tcp)")]
    | Annotated[HttpCheck, UnionTag("(http)")]
    | Annotated[HttpsCheck, UnionTag("(https)")]
    | Annotated[UdpCheck, UnionTag("(udp)")]
    | Annotated[BannerCheck, UnionTag("(banner)")]
    | Annotated[SyslogCheck, UnionTag("(syslog)")]
    | Annotated[RelpCheck, UnionTag("(relp)")]
    | Annotated[DnsCheck, UnionTag("(dns)")]
    | Annotated[GrpcCheck, UnionTag("(grpc)")]
    | Annotated[IcmpCheck, UnionTag("(icmp)")]
    | Annotated[CommandCheck, UnionTag("(command)")]
    | Annotated[CarrierCheck, UnionTag("(carrier)")]
    | Annotated[GatewayCheck, UnionTag("(gateway)")]
    | Annotated[LoadCheck, UnionTag("(load)")]
    | Annotated[MemoryCheck, UnionTag("(memory)")]
    | Annotated[FileCheck, UnionTag("(file)")]
    | Annotated[BgpCheck, UnionTag("(bgp)")]
    | Annotated[IpvsConnectionsCheck, UnionTag("(ipvs_connections)")]
    | Annotated[AllCheck, UnionTag("(all)")]
    | Annotated[AnyCheck, UnionTag("(any)")]
    | Annotated[AtLeastCheck, UnionTag("(at_least)")],
    Discriminator(_form_of_check, custom_error_type="no_check", custom_error_message=NO_CHECK),
]
CheckReference = Annotated[
    Annotated[Name, UnionTag("(name)")]
    | Annotated[TcpCheck, UnionTag("(tcp)")]
    | Annotated[HttpCheck, UnionTag("(http)")]
    | Annotated[HttpsCheck, UnionTag("(https)")]
    | Annotated[UdpCheck, UnionTag("(udp)")]
    | Annotated[BannerCheck, UnionTag("(banner)")]
    | Annotated[SyslogCheck, UnionTag("(syslog)")]
    | Annotated[RelpCheck, UnionTag("(relp)")]
    | Annotated[DnsCheck, UnionTag("(dns)")]
    | Annotated[GrpcCheck, UnionTag("(grpc)")]
    | Annotated[IcmpCheck, UnionTag("(icmp)")]
    | Annotated[CommandCheck, UnionTag("(command)")]
    | Annotated[CarrierCheck, UnionTag("(carrier)")]
    | Annotated[GatewayCheck, UnionTag("(gateway)")]
    | Annotated[LoadCheck, UnionTag("(load)")]
    | Annotated[MemoryCheck, UnionTag("(memory)")]
    | Annotated[FileCheck, UnionTag("(file)")]
    | Annotated[BgpCheck, UnionTag("(bgp)")]
    | Annotated[IpvsConnectionsCheck, UnionTag("(ipvs_connections)")]
    | Annotated[AllCheck, UnionTag("(all)")]
    | Annotated[AnyCheck, UnionTag("(any)")]
    | Annotated[AtLeastCheck, UnionTag("(at_least)")],
    Discriminator(_form_of_reference, custom_error_type="no_check", custom_error_message=NO_REFERENCE),
]
OfMember = Annotated[
    Annotated[Name, UnionTag("(name)")]
    | Annotated[Member, UnionTag("(member)")]
    | Annotated[TcpCheck, UnionTag("(tcp)")]
    | Annotated[HttpCheck, UnionTag("(http)")]
    | Annotated[HttpsCheck, UnionTag("(https)")]
    | Annotated[UdpCheck, UnionTag("(udp)")]
    | Annotated[BannerCheck, UnionTag("(banner)")]
    | Annotated[SyslogCheck, UnionTag("(syslog)")]
    | Annotated[RelpCheck, UnionTag("(relp)")]
    | Annotated[DnsCheck, UnionTag("(dns)")]
    | Annotated[GrpcCheck, UnionTag("(grpc)")]
    | Annotated[IcmpCheck, UnionTag("(icmp)")]
    | Annotated[CommandCheck, UnionTag("(command)")]
    | Annotated[CarrierCheck, UnionTag("(carrier)")]
    | Annotated[GatewayCheck, UnionTag("(gateway)")]
    | Annotated[LoadCheck, UnionTag("(load)")]
    | Annotated[MemoryCheck, UnionTag("(memory)")]
    | Annotated[FileCheck, UnionTag("(file)")]
    | Annotated[BgpCheck, UnionTag("(bgp)")]
    | Annotated[IpvsConnectionsCheck, UnionTag("(ipvs_connections)")]
    | Annotated[AllCheck, UnionTag("(all)")]
    | Annotated[AnyCheck, UnionTag("(any)")]
    | Annotated[AtLeastCheck, UnionTag("(at_least)")],
    Discriminator(_form_of_member, custom_error_type="no_check", custom_error_message=NO_REFERENCE),
]
Require = list[CheckReference]
Node.model_rebuild()
Member.model_rebuild()
AllCheck.model_rebuild()
AnyCheck.model_rebuild()
AtLeastCheck.model_rebuild()


class Server(Part):
    """A real server. The address alone will do."""

    name: Name | None = Field(default=None, description="Default: the first address.")
    address: Address | None = Field(default=None, description="Its address, if it has one.")
    addresses: list[Address] | None = Field(
        default=None, description="Its addresses: at most one of each family."
    )
    weight: Weight = Field(
        default=1,
        description="Its share of the new connections. 0: drained, it keeps those it has. With `scheduler: mh` keep "
        "them equal, or small: another weight moves flows between all the real servers, and weights without a large "
        "common divisor are rounded until some of many servers get nothing. `anycast check` tells how much.",
    )
    port: Port | None = Field(
        default=None,
        description="Default: the service's port, which is the only choice with `forwarding: dr` and `tunnel`. With a "
        "firewall mark: the port the packet was sent to.",
    )
    upper_threshold: Connections = Field(
        default=0,
        description="With as many connections as this it gets no new ones. 0: no limit. Each balancer counts its own "
        "connections, so with `scheduler: mh` a server that is full on one of them only is chosen on the others.",
    )
    lower_threshold: Connections = Field(
        default=0,
        description="It gets new ones again with fewer than this. 0: three quarters of `upper_threshold`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"address": value}
        if not isinstance(value, dict):
            raise wrong(f"{shown(value)} is not a server", "write its address, or a mapping with address")
        return value


Servers = list[
    Annotated[Server, _or_text({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]})]
]


class Pool(Part):
    """Real servers that serve the same."""

    model_config = ConfigDict(json_schema_extra=_required("servers"))

    check: CheckReference | None = Field(
        default=None,
        description="A name from `checks`, or a check. Default: tcp on the port the server is served on.",
    )
    servers: Servers | None = Field(default=None, description="The real servers.")


class Tunnel(Part):
    """How a packet is wrapped on its way to the real server. The type alone will do, where it needs no more."""

    type: Annotated[TunnelType, _choice(list(TunnelType), TunnelType)] = Field(
        default=TunnelType.IPIP,
        description="ipip: IP in IP, 20 or 40 bytes. gue: in UDP, which NICs and routers spread well. gre: in GRE.",
    )
    port: Port | None = Field(
        default=None,
        description="With `gue`: the UDP port the real servers receive it at. There is no default.",
    )
    checksum: Annotated[TunnelChecksum, _choice(list(TunnelChecksum), TunnelChecksum)] = Field(
        default=TunnelChecksum.NONE,
        description="nocsum, csum (gue and gre), or remcsum (gue): remote checksum offload.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"type": value}


class Persistence(Part):
    """A client comes to the same real server again until `timeout` after its last connection has ended.

    A time alone is the timeout. Each balancer remembers its own clients: without `connection_sync`, and with a
    scheduler that does not choose by the client's address alone (mh with mh-port does not), another balancer sends
    the client elsewhere. With `scheduler: mh` and `flags: [mh-fallback]` a client comes to the same real server
    on every balancer, and needs no persistence.
    """

    timeout: PersistenceTimeout = Field(
        default=300,
        json_schema_extra={"default": "5m"},
        description="How long it is remembered. Whole seconds, 1s to 24h.",
    )
    ipv4_prefix: Annotated[int, _whole("a prefix length", 1, 32)] = Field(
        default=32, description="How many bits of its IPv4 address make a client. 24: a whole /24 is one."
    )
    ipv6_prefix: Annotated[int, _whole("a prefix length", 1, 128)] = Field(
        default=128,
        description="The same for IPv6. 64: a client that changes its address stays the same one.",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"timeout": value}


class Quorum(Part):
    """Usable real servers of each address family a VIP needs; numbers, or shares such as `50%`."""

    low: QuorumNumber = Field(default=1, description="Fewer than this, and an announced VIP goes away.")
    high: QuorumNumber | None = Field(
        default=None, description="As many as this, and the VIP comes up. Default: `low`."
    )


class Serving(Part):
    """What a service and a VIP of one service have in common."""

    protocol: Annotated[Protocol, _choice(list(Protocol), Protocol)] = Field(
        default=Protocol.TCP,
        description="The transport protocol. With udp and sctp a check must be written: the default one, a TCP "
        "handshake, says nothing of them.",
    )
    mark: Mark | None = Field(
        default=None,
        description="Instead of port and protocol: packets to this VIP that nftables has given this firewall mark are "
        "served, whatever their protocol and port. The rules are yours to write, in prerouting, as in `ip daddr "
        "192.0.2.1 tcp dport {80, 443} meta mark set 7`. A client "
        "comes to one real server for all of them with `persistence`, or with mh and `flags: [mh-fallback]`. The check needs a port of its own, or is a command (ANYCAST_PORT is 0 for it). VIPs of one "
        "address family cannot share a mark.",
    )
    pool: Name | None = Field(default=None, description="A name from `pools`.")
    check: CheckReference | None = Field(
        default=None, description="Overrides the pool's check here. A name from `checks`, or a check."
    )
    scheduler: Annotated[Scheduler, _choice(list(Scheduler), Scheduler)] = Field(
        default=Scheduler.MH,
        description="How IPVS chooses a real server. Only `mh` chooses alike on every node, so that a connection "
        "survives the loss of its balancer.",
    )
    flags: list[Annotated[SchedulerFlag, _choice(list(SchedulerFlag), SchedulerFlag)]] | None = Field(
        default=None, description="Flags of the scheduler. Default with `mh`: [mh-port, mh-fallback]."
    )
    forwarding: Annotated[Forwarding, _choice(list(Forwarding), Forwarding)] = Field(
        default=Forwarding.DR,
        description="How a packet reaches the real server. dr: direct routing, on the same link. nat: masquerading, "
        "the answer comes back through this balancer. tunnel: wrapped (`tunnel`), over any network; a real server "
        "without an address of the packet's family is then reached at its other one.",
    )
    tunnel: (
        Annotated[Tunnel, _or_text({"enum": [kind for kind in TunnelType if kind is not TunnelType.GUE]})]
        | None
    ) = Field(
        default=None,
        description="With `forwarding: tunnel`: how. Default: ipip. The real servers must unwrap it.",
    )
    one_packet: Flag | None = Field(
        default=None,
        description="UDP: every packet is scheduled by itself, and no connection is kept. Default: true for udp with "
        "`forwarding: dr` or `tunnel` and without `persistence`, else false. false: a client that always sends from "
        "the same port stays with its real server until it pauses for `timeouts.udp`.",
    )
    persistence: (
        Annotated[
            Persistence,
            _or_text({"anyOf": [_DURATION_TEXT, {"type": "integer", "minimum": 1, "maximum": _DAY}]}),
        ]
        | None
    ) = Field(default=None, description="Whether a client stays with its real server. Default: it does not.")
    expire_failed: Expiry | None = Field(
        default=None,
        description="When a real server has failed for this long its connections are ended, so that the clients come "
        "to another one; the kernel alone would keep them there for as long as the client sends. 0 to 24h, or never. "
        "Default: 60s, with udp 0.",
    )
    quorum: Quorum = Field(default=Quorum(), description="How many usable real servers the VIP needs.")

    SHARED: ClassVar[frozenset[str]] = frozenset(
        {
            "protocol",
            "mark",
            "pool",
            "check",
            "scheduler",
            "flags",
            "forwarding",
            "tunnel",
            "one_packet",
            "persistence",
            "expire_failed",
            "quorum",
        }
    )


class Service(Serving):
    """One protocol and port of a VIP, or a firewall mark."""

    model_config = ConfigDict(
        json_schema_extra={
            "required": ["pool"],
            "oneOf": [{"required": ["port"]}, {"required": ["mark"]}],
        }
    )

    port: Port | None = Field(default=None, description="The port that is served.")
    require: Require = Field(
        default=[], description="Checks of the service as a whole that must hold for the VIP to be announced."
    )


class Vip(Serving):
    """A virtual IP: addresses that stand and fall together. With one pool, no `services` are needed."""

    address: Address | None = Field(default=None, description="The address, if there is one.")
    addresses: list[Address] | None = Field(default=None, description="The addresses.")
    med: Annotated[int, _whole("a MED", 0, 2**32 - 1)] | None = Field(
        default=None, description="Multi-exit discriminator. Compared only between nodes of one AS."
    )
    communities: list[Community] = Field(default=[], description='Communities, as "65000:100".')
    large_communities: list[LargeCommunity] = Field(
        default=[], description='Large communities, as "65000:1:2".'
    )
    port: Port | None = Field(default=None, description="The port that is served.")
    ports: list[Port] | None = Field(default=None, description="The ports, if there are several.")
    servers: Servers | None = Field(default=None, description="A pool of this VIP's own, named as the VIP.")
    services: list[Service] | None = Field(
        default=None, description="The services, where they differ in more than the port."
    )
    require: Require = Field(default=[], description="Checks that must hold for the VIP to be announced.")

    ONE_SERVICE: ClassVar[frozenset[str]] = Serving.SHARED | {"port", "ports", "servers"}


class Hook(Part):
    """Whom this node tells what happens: a command or a webhook."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["argv"]}, {"required": ["url"]}]},
    )

    argv: list[Argument] | None = Field(
        default=None,
        description="A program, by its absolute path, and its arguments. There is no shell. It gets JSON on its "
        "standard input and finds ANYCAST_VIP, ANYCAST_REASON and others in its environment.",
    )
    url: Url | None = Field(
        default=None,
        description="Where the same JSON is sent by POST, https or http. Not told in logs and differences, but for the "
        "host: it may be a secret.",
    )
    token_file: FileName | None = Field(
        default=None, description="File with a token for `Authorization: Bearer`, read anew for each run."
    )
    token_env: Variable | None = Field(
        default=None, description="The same, in a variable of the agent's environment."
    )
    secret_file: FileName | None = Field(
        default=None,
        description="File with a key. The header X-Anycast-Signature is then `sha256=` and the HMAC of the body in hex.",
    )
    secret_env: Variable | None = Field(
        default=None, description="The same, in a variable of the agent's environment."
    )
    headers: dict[HeaderName, HeaderValue] = Field(
        default={}, description="More headers. Not told in logs and differences: they may hold secrets."
    )
    ca: FileName | None = Field(
        default=None, description="PEM file with the certificates to trust. Default: the system's."
    )
    retries: Retries | None = Field(
        default=None, description="How often a webhook that does not answer is asked again. Default: 4."
    )
    events: list[Events] | None = Field(
        default=None,
        description="What it is told: names of events, or all of a kind as in `maintenance.*`. Default: "
        "[vip.verdict_changed].",
    )
    timeout: HookTimeout = Field(
        default=10.0,
        json_schema_extra={"default": "10s"},
        description="After which a run is ended: the program with all its children, or the request.",
    )
    limit: Runs = Field(
        default=20,
        description="Runs in `per`. Beyond it the newest of each VIP waits, and tells how many it stands for.",
    )
    per: HookPeriod = Field(
        default=60.0, json_schema_extra={"default": "1m"}, description="The time that `limit` is for."
    )


class File(Part):
    """The configuration of an anycast node.

    Files in `conf.d` beside it may hold `checks`, `pools` and `vips`.
    """

    model_config = ConfigDict(title="anycast", json_schema_extra=_required("bgp"))

    version: Annotated[int, _Scalar(_version, {"const": 1})] = Field(
        default=1, description="The version of this format."
    )
    node: Node = Field(default=Node(), description="This machine.")
    ipvs: Annotated[str, _choice(["shared", "exclusive"])] = Field(
        default="shared",
        description="exclusive: IPVS services that are not in this configuration are removed.",
    )
    sysctls: Annotated[str, _choice(["manage", "check"])] = Field(
        default="manage",
        description="manage: kernel settings that IPVS needs are set. check: they are only reported.",
    )
    timing: Timing = Field(default=Timing(), description="How long things may take.")
    timeouts: Timeouts | None = Field(
        default=None, description="IPVS timeouts. Default: the kernel's are left as they are."
    )
    connection_sync: ConnectionSync | None = Field(
        default=None, description="Exchange of connections between the balancers. Default: none."
    )
    bgp: Bgp | None = Field(default=None, description="The BGP side.")
    hooks: dict[str, Hook] = Field(
        default={}, description="Whom this node tells what happens, by name; 16 at most."
    )
    checks: dict[str, Check] = Field(default={}, description="Checks, by name.")
    pools: dict[str, Pool] = Field(default={}, description="Pools of real servers, by name.")
    vips: dict[str, Vip] = Field(default={}, description="Virtual IPs, by name.")


def keys_at(location: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys of the mapping at a pydantic location (union tags included), or nothing where any key goes."""
    kind: Any = File
    for part in location:
        kind = _inside(kind, part)
        if kind is None:
            return ()
    kind = _bare(kind)
    if _is_union(kind):
        kind = next((bare for bare in map(_bare, get_args(kind)) if _is_part(bare)), kind)
    return tuple(kind.model_fields) if _is_part(kind) else ()


def _bare(kind: Any) -> Any:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _inside(kind: Any, part: str | int) -> Any:
    """The type of what stands at `part` in a value of type `kind`."""
    if get_origin(kind) is Annotated:
        return _inside(get_args(kind)[0], part)
    if _is_union(kind):
        for member in get_args(kind):
            tagged = get_origin(member) is Annotated and any(
                isinstance(tag, UnionTag) and tag.tag == part for tag in member.__metadata__
            )
            if tagged:
                return get_args(member)[0]
        return next(
            (found for member in get_args(kind) if (found := _inside(member, part)) is not None), None
        )
    if get_origin(kind) is list:
        return get_args(kind)[0]
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    if _is_part(kind) and part in kind.model_fields:
        return kind.model_fields[part].annotation
    return None


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Part)


class _Generate(GenerateJsonSchema):
    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])  # a missing value is a missing line, never null

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is None or isinstance(schema["default"], Part):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False  # "Local As" tells an editor nothing


def schema_text() -> str:
    """The JSON Schema (draft 2020-12) of the file format, as `schema.json` holds it."""
    schema = _alike(File.model_json_schema(schema_generator=_Generate))
    head = {"$schema": _Generate.schema_dialect}
    return json.dumps(head | schema, indent=2, ensure_ascii=False) + "\n"


def _alike(schema: Any) -> Any:
    """Older versions of pydantic write some things in more words."""
    if isinstance(schema, list):
        return [_alike(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _alike(value) for key, value in schema.items()}
    if "const" in schema:
        schema.pop("enum", None)
    if len(schema.get("allOf", ())) == 1:
        schema |= schema.pop("allOf")[0]
    return dict(sorted(schema.items())) if "$ref" in schema or "const" in schema else schema


if __name__ == "__main__":
    print(schema_text(), end="")
