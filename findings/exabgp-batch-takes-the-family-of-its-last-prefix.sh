#!/bin/bash
# ExaBGP 5.0.15 (4.2.25 does the same; this script runs 5.0.15).
#
# One API command that announces prefixes of both families,
#
#     announce attributes next-hop self nlri 192.0.2.1/32 2001:db8::1/128
#
# on an IPv6 session with both families negotiated, is answered `done`. Every prefix of the command is then sent under
# the family of its last one: the IPv6 NLRI on the wire are c000:201::/32, which are the bytes of 192.0.2.1/32, and
# 2001:db8::1/128. 192.0.2.1/32 is never announced. Each prefix alone is announced as it should be.
#
# Expected before it was run: both are announced, or the command is refused.
#
# Seen:
#
#     > announce attributes next-hop self nlri 192.0.2.1/32 2001:db8::1/128
#       answer: done
#       on the wire: ipv6 2001:db8::1/128, ipv6 c000:201::/32
#     > announce attributes next-hop self nlri 192.0.2.1/32
#       answer: done
#       on the wire: ipv4 192.0.2.1/32
#     > announce attributes next-hop self nlri 2001:db8::1/128
#       answer: done
#       on the wire: ipv6 2001:db8::1/128
#
# What it means: never put prefixes of both families into one command. `done` does not tell that a route was announced,
# and the wrong one is an IPv6 /32 that nobody asked for.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs python3 with venv, ::1 and PyPI; no root.
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

# What is run has what is left of 120 seconds. In the background, so that a signal ends this script at once.
run() {
    local left=$((120 - SECONDS))
    ((left > 0)) || { echo "not done in 120 seconds" >&2; exit 1; }
    timeout "$left" "$@" &
    child=$!
    local status=0
    wait "$child" || status=$?
    child=
    ((status != 124)) || echo "not done in 120 seconds" >&2
    return "$status"
}

# The API process: what the peer writes to the socket is a command, what ExaBGP answers goes back.
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

# The BGP peer; each command in a fresh ExaBGP and a fresh session.
cat > "$folder/peer.py" <<'PYTHON'
import ipaddress
import os
import pwd
import select
import signal
import socket
import struct
import subprocess
import sys
import time

FOLDER = sys.argv[1]
ANNOUNCE = "announce attributes next-hop self nlri "
EXPECTED = {
    "192.0.2.1/32 2001:db8::1/128": ["ipv6 2001:db8::1/128", "ipv6 c000:201::/32"],
    "192.0.2.1/32": ["ipv4 192.0.2.1/32"],
    "2001:db8::1/128": ["ipv6 2001:db8::1/128"],
}
CAPABILITIES = bytes.fromhex("010400010001" "010400020001" "41040000fde8")  # IPv4, IPv6, AS 65000 in four octets
SILENCE = 2  # nothing more is on its way when nothing came for so long after the answer and the last route
PATIENCE = 10  # for the first route after the answer


def message(kind, body=b""):
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


def prefixes(data, family):
    name, size = ("ipv4", 4) if family == 1 else ("ipv6", 16)
    while data:
        bits, length = data[0], (data[0] + 7) // 8
        raw, rest = data[1 : 1 + length], data[1 + length :]
        if bits > size * 8 or len(raw) < length:
            yield f"{name} malformed {data.hex()}"
            return
        yield f"{name} {ipaddress.ip_address(raw.ljust(size, bytes(1)))}/{bits}"
        data = rest


def announced(body):
    (length,) = struct.unpack_from("!H", body)
    yield from (f"withdrawn {prefix}" for prefix in prefixes(body[2 : 2 + length], 1))
    body = body[2 + length :]
    (length,) = struct.unpack_from("!H", body)
    attributes, nlri = body[2 : 2 + length], body[2 + length :]
    yield from prefixes(nlri, 1)
    while attributes:
        extended = attributes[0] & 16
        length = struct.unpack_from("!H", attributes, 2)[0] if extended else attributes[2]
        start = 4 if extended else 3
        code, value = attributes[1], attributes[start : start + length]
        attributes = attributes[start + length :]
        if code == 14:  # MP_REACH_NLRI
            family, _, hop = struct.unpack_from("!HBB", value)
            yield from prefixes(value[5 + hop :], family)
        elif code == 15:  # MP_UNREACH_NLRI; empty for End-of-RIB
            yield from (f"withdrawn {p}" for p in prefixes(value[3:], struct.unpack_from("!H", value)[0]))


