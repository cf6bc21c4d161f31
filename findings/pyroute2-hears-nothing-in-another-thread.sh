#!/bin/bash
# pyroute2 0.9.7 (PyPI): an IPRoute object that is bound, to hear of changed addresses, in one thread and read in another.
#
# Expected before it was run: the object is one socket. Whoever reads from it gets what has come, in whatever thread; a
# lock is needed at most. And `bind()` works whenever it is called.
#
# Seen, of five addresses that were added:
#
#     bound and read in one thread: events
#     bound in one thread, read in another: nothing, and no exception
#     the same, and the reading thread makes a request first: NetlinkError 104 (Connection reset by peer)
#     bound and read in the other thread: events
#     bound after a request: KeyError no free address available
#
# Why: since 0.9 such an object is a front for an asyncio one, and has a socket of its own for each thread that uses it
# (`threading.local`). `bind()` binds the calling thread's; the others are never told. A socket that has made a request
# is bound already, to an address that a second `bind()` looks for in vain.
#
# What it means: a listener that is set up by the main thread and read by a worker, as was usual until 0.8, is deaf, and
# looks like a quiet host. Bind in the thread that reads, on an object that has made no request, and see one event of
# your own before you rely on it.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root, python3 with venv, PyPI and iproute2. Half a
# minute.
set -euo pipefail

# All runs in a namespace of this script's own: it ends with it, and nothing is left.
if [[ ${1-} != inside ]]; then
    folder=$(mktemp -d)
    job=
    clean() {
        [[ -z $job ]] || kill -KILL -- "-$job" 2>/dev/null || true
        rm -rf "$folder"
    }
    trap clean EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    python3 -m venv "$folder/venv"
    timeout 60 "$folder/venv/bin/pip" --quiet --disable-pip-version-check install pyroute2==0.9.7
    timeout --signal=KILL 100 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside "$folder" &
    job=$!
    wait "$job"
    exit
fi
ip link set lo up
"$2/venv/bin/python" - <<'PYTHON'
import os
import platform
import subprocess
import sys
import threading
from importlib.metadata import version

from pyroute2 import IPRoute

EVENTS, LAST = 5, 20.0  # addresses that are added; seconds for their events
added = 0


def add():
    global added
    added += 1
    subprocess.run(["ip", "address", "add", f"10.9.{added // 200}.{added % 200 + 1}/32", "dev", "lo"], check=True)


def read(ipr, heard, ended):
    try:
        while heard.count("RTM_NEWADDR") < EVENTS:
            heard += [message["event"] for message in ipr.get()]
    except Exception as error:
        heard.append(f"{type(error).__name__} {error.args[0]} ({os.strerror(error.args[0])})")
    ended.set()


def listen(bound_by, request):
    """What a worker reads that is given the object."""
    ipr, heard, ready, ended = IPRoute(), [], threading.Event(), threading.Event()

    def work():
        if bound_by == "worker":
            ipr.bind()
        if request:
            ipr.get_links()
        ready.set()
        read(ipr, heard, ended)

    if bound_by == "main":
        ipr.bind()
    threading.Thread(target=work, daemon=True).start()
    ready.wait(LAST)
    witness = IPRoute()  # hears of each address for certain: one thread
    witness.bind()
    for _ in range(EVENTS):
        add()
    read(witness, [], threading.Event())
    ended.wait(3 if bound_by == "main" else LAST)
    if "RTM_NEWADDR" in heard:
        return "events"
    return heard[-1] if heard else "nothing, and no exception"


def one_thread():
    ipr, heard = IPRoute(), []
    ipr.bind()
    for _ in range(EVENTS):
        add()
    read(ipr, heard, threading.Event())
    return "events" if "RTM_NEWADDR" in heard else str(heard)


def after_a_request():
    ipr = IPRoute()
    ipr.get_links()
    try:
        ipr.bind()
    except Exception as error:
        return f"{type(error).__name__} {error.args[0]}"
    return "bound"


print(f"pyroute2 {version('pyroute2')}, Python {platform.python_version()}, Linux {platform.release()}")
differs = False
for words, look, expected in (
    ("bound and read in one thread", one_thread, "events"),
    ("bound in one thread, read in another", lambda: listen("main", request=False), "nothing, and no exception"),
    (
        "the same, and the reading thread makes a request first",
        lambda: listen("main", request=True),
        "NetlinkError 104 (Connection reset by peer)",
    ),
    ("bound and read in the other thread", lambda: listen("worker", request=False), "events"),
    ("bound after a request", after_a_request, "KeyError no free address available"),
):  # fmt: skip
    seen = look()
    print(f"{words}: {seen}", flush=True)
    if seen != expected:
        differs = True
        print(f"differs; expected: {expected}")
sys.stdout.flush()
os._exit(differs)
PYTHON
