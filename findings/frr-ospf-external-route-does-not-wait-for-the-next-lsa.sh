#!/bin/bash
# FRR 8.4.4 (Debian 12), ospfd on a node and on a router, one Ethernet, one area, timers at their defaults. The node
# has `redistribute connected`.
#
# An address on the node's `lo` is deleted, and added again a second later.
#
# Expected before it was run: the deletion is fast, the addition takes five seconds, since a router may originate the
# same LSA only once in MinLSInterval (5 s, RFC 2328), and the SPF throttle comes on top.
#
# Seen (the middle one of five):
#
#     deleted: out of the router's kernel within 1 s
#     added 1 s later: in the router's kernel within 1 s
#
# In fact within 0.15 s, both, ten times of ten: the interval does not hold back an LSA that was flushed.
#
# What it means: a service address that flaps is not damped by OSPF as deployed by default; the checker has to do it.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and Debian 12's package frr. A minute and
# a half.
set -euo pipefail

# All runs in namespaces of this script's own, /run included: they end with it, and nothing is left.
if [[ ${1-} != inside ]]; then
    timeout --signal=KILL 170 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside &
    trap 'kill -KILL -- "-$!" 2>/dev/null || true' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    wait "$!"
    exit
fi
version=$(dpkg-query -W -f '${Version}' frr 2>/dev/null || true)
[[ $version == 8.4.4-* ]] || { echo "this is about frr 8.4.4; installed: ${version:-none}" >&2; exit 1; }
echo "frr $version"
mount -t tmpfs none /run
mount -t tmpfs none /var/tmp # FRR leaves folders there
mkdir /run/netns /run/frr /run/node
cd /run
export PATH=$PATH:/usr/sbin

until_so() { # WHAT COMMAND...: waits until the command succeeds, 60 seconds at most
    local what=$1 end=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "not in 60 seconds: $what" >&2; tail -n 5 ./*.log >&2; exit 1; }
        sleep 0.02
    done
}

ip link set lo up
ip netns add node
ip -n node link set lo up
ip link add name node type veth peer name eth0 netns node
ip address add 10.0.1.1/24 dev node
ip link set dev node up
ip -n node address add 10.0.1.2/24 dev eth0
ip -n node link set eth0 up
echo 'frr defaults traditional' | tee node/zebra.conf > frr/zebra.conf
printf 'router ospf\n ospf router-id 10.0.1.1\n network 10.0.1.0/24 area 0\n' > frr/ospfd.conf
printf 'router ospf\n ospf router-id 10.0.1.2\n network 10.0.1.0/24 area 0\n redistribute connected\n' > node/ospfd.conf
chown -R frr:frr /run/frr /run/node
frr() { # FOLDER DAEMON COMMAND-BEFORE-IT...
    local folder=$1 name=$2
    shift 2
    "$@" "/usr/lib/frr/$name" -f "$folder/$name.conf" -i "$folder/$name.pid" -z "/run/$folder/zserv.api" \
        --vty_socket "/run/$folder" -P 0 --log stdout > "$name-$folder.log" 2>&1 &
}
frr frr zebra env
frr node zebra ip netns exec node
until_so "zebra listens" test -S frr/zserv.api -a -S node/zserv.api
frr frr ospfd env
frr node ospfd ip netns exec node

there() { ip route show 192.0.2.1 | grep -q via; }
gone() { ! there; }
ip -n node address add 192.0.2.1/32 dev lo
until_so "the router has the route" there
sleep 10
deleted=() added=()
now() { printf '%s' "${EPOCHREALTIME/./}"; }
for _ in 1 2 3 4 5; do
    begin=$(now)
    ip -n node address delete 192.0.2.1/32 dev lo
    until_so "the router has no route" gone
    deleted+=("$((($(now) - begin) / 1000))")
    sleep 1
    begin=$(now)
    ip -n node address add 192.0.2.1/32 dev lo
    until_so "the router has the route" there
    added+=("$((($(now) - begin) / 1000))")
    sleep 6
done
middle() { printf '%s\n' "$@" | sort -n | sed -n 3p; }
if (($(middle "${deleted[@]}") < 1000 && $(middle "${added[@]}") < 1000)); then
    echo "deleted: out of the router's kernel within 1 s"
    echo "added 1 s later: in the router's kernel within 1 s"
else
    echo "deleted: ${deleted[*]} ms; added: ${added[*]} ms; expected: the middle one less than 1000 ms" >&2
    exit 1
fi
