"""The neighbors' passwords that stand in files and variables, read where a configuration is rendered."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from anycast.core.values.configuration import Address, Config, Neighbor
from anycast.secrets import SecretError, read

PASSWORD = re.compile(r"[!#-&(-:<-\[\]-~]{1,80}\Z")


def with_passwords(config: Config, only: Collection[Address] = ()) -> Config:
    """The same with the passwords in it. `only`: those of these neighbors, if there are any here.

    Raises ValueError: one cannot be had, or cannot be used.
    """
    neighbors = tuple(
        _with_password(neighbor) if not only or neighbor.address in only else neighbor
        for neighbor in config.bgp.neighbors
    )
    return replace(config, bgp=replace(config.bgp, neighbors=neighbors))


def _with_password(neighbor: Neighbor) -> Neighbor:
    if neighbor.password_from is None:
        return neighbor
    try:
        password = read(neighbor.password_from).decode("ascii", "replace")
    except SecretError as error:
        raise ValueError(f"the password of the neighbor {neighbor.address}: {error}") from None
    if not PASSWORD.match(password):
        raise ValueError(
            f"the password of the neighbor {neighbor.address} in {neighbor.password_from} cannot be used: it must be "
            "1 to 80 printable ASCII characters; no quotes, backslash, semicolon or space"
        )
    return replace(neighbor, password=password, password_from=None)
