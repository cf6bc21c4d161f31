"""The lease protocol where messages are lost and doubled, connections break, and both ends start again.

Whatever happens, the plugin follows the full set of one lease that the agent has sent: never a mixture, never one
that is over, and the newest as soon as it has been heard out once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from anycast.core.values.lease import digest_of_all, full_lease, next_lease
from anycast.core.values.persistent import PersistentMap
from anycast.core.values.route import Prefix, Route
from anycast.lease import Decoder, Lease, LeaseChange, change_of, encode
from anycast.plugin.plan import Planner

PREFIXES = tuple(ip_network(f"192.0.2.{n}/32") for n in range(1, 6))
TTL = 2.0
routes = st.dictionaries(st.sampled_from(PREFIXES), st.sampled_from((None, 100, 200)))


@dataclass(frozen=True)
class Sent:
    lease: Lease
    whole: bytes
    change: bytes | None


class LeaseMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.sent: list[Sent] = []  # by the agent that runs
        self.issued: dict[float, Lease] = {}  # by all there were
        self.given: int | None = None  # the lease that stands at the end of what the plugin was sent
        self.wire: list[bytes] = []
        self.plan = Planner(now=self.now)
        self.plan.connected()
        self.decoder = Decoder()

    def followed(self) -> dict[Prefix, Route]:
        return {entry.prefix: entry.want for entry in self.plan._prefixes if entry.want is not None}

    # The agent.

    @rule(meds=routes, owned=st.frozensets(st.sampled_from(PREFIXES)))
    def the_agent_wants(self, meds: dict[Prefix, int | None], owned: frozenset[Prefix]) -> None:
        self.send({prefix: Route(prefix=prefix, med=med) for prefix, med in meds.items()}, owned)

    @rule(index=st.integers(0, 4), med=st.sampled_from((None, 100, 200, "absent")))
    def the_agent_changes_its_mind_about_one(self, index: int, med: int | str | None) -> None:
        wanted, prefix = dict(self.sent[-1].lease.routes) if self.sent else {}, PREFIXES[index]
        wanted.pop(prefix, None)
        if not isinstance(med, str):
            wanted[prefix] = Route(prefix=prefix, med=med)
        self.send(wanted, self.sent[-1].lease.owned if self.sent else frozenset())

    @rule()
    def the_agent_renews(self) -> None:
        if self.sent:
            self.send(self.sent[-1].lease.routes, self.sent[-1].lease.owned)

    def send(self, wanted: Mapping[Prefix, Route], owned: frozenset[Prefix]) -> None:
        self.now += 0.001
        if not self.sent:
            lease = full_lease(seq=1, issued=self.now, ttl=TTL, routes=wanted.values(), owned=owned)
            self.sent.append(Sent(lease, encode(lease), None))
        else:
            before = self.sent[-1].lease
            lease = next_lease(
                base=before.seq,
                digest=before.digest,
                before=before.routes,
                owned_before=before.owned,
                seq=before.seq + 1,
                issued=self.now,
                ttl=TTL,
                routes=wanted if isinstance(wanted, PersistentMap) else PersistentMap(wanted),
                owned=owned,
            )
            self.sent.append(Sent(lease, encode(lease), encode(change_of(lease, before.owned))))
        assert lease.digest == digest_of_all(lease.routes.values(), lease.owned)
        self.issued[self.now] = lease
        self.give()

    def give(self) -> None:
        """As `LeaseServer` does, to a plugin that has asked."""
        newest = self.sent[-1]
        stands = newest.change is not None and self.given == newest.lease.base
        self.wire.append(newest.change if stands and newest.change is not None else newest.whole)
        self.given = newest.lease.seq

    @rule()
    def the_agent_starts_again(self) -> None:
        self.sent.clear()
        self.the_connection_breaks()

    # What is between.

    @rule()
    def the_connection_breaks(self) -> None:
        self.wire.clear()
        self.given = None
        self.decoder = Decoder()
        self.plan.connected()

    @rule(
        changes=st.lists(
            st.tuples(
                st.integers(0, 4),
                st.sampled_from((None, 100, 200, "absent")),
                st.sampled_from(("arrives", "is lost", "comes twice", "comes again at the end")),
            ),
            min_size=2,
            max_size=5,
        )
    )
    def messages_are_lost_and_doubled(self, changes: list[tuple[int, int | str | None, str]]) -> None:
        again = []
        for index, med, fate in changes:
            self.the_agent_changes_its_mind_about_one(index, med)
            if fate == "is lost":
                self.wire.pop()
            elif fate == "comes twice":
                self.wire.append(self.wire[-1])
            elif fate == "comes again at the end":
                again.append(self.wire[-1])
        self.wire += again
        self.the_plugin_reads(len(self.wire))

    @rule(seconds=st.sampled_from((0.1, 0.7, 2.5)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.plan.tick(self.now)

    # The plugin.

    @rule(count=st.integers(1, 9))
    def the_plugin_reads(self, count: int) -> None:
        before = self.followed()
        seq = self.plan._lease.seq
        data = b"".join(self.wire[:count])
        del self.wire[:count]
        messages = [one for one in self.decoder.feed(data) if isinstance(one, Lease | LeaseChange)]
        self.plan.lease(messages, self.now)
        self.plan.tick(self.now)
        if self.plan._lease.seq == seq and self.plan._lease.expires is not None:
            assert self.followed() == before, "what was not proven changed something"
        self.ask()

    def ask(self) -> None:
        if self.plan.asks and self.sent:
            self.plan.asked()
            self.given = None
            self.give()

    @rule()
    def the_plugin_starts_again(self) -> None:
        self.plan = Planner(now=self.now)
        self.the_connection_breaks()

    @invariant()
    def the_plugin_follows_the_full_set_of_one_lease_or_nothing(self) -> None:
        if self.plan._lease.expires is None:
            assert self.followed() == {}
            return
        assert self.now < self.plan._lease.expires
        (lease,) = [one for at, one in self.issued.items() if at + TTL == self.plan._lease.expires]
        assert self.followed() == dict(lease.routes)
        entries = {entry.prefix for entry in self.plan._prefixes}
        assert entries >= lease.owned | lease.routes.keys()

    @rule()
    def once_all_was_heard_it_follows_the_newest(self) -> None:
        if not self.sent:
            return
        self.the_agent_renews()
        for _ in range(3):
            self.ask()
            self.the_plugin_reads(len(self.wire))
        assert self.plan._lease.seq == self.sent[-1].lease.seq
        assert self.followed() == dict(self.sent[-1].lease.routes)

    def teardown(self) -> None:
        self.once_all_was_heard_it_follows_the_newest()


TestLease = LeaseMachine.TestCase
TestLease.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
