"""What the view of a fleet costs a node: 16 nodes with 1,000 VIPs each that ask one another.

`python -m lab.bench_fleet`. One node is real: its agent with a kernel in memory, its ops process, and the process that asks
the others. The 15 others are a process beside it, which answers for them and asks the real node for each of them. They
have its tables, the loads that they tell change as those of a node do, with each reading of its kernel (5 s), and a VIP of
each every ten seconds. The worst case comes last: loads that change at every answer, and other tables for every VIP. The
same node without `fleet` comes before each of these: what a process costs differs by a tenth from one minute to the next,
so the figures are medians of what was measured in several rounds.
Prints a table; the same in `build/bench-fleet.json`. CPU time is of the processes, whatever else the machine does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from anycast.core.fleet import codec
from anycast.core.fleet.values import Capacity, Document, Load, VipStanding, VipTold
from anycast.core.hooks import Secret
from anycast.core.values.configuration import Timing
from anycast.core.values.fleet import Certificates, Fleet, PeerAt
from anycast.fleet.frames import Told
from anycast.fleet.peers import Peers
from lab import loaded_agent, measuring
from lab.figures import percentile
from lab.measuring import say
from lab.waiting import until

NODES, VIPS = 16, 1000
INTERVAL = 2.0
LOADED = [f"v{n}" for n in range(50)]  # VIPs that tell their own load
RANK = (0, 0, 0, 0)  # of every VIP
WINDOW = 40.0  # seconds of each measurement
ROUNDS = 5
SETTLES = 20.0
PORT = int(
    os.environ.setdefault("ANYCAST_BENCH_PORT", str(21000 + os.getpid() % 9000))
)  # the other process has the same
OWN = "127.0.8.1"
FLAPS = 10.0  # seconds between two changes of a VIP of each of the others
LOADS = Timing().reconcile  # seconds between two changes of a load
KINDS = (
    ("token", False, False),
    ("token and TLS", True, False),
    ("worst, with TLS", True, True),
)  # the name, whether with TLS, whether the worst case
GOALS = {"cpu": 0.01, "agent_mib": 8.0, "lateness": 1.2}


def name(number: int) -> str:
    return f"lb{number}"


def host(number: int) -> str:
    return f"127.0.8.{number}"


def config(directory: Path, *, fleet: bool, tls: bool) -> str:
    vips = {
        f"v{n}": {
            "address": f"198.18.{n >> 8}.{n & 255}",
            "port": 80,
            "servers": [f"10.{n >> 8}.{n & 255}.1"],
        }
        for n in range(VIPS)
    }
    tree: dict[str, Any] = {
        "nodes": {
            name(n): {"bgp": {"router_id": host(n)}, "fleet": {"listen": f"{host(n)}:{PORT}"}}
            for n in range(1, NODES + 1)
        },
        "node": {
            "name": name(1),
            "runtime_dir": str(directory),
            "state_dir": str(directory / "state"),
            "exabgp_user": "root",
            "listen": f"{OWN}:{PORT + 1}",
        },
        "fleet": {"interval": INTERVAL, "token_file": str(directory.parent / "token")},
        "bgp": {"local_as": 65001, "neighbors": [{"address": "10.2.1.254", "remote_as": 65000}]},
        "timing": {"lease_ttl": f"{loaded_agent.TTL * 1000:.0f}ms"},
        "vips": vips,
    }
    if tls:
        files = directory.parent
        tree["fleet"]["tls"] = {one: str(files / f"{one}.pem") for one in ("certificate", "key", "ca")}
    if not fleet:
        del tree["fleet"]
        for one in tree["nodes"].values():
            del one["fleet"]
    return yaml.safe_dump(tree, sort_keys=False)


def certificates(folder: Path) -> None:
    """One for all nodes: of each the addresses."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *curve, "-subj", "/CN=fleet", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2")
    names = ",".join(f"IP:{host(n)},DNS:{name(n)}" for n in range(1, NODES + 1))
    openssl("req", *curve, "-subj", "/CN=node", "-keyout", "key.pem", "-out", "node.csr")
    (folder / "ext").write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl(
        *("x509", "-req", "-in", "node.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-extfile", "ext", "-out", "certificate.pem", "-days", "2"),
    )


