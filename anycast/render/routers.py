"""Every router software there is a configuration for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from anycast.render.router import Router
from anycast.render.router_bird import bird_conf
from anycast.render.router_frr import frr_conf
from anycast.render.router_gobgp import gobgp_conf
from anycast.render.router_openbgpd import openbgpd_conf

ROUTERS: Mapping[str, Callable[[Router], str]] = {
    "frr": frr_conf,
    "bird": bird_conf,
    "gobgp": gobgp_conf,
    "openbgpd": openbgpd_conf,
}
