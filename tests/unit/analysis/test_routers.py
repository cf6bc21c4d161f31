"""Settings that do nothing, or something else, on the software of a router."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anycast.config.load import loads
from anycast.core.values.software import Daemon, Software, software, version

VIPS = """\
vips: {web: {address: 192.0.2.1, port: 80, servers: [10.9.2.1]}}
"""


def warned(of_neighbor: str, more: str = "", vips: str = VIPS) -> list[str]:
    text = f"""\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
{more}  neighbors:
    - {{address: 10.2.1.254, remote_as: 65000{of_neighbor}}}
    - {{address: 10.2.2.254, remote_as: 65000{of_neighbor}}}
"""
    return [str(one) for one in loads(text + vips, "f", hostname="lb1").warnings]


@pytest.mark.parametrize("one", ["frr", "frr 8.4", "FRR 10.7.1", "bird 3.1", "bird", "gobgp 4.6", "gobgp 5"])
def test_what_works_there_is_not_warned_of(one: str) -> None:
    assert warned(f", software: {one}, bfd: true, password: {'x' * 80}") == []


@pytest.mark.parametrize(
    ("one", "why"),
    [
        ("openbgpd", "OpenBGPD has no BFD"),
        ("openbgpd 9.3", "OpenBGPD has no BFD"),
        ("gobgp 3.36.0", "GoBGP 3.36 has no BFD, which came with 4.6"),
        ("gobgp", "GoBGP has BFD from 4.6 on, and its version is not told"),
        ("gobgp 4.8, multihop: 3", "GoBGP has BFD on its own links alone, not with multihop"),
        ("gobgp 4.8, ttl_security: 2", "GoBGP has BFD on its own links alone, not with multihop"),
    ],
)
def test_bfd_that_a_router_does_not_speak_is_told_once(one: str, why: str) -> None:
    (found,) = warned(f", software: {one}, bfd: true")
    assert found.split(": ", 2)[1] == "bgp.neighbors[0].bfd"
    assert found.endswith(
        f"{why}: it keeps the routes of a frozen node for the hold time of 9s (write bfd: false there, and "
        "bgp.hold_time: 3)"
    )


GOBGP_NEAR = "GoBGP has BFD on its own links alone, not with multihop"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("software: gobgp, multihop: 4", GOBGP_NEAR),  # another version would not help
        ("software: gobgp 3.36, multihop: 4", GOBGP_NEAR),
        ("software: gobgp 4.8, ttl_security: true", ""),
        ("software: bird 2.0, multihop: 4", ""),
        ("software: bird 2.0, ttl_security: 2", ""),
        ("software: bird 2.0, ttl_security: true", ""),
        ("software: frr 8.4, multihop: 4", ""),
        ("software: frr 8.4, ttl_security: 2", ""),
        ("software: frr 8.4, ttl_security: true", ""),
        ("software: openbgpd 9.3, multihop: 4", "OpenBGPD has no BFD"),
    ],
)
def test_bfd_over_several_hops_is_not_every_routers(settings: str, why: str) -> None:
    found = warned(f", bfd: true, {settings}")
    assert len(found) == bool(why)
    for line in found:
        assert line.split(": ", 2)[1] == "bgp.neighbors[0].bfd"
        assert line.endswith(
            f"{why}: it keeps the routes of a frozen node for the hold time of 9s (write bfd: false there, and "
            "bgp.hold_time: 3)"
        )


def test_bfd_beside_ttl_security_needs_to_know_the_router() -> None:
    """FRR speaks BFD of several hops there, others of one."""
    (found,) = warned(", bfd: true, ttl_security: true")[:1]
    assert ": bgp.neighbors[0].ttl_security: FRR speaks BFD of several hops in this session" in found
    assert "(write software: frr under the neighbor, or what else runs there)" in found
    for more in ("", ", bfd: true, ttl_security: 2", ", bfd: true, ttl_security: true, software: bird"):
        assert warned(more) == []


LINK = """
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  bfd: true
  neighbors:
    - {address: "fe80::1", local_address: "fe80::2", interface: eth0, remote_as: 65000, ttl_security: true, software: SOFTWARE}
