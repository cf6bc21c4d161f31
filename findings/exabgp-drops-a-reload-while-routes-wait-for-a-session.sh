#!/bin/bash
# ExaBGP 5.0.15.
#
# ExaBGP has a session with one router. A second router does not answer at all: ExaBGP is connecting to it. Its file is
# changed, and it is sent SIGUSR1; then `show neighbor configuration` tells whether it has read the file. (What is
# changed is the text of a `description`, which ends no session.)
#
# Expected before it was run: it reads the file each time, for the file is in order and the signal has arrived.
#
# Seen:
#
#     no route is announced: read after the first signal
#     a route has been announced, the second router does not answer: not read after 5 signals
#       in the log: "scheduling reload" 5 times, "performing reload" 0 times
#     the second router refuses the connection: read
#     another route has been announced, there is no way to a third router: not read after 20 signals
#
# Why: `run` in exabgp/reactor/loop.py forgets the signal (`self.signal.rearm()`) before it looks whether routes wait to
# be sent (`if self._pending_adjribout(): continue`), and it looks at every session that it would like to have. What is
# announced or withdrawn while a session is away waits until that session is up, or until an attempt to connect has
# failed: at once where the router refuses, after two minutes where nothing answers (tcp_syn_retries). Between two
# attempts are up to 60 seconds more, in which it waits too. Where the kernel refuses the attempt at once (no way, as
# where a link is down), `establish` in exabgp/reactor/network/outgoing.py tries for ever, and what waits waits for ever.
#
# What it means: where a router is away, a reload after a route has changed is not carried out, and nobody is told.
# The log, at its usual level, says "scheduling reload". So look whether the file was read (a `description` that is
# changed with it, and `show neighbor configuration`), and send the signal again where it was not. A route that is just
# being sent to a router that is there has the same effect for a moment.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs python3 with venv and PyPI; only loopback, no
# root. A minute.
set -euo pipefail

