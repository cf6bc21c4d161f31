"""The syslog and RELP checks against rsyslog. What they leave in its log is nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import RelpCheck, SyslogCanaryCheck, SyslogCheck, TcpQuietCheck, Tls
from anycast.core.values.configuration import CheckKind
from anycast.probes.closes import CLOSED
from lab import suites
from lab.waiting import until
from tests.contract import peers
from tests.unit.probes.peers import run

EXAMPLES = Path(__file__).parents[2] / "examples" / "rsyslog"
MISSING = peers.missing("rsyslogd", "openssl")
pytestmark = [pytest.mark.peers, pytest.mark.skipif(bool(MISSING), reason=MISSING or "")]

CONFIGURATION = """\
global(workDirectory="{where}"
       defaultNetstreamDriverCAFile="{certificate}"
       defaultNetstreamDriverCertFile="{certificate}"
       defaultNetstreamDriverKeyFile="{key}")
module(load="imudp")
module(load="imtcp")
module(load="imrelp")
input(type="imudp" address="127.0.0.1" port="{udp}")
input(type="imtcp" address="127.0.0.1" port="{tcp}")
input(type="imtcp" address="127.0.0.1" port="{tls}"
      streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
input(type="imrelp" address="127.0.0.1" port="{relp}")
input(type="imrelp" address="127.0.0.1" port="{relp_tls}" tls="on" tls.tlslib="openssl"
      tls.caCert="{certificate}" tls.myCert="{certificate}" tls.myPrivKey="{key}"
      tls.authMode="certvalid")
*.* action(type="omfile" file="{log}")
"""


@dataclass(frozen=True)
class Rsyslog:
    log: Path
    certificate: peers.Certificate
    udp: int
    tcp: int
    tls: int
    relp: int
    relp_tls: int
    process: subprocess.Popen[bytes]

    def check(self, kind: CheckKind, port: int, *, timeout: float = 10.0) -> Result:
        return run(kind, port, timeout=timeout)

    def canary(self) -> Result:
        return self.check(SyslogCanaryCheck(proof_file=str(self.log)), self.udp)

    @property
    def trust(self) -> Tls:
        return Tls(sni="peer.example.net", ca=str(self.certificate.certificate))

    @property
    def mutual(self) -> Tls:
        files = self.certificate
        return Tls(
            sni="peer.example.net",
            ca=str(files.certificate),
            certificate=str(files.certificate),
            key=str(files.key),
        )


@pytest.fixture(scope="module")
def rsyslog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rsyslog]:
    where = tmp_path_factory.mktemp("rsyslog")
    made = peers.certificate(where)
    log = where / "log"
    udp = peers.free_port(socket.SOCK_DGRAM)
    tcp, tls, relp, relp_tls = (peers.free_port() for _ in range(4))
    text = CONFIGURATION.format(
        where=where,
        certificate=made.certificate,
        key=made.key,
        log=log,
        udp=udp,
        tcp=tcp,
        tls=tls,
        relp=relp,
        relp_tls=relp_tls,
    )
    (where / "rsyslog.conf").write_text(text)
    argv = ("rsyslogd", "-n", "-f", str(where / "rsyslog.conf"), "-i", str(where / "pid"))
    with peers.running(*argv, log=where / "output", tcp=(tcp, tls, relp, relp_tls)) as process:
        yield Rsyslog(log, made, udp, tcp, tls, relp, relp_tls, process)


def test_a_canary_over_udp_is_found_in_the_log(rsyslog: Rsyslog) -> None:
    result = rsyslog.canary()
    assert (result.outcome, result.detail) == (Outcome.OK, "")


@pytest.mark.parametrize("sort", ["tcp", "tls", "relp", "relp_tls"])
def test_a_session_is_opened_and_closed_without_a_line_in_the_log(rsyslog: Rsyslog, sort: str) -> None:
    kinds: dict[str, CheckKind] = {
        "tcp": SyslogCheck(),
        "tls": SyslogCheck(tls=rsyslog.trust),
        "relp": RelpCheck(),
        "relp_tls": RelpCheck(tls=rsyslog.mutual),
    }
    rsyslog.canary()
    before = rsyslog.log.read_text().splitlines()
    for _ in range(3):
        result = rsyslog.check(kinds[sort], getattr(rsyslog, sort))
        assert (result.outcome, result.detail) == (Outcome.OK, "")
    assert rsyslog.canary().outcome is Outcome.OK  # lines come in order: what was to be written is there
    after = rsyslog.log.read_text().splitlines()
    assert [line for line in after[len(before) :] if "anycast canary" not in line] == []
    assert len(after) == len(before) + 1


def test_tls_to_a_plain_port_and_relp_to_a_syslog_port_fail(rsyslog: Rsyslog) -> None:
    assert rsyslog.check(SyslogCheck(tls=rsyslog.trust), rsyslog.tcp, timeout=1.0).outcome is Outcome.FAIL
    assert rsyslog.check(RelpCheck(), rsyslog.tcp, timeout=1.0).outcome is Outcome.FAIL


@pytest.mark.parametrize("sort", ["tcp", "tls", "relp", "udp"])
def test_an_rsyslog_that_hangs_is_found_out(rsyslog: Rsyslog, sort: str) -> None:
    kinds: dict[str, CheckKind] = {
        "tcp": SyslogCheck(),
        "tls": SyslogCheck(tls=rsyslog.trust),
        "relp": RelpCheck(),
        "udp": SyslogCanaryCheck(proof_file=str(rsyslog.log)),
    }
    rsyslog.process.send_signal(signal.SIGSTOP)
    os.waitpid(rsyslog.process.pid, os.WUNTRACED)
    try:
        result = rsyslog.check(kinds[sort], getattr(rsyslog, sort), timeout=0.3)
    finally:
        rsyslog.process.send_signal(signal.SIGCONT)
    assert result.outcome is Outcome.FAIL
    assert result.detail.endswith("within 0.3 s")


@pytest.mark.skipif(not suites.there("sid"), reason="no Debian unstable in build/debian (make routers)")
@pytest.mark.parametrize("kind", [SyslogCheck(), TcpQuietCheck(quiet=0.2)])
def test_a_full_rsyslog_takes_a_connection_and_closes_it_and_is_found_out(
    tmp_path: Path, kind: CheckKind
) -> None:
    """From 8.2610 on `MaxSessions` is a limit."""
    port = peers.free_port()
    (tmp_path / "rsyslog.conf").write_text(
        f'global(workDirectory="{tmp_path}")\n'
        'module(load="imtcp" MaxSessions="5")\n'
        f'input(type="imtcp" address="127.0.0.1" port="{port}")\n'
        f'*.* action(type="omfile" file="{tmp_path}/log")\n'
    )
    argv = ("rsyslogd", "-n", "-f", str(tmp_path / "rsyslog.conf"), "-i", str(tmp_path / "pid"))
    there = suites.enter(suites.root("sid"), argv)
    with peers.running(*there, log=tmp_path / "output", tcp=(port,)), contextlib.ExitStack() as sessions:
        assert run(kind, port).outcome is Outcome.OK
        for _ in range(5):
            sessions.enter_context(socket.create_connection(("127.0.0.1", port)))
        results = [run(kind, port) for _ in range(5)]
        assert {(one.outcome, one.detail) for one in results} == {(Outcome.FAIL, CLOSED)}
        sessions.close()
        # It notices the ends of its sessions in its own time.
        until(lambda: run(kind, port).outcome is Outcome.OK, "a session is free", peers.PATIENCE)


@pytest.mark.skipif(
    not list(Path("/usr/lib").glob("*/rsyslog/lmnsd_gtls.so")), reason="no rsyslog-gnutls here"
)
@pytest.mark.parametrize("name", ["receiver.conf", "sender.conf"])
def test_the_example_is_valid_for_rsyslogd(tmp_path: Path, name: str) -> None:
    made = peers.certificate(tmp_path)
    text = EXAMPLES.joinpath(name).read_text(encoding="utf-8")
    for file, ours in (("ca", made.certificate), ("cert", made.certificate), ("key", made.key)):
        text = text.replace(f"/etc/rsyslog/tls/{file}.pem", str(ours))
    (tmp_path / "main.conf").write_text(f'global(workDirectory="{tmp_path}")\n{text}')
    argv = ("rsyslogd", "-N1", "-f", str(tmp_path / "main.conf"), "-i", "NONE")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr
