"""Every key of every kind of check: what the core gets, and what is said of a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from anycast.config import schema
from anycast.config.load import loads
from anycast.config.problem import ConfigError
from anycast.core.model import Check, CheckKind, HttpCheck

FULL = Path(__file__).parents[3].joinpath("examples", "full.yaml").read_text(encoding="utf-8")


def text(check: str) -> str:
    return f"""\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{{address: 10.2.1.254, remote_as: 65000}}]
vips:
  web: {{address: 192.0.2.1, port: 80, check: c, servers: [10.9.2.1]}}
checks:
  c: {check}
"""


def check_of(check: str) -> Check:
    return loads(text(check), hostname="lb1").config.vips[0].services[0].pool.check


def kind_of(check: str) -> CheckKind:
    return check_of(check).kind


def problems(check: str) -> list[str]:
    """What is wrong with the check, without the file's name; its first column is 6."""
    with pytest.raises(ConfigError) as caught:
        loads(text(check), "f", hostname="lb1")
    return [str(problem).removeprefix("f:8:") for problem in caught.value.problems]


def test_every_key_of_every_kind_stands_in_the_full_example() -> None:
    written: dict[str, set[str]] = {}
    found = [yaml.safe_load(FULL)]
    while found:
        here = found.pop()
        if isinstance(here, dict):
            found += here.values()
            if isinstance(here.get("type"), str):
                written.setdefault(here["type"], set()).update(here)
        elif isinstance(here, list):
            found += here
    common = set(schema.TcpCheck.model_fields)
    for name, kind in schema.CHECKS.items():
        shown = written.get("https" if name == "http" else name, set())
        assert set(kind.model_fields) - common <= shown, name
    assert common <= set().union(*written.values())


KINDS: list[tuple[str, CheckKind]] = [
    (
        "{type: http, headers: {X-Check: 'a b'}, body: '^ok'}",
        HttpCheck(tls=False, headers=(("X-Check", "a b"),), body="^ok"),
    ),
    (
        "{type: https, sni: a.example, ca: /a.pem, certificate: /b.pem, key: /c.pem, expiry_warning: 14d}",
        HttpCheck(
            tls=True,
            sni="a.example",
            ca="/a.pem",
            certificate="/b.pem",
            key="/c.pem",
            expiry_warning=14 * 86400.0,
        ),
    ),
]


@pytest.mark.parametrize(("written", "kind"), KINDS)
def test_what_is_written_is_what_the_core_gets(written: str, kind: CheckKind) -> None:
    assert kind_of(written) == kind


MISTAKES = [
    ('{type: http, headers: {X: "a\\nb"}}', "32: checks.c.headers.X: a header cannot have this value (write"),
    ("{type: http, headers: {X: 1}}", "32: checks.c.headers.X: 1 is not text (write it in quotes)"),
    ("{type: http, headers: {'a b': x}}", "36: checks.c.headers['a b']: 'a b' is not a header's name (write"),
    (
        "{type: http, headers: {Host: x}}",
        "29: checks.c.headers.Host: the check writes this header itself (write host",
    ),
    (
        "{type: http, body: '('}",
        "25: checks.c.body: it is no regular expression: missing ): ( (write RE2 syntax:",
    ),
    (
        "{type: http, body: 'x', method: HEAD}",
        "19: checks.c.body: the answer to HEAD has no body (write method: GET,",
    ),
    ("{type: https, key: /c.pem}", "3: checks.c.certificate: it is missing, and there is a key (write"),
    (
        "{type: https, verify: false, ca: /c}",
        "35: checks.c.ca: nothing is verified with verify: false (remove one",
    ),
    ("{type: https, ca: c.pem}", "24: checks.c.ca: 'c.pem' is not a file's absolute path (write one, as in"),
    ("{type: https, sni: a..b}", "25: checks.c.sni: 'a..b' is not a server's name (write one, as in"),
    ("{type: https, expiry_warning: 14 days}", "36: checks.c.expiry_warning: '14 days' is not a time that"),
]


@pytest.mark.parametrize(("written", "said"), MISTAKES)
def test_a_mistake_is_told_once_with_its_place(written: str, said: str) -> None:
    (found,) = problems(written)
    assert found.startswith(said), found
