"""Whatever a reload changes: the result is what the file says, and what is the same in it is the same objects."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from anycast.config import wire
from anycast.config.load import loads
from anycast.config.loaded import Loaded

_SERVERS = st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True)
_SERVICE = st.fixed_dictionaries(
    {"pool": st.sampled_from(["p0", "p1", "p2"])},
    optional={
        "check": st.builds(lambda port: {"type": "tcp", "port": port}, st.just(99)),
        "scheduler": st.sampled_from(["mh", "wlc"]),
    },
)
_FILES = st.fixed_dictionaries(
    {
        "pools": st.fixed_dictionaries({f"p{n}": _SERVERS for n in range(3)}),
        "vips": st.dictionaries(
            st.sampled_from(["a", "b", "c", "d"]),
            st.lists(_SERVICE, min_size=1, max_size=2),
            min_size=1,
        ),
        "drain": st.integers(1, 3),
    }
)


def _read(file: dict[str, Any]) -> Loaded:
    pools = {
        name: {"servers": [{"address": f"10.0.0.{one}", "weight": one % 2 + 1} for one in servers]}
        for name, servers in file["pools"].items()
    }
    vips = {
        name: {
            "address": f"192.0.2.{ord(name)}",
            "services": [{"port": 80 + n, **service} for n, service in enumerate(services)],
        }
        for name, services in file["vips"].items()
    }
    neighbors = [{"address": "10.2.1.254", "remote_as": 65000}]
    bgp = {"local_as": 65001, "router_id": "10.2.1.1", "neighbors": neighbors}
    text = {"bgp": bgp, "timing": {"drain": file["drain"]}, "pools": pools, "vips": vips}
    return loads(yaml.safe_dump(text, sort_keys=False), hostname="lb1")


@given(st.lists(_FILES, min_size=2, max_size=4))
def test_a_reload_is_the_file_and_keeps_all_that_is_the_same(files: list[dict[str, Any]]) -> None:
    before: Loaded | None = None
    for file in files:
        loaded = _read(file)
        receiver = wire.Receiver(before)
        known = wire.known(wire.digests(None if before is None else before.units))
        for frame in wire.frames(loaded, known):
            receiver.take(frame)
        after = receiver.loaded
        assert after == loaded
        assert after is not None
        old = {} if before is None else {vip.name: vip for vip in before.config.vips}
        for vip in after.config.vips:
            was = old.get(vip.name)
            assert (vip is was) == (vip == was)
            kept = {} if was is None else {service.name: service for service in was.services}
            for service in vip.services:
                had = kept.get(service.name)
                assert (service is had) == (service == had)
        before = after
