#!/bin/bash
# FRR 8.4.4 and BIRD 2.0.12 (Debian 12) as routers; the node runs FRR's bfdd with transmit and receive interval 100 ms
# and multiplier 3 beside its BGP speaker.
#
# The node's bfdd is frozen. How long until the router's BFD session is down?
#
# Expected before it was run: 0.3 s with all of them, since the node sends each 100 ms and three are missed; with
# BIRD's `multiplier 10` ten are missed.
#
# Seen (median of three):
#
#     FRR, `neighbor … bfd`: 0.6 to 1.0 s
#     BIRD, `bfd on`: 0.2 to 0.4 s
#     BIRD, `interval 300 ms; multiplier 10`: 0.6 to 1.0 s
#
# The node may send no faster than the router is willing to receive, which is 300 ms in FRR and 10 ms in BIRD unless
# said otherwise, and it is the multiplier of the node, the side that is silent, that counts.
#
# What it means: `neighbor … bfd` alone is three times as slow as the node's timers; write `neighbor … bfd 3 100 100`.
# The router's own multiplier says how soon the node gives up the router, not how soon the router gives up the node.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and Debian 12's packages frr and bird2.
# Half a minute; a machine that is busy beyond its processors can spoil it.
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
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
 neighbor 10.0.1.2 bfd
CONF
chown -R frr:frr /run/frr /run/node
chown frr:frr /run
frr node node zebra
until_so "zebra of the node listens" test -S node/zserv.api
frr node node bfdd --bfdctl /run/node/bfdd.sock
bfdd=$!
ip netns exec node bird -f -c node.conf -s node.ctl -P node.pid > node.log 2>&1 &

up() { # ROUTER
    case $1 in
    FRR) vtysh --vty_socket /run/frr -d bfdd -c 'show bfd peers' | grep -q 'Status: up' ;;
    BIRD) birdc -s bird.ctl show bfd sessions | grep -q '10.0.1.2 .* Up ' ;;
    esac
}
down() { ! up "$1"; }
now() { printf '%s' "${EPOCHREALTIME/./}"; }
status=0
measure() { # ROUTER WORDS LEAST MOST (milliseconds)
    local n begin seen=() median
    for n in 1 2 3; do
        until_so "BFD is up" up "$1"
        sleep 2 # the intervals have been agreed on
        begin=$(now)
        kill -STOP "$bfdd"
        until_so "BFD is down" down "$1"
        seen+=("$((($(now) - begin) / 1000))")
        kill -CONT "$bfdd"
    done
    median=$(printf '%s\n' "${seen[@]}" | sort -n | sed -n 2p)
    if ((median >= $3 && median <= $4)); then
        printf '%s, %s: 0.%d to %d.%d s\n' "$1" "$2" $(($3 / 100)) $(($4 / 1000)) $(($4 / 100 % 10))
    else
        echo "$1, $2: $median ms of ${seen[*]}; expected: $3 to $4"
        status=1
    fi
}
frr router frr zebra
daemons=("$!")
until_so "zebra of the router listens" test -S frr/zserv.api
frr router frr bfdd --bfdctl /run/frr/bfdd.sock
daemons+=("$!")
until_so "bfdd of the router listens" test -S frr/bfdd.vty
frr router frr bgpd
daemons+=("$!")
measure FRR '`neighbor … bfd`' 600 1000
kill "${daemons[@]}"
{ wait "${daemons[@]}" || true; } 2>/dev/null

bird() { # WORD...: in the block of the BFD protocol
    cat > bird.conf <<CONF
router id 10.0.0.1;
protocol device {}
protocol bfd { $* }
protocol bgp { local as 65000; neighbor 10.0.1.2 as 65001; bfd on; error wait time 1, 1; ipv4 { import all; export none; }; }
CONF
    ip netns exec router bird -f -c bird.conf -s bird.ctl -P bird.pid > bird.log 2>&1 &
    daemon=$!
}
bird ''
measure BIRD '`bfd on`' 200 400
kill "$daemon"
{ wait "$daemon" || true; } 2>/dev/null
bird 'interface "*" { interval 300 ms; multiplier 10; };'
measure BIRD '`interval 300 ms; multiplier 10`' 600 1000
exit "$status"
