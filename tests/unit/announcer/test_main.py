from __future__ import annotations

import pytest

from anycast.announcer.main import EXIT_CONFIG, EXIT_OK, EXIT_USAGE, main, parse_options
from anycast.plugin.loop import IDLE

ENVIRON = {
    "ANYCAST_TABLE": "1179",
    "ANYCAST_LEASE": "/run/anycast/lease.sock",
    "ANYCAST_BIRD": "/run/bird/bird.ctl",
}


def test_the_unit_says_everything_in_the_environment() -> None:
    options = parse_options([], ENVIRON)
    assert (options.table, options.socket, options.bird, options.clear, options.error) == (
        1179,
        "/run/anycast/lease.sock",
        "/run/bird/bird.ctl",
        False,
        "",
    )
    assert parse_options(["--clear"], ENVIRON).clear
    assert parse_options(["--table=7", "--bird", ""], ENVIRON).table == 7


@pytest.mark.parametrize("number", ["", "0", "253", "254", "255", "4294967296", "-1", "x", "١١"])
def test_a_table_that_is_not_ours_to_have_is_refused(number: str) -> None:
    assert parse_options(["--table", number], {"ANYCAST_LEASE": "/x"}).error


@pytest.mark.parametrize(
    ("argv", "environ", "status"),
    [
        (["--nonsense"], ENVIRON, EXIT_USAGE),
        (["--table"], ENVIRON, EXIT_USAGE),
        ([], {}, EXIT_CONFIG),
        ([], {"ANYCAST_TABLE": "", "ANYCAST_LEASE": "/x"}, EXIT_CONFIG),
        (["--clear"], {}, EXIT_OK),
        (["--help"], {}, EXIT_OK),
    ],
)
def test_where_there_is_nothing_to_do_it_ends(
    argv: list[str], environ: dict[str, str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ENVIRON:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert main(argv) == status


def test_the_announcer_looks_often_enough_for_its_watchdog() -> None:
    assert IDLE < 2.5 / 5
