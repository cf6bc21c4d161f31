#!/bin/bash
# Linux 6.18: a UDP datagram without a checksum, to a port that nobody has open.
#
# That is what IPVS sends with `--tun-type gue --tun-nocsum`, its default, to a real server that does not unwrap.
#
# Expected before it was run: an ICMP "port unreachable" comes back, over IPv6 as over IPv4: there is no socket, and
# the checksum is the receiving socket's affair (RFC 6935 leaves it to the tunnel).
#
# Seen:
#
#     ipv4 with: refused, ipv4 without: refused
#     ipv6 with: refused, ipv6 without: silence
#
# What it means: over IPv6 a real server whose GUE port is closed drops the clients' packets in silence; who looks for
# ICMP errors sees none. The kernel counts Udp6InErrors and Udp6InCsumErrors there. `--tun-csum` makes it answer, and a check of the way
# has to send a checksum to learn why it is not answered.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root and python3. Two seconds.
set -euo pipefail

seen=$(timeout --signal=KILL 30 unshare --net bash -c 'ip link set lo up; exec python3 -' <<'PYTHON'
import socket, time

time.sleep(0.2)
for version, family, host in (4, socket.AF_INET, "127.0.0.1"), (6, socket.AF_INET6, "::1"):
    words = []
    for name in ("with", "without"):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            if name == "without" and version == 4:
                sock.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
            elif name == "without":
                sock.setsockopt(socket.IPPROTO_UDP, 101, 1)  # UDP_NO_CHECK6_TX
            sock.settimeout(0.5)
            sock.connect((host, 6080))
            sock.send(b"\0\4\0\0")
            try:
                sock.recv(1)
            except ConnectionRefusedError:
                words.append(f"ipv{version} {name}: refused")
            except TimeoutError:
                words.append(f"ipv{version} {name}: silence")
    print(", ".join(words))
PYTHON
)
printf '%s\n' "$seen"
[[ $seen == "ipv4 with: refused, ipv4 without: refused
ipv6 with: refused, ipv6 without: silence" ]]
