"""Three real agents on addresses of the loopback that hear one another, and what becomes of one that is killed, lies or
does not end to speak.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
from functools import partial
from pathlib import Path

import pytest

from anycast import mutual_tls
from anycast.cli.client import ask
from anycast.core.values.fleet import Certificates
from anycast.lease import Decoder, Lease, LeaseChange, Report, encode
from lab import liars
from tests.contract.fleet import NAMES, Fleet, fleet, waits
from tests.unit.probes.peers import openssl, sign_expired


def all_heard(found: Fleet, names: tuple[str, ...] = NAMES) -> bool:
    return all(
        found[one].beliefs()
        == {other: "heard" for other in NAMES if other != one and other in names}
        | {
            other: found[one].beliefs().get(other, "")
            for other in NAMES
            if other not in names and other != one
        }
        for one in names
    )


def pid_of(parent: int, name: str) -> int | None:
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                return int(child)
    return None


def test_three_nodes_hear_one_another_and_one_that_is_killed_is_gone(tmp_path: Path) -> None:
    with fleet(tmp_path, port=21610) as found:
        waits(lambda: all_heard(found))
        known = found["lb1"].fleet()["lb2"]
        assert (known["source"], known["maintenance"], known["vips"]) == ("peers", "active", {"withdrawn": 2})
        waits(lambda: found["lb1"].fleet()["lb2"]["hears"] == ["lb1", "lb3"])
        found["lb3"].kill()
        waits(lambda: found["lb1"].beliefs()["lb3"] == "gone" and found["lb2"].beliefs()["lb3"] == "gone")
        gone = found["lb1"].fleet()["lb3"]
        assert "refuses the connection" in gone["why"]
        assert gone["vips"] == {"withdrawn": 2}  # what it said last is still told
        found["lb3"].start(found.config)
        waits(lambda: all_heard(found))


def test_leases_go_on_while_the_process_that_asks_is_killed_and_it_comes_back(tmp_path: Path) -> None:
    with fleet(tmp_path, port=21613, start=("lb1", "lb2")) as found:
        waits(lambda: found["lb1"].beliefs().get("lb2") == "heard")
        agent = found["lb1"].process
        assert agent is not None
        first = pid_of(agent.pid, "anycast-fleet")
        assert first is not None
        with socket.socket(socket.AF_UNIX) as plugin:
            plugin.connect(str(found["lb1"].folder / "run" / "lease.sock"))
            plugin.sendall(encode(Report(seq=1, pid=46, exabgp_pid=47)))
            os.kill(first, signal.SIGKILL)
            waits(lambda: found["lb1"].named("fleet.ended"))
            assert found["lb1"].named("fleet.ended")[0]["why"] == "killed by SIGKILL"
            told, decoder = 0, Decoder()
            plugin.settimeout(10)
            while told < 5:
                told += sum(isinstance(one, Lease | LeaseChange) for one in decoder.feed(plugin.recv(65536)))
        waits(lambda: pid_of(agent.pid, "anycast-fleet") not in (None, first))
        waits(
            lambda: (
                found["lb1"].beliefs().get("lb2") == "heard" and not found["lb1"].status()["fleet"]["problem"]
            )
        )


def test_a_reload_begins_and_ends_the_view(tmp_path: Path) -> None:
    with fleet(tmp_path, port=21616, start=("lb1", "lb2")) as found:
        waits(lambda: found["lb1"].beliefs().get("lb2") == "heard")
        agent = found["lb1"].process
        assert agent is not None
        text = found.config.read_text()
        found.config.write_text(text.replace("fleet: {interval", "fleet: {view: none, interval"))
        agent.send_signal(signal.SIGHUP)
        waits(lambda: found["lb1"].named("config.rejected"))  # it would know nothing of the others
        assert ask(found["lb1"].control, "POST", "/reload", {"allow_removal": True}, timeout=100.0).ok
        waits(lambda: pid_of(agent.pid, "anycast-fleet") is None)
        waits(lambda: set(found["lb1"].beliefs().values()) == {"unknown"})
        found.config.write_text(text)
        agent.send_signal(signal.SIGHUP)
        waits(lambda: found["lb1"].beliefs().get("lb2") == "heard")


def test_whatever_a_peer_says_is_a_stated_problem_and_nothing_else(tmp_path: Path) -> None:
    with fleet(tmp_path, port=21619, start=("lb1", "lb2"), interval="500ms") as found:
        waits(lambda: found["lb1"].beliefs().get("lb2") == "heard")
        before = found["lb1"].status()["vips"]
        for bad, belief, why in (
            (liars.garbage, "unknown", "is no HTTP"),
            (liars.no_document, "unknown", "what it says cannot be read: it is no JSON"),
            (liars.other, "unknown", "lb7 answers where lb3 is asked"),
            (liars.elsewhere, "unknown", "it answers with status 302"),
            (liars.for_ever, "unknown", "larger than 4 MiB"),
            (liars.dripping, "gone", "no answer from 127.0.9.3:21620 within 1 s"),
            (liars.silent, "gone", "no answer from 127.0.9.3:21620 within 1 s"),
        ):
            with liars.serving(socket.create_server(("127.0.9.3", 21620)), bad):
                waits(partial(_is, found, "lb3", belief, why))
            assert found["lb1"].beliefs()["lb2"] == "heard"
        with liars.serving(socket.create_server(("127.0.9.3", 21620)), liars.newer):
            waits(lambda: _is(found, "lb3", "heard", ""))
            assert found["lb1"].fleet()["lb3"]["format"] == 99
            assert found["lb1"].fleet()["lb3"]["vips"] == {"announced": 1}
        assert [one["reason"] for one in found["lb1"].status()["vips"]] == [one["reason"] for one in before]
        assert not found["lb1"].named("fleet.ended")


def _is(found: Fleet, name: str, belief: str, why: str) -> bool:
    known = found["lb1"].fleet().get(name, {})
    return known.get("belief") == belief and why in known.get("why", "")


def test_a_wrong_token_is_told_at_the_end_that_has_it(tmp_path: Path) -> None:
    with fleet(tmp_path, port=21622, start=("lb1",)) as found:
        waits(lambda: found["lb1"].named("fleet.started"))
        text = found.config.read_text()
        (tmp_path / "wrong").write_text("guessed\n")
        mine = tmp_path / "other.yaml"
        mine.write_text(text.replace(str(tmp_path / "token"), str(tmp_path / "wrong")))
        found["lb2"].start(mine)
        waits(lambda: "does not take this node's token" in found["lb2"].fleet().get("lb1", {}).get("why", ""))
        waits(lambda: "does not take this node's token" in found["lb1"].fleet().get("lb2", {}).get("why", ""))
        assert found["lb1"].beliefs()["lb2"] == "unknown"  # it answers: it is not gone
        (tmp_path / "wrong").write_text("secret-of-the-fleet\n")
        waits(lambda: found["lb1"].beliefs()["lb2"] == found["lb2"].beliefs()["lb1"] == "heard")


_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


class Authority:
    """Certificates of the fleet's authority, by openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._key, self._certificate = str(folder / "ca.key"), str(folder / "ca.pem")
        made = ("-keyout", self._key, "-out", self._certificate)
        openssl("req", "-x509", *_CURVE, "-subj", "/CN=fleet", *made, "-days", "9")

    def sign(self, names: str, *, expired: bool = False, usage: str = "serverAuth,clientAuth") -> None:
        """As node.pem with node.key: of these names."""
        key, certificate, request, extensions = (
            self.folder / name for name in ("new.key", "new.pem", "node.csr", "ext")
        )
        openssl("req", *_CURVE, "-subj", "/CN=node", "-keyout", str(key), "-out", str(request))
        extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage={usage}\n")
        source = ("-in", str(request), "-extfile", str(extensions), "-out", str(certificate))
        if expired:
            sign_expired(self.folder, source, "-cert", self._certificate, "-keyfile", self._key)
        else:
            signer = ("-CA", self._certificate, "-CAkey", self._key, "-CAcreateserial")
            openssl("x509", "-req", "-days", "9", *signer, *source)
        key.rename(self.folder / "node.key")
        certificate.rename(self.folder / "node.pem")


