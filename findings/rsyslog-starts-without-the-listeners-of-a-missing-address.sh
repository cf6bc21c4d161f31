#!/bin/bash
# rsyslog 8.2302.0 (Debian 12) as receiver, with four inputs on one address by their parameter `address`: imudp,
# imtcp, imptcp, imrelp.
#
# The address is not on the host when rsyslogd starts, and is added three seconds later.
#
# Expected before it was run: rsyslogd does not start, or `rsyslogd -N1` says that an input cannot bind; or it tries
# again, and all four listen once the address is there.
#
# Seen:
#
#     rsyslogd -N1: exit status 0; rsyslogd runs
#     15 s after the address was added: udp listens, tcp does not, ptcp does not, relp does not
#
# imudp binds an address that is not there (IP_FREEBIND), the others give up for good with a line in the log.
#
# What it means: a collector with a service address that somebody else sets must have it before rsyslogd starts, or
# listen on all addresses; `systemctl status` and UDP look well in any case. Check the port that the clients use.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and Debian 12's packages rsyslog and
# rsyslog-relp. Half a minute.
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
for wanted in rsyslog=8.2302.0 rsyslog-relp=8.2302.0; do
    version=$(dpkg-query -W -f '${Version}' "${wanted%=*}" 2>/dev/null || true)
    [[ $version == "${wanted#*=}"-* ]] || { echo "this is about $wanted; installed: ${version:-none}" >&2; exit 1; }
done
echo "rsyslog $version"
mount -t tmpfs none /run
cd /run
export PATH=$PATH:/usr/sbin

ip link set lo up
cat > rsyslog.conf <<'CONF'
module(load="imudp")
module(load="imtcp")
module(load="imptcp")
module(load="imrelp")
input(type="imudp" address="192.0.2.53" port="5141")
input(type="imtcp" address="192.0.2.53" port="5142")
input(type="imptcp" address="192.0.2.53" port="5143")
input(type="imrelp" address="192.0.2.53" port="5144")
action(type="omfile" file="/run/messages")
CONF
checked=0
rsyslogd -N1 -iNONE -f rsyslog.conf > check.log 2>&1 || checked=$?
rsyslogd -n -iNONE -f rsyslog.conf > rsyslog.log 2>&1 &
rsyslogd=$!
sleep 3
runs="does not run"
! kill -0 "$rsyslogd" 2>/dev/null || runs=runs
ip address add 192.0.2.53/32 dev lo
sleep 15
listening() { # NAME ss-OPTION PORT
    if ss -Hn "$2" "sport = :$3" | grep -q '192\.0\.2\.53'; then echo "$1 listens"; else echo "$1 does not"; fi
}
first="rsyslogd -N1: exit status $checked; rsyslogd $runs"
second="$(listening udp -lu 5141), $(listening tcp -lt 5142), $(listening ptcp -lt 5143), $(listening relp -lt 5144)"
echo "$first"
echo "15 s after the address was added: $second"
expected1="rsyslogd -N1: exit status 0; rsyslogd runs"
expected2="udp listens, tcp does not, ptcp does not, relp does not"
if [[ $first != "$expected1" || $second != "$expected2" ]]; then
    echo "expected: $expected1; $expected2" >&2
    cat check.log rsyslog.log >&2
    exit 1
fi
