"""keepalived.conf, as keepalived reads it, becomes a configuration and a report of every line."""

from pathlib import Path

import pytest

from anycast.config.load import loads
from anycast.importers.importing import Source, finished
from anycast.importers.keepalived import read
from anycast.importers.keepalived.language import uncommented, words
from anycast.importers.model import Keys, Place, Setup
from anycast.importers.report import Fate, Report
from anycast.importers.services import NO_PLACE
from anycast.importers.source import SourceError
from tests.unit.importers import golden


@pytest.mark.parametrize("name", ["language", "groups", "checkers", "odd", "pair"])
def test_a_file_becomes_what_is_expected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden.FOLDER)
    golden.check(Source.KEEPALIVED, f"keepalived/{name}", [f"keepalived/{name}.conf"])


def test_files_of_two_nodes_become_one_with_roles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden.FOLDER)
    files = ["keepalived/nodes/lb1/keepalived.conf", "keepalived/nodes/lb2/keepalived.conf"]
    golden.check(Source.KEEPALIVED, "keepalived/nodes/both", files)


def setup_of(text: str, folder: Path) -> tuple[Setup, Report]:
    file = folder / "keepalived.conf"
    file.write_text(text)
    report = Report()
    return read.read([file], report), report


def said(report: Report, fate: Fate) -> list[tuple[int, str]]:
    return [(place.line, note.text) for note in report.notes() if note.fate is fate for place in note.places]


SERVER = "real_server 10.9.2.1 80 {\nTCP_CHECK {\n}\n}\n"
SERVICE = f"virtual_server 192.0.2.1 80 {{\nprotocol TCP\nlb_kind DR\nlb_algo rr\n{SERVER}}}\n"


MAGLEV = SERVICE.replace("lb_algo rr", "lb_algo mh")


@pytest.mark.parametrize(
    ("text", "moves"),
    [
        (MAGLEV, False),
        (MAGLEV.replace("TCP_CHECK", "weight 0\nTCP_CHECK"), True),
        (MAGLEV.replace("lb_algo", "alpha\ninhibit_on_failure\nlb_algo"), True),
        (MAGLEV.replace("lb_algo", "alpha\nlb_algo"), False),
        (MAGLEV.replace("TCP_CHECK", "inhibit_on_failure\nTCP_CHECK"), False),
        (MAGLEV.replace("TCP_CHECK {", "inhibit_on_failure\nTCP_CHECK {\nalpha"), True),
        (
            MAGLEV.replace("lb_algo", "alpha\ninhibit_on_failure\nlb_algo").replace(
                "TCP_CHECK", "inhibit_on_failure off\nTCP_CHECK"
            ),
            False,
        ),
        (SERVICE.replace("lb_algo", "alpha\ninhibit_on_failure\nlb_algo"), False),
    ],
)
def test_a_server_that_keepalived_puts_in_with_weight_0_has_no_place_in_a_maglev_table(
    text: str, *, moves: bool, tmp_path: Path
) -> None:
    line = next(n for n, one in enumerate(text.splitlines(), 1) if one.startswith("real_server"))
    _, report = setup_of(text, tmp_path)
    assert ((line, NO_PLACE) in said(report, Fate.DIFFERENT)) is moves


@pytest.mark.parametrize(
    ("line", "code", "comment"),
    [
        ("  weight 1  ! of the old one", "weight 1", "of the old one"),
        ("# all", "", "all"),
        ('path "/a#b" # c', 'path "/a#b"', "c"),
        (r"path /a\#b", "path /a#b", ""),
        ("path '/a", "path '/a", ""),
    ],
)
def test_comments_begin_where_keepalived_has_them(line: str, code: str, comment: str) -> None:
    assert uncommented(line) == (code, comment)


def test_words_are_parted_as_keepalived_parts_them() -> None:
    assert words('misc_path "/bin/a b"c d') == ("misc_path", "/bin/a b", "c", "d")


def test_a_service_without_a_protocol_is_of_udp_as_in_keepalived(tmp_path: Path) -> None:
    setup, report = setup_of(SERVICE.replace("protocol TCP\n", ""), tmp_path)
    assert setup.vips[0].services[0].protocol == "udp"
    assert any("keepalived serves UDP" in text for _, text in said(report, Fate.TO_WRITE))


def test_flags_before_the_scheduler_have_no_effect(tmp_path: Path) -> None:
    setup, report = setup_of(SERVICE.replace("lb_algo rr", "mh-port\nlb_algo mh\nmh-fallback"), tmp_path)
    assert setup.vips[0].services[0].flags == ("mh-fallback",)
    assert said(report, Fate.NO_EFFECT)[0][0] == 4


