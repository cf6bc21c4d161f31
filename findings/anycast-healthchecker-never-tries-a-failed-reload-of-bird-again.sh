#!/bin/bash
# anycast-healthchecker 0.9.10 (PyPI) with BIRD 2.0.12 (Debian 12), one service, a check each second, two of two.
#
# An operator is editing: a file that bird.conf includes has an error of syntax. Meanwhile the service dies. Then the
# file is mended; nobody types `birdc configure`.
#
# Expected before it was run: the program goes on checking each second, so it tells BIRD again until it succeeds; the
# route is gone a few seconds after the file was mended.
#
# Seen:
#
#     the service is well: the prefix is in the program's file, BIRD exports it
#     BIRD's files have an error, the service dies: the prefix is not in the program's file, BIRD exports it
#     25 s after the files were mended: the prefix is not in the program's file, BIRD exports it
#     birdc configure: the prefix is not in the program's file, BIRD does not export it
#
# It runs its command for BIRD only when the state of a service changes, once, whether it succeeds or not.
#
# What it means: a mistake in BIRD's files, unnoticed as long as nobody reloads, keeps a dead node announced for ever.
# Compare what BIRD exports with what the program's file says, in the monitoring.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root, Debian 12's package bird2, python3 with
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
    timeout 60 "$folder/venv/bin/pip" --quiet --disable-pip-version-check install anycast-healthchecker==0.9.10 \
        python-json-logger==4.2.0 prometheus_client==0.26.0 docopt==0.6.2
    timeout --signal=KILL 110 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside "$folder" &
    job=$!
    wait "$job"
    exit
fi
checker=$2/venv/bin/anycast-healthchecker
version=$(dpkg-query -W -f '${Version}' bird2 2>/dev/null || true)
[[ $version == 2.0.12-* ]] || { echo "this is about bird2 2.0.12; installed: ${version:-none}" >&2; exit 1; }
echo "bird2 $version, anycast-healthchecker 0.9.10"
mount -t tmpfs none /run
mkdir /run/conf.d /run/log
cd /run
export PATH=$PATH:/usr/sbin

until_so() { # WHAT COMMAND...: waits until the command succeeds, 20 seconds at most
    local what=$1 end=$((SECONDS + 20))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "not in 20 seconds: $what" >&2; tail -n 5 ./*.log log/* >&2; exit 1; }
        sleep 0.1
    done
}

# BIRD and a second BIRD as its router, over a veth.
ip link set lo up
ip address add 192.0.2.1/32 dev lo
mkdir netns
ip netns add router
ip link add name node type veth peer name eth0 netns router
ip address add 10.0.1.2/24 dev node
ip link set dev node up
ip -n router address add 10.0.1.1/24 dev eth0
ip -n router link set eth0 up
cat > router.conf <<'CONF'
router id 10.0.1.1;
protocol device {}
protocol bgp node {
    local as 65000;
    neighbor 10.0.1.2 as 65001;
    connect retry time 1; connect delay time 1; error wait time 1, 1;
    ipv4 { import all; export none; };
}
CONF
ip netns exec router bird -f -c router.conf -s router.ctl -P router.pid > router.log 2>&1 &
cat > bird.conf <<'CONF'
router id 10.0.1.2;
include "/run/prefixes.conf";
include "/run/other.conf";
protocol device {}
protocol direct { ipv4; interface "lo"; }
protocol bgp router1 {
    local as 65001;
    neighbor 10.0.1.1 as 65000;
    ipv4 { import none; export filter { if net ~ ACAST_PS_ADVERTISE then accept; reject; }; };
}
CONF
echo 'define ACAST_PS_ADVERTISE = [ 198.51.100.255/32 ];' > prefixes.conf
echo 'define OTHER = 1;' > other.conf
bird -f -c bird.conf -s bird.ctl -P bird.pid > bird.log 2>&1 &
until_so "BIRD answers" birdc -s bird.ctl show status

cat > checker.conf <<'CONF'
[DEFAULT]
interface = lo
[daemon]
pidfile = /run/checker.pid
ipv4 = true
ipv6 = false
bird_conf = /run/prefixes.conf
bird_variable = ACAST_PS_ADVERTISE
bird_reconfigure_cmd = /usr/sbin/birdc -s /run/bird.ctl configure
dummy_ip_prefix = 198.51.100.255/32
bird_keep_changes = false
log_file = /run/log/checker.log
stderr_file = /run/log/stderr.log
loglevel = debug
[service]
check_cmd = /usr/bin/test -e /run/well
check_interval = 1
check_timeout = 1
check_rise = 2
check_fail = 2
check_disabled = false
on_disabled = withdraw
ip_prefix = 192.0.2.1/32
CONF
touch well
"$checker" -f checker.conf -d /run/conf.d > start.log 2>&1 &

exported() { birdc -s router.ctl show route 192.0.2.1/32 | grep -q 192.0.2.1/32; }
not_exported() { ! exported; }
listed() { grep -q 192.0.2.1/32 prefixes.conf; }
not_listed() { ! listed; }
status=0
tell() { # EXPECTED WORDS
    local seen="the prefix is not in the program's file" bird="BIRD does not export it"
    ! listed || seen="the prefix is in the program's file"
    ! exported || bird="BIRD exports it"
    echo "$2: $seen, $bird"
    [[ "$seen, $bird" == "$1" ]] || { echo "expected: $1" >&2; status=1; }
}
is="the prefix is in the program's file" not="the prefix is not in the program's file"
until_so "the router has the prefix" exported
tell "$is, BIRD exports it" "the service is well"
echo 'define OTHER = ;' > other.conf
rm well
until_so "the program's file is without the prefix" not_listed
sleep 3
tell "$not, BIRD exports it" "BIRD's files have an error, the service dies"
echo 'define OTHER = 2;' > other.conf
sleep 25
tell "$not, BIRD exports it" "25 s after the files were mended"
birdc -s bird.ctl configure > /dev/null
until_so "the router has lost the prefix" not_exported
tell "$not, BIRD does not export it" "birdc configure"
exit "$status"
