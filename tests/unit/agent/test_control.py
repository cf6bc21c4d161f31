"""The control socket, as its clients see it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import pwd
import socket
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector

from anycast.agent import commands, control, planning
from anycast.agent.answers import MaintenanceAnswer, PlanAnswer, ReloadAnswer, TooLateError
from anycast.agent.control import Control
from anycast.agent.door import Limits
from anycast.core import events as ev
from anycast.core.dataplane.ipvs import Connections
from anycast.core.maintenance.stages import FILE, NODE, Maintenance
from anycast.core.planned import Plan
from anycast.core.values.configuration import Quorum
from anycast.sockets import Peer, bind_unix
from tests.property.worlds import busied
from tests.unit.ops.node import CONFIG, Operator, healthy
from tests.unit.ops.test_http import JSON, running

REVISION = 4711


@asynccontextmanager
async def serving(operator: Operator) -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "control.sock"
        served = Control(operator, lambda: REVISION)
        await served.listen(bind_unix(path, mode=0o600))
        try:
            yield path
        finally:
            await served.close()


def ask(operator: Operator, questions: Callable[[ClientSession], Awaitable[None]]) -> None:
    async def run() -> None:
        async with (
            serving(operator) as path,
            ClientSession("http://node", connector=UnixConnector(str(path))) as client,
        ):
            await questions(client)

    asyncio.run(run())


def exchange(operator: Operator, *said: bytes) -> bytes:
    """Everything that is answered to these pieces, until the other end closes."""

    async def run() -> bytes:
        async with serving(operator) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            for piece in said:
                writer.write(piece)
                await writer.drain()
            found = await reader.read()
            writer.close()
            return found

    return asyncio.run(run())


def test_maintenance_goes_on_and_off_and_says_what_happens_now() -> None:
    node = running()

    async def questions(client: ClientSession) -> None:
        body = {"scope": "web", "on": True, "reason": "new disks"}
        async with client.post("/maintenance", json=body) as response:
            answer = await response.json()
        assert (response.status, answer["stage"], answer["drain_s"]) == (200, "draining", 2.0)
        assert (answer["saved"], answer["changed"], answer["replaced"]) == (True, True, None)
        assert answer["vips"] == [{"name": "web", "advertise": "drain", "reason": "vip_maintenance"}]
        assert answer["maintenance"][0]["reason"] == "new disks"
        async with client.post("/maintenance", json={**body, "reason": "new kernel"}) as response:
            again = await response.json()
        assert (again["changed"], again["replaced"]["reason"]) == (False, "new disks")
        assert again["replaced"]["by"] == answer["maintenance"][0]["by"]
        assert again["maintenance"][0]["reason"] == "new kernel"
        async with client.get("/maintenance") as response:
            assert [each["scope"] for each in (await response.json())["maintenance"]] == ["web"]
        async with client.post("/maintenance", json={"scope": "web", "on": False}) as response:
            assert (await response.json())["stage"] == "active"
        assert node.state.maintenance == {}

    ask(Operator(node), questions)


def test_the_empty_scope_is_the_node() -> None:
    node = running()

    async def questions(client: ClientSession) -> None:
        async with client.post("/maintenance", json={"scope": "", "on": True}) as response:
            assert [each["name"] for each in (await response.json())["vips"]] == ["web", "mail"]
        assert set(node.state.maintenance) == {NODE}

    ask(Operator(node), questions)


def test_maintenance_that_could_not_be_saved_is_in_force_and_says_so() -> None:
    node = running()
    operator = Operator(node)
    operator.save_error = "disk full"

    async def questions(client: ClientSession) -> None:
        async with client.post("/maintenance", json={"scope": "", "on": True}) as response:
            answer = await response.json()
        assert (answer["saved"], answer["error"], answer["stage"]) == (False, "disk full", "draining")

    ask(operator, questions)


def test_a_vip_that_is_not_configured_is_named_with_those_that_are() -> None:
    node = running()

    async def questions(client: ClientSession) -> None:
        async with client.post("/maintenance", json={"scope": "wbe", "on": True}) as response:
            assert response.status == 404
            assert (await response.json())[
                "error"
            ] == "there is no VIP 'wbe' (did you mean web? configured: web, mail)"

    ask(Operator(node), questions)
    assert node.state.maintenance == {}


def test_maintenance_of_a_vip_that_was_configured_once_can_be_ended() -> None:
    node = running()

    async def questions(client: ClientSession) -> None:
        await Operator(node).set_maintenance("gone", on=True, reason="", by="root")
        async with client.post("/maintenance", json={"scope": "gone", "on": False}) as response:
            assert response.status == 200
        assert node.state.maintenance == {}

    ask(Operator(node), questions)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("{", "the body is not JSON (send one object)"),
        ("[" * 4000, "the body is not JSON (send one object)"),
        (b"\xff", "the body is not JSON (send one object)"),
        ("[]", "the body is not a JSON object (send {...})"),
        ("", "field 'scope' is missing; field 'on' is missing"),
        ('{"scope": "web", "on": false, "on": true}', "field 'on' stands there twice"),
        ('{"scope": {"a": 1, "a": 2}, "on": true}', "field 'a' stands there twice"),
        ('{"scope": [[["web"]]], "on": true}', "field 'scope': expected text"),
        ('{"scope": "web", "on": 1}', "field 'on': expected true or false"),
        ('{"scope": null, "on": true}', "field 'scope': expected text"),
        (
            '{"scope": "web", "on": true, "for": "2h"}',
            (
                "unknown field 'for' (known: scope, on, reason, force, until, for_s, on_expiry, now, temporary, "
                "wait_turn, turn, asked_for_s)"
            ),
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
        ('{"scope": "", "on": true, "turn": true}', "field 'turn': expected a whole number"),
        ('{"scope": "", "on": true, "turn": 1.5}', "field 'turn': expected a whole number"),
        (
            '{"scope": "", "on": true, "turn": 0}',
            "field 'turn': expected the number that the answer 202 gave",
        ),
        (
            '{"scope": "", "on": false, "wait_turn": true}',
            "field 'wait_turn': it goes with \"on\": true only",
        ),
        (
            '{"scope": "web/rs1", "on": true, "asked_for_s": 9}',
            "field 'asked_for_s': it is for the node or a VIP, not for a real server",
        ),
    ],
)
def test_a_wrong_body_is_refused_and_changes_nothing(body: str | bytes, complaint: str) -> None:
    node = running()

    async def questions(client: ClientSession) -> None:
        async with client.post("/maintenance", data=body) as response:
            assert response.status == 400
            assert await response.json() == {"error": complaint}

    ask(Operator(node), questions)
    assert node.state.maintenance == {}


def test_an_end_in_the_past_is_refused_with_the_time_it_is_here() -> None:
    node = running()

    async def questions(client: ClientSession) -> None:
        body = {"scope": "", "on": True, "until": time.time() - 60.0}
        async with client.post("/maintenance", json=body) as response:
            error = (await response.json())["error"]
            assert response.status == 400
        assert error.startswith("field 'until': 2")
        assert "has passed (it is 2" in error

    ask(Operator(node), questions)
    assert node.state.maintenance == {}


@pytest.mark.parametrize("scope", ["@file", "@stop"])
@pytest.mark.parametrize("on", [False, True])
def test_what_is_not_by_command_cannot_be_commanded_by_its_inner_name(scope: str, *, on: bool) -> None:
    node = running()
    entry = Maintenance(reason="", by="file", since=time.time())
    node.send(ev.MaintenanceSet(scope=FILE, entry=entry))

    async def questions(client: ClientSession) -> None:
        async with client.post("/maintenance", json={"scope": scope, "on": on}) as response:
            assert response.status == 404

    ask(Operator(node), questions)
    assert set(node.state.maintenance) == {FILE}


def test_a_drain_before_a_stop_is_of_the_node_and_not_saved() -> None:
    node = running()

    async def questions(client: ClientSession) -> None:
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

    ask(Operator(node), questions)
    assert node.state.maintenance == {}


def test_a_large_body_is_refused() -> None:
    node = running()

    async def questions(client: ClientSession) -> None:
        async with client.post("/maintenance", data="x" * 5000) as response:
            assert response.status == 413
            assert await response.json() == {"error": "the body is larger than 4096 bytes"}

    ask(Operator(node), questions)


def test_a_plan_may_be_asked_for_with_a_large_body_and_no_larger_one() -> None:
    node = running()
    operator = Operator(node)
    texts = base64.b64encode(bytes(2_000_000)).decode()

    def body(**fields: object) -> io.BytesIO:
        return io.BytesIO(json.dumps(fields).encode())

    async def questions(client: ClientSession) -> None:
        async with client.post("/reload/plan", data=body(texts=texts, allow_removal=True)) as response:
            assert response.status == 200
            answer = await response.json()
        assert answer == {
            "ok": True,
            "changes": [],
            "warnings": [],
            "problems": [],
            "plan": planning.body(Plan()),
        }
        for told, code in (("x" * control.LARGE_BODY, 413), ("no base64!", 400)):
            async with client.post("/reload/plan", data=body(texts=told)) as response:
                assert response.status == code
        operator.planned = PlanAnswer(ok=False, problems=("a.yaml:1:1: wrong",))
        async with client.post("/reload/plan") as response:
            assert response.status == 422
            assert (await response.json())["plan"] is None

    ask(operator, questions)
    assert [len(wish.texts or b"") for wish in operator.plans] == [2_000_000, 0]
    assert [wish.allow_removal for wish in operator.plans] == [True, False]


def test_only_so_many_large_bodies_are_taken_at_a_time() -> None:
    head = b"POST /reload/plan HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n" + b" " * 5000

    async def run() -> list[bytes]:
        answers = []
        async with serving(Operator(running())) as path:
            waiting = [await asyncio.open_unix_connection(path) for _ in range(control.LARGE_BODIES)]
            for _, writer in waiting:
                writer.write(head)
                await writer.drain()
            while True:
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(head + b" " * 4000)
                answer = await reader.readline()
                writer.close()
                if b"503" in answer:
                    break
            for reader, writer in waiting:
                writer.write(b" " * 4000)
                answers.append(await reader.readline())
                writer.close()
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(head + b" " * 4000)
            answers.append(await reader.readline())
            writer.close()
        return answers

    assert asyncio.run(run()) == [b"HTTP/1.1 200 OK\r\n"] * 3


def test_a_reload_tells_its_changes_or_its_problems() -> None:
    node = running()
    operator = Operator(node)

    async def questions(client: ClientSession) -> None:
        async with client.post("/reload") as response:
            assert response.status == 200
            assert await response.json() == {
                "ok": True,
                "changes": ["vip web: med 100 -> 200"],
                "warnings": [],
                "problems": [],
                "confirm_s": None,
                "revision": REVISION,
            }
        operator.answer = ReloadAnswer(ok=False, problems=("anycast.yaml:4:19: vips.web: ...",))
        async with client.post("/reload") as response:
            assert response.status == 422
            assert (await response.json())["problems"] == ["anycast.yaml:4:19: vips.web: ..."]
        async with client.post("/reload", json={"force": True}) as response:
            assert response.status == 400

    ask(operator, questions)


def test_a_real_server_whose_connections_the_others_have_no_room_for_stays_unless_it_is_forced() -> None:
    vips = tuple(
        replace(
            one,
            services=tuple(
                replace(
                    service,
                    quorum=Quorum(),
                    pool=replace(
                        service.pool, servers=tuple(replace(each, upper=10) for each in service.pool.servers)
                    ),
                )
                for service in one.services
            ),
        )
        for one in CONFIG.vips
    )
    node = healthy(replace(CONFIG, vips=vips))
    node.kernel = busied(node.kernel, lambda _, __: Connections(active=2, inactive=4))
    node.send(ev.Tick(), after=node.state.config.timing.reconcile)

    async def questions(client: ClientSession) -> None:
        wish = {"scope": "mail/rs1", "on": True}
        async with client.post("/maintenance", json=wish) as response:
            assert response.status == 409
            assert (await response.json())["error"] == (
                "without mail/rs1 there is too little room: mail tcp 192.0.2.2:80 has 12 connections, and its other real "
                "server takes 10 (upper_threshold)"
            )
        assert not node.state.maintenance
        async with client.post("/maintenance", json={**wish, "force": True}) as response:
            assert response.status == 200
        assert set(node.state.maintenance) == {"mail/rs1"}

    ask(Operator(node), questions)


class Remembering(Operator):
    by = ""

    async def set_maintenance(self, scope: str, *, by: str, **said: Any) -> MaintenanceAnswer:
        self.by = by
        return await super().set_maintenance(scope, by=by, **said)


def test_over_the_unix_socket_the_kernel_says_who_commands() -> None:
    operator = Remembering(running())

    async def questions(client: ClientSession) -> None:
        async with client.post("/maintenance", json={"scope": "", "on": True}) as response:
            body = await response.json()
        assert body["maintenance"][0]["by"] == operator.by == pwd.getpwuid(os.geteuid()).pw_name

    ask(operator, questions)


def test_an_answer_tells_the_revision_in_which_it_can_be_seen() -> None:
    async def questions(client: ClientSession) -> None:
        async with client.post("/maintenance", json={"scope": "", "on": True}) as response:
            assert (await response.json())["revision"] == REVISION
        async with client.post("/reload") as response:
            assert (await response.json())["revision"] == REVISION
        async with client.get("/summary") as response:
            body = await response.json()
        assert (body["revision"], body["summary"]) == (
            REVISION,
            "announcing 0 of 2 VIPs (web node_maintenance, mail node_maintenance)",
        )

    ask(Operator(running()), questions)


def test_a_deadline_goes_along_with_its_command() -> None:
    operator = Operator(running())

    async def questions(client: ClientSession) -> None:
        headers = {"X-Anycast-Deadline": "1234.5"}
        async with client.post("/maintenance", json={"scope": "", "on": True}, headers=headers):
            pass
        async with client.post("/reload", headers=headers):
            pass
        async with client.post("/reload", headers={"X-Anycast-Deadline": "soon"}) as response:
            assert response.status == 400

    ask(operator, questions)
    assert operator.deadlines == [1234.5, 1234.5]


class Late(Operator):
    async def set_maintenance(self, scope: str, **said: Any) -> MaintenanceAnswer:
        raise TooLateError


def test_what_came_too_late_is_told_to_be_nothing() -> None:
    async def questions(client: ClientSession) -> None:
        async with client.post("/maintenance", json={"scope": "", "on": True}) as response:
            assert response.status == 504
            assert "nothing was changed" in (await response.json())["error"]

    ask(Late(running()), questions)


def test_it_lives_as_long_as_the_engine_turns() -> None:
    node = running()

    async def questions(client: ClientSession) -> None:
        async with client.get("/livez") as response:
            assert (response.status, await response.text()) == (200, "ok\n")
        node.last_step = time.monotonic() - 3 * CONFIG.timing.lease_ttl - 0.1
        async with client.get("/livez", headers=JSON) as response:
            assert (response.status, (await response.json())["ok"]) == (503, False)
        async with client.head("/livez") as response:
            assert (response.status, await response.read()) == (503, b"")

    ask(Operator(node), questions)


def test_parameters_and_a_deadline_that_stands_there_twice_are_refused() -> None:
    node = running()
    head = b"Host: a\r\nConnection: close\r\nContent-Length: 25\r\n"
    body = b'\r\n{"scope": "", "on": true} '[:27]
    for line, more in (
        (b"POST /maintenance?on=true&on=false HTTP/1.1\r\n", b""),
        (b"POST /maintenance HTTP/1.1\r\n", 2 * b"X-Anycast-Deadline: 1e9\r\n"),
    ):
        answer = exchange(Operator(node), line + head + more + body)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'"error"' in answer
    assert node.state.maintenance == {}


def test_unknown_paths_and_methods_are_refused_in_json() -> None:
    async def questions(client: ClientSession) -> None:
        async with client.get("/status") as response:
            assert response.status == 404
            assert (await response.json())["error"].startswith("there is no /status here")
        async with client.get("/reload") as response:
            assert (response.status, response.headers["Allow"]) == (405, "POST")

    ask(Operator(running()), questions)


LIVEZ = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /livez HTTP/1.0\r\n\r\n"


def test_requests_that_came_together_are_answered_in_their_order() -> None:
    said = exchange(Operator(running()), LIVEZ * 3 + LIVEZ.replace(b"livez", b"other") + LAST)
    assert [line.split()[1] for line in said.split(b"HTTP/1.1")[1:]] != []
    assert [part[1:4] for part in said.split(b"HTTP/1.1")[1:]] == [b"200", b"200", b"200", b"404", b"200"]


def test_a_request_may_come_byte_by_byte() -> None:
    pieces = [LAST[place : place + 1] for place in range(len(LAST))]
    assert exchange(Operator(running()), *pieces).endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000, 431),
        (b"POST /reload HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000, 413),
        (
            b"POST /reload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1388\r\n" + b"x" * 5000,
            413,
        ),
        (b"POST /reload HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    ],
)
def test_what_is_wrong_is_refused_in_json_and_closed(said: bytes, code: int) -> None:
    head, _, body = exchange(Operator(running()), said).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % code)
    assert b"Server: anycast" in head
    assert json.loads(body)["error"]


@pytest.mark.parametrize(
    "said",
    [b"GET /livez HTTP/1.1\r\nHost:", b"POST /reload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{"],
)
def test_a_request_that_does_not_come_whole_is_given_up(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIME", 0.05)
    assert exchange(Operator(running()), said).startswith(b"HTTP/1.1 408 ")


def test_who_asks_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "IDLE_TIME", 0.05)
    assert exchange(Operator(running())) == b""


def test_who_finds_no_place_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LIMITS", Limits(process=1, user=8, others=8))

    async def run() -> None:
        async with serving(Operator(running())) as path:
            first, other = await asyncio.open_unix_connection(path)
            other.write(LIVEZ)
            await first.readuntil(b"ok\n")
            second, writer = await asyncio.open_unix_connection(path)
            answer = await second.read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 1\r\n" in answer
            error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
            assert error == f"busy: 1 connections of this process ({os.getpid()}) are open; try again"
            writer.close()
            other.close()

    asyncio.run(run())


def test_of_two_hundred_who_come_at_once_each_is_served_or_told() -> None:
    async def run() -> list[bytes]:
        async with serving(Operator(running())) as path:

            def ask() -> bytes:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(20)
                    client.connect(str(path))
                    client.sendall(LIVEZ.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
                    return client.recv(65536)

            with ThreadPoolExecutor(200) as crowd:
                loop = asyncio.get_running_loop()
                return await asyncio.gather(*(loop.run_in_executor(crowd, ask) for _ in range(200)))

    codes = Counter(answer.split()[1] for answer in asyncio.run(run()))
    assert set(codes) <= {b"200", b"503"}
    assert codes[b"200"] >= control.LIMITS.process


def test_of_a_crowd_one_is_worked_on_in_a_turn_of_the_loop() -> None:
    """And in the order in which they came."""
    passed = _through([Peer(1, 1000)] * 60)
    assert len({turn for turn, _ in passed}) == len(passed) == 180
    assert [number for _, number in passed] == 3 * list(range(60))


@pytest.mark.parametrize("operator", [Peer(2, 0), Peer(2, 1000)])
def test_an_operator_does_not_wait_for_the_crowd_of_another_user_or_process(operator: Peer) -> None:
    passed = [number for _, number in _through([*[Peer(1, 1000)] * 60, operator])]
    assert [place for place, number in enumerate(passed) if number == 60] == [1, 3, 5]


def _through(peers: list[Peer]) -> list[tuple[int, int]]:
    """The turn and the number of each that has passed; each passes three times."""
    passed: list[tuple[int, int]] = []

    async def run() -> None:
        turnstile, turn = control.Turnstile(), 0

        async def client(number: int, peer: Peer) -> None:
            for _ in range(3):
                await turnstile(peer)
                passed.append((turn, number))

        crowd = asyncio.gather(*(client(*each) for each in enumerate(peers)))
        while not crowd.done():
            turn += 1
            await asyncio.sleep(0)

    asyncio.run(run())
    return passed


def test_who_has_gone_holds_nobody_up() -> None:
    async def run() -> None:
        turnstile = control.Turnstile()
        gone, waits = (asyncio.create_task(turnstile(Peer(1, 0))) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait_for(waits, 10)

    asyncio.run(run())


def test_between_two_answers_to_a_crowd_the_loop_has_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is asked by those who may: what renews the lease comes in between."""
    turn = 0
    answered: list[int] = []
    answer = control.Control._answer

    async def noted(self: Control, request: control._Request) -> control._Answer:
        answered.append(turn)
        return await answer(self, request)

    monkeypatch.setattr(control.Control, "_answer", noted)

    async def run() -> None:
        nonlocal turn
        async with serving(Operator(healthy())) as path:

            async def client() -> bytes:
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(20 * b"GET /summary HTTP/1.1\r\nHost: node\r\n\r\n")
                found = b""
                while found.count(b"200 OK") < 20:
                    found += await reader.read(65536)
                writer.close()
                return found

            crowd = asyncio.gather(*(client() for _ in range(30)))
            while not crowd.done():
                turn += 1
                await asyncio.sleep(0)
            await crowd

    asyncio.run(run())
    assert len(answered) == 600
    assert len(set(answered)) == 600


