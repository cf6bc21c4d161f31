"""The example for Ansible: every command in it is one that there is, and it takes one node after the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from anycast.cli.parser import lacking, parser

PLAY = Path(__file__).parents[3] / "examples" / "ansible" / "upgrade.yml"
[PLAYED] = yaml.safe_load(PLAY.read_text("utf-8"))


def commands(tasks: list[dict[str, Any]]) -> Iterator[list[str]]:
    for task in tasks:
        for part in ("block", "rescue", "always"):
            yield from commands(task.get(part, []))
        if "ansible.builtin.command" in task:
            yield [
                str(PLAYED["vars"]["patience"]) if "patience" in one else one
                for one in task["ansible.builtin.command"]["argv"]
            ]


@pytest.mark.parametrize("command", list(commands(PLAYED["tasks"])), ids=" ".join)
def test_every_command_is_one_that_there_is(command: list[str]) -> None:
    assert command[0] == "anycast"
    args = parser().parse_args(command[1:])
    assert lacking(args) is None


def test_it_takes_one_node_after_the_other_and_ends_with_the_first_that_fails() -> None:
    assert (PLAYED["serial"], PLAYED["any_errors_fatal"]) == (1, True)
    first = next(commands(PLAYED["tasks"]))
    assert {"--wait", "--wait-turn"} < set(first)
