"""The messages from the agent to the ops process, one way only: frames of pickled messages over a socket pair.

The first messages hold everything, each later one what has changed since the one before. What follows from the
configuration alone is not sent: both ends work it out. What nobody is shown is not sent either.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from operator import attrgetter
from typing import Any, TypeAlias

from anycast.core.index import Index, indexed
from anycast.core.owned import NOTHING
from anycast.core.values.configuration import Address, Config, Prefix
from anycast.core.values.persistent import PersistentMap
from anycast.ops.delta import Change, names
from anycast.ops.source import Facts

LENGTH = struct.Struct("!I")  # of the message behind it

_UNSHOWN: Mapping[str, Any] = {
    "index": Index(),
    "configured": NOTHING,
    "owned": NOTHING,
    "kept_users": PersistentMap(),
    "awaiting": PersistentMap(),
    "unreplaced": PersistentMap(),
}
"""Fields of a state that are not sent, and what stands in their place. The other end works the index out."""

_UNSHOWN_OF_KERNEL: Mapping[str, Any] = {
    "reported": None,
    "coming": None,
    "attempted": {},
    "reached": PersistentMap(),
    "readings": (),
    "adopted": {},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    revision: int
    facts: Facts | None = None  # None: those of the message before, changed by `changes`
    changes: tuple[Change, ...] = ()
    more: bool = False  # nothing to show yet: the next message belongs to it
    events: tuple[str, ...] = ()  # as lines of JSON, the oldest first
    ran: bytes = b""  # the numbers of targets whose checks ran, as array("I")
    took: bytes = b""  # and the seconds that it took, negative of failures, as array("f")
    pid: int = 0  # of the agent


def bare(facts: Facts) -> Facts:
    """Without what both ends work out, and without what is not shown."""
    kernel = replace(facts.state.kernel, **_UNSHOWN_OF_KERNEL)
    return replace(facts, state=replace(facts.state, kernel=kernel, **_UNSHOWN))


def derived(config: Config, before: Index | None = None) -> Index:
    """What `bare` leaves out and documents need. `before`: of the configuration before."""
    return indexed(config, before)


def whole(facts: Facts, index: Index) -> Facts:
    """What `bare` made bare, to be shown. `index`: from `derived`."""
    return replace(facts, state=replace(facts.state, index=index))


def _made(kind: type, parts: tuple[object, ...]) -> object:
    return kind(**dict(zip(names(kind), parts, strict=True)))


def _address(address: Address) -> tuple[Any, tuple[int]]:
    return type(address), (int(address),)  # by itself it would be sent as text, and parsed


def _prefix(prefix: Prefix) -> tuple[Any, tuple[tuple[int, int]]]:
    return type(prefix), ((int(prefix.network_address), prefix.prefixlen),)


_Reduced: TypeAlias = str | tuple[Any, ...]


class _Reducers(dict[type, Callable[[Any], _Reduced]]):
    """How values of each type are taken apart. Of a dataclass what it is made of: one by one its fields are dear to find,
    and a hash that it keeps is another in each process.
    """

    def __missing__(self, kind: type) -> Callable[[Any], _Reduced]:
        made = self[kind] = _taken_apart(kind) if is_dataclass(kind) else _as_ever
        return made


def _taken_apart(kind: type) -> Callable[[Any], _Reduced]:
    which = names(kind)
    if len(which) < 2:  # an attrgetter of one name gives no tuple
        return lambda value: (_made, (kind, tuple(getattr(value, name) for name in which)))
    parts = attrgetter(*which)
    return lambda value: (_made, (kind, parts(value)))


def _as_ever(value: Any) -> Any:
    if isinstance(value, type):
        return value.__qualname__
    return value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


class _Pickler(pickle.Pickler):
    dispatch_table = _Reducers(
        {
            **copyreg.dispatch_table,
            IPv4Address: _address,
            IPv6Address: _address,
            IPv4Network: _prefix,
            IPv6Network: _prefix,
        }
    )


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
