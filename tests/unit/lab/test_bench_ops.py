"""What bench-ops makes of its measurements."""

from __future__ import annotations

from lab.bench_ops import body
from lab.figures import Times, times_table


def test_a_goal_is_reached_by_the_share_it_speaks_of() -> None:
    values = [0.001] * 99 + [0.5]
    assert Times(work="a", goals={0.5: 0.01}, values=values).reached is True
    assert Times(work="a", goals={0.995: 0.01}, values=values).reached is False
    assert Times(work="a", values=values).reached is None
    assert "p99 <= 10.0 ms" in times_table("what", [Times(work="a", goals={0.99: 0.01}, values=values)], 0.99)


def test_the_document_names_every_work_with_its_figures_its_goal_and_every_single_time() -> None:
    found = body(
        [Times(work="a", goals={0.99: 0.01}, values=[0.002, 0.001, 0.003]), Times(work="b", values=[1.0])]
    )
    assert found == {
        "a": {"median": 0.002, "p99": 0.003, "max": 0.003, "goal": 0.01, "reached": "yes", "values": [0.002, 0.001, 0.003]},
        "b": {"median": 1.0, "p99": 1.0, "max": 1.0, "goal": None, "reached": "-", "values": [1.0]},
    }  # fmt: skip