ALL = "IP:127.0.9.1,IP:127.0.9.2,DNS:lb3.example.net"


def test_with_tls_each_end_is_known_by_its_certificate_and_an_expired_one_is_told(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.sign(ALL)
    files = f"tls: {{certificate: {tmp_path}/node.pem, key: {tmp_path}/node.key, ca: {tmp_path}/ca.pem}}"
    with fleet(tmp_path, port=21625, more=files) as found:
        waits(lambda: all_heard(found))
        assert told_at(("127.0.9.1", 21626)) == b""  # nobody without a certificate gets as much as a word
        authority.sign(ALL, expired=True)
        found["lb3"].kill()
        found["lb3"].start(found.config)
        waits(lambda: "certificate" in found["lb3"].fleet().get("lb1", {}).get("why", ""), 60)
        waits(lambda: "expired" in found["lb1"].fleet()["lb3"]["why"], 90)
        assert found["lb1"].beliefs()["lb3"] == "unknown"
        authority.sign(ALL)
        waits(lambda: all_heard(found), 90)


def told_at(address: tuple[str, int]) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        contextlib.suppress(OSError),
        socket.create_connection(address, 5) as plain,
        context.wrap_socket(plain) as line,
    ):
        line.sendall(b"GET /fleet HTTP/1.1\r\nHost: x\r\n\r\n")
        return line.recv(100)
    return b""


@pytest.mark.parametrize(
    ("names", "taken"), [("IP:127.0.0.1", True), ("DNS:lb3.example.net", True), ("DNS:lb9", False)]
)
def test_a_certificate_of_somebody_else_is_none_of_the_fleet(tmp_path: Path, names: str, taken: bool) -> None:  # noqa: FBT001
    authority = Authority(tmp_path)
    authority.sign(names)
    files = Certificates(
        certificate=f"{tmp_path}/node.pem", key=f"{tmp_path}/node.key", ca=f"{tmp_path}/ca.pem"
    )
    server = mutual_tls.server(files, ["lb3", "127.0.0.1"])
    client = mutual_tls.client(files, ["lb3", "127.0.0.1"])
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(one, two), server.wrap_bio(two, one, server_side=True)]
    done: set[int] = set()

    def shake() -> None:
        while len(done) < 2:
            for place, end in enumerate(ends):
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
                    done.add(place)

    if taken:
        shake()
    else:
        with pytest.raises(
            ssl.SSLCertVerificationError, match=r"its certificate is of lb9, and not of 127.0.0.1, lb3"
        ):
            shake()
