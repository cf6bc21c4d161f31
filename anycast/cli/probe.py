"""The verb probe: runs checks once, one after another, and shows every step with its time."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from anycast.cli import client
from anycast.cli.exits import ExitCode
from anycast.cli.table import Cell, Colour, paint, printable, wants_colour
from anycast.config.problem import ConfigError
from anycast.core.health.phase import Fault, Health, Outcome, Phase, Result
from anycast.core.names import nearest
from anycast.core.values.checks import BgpSession
from anycast.core.values.configuration import HERE, Address, Aim, Aimed, Check, Rule, Target, Tree

if TYPE_CHECKING:
    from anycast.config.loaded import Loaded
    from anycast.core.dataplane.members import Use

_COLOURS = {Outcome.OK: Colour.GOOD, Outcome.FAIL: Colour.BAD, Outcome.UNKNOWN: Colour.WARN}
_PORTS = {"http": 80, "https": 443, "dns": 53, "syslog": 514}
_NO_URL = frozenset({"command", "bgp", "all", "any", "at_least"})
_PATHS = {"http": "path", "https": "path", "dns": "name", "grpc": "service"}
_SHOWN = 60  # characters of what was asked for
_FEW = 12  # names that are listed
_NUMBER = re.compile(r"[0-9]{1,9}\Z")
_NAMED = 10  # checks that a summary names
_SPEC = """\
bgp: {local_as: 65001, router_id: 192.0.2.1, neighbors: [{address: 192.0.2.2, remote_as: 65000}]}
checks:
  probe: """


class _UsageError(Exception):
    """What was asked for makes no sense; the message says why and what to do."""


class _ResolutionError(Exception):
    """A name has no address; the result says whose fault it is."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.detail)
        self.result = result


@dataclass(slots=True)
class _Shown:
    """One check that was run, and what it said. Times in seconds from its start."""

    title: str
    steps: list[tuple[float, str]] = field(default_factory=list)
    result: Result = Result(outcome=Outcome.UNKNOWN)
    said: bool = False

    def document(self) -> dict[str, Any]:
        return {
            "check": self.title,
            "outcome": str(self.result.outcome),
            "detail": self.result.detail,
            "fault": self.result.fault,
            "took_s": round(self.result.took, 6),
            "steps": [{"at_s": round(at, 6), "step": step} for at, step in self.steps],
        }


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    check: Aimed
    here: Address | None = None  # at which the node itself is to answer


def run(args: argparse.Namespace) -> int:
    what: str = args.what
    file = _File(args.config, args.node)
    try:
        if "://" in what or what.lstrip().startswith("{"):
            jobs = _written(what, args.at)
        else:
            jobs = _named(what, args.at, file)
        if not jobs:
            raise _UsageError(f"{what} is not used anywhere (say where to run it with --at ADDRESS:PORT)")
    except _UsageError as error:
        print(f"anycast probe: {printable(str(error))}", file=sys.stderr)
        return ExitCode.USAGE
    except _ResolutionError as error:
        return _end([_Shown(title=what, result=error.result)], [error.result], as_json=args.json)
    except ConfigError as error:
        for problem in error.problems:
            print(printable(str(problem)), file=sys.stderr)
        return ExitCode.CONFIG
    for address in dict.fromkeys(job.here for job in jobs if job.here is not None and _asks(job, job.here)):
        if not is_here(address):
            print(f"warning: this node does not have {address}: another node may answer", file=sys.stderr)
    round_ = _Round(file, args.timeout, aloud=not args.json)
    results = [round_.run(job) for job in jobs]
    if len(jobs) > 1 and not args.json:
        print(_summary(jobs, results))
    return _end(round_.shown, results, as_json=args.json)


def _asks(job: _Job, address: Address) -> bool:
    return any(
        isinstance(leaf, Target) and leaf.address == address for _, leaf in _leaves(job.name, job.check)
    )


