"""Checkers of real servers to our checks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from anycast.importers import numbers
from anycast.importers.commands import SHELL, words_of
from anycast.importers.keepalived.language import Statement
from anycast.importers.model import Keys, Value, check, keys, together
from anycast.importers.report import Report
from anycast.regex import RegexError, compiled

_LEAST, _MOST = 0.01, 3600.0  # seconds of an interval or a timeout of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. None: the checker's own default."""

    delay_loop: float = 60.0
    retry: int | None = None
    delay_before_retry: float | None = None
    timeout: float = 5.0

    def under(self, statements: Sequence[Statement]) -> Timing:
        """With what a block says of it; the last word counts."""
        found = self
        for one in statements:
            if not one.known:
                continue
            match one.word:
                case "delay_loop" if (value := numbers.seconds(one.args, 1e-6)) is not None:
                    found = replace(found, delay_loop=value)
                case "retry" | "nb_get_retry" if (count := numbers.number(one.args)) is not None:
                    found = replace(found, retry=count)
                case "delay_before_retry" if (value := numbers.seconds(one.args)) is not None:
                    found = replace(found, delay_before_retry=value)
                case "connect_timeout" if (value := numbers.seconds(one.args, 1e-6)) is not None:
                    found = replace(found, timeout=value)
        return found

    def silent(self, retry: int, delay: float, limit: float) -> float:
        """Seconds for which a server that answers nothing stays in use, at most. `retry`, `delay`: the checker's own."""
        tries = retry if self.retry is None else self.retry
        between = delay if self.delay_before_retry is None else self.delay_before_retry
        return self.delay_loop + tries * between + (tries + 1) * limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The real server that is checked. `port`: as it is written there; 0: none. `served`: on which it serves."""

    address: str
    port: int
    served: int
    virtualhost: str = ""


_TIMING_WORDS = frozenset({"delay_loop", "retry", "nb_get_retry", "delay_before_retry", "connect_timeout"})
_SOURCE_WORDS = frozenset({"bindto", "bind_port", "bind_if"})


def _timed(kind: str, timing: Timing, retry: int, delay: float, rise: int, **more: Value | None) -> Keys:
    """With interval and fall such that a dead server is out after the same time. What is our default is left out."""
    interval = min(max(timing.delay_loop, _LEAST), _MOST)
    fall = min((retry if timing.retry is None else timing.retry) + 1, 1000)
    between = delay if timing.delay_before_retry is None else timing.delay_before_retry
    fast = min(max(between, 0.1), interval, _MOST)
    timeout = min(max(timing.timeout, _LEAST), _MOST)
    return check(
        kind,
        **more,
        interval=None if interval == 2.0 else numbers.duration(interval),
        fast_interval=None if fast == min(0.5, interval) or fall == rise == 1 else numbers.duration(fast),
        timeout=None if timeout == 1.0 else numbers.duration(timeout),
        rise=None if rise == 2 else rise,
        fall=None if fall == 3 else fall,
    )


@dataclass(slots=True)
class Checkers:
    """What is said of them goes to the report."""

    report: Report

    def of(self, statement: Statement, target: Target, timing: Timing) -> Keys | None:
        """None: it cannot be, which is said."""
        block = statement.block or []
        made = _KINDS.get(statement.word)
        if made is None:
            what = f"{statement.word}: there is no such check here, so it is not checked by it"
            for place in (statement.place, *(one.place for one in block)):
                self.report.impossible(place, what)
            return None
        own = timing.under(block)
        self._common(block)
        found = made(self, statement, block, target, own)
        if found is not None:
            self._carried(statement, found, own)
        return found

    def _carried(self, statement: Statement, found: Keys, timing: Timing) -> None:
        """With how long a server that answers nothing stays in use, before and here."""
        inner = found.get("of")
        one = inner[0] if isinstance(inner, tuple) and isinstance(inner[0], Keys) else found
        retry, delay = _USUAL[statement.word]
        before = timing.silent(
            retry, timing.delay_loop if delay is None else delay, _limit(statement, timing)
        )
        here = _silent(one)
        kinds = f"{statement.word}: check {one.get('type')}" + (
            ", several together" if one is not found else ""
        )
        if abs(before - here) < 0.5:
            self.report.carried(
                statement.place,
                f"{kinds}; a server that answers nothing is out after {_s(here)} at most, as before",
            )
        else:
            self.report.different(
                statement.place,
                f"{kinds}; a server that answers nothing is out after {_s(here)} at most, before after {_s(before)}",
            )

    def _common(self, block: Sequence[Statement]) -> None:
        """What is alike in all checkers."""
        for one in block:
            if not one.known:
                self.report.no_effect(
                    one.place, f"{one.word}: keepalived does not know it in a checker, and logs that"
                )
            elif one.word in _TIMING_WORDS:
                if _is_number(one):
                    if one.word == "nb_get_retry":
                        self.report.carried(one.place, "nb_get_retry: fall")
                    else:
                        self.report.carried(one.place, f"{one.word}: {OURS[one.word]} of the check")
                else:
                    self.report.no_effect(
                        one.place, f"{one.word}: keepalived refuses the value, and takes its default"
                    )
            elif one.word in _SOURCE_WORDS:
                self.report.different(
                    one.place, f"{one.word}: a check leaves by the address and port that the kernel chooses"
                )
            elif one.word == "fwmark":
                self.report.different(
                    one.place,
                    "fwmark: a check's packets have no mark; a rule of routing by it does not apply to them",
                )
            elif one.word == "warmup":
                self.report.different(one.place, "warmup: the checks of a pool are spread over the interval")
            elif one.word == "alpha":
                self.report.carried(
                    one.place, "alpha: always so: a server gets no new clients before its check has succeeded"
                )
            elif one.word == "log_all_failures":
                self.report.different(
                    one.place, "log_all_failures: a target's changes are logged, single failures are not"
                )
            elif one.word in ("connect_port", "connect_ip"):
                good = numbers.port(one.args) if one.word == "connect_port" else numbers.address(one.first)
                if good:
                    self.report.carried(
                        one.place,
                        f"{one.word}: {'port' if one.word == 'connect_port' else 'address'} of the check",
                    )
                else:
                    self.report.no_effect(
                        one.place,
                        f"{one.word}: keepalived refuses the value, and checks the real server's own",
                    )

    def tcp(self, _: Statement, block: Sequence[Statement], target: Target, timing: Timing) -> Keys | None:
        return _timed("tcp", timing, 1, 1.0, 1, **_aim(block, target))

    def http(
        self, statement: Statement, block: Sequence[Statement], target: Target, timing: Timing
    ) -> Keys | None:
        secure = statement.word == "SSL_GET"
        host, rise, sni = target.virtualhost, 2, None
        for one in block:
            match one.word:
                case "virtualhost" if one.first:
                    host = one.first
                    self.report.carried(one.place, "virtualhost: host of the check")
                case "fast_recovery" if numbers.truth(one.args):
                    rise = 1
                    self.report.carried(one.place, "fast_recovery: rise")
                case "sni_name" if one.first and secure:
                    sni = one.first
                    self.report.carried(one.place, "sni_name: sni of the check")
                case "http_protocol":
                    self.report.different(
                        one.place, "http_protocol: the request is HTTP/1.1, with a Host header"
                    )
                case "enable_sni":
                    self.report.carried(one.place, "enable_sni: always so, with the name of host")
                case "tls_compliant":
                    self.report.different(
                        one.place,
                        "tls_compliant: a TLS connection that ends without close_notify is no failure here",
                    )
        if secure:
            self.report.different(
                statement.place,
                "SSL_GET: verify: false, for keepalived takes any certificate; remove it to have it verified",
            )
        urls = [one for one in block if one.word == "url" and one.block is not None]
        found: list[Keys] = []
        for url in urls:
            if (more := self._url(url, host)) is None:
                continue
            found.append(
                _timed(
                    "https" if secure else "http",
                    timing,
                    1,
                    3.0,
                    rise,
                    **more,
                    **_aim(block, target),
                    verify=False if secure else None,
                    sni=sni,
                )
            )
        if not found:
            self.report.impossible(
                statement.place,
                f"{statement.word}: it has no url with a path, so keepalived does not run it, and neither do we",
            )
        if len(found) > 1:
            self.report.different(
                statement.place,
                f"{statement.word}: each url is a check of its own, all of which must succeed; keepalived asks them one after another",
            )
        return together(found)

    def _url(self, url: Statement, host: str) -> dict[str, Value | None] | None:
        path: str | None = None
        expect: Value | None = None
        body: str | None = None
        plain = True
        for one in url.block or []:
            match one.word:
                case "path" if one.first:
                    path = one.first if one.first.startswith("/") else f"/{one.first}"
                    self.report.carried(one.place, "path: path of the check")
                case "virtualhost" if one.first:
                    host = one.first
                    self.report.carried(one.place, "virtualhost: host of the check")
                case "status_code":
                    expect = _statuses(one.args)
                    if expect is None:
                        self.report.no_effect(
                            one.place, "status_code: keepalived refuses it, and takes 200-299"
                        )
                    else:
                        self.report.carried(one.place, "status_code: expect")
                        expect = None if expect == "2xx" else expect
                case "digest":
                    self.report.impossible(
                        one.place,
                        "digest: the MD5 sum of the page is not looked at: a page with another content, and a status that is expected, "
                        "is up here and was down; `body` looks for a text in the page instead",
                    )
                case "regex":
                    body = self._regex(one)
                case "regex_no_match" | "regex_min_offset" | "regex_max_offset" | "regex_options":
                    plain = False
                    self.report.impossible(
                        one.place,
                        f"{one.word}: an expression is found anywhere in the first 64 KiB, or not; the page is not looked at by it",
                    )
                case "regex_stack" | "tls_compliant":
                    self.report.no_effect(
                        one.place,
                        f"{one.word}: there is nothing of the kind here, and no outcome depends on it",
                    )
                case _ if not one.known:
                    self.report.no_effect(
                        one.place, f"{one.word}: keepalived does not know it in a url, and logs that"
                    )
        if path is None:
            self.report.no_effect(url.place, "url: it has no path, and keepalived ignores it")
            return None
        return {
            "host": host or None,
            "path": None if path == "/" else path,
            "expect": expect,
            "body": body if plain else None,
        }

    def _regex(self, one: Statement) -> str | None:
        text = _rest(one)
        try:
            compiled(text)
        except RegexError as error:
            self.report.impossible(
                one.place,
                f"regex: RE2 does not take this expression ({error.what}); the page is not looked at by it",
            )
            return None
        self.report.carried(one.place, "regex: body")
        return text

    def smtp(
        self, statement: Statement, block: Sequence[Statement], target: Target, timing: Timing
    ) -> Keys | None:
        name = "smtpchecker.keepalived.org"
        for one in block:
            if one.word == "helo_name" and one.first:
                name = one.first
                self.report.carried(one.place, "helo_name: a step of the check")
        steps: Value = (
            keys(expect="^220[ -]"), keys(send=f"HELO {name}"), keys(expect="^250[ -]"),
            keys(send="QUIT"), keys(expect="^221[ -]"),
        )  # fmt: skip
        aims: list[Mapping[str, Value | None]] = []
        hosts = [one for one in block if one.word == "host"]
        for host in hosts:
            inner = host.block or []
            self._common(inner)
            self.report.carried(host.place, "host: a check of its own, all of which must succeed")
            aims.append(_aim(inner, target))
        own = any(
            one.word in ("connect_ip", "connect_port", "connect_timeout", "bindto", "bind_if", "fwmark")
            for one in block
        )
        if not hosts or own:
            aims.insert(0, _aim(block, target))
        if any(aim.get("address") for aim in aims):
            self.report.different(
                statement.place,
                "SMTP_CHECK: a host with connect_ip is checked at that address, whichever real server it stands for",
            )
        return together(_timed("banner", timing, 1, 1.0, 1, steps=steps, **aim) for aim in aims)

    def dns(
        self, statement: Statement, block: Sequence[Statement], target: Target, timing: Timing
    ) -> Keys | None:
        record, name = "SOA", "."
        for one in block:
            match one.word:
                case "type" if one.first:
                    record = one.first.upper()
                    self.report.carried(one.place, "type: record of the check")
                case "name" if one.first:
                    name = one.first
                    self.report.carried(one.place, "name: name of the check")
        if not re.fullmatch(r"[A-Z0-9]{1,12}", record):
            self.report.impossible(statement.place, "DNS_CHECK: its type is none; it is not checked by it")
            return None
        delay = min(timing.delay_loop, _MOST)
        return _timed(
            "dns",
            timing,
            3,
            delay,
            1,
            name=name,
            record=None if record == "A" else record,
            transport="udp",
            **_aim(block, target),
        )

    def misc(
        self, statement: Statement, block: Sequence[Statement], target: Target, timing: Timing
    ) -> Keys | None:
        argv: list[str] = []
        limit, dynamic = timing.delay_loop, False
        for one in block:
            match one.word:
                case "misc_path":
                    argv = command(one)
                    self.report.carried(one.place, "misc_path: argv of a command check")
                case "misc_timeout" if (value := numbers.number(one.args)) is not None:
                    limit = float(value) or timing.delay_loop
                    self.report.carried(one.place, "misc_timeout: timeout of the check")
                case "misc_dynamic":
                    dynamic = True
                    self.report.different(
                        one.place,
                        "misc_dynamic: the exit status sets no weight here: 0 and 3 to 255 are up with the weight that is written, "
                        "1 and 2 are down (a status of 2 was weight 0)",
                    )
                case "user":
                    self.report.different(
                        one.place, "user: the program runs as the user of the agent, `anycast`"
                    )
        if not argv:
            self.report.impossible(
                statement.place,
                "MISC_CHECK: it has no misc_path, so keepalived does not run it, and neither do we",
            )
            return None
        if not any(one.word == "user" for one in block):
            self.report.different(
                statement.place,
                "MISC_CHECK: the program runs as the user of the agent, `anycast`, and not as keepalived_script or root",
            )
        return _timed(
            "command", replace(timing, timeout=limit), 0, 1.0, 1, argv=_argv(argv, target, dynamic=dynamic)
        )

    def udp(self, _: Statement, block: Sequence[Statement], target: Target, timing: Timing) -> Keys | None:
        send: str | None = None
        expect: str | None = None
        for one in block:
            match one.word:
                case "payload":
                    send = _hex(one.args)
                    if send is None:
                        self.report.no_effect(
                            one.place, "payload: it is no hexadecimal text, and nothing is sent"
                        )
                    else:
                        self.report.carried(one.place, "payload: send_hex")
                case "require_reply" if one.args:
                    expect = _hex(one.args)
                    if expect is None:
                        self.report.impossible(
                            one.place,
                            "require_reply: a reply with places that do not matter is not compared here: silence is up, only `port unreachable` is down",
                        )
                    else:
                        self.report.carried(
                            one.place, "require_reply: expect_hex, the first bytes of the reply"
                        )
                case "require_reply":
                    self.report.impossible(
                        one.place,
                        "require_reply: any reply cannot be asked for; write `expect` or `expect_hex`. Until then silence is up, only `port unreachable` is down",
                    )
                case "min_reply_length" | "max_reply_length":
                    self.report.impossible(one.place, f"{one.word}: the length of a reply is not looked at")
        return _timed("udp", timing, 1, 1.0, 1, send_hex=send, expect_hex=expect, **_aim(block, target))

    def ping(self, _: Statement, block: Sequence[Statement], target: Target, timing: Timing) -> Keys | None:
        aim = dict(_aim(block, target))
        aim.pop("port", None)
        return _timed("icmp", timing, 1, 1.0, 1, **aim)


_Made = Callable[[Checkers, Statement, Sequence[Statement], Target, Timing], Keys | None]
_KINDS: Mapping[str, _Made] = {
    "TCP_CHECK": Checkers.tcp,
    "HTTP_GET": Checkers.http,
    "SSL_GET": Checkers.http,
    "SMTP_CHECK": Checkers.smtp,
    "DNS_CHECK": Checkers.dns,
    "MISC_CHECK": Checkers.misc,
    "UDP_CHECK": Checkers.udp,
    "PING_CHECK": Checkers.ping,
}
OURS: Mapping[str, str] = {
    "delay_loop": "interval",
    "retry": "fall",
    "delay_before_retry": "fast_interval",
    "connect_timeout": "timeout",
}


_USUAL: Mapping[str, tuple[int, float | None]] = {
    "TCP_CHECK": (1, 1.0),
    "HTTP_GET": (1, 3.0),
    "SSL_GET": (1, 3.0),
    "SMTP_CHECK": (1, 1.0),
    "DNS_CHECK": (3, None),
    "MISC_CHECK": (0, 1.0),
    "UDP_CHECK": (1, 1.0),
    "PING_CHECK": (1, 1.0),
}
"""Retries and the seconds between them where nothing is written; None: delay_loop."""


def _limit(statement: Statement, timing: Timing) -> float:
    """The timeout of one run."""
    if statement.word != "MISC_CHECK":
        return timing.timeout
    own = (
        float(value)
        for one in statement.block or []
        if one.word == "misc_timeout" and (value := numbers.number(one.args))
    )
    return next(own, timing.delay_loop)


def _silent(found: Keys) -> float:
    """The same of a check of ours: its interval, the fast ones, and a timeout for each."""

    def seconds(key: str, default: float) -> float:
        value = found.get(key)
        return numbers.seconds_of(str(value)) if value is not None else default

    interval = seconds("interval", 2.0)
    fall = found.get("fall")
    runs = fall if isinstance(fall, int) else 3
    return (
        interval + (runs - 1) * seconds("fast_interval", min(0.5, interval)) + runs * seconds("timeout", 1.0)
    )


def _s(value: float) -> str:
    return f"{value:.3g} s" if value < 1000 else f"{value:.0f} s"


def _is_number(one: Statement) -> bool:
    if one.word in ("retry", "nb_get_retry"):
        return numbers.number(one.args) is not None
    return numbers.seconds(one.args) is not None


def _aim(block: Sequence[Statement], target: Target) -> dict[str, Value | None]:
    """Address and port, where they are not those at which the real server serves."""
    address: str | None = None
    port = target.port or target.served
    for one in block:
        if one.word == "connect_ip":
            address = numbers.address(one.first) or address
        elif one.word == "connect_port":
            port = numbers.port(one.args) or port
    return {
        "address": None if address == target.address else address,
        "port": None if port in (0, target.served) else port,
    }


def _statuses(words: Sequence[str]) -> Value | None:
    found: list[Value] = []
    for word in words:
        match = re.fullmatch(r"([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?", word)
        if match is None:
            continue
        if match[2] is None or match[1] == match[2]:
            found.append(int(match[1]))
        elif match[1] < match[2]:
            found.append("2xx" if word == "200-299" else word)
    if not found or found == ["2xx"]:
        return "2xx" if found else None
    return found[0] if len(found) == 1 else tuple(found)


def _rest(one: Statement) -> str:
    """The text behind a keyword, with its quotes and escapes read."""
    text = one.line.text[len(one.word) :].strip(" \t")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1]
    return text.replace('\\"', '"')


def command(one: Statement) -> list[str]:
    """The words of a command, which may stand in quotes as a whole."""
    text = one.line.text[len(one.word) :].strip(" \t")
    try:
        found = shlex.split(text)
        return shlex.split(found[0]) if len(found) == 1 else found
    except ValueError:
        return [word for word in text.replace('"', " ").replace("'", " ").split() if word]


def _argv(argv: list[str], target: Target, *, dynamic: bool) -> Value:
    """The program's own path, or a shell where one is needed: for the server's address, or for what a status means."""
    own = {target.address: '"$ANYCAST_ADDRESS"'}
    words = [own.get(word, shlex.quote(word)) for word in argv]
    for_each = any(word in own for word in argv)
    line = " ".join(words)
    if dynamic:
        return SHELL, "-c", f"{line}; s=$?; [ $s -eq 0 ] || [ $s -gt 2 ]"
    return (SHELL, "-c", f"exec {line}") if for_each else words_of(argv)


def _hex(words: Sequence[str]) -> str | None:
    text = "".join(words).lower()
    return text if re.fullmatch(r"([0-9a-f]{2}){1,1000}", text) else None
