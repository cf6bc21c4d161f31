#!/bin/bash
# ExaBGP 5.0.15.
#
# It is to listen on port 1790 of 127.0.0.1 (`exabgp.tcp.bind`), and has a neighbor of which no port is said. The port
# is written in one of two places: `exabgp.env` (`[exabgp.tcp] port = 1790`) or the environment (exabgp_tcp_port). Which
# port does it dial?
#
# Expected before it was run: 179 in any case, for `exabgp env` describes it as the port to listen on, `connect` of the
# neighbor is for the other one, and both places are one setting.
#
# Seen:
#
#     nothing said: listens on 179, dials 179
#     in exabgp.env: listens on 1790, dials 179
#     in the environment: listens on 1790, dials 1790
#     in exabgp.env 179, in the environment 1790: listens on 1790, dials 1790
#     in the environment, and `connect 179`: listens on 1790, dials 179
#
# Why: `Protocol` in exabgp/reactor/protocol.py looks into os.environ by itself where a neighbor has no `connect`.
#
# What it means: a setting that is moved from the file to a unit's `Environment=` takes all sessions down that ExaBGP
# dials, without an error but "connection refused". Write `connect 179` for every neighbor beside it.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root (port 179), python3 with venv and PyPI; only
# loopback, in a namespace. Half a minute.
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
mount -t tmpfs none /run
cd /run
"$exabgp" version | sed -n 's/ExaBGP : /ExaBGP /p'
ip link set lo up

# The router: takes what comes to either port, and says which it was.
cat > router.py <<'PYTHON'
import select
import socket

listeners = [socket.create_server(("127.0.0.2", port)) for port in (179, 1790)]
print("ready", flush=True)
while True:
    for listener in select.select(listeners, [], [])[0]:
        listener.accept()[0].close()
        print("dials", listener.getsockname()[1], flush=True)
PYTHON

until_so() { # WHAT COMMAND...: waits until the command succeeds, 20 seconds at most
    local what=$1 end=$((SECONDS + 20))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || { echo "not in 20 seconds: $what" >&2; tail -n 5 ./*.log >&2; exit 1; }
        sleep 0.1
    done
}
listening() { ss -Hltn src 127.0.0.1 | awk '{sub(/.*:/, "", $4); print $4}'; }
listens() { [[ -n $(listening) ]]; }

status=0
try() { # WORDS EXPECTED FILE ENVIRONMENT CONNECT
    local words=$1 expected=$2 file=$3 environment=$4 connect=$5 router node seen
    : > exabgp.env
    [[ -z $file ]] || printf '[exabgp.tcp]\nport = %s\n' "$file" > exabgp.env
    cat > exabgp.conf <<CONF
neighbor 127.0.0.2 {
    router-id 10.0.0.1;
    local-address 127.0.0.1;
    local-as 65001;
    peer-as 65000;
    $connect
}
CONF
    python3 router.py > router.log 2>&1 &
    router=$!
    until_so "the router listens" grep -q ready router.log
    env EXABGP_ENVFILE=/run/exabgp.env exabgp_daemon_user=root exabgp_api_cli=false exabgp_tcp_bind=127.0.0.1 \
        ${environment:+"exabgp_tcp_port=$environment"} "$exabgp" exabgp.conf > exabgp.log 2>&1 &
    node=$!
    until_so "ExaBGP listens" listens
    until_so "ExaBGP dials" grep -q dials router.log
    seen="listens on $(listening | paste -sd' '), $(grep dials router.log | sort -u | paste -sd' ')"
    echo "$words: $seen"
    [[ $seen == "$expected" ]] || { echo "expected: $expected" >&2; status=1; }
    kill "$node" "$router"
    wait "$node" "$router" || true
}
try "nothing said" "listens on 179, dials 179" "" "" ""
try "in exabgp.env" "listens on 1790, dials 179" 1790 "" ""
try "in the environment" "listens on 1790, dials 1790" "" 1790 ""
try "in exabgp.env 179, in the environment 1790" "listens on 1790, dials 1790" 179 1790 ""
try "in the environment, and \`connect 179\`" "listens on 1790, dials 179" "" 1790 "connect 179;"
exit "$status"