def is_here(address: Address) -> bool:
    """By the source that the kernel takes to reach it: of what is here that is the same. No packet is sent."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect((str(address), 9))
        except OSError:
            return False
        return str(asked.getsockname()[0]) == str(address)


def _summary(jobs: Sequence[_Job], results: Sequence[Result]) -> str:
    """How many succeed, and the first of those that do not."""
    bad = [job.name for job, result in zip(jobs, results, strict=True) if result.outcome is not Outcome.OK]
    good = f"{len(jobs) - len(bad)} of {len(jobs)} succeed"
    more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return printable(f"{good}; not: {', '.join(bad[:_NAMED])}{more}" if bad else good)


def _end(shown: list[_Shown], results: list[Result], *, as_json: bool) -> int:
    """The exit status by the results of what was asked for, not of the parts of a rule."""
    if as_json:
        print(json.dumps({"checks": [one.document() for one in shown]}, indent=2))
    elif len(shown) == 1 and not shown[0].said:
        _print(shown[0])
    outcomes = {result.outcome for result in results}
    if Outcome.FAIL in outcomes:
        return ExitCode.NEGATIVE
    return ExitCode.UNKNOWN if Outcome.UNKNOWN in outcomes else ExitCode.OK


class _Round:
    """Runs jobs. What several of them rest on is run once."""

    def __init__(self, config: _File, timeout: float | None, *, aloud: bool) -> None:
        self._config = config
        self._timeout = timeout
        self._aloud = aloud
        self._done: dict[Aim, Result] = {}
        self.shown: list[_Shown] = []

    def run(self, job: _Job) -> Result:
        from anycast.core.health.compose import compose

        rule = job.check
        if not isinstance(rule, Rule):
            return self._leaf(job.name, rule)
        results = [self._leaf(name, leaf) for name, leaf in _leaves(job.name, rule)]
        took = sum(result.took for result in results)

        def look(leaf: Aim) -> Health:
            return _as_health(self._leaf("", leaf))

        health = compose(rule, look)
        outcome = Outcome.OK if health.phase.is_up else Outcome.FAIL
        fault = None
        if health.phase is Phase.UNDECIDED:
            outcome = Outcome.UNKNOWN
            fault = next((result.fault for result in results if result.fault is not None), None)
        result = Result(outcome=outcome, detail=health.detail, took=took, fault=fault)
        count = f"{rule.needed} of {sum(part.weight for part in rule.parts)} needed"
        self._tell(_Shown(title=f"{job.name or 'together'}: {count}", result=result))
        return result

    def _leaf(self, name: str, leaf: Aim) -> Result:
        if leaf not in self._done:
            if isinstance(leaf, BgpSession):
                one = _session(f"{name}: {leaf}" if name else str(leaf), leaf, self._config)
            else:
                one = _probe(_title(name, leaf), leaf, self._timeout)
            self._done[leaf] = one.result
            self._tell(one)
        return self._done[leaf]

    def _tell(self, one: _Shown) -> None:
        self.shown.append(one)
        if self._aloud:
            one.said = True
            _print(one)


def _as_health(result: Result) -> Health:
    phases = {Outcome.OK: Phase.UP, Outcome.FAIL: Phase.DOWN, Outcome.UNKNOWN: Phase.UNDECIDED}
    unknown_since = 0.0 if result.outcome is Outcome.UNKNOWN else None
    return Health(phase=phases[result.outcome], detail=result.detail, unknown_since=unknown_since)


def _print(one: _Shown) -> None:
    print(printable(one.title))
    for at, step in one.steps:
        print(f"{at * 1000:10.1f} ms  {printable(step)}")
    result = one.result
    word = paint(Cell(str(result.outcome), _COLOURS[result.outcome]), colour=wants_colour(sys.stdout))
    detail = f" ({result.fault})" if result.fault is not None else ""
    detail += f": {printable(result.detail)}" if result.detail else ""
    took = max([result.took, *(at for at, _ in one.steps)])
    print(f"{took * 1000:10.1f} ms  {word}{detail}")


def _probe(title: str, target: Target, timeout: float | None) -> _Shown:
    from anycast.probes.finding import Progress
    from anycast.probes.run import probe

    if timeout is not None:
        target = replace(target, check=replace(target.check, timeout=timeout))
    shown = _Shown(title=title)

    async def story() -> Result:
        started = time.monotonic()
        return await probe(
            target, Progress(tell=lambda step: shown.steps.append((time.monotonic() - started, step)))
        )

    shown.result = asyncio.run(story())
    return shown


class _File(NamedTuple):
    """The configuration of a node. `node`: which one of a fleet; None: this machine."""

    path: Path
    node: str | None

    def load(self) -> Loaded:
        from anycast.config.load import load

        return load(self.path, node=self.node)


def _session(title: str, session: BgpSession, config: _File) -> _Shown:
    """ExaBGP's sessions are known to the agent alone."""
    started = time.monotonic()
    shown = _Shown(title=title)

    def end(outcome: Outcome, detail: str = "", fault: Fault | None = None) -> _Shown:
        took = time.monotonic() - started
        shown.result = Result(outcome=outcome, detail=detail, took=took, fault=fault)
        return shown

    try:
        path = Path(config.load().config.node.runtime_dir) / "control.sock"
        shown.steps.append((time.monotonic() - started, f"asking the agent at {path}"))
        answer = client.read(path, "/status")
    except (ConfigError, client.UnreachableError) as error:
        fault = Fault.CONFIGURATION if isinstance(error, ConfigError) else Fault.INTERNAL
        return end(Outcome.UNKNOWN, str(error).split("\n", 1)[0], fault)
    found = [
        one
        for one in answer.body.get("neighbors", [])
        if session.neighbor is None or one["address"] == str(session.neighbor)
    ]
    for one in found:
        shown.steps.append((time.monotonic() - started, f"{one['address']} is {one['state']}"))
    states = {one["state"] for one in found}
    if "up" in states:
        return end(Outcome.OK)
    if states <= {"unknown"}:
        return end(Outcome.UNKNOWN, "no plugin reports it", Fault.INTERNAL)
    return end(Outcome.FAIL, "no session is established")


