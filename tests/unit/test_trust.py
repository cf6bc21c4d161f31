"""Certificates that OpenSSL takes are taken with every Python: newer ones refuse a CA that names no key usage."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anycast import mutual_tls
from anycast.core.hooks import Webhook
from anycast.core.values.fleet import Certificates
from anycast.notify import webhook
from anycast.probes import tls
from anycast.trust import verifying

NAME = "lb2.example"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a CA as `openssl req -x509` makes it, and a certificate of it."""
    made = tmp_path_factory.mktemp("trust")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=made)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    plain = ("-addext", "basicConstraints=critical,CA:true")
    (made / "empty.cnf").write_text("[req]\ndistinguished_name = dn\n[dn]\n")
    openssl(
        "req",
        "-config",
        "empty.cnf",
        "-x509",
        *curve,
        *plain,
        "-subj",
        "/CN=CA",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    )
    openssl(
        "req", "-config", "empty.cnf", *curve, "-subj", "/CN=node", "-keyout", "key.pem", "-out", "node.csr"
    )
    (made / "ext").write_text(f"subjectAltName=DNS:{NAME}\nextendedKeyUsage=serverAuth,clientAuth\n")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    openssl("x509", "-req", "-in", "node.csr", *signing, "-extfile", "ext", "-out", "node.pem", "-days", "2")
    return made


@pytest.fixture
def newer_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from Python 3.13 on."""
    made = ssl.create_default_context

    def strict(*args: Any, **named: Any) -> ssl.SSLContext:
        context = made(*args, **named)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)


def serving(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "node.pem", folder / "key.pem")
    return context


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """In memory. Raises SSLError."""
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(one, other, server_hostname=NAME),
        server.wrap_bio(other, one, server_side=True),
    ]
    for _ in range(5):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()


def of_fleet(folder: Path) -> Certificates:
    return Certificates(
        certificate=str(folder / "node.pem"), key=str(folder / "key.pem"), ca=str(folder / "ca.pem")
    )


def of_a_check(folder: Path) -> ssl.SSLContext:
    tls.cached_context.cache_clear()
    return tls.cached_context(True, str(folder / "ca.pem"), None, None, (), ())


def of_a_hook(folder: Path) -> ssl.SSLContext:
    made = webhook._context(Webhook(url=f"https://{NAME}/", host=NAME, ca=str(folder / "ca.pem")))
    assert made is not None
    return made


CLIENTS: dict[str, Callable[[Path], ssl.SSLContext]] = {
    "what it is made by": lambda folder: verifying(str(folder / "ca.pem")),
    "a node of the fleet": lambda folder: mutual_tls.client(of_fleet(folder), [NAME]),
    "etcd's client": lambda folder: mutual_tls.to_server(of_fleet(folder)),
    "a check": of_a_check,
    "a hook": of_a_hook,
}


@pytest.mark.usefixtures("newer_python")
@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_a_ca_without_a_key_usage_is_taken(client: Callable[[Path], ssl.SSLContext], folder: Path) -> None:
    shake_hands(client(folder), serving(folder))


@pytest.mark.usefixtures("newer_python")
def test_a_node_takes_another_one_by_such_a_ca(folder: Path) -> None:
    files = of_fleet(folder)
    shake_hands(mutual_tls.client(files, [NAME]), mutual_tls.server(files, [NAME]))


@pytest.mark.usefixtures("newer_python")
def test_the_library_itself_would_refuse_it(folder: Path) -> None:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    with pytest.raises(ssl.SSLCertVerificationError, match="key usage"):
        shake_hands(context, serving(folder))


def test_another_ca_is_refused(folder: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(verifying(None), serving(folder))
