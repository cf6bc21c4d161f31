#!/bin/bash
# FRR 8.4.4, BIRD 2.0.12, GoBGP 3.10.0, OpenBGPD 7.7 (all Debian 12), each as a router.
#
# A node with ExaBGP 5.0.15 announces a prefix by eBGP with `extended-community [ bandwidth:65001:125000000 ]`: on the
# wire 4004 fde9 4cee6b28, which is the link bandwidth community (draft-ietf-idr-link-bandwidth) of AS 65001 with
# 125e6 bytes a second (1 Gbit/s) as an IEEE float.
#
# Expected before it was run: all four show a bandwidth, or the eight octets as they are.
#
# Seen:
#
#     frr: LB:65001:125000000 (1.000 Gbps)
#     bird: (unknown 0x4004, 65001, 1290693416)
#     gobgp: 65001:125000000
#     openbgpd: none
#
# BIRD's third number is the float's bits read as an integer. OpenBGPD drops the community: its type is
# non-transitive, and between two ASes such a one is not to pass.
#
# What it means: a number that BIRD shows is not the bandwidth (0x4cee6b28 is 1.25e8), and 3 : 1 does not look like it
# there. Over eBGP nothing can be weighed by it on OpenBGPD.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and Debian 12's packages frr, bird2,
# gobgpd and openbgpd, python3 with venv and PyPI. Half a minute.
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

ip link set lo up
ip netns add a
ip link add name a type veth peer name eth0 netns a
ip address add 10.0.1.1/24 dev a
ip link set dev a up
ip -n a address add 10.0.1.2/24 dev eth0
ip -n a link set eth0 up
cat > exabgp.conf <<'CONF'
neighbor 10.0.1.1 {
    router-id 10.0.1.2;
    local-address 10.0.1.2;
    local-as 65001;
    peer-as 65000;
    static {
        route 192.0.2.1/32 next-hop self extended-community [ bandwidth:65001:125000000 ];
    }
}
CONF

cat > frr.conf <<'CONF'
router bgp 65000
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
 address-family ipv4 unicast
  maximum-paths 1
CONF
cat > bird.conf <<'CONF'
router id 10.0.0.1;
protocol device {}
template bgp node { local as 65000; ipv4 { import all; export none; }; }
protocol bgp a from node { neighbor 10.0.1.2 as 65001; }
CONF
cat > gobgp.conf <<'CONF'
[global.config]
as = 65000
router-id = "10.0.0.1"
[[neighbors]]
[neighbors.config]
neighbor-address = "10.0.1.2"
peer-as = 65001
CONF
cat > openbgpd.conf <<'CONF'
AS 65000
router-id 10.0.0.1
socket "/run/openbgpd.ctl"
neighbor 10.0.1.2 { remote-as 65001 }
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
table() { # ROUTER: what it says of the path
    case $1 in
    frr) vtysh --vty_socket /run/frr -c 'show bgp ipv4 unicast 192.0.2.1/32' ;;
    bird) birdc -s bird.ctl show route all 192.0.2.1/32 ;;
    gobgp) gobgp global rib ;;
    openbgpd) bgpctl -s openbgpd.ctl show rib detail 192.0.2.1/32 ;;
    esac
}
has() { table "$1" | grep -q '65001'; }
community() { # ROUTER: how it shows the community
    local text
    text=$(table "$1")
    case $1 in
    frr) grep -o 'LB:.*' <<< "$text" ;;
    bird) sed -n 's/.*BGP.ext_community: //p' <<< "$text" ;;
    gobgp) grep -o 'Extcomms: .*' <<< "$text" | grep -o '[0-9]\+:[0-9]\+' ;;
    openbgpd) sed -n 's/.*[Ee]xt[a-z.]* [Cc]ommunities: *//p' <<< "$text" ;;
    esac
}

declare -A expected=(
    [frr]='LB:65001:125000000 (1.000 Gbps)' [bird]='(unknown 0x4004, 65001, 1290693416)'
    [gobgp]=65001:125000000 [openbgpd]=none
)
status=0
for router in frr bird gobgp openbgpd; do
    start "$router"
    pid=$!
    ip netns exec a env exabgp.daemon.user=root "$exabgp" exabgp.conf > exabgp.log 2>&1 &
    node=$!
    until_so "$router has the prefix" has "$router"
    seen=$(community "$router" || true)
    seen=${seen:-none}
    echo "$router: $seen"
    [[ $seen == "${expected[$router]}" ]] || { echo "expected: ${expected[$router]}" >&2; status=1; }
    kill "$node" "$pid"
    wait "$node" "$pid" || true
done
exit "$status"