def _title(name: str, target: Target) -> str:
    from anycast.config.changes import described

    kind = described(target.check.kind)
    if target.address == HERE:
        where = "this node"
    else:
        host = f"[{target.address}]" if target.address.version == 6 else str(target.address)
        where = f"{host}:{target.port}" if target.port else host
    if target.check.to_vip:
        kind = f"{kind} to the VIP"
    if target.vip is not None:
        where = f"{where} for {target.vip}" + ("" if target.tunnel is None else f" by {target.tunnel}")
    return f"{name}: {kind} at {where}" if name else f"{kind} at {where}"


def _named(name: str, at: str | None, config: _File) -> list[_Job]:
    """Everything of this name, where it is used or where `at` says."""
    loaded = config.load()
    if name in loaded.checks:
        part = loaded.checks[name]
        return [_at(name, part, at)] if at else _in_use(name, part, loaded)
    jobs = list(_of_servers(name, loaded))
    if not jobs:
        raise _UsageError(
            f"there is no check, pool, real server or VIP named {name} ({_known(name, loaded)})"
        )
    if at:
        raise _UsageError("--at is for checks, and this is not a check")
    return list(dict.fromkeys(jobs))


def _known(name: str, loaded: Loaded) -> str:
    from anycast.config.schema.checks import CHECKS
    from anycast.core.dataplane.members import uses

    pools = {pool.name for vip in loaded.config.vips for service in vip.services for pool in service.pools}
    names = [*loaded.checks, *(vip.name for vip in loaded.config.vips)]
    names += sorted(pools.difference(names))
    if near := nearest(name, [*names, *dict.fromkeys(use.server.name for use in uses(loaded.config))]):
        return f"did you mean {near}?"
    if name.lower() in CHECKS:
        return f"a check of this type is written {name.lower()}://ADDRESS:PORT"
    few = len(names) <= _FEW
    return f"configured: {', '.join(names) or 'nothing'}" if few else f"{len(names)} others are configured"


def _leaves(name: str, check: Aimed) -> Iterator[tuple[str, Aim]]:
    if isinstance(check, Rule):
        for part in check.parts:
            yield from _leaves(f"{name}/{part.name}".lstrip("/"), part.check)
    else:
        yield name, check


