"""The reader of the file and its JSON Schema agree on every single value, but for what is written down here.

The reader takes more spellings (`_usual` has the one that the schema knows), and the schema takes what no schema can
tell to be wrong (`BEYOND_A_SCHEMA`).
"""

from __future__ import annotations

import functools
import math
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker
from pydantic_core import PydanticCustomError

from anycast.config.schema import scalars
from anycast.config.schema.scalars import Scalar

SCALARS: dict[str, Scalar] = {
    name: found
    for name, one in vars(scalars).items()
    if typing.get_origin(one) is typing.Annotated
    for found in one.__metadata__
    if isinstance(found, Scalar)
}
_DURATIONS = {name for name, one in SCALARS.items() if scalars.DURATION_TEXT in one.schema.get("anyOf", ())}
BEYOND_A_SCHEMA = {
    **dict.fromkeys(_DURATIONS, "whether a time that is text is in its range"),
    **dict.fromkeys(
        ("Address4", "Address6", "AnyAddress", "RouterId"), "whether a host can have the address"
    ),
    "Argument": "what Unicode has no shape for",
    "Domain": "what is a domain name",
    "Expression": "what is a regular expression",
    "Listen": "what is an IPv6 address",
    "Network": "what is a network",
    "PortSet": "names and ranges of ports",
    "RecordType": "which types of records there are",
    "Status": "which of two numbers is larger",
    "Text": "how many bytes a text has",
    "Hex": "how many digits there are between blanks",
    "Url": "what a URL is",
}
FORMATS = FormatChecker(formats=["ipv4", "ipv6"])
WORDS = [
    "099%", "0%", "00%", "0100%", "101%", "1 %", "100 %", "05%", "1s", "0001d", "1h30m", "1 s", "1sec", "never", "NEVER", "https",
    "HTTPS", "080", "0x0", "0X10", "0x10", "53/udp", "8000-8010", "80, 443", "0KiB", "1kib", "1 KiB", "0256MiB", "2XX", "299-200",
    "192.0.2.1", "192.0.2.01", "192.0.2.1/32", "[2001:db8::1]", "2001:DB8::1", "224.0.0.81", "239.255.255.255", "240.0.0.1",
    "FF02::81", "fe80::1%eth0", "127.0.0.1:9644", "localhost:80", "[::1]:80", "1.2.3.4:0", "1.2.3.4:080", "1.2.3.4:65536",
    "999.1.1.1:80", "65535:65535", "65536:1", "01:002", "no-export", "No-Export", "4294967295:0:0", "4294967296:1:1", "AS65001",
    "as0", "frr", "FRR 10.3", "GoBGP", "get", "/", "x", "a b", " a", "$X", "${X}", "$", "${", "a;b", "*", "*.example.net", "..",
    "yes", "TRUE", "off", "IPv4", "inet6", "4", "noerror", "", "-", "é",
]  # fmt: skip


def reads(one: Scalar, value: Any) -> bool:
    try:
        one.parse(value)
    except PydanticCustomError:
        return False
    return True


def knows(one: Scalar, value: Any) -> bool:
    """Python's `$` matches before a line break too, other readers of schemas have none of that."""
    if isinstance(value, str) and value.endswith("\n"):
        return False
    valid: bool = _validator(one).is_valid(value)
    return valid


@functools.cache
def _validator(one: Scalar) -> Draft202012Validator:
    return Draft202012Validator(dict(one.schema), format_checker=FORMATS)


def _usual(one: Scalar, value: Any) -> Iterator[Any]:
    """The spellings that the schema may know of a value that the reader takes."""
    yield value
    yield {"4": "ipv4", "inet": "ipv4", "6": "ipv6", "inet6": "ipv6"}.get(str(value).lower())
    if scalars.DURATION_TEXT in one.schema.get("anyOf", ()):
        seconds = one.parse(value)
        yield "never" if math.isinf(seconds) else scalars.spell_duration(seconds)
    if not isinstance(value, str):
        return
    yield value.lower().strip()
    yield value.upper()
    yield scalars.truth(value)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value, re.ASCII):
        yield float(value) if "." in value else int(value)
    if re.fullmatch("as[0-9]+", value, re.ASCII | re.IGNORECASE):
        yield int(value[2:])
    yield re.sub(
        "([kmg])(i?)b$",
        lambda found: f"{found[1].upper()}{'i'}B",
        value.replace(" ", ""),
        flags=re.IGNORECASE,
    )
    yield value.strip("[]").partition("/")[0]
    yield f"/{value}"
    yield re.sub(
        "^([a-z]+)[ /] *(?=v?[0-9])", lambda found: f"{found[1].lower()} ", value.strip(), flags=re.IGNORECASE
    )
    yield re.sub("^localhost", "127.0.0.1", value.lower())
    yield re.sub("^https?:", lambda found: found[0].lower(), value, flags=re.IGNORECASE)


def _patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "pattern" in schema:
            yield schema["pattern"]
        for part in schema.values():
            yield from _patterns(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _patterns(part)


def _numbers(schema: Any) -> Iterator[float]:
    for part in (schema, *schema.get("anyOf", ())):
        for name in ("minimum", "maximum", "exclusiveMinimum"):
            if name in part:
                yield from (part[name] - 1, part[name], part[name] + 1)


@functools.cache
def values(one: Scalar) -> st.SearchStrategy[Any]:
    """By the schema's own patterns and bounds, a little beside them, and what people write."""
    texts = [st.from_regex(each, fullmatch=True) for each in _patterns(one.schema)]
    texts += [
        st.sampled_from([str(word) for word in each["enum"]])
        for each in (one.schema, *one.schema.get("anyOf", ()))
        if "enum" in each
    ]
    texts += [st.sampled_from(WORDS), st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=6)]
    text = st.one_of(texts)
    changed = st.one_of(
        text, st.builds("0{}".format, text), st.builds("{} ".format, text), text.map(str.upper)
    )
    return st.one_of(
        changed,
        st.integers(-2, 2**33),
        st.sampled_from(sorted({*_numbers(one.schema), 0.5, 1.5})),
        st.sampled_from([True, False, None]),
    )


NAMES = sorted(
    SCALARS.keys() - {"CheckName"}
)  # the reader takes any text, and says later which check was meant


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_what_the_reader_takes_the_schema_knows_in_its_usual_spelling(name: str, data: st.DataObject) -> None:
    one = SCALARS[name]
    value = data.draw(values(one))
    if reads(one, value):
        assert any(knows(one, usual) for usual in _usual(one, value)), value


@pytest.mark.parametrize("name", sorted(set(NAMES) - BEYOND_A_SCHEMA.keys()))
@given(data=st.data())
def test_what_the_schema_knows_the_reader_takes(name: str, data: st.DataObject) -> None:
    one = SCALARS[name]
    value = data.draw(values(one))
    if knows(one, value) and not (isinstance(value, float) and value.is_integer()):  # 1.0 is an integer there
        assert reads(one, value), value


def test_what_a_schema_cannot_tell_is_still_so() -> None:
    assert BEYOND_A_SCHEMA.keys() <= SCALARS.keys()


@given(st.integers(0, 10**6), st.integers(0, 10**6))
@example(65535, 65535)
@example(65535, 65536)
@example(10, 9)
def test_a_pattern_for_numbers_up_to_another_has_those_and_no_more(high: int, number: int) -> None:
    assert bool(re.fullmatch(scalars.up_to(high), str(number))) == (number <= high)
