"""The exit status of every verb, as README.md has it: scripts and service managers go by them."""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from anycast.agent.answers import PlanAnswer, ReloadAnswer
from anycast.cli.exits import ExitCode
from anycast.cli.main import main
from anycast.cli.parser import parser
from anycast.core.planned import Plan, RouteChange
from anycast.core.values.fates import Way
from tests.unit.cli.test_node import cli, serving
from tests.unit.ops.node import Node, Operator, healthy

README = Path(__file__).parents[3] / "README.md"
SAVED = Path(__file__).parents[1] / "importers" / "ipvs" / "saved.save"
GOOD = """\
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
vips: {web: {address: 192.0.2.1, port: 80, servers: [127.0.0.1]}}
hooks:
  well: {argv: [/bin/true]}
  ill: {argv: [/bin/false]}
"""

# Without an agent: words, where GOOD, BAD, OPEN (a listening port), SHUT (one that is not) are filled in.
ALONE: dict[str, list[tuple[str, int]]] = {
    "agent": [("agent --config BAD", 78), ("agent --nothing", 2)],
    "init": [
        (
            "init - --address 10.2.1.1 --as 65001 --router 10.2.1.254,65000 --vip 192.0.2.1,80 --server 10.9.2.1",
            0,
        ),
        ("init GOOD", 1),  # it is there
        ("init - --address 10.2.1.1", 2),
        ("init - --address ::1 --as 65001", 2),
        (
            "init - --address 10.2.1.1 --as 65001 --router 10.2.1.254,65000 --vip 192.0.2.1,80 --server ::1",
            78,
        ),
    ],
    "announce": [("announce", 2)],  # its standard input is no pipe of ExaBGP's
    "announce-table": [("announce-table --nonsense", 2)],
    # What cannot be had is told in the report. A file that is there is never replaced.
    "bug-report": [("bug-report --config GOOD -o GOOD", 1), ("bug-report --nothing", 2)],
    "budget": [
        ("budget --config GOOD", 0),
        ("budget --config GOOD --max 1ms", 1),
        ("budget --config BAD", 78),
        ("budget --max soon", 2),
    ],
    "check": [
        ("check GOOD", 0),
        ("check BAD", 78),
        ("check GOOD --json", 0),
        ("check BAD --json", 78),
        ("check a b", 2),
        ("check --against-running GOOD", 3),
        ("check --against-running BAD", 78),
        ("check --allow-removal GOOD", 2),
    ],
    "doctor": [("doctor --config BAD", 78), ("doctor --yes", 2), ("doctor --fix --json", 2)],
    "drain": [("drain", 3), ("drain --timeout 5s", 2)],
    "drain-server": [("drain-server web/rs1", 3), ("drain-server web", 2)],
    "exabgp-reload": [
        ("exabgp-reload --new BAD --pid 1 GOOD", 1),
        ("exabgp-reload GOOD", 2),
        ("exabgp-reload --new BAD --pid 0 GOOD", 2),
    ],
    "events": [("events", 3), ("events --since yesterday", 2)],
    "fleet": [("fleet", 3), ("fleet --json", 3), ("fleet --watch 0", 2), ("fleet lb1", 2)],
    "hook": [
        ("hook test well --config GOOD", 0),
        ("hook test ill --config GOOD", 1),
        ("hook test none --config GOOD", 1),
        ("hook test well --config BAD", 78),
        ("hook test", 2),
    ],
    "import": [
        (f"import {SAVED}", 0),
        (f"import {SAVED} --strict", 1),  # its mark has no address
        (f"import {SAVED} -o GOOD", 1),  # it is there
        ("import ldirectord BAD", 78),
        ("import", 2),
    ],
    "maintenance": [
        ("maintenance on", 3),
        ("maintenance status", 3),
        ("maintenance", 2),
        ("maintenance on web", 2),
        ("maintenance on --on-expiry hold", 2),
    ],
    "plan": [
        ("plan --nodes 2 --busy 20% --clients 5000", 0),
        ("plan --nodes 2 --busy 45% --clients 5000", 1),
        ("plan --nodes x", 2),
    ],
    "probe": [
        ("probe tcp://127.0.0.1:OPEN", 0),
        ("probe tcp://127.0.0.1:SHUT", 1),
        ("probe {type:tcp,address:127.0.0.1,port:x}", 78),
        ("probe web --config BAD", 78),
        ("probe", 2),
    ],
    "reload": [
        ("reload", 3),
        ("reload --dry-run", 3),
        ("reload --json", 2),
        ("reload --dry-run --confirm", 2),
    ],
    "render": [
        ("render exabgp --config GOOD", 0),
        ("render exabgp --config BAD", 78),
        ("render exabgp --config GOOD -o /proc/none/exabgp.conf", 1),
        ("render frr-bfd --config GOOD", 78),  # there is no bgp.bfd
        ("render router-frr --config GOOD", 0),
        ("render router-frr --config GOOD --config BAD", 78),
        ("render nftables --config GOOD", 0),
        ("render nftables --accept postrouting --config GOOD", 2),
        ("render iptables --accept --update --config GOOD", 0),
        ("render iptables --config BAD", 78),
        ("render haproxy", 2),
    ],
    "schema": [("schema", 0)],
    "simulate": [("simulate leave:2", 0), ("simulate nonsense", 2)],
    "status": [("status", 3), ("status --nagios", 3), ("status --json --nagios", 2), ("status --watch 0", 2)],
    "undrain-server": [("undrain-server web/rs1", 3), ("undrain-server web", 2)],
    "version": [("version", 0)],
    "why": [("why web", 3), ("why", 2)],
}

