"""BIRD's answers, as BIRD 2.0.12 and 3.4 give them, and what is asked when."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.announcer.bird import ASK, LEARNED, MAX_LINE, MAX_REASON, OWES, SOON, Bird, Lines

GREETING = b"0001 BIRD 2.0.12 ready.\n"
PROTOCOLS = b"""\
2002-Name       Proto      Table      State  Since         Info
1002-device1    Device     ---        up     04:49:19.626  
1006-
1002-anycast_kernel4 Kernel     anycast4   up     04:49:19.626  
1006-  Channel ipv4
     State:          UP
 
1002-b1         BGP        ---        up     04:49:19.626  Established   
1006-  BGP state:          Established
     Neighbor address: 10.0.0.2
     Neighbor AS:      65000
 
1002-b2         BGP        ---        start  04:49:19.626  Active        Socket: Connection refused
1006-  BGP state:          Active
     Neighbor address: fd00::2
     Last error:       Socket: Connection refused
 
1002-o4         OSPF       anycast4   up     04:49:19.626  Running
1006-  Channel ipv4
     State:          UP
 
0000 
"""  # noqa: W291, W293 - as BIRD writes it
OSPF = b"""\
1013-o4:
 Router ID   \tPri\t     State     \tDTime\tInterface  Router IP
 10.0.0.9\t  1\tFull/DR   \t35.123\teth1       10.0.3.9
 10.0.0.8\t  1\tExStart/BDR\t35.123\teth1       10.0.3.8
0000 
"""  # noqa: W291 - as BIRD writes it
ROUTES4 = b"""\
1007-Table anycast4:
 192.0.2.1/32         blackhole [anycast_kernel4 04:49:19.627] * (10)
                      blackhole [other 04:49:19.627] (10)
0000 
"""  # noqa: W291 - as BIRD writes it
ROUTES6 = b"""\
1007-Table anycast6:
 2001:db8::1/128      blackhole [anycast_kernel6 04:49:19.627] * (10)
