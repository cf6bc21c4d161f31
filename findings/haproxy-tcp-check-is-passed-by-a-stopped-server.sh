#!/bin/bash
# HAProxy 2.6.12 (Debian 12): its plain TCP check (`check`, without an option) is passed for ever by a server whose
# process is stopped.
#
# The kernel completes handshakes for a process that does not run, until the process's accept queue is full; then it
# drops SYNs. HAProxy resets the connection before the ACK of the handshake leaves, so that nothing ever comes to lie
# in that queue. A checker that lets the ACK out first, however it closes then, sees the server fail at the check
# after the backlog and one more.
#
# Expected before it was run: the check fails once as many connections were made as the backlog holds.
#
# Seen, server with a backlog of 8, stopped (SIGSTOP) before the first check:
#
#     connect, close with FIN: check 10 is the first that fails
#     connect, close with RST: check 10 is the first that fails
#     HAProxy: at least 60 checks, all passed; status UP; packets of a check: SYN, SYN-ACK, RST; 0 connections queued
#
# What it means: a plain TCP check of HAProxy's proves that the port is bound, not that the process takes connections.
# Have it speak (`option httpchk`, `tcp-check expect`), where a process that hangs must be noticed.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs python3, unshare and Debian's haproxy; root, or
# a kernel that allows user namespaces. Half a minute.
set -euo pipefail

version=$(haproxy -v); version=${version%%$'\n'*}
echo "$version, Linux $(uname -r)"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

cat > "$folder/checks.py" <<'PYTHON'
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

FOLDER = sys.argv[1]
BACKLOG = 8
CHECKS = 60
RESET = struct.pack("ii", 1, 0)
FLAGS = {0x02: "SYN", 0x12: "SYN-ACK", 0x04: "RST", 0x14: "RST", 0x10: "ACK", 0x11: "FIN", 0x01: "FIN"}


def stopped_server():
    """Its process and its port."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        os.write(tell, struct.pack("!H", listener.getsockname()[1]))
        while True:
            listener.accept()[0].close()
    (port,) = struct.unpack("!H", os.read(told, 2))
    os.kill(pid, signal.SIGSTOP)
    return pid, port


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def first_failure(option):
    pid, port = stopped_server()
    try:
        for number in range(1, CHECKS + 1):
            with socket.socket() as client:
                if option is not None:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
                client.settimeout(0.5)
                try:
                    client.connect(("127.0.0.1", port))
                except TimeoutError:
                    return number
        return None
    finally:
        end(pid)


def queued(port):
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table]
    return next(int(row[4].split(":")[1], 16) for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A")


def haproxy():
    pid, port = stopped_server()
    packets = {}  # of each connection, by the checker's port
    seen = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    seen.bind(("lo", 0x0800))

    def watch():
        while True:
            packet, where = seen.recvfrom(128)
            ports = struct.unpack_from("!HH", packet, 20)
            if where[2] != socket.PACKET_OUTGOING and packet[9] == 6 and port in ports:
                (other,) = set(ports) - {port}
                packets.setdefault(other, []).append(FLAGS.get(packet[33] & 0x17, hex(packet[33])))

    threading.Thread(target=watch, daemon=True).start()
    with open(f"{FOLDER}/conf", "w") as conf:
        conf.write(f"""
global
    stats socket {FOLDER}/socket
defaults
    mode tcp
    timeout connect 500ms
    timeout check 500ms
    timeout client 1s
    timeout server 1s
backend checked
    server one 127.0.0.1:{port} check inter 100ms rise 1 fall 1
""")
    process = subprocess.Popen(["haproxy", "-db", "-q", "-f", f"{FOLDER}/conf"])
    try:
        deadline = time.monotonic() + 60
        while len(packets) < CHECKS and time.monotonic() < deadline:
            time.sleep(0.2)
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(f"{FOLDER}/socket")
            line.sendall(b"show stat\n")
            names, *rows = b"".join(iter(lambda: line.recv(65536), b"")).decode().splitlines()
        fields = dict(zip(names.lstrip("# ").split(","), next(row for row in rows if ",one," in row).split(",")))
        shapes = {", ".join(shape) for shape in list(packets.values())[:CHECKS]}
        return int(len(packets) >= CHECKS), fields["status"], fields["chkfail"], shapes, queued(port)
    finally:
        process.terminate()
        process.wait()
        end(pid)


found = {"FIN": first_failure(None), "RST": first_failure(RESET)}
for how, number in found.items():
    print(f"connect, close with {how}: check {number} is the first that fails")
enough, status, failed, shapes, waiting = haproxy()
print(f"HAProxy: {'at least' if enough else 'FEWER THAN'} {CHECKS} checks, {failed} failed; status {status}; "
      f"packets of a check: {'; '.join(sorted(shapes))}; {waiting} connections queued")  # fmt: skip
expected = ({"FIN": BACKLOG + 2, "RST": BACKLOG + 2}, 1, "UP", "0", {"SYN, SYN-ACK, RST"}, 0)
seen = (found, enough, status, failed, shapes, waiting)
if seen != expected:
    print(f"differs: {seen} instead of {expected}")
sys.exit(seen != expected)
PYTHON

user=(--map-root-user)
[[ $(id -u) != 0 ]] || user=()
timeout 150 unshare "${user[@]}" --net sh -ec 'ip link set lo up; exec python3 "$1/checks.py" "$1"' sh "$folder"
