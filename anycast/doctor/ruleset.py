"""The rules that are loaded in this network namespace, from nft and iptables-save. They change nothing, and are asked only
where the kernel has their part already: asking would load it.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from anycast.doctor.facts import Module, Modules, Unread
from anycast.doctor.filter import iptables, nft
from anycast.doctor.filter.rules import NotUnderstoodError, Table
from anycast.doctor.sources import strict_rules
from anycast.process import PATH, kill_group

DEADLINE = 10.0  # seconds
MOST = 32 * 1024 * 1024  # bytes of rules
_COMPLAINT = 4096  # bytes of it that are enough
_PLACES = ("usr/sbin", "sbin", "usr/local/sbin", "usr/bin", "bin")
_LEGACY = {4: ("ip_tables_names", "iptables-legacy-save"), 6: ("ip6_tables_names", "ip6tables-legacy-save")}
_TRANSLATED = {"ip": (4, "iptables-nft-save"), "ip6": (6, "ip6tables-nft-save")}


class UnreadableError(Exception):
    """Why the rules cannot be had; for people."""


def read(
    root: Path, modules: Modules, *, deadline: float = DEADLINE, most: int = MOST
) -> tuple[tuple[Table, ...] | None, list[Unread]]:
    """All rules, or None and why. `deadline`: of each program. `root`: where the node's files lie, programs among them."""
    found, unread = seen(root, modules, deadline=deadline, most=most)
    return (None if unread else tuple(found)), unread


def seen(
    root: Path, modules: Modules, *, deadline: float = DEADLINE, most: int = MOST
) -> tuple[list[Table], list[Unread]]:
    """As many of the rules as could be read, and what could not."""
    asked = _Asked(root, deadline, most)
    found: list[Table] = []
    unread: list[Unread] = []
    parts: dict[str, Callable[[], list[Table]]] = {
        "rules of nftables": partial(asked.nftables, modules),
        "rules of iptables": asked.legacy,
    }
    for what, ask in parts.items():
        try:
            found += ask()
        except UnreadableError as error:
            unread.append(Unread(what=what, why=str(error)))
        except NotUnderstoodError as error:
            unread.append(Unread(what=what, why=f"what it says was not understood ({str(error)[:100]})"))
    return found, unread


def strict_reverse_path(root: Path, modules: Modules) -> tuple[str, ...]:
    """The chains that drop IPv6 packets whose way back leads out of another interface. Raises UnreadableError."""
    if modules.state("nf_tables") in (Module.AVAILABLE, Module.MISSING):
        return ()
    try:
        document = json.loads(_Asked(root, DEADLINE, MOST).ruleset(modules))
    except ValueError as error:
        raise UnreadableError(f"nft says what is no JSON: {error}") from None
    return strict_rules(document) if isinstance(document, dict) else ()


class _Asked:
    def __init__(self, root: Path, deadline: float, most: int) -> None:
        self._root = root
        self._deadline = deadline
        self._most = most

    def nftables(self, modules: Modules) -> list[Table]:
        state = modules.state("nf_tables")
        if state in (Module.AVAILABLE, Module.MISSING):
            return []
        tables, translated = nft.tables(self.ruleset(modules))
        for family in sorted({family for family, _ in translated}):
            version, program = _TRANSLATED[family]
            theirs = {name for other, name in translated if other == family}
            said = self._say(program)
            tables += [one for name, one in iptables.tables(said, version, program) if name in theirs]
        return tables

    def ruleset(self, modules: Modules) -> str:
        """Of nftables. Raises UnreadableError."""
        if modules.state("nf_tables") is Module.UNKNOWN and (self._root / "proc/modules").exists():
            raise UnreadableError("nf_tables may not be loaded, and asking would load it")
        return self._say("nft", "-j", "list", "ruleset")

    def legacy(self) -> list[Table]:
        tables: list[Table] = []
        for version, (names, usual) in _LEGACY.items():
            program = usual
            try:
                loaded = (self._root / "proc/net" / names).read_text("ascii").split()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise UnreadableError(f"/proc/net/{names}: {error.strerror}") from None
            if not loaded:
                continue
            if self._program(program) is None and self._is_legacy(plain := program.replace("-legacy", "")):
                program = plain
            if self._program(program) is None:
                raise UnreadableError(f"the tables {', '.join(loaded)} are there, and no program {program}")
            tables += [one for _, one in iptables.tables(self._say(program), version, program)]
        return tables

    def _is_legacy(self, name: str) -> bool:
        """Older ones have no other; later ones may be either."""
        found = self._program(name)
        return found is not None and "nft" not in found.resolve().name

    def _say(self, name: str, *arguments: str) -> str:
        program = self._program(name)
        if program is None:
            raise UnreadableError(f"there is no program {name}")
        return _output([str(program), *arguments], name, self._deadline, self._most)

    def _program(self, name: str) -> Path | None:
        places = (self._root / place / name for place in _PLACES)
        return next((one for one in places if one.exists()), None)


def _output(argv: Sequence[str], name: str, deadline: float, most: int) -> str:
    """What the program says. It, and whatever it has started, is ended with the deadline or with a byte too many."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"LC_ALL": "C", "PATH": PATH},
            start_new_session=True,
        )
    except OSError as error:
        raise UnreadableError(f"{name}: {error.strerror}") from None
    try:
        said, complaint = _read(process, name, time.monotonic() + deadline, most)
        status = process.wait(deadline)
    except (TimeoutError, subprocess.TimeoutExpired):
        raise UnreadableError(f"{name} did not end within {deadline:g} s") from None
    finally:
        kill_group(process.pid)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    if status != 0:
        first = complaint.decode("utf-8", "replace").strip().partition("\n")[0][:200]
        raise UnreadableError(f"{name}: {first or f'exit status {status}'}")
    return said.decode("utf-8", "replace")


def _read(process: subprocess.Popen[bytes], name: str, end: float, most: int) -> tuple[bytes, bytes]:
    """All of its output, and the beginning of its complaints. Raises TimeoutError, UnreadableError."""
    said, complaint = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for stream, kept in ((process.stdout, said), (process.stderr, complaint)):
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ, kept)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.data is said or len(complaint) < _COMPLAINT:
                    key.data.extend(data)
            if len(said) > most:
                raise UnreadableError(f"{name} says more than {most // 1024 // 1024} MiB")
    return bytes(said), bytes(complaint)
