"""From a keepalived pair (VRRP, direct routing) to three anycast nodes, step by step under load, and back."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from anycast.cli import client
from lab import configs, kernel_view, processes
from lab.control import Lab
from lab.errors import LabError
from lab.migrate.story import Story
from lab.topology import HTTP_PORT, ROUTER_AS, VIP4, VIP6, VIPS, Balancer, topology
from lab.trial import PATIENCE
from lab.waiting import until

ACTIVE, STANDBY, NEW = "lb1", "lb2", "lb3"
NODES = (ACTIVE, STANDBY, NEW)
SERVERS = 4
SYNC = 9

_CHECK = """\
        HTTP_GET {
            url {
                path /health
                status_code 200
            }
            connect_timeout 1
        }
"""
_FLAGS = "    mh-port\n    mh-fallback\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How it is gone. `before`: the scheduler of the pair, under which the connections were opened; `mh`: imported with
    `--mh`; `sync`: with `connection_sync`.
    """

    name: str
    before: str = "wlc"
    mh: bool = False
    sync: bool = False

    @property
    def words(self) -> str:
        how = "with --mh" if self.mh else "as it is"
        return f"opened under {self.before}, imported {how}, {'with' if self.sync else 'no'} connection_sync"


WAYS = {
    way.name: way
    for way in (
        Way(name="sync", sync=True, mh=True),
        Way(name="sync-wlc", sync=True),
        Way(name="mh-before", before="mh"),
        Way(name="mh-late", mh=True),
        Way(name="wlc"),
    )
}


def keepalived_conf(node: str, scheduler: str) -> str:
    """Of the pair: VRRP on the link to the real servers, where the router reaches the VIPs too."""
    state, priority = ("MASTER", 150) if node == ACTIVE else ("BACKUP", 100)
    lines = [f"global_defs {{\n    router_id {node}\n}}\n"]
    for number, vip in enumerate(VIPS, 51):
        lines.append(
            f"vrrp_instance web{6 if ':' in vip else 4} {{\n    state {state}\n    interface lan0\n    virtual_router_id {number}\n"
            f"    priority {priority}\n    advert_int 1\n    virtual_ipaddress {{\n        {vip}\n    }}\n}}\n"
        )
    servers = topology(servers=SERVERS).servers
    for place, vip in enumerate((VIP4, VIP6)):
        flags = _FLAGS if scheduler == "mh" else ""
        lines.append(
            f"virtual_server {vip} {HTTP_PORT} {{\n    delay_loop 2\n    lb_algo {scheduler}\n{flags}    lb_kind DR\n    protocol TCP\n"
        )
        for server in servers:
            address = server.interfaces["lan0"][place].partition("/")[0]
            lines.append(f"    real_server {address} {HTTP_PORT} {{\n        weight 1\n{_CHECK}    }}\n")
        lines.append("}\n")
    return "".join(lines)


class Keepalived:
    """The real one on a balancer. Its own files are where a node has them."""

    def __init__(self, lab: Lab, node: str) -> None:
        self.lab = lab
        self.node = node
        self._folder = lab.run / node

    def configure(self, text: str) -> None:
        beside = self._folder / "keepalived.conf"
        beside.write_text(text)
        self.lab.exec(self.node, "install", "-Dm644", str(beside), "/etc/keepalived/keepalived.conf")

    def start(self) -> None:
        argv = ["keepalived", "--dont-fork", "--log-console"]
        log, record = self._folder / "keepalived.log", self._folder / "keepalived.pid"
        env = configs.program_environment()
        processes.spawn(argv, netns=self.node, env=env, log=log, record=record)

    def ended(self) -> None:
        """Until it has. Raises LabError."""
        process = processes.recorded(self._folder / "keepalived.pid")
        if process is not None and not process.wait(PATIENCE):
            raise LabError(f"keepalived on {self.node} does not end")


def static_routes(*, there: bool) -> str:
    """The router's way to the pair: by ARP and ND on the link of the balancers, whoever has the VIP there."""
    no = "" if there else "no "
    return f"configure terminal; {no}ip route {VIPS[0]} lan0; {no}ipv6 route {VIPS[1]} lan0"


def build(lab: Lab, way: Way) -> None:
    """The site, with the pair at work: the router sends all to whoever is the master."""
    lab.build(daemons=False)
    (lab.run / "r1" / "staticd.conf").write_text("hostname r1\n")
    lab.start("r1", "staticd")
    until(lambda: _typed(lab, static_routes(there=True)), "the router's staticd", PATIENCE)
    lab.watch()
    for node in (ACTIVE, STANDBY):
        one = Keepalived(lab, node)
        one.configure(keepalived_conf(node, way.before))
        one.start()
        holds(node)
    until(lambda: is_master(lab, ACTIVE), f"{ACTIVE} to have the VIPs", PATIENCE)


def _typed(lab: Lab, command: str) -> bool:
    return "%" not in lab.vtysh(*command.split("; "))


