"""After a reload: whether the rules of the packet filter that were rendered know what is configured now.

It is asked here and not in the agent: it takes programs, and time that the lease has not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

DEADLINE = 3.0  # seconds that nft or iptables-save may take: somebody waits for the reload


def outdated(file: Path, root: Path = Path("/"), *, node: str | None = None) -> Iterator[str]:
    """What they do not cover of the configuration, and what to do. Nothing where no such rules can be seen."""
    from anycast.core.dataplane.passage import passage
    from anycast.doctor.filter import rendered
    from anycast.doctor.gather import read_rules

    tables = read_rules(root, deadline=DEADLINE)
    if not rendered.are_loaded(tables):
        return
    from anycast.config.load import load
    from anycast.config.problem import ConfigError

    try:
        config = load(file, node=node).config
    except ConfigError:  # it has changed again
        return
    if (found := rendered.outdated(tables, passage(config))) is None:
        return
    for text in found.texts:
        again = "" if found.unused else "render the firewall rules again: "
        yield f"{text}; {again}{found.fix}"
