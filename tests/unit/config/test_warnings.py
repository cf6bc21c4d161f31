"""What is allowed and rarely meant is said, and stops nothing."""

from __future__ import annotations

import pytest

from anycast.config.load import loads

HEAD = """\
bgp:
  local_as: 65001
  router_id: 10.2.1.1
  neighbors:
    - {address: 10.2.1.254, remote_as: 65000}
    - {address: "fd00:2:1::fe", remote_as: 65000, local_address: "fd00:2:1::1"}
vips:
"""


def warned(vips: str, head: str = HEAD) -> list[str]:
    return [str(warning) for warning in loads(head + vips, "f", hostname="lb1").warnings]


def servers(weights: list[int]) -> str:
    """One line for each."""
    lines = [
        f"      - {{address: 10.9.{n // 250}.{n % 250 + 1}, weight: {weight}}}"
        for n, weight in enumerate(weights)
    ]
    return "    servers:\n" + "\n".join(lines) + "\n"


def web(weights: list[int], more: str = "") -> str:
    return f"  web:\n    address: 192.0.2.1\n    ports: [80, 443]\n{more}" + servers(weights)


@pytest.mark.parametrize("weights", [[1], [1] * 400, [100] * 20, [1, 1, 0], [0, 0]])
def test_equal_weights_are_right(weights: list[int]) -> None:
    assert warned(web(weights)) == []


def test_uneven_weights_under_mh_are_told_once_for_a_pool_with_the_flows_a_step_moves() -> None:
    (warning,) = warned(web([100] * 19 + [99]))
    assert warning == (
        "f:31:38: vips.web.servers[19].weight: weights 99 and 100: a step of one in one weight moves about 16 % of all "
        "flows to other real servers (use equal weights, or small ones with a large common divisor)"
    )


def test_under_another_scheduler_weights_are_free() -> None:
    assert warned(web([100] * 19 + [99], "    scheduler: wlc\n")) == []
    assert warned(web([1] * 401, "    scheduler: wlc\n")) == []
    assert warned(web([1] * 256, "    scheduler: sh\n")) == []


def test_the_place_is_the_first_server_whose_weight_is_not_the_usual_one() -> None:
    (warning,) = warned(web([2, 1, 1]))
    assert warning.startswith("f:12:37: vips.web.servers[0].weight: weights 1 and 2: ")


def test_a_weight_that_is_not_written_is_told_at_its_server() -> None:
    text = web([2, 2, 2]).replace("- {address: 10.9.0.2, weight: 2}", "- 10.9.0.2")
    (warning,) = warned(text)
    assert warning.startswith("f:13:9: vips.web.servers[1].weight: weights 1 and 2: ")


def test_servers_that_would_get_nothing_are_counted() -> None:
    (warning,) = warned(web([100] * 99 + [99]))
    assert ": weights 99 and 100: 18 real servers get no new clients at all and a step of one" in warning


def test_many_weights_are_told_by_the_smallest_and_the_largest() -> None:
    (warning,) = warned(web([1, 2, 3, 4, 5]))
    assert ": weights from 1 to 5: " in warning
    (warning,) = warned(web([1, 2, 3]))
    assert ": weights 1, 2 and 3: " in warning


def test_a_drain_by_weight_moves_nothing_and_is_not_worth_a_word() -> None:
    assert warned(web([100] * 19 + [0])) == []


def test_weights_whose_steps_move_nothing_are_not_worth_a_word() -> None:
    assert warned(web([1, 60000])) == []


def test_each_pool_is_told_and_after_many_without_a_figure() -> None:
    vips = "".join(
        f"  v{n}: {{address: 192.0.2.{n}, port: 80, servers: [10.{n}.0.1, {{address: 10.{n}.0.2, weight: 2}}]}}\n"
        for n in range(1, 19)
    )
    found = warned(vips)
    assert len(found) == 18
    assert ["%" in line for line in found] == [True] * 16 + [False] * 2
    assert "weights 1 and 2: a step of one in one weight moves flows between all real servers (" in found[-1]


def test_more_servers_than_the_table_divides_well_are_told() -> None:
    (warning,) = warned(web([1] * 401))
    assert warning == (
        "f:12:7: vips.web.servers: 401 real servers share the 4093 slots of the kernel's mh table: the flows of one are "
        "1.08 times its share (use 400 or fewer, or another scheduler)"
    )
    (warning,) = warned(web([1] * 4000))
    assert "the flows of one are 1.95 times its share" in warning


