#!/bin/bash
# ExaBGP 5.0.15; FRR 8.4.4, BIRD 2.0.12, GoBGP 3.10.0, OpenBGPD 7.7 (all Debian 12).
#
# Both ends have GTSM (RFC 5082): what they send has a TTL of 255, and what comes with less is dropped. One of them is
# passive, so the other dials. First ExaBGP is passive (`incoming-ttl 255`, `outgoing-ttl 255`), then each of the
# routers, with BIRD dialling. What TTL has the SYN-ACK, what has the OPEN, and is there a session?
#
# Expected before it was run: 255 everywhere and a session each time, for all five say that they can do it, and ExaBGP
# 5.0.15 has code for the TTL of connections that it accepts.
#
# Seen:
#
#     frr dials exabgp: SYN-ACK 64, no session
#     bird dials exabgp: SYN-ACK 64, OPEN 255, up
#     gobgp dials exabgp: SYN-ACK 64, no session
#     openbgpd dials exabgp: SYN-ACK 64, no session
#     bird dials frr: SYN-ACK 255, OPEN 255, up
#     bird dials bird: SYN-ACK 255, OPEN 255, up
#     bird dials gobgp: SYN-ACK 255, OPEN 255, up
#     bird dials openbgpd: SYN-ACK 255, OPEN 255, up
#     frr dials exabgp, route with hoplimit 255: SYN-ACK 255, OPEN 255, up
#
# Why: the kernel answers a SYN with the TTL of the listening socket, before any program hears of it. `_listen` in
# exabgp/reactor/listener.py gives that socket the least TTL it takes, and `set_accepted_ttl` the TTL to send with to
# the connection afterwards. FRR, GoBGP and OpenBGPD drop what comes with less before they connect, so they drop the
# SYN-ACK; BIRD does so once it is connected.
#
# What it means: `passive true` and GTSM exclude each other for most routers, and a listening ExaBGP is found by none
# of them: sessions come up only when ExaBGP dials. `ip route replace … hoplimit 255` towards the router cures it.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and Debian 12's packages frr, bird2,
# gobgpd and openbgpd, python3 with venv and PyPI. A minute.
set -euo pipefail

# All runs in namespaces of this script's own, /run included: they end with it, and nothing is left.
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
    timeout 60 "$folder/venv/bin/pip" --quiet --disable-pip-version-check install exabgp==5.0.15
    timeout --signal=KILL 150 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside "$folder" &
    job=$!
    wait "$job"
    exit
fi
exabgp=$2/venv/bin/exabgp
for wanted in frr=8.4.4 bird2=2.0.12 gobgpd=3.10.0 openbgpd=7.7; do
    version=$(dpkg-query -W -f '${Version}' "${wanted%=*}" 2>/dev/null || true)
    [[ $version == "${wanted#*=}"-* ]] || { echo "this is about $wanted; installed: ${version:-none}" >&2; exit 1; }
    echo "${wanted%=*} $version"
done
mount -t tmpfs none /run
mount -t tmpfs none /var/tmp # FRR leaves folders there
mkdir /run/netns /run/openbgpd /run/frr
cd /run
export PATH=$PATH:/usr/sbin

