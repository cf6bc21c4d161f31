"""Agents that know one another from a real etcd of three members, and what becomes of the view when that is in trouble."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from anycast.core.values import fleet as settings
from anycast.core.values.fleet import Certificates
from anycast.doctor.facts import Answered
from anycast.doctor.fleet_asked import asked
from tests.contract import etcd
from tests.contract.etcd import Cluster, cluster
from tests.contract.fleet import Fleet, fleet, waits
from tests.contract.test_fleet_view import Authority

pytestmark = pytest.mark.skipif(etcd.BINARY is None, reason="there is no etcd here")

TWO = ("lb1", "lb2")


def view(found: Cluster, more: str = "") -> str:
    return f"view: etcd, etcd: {{endpoints: [{', '.join(found.endpoints)}], prefix: /test/{more}}}"


@contextlib.contextmanager
def registered(
    tmp_path: Path, port: int, *options: str, scheme: str = "http", more: str = ""
) -> Iterator[tuple[Fleet, Cluster]]:
    """`options`: of etcd."""
    (tmp_path / "etcd").mkdir()
    with (
        cluster(tmp_path / "etcd", *options, scheme=scheme) as members,
        fleet(tmp_path, port=port, interval="500ms", start=TWO, more=view(members, more)) as found,
    ):
        waits(lambda: heard(found))
        yield found, members


def heard(found: Fleet) -> bool:
    return found["lb1"].beliefs().get("lb2") == "heard" and found["lb2"].beliefs().get("lb1") == "heard"


def is_told(found: Fleet, name: str, belief: str, why: str) -> Callable[[], bool]:
    def look() -> bool:
        known = found["lb1"].fleet().get(name, {})
        return known.get("belief") == belief and why in known.get("why", "")

    return look


def revision(members: Cluster) -> str:
    return (
        members.control("get", "/test/", "--prefix", "--keys-only", "-w", "json")
        .partition('"revision":')[2]
        .split(",")[0]
    )


def stands_still(members: Cluster) -> bool:
    """For as long as several beats take."""
    before = revision(members)
    time.sleep(4)
    return revision(members) == before


def test_nodes_know_one_another_and_one_that_is_killed_is_gone(tmp_path: Path) -> None:
    with registered(tmp_path, 21650) as (found, members):
        known = found["lb1"].fleet()["lb2"]
        assert (known["source"], known["vips"], known["why"]) == ("etcd", {"withdrawn": 2}, "")
        keys = members.control("get", "/test/", "--prefix", "--keys-only").split()
        assert {"/test/nodes/lb1", "/test/nodes/lb2"} <= {*keys}
        waits(lambda: found["lb1"].fleet()["lb2"]["hears"] == ["lb1"])
        # Whom nobody changes writes nothing: etcd grows with every write.
        waits(lambda: stands_still(members))
        found["lb2"].kill()
        waits(is_told(found, "lb2", "late", "its key in etcd is gone"), 60)
        waits(is_told(found, "lb2", "gone", "its key in etcd is gone"), 60)
        found["lb2"].start(found.config)
        waits(lambda: heard(found), 60)


def test_who_loses_his_lease_takes_another_and_is_not_gone(tmp_path: Path) -> None:
    with registered(tmp_path, 21653) as (found, members):
        for lease in members.control("lease", "list").split()[3:]:
            members.control("lease", "revoke", lease)
        waits(lambda: found["lb2"].named("fleet.lease_lost"))
        waits(lambda: heard(found))
        assert not [one for one in found["lb1"].events if one["event"] == "fleet.ended"]


def test_a_leader_that_is_killed_ends_no_view_and_a_lost_majority_is_told(tmp_path: Path) -> None:
    with registered(tmp_path, 21656) as (found, members):
        routes = [one["reason"] for one in found["lb1"].status()["vips"]]
        first = members.leader()
        members.kill(first)
        waits(lambda: found["lb1"].fleet()["lb2"]["age_s"] < 2 and heard(found))
        second = (first + 1) % 3
        members.kill(second)
        waits(lambda: "etcd cannot be asked" in found["lb1"].status()["fleet"]["problem"], 60)
        waits(is_told(found, "lb2", "unknown", "etcd cannot be asked"), 60)  # and not gone
        assert [one["reason"] for one in found["lb1"].status()["vips"]] == routes
        members.start(first)
        members.start(second)
        waits(lambda: heard(found) and not found["lb1"].status()["fleet"]["problem"], 60)


def test_whatever_stands_in_etcd_is_read_with_bounds(tmp_path: Path) -> None:
    with registered(tmp_path, 21659) as (found, members):
        for value, why in (
            ("{", "it is no document"),
            ('{"pieces": ["x"]}', "when it was made"),
            ("[" * 9999, "no document"),
        ):
            members.control("put", "/test/nodes/lb3", value)
            waits(is_told(found, "lb3", "unknown", why))
        members.control("put", "/test/nodes/lb3", '{"at":1,"born":1,"node":"lb1","pieces":[]}')
        waits(is_told(found, "lb3", "unknown", "lb1 has written it"))
        waits(lambda: heard(found))


def test_a_node_that_asks_is_answered_in_the_keys_of_the_others_once(tmp_path: Path) -> None:
    with registered(tmp_path, 21686) as (found, members):

        def asks(instant: float) -> None:
            said = {"at": 1, "born": 1, "node": "lb3", "pieces": [], "asks": instant}
            members.control("put", "/test/nodes/lb3", json.dumps(said))

        def answers(name: str) -> object:
            key = members.control("get", f"/test/nodes/{name}", "--print-value-only")
            return json.loads(key).get("answers")

        for instant in (4711.5, 4712.25):
            asks(instant)
            waits(lambda instant=instant: all(answers(one) == {"lb3": instant} for one in TWO))  # type: ignore[misc]
        waits(lambda: stands_still(members))
        waits(lambda: heard(found))


def test_a_full_etcd_ends_no_view_and_one_that_starts_says_what_is_wrong(tmp_path: Path) -> None:
    with registered(tmp_path, 21665, "--quota-backend-bytes=4000000") as (found, members):
        fill(members)
        waits(lambda: all("NOSPACE" in one.alarms for one in doctored(members)))
        before = len(found["lb1"].events)
        waits(lambda: found["lb1"].fleet()["lb2"]["age_s"] < 2)
        assert heard(found)
        found["lb2"].kill()
        found["lb2"].start(found.config)
        # It has no lease of its own any more, and etcd gives it none: nobody hears of it.
        # Late it is for some seconds only; the problem lasts.
        waits(is_told(found, "lb2", "late", "its key in etcd is gone"), 60)
        waits(lambda: "etcd is full" in (found["lb2"].status().get("fleet") or {}).get("problem", ""))
        make_room(members)
        waits(lambda: not any(one.why or one.alarms for one in doctored(members)))
        waits(lambda: heard(found) and not found["lb2"].status()["fleet"]["problem"], 60)
        lost = [one for one in found["lb1"].events[before:] if one["event"] == "fleet.lease_lost"]
        assert not lost, "who had a lease kept it"


def doctored(members: Cluster, tls: Certificates | None = None) -> tuple[Answered, ...]:
    """What the doctor hears of each member."""
    return asyncio.run(asked(settings.Fleet(etcd=settings.Etcd(endpoints=members.endpoints, tls=tls)))).etcd


def fill(members: Cluster) -> None:
    """Until it takes nothing more."""
    with contextlib.suppress(subprocess.CalledProcessError):
        for number in range(99):
            members.control("put", f"/other/{number}", "x" * 100_000)
    assert "NOSPACE" in members.control("alarm", "list")


def make_room(members: Cluster) -> None:
    members.control("del", "/other/", "--prefix")
    members.control("compact", revision(members))
    for endpoint in members.endpoints:
        members.control("defrag", f"--endpoints={endpoint}")
    members.control("alarm", "disarm")


def test_with_certificates_at_both_ends(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.sign("IP:127.0.0.1")
    at = {
        name: f"{tmp_path}/{file}"
        for name, file in (("ca", "ca.pem"), ("cert", "node.pem"), ("key", "node.key"))
    }
    options = (
        *("--client-cert-auth", f"--trusted-ca-file={at['ca']}"),
        *(f"--cert-file={at['cert']}", f"--key-file={at['key']}"),
    )
    more = f", tls: {{ca: {at['ca']}, certificate: {at['cert']}, key: {at['key']}}}"
    with registered(tmp_path, 21668, *options, scheme="https", more=more) as (found, members):
        tls = Certificates(ca=at["ca"], certificate=at["cert"], key=at["key"])
        assert not any(one.why for one in doctored(members, tls)), doctored(members, tls)
        authority.sign("IP:127.0.0.1", expired=True)
        found["lb2"].kill()
        found["lb2"].start(found.config)
        waits(lambda: "certificate" in (found["lb2"].status().get("fleet") or {}).get("problem", ""))


def test_the_doctor_finds_a_gateway_that_is_dead(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.sign("IP:127.0.0.1", usage="serverAuth")
    for name in ("node.pem", "node.key"):
        (tmp_path / name).rename(tmp_path / f"server.{name}")
    authority.sign("IP:127.0.0.1")
    (tmp_path / "etcd").mkdir()
    options = [
        *("--client-cert-auth", f"--trusted-ca-file={tmp_path}/ca.pem"),
        *(f"--cert-file={tmp_path}/server.node.pem", f"--key-file={tmp_path}/server.node.key"),
    ]
    with cluster(tmp_path / "etcd", *options, scheme="https") as members:
        tls = Certificates(
            ca=f"{tmp_path}/ca.pem", certificate=f"{tmp_path}/node.pem", key=f"{tmp_path}/node.key"
        )
        waits(lambda: all("usage clientAuth" in one.why for one in doctored(members, tls)))


def test_with_users_and_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.sign("IP:127.0.0.1")
    (tmp_path / "etcd").mkdir()
    (tmp_path / "password").write_text("secret\n")
    more = f", user: fleet, password_file: {tmp_path}/password, tls: {{ca: {tmp_path}/ca.pem}}"
    files = {"cert-file": "node.pem", "key-file": "node.key"}
    options = [f"--{option}={tmp_path}/{file}" for option, file in files.items()]
    with cluster(tmp_path / "etcd", *options, scheme="https") as members:

        def control(*words: str) -> bool:
            argv = ["etcdctl", f"--cacert={tmp_path}/ca.pem", f"--endpoints={members.endpoints[0]}", *words]
            found = subprocess.run(
                argv, check=False, capture_output=True, env={**os.environ, "ETCDCTL_API": "3"}
            )
            return found.returncode == 0

        waits(lambda: control("endpoint", "health"))
        for name in ("root", "fleet"):
            assert control("user", "add", f"{name}:secret")
        assert control("role", "add", "fleet")
        assert control("role", "grant-permission", "fleet", "--prefix=true", "readwrite", "/test/")
        assert control("user", "grant-role", "fleet", "fleet")
        assert control("user", "grant-role", "root", "root")
        assert control("auth", "enable")
        tls = Certificates(ca=f"{tmp_path}/ca.pem")
        assert not any(one.why for one in doctored(members, tls)), doctored(members, tls)
        with fleet(tmp_path, port=21662, interval="500ms", start=TWO, more=view(members, more)) as found:
            waits(lambda: heard(found))
            (tmp_path / "password").write_text("guessed\n")
            found["lb2"].kill()
            found["lb2"].start(found.config)
            waits(lambda: "etcd refuses" in (found["lb2"].status().get("fleet") or {}).get("problem", ""))