def test_a_virtual_server_that_is_written_twice_keeps_the_first_scheduler_and_all_servers(
    tmp_path: Path,
) -> None:
    more = SERVICE.replace("lb_algo rr", "lb_algo wlc").replace("10.9.2.1", "10.9.2.2")
    setup, _ = setup_of(SERVICE + more, tmp_path)
    (service,) = setup.vips[0].services
    assert service.scheduler == "rr"
    assert [server.address for server in service.servers] == ["10.9.2.1", "10.9.2.2"]


@pytest.mark.parametrize(
    ("quorum", "weights", "written"),
    [
        (1, (1, 1), None),
        (2, (1, 1, 1), 2),
        (4, (2, 2, 2), 2),
        (3, (2, 2), 2),
        (100, (1, 1), 2),
        (2, (3, 1), None),
    ],
)
def test_a_quorum_of_weights_becomes_a_number_of_servers(
    quorum: int, weights: tuple[int, ...], written: int | None, tmp_path: Path
) -> None:
    servers = "".join(
        f"real_server 10.9.2.{n} 80 {{\nweight {weight}\n}}\n" for n, weight in enumerate(weights, 1)
    )
    setup, _ = setup_of(SERVICE.replace(SERVER, f"quorum {quorum}\n{servers}"), tmp_path)
    assert setup.vips[0].services[0].quorum == written


