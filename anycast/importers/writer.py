"""What was imported, as YAML that a person would write: defaults left out, what is alike written once. Pure."""

from __future__ import annotations

import json
import os.path
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from anycast.importers.model import Keys, Server, Service, Setup, Sorry, Value, Vip

_WIDTH = 110  # characters of a line
_PLAIN = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9_./%+*?=~^$@-]*( [A-Za-z0-9_./%+=-]+)*\Z")
_WITH_PORT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}:[0-9]{1,5}\Z", re.ASCII)
# What YAML would read as something else than text.
_NOT_TEXT = re.compile(
    r"(?i:null|true|false|yes|no|on|off|y|n|~)\Z|[-+]?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?\Z|0[xob]|[0-9]+:|\.inf|\.nan"
)
_FIELDS = ("scheduler", "flags", "forwarding", "tunnel", "one_packet", "persistence", "quorum", "sorry")
_DEFAULTS: Mapping[str, Value] = {"scheduler": "mh", "forwarding": "dr"}


def write(setup: Setup, head: Sequence[str] = (), notes: Mapping[str, str] | None = None) -> str:
    """The file. `head`: lines of comment at its top. `notes`: comments above a section, by its name."""
    return "\n".join(_Writer(setup, notes or {}).lines(head)) + "\n"


def users(setup: Setup, section: str, name: str) -> list[str]:
    """The VIPs that a pool or a check of this name is written for."""
    return _Writer(setup, {}).users(section, name)


