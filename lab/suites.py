"""A Debian of another suite in a folder: its routers, its User-Mode-Linux, and the tests on it. Nothing of this machine changes.

`python -m lab.suites trixie sid` makes build/debian/SUITE with debootstrap and what lab/install names. It needs root
and Debian's packages, and is quick when nothing is missing.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.locks import alone

CHECKOUT = Path(__file__).resolve().parents[1]
PLACE = CHECKOUT / "build" / "debian"
SUITES = ("trixie", "sid")
PATIENCE = 1800.0  # seconds, for what fetches packages

# What a checkout needs beside lab/install: its own packages are for running the lab alone.
_READY = ".ready"  # what it was made of
_WHAT = ("routers", "package", "etcd", "bench", "tests")  # of lab/install
_FIRST = ("ca-certificates", "git", "make", "python3", "python3-venv", "systemd-sysv")
_OTHERS = {"sid": ("bird3",)}  # by suite; this one in the place of BIRD 2
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
}
_NO_DAEMON = "#!/bin/sh\nexit 101\n"

# What the program has of this machine: its kernel's file systems, and the folders in which both sides find each other.
OURS = "/ours"  # in such a Debian: all files of this machine
_ENTER = f"""\
root=$1
shift
mkdir -p "$root{OURS}"
mount --rbind / "$root{OURS}"
for place in /proc /sys /dev /run /tmp; do mount --rbind "$place" "$root$place"; done
exec chroot "$root" "$@"
"""

# The shell stays: process 1 has to bury what nobody else does.
_ISOLATED = """\
root=$1
shift
mount --bind "$root" "$root"  # a root that is mounted can be made read-only, as the lab does
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir "$root/run/lock" "$root/run/netns"
ip link set lo up
# Not chroot: who enters the mount namespace of a node of a lab in there would be at this machine's root again.
mkdir -p "$root/.outside"
cd "$root"
pivot_root . .outside
cd /
umount --lazy /.outside
"$@" || exit $?
"""


def root(suite: str) -> Path:
    return PLACE / suite


def there(suite: str) -> bool:
    return is_made(root(suite))


def enter(place: Path, argv: Iterable[str]) -> list[str]:
    """The command that runs `argv` with the files of the Debian in `place`, and everything else of this machine."""
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh", str(place), *argv]


def environment() -> dict[str, str]:
    """For programs that run in such a Debian."""
    kept = {name: value for name, value in os.environ.items() if name.endswith(("_proxy", "_PROXY"))}
    return _ENVIRONMENT | kept


def isolated(place: Path, argv: Iterable[str]) -> list[str]:
    """As `enter`, in mount, process, network, host name and IPC namespaces of their own: all that is started ends with it."""
    own = (
        "--mount",
        "--pid",
        "--net",
        "--uts",
        "--ipc",
        "--fork",
        "--kill-child",
        "--propagation",
        "private",
    )
    return ["unshare", *own, "sh", "-ec", _ISOLATED, "sh", str(place), *argv]


def make(suite: str) -> Path:
    """The Debian, made or completed. Raises LabError."""
    others = _OTHERS.get(suite, ())

    def programs(place: Path) -> None:
        """What lab/install names, where it is missing."""
        (place / "checkout/lab").mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / "lab/install", place / "checkout/lab/install")
        install(place, "/checkout/lab/install", *_WHAT)
        if others:
            packages(place, *others)
        shutil.rmtree(place / "checkout")

    wanted = f"{' '.join((*_WHAT, *others))}\n{(CHECKOUT / 'lab/install').read_text()}"
    return complete(root(suite), suite, _FIRST, wanted, programs)


def complete(
    place: Path, suite: str, first: Sequence[str], wanted: str, programs: Callable[[Path], None]
) -> Path:
    """The Debian in `place`, made if it is not there; completed, if something else is wanted than then. Raises LabError.

    `first`: the packages it is made with; `programs` installs the rest in a folder, and goes by what `wanted` says.
    What is no longer wanted stays. While another process is at it, this one waits.
    """
    made_of = f"{' '.join(first)}\n{wanted}"
    if _made_of(place) == made_of:
        return place
    told = f"lab: waiting for another process that makes {place.relative_to(CHECKOUT)}"
    with alone(place.with_suffix(".lock"), lambda: print(told, file=sys.stderr, flush=True)):
        before = _made_of(place)
        if before == made_of:
            return place
        new = _begun(place, suite, first) if before is None else place
        # A mirror of testing or unstable may be older than what it says of itself; its signatures are checked all the same.
        (new / "etc/apt/apt.conf.d/99-old-mirror").write_text('Acquire::Check-Valid-Until "false";\n')
        if before is not None:
            install(new, "apt-get", "-qq", "update")
            packages(new, *first)
        programs(new)
        install(new, "apt-get", "clean")
        (new / _READY).write_text(made_of)
        if before is None:
            shutil.rmtree(place, ignore_errors=True)
            new.rename(place)
    return place


def is_made(place: Path) -> bool:
    return _made_of(place) is not None


def _made_of(place: Path) -> str | None:
    """None: it is not there, or was never whole."""
    try:
        return (place / _READY).read_text()
    except FileNotFoundError:
        return None


def _begun(place: Path, suite: str, packages: Iterable[str]) -> Path:
    """A minimal Debian with these packages, beside `place` until it is whole. It starts no daemons. Raises LabError."""
    _run(str(CHECKOUT / "lab/install"), "debian")
    new = place.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    print(f"lab: making {place.relative_to(CHECKOUT)}; some minutes", file=sys.stderr, flush=True)
    include = f"--include={','.join(packages)}"
    # In a mount namespace: it mounts /proc in there.
    _run("unshare", "--mount", "debootstrap", "--variant=minbase", include, suite, str(new), mirror())
    shutil.copy("/etc/resolv.conf", new / "etc/resolv.conf")
    policy = new / "usr/sbin/policy-rc.d"
    policy.write_text(_NO_DAEMON)
    policy.chmod(0o755)
    return new


def install(place: Path, *argv: str) -> None:
    """Runs a command of the Debian in `place`: the network is this machine's, and no process stays. Raises LabError."""
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={place}/proc"]
    _run(*own, "chroot", str(place), *argv)


def packages(place: Path, *names: str) -> None:
    """Installs those that are missing, without what they recommend, and leaves the others as they are. Raises LabError."""
    install(place, "apt-get", "-qq", "install", "--no-install-recommends", "--no-upgrade", *names)


def _run(*argv: str) -> None:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=environment(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"lab: {shlex.join(argv)}: {error}") from error
    if done.returncode != 0:
        said = "".join(f"{text[-4000:].rstrip()}\n" for text in (done.stdout, done.stderr) if text.strip())
        raise LabError(f"{said}lab: {shlex.join(argv)}: it failed with status {done.returncode}")


def mirror() -> str:
    """Where this machine has its own Debian packages from."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    line = re.compile(r"^(?:URIs:|deb(?: \[.*\])?) *(\S+/debian)/?(?: |$)", re.MULTILINE)
    found = [match[1] for place in places if place.is_file() for match in line.finditer(place.read_text())]
    return found[0] if found else "http://deb.debian.org/debian"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.suites", description=__doc__)
    parser.add_argument("suites", nargs="*", default=SUITES, help="of Debian; default: trixie and sid")
    return made(make, parser.parse_args(arguments).suites)


def made(make: Callable[[str], Path], suites: Iterable[str]) -> int:
    """Prints where each is. Returns the exit status: 1 with the reason of each that cannot be made."""
    status = 0
    for suite in suites:
        try:
            print(make(suite))
        except LabError as error:
            print(error, file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