def test_the_password_of_vrrp_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(golden.FOLDER)
    text, report = golden.imported(Source.KEEPALIVED, "keepalived/pair.conf")
    assert "s3cret" not in text + report


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 0, "no virtual_server"),
        ("virtual_server 192.0.2.1 80 {\n{% for s in servers %}\n", 2, "template (Jinja"),
        ("real_server <%= @ip %> 80\n", 1, "template ("),
        ("a\n" + "x" * 9000, 2, "9,000 characters"),
        ("a\n<<<<<<< HEAD\n", 2, "conflict of a merge"),
        ("a\nb\0c\n", 2, "null byte"),
        ("include keepalived.conf\n", 1, "one another"),
        ("~SEQ(A, 1, 200000) ~SEQ(B, 1, 200000) x\n", 1, "200,000 lines"),
        ("global_defs {\n" + "a {\n" * 40, 18, "nested"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(text: str, line: int, words: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        setup_of(text, tmp_path)
    message = str(error.value)
    assert words in message
    assert message.startswith(f"{tmp_path / 'keepalived.conf'}:{line}: " if line else str(tmp_path))
    assert "\n" not in message


def test_a_folder_and_a_large_file_are_said(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"# nothing\n" * (1 << 20))
    folder_and_others = (
        (tmp_path, "directory"),
        (large, "no configuration of"),
        (tmp_path / "none", "No such file"),
    )
    for path, why in folder_and_others:
        with pytest.raises(SourceError, match=why):
            read.read([path], Report())


def test_latin_1_is_read_and_said(tmp_path: Path) -> None:
    file = tmp_path / "keepalived.conf"
    file.write_bytes(b"\n# Webserver f\xfcr M\xfcnchen\n" + SERVICE.encode())
    report = Report()
    setup = read.read([file], report)
    assert setup.vips[0].comment == "Webserver für München"
    assert any("Latin-1" in text for _, text in said(report, Fate.DIFFERENT))


def test_what_our_rules_forbid_is_left_out_and_said(tmp_path: Path) -> None:
    """A VIP that is the address of a real server."""
    other = SERVICE.replace("192.0.2.1 80", "10.9.2.1 81")
    setup, report = setup_of(SERVICE + other, tmp_path)
    done = finished(Source.KEEPALIVED, setup, report, Place("keepalived.conf"))
    assert done.counts[0] == 1
    assert [line for line, text in said(report, Fate.IMPOSSIBLE) if "left out" in text]


def test_programs_that_place_the_address_are_not_needed(tmp_path: Path) -> None:
    lines = 'quorum_up " ip addr add 192.0.2.1/32 dev lo; ip addr add 192.0.2.2/32 dev lo;"\nquorum_down "ip addr del 192.0.2.1/32 dev lo && x"\n'
    _, report = setup_of(SERVICE.replace("lb_algo", lines + "lb_algo"), tmp_path)
    assert any(text.startswith("quorum_up: not needed") for _, text in said(report, Fate.DIFFERENT))
    assert any(text.startswith("quorum_down: the program") for _, text in said(report, Fate.IMPOSSIBLE))


def test_a_retry_that_keepalived_does_not_know_counts_for_nothing(tmp_path: Path) -> None:
    setup, _ = setup_of(SERVICE.replace("TCP_CHECK {", "TCP_CHECK {\nnb_get_retry 9"), tmp_path)
    (service,) = setup.vips[0].services
    assert isinstance(service.check, Keys)
    assert service.check.get("fall") == 2


def test_what_a_copy_includes_is_found_beside_it(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "web.conf").write_text(SERVICE)
    setup, report = setup_of("include /etc/keepalived-of-lb1/conf.d/*.conf\n", tmp_path)
    assert [vip.name for vip in setup.vips] == ["web"]
    assert any("beside this one" in text for _, text in said(report, Fate.DIFFERENT))


def test_lines_of_a_check_that_is_not_carried_over_are_not_said_to_be(tmp_path: Path) -> None:
    server = "real_server 10.9.2.{0} 80 {{\nvirtualhost a\nTCP_CHECK {{\nconnect_ip 10.9.3.{0}\n}}\n}}\n"
    servers = server.format(1) + server.format(2)
    text = f"virtual_server 192.0.2.1 80 {{\nprotocol TCP\nlb_algo rr\ndelay_loop 10\n{servers}}}\n"
    setup, report = setup_of(text, tmp_path)
    assert setup.vips[0].services[0].check is None
    lost = [line for line, text in said(report, Fate.IMPOSSIBLE) if text.startswith("a line about checks")]
    assert sorted(lost) == [4, 6, 7, 8, 12, 13, 14]
    assert {*lost}.isdisjoint(line for line, _ in said(report, Fate.CARRIED))


def test_an_interval_of_no_check_and_a_protocol_of_a_mark_are_said_to_be_without_effect_alone(
    tmp_path: Path,
) -> None:
    text = (
        "virtual_server fwmark 1 {\nprotocol TCP\nlb_algo rr\ndelay_loop 6\nreal_server 10.9.2.1 80 {\n}\n}\n"
    )
    _, report = setup_of(text, tmp_path)
    assert {2, 4} <= {line for line, _ in said(report, Fate.NO_EFFECT)}
    assert {2, 4}.isdisjoint(line for line, _ in said(report, Fate.CARRIED))


@pytest.mark.parametrize("order", ["192.0.2.1 80\nfwmark 1\n", "fwmark 1\n192.0.2.1 80\n"])
def test_a_line_that_one_service_of_a_group_has_is_carried_over(order: str, tmp_path: Path) -> None:
    text = f"virtual_server_group g {{\n{order}}}\nvirtual_server group g {{\nprotocol TCP\nlb_algo rr\nreal_server 10.9.2.1 80 {{\n}}\n}}\n"
    _, report = setup_of(text, tmp_path)
    assert 6 in {line for line, _ in said(report, Fate.CARRIED)}


SORRY = """\
virtual_server 192.0.2.1 80 {
	protocol TCP
	lb_algo %(algo)s
	lb_kind %(kind)s
	%(more)s
	real_server 10.9.2.1 80 { }
	real_server 10.9.2.2 80 { }
}
"""


def sorry(tmp_path: Path, more: str, *, algo: str = "mh", kind: str = "DR") -> tuple[str, Report]:
    written = SORRY % {"algo": algo, "kind": kind, "more": more.replace("; ", "\n\t")}
    setup, report = setup_of(written, tmp_path)
    return finished(Source.KEEPALIVED, setup, report, Place("")).text, report


def of_line(report: Report, line: int) -> list[str]:
    """What is said of it, with its fate."""
    return [
        f"{note.fate.name.lower()}: {note.text}"
        for note in report.notes()
        if any(place.line == line for place in note.places)
    ]


def test_a_sorry_server_becomes_a_pool_of_its_own(tmp_path: Path) -> None:
    text, report = sorry(
        tmp_path, "sorry_server 10.9.2.9 80; sorry_server_inhibit; sorry_server_lvs_method DR"
    )
    assert "  sorry: [10.9.2.9]\n" in text
    assert "    sorry: sorry\n" in text
    (said,) = of_line(report, 5)
    assert said.startswith(
        "different: sorry_server: sorry: as before it gets new clients while the quorum is lost"
    )
    (inhibit,) = of_line(report, 6)
    assert inhibit.startswith("carried: sorry_server_inhibit: always so")
    (way,) = of_line(report, 7)
    assert way.startswith("carried: ")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("sorry_server 10.9.2.1 80", "impossible: sorry_server: it is a real server of the service too"),
        ("sorry_server fd00::9 80", "impossible: sorry_server: it is of another address family than the VIP"),
        ("sorry_server somewhere 80", "no_effect: sorry_server: this is no address and port"),
        ("sorry_server_inhibit", "no_effect: there is no sorry_server here"),
    ],
)
def test_a_sorry_server_that_cannot_be_is_named(more: str, words: str, tmp_path: Path) -> None:
    text, report = sorry(tmp_path, more)
    assert "sorry" not in text
    assert any(one.startswith(words) for one in of_line(report, 5)), of_line(report, 5)


