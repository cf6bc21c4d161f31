#!/bin/bash
# Python's ssl module: a session that comes with a certificate of some 64 KiB and more cannot be read.
#
# The handshake is done, the certificate is verified, and data goes both ways. Only the attribute `session`, which a
# client reads to resume the session later, raises ValueError. With a smaller certificate it is an SSLSession (63 kB
# was still good). The same with TLS 1.2 and TLS 1.3.
#
# Expected before it was run: a session, or None; the attribute is not documented to raise.
#
# Seen with OpenSSL 3.0.19 (Debian 12) and Python 3.11.2 (Debian), 3.11.7, 3.12.1 and 3.13.0:
#
#     certificate of 48 kB, TLSv1.2: connected, session: SSLSession
#     certificate of 48 kB, TLSv1.3: connected, session: SSLSession
#     certificate of 72 kB, TLSv1.2: connected, session: ValueError: i2d() failed
#     certificate of 72 kB, TLSv1.3: connected, session: ValueError: i2d() failed
#
# What it means: a client that resumes sessions has to expect the exception, and go on without a session. The size of
# its own certificate is the server's choice, so the exception must not be taken for a fault of the client.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs python3 and openssl (PYTHON names another
# interpreter); no root, no network, some seconds.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cat > "$folder/client.py" <<'PYTHON'
import platform
import ssl
import subprocess
import sys

FOLDER = sys.argv[1]
SIZES = {2000: "SSLSession", 3000: "ValueError: i2d() failed"}  # names in the certificate


def certificate(names):
    base = f"{FOLDER}/{names}"
    alternatives = ",".join(["DNS:www.example.net"] + [f"DNS:name-{n:05}.example.net" for n in range(names)])
    with open(f"{base}.conf", "w") as conf:
        conf.write(f"[req]\ndistinguished_name=dn\nx509_extensions=ext\n[dn]\n[ext]\nsubjectAltName={alternatives}\n")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-config", f"{base}.conf", "-keyout", f"{base}.key", "-out", f"{base}.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    return f"{base}.pem", f"{base}.key"


def connected(certificate, key, version):
    """A client after its handshake, and after a byte of the server, behind which the tickets of TLS 1.3 have come."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.maximum_version = version
    server_context.load_cert_chain(certificate, key)
    client_context = ssl.create_default_context(cafile=certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(there, back, server_side=True)
    client = client_context.wrap_bio(back, there, server_hostname="www.example.net")
    done = set()
    while len(done) < 2:
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    server.write(b"x")
    assert client.read(1) == b"x"
    return client


print(f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}")
differs = False
for names, expected in SIZES.items():
    files = certificate(names)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        client = connected(*files, version)
        size = len(client.getpeercert(binary_form=True))
        try:
            seen = type(client.session).__name__
        except Exception as error:
            seen = f"{type(error).__name__}: {error}".rstrip(".")  # 3.11.2 has a full stop
        print(f"certificate of {size / 1000:.0f} kB, {client.version()}: connected, session: {seen}")
        if seen != expected:
            print(f"  differs: expected {expected}")
            differs = True
sys.exit(differs)
PYTHON

timeout 120 "${PYTHON:-python3}" "$folder/client.py" "$folder"
