#!/bin/bash
# FRR 8.4.4 and BIRD 2.0.12 (Debian 12) as routers, with BFD for a BGP neighbor; the node runs FRR's bfdd beside its
# BGP speaker, 100 ms and multiplier 3.
#
# The node's BFD peer is shut down in order (`shutdown`, which sends AdminDown); in another run bfdd is ended in order
# (SIGTERM). The BGP speaker goes on.
#
# Expected before it was run: AdminDown tells that BFD goes and the path does not, so the BGP session stays (RFC
# 5882); bfdd sends it as well when it is ended, as the last thing it does.
#
# Seen:
#
#     FRR, shutdown: the BGP session is reset
#     FRR, SIGTERM: the BGP session is reset
#     BIRD, shutdown: the BGP session is reset
#     BIRD, SIGTERM: the BGP session is reset
#
# What it means: BFD cannot be taken away from under a live session without a reset, neither for an upgrade of FRR on
# the node nor for a change of timers. Drain the node first, or take BFD off at the router first.
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
for wanted in frr=8.4.4 bird2=2.0.12; do
    version=$(dpkg-query -W -f '${Version}' "${wanted%=*}" 2>/dev/null || true)
    [[ $version == "${wanted#*=}"-* ]] || { echo "this is about $wanted; installed: ${version:-none}" >&2; exit 1; }
    echo "${wanted%=*} $version"
done
mount -t tmpfs none /run
mount -t tmpfs none /var/tmp # FRR leaves folders there
mkdir /run/netns /run/frr /run/node
cd /run
export PATH=$PATH:/usr/sbin

until_so() { # WHAT COMMAND...: waits until the command succeeds, 30 seconds at most
    local what=$1 end=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "not in 30 seconds: $what" >&2; tail -n 5 ./*.log >&2; exit 1; }
        sleep 0.02
    done
}
frr() { # NETNS FOLDER DAEMON WORD...: starts it with FOLDER/DAEMON.conf; its process is $!
    local place=$1 folder=$2 name=$3
    shift 3
    ip netns exec "$place" "/usr/lib/frr/$name" -f "$folder/$name.conf" -i "$folder/$name.pid" -z "$folder/zserv.api" \
        --vty_socket "$folder" -P 0 --log stdout "$@" > "$name-$place.log" 2>&1 &
}

ip link set lo up
for name in router node; do ip netns add "$name"; ip -n "$name" link set lo up; done
ip link add name r type veth peer name n
ip link set dev r netns router
ip link set dev n netns node
ip -n router address add 10.0.1.1/24 dev r
ip -n node address add 10.0.1.2/24 dev n
ip -n router link set dev r up
ip -n node link set dev n up

# The node: BIRD for BGP, bfdd for BFD.
cat > node.conf <<'CONF'
router id 10.0.1.2;
protocol device {}
protocol bgp {
    local 10.0.1.2 as 65001;
    neighbor 10.0.1.1 as 65000;
    connect retry time 1; connect delay time 1; error wait time 1, 1;
    ipv4 { import none; export none; };
}
CONF
echo 'frr defaults traditional' | tee node/zebra.conf > frr/zebra.conf
cp frr/zebra.conf frr/bfdd.conf
cat > node/bfdd.conf <<'CONF'
bfd
 peer 10.0.1.1 local-address 10.0.1.2 interface n
  transmit-interval 100
  receive-interval 100
  detect-multiplier 3
 !
!
CONF
cat > frr/bgpd.conf <<'CONF'
router bgp 65000
 bgp router-id 10.0.0.1
 bgp log-neighbor-changes
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
 neighbor 10.0.1.2 bfd
CONF
chown -R frr:frr /run/frr /run/node
chown frr:frr /run
frr node node zebra
until_so "zebra of the node listens" test -S node/zserv.api
ip netns exec node bird -f -c node.conf -s node.ctl -P node.pid > node.log 2>&1 &

up() { # ROUTER
    case $1 in
    FRR) vtysh --vty_socket /run/frr -d bfdd -c 'show bfd peers' | grep -q 'Status: up' ;;
    BIRD) birdc -s bird.ctl show bfd sessions | grep -q '10.0.1.2 .* Up ' ;;
    esac
}
resets() { # ROUTER: how often the session ended
    case $1 in
    FRR) grep -c 'ADJCHANGE: neighbor 10.0.1.2.* Down' bgpd-router.log || true ;;
    BIRD) grep -c 'node: State changed to stop' bird.log || true ;;
    esac
}
status=0
try() { # ROUTER WAY
    local before after
    rm -f node/bfdd.vty
    frr node node bfdd --bfdctl /run/node/bfdd.sock
    local bfdd=$!
    until_so "BFD is up" up "$1"
    sleep 2
    before=$(resets "$1")
    if [[ $2 == shutdown ]]; then
        vtysh --vty_socket /run/node -d bfdd -c 'configure terminal' -c bfd \
            -c 'peer 10.0.1.1 local-address 10.0.1.2 interface n' -c shutdown
    else
        kill "$bfdd"
    fi
    sleep 3
    after=$(resets "$1")
    if ((after > before)); then
        echo "$1, $2: the BGP session is reset"
    else
        echo "$1, $2: the BGP session stays"
        status=1
    fi
    { kill -KILL "$bfdd" || true; wait "$bfdd" || true; } 2>/dev/null
}
frr router frr zebra
daemons=("$!")
until_so "zebra of the router listens" test -S frr/zserv.api
frr router frr bfdd --bfdctl /run/frr/bfdd.sock
daemons+=("$!")
until_so "bfdd of the router listens" test -S frr/bfdd.vty
frr router frr bgpd
daemons+=("$!")
try FRR shutdown
try FRR SIGTERM
kill "${daemons[@]}"
{ wait "${daemons[@]}" || true; } 2>/dev/null
cat > bird.conf <<'CONF'
router id 10.0.0.1;
log stderr all;
debug protocols { states };
protocol device {}
protocol bfd {}
protocol bgp node {
    local as 65000;
    neighbor 10.0.1.2 as 65001;
    bfd on;
    error wait time 1, 1;
    ipv4 { import all; export none; };
}
CONF
ip netns exec router bird -f -c bird.conf -s bird.ctl -P bird.pid > bird.log 2>&1 &
try BIRD shutdown
try BIRD SIGTERM
exit "$status"
