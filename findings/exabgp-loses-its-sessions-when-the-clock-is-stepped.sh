#!/bin/bash
# ExaBGP 5.0.15 with FRR 8.4.4 (Debian 12) as its peer, hold time 9 s on both sides.
#
# The wall clock is stepped under an established session, once by an hour forwards, once by an hour backwards. (Only
# for the process of ExaBGP: Python's time.time(), which is the wall clock, is given the step, time.monotonic() is
# not.)
#
# Expected before it was run: nothing; intervals are measured with the monotonic clock.
#
# Seen:
#
#     one hour forwards: the session ends after 0 s, by ExaBGP
#     one hour backwards: the session ends after 7 s, by FRR
#
# Both times for "Hold Timer Expired": its timers are of the wall clock. After the step backwards it sends no
# keepalives.
#
# What it means: a host whose clock is set after ExaBGP was started (no clock of its own, a machine that was resumed)
# loses all its routes once, and where all nodes are corrected together, all of them at the same moment. Step the
# clock first; let the time daemon only slew later.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root, Debian 12's package frr, python3 with
# venv and PyPI. A minute.
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
    cat > "$(echo "$folder"/venv/lib/python3*/site-packages)/sitecustomize.py" <<'PYTHON'
import time

wall = time.time


def stepped():
    try:
        with open("/run/offset") as file:
            return wall() + float(file.read() or 0)
    except FileNotFoundError:
        return wall()


time.time = stepped
PYTHON
    timeout --signal=KILL 110 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside "$folder" &
    job=$!
    wait "$job"
    exit
fi
exabgp=$2/venv/bin/exabgp
version=$(dpkg-query -W -f '${Version}' frr 2>/dev/null || true)
[[ $version == 8.4.4-* ]] || { echo "this is about frr 8.4.4; installed: ${version:-none}" >&2; exit 1; }
echo "frr $version, $("$exabgp" version | sed -n 's/ExaBGP : /ExaBGP /p')"
mount -t tmpfs none /run
mount -t tmpfs none /var/tmp # FRR leaves folders there
mkdir /run/netns /run/frr
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
ip netns add node
ip link add name node type veth peer name eth0 netns node
ip address add 10.0.1.1/24 dev node
ip link set dev node up
ip -n node address add 10.0.1.2/24 dev eth0
ip -n node link set eth0 up
cat > bgpd.conf <<'CONF'
router bgp 65000
 bgp router-id 10.0.0.1
 bgp log-neighbor-changes
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
 neighbor 10.0.1.2 timers 3 9
CONF
chown frr:frr /run /run/frr bgpd.conf
/usr/lib/frr/bgpd -f bgpd.conf -i bgpd.pid -Z -P 0 --vty_socket /run/frr --log stdout > bgpd.log 2>&1 &

cat > exabgp.conf <<'CONF'
neighbor 10.0.1.1 {
    router-id 10.0.1.2;
    local-address 10.0.1.2;
    local-as 65001;
    peer-as 65000;
    hold-time 9;
}
CONF
summary() { vtysh --vty_socket /run/frr -d bgpd -c 'show bgp neighbors 10.0.1.2'; }
up() { summary | grep -q 'BGP state = Established'; }
status=0
try() { # STEP WORDS LEAST MOST WHO: who ends it after how many seconds
    local begin after who=nobody told
    echo +0 > offset
    ip netns exec node env exabgp.daemon.user=root "$exabgp" exabgp.conf > exabgp.log 2>&1 &
    local node=$!
    until_so "the session is up" up
    sleep 5
    up || { echo "the session does not stand before the step" >&2; status=1; }
    local resets lines
    lines=$(($(wc -l < bgpd.log) + 1))
    resets=$(summary | sed -n 's/.*Connections established \([0-9]*\);.*/\1/p')
    echo "$1" > offset
    begin=$SECONDS
    gone() { ! up || [[ $(summary | sed -n 's/.*Connections established \([0-9]*\);.*/\1/p') -gt $resets ]]; }
    until_so "the session has ended" gone
    after=$((SECONDS - begin))
    told=$(tail -n "+$lines" bgpd.log | grep -m 1 NOTIFICATION || true)
    case $told in
    *'received from'*'4/0 (Hold Timer Expired)'*) who=ExaBGP ;;
    *'sent to'*'4/0 (Hold Timer Expired)'*) who=FRR ;;
    esac
        echo "$2: the session ends after $after s, by $who"
    [[ $who == "$5" ]] && ((after >= $3 && after <= $4)) || { echo "expected: $3 to $4 s, by $5" >&2; echo "$told"; status=1; }
    { kill -KILL "$node"; wait "$node" || true; } 2>/dev/null
    sleep 1
}
try +3600 "one hour forwards" 0 3 ExaBGP
try -3600 "one hour backwards" 5 12 FRR
exit "$status"
