#!/bin/bash
# FRR 8.4.4 (Debian 12) as the speaker of a node, a configuration without a line about it (profile `traditional`).
#
# `network 192.0.2.1/32` while no route to 192.0.2.1 is on the host; then the address is added to `lo`, then deleted.
#
# Expected before it was run: announced at once and always, like the static routes of other speakers, as nothing in
# the running configuration asks for more.
#
# Seen:
#
#     no address: `show bgp` has the prefix, the peer has not
#     address added: `show bgp` has the prefix, the peer has
#     address deleted: `show bgp` has the prefix, the peer has not
#     no address, `no bgp network import-check`: `show bgp` has the prefix, the peer has
#
# `bgp network import-check` is on unless it is turned off; `show running-config` has no line for it.
#
# What it means: a health checker that writes `network` lines must have the address on the host first, or have the
# check turned off; that the prefix is in the table of bgpd proves nothing. The other side of it: with the check on,
# an address that is taken off `lo` withdraws the route.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and Debian 12's packages frr and bird2.
# Half a minute.
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

echo 'frr defaults traditional' > zebra.conf
cat > bgpd.conf <<'CONF'
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
 address-family ipv4 unicast
  network 192.0.2.1/32
CONF
chown frr:frr /run /run/frr zebra.conf bgpd.conf

/usr/lib/frr/zebra -f zebra.conf -i zebra.pid -z zserv.api --vty_socket /run/frr -P 0 --log stdout > zebra.log 2>&1 &
until_so "zebra listens" test -S zserv.api
/usr/lib/frr/bgpd -f bgpd.conf -i bgpd.pid -z zserv.api --vty_socket /run/frr -P 0 --log stdout > bgpd.log 2>&1 &
status=0
tell() { # EXPECTED WORDS
    local table="has not" peer="has not"
    sleep 3
    ! vtysh --vty_socket /run/frr -d bgpd -c 'show bgp ipv4 unicast' | grep -q 192.0.2.1/32 || table=has
    ! birdc -s peer.ctl show route protocol uplink | grep -q 192.0.2.1/32 || peer=has
    echo "$2: \`show bgp\` $table the prefix, the peer $peer"
    [[ "$table, $peer" == "$1" ]] || { echo "expected: $1" >&2; status=1; }
}
up() { birdc -s peer.ctl show protocols uplink | grep -q Established; }
until_so "the session is up" up
if vtysh --vty_socket /run/frr -d bgpd -c 'show running-config' | grep import-check; then
    echo "expected: no line about import-check" >&2
    status=1
fi
tell "has, has not" "no address"
ip address add 192.0.2.1/32 dev lo
tell "has, has" "address added"
ip address delete 192.0.2.1/32 dev lo
tell "has, has not" "address deleted"
vtysh --vty_socket /run/frr -d bgpd -c 'configure terminal' -c 'router bgp' -c 'no bgp network import-check'
tell "has, has" "no address, \`no bgp network import-check\`"
exit "$status"
