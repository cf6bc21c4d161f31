"""The verb bug-report: one file with what somebody needs who has to find out what is wrong with this node.

Secrets are taken out twice: the configuration is written anew without their values, and every value that was a
secret there is removed from all other texts.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import re
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from anycast import __version__
from anycast.cli.exits import ExitCode
from anycast.cli.table import printable

MOST = 8 * 1024 * 1024  # bytes of one part
LARGEST = 16 * 1024 * 1024  # bytes of one file of the configuration
TIMEOUT = 20.0  # seconds for one command
VIPS = 50  # VIPs of which the why is told
HIDDEN = "HIDDEN"
SHORTEST = 6  # letters of a secret that is searched for in the other texts: shorter ones are in every text

_SECRET = re.compile(r"(?:.*_)?(?:password|secret|token)|headers|send(?:_hex)?|url", re.ASCII)

_COMMANDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("kernel.txt", ("uname", "-a")),
    (
        "sysctl.txt",
        ("sysctl", "net.ipv4.vs", "net.ipv4.conf.all", "net.ipv4.ip_forward", "net.ipv6.conf.all"),
    ),
    ("modules.txt", ("lsmod",)),
    ("addresses.txt", ("ip", "-details", "address")),
    ("links.txt", ("ip", "-statistics", "link")),
    ("routes4.txt", ("ip", "-4", "route", "show", "table", "all")),
    ("routes6.txt", ("ip", "-6", "route", "show", "table", "all")),
    ("ipvs.txt", ("ipvsadm", "--list", "--numeric", "--stats")),
    ("units.txt", ("systemctl", "show", "anycast-agent", "anycast-exabgp", "anycast-table")),
    (
        "journal.txt",
        (
            "journalctl",
            "--no-pager",
            "-n",
            "3000",
            "-u",
            "anycast-agent",
            "-u",
            "anycast-exabgp",
            "-u",
            "anycast-table",
        ),
    ),
    ("packages.txt", ("dpkg-query", "--show", "anycast", "exabgp", "frr", "bird2", "ipvsadm", "keepalived")),
    ("frr.txt", ("vtysh", "-c", "show version", "-c", "show bfd peers")),
    ("systemd.txt", ("systemctl", "--version")),
)


def run(args: argparse.Namespace) -> int:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name = f"anycast-{socket.gethostname()}-{stamp}"
    output: Path = args.output or Path(f"{name}.tar.gz")
    secrets: set[str] = set()
    # The configuration first: it says what is secret.
    configuration = list(_configuration(args.config, secrets))
    try:
        # Never over a file of somebody else, and for its owner alone.
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        return _unwritten(output, error)
    try:
        with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for where, text in configuration:
                _add(archive, f"{name}/{where}", text)
            for where, tell in _told(args):
                _add(archive, f"{name}/{where}", _without(_part(tell), secrets))
    except OSError as error:
        output.unlink()
        return _unwritten(output, error)
    print(output)
    print(
        "Secrets of the configuration are taken out. It holds addresses and names of this node: read it before you "
        "send it.",
        file=sys.stderr,
    )
    return ExitCode.OK


def _unwritten(output: Path, error: OSError) -> int:
    print(
        f"anycast bug-report: {printable(str(output))} cannot be written: {error.strerror} (name another file with -o)",
        file=sys.stderr,
    )
    return ExitCode.NEGATIVE


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode("utf-8", "replace")
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(data))


def _without(text: str, secrets: set[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _part(tell: Callable[[], str]) -> str:
    try:
        text = tell()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        text = f"not available: {error}\n"
    return text if len(text) <= MOST else f"{text[:MOST]}\n… cut after {MOST} characters\n"


def _told(args: argparse.Namespace) -> Iterator[tuple[str, Callable[[], str]]]:
    socket_path = ("--socket", str(args.socket))
    node = () if args.node is None else ("--node", args.node)
    yield "versions.txt", _versions
    yield "status.json", lambda: _ours("status", "--json", *socket_path)
    yield "status.txt", lambda: _ours("status", "--all", "--color", "never", *socket_path)
    yield "maintenance.txt", lambda: _ours("maintenance", "status", "--color", "never", *socket_path)
    yield "events.jsonl", lambda: _ours("events", "--json", *socket_path)
    yield "why.txt", lambda: _whys(args.socket)
    yield "doctor.txt", lambda: _ours("doctor", "--color", "never", *_doctor(args.config), *node)
    yield "check.txt", lambda: _ours("check", str(args.config))
    yield "budget.txt", lambda: _ours("budget", "--color", "never", "--config", str(args.config), *node)
    for where, argv in _COMMANDS:
        yield where, partial(_said, argv)
    yield "os-release.txt", lambda: Path("/etc/os-release").read_text()
    yield "routers.txt", lambda: _ROUTERS


_ROUTERS = """\
A node does not know what its routers run. Please add, of each router, its software and version, and what it says of one
of the VIPs:
  FRR       vtysh -c 'show version' -c 'show bgp ipv4 unicast 192.0.2.1/32'
  BIRD      birdc show status; birdc show route for 192.0.2.1 all
  GoBGP     gobgp --version; gobgp global rib 192.0.2.1/32
  OpenBGPD  bgpctl show version; bgpctl show rib detail 192.0.2.1/32