def test_very_many_uneven_weights_are_told_without_a_figure() -> None:
    many, uneven = warned(web([1] * 500 + [2]))
    assert "501 real servers share" in many
    assert "a step of one in one weight moves flows between all real servers" in uneven


SYSLOG = """\
  log:
    address: 192.0.2.2
    port: 514
    protocol: udp
    check: {type: tcp, port: 601}
    servers: [10.9.1.1]
"""


def test_udp_is_served_packet_by_packet_without_a_word() -> None:
    assert warned(SYSLOG) == []


def test_udp_with_connections_kept_is_told() -> None:
    (warning,) = warned(SYSLOG + "    one_packet: false\n")
    assert warning == (
        "f:14:17: vips.log.one_packet: a client that always sends from the same port stays with its real server until it "
        "pauses for 300s (timeouts.udp), or expire_failed ends that (remove this, or write a shorter timeouts.udp)"
    )
    (warning,) = warned(SYSLOG + "    forwarding: nat\n", "timeouts: {udp: 30s}\n" + HEAD)
    assert warning.startswith("f:15:17: vips.log.forwarding: a client that always sends from the same port")
    assert "pauses for 30s" in warning
    assert "(write forwarding: dr or tunnel, or a shorter timeouts.udp)" in warning


def test_udp_with_connections_kept_is_told_once_for_many_ports() -> None:
    ports = SYSLOG.replace("port: 514", "ports: [514, 515]")
    assert len(warned(ports + "    one_packet: false\n")) == 1


@pytest.mark.parametrize(
    "more",
    ["    persistence: 5m\n", "    one_packet: false\n    persistence: 5m\n", "    one_packet: true\n"],
)
def test_udp_whose_clients_are_meant_to_stay_is_not_told(more: str) -> None:
    assert warned(SYSLOG + more) == []


def test_tcp_and_marks_keep_connections_without_a_word() -> None:
    assert warned(SYSLOG.replace("udp", "tcp") + "    one_packet: false\n") == []
    marked = SYSLOG.replace("    port: 514\n    protocol: udp\n", "    mark: 7\n")
    assert warned(marked + "    one_packet: false\n") == []


SYNC = "connection_sync: {interface: eth1}\n"


def fields(found: list[str]) -> list[str]:
    return [line.split(": ")[1] for line in found]


def shop(more: str, address: str = "192.0.2.3") -> str:
    return f"  shop:\n    address: '{address}'\n    ports: [80, 443]\n    servers: [{{addresses: [10.9.3.1, 'fd00:9::1']}}]\n{more}"


def test_persistence_with_mh_port_is_told_once_with_what_it_costs() -> None:
    port = "    persistence: 5m\n    flags: [mh-port, mh-fallback]\n"
    (warning,) = warned(shop(port))
    assert warning.startswith(
        "f:13:12: vips.shop.flags: with mh-port another balancer chooses by the client's port"
    )
    assert "29 of 300 established connections" in warning
    assert warned(SYNC + HEAD.replace("vips:\n", "") + "vips:\n" + shop(port), "") == []
    assert warned(shop("    persistence: 5m\n")) == []
    assert warned(shop("    flags: [mh-port, mh-fallback]\n")) == []
    assert warned(shop("    persistence: 5m\n    scheduler: sh\n    flags: [sh-port, sh-fallback]\n")) == []


@pytest.mark.parametrize(
    ("address", "prefix", "told"),
    [
        ("192.0.2.3", "ipv4_prefix: 24", ["vips.shop.persistence.ipv4_prefix"]),
        ("192.0.2.3", "ipv4_prefix: 32", []),
        ("192.0.2.3", "ipv6_prefix: 64", []),
        ("2001:db8::3", "ipv4_prefix: 24", ["vips.shop.persistence"]),
        ("2001:db8::3", "ipv6_prefix: 64", ["vips.shop.persistence", "vips.shop.persistence.ipv6_prefix"]),
    ],
)
def test_persistence_of_a_network_is_told_where_other_balancers_choose_by_the_address(
    address: str, prefix: str, told: list[str]
) -> None:
    found = warned(shop(f"    persistence: {{{prefix}}}\n", address))
    assert fields(found) == told
    assert all(("its whole network" in line) == ("_prefix:" in line) for line in found)
    assert warned(shop(f"    scheduler: wlc\n    persistence: {{{prefix}}}\n", address)) == []
    synced = warned(shop(f"    persistence: {{{prefix}}}\n", address), SYNC + HEAD)
    assert not any("its whole network" in line for line in synced)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("", []),
        ("    flags: [mh-fallback]\n", ["vips.shop.flags"]),
        ("    persistence: 5m\n", ["vips.shop.persistence"]),
        ("    scheduler: sh\n", ["vips.shop.flags"]),
        ("    scheduler: sh\n    flags: [sh-port, sh-fallback]\n", []),
        ("    scheduler: wlc\n", []),
    ],
)
def test_ipv6_clients_whose_addresses_are_folded_are_told_of(more: str, told: list[str]) -> None:
    found = warned(shop(more, "2001:db8::3"))
    assert fields(found) == told
    assert all("the XOR of the four words of their address" in line for line in found)
    assert warned(shop(more, "192.0.2.3")) == []


