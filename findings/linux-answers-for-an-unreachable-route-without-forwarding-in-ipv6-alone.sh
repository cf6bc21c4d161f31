#!/bin/bash
# Linux 6.18 as a host with a service address, to which a router sends the whole prefix around it.
#
# The host has an unreachable route of the prefix, so that what comes for the rest of it ends there, in each family. A
# client behind it pings an address of the prefix that nobody has: once while the host does not forward
# (net.ipv4.ip_forward, net.ipv6.conf.all.forwarding 0), and once while it does.
#
# Expected before it was run: both families alike. Either a host that does not forward drops what is not its own and
# says nothing, or the route's type decides, as ip-route(8) has it ("packets are discarded and the ICMP message host
# unreachable is generated").
#
# Seen:
#
#     forwarding 0: ipv4 silence, ipv6 unreachable
#     forwarding 1: ipv4 unreachable, ipv6 unreachable
#
# What it means: the unreachable route of an IPv4 prefix is a blackhole on every host that does not forward, as a
# balancer with direct routing: clients wait for their timeouts, and a test with ping takes the host for dead. Of IPv6
# they are told at once. Test both families.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root. Some seconds.
set -euo pipefail

# All runs in namespaces of this script's own, /run included: they end with it, and nothing is left.
if [[ ${1-} != inside ]]; then
    timeout --signal=KILL 100 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside &
    trap 'kill -KILL -- "-$!" 2>/dev/null || true' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    wait "$!"
    exit
fi
uname -r
mount -t tmpfs none /run
mkdir /run/netns
export PATH=$PATH:/usr/sbin

ip link set lo up
ip netns add client
ip link add name client type veth peer name eth0 netns client
ip address add 10.0.1.1/24 dev client
ip address add fd00:1::1/64 dev client nodad
ip link set dev client up
ip -n client address add 10.0.1.2/24 dev eth0
ip -n client address add fd00:1::2/64 dev eth0 nodad
ip -n client link set eth0 up
ip -n client route add 192.0.2.0/24 via 10.0.1.1
ip -n client -6 route add 2001:db8:53::/48 via fd00:1::1
ip route add unreachable 192.0.2.0/24
ip -6 route add unreachable 2001:db8:53::/48

answer() { # ADDRESS: what comes of three packets, of which the kernel may keep an answer back
    local said
    said=$(ip netns exec client ping -c 3 -i 1.1 -W 1 "$1" || true)
    if [[ $said == *"From "*nreachable* ]]; then echo unreachable; else echo silence; fi
}

seen=
for forwarding in 0 1; do
    echo "$forwarding" > /proc/sys/net/ipv4/ip_forward
    echo "$forwarding" > /proc/sys/net/ipv6/conf/all/forwarding
    line="forwarding $forwarding: ipv4 $(answer 192.0.2.99), ipv6 $(answer 2001:db8:53::99)"
    echo "$line"
    seen+="$line"$'\n'
done
wanted='forwarding 0: ipv4 silence, ipv6 unreachable
forwarding 1: ipv4 unreachable, ipv6 unreachable
'
[[ $seen == "$wanted" ]] || { echo "otherwise than written above" >&2; exit 1; }
