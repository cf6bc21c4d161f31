#!/bin/bash
# Linux (seen with 6.18), nginx 1.22.1 (Debian 12) with `listen 8080 deferred` (TCP_DEFER_ACCEPT, which Apache httpd has by
# default), and a second port without it.
#
# A client connects to each port, says nothing, and its connections are ESTABLISHED. Half a second later nginx is killed with
# SIGKILL. What do the two connections say, at once and after ten seconds?
#
# Expected before it was run: a reset at once for both, for the kernel ends the connections of a process that dies, also those
# that wait in the queue of a listening socket.
#
# Seen:
#
#     plain: ended after 0 s
#     deferred: ESTAB, nothing after 10 s
#     deferred, with a byte sent then: ended
#
# While the accept is put off (here for a second; httpd: 30 s) the server's kernel has no connection: it has ignored the ACK and
# keeps the half-open one of the SYN. That is dropped without a word when the listening socket goes. The client's end stands for
# ever, unless it sends something or has a keepalive.
#
# What it means: a connection that is left open to notice the death of a server is blind for as long as the accept is put off,
# each time after it was made. Whoever waits for such a server to speak first waits for ever when it is killed.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root, nginx, python3 and iproute2. Some 15 seconds.
set -euo pipefail

# All runs in namespaces of this script's own: they end with it, and nothing is left.
if [[ ${1-} != inside ]]; then
    timeout --signal=KILL 60 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside &
    trap 'kill -KILL -- "-$!" 2>/dev/null || true' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    wait "$!"
    exit
fi
echo "Linux $(uname -r), $(nginx -v 2>&1)"
ip link set lo up
mount -t tmpfs none /mnt
cat > /mnt/nginx.conf <<'CONF'
daemon off;
master_process off;
pid /mnt/nginx.pid;
error_log /mnt/error.log;
events {}
http {
    access_log off;
    client_body_temp_path /mnt/body;
    proxy_temp_path /mnt/proxy;
    fastcgi_temp_path /mnt/fastcgi;
    uwsgi_temp_path /mnt/uwsgi;
    scgi_temp_path /mnt/scgi;
    server { listen 127.0.0.1:8080 deferred; }
    server { listen 127.0.0.1:8081; }
}
CONF

python3 - <<'PYTHON'
import select
import socket
import subprocess
import sys
import time


def connected(port):
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise SystemExit("nginx does not listen")


def state(sock):
    told = subprocess.run(
        ["ss", "-Htn", f"sport = :{sock.getsockname()[1]}"], check=True, capture_output=True, text=True
    )
    return told.stdout.split()[0]


server = subprocess.Popen(["nginx", "-p", "/mnt", "-c", "/mnt/nginx.conf"], stderr=subprocess.DEVNULL)
connected(8081).close()
connected(8080).close()
plain, deferred = connected(8081), connected(8080)
time.sleep(0.5)
server.kill()
server.wait()
seen = []
ended = bool(select.select([plain], [], [], 1)[0])
seen.append(f"plain: {'ended after 0 s' if ended else 'nothing'}")
ended = bool(select.select([deferred], [], [], 10)[0])
seen.append(f"deferred: {'ended' if ended else state(deferred) + ', nothing after 10 s'}")
deferred.send(b"x")
ended = bool(select.select([deferred], [], [], 5)[0])
seen.append(f"deferred, with a byte sent then: {'ended' if ended else 'nothing'}")
print("\n".join(seen))
expected = [
    "plain: ended after 0 s",
    "deferred: ESTAB, nothing after 10 s",
    "deferred, with a byte sent then: ended",
]
if seen != expected:
    print(f"expected: {expected}", file=sys.stderr)
sys.exit(seen != expected)
PYTHON
