"""The full set that the agent leases, put together from whole leases and differences. Pure.

A whole lease is the truth. A difference is, where it stands on the lease held here and its digest is that of the set
it makes. One that proves nothing changes nothing: what was held stays as it was, and the full set is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

from anycast.core.values.lease import digest_after, digest_of_all
from anycast.core.values.route import Mark, Prefix, Route
from anycast.lease import Lease, LeaseChange


class Mirror:
    """`routes` and `owned` are those of the newest proven lease, `seq`, `issued`, `ttl` and `mark` its terms."""

    def __init__(self) -> None:
        self.seq = 0
        self.issued = 0.0
        self.ttl = 0.0
        self.mark: Mark | None = None
        self.asks = False  # the full set is needed
        self._routes: dict[Prefix, Route] = {}
        self._owned: set[Prefix] = set()
        self._digest: int | None = None  # None: nothing can stand on it
        self._touched: set[Prefix] | None = None  # None: everything

    @property
    def routes(self) -> Mapping[Prefix, Route]:
        return self._routes

    @property
    def owned(self) -> set[Prefix]:
        return self._owned

    def connected(self) -> None:
        """The leases of a new connection stand on none of the one before."""
        self._digest, self.asks = None, True

    def take(self, message: Lease | LeaseChange) -> bool:
        """Whether it is proven."""
        if isinstance(message, Lease):
            self._whole(message)
        elif not self._changed(message):
            self._digest, self.asks = None, True
            return False
        self.seq, self.issued, self.ttl = message.seq, message.issued, message.ttl
        self.mark = message.mark
        return True

    def _whole(self, lease: Lease) -> None:
        self._routes, self._owned = dict(lease.routes), set(lease.owned)
        self._touched, self.asks = None, False
        digest = digest_of_all(lease.routes.values(), lease.owned)
        # An agent of another release may count what is not known here: then each lease is asked for in full.
        self._digest = digest if digest == lease.digest else None

    def _changed(self, change: LeaseChange) -> bool:
        if self._digest is None or change.base != self.seq or change.digest != self._with(change):
            return False
        for route in change.changed:
            self._routes[route.prefix] = route
        for prefix in change.gone:
            del self._routes[prefix]
        self._owned.update(change.owned)
        self._owned.difference_update(change.disowned)
        self._digest = change.digest
        if self._touched is not None:
            self._touched.update(route.prefix for route in change.changed)
            self._touched.update(change.gone, change.owned, change.disowned)
        return True

    def _with(self, change: LeaseChange) -> int | None:
        """The digest of the set with the difference; None: it does not fit."""
        assert self._digest is not None  # noqa: S101 - the caller has looked
        touched = [*(route.prefix for route in change.changed), *change.gone]
        owned = [*change.owned, *change.disowned]
        if (
            len(set(touched)) != len(touched)
            or len(set(owned)) != len(owned)
            or not self._routes.keys() >= set(change.gone)
            or not self._owned >= set(change.disowned)
            or not self._owned.isdisjoint(change.owned)
        ):
            return None
        return digest_after(
            self._digest,
            self._routes,
            change.changed,
            change.gone,
            owned=change.owned,
            disowned=change.disowned,
        )

    def touched(self) -> set[Prefix] | None:
        """The prefixes of which something has changed since this was asked last; None: any."""
        touched, self._touched = self._touched, set()
        return touched
