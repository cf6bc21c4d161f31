#!/bin/bash
# aetcd 1.0.0 and etcd3gw 2.7.0 (PyPI), with etcd 3.4.23 (Debian 12): `with client.lock(NAME)`.
#
# One client is inside its `with`, and stays there. A second one, another connection, comes to its own `with` of the
# same name. Then a third lock with a life of 2 seconds is held for longer than that, and refreshed once by hand.
#
# Expected before it was run: the second waits until the first has left, or its `with` raises. Nobody is inside with a
# lock that he has not. And to refresh what has run out raises.
#
# Seen:
#
#     etcd3gw: the second is inside at once; the first has the lock, the second has not
#     etcd3gw: 4 seconds inside with a life of 2: not told; refreshed: -1, no exception; another one has the lock
#     aetcd: the second is inside after 10 seconds; the first has the lock, the second has not
#     aetcd: 4 seconds inside with a life of 2: not told; refreshed: TTL 0, no exception; another one has the lock
#
# Why: `acquire()` answers whether it has got the lock, False at once in etcd3gw and after its 10 seconds in aetcd, and
# `__enter__` of both throws the answer away. `refresh()` hands on what etcd has said of the lease, and etcd says 0.
#
# What it means: the usual spelling of a lock excludes nobody. Call `acquire()` and look at its answer, keep the lease
# alive yourself, and look at what the refresh returns; or write the transaction yourself: it is three lines.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs Debian 12's package etcd-server, python3 with venv
# and PyPI; only loopback, no root. A minute.
set -euo pipefail

version=$(dpkg-query -W -f '${Version}' etcd-server 2>/dev/null || true)
[[ $version == 3.4.23-* ]] || { echo "this is about etcd-server 3.4.23; installed: ${version:-none}" >&2; exit 1; }
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
import asyncio
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version

import aetcd
from etcd3gw.client import Etcd3Client

FOLDER = sys.argv[1]


def free():
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


PORT, PEER = free()


def who(first, second):
    return f"the first {'has' if first else 'has not'} the lock, the second {'has' if second else 'has not'}"


def after(seconds):
    return "at once" if seconds < 2 else f"after {seconds:.0f} seconds"


def of_etcd3gw():
    one, two = Etcd3Client(port=PORT), Etcd3Client(port=PORT)
    with one.lock("a", ttl=60) as first:
        start = time.monotonic()
        with two.lock("a", ttl=60) as second:
            yield f"the second is inside {after(time.monotonic() - start)}; {who(first.is_acquired(), second.is_acquired())}"
    with one.lock("b", ttl=2) as short:
        time.sleep(4)
        with two.lock("b", ttl=60) as other:
            held = "another one has the lock" if other.is_acquired() else "nobody else has the lock"
            yield f"4 seconds inside with a life of 2: not told; refreshed: {short.refresh()}, no exception; {held}"


async def of_aetcd():
    seen = []
    async with aetcd.Client(port=PORT) as one, aetcd.Client(port=PORT) as two:
        async with one.lock(b"c", ttl=60) as first:
            start = time.monotonic()
            async with two.lock(b"c", ttl=60) as second:
                words = who(await first.is_acquired(), await second.is_acquired())
                seen.append(f"the second is inside {after(time.monotonic() - start)}; {words}")
        async with one.lock(b"d", ttl=2) as short:
            await asyncio.sleep(4)
            async with two.lock(b"d", ttl=60) as other:
                held = "another one has the lock" if await other.is_acquired() else "nobody else has the lock"
                answer = await short.refresh()
                words = f"refreshed: TTL {answer.TTL}, no exception; {held}"
                seen.append(f"4 seconds inside with a life of 2: not told; {words}")
    return seen


def main():
    deadline = time.monotonic() + 30
    while True:
        try:
            Etcd3Client(port=PORT, timeout=5).status()
            break
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    seen = [f"etcd3gw: {one}" for one in of_etcd3gw()] + [f"aetcd: {one}" for one in asyncio.run(of_aetcd())]
    rest = "4 seconds inside with a life of 2: not told; refreshed:"
    expected = [
        "etcd3gw: the second is inside at once; the first has the lock, the second has not",
        f"etcd3gw: {rest} -1, no exception; another one has the lock",
        "aetcd: the second is inside after 10 seconds; the first has the lock, the second has not",
        f"aetcd: {rest} TTL 0, no exception; another one has the lock",
    ]
    for words, wanted in zip(seen, expected, strict=True):
        print(words)
        if words != wanted:
            print(f"differs; expected: {wanted}")
    return seen != expected


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print(", ".join(f"{name} {version(name)}" for name in ("aetcd", "etcd3gw", "grpcio")), flush=True)
client, peer = f"http://127.0.0.1:{PORT}", f"http://127.0.0.1:{PEER}"
with open(f"{FOLDER}/log", "w") as log:
    etcd = subprocess.Popen(
        [
            *("etcd", "--data-dir", f"{FOLDER}/data", "--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"),
        ],
        stdout=log,
        stderr=log,
    )  # fmt: skip
try:
    failed = main()
finally:
    etcd.kill()
    etcd.wait()
sys.exit(failed)
PYTHON
echo "etcd $version"
run python3 -m venv "$folder/venv"
run "$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    aetcd==1.0.0 etcd3gw==2.7.0 grpcio==1.85.3 protobuf==7.36.2 2>&1
run "$folder/venv/bin/python" "$folder/try.py" "$folder" || exit 1
