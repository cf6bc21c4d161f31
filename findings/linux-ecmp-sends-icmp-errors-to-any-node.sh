#!/bin/bash
# Linux as router (seen with 6.18), three equal next hops to a service address, each `fib_multipath_hash_policy` (3
# with its default fields).
#
# For each of 150 TCP flows a router on the client's way sends "fragmentation needed" (IPv6: "packet too big") to the
# service address. It quotes the packet of the server that was too large. Does it leave by the hop of its flow?
#
# Expected before it was run: yes, with every policy: the kernel looks into ICMP errors for the sake of ECMP, and the
# quoted header has the ports too.
#
# Seen:
#
#     IPv4, policy 0: at the hop of its flow: 150 of 150
#     IPv4, policy 1: at the hop of its flow: about 50 of 150, all at one hop
#     IPv4, policy 2: at the hop of its flow: about 50 of 150, all at one hop
#     IPv4, policy 3: at the hop of its flow: about 50 of 150, all at one hop
#     IPv6, policy 0: at the hop of its flow: about 50 of 150; with one flow label both ways: 150 of 150
#     IPv6, policy 1: at the hop of its flow: about 50 of 150, all at one hop
#     IPv6, policy 2: at the hop of its flow: about 50 of 150, all at one hop
#     IPv6, policy 3: at the hop of its flow: about 50 of 150, all at one hop
#
# Only policy 0 looks into the error. For IPv6 it hashes the flow label too, and each end of a connection chooses its
# own.
#
# What it means: path MTU discovery of an anycast service works only if every node forwards such an error to the real
# server that the quoted flow belongs to (IPVS with equal tables does); else clamp the MSS.
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
hops4=() hops6=()
for n in 1 2 3; do
    ip address add "10.0.$n.1/24" dev "hop$n"
    ip neighbour add "10.0.$n.2" lladdr 02:00:00:00:00:02 dev "hop$n" nud permanent
    hops4+=(nexthop via "10.0.$n.2" dev "hop$n")
    ip address add "2001:db8:$n::1/64" dev "hop$n" nodad
    ip neighbour add "2001:db8:$n::2" lladdr 02:00:00:00:00:02 dev "hop$n" nud permanent
    hops6+=(nexthop via "2001:db8:$n::2" dev "hop$n")
done
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.in.rp_filter=0
ip link set lo up
ip route add 192.0.2.1 "${hops4[@]}"
ip -6 route add 2001:db8:ffff::1 "${hops6[@]}"
ip route add 198.51.100.0/24 dev in
ip route add 203.0.113.0/24 dev in
ip -6 route add 2001:db8:c::/48 dev in

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
    into.send(ETHERNET + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet)
    end = packet[40:] if packet[0] >> 4 == 6 else packet[20:]
    for _ in range(100):
        ready = select.select(outputs, [], [], 5)[0]
        assert ready, "the packet was not forwarded"
        for out in ready:
            if out.recv(65536).endswith(end):
                return outputs.index(out) + 1
    raise AssertionError("other packets only")


def policy(family, number):
    subprocess.run(["sysctl", "-qw", f"net.ipv{family}.fib_multipath_hash_policy={number}"], check=True)


def ipv6(source, target, header, payload, label=0):
    return struct.pack("!IHBB", 0x60000000 | label, len(payload), header, 64) + packed(source) + packed(target) + payload


def tcp(source, target):
    return struct.pack("!HHIIHHHH", source, target, 1, 1, 0x5010, 1000, 0, 0)


def flow4(n):
    """The client's packet, and the error that quotes the server's."""
    client, port = f"198.51.100.{n + 1}", 20000 + n
    quoted = ipv4("192.0.2.1", client, 6, tcp(443, port))[:28]
    error = struct.pack("!BBHHH", 3, 4, 0, 0, 1400) + quoted
    error = error[:2] + struct.pack("!H", checksum(error)) + error[4:]
    return ipv4(client, "192.0.2.1", 6, tcp(port, 443), n + 1), ipv4("203.0.113.1", "192.0.2.1", 1, error, n + 1)


def flow6(n, label):
    client, port, vip, middle = f"2001:db8:c::{n + 1:x}", 20000 + n, "2001:db8:ffff::1", "2001:db8:c:1::1"
    quoted = ipv6(vip, client, 6, tcp(443, port), label)
    error = struct.pack("!BBHI", 2, 0, 0, 1400) + quoted
    pseudo = packed(middle) + packed(vip) + struct.pack("!II", len(error), 58)
    error = error[:2] + struct.pack("!H", checksum(pseudo + error)) + error[4:]
    return ipv6(client, vip, 6, tcp(port, 443), 0x10000 + n), ipv6(middle, vip, 58, error)


def tried(make):
    """How many errors are at the hop of their flow; how many hops have errors."""
    right, hops = 0, set()
    for n in range(FLOWS):
        packet, error = make(n)
        at = hop(error)
        hops.add(at)
        right += at == hop(packet)
    return right, len(hops)


wrong = False
for number in range(4):
    policy(4, number)
    right, hops = tried(flow4)
    one = ", all at one hop" if hops == 1 else ""
    print(f"IPv4, policy {number}: at the hop of its flow: {right} of {FLOWS}{one}")
    wrong |= right != FLOWS if number == 0 else not (25 <= right <= 80 and hops == 1)
for number in range(4):
    policy(6, number)
    right, hops = tried(lambda n: flow6(n, 0x20000 + n * 7))
    one = ", all at one hop" if hops == 1 else ""
    same = ""
    if number == 0:
        equal, _ = tried(lambda n: flow6(n, 0x10000 + n))
        same = f"; with one flow label both ways: {equal} of {FLOWS}"
        wrong |= equal != FLOWS
    print(f"IPv6, policy {number}: at the hop of its flow: {right} of {FLOWS}{one}{same}")
    wrong |= not 25 <= right <= 80 or (hops == 1) != (number != 0)
if wrong:
    print("expected: see the head of this script; 25 to 80 of 150 are a third", file=sys.stderr)
sys.exit(wrong)
PYTHON