0000 
"""  # noqa: W291 - as BIRD writes it
NO_TABLE = b"9001 syntax error, unexpected CF_SYM_UNDEFINED, expecting CF_SYM_KNOWN or ALL\n"
ANSWERS = {
    "restrict": b"0016 Access restricted\n",
    "eval anycast_rendered": b"0023 abc123\n",
    "show protocols all": PROTOCOLS,
    "show ospf neighbors o4": OSPF,
    "show route table anycast4": ROUTES4,
    "show route table anycast6": ROUTES6,
}


def asked(bird: Bird, now: float, answers: dict[str, bytes] = ANSWERS) -> list[str]:
    """Everything that is asked now, and answered."""
    questions = []
    while (question := bird.next(now)) is not None:
        questions.append(question)
        bird.feed(answers[question], now)
    return questions


def connected(now: float = 10.0, answers: dict[str, bytes] = ANSWERS) -> Bird:
    bird = Bird("/run/bird/bird.ctl", now)
    bird.connected(now)
    bird.feed(GREETING, now)
    assert asked(bird, now, answers)[0] == "restrict"
    return bird


def test_sessions_and_routes_are_what_bird_says() -> None:
    view = connected().view
    assert (view.daemon, view.rendered, view.error, view.down) == ("BIRD 2.0.12", "abc123", "", "")
    assert [(one.address, one.state, one.reason) for one in view.sessions] == [
        ("10.0.0.2", "up", ""),
        ("fd00::2", "down", "Socket: Connection refused"),
        ("10.0.3.9%eth1", "up", ""),
        ("10.0.3.8%eth1", "down", "OSPF ExStart/BDR"),
    ]
    assert view.learned == frozenset(map(ip_network, ("192.0.2.1/32", "2001:db8::1/128")))
    assert view.asked_at == 10.0


def test_what_a_router_says_of_itself_is_one_short_line_that_a_terminal_does_not_obey() -> None:
    said = PROTOCOLS.replace(
        b"Last error:       Socket: Connection refused", b"Last error: \x1b[31mgone\t" + b"x" * 900
    )
    (_, one, *_) = connected(answers=ANSWERS | {"show protocols all": said}).view.sessions
    assert one.reason.startswith("[31mgone x")
    assert one.reason.isprintable()
    assert len(one.reason) <= MAX_REASON


def test_it_is_asked_now_and_then_and_soon_after_a_change_of_the_table() -> None:
    bird = connected()
    assert asked(bird, 10.0 + ASK / 2) == []
    assert "show protocols all" in asked(bird, 10.0 + ASK)
    bird.changed(11.0)
    assert asked(bird, 11.0 + SOON / 2) == []
    assert "show route table anycast4" in asked(bird, 11.0 + SOON)
    routes = [now for now in range(12, 30) if "show route table anycast6" in asked(bird, float(now))]
    assert routes[1] - routes[0] == LEARNED


def test_a_session_has_changed_when_it_was_first_seen_so() -> None:
    bird = connected()
    asked(bird, 11.0)
    assert bird.view.sessions[0].changed == 10.0
    asked(bird, 12.0, ANSWERS | {"show protocols all": PROTOCOLS.replace(b"Established", b"Idle")})
    assert (bird.view.sessions[0].state, bird.view.sessions[0].changed) == ("down", 12.0)


def test_without_our_tables_it_is_not_known_what_is_learned() -> None:
    answers = ANSWERS | {f"show route table anycast{n}": NO_TABLE for n in (4, 6)}
    view = connected(answers=answers | {"eval anycast_rendered": NO_TABLE}).view
    assert view.learned is None
    assert view.rendered == ""


def test_a_bird_that_stands_still_is_silent_until_it_answers() -> None:
    bird = connected()
    assert bird.next(11.0) is not None
    bird.tick(11.0 + OWES - 0.01)
    assert bird.view.silent_since is None
    bird.tick(11.0 + OWES)
    assert bird.view.silent_since == 11.0
    assert bird.next(20.0) is None  # one question at a time
    bird.feed(b"0023 abc123\n", 21.0)
    bird.tick(21.0)
    assert bird.view.silent_since is None


def test_a_bird_that_does_not_run_has_no_session() -> None:
    bird = connected()
    bird.lost(12.0, "Connection refused", runs=False)
    assert bird.view.down == "BIRD does not run (/run/bird/bird.ctl: Connection refused)"
    assert {one.state for one in bird.view.sessions} == {"down"}
    assert bird.view.sessions[0].reason == "BIRD does not run"
    bird.connected(13.0)
    bird.feed(GREETING, 13.0)
    asked(bird, 13.0)
    assert bird.view.down == ""
    assert bird.view.sessions[0].state == "up"


def test_of_a_bird_that_may_not_be_asked_nothing_is_known() -> None:
    bird = connected()
    bird.lost(12.0, "Permission denied", runs=None)
    assert (bird.view.error, bird.view.sessions, bird.view.learned) == ("Permission denied", (), None)


@given(st.lists(st.integers(1, 400)))
def test_an_answer_is_the_same_in_whatever_pieces_it_comes(cuts: list[int]) -> None:
    whole = Lines().feed(PROTOCOLS + OSPF + ROUTES4)
    lines, found, data = Lines(), [], PROTOCOLS + OSPF + ROUTES4
    for cut in cuts:
        found += lines.feed(data[:cut])
        data = data[cut:]
    assert found + lines.feed(data) == whole


@given(st.binary(max_size=300))
def test_any_bytes_are_lines_or_a_value_error(data: bytes) -> None:
    bird = Bird("x", 0.0)
    bird.connected(0.0)
    try:
        bird.feed(data, 0.0)
    except ValueError:
        return
    bird.next(0.0)


def test_a_line_without_an_end_is_not_kept() -> None:
    with pytest.raises(ValueError, match="without an end"):
        Lines().feed(b" " * (MAX_LINE + 1))
