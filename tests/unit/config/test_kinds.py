"""The table of the kinds of checks: what a kind needs to be whole."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

from anycast.config.schema.checks import CHECKS
from anycast.config.schema.part import described
from anycast.core.values import checks as kinds
from anycast.core.values.checks import KINDS, Kind
from anycast.probes.run import check_of


def _below(kind: type[Kind]) -> set[type[Kind]]:
    return {kind} | {one for below in kind.__subclasses__() for one in _below(below)}


def test_the_table_has_every_kind() -> None:
    names = {one.__name__ for one in _below(Kind) if "TYPE" in vars(one)}  # a class with slots is made twice
    assert {kind.__name__ for kind in KINDS} == names


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_written_and_is_run(kind: type[Kind]) -> None:
    assert kind.TYPE in CHECKS
    if kind.PROBE in {"sweep", "programs"}:
        return
    assert inspect.iscoroutinefunction(check_of(kind))
    names = [name.strip("_") for name in inspect.signature(check_of(kind)).parameters]
    assert names == ["kind", "address", "port", "progress"]


@pytest.mark.parametrize("name", CHECKS)
def test_a_kind_has_the_settings_of_its_class_and_no_others(name: str) -> None:
    core = CHECKS[name].CORE
    if core is not None:
        own = {one.name for one in fields(core)} - {"port", "tls"}
        assert own >= set(described(core)) - {"tls"}
        assert set(CHECKS[name].model_fields) >= (own if name != "http" else {"method"})


def test_a_name_is_told_as_the_configuration_writes_it() -> None:
    assert kinds.HttpCheck(tls=True).type == "https"
    assert kinds.HttpCheck(tls=False).type == "http"
    assert kinds.SyslogCanaryCheck().type == "syslog"
    assert kinds.IpvsConnectionsCheck(max=1).type == "ipvs_connections"
