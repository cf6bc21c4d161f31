from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast.cli.main import main
from anycast.cli.probe import is_here
from anycast.core.health.phase import Outcome, Result
from tests.unit.probes.peers import refusing_port

CONFIG = """\
node: {{runtime_dir: {where}}}
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{{address: 10.2.1.254, remote_as: 65000}}]
checks:
  port: {{type: tcp, timeout: 5s}}
  disk: {{type: file, path: {where}}}
  gone: {{type: file, path: {where}/gone}}
  both: {{type: all, of: [port, disk]}}
  either: {{type: any, of: [gone, disk]}}
  unused: {{type: tcp}}
pools:
  p: {{check: both, servers: [{{name: here, address: 127.0.0.1, port: {port}}}]}}
vips:
  web: {{address: 192.0.2.1, port: 80, pool: p, forwarding: nat, require: [either]}}
"""


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    with listening() as port:
        file = tmp_path / "anycast.yaml"
        file.write_text(CONFIG.format(where=tmp_path, port=port))
        yield file


def probe(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["probe", *words])
    said = capsys.readouterr()
    return code, re.sub(r"[0-9]+\.[0-9] ms", "T ms", said.out + said.err)


def test_every_step_is_shown_with_its_time_and_then_the_outcome(capsys: pytest.CaptureFixture[str]) -> None:
    with listening() as port:
        code, text = probe(capsys, f"tcp://127.0.0.1:{port}")
    assert code == 0
    assert [line.strip() for line in text.splitlines()] == [
        f"tcp at 127.0.0.1:{port}",
        "T ms  handshake complete",
        "T ms  ok",
    ]


def test_a_failure_is_1_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    with refusing_port() as port:
        code, text = probe(capsys, f"{{type: tcp, address: 127.0.0.1, port: {port}}}")
    assert code == 1
    assert text.endswith("fail: connection refused\n")


def test_a_check_that_could_not_run_is_4(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = probe(capsys, "{type: https, address: 127.0.0.1, port: 1, ca: /none.pem}")
    assert code == 4
    assert "unknown (permission): the check could not run: /none.pem cannot be read" in text


def test_a_spec_with_a_mistake_is_78_and_its_place_is_in_the_spec(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = probe(capsys, "{type: tcp, prot: 1}")
    assert (code, text) == (
        78,
        "{type: tcp, prot: 1}:1:13: prot: there is no such key (did you mean port?)\n",
    )
    code, text = probe(capsys, "tpc://127.0.0.1:1")
    assert code == 78
    assert text.startswith("tpc://127.0.0.1:1: 'tpc' is not a type of check")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{type: tcp}",), "it has no address"),
        (("tcp://",), "names no host"),
        (("tcp://127.0.0.1:x",), "is not a URL"),
        (("{type: tcp}", "--at", "127.0.0.1:99999"), "99999 is not a port"),
    ],
)
def test_what_makes_no_sense_is_2(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    code, text = probe(capsys, *words)
    assert code == 2
    assert said in text


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (socket.EAI_NONAME, 1, "fail: nowhere.invalid does not resolve"),
        (socket.EAI_AGAIN, 4, "unknown (resolver): the resolver cannot be asked: slow"),
    ],
)
def test_a_name_that_does_not_resolve_fails_and_a_resolver_that_is_down_proves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: int, code: int, said: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(error, "slow")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    found, text = probe(capsys, "tcp://nowhere.invalid:80")
    assert found == code
    assert said in text


def test_a_url_says_host_path_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    for spec, title in (
        ("http://127.0.0.1:1/a?b=c", "http GET /a?b=c for 127.0.0.1:1 expecting 2xx at 127.0.0.1:1"),
        (
            "dns://127.0.0.1:1/www.example.net?record=AAAA",
            "dns, name www.example.net., record AAAA at 127.0.0.1:1",
        ),
        ("grpc://[::1]:1/shop.Orders", "grpc, service shop.Orders at [::1]:1"),
        ("udp://127.0.0.1:1?send=a&quiet=50ms", "udp, quiet 50ms at 127.0.0.1:1"),
    ):
        code, text = probe(capsys, spec, "--timeout", "0.2")
        assert code == 1
        assert text.splitlines()[0] == title