def holds(node: str) -> None:
    """Until the node's table has every real server."""
    until(
        lambda: [len(found) for found in kernel_view.table_of(node).values()] == [SERVERS] * 2,
        f"{node} to have all real servers",
        PATIENCE,
    )


def is_master(lab: Lab, node: str) -> bool:
    shown = lab.exec(node, "ip", "-br", "address", "show", "lan0").stdout.split()
    return set(VIPS) <= set(shown)


def _part(balancer: Balancer) -> str:
    """Of `nodes` in the fleet's file."""
    return (
        f"  {balancer.name}:\n    bgp:\n      local_as: {balancer.asn}\n      router_id: {balancer.node4}\n      neighbors:\n"
        f"        - {{address: {balancer.router4}, remote_as: {ROUTER_AS}, local_address: {balancer.node4}}}\n"
        f'        - {{address: "{balancer.router6}", remote_as: {ROUTER_AS}, local_address: "{balancer.node6}"}}\n'
    )


def edited(text: str, balancers: Sequence[Balancer], *, sync: bool) -> str:
    """What was imported, with what only the operator knows in the place of its placeholders."""
    head, _, rest = text.partition("# CHANGE:")
    _, _, rest = rest.partition("\nchecks:")
    ours = "bgp: {hold_time: 3s}\n\nnodes:\n" + "".join(_part(one) for one in balancers)
    if sync:
        ours += f"\nconnection_sync: {{interface: lan0, id: {SYNC}}}\n"
    return f"{head}{ours}\nchecks:{rest}"


