"""ExaBGP's configuration and environment for one node. Works on ExaBGP 5.0."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from anycast.core.prefixes import prefixes_of
from anycast.core.rendering import digest
from anycast.render.router import families, least_ttl, local_address
from anycast.render.template import render

if TYPE_CHECKING:
    from anycast.core.values.configuration import Bgp, Config, Neighbor

# ExaBGP splits its `run` line at spaces and has no way to quote a quote: what it splits at must not stand in a word.
_WORD = re.compile(r"[A-Za-z0-9_./:=@%+~-]+\Z", re.ASCII)


def exabgp_conf(config: Config, *, command: str, journal: str | None = None) -> str:
    """The complete configuration file. `command` starts this program, as in `/usr/bin/anycast`.

    `journal`: where the plugin keeps what it may have announced; None: in the node's runtime directory.

    The file holds the neighbors' passwords. Raises ValueError for a command or path ExaBGP cannot be given, and
    for an IPv6 neighbor without a local address.
    """
    run = _run_line(config, command, journal)
    return render(
        "exabgp.conf",
        bgp=config.bgp,
        run=run,
        local_address=local_address,
        families=families,
        least_ttl=least_ttl,
        listening=_listening(config.bgp),
    )


def exabgp_env(config: Config) -> str:
    """The environment ExaBGP is started with: comments and `name=value` lines, as systemd's EnvironmentFile takes."""
    ours = [local_address(config.bgp, neighbor) for neighbor in config.bgp.neighbors]
    # It has no way to say of which link an address is, and cannot listen without.
    bind = dict.fromkeys(str(one) for one in ours if not one.is_link_local)
    return render(
        "exabgp.env", user=config.node.exabgp_user, bind=" ".join(bind), port=config.bgp.listen_port
    )


def _listening(bgp: Bgp) -> list[Neighbor]:
    """The neighbors that are to say again that ExaBGP listens for them: those that wait, and those that set the least TTL.

    ExaBGP has one listening socket for a local address, and the neighbors that say so set the TTL of it for all. So one
    does, the one that is furthest away, and none where another neighbor of the address has no least TTL.
    """
    found = [one for one in bgp.neighbors if one.passive and not one.ttl_security]
    for address in dict.fromkeys(local_address(bgp, one) for one in bgp.neighbors):
        there = [one for one in bgp.neighbors if local_address(bgp, one) == address]
        if not address.is_link_local and all(one.ttl_security for one in there):
            found.append(max(there, key=lambda one: one.ttl_security))
    return found


def _run_line(config: Config, command: str, journal: str | None) -> str:
    prefixes = sorted(
        {prefix for vip in config.vips for prefix in prefixes_of(vip)},
        key=lambda one: (one.version, int(one.network_address), one.prefixlen),
    )
    runtime = config.node.runtime_dir.rstrip("/")
    words = [*command.split(" "), "announce"]
    words += ["--socket", f"{runtime}/lease.sock"]
    words += ["--journal", journal or f"{runtime}/plugin/journal.json"]
    words += ["--rendered", digest(config.bgp)]
    if config.bgp.mark is not None:
        words += ["--view", ":".join(map(str, config.bgp.mark))]
    for prefix in prefixes:
        words += ["--own", str(prefix)]
    for word in words:
        if not _WORD.match(word):
            raise ValueError(
                f"{word!r} cannot stand in ExaBGP's run line: use letters, digits and _ . / : = @ % + ~ -"
            )
    return " ".join(words)