def _in_use(name: str, tree: Tree, loaded: Loaded) -> list[_Job]:
    """The check by itself if it knows where to look, else at each real server that is checked by it."""
    from anycast.core.dataplane.members import aimer_of, server_port, uses
    from anycast.core.health.aim import aimed

    itself = aimed(tree)
    if all(_knows_its_aim(leaf) for _, leaf in _leaves(name, itself)):
        return [_Job(name, itself)]
    jobs: dict[_Job, None] = {}
    for use in uses(loaded.config):
        if _contains(use.pool.check, tree):
            check = aimer_of(use.vip.addresses, use.service, use.version, tree)(
                use.address, server_port(use.service, use.server)
            )
            jobs[_Job(f"{name} for {_used(use)}", check)] = None
    for vip in loaded.config.vips:
        for local in vip.local:
            for address in vip.addresses if local.check is not None and _contains(local.check, tree) else ():
                where = f"{name} for {vip.name} {local.name} at {address}"
                jobs[_Job(where, aimed(tree, address, local.port), address)] = None
    return list(jobs)


def _contains(whole: Tree, tree: Tree) -> bool:
    if whole == tree:
        return True
    return isinstance(whole, Rule) and any(_contains(part.check, tree) for part in whole.parts)


def _knows_its_aim(leaf: Aim) -> bool:
    from anycast.core.values.checks import IcmpCheck, NodeKind

    if isinstance(leaf, BgpSession) or isinstance(leaf.check.kind, NodeKind):
        return True
    if leaf.check.to_vip:
        return leaf.vip is not None
    return leaf.address != HERE and (leaf.port > 0 or isinstance(leaf.check.kind, IcmpCheck))


def _of_servers(name: str, loaded: Loaded) -> Iterator[_Job]:
    from anycast.core.dataplane.members import uses
    from anycast.core.vip.requirements import requirements

    for use in uses(loaded.config):
        if name in (use.server.name, use.vip.name, use.pool.name):
            yield _Job(_used(use), use.check)
    for one in requirements(loaded.config):
        if name == one.vip:
            name_of = f"{one.vip} {one.subject}" if one.is_local else one.scope
            yield _Job(name_of, one.check, one.address if one.is_local else None)


def _used(use: Use) -> str:
    """A real server by the service that uses it, as in `web tcp/80 rs1`."""
    return f"{use.vip.name} {use.service.name} {use.server.name}"


def _at(name: str, tree: Tree, at: str) -> _Job:
    """The whole of it at one place, whatever addresses stand in it; ports that stand in it stay without one there."""
    from anycast.core.health.aim import aimed

    address, port = _place(at)
    check = aimed(_moved(tree, port), address, port or 0)
    _refuse_vip(name, check)
    return _Job(name, check)


def _refuse_vip(name: str, check: Aimed) -> None:
    for _, leaf in _leaves(name, check):
        if not isinstance(leaf, BgpSession) and leaf.check.to_vip:
            what = "a check with to: vip needs a VIP, and only the configuration has one"
            raise _UsageError(
                f"{what} (write the name of the check, of a real server or of a VIP, without --at)"
            )


def _moved(tree: Tree, port: int | None) -> Tree:
    match tree:
        case Rule():
            parts = tuple(replace(part, check=_moved(part.check, port)) for part in tree.parts)
            return replace(tree, parts=parts)
        case Check():
            kind: Any = tree.kind
            if port is not None and getattr(kind, "port", None) is not None:
                kind = replace(kind, port=port)
            return replace(tree, address=None, kind=kind)
        case _:
            return tree


def _place(at: str) -> tuple[Address, int | None]:
    host, port = at, None
    bracketed = re.match(r"\[([^\]]*)\](?::([0-9]{1,5}))?\Z", at)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
    elif at.count(":") == 1:
        host, port = at.split(":")
    if port is not None and not (_NUMBER.match(port) and 1 <= int(port) <= 65535):
        raise _UsageError(f"{port} is not a port (write ADDRESS:PORT, or [ADDRESS]:PORT for IPv6)")
    return _resolve(host), None if port is None else int(port)


