#!/bin/bash
# FRR 8.4.4 (Debian 12) as router: zebra and staticd as they are installed, then zebra with `--v6-rr-semantics`.
#
# Routes to an IPv4 and an IPv6 prefix have two next hops. A third next hop comes, and goes. What does the kernel tell
# (`ip monitor route`), in other words: is there an instant without a route?
#
# Expected before it was run: each change replaces the route (NLM_F_REPLACE), in both families. The kernel replaces IPv6
# routes with several next hops since 4.16, and an IPv4 route is replaced.
#
# Seen, deletions of the route in two changes:
#
#     as installed: IPv4 0, IPv6 2
#     --v6-rr-semantics: IPv4 0, IPv6 0
#
# The same with and without next-hop objects (`no zebra nexthop kernel enable`). zebra deletes the IPv6 route and adds
# it again with the other next hops; `--v6-rr-semantics` (in `zebra_options` of /etc/frr/daemons) makes it replace it.
#
# What it means: each time that a node comes or goes, and be it drained by the book, an IPv6 packet of another node's
# clients can meet a router without a route, for some 40 to 300 µs. The router drops it and answers "no route": a
# connection that stands sends again, a `connect()` in that instant fails with "Network is unreachable", a DNS query by
# UDP is lost.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and Debian 12's package frr. A quarter of a
# minute.
set -euo pipefail

# All runs in namespaces of this script's own, /run included: they end with it, and nothing is left.
if [[ ${1-} != inside ]]; then
    timeout --signal=KILL 150 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside
    exit
fi
version=$(dpkg-query -W -f '${Version}' frr 2>/dev/null || true)
[[ $version == 8.4.4-* ]] || { echo "this is about frr 8.4.4; installed: ${version:-none}" >&2; exit 1; }
echo "frr $version"
mount -t tmpfs none /run
mount -t tmpfs none /var/tmp # FRR leaves folders there
mkdir /run/frr
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
    ip link add name "node$node" type veth peer name "peer$node"
    ip link set dev "peer$node" up
    ip link set dev "node$node" up
    ip address add "10.0.$node.1/24" dev "node$node"
    ip address add "fd00:$node::1/64" dev "node$node" nodad
done
cat > staticd.conf <<'CONF'
ip route 192.0.2.1/32 10.0.1.2
ip route 192.0.2.1/32 10.0.2.2
ipv6 route 2001:db8::1/128 fd00:1::2
ipv6 route 2001:db8::1/128 fd00:2::2
CONF
chown -R frr:frr /run/frr ./*.conf
chown frr:frr /run

hops() { # IP_OPTION PREFIX
    ip -j "$1" route show "$2" | python3 -c "
import json, sys
print(sum(len(route.get('nexthops', [1])) for route in json.load(sys.stdin)))"
}
both() { [[ $(hops -4 192.0.2.1) == "$1" && $(hops -6 2001:db8::1) == "$1" ]]; }
vty() { vtysh --vty_socket /run/frr -d staticd -c 'configure terminal' -c "$1" -c "$2"; }
gone() { grep -c "^Deleted $1 " monitor.log || true; }

status=0
try() { # EXPECTED OBJECTS OPTION...
    local expected=$1 objects=$2 seen daemons=() monitor
    shift 2
    echo "$objects" > zebra.conf
    common=(-z zserv.api --vty_socket /run/frr -P 0 --log stdout)
    /usr/lib/frr/zebra -f zebra.conf -i zebra.pid "${common[@]}" "$@" > zebra.log 2>&1 &
    daemons+=("$!")
    until_so "zebra listens" test -S zserv.api
    /usr/lib/frr/staticd -f staticd.conf -i staticd.pid "${common[@]}" > staticd.log 2>&1 &
    daemons+=("$!")
    until_so "two next hops" both 2
    ip monitor route > monitor.log &
    monitor=$!
    # The monitor hears once it tells of a route that is made for it.
    until_so "the monitor hears" bash -c '
        ip -6 route replace fd00:7::/64 dev node1; ip -6 route del fd00:7::/64; grep -q fd00:7 monitor.log'
    vty 'ip route 192.0.2.1/32 10.0.3.2' 'ipv6 route 2001:db8::1/128 fd00:3::2'
    until_so "three next hops" both 3
    vty 'no ip route 192.0.2.1/32 10.0.3.2' 'no ipv6 route 2001:db8::1/128 fd00:3::2'
    until_so "two next hops again" both 2
    ip -6 route add fd00:8::/64 dev node1
    until_so "all is told" grep -q fd00:8 monitor.log
    seen="IPv4 $(gone 192.0.2.1), IPv6 $(gone 2001:db8::1)"
    echo "${*:-as installed} (${objects:-with next-hop objects}): deletions $seen"
    [[ $seen == "$expected" ]] || { echo "expected: $expected" >&2; status=1; }
    kill "$monitor" "${daemons[@]}"
    wait "$monitor" "${daemons[@]}" || true
    ip -6 route del fd00:8::/64
    rm -f zserv.api
    until_so "the routes are gone" both 0
}
try "IPv4 0, IPv6 2" ""
try "IPv4 0, IPv6 2" "no zebra nexthop kernel enable"
try "IPv4 0, IPv6 0" "" --v6-rr-semantics
try "IPv4 0, IPv6 0" "no zebra nexthop kernel enable" --v6-rr-semantics
exit "$status"
