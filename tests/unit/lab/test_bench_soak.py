"""What bench-soak makes of its samples."""

from __future__ import annotations

from lab.bench_soak import Sample, rows

MIB = 1024 * 1024


def samples(*, growth: float = 0.0, leak: int = 0, asked: int = 250) -> list[Sample]:
    """An hour, a sample each 5 s. `growth`: of the agent in MiB/h, after the warm-up as before."""
    return [
        Sample(
            at=5.0 * n,
            rss=(int((50 + growth * n / 720) * MIB), 60 * MIB),
            descriptors=(200 + leak * n, 150),
            journal=MIB,
            asked=asked * n,
        )
        for n in range(721)
    ]


def reached(found: list[Sample]) -> list[bool | None]:
    return [one.reached for one in rows(found)]


def test_what_stays_as_it_is_reaches_every_goal() -> None:
    assert reached(samples()) == [True] * 6
    assert rows(samples(growth=0.5))[0].value == "+0.50 MiB/h, 50.1 and 50.5 MiB"


def test_what_grows_is_told() -> None:
    assert reached(samples(growth=2.0)) == [False, True, True, True, True, True]
    assert reached(samples(leak=1)) == [True, False, True, True, True, True]


def test_a_load_that_was_not_there_proves_nothing() -> None:
    assert reached(samples(asked=100))[-1] is False