def test_a_sorry_server_keeps_its_port_where_ports_are_changed(tmp_path: Path) -> None:
    text, _ = sorry(tmp_path, "sorry_server 10.9.2.9 8080", kind="NAT")
    assert "sorry: [10.9.2.9:8080]" in text
    text, report = sorry(tmp_path, "sorry_server 10.9.2.9 8080")
    assert "sorry: [10.9.2.9]" in text
    assert any("with dr no port is changed" in one for one in of_line(report, 5))


def test_a_sorry_server_of_another_way_is_reached_as_the_real_servers_are(tmp_path: Path) -> None:
    _, report = sorry(tmp_path, "sorry_server 10.9.2.9 80; sorry_server_lvs_method NAT")
    assert any(one.startswith("impossible: sorry_server_lvs_method") for one in of_line(report, 6))


def test_a_file_of_something_else_is_one_line(tmp_path: Path) -> None:
    report = Report()
    file = tmp_path / "anycast.yaml"
    file.write_text("bgp:\n  local_as: 65001\nvips:\n  web:\n    quorum: {low: 1}\n")
    with pytest.raises(SourceError, match="keepalived knows no word of it"):
        read.read([file], report)
    assert list(report.notes()) == []


PER_NODE = """\
@high net_namespace high
virtual_server 192.0.2.1 80 {
	protocol TCP
	lb_kind DR
	lb_algo rr
@high	real_server 10.9.2.1 80 { }
@low	real_server 10.9.2.2 80 { }
}
"""


def test_a_line_of_one_node_that_is_not_written_is_not_called_carried_over(tmp_path: Path) -> None:
    setup, report = setup_of(PER_NODE, tmp_path)
    (vip,) = setup.vips
    assert [server.address for server in vip.services[0].servers] == ["10.9.2.1"]
    assert of_line(report, 7) == [
        "impossible: the nodes differ here: that of high is written, for all nodes must choose alike"
    ]
    assert not any(one.startswith("impossible") for one in of_line(report, 2))


LEFT_OUT = """\
virtual_server_group front {
	10.0.0.1 8080
	10.9.2.1 80
}
virtual_server group front {
	protocol TCP
	lb_kind DR
	lb_algo rr
	real_server 10.9.2.1 80 { }
}
virtual_server fwmark 7 {
	lb_kind DR
	lb_algo rr
	real_server 10.9.2.3 80 { }
}
"""


def test_lines_of_what_is_left_out_are_not_called_carried_over(tmp_path: Path) -> None:
    setup, report = setup_of(LEFT_OUT, tmp_path)
    text = finished(Source.KEEPALIVED, setup, report, Place("")).text
    assert "10.0.0.1" in text
    (said,) = of_line(report, 3)
    assert said.startswith("impossible: the VIP is left out: 10.9.2.1 is the address of the real server")
    assert "carried: lb_kind: forwarding" in of_line(report, 7), "the other VIP of the group has it"
    assert of_line(report, 12) == ["impossible: left out with its virtual_server"]
    assert [one.partition(":")[0] for one in of_line(report, 11)] == ["impossible"]


OF_TWO = """\
@lb1 net_namespace one
@lb2 net_namespace two
virtual_server 192.0.2.1 80 { real_server 10.9.2.1 80 { } }
virtual_server 2001:db8::1 80 { real_server 2001:db8:9::1 80 { } }
"""


def test_each_node_gets_an_address_of_its_own_for_its_sessions_over_ipv6(tmp_path: Path) -> None:
    setup, report = setup_of(OF_TWO, tmp_path)
    done = finished(Source.KEEPALIVED, setup, report, Place("keepalived.conf"))
    own = {name: loads(done.text, node=name).config.bgp.neighbors[1].local_address for name in ("lb1", "lb2")}
    assert {name: str(one) for name, one in own.items()} == {
        "lb1": "2001:db8:ffff::1",
        "lb2": "2001:db8:ffff::2",
    }
    assert "# CHANGE: each node's router id and address in sessions over IPv6 (local_address).\n" in done.text
    assert any("each node's local_address" in note.text for note in report.notes())
