#!/bin/bash
# prometheus-node-exporter 1.5.0 (Debian 12), its collector `ipvs`, which is on by default.
#
# It reads a table of IPVS as Linux 6.1 writes it in /proc/net/ip_vs (given here as a file, by --path.procfs): a TCP service
# with two real servers, an SCTP service with two, of which one is a server of the TCP service too, and a UDP service.
#
# Expected before it was run: SCTP is either exported as proto="SCTP", or its service is left out with its servers, or
# the collector fails.
#
# Seen:
#
#     collector success 1
#     TCP 192.0.2.129:3868 10.0.0.1:3868 weight 101, 12 active
#     TCP 192.0.2.129:3868 10.0.0.2:3868 weight 1, 6 active
#     TCP 192.0.2.129:3868 10.0.0.3:3868 weight 100, 8 active
#     UDP 192.0.2.129:53 10.0.0.1:53 weight 3, 0 active
#
# Why: the line of an SCTP service is not known to its reader and skipped; the lines of its servers are read, and belong
# to the service that was read last. Two that are equal are added up.
#
# What it means: a server stands under a service that does not have it, and weights and connections are sums of two
# services. The kernel lists services in the order of a hash, so which one gets them changes with the addresses; before
# the first service they have no name at all. Read from the kernel by netlink, or by `ipvsadm`, nothing of it happens.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs apt and python3; only loopback, no root. Seconds.
set -euo pipefail

folder=$(mktemp -d)
child=
clean() {
    [[ -z $child ]] || { kill "$child" 2>/dev/null || true; wait "$child" 2>/dev/null || true; }
    rm -rf "$folder"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
chmod 755 "$folder"
(cd "$folder" && apt-get download -qq prometheus-node-exporter 2>/dev/null && dpkg-deb -x prometheus-node-exporter_*.deb .)
exporter=$folder/usr/bin/prometheus-node-exporter
version=$("$exporter" --version 2>&1 | sed -n '1s/.*version \([^ ]*\).*/\1/p')
[[ $version == 1.5.0* ]] || { echo "this is about node_exporter 1.5.0; the package has: ${version:-none}" >&2; exit 1; }
echo "node_exporter $version"

mkdir -p "$folder/proc/net"
cat > "$folder/proc/net/ip_vs" <<'TABLE'
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  C0000281:0F1C wlc  
  -> 0A000001:0F1C      Route   1      5          0         
  -> 0A000002:0F1C      Route   1      6          0         
SCTP C0000281:0F1C wlc  
  -> 0A000001:0F1C      Route   100    7          0         
  -> 0A000003:0F1C      Route   100    8          0         
UDP  C0000281:0035 wlc  
  -> 0A000001:0035      Route   3      0          9         
TABLE
cat > "$folder/proc/net/ip_vs_stats" <<'TABLE'
   Total Incoming Outgoing         Incoming         Outgoing
   Conns  Packets  Packets            Bytes            Bytes
     1A       10        0              400                0

 Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s
       0        0        0                0                0
TABLE
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$exporter" --path.procfs="$folder/proc" --collector.disable-defaults --collector.ipvs \
    --web.listen-address="127.0.0.1:$port" > "$folder/log" 2>&1 &
child=$!
timeout 60 python3 - "$port" <<'PYTHON'
import re
import sys
import time
import urllib.request

EXPECTED = [
    "collector success 1",
    "TCP 192.0.2.129:3868 10.0.0.1:3868 weight 101, 12 active",
    "TCP 192.0.2.129:3868 10.0.0.2:3868 weight 1, 6 active",
    "TCP 192.0.2.129:3868 10.0.0.3:3868 weight 100, 8 active",
    "UDP 192.0.2.129:53 10.0.0.1:53 weight 3, 0 active",
]


def scrape():
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics", timeout=5) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.1)
    raise SystemExit("it does not answer")


def backends(text, metric):
    found = {}
    for labels, value in re.findall(rf"^node_ipvs_backend_{metric}{{(.*)}} (\S+)$", text, re.MULTILINE):
        of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        local, remote = (f"{of[side + '_address']}:{of[side + '_port']}" for side in ("local", "remote"))
        found[f"{of['proto']} {local} {remote}"] = value
    return found


text = scrape()
success = re.search(r'^node_scrape_collector_success{collector="ipvs"} (\S+)$', text, re.MULTILINE)
weights, active = backends(text, "weight"), backends(text, "connections_active")
seen = [f"collector success {success[1] if success else 'is not told'}"]
seen += [f"{name} weight {weight}, {active.get(name)} active" for name, weight in sorted(weights.items())]
print(*seen, sep="\n")
if seen != EXPECTED:
    print("differs; expected:", *EXPECTED, sep="\n")
sys.exit(seen != EXPECTED)
PYTHON
