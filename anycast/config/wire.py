"""How a configuration comes from the process that reads it: in frames that each take little time, and without what
the receiver has already.

VIPs and pools are known by a digest of all they are made of. The receiver names those it has; instead of such a VIP
its digest comes, and the receiver takes its own: the very same object. In what has changed, the parts that have not
are its own too, down to a real server.

A frame is a pickled tuple: its kind, and what it holds. Only what one program says to itself goes this way.
"""

from __future__ import annotations

import hashlib
import marshal
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeAlias, TypeVar

from anycast.config.loaded import Loaded, Units
from anycast.core.values.configuration import Address, Config, Pool, RealServer, Service, Vip

T = TypeVar("T")

DIGEST_SIZE = 16
_SLICE = 128  # of anything, in a frame: it is decoded in less than a millisecond

Row: TypeAlias = "int | tuple[Any, ...]"
"""A real server: the number of its IPv4 address if there is nothing else to say of it, else all of it."""

_STYLE = tuple(one.name for one in fields(Service) if one.name not in ("pool", "sorry", "port"))
_MANNER = tuple(one.name for one in fields(Vip) if one.name not in ("name", "addresses", "services"))
_TOLD = ("digest", "unended", "fingerprint", "nodes", "asked")  # of all of it
_REST = tuple(one.name for one in fields(Config) if one.name != "vips")


def digests(units: Units | None) -> bytes:
    """What the receiver has, as it tells the sender."""
    return b"" if units is None else b"".join((*units.vips, *units.pools))


def known(data: bytes) -> frozenset[bytes]:
    return frozenset(data[n : n + DIGEST_SIZE] for n in range(0, len(data), DIGEST_SIZE))


def frames(loaded: Loaded, known: AbstractSet[bytes] = frozenset()) -> Iterator[bytes]:
    """The configuration, for a receiver that has the VIPs and pools with the digests `known`."""
    return map(_packed, _Sender(known).frames(loaded))


def _packed(frame: tuple[Any, ...]) -> bytes:
    return pickle.dumps(frame, pickle.HIGHEST_PROTOCOL)


def _slices(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[n : n + _SLICE] for n in range(0, len(items), _SLICE))


class _Sender:
    """Numbers what many VIPs have in common: each of it is sent once, and is one object for the receiver."""

    def __init__(self, known: AbstractSet[bytes]) -> None:
        self._known = known
        self._values: dict[object, int] = {}
        self._by_id: dict[int, tuple[int, object]] = {}  # with the object, so that its id stays its own
        self._value_digests: list[bytes] = []
        self._unsent: list[object] = []
        self._pools: dict[int, tuple[bytes, Pool]] = {}  # digests, by id
        self._sent: set[bytes] = set()

    def frames(self, loaded: Loaded) -> Iterator[tuple[Any, ...]]:
        config = loaded.config
        unchanged: list[bytes] = []
        for vip in config.vips:
            digest = self._vip_digest(vip)
            changed = digest not in self._known
            if not changed:
                unchanged.append(digest)
            if unchanged and (changed or len(unchanged) == _SLICE):
                yield ("unchanged", b"".join(unchanged))
                unchanged = []
            if changed:
                yield from self._vip(vip, digest)
        if unchanged:
            yield ("unchanged", b"".join(unchanged))
        for part in _slices([*loaded.checks.items()]):
            yield ("checks", part)
        for paths in _slices(loaded.paths):
            yield ("paths", paths)
        for warnings in _slices(loaded.warnings):
            yield ("warnings", warnings)
        for files in _slices(loaded.files):
            yield ("files", files)
        told = {name: getattr(loaded, name) for name in _TOLD}
        yield ("end", told, {name: getattr(config, name) for name in _REST})

    def _vip(self, vip: Vip, digest: bytes) -> Iterator[tuple[Any, ...]]:
        for service in vip.services:
            for pool in service.pools:
                yield from self._pool(pool)
        services = [
            (self._pool_digests(service), service.port, self._number(_style(service)))
            for service in vip.services
        ]
        manner = self._number(tuple(getattr(vip, name) for name in _MANNER))
        yield from self._new_values()
        yield ("vip", digest, vip.name, [_plain(one) for one in vip.addresses], manner, services)

    def _pool(self, pool: Pool) -> Iterator[tuple[Any, ...]]:
        digest = self._pool_digest(pool)
        if digest in self._sent or digest in self._known:
            return
        self._sent.add(digest)
        check = self._number(pool.check)
        yield from self._new_values()
        yield ("pool", pool.name)
        for servers in _slices(pool.servers):
            yield ("servers", [_row(server) for server in servers])
        yield ("pool ends", digest, check)

    def _new_values(self) -> Iterator[tuple[Any, ...]]:
        unsent, self._unsent = self._unsent, []
        for values in _slices(unsent):
            yield ("values", values)

    def _number(self, value: object) -> int:
        """Of a value that many may share."""
        number = self._values.get(value)
        if number is None:
            number = self._values[value] = len(self._values)
            self._value_digests.append(_digest(_canonical(value)))
            self._unsent.append(value)
        return number

    def _shared(self, value: object) -> int:
        """The same, of one that is often the same object."""
        found = self._by_id.get(id(value))
        if found is None:
            found = self._by_id[id(value)] = self._number(value), value
        return found[0]

    def _pool_digest(self, pool: Pool) -> bytes:
        found = self._pools.get(id(pool))
        if found is None:
            rows = [_row(server) for server in pool.servers]
            digest = _digest(("pool", pool.name, self._value_digests[self._shared(pool.check)], rows))
            found = self._pools[id(pool)] = digest, pool
        return found[0]

    def _pool_digests(self, service: Service) -> tuple[bytes, ...]:
        return tuple([self._pool_digest(pool) for pool in service.pools])

    def _vip_digest(self, vip: Vip) -> bytes:
        services = [
            (
                self._pool_digests(service),
                service.port,
                self._value_digests[self._number(_style(service))],
            )
            for service in vip.services
        ]
        manner = self._value_digests[self._number(tuple(getattr(vip, name) for name in _MANNER))]
        return _digest(("vip", vip.name, [_plain(one) for one in vip.addresses], manner, services))


