"""Files that were written to do harm: each shape once large, once small, and what chance makes of it."""

from __future__ import annotations

import random
from collections.abc import Iterator

LIMIT, SLOW = (
    8_300_000,
    200_000,
)  # characters: just below what is read at all, and what the slower parser takes

HEAD = "bgp: {local_as: 65001, router_id: 192.0.2.1, neighbors: [{address: 192.0.2.2, remote_as: 65000}]}\n"
RIGHT = HEAD + "vips: {w: {address: 203.0.113.1, port: 80, servers: [10.0.0.1]}}\n"
_VIP = HEAD + "vips: {w: {address: 203.0.113.1, port: 80, scheduler: rr, servers: [%s]}}\n"

# One after another, again and again: what a scanner looks ahead for, goes back for, or counts.
_UNITS = {
    "lines of a plain scalar": ("vips: ", "word word\n  ", ""),
    "lines of a literal": ("vips: |\n", "  word word\n", ""),
    "lines of a folded scalar": ("vips: >\n", "  word word\n", ""),
    "lines in quotes": ("vips: '", "word word\n  ", "'\n"),
    "lines in double quotes": ('vips: "', "\\n word\n  ", '"\n'),
    "lines with tabs": ("vips: ", "word\tword\n  ", ""),
    "lines of another system": ("vips: ", "word word\r\n  ", ""),
    "escapes": ('node: "', "\\x1b\\n", '"\n'),
    "half characters": ('node: "', "\\ud800", '"\n'),
    "half characters in a list": ("a: [", '"\\ud800",', "]\n"),
    "a value": ("node: ", "k", "\n"),
    "a key": ("", "k", ": 1\n"),
    "a key behind a question mark": ("? ", "k", "\n: 1\n"),
    "a key of escapes": ('? "', "\\e", '"\n: 1\n'),
    "digits": ("node: ", "9", "\n"),
    "large numbers": ("vips: [", "9999999999999999999999, ", "]\n"),
    "aliases": ("a: &a x\nb: [", "*a, ", "]\n"),
    "an anchor": ("b: &", "a", " x\n"),
    "tags": ("b: [", "!!str x, ", "]\n"),
    "a tag": ("b: !", "a", " x\n"),
    "a tag of escapes": ("b: !<", "%41", "> x\n"),
    "a directive": ("%", "A", "\n---\na: 1\n"),
    "a version": ("%YAML 1.", "9", "\n---\na: 1\n"),
    "open brackets": ("", "[", ""),
    "open braces": ("", "{", ""),
    "open mappings": ("", "{a: ", ""),
    "lists in lists": ("", "- ", ""),
    "keys in keys": ("", "? ", ""),
    "empty items": ("", "-\n", ""),
    "empty keys": ("", "?\n", ""),
    "colons": ("", ":\n", ""),
    "commas": ("[", "x,", "]\n"),
    "empty mappings": ("pools: {p: {servers: [", "{},", "]}}\n"),
    "documents": ("a: 1\n", "---\n", ""),
    "ends of documents": ("a: 1\n", "...\n", ""),
    "one key": ("", "a: 1\n", ""),
    "one section": ("", "vips: {a: {x: 1}}\n", ""),
    "merges": ("", "<<: 1\n", ""),
    "block scalars": ("", "a: |9\n", ""),
    "empty lines of a literal": ("a: |\n", " \n", ""),
    "an open quote": ("a: '", "x\n ", ""),
    "an open double quote": ('a: "', "x", ""),
    "doubled quotes": ("a: '", "''", "'\n"),
    "continued lines": ('a: "', "\\\n  ", '"\n'),
    "comments": ("", "# c\n", "]\n"),
    "comments with tabs": ("", "#\tc\n", RIGHT),
    "a doubtful scalar": ("a: 1\na: 2\nvips: |\n", "  wor? word\n", ""),
    "faces": ("a: ", "😀", "\n"),
    "stars": (RIGHT + "x: ", "*", ""),
    "words": ("a: ", "x ", "\n]"),
    **{f"only {one!r}": ("", one, "") for one in "\0\t \n\r\u2028\ufeff]}&*!%|>@`?-:,#'\"~\x1b\x85"},
}


