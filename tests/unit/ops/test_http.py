from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from anycast.core import events as ev
from anycast.ops import status
from anycast.ops.http import read_app
from tests.unit.ops.node import CONFIG, Node, healthy
from tests.unit.ops.scenes import large

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
            assert "the engine has not run for 6." in await response.text()

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
            assert (response.status, await response.text()) == (200, "acknowledged by ExaBGP: healthy\n")
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
            assert await response.json() == {
                "error": "there is no VIP 'wbe' (did you mean web? configured: web, mail)"
            }

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


def test_who_names_a_revision_is_answered_once_it_has_come() -> None:
    asked: list[int] = []

    async def reached(revision: int, _: float) -> bool:
        asked.append(revision)
        return revision < 10

    async def questions(client: Client) -> None:
        async with client.get("/livez", headers={"X-Anycast-Revision": "9"}) as response:
            assert response.status == 200
        async with client.get("/livez", headers={"X-Anycast-Revision": "10"}) as response:
            assert response.status == 503
            assert await response.json() == {"error": "the agent's newest facts have not come within 5 s"}
        async with client.get("/livez", headers={"X-Anycast-Revision": "x"}) as response:
            assert response.status == 400

    ask(read_app(running(), reached), questions)
    assert asked == [9, 10]


def test_the_status_that_is_written_vip_by_vip_is_the_document() -> None:
    node = large(260, pool=2)

    async def questions(client: Client) -> None:
        first, again = await asyncio.gather(client.get("/status"), client.get("/status"))
        assert await first.read() == await again.read()
        told = json.loads(await first.text())
        whole = status.document(node.state, now=node.now, wall=time.time(), version="1", pid=node.pid)
        assert list(told) == list(whole)
        assert [vip["name"] for vip in told["vips"]] == [vip["name"] for vip in whole["vips"]]
        assert told["vips"][0]["services"][0]["tables"] == whole["vips"][0]["services"][0]["tables"]

    ask(read_app(node), questions)
