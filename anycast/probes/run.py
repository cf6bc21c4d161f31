"""One run of a check: the kind decides how, the timeout bounds the whole. No counting, no logging."""

from __future__ import annotations

import asyncio
from typing import assert_never

from anycast.core.health.phase import Fault, Result
from anycast.core.values.checks import (
    BannerCheck,
    CarrierCheck,
    DnsCheck,
    FileCheck,
    GatewayCheck,
    GrpcCheck,
    IcmpCheck,
    IpvsConnectionsCheck,
    LoadCheck,
    MemoryCheck,
    RelpCheck,
    SyslogCanaryCheck,
    SyslogCheck,
    TcpVipCheck,
    UdpCheck,
)
from anycast.core.values.configuration import HERE, CommandCheck, HttpCheck, Target, TcpCheck
from anycast.probes import (
    banner,
    command,
    datagram,
    dns,
    grpc,
    icmp,
    links,
    node,
    relp,
    syslog,
    vip,
)
from anycast.probes.finding import Finding, Progress, fail, judge, late, unusable
from anycast.probes.sweep.once import once
from anycast.probes.sweep.runs import sweepable

__all__ = ["probe"]

_LATE = 1.0  # seconds past the timeout: this process, not the target, was too slow


async def probe(target: Target, progress: Progress | None = None) -> Result:
    """Run `target.check` once. `progress`: for somebody who looks on.

    Never raises for what the target or the system does; may be cancelled any time.
    """
    if sweepable(target):
        return await once(target, progress or Progress())
    loop = asyncio.get_running_loop()
    timeout = target.check.timeout
    progress = progress or Progress()
    started = loop.time()
    try:
        async with asyncio.timeout(timeout):
            try:
                finding = await _dispatch(target, progress)
            except OSError as error:  # in here: the kernel's ETIMEDOUT is a TimeoutError too
                finding = judge(error)
    except TimeoutError:
        if progress.ours:
            finding = unusable(f"no {progress.missing} within {timeout} s", Fault.STALLED)
        else:
            finding = fail(f"no {progress.missing} within {timeout} s{progress.advice}")
    took = loop.time() - started
    # A stopped or starved agent finds every timer expired at once, answers waiting or not; and an answer that has
    # lain there says nothing of now.
    if took - timeout > _LATE:
        finding = late(took - timeout)
    elif target.address != HERE:
        finding = links.excuse(finding, target.address)
    return finding.result(took)


async def _dispatch(target: Target, progress: Progress) -> Finding:
    kind = target.check.kind
    match kind:
        case TcpVipCheck():
            if target.vip is None:
                return unusable("it is aimed at no VIP")
            port = kind.port or target.port
            return await vip.check(target.vip, target.address, port, target.check.timeout, progress)
        case CommandCheck():
            return await command.check(kind, target.address, target.port, progress)
        case UdpCheck():
            return await datagram.check(kind, target.address, kind.port or target.port, progress)
        case BannerCheck():
            return await banner.check(kind, target.address, kind.port or target.port, progress)
        case SyslogCheck():
            return await syslog.check(kind, target.address, kind.port or target.port, progress)
        case SyslogCanaryCheck():
            return await syslog.canary(kind, target.address, kind.port or target.port, progress)
        case RelpCheck():
            return await relp.check(kind, target.address, kind.port or target.port, progress)
        case DnsCheck():
            return await dns.check(kind, target.address, kind.port or target.port, progress)
        case GrpcCheck():
            return await grpc.check(kind, target.address, kind.port or target.port, progress)
        case IcmpCheck():
            return await icmp.check(kind, target.address, progress)
        case (
            CarrierCheck()
            | GatewayCheck()
            | LoadCheck()
            | MemoryCheck()
            | FileCheck()
            | IpvsConnectionsCheck()
        ):
            return await node.check(kind, progress)
        case TcpCheck() | HttpCheck():
            raise AssertionError("the sweep runs these")
        case _:
            assert_never(kind)
