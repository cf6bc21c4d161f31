"""Builds the Debian package: an environment of its own with every Python package it needs, and what goes around it.

    python packaging/build.py [--suite SUITE] [--output DIR] [--version VERSION]   builds; prints the file's name
    python packaging/build.py lock                         writes requirements-SUITE.txt anew, for every suite

The same tree gives the same bytes: SOURCE_DATE_EPOCH, by default the time of the last commit. The interpreter is
Debian's own, so the package is for the release with that Python, whatever this script runs on.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PathDistribution, distributions
from pathlib import Path
from typing import NamedTuple

import shtab
from argparse_manpage.manpage import Manpage
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from anycast import __version__
from anycast.cli.parser import parser

PACKAGING = Path(__file__).resolve().parent
ROOT = PACKAGING.parent


class Suite(NamedTuple):
    """A release of Debian, by what a package for it has to fit."""

    debian: int
    python: str
    glibc: int  # 2.36 is 36


SUITES = {"bookworm": Suite(12, "3.11", 36), "trixie": Suite(13, "3.13", 41)}
EXTRAS = "dns,grpc,regex"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}  # Debian's name of an architecture: everybody else's
HOME = "usr/lib/anycast"
SCRIPTS = {"anycast": "anycast", "exabgp": "exabgp"}  # name: the distribution it comes from

_PAGE = {
    "project_name": "anycast",
    "manual_title": "anycast",
    "description": "announce a shared virtual IP over BGP while this node can serve it",
}

_SCRIPT = """\
#!/{home}/bin/python
import sys

from {module} import {function}

sys.exit({function}())
"""

_VENV = """\
home = /usr/bin
include-system-site-packages = false
version = {python}
"""


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("act", nargs="?", choices=["build", "lock"], default="build")
    options.add_argument("--suite", choices=SUITES, default="bookworm")
    options.add_argument("--output", type=Path, default=ROOT / "dist", metavar="DIR")
    options.add_argument("--version", default=debian_version(__version__), help="default: %(default)s")
    args = options.parse_args()
    os.umask(0o022)
    os.environ.setdefault("SOURCE_DATE_EPOCH", _epoch())
    if args.act == "lock":
        for name, suite in SUITES.items():
            lock(name).write_text(_locked(name, suite))
            print(lock(name))
    else:
        print(build(args.output, args.version, args.suite))
    return 0


def lock(suite: str) -> Path:
    """The versions of the Python packages in the package for this suite, each with the hashes of its files."""
    return PACKAGING / f"requirements-{suite}.txt"


def debian_version(version: str) -> str:
    """As Debian sorts them: what comes before a release has a tilde."""
    return re.sub(r"\.?(dev|a|b|rc)(\d+)", r"~\1\2", version)


def build(output: Path, version: str, name: str) -> Path:
    architecture = _said("dpkg", "--print-architecture").strip()
    suite = SUITES[name]
    version = f"{version}+deb{suite.debian}"
    with tempfile.TemporaryDirectory(prefix="anycast-package-") as folder:
        tree = Path(folder) / "tree"
        _environment(tree, architecture, Path(folder), name)
        _around(tree)
        _bill_of_materials(tree, name)
        _texts(tree)
        _permissions(tree)
        _control(tree, version, architecture, suite)
        _times(tree)
        output.mkdir(parents=True, exist_ok=True)
        file = output / f"anycast_{version}_{architecture}.deb"
        _run("dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(file))
    return file


def _epoch() -> str:
    done = subprocess.run(
        ["git", "-C", ROOT, "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or str(int((ROOT / "CHANGELOG.md").stat().st_mtime))


def _environment(tree: Path, architecture: str, folder: Path, name: str) -> None:
    """The interpreter's environment. Made by hand: it is for another place, and perhaps another Python than ours."""
    home, suite = tree / HOME, SUITES[name]
    packages = home / f"lib/python{suite.python}/site-packages"
    packages.mkdir(parents=True)
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("anycast-*.whl")
    _pip(
        "install", "--no-compile", "--no-deps", "--require-hashes", "--requirement", str(lock(name)),
        "--target", str(packages), *_target(architecture, suite),
    )  # fmt: skip
    # Its own requirements must all be there: with --no-deps pip would not say so.
    _pip(
        "install", "--no-compile", "--no-deps", "--target", str(packages),
        *_target(architecture, suite), str(wheel),
    )  # fmt: skip
    _whole(packages, suite)
    shutil.rmtree(packages / "bin", ignore_errors=True)
    for record in packages.glob("*.dist-info/RECORD"):
        _forget(record)
    scripts = home / "bin"
    scripts.mkdir()
    for link in ("python", "python3"):
        (scripts / link).symlink_to(f"/usr/bin/python{suite.python}")
    for program, distribution in SCRIPTS.items():
        module, _, function = _entry_point(packages, distribution, program).partition(":")
        script = scripts / program
        script.write_text(_SCRIPT.format(home=HOME, module=module, function=function))
        script.chmod(0o755)
    (home / "pyvenv.cfg").write_text(_VENV.format(python=suite.python))
    _link(tree / "usr/bin/anycast", f"../lib/{Path(HOME).name}/bin/anycast")


