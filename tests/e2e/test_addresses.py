"""Addresses of VIPs that another program takes away under load: nobody notices, not even the router."""

from __future__ import annotations

import json
import os
import statistics
import sys

import pytest

from lab.topology import VIP4, VIPS
from tests.e2e.site import Site, until

pytestmark = pytest.mark.lab
CONNECTIONS, TIMES = 600, 100 if os.environ.get("ANYCAST_LONG") else 20

# Another program: takes an address away, and waits until the kernel announces that it is there again. Seconds of each.
_TAKES = """
import asyncio, json, sys, time
from ipaddress import ip_address
from anycast.kernel import address_codec, addresses, netlink
from anycast.kernel.netlink_codec import messages

async def main():
    vip, times = ip_address(sys.argv[1]), int(sys.argv[2])
    loop, gaps = asyncio.get_running_loop(), []
    for number in range(times):
        with netlink.open_socket(0, groups=0x10) as line:
            assert await addresses.remove("lo", [vip]) == {}
            went = time.monotonic()
            async with asyncio.timeout(60):
                back = False
                while not back:
                    data = await loop.sock_recv(line, netlink.RECEIVE)
                    for message in messages(data):
                        new = message.kind == address_codec.NEW_ADDRESS
                        back = back or (new and address_codec.parse(data, message).address == vip)
            gaps.append(time.monotonic() - went)
        await asyncio.sleep(0.3 + 0.7 * (number * 0.618 % 1))
    print(json.dumps(gaps))

asyncio.run(main())
"""


@pytest.mark.timeout(600)
def test_a_vip_that_is_taken_away_again_and_again_costs_no_connection_and_no_route(site: Site) -> None:
    quiet = site.route_events()
    with site.lab.load(CONNECTIONS) as load:
        load.mark()
        words = (sys.executable, "-c", _TAKES, VIP4, str(TIMES))
        gaps = json.loads(site.lab.exec("lb1", *words, timeout=500).stdout)
        stats = load.wait_answered()
    milliseconds = sorted(1000 * gap for gap in gaps)
    print(
        f"{len(gaps)} times, back in {statistics.median(milliseconds):.1f} ms (median), "
        f"{milliseconds[-len(gaps) // 10]:.1f} ms (nine of ten), {milliseconds[-1]:.1f} ms at most"
    )
    assert (stats["connections"], stats["broken"], stats["moved"]) == (CONNECTIONS, 0, 0), stats["errors"]
    assert site.lab.watch().events[quiet:] == []
    assert site.standing("lb1") == ["addresses_contested"]
    drifts = [line for line in site.log_of("lb1") if line["event"] == "kernel.drifted"]
    assert len(drifts) <= 5, "once it stands it is not logged each time"
    assert site.metric("lb1", 'anycast_kernel_repairs_total{kind="address"}') >= TIMES


def test_a_vip_that_becomes_an_ordinary_address_is_put_right_without_a_word_to_the_router(site: Site) -> None:
    quiet = site.route_events()
    four, six = VIPS
    meddling = (
        f"ip addr del {four} dev lo; ip addr add {four} dev lo; "
        f"ip addr change {six} dev lo preferred_lft forever valid_lft forever"
    )
    site.lab.exec("lb2", "sh", "-c", meddling)

    def right() -> bool:
        shown = json.loads(site.lab.exec("lb2", "ip", "-j", "addr", "show", "lo").stdout)[0]["addr_info"]
        of = {f"{one['local']}/{one['prefixlen']}": one for one in shown}
        return bool(
            of.get(four, {}).get("scope") == "host" and of.get(six, {}).get("preferred_life_time") == 0
        )

    until(right, "both to be as the agent adds them")
    assert site.lab.watch().events[quiet:] == []
