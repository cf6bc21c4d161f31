#!/bin/sh
# A balancer in a container: waits for its links, then keeps the agent and ExaBGP running as a service manager would.
set -eu
config=${ANYCAST_CONFIG:-/etc/anycast/anycast.yaml}

# Links and addresses come after the container has started, and ExaBGP binds to its addresses.
for family in -4 -6; do
    until ip "$family" -o addr show dev up0 scope global 2>/dev/null | grep -q .; do sleep 0.2; done
done

umask 077
mkdir -p /run/anycast /var/lib/anycast
anycast render exabgp --config "$config" >/run/exabgp.conf
anycast render exabgp --config "$config" --env >/run/exabgp.env
while IFS= read -r line; do
    case $line in '' | '#'*) ;; *) export "${line?}" ;; esac
done </run/exabgp.env
umask 022

keep() {
    while :; do
        "$@" &
        child=$!
        trap 'kill -TERM $child; wait $child || :; exit 0' TERM INT
        wait $child || :
        trap 'exit 0' TERM INT
        sleep 1
    done
}

keep anycast agent --config "$config" &
agent=$!
keep exabgp /run/exabgp.conf &
exabgp=$!
trap 'kill -TERM $agent $exabgp; wait' TERM INT
wait
