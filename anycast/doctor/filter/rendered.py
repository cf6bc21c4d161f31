"""What the loaded rules that `anycast render` has written do not know of the configuration yet. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter

from anycast.core.dataplane.passage import Passage
from anycast.doctor.filter import samples
from anycast.doctor.filter.rules import Action, Base, Chain, Table, Verdict
from anycast.doctor.filter.walk import Budget, Packet, SpentError, through
from anycast.doctor.finding import some

_TABLE = "chain inet anycast "
_CHAINS = "ANYCAST-"
_ALONE = "alone"  # a hook that no kernel has


@dataclass(frozen=True, slots=True, kw_only=True)
class Outdated:
    """`missing`: services and real servers they do not cover; `taken`: masqueraded services they keep from tracking.

    `unused`: chains that no packet comes to, with the command that sends them there; then nothing else is looked at.
    """

    missing: tuple[str, ...] = ()
    taken: tuple[str, ...] = ()
    unused: tuple[tuple[str, str], ...] = ()
    fix: str

    @property
    def texts(self) -> Iterator[str]:
        ours = "the loaded rules of `anycast render`"
        if self.unused:
            yield f"nothing jumps to {some(chain for chain, _ in self.unused)}: an update does not write the jumps"
        if self.missing:
            yield f"{ours} do not cover {some(self.missing)}: the configuration has changed since"
        if self.taken:
            yield (
                f"{ours} take out of connection tracking, though it is masqueraded, {some(self.taken)}: the configuration "
                "has changed since"
            )


def are_loaded(tables: Iterable[Table]) -> bool:
    return any(_is_inet(one) or _is_iptables(one) for one in tables)


def _is_inet(table: Table) -> bool:
    return any(one.name.startswith(_TABLE) for one in table.chains.values())


def _is_iptables(table: Table) -> bool:
    return any(name.startswith(_CHAINS) for name in table.chains)


def outdated(tables: Sequence[Table], ways: Passage) -> Outdated | None:
    """None: such rules are not loaded, or know all. Of very many rules and services, what a bounded look has found."""
    inet, ours = any(map(_is_inet, tables)), list(filter(_is_iptables, tables))
    if not inet and not ours:
        return None
    if unused := tuple(pair for table in ours for pair in _unused(table)):
        return Outdated(unused=unused, fix=", ".join(f"`{command}`" for _, command in unused))
    accepting = [table for table in ours if _CHAINS + "INPUT" in table.chains]
    missing: dict[str, None] = {}
    taken: dict[str, None] = {}
    with contextlib.suppress(SpentError):
        budget = Budget()
        for place, untracked in _at_the_vips(tables, ways, budget):
            if untracked is False:
                missing[place] = None
        for flow in ways.masqueraded:
            packet = samples.first(flow)
            if flow.protocol is not None and through(tables, "prerouting", packet, budget).packet.untracked:
                taken[samples.place(flow)] = None
        missing |= dict.fromkeys(_not_accepted(accepting, ways, budget))
    if not missing and not taken:
        return None
    fix = _nftables() if inet else _iptables(accept=bool(accepting))
    return Outdated(missing=tuple(missing), taken=tuple(taken), fix=fix)


def _unused(table: Table) -> Iterator[tuple[str, str]]:
    """Our chains that the kernel's own chain does not jump to, each with the command for it."""
    for name, chain in sorted(table.chains.items(), key=itemgetter(0)):
        if not name.startswith(_CHAINS):
            continue
        own = table.chains.get(name.removeprefix(_CHAINS), Chain(name=""))
        actions = (action for rule in own.rules for action in rule.actions)
        if not any(isinstance(one, Action) and one.chain == name for one in actions):
            yield name, f"{_program(chain)} -I {name.removeprefix(_CHAINS)} -j {name}"


def _program(chain: Chain) -> str:
    """By the name that people find it by: `chain NAME (iptables -t raw)`, or as nft tells it `chain ip raw NAME`."""
    if "(" in chain.name:
        return chain.name.partition("(")[2].rstrip(")")
    _, family, table, *_ = chain.name.split()
    return f"{'ip6tables' if family == 'ip6' else 'iptables'} -t {table}"


def _at_the_vips(tables: Sequence[Table], ways: Passage, budget: Budget) -> Iterator[tuple[str, bool | None]]:
    """Whether each is untracked; None: a rule drops it before."""
    for flow in ways.direct:
        fate = through(tables, "prerouting", samples.beside(flow, ways.masqueraded), budget)
        yield samples.place(flow), None if fate.by else fate.packet.untracked
    for one in ways.wrapped:
        fate = through(tables, "output", samples.outer(one), budget)
        yield f"the real server {one.server}", fate.packet.untracked


def _not_accepted(tables: Iterable[Table], ways: Passage, budget: Budget) -> Iterator[str]:
    coming = [(samples.place(flow), samples.first(flow)) for flow in (*ways.direct, *ways.masqueraded)]
    answers = [
        (f"the real server {samples.place(flow)}", samples.answer(flow, "established"))
        for flow in ways.servers
    ]
    leaving = [(samples.place(flow), samples.from_here(samples.first(flow))) for flow in ways.direct]
    for table in tables:
        for name, packets in (("INPUT", coming), ("FORWARD", answers), ("OUTPUT", leaving)):
            alone = _alone(table, _CHAINS + name)
            yield from (place for place, packet in packets if _is_dropped(alone, packet, budget))


def _alone(table: Table, name: str) -> Table:
    """The table with this chain at a hook of its own, where what it does not accept is dropped."""
    if (found := table.chains.get(name)) is None:
        return replace(table, families=frozenset())
    base = Base(hook=_ALONE, priority=0, policy=Verdict.DROP)
    return replace(table, chains={**table.chains, name: replace(found, base=base)})


def _is_dropped(table: Table, packet: Packet, budget: Budget) -> bool:
    return bool(through([table], _ALONE, packet, budget).by)


def _nftables() -> str:
    return (
        "`anycast render nftables -o /etc/anycast/nftables.conf`, `nft -f /etc/anycast/nftables.conf`; "
        "with `--accept` what your chains include too"
    )


def _iptables(*, accept: bool) -> str:
    options = "--accept --update" if accept else "--update"
    restores = " and ".join(
        f"`{family}tables-restore --noflush /etc/anycast/iptables.rules`" for family in ("ip", "ip6")
    )
    return f"`anycast render iptables {options} -o /etc/anycast/iptables.rules`, {restores}"
