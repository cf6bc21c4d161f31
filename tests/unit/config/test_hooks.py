"""Hooks as they are written."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from anycast.config.load import loads
from anycast.config.needed import missing_hooks
from anycast.config.problem import ConfigError
from anycast.core.hooks import EVENTS, VERDICT, Command, Hook, Secret, Webhook

MAIN = """\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{address: 10.2.1.254, remote_as: 65000}]
hooks:
"""


def hooks(text: str) -> tuple[Hook, ...]:
    return loads(MAIN + text, "f", hostname="lb1").config.hooks


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        hooks(text)
    return [str(problem) for problem in caught.value.problems]


def test_a_command_and_a_webhook() -> None:
    text = """\
  log: {argv: [/usr/bin/logger, -t, x], events: ["server.*", config.applied], limit: 5, per: 10s}
  pager: {url: "https://[2001:db8::1]:8443/a?key=k", token_file: /t, secret_env: KEY, headers: {X-A: b}}
"""
    log, pager = hooks(text)
    assert log.action == Command(argv=("/usr/bin/logger", "-t", "x"))
    assert log.events == {name for name in EVENTS if name.startswith("server.")} | {"config.applied"}
    assert (log.limit, log.per, log.timeout) == (5, 10, 10)
    assert pager.events == {VERDICT}
    assert pager.action == Webhook(
        url="https://[2001:db8::1]:8443/a?key=k",
        host="[2001:db8::1]:8443",
        token=Secret(file="/t"),
        signature=Secret(variable="KEY"),
        headers=(("X-A", "b"),),
    )
    assert pickle.loads(pickle.dumps(pager)) == pager  # noqa: S301 - our own


def test_none_is_the_default() -> None:
    assert loads(MAIN.removesuffix("hooks:\n"), hostname="lb1").config.hooks == ()


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("{}", "f:6:3: hooks.h: it says neither what to run nor whom to ask (write argv or url)"),
        (
            "{argv: [/a], url: http://a/}",
            "hooks.h.argv: a hook is a command or a webhook (remove argv or url)",
        ),
        ("{argv: []}", "hooks.h.argv: there is no program in it (write its absolute path)"),
        ("{argv: [a]}", "hooks.h.argv[0]: the program is not an absolute path"),
        ("{argv: [/a], ca: /b}", "hooks.h.ca: a command has no such thing"),
        ("{argv: [/a], events: []}", "hooks.h.events: there is no event in it"),
        (
            "{argv: [/a], events: [server.dwn]}",
            "hooks.h.events[0]: 'server.dwn' is not an event (did you mean server.",
        ),
        (
            "{argv: [/a], events: [hook.failed]}",
            "hooks.h.events[0]: a hook that is told of hooks would never end",
        ),
        ("{argv: [/a], events: ['*']}", "hooks.h.events[0]: '*' is not an event"),
        ("{argv: [/a], limit: 0}", "hooks.h.limit: 0 is not a number of runs"),
        ("{argv: [/a], timeout: 1h}", "hooks.h.timeout: '1h' is not a time that can be used here"),
        ("{argv: [/a], shell: true}", "hooks.h.shell: there is no such key"),
        (
            "{url: ftp://a/}",
            "hooks.h.url: the scheme of the URL is neither https nor http (write https://HOST/PATH)",
        ),
        ("{url: pager.example.net}", "hooks.h.url: the scheme of the URL is neither https nor http"),
        ("{url: https:///x}", "hooks.h.url: the URL names no host and port that can be asked"),
        ("{url: 'https://a:b/'}", "hooks.h.url: this is not a URL"),
        ("{url: 'https://a/ b'}", "hooks.h.url: this is not a URL"),
        ("{url: 7}", "hooks.h.url: this is not a URL"),
        ("{url: 'https://a/#b'}", "hooks.h.url: the URL has a part behind #"),
        ("{url: https://a/, token_file: /a, token_env: B}", "hooks.h.token_env: there is a token_file too"),
        (
            "{url: http://a/, token_file: /a}",
            "hooks.h.url: the token would be readable by everybody on the network",
        ),
        ("{url: http://a/, ca: /a}", "hooks.h.ca: nothing is verified over http"),
        ("{url: https://a/, headers: {Host: b}}", "hooks.h.headers.Host: this header is ours"),
        (
            "{url: https://a/, token_env: A, headers: {authorization: b}}",
            "hooks.h.headers.authorization: this header is ours",
        ),
        ("{url: https://a/, retries: 100}", "hooks.h.retries: 100 is not a number of retries"),
    ],
)
def test_a_mistake_is_said_with_its_place_and_what_to_do(written: str, problem: str) -> None:
    (found,) = problems(f"  h: {written}\n")
    assert problem in found


def test_all_mistakes_are_said_at_once() -> None:
    assert len(problems("  a b: {argv: [/a]}\n  c: {url: x}\n  d: {argv: [b], events: [c]}\n")) == 4


def test_there_are_16_at_most() -> None:
    text = "".join(f"  h{n}: {{argv: [/a]}}\n" for n in range(17))
    assert problems(text) == ["f:5:1: hooks: there are 17 hooks (write 16 at most)"]
    assert len(hooks(text.removesuffix("  h16: {argv: [/a]}\n"))) == 16


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hidden@a/",
        "https://hidden@a/",
        "ftp://a/hidden",
        "https://a/hidden b",
        "https://a:hidden/",
    ],
)
def test_a_url_that_is_wrong_is_not_repeated(url: str) -> None:
    assert "hidden" not in " ".join(problems(f"  h: {{url: '{url}'}}\n"))


def test_a_secret_is_not_in_what_a_hook_shows_of_itself() -> None:
    text = "  a: {url: https://b/hidden, headers: {X-A: hidden}}\n  c: {argv: [/d, hidden]}\n"
    assert "hidden" not in repr(hooks(text)) + "".join(str(hook.action) for hook in hooks(text))


def test_a_program_that_is_not_there_or_cannot_run_is_a_mistake(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for file, mode in ((good, 0o755), (bad, 0o644)):
        file.touch()
        file.chmod(mode)
    text = f"  a: {{argv: [{good}]}}\n  b: {{argv: [{bad}]}}\n  c: {{argv: [/nowhere]}}\n"
    loaded = loads(MAIN + text, "f", hostname="lb1")
    assert [str(problem) for problem in missing_hooks(loaded.paths)] == [
        f"f:7:14: hooks.b.argv[0]: {bad} cannot be executed on this machine (install it on the node, or correct the path: an agent without it refuses the configuration)",
        "f:8:14: hooks.c.argv[0]: there is no program /nowhere on this machine (install it on the node, or correct the path: an agent without it refuses the configuration)",
    ]
