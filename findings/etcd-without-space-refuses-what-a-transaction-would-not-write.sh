#!/bin/bash
# etcd 3.4.23 (Debian 12), one member, spoken to by its own HTTP gateway (/v3).
#
# Its database is full (`--quota-backend-bytes`): the alarm NOSPACE stands. Before that a client has taken a lease and
# written a key under it.
#
# Expected before it was run: what writes is refused, what reads or deletes is not; so a transaction whose comparison
# fails, and which then only reads, is done. The lease can be kept or not, like everything else that changes something.
# `alarm` with the action DEACTIVATE ends the alarm, or says why it does not.
#
# Seen:
#
#     the lease is kept alive: 200
#     a new lease: 429, database space exceeded
#     a transaction that only deletes: 200
#     a transaction that compares, fails and only reads, and would have written else: 429, database space exceeded
#     the same without the branch that writes: 200
#     room is made (compaction, defragmentation); a new lease: 429, database space exceeded
#     DEACTIVATE NOSPACE and no member: 200; a new lease: 429, database space exceeded
#     DEACTIVATE NOSPACE with the number of the member: 200; a new lease: 200
#
# Why: the request is priced before anything is compared, every branch of it. The alarm is kept by member, and an
# alarm of member 0 is not there to end, which is no error.
#
# What it means: programs that register under a lease go on while they run, and one that is started anew finds no place:
# a fleet shrinks with each restart, and nothing else is to be seen. Whoever looks by a transaction ("take it if it is
# free, else tell me who has it") sees nothing at all any more: ask by a plain range. Room alone ends nothing; a program
# that disarms by the gateway must give `memberID`, and look at the list of alarms afterwards (`etcdctl alarm disarm`
# does give it).
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs Debian 12's packages etcd-server and python3; only
# loopback, no root. Ten seconds.
set -euo pipefail

version=$(dpkg-query -W -f '${Version}' etcd-server 2>/dev/null || true)
[[ $version == 3.4.23-* ]] || { echo "this is about etcd-server 3.4.23; installed: ${version:-none}" >&2; exit 1; }
echo "etcd $version"
folder=$(mktemp -d)
child=
clean() {
    [[ -z $child ]] || { kill "$child" 2>/dev/null || true; wait "$child" 2>/dev/null || true; }
    rm -rf "$folder"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
cat > "$folder/try.py" <<'PYTHON'
import base64
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

FOLDER = sys.argv[1]
FULL = "429, database space exceeded"
QUOTA = 2_000_000


def free():
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


client, peer = (f"http://127.0.0.1:{port}" for port in free())


def call(path, **body):
    """Status and answer."""
    request = urllib.request.Request(f"{client}/v3/{path}", json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return "200", json.loads(answer.read())
    except urllib.error.HTTPError as error:
        told = json.loads(error.read()).get("error", "")
        return f"{error.code}, {told.rpartition(': ')[2]}", {}


def pack(text):
    return base64.b64encode(text.encode()).decode()


def exists(key):
    return {"key": pack(key), "result": "GREATER", "target": "CREATE", "create_revision": "0"}


def write(key):
    return {"requestPut": {"key": pack(key), "value": pack("1")}}


def read(key):
    return {"requestRange": {"key": pack(key)}}


def main():
    deadline = time.monotonic() + 30
    while True:
        try:
            if call("maintenance/status")[1].get("leader"):
                break
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise RuntimeError("etcd does not come up")
        time.sleep(0.1)
    lease = call("lease/grant", TTL="60")[1]["ID"]
    call("kv/put", key=pack("mine"), value=pack("1"), lease=lease)
    call("kv/put", key=pack("old"), value=pack("1"))
    for number in range(100):
        if call("kv/put", key=pack(f"filling/{number}"), value=pack("x" * 100_000))[0] == FULL:
            break
    else:
        raise RuntimeError("it does not fill")

    seen = []

    def tell(words, *calls):
        seen.append(f"{words}: {'; a new lease: '.join(status for status, _ in calls)}")
        print(seen[-1], flush=True)

    def new_lease():
        return call("lease/grant", TTL="60")

    tell("the lease is kept alive", call("lease/keepalive", ID=lease))
    tell("a new lease", new_lease())
    tell("a transaction that only deletes", call("kv/txn", compare=[exists("old")], success=[{"requestDeleteRange": {"key": pack("old")}}]))
    looks = {"compare": [exists("nobody has this")], "failure": [read("mine")]}
    words = "a transaction that compares, fails and only reads, and would have written else"
    tell(words, call("kv/txn", success=[write("nobody has this")], **looks))
    tell("the same without the branch that writes", call("kv/txn", **looks))

    _, answer = call("kv/deleterange", key=pack("filling/"), range_end=pack("filling0"))
    call("kv/compaction", revision=answer["header"]["revision"], physical=True)
    call("maintenance/defragment")
    if int(call("maintenance/status")[1]["dbSize"]) > QUOTA / 4:
        raise RuntimeError("no room was made")
    tell("room is made (compaction, defragmentation); a new lease", new_lease())
    off = {"action": "DEACTIVATE", "alarm": "NOSPACE"}
    tell("DEACTIVATE NOSPACE and no member", call("maintenance/alarm", **off), new_lease())
    member = call("maintenance/status")[1]["header"]["member_id"]
    tell("DEACTIVATE NOSPACE with the number of the member", call("maintenance/alarm", memberID=member, **off), new_lease())

    expected = [
        "the lease is kept alive: 200",
        f"a new lease: {FULL}",
        "a transaction that only deletes: 200",
        f"a transaction that compares, fails and only reads, and would have written else: {FULL}",
        "the same without the branch that writes: 200",
        f"room is made (compaction, defragmentation); a new lease: {FULL}",
        f"DEACTIVATE NOSPACE and no member: 200; a new lease: {FULL}",
        "DEACTIVATE NOSPACE with the number of the member: 200; a new lease: 200",
    ]
    for words, wanted in zip(seen, expected, strict=True):
        if words != wanted:
            print(f"differs; expected: {wanted}")
    return seen != expected


signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with open(f"{FOLDER}/log", "w") as log:
    etcd = subprocess.Popen(
        [
            *("etcd", "--data-dir", f"{FOLDER}/data", "--quota-backend-bytes", str(QUOTA)),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
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
timeout 120 python3 "$folder/try.py" "$folder" &
child=$!
status=0
wait "$child" || status=$?
child=
exit "$((status != 0))"
