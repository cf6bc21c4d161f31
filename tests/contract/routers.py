"""Router software with the configuration that `anycast render` writes for it, in a namespace beside a node.

With ANYCAST_ROUTERS=all not only this machine's, but also that of the Debians in build/debian (`make routers`).
"""

from __future__ import annotations

import abc
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from anycast.core.values.route import Prefix
from anycast.core.values.software import Version, version
from lab import suites, waiting
from lab.processes import Process, spawn
from tests.contract.bgp import FRR, NODE4, NODE6, PATIENCE, ROUTER4, of, start_frr, vtysh

T = TypeVar("T")


def until(look: Callable[[], T | None], what: str) -> T:
    """As `lab.waiting.until`."""
    return waiting.until(look, what, PATIENCE, pause=0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What a router has of a route. `local_pref` None: it says nothing of it, so its default."""

    local_pref: int | None
    communities: frozenset[str]


@dataclass
class Software(abc.ABC):
    """One daemon in namespace `place`, with files in `folder`."""

    place: str
    folder: Path
    processes: list[Process] = field(default_factory=list)
    port: int = 179  # that FRR is told to listen at; the others have it in their file
    more: str = ""  # of BIRD's own file
    router_id: str = ROUTER4  # in it

    name: ClassVar = ""
    title: ClassVar = ""
    program: ClassVar = ""
    version: ClassVar[tuple[str, ...]] = ()  # the command that tells it
    mistake: ClassVar = ("65001", "65001x")  # what is written, and what no version takes in its place
    debian: ClassVar[Path | None] = None  # where it is; None: on this machine

    @classmethod
    def of(cls, debian: Path) -> type[Self]:
        """The same of another Debian."""
        return type(cls.__name__, (cls,), {"debian": debian})

    @classmethod
    def id(cls) -> str:
        return cls.name if cls.debian is None else f"{cls.name}@{cls.debian.name}"

    @classmethod
    def label(cls) -> str:
        """With its version."""
        done = cls.command(*cls.version)
        found = re.search(r"\d+\.[\d.]*\d", done.stdout + done.stderr)
        return f"{cls.title} {found[0] if found else '?'}"

    @classmethod
    def missing(cls) -> bool:
        if cls.debian is not None:
            path = ":".join(f"{cls.debian}/{place}" for place in ("usr/sbin", "usr/bin"))
            return (
                shutil.which(
                    f"{cls.debian}{cls.program}" if cls.program[0] == "/" else cls.program, path=path
                )
                is None
            )
        return shutil.which(cls.program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None

    @classmethod
    def number(cls) -> Version | None:
        """The version of what is installed; None: it does not say."""
        found = re.search(r"(?:version |OpenBGPD )([0-9][0-9.]*)", cls.says_its_version())
        return None if found is None else version(found[1])

    @classmethod
    def says_its_version(cls) -> str:
        done = cls.command(cls.program, "--version")
        return done.stdout + done.stderr

    @classmethod
    def command(cls, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            of(cls.debian, argv), capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    @classmethod
    @abc.abstractmethod
    def check(cls, conf: Path) -> subprocess.CompletedProcess[str]:
        """The daemon's own check of the file."""

    @abc.abstractmethod
    def start(self, conf: Path) -> None: ...

    @abc.abstractmethod
    def load(self, conf: Path) -> None:
        """The same file again, with something else in it: as an operator does it, into the running daemon."""

    @abc.abstractmethod
    def paths(self, prefix: Prefix) -> Sequence[Way]: ...

    @abc.abstractmethod
    def best(self, prefix: Prefix) -> str:
        """The next hop of the path that it prefers; empty: it has none."""

    @abc.abstractmethod
    def up(self) -> bool:
        """Both sessions are established."""

    def path(self, prefix: Prefix) -> Way | None:
        """The only path to `prefix`; None: there is none."""
        paths = self.paths(prefix)
        assert len(paths) < 2, paths
        return paths[0] if paths else None

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.end(grace=2.0)
        for log in sorted(self.folder.glob("*.log")):
            print(f"{log.name}:\n{log.read_text()}")  # pytest shows it of a test that failed

    def run(self, *argv: str) -> str:
        """The output of a command in the router's namespace; empty if it fails: the daemon may not be there yet."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.place, *of(self.debian, argv)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        return done.stdout if done.returncode == 0 else ""

    def spawn(self, *argv: str, env: Mapping[str, str] = os.environ) -> None:
        name = Path(argv[0]).name
        self.processes.append(
            spawn(
                of(self.debian, argv),
                netns=self.place,
                env=env,
                log=self.folder / f"{name}.log",
                record=self.folder / f"{name}.record",
            )
        )


def load_frr(folder: Path, conf: Path, debian: Path | None = None) -> None:
    """As an operator does it, into the running daemons. Asserts that nothing was refused."""
    argv = of(debian, ["vtysh", "--vty_socket", str(folder), "-f", str(conf)])
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
    # Said again, the first is refused: it holds already. The second is FRR 10's word for success.
    harmless = re.compile(r".*graceful-restart-disable.*|\[\d+\|\w+\] done|\s*")
    bad = [line for line in done.stderr.splitlines() if not harmless.fullmatch(line)]
    assert not bad, done.stderr


class Frr(Software):
    name = "frr"
    title = "FRR"
    program = str(FRR / "bgpd")
    version = (str(FRR / "bgpd"), "--version")
    mistake = ("remote-as", "remote-az")  # from 10.3 on `vtysh -C` looks at no number
    zebra: ClassVar[tuple[str, ...]] = ()  # what its command line has

    @classmethod
    def check(cls, conf: Path) -> subprocess.CompletedProcess[str]:
        return cls.command("vtysh", "-C", "-f", str(conf))

    def start(self, conf: Path) -> None:
        self.processes += start_frr(
            self.place,
            self.folder,
            ("zebra", "bfdd", "bgpd"),
            self.debian,
            port=self.port,
            zebra=self.zebra,
        )
        self.load(conf)

    def load(self, conf: Path) -> None:
        load_frr(self.folder, conf, self.debian)

    def paths(self, prefix: Prefix) -> Sequence[Way]:
        answer = json.loads(
            vtysh(self.folder, f"show bgp ipv{prefix.version} unicast {prefix} json", debian=self.debian)
        )
        return [
            Way(
                local_pref=path.get("locPrf"),
                communities=frozenset(_spelt(path.get("community", {}).get("string", "").split())),
            )
            for path in answer.get("paths", [])
        ]

    def best(self, prefix: Prefix) -> str:
        answer = json.loads(vtysh(self.folder, f"show bgp ipv{prefix.version} unicast {prefix} json"))
        best = [path for path in answer.get("paths", []) if path.get("bestpath", {}).get("overall")]
        return str(best[0]["nexthops"][0]["ip"]) if best else ""

    def told(self, prefix: Prefix) -> dict[str, Any]:
        """All it says of the first path; empty: there is none."""
        answer = json.loads(vtysh(self.folder, f"show bgp ipv{prefix.version} unicast {prefix} json"))
        return next(iter(answer.get("paths", [])), {})

    def saved(self) -> str:
        """What `write memory` would write."""
        return vtysh(self.folder, "show running-config").partition("Current configuration:\n!\n")[2]

    def up(self) -> bool:
        return all(str(self.neighbor(end)["bgpState"]) == "Established" for end in (NODE4, NODE6))

    def neighbor(self, address: str) -> dict[str, Any]:
        answer = json.loads(vtysh(self.folder, f"show bgp neighbors {address} json", debian=self.debian))[
            address
        ]
        assert isinstance(answer, dict)
        return answer

    def bfd(self, address: str) -> dict[str, Any]:
        """What bfdd knows of the session with `address`; empty: it has none."""
        peers = json.loads(vtysh(self.folder, "show bfd peers json", debian=self.debian))
        return next((peer for peer in peers if peer["peer"] == address), {})


class Bird(Software):
    name = "bird"
    title = "BIRD"
    program = "bird"
    version = ("bird", "--version")

    @classmethod
    def check(cls, conf: Path) -> subprocess.CompletedProcess[str]:
        return cls.command("bird", "-p", "-c", str(conf))

    def start(self, conf: Path) -> None:
        main = self.folder / "bird.conf"
        main.write_text(
            f"router id {self.router_id};\nprotocol device {{}}\n"
            "protocol kernel { merge paths on limit 64; ipv4 { export all; }; }\n"
            "protocol kernel { merge paths on limit 64; ipv6 { export all; }; }\n"
            f'{self.more}include "{conf}";\n'
        )
        self.spawn(
            "bird", "-f", "-c", str(main), "-s", str(self.folder / "bird.ctl"), "-P", str(self.folder / "pid")
        )

    def load(self, conf: Path) -> None:
        assert "Reconfigured" in self.ask("configure")

    def ask(self, words: str) -> str:
        return self.run("birdc", "-s", str(self.folder / "bird.ctl"), words)

    def paths(self, prefix: Prefix) -> Sequence[Way]:
        text = self.ask(f"show route all {prefix}")
        return [
            Way(
                local_pref=int(found[1])
                if (found := re.search(r"(?:BGP\.|bgp_)local_pref: (\d+)", part))
                else None,
                communities=frozenset(
                    pair.replace(",", ":")
                    for pair in re.findall(
                        r"\((\d+,\d+)\)", _line(part, "BGP.community:") or _line(part, "bgp_community:")
                    )
                ),
            )
            for part in re.split(r"(?=unicast \[)", text)[1:]
        ]

    def best(self, prefix: Prefix) -> str:
        found = re.search(r"unicast \[[^]]*\] \*.*\n\s+via (\S+)", self.ask(f"show route for {prefix}"))
        return found[1] if found else ""

    def up(self) -> bool:
        lines = [line for line in self.ask("show protocols").splitlines() if line.startswith("anycast_")]
        return sum("Established" in line for line in lines) == 2

    def bfd(self, address: str) -> str:
        """`Up`, `Down`; empty: no session."""
        lines = [line.split() for line in self.ask("show bfd sessions").splitlines()]
        return next((words[2] for words in lines if words and words[0] == address), "")


class GoBgp(Software):
    name = "gobgp"
    title = "GoBGP"
    program = "gobgpd"
    version = ("gobgpd", "--version")

    @classmethod
    def check(cls, conf: Path) -> subprocess.CompletedProcess[str]:
        return cls.command("gobgpd", "-d", "-f", str(conf))

    def start(self, conf: Path) -> None:
        self.spawn("gobgpd", "-p", "--pprof-disable", "--api-hosts", "127.0.0.1:50051", "-f", str(conf))

    def load(self, conf: Path) -> None:
        self.processes[0].send(signal.SIGHUP)

    def ask(self, *words: str) -> Any:
        return json.loads(self.run("gobgp", "-u", "127.0.0.1", "-j", *words) or "null")

    def paths(self, prefix: Prefix) -> Sequence[Way]:
        rib = self.ask("global", "rib", "-a", f"ipv{prefix.version}") or {}
        found = []
        for path in rib.get(str(prefix), []):
            attributes = {one["type"]: one for one in path["attrs"]}
            communities = attributes.get(8, {}).get("communities", [])
            found.append(
                Way(
                    local_pref=attributes.get(5, {}).get("value"),
                    communities=frozenset(f"{one >> 16}:{one & 0xFFFF}" for one in communities),
                )
            )
        return found

    def best(self, prefix: Prefix) -> str:
        rib = self.ask("global", "rib", "-a", f"ipv{prefix.version}") or {}
        best = [path for path in rib.get(str(prefix), []) if path.get("best")]
        return next((str(one["nexthop"]) for path in best for one in path["attrs"] if "nexthop" in one), "")

    def bfd(self, address: str) -> bool:
        """Its own BFD with this node is up."""
        told = self.ask("neighbor", address) or {}
        return bool(told.get("state", {}).get("bfd_state", {}).get("session_state") == 1)

    def up(self) -> bool:
        neighbors = self.ask("neighbor") or []
        return sum(one["state"].get("session_state") in (6, "ESTABLISHED") for one in neighbors) == 2


_EMPTY = Path("/run/openbgpd")


class OpenBgpd(Software):
    name = "openbgpd"
    title = "OpenBGPD"
    program = "bgpctl"
    version = ("/usr/sbin/bgpd", "-V")

    @classmethod
    def says_its_version(cls) -> str:
        return cls.command("/usr/sbin/bgpd", "-V").stderr

    @classmethod
    def check(cls, conf: Path) -> subprocess.CompletedProcess[str]:
        return cls.command("/usr/sbin/bgpd", "-n", "-f", str(conf))

    def start(self, conf: Path) -> None:
        main = self.folder / "bgpd.conf"
        main.write_text(f'socket "{self.folder}/bgpd.sock"\ninclude "{conf}"\n')
        main.chmod(0o600)
        _EMPTY.mkdir(exist_ok=True)  # its unit makes it
        self.spawn("/usr/sbin/bgpd", "-d", "-f", str(main))

    def load(self, conf: Path) -> None:
        self.run("bgpctl", "-s", f"{self.folder}/bgpd.sock", "reload")

    def ask(self, *words: str) -> Any:
        return json.loads(self.run("bgpctl", "-s", f"{self.folder}/bgpd.sock", "-j", *words) or "{}")

    def paths(self, prefix: Prefix) -> Sequence[Way]:
        rib = self.ask("show", "rib", "detail").get("rib", [])
        return [
            Way(local_pref=one["localpref"], communities=frozenset(_spelt(one.get("communities", []))))
            for one in rib
            if one["prefix"] == str(prefix)
        ]

    def best(self, prefix: Prefix) -> str:
        rib = self.ask("show", "rib", "detail").get("rib", [])
        best = [one for one in rib if one["prefix"] == str(prefix) and one.get("best")]
        return str(best[0]["exit_nexthop"]) if best else ""

    def up(self) -> bool:
        neighbors = self.ask("show", "neighbor").get("neighbors", [])
        return [one["state"] for one in neighbors] == ["Established"] * 2


KINDS: tuple[type[Software], ...] = (Frr, Bird, GoBgp, OpenBgpd)
S = TypeVar("S", bound=Software)


def every(kinds: Sequence[type[S]]) -> list[type[S]]:
    """Those of this machine, and those of the Debians in build/debian where ANYCAST_ROUTERS=all asks for them."""
    debians = [suites.root(suite) for suite in suites.SUITES if suites.there(suite)]
    if os.environ.get("ANYCAST_ROUTERS") != "all":
        debians = []
    return [one for kind in kinds for one in (kind, *(kind.of(debian) for debian in debians))]


SOFTWARE = every(KINDS)


def _line(text: str, start: str) -> str:
    return next((line for line in text.splitlines() if line.strip().startswith(start)), "")


def _spelt(communities: Sequence[str]) -> list[str]:
    words = {"graceful-shutdown": "65535:0", "GRACEFUL_SHUTDOWN": "65535:0", "gracefulShutdown": "65535:0"}
    return [words.get(one, one) for one in communities]
