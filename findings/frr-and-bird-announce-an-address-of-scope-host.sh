#!/bin/bash
# FRR 8.4.4 and BIRD 2.0.12 (Debian 12) as routing daemons on a host.
#
# `lo` has the address 192.0.2.1/32 with scope host (`ip address add … scope host`), and 192.0.2.2/32 with scope
# global. FRR announces `redistribute connected`, BIRD the routes of `protocol direct { interface "lo"; }`.
#
# Expected before it was run: the address of scope host is "valid only inside this host" (ip-address(8)), so it is no
# connected route for the daemon, and only the other one is announced.
#
# Seen:
#
#     frr announces 192.0.2.1/32 192.0.2.2/32
#     bird announces 192.0.2.1/32 192.0.2.2/32
#
# What it means: the scope keeps a service address from being a source address; it hides it from no routing daemon.
# Filter it by prefix where a daemon on the balancer announces connected routes, else it announces the address when
# the health checker has withdrawn it.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and Debian 12's packages frr and bird2.
# Some seconds.
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
for wanted in frr=8.4.4 bird2=2.0.12; do
    version=$(dpkg-query -W -f '${Version}' "${wanted%=*}" 2>/dev/null || true)
    [[ $version == "${wanted#*=}"-* ]] || { echo "this is about $wanted; installed: ${version:-none}" >&2; exit 1; }
    echo "${wanted%=*} $version"
done
mount -t tmpfs none /run
mount -t tmpfs none /var/tmp # FRR leaves folders there
mkdir /run/netns /run/frr
cd /run
export PATH=$PATH:/usr/sbin

until_so() { # WHAT COMMAND...: waits until the command succeeds, 20 seconds at most
    local what=$1 end=$((SECONDS + 20))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "not in 20 seconds: $what" >&2; tail -n 5 ./*.log >&2; exit 1; }
        sleep 0.1
    done
}

# The peer, a BIRD, tells what it is told.
ip link set lo up
ip netns add peer
ip link add name peer type veth peer name eth0 netns peer
ip address add 10.0.1.1/24 dev peer
ip link set dev peer up
ip -n peer address add 10.0.1.2/24 dev eth0
ip -n peer link set eth0 up
cat > peer.conf <<'CONF'
router id 10.0.1.2;
protocol device {}
protocol bgp uplink {
    local 10.0.1.2 as 65001;
    neighbor 10.0.1.1 as 65000;
    connect retry time 1; connect delay time 1; error wait time 1, 1;
    graceful restart off;
    ipv4 { import all; export none; };
}
CONF
ip netns exec peer bird -f -c peer.conf -s peer.ctl -P peer.pid > peer.log 2>&1 &

ip address add 192.0.2.1/32 dev lo scope host
ip address add 192.0.2.2/32 dev lo
echo 'frr defaults traditional' > zebra.conf
cat > bgpd.conf <<'CONF'
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
 address-family ipv4 unicast
  redistribute connected
CONF
cat > bird.conf <<'CONF'
router id 10.0.0.1;
protocol device {}
protocol direct { ipv4; interface "lo"; }
protocol bgp { local as 65000; neighbor 10.0.1.2 as 65001; ipv4 { import none; export all; }; }
CONF
chown frr:frr /run /run/frr zebra.conf bgpd.conf

announced() { birdc -s peer.ctl show route protocol uplink | grep -o '^192\.0\.2\.[12]/32' | sort | paste -sd ' '; }
no_route() { [[ -z $(announced || true) ]]; }
has_global() { announced | grep -q 192.0.2.2; }
status=0
try() { # NAME: what the daemons that run announce
    local seen
    until_so "$1 announces 192.0.2.2" has_global
    sleep 1
    seen=$(announced || true)
    echo "$1 announces $seen"
    [[ $seen == "192.0.2.1/32 192.0.2.2/32" ]] || { echo "expected: both" >&2; status=1; }
}
/usr/lib/frr/zebra -f zebra.conf -i zebra.pid -z zserv.api --vty_socket /run/frr -P 0 --log stdout > zebra.log 2>&1 &
daemons=("$!")
until_so "zebra listens" test -S zserv.api
/usr/lib/frr/bgpd -f bgpd.conf -i bgpd.pid -z zserv.api --vty_socket /run/frr -P 0 --log stdout > bgpd.log 2>&1 &
daemons+=("$!")
try frr
kill "${daemons[@]}"
wait "${daemons[@]}" || true
until_so "the peer has lost what frr announced" no_route
bird -f -c bird.conf -s bird.ctl -P bird.pid > bird.log 2>&1 &
try bird
exit "$status"
