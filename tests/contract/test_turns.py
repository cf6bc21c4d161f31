"""Agents of a fleet that ask one another, whole but for their kernels, and the command that asks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.bench_turns import PATIENCE, Node, fleet, well
from lab.waiting import until
from tests.contract.etcd import BINARY, cluster


def command(node: Node, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "anycast", "maintenance", *words, "--socket", str(node.control)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(node: Node, *words: str) -> tuple[int, str]:
    with command(node, *words) as process:
        said = process.communicate(timeout=PATIENCE)
        return process.returncode, "".join(said)


@contextlib.contextmanager
def frozen(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_the_second_is_refused_or_queues_and_leaves_when_the_first_is_back(tmp_path: Path) -> None:
    with fleet(tmp_path, port=21810) as nodes:
        well(nodes)
        lb1, lb2, _ = nodes
        code, said = done(lb1, "on", "--reason", "new disks")
        assert (code, lb1.is_out()) == (0, True), said
        until(
            lambda: done(lb2, "on")[1].startswith("anycast: this node may not leave now: lb1 is "), "a no", 30
        )
        code, said = done(lb2, "on")
        assert code == 1
        assert "lb1 is draining for a maintenance (root, " in said
        assert "“new disks”" in said
        with command(lb2, "on", "--wait-turn") as waiting:
            assert waiting.stderr is not None
            assert "in the queue" in waiting.stderr.readline()
            assert not lb2.is_out()
            assert done(lb1, "off")[0] == 0
            waiting.communicate(timeout=PATIENCE)
            assert waiting.returncode == 0
        assert lb2.is_out()


@pytest.mark.skipif(BINARY is None, reason="there is no etcd (apt-get install etcd-server)")
def test_an_emergency_needs_nobody_and_without_force_nobody_is_let_go(tmp_path: Path) -> None:
    """Not the other agents, not etcd, not the processes that the agent has started."""
    with cluster(tmp_path) as etcd, fleet(tmp_path, etcd.endpoints, port=21820) as nodes:
        well(nodes)
        lb1, *others = nodes
        etcd.freeze(0, 1)
        try:
            with frozen(*children(lb1.pid), *(one.pid for one in others)):
                code, said = done(lb1, "on")
                assert (code, lb1.is_out()) == (1, False)
                assert "may not leave now: " in said
                assert "--force leaves without asking" in said
                code, said = done(lb1, "on", "--now", "--force", "--reason", "it burns")
                assert (code, lb1.is_out()) == (0, True), said
        finally:
            etcd.thaw(0, 1)


@pytest.mark.skipif(BINARY is None, reason="there is no etcd (apt-get install etcd-server)")
@pytest.mark.parametrize("view", ["peers", "etcd"])
def test_with_etcd_the_holder_is_there_to_read_and_gives_it_back(tmp_path: Path, view: str) -> None:
    with cluster(tmp_path) as etcd, fleet(tmp_path, etcd.endpoints, port=21830, view=view) as nodes:
        well(nodes)
        lb1, lb2, _ = nodes
        code, said = done(lb1, "on", "--reason", "new disks")
        assert (code, lb1.is_out()) == (0, True), said
        assert '"reason": "new disks"' in etcd.control("get", "--prefix", "/anycast/turn/")
        until(lambda: lb2.ask({}).code == 409, "a no", 30)
        assert done(lb1, "off")[0] == 0
        until(lambda: not etcd.control("get", "--prefix", "/anycast/turn/"), "the turn to be free", 30)