def test_thresholds_are_told_where_each_balancer_counts_by_itself() -> None:
    limited = web([1, 1]).replace("10.9.0.2,", "10.9.0.2, upper_threshold: 10,")
    (warning,) = warned(limited)
    assert warning.startswith(
        "f:13:46: vips.web.servers[1].upper_threshold: each balancer counts by itself, and closed"
    )
    assert warned(limited.replace("    ports", "    scheduler: wlc\n    ports")) == []
    (other,) = warned(limited.replace("    ports", "    scheduler: sh\n    ports"))
    assert "upper_threshold: each balancer counts by itself" in other
    assert warned(limited, SYNC + HEAD) == []


def test_a_limit_of_none_or_of_one_is_told_once_for_a_pool_with_and_without_sync() -> None:
    for head in (HEAD, SYNC + HEAD):
        several = web([1, 1, 1]).replace(", weight", ", upper_threshold: 0, weight")
        (warning,) = warned(several, head)
        assert (
            ".servers[0].upper_threshold: 0 is no limit, and not a limit of none (write weight: 0" in warning
        )
        one = web([1, 1, 1], "    scheduler: wlc\n").replace(", weight", ", upper_threshold: 1, weight")
        (warning,) = warned(one, head)
        assert ".servers[0].upper_threshold: a limit of one connection: a closed one counts" in warning
    assert warned(web([1]).replace(", weight", ", upper_threshold: 2, weight"), SYNC + HEAD) == []
    assert warned(web([1, 1])) == []


@pytest.mark.parametrize(
    ("weights", "without"),
    [([1] * 4, 0), ([64] * 4, 0), ([100] * 4, 1), ([255, 1, 1], 1), ([1, 256, 1, 0], 2)],
)
def test_under_sh_real_servers_that_have_no_slot_are_told(weights: list[int], without: int) -> None:
    found = warned(web(weights, "    scheduler: sh\n"))
    assert len(found) == bool(without)
    assert all(
        f"{sum(map(max, weights, [1] * len(weights)))} in all: {without} real servers" in line
        for line in found
    )


def pooled(*services: str, servers: str = "[10.9.3.1, 10.9.3.2]", more: str = "") -> str:
    written = "".join(f"      - {{{one}}}\n" for one in services)
    return f"  shop:\n    address: 192.0.2.3\n    servers: {servers}\n{more}    services:\n{written}"


HASHED = "flags: [mh-fallback]"


@pytest.mark.parametrize(
    ("vips", "places"),
    [
        (pooled(f"port: 80, {HASHED}", f"port: 443, {HASHED}"), ["vips.shop.services[1].flags"]),
        (pooled(f"port: [80, 443], {HASHED}"), ["vips.shop.services[0].flags"]),
        (
            pooled("port: 80, persistence: 5m", f"port: 443, {HASHED}"),
            ["vips.shop.services[1].flags"],
        ),
        (
            pooled("port: [80, 443, 8080]", more="    persistence: 5m\n"),
            ["vips.shop.services[0].persistence"],
        ),
        # One port, whatever the protocol, is one table.
        (pooled(f"port: 443, {HASHED}, protocol: [tcp, udp], check: icmp"), []),
        # So are real servers with ports of their own, one mark, and one real server.
        (
            pooled(
                f"port: [80, 443], {HASHED}, forwarding: nat",
                servers="['10.9.3.1:8080', '10.9.3.2:8080']",
            ),
            [],
        ),
        (pooled(f"mark: 7, {HASHED}, check: icmp"), []),
        (pooled(f"port: [80, 443], {HASHED}", servers="[10.9.3.1]"), []),
        # It was not meant, or the scheduler does it.
        (pooled("port: [80, 443]"), []),
        (pooled("port: 80", f"port: 443, {HASHED}"), []),
        (pooled("port: [80, 443], scheduler: sh"), []),
        (pooled("port: [80, 443], scheduler: wlc, persistence: 5m"), []),
    ],
)
def test_a_client_of_two_ports_that_comes_to_two_servers_is_told_once(vips: str, places: list[str]) -> None:
    found = warned(vips)
    assert fields(found) == places
    assert all(
        "also without mh-port: a client that uses 80 and 443 has two real servers" in line
        and "write one service with a mark" in line
        for line in found
    )


