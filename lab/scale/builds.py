"""The two builds that are compared: the one of this checkout, and the one of a commit out of the git history."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from lab import configs
from lab.measuring import say

BASE = "3b5e590"  # where the cost of an event was the cost of the whole configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """`python`: with the libraries of the build; `root`: a tree with its packages `anycast` and `lab`."""

    name: str
    python: Path
    root: Path

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.root)}

    def program(self, script: str, *arguments: str) -> list[str]:
        """The argv of a program of this folder, run by this build."""
        return [str(self.python), "-P", str(Path(__file__).with_name(script)), *arguments]

    def anycast(self, *arguments: str) -> list[str]:
        return [str(self.python), "-P", "-m", "anycast", *arguments]


def ours() -> Build:
    """This checkout, with the libraries it needs and none for development, as a node has it. Raises CalledProcessError."""
    root = configs.checkout()
    return _built("ours", root, root)


def base(commit: str = BASE) -> Build | None:
    """Made in the directory build, once; None: there is no git history here. Raises CalledProcessError."""
    root = configs.checkout()
    folder = root / "build" / f"scale-base-{commit}"
    if not folder.exists():
        tree = _archive(root, commit)
        if tree is None:
            return None
        with tarfile.open(fileobj=io.BytesIO(tree)) as archive:
            archive.extractall(folder, filter="data")
    return _built("base", root, folder)


def _built(name: str, root: Path, tree: Path) -> Build:
    """With an environment of its own, and compiled: a package is, when it is installed."""
    wanted = tomllib.loads((tree / "pyproject.toml").read_text())["project"]["dependencies"]
    environment = root / "build" / f"venv-scale-{name}"
    build = Build(name=name, python=environment / "bin" / "python", root=tree)
    stamp = environment / ".installed"
    text = "\n".join(wanted)
    if not stamp.exists() or stamp.read_text() != text:
        say(f"installing what {name} needs in {environment}")
        _run([sys.executable, "-m", "venv", "--clear", str(environment)])
        _run([str(build.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted])
        stamp.write_text(text)
    _run([str(build.python), "-m", "compileall", "-q", str(tree / "anycast"), str(tree / "lab")])
    return build


def _archive(root: Path, commit: str) -> bytes | None:
    """The tree of the commit as a tar file; None: the history is not here, or git is not."""
    argv = ["git", "-C", str(root), "archive", "--format=tar", commit]
    try:
        done = subprocess.run(argv, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _run(argv: list[str]) -> None:
    subprocess.run(argv, check=True)