folder=$(mktemp -d)
child=
clean() {
    if [[ -n $child ]]; then
        kill "$child" 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# What is run has what is left of 150 seconds. In the background, so that a signal ends this script at once.
run() {
    local left=$((150 - SECONDS))
    ((left > 0)) || { echo "not done in 150 seconds" >&2; exit 1; }
    timeout "$left" "$@" &
    child=$!
    local status=0
    wait "$child" || status=$?
    child=
    ((status != 124)) || echo "not done in 150 seconds" >&2
    return "$status"
}

# The API process: what is written to the socket is a command, what ExaBGP answers goes back.
cat > "$folder/api.py" <<'PYTHON'
import os
import socket
import sys
import threading

peer = socket.socket(socket.AF_UNIX)
peer.connect(sys.argv[1])


def relay(source, target):
    while data := os.read(source, 65536):
        os.write(target, data)
    os._exit(0)


threading.Thread(target=relay, args=(0, peer.fileno())).start()
relay(peer.fileno(), 1)
PYTHON

cat > "$folder/try.py" <<'PYTHON'
import os
import pwd
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

FOLDER = sys.argv[1]
HERE, AWAY = "127.0.0.1", "127.0.0.2"
NO_WAY = "192.0.2.254"  # to which nothing goes from 127.0.0.1: the kernel refuses it, and no packet leaves
CAPABILITIES = bytes.fromhex("010400010001" "41040000fde8")  # IPv4, AS 65000 in four octets
PATIENCE = 75  # seconds for what is to happen: ExaBGP pauses up to 60 between two attempts to connect
WORDS = ("scheduling reload", "performing reload")
SIGNALS, MANY = 5, 20


def message(kind, body=b""):
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


class Router:
    """Takes one session, keeps it up, and says when it has been sent the route."""

    def __init__(self):
        self.listener = socket.create_server((HERE, 0))
        self.port = self.listener.getsockname()[1]
        self.up, self.has_route, self.has_second = (threading.Event() for _ in range(3))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        session, _ = self.listener.accept()
        hello = struct.pack("!BHH4sB", 4, 65000, 180, bytes([192, 0, 2, 254]), 2 + len(CAPABILITIES))
        session.sendall(message(1, hello + bytes([2, len(CAPABILITIES)]) + CAPABILITIES))
        buffer = b""
        while data := session.recv(65536):
            buffer += data
            while len(buffer) >= 19 and len(buffer) >= (length := struct.unpack_from("!H", buffer, 16)[0]):
                kind, body, buffer = buffer[18], buffer[19:length], buffer[length:]
                if kind == 1:
                    session.sendall(message(4))
                elif kind == 2:
                    self.up.set()  # an End-of-RIB at the least
                    if bytes([32, 192, 0, 2, 1]) in body:
                        self.has_route.set()
                    if bytes([32, 192, 0, 2, 2]) in body:
                        self.has_second.set()


class Silent:
    """A router that answers nothing: its queue of connections is full, so the kernel drops what else comes."""

    def __init__(self, port):
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((AWAY, port))
        self._listener.listen(0)
        self._filling = [socket.create_connection((AWAY, port), timeout=PATIENCE)]

    def refuses(self):
        self._listener.close()
        for one in self._filling:
            one.close()


def configure(text, second=AWAY):
    neighbors = "".join(f"""
neighbor {router} {{
    description "{text}";
    router-id 192.0.2.253;
    local-address 127.0.0.1;
    local-as 65001;
    peer-as 65000;
    hold-time 180;
    family {{
        ipv4 unicast;
    }}
    api {{
        processes [ api ];
    }}
}}
""" for router in (HERE, second))  # fmt: skip
    with open(f"{FOLDER}/new", "w") as conf:
        conf.write(f"process api {{\n    run {sys.executable} {FOLDER}/api.py {FOLDER}/socket;\n    encoder text;\n}}\n{neighbors}")
    os.replace(f"{FOLDER}/new", f"{FOLDER}/exabgp.conf")


def until(what, is_so):
    end = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > end:
            raise RuntimeError(f"not in {PATIENCE} seconds: {what}\n{log()}")
        time.sleep(0.05)


def log():
    with open(f"{FOLDER}/log") as file:
        return file.read()


def ask(api, command):
    api.sendall(f"{command}\n".encode())
    answer = ""
    while not answer.endswith(("done\n", "error\n")):
        if not (data := api.recv(65536)):
            raise RuntimeError(f"the API process has ended\n{log()}")
        answer += data.decode()
    return answer


def has_read(exabgp, api, text):
    """Whether ExaBGP has the file after one more signal."""
    before = log().count("scheduling reload")
    exabgp.send_signal(signal.SIGUSR1)
    until("the signal has arrived", lambda: log().count("scheduling reload") > before)
    for _ in range(2):  # what follows is of another turn of its loop
        ask(api, "version")
    return set(re.findall(r'description "(.*)"', ask(api, "show neighbor configuration"))) == {text}


def signals(exabgp, api, text, most):
    for number in range(1, most + 1):
        if has_read(exabgp, api, text):
            return f"read after signal {number}"
        time.sleep(1)
    return f"not read after {most} signals"


def main():
    differs = []

    def seen(words, told, expected):
        print(f"{words}: {told}", flush=True)
        if told != expected:
            differs.append(f"{words}: expected: {expected}")

    here = Router()
    away = Silent(here.port)
    with socket.socket(socket.AF_UNIX) as control:
        control.bind(f"{FOLDER}/socket")
        control.listen()
        control.settimeout(PATIENCE)
        configure("of the start")
        environment = os.environ | {
            "exabgp_tcp_port": str(here.port),
            "exabgp_daemon_user": pwd.getpwuid(os.getuid()).pw_name,
            "exabgp_api_cli": "false",
            "exabgp_log_level": "INFO",
        }
        with open(f"{FOLDER}/log", "w") as file:
            exabgp = subprocess.Popen(
                [f"{FOLDER}/venv/bin/exabgp", f"{FOLDER}/exabgp.conf"],
                env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        try:
            api, _ = control.accept()
            api.settimeout(PATIENCE)
            until("the session with the first router is up", here.up.is_set)
            configure("one")
            told = "read after the first signal" if has_read(exabgp, api, "one") else "not read"
            seen("no route is announced", told, "read after the first signal")

            if "done" not in ask(api, "announce route 192.0.2.1/32 next-hop self"):
                raise RuntimeError("the route was refused")
            until("the first router has the route", here.has_route.is_set)
            configure("two")
            before = [log().count(words) for words in WORDS]
            told = signals(exabgp, api, "two", SIGNALS)
            seen("a route has been announced, the second router does not answer", told, f"not read after {SIGNALS} signals")
            counts = [log().count(words) - old for words, old in zip(WORDS, before, strict=True)]
            told = ", ".join(f'"{words}" {count} times' for words, count in zip(WORDS, counts, strict=True))
            seen("  in the log", told, f'"{WORDS[0]}" {SIGNALS} times, "{WORDS[1]}" 0 times')

            away.refuses()
            until("read", lambda: has_read(exabgp, api, "two"))
            seen("the second router refuses the connection", "read", "read")

            configure("three", NO_WAY)
            until("read", lambda: has_read(exabgp, api, "three"))
            if "done" not in ask(api, "announce route 192.0.2.2/32 next-hop self"):
                raise RuntimeError("the second route was refused")
            until("the first router has the second route", here.has_second.is_set)
            configure("four", NO_WAY)
            told = signals(exabgp, api, "four", MANY)
            seen("another route has been announced, there is no way to a third router", told, f"not read after {MANY} signals")
        finally:
            exabgp.terminate()
            try:
                exabgp.wait(5)
            except subprocess.TimeoutExpired:
                exabgp.kill()
                exabgp.wait()
    for words in differs:
        print(f"differs: {words}")
    return bool(differs)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
sys.exit(main())
PYTHON

run python3 -m venv "$folder/venv"
run "$folder/venv/bin/pip" install --quiet --disable-pip-version-check exabgp==5.0.15
"$folder/venv/bin/exabgp" version | sed -n 's/ExaBGP : /ExaBGP /p'
run "$folder/venv/bin/python" "$folder/try.py" "$folder" || exit 1
