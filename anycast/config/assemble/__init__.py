"""What must fit together, and the core's `Config` out of it.

Runs on whatever validated. A complaint is made only where everything it rests on was whole: a consequence of
another mistake is not a mistake.

`whole` puts the parts together: the node (`node`), checks (`checks`, `kinds`), pools (`pools`), VIPs and their
services (`services`). Each gets the one `Context` of the building.
"""

from anycast.config.assemble.whole import Built, build

__all__ = ["Built", "build"]
