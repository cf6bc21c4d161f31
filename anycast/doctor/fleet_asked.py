"""Asks what it takes to hear the other nodes of the fleet: files, members of etcd. Changes nothing."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import stat
import time
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import urlsplit

from anycast import secrets
from anycast.certificate import expiry
from anycast.core.values.fleet import Certificates, Etcd, Fleet, FleetView
from anycast.doctor.facts import Answered, FleetFacts, Runs
from anycast.mutual_tls import to_server

PATIENCE = 2.0  # seconds for an answer
MOST = 1 << 20  # bytes of a file, or of an answer


async def asked(fleet: Fleet) -> FleetFacts:
    members = () if fleet.etcd is None else fleet.etcd.endpoints
    etcd = await asyncio.gather(*(asyncio.to_thread(_member, one, fleet.etcd) for one in members))
    return FleetFacts(
        token=_token(fleet),
        token_is_for_all=_for_all(fleet),
        certificates=tuple(_certificates(fleet.tls)),
        nodes=await _nodes(fleet),
        etcd=tuple(etcd),
    )


async def _nodes(fleet: Fleet) -> tuple[Answered, ...]:
    """As the agent's own process asks them. A token that only the agent has in its environment cannot be shown."""
    hidden = fleet.token is not None and fleet.token.variable and fleet.token.variable not in os.environ
    if fleet.view is not FleetView.PEERS or hidden:
        return ()
    from anycast.fleet.peers import Peers  # takes a while to load, and most nodes have no fleet

    peers = Peers(fleet, lambda _: None, lambda *_: None)
    asked = [one for one in fleet.peers if one.host]
    whys = await asyncio.gather(*(peers.answers(one) for one in asked))
    return tuple(Answered(one.name, why) for one, why in zip(asked, whys, strict=True))


def _token(fleet: Fleet) -> str:
    # The environment is the agent's, and not this process's.
    if fleet.token is None or fleet.token.variable:
        return ""
    try:
        secrets.token(fleet.token)
    except secrets.SecretError as error:
        return str(error)
    return ""


def _for_all(fleet: Fleet) -> str:
    file = "" if fleet.token is None else fleet.token.file
    try:
        return file if file and os.stat(file).st_mode & stat.S_IROTH else ""
    except OSError:
        return ""


def _certificates(tls: Certificates | None) -> Iterator[Runs]:
    files = () if tls is None else (tls.certificate, tls.ca)
    for path in files:
        if path is None:
            continue
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                end = expiry(file.read(MOST))
        except OSError as error:
            yield Runs(path, why=error.strerror or str(error))
        else:
            yield (
                Runs(path, why="it has no certificate (PEM)")
                if end is None
                else Runs(path, end - time.time())
            )


def _member(endpoint: str, etcd: Etcd | None) -> Answered:
    """It says its version to everybody. Its gateway is asked besides: that can be dead where all else is well."""
    where = urlsplit(endpoint)
    host, port = where.hostname or "", where.port or 2379
    tls = None if etcd is None else etcd.tls
    try:
        line = (
            http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=to_server(tls))
            if where.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=PATIENCE)
        )
        try:
            line.request("GET", "/version")
            version = str(json.loads(line.getresponse().read(MOST))["etcdserver"])[:40]
            line.request("POST", "/v3/maintenance/status", "{}")
            answer = line.getresponse()
            why, alarms = _gateway(answer.status, answer.read(MOST))
        finally:
            line.close()
        return Answered(endpoint, why, version, alarms)
    except (http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError) as error:
        return Answered(endpoint, why=f"what answers there is no etcd ({type(error).__name__})")
    except OSError as error:
        return Answered(endpoint, why=str(error.strerror or error) or type(error).__name__)


def _gateway(status: int, data: bytes) -> tuple[str, str]:
    """Why it does not answer, and what the member itself says is wrong with it."""
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        said = _line(data.decode("utf-8", "replace"))
        return (
            f"its gateway (/v3) answers {status}, {said}: with TLS, its own certificate needs the usage clientAuth too",
            "",
        )
    try:
        errors = json.loads(data).get("errors", ())
    except (ValueError, RecursionError, AttributeError):
        return "", ""
    return "", ", ".join(_line(str(one)) for one in errors) if isinstance(errors, list) else ""


def _line(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text[:100]).strip()
