"""The logging site: rsyslog and nginx on the real servers, rsyslog on the machines that send. Inside the lab's kernel.

What they are configured with are the files of `examples/`, as they stand. A machine is an rsyslogd of its own in the
client's place, with its own /etc/hosts and spool: so the name that the file says is the VIP, or with `straight` one
collector's own address.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab import configs, kernel_view, places, processes
from lab.control import Lab
from lab.errors import LabError
from lab.faults import BFD, Site
from lab.logs_count import Ledger, arrival
from lab.processes import Process
from lab.topology import VIP4, VIP6, Balancer, Node, Topology
from lab.waiting import until

EXAMPLES = configs.checkout() / "examples"
NAME = "log.example.net"
NAME6 = "log6.example.net"
STRAIGHT = "straight.example.net"  # a collector's own address
POOL = "log"
TLS = Path("/etc/rsyslog/tls")
PATIENCE = 60.0  # seconds for rsyslogd and nginx to listen, and to end
_HTTPS_PORT = 443
_PORTS = (514, 2514, 2515, 6514, _HTTPS_PORT)
AFTER = ("nice", "-n", "10")  # what is on a balancer comes first, which has a processor of its own elsewhere
_FILES = ("log/collected.log", "log/nginx/collected.log")
# What Debian's rsyslog.conf has besides: where queues are, and what is in rsyslog.d.
_MAIN = """\
global(workDirectory="/var/spool/rsyslog")
syslog.* stop
include(file="{drop_in}")
"""
_SOCKET = """\
module(load="imuxsock" sysSock.use="off")
input(type="imuxsock" socket="{socket}")
"""
_NGINX = """\
daemon off;
worker_processes 1;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
events {}
http {
    access_log off;
    include /etc/nginx/conf.d/collector.conf;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One that sends. `server`: what its file's name means, an address."""

    name: str
    server: str


def machines(count: int, straight: Mapping[str, str] | None = None) -> tuple[Machine, ...]:
    """`count` that send to the VIP, every third by IPv6, and one for each of `straight`: name and address."""
    ours = [
        Machine(name=f"m{number}", server=VIP6 if number % 3 == 0 else VIP4) for number in range(1, count + 1)
    ]
    return (*ours, *(Machine(name=name, server=server) for name, server in (straight or {}).items()))


def configuration(site: Topology, balancer: Balancer, servers: int) -> dict[str, Any]:
    """`examples/syslog.yaml` on a balancer of the lab, with the first real servers."""
    config: dict[str, Any] = yaml.safe_load(configs.anycast_yaml(site, balancer))
    example: dict[str, Any] = yaml.safe_load(EXAMPLES.joinpath("syslog.yaml").read_text("utf-8"))
    config["bgp"]["bfd"] = BFD
    config["timing"] = {"server_drain": "5s"}
    vip = example["vips"][POOL]
    del vip["address"]
    vip["addresses"] = [VIP4, VIP6]
    vip["servers"] = [server(one) for one in site.servers[:servers]]
    example["connection_sync"]["interface"] = "lan0"
    del config["pools"], example["bgp"]
    return config | example


class LogSite(Site):
    """Balancers with `examples/syslog.yaml`, laid over with the addresses of the lab."""

    def configure(
        self,
        node: str,
        *,
        servers: int = 0,
        interval: float = 0.0,
        sync: bool = False,
        check: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Of the arguments the lab's other site has, `servers` alone."""
        assert not any((interval, sync, check, more))
        balancer = next(one for one in self.lab.topology.balancers if one.name == node)
        config = configuration(self.lab.topology, balancer, servers or self.servers)
        # As JSON, which is YAML too: what stands in it twice would become an alias.
        self.lab.config(node).write_text(json.dumps(config, indent=1) + "\n")

    def prepare(self, node: str, certificates: Path) -> None:
        """The files of its certificates, which the configuration names."""
        for file in ("ca.pem", "cert.pem", "key.pem"):
            shutil.copyfile(certificates / file, self.lab.run / node / file)


def server(node: Node) -> dict[str, Any]:
    addresses = [address.partition("/")[0] for address in node.interfaces["lan0"]]
    return {"name": node.name, "addresses": addresses}


def certify(folder: Path, *, again: bool = False) -> None:
    """An authority, and a certificate for both names, that collectors and machines have; `again`: only the latter."""
    folder.mkdir(exist_ok=True)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    if not again:
        openssl(
            "req", "-x509", *curve, "-subj", "/CN=logs", "-keyout", "ca.key", "-out", "ca.pem", "-days", "30"
        )
        (folder / "ext").write_text(
            "subjectAltName=" + ",".join(f"DNS:{name}" for name in (NAME, NAME6, STRAIGHT))
        )
    openssl("req", *curve, "-subj", f"/CN={NAME}", "-keyout", "key.pem", "-out", "csr.pem")
    openssl(
        *("x509", "-req", "-in", "csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "30", "-extfile", "ext", "-out", "cert.pem"),
    )


def _put(lab: Lab, node: str, file: Path, target: str) -> None:
    """A file of the lab's own into the place of a node, which sees its own directory alone."""
    shutil.copyfile(file, lab.run / node / file.name)
    lab.exec(node, "cp", str(lab.run / node / file.name), target)


class Collectors:
    """rsyslogd and nginx on the real servers, each with its own files."""

    def __init__(self, lab: Lab, certificates: Path) -> None:
        self.lab = lab
        self.certificates = certificates
        self.ledger = Ledger()
        self._read: dict[Path, int] = {}

    def install(self, node: str) -> None:
        """Its files, as a package and an operator leave them."""
        home = self.lab.run / node
        main = home / "rsyslog.conf"
        main.write_text(_MAIN.format(drop_in="/etc/rsyslog.d/50-collector.conf"))
        (home / "nginx-main.conf").write_text(_NGINX)
        folders = [
            *map(str, (TLS, "/var/spool/rsyslog", "/etc/rsyslog.d", "/etc/nginx/conf.d", "/var/log/nginx"))
        ]
        self.lab.exec(node, "mkdir", "-p", *folders)
        _put(self.lab, node, EXAMPLES / "rsyslog/receiver.conf", "/etc/rsyslog.d/50-collector.conf")
        _put(self.lab, node, EXAMPLES / "rsyslog/nginx.conf", "/etc/nginx/conf.d/collector.conf")
        self.certify(node)

    def certify(self, node: str) -> None:
        for file in ("ca.pem", "cert.pem", "key.pem"):
            _put(self.lab, node, self.certificates / file, str(TLS / file))

    def start(self, *nodes: str) -> None:
        """Until rsyslogd and nginx listen on all of them. Raises TimeoutError."""
        for node in nodes:
            self._start_both(node)
        for node in nodes:
            self.listen(node)

    def listen(self, node: str) -> None:
        """Until rsyslogd and nginx do. Raises TimeoutError."""
        until(
            lambda: set(_PORTS) <= kernel_view.listening(node),
            f"rsyslogd and nginx to listen on {node}",
            PATIENCE,
        )

    def _start_both(self, node: str) -> None:
        self._start(node, "nginx", ["nginx", "-c", str(self.lab.run / node / "nginx-main.conf")])
        self.start_rsyslog(node)

    def start_rsyslog(self, node: str) -> None:
        main = str(self.lab.run / node / "rsyslog.conf")
        pid = self.lab.run / node / "rsyslogd.run"
        pid.unlink(missing_ok=True)
        self._start(node, "rsyslogd", ["rsyslogd", "-n", "-f", main, "-i", str(pid)])

    def _start(self, node: str, what: str, argv: Sequence[str]) -> None:
        home = self.lab.run / node
        processes.spawn(
            [*AFTER, *argv],
            netns=node,
            env=dict(os.environ),
            log=home / f"{what}.log",
            record=home / f"{what}.pid",
        )

    def process(self, node: str, what: str) -> Process:
        """`what`: rsyslogd or nginx. Raises LabError."""
        process = processes.recorded(self.lab.run / node / f"{what}.pid")
        if process is None or not process.alive():
            raise LabError(f"{what} on {node} does not run: read {self.lab.run / node / what}.log")
        return process

    def signal(self, node: str, number: int) -> None:
        """To rsyslogd, and to nginx with its workers."""
        for what in ("rsyslogd", "nginx"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process(node, what).pid, number)

    def end(self, node: str) -> None:
        """As `systemctl stop` does. Raises LabError where one does not end."""
        for what in ("rsyslogd", "nginx"):
            process = self.process(node, what)
            process.send(signal.SIGTERM if what == "rsyslogd" else signal.SIGQUIT)
            if not process.wait(PATIENCE):
                raise LabError(f"{what} on {node} does not end")

    def read(self) -> None:
        """What has come since the last time, into the ledger."""
        for node in self.lab.topology.servers:
            for name in _FILES:
                self._read_on(node.name, places.PLACES / node.name / "var" / "upper" / name)

    def _read_on(self, node: str, file: Path) -> None:
        try:
            with file.open("rb") as lines:
                lines.seek(self._read.get(file, 0))
                data = lines.read()
        except FileNotFoundError:
            return
        whole, _, _ = data.rpartition(b"\n")
        self._read[file] = self._read.get(file, 0) + len(whole) + bool(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            if found := arrival(line, node):
                self.ledger.add(found)


class Senders:
    """The machines' rsyslogd, in the client's place."""

    def __init__(self, lab: Lab, certificates: Path, sending: Sequence[Machine]) -> None:
        self.lab = lab
        self.sending = sending
        self._home = lab.run / "cl"
        self._certificates = certificates

    def install(self, straight: str) -> None:
        """`straight`: the address of the collector that some send to without a balancer."""
        self.lab.exec("cl", "mkdir", "-p", str(TLS), "/var/spool/rsyslog", "/etc/rsyslog.d")
        for file in ("ca.pem", "cert.pem", "key.pem"):
            _put(self.lab, "cl", self._certificates / file, str(TLS / file))
        hosts = self._home / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{VIP4} {NAME}\n{VIP6} {NAME6}\n{straight} {STRAIGHT}\n")
        self.lab.exec("cl", "cp", str(hosts), "/etc/hosts")

    def socket(self, machine: Machine) -> Path:
        return self._home / machine.name / "log"

    def start(self, *started: Machine, rebind: int = 0) -> None:
        """Until they take messages. `rebind`: a new connection after so many, in the place of what the file says."""
        for one in started:
            self._start(one, rebind)
        for one in started:
            until(lambda one=one: self.socket(one).exists(), f"rsyslogd of {one.name} to listen", PATIENCE)  # type: ignore[misc]

    def _start(self, machine: Machine, rebind: int) -> None:
        home = self._home / machine.name
        (home / "spool").mkdir(parents=True, exist_ok=True)
        (home / "hosts").write_text(f"127.0.0.1 localhost\n{machine.server} {NAME}\n")
        text = EXAMPLES.joinpath("rsyslog/sender.conf").read_text("utf-8")
        drop_in = home / "50-log-vip.conf"
        drop_in.write_text(
            re.sub(r'rebindInterval="\d+"', f'rebindInterval="{rebind}"', text) if rebind else text
        )
        main = home / "rsyslog.conf"
        main.write_text(_SOCKET.format(socket=self.socket(machine)) + _MAIN.format(drop_in=drop_in))
        own = f"mount --bind {home}/hosts /etc/hosts && mount --bind {home}/spool /var/spool/rsyslog"
        run = shlex.join(["rsyslogd", "-n", "-f", str(main), "-i", str(home / "rsyslogd.run")])
        (home / "rsyslogd.run").unlink(missing_ok=True)
        self.socket(machine).unlink(missing_ok=True)
        processes.spawn(
            [*AFTER, "unshare", "--mount", "sh", "-c", f"{own} && exec {run}"],
            netns="cl",
            env=dict(os.environ),
            log=self._home / f"{machine.name}.log",
            record=self._home / f"{machine.name}.pid",
        )

    def stop(self, machine: Machine) -> None:
        process = processes.recorded(self._home / f"{machine.name}.pid")
        if process is not None:
            process.end(PATIENCE)
