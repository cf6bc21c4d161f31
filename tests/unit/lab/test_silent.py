"""What is made of clients that waited, and what keepalived is given."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from lab import newcomers, silent
from lab.topology import topology


def test_a_client_without_a_server_and_one_that_nobody_answers_are_told_apart() -> None:
    clients = [[0.0, 0.001 * n, 0.002 * n, ""] for n in range(1, 101)]
    clients += [[1.0, None, None, "gave up"], [1.1, None, None, "EHOSTUNREACH"], [1.2, 0.01, None, "gave up"]]
    found = silent.row("anycast", "link cut", clients, 0.1)
    assert (found.clients, found.never, found.unanswered) == (103, 2, 1)
    assert (found.longest, found.errors) == (0.1, {"gave up": 1, "EHOSTUNREACH": 1})
    assert found.held is False
    assert silent.row("anycast", "link cut", clients[:100], 0.1).held is True
    assert silent.row("anycast", "link cut", clients[:100], 0.09).held is False
    assert silent.row("keepalived", "link cut", clients, None).held is None
    text = silent.silent_table([found])
    assert "NO" in text
    assert "'EHOSTUNREACH': 1" in text


def test_keepalived_is_given_both_vips_and_the_servers_that_we_have() -> None:
    text = silent.keepalived_conf(topology(balancers=3, servers=4).servers)
    assert text.count("virtual_server ") == 2
    assert text.count("real_server ") == 8
    assert text.index("lvs_sched mh") < text.index("mh-port")
    assert text.count("{") == text.count("}")


def test_new_clients_come_at_their_rate_and_tell_how_long_each_waited() -> None:
    program = str(Path(newcomers.__file__))
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        argv = [sys.executable, "-I", "-S", program, "--rate=50", "--seconds=0.2", "--patience=0.3"]
        argv += ["--vip=127.0.0.1", f"--port={listener.getsockname()[1]}", "--source4=127.0.1."]
        with subprocess.Popen(argv, stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            assert json.loads(run.stdout.readline()) == {"event": "begun"}
            for _ in range(5):
                with listener.accept()[0] as connection:
                    connection.recv(100)
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            listener.close()
            found = json.loads(run.stdout.readline())["clients"]
    assert len(found) == 10
    assert sum(answered is not None for _, _, answered, _ in found) == 5
    assert all(error for _, _, answered, error in found if answered is None)