def _whole(packages: Path, suite: Suite) -> None:
    """Raises LookupError if a package lacks one that it requires, in a version that it takes."""
    environment = {"python_version": suite.python, "python_full_version": f"{suite.python}.0"}
    there = {canonicalize_name(one.metadata["Name"]): one for one in distributions(path=[str(packages)])}
    for one in there.values():
        extras = EXTRAS.split(",") if one.metadata["Name"] == "anycast" else [""]
        for text in one.requires or []:
            needed = Requirement(text)
            if needed.marker and not any(
                needed.marker.evaluate(environment | {"extra": extra}) for extra in extras
            ):
                continue
            found = there.get(canonicalize_name(needed.name))
            if found is None or not needed.specifier.contains(found.version, prereleases=True):
                has = "nothing" if found is None else found.version
                raise LookupError(
                    f"{one.metadata['Name']} needs {needed}, and there is {has} (make package-lock)"
                )


def _bill_of_materials(tree: Path, name: str) -> None:
    """What is in the package, as a CycloneDX document with every version and hash."""
    file = tree / "usr/share/doc/anycast/sbom.cdx.json"
    _run(
        sys.executable, "-m", "cyclonedx_py", "requirements", str(lock(name)), "--pyproject", str(ROOT / "pyproject.toml"),
        "--mc-type", "application", "--output-reproducible", "--output-format", "JSON", "--output-file", str(file),
    )  # fmt: skip


def _target(architecture: str, suite: Suite) -> list[str]:
    """Whose wheels pip takes: built ones only, for Debian's Python and C library."""
    machine = MACHINES[architecture]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(suite.glibc, 4, -1)]
    platforms += [f"manylinux{name}_{machine}" for name in ("2014", "2010", "1")]
    return [
        "--only-binary=:all:", "--implementation", "cp", "--python-version", suite.python,
        *(word for platform in platforms for word in ("--platform", platform)),
    ]  # fmt: skip


def _locked(name: str, suite: Suite) -> str:
    """The newest versions that fit together, with the hashes of the files for each architecture."""
    hashes: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory(prefix="anycast-lock-") as folder:
        _pip("wheel", "--no-deps", "--wheel-dir", folder, str(ROOT))
        (wheel,) = Path(folder).glob("anycast-*.whl")
        for architecture in MACHINES:
            report = Path(folder) / "report.json"
            _pip(
                "install", "--dry-run", "--ignore-installed", "--report", str(report), "--target", folder,
                *_target(architecture, suite), f"anycast[{EXTRAS}] @ {wheel.as_uri()}",
            )  # fmt: skip
            for one in json.loads(report.read_text())["install"]:
                pin = f"{one['metadata']['name'].lower()}=={one['metadata']['version']}"
                if not pin.startswith("anycast=="):
                    hashes.setdefault(pin, set()).add(
                        one["download_info"]["archive_info"]["hashes"]["sha256"]
                    )
    head = f"# What the package for {name} is built with. Written by `make package-lock`.\n"
    lines = (
        " \\\n    ".join([pin, *(f"--hash=sha256:{one}" for one in sorted(hashes[pin]))])
        for pin in sorted(hashes)
    )
    return head + "".join(f"{line}\n" for line in lines)


def _entry_point(packages: Path, distribution: str, name: str) -> str:
    for info in packages.glob(f"{distribution}-*.dist-info"):
        found: Distribution = PathDistribution(info)
        for point in found.entry_points:
            if point.group == "console_scripts" and point.name == name:
                return point.value
    raise LookupError(f"{distribution} has no script {name}")