until_so() { # WHAT COMMAND...: waits until the command succeeds, half a minute at most
    local what=$1 end=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "not in 30 seconds: $what" >&2; tail -n 5 ./*.log >&2; exit 1; }
        sleep 0.1
    done
}

# The routers are here, at 10.0.1.1. The node is there, at 10.0.1.2: ExaBGP, or BIRD that dials.
ip link set lo up
ip netns add node
ip link add name node type veth peer name eth0 netns node
ip address add 10.0.1.1/24 dev node
ip link set dev node up
ip -n node address add 10.0.1.2/24 dev eth0
ip -n node link set eth0 up

configure() { # WHETHER: the routers are passive
    local frr='' bird='' gobgp=false openbgpd=''
    ! "$1" || { frr='neighbor 10.0.1.2 passive' bird='passive on;' gobgp=true openbgpd=passive; }
    cat > frr.conf <<CONF
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
 neighbor 10.0.1.2 ttl-security hops 1
 neighbor 10.0.1.2 timers connect 2
 $frr
CONF
    cat > bird.conf <<CONF
router id 10.0.0.1;
protocol device {}
protocol bgp a {
    local as 65000; neighbor 10.0.1.2 as 65001; ttl security on; connect delay time 1; connect retry time 2; $bird
    ipv4 { import all; export none; };
}
CONF
    cat > gobgp.conf <<CONF
[global.config]
as = 65000
router-id = "10.0.0.1"
[[neighbors]]
[neighbors.config]
neighbor-address = "10.0.1.2"
peer-as = 65001
[neighbors.transport.config]
passive-mode = $gobgp
[neighbors.ttl-security.config]
enabled = true
ttl-min = 255
CONF
    cat > openbgpd.conf <<CONF
AS 65000
router-id 10.0.0.1
socket "/run/openbgpd.ctl"
neighbor 10.0.1.2 {
    remote-as 65001
    ttl-security yes
    $openbgpd
}
allow from any
CONF
    chmod 600 openbgpd.conf
    chown frr:frr /run /run/frr frr.conf
}
cat > exabgp.conf <<'CONF'
neighbor 10.0.1.1 {
    router-id 10.0.1.2;
    local-address 10.0.1.2;
    local-as 65001;
    peer-as 65000;
    passive true;
    incoming-ttl 255;
    outgoing-ttl 255;
    static {
        route 192.0.2.1/32 next-hop self;
    }
}
CONF
cat > dials.conf <<'CONF'
router id 10.0.1.2;
protocol device {}
protocol static { ipv4; route 192.0.2.1/32 blackhole; }
protocol bgp r {
    local as 65001; neighbor 10.0.1.1 as 65000; ttl security on; connect delay time 1; connect retry time 2;
    ipv4 { import all; export all; };
}
CONF

# Writes down, of each SYN-ACK and each OPEN that an interface is sent, the source, which it is, and the TTL.
cat > ttls.py <<'PYTHON'
import socket
import sys

link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
link.bind((sys.argv[1], 0))
print("ready", flush=True)
while True:
    packet, (_, _, kind, *_) = link.recvfrom(65536)
    packet = packet[: int.from_bytes(packet[2:4], "big")]
    if kind == socket.PACKET_OUTGOING or packet[9] != socket.IPPROTO_TCP:
        continue
    segment = packet[(packet[0] & 15) * 4 :]
    data = segment[(segment[12] >> 4) * 4 :]
    if segment[13] & 0x12 == 0x12:
        print("SYN-ACK", packet[8], flush=True)
    elif data[:16] == b"\xff" * 16 and data[18] == 1:
        print("OPEN", packet[8], flush=True)
PYTHON

start() {
    case $1 in
    frr) /usr/lib/frr/bgpd -f frr.conf -i frr.pid -Z -P 0 --vty_socket /run/frr --log stdout > frr.log 2>&1 & ;;
    bird) bird -f -c bird.conf -s bird.ctl -P bird.pid > bird.log 2>&1 & ;;
    gobgp) gobgpd -f gobgp.conf --pprof-disable --api-hosts 127.0.0.1:50051 > gobgp.log 2>&1 & ;;
    openbgpd) bgpd -d -f openbgpd.conf > openbgpd.log 2>&1 & ;;
    esac
}
table() { # ROUTER: what it says of the path
    case $1 in
    frr) vtysh --vty_socket /run/frr -c 'show bgp ipv4 unicast 192.0.2.1/32' ;;
    bird) birdc -s bird.ctl show route all 192.0.2.1/32 ;;
    gobgp) gobgp global rib ;;
    openbgpd) bgpctl -s openbgpd.ctl show rib detail 192.0.2.1/32 ;;
    esac
}
up() { table "$1" 2>/dev/null | grep -q 65001; }
listens() { # NAMESPACE: whether somebody has port 179 there
    $1 ss -Hltn 'sport = 179' | grep -q .
}
decided() { # ROUTER: there is a session, or five answers to its SYNs have not made one
    up "$1" || (($(grep -c SYN-ACK ttls.log) >= 5))
}
is_ready() { grep -q ready ttls.log; }

status=0
here=
there='ip netns exec node'
try() { # WORDS ROUTER EXPECTED: who is passive depends on the configuration
    local words=$1 router=$2 expected=$3 pids=() where=$here link=node seen
    if [[ $words == bird\ dials\ * && $words != *exabgp* ]]; then
        where=$there link=eth0
        start "$router"
        pids+=("$!")
        until_so "$router listens" listens "$here"
    else
        ip netns exec node env exabgp.daemon.user=root exabgp.api.cli=false exabgp_tcp_bind=10.0.1.2 \
            "$exabgp" exabgp.conf > exabgp.log 2>&1 &
        pids+=("$!")
        until_so "ExaBGP listens" listens "$there"
    fi
    $where python3 ttls.py "$link" > ttls.log 2>&1 &
    pids+=("$!")
    until_so "packets are seen" is_ready
    if [[ -n $where ]]; then
        ip netns exec node bird -f -c dials.conf -s dials.ctl -P dials.pid > dials.log 2>&1 &
    else
        start "$router"
    fi
    pids+=("$!")
    until_so "$words: a session or none" decided "$router"
    seen=$(grep -v ready ttls.log | sort -ur | paste -sd, | sed 's/,/, /g')
    if up "$router"; then seen+=", up"; else seen+=", no session"; fi
    echo "$words: $seen"
    [[ $seen == "$expected" ]] || { echo "expected: $expected" >&2; status=1; }
    kill "${pids[@]}"
    wait "${pids[@]}" || true
}
configure false
try "frr dials exabgp" frr "SYN-ACK 64, no session"
try "bird dials exabgp" bird "SYN-ACK 64, OPEN 255, up"
try "gobgp dials exabgp" gobgp "SYN-ACK 64, no session"
try "openbgpd dials exabgp" openbgpd "SYN-ACK 64, no session"
configure true
for router in frr bird gobgp openbgpd; do
    try "bird dials $router" "$router" "SYN-ACK 255, OPEN 255, up"
done
configure false
ip -n node route replace 10.0.1.0/24 dev eth0 src 10.0.1.2 hoplimit 255
try "frr dials exabgp, route with hoplimit 255" frr "SYN-ACK 255, OPEN 255, up"
exit "$status"
