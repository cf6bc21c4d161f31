#!/bin/bash
# ExaBGP 5.0.15 with FRR 8.4.4 (Debian 12) as its peer.
#
# A route is announced to an established session. The router's bgpd is stopped. While the session is down a process of
# ExaBGP's gives API commands about the route, one at a time, each when the one before was answered `done`:
#
#     W  withdraw route 192.0.2.1/32
#     A  announce route 192.0.2.1/32 next-hop self med 100
#
# Then bgpd is started again. What does the router have, and what does `show adj-rib out` say?
#
# Expected before it was run: commands take effect in their order, so the last one decides, and the adj-rib-out says so.
#
# Seen:
#
#     announced, session down, W: the router has not the route; adj-rib out has not
#     announced, session down, W A W: the router has the route; adj-rib out has not
#     announced, session down, W A: the router has the route; adj-rib out has
#
# What it means: a service that flaps while the router is away may be announced though it is down, and nothing that the
# API tells shows it. A withdraw with the very attributes of the announcement (`withdraw route 192.0.2.1/32 next-hop self
# med 100`) is always carried out.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root, Debian 12's package frr, python3 with venv
# and PyPI. A minute.
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
 no bgp ebgp-requires-policy
 neighbor 10.0.1.2 remote-as 65001
CONF
chown frr:frr /run /run/frr bgpd.conf
router() {
    /usr/lib/frr/bgpd -f bgpd.conf -i bgpd.pid -Z -P 0 --vty_socket /run/frr --log stdout > bgpd.log 2>&1 &
    bgpd=$!
}
router

# The API process: what comes through `in` is written to ExaBGP in one piece, its answers go to `answers`.
mkfifo in
exec 3<> in
cat > api.py <<'PYTHON'
import os
import threading


def relay(source, target):
    while data := os.read(source, 65536):
        os.write(target, data)
    os._exit(0)


threading.Thread(target=relay, args=(0, os.open("/run/answers", os.O_WRONLY | os.O_CREAT | os.O_APPEND))).start()
relay(os.open("/run/in", os.O_RDONLY), 1)
PYTHON
cat > exabgp.conf <<CONF
process api {
    run $2/venv/bin/python /run/api.py;
    encoder text;
}
neighbor 10.0.1.1 {
    router-id 10.0.1.2;
    local-address 10.0.1.2;
    local-as 65001;
    peer-as 65000;
    family { ipv4 unicast; }
    api { processes [ api ]; }
}
CONF
ip netns exec node env exabgp.daemon.user=root "$exabgp" exabgp.conf > exabgp.log 2>&1 &

W='withdraw route 192.0.2.1/32' A='announce route 192.0.2.1/32 next-hop self med 100'
up() { vtysh --vty_socket /run/frr -d bgpd -c 'show bgp neighbors 10.0.1.2' | grep -q 'BGP state = Established'; }
route() { vtysh --vty_socket /run/frr -d bgpd -c 'show bgp ipv4 unicast' | grep -q 192.0.2.1/32; }
no_route() { ! route; }
answered() { [[ $(grep -c . answers) -ge $1 ]]; }
send() { # COMMAND...: in one write; until all are answered
    : > answers
    printf '%s\n' "$@" >&3
    until_so "$# answers" answered "$#"
}
adj_rib() {
    : > answers
    echo 'show adj-rib out' >&3
    until_so "an answer" grep -q done answers
    grep -q 192.0.2.1/32 answers
}
status=0
tell() { # EXPECTED WORDS
    local router="has not" rib="has not"
    sleep 3
    ! route || router=has
    ! adj_rib || rib=has
    echo "$2: the router $router the route; adj-rib out $rib"
    [[ "$router, $rib" == "$1" ]] || { echo "expected: $1" >&2; status=1; }
}
: > answers
try() { # EXPECTED WORDS COMMAND...: the commands while the session is down, after an announcement
    local expected=$1 words=$2 command
    shift 2
    until_so "the session is up" up
    send "$A"
    until_so "the router has the route" route
    kill "$bgpd"
    wait "$bgpd" || true
    sleep 1
    for command in "$@"; do
        send "$command"
        sleep 0.5
    done
    router
    until_so "the session is up again" up
    tell "$expected" "$words"
    # The same attributes as the announcement: this one is always carried out.
    send "withdraw route 192.0.2.1/32 next-hop self med 100"
    until_so "the router has no route" no_route
}
try "has not, has not" "announced, session down, W" "$W"
try "has, has not" "announced, session down, W A W" "$W" "$A" "$W"
try "has, has" "announced, session down, W A" "$W" "$A"
exit "$status"
