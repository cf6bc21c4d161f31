#!/bin/bash
# FRR 8.4.4 (Debian 12) as router, without watchfrr: bgpd and zebra.
#
# zebra is killed (SIGKILL) while bgpd has a route of a node by eBGP. Then the node withdraws and announces again;
# then zebra is started again.
#
# Expected before it was run: the kernel keeps the route while zebra is away, as is well known; when zebra is back,
# bgpd connects to it and sends its routes anew, within seconds.
#
# Seen:
#
#     zebra is killed: bgpd has the path, the kernel has the route
#     the node withdraws: bgpd has no path, the kernel has the route
#     the node announces again, zebra is back for 30 s: bgpd has the path, the kernel has no route
#     clear bgp *: bgpd has the path, the kernel has the route
#
# What it means: a zebra that was restarted alone has lost all BGP routes until each session is reset or each route
# changes, and neither the session nor `show bgp` tells. Under watchfrr (the default of the package) bgpd is restarted
# with zebra; a container or unit that restarts zebra alone must do the same.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and Debian 12's packages frr and bird2. A
# minute.
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
protocol static vip { ipv4; route 192.0.2.1/32 blackhole; }
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
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
CONF
chown frr:frr /run /run/frr zebra.conf bgpd.conf

bgpd() { vtysh --vty_socket /run/frr -d bgpd -c "$1"; }
zebra() {
    /usr/lib/frr/zebra -f zebra.conf -i zebra.pid -z zserv.api --vty_socket /run/frr -P 0 --log stdout > zebra.log 2>&1 &
    zebra=$!
    until_so "zebra listens" vtysh --vty_socket /run/frr -d zebra -c 'show version'
}
kernel() { ip route show 192.0.2.1 | grep -q .; }
best() { bgpd 'show bgp ipv4 unicast 192.0.2.1/32' | grep -q 'valid.*best'; }
no_path() { ! best; }
status=0
tell() { # EXPECTED WORDS: says what is so
    local kernel="no route" bgpd="no path"
    ! kernel || kernel="the route"
    ! best || bgpd="the path"
    echo "$2: bgpd has $bgpd, the kernel has $kernel"
    [[ "$bgpd, $kernel" == "$1" ]] || { echo "expected: $1" >&2; status=1; }
}

zebra
/usr/lib/frr/bgpd -f bgpd.conf -i bgpd.pid -z zserv.api --vty_socket /run/frr -P 0 --log stdout > bgpd.log 2>&1 &
until_so "the route is in the kernel" kernel
kill -KILL "$zebra"
{ wait "$zebra" || true; } 2>/dev/null
sleep 2
tell "the path, the route" "zebra is killed"
birdc -s node.ctl disable vip > /dev/null
until_so "bgpd has no path" no_path
sleep 2
tell "no path, the route" "the node withdraws"
birdc -s node.ctl enable vip > /dev/null
until_so "bgpd has the path" best
zebra
sleep 30
tell "the path, no route" "the node announces again, zebra is back for 30 s"
bgpd 'clear bgp *' > /dev/null
until_so "the route is in the kernel" kernel
until_so "bgpd has the path" best
tell "the path, the route" "clear bgp *"
exit "$status"
