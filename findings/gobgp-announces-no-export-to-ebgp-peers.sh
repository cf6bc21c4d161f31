#!/bin/bash
# GoBGP 3.10.0 beside FRR 8.4.4, BIRD 2.0.12, OpenBGPD 7.7 (all Debian 12), each as a router whose configuration says
# nothing of communities.
#
# A node announces four prefixes by eBGP: one as it is, one with 65535:65281 (NO_EXPORT), one with 65535:65282
# (NO_ADVERTISE), one with 65535:666 (BLACKHOLE). The router has another eBGP peer of another AS: which does it get?
#
# Expected before it was run: all four keep the NO_EXPORT and NO_ADVERTISE prefixes back, as RFC 1997 demands, and
# pass the BLACKHOLE prefix on, which needs configuration to mean anything.
#
# Seen:
#
#     frr: the other peer gets plain
#     bird: the other peer gets plain blackhole
#     gobgp: the other peer gets plain no-export no-advertise blackhole
#     openbgpd: the other peer gets plain blackhole
#
# What it means: behind a GoBGP router a prefix that is marked to stay at home leaves it, unless a policy of the
# router rejects it. FRR alone holds BLACKHOLE prefixes back without being told (RFC 7999 recommends it).
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

# Node a, whose static routes are the announcements, and b, the other peer: both BIRD.
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
protocol static vip {
    ipv4;
    route 192.0.2.1/32 blackhole;
    route 192.0.2.2/32 blackhole { bgp_community.add((65535, 65281)); };
    route 192.0.2.3/32 blackhole { bgp_community.add((65535, 65282)); };
    route 192.0.2.4/32 blackhole { bgp_community.add((65535, 666)); };
}
protocol bgp uplink {
    local 10.0.$2.2 as 6500$2;
    neighbor 10.0.$2.1 as 65000;
    connect retry time 1; connect delay time 1; error wait time 1, 1;
    graceful restart off;
    ipv4 { import all; export where source = RTS_STATIC; };
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
 neighbor 10.0.2.2 remote-as 65002
 address-family ipv4 unicast
  maximum-paths 1
CONF
cat > bird.conf <<'CONF'
router id 10.0.0.1;
protocol device {}
template bgp node { local as 65000; ipv4 { import all; export all; }; }
protocol bgp a from node { neighbor 10.0.1.2 as 65001; }
protocol bgp b from node { neighbor 10.0.2.2 as 65002; }
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
peer-as = 65002
CONF
cat > openbgpd.conf <<'CONF'
AS 65000
router-id 10.0.0.1
socket "/run/openbgpd.ctl"
neighbor 10.0.1.2 { remote-as 65001 }
neighbor 10.0.2.2 { remote-as 65002 }
allow from any
allow to any
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
up() { birdc -s "$1.ctl" show protocols uplink | grep -q Established; }
got() { # what b has from the router, by name
    local names=([1]=plain [2]=no-export [3]=no-advertise [4]=blackhole) seen number
    seen=$(birdc -s b.ctl show route protocol uplink)
    for number in 1 2 3 4; do
        [[ $seen != *"192.0.2.$number/32"* ]] || printf ' %s' "${names[number]}"
    done
}

declare -A expected=(
    [frr]=' plain' [bird]=' plain blackhole'
    [gobgp]=' plain no-export no-advertise blackhole' [openbgpd]=' plain blackhole'
)
nothing() { [[ -z $(got) ]]; }
passes() { got | grep -q plain; }
status=0
for router in frr bird gobgp openbgpd; do
    start "$router"
    pid=$!
    until_so "a's session with $router" up a
    until_so "b's session with $router" up b
    birdc -s a.ctl enable vip > /dev/null
    until_so "$router passes the plain prefix on" passes
    sleep 3
    seen=$(got)
    echo "$router: the other peer gets$seen"
    [[ $seen == "${expected[$router]}" ]] || { echo "expected:${expected[$router]}" >&2; status=1; }
    birdc -s a.ctl disable vip > /dev/null
    until_so "b has lost all" nothing
    kill "$pid"
    wait "$pid" || true
done
exit "$status"
