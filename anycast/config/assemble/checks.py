"""Checks: those with a name, rules of several, and what may be required of a node, a VIP or a service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from anycast.config.assemble.context import Assembler, Context
from anycast.config.assemble.kinds import Kinds
from anycast.config.problem import Path
from anycast.config.schema import checks as forms
from anycast.config.schema.part import Part
from anycast.config.schema.scalars import spell_duration
from anycast.config.warn import Warned
from anycast.core.health.compose import leaves
from anycast.core.values import checks as kinds
from anycast.core.values import configuration as model

ServerTree: TypeAlias = model.Check | model.Rule[model.Leaf]
"""Of a real server: a session alone is a rule there."""

MOST_CHECKS = 256  # in a rule, each as often as it is in it
MOST_RULES = 8  # one in another

DEFAULT_CHECK = model.Check(kind=model.TcpCheck())


@dataclass(frozen=True, slots=True)
class _Size:
    """Of a rule: how many checks it comes to, and how many rules are in one another."""

    checks: int
    depth: int


class Checks(Assembler):
    """Looks checks up by name, each once, and builds what is written where it is used."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._kinds = Kinds(context)
        self._known: dict[str, model.Tree | None] = {}
        self._plain: dict[str, model.Tree | None] = {}  # by type: checks of which nothing else is written
        self._resolving: list[str] = []  # names of the checks being looked up, the outermost first
        self._sizes: dict[int, _Size] = {}  # of rules, by identity
        self._rules: list[model.Rule[model.Leaf]] = []  # so that the identities stay theirs
        self._open: list[
            tuple[Path, model.Check]
        ] = []  # with a tripwire, and the service says over what they go

    @property
    def named(self) -> dict[str, model.Tree]:
        return {name: part for name, part in self._known.items() if part is not None}

    def unwired(self, config: model.Config) -> Iterator[Warned]:
        """Tripwires of questions that go over UDP wherever they are asked: where it matters, a service says that."""
        if not self._open:
            return
        asked = {leaf for tree in _trees(config) for leaf in leaves_of(tree)}
        for place, check in self._open:
            if check in asked and _over_tcp(check) not in asked:
                what = "nothing asks this over TCP, and a question over UDP has no connection that could stay open"
                do = "write transport: tcp, or protocol: [udp, tcp] for the service, or remove the line"
                yield place, what, do

    def named_check(self, name: str) -> model.Tree | None:
        if name not in self._known:
            self._resolving.append(name)
            self._known[name] = self._part(("checks", name), self._context.file.checks[name])
            self._resolving.pop()
        return self._known[name]

    def _part(self, path: Path, check: forms.Check) -> model.Tree | None:
        match check:
            case forms.BgpCheck():
                return self._session(path, check)
            case forms.AllCheck() | forms.AnyCheck():
                references = [(reference, 1) for reference in check.of or []]
                parts = self._parts(path, references)
                if parts is None:
                    return None
                return self._rule(path, len(parts) if isinstance(check, forms.AllCheck) else 1, parts)
            case forms.AtLeastCheck():
                return self._at_least(path, check)
            case _:
                return self._check(path, check)

    def _session(self, path: Path, check: forms.BgpCheck) -> kinds.BgpSession:
        known = self._context.file.bgp.neighbors or [] if self._context.file.bgp else []
        addresses = [neighbor.address for neighbor in known]
        listed = self._context.whole_list(("bgp", "neighbors"), "address") and self._whole(("bgp",))
        if check.neighbor is not None and check.neighbor not in addresses and listed:
            do = "write an address from bgp.neighbors, or remove the line"
            self._say((*path, "neighbor"), f"{check.neighbor} is no neighbor of this node", do)
        return kinds.BgpSession(check.neighbor)

    def _at_least(self, path: Path, check: forms.AtLeastCheck) -> model.Rule[model.Leaf] | None:
        references: list[tuple[forms.CheckReference, int]] = []
        for n, one in enumerate(check.of or []):
            if not isinstance(one, forms.Member):
                references.append((one, 1))
            elif one.check is not None:
                references.append((one.check, one.weight))
            else:
                self._say_missing((*path, "of", n, "check"), "it is missing", "write the name of a check")
        parts = self._parts(path, references)
        if check.needed is None:
            self._say_missing((*path, "needed"), "it is missing", "write the sum of weights that is needed")
        if parts is None or check.needed is None:
            return None
        most = sum(part.weight for part in parts)
        if check.needed > most and self._whole((*path, "of")):
            what = f"{check.needed} can never be reached, for all weights together are {most}"
            self._say((*path, "needed"), what, f"write {most} or less")
        return self._rule(path, min(check.needed, most), parts)

    def _rule(
        self, path: Path, needed: int, parts: tuple[model.Part[model.Leaf], ...]
    ) -> model.Rule[model.Leaf] | None:
        """None: it is too large, which is said."""
        sizes = [self._sizes.get(id(part.check), _Size(1, 0)) for part in parts]
        size = _Size(sum(one.checks for one in sizes), 1 + max((one.depth for one in sizes), default=0))
        if size.depth > MOST_RULES:
            self._too_deep((*path, "of"))
            return None
        if size.checks > MOST_CHECKS:
            what = f"the rule comes to {size.checks:,} checks, each counted as often as it is in it"
            self._say((*path, "of"), what, f"write it with {MOST_CHECKS} at most")
            return None
        rule = model.Rule(needed=needed, parts=parts)
        self._sizes[id(rule)] = size
        self._rules.append(rule)
        return rule

    def _too_deep(self, path: Path) -> None:
        what = f"rules are in one another more than {MOST_RULES} deep"
        self._say(path, what, "name all of the checks in one rule, or in a few")

    def _parts(
        self, path: Path, references: Sequence[tuple[forms.CheckReference, int]]
    ) -> tuple[model.Part[model.Leaf], ...] | None:
        if not references:
            self._say_missing((*path, "of"), "there is no check in it", "write names of checks, or checks")
            return None
        parts: list[model.Part[model.Leaf]] = []
        for n, (reference, weight) in enumerate(references):
            part = self._reference((*path, "of", n), reference)
            if part is not None:
                parts.append(model.Part(name=_called(reference), check=part, weight=weight))
        return tuple(parts) if len(parts) == len(references) else None

    def require(
        self, path: Path, references: Sequence[forms.CheckReference]
    ) -> model.Rule[model.Leaf] | None:
        """All of these, each with an aim of its own: there is no real server to aim at."""
        parts: list[model.Part[model.Leaf]] = []
        for n, reference in enumerate(references):
            place = (*path, "require", n)
            part = self._reference(place, reference)
            if part is None:
                continue
            parts.append(model.Part(name=_called(reference), check=part))
            if any(asks_for_vip(one) for one in leaves_of(part)):
                what = "a check with to: vip needs a real server, and there is none here"
                self._say(place, what, "move it to the check of the service, or write it without to: vip")
                continue
            aimless = [one for one in leaves_of(part) if isinstance(one, model.Check) and not _has_aim(one)]
            if aimless:
                what = (
                    f"a check of {aimless[0].kind.type} needs a real server to check, and there is none here"
                )
                self._say(place, what, "write address and port in the check")
        if not parts:
            return None
        sizes = [self._sizes.get(id(part.check), _Size(1, 0)) for part in parts]
        if (number := sum(one.checks for one in sizes)) > MOST_CHECKS:
            what = f"{number:,} checks are required, each counted as often as a rule has it"
            self._say((*path, "require"), what, f"write {MOST_CHECKS} at most")
            return None
        return model.Rule(needed=len(parts), parts=tuple(parts))

    def _check(self, path: Path, written: forms.Check) -> model.Check | None:
        kind = self._kinds.kind(path, written)
        if kind is None:
            return None
        where = written.address if isinstance(kind, kinds.AimedKind | kinds.IcmpCheck) else None
        aims = {}
        if forms.asks_a_port(type(kind)):
            aims = {"to_vip": written.to == "vip", "full_size": written.full_size is not False}
            self._to_vip(path, written)
        check = self._built(path, written, model.Check, kind=kind, address=where, **aims)
        if check is None:
            return None
        if written.fast_interval is None:
            check = replace(check, fast_interval=min(check.fast_interval, check.interval))
        if check.proof_lasts < check.interval and self._whole((*path, "interval")):
            what = f"it is shorter than the interval of {spell_duration(check.interval)}"
            self._say(
                (*path, "unproven_after"), what, "write the interval or more; three of them is the default"
            )
        if check.tripwire and (what := _no_tripwire(kind, to_vip=check.to_vip)):
            self._say((*path, "tripwire"), what, "remove the line", key=True)
        if check.hold_down is not None:
            check = replace(check, hold_down=self._hold_down(path, check.hold_down, written.hold_down))
        if check.tripwire and _over_tcp(check) is not check:
            self._open.append((self._context.place((*path, "tripwire")), check))
        return check

    def _to_vip(self, path: Path, written: forms.Check) -> None:
        if written.to == "vip" and written.address is not None:
            what = "with to: vip the VIP is asked for at each real server"
            self._say((*path, "address"), what, "remove one of the two lines", key=True)
        if written.to != "vip" and written.full_size is not None and self._whole((*path, "to")):
            what = "it is for checks with to: vip"
            self._say((*path, "full_size"), what, "remove it, or write to: vip", key=True)

    def _hold_down(self, path: Path, held: model.HoldDown, written: Part) -> model.HoldDown:
        path = (*path, "hold_down")
        if "max_hold" not in written.model_fields_set:
            held = replace(held, max_hold=4 * held.half_life)
        if not self._whole(path):
            return held
        if held.reuse >= held.suppress:
            self._say(path, "reuse is not below suppress", "write a smaller reuse, or a larger suppress")
        elif held.suppress > held.ceiling:
            what = f"a penalty that reaches suppress takes longer than {held.max_hold:g}s to decay to reuse"
            self._say(path, what, "write a longer max_hold, or a smaller suppress")
        return held

    def _reference(self, path: Path, check: str | forms.Check) -> model.Tree | None:
        if not isinstance(check, str):
            found = self._part(path, check)
            return found if self._whole(path) else None
        if check.lower() in forms.CHECKS and not self._context.is_written("checks", check):
            return self._of_type(path, check.lower())
        if not self._context.is_written("checks", check):
            self._context.unknown(path, "checks", check)
        if check in self._resolving:
            way = " -> ".join([*self._resolving[self._resolving.index(check) :], check])
            self._say(path, f"it contains itself: {way}", "take one of them out of the other")
            return None
        if check not in self._known and len(self._resolving) > MOST_RULES:
            self._too_deep(path)
            return None
        if check not in self._context.file.checks or not self._whole(("checks", check)):
            return None
        return self.named_check(check)

    def _of_type(self, path: Path, kind: str) -> model.Tree | None:
        """The name of a type alone: a check with its defaults."""
        if kind not in self._plain:
            self._plain[kind] = self._part(path, forms.CHECKS[kind].model_validate({"type": kind}))
        elif self._plain[kind] is None:
            self._part(path, forms.CHECKS[kind].model_validate({"type": kind}))  # says again what it lacks
        return self._plain[kind]

    def tree(self, path: Path, check: str | forms.Check) -> ServerTree | None:
        """A check of a real server: one that is probed, or a rule."""
        part = self._reference(path, check)
        if isinstance(part, kinds.BgpSession):
            return model.Rule(needed=1, parts=(model.Part(name=_called(check), check=part),))
        return part


