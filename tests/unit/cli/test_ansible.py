"""The example for Ansible: every command in it is one that there is, and it takes one node after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2.nativetypes import NativeEnvironment

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
    on = next(one for one in commands(PLAYED["tasks"]) if "on" in one)
    assert {"--wait", "--wait-turn"} < set(on)


def is_true(expression: str, **known: object) -> bool:
    """As Ansible finds it."""
    environment = NativeEnvironment()
    environment.filters["from_json"] = json.loads
    return bool(environment.from_string(f"{{{{ {expression} }}}}").render(known))


def printed(*found: tuple[str, str]) -> dict[str, str]:
    """What `maintenance status --json` prints of scopes and reasons."""
    entries = [{"scope": scope, "reason": reason} for scope, reason in found]
    return {"stdout": json.dumps({"maintenance": entries})}


def test_a_node_that_somebody_has_out_already_ends_the_play_before_anything_is_done() -> None:
    look, gate = PLAYED["tasks"][:2]
    argv = look["ansible.builtin.command"]["argv"]
    assert argv == ["anycast", "maintenance", "status", "--json"]
    that = gate["ansible.builtin.assert"]["that"]

    def goes_on(*found: tuple[str, str]) -> bool:
        return is_true(that, **{look["register"]: printed(*found)})

    assert goes_on()
    assert goes_on(("web", "a new key"), ("pool/rs1", "disks"))
    assert not goes_on(("", "new disks"))
    assert not goes_on(("web", "a new key"), ("", ""))


def test_what_is_not_let_go_ends_no_maintenance_of_others() -> None:
    (block,) = (task for task in PLAYED["tasks"] if "rescue" in task)
    look, off, _ = block["rescue"]
    assert off["ansible.builtin.command"]["argv"] == ["anycast", "maintenance", "off"]

    def goes_back(*found: tuple[str, str]) -> bool:
        return is_true(off["when"], reason="upgrade, by ada", **{look["register"]: printed(*found)})

    assert goes_back(("", "upgrade, by ada"))
    assert not goes_back(("", "new disks"), ("web", "upgrade, by ada"))
    assert not goes_back()
