"""Makes the changes that findings offer: files that hold them over a reboot, and sysctls at once.

A file of ours keeps the lines somebody added, so that what was once right stays when it is no finding any more.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from anycast import whole_file
from anycast.core.dataplane.kernel import SetSysctl
from anycast.doctor.demands import FORWARDING6
from anycast.doctor.finding import BOOT_FILE, OPTION_FILE, SYSCTL_FILE, Finding, LoadAtBoot, ModuleOption
from anycast.kernel import sysctl

_HEAD = "# Written by `anycast doctor --fix`. Lines of your own stay.\n"
_MODE = 0o644
# Read after ours by systemd-sysctl and `sysctl --system`, if their names come later.
_SYSCTL_FOLDERS = (
    "etc/sysctl.d",
    "run/sysctl.d",
    "usr/local/lib/sysctl.d",
    "usr/lib/sysctl.d",
    "lib/sysctl.d",
)
_NAMES = str.maketrans("/", ".")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """One file, as it is to be. `path` as it is without a root."""

    path: str
    old: str | None  # None: it is not there
    new: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that is to be written. Empty, there is nothing to do."""

    files: tuple[FileChange, ...] = ()
    sysctls: tuple[SetSysctl, ...] = ()
    warnings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.files or self.sysctls)


def plan(findings: Iterable[Finding], root: Path = Path("/")) -> Plan:
    """What to write, with the files below `root` as they are now. Raises OSError on one that cannot be read."""
    lines: dict[str, dict[str, str]] = {}  # file, what a line sets, the line
    sysctls: dict[str, SetSysctl] = {}
    for finding in findings:
        for change in finding.changes:
            match change:
                case SetSysctl(name=name, value=value):
                    sysctls[name] = change
                    lines.setdefault(SYSCTL_FILE, {})[name] = f"{name} = {value}"
                case LoadAtBoot(module=module):
                    lines.setdefault(BOOT_FILE, {})[module] = module
                case ModuleOption(module=module, option=option, value=value):
                    lines.setdefault(OPTION_FILE, {})[f"{module} {option}"] = (
                        f"options {module} {option}={value}"
                    )
                case _:
                    assert_never(change)
    return Plan(
        files=tuple(_files(lines, root)),
        sysctls=tuple(sysctls.values()),
        warnings=tuple(_overridden(sysctls.values(), root)),
    )


def _files(lines: dict[str, dict[str, str]], root: Path) -> Iterator[FileChange]:
    for path, wanted in lines.items():
        try:
            old = _below(root, path).read_text("utf-8")
        except FileNotFoundError:
            old = None
        except UnicodeDecodeError:
            raise OSError(errno.EILSEQ, "it is no UTF-8 text, change it by hand", path) from None
        new = _merged(old, wanted)
        if new != old:
            yield FileChange(path=path, old=old, new=new)


def _merged(old: str | None, wanted: dict[str, str]) -> str:
    """The old text, with the line that sets the same replaced in its place, and new ones at the end."""
    if old is None:
        return _HEAD + "".join(f"{line}\n" for line in wanted.values())
    rest = dict(wanted)
    kept = []
    for line in old.splitlines():
        subject = _subject(line)
        if subject in wanted:
            if subject in rest:
                kept.append(rest.pop(subject))
        else:
            kept.append(line)
    return "".join(f"{line}\n" for line in (*kept, *rest.values()))


def _subject(line: str) -> str:
    """What a line of one of the three files sets."""
    words = line.split()
    if words[:1] == ["options"] and len(words) == 3:
        return f"{words[1]} {words[2].partition('=')[0]}"
    return line.partition("=")[0].strip()


def _overridden(changes: Iterable[SetSysctl], root: Path) -> Iterator[str]:
    """Files that are read after ours and set another value."""
    wanted = {change.name.translate(_NAMES): change for change in changes}
    ours = SYSCTL_FILE.rpartition("/")[2]
    later = sorted(
        (name, f"{folder}/{name}")
        for folder in _SYSCTL_FOLDERS
        for name in _names(root / folder)
        if name.endswith(".conf") and name > ours
    )
    # Debian links 99-sysctl.conf to sysctl.conf: the same file is named once.
    paths = {os.path.realpath(root / path): path for _, path in (*later, ("", "etc/sysctl.conf"))}
    for path in paths.values():
        with contextlib.suppress(OSError):
            for line in (root / path).read_text("utf-8", "replace").splitlines():
                name, found, value = line.partition("=")
                change = wanted.get(name.strip().lstrip("-").translate(_NAMES))
                if found and change is not None and value.strip() != change.value:
                    yield f"/{path} is read later and sets {change.name} to {value.strip()}: change it there"


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def shown(plan: Plan) -> str:
    """For people: each file's difference (a new one whole), then the sysctls that are set at once."""
    parts: list[str] = []
    for change in plan.files:
        before = [] if change.old is None else change.old.splitlines(keepends=True)
        name = "/dev/null" if change.old is None else change.path
        parts += difflib.unified_diff(before, change.new.splitlines(keepends=True), name, change.path)
    parts += [f"sysctl -w {change.name}={change.value}\n" for change in plan.sysctls]
    parts += [f"note: {warning}\n" for warning in plan.warnings]
    return "".join(part if part.endswith("\n") else f"{part}\n" for part in parts)


def carry_out(plan: Plan, root: Path = Path("/")) -> tuple[str, ...]:
    """Files first. Returns one text for each that failed: which, why, what to do. A failure hinders no other."""
    failures = []
    for change in plan.files:
        try:
            _replace(_below(root, change.path), change.new)
        except OSError as error:
            failures.append(f"{change.path}: not written: {_why(error)}")
    unsafe = ""  # what was not set, and comes before forwarding
    for setting in plan.sysctls:
        if setting.name == FORWARDING6 and unsafe:
            failures.append(f"{setting.name}: not set: {unsafe} must be 2 before, or a default route is gone")
            continue
        try:
            sysctl.write(setting.name, setting.value, root=str(root / "proc/sys"))
        except OSError as error:
            failures.append(f"{setting.name}: not set: {_why(error)}")
            unsafe = setting.name if setting.name.endswith(".accept_ra") else unsafe
    return tuple(failures)


def _below(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _replace(file: Path, text: str) -> None:
    file = Path(os.path.realpath(file))
    file.parent.mkdir(parents=True, exist_ok=True)
    whole_file.replace(file, text, lambda descriptor: os.fchmod(descriptor, _MODE))


def _why(error: OSError) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return "permission denied (run it as root)"
        case errno.EROFS:
            return "it is read-only here (set it from outside)"
        case errno.ENOENT:
            return "this kernel does not have it"
        case _:
            return error.strerror or str(error)
