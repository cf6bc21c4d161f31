"""A Debian with the programs that manage interfaces, in a folder, and nodes that run it: network, processes, mounts and a
bus of their own, and nothing of this machine changes.

`python -m lab.hosts bookworm trixie sid` makes build/hosts/SUITE with debootstrap. It needs root and Debian's packages.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab.suites import CHECKOUT, complete, is_made, made, packages

PLACE = CHECKOUT / "build" / "hosts"
SUITES = ("bookworm", "trixie", "sid")
START = 30.0  # seconds, for what is to be there

_FIRST = ("ca-certificates", "dbus", "iproute2", "kmod", "netbase", "procps", "systemd", "udev")
_PROGRAMS = ("network-manager", "ifupdown2", "firewalld", "nftables")

# What it writes is in memory, over the folder. /sys cannot be written, as in a container: the programs then wait for no udev.
_NODE = """\
root=$1 own=$2
mount -t tmpfs tmpfs "$own"
mkdir "$own/upper" "$own/work" "$own/root"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$own/upper,workdir=$own/work" "$own/root"
cd "$own/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p run/dbus run/lock run/network run/systemd/network run/systemd/netif/links run/systemd/netif/leases run/systemd/netif/lldp
chroot . chown -R systemd-network: /run/systemd/netif
ip link set lo up
chroot . systemd-machine-id-setup >/dev/null 2>&1
chroot . dbus-daemon --system --nopidfile --fork
: >run/ready
exec chroot . sh -c 'while :; do sleep 0.2; done'  # process 1 buries what nobody else does
"""


def there(suite: str) -> bool:
    return is_made(PLACE / suite)


def make(suite: str) -> Path:
    """The Debian, made or completed. Raises lab.errors.LabError."""

    def programs(place: Path) -> None:
        packages(place, *_PROGRAMS)

    return complete(PLACE / suite, suite, _FIRST, " ".join(_PROGRAMS), programs)


class Host:
    """A node that runs. `pid`: of its first process, as this machine counts them."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")

    def run(self, *argv: str, failing: bool = False) -> str:
        """With the node's files. What it printed. Raises AssertionError with its complaint, unless it may fail."""
        return _done(self.command(*argv), failing=failing)

    def ours(self, *argv: str, failing: bool = False) -> str:
        """With this machine's files, and the node's network and processes."""
        return _done(self._enter("--net", "--pid", *argv), failing=failing)

    def command(self, *argv: str) -> list[str]:
        return self._enter("--mount", "--net", "--pid", "--root", "--wd", *argv)

    def beside(self, *argv: str) -> list[str]:
        """The command that runs with this machine's files in the node's network."""
        return self._enter("--net", *argv)

    def start(self, *argv: str) -> None:
        """A daemon, which ends with the node. Its words are in /tmp/log."""
        self.run("sh", "-c", 'setsid "$@" </dev/null >>/tmp/log 2>&1 &', "sh", *argv)

    def end(self, name: str) -> None:
        """By its name in the node."""
        self.run("sh", "-c", 'pkill -x "$1"; while pgrep -x "$1" >/dev/null; do sleep 0.05; done', "sh", name)

    def write(self, path: str, text: str) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def until(self, *argv: str) -> None:
        """Until a program succeeds. Raises AssertionError."""
        deadline = time.monotonic() + START
        while subprocess.run(self.command(*argv), capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, f"{argv}: {self.run('cat', '/tmp/log', failing=True)}"
            time.sleep(0.05)

    def _enter(self, *argv: str) -> list[str]:
        return ["nsenter", "--target", str(self.pid), *argv]


def _done(argv: Sequence[str], *, failing: bool) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode and not failing:
        raise AssertionError(f"{' '.join(argv)}: {done.stderr or done.stdout}")
    return done.stdout


@contextlib.contextmanager
def host(suite: str) -> Iterator[Host]:
    """A node with an empty network, a bus, and none of its daemons. All of it ends with the block."""
    spaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"]
    with tempfile.TemporaryDirectory() as own:
        argv = ["unshare", *spaces, "--propagation", "private", "sh", "-ec", _NODE, "sh"]
        node = subprocess.Popen([*argv, str(PLACE / suite), own], stderr=subprocess.PIPE, text=True)
        try:
            yield Host(_first_process(node))
        finally:
            node.kill()
            node.communicate()


def _first_process(node: subprocess.Popen[str]) -> int:
    deadline = time.monotonic() + START
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children")
    while time.monotonic() < deadline and node.poll() is None:
        pids = children.read_text().split()
        if pids and Path("/proc", pids[0], "root", "run", "ready").exists():
            return int(pids[0])
        time.sleep(0.02)
    node.kill()
    raise AssertionError(f"the node does not start: {node.communicate()[1]}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.hosts", description=__doc__)
    parser.add_argument("suites", nargs="*", default=SUITES, help=f"of Debian; default: {' '.join(SUITES)}")
    return made(make, parser.parse_args(arguments).suites)


if __name__ == "__main__":
    sys.exit(main())