def test_a_name_of_the_configuration_is_run_where_it_is_used(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    code, text = probe(capsys, "port", "--config", str(config))
    assert code == 0
    assert text.startswith("port for web tcp/80 here: tcp at 127.0.0.1:")
    code, text = probe(capsys, "both", "--config", str(config))
    assert code == 0
    assert [line for line in text.splitlines() if "ms" not in line][
        -1
    ] == "both for web tcp/80 here: 2 of 2 needed"
    code, text = probe(capsys, "here", "--config", str(config))
    assert code == 0


def test_a_vip_is_all_that_it_rests_on(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    code, text = probe(capsys, "web", "--config", str(config))
    assert code == 0
    assert "here/port: tcp at" in text
    assert "vip web: 1 of 1 needed" in text


@pytest.mark.parametrize(
    ("check", "warned"), [("{type: tcp}", True), ("{type: tcp, address: 127.0.0.1}", False)]
)
def test_where_the_node_does_not_have_its_vip_another_may_answer_and_that_is_told(
    check: str,
    warned: bool,  # noqa: FBT001
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("anycast.cli.probe._Round.run", lambda *_: Result(outcome=Outcome.OK))
    file = tmp_path / "anycast.yaml"
    bgp = "bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}"
    file.write_text(
        f"{bgp}\nvips: {{dns: {{address: 203.0.113.53, local: true, port: 53, check: {check}}}}}\n"
    )
    _, text = probe(capsys, "dns", "--config", str(file))
    assert ("this node does not have 203.0.113.53: another node may answer" in text) is warned


def test_what_is_here_is_known_without_a_packet() -> None:
    assert is_here(ip_address("127.0.0.1"))
    assert not is_here(ip_address("203.0.113.53"))


def test_the_result_of_a_rule_counts_and_not_that_of_its_parts(
    capsys: pytest.CaptureFixture[str], config: Path
) -> None:
    code, text = probe(capsys, "either", "--config", str(config))
    assert code == 0
    assert "fail: " in text
    assert text.rstrip().endswith(f"ok: gone: {config.parent}/gone is not there")


def test_a_check_that_is_used_nowhere_can_be_aimed(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    code, text = probe(capsys, "unused", "--config", str(config))
    assert code == 2
    assert "--at ADDRESS:PORT" in text
    with listening() as port:
        assert probe(capsys, "unused", "--config", str(config), "--at", f"127.0.0.1:{port}")[0] == 0
    code, text = probe(capsys, "nothing", "--config", str(config))
    assert code == 2
    assert "there is no check, pool, real server or VIP named nothing" in text


def test_for_programs_it_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    with listening() as port:
        code, text = probe(capsys, f"tcp://127.0.0.1:{port}", "--json")
    (one,) = json.loads(text)["checks"]
    assert code == 0
    assert (one["outcome"], one["detail"]) == ("ok", "")
    assert one["steps"][0]["step"] == "handshake complete"
    assert 0 < one["took_s"] < 5


@contextmanager
def answering(path: Path, body: bytes) -> Iterator[None]:
    """To the first request."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()
    path.unlink()


def test_a_bgp_session_is_asked_of_the_agent(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    assert probe(capsys, "{type: bgp}", "--config", str(config))[0] == 4
    answers = {"up": 0, "down": 1, "unknown": 4}
    for state, expected in answers.items():
        body = json.dumps({"neighbors": [{"address": "10.2.1.254", "state": state}]}).encode()
        summary = b'{"summary": "", "revision": 1}'
        with answering(config.parent / "control.sock", summary), answering(config.parent / "ops.sock", body):
            code, text = probe(capsys, "{type: bgp}", "--config", str(config))
        assert code == expected
        assert f"10.2.1.254 is {state}" in text


HELD = """
  held: {type: tcp, to: vip, timeout: 100ms}
"""


def test_a_check_to_the_vip_is_run_where_it_is_used(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    text = config.read_text().replace("  unused: {type: tcp}\n", HELD.lstrip("\n"))
    text = text.replace("check: both", "check: held").replace("forwarding: nat, ", "")
    config.write_text(re.sub("address: 127.0.0.1, port: [0-9]+", "address: 127.0.0.1", text))
    code, said = probe(capsys, "held", "--config", str(config))
    assert code == 4
    assert said.startswith("held for web tcp/80 here: tcp to the VIP at 127.0.0.1:80 for 192.0.2.1\n")
    assert "the real server is this node itself" in said


def test_a_check_to_the_vip_cannot_be_run_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--at", "127.0.0.1:1"]):
        code, said = probe(capsys, "{type: tcp, to: vip}", *more)
        assert (code, "of a real server or of a VIP, without --at)" in said) == (2, True), said


def test_a_pool_is_probed_service_by_service_and_summed_up(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with listening() as port, refusing_port() as dead:
        file = tmp_path / "anycast.yaml"
        file.write_text(
            "bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}\n"
            "pools: {p: {servers: [{name: here, address: 127.0.0.1}]}}\n"
            f"vips: {{web: {{address: 192.0.2.1, services: [{{port: {port}, pool: p}}, "
            f"{{port: {dead}, pool: p}}]}}}}\n"
        )
        code, text = probe(capsys, "p", "--config", str(file))
    assert code == 1
    assert f"web tcp/{port} here: tcp at 127.0.0.1:{port}\n" in text
    assert f"web tcp/{dead} here: tcp at 127.0.0.1:{dead}\n" in text
    assert text.endswith(f"1 of 2 succeed; not: web tcp/{dead} here\n")


def test_the_times_of_a_check_only_grow(capsys: pytest.CaptureFixture[str]) -> None:
    with listening() as port:
        assert main(["probe", f"tcp://127.0.0.1:{port}"]) == 0
    times = [float(found) for found in re.findall(r"([0-9.]+) ms", capsys.readouterr().out)]
    assert times == sorted(times)
