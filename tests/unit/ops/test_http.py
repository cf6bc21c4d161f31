from __future__ import annotations

import asyncio
import json
import os
import pwd
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector, web
from aiohttp.test_utils import TestClient, TestServer

from anycast.core import events as ev
from anycast.core.maintenance.stages import FILE, NODE, Maintenance
from anycast.ops.http import MaintenanceAnswer, ReloadAnswer, control_app, read_app
from tests.unit.ops.node import CONFIG, Node, Operator, healthy

Client = TestClient[web.Request, web.Application]
JSON = {"Accept": "application/json"}


def ask(app: web.Application, questions: Callable[[Client], Awaitable[None]]) -> None:
    """Serve `app` on loopback and run `questions` against it."""

    async def run() -> None:
        async with TestClient(TestServer(app)) as client:
            await questions(client)

    asyncio.run(run())


def running() -> Node:
    """A healthy node by the clocks of this process."""
    return healthy(now=time.monotonic())


def test_a_running_engine_is_alive_whatever_its_vips_do() -> None:
    node = running()
    node.send(ev.KernelFailed(reason="EPERM"))

    async def questions(client: Client) -> None:
        for path in ("/livez", "/healthz"):
            async with client.get(path) as response:
                assert (response.status, await response.text()) == (200, "ok\n")

    ask(read_app(node), questions)


def test_an_engine_that_has_not_stepped_for_three_lease_lifetimes_is_dead() -> None:
    node = running()
    node.last_step = time.monotonic() - 3 * CONFIG.timing.lease_ttl - 0.1

    async def questions(client: Client) -> None:
        async with client.get("/livez") as response:
            assert response.status == 503
            assert "the engine has not stepped for 6." in await response.text()

    ask(read_app(node), questions)


def test_readiness_is_a_code_for_machines_and_reasons_for_people() -> None:
    node = running()

    async def questions(client: Client) -> None:
        async with client.get("/readyz") as response:
            assert (response.status, await response.text()) == (200, "ok\n")
        node.send(ev.KernelFailed(reason="no ip_vs"))
        async with client.get("/readyz") as response:
            assert (response.status, await response.text()) == (503, "kernel unavailable: no ip_vs\n")
        async with client.get("/readyz", headers=JSON) as response:
            assert await response.json() == {"ok": False, "reasons": ["kernel unavailable: no ip_vs"]}

    ask(read_app(node), questions)


def test_the_status_is_the_document() -> None:
    async def questions(client: Client) -> None:
        async with client.get("/status") as response:
            body = await response.json()
        assert (body["version"], body["node"]["name"], len(body["vips"])) == (1, "lb1", 2)

    ask(read_app(running()), questions)


def test_metrics_are_in_the_format_the_scraper_asks_for() -> None:
    async def questions(client: Client) -> None:
        async with client.get("/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=")
            assert 'anycast_vip_announced{vip="web"} 1.0' in await response.text()
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with client.get("/metrics", headers=accept) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            assert (await response.text()).endswith("# EOF\n")

    ask(read_app(running()), questions)


def test_a_vip_answers_by_its_code_and_says_why() -> None:
    node = running()

    async def questions(client: Client) -> None:
        async with client.get("/vips/web") as response:
            assert (response.status, await response.text()) == (200, "announced: healthy\n")
        node.probe("10.9.2.1", "10.9.2.2")
        node.report()
        async with client.get("/vips/web") as response:
            assert response.status == 503
            assert (await response.text()).startswith("not announced: below_quorum: tcp/80 IPv4: 0 of 2")
        async with client.get("/vips/web", headers=JSON) as response:
            assert (response.status, (await response.json())["reason"]) == (503, "below_quorum")
        node.probe()
        node.probe()
        node.report(silent_since=time.monotonic() - 4)
        async with client.get("/vips/web") as response:
            assert response.status == 503
            assert (await response.text()).startswith(
                "not announced: healthy: ExaBGP has not answered for 4 s"
            )
        node.send(ev.PluginLost(source=1))
        async with client.get("/vips/web") as response:
            assert response.status == 503
            assert (await response.text()).startswith("not announced: healthy: no plugin is connected")
        async with client.get("/vips/wbe") as response:
            assert response.status == 404
            assert await response.json() == {"error": "there is no VIP 'wbe' (configured: web, mail)"}

    ask(read_app(node), questions)


def test_unknown_paths_and_methods_are_refused_in_json() -> None:
    async def questions(client: Client) -> None:
        async with client.get("/nothing") as response:
            assert response.status == 404
            assert await response.json() == {"error": "there is no /nothing here"}
        async with client.post("/status") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
            assert await response.json() == {"error": "/status does not take POST (it takes GET, HEAD)"}

    ask(read_app(running()), questions)


@pytest.mark.parametrize("path", ["/maintenance", "/reload"])
def test_the_read_only_surface_has_no_commands(path: str) -> None:
    async def questions(client: Client) -> None:
        async with client.post(path, json={}) as response:
            assert response.status == 404

    ask(read_app(running()), questions)