"""


def _doctor(config: Path) -> tuple[str, ...]:
    return ("--config", str(config)) if config.exists() else ()


def _versions() -> str:
    lines = [f"anycast {__version__}", f"python {platform.python_version()}", f"kernel {platform.release()}"]
    names = (
        "exabgp",
        "pyroute2",
        "aiohttp",
        "pydantic",
        "PyYAML",
        "structlog",
        "google-re2",
        "dnspython",
        "h2",
    )
    for name in names:
        try:
            lines.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name} -")
    return "".join(f"{line}\n" for line in lines)


def _ours(*argv: str) -> str:
    return _said((sys.executable, "-m", "anycast", *argv))


def _said(argv: Sequence[str]) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "COLUMNS": "160"}
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
        check=False,
        env=environment,
    )
    text = done.stdout.decode("utf-8", "replace")
    return text if done.returncode == 0 else f"{text}\n(exit status {done.returncode})\n"


def _whys(path: Path) -> str:
    from anycast.cli import client

    try:
        vips = [str(vip["name"]) for vip in client.read(path, "/status").body["vips"]]
    except (client.UnreachableError, KeyError) as error:
        return f"not available: {error}\n"
    texts = [f"{vip}\n{_ours('why', vip, '--color', 'never', '--socket', str(path))}" for vip in vips[:VIPS]]
    more = f"and {len(vips) - VIPS} more VIPs\n" if len(vips) > VIPS else ""
    return "\n".join(texts) + more


# The configuration


def _configuration(path: Path, secrets: set[str]) -> Iterator[tuple[str, str]]:
    folder = path.parent / "conf.d"
    files = [path, *_included(path), *sorted(folder.glob("*.yaml"))]
    for number, file in enumerate(files):
        yield f"configuration/{number:02}-{file.name}", _part(partial(_redacted, file, secrets))


def _included(path: Path) -> list[Path]:
    """The files that are read with it, as far as they can be read."""
    from anycast.config.files import read_regular
    from anycast.config.include import Includes
    from anycast.config.problem import TooManyError
    from anycast.config.reader import Document, read

    def document(file: Path, _: object = None) -> Document | None:
        try:
            return read(read_regular(file, LARGEST), str(file))
        except (OSError, TooManyError):
            return None

    main = document(path)
    return [] if main is None else [Path(one.file) for one in Includes(document, []).of(main, path)]


def _redacted(file: Path, secrets: set[str]) -> str:
    """The same tree without comments and without the values of secrets, which are added to `secrets`."""
    import yaml

    if not file.is_file():
        raise ValueError(f"{file} is not a regular file")
    with file.open("rb") as opened:
        data = opened.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"{file} is larger than {LARGEST} bytes")
    try:
        tree = yaml.compose(data, Loader=yaml.SafeLoader)
        if tree is not None:
            _hide(tree, secrets, hidden=False, seen=set())
    except (yaml.YAMLError, RecursionError) as error:
        # What is secret in it cannot be told.
        raise ValueError(f"{file} cannot be read as YAML and is left out: {type(error).__name__}") from None
    return "" if tree is None else yaml.serialize(tree, Dumper=yaml.SafeDumper, allow_unicode=True)


def _hide(node: object, secrets: set[str], *, hidden: bool, seen: set[tuple[int, bool]]) -> None:
    import yaml

    if (id(node), hidden) in seen:
        return
    seen.add((id(node), hidden))
    match node:
        case yaml.ScalarNode() if hidden:
            if len(node.value) >= SHORTEST:
                secrets.add(node.value)
            node.value, node.tag, node.style = HIDDEN, "tag:yaml.org,2002:str", None
        case yaml.SequenceNode():
            for one in node.value:
                _hide(one, secrets, hidden=hidden, seen=seen)
        case yaml.MappingNode():
            for key, value in node.value:
                if key.value == "hooks" and isinstance(value, yaml.MappingNode):
                    _hide_short(value, secrets, seen=seen)
                _hide(value, secrets, hidden=hidden or _is_secret(key.value), seen=seen)


def _hide_short(hooks: Any, secrets: set[str], *, seen: set[tuple[int, bool]]) -> None:
    """A hook that is a URL or a command alone is a secret as a whole."""
    import yaml

    for _, value in hooks.value:
        if not isinstance(value, yaml.MappingNode):
            _hide(value, secrets, hidden=True, seen=seen)


def _is_secret(key: object) -> bool:
    return _SECRET.fullmatch(str(key).lower()) is not None
