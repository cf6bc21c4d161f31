"""The neighbors' passwords that stand in files and variables, read where a configuration is rendered."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from anycast.core.hooks import Secret
from anycast.core.values.configuration import Address, Config
from anycast.secrets import SecretError, read

_NAMED = 5
PASSWORD = re.compile(r"[!#-&(-:<-\[\]-~]{1,80}\Z")


def with_passwords(config: Config, only: Collection[Address] = ()) -> Config:
    """The same with the passwords in it. `only`: those of these neighbors, if there are any here.

    Raises ValueError: some cannot be had, or cannot be used. It says so of each file or variable once.
    """
    found: dict[Secret, str] = {}
    wrong: list[str] = []
    wanted = [one for one in config.bgp.neighbors if not only or one.address in only]
    for neighbor in wanted:
        where = neighbor.password_from
        if where is None or where in found:
            continue
        try:
            found[where] = _password(where)
        except ValueError as error:
            found[where] = ""
            who = [str(one.address) for one in wanted if one.password_from == where]
            more = f" and {len(who) - _NAMED} more" if len(who) > _NAMED else ""
            noun = "neighbor" if len(who) == 1 else "neighbors"
            wrong.append(f"the password of the {noun} {', '.join(who[:_NAMED])}{more}{error}")
    if wrong:
        rest = f"; and {len(wrong) - _NAMED} more passwords" if len(wrong) > _NAMED else ""
        raise ValueError("; ".join(wrong[:_NAMED]) + rest)
    neighbors = tuple(
        replace(one, password=found[one.password_from], password_from=None)
        if one.password_from in found and one in wanted
        else one
        for one in config.bgp.neighbors
    )
    return replace(config, bgp=replace(config.bgp, neighbors=neighbors))


def _password(where: Secret) -> str:
    try:
        password = read(where).decode("ascii", "replace")
    except SecretError as error:
        raise ValueError(f": {error}") from None
    if why := unusable(password):
        raise ValueError(f" in {where} cannot be used: {why}")
    return password


def unusable(password: str) -> str:
    """Why it is no password of BGP; empty: it is."""
    if PASSWORD.match(password):
        return ""
    return "it must be 1 to 80 printable ASCII characters; no quotes, backslash, semicolon or space"
