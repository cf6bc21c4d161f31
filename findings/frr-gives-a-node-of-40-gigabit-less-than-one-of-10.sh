#!/bin/bash
# FRR 8.4.4 (Debian 12) as router: bgpd with `maximum-paths 8`, zebra, nothing said of bandwidth.
#
# Two nodes announce one prefix by eBGP with the link bandwidth community (draft-ietf-idr-link-bandwidth), whose four
# octets are an IEEE float of bytes a second: up to 3.4e38. What does FRR show, and what weights has the route in the
# kernel?
#
# Expected before it was run: 80 and 20 for 40 and 10 Gbit/s, as for 32 and 8. Or, if FRR counts in four octets itself,
# 77 and 22: the larger one is cut to 34.4 Gbit/s, as FRR does with a sum of its own (`set extcommunity bandwidth
# cumulative`).
#
# Seen:
#
#     32 and 8 Gbit/s: weights 80 20, shown 4000000000 and 1000000000
#     40 and 10 Gbit/s: weights 36 63, shown 705032704 and 1250000000
#     34.359738368 and 10 Gbit/s: weights 1 100, shown 0 and 1250000000
#     100 and 10 Gbit/s: weights 75 24, shown 3910065152 and 1250000000
#     1000 and 1 Gbit/s: weights 78 21, shown 445947904 and 125000000
#
# Why: `ieee_float_uint32_to_uint32` (bgpd/bgp_ecommunity.c) makes an unsigned integer of four octets of the float. On
# amd64 that leaves the remainder by 2^32, and FRR shows it and weighs by it.
#
# What it means: the node that is four times as large gets little more than half of the other's flows. A node with
# 2^35 bits a second gets as good as none. Send numbers below 34 Gbit/s: it is the ratio alone that counts. ExaBGP
# 5.0.15 refuses larger ones in its own words (`bandwidth:65001:5000000000`), and takes their octets.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root, Debian 12's package frr, python3 with
# venv and PyPI. Half a minute.
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
    timeout --signal=KILL 110 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside "$folder" &
    job=$!
    wait "$job"
    exit
fi
exabgp=$2/venv/bin/exabgp
version=$(dpkg-query -W -f '${Version}' frr 2>/dev/null || true)
[[ $version == 8.4.4-* ]] || { echo "this is about frr 8.4.4; installed: ${version:-none}" >&2; exit 1; }
echo "frr $version"
mount -t tmpfs none /run
mount -t tmpfs none /var/tmp # FRR leaves folders there
mkdir /run/netns /run/frr
cd /run

until_so() { # WHAT COMMAND...: waits until the command succeeds, 20 seconds at most
    local what=$1 end=$((SECONDS + 20))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "not in 20 seconds: $what" >&2; tail -n 5 ./*.log >&2; exit 1; }
        sleep 0.1
    done
}

ip link set lo up
for node in 1 2; do
    ip netns add "node$node"
    ip link add name "node$node" type veth peer name eth0 netns "node$node"
    ip address add "10.0.$node.1/24" dev "node$node"
    ip link set dev "node$node" up
    ip -n "node$node" address add "10.0.$node.2/24" dev eth0
    ip -n "node$node" link set eth0 up
done
echo 'frr defaults traditional' > zebra.conf
cat > bgpd.conf <<'CONF'
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
 neighbor 10.0.2.2 remote-as 65001
 address-family ipv4 unicast
  maximum-paths 8
CONF
chown -R frr:frr /run/frr ./*.conf
chown frr:frr /run
/usr/lib/frr/zebra -f zebra.conf -i zebra.pid -z zserv.api --vty_socket /run/frr -P 0 --log stdout > zebra.log 2>&1 &
until_so "zebra listens" test -S zserv.api
/usr/lib/frr/bgpd -f bgpd.conf -i bgpd.pid -z zserv.api --vty_socket /run/frr -P 0 --log stdout > bgpd.log 2>&1 &
until_so "bgpd listens" vtysh --vty_socket /run/frr -d bgpd -c 'show version'

route() { # PYTHON: an expression of `hops`, the next hops of the kernel's route in the order of the nodes
    ip -j route show 192.0.2.1 | python3 -c "
import json, sys
hops = [hop for route in json.load(sys.stdin) for hop in route.get('nexthops', [route])]
print($1)"
}
hops() { route 'len(hops)'; }
weights() { route "*(hop['weight'] for hop in sorted(hops, key=lambda hop: hop['gateway']))"; }
two() { [[ $(hops) == 2 ]]; }
none() { [[ $(hops) == 0 ]]; }

shown() { # NODE: the bandwidth that FRR has of it, in bytes a second
    vtysh --vty_socket /run/frr -c 'show bgp ipv4 unicast 192.0.2.1/32 json' | python3 -c "
import json, sys
paths = json.load(sys.stdin)['paths']
(path,) = (path for path in paths if path['nexthops'][0]['ip'] == '10.0.$1.2')
print(path['extendedCommunity']['string'].split()[0].rpartition(':')[2])"
}

status=0
try() { # EXPECTED GBITS GBITS
    local expected=$1 node=0 nodes=() gbits octets seen
    shift
    for gbits in "$@"; do
        node=$((node + 1))
        octets=$(python3 -c "import struct; print(struct.pack('!f', $gbits * 1e9 / 8).hex())")
        cat > "node$node.conf" <<CONF
neighbor 10.0.$node.1 {
    router-id 10.0.$node.2;
    local-address 10.0.$node.2;
    local-as 65001;
    peer-as 65000;
    static {
        route 192.0.2.1/32 next-hop self extended-community [ 0x4004fde9$octets ];
    }
}
CONF
        ip netns exec "node$node" env exabgp.daemon.user=root "$exabgp" "node$node.conf" > "node$node.log" 2>&1 &
        nodes+=("$!")
    done
    until_so "two next hops" two
    sleep 1
    seen="weights $(weights), shown $(shown 1) and $(shown 2)"
    echo "$1 and $2 Gbit/s: $seen"
    [[ $seen == "$expected" ]] || { echo "expected: $expected" >&2; status=1; }
    kill "${nodes[@]}"
    wait "${nodes[@]}" || true
    until_so "the route is gone" none
}
try "weights 80 20, shown 4000000000 and 1000000000" 32 8
try "weights 36 63, shown 705032704 and 1250000000" 40 10
try "weights 1 100, shown 0 and 1250000000" 34.359738368 10
try "weights 75 24, shown 3910065152 and 1250000000" 100 10
try "weights 78 21, shown 445947904 and 125000000" 1000 1
exit "$status"