@pytest.mark.parametrize(
    ("scope", "meant"),
    [
        ("web/rs11", "web/rs1"),
        ("wbe/rs2", "web/rs2"),
        ("mail/db", "mail/rs1 or mail/rs2"),
        ("nothing/like", "mail/rs1 or mail/rs2"),
        ("web/", "web/rs1 or web/rs2"),
    ],
)
def test_who_names_a_real_server_that_there_is_not_is_told_which_were_meant(scope: str, meant: str) -> None:
    async def questions(client: ClientSession) -> None:
        body = {"scope": scope, "on": True}
        async with client.post("/maintenance", json=body) as response:
            assert response.status == 404
            said = (await response.json())["error"]
        assert f"there is no real server {scope!r} (is it {meant}" in said

    ask(Operator(running()), questions)


def test_a_name_that_was_meant_is_not_looked_for_among_tens_of_thousands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[int] = []

    def near(word: str, names: list[str], **_: object) -> list[str]:
        compared.append(len(names))
        return []

    monkeypatch.setattr("anycast.agent.commands.difflib.get_close_matches", near)
    (web, mail) = CONFIG.vips
    (service, *_) = web.services
    one = service.pool.servers[0]
    servers = tuple(replace(one, name=f"s{number}") for number in range(50_000))
    large = replace(service, pool=replace(service.pool, servers=servers))
    config = replace(CONFIG, vips=(replace(web, services=(large,)), mail))
    with pytest.raises(commands.RefusedError):
        commands._check_scope("web/s50000", config)
    commands._check_scope("web/s49999", config)
    assert compared == [commands.LOOKED_THROUGH]