# With an agent whose node is well, one after the other.
WITH_AGENT = [
    ("status", 0),
    ("status --json", 0),
    ("status --nagios", 0),
    ("fleet", 1),  # it has none
    ("drain-server web/rs1", 0),
    ("status --nagios", 1),
    ("drain-server web/rs2", 1),  # the quorum would be lost: nothing is done
    ("drain-server web/rs2 --force", 0),
    ("status --nagios", 2),
    ("undrain-server web/rs1", 0),
    ("undrain-server web/rs2", 0),
    ("drain-server web/nobody", 1),
    ("why web", 0),
    ("why nobody", 1),
    ("events", 0),
    ("events --vip nobody", 1),
    ("maintenance on --vip web", 0),
    ("maintenance status", 0),
    ("maintenance on --vip wbe", 1),
    ("maintenance off --vip web", 0),
    ("drain --reason disks", 0),
    ("status --nagios", 1),
    ("maintenance off", 0),
    ("reload", 0),
    ("reload --dry-run", 0),
    ("reload --dry-run --json", 0),
]


_ROUTE = RouteChange(prefix=ip_network("192.0.2.1"), vip="web", way=Way.WITHDRAWN)
PLANS = {
    "changes": PlanAnswer(ok=True, plan=Plan(routes=(_ROUTE,))),
    "other words alone": PlanAnswer(ok=True, changes=("timing: drain 2s -> 3s",), plan=Plan()),
    "refused": PlanAnswer(ok=False, problems=("no VIP would be left",), plan=Plan(routes=(_ROUTE,))),
}


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    monkeypatch.setenv("ANYCAST_SOCKET", str(tmp_path / "none.sock"))
    monkeypatch.setattr("sys.stdin", None)
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text("vips: {}\n")
    with socket.socket() as open_, socket.socket() as shut:
        for one in (open_, shut):
            one.bind(("127.0.0.1", 0))
        open_.listen()
        yield {
            "GOOD": str(tmp_path / "good.yaml"),
            "BAD": str(tmp_path / "bad.yaml"),
            "OPEN": str(open_.getsockname()[1]),
            "SHUT": str(shut.getsockname()[1]),
        }


def status_of(line: str, words: dict[str, str]) -> int:
    argv = [re.sub("GOOD|BAD|OPEN|SHUT", lambda found: words[found[0]], word) for word in line.split()]
    try:
        return main(argv)
    except SystemExit as exit_:
        return int(exit_.code or 0)


def test_every_verb_stands_in_the_table() -> None:
    (verbs,) = (one for one in parser()._actions if isinstance(one, argparse._SubParsersAction))
    assert set(ALONE) == set(verbs.choices)


@pytest.mark.parametrize(("line", "code"), [pair for pairs in ALONE.values() for pair in pairs])
def test_a_verb_ends_with_its_status(line: str, code: int, words: dict[str, str]) -> None:
    if line.split(maxsplit=1)[0] in ("agent", "announce", "doctor"):
        # They take over streams and signals of the process they are in.
        argv = [words.get(word, word) for word in line.split()]
        assert asyncio.run(cli(*argv)).code == code
    else:
        assert status_of(line, words) == code


def test_the_verbs_that_talk_to_the_agent_end_with_their_status(tmp_path: Path) -> None:
    node: Node = healthy(now=time.monotonic())
    operator = Operator(node)
    path = tmp_path / "control.sock"

    async def run() -> list[tuple[str, int]]:
        found = []
        async with serving(operator, path):
            for line, _ in WITH_AGENT:
                found.append((line, (await cli(*line.split(), "--socket", str(path))).code))
                node.report()
            operator.answer = ReloadAnswer(ok=False, problems=("a.yaml:1:1: wrong",))
            found.append(("a bad reload", (await cli("reload", "--socket", str(path))).code))
            for name, answer in PLANS.items():
                operator.planned = answer
                found.append((name, (await cli("reload", "--dry-run", "--socket", str(path))).code))
        return found

    planned = [("changes", 10), ("other words alone", 10), ("refused", 78)]
    assert asyncio.run(run()) == [*WITH_AGENT, ("a bad reload", 78), *planned]


def test_the_statuses_are_those_of_the_readme() -> None:
    (table,) = re.findall(r"^\| exit status \| means \|\n((?:\|.*\n)+)", README.read_text(), re.MULTILINE)
    named = {
        int(code)
        for cell in re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)
        for code in cell.split(", ")
    }
    assert named >= set(map(int, ExitCode))