vips: {web: {address: "2001:db8::1", port: 80, servers: ["fd00:9::1"]}}
"""


def test_an_frr_on_a_link_local_session_with_ttl_security_has_no_bfd() -> None:
    """Of several hops it has none with link-local addresses."""

    def told(text: str) -> list[str]:
        return [str(one) for one in loads(text, "f", hostname="lb1").warnings]

    (found,) = told(LINK.replace("SOFTWARE", "frr 8.4"))
    assert (
        ".bfd: FRR speaks BFD of several hops where ttl_security is, which link-local addresses do not have"
        in found
    )
    assert told(LINK.replace("SOFTWARE", "bird 2.0")) == []
    assert told(LINK.replace("SOFTWARE", "frr 8.4").replace(", ttl_security: true", "")) == []


def test_an_frr_with_ttl_security_has_no_bfd_with_a_bird_on_the_node() -> None:
    said = ", bfd: true, ttl_security: true, software: frr 8.4"
    (found,) = warned(said, vips=f"speaker: kernel-table\n{VIPS}")
    assert ".bfd: FRR speaks BFD of several hops where ttl_security is, and the node's BIRD of one" in found


@pytest.mark.parametrize(
    ("one", "hit"),
    [
        ("frr 10.4", False),
        ("frr 10.5", True),
        ("frr 10.5.2", True),
        ("frr 10.6.1", True),
        ("frr 10.7", False),
        ("frr", False),
        ("bird 10.5", False),
    ],
)
def test_an_frr_that_may_use_no_route_of_a_session_is_told_once(one: str, *, hit: bool) -> None:
    found = warned(f", software: {one}")
    assert len(found) == hit
    assert all(
        "bgp.neighbors[0].software: FRR (10.5.2 and later of 10.5, and 10.6; the third number is not looked at here) can hold a session and use none"
        in line
        and line.endswith("(upgrade to 10.7)")
        for line in found
    )


def test_what_all_routers_run_may_be_said_once() -> None:
    (found,) = warned("", "  software: openbgpd 7.7\n  bfd: true\n")
    assert "OpenBGPD has no BFD" in found
    assert warned(", software: bird", "  software: openbgpd 7.7\n  bfd: true\n") == []


def test_a_password_that_openbgpd_does_not_take_is_told() -> None:
    (found,) = warned(f", software: openbgpd, password: {'x' * 80}")
    assert found.endswith(
        "OpenBGPD takes passwords of 79 characters, this one has 80 (write a shorter one at both ends)"
    )
    assert "x" * 80 not in found
    assert warned(f", software: openbgpd, password: {'x' * 79}") == []


@pytest.mark.parametrize(
    ("one", "community", "words"),
    [
        (
            "gobgp 4.8",
            "65535:65281",
            "announces routes with NO_EXPORT or NO_ADVERTISE to everybody: a, b, c and 1 more",
        ),
        ("gobgp 3.36", "65535:65282", "announces routes with NO_EXPORT or NO_ADVERTISE to everybody"),
        ("frr 10.3", "65535:666", "FRR adds NO_EXPORT to routes with BLACKHOLE, so no other AS learns them"),
        ("frr 10.3", "65535:65281", ""),
        ("bird 3.4", "65535:65281", ""),
        ("openbgpd", "65535:666", ""),
    ],
)
def test_communities_that_mean_something_else_there_are_told_once(
    one: str, community: str, words: str
) -> None:
    vips = "vips:\n" + "".join(
        f"  {name}: {{address: 192.0.2.{n}, port: 80, servers: [10.9.2.1], communities: ['{community}']}}\n"
        for n, name in enumerate("abcd", 1)
    )
    found = warned(f", software: {one}", vips=vips)
    assert len(found) == bool(words)
    assert all(words in line and "vips.a.communities" in line for line in found)


@pytest.mark.parametrize(
    ("one", "community", "words"),
    [
        ("bird 2.0", "0x4004fde94cee6b28", "BIRD (2.0.12) gives all nodes the same weight"),
        ("bird 2.0", "0x0004fde94cee6b28", "BIRD (2.0.12) gives all nodes the same weight"),
        ("bird 2.0", "target:65001:4", ""),
        (
            "frr 10.3",
            "0x4004fde94cee6b28",
            "wants link bandwidth in its transitive form, else all nodes weigh the same: a",
        ),
        ("frr 10.3", "0x0004fde94cee6b28", ""),
        ("frr 8.4", "0x4004fde94cee6b28", ""),
        ("frr 10.7", "0x4004fde94cee6b28", ""),
        ("frr", "0x4004fde94cee6b28", ""),
        ("openbgpd 9.3", "0x4004fde94cee6b28", "OpenBGPD removes communities of 0x40"),
        ("openbgpd 9.3", "0x0004fde94cee6b28", ""),
        ("gobgp 4.8", "0x4004fde94cee6b28", ""),
    ],
)
def test_a_link_bandwidth_that_a_router_does_not_weigh_by_is_told(
    one: str, community: str, words: str
) -> None:
    more = f"extended_communities: ['{community}']"
    vips = f"vips: {{a: {{address: 192.0.2.1, port: 80, servers: [10.9.2.1], {more}}}}}\n"
    found = warned(f", software: {one}", vips=vips)
    assert len(found) == bool(words)
    assert all(words in line and "vips.a.extended_communities" in line for line in found)


@pytest.mark.parametrize("wrong", ["cisco", "'frr ten'", "9", "[frr]", "''", "'frr 10.4 yes'", "frr10.4"])
def test_software_that_is_not_known_is_a_problem(wrong: str) -> None:
    with pytest.raises(
        Exception, match=r"is not router software \(.*frr, bird, gobgp or openbgpd, and its version"
    ):
        warned(f", software: {wrong}")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10.4", (10, 4)),
        ("10.7.1", (10, 7)),
        ("10.10", (10, 10)),
        ("v4.8.0", (4, 8)),
        ("9", (9, 0)),
        ("10.3-3+deb13u1", (10, 3)),
        ("10.8-dev", (10, 8)),
        ("", None),
        ("new", None),
        ("10.", None),
        ("-1", None),
        ("10,4", None),
        ("1" * 5000, None),
    ],
)
def test_a_version_is_its_first_two_numbers(text: str, found: tuple[int, int] | None) -> None:
    assert version(text) == found


@given(st.sampled_from(Daemon), st.none() | st.tuples(st.integers(0, 9999), st.integers(0, 9999)))
def test_what_is_shown_of_a_software_says_it(daemon: Daemon, number: tuple[int, int] | None) -> None:
    one = Software(daemon=daemon, version=number)
    assert software(str(one)) == one


@given(st.text())
def test_no_text_is_more_than_unknown(text: str) -> None:
    software(text)
    version(text)


def test_two_reasons_why_one_kind_of_router_has_no_bfd_are_both_told() -> None:
    text = """\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors:
    - {address: 10.3.1.254, remote_as: 65000, software: gobgp, bfd: true, multihop: 2}
    - {address: 10.2.1.254, remote_as: 65000, software: gobgp, bfd: true}
"""
    told = [str(one) for one in loads(text + VIPS, "f", hostname="lb1").warnings]
    assert sum("on its own links alone" in one for one in told) == 1
    assert sum("its version is not told" in one for one in told) == 1