def _no_tripwire(kind: kinds.Kind, *, to_vip: bool) -> str:
    """Why a check of this kind has none; empty: it has."""
    if to_vip:
        return "with to: vip there is no connection that could stay open: this node has the VIP itself"
    match kind:
        case kinds.DnsCheck(transport="udp"):
            return "a question over UDP has no connection that could stay open"
        case kinds.SyslogCanaryCheck():
            return "a message over UDP has no connection that could stay open"
        case _:
            return ""


def _called(reference: forms.Check) -> str:
    return str(reference if isinstance(reference, str) else reference.type)


def _trees(config: model.Config) -> Iterator[model.Tree]:
    """Every check, and every requirement."""
    found: list[model.Tree | None] = [config.require]
    for vip in config.vips:
        found.append(vip.require)
        for service in vip.services:
            found += [service.require, *(pool.check for pool in service.pools)]
        for local in vip.local:
            found += [local.require, local.check]
    yield from (tree for tree in found if tree is not None)


def leaves_of(tree: model.Tree) -> Iterator[model.Leaf]:
    return leaves(tree) if isinstance(tree, model.Rule) else iter((tree,))


def _has_aim(check: model.Check) -> bool:
    """Whether the check knows by itself what it looks at."""
    if isinstance(check.kind, kinds.NodeKind | kinds.CommandCheck):
        return True
    return check.address is not None and has_port(check)


def has_port(leaf: model.Leaf) -> bool:
    """Whether it needs no port of a real server's."""
    kind = leaf.kind if isinstance(leaf, model.Check) else None
    return not isinstance(kind, kinds.AimedKind) or kind.port is not None


def asked_over_tcp(tree: ServerTree) -> ServerTree:
    """The tree for a TCP service: what leaves open how it is sent goes over TCP. The same object where nothing does."""
    if isinstance(tree, model.Check):
        return _over_tcp(tree)
    parts = tuple(
        replace(
            part, check=part.check if isinstance(part.check, kinds.BgpSession) else asked_over_tcp(part.check)
        )
        for part in tree.parts
    )
    same = all(new.check is old.check for new, old in zip(parts, tree.parts, strict=True))
    return tree if same else replace(tree, parts=parts)


def _over_tcp(check: model.Check) -> model.Check:
    match check.kind:
        case kinds.DnsCheck(transport=None) as kind:
            return replace(check, kind=replace(kind, transport="tcp"))
        case _:
            return check


def asks_for_vip(leaf: model.Leaf) -> bool:
    return isinstance(leaf, model.Check) and leaf.to_vip
