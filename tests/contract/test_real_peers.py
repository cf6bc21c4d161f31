"""The HTTPS, DNS and gRPC checks against nginx, unbound and grpcio."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from anycast.core.health.phase import Outcome, Result
from anycast.core.values.checks import DnsCheck, GrpcCheck, Tls
from anycast.core.values.configuration import CheckKind, HttpCheck
from tests.contract import peers
from tests.unit.probes.peers import run

MISSING = peers.missing("nginx", "unbound", "openssl")
pytestmark = [pytest.mark.peers, pytest.mark.skipif(bool(MISSING), reason=MISSING or "")]

NGINX = """\
daemon off;
pid {where}/nginx.pid;
error_log {where}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {where}/body;
  proxy_temp_path {where}/proxy;
  fastcgi_temp_path {where}/fastcgi;
  uwsgi_temp_path {where}/uwsgi;
  scgi_temp_path {where}/scgi;
  ssl_certificate {certificate};
  ssl_certificate_key {key};
  server {{
    listen 127.0.0.1:{https} ssl;
    server_name peer.example.net;
    location /health {{ return 200 '{{"status": "$http_x_word"}}'; }}
    location / {{ return 404 "nothing"; }}
  }}
  server {{
    listen 127.0.0.1:{mutual} ssl;
    ssl_client_certificate {certificate};
    ssl_verify_client on;
    location / {{ return 200 "known"; }}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    certificate: peers.Certificate
    https: int
    mutual: int

    @property
    def kind(self) -> HttpCheck:
        return HttpCheck(tls=True, host="peer.example.net", ca=str(self.certificate.certificate))


def check(kind: CheckKind, port: int) -> Result:
    return run(kind, port, timeout=10.0)


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    where = tmp_path_factory.mktemp("nginx")
    made = peers.certificate(where)
    https, mutual = peers.free_port(), peers.free_port()
    text = NGINX.format(where=where, certificate=made.certificate, key=made.key, https=https, mutual=mutual)
    (where / "nginx.conf").write_text(text)
    argv = ("nginx", "-e", str(where / "error.log"), "-c", str(where / "nginx.conf"))
    with peers.running(*argv, log=where / "output", tcp=(https, mutual)):
        yield Nginx(made, https, mutual)


def test_nginx_is_verified_and_its_body_searched(nginx: Nginx) -> None:
    health = replace(
        nginx.kind, path="/health", headers=(("X-Word", "fine"),), body='"status": "(fine|good)"'
    )
    assert check(health, nginx.https).outcome is Outcome.OK
    bad = check(replace(health, headers=(("X-Word", "bad"),)), nginx.https)
    assert bad.outcome is Outcome.FAIL
    assert '{"status": "bad"}' in bad.detail
    assert check(nginx.kind, nginx.https).detail == "status 404, expected 2xx"


def test_nginx_with_another_name_or_an_untrusted_certificate_fails(nginx: Nginx) -> None:
    assert "not valid for" in check(replace(nginx.kind, sni="other.example.net"), nginx.https).detail
    assert (
        check(replace(nginx.kind, ca=None), nginx.https).detail
        == "certificate not valid: self-signed certificate"
    )
    soon = check(replace(nginx.kind, expect=frozenset({404}), expiry_warning=30 * 86400.0), nginx.https)
    assert (soon.outcome, soon.detail) == (Outcome.OK, "certificate expires in 2 days")


def test_nginx_that_wants_a_client_certificate_lets_in_who_has_one(nginx: Nginx) -> None:
    assert check(nginx.kind, nginx.mutual).detail == "status 400, expected 2xx"
    files = nginx.certificate
    known = replace(nginx.kind, certificate=str(files.certificate), key=str(files.key))
    assert check(known, nginx.mutual).outcome is Outcome.OK


UNBOUND = """\
server:
  directory: "{where}"
  chroot: ""
  username: ""
  pidfile: "{where}/unbound.pid"
  use-syslog: no
  interface: 127.0.0.1@{port}
  do-not-query-localhost: no
  access-control: 127.0.0.0/8 allow
  local-zone: "example.net." static
  local-data: "www.example.net. IN A 192.0.2.80"
  local-data: "www.example.net. IN A 192.0.2.81"
  local-data: 'www.example.net. IN TXT "a text"'
  local-zone: "refused.example." refuse
"""


@pytest.fixture(scope="module")
def unbound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    where = tmp_path_factory.mktemp("unbound")
    port = peers.free_port()
    (where / "unbound.conf").write_text(UNBOUND.format(where=where, port=port))
    argv = ("unbound", "-d", "-p", "-c", str(where / "unbound.conf"))
    with peers.running(*argv, log=where / "output", tcp=(port,)):
        yield port


@pytest.mark.parametrize("tcp", [False, True])
def test_unbound_answers_as_expected(unbound: int, tcp: bool) -> None:  # noqa: FBT001
    www = DnsCheck(name="www.example.net.", transport="tcp" if tcp else "udp")
    for kind in (
        replace(www, answer=("192.0.2.80",)),
        replace(www, record="TXT", answer=('"a text"',)),
        replace(www, name="none.example.net.", rcode="NXDOMAIN"),
        replace(www, name="refused.example.", rcode="REFUSED"),
    ):
        result = check(kind, unbound)
        assert (result.outcome, result.detail) == (Outcome.OK, "")
    other = check(replace(www, answer=("192.0.2.82",)), unbound)
    assert other.outcome is Outcome.FAIL
    assert "192.0.2.80" in other.detail
    assert other.detail.endswith("; expected 192.0.2.82")


GRPC = """
import sys
from concurrent import futures
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

plain, secure, certificate, key = sys.argv[1:]
server = grpc.server(futures.ThreadPoolExecutor(2))
servicer = health.HealthServicer()
health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
servicer.set("shop.Orders", health_pb2.HealthCheckResponse.SERVING)
servicer.set("shop.Returns", health_pb2.HealthCheckResponse.NOT_SERVING)
server.add_insecure_port(f"127.0.0.1:{plain}")
pair = [(open(key, "rb").read(), open(certificate, "rb").read())]
server.add_secure_port(f"127.0.0.1:{secure}", grpc.ssl_server_credentials(pair))
server.start()
server.wait_for_termination()
"""


@dataclass(frozen=True)
class GrpcServer:
    plain: int
    secure: int
    trust: Tls


@pytest.fixture(scope="module")
def grpc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServer]:
    where = tmp_path_factory.mktemp("grpc")
    made = peers.certificate(where)
    plain, secure = peers.free_port(), peers.free_port()
    argv = (sys.executable, "-c", GRPC, str(plain), str(secure), str(made.certificate), str(made.key))
    with peers.running(*argv, log=where / "output", tcp=(plain, secure)):
        yield GrpcServer(plain, secure, Tls(sni="peer.example.net", ca=str(made.certificate)))


@pytest.mark.parametrize(
    ("service", "detail"),
    [
        ("", ""),
        ("shop.Orders", ""),
        ("shop.Returns", "NOT_SERVING, expected SERVING"),
        ("shop.None", "gRPC status 5 NOT_FOUND"),
    ],
)
def test_the_health_service_of_grpcio_says_what_serves(grpc: GrpcServer, service: str, detail: str) -> None:
    kind = GrpcCheck(service=service)
    for one, port in ((kind, grpc.plain), (replace(kind, tls=grpc.trust), grpc.secure)):
        result = check(one, port)
        assert result.outcome is (Outcome.FAIL if detail else Outcome.OK)
        assert result.detail.startswith(detail)


def test_grpc_to_a_server_of_plain_http_fails(nginx: Nginx) -> None:
    tls = Tls(sni="peer.example.net", ca=str(nginx.certificate.certificate))
    assert "no application protocol" in check(GrpcCheck(tls=tls), nginx.https).detail
    assert check(GrpcCheck(), nginx.https).outcome is Outcome.FAIL