def _numbered(count: int) -> Iterator[tuple[str, str]]:
    """Many of what is told apart by a number."""
    each = range(count)
    address = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in each]
    yield "unknown keys", "".join(f"key{n}: {n}\n" for n in each)
    yield "unknown keys with faces", "".join(f"😀{n}: 1\n" for n in each)
    yield "unknown keys in pools", "pools:\n" + "".join(f"  p{n}: {{bogus{n}: 1}}\n" for n in each)
    yield "anchors", "b: [" + "".join(f"&a{n} x, " for n in each) + "]\n"
    yield "defined tags", "".join(f"%TAG !h{n}! tag:x,{n}:\n" for n in each) + "---\na: 1\n"
    yield "keys written twice", "".join(f"k{n}: 1\nk{n}: 2\n" for n in each)
    yield "wrong servers", "pools: {p: {servers: [" + "x," * count + "]}}\n"
    yield "one server", _VIP % ("10.0.0.1," * count)
    yield "servers with a wrong key", _VIP % "".join(f"{{adress: {n}}}," for n in each)
    yield "right servers", _VIP % ",".join(address)
    yield "neighbors", HEAD[:-3] + "".join(f", {{address: {one}, remote_as: 1}}" for one in address) + "]}\n"
    yield "wrong names", RIGHT + "pools:\n" + "".join(f"  é{n}: {{servers: [10.0.0.1]}}\n" for n in each)
    yield (
        "long names",
        "pools:\n" + "".join(f"  {'n' * 255}{n}: {{{'m' * 200}: 1}}\n" for n in range(count // 50)),
    )
    yield (
        "unknown pools",
        HEAD
        + "vips:\n"
        + "".join(f"  v{n}: {{address: {one}, port: 1, pool: q{n}}}\n" for n, one in enumerate(address)),
    )
    yield "unknown checks", "checks:\n" + "".join(f"  c{n}: {{type: all, of: [d{n}, e{n}]}}\n" for n in each)
    yield "a chain of rules", _checks("".join(f"  c{n}: {{type: all, of: [c{n + 1}]}}\n" for n in each))
    yield (
        "a ring of rules",
        _checks("".join(f"  c{n}: {{type: all, of: [c{(n + 1) % count}]}}\n" for n in each)),
    )
    yield "a wide rule", _checks("  t: {type: tcp}\n  c0: {type: all, of: [" + "t, " * count + "]}\n")
    yield "steps", _checks("  c0: {type: banner, steps: [" + "{expekt: x}," * count + "]}\n")
    yield "statuses", _checks("  c0: {type: http, expect: [" + "9999," * count + "]}\n")
    yield "headers", _checks("  c0: {type: http, headers: {" + ",".join(f"x{n}: y" for n in each) + "}}\n")
    yield "answers", _checks("  c0: {type: dns, name: x, answer: [" + ",".join(address) + "]}\n")
    yield "what is required", RIGHT + "node: {require: [" + "{type: load, max: 5}," * count + "]}\n"
    yield "hooks", RIGHT + "hooks:\n" + "".join(f"  h{n}: {{argv: [/bin/true]}}\n" for n in each)
    yield "arguments", RIGHT + "hooks:\n  h: {argv: [/bin/true" + ", x" * count + "]}\n"
    yield "addresses", RIGHT.replace("address: 203.0.113.1", f"addresses: [{','.join(address)}]")
    yield "communities", RIGHT.replace("port: 80", f"port: 80, communities: [{'1:1,' * count}]")
    yield "ports", RIGHT.replace("port: 80", f"ports: [{','.join(str(n % 65535 + 1) for n in each)}]")
    yield (
        "marks",
        HEAD
        + "vips:\n"
        + "".join(
            f"  v{n}: {{address: {one}, mark: {n + 1}, servers: [1.1.1.1]}}\n"
            for n, one in enumerate(address)
        ),
    )


def _checks(written: str) -> str:
    return RIGHT.replace("servers:", "check: c0, servers:") + "checks:\n" + written


def _others() -> Iterator[tuple[str, str]]:
    lines = "\n".join(" " * n + "a:" for n in range(2000))
    yield "ever deeper", lines
    yield "ever deeper lists", lines.replace("a:", "-")
    bomb = "".join(f"b{n}: &b{n} [{','.join([f'*b{n - 1}'] * 9)}]\n" for n in range(1, 20))
    yield "an alias bomb", "b0: &b0 [x]\n" + bomb
    threes = "".join(f"  c{n}: {{type: all, of: [c{n + 1}, c{n + 1}, c{n + 1}]}}\n" for n in range(40))
    yield "three times the next", _checks(threes + "  c40: {type: tcp}\n")
    tens = ",".join(f"10.0.{n >> 8}.{n & 255}" for n in range(9000))
    ports = ",".join(str(n) for n in range(1, 9000))
    yield "ports times servers", (_VIP % tens).replace("port: 80", f"ports: [{ports}]")
    vips = "".join(
        f"  v{n}: {{address: 1.0.{n >> 8}.{n & 255}, port: 80, pool: p, scheduler: rr}}\n"
        for n in range(5000)
    )
    yield "VIPs times servers", HEAD + f"pools: {{p: {{servers: [{tens}]}}}}\nvips:\n{vips}"
    yield "wrong types", RIGHT + "node: [1]\ntiming: x\nhooks: 3\nchecks: [a]\npools: null\n"
    yield (
        "huge numbers",
        RIGHT + f"timing: {{lease_ttl: 1{'0' * 5000}s, server_drain: {2**63}, quorum: 1e999}}\n",
    )
    yield "an expression", _checks("  c0: {type: http, body: '" + "(a+)+" * 10000 + "b'}\n")
    yield (
        "an expression that repeats",
        _checks("  c0: {type: http, body: '((((x{1000}){1000}){1000}){1000})'}\n"),
    )
    yield (
        "values of the greatest length",
        "pools: {" + "".join(f"p{n}: '{'x' * 65000}', " for n in range(120)) + "}\n",
    )


def large(size: int = LIMIT, count: int = 100_000) -> Iterator[tuple[str, bytes]]:
    """Files of about `size` bytes, and others that have `count` of something."""
    for name, (begin, unit, end) in _UNITS.items():
        yield name, _bytes(begin + unit * (size // len(unit.encode("utf-8", "replace"))) + end)
    for name, text in (*_numbered(count), *_others()):
        yield name, _bytes(text)
    yield "noise", random.Random(1).randbytes(size)  # noqa: S311 - no secret
    yield "noise at the end", b"a: b\n" * (size // 5) + b"\xff\n"
    yield "too large", b"a: b\n" * 2_000_000
    yield "wide characters", ("a: é\n" * (size // 10)).encode("utf-16")


def small(size: int = SLOW, count: int = 300) -> Iterator[tuple[str, bytes]]:
    """What the slower parser has the last word on."""
    for name, (begin, unit, end) in _UNITS.items():
        yield f"short: {name}", _bytes(begin + unit * (size // len(unit)) + end)
        yield f"short: {name}, unended", _bytes(begin + unit * (size // len(unit)) + "\nb: ]")
    for name, text in _numbered(count):
        yield f"few: {name}", _bytes(text)


def told() -> Iterator[tuple[str, bytes]]:
    """Those that once took seconds and hundreds of megabytes, as they were."""
    yield "100,000 unknown keys", _bytes("".join(f"key{n}: {n}\n" for n in range(100_000)))
    yield "a scalar of 10 MB of lines", b"vips: " + b"word word\n  " * 830_000 + b"\n"
    yield "a scalar of 8 MB of lines", b"vips: " + b"word word\n  " * 690_000 + b"\n"
    yield "a key of 10 MB", b"? " + b"k" * 10_000_000 + b"\n: 1\n"
    yield "a key of 8 MB", b"? " + b"k" * 8_300_000 + b"\n: 1\n"


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