@pytest.mark.parametrize(("second", "told"), [("[10.9.3.2, 10.9.3.1]", 1), ("[10.9.3.1, 10.9.3.3]", 0)])
def test_the_same_real_servers_in_two_pools_are_the_same(second: str, told: int) -> None:
    pools = f"pools: {{a: {{servers: [10.9.3.1, 10.9.3.2]}}, b: {{servers: {second}}}}}\n"
    services = f"[{{port: 80, pool: a, {HASHED}}}, {{port: 443, pool: b, {HASHED}}}]"
    found = warned(f"  shop: {{address: 192.0.2.3, services: {services}}}\n", pools + HEAD)
    assert fields(found) == ["vips.shop.services[1].flags"] * told


def test_two_vips_with_one_pool_are_not_one_service() -> None:
    pool = "pools: {web: {servers: [10.9.3.1, 10.9.3.2]}}\n"
    vips = "".join(
        f"  v{port}: {{address: 192.0.2.{n}, port: {port}, pool: web, flags: [mh-fallback]}}\n"
        for n, port in ((1, 80), (2, 443))
    )
    assert warned(vips, pool + HEAD) == []


@pytest.mark.parametrize(
    ("four", "six", "told"),
    [
        ("", "", ""),
        ("", ", scheduler: sh, flags: [sh-port, sh-fallback]", ""),
        (", scheduler: rr", f", {HASHED}", ""),
        ("", f", {HASHED}", "mark 7 is without mh-port here and with mh-port at vips.four: in one address"),
        (f", {HASHED}", "", "mark 7 is with mh-port here and without it at vips.four: in one address"),
        (
            "",
            ", scheduler: sh",
            "mark 7 is without sh-port here and with mh-port at vips.four: in one address",
        ),
    ],
)
def test_a_mark_that_goes_by_ports_in_one_family_alone_is_told(four: str, six: str, told: str) -> None:
    vips = (
        f"  four: {{address: 192.0.2.4, mark: 7, check: icmp, servers: [10.9.3.1, 10.9.3.2]{four}}}\n"
        f"  six: {{address: '2001:db8::4', mark: 7, check: icmp, servers: ['fd00:9::1', 'fd00:9::2']{six}}}\n"
    )
    found = [line for line in warned(vips) if "mark 7" in line]
    assert len(found) == bool(told)
    assert all(f"vips.six.flags: {told}" in line for line in found)


def test_remote_checksum_offload_is_told() -> None:
    tunnel = "    forwarding: tunnel\n    tunnel: {type: gue, port: 6080, checksum: remcsum}\n"
    (warning,) = warned(shop(tunnel))
    assert warning.startswith("f:13:47: vips.shop.tunnel.checksum: with remote checksum offload")
    assert warned(shop(tunnel.replace("remcsum", "csum"))) == []


def mixed(number: int) -> str:
    written = ", ".join(f'{{address: "fd00:9::{n}"}}' for n in range(1, number + 1))
    return f"  v: {{address: 192.0.2.9, port: 80, forwarding: tunnel, servers: [{written}]}}\n"


def test_ipv6_servers_that_the_kernel_cannot_tell_apart_for_ipv4_are_told() -> None:
    (warning,) = warned(mixed(10))
    assert warning.startswith(
        "f:8:66: vips.v.servers: IPv4 packets are given to real servers by the first 32 bits of"
    )
    assert "and 10 have the same: without one of them about 89 % of the flows of the others move (" in warning
    assert warned(mixed(2)) == []
    assert warned(mixed(10).replace("192.0.2.9", '"2001:db8::9"')) == []
    assert warned(mixed(10).replace("port: 80", "port: 80, scheduler: wlc")) == []


def test_warnings_stand_in_the_order_of_the_file() -> None:
    found = warned(SYSLOG + "    one_packet: false\n" + web([1, 2]) + mixed(3))
    assert [line.split(": ")[1] for line in found] == [
        "vips.log.one_packet",
        "vips.web.servers[1].weight",
        "vips.v.servers",
    ]


def hops(text: str) -> list[str]:
    return warned(web([1]), HEAD.replace("vips:\n", f"  next_hop: {{{text}}}\nvips:\n"))