def _forget(record: Path) -> None:
    """What names the place where this was built, or a script that is not here."""
    gone = ("direct_url.json", "REQUESTED")
    for name in gone:
        (record.parent / name).unlink(missing_ok=True)
    lines = record.read_text().splitlines()
    kept = [
        line
        for line in lines
        if not line.startswith(("../", "bin/")) and not line.partition(",")[0].endswith(gone)
    ]
    record.write_text("".join(f"{line}\n" for line in sorted(kept)))


def _around(tree: Path) -> None:
    for folder, place in (
        ("systemd", "usr/lib/systemd/system"),
        ("sysusers.d", "usr/lib/sysusers.d"),
    ):
        shutil.copytree(PACKAGING / folder, tree / place)
    for folder in ("prometheus", "grafana"):
        shutil.copytree(PACKAGING / folder, tree / "usr/share/anycast" / folder)
    (tree / "etc/anycast/conf.d").mkdir(parents=True)
    # needrestart reads nothing below /usr.
    shutil.copytree(PACKAGING / "needrestart", tree / "etc/needrestart/conf.d")
    doc = tree / "usr/share/doc/anycast"
    doc.mkdir(parents=True)
    shutil.copy(ROOT / "README.md", doc)
    shutil.copy(PACKAGING / "debian/copyright", doc)
    _gzip(doc / "changelog.gz", (ROOT / "CHANGELOG.md").read_bytes())
    # Beside README.md as in the repository, so that its links lead somewhere.
    for folder in ("docs", "examples", "exabgp.conf.d"):
        shutil.copytree(ROOT / folder, doc / folder)


def _texts(tree: Path) -> None:
    """The manual page and the completions, from the one parser."""
    # The paths of whoever builds this must not become the defaults in the page.
    for name in ("ANYCAST_CONFIG", "ANYCAST_SOCKET"):
        os.environ.pop(name, None)
    _gzip(_file(tree / "usr/share/man/man1/anycast.1.gz"), manual().encode())
    for shell, place in (
        ("bash", "usr/share/bash-completion/completions/anycast"),
        ("zsh", "usr/share/zsh/vendor-completions/_anycast"),
        ("fish", "usr/share/fish/vendor_completions.d/anycast.fish"),
    ):
        _file(tree / place).write_text(completion(shell))


def manual() -> str:
    os.environ["COLUMNS"] = "80"
    page = Manpage(parser(), _data=_PAGE | {"version": __version__})
    return str(page).replace(".SH COMMENTS", ".SH EXIT STATUS") + (PACKAGING / "manual.roff").read_text()


def completion(shell: str) -> str:
    root = parser()
    for one in _parsers(root):
        for action in one._actions:  # noqa: SLF001 - as shtab does
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(root, shell))


def _parsers(root: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield root
    for action in root._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for one in action.choices.values():
                yield from _parsers(one)


def _permissions(tree: Path) -> None:
    for path in tree.rglob("*"):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
    for path in (tree / "etc/anycast", tree / "etc/anycast/conf.d"):
        path.chmod(0o750)  # the group is made, and given, when it is installed


def _control(tree: Path, version: str, architecture: str, suite: Suite) -> None:
    files = sorted(path for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    sums = [f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(tree)}\n" for path in files]  # fmt: skip
    size = sum(-(-path.stat().st_size // 1024) for path in files)
    debian = tree / "DEBIAN"
    debian.mkdir()
    text = (PACKAGING / "debian/control").read_text()
    for name, value in (
        ("VERSION", version),
        ("ARCHITECTURE", architecture),
        ("PYTHON", suite.python),
        ("SIZE", str(size)),
    ):
        text = text.replace(f"@{name}@", value)
    (debian / "control").write_text(text)
    (debian / "md5sums").write_text("".join(sums))
    changeable = [path.relative_to(tree) for path in files if path.is_relative_to(tree / "etc")]
    (debian / "conffiles").write_text("".join(f"/{path}\n" for path in changeable))
    for name in ("postinst", "prerm", "postrm"):
        shutil.copy(PACKAGING / "debian" / name, debian / name)
        (debian / name).chmod(0o755)


def _times(tree: Path) -> None:
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in (tree, *tree.rglob("*")):
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def _file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _link(path: Path, target: str) -> None:
    _file(path).symlink_to(target)


def _gzip(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data, 9, mtime=0))


def _pip(*argv: str) -> None:
    _run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *argv)


def _run(*argv: str) -> None:
    # Its own words, and what it warns of, are for people: the only line on standard output is the file's name.
    subprocess.run(argv, check=True, stdout=sys.stderr)


def _said(*argv: Sequence[str] | str) -> str:
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