def test_maintenance_goes_on_and_off_and_says_what_happens_now() -> None:
    node = running()

    async def questions(client: Client) -> None:
        body = {"scope": "web", "on": True, "reason": "new disks"}
        async with client.post("/maintenance", json=body) as response:
            answer = await response.json()
        assert (response.status, answer["stage"], answer["drain_s"]) == (200, "draining", 2.0)
        assert (answer["saved"], answer["changed"]) == (True, True)
        assert answer["vips"] == [{"name": "web", "advertise": "drain", "reason": "vip_maintenance"}]
        assert answer["maintenance"][0]["reason"] == "new disks"
        async with client.post("/maintenance", json=body) as response:
            assert (await response.json())["changed"] is False
        async with client.get("/maintenance") as response:
            assert [each["scope"] for each in (await response.json())["maintenance"]] == ["web"]
        async with client.post("/maintenance", json={"scope": "web", "on": False}) as response:
            assert (await response.json())["stage"] == "active"
        assert node.state.maintenance == {}

    ask(control_app(node, Operator(node)), questions)


def test_the_empty_scope_is_the_node() -> None:
    node = running()

    async def questions(client: Client) -> None:
        async with client.post("/maintenance", json={"scope": "", "on": True}) as response:
            assert [each["name"] for each in (await response.json())["vips"]] == ["web", "mail"]
        assert set(node.state.maintenance) == {NODE}

    ask(control_app(node, Operator(node)), questions)


def test_maintenance_that_could_not_be_saved_is_in_force_and_says_so() -> None:
    node = running()
    operator = Operator(node)
    operator.save_error = "disk full"

    async def questions(client: Client) -> None:
        async with client.post("/maintenance", json={"scope": "", "on": True}) as response:
            answer = await response.json()
        assert (answer["saved"], answer["error"], answer["stage"]) == (False, "disk full", "draining")

    ask(control_app(node, operator), questions)


def test_a_vip_that_is_not_configured_is_named_with_those_that_are() -> None:
    node = running()

    async def questions(client: Client) -> None:
        async with client.post("/maintenance", json={"scope": "wbe", "on": True}) as response:
            assert response.status == 404
            assert (await response.json())["error"] == "there is no VIP 'wbe' (configured: web, mail)"

    ask(control_app(node, Operator(node)), questions)
    assert node.state.maintenance == {}


def test_maintenance_of_a_vip_that_was_configured_once_can_be_ended() -> None:
    node = running()

    async def questions(client: Client) -> None:
        await Operator(node).set_maintenance("gone", on=True, reason="", by="root")
        async with client.post("/maintenance", json={"scope": "gone", "on": False}) as response:
            assert response.status == 200
        assert node.state.maintenance == {}

    ask(control_app(node, Operator(node)), questions)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("{", "the body is not JSON (send one object)"),
        ("[" * 4000, "the body is not JSON (send one object)"),
        (b"\xff", "the body is not JSON (send one object)"),
        ("[]", "the body is not a JSON object (send {...})"),
        ("", "field 'scope' is missing; field 'on' is missing"),
        ('{"scope": "web", "on": 1}', "field 'on': expected true or false"),
        ('{"scope": null, "on": true}', "field 'scope': expected text"),
        (
            '{"scope": "web", "on": true, "for": "2h"}',
            "unknown field 'for' (known: scope, on, reason, force, until, for_s, on_expiry, now, temporary)",
        ),
        (
            '{"scope": "web", "on": true, "reason": "a\\nb"}',
            "field 'reason': expected one printable line of at most 200 characters",
        ),
        (
            json.dumps({"scope": "web", "on": True, "reason": "x" * 201}),
            "field 'reason': expected one printable line of at most 200 characters",
        ),
        ('{"scope": "", "on": true, "for_s": "2h"}', "field 'for_s': expected a number"),
        ('{"scope": "", "on": true, "for_s": true}', "field 'for_s': expected a number"),
        ('{"scope": "", "on": true, "for_s": NaN}', "field 'for_s': expected a number"),
        ('{"scope": "", "on": true, "until": 1e999}', "field 'until': expected a number"),
        (f'{{"scope": "", "on": true, "until": 1{"0" * 400}}}', "field 'until': expected a number"),
        (
            '{"scope": "", "on": true, "for_s": -5}',
            "field 'for_s': expected from one second to 366 days",
        ),
        ('{"scope": "", "on": true, "until": 99999999999}', "field 'until': more than 366 days from now"),
        ('{"scope": "", "on": true, "for_s": 9, "until": 9}', "field 'for_s': give either it or 'until'"),
        (
            '{"scope": "", "on": true, "on_expiry": "hold"}',
            "field 'on_expiry': there is no end without 'until' or 'for_s'",
        ),
        (
            '{"scope": "", "on": true, "for_s": 9, "on_expiry": "reboot"}',
            "field 'on_expiry': expected resume or hold",
        ),
        ('{"scope": "", "on": false, "for_s": 9}', "field 'for_s': it goes with \"on\": true only"),
        (
            '{"scope": "web/rs1", "on": true, "for_s": 9}',
            "field 'for_s': it is for the node or a VIP, not for a real server",
        ),
        (
            '{"scope": "web", "on": true, "temporary": true}',
            "field 'temporary': it is for the whole node only",
        ),
        (
            '{"scope": "", "on": true, "temporary": true, "for_s": 9}',
            "field 'temporary': it ends with the agent, and at no other time",
        ),
    ],
)
def test_a_wrong_body_is_refused_and_changes_nothing(body: str | bytes, complaint: str) -> None:
    node = running()

    async def questions(client: Client) -> None:
        async with client.post("/maintenance", data=body) as response:
            assert response.status == 400
            assert await response.json() == {"error": complaint}

    ask(control_app(node, Operator(node)), questions)
    assert node.state.maintenance == {}


