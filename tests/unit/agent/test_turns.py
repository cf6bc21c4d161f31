"""What of its VIPs keeps a node from leaving, as the agent finds it out."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from anycast.agent import turns
from anycast.core import events as ev
from anycast.core.fleet import codec
from anycast.core.fleet.turn import Seat, Stage, Wish
from anycast.core.fleet.values import Capacity, Claim, Document, Load, Peer, Turn, VipStanding, VipTold
from anycast.core.health.phase import Outcome
from anycast.core.state import State
from anycast.core.values.configuration import Node as NodeName
from anycast.core.values.fleet import Fleet, PeerAt
from tests.fakes import Node, vip

NAMES = ("lb1", "lb2")
FLEET = Fleet(peers=(PeerAt(name="lb2"),))
WEB = VipTold(standing=VipStanding.ANNOUNCED, reason="healthy", table="theirs")
NOW = 2000.0


def state(directory: Path, **other: object) -> State:
    """Of a node that announces web, as lb2 does. Its ops process is asked in the directory."""
    node = Node(vip("web"), fleet=FLEET)
    node.checks(Outcome.OK)
    node.acknowledge()
    node.wait(30.0)
    said = replace(
        Document(node="lb2", version="1", ready=True, hears=NAMES, vips={"web": WEB}),
        **other,  # type: ignore[arg-type]
    )
    node.send(ev.FleetHeard(peers={"lb2": Peer(name="lb2", document=said, heard=NOW, told=NOW)}))
    config = replace(node.state.config, node=NodeName(name="lb1", runtime_dir=str(directory)))
    return replace(node.state, config=config)


def told(one: VipTold) -> bytes:
    """As an ops process answers for lb1."""
    rows = {"web": codec.row(one, 0.0)}
    document = Document(node="lb1", version="1", ready=True)
    return codec.answer(codec.head(document, born=1.0, at=2.0), [codec.piece(rows)], [], 2.0)


async def asked(
    here: State, directory: Path, answer: bytes | None, scope: str = ""
) -> tuple[str, ...] | None:
    """`answer`: None: nobody listens."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /fleet HTTP/1.0\r\n")
        writer.write(answer or b"")
        writer.close()

    if answer is None:
        return await turns.hindered(here, scope, None, NOW)
    async with await asyncio.start_unix_server(serve, directory / "ops.sock"):
        return await turns.hindered(here, scope, None, NOW)


def test_the_own_tables_are_those_that_the_ops_process_tells(tmp_path: Path) -> None:
    ok = b"HTTP/1.0 200 OK\r\n\r\n"
    for mine, reasons in (("theirs", ()), ("mine", ("lb2 has another table of web than lb1",))):
        answer = ok + told(replace(WEB, table=mine))
        assert asyncio.run(asked(state(tmp_path), tmp_path, answer)) == reasons


@pytest.mark.parametrize(
    "answer", [None, b"", b"HTTP/1.0 503 No\r\n\r\n{}", b"HTTP/1.0 200 OK\r\n\r\n{garbage"]
)
def test_without_its_ops_process_the_state_tells_what_it_announces(
    tmp_path: Path, answer: bytes | None
) -> None:
    here = state(tmp_path, vips={})
    found = asyncio.run(asked(here, tmp_path, answer))
    assert found is not None
    (why,) = found
    assert why == "fewer than 1 of the nodes that stay (fleet.min_announcing) announce web (0)"
    assert asyncio.run(asked(here, tmp_path, answer, scope="mail")) == ()


def carrying(bits: float | None) -> bytes:
    """As an ops process answers for lb1 that carries so much; None: it does not tell."""
    load = None if bits is None else Load(bits=bits)
    rows = {"web": codec.row(WEB, 0.0)}
    document = Document(node="lb1", version="1", ready=True, load=load, rest=load)
    return codec.answer(codec.head(document, born=1.0, at=2.0), [codec.piece(rows)], [], 2.0)


@pytest.mark.parametrize("scope", ["", "web"])
@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (4.5e9, "lb2 would stand at 90% of 10 Gbit/s, limit 70% (now 45%)"),
        (2.4e9, ""),
        (None, "it is not known how lb2 would stand: what lb1 carries is not known"),
    ],
)
def test_a_drain_that_pushes_another_node_over_its_limit_is_in_the_way(
    tmp_path: Path, scope: str, bits: float | None, reasons: str
) -> None:
    load = Load(bits=4.5e9)
    here = state(tmp_path, load=load, rest=load, capacity=Capacity(bits=10e9))
    answer = b"HTTP/1.0 200 OK\r\n\r\n" + carrying(bits)
    found = asyncio.run(asked(here, tmp_path, answer, scope))
    if not reasons:
        assert found == ()
        return
    assert found is not None
    (why,) = found
    assert why.startswith(f"without {'web on ' if scope else ''}lb1")
    assert why.endswith(reasons)


def test_two_that_ask_together_do_not_pass_the_capacity_together(tmp_path: Path) -> None:
    load = Load(bits=4e9)
    here = state(tmp_path, load=load, rest=load, capacity=Capacity(bits=10e9))
    assert here.config.fleet is not None
    fleet = replace(here.config.fleet, max_out=2, peers=(PeerAt(name="lb2"), PeerAt(name="lb3")))
    lb2 = here.fleet.peers["lb2"]
    assert lb2.document is not None
    asks = replace(lb2.document, turn=Turn(claim=Claim.ASKED, ago=1.0, number=1))
    lb3 = replace(lb2, name="lb3", document=replace(lb2.document, node="lb3"))
    answer = b"HTTP/1.0 200 OK\r\n\r\n" + carrying(4e9)
    for document, counted, reasons in (
        (lb2.document, frozenset[str](), ()),
        (asks, {"lb2"}, ("without lb2 and lb1, lb3 would stand at 120% of 10 Gbit/s, limit 70% (now 40%)",)),
    ):
        view = replace(here.fleet, peers={"lb2": replace(lb2, document=document), "lb3": lb3})
        known = replace(here, fleet=view, config=replace(here.config, fleet=fleet))
        assert asyncio.run(asked(known, tmp_path, answer)) == reasons
        assert turns.counted(known, "", None, NOW) == counted
        (tmp_path / "ops.sock").unlink(missing_ok=True)


def test_one_that_waits_for_another_node_does_not_look_at_vips_meanwhile(tmp_path: Path) -> None:
    """Which is work for every VIP of every node, each second."""
    out = {"maintenance": "down", "turn": Turn(claim=Claim.HELD, ago=1.0, number=1), "vips": {}}
    here = state(tmp_path, **out)
    seat = Seat(stage=Stage.QUEUED, wish=Wish(node="lb1", number=5))

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()
        pytest.fail("it was asked")

    async def run() -> tuple[str, ...] | None:
        async with await asyncio.start_unix_server(serve, tmp_path / "ops.sock"):
            return await turns.hindered(replace(here, seat=seat), "", 5, NOW)

    assert asyncio.run(run()) is None


def test_of_a_real_server_nobody_is_asked(tmp_path: Path) -> None:
    assert asyncio.run(turns.hindered(state(tmp_path, vips={}), "web/rs1", None, NOW)) == ()
