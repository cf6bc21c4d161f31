#!/bin/bash
# OpenBGPD 7.7 (Debian 12, the portable one, on Linux) as a router, BIRD 2.0.12 as its neighbor.
#
# Both have the same password (`tcp md5sig password`), the session is up, with a hold time of 9 s. The password in the
# router's file is changed, and `bgpctl reload` says that it has read it. The neighbor keeps the old one.
#
# Expected before it was run: the session ends at once (other routers end it with a NOTIFICATION, "Other Configuration
# Change"), or within the hold time, for the kernel drops what is signed otherwise.
#
# Seen:
#
#     reload: request processed
#     27 s after it, three hold times: up, the same session
#     the session is ended by hand: not up within 20 s
#
# Why: the key of an open connection stays in its socket; the new one is taken for the next connection.
#
# What it means: a rotated password looks as if it had been taken, by both ends, and the session fails at its next reset,
# days later, perhaps in the middle of a maintenance, when nobody thinks of passwords any more. After a change of the
# password end the session yourself (`bgpctl neighbor X clear`), one router at a time.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and Debian 12's packages openbgpd and bird2.
# A minute.
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

conf() { # PASSWORD
    cat > openbgpd.conf <<CONF
AS 65000
router-id 10.0.1.1
socket "/run/openbgpd.ctl"
holdtime 9
neighbor 10.0.1.2 {
    remote-as 65001
    passive
    tcp md5sig password "$1"
}
allow from any
CONF
    chmod 600 openbgpd.conf
}
cat > bird.conf <<CONF
router id 10.0.1.2;
protocol device {}
protocol bgp node {
    local 10.0.1.2 as 65001;
    neighbor 10.0.1.1 as 65000;
    password "old";
    hold time 9;
    connect delay time 1;
    connect retry time 3;
    ipv4 { import all; export all; };
}
CONF
up() { birdc -s bird.ctl show protocols node 2>/dev/null | grep -q Established; }
since() { birdc -s bird.ctl show protocols node | awk '/^node/ {print $5}'; }

conf old
bgpd -d -f openbgpd.conf > openbgpd.log 2>&1 &
ip netns exec a bird -f -c bird.conf -s bird.ctl -P bird.pid > bird.log 2>&1 &
end=$((SECONDS + 40))
until up; do
    ((SECONDS < end)) || { echo "the session does not come up" >&2; tail -n 5 openbgpd.log bird.log >&2; exit 1; }
    sleep 0.2
done
first=$(since)
conf new
seen=$(
    echo "reload: $(bgpctl -s /run/openbgpd.ctl reload | tail -n 1)"
    sleep 27
    if ! up; then stands="not up"; elif [[ $(since) == "$first" ]]; then stands="up, the same session"; else stands="up, another one"; fi
    echo "27 s after it, three hold times: $stands"
    birdc -s bird.ctl restart node > /dev/null
    sleep 1
    stands="not up within 20 s"
    for _ in {1..100}; do
        ! up || stands=up
        sleep 0.2
    done
    echo "the session is ended by hand: $stands"
)
echo "$seen"
expected="reload: request processed
27 s after it, three hold times: up, the same session
the session is ended by hand: not up within 20 s"
if [[ $seen != "$expected" ]]; then
    printf 'expected:\n%s\n' "$expected" >&2
    tail -n 5 openbgpd.log bird.log >&2
    exit 1
fi
