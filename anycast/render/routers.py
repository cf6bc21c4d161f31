"""Every router software there is a configuration for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anycast.render.router import CONNECT_RETRY, MAX_PATHS, Router, short
from anycast.render.template import render

_OPENBGPD_PASSWORD = 79  # characters


def frr_conf(router: Router) -> str:
    """What to add to frr.conf. Loaded with `vtysh -f`, it changes nothing but these sessions. Tried with FRR 8.4."""
    return render("router-frr.conf", router=router, connect_retry=CONNECT_RETRY, max_paths=MAX_PATHS)


def bird_conf(router: Router) -> str:
    """A file to include in bird.conf. Tried with BIRD 2.0.12."""
    return render("router-bird.conf", router=router, connect_retry=CONNECT_RETRY, short=short)


def gobgp_conf(router: Router) -> str:
    """The complete gobgpd.toml. Tried with GoBGP 3.10.

    Raises ValueError without a router id, which GoBGP cannot do without.
    """
    if router.router_id is None:
        raise ValueError(
            "GoBGP needs a router id, and no neighbor is IPv4 to take it from: write --router-id"
        )
    policies = [f"{node.name}-ipv{family}" for node in router.nodes for family in node.families]
    return render("router-gobgp.conf", router=router, connect_retry=CONNECT_RETRY, policies=policies)


def openbgpd_conf(router: Router) -> str:
    """The complete bgpd.conf. Tried with OpenBGPD 7.7 on Linux.

    Raises ValueError for a password that is longer than OpenBGPD takes.
    """
    text = render("router-openbgpd.conf", router=router, short=short)
    for session in router.sessions:
        if session.password is not None and len(session.password) > _OPENBGPD_PASSWORD:
            raise ValueError(
                f"OpenBGPD takes passwords of {_OPENBGPD_PASSWORD} characters, the one for {session.local} has {len(session.password)}"
            )
    return text


ROUTERS: Mapping[str, Callable[[Router], str]] = {
    "frr": frr_conf,
    "bird": bird_conf,
    "gobgp": gobgp_conf,
    "openbgpd": openbgpd_conf,
}
