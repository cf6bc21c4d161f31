#!/bin/bash
# Linux as router (seen with 6.18), equal next hops, `fib_multipath_hash_policy=1`, no resilient group.
#
# One next hop is taken out of the route, as a routing daemon does when a node withdraws. Which share of the flows of
# the nodes that stay moves to another node?
#
# Expected before it was run: about as many whichever node goes (two of three with a modulo, none with a consistent
# hash), more with ten nodes than with three.
#
# Seen (some percent more or less; IPv6 and next-hop groups alike):
#
#     IPv4, classic, 3 nodes, 1st, 2nd, 3rd leaves: 25 %, 0 %, 25 %
#     IPv4, classic, 10 nodes, 1st, 5th, 10th leaves: 44 %, 20 %, 44 %
#     IPv4, other order, the same node: 33 %
#
# Each next hop has a stretch of the hash, in the order in which the hops are written. When one leaves, all the others
# are stretched over its place, so those in the middle of the list do least harm.
#
# What it means: with n nodes, the loss of one breaks up to half of the flows of the healthy ones where the balancers
# do not share their tables, and a rehearsal with the middle one of three shows nothing of it. Two routers agree on a
# flow's node only if they write the next hops in the same order.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root, python3 and iproute2. Some seconds.
set -euo pipefail

# All runs in namespaces of this script's own: they end with it, and nothing is left.
if [[ ${1-} != inside ]]; then
    timeout --signal=KILL 170 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside &
    trap 'kill -KILL -- "-$!" 2>/dev/null || true' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    wait "$!"
    exit
fi
echo "Linux $(uname -r), $(ip -V)"
ip link set lo up
for n in 1 2 3 4 5 6 7 8 9 10; do
    ip link add name "hop$n" type veth peer name "peer$n"
    ip link set dev "peer$n" up
    ip link set dev "hop$n" up
    ip address add "10.0.$n.1/24" dev "hop$n"
    ip address add "2001:db8:$n::1/64" dev "hop$n" nodad
done
sysctl -qw net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1

python3 - <<'PYTHON'
import re
import subprocess
import sys

FLOWS = 4000
TOLERANCE = 4  # percent points; the standard deviation of 4,000 flows is less than one


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def mapping(family, hops, kind):
    """The hop of each flow, with a route over `hops` in this order."""
    vip = "192.0.2.1" if family == 4 else "2001:db8:ffff::1"
    gateway = "10.0.{}.2" if family == 4 else "2001:db8:{}::2"
    if kind == "classic":
        words = [w for n in hops for w in ("nexthop", "via", gateway.format(n), "dev", f"hop{n}")]
        ip(f"-{family}", "route", "replace", vip, *words)
    else:
        for n in hops:
            ip(f"-{family}", "nexthop", "replace", "id", str(n), "via", gateway.format(n), "dev", f"hop{n}")
        ip("nexthop", "replace", "id", "100", "group", "/".join(map(str, hops)))
        ip(f"-{family}", "route", "replace", vip, "nhid", "100")
    asked = "".join(f"route get {vip} ipproto udp sport {1024 + n} dport 514\n" for n in range(FLOWS))
    told = subprocess.run(["ip", f"-{family}", "-batch", "-"], input=asked, check=True, capture_output=True, text=True)
    seen = [int(n) for n in re.findall(r" dev hop(\d+) ", told.stdout)]
    ip(f"-{family}", "route", "delete", vip)
    if kind == "group":
        ip("nexthop", "delete", "id", "100")
    assert len(seen) == FLOWS
    return seen


def moved(family, kind, count, gone):
    """Percent of the flows of the nodes that stay."""
    hops = list(range(1, count + 1))
    before, after = mapping(family, hops, kind), mapping(family, [h for h in hops if h != gone], kind)
    stay = [(b, a) for b, a in zip(before, after) if b != gone]
    return 100 * sum(b != a for b, a in stay) / len(stay)


wrong = False


def tell(words, expected, seen):
    global wrong
    print(f"{words}: " + ", ".join(f"{s:.0f} %" for s in seen))
    if any(abs(e - s) > TOLERANCE for e, s in zip(expected, seen)):
        print(f"expected: {expected}", file=sys.stderr)
        wrong = True


for family in (4, 6):
    for kind in ("classic", "group"):
        name = f"IPv{family}, {kind}"
        tell(f"{name}, 3 nodes, 1st, 2nd, 3rd leaves", (25, 0, 25), [moved(family, kind, 3, n) for n in (1, 2, 3)])
        tell(f"{name}, 10 nodes, 1st, 5th, 10th leaves", (44.4, 19.8, 44.4), [moved(family, kind, 10, n) for n in (1, 5, 10)])
    here, there = mapping(family, [1, 2, 3], "classic"), mapping(family, [3, 2, 1], "classic")
    tell(f"IPv{family}, other order, the same node", (33.3,), [100 * sum(h == t for h, t in zip(here, there)) / FLOWS])
sys.exit(wrong)
PYTHON
