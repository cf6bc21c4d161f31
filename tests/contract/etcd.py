"""A cluster of etcd, by default on the loopback interface, three members of this machine's own package."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

BINARY = os.environ.get("ETCD") or shutil.which("etcd")
"""Another release than the one of this machine: `ETCD=/path/to/etcd`."""
COMES_UP = 30.0  # seconds


class Cluster:
    """`members`: by number. A process ends with the cluster, frozen or not."""

    def __init__(self, directory: Path, *options: str, scheme: str = "http", host: str = "127.0.0.1") -> None:
        self._directory = directory
        self._host = host
        self._scheme = scheme
        self._options = options
        ports = _free_ports(6, host)
        self._clients, self._peers = ports[:3], ports[3:]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        for number in range(3):
            self.start(number)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(f"{self._scheme}://{self._host}:{port}" for port in self._clients)

    def start(self, number: int) -> None:
        peers = [f"http://{self._host}:{port}" for port in self._peers]
        initial = ",".join(f"m{n}={url}" for n, url in enumerate(peers))
        assert BINARY is not None
        with (self._directory / f"m{number}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [
                    *(BINARY, "--name", f"m{number}", "--data-dir", str(self._directory / f"m{number}")),
                    *("--listen-client-urls", self.endpoints[number]),
                    *("--advertise-client-urls", self.endpoints[number]),
                    *("--listen-peer-urls", peers[number], "--initial-advertise-peer-urls", peers[number]),
                    *("--initial-cluster", initial, "--initial-cluster-token", str(self._peers[0])),
                    *self._options,
                ],
                stdout=log,
                stderr=log,
            )

    def kill(self, number: int) -> None:
        process = self._processes.pop(number)
        process.kill()
        process.wait()

    def freeze(self, *numbers: int) -> None:
        for number in numbers:
            self._processes[number].send_signal(signal.SIGSTOP)

    def thaw(self, *numbers: int) -> None:
        for number in numbers:
            self._processes[number].send_signal(signal.SIGCONT)

    def close(self) -> None:
        for number in list(self._processes):
            self.kill(number)

    def wait(self, numbers: Sequence[int] = (0, 1, 2)) -> None:
        """Until each of these says that it is well."""
        until = time.monotonic() + COMES_UP
        for number in numbers:
            while True:
                if _is_well(self.endpoints[number]):
                    break
                assert time.monotonic() < until, f"member {number} of etcd does not come up"
                time.sleep(0.1)

    def control(self, *words: str) -> str:
        """What `etcdctl` says, of the first member. Raises CalledProcessError."""
        return subprocess.run(
            ["etcdctl", f"--endpoints={self.endpoints[0]}", *words],
            env={"ETCDCTL_API": "3", "PATH": os.environ["PATH"]},
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def leader(self) -> int:
        """Raises AssertionError: there is none."""
        for number, endpoint in enumerate(self.endpoints):
            with contextlib.suppress(OSError):
                request = urllib.request.Request(f"{endpoint}/v3/maintenance/status", b"{}")  # noqa: S310
                with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310
                    status = json.loads(answer.read())
                    if status.get("leader") == status["header"]["member_id"]:
                        return number
        raise AssertionError("there is no leader")


@contextlib.contextmanager
def cluster(
    directory: Path, *options: str, scheme: str = "http", host: str = "127.0.0.1"
) -> Iterator[Cluster]:
    """`host`: its address, in the namespace of whoever asks."""
    one = Cluster(directory, *options, scheme=scheme, host=host)
    try:
        one.wait()
        yield one
    finally:
        one.close()


def _is_well(endpoint: str) -> bool:
    """One with certificates at both ends: whether it listens, for it is not asked more without one."""
    try:
        if endpoint.startswith("https:"):
            host, _, port = endpoint.rpartition("/")[2].partition(":")
            socket.create_connection((host, int(port)), timeout=2).close()
            return True
        with urllib.request.urlopen(f"{endpoint}/health", timeout=2) as answer:  # noqa: S310
            return b"true" in answer.read()
    except OSError:
        return False


def _free_ports(count: int, host: str) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((host, 0))
        return [one.getsockname()[1] for one in sockets]