def _style(service: Service) -> tuple[object, ...]:
    return tuple([getattr(service, name) for name in _STYLE])


def _digest(content: Any) -> bytes:
    # The second version of the format: later ones depend on who else refers to the objects.
    return hashlib.blake2b(marshal.dumps(content, 2), digest_size=DIGEST_SIZE).digest()


def _plain(address: Address) -> int | bytes:
    return int(address) if address.version == 4 else address.packed


def _row(server: RealServer) -> Row:
    address = server.addresses[0]
    if (
        server.weight == 1
        and len(server.addresses) == 1
        and address.version == 4
        and server.port is None
        and not server.upper
        and not server.lower
        and server.name == str(address)
    ):
        return int(address)
    addresses = tuple([_plain(one) for one in server.addresses])
    return server.name, addresses, server.weight, server.upper, server.lower, server.port


def _canonical(value: Any) -> object:
    """The same for equal values in every process, of what `marshal` knows."""
    if is_dataclass(value):
        return (type(value).__name__, *[_canonical(getattr(value, one.name)) for one in fields(value)])
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, frozenset):
        return ("set", sorted((_canonical(one) for one in value), key=repr))
    if isinstance(value, tuple | list):
        return tuple([_canonical(one) for one in value])
    if isinstance(value, IPv4Address | IPv6Address | IPv4Network | IPv6Network):
        return str(value)
    return value


