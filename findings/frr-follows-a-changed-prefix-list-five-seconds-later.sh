#!/bin/bash
# FRR 8.4.4 (Debian 12) as router. The inbound route-map of a neighbor matches one prefix-list, the neighbor has
# `soft-reconfiguration inbound`.
#
# The prefix-list is taken away, and written again as it was, by vtysh.
#
# Expected before it was run: the route leaves the kernel at once and comes back with the list. So a file that begins
# with `no ip prefix-list …` interrupts traffic each time it is loaded.
#
# Seen:
#
#     away for 3 s: the kernel's route is never gone
#     away for 8 s: gone 5 s after the list, back 5 s after the list
#
# Changes reach the route-map after `bgp route-map delay-timer`, by default 5 s, which runs from the first change.
#
# What it means: to write a list anew within five seconds costs nothing. And one who takes a prefix off the list to
# move traffic has to wait five seconds until it moves: `show running-config` has the change long before.
#
# Exits 0 if exactly this is seen (each time within a second), else 1 and says what differs. Needs root and Debian
# 12's packages frr and bird2. Forty seconds.
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
export TZ=UTC
version=$(dpkg-query -W -f '${Version}' frr 2>/dev/null || true)
[[ $version == 8.4.4-* ]] || { echo "this is about frr 8.4.4; installed: ${version:-none}" >&2; exit 1; }
echo "frr $version"
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

# The node is a BIRD with a static route.
ip link set lo up
ip netns add node
ip link add name node type veth peer name eth0 netns node
ip address add 10.0.1.1/24 dev node
ip link set dev node up
ip -n node address add 10.0.1.2/24 dev eth0
ip -n node link set eth0 up
cat > node.conf <<'CONF'
router id 10.0.1.2;
protocol device {}
protocol static { ipv4; route 192.0.2.1/32 blackhole; }
protocol bgp {
    local 10.0.1.2 as 65001;
    neighbor 10.0.1.1 as 65000;
    connect retry time 1; connect delay time 1; error wait time 1, 1;
    ipv4 { import none; export all; };
}
CONF
ip netns exec node bird -f -c node.conf -s node.ctl -P node.pid > node.log 2>&1 &

echo 'frr defaults traditional' > zebra.conf
cat > bgpd.conf <<'CONF'
ip prefix-list VIPS seq 5 permit 192.0.2.1/32
route-map IN permit 10
 match ip address prefix-list VIPS
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
 address-family ipv4 unicast
  neighbor 10.0.1.2 soft-reconfiguration inbound
  neighbor 10.0.1.2 route-map IN in
CONF
chown -R frr:frr /run/frr ./zebra.conf ./bgpd.conf
chown frr:frr /run
/usr/lib/frr/zebra -f zebra.conf -i zebra.pid -z zserv.api --vty_socket /run/frr -P 0 --log stdout > zebra.log 2>&1 &
until_so "zebra listens" test -S zserv.api
/usr/lib/frr/bgpd -f bgpd.conf -i bgpd.pid -z zserv.api --vty_socket /run/frr -P 0 --log stdout > bgpd.log 2>&1 &
until_so "the route is in the kernel" eval 'ip route show 192.0.2.1 | grep -q via'
sleep 6 # what the start had to apply has been applied

ip -ts monitor route > events 2>&1 &
sleep 0.5
list() { # COMMAND: at what second it was done
    vtysh --vty_socket /run/frr -d bgpd -c 'configure terminal' -c "$1"
    date -u +%s
}
at() { # PATTERN: the second of the first such event of the VIP's route; nothing if there is none
    python3 - "$1" <<'PYTHON'
import datetime, sys
stamp = None
for line in open("events"):
    if line.startswith("["):
        stamp, line = line[1:].split("] ", 1)
    if "192.0.2.1" in line and line.startswith("Deleted") == (sys.argv[1] == "deleted"):
        print(round(datetime.datetime.fromisoformat(stamp + "+00:00").timestamp()))
        break
PYTHON
}
near() { ((${1:-0} - $2 >= $3 - 1 && ${1:-0} - $2 <= $3 + 1)); }

status=0
list 'no ip prefix-list VIPS' > /dev/null
sleep 3
list 'ip prefix-list VIPS seq 5 permit 192.0.2.1/32' > /dev/null
sleep 8
if [[ ! -s events ]]; then
    echo "away for 3 s: the kernel's route is never gone"
else
    echo "away for 3 s:"; cat events; status=1
fi
removed=$(list 'no ip prefix-list VIPS')
sleep 8
written=$(list 'ip prefix-list VIPS seq 5 permit 192.0.2.1/32')
sleep 8
gone=$(at deleted)
back=$(at added)
if near "$gone" "$removed" 5 && near "$back" "$written" 5; then
    echo "away for 8 s: gone 5 s after the list, back 5 s after the list"
else
    echo "away for 8 s: gone ${gone:-never} (list gone at $removed), back ${back:-never} (list back at $written)"
    cat events
    status=1
fi
exit "$status"
