"""What is shown as right is right, and what somebody probably meant is named."""

from __future__ import annotations

import textwrap

import pytest
import yaml

from anycast.config.load import loads
from anycast.config.problem import ConfigError, Problem
from anycast.config.schema.advice import _EXPLAINED, LINES, lines_for

BGP = """\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{address: 10.2.1.254, remote_as: 65000}]
"""


def first(text: str) -> Problem:
    with pytest.raises(ConfigError) as caught:
        loads(text, "f", hostname="lb1")
    return caught.value.problems[0]


@pytest.mark.parametrize("lines", [*LINES.values(), *(advice.lines for advice in _EXPLAINED.values())])
def test_the_lines_that_are_shown_are_yaml_of_one_entry(lines: str) -> None:
    tree = yaml.safe_load(lines)
    assert len(tree) == 1 or set(tree) == {"forwarding", "tunnel"}
    assert all(len(line) <= 100 for line in lines.split("\n"))


WHOLE = [
    *[
        text
        for path, text in LINES.items()
        if len(path) == 1 and path[0] in ("bgp", "node", "timing", "timeouts", "hooks")
    ],
    LINES["connection_sync",],
    LINES["checks",],
    LINES["pools",],
    LINES["vips",],
]
OF_VIP = [
    "quorum",
    "persistence",
    "tunnel",
    "forwarding",
    "flags",
    "protocol",
    "communities",
    "large_communities",
    "extended_communities",
    "as_path_prepend",
    "local_preference",
    "role",
    "when_unhealthy",
    "require",
]


@pytest.mark.parametrize("lines", WHOLE)
def test_a_section_that_is_shown_loads(lines: str) -> None:
    loads((lines if lines.startswith("bgp") else BGP + lines) + "\n", hostname="lb1")


@pytest.mark.parametrize("name", [*OF_VIP, "services", "servers", "ports", "port", "check"])
def test_what_is_shown_of_a_vip_loads(name: str) -> None:
    own = {
        "servers": "servers: [10.9.2.1, 10.9.2.2]",
        "port": "port: 80",
        "check": "check: {type: tcp, port: 80}",
        name: LINES[name,],
    }
    if name in ("services", "ports"):
        del own["port"]
    lines = textwrap.indent("\n".join(own.values()), "    ")
    loads(f"{BGP}vips:\n  web:\n    address: 192.0.2.1\n{lines}\n", hostname="lb1")


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        (("vips", "a", "services", 0, "check"), LINES["check",]),
        (("pools", "a", "servers", 3), LINES["servers", "*"]),
        (("pools", "servers"), LINES["pools", "*"]),
        (("bgp", "neighbors", 0), LINES["bgp", "neighbors", "*"]),
        (("timing", "drain"), ""),
    ],
)
def test_lines_are_found_by_the_end_of_the_path(path: tuple[str | int, ...], lines: str) -> None:
    assert lines_for(path) == lines


@pytest.mark.parametrize(
    ("text", "do", "lines"),
    [
        ("vips: [a]", "write `key: value` lines below it", LINES["vips",]),
        (
            "vips: {w: {address: 192.0.2.1, services: {http: {port: 80}}}}",
            "services have no names: write a line with - for each",
            LINES["services",],
        ),
        ("checks: {w: {type: https, cert: /a}}", "did you mean certificate?", ""),
        (
            "checks: {w: {type: https, tls: true}}",
            "https always speaks TLS: its settings stand beside path",
            "check: {type: https",
        ),
        ("checks: {w: {type: http, verify: no}}", "there is no TLS with type: http", "type: https"),
        ("checks: {w: {type: httpx}}", "did you mean http?", ""),
        (
            "checks: {w: {type: quantum}}",
            "the most used are tcp, http, https, udp, dns; docs/checks.md has them all",
            "",
        ),
        (
            "pools: {w: {forwarding: nat, servers: [10.9.2.1]}}",
            "this belongs to the VIP or its service",
            "forwarding: nat",
        ),
        (
            "vips: {w: {address: 192.0.2.1, port: 80, servers: [10.9.2.1], forwarding: gre}}",
            "write dr, nat or tunnel",
            "forwarding: tunnel",
        ),
        (
            "vips: {w: {address: 192.0.2.1, port: 80, servers: [10.9.2.1], pools: {a: 1}}}",
            "a service has one pool",
            "servers:",
        ),
        (
            "vips: {w: {address: 192.0.2.1, port: 80, servers: [10.9.2.1], backup: b}}",
            "a server that stands in is in a pool, which sorry of the VIP names",
            "role: backup",
        ),
        (
            "pools: {w: {servers: [10.9.2.1], check: https://www.example.net/health}}",
            "write what is asked of each real server",
            "check: {type: https, host: www.example.net, path: /health}",
        ),
        ("pools: {w: {servers: [10.9.2.1], check: htp}}", "did you mean the type http?", ""),
        (
            "vips: {'my web': {address: 192.0.2.1, port: 80, servers: [10.9.2.1]}}",
            "write my-web: letters",
            "",
        ),
        ("inclood: a.yaml", "did you mean include?", ""),
        *(
            (f"vips: {{w: {{address: 192.0.2.1, port: 80, servers: [10.9.2.1], {key}}}}}", do, lines)
            for key, do, lines in (
                ("fallback: page", "servers that stand in are a pool, and sorry is its name", "sorry: page"),
                ("prefix: 192.0.2.0/24", "did you mean announce?", "announce: 192.0.2.0/24"),
                ("export: [a]", "what a router gets stands with the router", "export: [web"),
                ("view: true", "what the routers send back belongs to bgp", "bgp: {view: true}"),
                ("weight: 3", "a weight belongs to a real server; the node's own", "bgp: {weight: 3}"),
            )
        ),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(text: str, do: str, lines: str) -> None:
    problem = first(f"{BGP}{text}\n")
    assert problem.do.startswith(do)
    assert problem.lines.startswith(lines)


def test_a_variable_in_the_place_of_a_password_is_no_password() -> None:
    problem = first(BGP.replace("65000}", "65000, password: '${BGP_PASSWORD}'}"))
    assert problem.do == "write password_env: BGP_PASSWORD, or password_file"


def test_a_key_is_not_missed_where_another_word_for_it_is_written() -> None:
    text = BGP.replace("local_as", "as").replace("remote_as", "peer_as")
    with pytest.raises(ConfigError) as caught:
        loads(text, "f", hostname="lb1")
    assert [problem.do for problem in caught.value.problems] == [
        "did you mean local_as?",
        "did you mean remote_as?",
    ]
