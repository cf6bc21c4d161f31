"""What a reload keeps: the same objects for all that has not changed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from anycast.config import wire
from anycast.config.load import load, loads
from anycast.config.loaded import Loaded
from anycast.core.values.configuration import Vip

FULL = Path(__file__).parents[3] / "examples" / "full.yaml"

HEAD = """
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors: [{address: 10.2.1.254, remote_as: 65000}]
checks:
  http: {type: http, path: /ready, port: 8080}
"""
TEXT = f"""{HEAD}
pools:
  web:
    check: http
    servers: [10.9.2.1, 10.9.2.2, {{name: six, addresses: [10.9.2.3, "fd00::3"], weight: 5}}]
  mail:
    servers: [10.9.3.1]
vips:
  a: {{address: 192.0.2.1, services: [{{port: 80, pool: web}}, {{port: 25, pool: mail}}]}}
  b: {{address: 192.0.2.2, services: [{{port: 80, pool: web}}]}}
  c: {{address: 192.0.2.3, port: 53, protocol: udp, check: http, med: 5, servers: [10.9.4.1, 10.9.4.2]}}
"""


def received(loaded: Loaded, before: Loaded | None = None) -> Loaded:
    """What comes to somebody who has `before`."""
    known = wire.known(wire.digests(None if before is None else before.units))
    receiver = wire.Receiver(before)
    for frame in wire.frames(loaded, known):
        receiver.take(frame)
    assert receiver.loaded is not None
    return receiver.loaded


def read(text: str) -> Loaded:
    return loads(text, hostname="lb1")


def by_name(loaded: Loaded) -> dict[str, Vip]:
    return {vip.name: vip for vip in loaded.config.vips}


@pytest.mark.parametrize("loaded", [read(TEXT), load(FULL, hostname="lb1")], ids=["small", "full"])
def test_what_comes_is_what_was_sent(loaded: Loaded) -> None:
    assert received(loaded) == loaded
    assert received(loaded, received(loaded)) == loaded


def test_a_file_that_is_the_same_is_the_same_objects() -> None:
    before = received(read(TEXT))
    after = received(read(TEXT), before)
    assert all(new is old for new, old in zip(after.config.vips, before.config.vips, strict=True))
    assert after.config.bgp is before.config.bgp
    assert after.config.timing is before.config.timing


def test_a_server_more_changes_only_what_uses_it() -> None:
    before = received(read(TEXT))
    sent = read(TEXT.replace("[10.9.3.1]", "[10.9.3.1, 10.9.3.2]"))
    after = received(sent, before)
    assert after.config == sent.config
    old, new = by_name(before), by_name(after)
    assert new["b"] is old["b"]
    assert new["c"] is old["c"]
    assert new["a"].services[0] is old["a"].services[0]
    mail, was = new["a"].services[1].pool, old["a"].services[1].pool
    assert mail.servers[0] is was.servers[0]
    assert mail.check is was.check


def test_what_changes_twice_still_keeps_what_never_did() -> None:
    before = received(read(TEXT))
    once = received(read(TEXT.replace("med: 5", "med: 6")), before)
    twice = received(read(TEXT.replace("med: 5", "med: 6").replace("10.9.3.1", "10.9.3.9")), once)
    assert by_name(twice)["a"].services[0].pool is by_name(before)["a"].services[0].pool
    assert by_name(twice)["b"] is by_name(before)["b"]
    assert by_name(twice)["c"] is by_name(once)["c"]


def test_another_order_of_the_vips_comes_through() -> None:
    before = received(read(TEXT))
    head, vips = TEXT.split("vips:\n")
    turned = read(head + "vips:\n" + "".join(f"{line}\n" for line in reversed(vips.splitlines())))
    after = received(turned, before)
    assert [vip.name for vip in after.config.vips] == ["c", "b", "a"]
    assert by_name(after)["a"] is by_name(before)["a"]


def test_a_named_pool_is_one_object_for_all_its_services() -> None:
    vips = by_name(received(read(TEXT)))
    assert vips["a"].services[0].pool is vips["b"].services[0].pool
    vips = by_name(read(TEXT))
    assert vips["a"].services[0].pool is vips["b"].services[0].pool


def test_an_address_that_stands_in_several_pools_is_one_object() -> None:
    vips = by_name(received(read(TEXT.replace("10.9.3.1", "10.9.2.1"))))
    web, mail = (service.pool for service in vips["a"].services)
    assert mail.servers[0].addresses[0] is web.servers[0].addresses[0]


def test_digests_do_not_depend_on_the_process(tmp_path: Path) -> None:
    """Otherwise each reload would be a new configuration: words are hashed otherwise in each process."""
    file = tmp_path / "anycast.yaml"
    file.write_text(TEXT.replace("port: 8080", "port: 8080, expect: [200, 301, 302], headers: {A: b}"))
    code = f"""if True:
        import pathlib
        from anycast.config import load, wire
        loaded = load.load(pathlib.Path({str(file)!r}))
        receiver = wire.Receiver()
        for frame in wire.frames(loaded):
            receiver.take(frame)
        print(wire.digests(receiver.loaded.units).hex())
    """
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1
    assert len(said.pop().strip()) == 2 * wire.DIGEST_SIZE * 6


def test_every_frame_is_small() -> None:
    """Each is decoded while the event loop waits."""
    servers = "\n".join(f"      - 10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(330))
    vips = "".join(
        f"  v{n}: {{address: 198.18.{n >> 8}.{n & 255}, port: 80, pool: many, med: {n}}}\n"
        for n in range(600)
    )
    loaded = read(f"{HEAD}\npools:\n  many:\n    servers:\n{servers}\nvips:\n{vips}")
    sizes = [len(frame) for frame in wire.frames(loaded)]
    assert max(sizes) < 8192
    assert received(loaded).config == loaded.config


def test_secrets_and_bytes_come_through() -> None:
    text = re.sub(r"type: http, path: /ready, port: 8080", "type: udp, send_hex: ff00, port: 5", TEXT)
    assert received(read(text)) == read(text)


def test_what_was_read_here_is_used_again_too() -> None:
    """As nothing of it is known by a digest, all comes; what is the same is taken from before even so."""
    before = read(TEXT)
    after = received(read(TEXT.replace("med: 5", "med: 6")), before)
    assert by_name(after)["a"].services[0] is by_name(before)["a"].services[0]
    assert by_name(after)["b"].services[0].pool is by_name(before)["b"].services[0].pool
    again = received(read(TEXT.replace("med: 5", "med: 7")), after)
    assert by_name(again)["a"] is by_name(after)["a"]
    assert again == read(TEXT.replace("med: 5", "med: 7"))
