"""What keeps this node from hearing the others of its fleet, or will before long. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from anycast.core.values.configuration import Config
from anycast.core.values.fleet import Fleet, FleetView
from anycast.doctor.facts import FleetFacts, Runs
from anycast.doctor.finding import Code, Finding, Severity, some

SOON = 14 * 86_400.0  # seconds that a certificate should be good for
OLDEST = (3, 4)  # of etcd: what is older has no gateway for its API version 3


def fleet(facts: FleetFacts, config: Config | None) -> Iterator[Finding]:
    if config is None or config.fleet is None:
        return
    if facts.token:
        yield _warning(
            Code.FLEET_TOKEN,
            f"the token of the fleet cannot be used: {facts.token}",
            "the same file on every node",
        )
    if facts.token_is_for_all:
        file = facts.token_is_for_all
        yield _warning(
            Code.FLEET_TOKEN, f"every user may read the token of the fleet, {file}", f"`chmod o-r {file}`"
        )
    for one in facts.certificates:
        if (wrong := _certificate(one)) is not None:
            yield wrong
    for node in facts.nodes:
        if node.why:
            fix = "there: `anycast status`; between them: fleet.listen, a firewall, the token, a certificate"
            yield _warning(Code.FLEET_NODE, f"the node {node.name} cannot be asked: {node.why}", fix)
    yield from _etcd(facts, config.fleet)


def _certificate(one: Runs) -> Finding | None:
    if one.why:
        return _warning(Code.FLEET_CERTIFICATE, f"{one.path} of fleet.tls cannot be used: {one.why}")
    if one.left is None or one.left > SOON:
        return None
    days = abs(one.left) / 86_400
    if one.left < 0:
        text = f"{one.path} of fleet.tls ran out {days:.0f} days ago: the nodes do not take it any more"
    else:
        text = f"{one.path} of fleet.tls runs out in {days:.0f} days"
    fix = "put a new one in its place: the agent reads it again, and needs no reload"
    return _warning(Code.FLEET_CERTIFICATE, text, fix)


def _etcd(facts: FleetFacts, settings: Fleet) -> Iterator[Finding]:
    members = facts.etcd
    silent = [one for one in members if one.why]
    if silent:
        first = f"{silent[0].name}: {silent[0].why}"
        most = ""
        if len(silent) == len(members):
            lost = (
                "nothing new is known of other nodes"
                if settings.view is FleetView.ETCD
                else "nobody gets a turn"
            )
            most = f"; no member answers, so {lost}"
        text = f"{len(silent)} of {len(members)} members of etcd do not answer ({first}){most}"
        yield _warning(
            Code.FLEET_ETCD, text, "`etcdctl endpoint status` with these endpoints; fleet.etcd has them"
        )
    for one in members:
        found = re.match(r"(\d+)\.(\d+)", one.version)
        if found and (int(found[1]), int(found[2])) < OLDEST:
            text = f"{one.name} is etcd {one.version}: 3.4 is the oldest that can be used"
            yield _warning(Code.FLEET_ETCD, text, "upgrade it")
        if one.alarms:
            fix = "`etcdctl alarm list`; after NOSPACE: compact, defragment, then `etcdctl alarm disarm`"
            yield _warning(Code.FLEET_ETCD, f"{one.name} says of itself: {one.alarms}", fix)
    versions = sorted({one.version for one in members if one.version})
    if len(versions) > 1:
        text = f"the members of etcd are of different versions: {some(versions)}"
        yield Finding(severity=Severity.INFO, code=Code.FLEET_ETCD, text=text, fix="finish its upgrade")


def _warning(code: Code, text: str, fix: str = "") -> Finding:
    return Finding(severity=Severity.WARNING, code=code, text=text, fix=fix)
