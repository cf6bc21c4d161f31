#!/bin/bash
# OpenBGPD 7.7 (Debian 12, the portable one, on Linux) as a router, BIRD 2.0.12 as its neighbor.
#
# Both have the same password (`tcp md5sig password`), and the router's `neighbor` has `local-address 10.0.1.1`, the
# address that BIRD dials. OpenBGPD has `passive`, so BIRD has to dial.
#
# Expected before it was run: the session comes up. The address is the right one, so is the password, and `bgpd -n`
# finds nothing.
#
# Seen:
#
#     passive, password: up
#     passive, password, local-address: not up, the kernel drops its SYNs: no key for them
#     passive, password, local-address, listen on this address: not up, the kernel drops its SYNs: no key for them
#     passive, local-address: up
#     password, local-address, BIRD is passive: up
#
# Why: the listening sockets are never given the key (no setsockopt TCP_MD5SIG, says strace): `listener_match_peer`
# in the portable src/bgpd/pfkey-linux.c, which is to find those with the neighbor's `local-address`, finds none, the
# one of `listen on` neither. The sockets that OpenBGPD dials with get it elsewhere (`tcp_md5_set`). The 8.8 of Debian
# 13 and 9.3 set it in all these cases.
#
# What it means: with password and `local-address` only OpenBGPD can open the session, and nothing says so: the kernel
# counts (TcpExtTCPMD5Unexpected), OpenBGPD hears nothing, and the other end sees a router that does not answer. With
# `passive` there is no session at all. On 7.7 leave `local-address` out where it is the address of the link anyway.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and Debian 12's packages openbgpd and bird2.
# Half a minute.
set -euo pipefail

# All runs in namespaces of this script's own, /run included: they end with it, and nothing is left.
if [[ ${1-} != inside ]]; then
    job=
    clean() { [[ -z $job ]] || kill -KILL -- "-$job" 2>/dev/null || true; }
    trap clean EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    timeout --signal=KILL 170 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside &
    job=$!
    wait "$job"
    exit
fi
for wanted in openbgpd=7.7 bird2=2.0.12; do
    version=$(dpkg-query -W -f '${Version}' "${wanted%=*}" 2>/dev/null || true)
    [[ $version == "${wanted#*=}"-* ]] || { echo "this is about $wanted; installed: ${version:-none}" >&2; exit 1; }
    echo "${wanted%=*} $version"
done
mount -t tmpfs none /run
mkdir /run/netns /run/openbgpd
cd /run
export PATH=$PATH:/usr/sbin

ip link set lo up
ip netns add a
ip link add name a type veth peer name eth0 netns a
ip address add 10.0.1.1/24 dev a
ip link set dev a up
ip -n a address add 10.0.1.2/24 dev eth0
ip -n a link set eth0 up

unexpected() { nstat -asz TcpExtTCPMD5Unexpected | awk '/MD5Unexpected/ {print $2}'; }
up() { birdc -s bird.ctl show protocols node 2>/dev/null | grep -q Established; }

status=0
try() { # WORDS EXPECTED: what is in the two configurations, and what is to be seen
    local words=$1 expected=$2 password='' listen='' local='' passive='' bird_passive='' bird_password=''
    local daemon bird before end seen
    if [[ $words == *password* ]]; then
        password='tcp md5sig password "secret"'
        bird_password='password "secret";'
    fi
    [[ $words != *local-address* ]] || local='local-address 10.0.1.1'
    [[ $words != *'listen on'* ]] || listen='listen on 10.0.1.1'
    if [[ $words == *'BIRD is passive'* ]]; then bird_passive='passive on;'; else passive=passive; fi
    cat > openbgpd.conf <<CONF
AS 65000
router-id 10.0.1.1
socket "/run/openbgpd.ctl"
$listen
neighbor 10.0.1.2 {
    remote-as 65001
    $passive
    $password
    $local
}
allow from any
CONF
    chmod 600 openbgpd.conf
    cat > bird.conf <<CONF
router id 10.0.1.2;
protocol device {}
protocol bgp node {
    local 10.0.1.2 as 65001;
    neighbor 10.0.1.1 as 65000;
    $bird_password
    $bird_passive
    connect delay time 1;
    connect retry time 3;
    ipv4 { import all; export all; };
}
CONF
    before=$(unexpected)
    bgpd -d -f openbgpd.conf > openbgpd.log 2>&1 &
    daemon=$!
    ip netns exec a bird -f -c bird.conf -s bird.ctl -P bird.pid > bird.log 2>&1 &
    bird=$!
    end=$((SECONDS + 30))
    until up || (($(unexpected) >= before + 6)); do
        ((SECONDS < end)) || { echo "not in 30 seconds: $words" >&2; tail -n 5 openbgpd.log bird.log >&2; exit 1; }
        sleep 0.1
    done
    seen=up
    up || seen="not up, the kernel drops its SYNs: no key for them"
    echo "$words: $seen"
    [[ $seen == "$expected" ]] || { echo "expected: $expected" >&2; status=1; }
    kill "$bird" "$daemon"
    wait "$bird" "$daemon" || true
}
dropped="not up, the kernel drops its SYNs: no key for them"
try "passive, password" "up"
try "passive, password, local-address" "$dropped"
try "passive, password, local-address, listen on this address" "$dropped"
try "passive, local-address" "up"
try "password, local-address, BIRD is passive" "up"
exit "$status"
