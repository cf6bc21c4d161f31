"""The messages from the agent to the ops process, one way only: frames of pickled messages over a socket pair.

The first messages hold everything, each later one what has changed since the one before. What follows from the
configuration alone is not sent: both ends work it out.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from anycast.core.dataplane.members import composed_uses, memberships, siblings, target_names
from anycast.core.owned import NOTHING, owned_by
from anycast.core.values.configuration import Address, Config, Target
from anycast.core.vip.requirements import requirements
from anycast.ops.delta import Delta, names
from anycast.ops.source import Facts

LENGTH = struct.Struct("!I")  # of the message behind it

_DERIVED: Mapping[str, tuple[Any, Callable[[Config], Any]]] = {
    "members": ({}, memberships),
    "requirements": ((), requirements),
    "composed": ((), composed_uses),
    "names": ({}, target_names),
    "siblings": ({}, siblings),
    "configured": (NOTHING, owned_by),
}
"""Fields of a state that follow from the configuration: what is sent in their place, and how to work them out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    revision: int
    facts: Facts | None = None  # None: those of the message before, changed by `delta`
    delta: Delta = None
    more: bool = False  # nothing to show yet: the next message belongs to it
    events: tuple[str, ...] = ()  # as lines of JSON, the oldest first
    ran: bytes = b""  # the numbers of targets whose checks ran, as array("I")
    took: bytes = b""  # and the seconds that it took, negative of failures, as array("f")
    pid: int = 0  # of the agent


def bare(facts: Facts) -> Facts:
    """Without what both ends work out, and the kernel's table as it is going to be, which the other end has no use for."""
    kernel = replace(facts.state.kernel, coming=None)
    known = {name: none for name, (none, _) in _DERIVED.items()}
    return replace(facts, state=replace(facts.state, kernel=kernel, **known))


def derived(config: Config) -> dict[str, Any]:
    """The fields that `bare` leaves out."""
    return {name: work_out(config) for name, (_, work_out) in _DERIVED.items()}


def whole(facts: Facts, fields: Mapping[str, Any]) -> Facts:
    return replace(facts, state=replace(facts.state, **fields))


def _made(kind: type, parts: tuple[object, ...]) -> object:
    return kind(**dict(zip(names(kind), parts, strict=True)))


def _remake(target: Target) -> tuple[Any, tuple[Any, ...]]:
    # It keeps its hash, which is another in each process.
    return _made, (Target, tuple(getattr(target, name) for name in names(Target)))


def _address(address: Address) -> tuple[Any, tuple[int]]:
    return type(address), (int(address),)  # by itself it would be sent as text, and parsed


class _Pickler(pickle.Pickler):
    dispatch_table = {  # noqa: RUF012 - as the library wants it
        **copyreg.dispatch_table,
        Target: _remake,
        IPv4Address: _address,
        IPv6Address: _address,
    }


def encode(message: Message) -> bytes:
    """As a frame."""
    data = io.BytesIO(bytes(LENGTH.size))
    data.seek(LENGTH.size)
    _Pickler(data, pickle.HIGHEST_PROTOCOL).dump(message)
    size = data.tell() - LENGTH.size
    data.seek(0)
    data.write(LENGTH.pack(size))
    return data.getvalue()


def decode(data: bytes) -> Message:
    """Without its length. The agent alone holds the other end."""
    message = pickle.loads(data)  # noqa: S301 - from the process that started this one
    if not isinstance(message, Message):
        raise TypeError(message)
    return message
