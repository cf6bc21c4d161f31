"""Which program a text is a configuration of. Pure."""

from __future__ import annotations

import re

from anycast.importers.importing import Source

_SIGNS = (
    (
        Source.IPVS,
        re.compile(r"^\s*((\S*/)?ipvsadm\s+)?(-[AaEe]|--(add|edit)-(service|server))\s+-", re.MULTILINE),
    ),
    (Source.LDIRECTORD, re.compile(r"^\s*virtual6?\s*=", re.MULTILINE)),
    (
        Source.ANYCAST_HEALTHCHECKER,
        re.compile(r"^\s*(check_cmd|ip_prefix|bird_conf|bird_variable)\s*[=:]", re.MULTILINE),
    ),
    (
        Source.KEEPALIVED,
        re.compile(
            r"^\s*(@\S+\s+)?(virtual_server|virtual_server_group|vrrp_instance|global_defs|vrrp_script)\b",
            re.MULTILINE,
        ),
    ),
    (Source.EXABGP, re.compile(r"^\s*(neighbor|process|group|template)\b[^;]*\{", re.MULTILINE)),
)
_ALONE = re.compile(r"^\s*include[rmwba]?\s+\S", re.MULTILINE)


def detect(text: str) -> Source | None:
    """The first that it looks like. None: nothing in it is of any."""
    for source, sign in _SIGNS:
        if sign.search(text):
            return source
    return Source.KEEPALIVED if _ALONE.search(text) else None