def scalar(value: Value) -> str:
    """On one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.12g}"
        case int():
            return str(value)
        case str():
            if _WITH_PORT.match(value):
                return value
            if _PLAIN.match(value) and not _NOT_TEXT.match(value) and len(value) < _WIDTH:
                return value
            return _quoted(value)
        case Keys():
            inner = ", ".join(f"{scalar(name)}: {scalar(one)}" for name, one in value.items)
            return f"{{{inner}}}"
        case _:
            return f"[{', '.join(scalar(one) for one in value)}]"


def _quoted(text: str) -> str:
    """In the escapes that JSON and YAML share, where there is something to escape."""
    if text.isprintable():
        return json.dumps(text, ensure_ascii=False)
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in text) + '"'


def _entry(name: str, value: Value, indent: int) -> Iterator[str]:
    """`name: value` on one line if that is short, else below one another."""
    pad = " " * indent
    line = f"{pad}{scalar(name)}: {scalar(value)}"
    if len(line) <= _WIDTH or not isinstance(value, (Keys, tuple)):
        yield line
        return
    yield f"{pad}{scalar(name)}:"
    yield from _below(value, indent + 2)


def _below(value: Keys | tuple[Value, ...], indent: int) -> Iterator[str]:
    if isinstance(value, Keys):
        for name, one in value.items:
            yield from _entry(name, one, indent)
        return
    for one in value:
        line = f"{' ' * indent}- {scalar(one)}"
        if len(line) <= _WIDTH or not isinstance(one, Keys) or not one.items:
            yield line
            continue
        first, *rest = _below(one, indent + 2)
        yield f"{' ' * indent}- {first.lstrip()}"
        yield from rest


@dataclass(frozen=True, slots=True)
class _Part:
    """Services of a VIP that are alike but for the port. `ports`: as they are written."""

    service: Service
    ports: tuple[Value, ...]
    pool: str = ""


@dataclass(slots=True)
class _Writer:
    setup: Setup
    notes: Mapping[str, str]
    pools: dict[tuple[Server, ...], str] = field(default_factory=dict)
    checks: dict[Value, str] = field(default_factory=dict)
    pool_checks: dict[str, Value | None] = field(default_factory=dict)
    sorry: dict[Sorry, str] = field(default_factory=dict)

    def users(self, section: str, name: str) -> list[str]:
        def uses(part: _Part) -> bool:
            if section == "pools":
                return name in (part.pool, self.sorry.get(part.service.sorry) if part.service.sorry else "")
            checks = (part.service.check, self.pool_checks.get(part.pool))
            return any(check is not None and self.checks.get(check) == name for check in checks)

        return [vip.name for vip, some in self._named() if any(map(uses, some))]

    def _named(self) -> list[tuple[Vip, tuple[_Part, ...]]]:
        """The VIPs with their services; what is shared has its name then."""
        self._name_pools()
        parts = [(vip, _parts(vip, self.pools)) for vip in self.setup.vips]
        self._check_pools(parts)
        self._name_checks(parts)
        return parts

    def lines(self, head: Sequence[str]) -> Iterator[str]:
        yield from (f"# {line}".rstrip() for line in head)
        parts = self._named()
        if self.setup.bgp is not None:
            yield from self._section("bgp", _below(self.setup.bgp, 2))
        if self.setup.nodes:
            yield from self._section("nodes", _below(Keys(self.setup.nodes), 2))
        for name, value in self.setup.settings.items:
            if isinstance(value, Keys):
                yield from self._section(name, _below(value, 2))
            else:
                yield from ("", *_entry(name, value, 0))
        if self.checks:
            named = (line for check, name in self.checks.items() for line in _entry(name, check, 2))
            yield from self._section("checks", named)
        if self.pools or self.sorry:
            yield from self._section("pools", self._pools())
        yield from self._section("vips", (line for vip, some in parts for line in self._vip(vip, some)))

    def _section(self, name: str, lines: Iterable[str]) -> Iterator[str]:
        yield ""
        if note := self.notes.get(name):
            yield from (f"# {line}" for line in note.split("\n"))
        yield f"{name}:"
        yield from lines

    # What is shared

    def _name_pools(self) -> None:
        """Real servers of several VIPs get a pool with a name."""
        users: dict[tuple[Server, ...], dict[str, None]] = {}
        for vip in self.setup.vips:
            for service in vip.services:
                if service.servers:
                    users.setdefault(service.servers, {})[vip.name] = None
        taken = {vip.name for vip in self.setup.vips}
        taken |= {f"{vip.name}-{service.port}" for vip in self.setup.vips for service in vip.services}
        for servers, names in users.items():
            if len(names) > 1:
                name = _unique(_common(list(names)), taken, "servers")
                taken.add(name)
                self.pools[servers] = name
        for sorry in (service.sorry for vip in self.setup.vips for service in vip.services):
            if sorry is not None and sorry not in self.sorry:
                tried = ("sorry" if n == 1 else f"sorry-{n}" for n in count(1))
                self.sorry[sorry] = next(name for name in tried if name not in taken)
                taken.add(self.sorry[sorry])

    def _check_pools(self, parts: Sequence[tuple[Vip, tuple[_Part, ...]]]) -> None:
        """A pool whose users all have one check has it."""
        found: dict[str, list[Value | None]] = {}
        for _, some in parts:
            for part in some:
                if part.pool:
                    found.setdefault(part.pool, []).append(part.service.check)
        for name, checks in found.items():
            self.pool_checks[name] = checks[0] if len(set(checks)) == 1 else None

    def _name_checks(self, parts: Sequence[tuple[Vip, tuple[_Part, ...]]]) -> None:
        """A check that is written in several places gets a name."""
        used: Counter[Value] = Counter(check for check in self.pool_checks.values() if check is not None)
        used.update(sorry.check for sorry in self.sorry if sorry.check is not None)
        for _, some in parts:
            used.update({check for part in some if (check := self._own_check(part)) is not None})
        numbers: Counter[str] = Counter()
        for check, times in used.items():
            if times < 2 or not isinstance(check, Keys) or len(check.items) < 2:
                continue
            kind = str(check.get("type"))
            numbers[kind] += 1
            self.checks[check] = f"{kind}-check" if numbers[kind] == 1 else f"{kind}-check-{numbers[kind]}"

    def _own_check(self, part: _Part) -> Value | None:
        """What is written with the service: nothing where its pool says it."""
        known = self.pool_checks.get(part.pool)
        return None if known is not None else part.service.check

    def _checked(self, check: Value) -> Value:
        if isinstance(check, Keys):
            if check in self.checks:
                return self.checks[check]
            if len(check.items) == 1:
                return str(check.get("type"))
        return check

    # Sections

    def _pools(self) -> Iterator[str]:
        for servers, name in self.pools.items():
            yield f"  {name}:"
            if (check := self.pool_checks.get(name)) is not None:
                yield from _entry("check", self._checked(check), 4)
            yield from _servers(servers, 4)
        for sorry, name in self.sorry.items():
            if sorry.check is None and not sorry.server.comment:
                yield f"  {name}: {scalar((_server(sorry.server),))}"
                continue
            yield f"  {name}:"
            if sorry.check is not None:
                yield from _entry("check", self._checked(sorry.check), 4)
            yield from _servers((sorry.server,), 4)

    def _setting(self, service: Service, name: str) -> Value | None:
        if name == "sorry":
            return None if service.sorry is None else self.sorry[service.sorry]
        return _setting(service, name)

    def _vip(self, vip: Vip, parts: tuple[_Part, ...]) -> Iterator[str]:
        yield from (f"  # {line}" for line in vip.comment.split("\n") if line)
        yield f"  {vip.name}:"
        several = len(vip.addresses) > 1
        addresses: Value = vip.addresses if several else vip.addresses[0]
        yield from _entry("addresses" if several else "address", addresses, 4)
        if vip.backups:
            backups = Keys(tuple((name, "backup") for name in vip.backups))
            yield from _entry("role", backups if self.setup.nodes else "backup", 4)
        for name, value in vip.settings.items:
            yield from _entry(name, value, 4)
        if len(parts) == 1:
            yield from self._single(parts[0], 4)
        elif parts:
            yield from self._several(parts)

    def _single(self, part: _Part, indent: int) -> Iterator[str]:
        if part.service.mark:
            yield from _entry("mark", part.service.mark, indent)
        else:
            name, ports, protocol = _ports(part)
            yield from _entry(name, ports, indent)
            if protocol:
                yield from _entry("protocol", protocol, indent)
        if part.pool:
            yield from _entry("pool", part.pool, indent)
        else:
            yield from _servers(part.service.servers, indent)
        if (check := self._own_check(part)) is not None:
            yield from _entry("check", self._checked(check), indent)
        for name in _FIELDS:
            if (value := self._setting(part.service, name)) is not None:
                yield from _entry(name, value, indent)

    def _several(self, parts: tuple[_Part, ...]) -> Iterator[str]:
        """What all services have stands with the VIP."""
        first = parts[0]
        shared: dict[str, Value] = {}
        for name in _FIELDS:
            values = {self._setting(part.service, name) for part in parts}
            if len(values) == 1 and (value := values.pop()) is not None:
                shared[name] = value
        same_servers = all(part.service.servers == first.service.servers for part in parts)
        if same_servers and first.pool:
            yield from _entry("pool", first.pool, 4)
        elif same_servers:
            yield from _servers(first.service.servers, 4)
        checks = {self._own_check(part) for part in parts}
        same_check = len(checks) == 1
        if same_check and (check := checks.pop()) is not None:
            yield from _entry("check", self._checked(check), 4)
        for name, value in shared.items():
            yield from _entry(name, value, 4)
        yield "    services:"
        for part in parts:
            entries: list[tuple[str, Value]] = []
            if part.service.mark:
                entries.append(("mark", part.service.mark))
            else:
                name, ports, protocol = _ports(part)
                entries.append((name, ports))
                entries += [("protocol", protocol)] if protocol else []
            if part.pool and not same_servers:
                entries.append(("pool", part.pool))
            if not same_check and (check := self._own_check(part)) is not None:
                entries.append(("check", self._checked(check)))
            for name in _FIELDS:
                if name not in shared and (value := self._setting(part.service, name)) is not None:
                    entries.append((name, value))
            own = not part.pool and not same_servers
            yield from _service(entries, part.service.servers if own else ())


def _service(entries: Sequence[tuple[str, Value]], servers: tuple[Server, ...]) -> Iterator[str]:
    if len(entries) == 1 and entries[0][0] == "port" and not servers:
        yield f"      - {scalar(entries[0][1])}"
        return
    line = f"      - {scalar(Keys(tuple(entries)))}"
    if not servers and len(line) <= _WIDTH:
        yield line
        return
    below = [one for name, value in entries for one in _entry(name, value, 8)]
    below += _servers(servers, 8) if servers else []
    yield f"      - {below[0].lstrip()}"
    yield from below[1:]


def _setting(service: Service, name: str) -> Value | None:
    value: Value | None = getattr(service, name)
    if name == "forwarding" and service.tunnel is not None:
        return None
    if name == "tunnel" and isinstance(value, Keys) and not value.items:
        return "ipip"
    if name == "tunnel" and isinstance(value, Keys) and len(value.items) == 1 and value.get("type"):
        return value.get("type")
    return None if value == _DEFAULTS.get(name) else value


def _parts(vip: Vip, pools: Mapping[tuple[Server, ...], str]) -> tuple[_Part, ...]:
    """Services that differ in the port alone are one part."""
    alike: dict[Service, list[Value]] = {}
    for service in vip.services:
        same = replace(service, port=0)
        alike.setdefault(same, []).append(service.port)
    return tuple(
        _Part(service, tuple(ports), pools.get(service.servers, "")) for service, ports in alike.items()
    )


def _ports(part: _Part) -> tuple[str, Value, str]:
    """The key, what stands there, and the protocol if it has a line of its own."""
    protocol = part.service.protocol
    ports = part.ports if protocol != "udp" else tuple(f"{port}/udp" for port in part.ports)
    if len(ports) > 1:
        return "ports", ports, "sctp" if protocol == "sctp" else ""
    return "port", ports[0], "sctp" if protocol == "sctp" else ""


def _servers(servers: tuple[Server, ...], indent: int) -> Iterator[str]:
    if not servers:
        return
    pad = " " * indent
    written = [_server(server) for server in servers]
    flow = f"{pad}servers: {scalar(tuple(written))}"
    plain = all(isinstance(one, str) for one in written) or len(written) == 1
    if plain and len(flow) <= _WIDTH and not any(server.comment for server in servers):
        yield flow
        return
    yield f"{pad}servers:"
    for server, one in zip(servers, written, strict=True):
        comment = f"  # {server.comment}" if server.comment else ""
        yield f"{pad}  - {scalar(one)}{comment}"


def _server(server: Server) -> Value:
    host = f"[{server.address}]" if ":" in server.address else server.address
    more: list[tuple[str, Value]] = []
    if server.weight != 1:
        more.append(("weight", server.weight))
    if server.upper:
        more.append(("upper_threshold", server.upper))
    if server.lower:
        more.append(("lower_threshold", server.lower))
    if not more and not server.name:
        return server.address if server.port is None else f"{host}:{server.port}"
    first: list[tuple[str, Value]] = [("name", server.name)] if server.name else []
    first.append(("address", server.address))
    if server.port is not None:
        first.append(("port", server.port))
    return Keys((*first, *more))


def _common(names: Sequence[str]) -> str:
    """What the names begin with, if that is a name."""
    start = os.path.commonprefix(list(names)).rstrip("-._0123456789")  # noqa: RUF071 - these are no paths
    return start if len(start) > 1 else names[0]


def _unique(name: str, taken: Iterable[str], more: str) -> str:
    known = set(taken)
    if name not in known:
        return name
    name = f"{name}-{more}"
    number = 1
    found = name
    while found in known:
        number += 1
        found = f"{name}-{number}"
    return found
