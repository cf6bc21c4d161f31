"""The commands for prefixes, by what each neighbor is sent. Pure.

ExaBGP keeps a table for each neighbor, so commands for one prefix that go to different neighbors do not meet. It refuses
a command that goes to none that it knows; hence `known`, those it has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from anycast.core.values.route import Prefix, Route
from anycast.plugin import codec


def announce(routes: Sequence[Route], held: Sequence[Route], known: Collection[str]) -> tuple[str, ...]:
    """`routes`: of one family and shape. `held`: what the only one of them may be announced as, besides."""
    gone = (codec.withdraw(other, to) for other, to in dropped(routes[0], held, known))
    texts = (*_exactly(routes, known, _announce), *gone)
    return texts or withdraw_bare([route.prefix for route in routes])


def dropped(
    route: Route, held: Sequence[Route], known: Collection[str]
) -> Iterator[tuple[Route, tuple[str, ...]]]:
    """What is to be withdrawn from whom once `route` is announced in the place of what is held, the newest of it last."""
    others = {*left_out(route, known)}
    for other in reversed(held):
        if other == route:
            continue
        for one, to in _spread(other, known):
            if some := tuple(each for each in to if each in others):
                others.difference_update(some)  # one command for a prefix at a time
                yield one, some


def withdraw(routes: Sequence[Route], known: Collection[str]) -> tuple[str, ...]:
    """As it was announced. `routes`: of one family and shape."""
    return _exactly(routes, known, _withdraw) or withdraw_bare([route.prefix for route in routes])


def withdraw_again(
    routes: Sequence[Route], known: Collection[str], to: Sequence[str] = ()
) -> tuple[str, ...]:
    """What is down already, from every neighbor; `to`: from these alone."""
    there = to or known
    texts = (*_exactly(routes, there, _withdraw, to), *spare(routes, there))
    return texts or withdraw_bare([route.prefix for route in routes], to)


def spare(routes: Sequence[Route], known: Collection[str]) -> tuple[str, ...]:
    """What is up, from the neighbors that it does not go to; none where it goes to all."""
    rest = left_out(routes[0], known)
    return (_withdraw(routes, rest),) if rest else ()


def _exactly(
    routes: Sequence[Route], known: Collection[str], spelt: Callable[..., str], to: Sequence[str] = ()
) -> tuple[str, ...]:
    """To each neighbor what is its own; `spelt`: `_announce` or `_withdraw`. `to`: who gets what all get, if not all."""
    first = routes[0]
    if not first.variants:
        return (spelt(routes, to),)
    return tuple(
        spelt([route.variants[n].route for route in routes], to)
        for n, variant in enumerate(first.variants)
        if (to := _here(variant.neighbors, known))
    )


def withdraw_bare(prefixes: Sequence[Prefix], to: Sequence[str] = ()) -> tuple[str, ...]:
    one = len(prefixes) == 1
    return (codec.withdraw_bare(prefixes[0], to) if one else codec.withdraw_all_bare(prefixes, to),)


def left_out(route: Route, known: Collection[str]) -> tuple[str, ...]:
    """The neighbors that it does not go to."""
    if not route.variants:
        return ()
    mine = {one for variant in route.variants for one in variant.neighbors}
    return _here([one for one in known if one not in mine], known)


def _spread(route: Route, known: Collection[str]) -> Iterator[tuple[Route, tuple[str, ...]]]:
    if not route.variants:
        yield route, _here(known, known)
    for variant in route.variants:
        yield variant.route, _here(variant.neighbors, known)


def _here(neighbors: Collection[str], known: Collection[str]) -> tuple[str, ...]:
    return tuple(sorted(one for one in neighbors if one in known))


def _announce(routes: Sequence[Route], to: Sequence[str] = ()) -> str:
    return codec.announce(routes[0], to) if len(routes) == 1 else codec.announce_all(routes, to)


def _withdraw(routes: Sequence[Route], to: Sequence[str] = ()) -> str:
    return codec.withdraw(routes[0], to) if len(routes) == 1 else codec.withdraw_all(routes, to)
