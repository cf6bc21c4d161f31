"""The lab leaves the machine as it was, and is reached from it: up, something done on a node, down."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest

from lab.waiting import until

CHECKOUT = Path(__file__).resolve().parents[2]
HOME = str(Path.home())
KEPT = ("/etc", "/var/lib", "/usr/local", HOME, "/opt", "/srv")
_OF_OTHERS = {
    str(CHECKOUT),
    f"{HOME}/.cache",
    f"{HOME}/.npm",
    "/var/lib/systemd",
    "/var/lib/apt",
    "/var/lib/dpkg",
}
KERNELS = [
    "namespaces",
    pytest.param("uml", marks=pytest.mark.skipif(not which("linux.uml"), reason="needs User-Mode-Linux")),
]
# On one node, what an operator might: corrections by doctor, files, links, processes that stay.
DEEDS = """
anycast doctor --fix --yes >/dev/null
echo mine >/etc/hosts && echo mine >~/labtest && echo mine >/var/lib/labtest && echo mine >/var/tmp/labtest
echo mine >/usr/local/bin/labtest && echo mine >/run/labtest && echo mine >/tmp/labtest
ip link add labtest0 type veth peer name labtest1
ls /etc/sysctl.d /etc/modules-load.d
test -e /proc/net/ip_vs || echo "no IPVS"
"""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not Path("/usr/lib/frr/zebra").exists(), reason="needs FRR"),
    pytest.mark.timeout(300),
]


class Lab:
    """`python -m lab` with a place of its own for its socket, so that another lab may run."""

    def __init__(self, kernel: str, place: Path, logs: Path) -> None:
        self.mark = uuid.uuid4().hex
        self._env = {k: v for k, v in os.environ.items() if k != "ANYCAST_LAB_GUEST"}
        self._env |= {"ANYCAST_LAB": kernel, "TMPDIR": str(place), "LABTEST_MARK": self.mark}
        self._env["ANYCAST_LAB_LOGS"] = str(logs)

    def __call__(self, *words: str, check: bool = True) -> str:
        argv = [sys.executable, "-m", "lab", *words]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            env=self._env,
            cwd=CHECKOUT,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout

    def processes(self) -> list[str]:
        """Every process on the machine that this lab has started, however indirectly."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.mark.encode() in path.read_bytes():
                    found.append((path.parent / "cmdline").read_text())
            except OSError:
                continue
        return found


@pytest.fixture(params=KERNELS)
def lab(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    lab = Lab(request.param, tmp_path, tmp_path_factory.mktemp("logs"))
    yield lab
    lab("down", check=False)


def files() -> dict[str, tuple[int, ...]]:
    """Inode, mode, size and times of everything in KEPT."""
    found: dict[str, tuple[int, ...]] = {}
    for top in KEPT:
        for place, folders, names in os.walk(top):
            # What other programs of this machine keep meanwhile.
            folders[:] = [name for name in folders if os.path.join(place, name) not in _OF_OTHERS]
            for name in (*folders, *names):
                if place == HOME and name.startswith(".history"):
                    continue
                status = os.lstat(os.path.join(place, name))
                found[os.path.join(place, name)] = (
                    status.st_ino, status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns, status.st_ctime_ns
                )  # fmt: skip
    return found


def names() -> set[str]:
    """Whatever a lab could leave behind: network namespaces, links, mounts, cgroups, files in /run, /tmp, /var/tmp."""
    mounts = {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()}
    links = {f"link {path.name}" for path in Path("/sys/class/net").iterdir()}
    groups = {f"cgroup {line}" for line in Path("/proc/self/cgroup").read_text().splitlines()}
    places = [
        Path("/run"),
        Path("/run/netns"),
        Path("/run/frr"),
        Path("/tmp"),
        Path("/var/tmp"),
        Path("/dev/shm"),
    ]
    return (
        mounts
        | links
        | groups
        | {str(path) for place in places if place.is_dir() for path in place.iterdir()}
    )


def _of_a_lab(name: str) -> bool:
    """Of this one: another that runs meanwhile has a folder of its own in /tmp."""
    mine = "lab" in name or "frr" in name or "/netns/" in name
    return mine and not name.startswith(("/tmp/anycast-", "/run/netns/anycast-"))


def test_nothing_is_left_of_a_lab_and_of_what_was_done_in_it(lab: Lab, tmp_path: Path) -> None:
    before, there = files(), names()
    lab("up", "--no-daemons", "--balancers", "2", "--servers", "1")
    said = lab("exec", "lb1", "sh", "-c", DEEDS)
    assert "anycast.conf" in said or "no IPVS" in said
    assert lab.processes()
    lab("down")
    assert files() == before
    until(lambda: not lab.processes(), "the end of the last process", 60.0)  # the keeper has only to exit
    assert {name for name in names() - there if _of_a_lab(name)} == set()
    assert list(tmp_path.iterdir()) == []


def test_the_nodes_share_no_files_and_their_pages_are_on_the_machines_loopback(lab: Lab) -> None:
    said = lab("up", "--no-daemons", "--balancers", "2", "--servers", "1")
    pages = {
        words[1]: words[0]
        for line in said.splitlines()
        if len(words := line.split()) == 2 and "http:" in line
    }
    lab(
        "exec",
        "lb1",
        "sh",
        "-c",
        "echo lb1 >/var/lib/labtest; echo lb1 >/etc/labtest; echo lb1 >/run/labtest",
    )
    assert lab("exec", "lb2", "sh", "-c", "cat /var/lib/labtest /etc/labtest /run/labtest || :") == ""
    serve = f"cd /var/lib && exec {sys.executable} -m http.server 9644 --bind 127.0.0.1 >/dev/null 2>&1"
    lab(
        "exec",
        "lb1",
        "sh",
        "-c",
        f"({serve}) & for i in $(seq 100); do curl -s 127.0.0.1:9644 && exit; sleep 0.1; done",
    )
    with urllib.request.urlopen(f"{pages['lb1']}labtest", timeout=60) as answer:  # noqa: S310
        assert answer.read() == b"lb1\n"
    assert pages["lb1"].startswith("http://127.0.0.1:")
    assert pages["lb1"] != pages["lb2"]
