"""A fresh Debian in a folder: made once by debootstrap and kept as a tar file under build/, unpacked for each use."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lab import machine as lab_machine
from tests.packaging import inside

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
SUITE = os.environ.get("SUITE") or "bookworm"
PATIENCE = 600.0  # seconds, for what fetches packages
BOOT_PATIENCE = 900.0  # seconds: a kernel in user mode, on a machine that may have other work

# Fetched into the tar file, so that what is installed later needs no network.
_NEEDED = ("python3", "libstdc++6", "kmod", "systemd-sysv")
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C.UTF-8",
}
# No daemon is started by an installation: nothing in a folder is a machine that runs.
_POLICY = "#!/bin/sh\nexit 101\n"


class Machine:
    """A Debian in `root`. Nothing runs in it but what `run` runs."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [
                "unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={self.root}/proc",
                "chroot", str(self.root), *argv,
            ],
            env=_ENVIRONMENT | {name: value for name, value in os.environ.items() if name.endswith("_proxy")},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def install(self, *packages: Path | str) -> str:
        """Files, which need not lie in the machine, or names. Returns what was said."""
        names = []
        for package in packages:
            if isinstance(package, Path):
                shutil.copy(package, self.root / "tmp")
            names.append(f"/tmp/{package.name}" if isinstance(package, Path) else package)
        options = ("-y", "-q", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0")
        done = self.run("apt-get", "install", *options, *names)
        return done.stdout + done.stderr

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def version(self) -> str:
        return self.run("dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", "anycast").stdout

    @contextlib.contextmanager
    def copy(self, folder: Path) -> Iterator[Machine]:
        """One that can be changed without changing this one."""
        root, upper, work = (folder / name for name in ("root", "upper", "work"))
        for path in (root, upper, work):
            path.mkdir(parents=True)
            path.chmod(0o755)
        options = f"lowerdir={self.root},upperdir={upper},workdir={work}"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(root)]
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        if not mounted:
            subprocess.run(["cp", "-a", "--reflink=auto", f"{self.root}/.", str(root)], check=True)
        try:
            yield Machine(root)
        finally:
            if mounted:
                subprocess.run(["umount", "--lazy", str(root)], check=True)
            shutil.rmtree(folder)

    def boot(self, program: str, *, without: str = "") -> str:
        """Boots it, with systemd, in User-Mode-Linux; `program` (Python) runs at the end of the boot and ends it.

        `without`: a folder of the kernel's modules that it has not. Returns what was said on the console.
        """
        _let_boot(self, program, without)
        with (
            tempfile.TemporaryDirectory(prefix="anycast-uml-") as folder,
            tempfile.TemporaryFile() as console,
        ):
            choice = lab_machine.Choice(place=lab_machine.Place.UML, reason="")
            extra = lab_machine._wide_registers(choice, Path(folder)) | lab_machine._memory_place()
            binary = shutil.which("linux.uml")
            assert binary is not None
            process = subprocess.Popen(
                [
                    binary, "mem=1024M", "root=/dev/root", "rootfstype=hostfs", f"rootflags={self.root}", "rw",
                    "init=/lib/systemd/systemd", f"uml_dir={folder}/", "con=null", "con0=null,fd:1", "ssl=null",
                    "quiet", "panic=1", "systemd.wants=inside.service", "systemd.show_status=false",
                    f"initcall_blacklist={lab_machine._SPEED_UP}",
                ],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                env={**os.environ, **extra},
            )  # fmt: skip
            try:
                process.wait(BOOT_PATIENCE)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                console.seek(0)
                said = console.read().decode(errors="replace")
                print(said)
        return said


def _let_boot(machine: Machine, program: str, without: str) -> None:
    (release,) = os.listdir("/usr/lib/uml/modules")
    modules = machine.path(f"lib/modules/{release}")
    modules.parent.mkdir(exist_ok=True)
    subprocess.run(
        ["cp", "-a", "--reflink=auto", f"/usr/lib/uml/modules/{release}", str(modules.parent)], check=True
    )
    if without:
        shutil.rmtree(modules / without)
    machine.run("depmod", release)
    machine.path("inside.py").write_text(program)
    machine.path("etc/systemd/system/inside.service").write_text(
        "[Unit]\nAfter=multi-user.target\n"
        "[Service]\nType=oneshot\nStandardOutput=tty\nStandardError=tty\nTTYPath=/dev/console\n"
        "ExecStart=/usr/lib/anycast/bin/python /inside.py\nExecStopPost=/bin/systemctl --force poweroff\n"
    )


def base() -> Path:
    """The tar file of a Debian that has nothing of ours."""
    tar = BUILD / f"{SUITE}-{_said('dpkg', '--print-architecture')}.tar"
    if not tar.exists():
        BUILD.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD, prefix="debootstrap-") as folder:
            root = Path(folder)
            root.chmod(0o755)
            done = subprocess.run(
                ["debootstrap", "--variant=minbase", SUITE, str(root), mirror()],
                capture_output=True, text=True, check=False, timeout=PATIENCE,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr
            shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
            (root / "usr/sbin/policy-rc.d").write_text(_POLICY)
            (root / "usr/sbin/policy-rc.d").chmod(0o755)
            machine = Machine(root)
            machine.run("apt-get", "-qq", "update")
            machine.run(
                "apt-get", "-y", "-qq", "install", "--download-only", "--no-install-recommends", *_NEEDED
            )
            new = tar.with_suffix(".new")
            subprocess.run(["tar", "-C", str(root), "-cf", str(new), "."], check=True)
            new.replace(tar)
    return tar


def fresh(root: Path) -> Machine:
    root.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-C", str(root), "-xpf", str(base())], check=True)
    root.chmod(0o755)
    return Machine(root)


def mirror() -> str:
    """Where this machine has its own Debian packages from."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    found = [
        match[1]
        for place in places
        if place.is_file()
        for match in re.finditer(
            r"^(?:URIs:|deb(?: \[.*\])?) *(\S+/debian)/?(?: |$)", place.read_text(), re.MULTILINE
        )
    ]
    return found[0] if found else "http://deb.debian.org/debian"


def _said(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def repacked(deb: Path, folder: Path, version: str) -> Path:
    """The same package under another version, with a module that the one it came from has no more."""
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "-R", str(deb), str(tree)], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(
        re.sub(r"^Version: .*", f"Version: {version}", control.read_text(), flags=re.MULTILINE)
    )
    gone = next(tree.glob("usr/lib/anycast/lib/python*/site-packages/anycast")) / "gone"
    gone.mkdir()
    (gone / "__init__.py").touch()
    file = folder / f"anycast_{version}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", str(tree), str(file)], check=True, stdout=subprocess.DEVNULL)  # fmt: skip
    shutil.rmtree(tree)
    return file


def source() -> str:
    """The program that runs in a machine that was booted."""
    return Path(inside.__file__).read_text()


__all__: Sequence[str] = ["BUILD", "ROOT", "Machine", "base", "fresh", "repacked", "source"]
