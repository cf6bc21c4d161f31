"""Checks of ldirectord to ours."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from anycast.importers import numbers
from anycast.importers.model import Keys, Place, Value, check, keys
from anycast.importers.report import Report
from anycast.regex import RegexError, compiled

_BY_PORT = {
    21: "ftp", 25: "smtp", 53: "dns", 80: "http", 110: "pop", 119: "nntp", 143: "imap", 389: "ldap", 443: "https",
    587: "submission", 993: "imaps", 995: "pops", 1521: "oracle", 1812: "radius", 3128: "http_proxy", 3306: "mysql",
    5432: "pgsql", 5060: "sip",
}  # fmt: skip
_GREETINGS = {
    "ftp": "^220[ -]", "smtp": "^220[ -]", "submission": "^220[ -]", "pop": r"^\+OK", "pops": r"^\+OK", "nntp": "^20[01] ",
    "imap": r"^\* (OK|PREAUTH)", "imaps": r"^\* (OK|PREAUTH)",
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Asked:
    """What a virtual service says of its check, each with its line. `virtual`: its address or mark, and port."""

    protocol: str
    port: int
    virtual: tuple[str, str]
    said: Mapping[str, tuple[str, Place]]
    place: Place
    report: Report = field(repr=False)

    def get(self, name: str, default: str = "") -> str:
        return self.said[name][0] if name in self.said else default

    def place_of(self, name: str) -> Place:
        return self.said[name][1] if name in self.said else self.place


def check_of(asked: Asked) -> Value | None:
    """None: the default one."""
    kind = asked.get("checktype", "negotiate").lower()
    report, place = asked.report, asked.place_of("checktype")
    negotiates = kind == "negotiate" or kind.isdecimal()
    if kind.isdecimal():
        report.different(
            place, "checktype: the negotiating check is made each time, not every so many connects"
        )
    if kind == "on":
        report.different(
            place,
            "checktype on: ldirectord uses the servers whatever becomes of them; here they are checked by the default",
        )
        return _default(asked)
    if kind in ("external", "external-perl"):
        return _external(asked)
    if kind == "ping":
        report.carried(place, "checktype ping: check icmp")
        return _timed(asked, "icmp", connect=True)
    if not negotiates:
        if asked.protocol == "udp":
            report.carried(place, "checktype connect: of UDP check icmp, as ldirectord has it")
            return _timed(asked, "icmp", connect=True)
        report.carried(place, "checktype connect: check tcp")
        return _timed(asked, "tcp", connect=True, port=_port(asked))
    return _negotiate(asked)


def _default(asked: Asked) -> Value | None:
    port = _port(asked)
    if not port and not asked.port:
        return check("icmp")
    if asked.protocol == "udp":
        return check("udp", port=port)
    return None if port is None else check("tcp", port=port)


def _negotiate(asked: Asked) -> Value | None:
    service = asked.get("service", _BY_PORT.get(asked.port, "none")).lower()
    place = asked.place_of("service")
    made = _KINDS.get(service)
    asked.report.carried(asked.place_of("checktype"), "checktype negotiate: the check of the service")
    if made is not None:
        asked.report.carried(place, f"a negotiating check of {service}: a check of its kind")
        return made(asked)
    if service in _GREETINGS:
        return _greeting(asked, service)
    for name in ("login", "passwd", "database", "secret", "request", "receive"):
        if name in asked.said and service != "none":
            asked.report.impossible(asked.place_of(name), f"{name}: there is no check here that uses it")
    if service == "none":
        asked.report.different(
            place, "service none: ldirectord checks nothing; here the servers are checked by the default"
        )
    else:
        asked.report.impossible(
            place,
            f"service {service if service.isalnum() else '?'}: there is no such check here; the servers are checked by the default, or write a command",
        )
    return _default(asked)


def _greeting(asked: Asked, service: str) -> Value:
    for name in ("login", "passwd", "request", "receive"):
        if name in asked.said:
            asked.report.impossible(
                asked.place_of(name), f"{name}: nobody logs in and nothing is fetched; the greeting decides"
            )
    asked.report.carried(asked.place_of("service"), f"service {service}: check banner, of its greeting")
    secure = keys(verify=False) if service in ("imaps", "pops") else None
    return _timed(asked, "banner", port=_port(asked), tls=secure, steps=(keys(expect=_GREETINGS[service]),))


def _http(asked: Asked, *, secure: bool = False) -> Value:
    request = asked.get("request", "/")
    url = urlsplit(request) if "://" in request else None
    path = request if url is None else url.path + (f"?{url.query}" if url.query else "")
    path = path if path.startswith("/") else f"/{path}"
    host = asked.get("virtualhost") or (url.hostname if url is not None else None)
    try:
        port = _port(asked) or (url.port if url is not None else None)
    except ValueError:
        port = None
    method = asked.get("httpmethod", "GET").upper()
    for name, ours in (("request", "path"), ("virtualhost", "host"), ("httpmethod", "method")):
        if name in asked.said:
            asked.report.carried(asked.place_of(name), f"{name}: {ours} of the check")
    if secure:
        asked.report.different(
            asked.place_of("service"),
            "service https: verify: false, for ldirectord takes any certificate; remove it to have it verified",
        )
    return _timed(
        asked,
        "https" if secure else "http",
        port=port,
        host=host or None,
        method=None if method == "GET" else method,
        path=None if path == "/" else path,
        body=_expression(asked),
        verify=False if secure else None,
    )


def _https(asked: Asked) -> Value:
    return _http(asked, secure=True)


def _dns(asked: Asked) -> Value | None:
    name, record = asked.get("request"), "A"
    if not name:
        asked.report.impossible(
            asked.place,
            "service dns: it has no request, so ldirectord's check fails; the servers are checked by the default",
        )
        return _default(asked)
    with contextlib.suppress(ValueError):
        name, record = ipaddress.ip_address(name).reverse_pointer, "PTR"
    answer = asked.get("receive")
    for word, ours in (("request", "name"), ("receive", "answer")):
        if word in asked.said:
            asked.report.carried(asked.place_of(word), f"{word}: {ours} of the check")
    return _timed(
        asked,
        "dns",
        port=_port(asked),
        name=name,
        record=None if record == "A" else record,
        answer=(answer,) if answer else None,
    )


def _simple(asked: Asked) -> Value | None:
    expect = _expression(asked)
    if expect is None:
        asked.report.different(
            asked.place_of("service"),
            "service simpletcp: nothing that can be looked for is expected, so it is a TCP handshake",
        )
        return _timed(asked, "tcp", port=_port(asked))
    send = asked.get("request").replace("\\n", "\n")
    steps: list[Value] = [keys(send=send)] if send else []
    if "request" in asked.said:
        asked.report.carried(
            asked.place_of("request"),
            "request: a step of the check; without a line end at its end it gets one",
        )
    return _timed(asked, "banner", port=_port(asked), steps=(*steps, keys(expect=expect)))


def _external(asked: Asked) -> Value | None:
    command = asked.get("checkcommand", "/bin/true")
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    place = asked.place_of("checkcommand")
    if not words:
        asked.report.impossible(
            place, "checkcommand: it cannot be read as a command; the servers are checked by the default"
        )
        return _default(asked)
    asked.report.carried(asked.place_of("checktype"), "checktype external: a command check")
    asked.report.carried(place, "checkcommand: argv of a command check, with the same four arguments")
    asked.report.different(
        place, "checkcommand: the program runs as the user of the agent, `anycast`, and not as root"
    )
    line = f'exec {shlex.join([*words, *asked.virtual])} "$ANYCAST_ADDRESS" "$ANYCAST_PORT"'
    return _timed(asked, "command", connect=True, argv=("/bin/sh", "-c", line))


_Made = Callable[[Asked], Value | None]
_KINDS: Mapping[str, _Made] = {"http": _http, "https": _https, "dns": _dns, "simpletcp": _simple}


def _expression(asked: Asked) -> str | None:
    text = asked.get("receive")
    if not text:
        return None
    place = asked.place_of("receive")
    try:
        compiled(text)
    except RegexError as error:
        asked.report.impossible(
            place,
            f"receive: RE2 does not take this expression ({error.what}); what comes back is not looked at by it",
        )
        return None
    asked.report.carried(place, "receive: an expression of the check")
    return text


def _port(asked: Asked) -> int | None:
    port = numbers.port([asked.get("checkport")]) if "checkport" in asked.said else None
    if port:
        asked.report.carried(asked.place_of("checkport"), "checkport: port of the check")
    return None if not port or port == asked.port else port


def _seconds(asked: Asked, *names: str, default: float) -> float:
    for name in names:
        value = numbers.seconds([asked.get(name)]) if name in asked.said else None
        if value:
            return min(max(value, 0.01), 3600.0)
    return default


def _timed(asked: Asked, kind: str, *, connect: bool = False, **settings: Value | None) -> Keys:
    """It has no faster interval: once a check has failed ours comes again after 500 ms."""
    interval = _seconds(asked, "checkinterval", default=10.0)
    if connect:
        timeout = _seconds(asked, "checktimeout", "negotiatetimeout", default=5.0)
    else:
        timeout = _seconds(asked, "negotiatetimeout", "checktimeout", default=30.0)
    fall = numbers.number([asked.get("failurecount", "1")], 1, 1000) or 1
    for name, ours in (
        ("checkinterval", "interval"),
        ("checktimeout", "timeout"),
        ("negotiatetimeout", "timeout"),
        ("failurecount", "fall"),
    ):
        if name in asked.said:
            asked.report.carried(asked.place_of(name), f"{name}: {ours} of the checks")
    before = interval * fall + timeout
    here = interval + (fall - 1) * min(0.5, interval) + fall * timeout
    asked.report.different(
        asked.place,
        f"a server that answers nothing is out after {here:g} s at most; before after {before:g} s, and longer where checks of others waited "
        "(without fork=yes they are made one after another)",
    )
    return check(
        kind,
        **settings,
        interval=None if interval == 2 else numbers.duration(interval),
        timeout=None if timeout == 1 else numbers.duration(timeout),
        rise=1,
        fall=None if fall == 3 else fall,
    )


def unquoted(text: str) -> str:
    match = re.fullmatch(r'"(.*)"|\'(.*)\'', text)
    return text if match is None else match[1] or match[2] or ""
