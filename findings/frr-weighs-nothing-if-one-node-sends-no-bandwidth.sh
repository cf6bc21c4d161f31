#!/bin/bash
# FRR 8.4.4 (Debian 12) as router: bgpd with `maximum-paths 8`, zebra, nothing said of bandwidth.
#
# Three nodes announce one prefix by eBGP, with link bandwidth communities of ExaBGP 5.0.15 (`extended-community [
# bandwidth:65001:N ]`, N in bytes a second). What weights has the route in the kernel?
#
# Expected before it was run: with 3000000, 1000000 and none the first two 3 : 1 and the third as good as nothing (it
# offers no bandwidth) or as the smaller one; with 1000000000, 1000000000 and 1000000 the third has a thousandth: the
# weights are 8 bits, so 255 : 255 : 1 at the coarsest.
#
# Seen:
#
#     3000000, 1000000, none: weights 1 1 1
#     1000000000, 1000000000, 1000000: weights 49 49 1
#     100000000, 10000000, 1000000: weights 90 9 1
#     3000000, 1000000, 1000000: weights 60 20 20
#
# Weights are whole percents of the sum, rounded down, and at least 1. One path without a bandwidth and all are equal.
#
# What it means: the first node of three that learns to send its bandwidth changes nothing, and the last that forgets
# it levels all. A node cannot be given less than a hundredth: what should be the last resort still serves 1 % of the
# flows.
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
for node in 1 2 3; do
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
 neighbor 10.0.3.2 remote-as 65001
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
three() { [[ $(hops) == 3 ]]; }
none() { [[ $(hops) == 0 ]]; }

status=0
try() { # EXPECTED BANDWIDTH BANDWIDTH BANDWIDTH
    local expected=$1 node=0 bandwidth nodes=() words seen
    shift
    for bandwidth in "$@"; do
        node=$((node + 1))
        words="extended-community [ bandwidth:65001:$bandwidth ]"
        [[ $bandwidth != none ]] || words=
        cat > "node$node.conf" <<CONF
neighbor 10.0.$node.1 {
    router-id 10.0.$node.2;
    local-address 10.0.$node.2;
    local-as 65001;
    peer-as 65000;
    static {
        route 192.0.2.1/32 next-hop self $words;
    }
}
CONF
        ip netns exec "node$node" env exabgp.daemon.user=root "$exabgp" "node$node.conf" > "node$node.log" 2>&1 &
        nodes+=("$!")
    done
    until_so "three next hops" three
    sleep 1
    seen=$(weights)
    echo "$1, $2, $3: weights $seen"
    [[ $seen == "$expected" ]] || { echo "expected: $expected" >&2; status=1; }
    kill "${nodes[@]}"
    wait "${nodes[@]}" || true
    until_so "the route is gone" none
}
try "1 1 1" 3000000 1000000 none
try "49 49 1" 1000000000 1000000000 1000000
try "90 9 1" 100000000 10000000 1000000
try "60 20 20" 3000000 1000000 1000000
exit "$status"
