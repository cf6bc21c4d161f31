from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anycast.cli.main import main
from anycast.cli.parser import CONFIG, SOCKET, parser

VERBS = [
    ["agent"],
    ["check"],
    ["check", "file.yaml", "--json"],
    ["doctor"],
    ["doctor", "--config", "file.yaml", "--connections", "1000000", "--json"],
    ["doctor", "--fix", "--yes"],
    ["schema"],
    ["render", "exabgp", "--env", "-o", "exabgp.env"],
    ["render", "exabgp", "--env", "exabgp.env", "-o", "exabgp.conf"],
    ["maintenance", "on", "--vip", "web", "--reason", "new disks", "--json"],
    ["maintenance", "on", "--for", "1h30m", "--on-expiry", "hold", "--wait", "--timeout", "5m", "--now"],
    ["maintenance", "on", "--until", "18:30"],
    ["maintenance", "off", "--socket", "/tmp/a.sock"],
    ["drain", "--wait", "--timeout", "45s", "--reason", "stop"],
    ["maintenance", "status", "--config", "file.yaml"],
    ["status", "--json"],
    ["reload"],
    ["version"],
    ["import", "keepalived", "--mh", "keepalived.conf", "-o", "anycast.yaml"],
    ["simulate", "--flows", "10k", "leave:1", "--sync", "return:1"],
]


@pytest.mark.parametrize("argv", VERBS, ids=" ".join)
def test_every_verb_parses(argv: list[str]) -> None:
    assert parser().parse_args(argv).verb == argv[0]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nothing"],
        ["maintenance"],
        ["maintenance", "off", "--reason", "x"],
        ["maintenance", "off", "--for", "2h"],
        ["maintenance", "on", "--timeout", "5s"],
        ["drain", "--vip", "web"],
        ["render", "haproxy"],
        ["status", "--socket", "a", "--config", "b"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert "usage: anycast" in capsys.readouterr().err


def test_paths_come_from_the_option_then_the_environment_then_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ANYCAST_CONFIG", raising=False)
    monkeypatch.delenv("ANYCAST_SOCKET", raising=False)
    assert str(parser().parse_args(["agent"]).config) == CONFIG
    assert str(parser().parse_args(["status"]).socket) == SOCKET
    monkeypatch.setenv("ANYCAST_CONFIG", "/env.yaml")
    monkeypatch.setenv("ANYCAST_SOCKET", "/env.sock")
    assert str(parser().parse_args(["budget"]).config) == "/env.yaml"
    assert str(parser().parse_args(["status"]).socket) == "/env.sock"
    # The configuration is loaded only when it was named: the environment is meant for the agent.
    assert parser().parse_args(["status"]).config is None
    assert str(parser().parse_args(["agent", "--config", "/own.yaml"]).config) == "/own.yaml"


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("anycast ")


def test_the_plugin_starts_without_anything_it_does_not_need() -> None:
    # Its standard input is at an end, so it ends at once, whatever it makes of that.
    code = (
        "import sys\n"
        "from anycast.cli.main import main\n"
        "try:\n"
        "    main(['announce', '--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names & {'aiohttp', 'asyncio', 'prometheus_client', 'pydantic', 'yaml', 'structlog'}),\n"
        "      'anycast.plugin.main' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == "[] True"
    assert done.stderr.startswith("usage: anycast announce ")
    assert "ExaBGP runs this, not a person." in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("argv", [["status"], ["maintenance", "on"], ["reload"]], ids=" ".join)
def test_talking_to_the_agent_takes_the_standard_library_only(argv: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from anycast.cli.main import main\n"
        f"assert main({[*argv, '--socket', str(tmp_path / 'none.sock')]!r}) == 3\n"
        "names = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(names & {'aiohttp', 'asyncio', 'prometheus_client', 'pydantic', 'yaml', 'structlog'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
    assert "no such socket" in done.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As in `anycast schema | head -1`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "anycast", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    with contextlib.closing(process.stderr) as errors:  # type: ignore[type-var]
        assert errors is not None
        said = errors.read()
    assert (process.wait(timeout=30), said) == (0, "")


def test_a_negative_time_is_told_from_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["maintenance", "on", "--for", "-5m"])
    # From Python 3.14 on, argparse takes -5m for a negative number, and no more for an option.
    newer = sys.version_info >= (3, 14)
    said = "--for: '-5m' is not a time" if newer else "--for: expected one argument (no time is negative;"
    assert said in capsys.readouterr().err


def test_what_the_manual_page_is_made_of_can_be_set_by_every_troff() -> None:
    def each(one: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
        yield one
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                for verb in action.choices.values():
                    yield from each(verb)

    helps = {one.prog: one.format_help() for one in each(parser())}
    assert len(helps) > 20
    assert [prog for prog, text in helps.items() if not text.isascii()] == []
