"""ExaBGP's configuration and environment for one node. Works on ExaBGP 5.0 and 4.2."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anycast.core.values.configuration import Address, Bgp, Config, Neighbor

# ExaBGP splits its `run` line at spaces and has no way to quote a quote: what it splits at must not stand in a word.
_WORD = re.compile(r"[A-Za-z0-9_./:=@%+~-]+\Z", re.ASCII)
_VERSIONS = {4: "ipv4", 6: "ipv6"}


def exabgp_conf(config: Config, *, command: str, journal: str | None = None) -> str:
    """The complete configuration file. `command` starts this program, as in `/usr/bin/anycast`.

    `journal`: where the plugin keeps what it may have announced; None: in the node's runtime directory.

    The file holds the neighbors' passwords. Raises ValueError for a command or path ExaBGP cannot be given, and
    for an IPv6 neighbor without a local address.
    """
    parts = [_HEAD, _process(config, command, journal)]
    parts += [_neighbor(config.bgp, neighbor) for neighbor in config.bgp.neighbors]
    return "\n".join(parts)


def exabgp_env(config: Config) -> str:
    """The environment ExaBGP is started with: comments and `name=value` lines, as systemd's EnvironmentFile takes."""
    user = config.node.exabgp_user
    bind = dict.fromkeys(str(local_address(config.bgp, neighbor)) for neighbor in config.bgp.neighbors)
    drop = "false" if user == "root" else "true"
    return _ENV.format(user=user, drop=drop, bind=" ".join(bind))


def _process(config: Config, command: str, journal: str | None) -> str:
    prefixes = sorted(
        {address for vip in config.vips for address in vip.addresses},
        key=lambda one: (one.version, one.packed),
    )
    runtime = config.node.runtime_dir.rstrip("/")
    words = [*command.split(" "), "announce"]
    words += ["--socket", f"{runtime}/lease.sock"]
    words += ["--journal", journal or f"{runtime}/plugin/journal.json"]
    for prefix in prefixes:
        words += ["--own", f"{prefix}/{prefix.max_prefixlen}"]
    for word in words:
        if not _WORD.match(word):
            raise ValueError(
                f"{word!r} cannot stand in ExaBGP's run line: use letters, digits and _ . / : = @ % + ~ -"
            )
    return f"process anycast {{\n    run {' '.join(words)};\n    encoder json;\n}}\n"


def local_address(bgp: Bgp, neighbor: Neighbor) -> Address:
    """This node's end of the session. Raises ValueError where it cannot be known."""
    if neighbor.local_address is not None:
        return neighbor.local_address
    if neighbor.address.version == 4:
        return bgp.router_id
    raise ValueError(
        f"neighbor {neighbor.address} has no local address: IPv6 has no default, write local_address"
    )


def _neighbor(bgp: Bgp, neighbor: Neighbor) -> str:
    return "\n".join([f"neighbor {neighbor.address} {{", *_options(bgp, neighbor), "}", ""])


def _options(bgp: Bgp, neighbor: Neighbor) -> Iterator[str]:
    families = sorted(neighbor.families) or [neighbor.address.version]
    yield f"    router-id {bgp.router_id};"
    yield f"    local-address {local_address(bgp, neighbor)};"
    yield f"    local-as {bgp.local_as};"
    yield f"    peer-as {neighbor.remote_as};"
    yield f"    hold-time {bgp.hold_time};"
    if neighbor.password is not None:
        yield f'    md5-password "{neighbor.password}";'
        yield "    md5-base64 false;  # ExaBGP 4.2 would take a password of hexadecimal digits for base64"
    if neighbor.passive:
        yield "    passive true;"
        yield "    listen 179;"
    yield "    adj-rib-out true;  # without it the routes are lost when the session is reset"
    yield f"    family {{ {' '.join(f'{_VERSIONS[version]} unicast;' for version in families)} }}"
    yield "    api { processes [ anycast ]; neighbor-changes; }"


_HEAD = """\
# Written by `anycast render exabgp`: change the node's YAML and write it again.
# It may hold passwords: keep it readable for ExaBGP's user alone (root, and the user's group to read).
# After a change check it with `exabgp validate` and restart ExaBGP. A reload that fails ends the process below and
# leaves its routes announced; the process stands first for the same reason.
# No graceful-restart: the router would keep a dead node's routes.
"""

_ENV = """\
# Written by `anycast render exabgp --env`: change the node's YAML and write it again.

# Whom ExaBGP and its process run as, once port 179 is bound. root keeps its rights.
exabgp_daemon_user={user}
exabgp_daemon_drop={drop}

# The service manager looks after the process; a daemon in the background would hide from it.
exabgp_daemon_daemonize=false

# The process matches every command to its answer. Without answers it takes ExaBGP for stuck.
exabgp_api_ack=true

# A process that dies is started again, and withdraws everything first.
exabgp_api_respawn=true

# If the process cannot be written to, ExaBGP ends, the routes go, and the service manager starts both again.
exabgp_api_terminate=true

# No other way in: commands from elsewhere would announce behind the process's back.
exabgp_api_cli=false

# Listen for the routers too: a router that comes back reaches this node in a second, where dialling takes up to 60.
# Needs root or CAP_NET_BIND_SERVICE at the start.
exabgp_tcp_bind={bind}

# A level whose name ExaBGP 4.2 and 5.0 both know.
exabgp_log_level=WARNING
"""
