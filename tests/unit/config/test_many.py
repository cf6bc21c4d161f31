"""Files with very many mistakes: told in part, and looked at no further."""

from __future__ import annotations

import pytest

from anycast.config.load import loads
from anycast.config.problem import MOST, TOLD, ConfigError, Problem

HEAD = """
bgp: {local_as: 65001, router_id: 10.2.1.1, neighbors: [{address: 10.2.1.254, remote_as: 65000}]}
vips: {web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1]}}
pools:
"""
MANY = MOST + 500


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as told:
        loads(text, hostname="lb1")
    return told.value.problems


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (
            "  p{n}: {{servers: [*a]}}\n",
            "anycast.yaml:5:18: pools.p0.servers[0]: an alias (*name) is not read here",
        ),
        ("  p: {{servers: []}}\n", "written twice, first in line 5"),
        ("  p{n}: {{servers: [300.0.0.1]}}\n", "'300.0.0.1' is not an IP address"),
        ("  p{n}: {{servers: [10.0.0.1, 10.0.0.1]}}\n", "10.0.0.1 is at pools.p0.servers[0] already"),
        ("  p{n}: {{servers: [10.0.0.1], check: none{n}}}\n", "there is no check named 'none0'"),
    ],
    ids=["aliases", "keys", "values", "servers", "names"],
)
def test_the_first_of_many_mistakes_are_told(entry: str, said: str) -> None:
    found = problems(HEAD + "".join(entry.format(n=n) for n in range(MANY)))
    assert len(found) == TOLD + 1
    assert said in str(found[0])
    assert found[-1].what in {f"at least {n} more mistakes are not shown" for n in ("801", "1,299", "1,300")}


def test_all_of_fewer_mistakes_are_told() -> None:
    found = problems(HEAD + "".join(f"  p{n}: {{servers: [300.0.0.{n}]}}\n" for n in range(TOLD)))
    assert len(found) == TOLD
    assert "more mistakes" not in str(found[-1])


def test_what_was_left_out_is_looked_up_and_not_looked_through() -> None:
    """Each of these servers is asked about once for every hole otherwise: 4 million times."""
    wrong = "".join(
        f"  p{n}: {{servers: [{{address: 10.0.{n >> 8}.{n & 255}, wieght: 1}}]}}\n" for n in range(900)
    )
    right = "".join(f"  q{n}: {{servers: [10.1.{n >> 8}.{n & 255}]}}\n" for n in range(900))
    assert problems(HEAD + wrong + right)[-1].what == "700 more mistakes are not shown"
