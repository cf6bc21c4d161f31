"""What the doctor finds of the fleet: files that cannot be used, nodes and members of etcd that do not answer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from anycast.core.hooks import Secret
from anycast.core.values.configuration import Config
from anycast.core.values.fleet import Certificates, Etcd, Fleet, FleetView, PeerAt
from anycast.doctor.facts import Answered, Facts, FleetFacts, Runs
from anycast.doctor.finding import Code, Severity
from anycast.doctor.fleet_asked import asked
from tests.unit.doctor.node import GOOD, above_info, codes, config, found
from tests.unit.probes.peers import make, refusing_port

DAY = 86_400.0
PEERS = Fleet(peers=(PeerAt(name="lb2"),))  # nobody knows where it is


def fleet(settings: Fleet = PEERS) -> Config:
    return replace(config(), fleet=settings)


def facts(**known: object) -> Facts:
    return replace(GOOD, fleet=FleetFacts(**known))  # type: ignore[arg-type]


def test_a_fleet_that_is_well_has_nothing_to_find() -> None:
    good = facts(
        certificates=(Runs("/etc/a.pem", 400 * DAY),),
        nodes=(Answered("lb2"),),
        etcd=(Answered("a", version="3.5.9"), Answered("b", version="3.5.9")),
    )
    assert codes(good, fleet()) == set()
    assert codes(facts(token="gone")) == set()  # without `fleet:`


@pytest.mark.parametrize(
    ("known", "code", "said"),
    [
        ({"token": "/t is empty"}, Code.FLEET_TOKEN, "the token of the fleet cannot be used: /t is empty"),
        ({"token_is_for_all": "/t"}, Code.FLEET_TOKEN, "every user may read the token of the fleet, /t"),
        (
            {"certificates": (Runs("/c.pem", 5.2 * DAY),)},
            Code.FLEET_CERTIFICATE,
            "/c.pem of fleet.tls runs out in 5 days",
        ),
        (
            {"certificates": (Runs("/c.pem", -3 * DAY),)},
            Code.FLEET_CERTIFICATE,
            "/c.pem of fleet.tls ran out 3 days ago: the nodes do not take it any more",
        ),
        (
            {"certificates": (Runs("/c.pem", why="Permission denied"),)},
            Code.FLEET_CERTIFICATE,
            "/c.pem of fleet.tls cannot be used: Permission denied",
        ),
        (
            {"nodes": (Answered("lb2", "10.2.1.2:9645 refuses the connection"), Answered("lb3"))},
            Code.FLEET_NODE,
            "the node lb2 cannot be asked: 10.2.1.2:9645 refuses the connection",
        ),
        (
            {"etcd": (Answered("a", "timed out"), Answered("b", version="3.5.9"))},
            Code.FLEET_ETCD,
            "1 of 2 members of etcd do not answer (a: timed out)",
        ),
        (
            {"etcd": (Answered("a", "timed out"), Answered("b", "timed out"))},
            Code.FLEET_ETCD,
            "2 of 2 members of etcd do not answer (a: timed out); no member answers, so nobody gets a turn",
        ),
        (
            {"etcd": (Answered("a", version="3.5.9", alarms="NOSPACE"), Answered("b", version="3.5.9"))},
            Code.FLEET_ETCD,
            "a says of itself: NOSPACE",
        ),
        (
            {"etcd": (Answered("a", version="3.3.25"),)},
            Code.FLEET_ETCD,
            "a is etcd 3.3.25: 3.4 is the oldest that can be used",
        ),
    ],
)
def test_what_is_wrong_is_a_warning_with_what_to_do(known: dict[str, object], code: Code, said: str) -> None:
    one = found(facts(**known), code, fleet())
    assert (one.severity, one.text) == (Severity.WARNING, said)
    assert above_info(facts(**known), fleet()) == [code]


def test_where_etcd_is_the_view_more_is_lost_with_it() -> None:
    silent = facts(etcd=(Answered("a", "timed out"),))
    lost = found(silent, Code.FLEET_ETCD, fleet(replace(PEERS, view=FleetView.ETCD))).text
    assert lost.endswith("no member answers, so nothing new is known of other nodes")


def test_members_of_different_versions_are_only_said() -> None:
    mixed = facts(etcd=(Answered("a", version="3.4.30"), Answered("b", version="3.5.16")))
    one = found(mixed, Code.FLEET_ETCD, fleet())
    assert (one.severity, one.text) == (
        Severity.INFO,
        "the members of etcd are of different versions: 3.4.30, 3.5.16",
    )


def ask(settings: Fleet) -> FleetFacts:
    return asyncio.run(asked(settings))


def test_the_token_is_read_as_the_agent_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "token"
    with_token = replace(PEERS, token=Secret(file=str(file)))
    assert ask(with_token).token == f"{file} cannot be read: No such file or directory"
    file.write_text("two words\n")
    file.chmod(0o600)
    assert ask(with_token).token == f"the token in {file} is not one word of printable ASCII"
    file.write_text("one-word\n")
    assert ask(with_token) == FleetFacts()
    file.chmod(0o644)
    assert ask(with_token).token_is_for_all == str(file)
    assert ask(replace(PEERS, token=Secret(variable="NOT_OF_THIS_PROCESS"))) == FleetFacts()


def test_certificates_say_how_long_they_are_good(tmp_path: Path) -> None:
    one = make(tmp_path)
    (tmp_path / "no.pem").write_text("nothing")
    files = Certificates(certificate=str(one.certificate), key=str(one.key), ca=str(tmp_path / "no.pem"))
    good, bad = ask(replace(PEERS, tls=files)).certificates
    assert good.why == ""
    assert good.left is not None
    assert good.left > 0
    assert bad.why == "it has no certificate (PEM)"
    (gone,) = ask(replace(PEERS, tls=Certificates(ca="/nowhere/ca.pem"))).certificates
    assert gone.why == "No such file or directory"


@pytest.fixture
def etcd() -> Iterator[tuple[str, dict[str, str]]]:
    """Its address, and what it says."""
    says = {"etcdserver": "3.5.16", "etcdcluster": "3.5.0"}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._say(200, json.dumps(says).encode() if says else b"<html>")

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._say(int(says.get("status", 200)), says.get("gateway", "{}").encode())

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", says
        server.shutdown()


def test_each_member_of_etcd_is_asked_for_its_version(etcd: tuple[str, dict[str, str]]) -> None:
    address, says = etcd
    with refusing_port() as port:
        nobody = f"http://127.0.0.1:{port}"
        view = Fleet(view=FleetView.ETCD, etcd=Etcd(endpoints=(address, nobody)))
        there, gone = ask(view).etcd
    assert there == Answered(address, version="3.5.16")
    assert gone == Answered(nobody, why="Connection refused")
    says.clear()
    assert ask(view).etcd[0].why == "what answers there is no etcd (JSONDecodeError)"
    assert len(ask(replace(view, view=FleetView.PEERS)).etcd) == 2, "the turn is etcd's there too"


def test_the_gateway_of_a_member_is_asked_besides(etcd: tuple[str, dict[str, str]]) -> None:
    address, says = etcd
    view = Fleet(view=FleetView.ETCD, etcd=Etcd(endpoints=(address,)))
    says.update(status="503", gateway="connection\nclosed")
    (dead,) = ask(view).etcd
    assert dead.why.startswith("its gateway (/v3) answers 503, connection closed: with TLS")
    says.update(status="200", gateway='{"errors": ["memberID:7 alarm:NOSPACE", 7]}')
    assert ask(view).etcd == (Answered(address, version="3.5.16", alarms="memberID:7 alarm:NOSPACE, 7"),)
    for strange in ("[]", "{", '{"errors": 7}'):
        says.update(gateway=strange)
        assert ask(view).etcd == (Answered(address, version="3.5.16"),)


def test_each_node_is_asked_as_the_agent_does(etcd: tuple[str, dict[str, str]]) -> None:
    port = int(etcd[0].rpartition(":")[2])
    with refusing_port() as nobody:
        peers = tuple(
            PeerAt(name=name, host="127.0.0.1", port=at) for name, at in (("lb2", port), ("lb3", nobody))
        )
        strange, gone = ask(Fleet(peers=peers)).nodes
    assert strange == Answered("lb2", "what it says cannot be read: it does not say when it was made")
    assert gone == Answered(
        "lb3", f"127.0.0.1:{nobody} refuses the connection: no agent runs there, or one without `fleet`"
    )
    hidden = replace(Fleet(peers=peers), token=Secret(variable="NOT_OF_THIS_PROCESS"))
    assert ask(hidden).nodes == ()
