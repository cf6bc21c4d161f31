"""What `lab.bench_checks` checks, and whom it compares with: an accepting socket, nginx, HAProxy; all on the loopback."""

from __future__ import annotations

import contextlib
import csv
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from lab.check_load import FIRST, address
from lab.loaded_agent import target
from lab.measuring import running
from lab.waiting import until

HOST = "bench.example"
APART = IPv4Address("10.1.0.2")  # of the first target that is not on the loopback
_PLACE = "bench-checks-server"
TCP_PORT, HTTP_PORT, HTTPS_PORT = 8080, 8081, 8443  # outside what the kernel takes for its own connections

_BACKLOG = 4096
_PATIENCE = 20.0  # seconds for a server to begin


def haproxy_conf(work: str, count: int, directory: Path, first: IPv4Address = FIRST) -> str:
    """Nothing but checks, each second as ours. Its sessions of TLS are resumed by default, as ours."""
    port = {"tcp": TCP_PORT, "http": HTTP_PORT, "https": HTTPS_PORT}[work]
    lines = [
        "global",
        "    nbthread 1",
        "    maxconn 1000",
        f"    stats socket {directory}/haproxy.sock",
        # It counts an interval from the end of a check: those that take their time gather in a heap, and the
        # heap takes longer still, unless each interval is a little different.
        *(["    spread-checks 20"] if work == "https" else []),
        "defaults",
        f"    mode {'tcp' if work == 'tcp' else 'http'}",
        *(f"    timeout {what} 1s" for what in ("connect", "check", "client", "server", "queue")),
        "backend checked",
    ]
    if work != "tcp":
        lines += [
            "    option httpchk",
            f"    http-check send meth GET uri / ver HTTP/1.1 hdr Host {HOST}",
            "    http-check expect status 200",
        ]
    if work == "https":
        ca = f"{directory}/ca.pem"
        lines.append(f"    default-server check-ssl verify required ca-file {ca} check-sni {HOST}")
    lines.append("    default-server inter 1s fastinter 1s downinter 1s rise 2 fall 3")
    lines += [f"    server s{number} {address(number, first)}:{port} check" for number in range(count)]
    return "\n".join([*lines, ""])


def nginx_conf(directory: Path) -> str:
    """One process that answers with two bytes and tells how many requests it had."""
    return f"""daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log crit;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    server {{
        listen {HTTP_PORT} backlog={_BACKLOG};
        location / {{ return 200 "ok"; }}
    }}
    server {{
        listen {HTTPS_PORT} ssl backlog={_BACKLOG};
        ssl_protocols TLSv1.3;
        ssl_certificate {directory}/server.pem;
        ssl_certificate_key {directory}/server.key;
        ssl_session_cache shared:bench:10m;
        ssl_session_tickets on;
        location / {{ return 200 "ok"; }}
    }}
    server {{
        listen unix:{directory}/nginx.sock;
        location / {{ stub_status; }}
    }}
}}
"""


def requests(stub_status: str) -> int:
    """Out of what nginx tells, the request for it included."""
    return int(stub_status.split("requests", 1)[1].split()[2])


def well(show_stat: str) -> int:
    """Servers whose last check went well, out of what HAProxy tells."""
    rows = csv.DictReader(show_stat.removeprefix("# ").splitlines())
    return sum(
        row["status"] == "UP" and row["check_status"].removeprefix("* ") in {"L4OK", "L7OK"} for row in rows
    )


def ask(path: Path, question: bytes) -> str:
    """Of a server on a socket of this machine that closes the connection after its answer."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(_PATIENCE)
        line.connect(str(path))
        line.sendall(question)
        return b"".join(iter(lambda: line.recv(65536), b"")).decode()


def certificates(directory: Path) -> None:
    """An authority, and a certificate of it for the targets' name."""
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for arguments in (
        ("-x509", *curve, "-subj", "/CN=bench", "-keyout", "ca.key", "-out", "ca.pem"),
        (
            *("-x509", *curve, "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"),
            *("-addext", "basicConstraints=critical,CA:FALSE", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-keyout", "server.key", "-out", "server.pem"),
        ),
    ):
        subprocess.run(("openssl", "req", *arguments), cwd=directory, check=True, capture_output=True)


@contextlib.contextmanager
def targets(directory: Path) -> Iterator[None]:
    """All the servers that are checked."""
    certificates(directory)
    conf = directory / "nginx.conf"
    conf.write_text(nginx_conf(directory))
    with target(TCP_PORT), running(["nginx", "-p", str(directory), "-c", str(conf)]):
        for port in HTTP_PORT, HTTPS_PORT:
            until(partial(_listens, port), f"port {port} of nginx", _PATIENCE)
        yield


@contextlib.contextmanager
def apart(ours: int, others: int) -> Iterator[None]:
    """A server for TCP checks in a namespace of its own, from APART on: each end's half of the network on a processor of its own.

    On the loopback whoever checks pays for what the kernel does for the server, too. `ours`, `others`: masks of processors.
    """
    inside = f"ip netns exec {_PLACE}"
    gateway = APART - 1
    receiving = "/sys/class/net/{}/queues/rx-0/rps_cpus"
    # One of a run that was killed may be there.
    subprocess.run(f"ip netns delete {_PLACE}".split(), check=False, stderr=subprocess.DEVNULL)
    subprocess.run(f"ip netns add {_PLACE}".split(), check=True)
    try:
        for words in (
            f"ip link add name checks type veth peer name server netns {_PLACE}",
            "ip link set checks up",
            "ip address add 10.0.0.1/32 dev checks",
            f"ip route add {gateway} dev checks",
            f"ip route add 10.1.0.0/16 via {gateway}",
            f"{inside} ip link set server up",
            f"{inside} ip route add local 10.1.0.0/16 dev server",
            f"{inside} ip route add 10.0.0.1 dev server src {gateway}",
        ):
            subprocess.run(words.split(), check=True)
        for before, mask, name in (
            (inside.split(), others, "server"),
            # /sys shows the namespace of whoever mounts it.
            (["unshare", "-m", "sh", "-c", 'mount -t sysfs none /sys && exec "$@"', "sh"], ours, "checks"),
        ):
            subprocess.run([*before, "sh", "-c", f"echo {mask:x} >{receiving.format(name)}"], check=True)
        with target(TCP_PORT, inside.split()):
            yield
    finally:
        subprocess.run(["ip", "netns", "delete", _PLACE], check=True)


def _listens(port: int) -> bool:
    with socket.socket() as line:
        return line.connect_ex(("127.0.0.1", port)) == 0
