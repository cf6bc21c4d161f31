"""The tables of one VIP as a node tells them where it is asked for the first difference. What comes is not trusted. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from anycast.core.fleet.agreement import SERVERS, Served, Server
from anycast.core.fleet.codec import BrokenError

PATH = "/fleet/vips/"
MOST_BYTES = 1 << 20
MOST_SERVICES = 256
_TEXT = 100  # characters


def body(tables: Mapping[str, Served]) -> dict[str, Any]:
    """Of as many services and real servers as are compared."""
    return {
        "services": {
            name: {
                "settings": one.settings,
                "ordered": one.ordered,
                "servers": [list(server) for server in one.servers[:SERVERS]],
            }
            for name, one in list(tables.items())[:MOST_SERVICES]
        }
    }


def read(data: bytes) -> dict[str, Served]:
    """Raises BrokenError."""
    try:
        services = json.loads(data)["services"]
        return dict(_services(services))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise BrokenError("what it says of its tables cannot be read") from None


def _services(services: Mapping[str, Any]) -> Iterator[tuple[str, Served]]:
    for name, one in list(services.items())[:MOST_SERVICES]:
        servers = tuple(_server(*server[:3]) for server in one["servers"][:SERVERS])
        yield _line(name), Served(_line(one["settings"]), servers, one["ordered"] is True)


def _server(at: Any, weight: Any, name: Any = "") -> Server:
    if isinstance(weight, bool) or not isinstance(weight, int):
        raise TypeError(weight)
    return Server(_line(at), weight, _line(name))


def _line(found: Any) -> str:
    """What a terminal would obey is not in it."""
    if not isinstance(found, str):
        raise TypeError(found)
    return "".join(one if one.isprintable() else "?" for one in found[:_TEXT])