def test_a_next_hop_that_is_not_the_address_of_a_session_is_warned_of_with_the_session() -> None:
    (warning,) = hops("ipv4: 10.2.9.1")
    assert warning == (
        "f:7:20: bgp.next_hop.ipv4: 10.2.9.1 is not this node's address in the session (10.2.1.1 with 10.2.1.254): a "
        "router refuses a next hop outside the network it shares with the node (remove it, or make sure that it is in "
        "that network (`anycast doctor` checks that))"
    )


def test_a_next_hop_that_is_the_nodes_own_or_of_a_family_no_session_is_over_is_right() -> None:
    assert hops('ipv4: 10.2.1.1, ipv6: "fd00:2:1::1"') == []
    four = HEAD.replace(
        '    - {address: "fd00:2:1::fe", remote_as: 65000, local_address: "fd00:2:1::1"}\n', ""
    )
    assert warned(web([1]), four.replace("vips:\n", '  next_hop: {ipv6: "fd00::7"}\nvips:\n')) == []


def test_ttl_security_beside_a_neighbor_without_it_is_told_where_both_come_to_one_socket() -> None:
    """ExaBGP has one for a local address."""
    vips = "  web: {address: 192.0.2.1, port: 80, servers: 10.9.2.1}\n"
    mixed = HEAD.replace(
        "10.2.1.254, remote_as: 65000}",
        "10.2.1.254, remote_as: 65000, ttl_security: true}\n    - {address: 10.2.1.253, remote_as: 65000}",
    )
    (warning,) = warned(vips, mixed)
    assert warning == (
        "f:5:61: bgp.neighbors[0].ttl_security: a session that the router opens is taken from any distance, for 10.2.1.253 "
        "has none and comes to 10.2.1.1 too (write it for all neighbors of this local address, or have another "
        "local_address here)"
    )
    assert (
        warned(vips, HEAD.replace("254, remote_as: 65000}", "254, remote_as: 65000, ttl_security: 2}")) == []
    )


def test_what_openbgpd_cannot_do_with_a_session_is_told() -> None:
    vips = "  web: {address: 192.0.2.1, port: 80, servers: 10.9.2.1}\n"
    six = 'local_address: "fd00:2:1::1"}'
    extended = (
        'local_address: "fd00:2:1::1", families: [ipv4, ipv6], extended_next_hop: true, software: openbgpd%s}'
    )
    (warning,) = warned(vips, HEAD.replace(six, extended % ""))
    assert ".extended_next_hop: OpenBGPD before 8.8 ends the session for an IPv4 route" in warning
    assert warned(vips, HEAD.replace(six, extended % " 8.8")) == []


def test_what_a_router_does_with_a_session_of_ours_is_told() -> None:
    vips = "  web: {address: 192.0.2.1, port: 80, servers: 10.9.2.1}\n"

    def said(more: str, first: str = "address: 10.2.1.254, remote_as: 65000") -> list[str]:
        return warned(vips, HEAD.replace("address: 10.2.1.254, remote_as: 65000", f"{first}, {more}"))

    (warning,) = said("ttl_security: true, passive: true")
    assert ".passive: a router with ttl_security drops the answer to its connection" in warning
    (warning,) = said("ttl_security: true, password: x, software: openbgpd 9.3")
    assert ".ttl_security: with a password and ttl_security there is no session" in warning
    assert said("ttl_security: true, password: x, software: bird") == []
    link = 'address: "fe80::1", local_address: "fe80::2", interface: eth0, remote_as: 65000, families: [ipv4, ipv6]'
    (warning,) = said("extended_next_hop: true, software: frr 10.3", link)
    assert (
        ".address: FRR 10.3 (8.4 and 10.7 do not) leaves routes with a link-local next hop unused" in warning
    )
    for version in ("8.4", "10.7"):
        assert said(f"extended_next_hop: true, software: frr {version}", link) == []


@pytest.mark.parametrize("software", ["bird 3.4", "gobgp 4.8", "openbgpd 9.3"])
def test_a_weight_is_told_to_do_nothing_where_a_router_does_not_weigh(software: str) -> None:
    vips = "  web: {address: 192.0.2.1, port: 80, servers: 10.9.2.1}\n"
    head = HEAD.replace("  neighbors:", f"  weight: 3\n  software: {software}\n  neighbors:")
    (warning,) = warned(vips, head)
    assert warning.startswith("f:4:11: bgp.weight: ")
    assert warned(vips, head.replace(software, "frr 10.3")) == []
