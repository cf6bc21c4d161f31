"""What the agent owns in the kernel, on disk: the next agent may have another configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from itertools import islice
from pathlib import Path
from typing import Any

from anycast.agent import files
from anycast.core.dataplane import ipvs
from anycast.core.owned import NOTHING, Owned
from anycast.core.values.configuration import Protocol
from anycast.core.values.lease import MAX_TTL
from anycast.core.values.persistent import PersistentMap
from anycast.sealed import opened

VERSION = 1
_KEYS = ("version", "boot", "lease_ttl", "sync", "vips", "addresses", "services")
PIECE = 500  # real servers that are written at a time: half a millisecond


class DamagedError(Exception):
    """The file is there and cannot be understood. `args[0]` says where and why."""


def load(path: Path, boot: str) -> Owned:
    """No file: nothing. Raises DamagedError for anything that cannot be read whole.

    `boot`: of this boot. No lease of another stands any more.
    """
    try:
        body = opened(files.read(path), _KEYS)
        if body["version"] != VERSION:
            raise ValueError(f"version {body['version']!r}, expected {VERSION}")
        services = {_key(one): _servers(one["servers"]) for one in body["services"]}
        return Owned(
            vips={name: tuple(map(ip_address, addresses)) for name, addresses in body["vips"].items()},
            addresses=frozenset(map(ip_address, body["addresses"])),
            services=PersistentMap(services),
            marks={
                key: frozenset(map(ip_address, one["addresses"]))
                for one in body["services"]
                if isinstance(key := _key(one), ipvs.MarkKey)
            },
            wide={ip_address(at): ip_network(prefix) for at, prefix in body.get("wide", {}).items()},
            sync=bool(body["sync"]),
            lease_ttl=_lease_ttl(body, boot),
        )
    except FileNotFoundError:
        return NOTHING
    except OSError as error:
        raise DamagedError(f"{path}: {error}") from error
    # OverflowError: what json takes for a number is not bounded by it.
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DamagedError(f"{path}: {type(error).__name__}: {error}") from error


def _lease_ttl(body: dict[str, Any], boot: str) -> float:
    """Where nobody knows which boot this is, it may be the same."""
    lease_ttl = float(body["lease_ttl"])
    if not 0 <= lease_ttl <= MAX_TTL:
        raise ValueError(f"lease_ttl {lease_ttl}, expected 0 to {MAX_TTL:g} seconds")
    return 0.0 if boot and body["boot"] != boot else lease_ttl


def _key(body: dict[str, Any]) -> ipvs.Key:
    if "mark" in body:
        return ipvs.MarkKey(mark=int(body["mark"]), version=int(body["version"]))
    return ipvs.ServiceKey(
        protocol=Protocol(body["protocol"]), address=ip_address(body["address"]), port=int(body["port"])
    )


def _servers(body: dict[str, list[list[Any]]]) -> dict[ipvs.DestinationKey, str]:
    return {
        (ip_address(address), int(port)): scope for scope, places in body.items() for address, port in places
    }


def save(path: Path, owned: Owned, boot: str) -> None:
    """Replaces the file at once and for good. Raises OSError.

    In a thread it never keeps the event loop waiting for long: JSON is made in small pieces.
    """
    files.replace(path, _text(owned, boot), synced=True)


def _text(owned: Owned, boot: str) -> Iterator[str]:
    head = {
        "version": VERSION,
        "boot": boot,
        "lease_ttl": owned.lease_ttl,
        "sync": owned.sync,
        "vips": {name: list(map(str, addresses)) for name, addresses in owned.vips.items()},
        "addresses": sorted(map(str, owned.addresses)),
    }
    if owned.wide:
        head["wide"] = {str(at): str(prefix) for at, prefix in owned.wide.items()}
    yield f'{json.dumps(head)[:-1]}, "services": ['
    separator = ""
    for key, servers in owned.services.items():
        yield f'{separator}{json.dumps(_service(owned, key))[:-1]}, "servers": {{'
        yield from _servers_text(servers)
        yield "}}"
        separator = ", "
    yield "]}\n"


def _servers_text(servers: Mapping[ipvs.DestinationKey, str]) -> Iterator[str]:
    places: dict[str, list[tuple[str, int]]] = {}
    for (address, port), scope in servers.items():
        places.setdefault(scope, []).append((str(address), port))
    scopes = iter(places.items())
    separator = ""
    while part := dict(islice(scopes, PIECE)):
        yield separator + json.dumps(part)[1:-1]
        separator = ", "


def _service(owned: Owned, key: ipvs.Key) -> dict[str, object]:
    if isinstance(key, ipvs.MarkKey):
        addresses = sorted(map(str, owned.marks.get(key, frozenset())))
        return {"mark": key.mark, "version": key.version, "addresses": addresses}
    return {
        "protocol": str(key.protocol),
        "address": str(key.address),
        "port": key.port,
    }


def left(path: Path, boot: str, *, lease_ttl: float, starts: Path, damaged: Callable[[str], None]) -> Owned:
    """What the agent before left. With `starts` there was one, of a version that wrote no such file perhaps."""
    try:
        # Path.exists() raises where it may not look.
        if os.path.exists(path) or not os.path.exists(starts):
            return load(path, boot)
    except DamagedError as error:
        damaged(str(error))
    return Owned(lease_ttl=lease_ttl)