class Receiver:
    """Puts the frames together. `before`: what the receiver has, of which it uses again what has not changed."""

    def __init__(self, before: Loaded | None = None) -> None:
        self._before = before
        self._units = Units() if before is None else before.units
        self._old_vips = {} if before is None else {vip.name: vip for vip in before.config.vips}
        self._old_pools = {
            pool.name: pool
            for vip in self._old_vips.values()
            for service in vip.services
            for pool in service.pools
        }
        self._pool_digests = {id(pool): digest for digest, pool in self._units.pools.items()}
        self._addresses: dict[int | bytes, Address] = {}
        self._values: list[Any] = []
        self._servers: list[RealServer] = []
        self._old_servers: Mapping[str, RealServer] = {}
        self._pool_name = ""
        self._pools: dict[bytes, Pool] = {}
        self._vips: dict[bytes, Vip] = {}
        self._checks: dict[str, Any] = {}
        self._paths: list[Any] = []
        self._warnings: list[Any] = []
        self._files: list[str] = []
        self.loaded: Loaded | None = None  # once all has come

    def take(self, frame: bytes) -> None:
        kind, *content = pickle.loads(frame)  # noqa: S301 - from ourselves
        self._TAKES[kind](self, *content)

    def _take_values(self, values: list[Any]) -> None:
        self._values += values

    def _take_pool(self, name: str) -> None:
        self._pool_name, self._servers = name, []
        old = self._old_pools.get(name)
        self._old_servers = {} if old is None else {server.name: server for server in old.servers}

    def _take_servers(self, rows: list[Row]) -> None:
        for row in rows:
            server = self._server(row)
            old = self._old_servers.get(server.name)
            self._servers.append(old if old is not None and old == server else server)

    def _server(self, row: Row) -> RealServer:
        if isinstance(row, int):
            address = self._address(row)
            return RealServer(name=str(address), addresses=(address,))
        name, addresses, weight, upper, lower, port = row
        return RealServer(
            name=name,
            addresses=tuple([self._address(one) for one in addresses]),
            weight=weight,
            upper=upper,
            lower=lower,
            port=port,
        )

    def _address(self, plain: int | bytes) -> Address:
        """One object for an address, however many pools it is in."""
        address = self._addresses.get(plain)
        if address is None:
            address = IPv4Address(plain) if isinstance(plain, int) else IPv6Address(plain)
            self._addresses[plain] = address
        return address

    def _take_pool_end(self, digest: bytes, check: int) -> None:
        old = self._old_pools.get(self._pool_name)
        pool = Pool(
            name=self._pool_name,
            servers=tuple(self._servers),
            check=_same(None if old is None else old.check, self._values[check]),
        )
        self._pools[digest] = _same(old, pool)

    def _take_vip(
        self,
        digest: bytes,
        name: str,
        addresses: list[int | bytes],
        manner: int,
        services: list[tuple[tuple[bytes, ...], int, int]],
    ) -> None:
        old = self._old_vips.get(name)
        had = {} if old is None else {one.name: one for one in old.services}
        made: list[Service] = []
        for (pool, *sorry), port, style in services:
            service = Service(
                pool=self._pool(pool),
                sorry=self._pool(sorry[0]) if sorry else None,
                port=port,
                **dict(zip(_STYLE, self._values[style], strict=True)),
            )
            made.append(_same(had.get(service.name), service))
        self._vips[digest] = Vip(
            name=name,
            addresses=tuple([self._address(one) for one in addresses]),
            services=tuple(made),
            **dict(zip(_MANNER, self._values[manner], strict=True)),
        )

    def _pool(self, digest: bytes) -> Pool:
        pool = self._pools.get(digest)
        if pool is None:
            pool = self._pools[digest] = self._units.pools[digest]
        return pool

    def _take_unchanged(self, digests: bytes) -> None:
        for n in range(0, len(digests), DIGEST_SIZE):
            digest = digests[n : n + DIGEST_SIZE]
            vip = self._vips[digest] = self._units.vips[digest]
            for service in vip.services:
                # One that is not known by its digest comes again when it is needed.
                for one in service.pools:
                    if (pool := self._pool_digests.get(id(one))) is not None:
                        self._pools[pool] = one

    def _take_end(self, told: Mapping[str, Any], rest: Mapping[str, Any]) -> None:
        before = None if self._before is None else self._before.config
        kept = {name: _same(getattr(before, name, None), value) for name, value in rest.items()}
        self.loaded = Loaded(
            config=Config(vips=tuple(self._vips.values()), **kept),
            checks=self._checks,
            paths=tuple(self._paths),
            files=tuple(self._files),
            warnings=tuple(self._warnings),
            **told,
            units=Units(vips=self._vips, pools=self._pools),
        )

    _TAKES: Mapping[str, Callable[..., None]] = {
        "values": _take_values,
        "pool": _take_pool,
        "servers": _take_servers,
        "pool ends": _take_pool_end,
        "vip": _take_vip,
        "unchanged": _take_unchanged,
        "checks": lambda self, items: self._checks.update(items),
        "paths": lambda self, items: self._paths.extend(items),
        "warnings": lambda self, items: self._warnings.extend(items),
        "files": lambda self, items: self._files.extend(items),
        "end": _take_end,
    }


def _same(old: Any, new: T) -> T:
    """The one that is there already, if the new one is no other."""
    return old if old is not None and old == new else new
