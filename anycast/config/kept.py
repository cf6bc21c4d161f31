"""A configuration as it was written, in one file: kept by the agent for a start at which the files cannot be used.

The texts are kept, and not what was made of them, so that another version can read it. A line names the format and the
checksum of the rest; a line of JSON says whose it is and what it serves; the texts of the files follow. It may hold
passwords. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from anycast import __version__
from anycast.core.fleet.guards import Guards, guards
from anycast.core.removal import Census, census
from anycast.core.values.described import Percent

if TYPE_CHECKING:
    from anycast.config.loaded import Loaded

FILE = "last-good.conf"  # in the state directory

_MAGIC = b"anycast configuration 1 "
_MACHINE_ID = Path("/etc/machine-id")
_CHUNK = 1 << 20

Contents: TypeAlias = Sequence[tuple[str, bytes]]
"""Names of files, the main one first, and what is in them."""


class DamagedError(Exception):
    """It is there and cannot be used. `args[0]` says where and why."""


class Texts:
    """A kept configuration in memory of the kernel, which no copy in Python makes larger. Gone with this object."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)

    def copy(self, descriptor: int) -> None:
        """All of it to the end of another file. In a thread it keeps nobody waiting. Raises OSError."""
        offset = 0
        while sent := os.sendfile(descriptor, self.descriptor, offset, _CHUNK):
            offset += sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is known of a kept configuration without reading its texts. `saved`: seconds since the epoch."""

    file: str
    host: str
    machine: str
    digest: str
    census: Census
    saved: float

    def is_of(self, file: str) -> bool:
        """Whether it was read from `file` on this very machine: a copied disk has the configuration of another node."""
        return (self.file, self.host, self.machine) == (
            os.path.abspath(file),
            socket.gethostname(),
            machine_id(),
        )


def machine_id() -> str:
    """Empty: not known."""
    try:
        return _MACHINE_ID.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def digest_of(contents: Contents) -> str:
    """SHA-256 of names and bytes, in hex."""
    digest = hashlib.sha256()
    for name, data in contents:
        digest.update(f"{os.path.basename(name)}\0{len(data)}\0".encode("utf-8", "surrogateescape") + data)
    return digest.hexdigest()


def unended(contents: Contents) -> tuple[str, ...]:
    """The names of files whose last line has no end, as that of a file that was cut off."""
    return tuple(os.path.basename(name) for name, data in contents if not data.endswith(b"\n"))


def census_of(loaded: Loaded) -> Census:
    return census(loaded.config, parts=parts_of(loaded), unended=loaded.unended, nodes=loaded.nodes)


def census_of_files(loaded: Loaded) -> Census:
    """Without what it serves."""
    return Census(
        parts=parts_of(loaded),
        unended=frozenset(loaded.unended),
        nodes=frozenset(loaded.nodes),
        max_removed=loaded.config.node.max_removed,
        guards=guards(loaded.config.fleet, loaded.config.vips, loaded.config.bgp.neighbors),
    )


def parts_of(loaded: Loaded) -> int:
    """How many files of conf.d it was read from."""
    return sum(os.path.basename(os.path.dirname(name)) == "conf.d" for name in loaded.files[1:])


def pieces(loaded: Loaded, contents: Contents) -> Iterable[bytes]:
    """What is written to keep it."""
    served = census_of(loaded)
    head = {
        "version": __version__,
        "node": loaded.config.node.name,
        "file": os.path.abspath(contents[0][0]),
        "host": socket.gethostname(),
        "machine": machine_id(),
        "digest": loaded.digest,
        "parts": served.parts,
        "unended": sorted(served.unended),
        "nodes": sorted(served.nodes),
        "max_removed": served.max_removed.value,
        "guards": None if served.guards is None else asdict(served.guards),
        "vips": sorted(served.vips),
        "servers": sorted(served.servers),
        "files": [[name, len(data)] for name, data in contents],
    }
    rest = [json.dumps(head).encode() + b"\n", *(data for _, data in contents)]
    checksum = hashlib.sha256()
    for one in rest:
        checksum.update(one)
    return [_MAGIC + checksum.hexdigest().encode() + b"\n", *rest]


def head(path: Path) -> Head | None:
    """None: there is none. Raises DamagedError."""
    try:
        body, _ = _read(path)
        return Head(
            file=str(body["file"]),
            host=str(body["host"]),
            machine=str(body["machine"]),
            digest=str(body["digest"]),
            census=Census(
                vips=frozenset(map(str, body["vips"])),
                servers=frozenset(map(str, body["servers"])),
                parts=int(body["parts"]),
                unended=frozenset(map(str, body["unended"])),
                nodes=frozenset(map(str, body.get("nodes", ()))),  # an older release says nothing of it
                max_removed=Percent(int(body["max_removed"])),
                guards=_guards(body.get("guards")),  # nor of these
            ),
            saved=path.stat().st_mtime,
        )
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path}: {type(error).__name__}: {error}") from error


def _guards(body: dict[str, Any] | None) -> Guards | None:
    if body is None:
        return None
    known = {one.name for one in fields(Guards)}
    found: dict[str, Any] = {
        name: tuple(map(str, value)) if isinstance(value, list) else value
        for name, value in body.items()
        if name in known  # an older release has fewer
    }
    return Guards(**found)


def contents(path: Path) -> list[tuple[str, bytes]]:
    """The files as they were. Raises DamagedError."""
    try:
        body, texts = _read(path)
        found: list[tuple[str, bytes]] = []
        for name, size in body["files"]:
            found.append((str(name), texts[:size]))
            texts = texts[size:]
        if not found or texts or digest_of(found) != body["digest"]:
            raise ValueError("the texts are not those that were kept")
    except OSError as error:
        raise DamagedError(f"{path}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path}: {type(error).__name__}: {error}") from error
    return found


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """Raises OSError, ValueError."""
    # Root reads it too, and its directory is the agent's: no link is followed, and nothing but a file is read.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no file")
        first, _, rest = file.read().partition(b"\n")
    if not first.startswith(_MAGIC):
        raise ValueError("it is not a kept configuration of this format")
    if hashlib.sha256(rest).hexdigest().encode() != first.removeprefix(_MAGIC):
        raise ValueError("the checksum is wrong")
    line, _, texts = rest.partition(b"\n")
    body = json.loads(line)
    if not isinstance(body, dict):
        raise ValueError("its head is no object")  # noqa: TRY004 - as any other damage
    return body, texts