def test_an_end_in_the_past_is_refused_with_the_time_it_is_here() -> None:
    node = running()

    async def questions(client: Client) -> None:
        body = {"scope": "", "on": True, "until": time.time() - 60.0}
        async with client.post("/maintenance", json=body) as response:
            error = (await response.json())["error"]
            assert response.status == 400
        assert error.startswith("field 'until': 2")
        assert "has passed (it is 2" in error

    ask(control_app(node, Operator(node)), questions)
    assert node.state.maintenance == {}


@pytest.mark.parametrize("scope", ["@file", "@stop"])
@pytest.mark.parametrize("on", [False, True])
def test_what_is_not_by_command_cannot_be_commanded_by_its_inner_name(scope: str, *, on: bool) -> None:
    node = running()
    entry = Maintenance(reason="", by="file", since=time.time())
    node.send(ev.MaintenanceSet(scope=FILE, entry=entry))

    async def questions(client: Client) -> None:
        async with client.post("/maintenance", json={"scope": scope, "on": on}) as response:
            assert response.status == 404

    ask(control_app(node, Operator(node)), questions)
    assert set(node.state.maintenance) == {FILE}


def test_a_drain_before_a_stop_is_of_the_node_and_not_saved() -> None:
    node = running()

    async def questions(client: Client) -> None:
        body = {"scope": "", "on": True, "temporary": True}
        async with client.post("/maintenance", json=body) as response:
            answer = await response.json()
        assert (answer["scope"], answer["temporary"], answer["saved"], answer["error"]) == (
            "",
            True,
            False,
            "",
        )
        assert (answer["stage"], answer["changed"], len(answer["vips"])) == ("draining", True, 2)
        async with client.post("/maintenance", json={"scope": "", "on": False}) as response:
            assert (await response.json())["changed"] is True

    ask(control_app(node, Operator(node)), questions)
    assert node.state.maintenance == {}


def test_a_large_body_is_refused() -> None:
    node = running()

    async def questions(client: Client) -> None:
        async with client.post("/maintenance", data="x" * 5000) as response:
            assert response.status == 413
            assert await response.json() == {"error": "the body is larger than 4096 bytes"}

    ask(control_app(node, Operator(node)), questions)


def test_a_reload_tells_its_changes_or_its_problems() -> None:
    node = running()
    operator = Operator(node)

    async def questions(client: Client) -> None:
        async with client.post("/reload") as response:
            assert response.status == 200
            assert await response.json() == {
                "ok": True,
                "changes": ["vip web: med 100 -> 200"],
                "warnings": [],
                "problems": [],
            }
        operator.answer = ReloadAnswer(ok=False, problems=("anycast.yaml:4:19: vips.web: ...",))
        async with client.post("/reload") as response:
            assert response.status == 422
            assert (await response.json())["problems"] == ["anycast.yaml:4:19: vips.web: ..."]
        async with client.post("/reload", json={"force": True}) as response:
            assert response.status == 400

    ask(control_app(node, operator), questions)


class Remembering(Operator):
    by = ""

    async def set_maintenance(self, scope: str, *, by: str, **said: Any) -> MaintenanceAnswer:
        self.by = by
        return await super().set_maintenance(scope, by=by, **said)


def test_over_the_unix_socket_the_kernel_says_who_commands(tmp_path: Path) -> None:
    node = running()
    operator = Remembering(node)
    path = str(tmp_path / "control.sock")

    async def run() -> dict[str, Any]:
        runner = web.AppRunner(control_app(node, operator))
        await runner.setup()
        try:
            await web.UnixSite(runner, path).start()
            async with (
                ClientSession(connector=UnixConnector(path)) as session,
                session.post("http://node/maintenance", json={"scope": "", "on": True}) as response,
            ):
                body: dict[str, Any] = await response.json()
                return body
        finally:
            await runner.cleanup()

    body = asyncio.run(run())
    assert operator.by == pwd.getpwuid(os.geteuid()).pw_name
    assert body["maintenance"][0]["by"] == operator.by
