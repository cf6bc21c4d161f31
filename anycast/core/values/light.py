"""Dataclasses of which there are tens of thousands: one or more for each real server.

To the type checker they are frozen like all others. At run time nothing keeps anybody from changing them, for that
alone would be two thirds of what it takes to make one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as light_dataclass
else:
    from collections.abc import Callable
    from dataclasses import dataclass

    def light_dataclass(*, frozen: bool, **settings: bool) -> Callable[[type], type]:
        def made(kind: type) -> type:
            own = "__hash__" in vars(kind)
            return dataclass(unsafe_hash=frozen and not own, **settings)(kind)

        return made


__all__ = ["light_dataclass"]
