#!/bin/bash
# FRR 8.4.4 (Debian 12), bgpd alone, with one route to announce.
#
# A peer (Python, in this file) comes up with IPv4 unicast and AS 65001, has the route, and asks for it again with a
# ROUTE-REFRESH (RFC 2918). What its OPEN offers differs: enhanced route refresh (RFC 7313), graceful restart (RFC 4724).
#
# Expected before it was run: each time the route comes again. With the enhanced one it stands between BoRR and EoRR,
# which say where the answer begins and ends. Graceful restart has nothing to do with it.
#
# Seen:
#
#     route refresh: route
#     route refresh, graceful restart: route
#     route refresh, enhanced: nothing in 10 seconds
#     route refresh, enhanced, graceful restart: BoRR route EoRR
#
# Why: RFC 7313 has no BoRR go out before the End-of-RIB to a peer with graceful restart. FRR keeps back the answer
# before its End-of-RIB to any peer with the enhanced refresh (bgp_route_refresh_receive in bgpd/bgp_packet.c), and it
# sends an End-of-RIB only if the peer has graceful restart. So the answer waits for what never comes. The second case
# has an End-of-RIB, and the third has none.
#
# What it means: a speaker that offers more gets less. ExaBGP 5.0.15 with `route-refresh enable` and no
# `graceful-restart` is such a peer, and `announce route-refresh ipv4 unicast` brings nothing. Whoever filters anew and
# counts on a refresh keeps what it had. To have all again, reset the session, or offer graceful restart.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root, python3 and Debian 12's package frr. A
# minute.
set -euo pipefail

# All runs in namespaces of this script's own, /run included: they end with it, and nothing is left.
if [[ ${1-} != inside ]]; then
    job=
    clean() { [[ -z $job ]] || kill -KILL -- "-$job" 2>/dev/null || true; }
    trap clean EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    timeout --signal=KILL 120 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside &
    job=$!
    wait "$job"
    exit
fi
version=$(dpkg-query -W -f '${Version}' frr 2>/dev/null || true)
[[ $version == 8.4.4-* ]] || { echo "this is about frr 8.4.4; installed: ${version:-none}" >&2; exit 1; }
echo "frr $version"
mount -t tmpfs none /run
mount -t tmpfs none /var/tmp # FRR leaves folders there
mkdir /run/netns /run/frr
cd /run

ip link set lo up
ip netns add a
ip link add name a type veth peer name eth0 netns a
ip address add 10.0.1.1/24 dev a
ip link set dev a up
ip -n a address add 10.0.1.2/24 dev eth0
ip -n a link set eth0 up
cat > frr.conf <<'CONF'
router bgp 65000
 bgp router-id 10.0.1.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 10.0.1.2 remote-as 65001
 neighbor 10.0.1.2 passive
 address-family ipv4 unicast
  network 198.51.100.0/24
CONF
chown frr:frr /run /run/frr frr.conf

cat > peer.py <<'PYTHON'
import socket
import struct
import sys
import time

ROUTE = bytes([24, 198, 51, 100])
QUIET = 10  # seconds in which an answer that comes would have come


def message(kind, body=b""):
    return b"\xff" * 16 + struct.pack("!HB", 19 + len(body), kind) + body


def connected():
    end = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("10.0.1.1", 179), timeout=20)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def messages(session):
    """Each as its kind and its body."""
    buffer = b""
    while data := session.recv(65536):
        buffer += data
        while len(buffer) >= 19 and len(buffer) >= (length := struct.unpack_from("!H", buffer, 16)[0]):
            yield buffer[18], buffer[19:length]
            buffer = buffer[length:]
    sys.exit("the session has ended")


def answer(*more):
    capabilities = bytes.fromhex("010400010001" "41040000fde9" "0200") + b"".join(map(bytes.fromhex, more))
    hello = struct.pack("!BHH4sB", 4, 65001, 180, bytes([10, 0, 1, 2]), 2 + len(capabilities))
    seen, asked = [], False
    with connected() as session:
        session.sendall(message(1, hello + bytes([2, len(capabilities)]) + capabilities))
        try:
            for kind, body in messages(session):
                if kind == 1:
                    session.sendall(message(4) + message(2, bytes(4)))  # an End-of-RIB: no route
                elif kind == 2 and body.endswith(ROUTE):
                    if asked:
                        seen.append("route")
                    else:
                        time.sleep(2)  # all that is sent at the start has been sent
                        session.sendall(message(5, bytes.fromhex("00010001")))
                        session.settimeout(QUIET)
                        asked = True
                elif kind == 5:
                    seen.append(("asks", "BoRR", "EoRR")[body[2]])
                elif kind == 3:
                    sys.exit(f"NOTIFICATION {body.hex()}")
        except TimeoutError:
            if not asked:
                sys.exit("the route has not come")
    return " ".join(seen) or f"nothing in {QUIET} seconds"


ENHANCED, GRACEFUL = "4600", "400200b4"
differs = False
for words, more, expected in (
    ("route refresh", (), "route"),
    ("route refresh, graceful restart", (GRACEFUL,), "route"),
    ("route refresh, enhanced", (ENHANCED,), f"nothing in {QUIET} seconds"),
    ("route refresh, enhanced, graceful restart", (ENHANCED, GRACEFUL), "BoRR route EoRR"),
):
    told = answer(*more)
    print(f"{words}: {told}", flush=True)
    if told != expected:
        differs = True
        print(f"expected: {expected}", file=sys.stderr)
sys.exit(differs)
PYTHON

/usr/lib/frr/bgpd -f frr.conf -i frr.pid -Z -P 0 --vty_socket /run/frr --log stdout > frr.log 2>&1 &
daemon=$!
status=0
ip netns exec a python3 peer.py || status=1
kill "$daemon"
wait "$daemon" || true
exit "$status"