def accept(listener, exabgp):
    while not select.select([listener], [], [], 0.2)[0]:
        if exabgp.poll() is not None:
            raise RuntimeError("ExaBGP has ended:\n" + open(f"{FOLDER}/log").read())
    return listener.accept()[0]


def talk(bgp, api, command):
    """What the command is answered, and what is on the wire until all is silent."""
    answer, seen, buffer, sent, until = "", [], b"", False, None
    hello = struct.pack("!BHH4sB", 4, 65000, 180, bytes([192, 0, 2, 254]), 2 + len(CAPABILITIES))
    bgp.sendall(message(1, hello + bytes([2, len(CAPABILITIES)]) + CAPABILITIES))
    while True:
        ready = select.select([bgp, api], [], [], None if until is None else max(0, until - time.monotonic()))[0]
        if not ready:
            return answer.strip(), sorted(seen)
        if api in ready:
            data = api.recv(65536)
            if not data:
                raise RuntimeError("the API process has ended")
            answer += data.decode()
            if answer.endswith("\n"):
                until = time.monotonic() + (SILENCE if seen else PATIENCE)
        if bgp in ready:
            data = bgp.recv(65536)
            if not data:
                raise RuntimeError("ExaBGP has closed the session")
            buffer += data
            while len(buffer) >= 19 and len(buffer) >= (length := struct.unpack_from("!H", buffer, 16)[0]):
                kind, body, buffer = buffer[18], buffer[19:length], buffer[length:]
                if kind == 1:
                    bgp.sendall(message(4))
                elif kind == 2:
                    routes = list(announced(body))
                    seen += routes
                    if not sent:  # the first UPDATE is an End-of-RIB: the session is established
                        api.sendall(f"{command}\n".encode())
                        sent = True
                    if routes and answer.endswith("\n"):
                        until = time.monotonic() + SILENCE
                elif kind == 3:
                    raise RuntimeError(f"ExaBGP has sent NOTIFICATION {body.hex()}")


def session(command):
    path = f"{FOLDER}/socket"
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener, socket.socket(socket.AF_UNIX) as control:
        control.bind(path)
        control.listen()
        with open(f"{FOLDER}/exabgp.conf", "w") as conf:
            conf.write(f"""
process api {{
    run {sys.executable} {FOLDER}/api.py {path};
    encoder text;
}}
neighbor ::1 {{
    router-id 192.0.2.253;
    local-address ::1;
    local-as 65001;
    peer-as 65000;
    hold-time 180;
    family {{
        ipv4 unicast;
        ipv6 unicast;
    }}
    api {{
        processes [ api ];
    }}
}}
""")
        environment = os.environ | {
            "exabgp_tcp_port": str(listener.getsockname()[1]),
            "exabgp_daemon_user": pwd.getpwuid(os.getuid()).pw_name,
            "exabgp_api_cli": "false",
        }
        with open(f"{FOLDER}/log", "w") as log:
            exabgp = subprocess.Popen(
                [f"{FOLDER}/venv/bin/exabgp", f"{FOLDER}/exabgp.conf"],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            with accept(control, exabgp) as api, accept(listener, exabgp) as bgp:
                return talk(bgp, api, command)
        finally:
            exabgp.terminate()
            try:
                exabgp.wait(5)
            except subprocess.TimeoutExpired:
                exabgp.kill()
                exabgp.wait()
            os.unlink(path)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
differs = []
for nlri, expected in EXPECTED.items():
    answer, seen = session(ANNOUNCE + nlri)
    print(f"> {ANNOUNCE}{nlri}\n  answer: {answer}\n  on the wire: {', '.join(seen) or 'nothing'}", flush=True)
    if answer != "done":
        differs.append(f"{nlri}: the answer is {answer!r}, not 'done'")
    if seen != expected:
        differs.append(f"{nlri}: on the wire is {seen}, not {expected}")
for difference in differs:
    print(f"differs: {difference}")
sys.exit(bool(differs))
PYTHON

run python3 -m venv "$folder/venv"
run "$folder/venv/bin/pip" install --quiet --disable-pip-version-check exabgp==5.0.15
run "$folder/venv/bin/python" "$folder/peer.py" "$folder" || exit 1
