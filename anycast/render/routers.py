"""Every router software there is a configuration for. Without a version: what all that were tried take."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anycast.analysis.routers import GOBGP_BFD, OPENBGPD_EXTENDED, OPENBGPD_PASSWORD
from anycast.core.values.configuration import Bfd
from anycast.core.values.software import Daemon
from anycast.render.router import CONNECT_RETRY, VIEW_PATHS, Router, short
from anycast.render.template import render

_STRICT = (10, 4)  # FRR: `neighbor … bfd strict`
_REPLACES = (10, 3)  # FRR: an IPv6 route that changes; 8.4 deletes it and adds it again
_RESILIENT = (10, 8)  # FRR: `zebra nexthop-group resilience`; 10.7 has none
_WRITES_KERNEL = (8, 8)  # OpenBGPD, on Linux; 7.7 does not


def frr_conf(router: Router) -> str:
    """What to add to frr.conf. Loaded with `vtysh -f`, it changes these sessions and a few settings of the whole router.

    Tried with FRR 8.4, 10.3 and 10.7.
    """
    return render(
        "router-frr.conf",
        router=router,
        connect_retry=CONNECT_RETRY,
        strict=router.since(*_STRICT),
        takes_away=not router.since(*_REPLACES) and any(6 in node.families for node in router.nodes),
        resilient=router.since(*_RESILIENT),
        profile=_profile,
    )


def _profile(bfd: Bfd) -> str:
    """One for each pair of timers: nodes share a router, and may differ."""
    return f"ANYCAST-{bfd.multiplier}x{round(bfd.interval * 1000)}"


def bird_conf(router: Router) -> str:
    """A file to include in bird.conf. Tried with BIRD 2.0.12 and 3.4, which take the same."""
    return render("router-bird.conf", router=router, connect_retry=CONNECT_RETRY, short=short)


def gobgp_conf(router: Router) -> str:
    """The complete gobgpd.toml. Tried with GoBGP 3.10 and 4.8.

    Raises ValueError without a router id, which GoBGP cannot do without.
    """
    if router.router_id is None:
        raise ValueError(
            "GoBGP needs a router id, and no neighbor is IPv4 to take it from: write --router-id"
        )
    if several := [one.range for one in router.sessions if one.remote_as is None]:
        raise ValueError(
            f"GoBGP takes nodes of one AS number in a range, and those in {several[0]} have several"
        )
    policies = [f"{node.name}-ipv{family}" for node in router.nodes for family in node.families]
    return render(
        "router-gobgp.conf",
        router=router,
        connect_retry=CONNECT_RETRY,
        policies=policies,
        backs=[f"{node.name}-ipv{family}-back" for node in router.nodes for family in node.seen],
        has_bfd=router.since(*GOBGP_BFD),
        view_paths=VIEW_PATHS,
    )


def openbgpd_conf(router: Router) -> str:
    """The complete bgpd.conf. Tried with OpenBGPD 7.7 and 9.3 on Linux.

    Raises ValueError for a password that is longer than OpenBGPD takes.
    """
    text = render(
        "router-openbgpd.conf",
        router=router,
        short=short,
        kernel=router.since(*_WRITES_KERNEL),
        extended=router.since(*OPENBGPD_EXTENDED),
    )
    for session in router.sessions:
        if session.password is not None and session.range is not None:
            raise ValueError(
                f"OpenBGPD on Linux takes no connection with a password, and dials nobody in a range ({session.range})"
            )
        if session.password is not None and len(session.password) > OPENBGPD_PASSWORD:
            raise ValueError(
                f"OpenBGPD takes passwords of {OPENBGPD_PASSWORD} characters, the one for {session.local} has {len(session.password)}"
            )
    return text


ROUTERS: Mapping[str, Callable[[Router], str]] = {
    Daemon.FRR: frr_conf,
    Daemon.BIRD: bird_conf,
    Daemon.GOBGP: gobgp_conf,
    Daemon.OPENBGPD: openbgpd_conf,
}
