#!/bin/bash
# ExaBGP 5.0.15 and 4.2.25 (PyPI), with their own healthcheck as a process, `--interval 0`.
#
# The help says: "a value of 0 will have the script exit after the first announcement". The check (`true`) passes. A
# router, which this script plays, takes the session; its hold time is 180 s.
#
# Expected before it was run: the script announces the route and exits, ExaBGP does not care, and the route stays: a
# static announcement that was checked once. (Or: it is started again each time, and goes on announcing.)
#
# Seen, with each of the two:
#
#     the healthcheck was started: 5 times or more
#     ExaBGP has ended, with exit status 0; its session ended with it
#     in the log: Too many death
#
# Why: a process that exits is started anew, and one that has died five times within a minute ends ExaBGP: "this is
# fatal" is the default for every process. To die as it was told to is no exception. The status is 0, as of an orderly
# end.
#
# What it means: all routes of this ExaBGP are gone some seconds after its start, those of other processes too. A
# supervisor that restarts on failure (`Restart=on-failure`) sees a success and leaves it dead; one that always restarts
# makes the routes come and go for ever. Use an interval.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs python3 with venv and PyPI; only loopback, no
# root. Half a minute.
set -euo pipefail

folder=$(mktemp -d)
child=
clean() {
    [[ -z $child ]] || { kill "$child" 2>/dev/null || true; wait "$child" 2>/dev/null || true; }
    rm -rf "$folder"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
run() {
    timeout 80 "$@" &
    child=$!
    local status=0
    wait "$child" || status=$?
    child=
    return "$status"
}
cat > "$folder/try.py" <<'PYTHON'
import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
import threading

FOLDER, VERSION = sys.argv[1:]
CAPABILITIES = bytes.fromhex("010400010001" "41040000fde8")  # IPv4, AS 65000 in four octets
LAST = 60  # seconds until ExaBGP must have ended


def message(kind, body=b""):
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


class Router:
    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.has_route, self.ended = threading.Event(), threading.Event()
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
                elif kind == 2 and bytes([32, 192, 0, 2, 1]) in body:
                    self.has_route.set()
        self.ended.set()


def main():
    router = Router()
    # It says each start of the script, and is the script.
    with open(f"{FOLDER}/starts", "w"), open(f"{FOLDER}/check", "w") as script:
        script.write(
            f'#!/bin/sh\necho started >> {FOLDER}/starts\n'
            f'exec {sys.executable} -m exabgp healthcheck --no-syslog --no-ip-setup --interval 0 --rise 1'
            ' --ip 192.0.2.1/32 --command true\n'
        )
    os.chmod(f"{FOLDER}/check", 0o755)
    with open(f"{FOLDER}/exabgp.conf", "w") as conf:
        conf.write(f"""
process check {{
    run {FOLDER}/check;
    encoder text;
}}
neighbor 127.0.0.1 {{
    router-id 192.0.2.253;
    local-address 127.0.0.1;
    local-as 65001;
    peer-as 65000;
    family {{
        ipv4 unicast;
    }}
    api {{
        processes [ check ];
    }}
}}
""")
    environment = os.environ | {
        "exabgp_tcp_port": str(router.port),
        "exabgp_daemon_user": pwd.getpwuid(os.getuid()).pw_name,
        "exabgp_api_cli": "false",
        "exabgp_log_level": "INFO",
    }
    with open(f"{FOLDER}/log", "w") as log:
        exabgp = subprocess.Popen(
            [f"{os.path.dirname(sys.executable)}/exabgp", f"{FOLDER}/exabgp.conf"],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        ended = f"ExaBGP has ended, with exit status {exabgp.wait(LAST)}"
    except subprocess.TimeoutExpired:
        ended = f"ExaBGP runs after {LAST} s"
    finally:
        exabgp.kill()
        exabgp.wait()
    with open(f"{FOLDER}/log") as log:
        words = "Too many death" if "Too many death" in log.read() else "nothing of it"
    with open(f"{FOLDER}/starts") as starts:
        number = len(starts.readlines())
    seen = [
        f"the healthcheck was started: {'5 times or more' if number >= 5 else number}",
        f"{ended}; {'its session ended with it' if router.ended.wait(5) else 'its session stays'}",
        f"in the log: {words}",
    ]
    expected = [
        "the healthcheck was started: 5 times or more",
        "ExaBGP has ended, with exit status 0; its session ended with it",
        "in the log: Too many death",
    ]
    for words, wanted in zip(seen, expected, strict=True):
        print(f"ExaBGP {VERSION}: {words}")
        if words != wanted:
            print(f"differs; expected: {wanted}")
    return seen != expected


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
sys.exit(main())
PYTHON
failed=0
for version in 5.0.15 4.2.25; do
    run python3 -m venv "$folder/$version"
    run "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "exabgp==$version" setuptools==80.9.0
    run "$folder/$version/bin/python" "$folder/try.py" "$folder" "$version" || failed=1
done
exit "$failed"
