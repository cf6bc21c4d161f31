"""Pools and their real servers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from anycast.config.assemble.checks import DEFAULT_CHECK, Checks, ServerTree
from anycast.config.assemble.context import Assembler, Context
from anycast.config.problem import Path, TooManyError, shown
from anycast.config.reader import MAX_SERVERS
from anycast.config.schema import file as schema
from anycast.core.values import configuration as model
from anycast.core.values.configuration import Address, Forwarding


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool under construction. `whole`: no server was left out, so that counts mean something."""

    name: str
    path: Path
    servers: tuple[model.RealServer, ...]
    check: ServerTree | None  # None: what is written is wrong
    check_given: bool
    whole: bool
    places: tuple[Path, ...]  # of the servers
    families: Mapping[int, int]  # how many servers have an address of each
    has_ports: bool  # a server has a port of its own


class _Claims:
    """What is taken in a pool, and by which of its servers."""

    def __init__(self) -> None:
        self.addresses: dict[tuple[int, int, int | None], Path] = {}  # by family, number and port
        self.names: dict[str, Path] = {}


class Pools(Assembler):
    """Pools with a name, and those that VIPs describe themselves."""

    def __init__(self, context: Context, checks: Checks) -> None:
        super().__init__(context)
        self._checks = checks
        self._known: dict[str, Pool | None] = {}
        self._own: list[Pool] = []
        self._written = 0  # real servers so far

    def add(self, name: str, pool: schema.Pool) -> None:
        self._known[name] = self._pool(("pools", name), name, pool)

    def described(self, path: Path, name: str, vip: schema.Vip | schema.Service) -> Pool:
        """The pool that a VIP, or a service, describes itself."""
        pool = self._pool(path, name, vip)
        self._own.append(pool)
        return pool

    @property
    def servers(self) -> Iterator[model.RealServer]:
        """Of all pools."""
        for pool in [*self._known.values(), *self._own]:
            yield from pool.servers if pool else ()

    def _pool(self, path: Path, name: str, pool: schema.Pool | schema.Vip | schema.Service) -> Pool:
        if not pool.servers:
            what = "there is no server"
            self._say_missing((*path, "servers"), what, "write the addresses of the real servers")
        check: ServerTree | None = DEFAULT_CHECK
        if pool.check is not None:
            check = self._checks.tree((*path, "check"), pool.check)
        elif not self._whole((*path, "check")):
            check = None
        self._written += len(pool.servers or [])
        if self._written > MAX_SERVERS:
            what = f"up to here there are {self._written:,} real servers"
            self._say((*path, "servers"), what, f"write {MAX_SERVERS:,} at most, in all pools together")
            raise TooManyError
        servers: list[model.RealServer] = []
        places: list[Path] = []
        claims = _Claims()
        for n, one in enumerate(pool.servers or []):
            place = (*path, "servers", n)
            if server := self._server(place, claims, one):
                servers.append(server)
                places.append(place)
        return Pool(
            name=name,
            path=path,
            servers=tuple(servers),
            check=check,
            check_given=pool.check is not None or not self._whole((*path, "check")),
            whole=(
                self._context.whole_list((*path, "servers"), "address", "addresses")
                and len(servers) == len(pool.servers or []) > 0
            ),
            places=tuple(places),
            families=Counter(
                version for server in servers for version in {one.version for one in server.addresses}
            ),
            has_ports=any(server.port is not None for server in servers),
        )

    def _server(self, path: Path, claims: _Claims, server: schema.Server) -> model.RealServer | None:
        addresses = self.own_addresses(path, server.address, server.addresses)
        if len(addresses) > 1:
            self._one_of_each_family(path, addresses)
        before: str | None = None
        for place, address in addresses:
            if before := self._claimed(claims.addresses, (address.version, int(address), server.port), path):
                self._say(place, f"{address} is at {before} already", "write each real server once")
        if server.lower_threshold:
            self._thresholds(path, server)
        if not addresses:
            return None
        name = server.name or str(addresses[0][1])
        known = self._claimed(claims.names, name, path)
        # An address that is there twice makes a default name that is there twice: said already.
        if known and (server.name is not None or not self._is_known(claims, addresses[0][1], server, path)):
            self._say(
                (*path, "name") if server.name else path,
                f"{shown(name)} is the name of {known} already",
                "give each server a name of its own",
            )
        return model.RealServer(
            name=name,
            addresses=tuple([address for _, address in addresses]),
            weight=server.weight,
            upper=server.upper_threshold,
            lower=server.lower_threshold,
            port=server.port,
        )

    def _claimed(self, claims: dict[Any, Path], key: object, path: Path) -> str | None:
        """None for the first that claims `key`; for others, where the first one stands."""
        first = claims.setdefault(key, path)
        return None if first is path else self._context.spelt(first)

    @staticmethod
    def _is_known(claims: _Claims, address: Address, server: schema.Server, path: Path) -> bool:
        return claims.addresses[address.version, int(address), server.port] is not path

    def _one_of_each_family(self, path: Path, addresses: Sequence[tuple[Path, Address]]) -> None:
        for version, count in Counter(address.version for _, address in addresses).items():
            if count > 1:
                what = f"a server has {count} IPv{version} addresses"
                do = "write one of each family; another one is another server"
                self._say((*path, "addresses"), what, do)

    def _thresholds(self, path: Path, server: schema.Server) -> None:
        upper, lower, place = server.upper_threshold, server.lower_threshold, (*path, "lower_threshold")
        if lower <= upper or not self._whole((*path, "upper_threshold")):
            return
        if upper:
            self._say(place, f"{lower} is more than the upper_threshold {upper}", f"write {upper} or less")
        else:
            what = "it has no meaning without an upper_threshold"
            self._say(place, what, "write upper_threshold too, or remove this")

    def own_addresses(
        self, path: Path, address: Address | None, addresses: Sequence[Address] | None
    ) -> list[tuple[Path, Address]]:
        """The addresses of a server or VIP, which has `address` or `addresses`."""
        if address is not None and addresses is not None:
            self._say(
                (*path, "address"), "both address and addresses are written", "keep one of them", key=True
            )
        if address is not None:
            return [((*path, "address"), address)]
        if not addresses and self._whole((*path, "address"), (*path, "addresses")):
            self._say(path, "there is no address", "write address or addresses")
        several = (*path, "addresses")
        if addresses and not self._context.stands(several) and self._context.stands((*path, "address")):
            several = (*path, "address")  # a list under the other name
        return [((*several, n), one) for n, one in enumerate(addresses or [])]

    def named(self, path: Path, name: str | None) -> Pool | None:
        if name is None:
            return None
        if not self._context.is_written("pools", name):
            self._context.unknown(path, "pools", name)
        return self._known.get(name)


def count_of(pool: Pool, version: int, forwarding: Forwarding) -> int:
    """The servers that a VIP's address of the family can be served by."""
    return len(pool.servers) if forwarding is Forwarding.TUNNEL else pool.families.get(version, 0)
