#!/bin/bash
# Linux as router (seen with 6.18), three equal next hops, each `fib_multipath_hash_policy` (3 with its default
# fields).
#
# Each of 150 clients sends a UDP datagram of 3,000 bytes, in three fragments, and from the same port one of 100
# bytes.
#
# Expected before it was run: with policy 1 (ports in the hash) the first fragment, which has the ports, goes where
# the small datagram goes, and the others go by addresses alone: datagrams are torn apart.
#
# Seen:
#
#     policy 0: 0 datagrams torn apart; large and small one at different hops: 0
#     policy 1: 0 datagrams torn apart; large and small one at different hops: about 100
#     policy 2: 0 datagrams torn apart; large and small one at different hops: 0
#     policy 3: 0 datagrams torn apart; large and small one at different hops: 0
#
# Linux takes the ports of no fragment, not even of the first. So all of a datagram stay together, and all of them
# leave the way of the client's other packets.
#
# What it means: with policy 1 one sender's large messages (syslog, DNS) arrive at another node than its small ones.
# It does no harm where all nodes choose the same server by addresses alone; where ports are part of the choice, or
# nodes keep state, use policy 0.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root, python3 and iproute2. Some seconds.
set -euo pipefail

# All runs in namespaces of this script's own: they end with it, and nothing is left.
if [[ ${1-} != inside ]]; then
    timeout --signal=KILL 170 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside &
    trap 'kill -KILL -- "-$!" 2>/dev/null || true' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    wait "$!"
    exit
fi
echo "Linux $(uname -r)"

# Packets come in by `in`, and leave by hop1 to hop3, where nobody answers: the neighbours are permanent.
for name in in hop1 hop2 hop3; do
    ip link add name "$name" type veth peer name "$name-peer"
    ip link set dev "$name" address 02:00:00:00:00:01 up
    ip link set dev "$name-peer" up
done
hops=()
for n in 1 2 3; do
    ip address add "10.0.$n.1/24" dev "hop$n"
    ip neighbour add "10.0.$n.2" lladdr 02:00:00:00:00:02 dev "hop$n" nud permanent
    hops+=(nexthop via "10.0.$n.2" dev "hop$n")
done
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.in.rp_filter=0
ip link set lo up
ip route add 192.0.2.1 "${hops[@]}"
ip route add 198.51.100.0/24 dev in

python3 - <<'PYTHON'
import ipaddress
import select
import socket
import struct
import subprocess
import sys

FLOWS = 150
ETHERNET = bytes.fromhex("020000000001 020000000003")
into = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
into.bind(("in-peer", 0))
outputs = []
for n in (1, 2, 3):
    out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    out.bind((f"hop{n}-peer", 0))
    outputs.append(out)


def checksum(data):
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address):
    return ipaddress.ip_address(address).packed


def ipv4(source, target, protocol, payload, ident=1, offset=0, more=False):
    fragment = offset // 8 | (0x2000 if more else 0)
    parts = (0x45, 0, 20 + len(payload), ident, fragment, 64, protocol, 0, packed(source), packed(target))
    head = struct.pack("!BBHHHBBH4s4s", *parts)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def hop(packet):
    """The hop that the packet leaves by."""
    into.send(ETHERNET + b"\x08\x00" + packet)
    for _ in range(100):
        ready = select.select(outputs, [], [], 5)[0]
        assert ready, "the packet was not forwarded"
        for out in ready:
            if out.recv(65536).endswith(packet[20:]):
                return outputs.index(out) + 1
    raise AssertionError("other packets only")


def policy(number):
    subprocess.run(["sysctl", "-qw", f"net.ipv4.fib_multipath_hash_policy={number}"], check=True)


def fragments(source, port, ident):
    datagram = struct.pack("!HHHH", port, 514, 3000, 0) + bytes([ident % 251]) * 2992
    for offset in range(0, 3000, 1400):
        part = datagram[offset : offset + 1400]
        yield ipv4(source, "192.0.2.1", 17, part, ident, offset, more=offset + 1400 < 3000)


wrong = False
for number in range(4):
    policy(number)
    torn = other = 0
    for n in range(FLOWS):
        source, port = f"198.51.100.{n + 1}", 20000 + n
        large = {hop(fragment) for fragment in fragments(source, port, n + 1)}
        small = hop(ipv4(source, "192.0.2.1", 17, struct.pack("!HHHH", port, 514, 100, 0) + bytes([n % 251]) * 92, 1000 + n))
        torn += len(large) > 1
        other += small not in large
    print(f"policy {number}: {torn} datagrams torn apart; large and small one at different hops: {other}")
    if torn or not (70 <= other <= 130 if number == 1 else other == 0):
        wrong = True
if wrong:
    print("expected: none torn apart, 70 to 130 at different hops with policy 1, else none", file=sys.stderr)
sys.exit(wrong)
PYTHON
