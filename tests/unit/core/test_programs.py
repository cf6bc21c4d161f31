"""In which order the kernel is written when there is more than one program can carry."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from anycast.core.dataplane import kernel as kernels
from anycast.core.dataplane import loop
from anycast.core.dataplane.ipvs import Connections, ServiceKey
from anycast.core.events import KernelChanged, ProgramKernel
from anycast.core.health.phase import Outcome
from anycast.core.state import IN_VAIN
from anycast.core.values.configuration import Protocol, Timing
from tests.fakes import addresses, up, vip
from tests.property.worlds import busied

if TYPE_CHECKING:
    import pytest

    from tests.fakes import Node

WEB = vip()
SERVICE = ServiceKey(protocol=Protocol.TCP, address=addresses(1)[0], port=80)
MANY = [vip(f"new{number}", number=number) for number in range(2, 12)]


def adding(monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node that announces a VIP and is adding ten others, in a program each."""
    monkeypatch.setattr(loop, "PROGRAM", 1)
    node = up(WEB)
    node.kernel_is_slow = True
    node.reload(WEB, *MANY)
    return node


def written(node: Node) -> tuple[kernels.KernelOp, ...]:
    """By the next program."""
    node.kernel_answers()
    assert isinstance(node.job, ProgramKernel)
    return node.job.ops


def test_a_server_that_dies_while_many_vips_are_added_is_written_by_the_next_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = adding(monkeypatch)
    node.checks(Outcome.FAIL, 1)
    ops = written(node)
    assert kernels.touched(ops) == {SERVICE}
    node.kernel_answers()
    assert node.weights() == [0, 1, 1]


def test_an_address_of_a_standing_route_is_put_back_before_new_vips_are_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = adding(monkeypatch)
    node.kernel = replace(node.kernel, addresses=node.kernel.addresses - {addresses(1)[0]})
    node.send(KernelChanged())
    assert written(node) == (kernels.AddAddress(address=addresses(1)[0]),)


def test_a_service_of_a_standing_route_is_put_back_before_new_vips_are_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = adding(monkeypatch)
    table = {key: one for key, one in node.kernel.table.items() if key != SERVICE}
    node.kernel = replace(node.kernel, table=table)
    ops = written(node)
    assert kernels.touched(ops) == {SERVICE}


def test_what_the_kernel_refuses_keeps_nothing_else_waiting_when_it_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "PROGRAM", 1)
    node = up(WEB, *MANY[:2])
    node.refused = {addresses(1)[0], addresses(2)[0]}
    node.kernel = replace(node.kernel, addresses=node.kernel.addresses - node.refused)
    node.kernel_changed()
    node.wait(loop.RETRY_PROGRAM * 4)
    assert not node.refused & node.kernel.addresses
    node.refused = {addresses(1)[0]}
    node.wait(loop.RETRY_PROGRAM * 4)
    assert node.kernel.addresses == {address for each in (2, 3) for address in addresses(each)[:1]}


def test_as_many_weights_as_a_pool_has_count_as_so_many_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PROGRAM", 3)
    node = up(WEB, *MANY)
    node.programs.clear()
    node.checks(Outcome.FAIL)
    assert {len(ops) for ops in node.programs} == {3}
    assert node.weights(1) == node.weights(11) == [0, 0, 0]


def test_connections_of_a_whole_rack_are_ended_in_programs_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "PROGRAM", 1)
    vips = [vip(f"v{number}", number=number, expire_failed=0.0) for number in range(1, 5)]
    node = up(*vips)
    node.checks(Outcome.FAIL, 1)
    before = len(node.programs)
    node.kernel = busied(node.kernel, lambda one, _: Connections(active=0 if one.weight else 3))
    node.wait(loop.CHANGED_EVERY + Timing().reconcile)
    ended = [op for ops in node.programs[before:] for op in ops if isinstance(op, kernels.ExpireDestinations)]
    assert [len({one.service for one in op.removals}) for op in ended] == [1, 1, 1, 1]
    assert len({one.service for op in ended for one in op.removals}) == 4


def test_what_cannot_be_written_keeps_no_connections_of_others_alive() -> None:
    node = up(vip("web", number=1, expire_failed=0.0))
    node.refused = {addresses(2)[0]}
    node.reload(vip("web", number=1, expire_failed=0.0), vip("log", number=2))
    node.checks(Outcome.FAIL, 1)
    node.kernel = busied(node.kernel, lambda one, _: Connections(active=0 if one.weight else 3))
    node.wait(loop.CHANGED_EVERY + Timing().reconcile)
    assert node.state.apart
    assert "server.connections_expired" in node.logged


def test_addresses_that_wait_for_their_services_keep_nothing_else_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "PROGRAM", 1)
    node = up(WEB)
    node.kernel_is_slow = True
    node.reload(WEB, MANY[0])
    state, new = node.state, replace(SERVICE, address=addresses(2)[0])
    _, _, rank = state.apart[new]
    # Its service was written in vain, so it is last; the address is not, and cannot come before its service.
    state = replace(state, apart=state.apart.updated({new: (IN_VAIN, 1, rank)}))
    assert state.kernel.snapshot is not None
    assert loop._next_pieces(state, state.kernel.snapshot, frozenset()) == [new, new.address]


def test_what_stays_refused_is_told_once_whatever_else_is_written() -> None:
    node = up(WEB)
    node.refused = {addresses(2)[0]}
    node.reload(WEB, MANY[0])
    for _ in range(3):
        node.checks(Outcome.FAIL, 1)
        node.wait(loop.RETRY_PROGRAM)
        node.checks(Outcome.OK, 1)
        node.wait(loop.RETRY_PROGRAM)
    assert node.logged.count("kernel.program_failed") == 1
    assert node.state.kernel.problems
