"""The examples are what is measured: the lab lays its own addresses over them, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from anycast.config.load import load
from lab.logs_plan import STREAMS
from lab.logs_site import EXAMPLES, configuration, machines
from lab.topology import VIP4, VIP6, topology

SITE = topology(balancers=2, servers=4)


def test_the_balancers_have_the_services_and_checks_of_the_example(tmp_path: Path) -> None:
    found = configuration(SITE, SITE.balancers[1], 3)
    example = yaml.safe_load(EXAMPLES.joinpath("syslog.yaml").read_text("utf-8"))
    assert found["vips"]["log"]["services"] == example["vips"]["log"]["services"]
    assert found["checks"] == example["checks"]
    assert found["timeouts"] == example["timeouts"]
    assert [one["name"] for one in found["vips"]["log"]["servers"]] == ["rs1", "rs2", "rs3"]
    file = tmp_path / "anycast.yaml"
    file.write_text(json.dumps(found))
    assert [vip.name for vip in load(file).config.vips] == ["log"]


def test_a_sender_uses_every_protocol_and_port_that_a_receiver_and_the_balancers_have() -> None:
    sender, receiver = (
        EXAMPLES.joinpath("rsyslog", name).read_text("utf-8") for name in ("sender.conf", "receiver.conf")
    )
    sends = dict(re.findall(r'name="(\S+)" target="log\.example\.net" port="(\d+)"', sender))
    takes = {name: port for port, name in re.findall(r'port="(\d+)" name="(\S+)"', receiver)}
    assert set(sends) == set(STREAMS)
    assert sends.items() <= takes.items()
    services = yaml.safe_load(EXAMPLES.joinpath("syslog.yaml").read_text("utf-8"))["vips"]["log"]["services"]
    assert set(takes.values()) | {"443"} == {str(one["port"]).partition("/")[0] for one in services}


def test_a_sender_over_tls_keeps_its_driver_in_use_and_takes_nothing_for_it() -> None:
    sender = EXAMPLES.joinpath("rsyslog", "sender.conf").read_text("utf-8")
    inputs = re.findall(r"^input\((.*?)\)$", sender, re.DOTALL | re.MULTILINE)
    (held,) = (dict(re.findall(r'(\S+)="(\S+)"', one)) for one in inputs)
    assert {held["streamDriver.name"]} == set(re.findall(r'streamDriver="(\S+)"', sender))
    assert (held["address"], held["port"]) == ("127.0.0.1", "0")
    assert f'ruleset(name="{held["ruleset"]}") {{ stop }}' in sender


def test_machines_send_by_both_families_and_some_straight_to_a_receiver() -> None:
    found = {one.name: one.server for one in machines(4, {"s1": "10.9.2.2"})}
    assert found == {"m1": VIP4, "m2": VIP4, "m3": VIP6, "m4": VIP4, "s1": "10.9.2.2"}
