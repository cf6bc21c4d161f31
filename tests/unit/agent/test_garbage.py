from __future__ import annotations

from anycast.agent.garbage import MOMENT, Aside


class Collections:
    """Full and young collections of so many seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.frozen = 0
        self.aside = Aside(clock=lambda: self.now, freeze=self._freeze)

    def _freeze(self) -> None:
        self.frozen += 1

    def run(self, generation: int, seconds: float) -> None:
        self.aside("start", {"generation": generation})
        self.now += seconds
        self.aside("stop", {"generation": generation})


def test_what_a_full_collection_takes_too_long_over_is_set_aside_and_nothing_else_is() -> None:
    found = Collections()
    found.run(2, MOMENT / 2)
    found.run(1, 2 * MOMENT)
    assert found.frozen == 0
    found.run(2, 2 * MOMENT)
    assert found.frozen == 1
