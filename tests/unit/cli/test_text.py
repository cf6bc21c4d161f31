"""What people read: overlapping maintenances, drained servers, what was planned, and words for what is known."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from anycast import __version__
from anycast.cli import nagios, text
from anycast.core import events as ev
from anycast.core.health.phase import Outcome, Result
from anycast.core.maintenance.clocks import End, Expiry
from anycast.core.maintenance.stages import FILE, NODE, Maintenance
from anycast.core.values.configuration import Role
from anycast.core.values.standing import Condition
from anycast.ops import why
from anycast.ops.status import document
from tests.unit.ops.node import CONFIG, Node, healthy

WALL = 1_800_000_000.0


def status(node: Node) -> dict[str, Any]:
    return document(node.state, now=node.now, wall=WALL, version=__version__, pid=1)


def table(node: Node) -> list[str]:
    return text.maintenance(status(node)["maintenance"], colour=False).splitlines()[1:]


def put(node: Node, scope: str, *, by: str = "op", end: End | None = None, **more: Any) -> None:
    entry = Maintenance(reason=f"because {by}", by=by, since=WALL - 60, end=end)
    node.send(ev.MaintenanceSet(scope=scope, entry=entry, **more))


def test_a_scope_has_one_stage_however_many_maintenances_it_is_in() -> None:
    node = healthy()
    put(node, NODE, by="ada", skip_drain=True)
    node.report()
    node.send(ev.Tick(), after=30.0)
    put(node, FILE, by="file")
    put(node, "web", by="eve", end=End(at=WALL + 7200))
    lines = table(node)
    furthest = lines[0].split()[1]
    assert lines[0].startswith("node ")
    assert "with the last of 2" in lines[0]
    assert [line.split()[0] for line in lines] == ["node", "because", "because", "VIP"]
    assert "by command" in lines[2] or "by command" in lines[1]
    assert any("when the file is removed" in line for line in lines[1:3])
    assert lines[3].split()[2] == furthest
    assert "by itself in 2h00m, and the node's" in lines[3]
    assert all(furthest not in line for line in lines[1:3])


def test_what_ends_a_maintenance_is_said() -> None:
    node = healthy()
    put(node, "web", end=End(at=WALL + 600, then=Expiry.HOLD))
    put(node, "mail")
    lines = table(node)
    assert "by command, overdue in 10m00s" in next(line for line in lines if "web" in line)
    assert "by command" in next(line for line in lines if "mail" in line)


def test_a_drained_server_shows_since_when_it_is_drained() -> None:
    node = healthy()
    node.send(ev.Tick(), after=5.0)
    put(node, "web/rs1")
    found = status(node)
    server = found["vips"][0]["services"][0]["servers"][0]
    assert (server["drained"], server["drained_since_s"], server["since_s"]) == (True, 60.0, 5.0)
    row = next(line for line in text.status(found, colour=False).splitlines() if " rs1 " in line)
    assert " drained " in row
    assert " 1m00s" in row


def test_what_was_planned_is_no_alarm() -> None:
    node = healthy()
    assert [vip["level"] for vip in status(node)["vips"]] == ["ok", "ok"]
    put(node, "web", skip_drain=True)
    node.report(announced=())
    web, mail = status(node)["vips"]
    assert (web["level"], mail["level"]) == ("planned", "critical")
    rows = text.status(status(node), colour=True).splitlines()
    assert "\x1b[31m" not in next(row for row in rows if "vip_maintenance" in row)
    assert "\x1b[31m" in next(row for row in rows if row.startswith("mail "))


def test_a_backup_is_told_and_no_alarm() -> None:
    vips = tuple(replace(one, role=Role.BACKUP) for one in CONFIG.vips[:1])
    node = healthy(replace(CONFIG, vips=(*vips, *CONFIG.vips[1:])))
    found = status(node)
    assert [(vip["role"], vip["level"]) for vip in found["vips"]] == [("backup", "ok"), ("primary", "ok")]
    rows = text.status(found, colour=False).splitlines()
    assert next(row for row in rows if row.startswith("web ")).endswith(" backup")
    del found["vips"][0]["role"]  # of an older agent
    assert "backup" not in text.status(found, colour=False)


def test_acknowledged_by_exabgp_is_what_is_said() -> None:
    node = healthy()
    rows = text.status(status(node), colour=False).splitlines()
    assert "EXABGP" in next(row for row in rows if row.startswith("VIP "))
    assert "acknowledged" in next(row for row in rows if row.startswith("mail "))
    (vip, *_) = node.state.config.vips
    told = why.document(node.state, vip, {}, now=node.now, wall=WALL)
    assert told["text"].startswith("web is announced (acknowledged by ExaBGP): ")


def test_what_stands_is_in_status_nagios_and_why() -> None:
    node = healthy()
    node.send(ev.ConditionSet(kind=Condition.MAINTENANCE_NOT_SAVED, text="the disk is full"))
    node.send(ev.Tick(), after=61.0)
    node.report()
    found = status(node)
    assert found["standing"] == [
        {
            "kind": "maintenance_not_saved",
            "about": "",
            "text": "the disk is full",
            "since": "2027-01-15T07:58:59Z",
            "since_s": 61.0,
        }
    ]
    assert "  the disk is full (for 1m01s)" in text.status(found, colour=False)
    state, line = nagios.report(found)
    assert (state, "the disk is full; " in line) == (nagios.State.WARNING, True)
    (vip, *_) = node.state.config.vips
    told = why.document(node.state, vip, {}, now=node.now, wall=WALL)
    assert told["standing"][0]["text"] == "the disk is full, since 07:58:59Z"
    assert "what is wrong with the node:\n  - the disk is full" in why.text(told)
    assert "what is wrong with the node\n  - the disk is full" in text.why(told, colour=False)


def test_a_check_that_warns_is_a_warning_for_nagios() -> None:
    node = healthy()
    target = next(iter(node.state.index.targets))
    result = Result(outcome=Outcome.OK, detail="the certificate expires in 3 days")
    node.send(ev.Probed(results=((target, result),)))
    state, line = nagios.report(status(node))
    assert state is nagios.State.WARNING
    assert "warns: the certificate expires in 3 days" in line


def test_several_servers_were_taken_out() -> None:
    node = healthy()
    for server in ("rs1", "rs2"):
        put(node, f"web/{server}")
    (vip, *_) = node.state.config.vips
    told = why.document(node.state, vip, {}, now=node.now, wall=time.time())
    assert any("rs1, rs2 were taken out" in line for line in told["would_change"])


def test_events_are_told_in_utc_and_say_so() -> None:
    body = {
        "time": "2027-01-15T08:00:00.123Z",
        "level": "info",
        "event": "x.y",
        "fields": {"a": None, "b": 1},
    }
    assert text.event(body, colour=False) == "2027-01-15 08:00:00Z  info     x.y  b=1"


def test_the_end_of_a_maintenance_is_a_time_for_people() -> None:
    node = healthy()
    for scope, end in (("web", End(at=WALL)), ("mail", None), (FILE, None)):
        put(node, scope, end=end)
    ends = [log.fields["ends"] for log in node.log if log.event == "maintenance.began"]
    assert ends == ["2027-01-15T08:00:00Z", "by command", "with the file"]


def test_who_ended_it_is_in_the_event() -> None:
    node = healthy()
    put(node, "web")
    node.send(ev.MaintenanceSet(scope="web", entry=None, by="ada"))
    (ended,) = [log for log in node.log if log.event == "maintenance.ended"]
    assert replace(ended, fields=dict(ended.fields)).fields == {"scope": "web", "why": "off", "by": "ada"}