class Other:
    """Another node, as it answers. `worst`: with tables of its own, and another load each time."""

    def __init__(self, number: int, *, worst: bool) -> None:
        self.number = number
        self._worst = worst
        self._born = time.monotonic()
        self._load, self._loaded = 0.0, self._born + number / NODES * LOADS
        self._flapped = self._born + number / NODES * FLAPS
        self._flaps = 0
        self._split = [*codec.split(sorted(f"v{n}" for n in range(VIPS)))]
        self._tables = {one: "0123456789ab" for some in self._split for one in some}
        self._rows: dict[str, codec.Row] = {}
        self._pieces: list[codec.Piece] = []
        self._write()

    def _write(self) -> None:
        self._rows = {
            one: (str(VipStanding.ANNOUNCED), "healthy", round(self._born, 1), table, RANK)
            for one, table in self._tables.items()
        }
        self._pieces = [codec.piece({one: self._rows[one] for one in some}) for some in self._split]

    def hear(self, told: Told) -> None:
        """The real node, whose tables are its own, too."""
        tables = {name: row[3] for rows in told.pieces.values() for name, row in rows.items()}
        if tables and not self._worst and tables != self._tables:
            self._tables = tables
            self._write()

    def answer(self, asked: str, known: Sequence[str]) -> tuple[str, bytes | None]:
        """The tag, and what is said. None: it is what the one who asks has."""
        now = time.monotonic()
        if now > self._loaded + LOADS or self._worst:
            self._loaded, self._load = now, self._load + 1e6
        if now > self._flapped + FLAPS:
            self._flapped, self._flaps = now, self._flaps + 1
            place = self._flaps % len(self._split)
            one = self._split[place][0]
            standing, why, _, table, rank = self._rows[one]
            self._rows[one] = standing, why, round(now, 1), table, rank
            self._pieces[place] = codec.piece({each: self._rows[each] for each in self._split[place]})
        document = Document(
            node=name(self.number),
            version="0",
            ready=True,
            load=Load(bits=self._load),
            rest=Load(),
            capacity=Capacity(bits=1e10),
            hears=tuple(map(name, range(1, NODES + 1))),
            vips={
                one: VipTold(standing=VipStanding.ANNOUNCED, load=Load(bits=self._load / 50))
                for one in LOADED
            },
        )
        head = codec.head(document, born=self._born, at=now)
        tag = f'"{codec.tag(head, self._pieces)}"'
        return tag, None if tag == asked else codec.answer(head, self._pieces, known, now)


