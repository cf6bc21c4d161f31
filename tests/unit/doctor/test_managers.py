"""Programs that manage interfaces: what is read of their files, and what is said of them with which cure."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from anycast import managers
from anycast.core.values.managers import (
    Managers,
    Networkd,
    NetworkdLink,
    NetworkManager,
    Stanza,
    StoredProfile,
)
from anycast.doctor.facts import Facts
from anycast.doctor.finding import Code, Severity
from tests.unit.doctor.node import GOOD, codes, found, serving
from tests.unit.doctor.test_gather import write

V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8:ffff::1")
BOTH, FOUR = serving(addresses=(V4, V6)), serving(addresses=(V4,))
FILE = "/etc/systemd/network/10-lo.network"
RUNS = {
    "proc/1/comm": "systemd\n",
    "sys/class/net/lo/ifindex": "1\n",
    "sys/class/net/up0/ifindex": "2\n",
}
NETWORKD = RUNS | {
    "proc/7/comm": "systemd-network\n",
    "run/systemd/netif/links/1": f"# private\nADMIN_STATE=configured\nNETWORK_FILE={FILE}\n",
    "run/systemd/netif/links/2": "ADMIN_STATE=unmanaged\n",
    "usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-257.so": "",
    FILE[1:]: "[Match]\nName=lo\n[Network]\nAddress=10.255.0.1/32\n",
}


def read(root: Path, **files: str | None) -> Managers:
    write(root, **files)
    return managers.read(root)


def node(**known: object) -> Facts:
    return replace(GOOD, managers=Managers(**known))  # type: ignore[arg-type]


def networkd(keep: str = "", version: int | None = 257, interface: str = "lo") -> Facts:
    link = NetworkdLink(interface=interface, file=FILE, keep=keep)
    return node(networkd=Networkd(version=version, links=(link,)))


class TestNetworkd:
    def test_the_file_that_matches_the_version_and_nothing_more(self, tmp_path: Path) -> None:
        known = read(tmp_path, **NETWORKD)
        assert known == Managers(
            networkd=Networkd(version=257, links=(NetworkdLink(interface="lo", file=FILE),))
        )

    def test_drop_ins_count_and_the_last_one_wins(self, tmp_path: Path) -> None:
        folder = "systemd/network/10-lo.network.d"
        known = read(
            tmp_path,
            **NETWORKD,
            **{
                f"usr/lib/{folder}/90-z.conf": "[Network]\nKeepConfiguration=static\n",
                f"etc/{folder}/90-z.conf": "[Network]\nKeepConfiguration = yes\n",
                f"run/{folder}/10-a.conf": "[Network]\nKeepConfiguration=no\n[Link]\nKeepConfiguration=dhcp\n",
            },
        )
        assert known.networkd is not None
        assert known.networkd.links[0].keep == "yes"

    def test_what_networkd_conf_says_of_others(self, tmp_path: Path) -> None:
        known = read(
            tmp_path,
            **NETWORKD,
            **{
                "etc/systemd/networkd.conf": "[Network]\nManageForeignRoutes=yes\n#ManageForeignNextHops=no\n",
                "etc/systemd/networkd.conf.d/a.conf": "[Network]\nManageForeignRoutes=no\n",
            },
        )
        assert known.networkd is not None
        assert known.networkd.foreign == {"ManageForeignRoutes": False}

    def test_one_that_does_not_run_is_none_whatever_it_has_left(self, tmp_path: Path) -> None:
        assert read(tmp_path, **(NETWORKD | {"proc/7/comm": "sshd\n"})).networkd is None

    def test_a_user_who_does_not_see_others_programs_goes_by_the_files(self, tmp_path: Path) -> None:
        hidden = {name: text for name, text in NETWORKD.items() if not name.startswith("proc/")}
        assert read(tmp_path, **hidden).networkd is not None

    @pytest.mark.parametrize(
        ("keep", "words"),
        [
            ("", "takes the VIPs away"),
            ("no", "takes the VIPs away"),
            ("static", "takes the IPv6 VIPs (KeepConfiguration=static keeps the others) away"),
            ("dynamic", "takes the IPv4 VIPs (KeepConfiguration=dynamic keeps the others) away"),
        ],
    )
    def test_vips_that_it_takes_are_told_with_the_lines(self, keep: str, words: str) -> None:
        one = found(networkd(keep), Code.NETWORKD_ADDRESSES, BOTH)
        assert one.severity is Severity.WARNING
        assert words in one.text
        assert "`KeepConfiguration=yes` in /etc/systemd/network/10-lo.network.d/anycast.conf" in one.fix

    def test_what_keeps_all_vips_there_are_is_right(self) -> None:
        assert codes(networkd("yes"), BOTH) == set()
        assert codes(networkd("static"), FOUR) == set()
        assert codes(networkd(interface="up0"), BOTH) == set()

    def test_a_version_that_spares_lo_is_told_of_its_upgrade(self) -> None:
        one = found(networkd(version=252), Code.NETWORKD_ADDRESSES, BOTH)
        assert one.severity is Severity.INFO
        assert "a newer one (257) takes the VIPs away" in one.text
        on_dummy = replace(BOTH, node=replace(BOTH.node, interface="vip0"))
        assert (
            found(networkd(version=252, interface="vip0"), Code.NETWORKD_ADDRESSES, on_dummy).severity
            is Severity.WARNING
        )


class TestRoutesBesideNetworkd:
    def beside(
        self,
        version: int | None,
        *,
        keep: str = "",
        daemon: str = "bird",
        foreign: dict[str, bool] | None = None,
    ) -> Facts:
        link = NetworkdLink(interface="up0", file="/etc/systemd/network/up0.network", keep=keep)
        known = Networkd(version=version, links=(link,), foreign=foreign or {})
        return replace(node(networkd=known), programs=frozenset({daemon}))

    def test_every_switch_that_the_version_has_is_named(self) -> None:
        one = found(self.beside(257), Code.NETWORKD_ROUTES)
        for name in ("ManageForeignRoutes", "ManageForeignRoutingPolicyRules", "ManageForeignNextHops"):
            assert f"{name}=no" in one.fix

    def test_what_is_set_is_not_named(self) -> None:
        off = {"ManageForeignRoutes": False, "ManageForeignRoutingPolicyRules": False}
        assert found(self.beside(257, foreign=off), Code.NETWORKD_ROUTES).fix.startswith(
            "`[Network]` `ManageForeignNextHops=no` in"
        )
        assert Code.NETWORKD_ROUTES not in codes(
            self.beside(257, foreign=off | {"ManageForeignNextHops": False})
        )

    def test_252_needs_the_uplinks_to_keep_their_addresses_too(self) -> None:
        off = {"ManageForeignRoutes": False, "ManageForeignRoutingPolicyRules": False}
        one = found(self.beside(252, foreign=off), Code.NETWORKD_ROUTES)
        assert "KeepConfiguration=static" in one.fix
        assert Code.NETWORKD_ROUTES not in codes(self.beside(252, foreign=off, keep="static"))
        assert Code.NETWORKD_ROUTES in codes(self.beside(252, foreign=off, keep="yes"))

    def test_without_a_routing_daemon_there_is_nothing_to_lose(self) -> None:
        assert Code.NETWORKD_ROUTES not in codes(self.beside(257, daemon="sshd"))


MANAGER = RUNS | {
    "proc/9/comm": "NetworkManager\n",
    "run/NetworkManager/devices/1": "[device]\nmanaged=true\n",
    "run/NetworkManager/devices/2": "[device]\nmanaged=false\n",
}
PROFILE = "etc/NetworkManager/system-connections/lo.nmconnection"


class TestNetworkManager:
    def test_what_it_manages_and_what_it_has_stored(self, tmp_path: Path) -> None:
        text = (
            "[connection]\nid=lo\ntype=loopback\ninterface-name=lo\n\n[ipv4]\naddress1=127.0.0.1/8\n"
            "address2=192.0.2.1/32,10.0.0.1\nmethod=manual\n\n[ipv6]\naddress1=2001:db8:ffff::1/128\naddress2=?\n"
        )
        known = read(tmp_path, **MANAGER, **{PROFILE: text}).network_manager
        loopback = ip_address("127.0.0.1")
        profile = StoredProfile(file=f"/{PROFILE}", interface="lo", addresses=(loopback, V4, V6))
        assert known == NetworkManager(managed=frozenset({"lo"}), stored=(profile,))

    @pytest.mark.parametrize(
        "text", ["", "no key file", "[connection]\ninterface-name=lo\n", "[ipv4]\n[ipv4\n"]
    )
    def test_a_profile_that_tells_of_no_address_is_none(self, tmp_path: Path, text: str) -> None:
        known = read(tmp_path, **MANAGER, **{PROFILE: text}).network_manager
        assert known is not None
        assert known.stored == ()

    def test_the_interface_of_the_vips_is_to_be_left_alone(self) -> None:
        one = found(node(network_manager=NetworkManager(managed=frozenset({"lo"}))), Code.NETWORK_MANAGER)
        assert one.severity is Severity.WARNING
        assert "unmanaged-devices=interface-name:lo" in one.fix
        assert codes(node(network_manager=NetworkManager(managed=frozenset({"up0"})))) == set()

    def test_a_profile_with_vips_is_to_go_after_that(self) -> None:
        profile = StoredProfile(file="/etc/x", interface="lo", addresses=(V4, ip_address("10.255.0.1")))
        one = found(node(network_manager=NetworkManager(stored=(profile,))), Code.NETWORK_MANAGER)
        assert one.text.startswith("/etc/x has 1 VIPs (192.0.2.1)")
        assert "after that `rm /etc/x`" in one.fix
        others = replace(profile, addresses=(ip_address("10.255.0.1"),))
        assert codes(node(network_manager=NetworkManager(stored=(others,)))) == set()


IFUPDOWN2 = {"usr/share/ifupdown2/__main__.py": ""}


class TestIfupdown2:
    def test_stanzas_of_all_files_with_their_places(self, tmp_path: Path) -> None:
        known = read(
            tmp_path,
            **IFUPDOWN2,
            **{
                "etc/network/interfaces": "# lo\nauto lo\niface lo inet loopback\n  address 10.255.0.1/32\n"
                "source /etc/network/interfaces.d/*.cfg\nsource-directory /etc/network/more\nsource /etc/network/interfaces\n",
                "etc/network/interfaces.d/a.cfg": "iface lo inet6 loopback\n\taddress-purge no\n",
                "etc/network/interfaces.d/a.cfg~": "iface lo inet manual\n",
                "etc/network/more/b": "auto up0\niface up0\n",
            },
        )
        assert known.ifupdown2 == (
            Stanza(place="/etc/network/interfaces:3", interface="lo"),
            Stanza(place="/etc/network/interfaces.d/a.cfg:1", interface="lo", purges=False),
            Stanza(place="/etc/network/more/b:2", interface="up0"),
        )

    def test_the_first_ifupdown_does_no_harm(self, tmp_path: Path) -> None:
        assert read(tmp_path, **{"etc/network/interfaces": "iface lo inet loopback\n"}).ifupdown2 is None

    def test_ipv6_vips_go_and_the_cure_is_told(self) -> None:
        purging = node(ifupdown2=(Stanza(place="/etc/network/interfaces:3", interface="lo"),))
        one = found(purging, Code.IFUPDOWN2, BOTH)
        assert "/etc/network/interfaces:3" in one.text
        assert one.fix == "`address-purge no` in each `iface lo`"
        assert codes(purging, FOUR) == set()
        kept = node(ifupdown2=(Stanza(place="x:3", interface="lo", purges=False),))
        assert codes(kept, BOTH) == set()


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write(tmp_path, **NETWORKD)
    (tmp_path / "etc/systemd/network/10-lo.network").unlink()
    (tmp_path / "etc/systemd/network/10-lo.network").mkdir()
    assert managers.read(tmp_path).unread == ("/etc/systemd/network/10-lo.network: Is a directory",)