def _resolve(host: str) -> Address:
    """Raises _ResolutionError."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    started = time.monotonic()
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        # A resolver that does not answer says nothing of the name.
        down = error.errno in (socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_SYSTEM, socket.EAI_MEMORY)
        detail = f"the resolver cannot be asked: {error.strerror}" if down else f"{host} does not resolve"
        outcome, fault = (Outcome.UNKNOWN, Fault.RESOLVER) if down else (Outcome.FAIL, None)
        took = time.monotonic() - started
        raise _ResolutionError(Result(outcome=outcome, detail=detail, took=took, fault=fault)) from None
    except UnicodeError:
        raise _UsageError(f"{host} is not a host's name (write a name or an address)") from None
    return ip_address(found[0][4][0])


def _written(spec: str, at: str | None) -> list[_Job]:
    """A URL, or a mapping as in the configuration. Raises ConfigError with places in the spec."""
    from anycast.config.load import loads
    from anycast.core.health.aim import aimed

    text = spec if "://" not in spec else json.dumps(_from_url(spec))
    if "\n" in text:
        raise _UsageError("expected a check on one line")
    try:
        tree = loads(f"{_SPEC}{text}\n", "SPEC").checks["probe"]
    except ConfigError as error:
        raise ConfigError(_in_spec(error, spec)) from None
    if at:
        return [_at("", tree, at)]
    itself = aimed(tree)
    _refuse_vip("", itself)
    if not all(_knows_its_aim(leaf) for _, leaf in _leaves("", itself)):
        raise _UsageError("it has no address (write address and port in it, or --at ADDRESS:PORT)")
    return [_Job("", itself)]


def _in_spec(error: ConfigError, spec: str) -> tuple[Any, ...]:
    """The problems with what was written as their place: of a mapping the column too."""
    from anycast.config.problem import Mark

    written = spec if len(spec) <= _SHOWN else f"{spec[:_SHOWN]}..."
    before = len(_SPEC.rpartition("\n")[2])
    return tuple(
        replace(
            problem,
            mark=Mark(written, 0, 0)
            if "://" in spec
            else Mark(written, 1, max(1, problem.mark.column - before)),
            path=problem.path[2:],
            lines="",
        )
        for problem in error.problems
    )


def _from_url(spec: str) -> Mapping[str, Any]:
    """`https://host:port/path?key=value`: as the mapping of a check."""
    from anycast.config.problem import Mark, Problem
    from anycast.config.schema.checks import CHECKS, unknown_type
    from anycast.core.values.checks import NodeKind

    try:
        url = urlsplit(spec)
        port = url.port
    except ValueError as error:
        raise _UsageError(f"{spec} is not a URL: {error} (write type://address:port)") from None
    kind = url.scheme
    if kind not in CHECKS:
        raise ConfigError((Problem(Mark(spec[:_SHOWN], 0, 0), (), *unknown_type(kind)),))
    if issubclass(CHECKS[kind].CORE or object, NodeKind) or kind in _NO_URL:
        raise _UsageError(f"a check of type {kind} has no URL (write '{{type: {kind}, ...}}')")
    if not url.hostname:
        raise _UsageError(f"{spec} names no host (write {kind}://address:port)")
    check: dict[str, Any] = {"type": kind, "address": str(_resolve(url.hostname))}
    if port is not None:
        check["port"] = port
    elif kind in _PORTS:
        check["port"] = _PORTS[kind]
    if kind in ("http", "https"):
        check["host"] = url.netloc.rpartition("@")[2]
        check["path"] = (url.path or "/") + (f"?{url.query}" if url.query else "")
        return check
    if (field_name := _PATHS.get(kind)) and url.path.strip("/"):
        check[field_name] = unquote(url.path.strip("/"))
    for key, value in parse_qsl(url.query):
        check[key] = {"true": True, "false": False}.get(value, int(value) if _NUMBER.match(value) else value)
    return check
