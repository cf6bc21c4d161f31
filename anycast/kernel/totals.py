"""The packets that IPVS received in this network namespace, all services together."""

from __future__ import annotations

from anycast.core.dataplane.traffic import Received

FILE = "/proc/net/ip_vs_stats_percpu"
_MOST = 1 << 20  # bytes: a line of 80 for each of 8,192 processors


def read(file: str = FILE) -> Received | None:
    """None: there is no such file, or it says something else than is known."""
    try:
        with open(file, "rb") as opened:
            return parsed(opened.read(_MOST))
    except OSError:
        return None


def parsed(text: bytes) -> Received | None:
    """A line for each processor, live; then `~`, the sums as the kernel's thread has added them up. All hexadecimal:
    connections, packets in, packets out, bytes in, bytes out.
    """
    live = 0
    found = False
    for line in text.splitlines()[2:]:
        words = line.split()
        try:
            if len(words) != 6:
                continue
            if words[0] == b"~":
                return Received(live=live, counted=int(words[2], 16)) if found else None
            live += int(words[2], 16)
        except ValueError:
            return None
        found = True
    return None
