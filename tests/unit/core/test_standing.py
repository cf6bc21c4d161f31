"""What is wrong with a node stands until it is over, and is told at its beginning and its end."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from anycast.core import events as ev
from anycast.core.health.phase import Outcome
from anycast.core.maintenance.clocks import End
from anycast.core.maintenance.stages import NODE, Maintenance
from anycast.core.rendering import RELOAD, RESTART, accepted, digest, setups
from anycast.core.standing import CLOCK_STANDS
from anycast.core.values.configuration import Neighbor, Role
from anycast.core.values.report import ATTRIBUTES, SILENT, NeighborState, Report
from anycast.core.values.standing import MAX_TEXT, Condition
from tests.fakes import EPOCH, Node, up, vip

ROUTER = Neighbor(address=ip_address("10.2.1.254"), remote_as=65000)


def kinds(node: Node) -> set[Condition]:
    return {kind for kind, _ in node.state.standing}


def rendered(node: Node) -> str:
    return digest(node.state.config.bgp)


def reports(node: Node, **fields: object) -> None:
    report = Report(**{"seq": 1, "exabgp_pid": 47, **fields})  # type: ignore[arg-type]
    node.send(ev.PluginReported(source=1, report=report))


def with_neighbors(node: Node, *neighbors: Neighbor) -> None:
    bgp = replace(node.state.config.bgp, neighbors=neighbors)
    node.send(ev.Reconfigured(config=replace(node.state.config, bgp=bgp)))


def test_what_others_tell_of_stands_since_its_beginning_until_they_say_that_it_is_over() -> None:
    node = up()
    node.send(ev.ConditionSet(kind=Condition.OWNED_NOT_SAVED, text="disk full"))
    began = node.now
    node.wait(60)
    node.send(ev.ConditionSet(kind=Condition.OWNED_NOT_SAVED, text="read-only" + "x" * MAX_TEXT))
    (one,) = node.state.standing.values()
    assert (one.kind, one.since, one.text[:9], len(one.text)) == (
        Condition.OWNED_NOT_SAVED,
        began,
        "read-only",
        MAX_TEXT,
    )
    node.send(ev.ConditionSet(kind=Condition.OWNED_NOT_SAVED))
    node.send(ev.ConditionSet(kind=Condition.OWNED_NOT_SAVED))
    assert not node.state.standing
    assert [log.event for log in node.logs if log.event.startswith("condition.")] == [
        "condition.began",
        "condition.ended",
    ]
    assert node.events("condition.ended")[0].fields["seconds"] == 60.0


def test_two_of_a_kind_end_each_by_itself() -> None:
    node = up()
    for about in ("a", "b"):
        node.send(ev.ConditionSet(kind=Condition.SOCKET_UNAVAILABLE, text="no", about=about))
    node.send(ev.ConditionSet(kind=Condition.SOCKET_UNAVAILABLE, about="a"))
    assert [one.about for one in node.state.standing.values()] == ["b"]


def test_an_exabgp_that_was_started_with_an_older_configuration_stands_until_it_is_started_again() -> None:
    node = up()
    with_neighbors(node, ROUTER)
    old = rendered(node)
    reports(node, rendered=old)
    assert kinds(node) == set()
    with_neighbors(node, ROUTER, replace(ROUTER, address=ip_address("10.2.1.253")))
    assert kinds(node) == {Condition.EXABGP_OUTDATED}
    node.wait(600)
    assert kinds(node) == {Condition.EXABGP_OUTDATED}
    reports(node, rendered=rendered(node))
    assert kinds(node) == set()


def test_another_vip_needs_no_other_exabgp() -> None:
    node = up()
    reports(node, rendered=rendered(node))
    node.reload(vip(), vip("mail", number=2))
    assert kinds(node) == set()


def test_an_exabgp_of_the_release_before_is_good_with_the_addresses_it_has_and_with_others_since() -> None:
    node = up()
    old = accepted(node.state.config.bgp, node.state.index.addresses) - {rendered(node)}
    (before,) = old
    reports(node, rendered=before)
    assert kinds(node) == set()
    node.reload(vip(), vip("mail", number=2))
    assert kinds(node) == set()
    with_neighbors(node, ROUTER, replace(ROUTER, address=ip_address("10.2.1.253")))
    assert kinds(node) == {Condition.EXABGP_OUTDATED}


def test_one_that_says_nothing_is_not_known_to_be_older() -> None:
    node = up()
    reports(node, rendered="of something else")
    assert kinds(node) == {Condition.EXABGP_OUTDATED}
    reports(node)
    assert kinds(node) == set()


def test_a_plugin_of_an_older_release_that_would_make_a_primary_of_a_backup_stands_until_it_is_replaced() -> (
    None
):
    node = up()
    reports(node, attributes=1)
    assert kinds(node) == set()
    node.reload(replace(vip(), role=Role.BACKUP))
    assert kinds(node) == {Condition.EXABGP_OUTDATED}
    assert "routers take a backup for a primary" in str(node.state.standing)
    reports(node, attributes=ATTRIBUTES)
    assert kinds(node) == set()


@pytest.mark.parametrize("version", ["5.0.0", "5.0.12", "5.0.12-1"])
def test_an_exabgp_that_peers_can_write_events_of_stands_until_a_newer_one_reports(version: str) -> None:
    node = up()
    reports(node, exabgp_version=None)
    assert kinds(node) == set()
    reports(node, exabgp_version=version)
    assert kinds(node) == {Condition.EXABGP_VULNERABLE}
    (one,) = node.state.standing.values()
    assert f"ExaBGP {version} (pid 47): install 5.0.13 or newer, then restart it ({RESTART})" in one.text
    reports(node, exabgp_version="5.0.13", exabgp_pid=48)
    assert kinds(node) == set()


@pytest.mark.parametrize("version", ["4.2.25", "5.0.13", "5.0.15-3", "5.1", "6.0.0", "main", ""])
def test_no_other_version_is_vulnerable_as_far_as_it_is_known(version: str) -> None:
    """Of an ExaBGP 4 the routes that it is not given say what is wrong."""
    node = up()
    reports(node, exabgp_version=version)
    assert kinds(node) == set()


def test_a_password_that_is_changed_stands_until_another_exabgp_reports() -> None:
    node = up()
    with_neighbors(node, replace(ROUTER, password="before"))
    reports(node, rendered=rendered(node))
    with_neighbors(node, replace(ROUTER, password="after"))
    assert kinds(node) == {Condition.EXABGP_OUTDATED}
    assert "after" not in str(node.state.standing)
    report = Report(seq=1, exabgp_pid=48, rendered=rendered(node))
    node.send(ev.PluginReported(source=1, report=report))
    assert kinds(node) == set()


@pytest.mark.parametrize("changes", [{"multihop": 2}, {"ttl_security": 1}, {"port": 1790}])
def test_what_exabgp_does_not_tell_of_a_session_stands_until_it_has_read_it(
    changes: dict[str, int],
) -> None:
    node = up()
    with_neighbors(node, ROUTER)
    reports(node, rendered=rendered(node))
    with_neighbors(node, replace(ROUTER, **changes))  # type: ignore[arg-type]
    assert kinds(node) == {Condition.EXABGP_OUTDATED}
    reports(node, rendered=rendered(node), loaded=node.now + 0.1)
    assert kinds(node) == set()


def test_what_waits_for_exabgp_is_told_as_long_as_it_does() -> None:
    node = up()
    with_neighbors(node, replace(ROUTER, password="before"))
    reports(node, rendered=rendered(node))
    with_neighbors(
        node,
        replace(ROUTER, remote_as=65010, password="after"),
        replace(ROUTER, address=ip_address("10.2.1.253")),
    )
    (one,) = node.state.standing.values()
    assert f"{RESTART}): neighbor 10.2.1.253 added; neighbor 10.2.1.254 changed (" in one.text
    assert one.text.endswith(" (remote_as 65000 -> 65010, password)")
    with_neighbors(node, replace(ROUTER, password="before"))
    assert kinds(node) == {Condition.EXABGP_OUTDATED}  # a password was changed: which it has nobody knows
    reports(node, rendered=rendered(node), exabgp_pid=48)
    assert kinds(node) == set()


def test_what_exabgp_says_of_its_sessions_counts_and_a_reload_of_it_ends_what_waits() -> None:
    node = up()
    with_neighbors(node, replace(ROUTER, password="before"))
    old, there = rendered(node), tuple(setups(node.state.config.bgp))
    reports(node, rendered=old, setups=there)
    assert kinds(node) == set()
    with_neighbors(
        node,
        replace(ROUTER, remote_as=65010, password="before"),
        replace(ROUTER, address=ip_address("10.2.1.9")),
    )
    (one,) = node.state.standing.values()
    assert f"({RELOAD}): neighbor 10.2.1.9 added; neighbor 10.2.1.254 changed (remote_as 65" in one.text
    # Its command line is that of its start. It has read its file, and not that of the agent.
    node.now += 1
    reports(node, rendered=old, setups=there, loaded=node.now)
    assert kinds(node) == {Condition.EXABGP_OUTDATED}
    there = tuple(setups(node.state.config.bgp))
    reports(node, rendered=old, setups=there, loaded=node.now)
    assert kinds(node) == set()


def test_a_password_waits_until_exabgp_has_read_its_file_since() -> None:
    node = up()
    with_neighbors(node, replace(ROUTER, password="before"))
    there, since = tuple(setups(node.state.config.bgp)), node.now
    reports(node, rendered=rendered(node), setups=there, loaded=since - 5)
    with_neighbors(node, replace(ROUTER, password="after"))
    assert kinds(node) == {Condition.EXABGP_OUTDATED}
    reports(node, rendered=rendered(node), setups=there, loaded=since - 5, acks=1)
    assert kinds(node) == {Condition.EXABGP_OUTDATED}
    reports(node, rendered=rendered(node), setups=there, loaded=since + 5)
    assert kinds(node) == set()


def test_sessions_that_differ_from_what_is_configured_are_named_by_an_agent_that_has_just_started() -> None:
    node = up()
    reports(node, rendered="of something else", setups=("10.2.1.254 65001 65001 10.2.1.1 10.2.1.1 3 4",))
    (one,) = node.state.standing.values()
    assert "neighbor 10.2.1.254 changed (remote_as 65001 -> 65000, hold_time 3 -> 9)" in one.text


def test_of_a_configuration_kept_by_hand_nothing_is_said() -> None:
    node = up()
    reports(node, setups=("10.2.1.254 65001 65001 10.2.1.1 10.2.1.1 9 4",))
    assert kinds(node) == set()


def test_an_agent_that_starts_beside_an_older_exabgp_tells_which_sessions_are_missing() -> None:
    node = up()
    there = (NeighborState(address="10.2.1.9", state="up", changed=0.0),)
    reports(node, rendered="of something else", neighbors=there)
    (one,) = node.state.standing.values()
    assert "neighbor 10.2.1.254 is not there yet" in one.text
    assert "neighbor 10.2.1.9 is still there" in one.text


def test_no_password_is_in_the_digest() -> None:
    node = up()
    with_neighbors(node, replace(ROUTER, password="before"))
    before = rendered(node)
    with_neighbors(node, replace(ROUTER, password="after"))
    assert rendered(node) == before


def test_a_clock_that_was_set_stands_for_a_while_and_as_long_as_a_maintenance_has_an_end() -> None:
    node = up()
    node.wait(1)
    node.set_clock(3600)
    assert kinds(node) == {Condition.CLOCK_SET}
    node.wait(CLOCK_STANDS + 1)
    assert kinds(node) == set()
    node.maintain(end=End(at=node.wall + 7200))
    node.set_clock(-60)
    node.wait(CLOCK_STANDS + 1)
    assert kinds(node) == {Condition.CLOCK_SET}
    node.maintain(on=False)
    node.wait(1)
    assert kinds(node) == set()


def test_a_clock_that_is_set_back_to_what_it_was_is_right() -> None:
    node = up()
    node.wait(1)
    node.set_clock(3600)
    node.set_clock(-3600)
    assert kinds(node) == set()


def test_a_clock_that_shows_a_time_before_a_maintenance_began_stands() -> None:
    said = EPOCH + 1000.0
    kept = Maintenance(reason="", by="op", since=said, end=End(at=said + 60))
    node = Node(vip(), kept={NODE: kept}, offset=EPOCH - 86400)
    assert Condition.CLOCK_BEHIND in kinds(node)
    node.set_clock(86400)
    assert Condition.CLOCK_BEHIND not in kinds(node)


def test_a_maintenance_of_what_is_not_configured_stands_until_it_is_ended() -> None:
    kept = Maintenance(reason="", by="op", since=EPOCH)
    node = Node(vip(), kept={"veb": kept, "web/rs9": kept})
    assert "veb, web/rs9" in node.state.standing[Condition.MAINTENANCE_ORPHANED, ""].text
    node.send(ev.MaintenanceSet(scope="veb", entry=None))
    assert "veb" not in node.state.standing[Condition.MAINTENANCE_ORPHANED, ""].text
    node.send(ev.MaintenanceSet(scope="web/rs9", entry=None))
    assert kinds(node) == set()


def test_what_the_kernel_refuses_stands_until_it_takes_it() -> None:
    node = Node(vip())
    node.refused = {ip_address("192.0.2.1")}
    node.checks(Outcome.OK)
    node.wait(5)
    assert Condition.KERNEL_REFUSES in kinds(node)
    node.refused = set()
    node.wait(5)
    assert Condition.KERNEL_REFUSES not in kinds(node)


def test_a_plugin_that_is_refused_is_forgotten_once_one_reports() -> None:
    node = up()
    refused = ev.ConditionSet(kind=Condition.PLUGIN_REFUSED, text="uid 99")
    node.send(refused)
    assert kinds(node) == set(), "the one that is wanted is there"
    node.send(ev.PluginLost(source=1))
    node.send(refused)
    assert kinds(node) == {Condition.PLUGIN_REFUSED}
    node.send(ev.PluginConnected(source=2))
    node.send(ev.PluginReported(source=2, report=Report(seq=1)))
    assert kinds(node) == set()


def test_an_exabgp_that_does_not_answer_stands_until_it_does_and_is_told_to_hooks() -> None:
    node = up()
    began_at = node.now
    reports(node, silent_since=began_at, pid=46)
    node.wait(1.4)
    assert kinds(node) == set(), "it has time for it yet"
    node.wait(1.0)
    assert node.state.standing[Condition.EXABGP_SILENT, ""].since == began_at + SILENT
    text = node.state.standing[Condition.EXABGP_SILENT, ""].text
    assert text.startswith(
        "ExaBGP (pid 47) does not answer: routers drop what it announced within 9 s of its last"
    )
    assert "systemctl restart anycast-exabgp" in text
    node.wait(60.0)
    assert node.state.standing[Condition.EXABGP_SILENT, ""].text == text
    reports(node)
    assert kinds(node) == set()
    began, ended = node.events("condition.began"), node.events("condition.ended")
    assert [one.fields["kind"] for one in (*began, *ended)] == ["exabgp_silent"] * 2


def test_a_plugin_that_stands_still_with_its_exabgp_is_told_apart() -> None:
    node = up()
    reports(node, silent_since=node.now - 2.0, mute=True, pid=46)
    text = node.state.standing[Condition.EXABGP_SILENT, ""].text
    assert text.startswith("the plugin (pid 46) of ExaBGP (pid 47) does not answer")
    assert "systemctl thaw anycast-exabgp" in text
    assert len(text) < MAX_TEXT
    node.send(ev.PluginLost(source=1))
    assert kinds(node) == set(), "no plugin is connected, which has its own place"


def test_a_journal_of_the_plugin_that_cannot_be_written_stands() -> None:
    node = up()
    reports(node, journal_error="disk full")
    assert "disk full" in node.state.standing[Condition.PLUGIN_JOURNAL, ""].text
    reports(node)
    assert kinds(node) == set()