class Move:
    """The steps, in their order."""

    def __init__(self, story: Story, way: Way) -> None:
        self.story = story
        self.lab = story.lab
        self.way = way
        self._fleet = ""

    def there(self) -> None:
        self.the_pair()
        self.quiet_links()
        self.imported()
        self.third_node()
        self.standby()
        self.active()
        self.router()
        self.tidied()

    def back(self) -> None:
        self.active_back()
        self.router_back()
        self.others_back()

    def the_pair(self) -> None:
        story = self.story
        with story.step("0. The pair as it is"):
            story.type(ACTIVE, "ip -br address show lan0")
            story.type(ACTIVE, "ipvsadm -Sn")
            story.router(f"show ip route {VIPS[0]}")

    def quiet_links(self) -> None:
        """Before any VIP is on the loopback of two nodes of one link."""
        story = self.story
        with story.step("1. Every balancer: only who has the VIP on the link answers ARP for it"):
            for node in NODES:
                story.type(node, "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2")

    def imported(self) -> None:
        story = self.story
        with story.step("2. The configuration, made of both files; nothing runs yet"):
            for node in (ACTIVE, STANDBY):
                copy = self.lab.run / ACTIVE / node / "keepalived.conf"
                copy.parent.mkdir()
                copy.write_text(keepalived_conf(node, self.way.before))
            story.note(
                f"/etc/keepalived/keepalived.conf of both nodes lies in /etc/anycast/{ACTIVE} and {STANDBY}"
            )
            mh = " --mh" if self.way.mh else ""
            files = " ".join(f"{node}/keepalived.conf" for node in (ACTIVE, STANDBY))
            story.type(ACTIVE, f"cd /etc/anycast; anycast import{mh} keepalived {files} -o fleet.yaml")
            file = self.lab.run / ACTIVE / "fleet.yaml"
            self._fleet = edited(file.read_text(), self.lab.topology.balancers, sync=self.way.sync)
            for node in NODES:
                (self.lab.run / node / "fleet.yaml").write_text(self._fleet)
                own = f"node: {{name: {node}, exabgp_user: root}}\ninclude: fleet.yaml\n"
                self.lab.config(node).write_text(own)
            story.note(
                "in the place of the placeholders: AS numbers, routers, the third node; the file goes to every node"
            )
            story.type(ACTIVE, "cd /etc/anycast; cat anycast.yaml fleet.yaml", most=100)
            story.type(ACTIVE, "anycast check", fails=True)

    def third_node(self) -> None:
        story = self.story
        with story.step(f"3. {NEW} joins; the router prefers its static routes, so no client comes here"):
            self._starts(NEW)
            story.type(NEW, "anycast status")
            story.router(f"show ip route {VIPS[0]}")

    def standby(self) -> None:
        story = self.story
        with story.step(f"4. {STANDBY}, the backup: keepalived ends, anycast starts"):
            story.type(STANDBY, "kill $(cat /run/keepalived.pid)")
            Keepalived(self.lab, STANDBY).ended()
            story.type(STANDBY, "ipvsadm -Sn")
            self._starts(STANDBY)
            story.type(STANDBY, "ipvsadm -Sn")

    def active(self) -> None:
        """Its table is in use. A SIGTERM would empty it, and so would a SIGKILL of the parent alone."""
        story = self.story
        with story.step(f"5. {ACTIVE}, the master: its table is taken over as it runs"):
            story.type(ACTIVE, "ipvsadm -Sn > /run/before")
            story.type(ACTIVE, "cd /run; kill -STOP $(cat keepalived.pid checkers.pid vrrp.pid)")
            story.type(ACTIVE, "cd /run; kill -KILL $(cat keepalived.pid checkers.pid vrrp.pid)")
            story.type(ACTIVE, "cd /run; rm keepalived.pid checkers.pid vrrp.pid")
            Keepalived(self.lab, ACTIVE).ended()
            story.type(ACTIVE, "ipvsadm -Sn | diff /run/before - && echo the same", fails=True)
            story.type(ACTIVE, "ip -br address show lan0")
            self._starts(ACTIVE)
            story.type(ACTIVE, "ipvsadm -Sn | diff /run/before - && echo the same", fails=True)
            if self.way.sync:
                self._synced()

    def _synced(self) -> None:
        """Until the others know the connections: each is told of with its next packet."""
        for node in (STANDBY, NEW):
            until(
                lambda node=node: kernel_view.knows(node, kernel_view.live("cl")),  # type: ignore[misc]
                f"{node} to know the connections",
                PATIENCE,
            )
            self.story.type(node, "ipvsadm -Lcn | grep -c ESTABLISHED")

    def router(self) -> None:
        story = self.story
        with story.step("6. The router: without its static routes it uses those of the three nodes"):
            story.router(static_routes(there=False))
            self._routed(NODES)
            story.router(f"show ip route {VIPS[0]}")

    def tidied(self) -> None:
        story = self.story
        with story.step(f"7. {ACTIVE}: the VIPs leave the link"):
            for vip in VIPS:
                story.type(ACTIVE, f"ip address del {vip} dev lan0", fails=True)
            story.type(ACTIVE, "anycast status --vip web*", fails=True)

    def active_back(self) -> None:
        story = self.story
        with story.step(f"8. Back: {ACTIVE} leaves, and keepalived starts in the table that is there"):
            story.type(ACTIVE, "anycast maintenance on --reason 'back to the pair' --wait")
            self._stops(ACTIVE)
            Keepalived(self.lab, ACTIVE).start()
            story.note(f"{ACTIVE}: keepalived starts")
            until(lambda: is_master(self.lab, ACTIVE), f"{ACTIVE} to be the master", PATIENCE)
            story.type(ACTIVE, "ip -br address show lan0")
            story.type(ACTIVE, "ipvsadm -Sn")

    def router_back(self) -> None:
        story = self.story
        with story.step("9. Back: the router has its static routes again"):
            story.router(static_routes(there=True))
            self._routed(())
            story.router(f"show ip route {VIPS[0]}")

    def others_back(self) -> None:
        story = self.story
        with story.step(f"10. Back: {STANDBY} and {NEW} stop, {STANDBY} is the backup again"):
            for node in (STANDBY, NEW):
                self._stops(node)
            Keepalived(self.lab, STANDBY).start()
            story.note(f"{STANDBY}: keepalived starts")
            holds(STANDBY)
            for node in NODES:
                story.type(node, "; ".join(f"ip address del {vip} dev lo" for vip in VIPS), fails=True)
                if self.way.sync:
                    story.type(node, "ipvsadm --stop-daemon master; ipvsadm --stop-daemon backup")
            story.type(NEW, "ipvsadm -C")

    def _starts(self, node: str) -> None:
        self.lab.render(node)
        self.lab.start(node, "exabgp")
        self.lab.start(node, "agent")
        self.story.note(
            f"{node}: systemctl start anycast-exabgp anycast-agent, which the lab does without systemd"
        )
        for place, vip in enumerate((VIP4, VIP6)):
            until(
                lambda place=place, vip=vip: self._offered(node, place, vip),  # type: ignore[misc]
                f"{node} to announce {vip}",
                PATIENCE,
            )
        until(lambda: self._answers(node), f"{node} to answer", PATIENCE)

    def _answers(self, node: str) -> bool:
        """Its ops process, which starts after the agent."""
        with contextlib.suppress(client.UnreachableError):
            return client.read(self.lab.run / node / "control.sock", "/status").ok
        return False

    def _offered(self, node: str, place: int, vip: str) -> bool:
        """The router has the node's path, whether it uses it or not."""
        balancer = next(one for one in self.lab.topology.balancers if one.name == node)
        said = self.lab.vtysh(f"show bgp {('ipv4', 'ipv6')[place]} unicast {vip}")
        return re.search(rf"from {(balancer.node4, balancer.node6)[place]} ", said) is not None

    def _stops(self, node: str) -> None:
        self.lab.stop(node, "agent", PATIENCE)
        self.lab.stop(node, "exabgp", PATIENCE)
        self.story.note(f"{node}: systemctl stop anycast-agent anycast-exabgp")

    def _routed(self, nodes: Sequence[str]) -> None:
        for vip in VIPS:
            self.lab.wait_route(vip, nodes, PATIENCE)
