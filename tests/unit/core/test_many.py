"""What there is for each of thousands of real servers."""

from __future__ import annotations

import pickle
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

from anycast.core.dataplane import ipvs
from anycast.core.dataplane.members import Servers
from anycast.core.index import indexed
from anycast.core.values.configuration import Check, Forwarding, RealServer, Target, TcpCheck
from tests.property.worlds import config, vip

ADDRESS = IPv4Address("10.0.0.1")
DESTINATION = ipvs.Destination(address=ADDRESS, port=80, weight=1, forwarding=Forwarding.DR)
CHECK = Check(kind=TcpCheck())


def test_equal_ones_are_one_in_a_set() -> None:
    server = RealServer(name="a", addresses=(ADDRESS,))
    target = Target(address=ADDRESS, port=80, check=CHECK)
    for one, other in (
        (DESTINATION, replace(DESTINATION, weight=0)),
        (server, replace(server, weight=2)),
        (target, replace(target, port=81)),
        (target, replace(target, vip=ADDRESS)),
        (target, replace(target, address=IPv6Address(int(ADDRESS)))),
        (CHECK, replace(CHECK, interval=5.0)),
    ):
        assert len({one, replace(one), other}) == 2


def test_the_hash_of_a_check_is_not_sent_to_another_process() -> None:
    hash(CHECK)
    assert not hasattr(pickle.loads(pickle.dumps(CHECK)), "_hash")  # noqa: S301 - made here


def test_the_names_of_real_servers_are_as_in_a_dict_of_them() -> None:
    index = indexed(config(vip("web", 1, (1, 2, 3))))
    for names in index.servers.values():
        as_dict = dict(names.items())
        assert isinstance(names, Servers)
        assert names == as_dict
        assert as_dict == names
        assert list(names) == list(as_dict)
        assert list(names.values()) == list(as_dict.values())
        assert {key: names[key] for key in names} == as_dict
        assert names.get((ADDRESS, 1)) is None
        assert len(names) == 3
