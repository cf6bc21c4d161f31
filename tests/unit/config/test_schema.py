from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from anycast.config.load import load
from anycast.config.schema import file as schema
from anycast.config.schema.json_schema import keys_at, schema_text

ROOT = Path(__file__).parents[3]
COMMITTED = ROOT / "anycast" / "config" / "schema.json"
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.yaml"))


def parts(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [part for item in node for part in parts(item)]
    return [node, *(part for item in node.values() for part in parts(item))] if isinstance(node, dict) else []


def test_the_committed_schema_is_the_models() -> None:
    text = COMMITTED.read_text(encoding="utf-8")
    assert text == schema_text(), "run: make schema"


def test_the_schema_is_one() -> None:
    document = json.loads(schema_text())
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(document)


def test_every_key_is_described() -> None:
    document = json.loads(schema_text())
    for part in parts(document):
        if part.get("type") == "object" and "properties" in part:
            assert part["description"]
            for key, value in part["properties"].items():
                named = document["$defs"].get(value.get("$ref", "").rpartition("/")[2], value)
                assert "description" in value or "description" in named or "const" in value, key


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_valid(name: str) -> None:
    text = ROOT.joinpath("examples", name).read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=../anycast/config/schema.json\n")
    jsonschema.Draft202012Validator(json.loads(COMMITTED.read_text(encoding="utf-8"))).validate(
        yaml.safe_load(text)
    )


def test_the_full_example_shows_every_key_of_every_section() -> None:
    tree = yaml.safe_load(ROOT.joinpath("examples", "full.yaml").read_text(encoding="utf-8"))
    assert set(tree) == set(schema.File.model_fields) - {"include", "nodes"}
    for section, model in (
        ("node", schema.Node),
        ("timing", schema.Timing),
        ("timeouts", schema.Timeouts),
        ("connection_sync", schema.ConnectionSync),
    ):
        assert set(tree[section]) == set(model.model_fields)
    assert set(tree["speaker"]) == set(schema.Speaker.model_fields) - {"ospf"}  # which ExaBGP has none of
    assert set(tree["fleet"]) == set(schema.Fleet.model_fields) - {"token_env"}
    assert set(tree["fleet"]["etcd"]) == set(schema.Etcd.model_fields) - {"password_env"}
    assert set(tree["fleet"]["capacity"]) == set(schema.Capacity.model_fields)
    # Where else a secret can stand is told in comments.
    assert set(tree["bgp"]) == set(schema.Bgp.model_fields) - {"password", "password_file", "password_env"}
    assert set(tree["bgp"]["bfd"]) == set(schema.Bfd.model_fields)
    assert set(tree["bgp"]["neighbors"][0]) == set(schema.Neighbor.model_fields) - {
        *("password_file", "password_env", "multihop", "interface", "remote_interface"),  # in comments
    }
    hooks = tree["hooks"].values()
    other_ways = {
        *("token_env", "secret_file", "headers_file", "headers_env", "url_file", "url_env")
    }  # of what is shown, in comments
    assert set().union(*hooks) == set(schema.Hook.model_fields) - other_ways
    vips = tree["vips"].values()
    services = [service for vip in vips for service in vip.get("services", [vip])]
    assert set().union(*services, *vips) >= set(schema.Service.model_fields)
    assert set().union(*vips) >= set(schema.Vip.model_fields) - set(schema.Service.model_fields) - {
        "servers",
        "local_preference",  # with these neighbors it would be warned of
    }
    for name, part in (
        ("tunnel", schema.Tunnel),
        ("persistence", schema.Persistence),
        ("quorum", schema.Quorum),
    ):
        (shown,) = (service[name] for service in services if name in service)
        assert set(shown) == set(part.model_fields)
    servers = [one for pool in tree["pools"].values() for one in pool["servers"] if isinstance(one, dict)]
    assert set().union(*servers) == set(schema.Server.model_fields)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_warned_of_nothing(name: str) -> None:
    assert load(ROOT / "examples" / name, hostname="lb1").warnings == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"bgp": None},
        {"bgp": {"local_as": 65001}},
        {"bgp": {"local_as": 0, "neighbors": []}},
        {"bgp": {"local_as": 1, "neighbors": [{"adress": "10.0.0.1"}]}},
        {"bgp": {"local_as": 1, "neighbors": []}, "vip": {}},
        {"bgp": {"local_as": 1, "neighbors": []}, "checks": {"web": {"path": "/"}}},
        {"bgp": {"local_as": 1, "neighbors": []}, "checks": {"web": {"type": "tcp", "path": "/"}}},
        {"bgp": {"local_as": 1, "neighbors": []}, "pools": {"web": {}}},
        {"bgp": {"local_as": 1, "neighbors": []}, "pools": {"web": {"servers": [1]}}},
        {"bgp": {"local_as": 1, "neighbors": []}, "vips": {"web": {"services": [{"prot": 80}]}}},
        {"bgp": {"local_as": 1, "neighbors": []}, "vips": {"web": {"services": [{"pool": "web"}]}}},
        {
            "bgp": {"local_as": 1, "neighbors": []},
            "vips": {"web": {"services": [{"pool": "web", "port": 80, "mark": 7}]}},
        },
        {"bgp": {"local_as": 1, "neighbors": []}, "vips": {"web": {"tunnel": "vxlan"}}},
        {"bgp": {"local_as": 1, "neighbors": []}, "vips": {"web": {"persistence": 0.5}}},
        {"bgp": {"local_as": 1, "neighbors": []}, "vips": {"web": {"persistence": {"ipv4_prefix": 64}}}},
        {"bgp": {"local_as": 1, "neighbors": []}, "vips": {"web": {"expire_failed": "ever"}}},
        {"bgp": {"local_as": 1, "neighbors": []}, "timeouts": {"sctp": "5m"}},
        {"bgp": {"local_as": 1, "neighbors": []}, "connection_sync": {}},
        {"bgp": {"local_as": 1, "neighbors": []}, "timing": {"drain": "2 s"}},
        {"bgp": {"local_as": 1, "neighbors": [], "hold_time": 0}},
    ],
)
def test_an_editor_sees_what_is_wrong(wrong: Any) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(schema_text()))
    assert not validator.is_valid(wrong)


@pytest.mark.parametrize(
    ("location", "key"),
    [
        ((), "vips"),
        (("bgp", "neighbors", 0), "remote_as"),
        (("checks", "web", "(https)"), "verify"),
        (("vips", "web", "check", "(tcp)"), "rise"),
        (("pools", "web", "servers", 3), "weight"),
        (("vips", "web", "services", 0, "quorum"), "high"),
        (("vips", "web", "services", 0, "tunnel"), "checksum"),
        (("vips", "web", "persistence"), "ipv6_prefix"),
        (("timeouts",), "tcp_fin"),
        (("connection_sync",), "interface"),
    ],
)
def test_the_keys_of_a_place_are_known(location: tuple[str | int, ...], key: str) -> None:
    assert key in keys_at(location)
