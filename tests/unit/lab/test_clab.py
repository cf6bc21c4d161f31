from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from lab import clab
from lab.topology import topology

CHECKOUT = Path(__file__).resolve().parents[3]
SCHEMA = Path(
    os.environ.get("ANYCAST_CLAB_SCHEMA") or CHECKOUT.parent / "shared" / "schemas" / "clab.schema.json"
)


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((clab.HERE / "anycast.clab.yml").read_text())
    return loaded


def test_the_files_in_the_repository_are_those_of_the_topology() -> None:
    assert clab.differing() == [], "run: python -m lab clab --write"


def test_a_changed_site_changes_the_files() -> None:
    assert clab.files(topology(2, 4)) != clab.files(topology())


@pytest.mark.skipif(not SCHEMA.exists(), reason="no clab.schema.json: set ANYCAST_CLAB_SCHEMA")
def test_containerlab_accepts_the_file() -> None:
    jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).validate(document())


def test_every_file_it_binds_exists() -> None:
    for node in document()["topology"]["nodes"].values():
        for bind in node["binds"]:
            assert (clab.HERE / bind.split(":")[0]).is_file()


def test_interface_names_fit_the_kernel_and_are_not_containerlabs_own() -> None:
    for link in document()["topology"]["links"]:
        for endpoint in link["endpoints"]:
            name = endpoint.split(":")[1]
            assert len(name) <= 15
            assert name != "eth0"
