"""The strict turn against a real etcd of three members."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from anycast.core.fleet.values import Claim, Register, Turn
from anycast.core.hooks import Secret
from anycast.core.values.fleet import Certificates, Etcd
from anycast.fleet import slots
from anycast.fleet.etcd import Client, EtcdError, Is, RefusedError, UnknownError, delete, put
from anycast.fleet.slots import Slots
from tests.contract.etcd import BINARY, Cluster, cluster

pytestmark = pytest.mark.skipif(BINARY is None, reason="there is no etcd (apt-get install etcd-server)")

TIMES = 100


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("etcd")) as one:
        yield one


@contextlib.asynccontextmanager
async def node(etcd: Cluster, name: str, *, first: int = 0, max_out: int = 1) -> AsyncIterator[Slots]:
    """It asks the member `first` before the others."""
    members = etcd.endpoints[first:] + etcd.endpoints[:first]
    async with Client(Etcd(endpoints=members)) as client:
        yield Slots(client, "/anycast/", name, max_out)


def asks(number: int, *, claim: Claim = Claim.ASKED) -> Turn:
    return Turn(claim=claim, ago=0.0, number=number, by="ada", reason="new disks")


def test_of_two_that_ask_in_the_same_instant_one_has_the_turn_a_hundred_times(etcd: Cluster) -> None:
    async def run() -> None:
        async with node(etcd, "lb1", first=0) as lb1, node(etcd, "lb2", first=1) as lb2:
            for number in range(1, TIMES + 1):
                found = await asyncio.gather(lb1.step(asks(number)), lb2.step(asks(number)))
                first = [one.mine for one in found if one.mine is not None]
                if not first:  # each saw the other before it in the queue, or not yet
                    found = await asyncio.gather(lb1.step(asks(number)), lb2.step(asks(number)))
                    first = [one.mine for one in found if one.mine is not None]
                assert first == [number]
                again = await asyncio.gather(lb1.step(asks(number)), lb2.step(asks(number)))
                assert [one.mine for one in again] == [one.mine for one in found], "it stays so"
                for one in again:
                    assert len(one.holders) == 1
                    assert one.holders[0].node == ("lb1" if again[0].mine else "lb2")
                await asyncio.gather(lb1.step(None), lb2.step(None))

    asyncio.run(run())


def test_who_has_it_and_who_waits_is_there_to_read_with_the_reason_and_the_end(etcd: Cluster) -> None:
    async def run() -> Register:
        async with node(etcd, "lb1") as lb1, node(etcd, "lb2") as lb2, node(etcd, "lb3") as lb3:
            await lb1.step(asks(1))
            await lb3.step(asks(3))
            await lb2.step(asks(2))
            found = await lb1.step(asks(1, claim=Claim.HELD))
            for one in (lb1, lb2, lb3):
                await one.step(None)
            return found

    found = asyncio.run(run())
    (holder,) = found.holders
    assert (holder.node, holder.by, holder.reason, found.mine) == ("lb1", "ada", "new disks", 1)
    assert holder.ends_in is not None
    assert 0 < holder.ends_in <= slots.LIFE
    assert [one.node for one in found.queue] == ["lb3", "lb2"], "in the order in which they asked"


def test_the_next_in_the_queue_has_it_when_it_is_free_and_no_other(etcd: Cluster) -> None:
    async def run() -> None:
        async with node(etcd, "lb1") as lb1, node(etcd, "lb2") as lb2, node(etcd, "lb3") as lb3:
            await lb1.step(asks(1))
            await lb3.step(asks(3))
            await lb2.step(asks(2))
            await lb1.step(None)
            assert (await lb2.step(asks(2))).mine is None, "lb3 has asked before"
            assert (await lb3.step(asks(3))).mine == 3
            await lb3.step(None)
            assert (await lb2.step(asks(2))).mine == 2
            await lb2.step(None)

    asyncio.run(run())


def test_two_slots_are_for_two_nodes_and_one_that_is_out_by_force_takes_one(etcd: Cluster) -> None:
    async def run() -> None:
        async with (
            node(etcd, "lb1", max_out=2) as lb1,
            node(etcd, "lb2", max_out=2) as lb2,
            node(etcd, "lb3", max_out=2) as lb3,
        ):
            assert (await lb1.step(asks(1))).mine == 1
            forced = Turn(claim=Claim.HELD, ago=0.0, number=0, forced=True)
            assert (await lb2.step(forced)).mine == 0
            third = await lb3.step(asks(3))
            assert third.mine is None
            assert {one.node for one in third.holders} == {"lb1", "lb2"}
            for one in (lb1, lb2, lb3):
                await one.step(None)

    asyncio.run(run())


def test_a_process_that_was_started_again_keeps_the_turn_under_a_lease_of_its_own(etcd: Cluster) -> None:
    async def run() -> None:
        async with node(etcd, "lb1") as before:
            assert (await before.step(asks(1))).mine == 1
        async with node(etcd, "lb1") as after, node(etcd, "lb2") as other:
            assert (await after.step(asks(1))).mine == 1
            await before_revoked(etcd, before)
            assert (await other.step(asks(2))).mine is None
            assert (await after.step(asks(1))).mine == 1
            await after.step(None)
            await other.step(None)

    async def before_revoked(etcd: Cluster, before: Slots) -> None:
        async with Client(Etcd(endpoints=etcd.endpoints)) as client:
            await client.revoke(before._lease)

    asyncio.run(run())


def test_a_lease_that_etcd_has_lost_is_replaced_and_the_turn_taken_again(etcd: Cluster) -> None:
    """One member that stood still may end every lease there is: that says nothing of the nodes."""

    async def run() -> None:
        async with node(etcd, "lb1") as lb1, Client(Etcd(endpoints=etcd.endpoints)) as client:
            await lb1.step(asks(1))
            await client.revoke(lb1._lease)
            lb1._kept_at = float("-inf")
            assert (await lb1.step(asks(1, claim=Claim.HELD))).mine == 1
            await lb1.step(None)

    asyncio.run(run())


def test_a_write_that_comes_too_late_is_taken_back(etcd: Cluster) -> None:
    """A member that stood still carries out what its caller gave up long ago."""

    async def run() -> None:
        async with node(etcd, "lb1") as lb1, Client(Etcd(endpoints=etcd.endpoints)) as client:
            await lb1.step(asks(1))
            lease = lb1._lease
            await lb1.step(None)
            ghost = b'{"node": "lb1", "number": 1}'
            assert await client.transact(
                [Is("/anycast/turn/0", "CREATE", 0)], then=[put("/anycast/turn/0", ghost, lease)]
            )
            found = await lb1.step(None)
            assert (found.mine, found.holders) == (None, ())

    asyncio.run(run())


def test_what_others_have_written_there_is_not_trusted_and_blocks_all_the_same(etcd: Cluster) -> None:
    async def run() -> None:
        async with node(etcd, "lb1") as lb1, Client(Etcd(endpoints=etcd.endpoints)) as client:
            lease = await client.grant(60)
            await client.transact([], then=[put("/anycast/turn/0", b"\xff[not\x1b[2J json", lease)])
            found = await lb1.step(asks(1))
            assert (found.mine, [one.node for one in found.holders]) == (None, ["0"])
            await client.transact([], then=[delete("/anycast/turn/0")])
            await lb1.step(None)

    asyncio.run(run())


def test_a_transaction_under_a_lease_that_is_gone_is_refused(etcd: Cluster) -> None:
    async def run() -> None:
        async with Client(Etcd(endpoints=etcd.endpoints)) as client:
            lease = await client.grant(60)
            await client.revoke(lease)
            assert not await client.keep_alive(lease)
            assert await client.left(lease) is None
            with pytest.raises(RefusedError, match="lease not found"):
                await client.transact([], then=[put("/anycast/turn/0", b"", lease)])
            await client.revoke(lease)

    asyncio.run(run())


def test_the_leader_is_killed_and_the_turn_is_given_all_the_same(etcd: Cluster) -> None:
    async def run() -> None:
        leader = etcd.leader()
        async with node(etcd, "lb1", first=leader) as lb1, node(etcd, "lb2", first=leader) as lb2:
            assert (await lb1.step(asks(1))).mine == 1
            etcd.kill(leader)
            assert (await until_answered(lb2, asks(2))).mine is None
            assert (await until_answered(lb1, asks(1, claim=Claim.HELD))).mine == 1
            await until_answered(lb1, None)
            assert (await until_answered(lb2, asks(2))).mine == 2
            await until_answered(lb2, None)
        etcd.start(leader)
        await asyncio.to_thread(etcd.wait)

    asyncio.run(run())


async def until_answered(one: Slots, wanted: Turn | None) -> Register:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(UnknownError):
                return await one.step(wanted)
            await asyncio.sleep(0.1)


def test_without_a_majority_nobody_has_a_turn_and_it_says_why(etcd: Cluster) -> None:
    async def run() -> None:
        async with node(etcd, "lb1") as lb1, node(etcd, "lb2") as lb2:
            await lb1.step(asks(1))
            await lb2.step(None)
            leader = etcd.leader()
            etcd.freeze(leader, (leader + 1) % 3)
            try:
                with pytest.raises(EtcdError, match="no answer within"):
                    await lb2.step(asks(2))
            finally:
                etcd.thaw(leader, (leader + 1) % 3)
            # What was given up may have been carried out, or be: it harms nobody.
            assert (await until_answered(lb1, asks(1, claim=Claim.HELD))).mine == 1
            assert (await until_answered(lb2, asks(2))).mine is None
            await until_answered(lb1, None)
            await until_answered(lb2, None)

    asyncio.run(run())


def test_of_no_member_that_can_be_reached_it_says_so(etcd: Cluster) -> None:
    async def run() -> None:
        async with Client(Etcd(endpoints=("http://127.0.0.1:9",))) as client:
            with pytest.raises(UnknownError, match="cannot be reached: Connection refused"):
                await client.below("/")
        async with Client(Etcd(endpoints=("http://127.0.0.1:9", *etcd.endpoints))) as client:
            assert await client.below("/nothing") == []

    asyncio.run(run())


def test_with_authentication_a_token_is_fetched_from_each_member_and_anew_where_it_is_not_known(
    tmp_path: Path,
) -> None:
    """The life of a token is kept by each member for itself: the first call after a change of member fails with it."""
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")

    async def run(etcd: Cluster) -> None:
        for words in (
            ("user", "add", "root:x"),
            ("user", "grant-role", "root", "root"),
            ("user", "add", "anycast:s3cret"),
            ("role", "add", "fleet"),
            ("role", "grant-permission", "fleet", "readwrite", "--prefix", "/anycast/"),
            ("user", "grant-role", "anycast", "fleet"),
            ("auth", "enable"),
        ):
            await asyncio.to_thread(etcd.control, *words)
        settings = Etcd(endpoints=etcd.endpoints, user="anycast", password=Secret(file=str(secret)))
        async with Client(settings) as client:
            lb1 = Slots(client, "/anycast/", "lb1", 1)
            assert (await lb1.step(asks(1))).mine == 1
            assert len(client._tokens) == 1
            client._tokens = dict.fromkeys(etcd.endpoints, "of.another.time")
            client._members.reverse()
            assert (await lb1.step(asks(1))).mine == 1
            with pytest.raises(RefusedError, match="permission denied"):
                await client.below("/elsewhere/")
        async with Client(replace(settings, user="eve")) as client:
            with pytest.raises(RefusedError, match="authentication failed"):
                await client.below("/anycast/")
        async with Client(replace(settings, user=None)) as client:
            with pytest.raises(RefusedError, match="user name is empty"):
                await client.below("/anycast/")

    with cluster(tmp_path) as etcd:
        asyncio.run(run(etcd))


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an authority, and two that it has signed: `both` has both usages, `server` serverAuth alone."""
    folder = tmp_path_factory.mktemp("certificates")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(
        folder, "req", "-x509", *curve, "-subj", "/CN=x", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2"
    )
    for name, usages in (("both", "serverAuth,clientAuth"), ("server", "serverAuth")):
        openssl(folder, "req", *curve, "-subj", "/CN=y", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        (folder / "ext").write_text(f"subjectAltName=IP:127.0.0.1\nextendedKeyUsage={usages}\n")
        openssl(
            folder,
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-extfile", "ext", "-out", f"{name}.pem", "-days", "2"),
        )
    return folder


@pytest.mark.parametrize("certificate", ["both", "server"])
def test_with_certificates_at_both_ends_the_turn_is_given_where_etcd_itself_may_be_a_client(
    tmp_path: Path, certificates: Path, certificate: str
) -> None:
    """The gateway dials its own member with the certificate of the server."""

    def file(name: str) -> str:
        return str(certificates / name)

    files = Certificates(certificate=file("both.pem"), key=file("both.key"), ca=file("ca.pem"))
    options = ("--cert-file", file(f"{certificate}.pem"), "--key-file", file(f"{certificate}.key"))
    both = ("--client-cert-auth", "--trusted-ca-file", file("ca.pem"))

    async def run(etcd: Cluster) -> None:
        settings = Etcd(endpoints=etcd.endpoints, tls=files)
        async with Client(settings) as client:
            lb1 = Slots(client, "/anycast/", "lb1", 1)
            if certificate == "both":
                assert (await until_answered(lb1, asks(1))).mine == 1
                return
            with pytest.raises(UnknownError):
                await client.below("/anycast/")
        without = replace(settings, tls=None)
        async with Client(without) as client:
            with pytest.raises(
                UnknownError, match="its certificate or ours is not good: unable to get local issuer"
            ):
                await client.below("/anycast/")

    with cluster(tmp_path, *options, *both, scheme="https") as etcd:
        asyncio.run(run(etcd))


def test_a_register_that_is_full_keeps_the_turn_there_is_and_gives_no_other(tmp_path: Path) -> None:
    async def run(etcd: Cluster) -> None:
        async with (
            node(etcd, "lb1") as lb1,
            node(etcd, "lb2") as lb2,
            Client(Etcd(endpoints=etcd.endpoints)) as client,
        ):
            assert (await lb1.step(asks(1))).mine == 1
            lease = await client.grant(600)
            with pytest.raises(RefusedError, match="database space exceeded"):
                await fill(client, lease)
            assert (await lb1.step(asks(1, claim=Claim.HELD))).mine == 1
            with pytest.raises(RefusedError, match="database space exceeded"):
                await lb2.step(asks(2))
            await lb1.step(None)
            assert (await lb2.step(None)).holders == ()

    async def fill(client: Client, lease: int) -> None:
        while True:
            await client.transact([], then=[put("/fill", b"x" * 500_000, lease)])

    with cluster(tmp_path, "--quota-backend-bytes", str(4 * 1024 * 1024)) as etcd:
        asyncio.run(run(etcd))