async def _answer(other: Other, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """HTTP as far as it is needed: the asker is ours."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            tag, body = other.answer(fields.get("If-None-Match", ""), fields.get(codec.PIECES, "").split(","))
            status = "304 Not Modified" if body is None else f"200 OK\r\nContent-Length: {len(body)}"
            writer.write(f"HTTP/1.1 {status}\r\nETag: {tag}\r\n\r\n".encode() + (body or b""))
            await writer.drain()
    writer.close()


async def _others(folder: Path, *, tls: bool, worst: bool) -> None:
    files = Certificates(
        certificate=str(folder / "certificate.pem"), key=str(folder / "key.pem"), ca=str(folder / "ca.pem")
    )
    context: ssl.SSLContext | None = None
    if tls:
        from anycast import mutual_tls

        context = mutual_tls.server(files, [host(1)])
    asking = []
    for number in range(2, NODES + 1):
        other = Other(number, worst=worst)

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, other: Other = other
        ) -> None:
            await _answer(other, reader, writer)

        await asyncio.start_server(serve, host(number), PORT, ssl=context)
        fleet = Fleet(
            interval=INTERVAL,
            peers=(PeerAt(name=name(1), host=host(1), port=PORT),),
            token=Secret(file=str(folder / "token")),
            tls=files if tls else None,
        )
        asking.append(Peers(fleet, other.hear, lambda *_: None))
    print("ready", flush=True)

    await asyncio.gather(*(one.run() for one in asking))


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> float:
    """MiB that are this process's own."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) / 1024


def children(pid: int) -> dict[str, int]:
    found = {}
    for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            found[Path(f"/proc/{one}/comm").read_text().strip()] = int(one)
    return found


@contextlib.contextmanager
def others(folder: Path, *, tls: bool, worst: bool = False) -> Iterator[None]:
    options = [word for word, wanted in (("--tls", tls), ("--worst", worst)) if wanted]
    argv = [sys.executable, "-m", "lab.bench_fleet", "--others", str(folder), *options]
    with measuring.running(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield


def measure(folder: Path, *, fleet: bool, tls: bool, window: float) -> dict[str, float]:
    runtime = folder / f"node-{len(os.listdir(folder))}"
    with loaded_agent.agent(config(runtime, fleet=fleet, tls=tls), runtime, (), "--unchecked") as pid:
        plugin = loaded_agent.Plugin(runtime)
        plugin.until_announced(VIPS)
        wanted = {"anycast-ops", *(["anycast-fleet"] if fleet else [])}
        until(lambda: wanted <= children(pid).keys(), "its processes", 60.0)
        for _ in plugin.leases(SETTLES):
            pass
        of = {"agent": pid, **children(pid)}
        before, began = {one: cpu(each) for one, each in of.items()}, time.monotonic()
        leases = [(arrived, one.issued, one.ttl) for arrived, one in plugin.leases(window)]
        seconds = time.monotonic() - began
        late = loaded_agent.lateness(leases)
        found = {f"cpu {one}": (cpu(each) - before[one]) / seconds for one, each in of.items()}
        found |= {f"MiB {one}": memory(each) for one, each in of.items()}
        found["lateness p99 ms"] = percentile(late, 0.99) * 1000
        found["lateness p50 ms"] = percentile(late, 0.5) * 1000
        if fleet:
            found["heard"] = float(heard(runtime))
        plugin.close()
        return found


def heard(runtime: Path) -> int:
    from anycast.cli.client import read

    status = read(runtime / "control.sock", "/status").body
    return sum(one["belief"] == "heard" for one in status["fleet"]["nodes"])


def main(argv: Sequence[str]) -> int:
    parser = measuring.options("lab.bench_fleet", __doc__, "bench-fleet.json")
    parser.add_argument("--others", type=Path)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--worst", action="store_true")
    parser.add_argument("--window", type=float, default=WINDOW)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(argv)
    if options.others is not None:
        asyncio.run(_others(options.others, tls=options.tls, worst=options.worst))
        return 0
    measuring.ready("make bench-fleet")
    rows: dict[str, list[dict[str, float]]] = {label: [] for label, *_ in KINDS}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "token").write_text("secret-of-the-fleet\n")
        certificates(folder)
        for _ in range(options.rounds):
            say("without a fleet")
            without = told(measure(folder, fleet=False, tls=False, window=options.window))
            for label, tls, worst in KINDS:
                say(f"{NODES} nodes, {VIPS} VIPs: {label}")
                with others(folder, tls=tls, worst=worst):
                    row = measure(folder, fleet=True, tls=tls, window=options.window)
                rows[label].append(told(against(without, row)))
    figures = {label: medians(some) for label, some in rows.items()}
    for label, row in figures.items():
        say(f"{label}, against none: " + ", ".join(f"{one} {value:.3g}" for one, value in row.items()))
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps({"rows": rows, "against": figures, "goals": GOALS}, indent=1))
    return 0


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {one: statistics.median(row[one] for row in rows) for one in rows[0]}


def told(row: dict[str, float]) -> dict[str, float]:
    say(", ".join(f"{one} {value:.4g}" for one, value in row.items()))
    return row


def against(without: dict[str, float], row: dict[str, float]) -> dict[str, float]:
    total = sum(value for one, value in row.items() if one.startswith("cpu"))
    base = sum(value for one, value in without.items() if one.startswith("cpu"))
    return {
        "cpu": total - base,
        "cpu_agent": row["cpu agent"] - without["cpu agent"],
        "cpu_ops": row["cpu anycast-ops"] - without["cpu anycast-ops"],
        "cpu_asking": row["cpu anycast-fleet"],
        "agent_mib": row["MiB agent"] - without["MiB agent"],
        "ops_mib": row["MiB anycast-ops"] - without["MiB anycast-ops"],
        "fleet_process_mib": row["MiB anycast-fleet"],
        "lateness": row["lateness p99 ms"] / max(without["lateness p99 ms"], 0.1),
        "heard": row["heard"],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
