"""Real servers on the loopback, each at a free port with its files in a directory of its own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 30.0  # seconds


def missing(*programs: str) -> str | None:
    """Why a test with these programs cannot run here; None: it can."""
    lacking = [
        program for program in programs if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None
    ]
    return f"no {', '.join(lacking)} here: run lab/install" if lacking else None


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@dataclass(frozen=True)
class Certificate:
    """Self-signed, for peer.example.net and 127.0.0.1."""

    certificate: Path
    key: Path


def certificate(where: Path) -> Certificate:
    made = Certificate(where / "certificate.pem", where / "key.pem")
    names = "subjectAltName=DNS:peer.example.net,IP:127.0.0.1"
    shape = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=peer", "-addext", names]
    files = ["-keyout", str(made.key), "-out", str(made.certificate)]
    subprocess.run(["openssl", "req", *shape, *files], check=True, capture_output=True)
    return made


@contextlib.contextmanager
def running(*argv: str, log: Path, tcp: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A server, once it listens at these ports."""
    with log.open("ab") as output:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + PATIENCE
        for port in tcp:
            while not _listens(port):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise AssertionError(f"{argv[0]} does not listen at {port}: {log.read_text()}")
                time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
