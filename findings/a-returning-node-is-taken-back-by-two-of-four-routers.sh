#!/bin/bash
# FRR 8.4.4, BIRD 2.0.12, GoBGP 3.10.0, OpenBGPD 7.7 (all Debian 12), each as a router that uses one path.
#
# Two nodes announce one prefix by eBGP with equal attributes; A has the lower router id and the lower address. A came
# first, so it is used. A withdraws, B is used. A announces again.
#
# Expected before it was run: all four decide alike. RFC 4271 ends in the lowest BGP identifier, so all go back to A;
# or, since each vendor prefers the older external path for the sake of stability, all stay at B.
#
# Seen:
#
#     frr: A is used; A withdraws: B; A is back: B
#     bird: A is used; A withdraws: B; A is back: A
#     gobgp: A is used; A withdraws: B; A is back: B
#     openbgpd: A is used; A withdraws: B; A is back: A
#
# What it means: after a restart of one node, BIRD and OpenBGPD move all traffic a second time, FRR and GoBGP leave
# the node idle for as long as the other stays. Both have an option for the other way (BIRD `prefer older`, OpenBGPD
# `rde route-age evaluate`, FRR `bgp bestpath compare-routerid`, GoBGP `external-compare-router-id`).
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and Debian 12's packages frr, bird2,
# gobgpd and openbgpd. Half a minute.
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

# The nodes: BIRD, whose static route is the announcement.
link() { # NAME NUMBER
    ip netns add "$1"
    ip link add name "$1" type veth peer name eth0 netns "$1"
    ip address add "10.0.$2.1/24" dev "$1"
    ip link set dev "$1" up
    ip -n "$1" address add "10.0.$2.2/24" dev eth0
    ip -n "$1" link set eth0 up
    cat > "$1.conf" <<CONF
router id 10.0.$2.2;
protocol device {}
protocol static vip { ipv4; route 192.0.2.1/32 blackhole; }
protocol bgp uplink {
    local 10.0.$2.2 as 65001;
    neighbor 10.0.$2.1 as 65000;
    connect retry time 1; connect delay time 1; error wait time 1, 1;
    ipv4 { import none; export all; };
}
CONF
    ip netns exec "$1" bird -f -c "$1.conf" -s "$1.ctl" -P "$1.pid" > "$1.log" 2>&1 &
    until_so "BIRD of $1 answers" birdc -s "$1.ctl" show status
    birdc -s "$1.ctl" disable vip > /dev/null
}
ip link set lo up
link a 1
link b 2

cat > frr.conf <<'CONF'
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
 neighbor 10.0.2.2 remote-as 65001
 address-family ipv4 unicast
  maximum-paths 1
CONF
cat > bird.conf <<'CONF'
router id 10.0.0.1;
protocol device {}
template bgp node { local as 65000; ipv4 { import all; export none; }; }
protocol bgp a from node { neighbor 10.0.1.2 as 65001; }
protocol bgp b from node { neighbor 10.0.2.2 as 65001; }
CONF
cat > gobgp.conf <<'CONF'
[global.config]
as = 65000
router-id = "10.0.0.1"
[[neighbors]]
[neighbors.config]
neighbor-address = "10.0.1.2"
peer-as = 65001
[[neighbors]]
[neighbors.config]
neighbor-address = "10.0.2.2"
peer-as = 65001
CONF
cat > openbgpd.conf <<'CONF'
AS 65000
router-id 10.0.0.1
socket "/run/openbgpd.ctl"
neighbor 10.0.1.2 { remote-as 65001 }
neighbor 10.0.2.2 { remote-as 65001 }
allow from any
CONF
chmod 600 openbgpd.conf
chown frr:frr /run /run/frr frr.conf

start() {
    case $1 in
    frr) /usr/lib/frr/bgpd -f frr.conf -i frr.pid -Z -P 0 --vty_socket /run/frr --log stdout > frr.log 2>&1 & ;;
    bird) bird -f -c bird.conf -s bird.ctl -P bird.pid > bird.log 2>&1 & ;;
    gobgp) gobgpd -f gobgp.conf --pprof-disable --api-hosts 127.0.0.1:50051 > gobgp.log 2>&1 & ;;
    openbgpd) /usr/sbin/bgpd -d -f openbgpd.conf > openbgpd.log 2>&1 & ;;
    esac
}
shown() { # the table of router $1, only the path that is used
    case $1 in
    frr) vtysh --vty_socket /run/frr -c 'show bgp ipv4 unicast' | grep '^ *\*[ =]*>' ;;
    bird) birdc -s bird.ctl show route 192.0.2.1/32 primary ;;
    gobgp) gobgp global rib | grep '^\*>' ;;
    openbgpd) bgpctl -s openbgpd.ctl show rib best ;;
    esac
}
uses() { # ROUTER NODE
    local seen
    seen=$(shown "$1" || true)
    case $2 in
    A) [[ $seen == *10.0.1.2* && $seen != *10.0.2.2* ]] ;;
    B) [[ $seen == *10.0.2.2* && $seen != *10.0.1.2* ]] ;;
    esac
}
used() {
    local node
    for node in A B; do ! uses "$1" "$node" || echo "$node"; done
}
up() { birdc -s "$1.ctl" show protocols uplink | grep -q Established; }
both() { # ROUTER: it has both paths
    case $1 in
    frr) vtysh --vty_socket /run/frr -c 'show bgp ipv4 unicast 192.0.2.1/32' | grep -q '2 available' ;;
    bird) [[ $(birdc -s bird.ctl show route 192.0.2.1/32 | grep -c unicast) == 2 ]] ;;
    gobgp) [[ $(gobgp global rib | grep -c 10.0.) == 2 ]] ;;
    openbgpd) [[ $(bgpctl -s openbgpd.ctl show rib | grep -c 10.0.) == 2 ]] ;;
    esac
}

declare -A expected=([frr]=B [bird]=A [gobgp]=B [openbgpd]=A)
status=0
for router in frr bird gobgp openbgpd; do
    start "$router"
    pid=$!
    until_so "A's session with $router" up a
    until_so "B's session with $router" up b
    birdc -s a.ctl enable vip > /dev/null
    until_so "$router uses A" uses "$router" A
    birdc -s b.ctl enable vip > /dev/null
    until_so "$router has both paths" both "$router"
    first=$(used "$router")
    birdc -s a.ctl disable vip > /dev/null
    until_so "$router uses B" uses "$router" B
    sleep 1
    birdc -s a.ctl enable vip > /dev/null
    until_so "$router has both paths again" both "$router"
    sleep 2
    back=$(used "$router")
    echo "$router: $first is used; A withdraws: B; A is back: $back"
    [[ $first == A && $back == "${expected[$router]}" ]] || status=1
    birdc -s a.ctl disable vip > /dev/null
    birdc -s b.ctl disable vip > /dev/null
    kill "$pid"
    wait "$pid" || true
done
((status == 0)) || echo "expected: frr B, bird A, gobgp B, openbgpd A at the end" >&2
exit "$status"
