"""Two operators who say `anycast maintenance on` on two nodes of a fleet in the same instant, again and again.

`python -m lab.bench_turns [--etcd]`. Three nodes on the loopback interface, each whole but for its kernel, which is in memory: agent,
ops process, the process that hears the others; with `--etcd` a cluster of three besides. Each round draws two of them. Counted: how many of them leave, and the
seconds until the one that leaves knows. What is more than one at once is a failure, whether one gives way or not.
Prints a table; the same in `build/bench-turns.json`.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from anycast.cli import client
from anycast.core.values.report import NeighborState
from lab import loaded_agent, measuring, turns
from lab.figures import percentile
from lab.measuring import say
from lab.waiting import until
from tests.contract.etcd import cluster

NODES = 3
PORT = 21800
ROUTER = "10.2.1.254"
INTERVAL = 0.5  # seconds: the shortest there is, for many rounds
PATIENCE = 60.0  # seconds until a round is through
FORGOTTEN = 2.0  # seconds after which nobody thinks that a node asks which asks no more


def host(number: int) -> str:
    return f"127.0.9.{number}"


def config(directory: Path, number: int, etcd: Sequence[str], port: int, view: str) -> str:
    """Of the node, with the names of all. `etcd`: its members."""
    strict = {"etcd": {"endpoints": list(etcd)}} if etcd else {}
    return yaml.safe_dump(
        {
            "nodes": {
                f"lb{n}": {"bgp": {"router_id": host(n)}, "fleet": {"listen": f"{host(n)}:{port}"}}
                for n in range(1, NODES + 1)
            },
            "node": {
                "name": f"lb{number}",
                "runtime_dir": str(directory),
                "state_dir": str(directory / "state"),
                "exabgp_user": "root",
                "listen": f"{host(number)}:{port + 1}",
            },
            "fleet": {"interval": INTERVAL, "view": view, **strict},
            "bgp": {"local_as": 65001, "neighbors": [{"address": ROUTER, "remote_as": 65000}]},
            "timing": {"drain": "60s"},
            "vips": {"web": {"address": "198.18.0.1", "port": 80, "servers": ["10.0.0.1"]}},
        },
        sort_keys=False,
    )


class Node:
    """One agent, with a plugin that does as it is told."""

    def __init__(self, runtime: Path, pid: int) -> None:
        self.pid = pid
        self.control = runtime / "control.sock"
        up = NeighborState(address=ROUTER, state="up", changed=time.monotonic())
        self._plugin = loaded_agent.Plugin(runtime, (up,))
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._acknowledge)
        self._thread.start()

    def _acknowledge(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):
            while not self._ends.is_set():
                for _ in self._plugin.leases(0.5):
                    pass

    def close(self) -> None:
        self._ends.set()
        self._thread.join()
        self._plugin.close()

    def is_well(self) -> bool:
        """It and all others are heard by one another, and announce."""
        return turns.may_leave(self._command)

    def ask(self, more: dict[str, Any], *, scope: str = "") -> client.Answer:
        return self.command({"on": True, **more}, scope=scope)

    def command(self, body: dict[str, Any], *, scope: str = "") -> client.Answer:
        return self._command({"scope": scope, **body})

    def _command(self, body: dict[str, Any]) -> client.Answer:
        return client.command(self.control, "/maintenance", body)

    def leave(self) -> client.Answer:
        return turns.leave(self._command)

    def is_out(self) -> bool:
        return bool(client.ask(self.control, "GET", "/maintenance").body["maintenance"])


@contextlib.contextmanager
def fleet(
    folder: Path, members: Sequence[str] = (), *, port: int = PORT, view: str = "peers"
) -> Iterator[list[Node]]:
    """`members`: of etcd."""
    with contextlib.ExitStack() as stack:
        nodes = []
        for number in range(1, NODES + 1):
            runtime = folder / f"lb{number}"
            agent = loaded_agent.agent(
                config(runtime, number, members, port, view), runtime, (), "--unchecked"
            )
            node = Node(runtime, stack.enter_context(agent))
            stack.callback(node.close)
            nodes.append(node)
        yield nodes


def well(nodes: Sequence[Node]) -> None:
    """Until each may leave, and the others no longer hear that it has asked whether it may."""
    for node in nodes:
        until(node.is_well, "the fleet to be well", PATIENCE, pause=0.2)
    time.sleep(FORGOTTEN)


def round_of(nodes: Sequence[Node], chance: random.Random) -> tuple[int, float]:
    """How many of two leave, and the seconds until the first knows."""
    two = chance.sample(list(nodes), 2)
    barrier, took, answers = threading.Barrier(2), list[float](), list[client.Answer]()

    def ask(node: Node) -> None:
        barrier.wait()
        began = time.monotonic()
        answer = node.leave()
        answers.append(answer)
        if answer.ok:
            took.append(time.monotonic() - began)

    threads = [threading.Thread(target=ask, args=(node,)) for node in two]
    for one in threads:
        one.start()
    for one in threads:
        one.join(PATIENCE)
    left = sum(node.is_out() for node in nodes)
    for node in nodes:
        node.command({"on": False})
    return max(left, len(took)), min(took, default=PATIENCE)


def main(argv: Sequence[str]) -> int:
    parser = measuring.options("lab.bench_turns", __doc__, "bench-turns.json")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--etcd", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    chance = random.Random(options.seed)  # noqa: S311
    left: Counter[int] = Counter()
    seconds: list[float] = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        members = stack.enter_context(cluster(folder)).endpoints if options.etcd else ()
        nodes = stack.enter_context(fleet(folder, members))
        for number in range(options.rounds):
            well(nodes)
            count, took = round_of(nodes, chance)
            left[count] += 1
            seconds.append(took)
            if count != 1:
                say(f"round {number}: {count} left")
    figures = {
        "rounds": options.rounds,
        "left": {str(count): times for count, times in sorted(left.items())},
        "seconds p50": percentile(seconds, 0.5),
        "seconds p99": percentile(seconds, 0.99),
    }
    say(json.dumps(figures))
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1))
    return 0 if set(left) == {1} else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
