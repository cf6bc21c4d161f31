"""The argument parser: every verb and option, and nothing they do."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, NoReturn

from anycast import __version__
from anycast.cli.table import ColourWhen
from anycast.cli.times import bounded, duration, instant, past
from anycast.core.amounts import MULTIPLES
from anycast.core.names import nearest
from anycast.core.values.software import Daemon, Version, version

CONFIG = "/etc/anycast/anycast.yaml"
SOCKET = "/run/anycast/control.sock"

_FEW = 12
_MOST_CONNECTIONS = 10**9
_WATCH = 2.0  # seconds
_LEAST_WATCH, _MOST_WATCH = 0.1, 3600.0
_MOST_NODES = 64
_MOST_WEIGHT = 65_535  # of a real server

_EPILOG = """\
exit statuses: 0 done; 1 a negative answer; 2 wrong usage; 3 the agent or its ops process does not answer;
4 a check could not run; 10 a reload would change something; 78 the configuration has problems; 130 interrupted;
doctor: 1 for any warning or error;
status --nagios: 0 ok, 1 warning, 2 critical, 3 unknown; agent: also 70 a defect, 73 the recording cannot be written,
75 another agent runs
"""

_BUDGET = """\
TIME is written 500ms, 2s or 1m, or as a number of seconds. Every sum is explained in docs/budget.md.

exit statuses: 0 done; 1 with --max: a failure can last longer; 78 the configuration has problems
"""

_PROBE = """\
SPEC is a URL or a mapping as in the configuration:
  tcp://10.9.2.1:80   https://www.example.net/health   icmp://10.9.2.1   relp://10.9.2.1:2514
  "dns://10.9.2.1/www.example.net?record=AAAA"   grpc://10.9.2.1:50051/shop.Orders
  '{type: banner, address: 10.9.2.1, port: 25, steps: [{expect: "^220 "}]}'
NAME is a check, a real server or a VIP of the configuration; all its checks are run.

exit statuses: 0 every check succeeds; 1 one fails; 4 one could not run; 78 the check or the configuration is wrong
"""


_MAINTENANCE_ON = """\
examples:
  anycast maintenance on --reason "new kernel" --wait && reboot
  anycast maintenance on --reason "new disks" --for 2h        ends by itself
  anycast maintenance on --vip web --until 18:30              one VIP; its other nodes go on
  anycast maintenance on --wait --wait-turn                   in a fleet: after those who asked before
  anycast maintenance on --now --force --reason "it burns"    no drain, and nobody is asked
  anycast maintenance off

It drains first: routers are asked to prefer other nodes, then the routes are withdrawn. It survives restarts and reboots.
"""

_RENDER = """\
examples:
  anycast render exabgp                                       ExaBGP's configuration, on standard output
  anycast render exabgp --env -o /etc/exabgp/exabgp.env
  anycast render frr-bfd                                      bfdd beside ExaBGP on this node
  anycast render bird -o /etc/bird/anycast.conf               BIRD on this node, with speaker: kernel-table
  anycast render router-frr --config lb1.yaml --config lb2.yaml    for the router of both nodes
  anycast render router-frr --config fleet.yaml               for the router of all nodes of a fleet
  anycast render router-frr --frr 10.4                        with what this version can do better
  anycast render nftables -o /etc/anycast/nftables.conf       beside stateful rules: the VIPs untracked
  anycast render nftables --accept input -o /etc/anycast/input.nft    to include in your own chain

How to use each of them: docs/routers.md, docs/firewalls.md.
"""

_PLAN = """\
examples:
  anycast plan --nodes 2 --busy 45% --clients 5000                      two balancers at 45 %: what if one fails?
  anycast plan --nodes 16 --messages 200k --message-size 300 --capacity-bits 10G --capacity-packets 1M --clients 5000
  anycast plan --config fleet.yaml --connections 400k --new-connections 8k --server-connections 20k
  anycast status --json > lb1.json; anycast plan --config fleet.yaml --status lb1.json --status lb2.json

exit statuses: 0 with one node less nothing is above its limit, as far as that is known; 1 something is, there is one node
alone, or the figures contradict each other; 2 wrong usage, or a file that cannot be read or written; 78 the configuration
has problems
"""

_SIMULATE = """\
steps: leave:2 (a balancer), leave:1,2, return:2, server-add, server-add:3, server-remove:1 (out of the table), server-dies:1
(weight 0, its place stays), server-back:1, weight:1=5, server-add:1=5 (with that weight)

examples:
  anycast simulate leave:2 return:2                             three balancers, a Linux router, four real servers, mh
  anycast simulate --scheduler rr leave:2                       with a scheduler that goes by what each node has seen
  anycast simulate server-add leave:2                           a new real server, then a balancer less
  anycast simulate --sync server-add leave:2                    the same with connection_sync
  anycast simulate --router resilient --nodes 16 --flows 1M leave:1 return:1
"""

_IMPORT = """\
examples:
  anycast import keepalived /etc/keepalived/keepalived.conf -o anycast.yaml
  anycast import lb1/keepalived.conf lb2/keepalived.conf      both nodes of a pair: `nodes`, with roles
  anycast import ipvs                                         the table of the running kernel
  ipvsadm-save -n | anycast import ipvs -
  anycast import exabgp /etc/exabgp/exabgp.conf
  anycast import anycast-healthchecker /etc/anycast-healthchecker.conf /etc/anycast-healthchecker.d/*.conf
  anycast import ldirectord /etc/ha.d/ldirectord.cf

exit statuses: 0 done; 1 nothing was written; 78 nothing can be imported
"""

_RELOAD = """\
examples:
  anycast reload --dry-run             what it would do; changes nothing
  anycast reload --confirm-within 5m   try it: in five minutes the configuration before comes back by itself,
  anycast reload --confirm             unless you say that it stays
  anycast reload --undo                go back now, also from a reload that was not on trial (once)

exit statuses: 0 it is in force; 1 there is nothing to confirm or to undo; 3 the agent does not answer; 78 refused
with --dry-run: 0 nothing would change; 10 something would; 3 the agent does not answer; 78 it would be refused
"""

_CHECK = """\
examples:
  anycast check new.yaml
  anycast check --node lb2 fleet.yaml         of a fleet: for this node; without --node for each
  anycast check --against-running new.yaml    on a node: also what a reload with this file would do
  render-my-config | anycast check --against-running -

exit statuses: 0 no problems; 78 problems
with --against-running: 0 nothing would change; 10 something would; 3 the agent does not answer; 78 problems, or a reload
would be refused
"""


_FLEET = """\
It shows what this node knows of the others, with its age: of a node that is not heard any more its last word.

exit statuses: 0 shown; 1 the configuration of this node has no `fleet:`; 3 the agent or its ops process does not answer
"""


_EXABGP_RELOAD = """\
`systemctl reload anycast-exabgp` does all of this. Without systemd:

  anycast render exabgp -o exabgp.conf.new
  exabgp validate exabgp.conf.new              a reload that fails ends the plugin
  anycast exabgp-reload --new exabgp.conf.new --pid PID exabgp.conf

exit statuses: 0 ExaBGP has read it; 1 it has not, and why
"""


class _Parser(argparse.ArgumentParser):
    takes_options_between = (
        False  # among several words of one argument, where argparse takes them before and after only
    )
    _is_mixing = False

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        if self.takes_options_between and not self._is_mixing:
            self._is_mixing = True  # it calls this one, for the options and for the rest
            try:
                found, surplus = self.parse_known_intermixed_args(args, namespace)
            finally:
                self._is_mixing = False
        else:
            found, surplus = super().parse_known_args(args, namespace)
        # The parser of a verb is done before the one above it: the first is the one whose usage explains an error.
        vars(found).setdefault("command", self)
        return found, surplus

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """A wrong word: the one that was probably meant, and all of them where they are few."""
        if action.choices is None or value in action.choices:
            return
        known = [str(one) for one in action.choices]
        near = nearest(str(value), known)
        hint = [f"did you mean {near}?"] if near else []
        if len(known) <= _FEW:
            hint.append(f"choose from {', '.join(known)}")
        elif not near:
            hint.append(f"`{self.prog} --help` lists them")
        raise argparse.ArgumentError(action, f"there is no {str(value)[:60]!r} ({' '.join(hint)})")

    def error(self, message: str) -> NoReturn:
        # A value that begins with - is an option to argparse.
        hint = " (no time is negative; write any other value that begins with - after a =)"
        super().error(message + hint if message.endswith("expected one argument") else message)


def parser() -> argparse.ArgumentParser:
    root = _Parser(
        prog="anycast",
        description="Announce a shared virtual IP over BGP while this node can serve it. The configuration is "
        f"{CONFIG}, or the file that ANYCAST_CONFIG names.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"anycast {__version__}")
    verbs = root.add_subparsers(dest="verb", metavar="VERB", required=True)

    agent = verbs.add_parser("agent", help="run the agent (in the foreground; systemd does this)")
    _with_config(agent)
    agent.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="record everything its decisions depend on, to replay it in a test; without passwords",
    )

    agent.add_argument(
        "--strict",
        action="store_true",
        help="end with 78 where it would start with the last good configuration",
    )
    agent.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="where the last good configuration is, if FILE does not say it any more (default: what systemd says, then "
        "/var/lib/anycast)",
    )

    # Its options are its own: `main` hands them over before this parser is built.
    verbs.add_parser("announce", help="the plugin that ExaBGP runs (not for people)")
    verbs.add_parser("announce-table", help="the announcer of `speaker: kernel-table` (not for people)")

    check = verbs.add_parser(
        "check",
        help="validate a configuration and list every problem",
        description="Validate a configuration and list every problem. It needs neither root nor network.",
        epilog=_CHECK,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help=f"default: {default_config()}; -: standard input",
    )
    check.add_argument("--config", type=Path, metavar="FILE", help="the same, as other commands have it")
    _with_node(check, "check it for this one (default: for each of them)")
    _with_json(check)
    check.add_argument(
        "--against-running",
        action="store_true",
        help="ask the agent of this node what a reload with this file would do; change nothing",
    )
    check.add_argument(
        "--allow-removal",
        action="store_true",
        help="with --against-running: even if no VIP is left, or more than node.max_removed is removed",
    )
    check.add_argument(
        "--socket",
        type=Path,
        default=_default_socket(),
        metavar="PATH",
        help="the agent's control socket (default: %(default)s)",
    )

    _init(verbs.add_parser("init", help="write a first configuration from five answers"))

    _import(
        verbs.add_parser("import", help="make a configuration of one of keepalived, IPVS, ExaBGP and others")
    )

    _doctor(verbs.add_parser("doctor", help="list what is wrong with this node, and how to correct it"))
    probe = verbs.add_parser(
        "probe",
        help="run a check once and show every step",
        description="Run a check once and show every step with its time.",
        epilog=_PROBE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    probe.add_argument(
        "what", metavar="SPEC|NAME", help="a check, or the name of a check, a real server or a VIP"
    )
    probe.add_argument("--at", metavar="ADDRESS[:PORT]", help="run it there, not where it is used")
    probe.add_argument("--timeout", type=float, metavar="SECONDS", help="default: the check's own")
    _with_config(probe)
    _with_json(probe)
    _with_colour(probe)

    hook = verbs.add_parser("hook", help="try a hook")
    acts = hook.add_subparsers(dest="act", metavar="ACT", required=True)
    test = acts.add_parser(
        "test",
        help="run a hook once with a sample and show what happened",
        description="Run a hook of the configuration once, as the calling user, with a sample marked `test`. No "
        "agent is needed; a webhook is called once, without retries.",
        epilog="exit statuses: 0 the hook succeeded; 1 it failed; 78 the configuration has problems",
    )
    test.add_argument("name", metavar="NAME", help="its name in the configuration")
    _with_config(test)
    _with_json(test)

    verbs.add_parser("schema", help="print the JSON Schema of the configuration file")

    _budget(
        verbs.add_parser(
            "budget",
            help="show how long each kind of failure can last, by the configuration",
            description="For each kind of failure: how long, at most, routers may go on sending clients to something "
            "that cannot serve them.",
            epilog=_BUDGET,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )

    _plan(
        verbs.add_parser(
            "plan",
            help="show what the balancers have to carry, and whether they do with one or two less",
            description="From a few figures, and the configuration if there is one: the load of each balancer with all of "
            "them, with one and with two less; how unevenly routers spread it; memory, the table of connections, and what "
            "else it takes. It needs neither root nor a node. All figures are of all nodes together.",
            epilog=_PLAN,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )

    _simulate(
        verbs.add_parser(
            "simulate",
            help="show what breaks if balancers or real servers go, come or differ",
            description="Flows, a router's hash, balancers with the kernel's tables: after each step, how many flows came to "
            "another balancer, would be given another real server, and broke. It needs numpy, and neither root nor a node.",
            epilog=_SIMULATE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )

    _render(
        verbs.add_parser(
            "render",
            help="write the configuration of ExaBGP, of BFD or of a router",
            epilog=_RENDER,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )

    _maintenance(
        verbs.add_parser("maintenance", help="take the node or one VIP out of service, or put it back")
    )
    stop = verbs.add_parser(
        "drain",
        help="take the node out until the agent ends (before a stop)",
        description="Take the node out as `maintenance on` does, but only until this agent ends: the next agent is in "
        "service. `maintenance off` ends it too. For ExecStop= of the agent's unit.",
    )
    _with_drain(stop)
    _with_json(stop)
    _with_agent(stop)

    drain = verbs.add_parser(
        "drain-server", help="send a real server no new clients; it keeps the connections it has"
    )
    _with_server(drain)
    drain.add_argument("--reason", default="", metavar="TEXT", help="why, for people")
    drain.add_argument(
        "--force",
        action="store_true",
        help="even where a service then falls below its quorum, or the others have no room for what it carries",
    )
    drain.add_argument("--wait", action="store_true", help="return when it has no active connections left")
    drain.add_argument(
        "--timeout",
        type=_seconds,
        default=None,
        metavar="TIME",
        help="with --wait: give up after 30s, 5m, 2h (default: never)",
    )
    _with_json(drain)
    _with_agent(drain)
    undrain = verbs.add_parser("undrain-server", help="send a real server new clients again")
    _with_server(undrain)
    _with_json(undrain)
    _with_agent(undrain)

    _status(
        verbs.add_parser(
            "status", help="show the node: every VIP with its reason, real servers, BGP sessions"
        )
    )

    _fleet(
        verbs.add_parser(
            "fleet",
            help="show all nodes of the fleet: what they carry, who is out, whether their tables are the same",
            epilog=_FLEET,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )

    why = verbs.add_parser(
        "why",
        help="say why a VIP is announced or not, and what would change it",
        description="Show why a VIP is announced or not, from the checks to the routers, and what would change that. Exit "
        "status 1: it is not announced.",
    )
    why.add_argument("vip", metavar="VIP", help="its name")
    _with_json(why)
    _with_colour(why)
    _with_agent(why)

    events = verbs.add_parser("events", help="show what has happened on this node")
    events.add_argument("--follow", "-f", action="store_true", help="keep printing new events until Ctrl-C")
    events.add_argument(
        "--since",
        type=_moment,
        metavar="TIME",
        help="events of the last 30s, 5m, 2h, or since 2027-01-15T08:00 (UTC)",
    )
    events.add_argument("--vip", metavar="NAME", help="only events of this VIP or of the whole node")
    events.add_argument("--json", action="store_true", help="for programs: one object a line")
    _with_colour(events)
    _with_agent(events)

    _reload(
        verbs.add_parser(
            "reload",
            help="apply the changed configuration; if it has problems, the old one stays",
            description="Apply what has changed in the configuration. One with mistakes changes nothing, and neither does "
            "one that removes too much.",
            epilog=_RELOAD,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )

    _exabgp_reload(
        verbs.add_parser(
            "exabgp-reload",
            help="have ExaBGP read a rendered file, and see that it has (its unit does this)",
            epilog=_EXABGP_RELOAD,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )

    report = verbs.add_parser(
        "bug-report",
        help="write one file with all that helps to find a fault, without secrets",
        description="Write a tar.gz with versions, the configuration without its secrets, status, why, events, doctor, "
        "the kernel's tables and the journal. Nothing is sent anywhere.",
    )
    report.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="a new file (default: anycast-HOST-TIME.tar.gz in the current directory)",
    )
    report.add_argument(
        "--socket", type=Path, default=_default_socket(), metavar="PATH", help="default: %(default)s"
    )
    _with_config(report)

    verbs.add_parser("version", help="print the version")
    return root


_INIT = """\
On a terminal it asks for what no option says. It never replaces a file, and writes nothing that `anycast check`
would refuse.

  anycast init
  anycast init --address 10.2.1.1 --as 65001 --router 10.2.1.254,65000 --vip 192.0.2.1 --vip 80,443 \\
      --server 10.9.2.1 --server 10.9.2.2 --check http lb1.yaml

exit statuses: 0 written; 1 the file exists or cannot be written; 2 an answer is missing or wrong; 78 the answers do not
fit together; 130 interrupted
"""


def _init(verb: argparse.ArgumentParser) -> None:
    verb.description = "Write a first configuration, with comments, from five answers."
    verb.epilog = _INIT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_argument(
        "file",
        nargs="?",
        type=Path,
        default=default_config(),
        metavar="FILE",
        help="where to write it; - is standard output (default: %(default)s)",
    )
    for option, metavar, words in (
        ("--address", "ADDRESS", "this node's address toward the routers; repeat for the other family"),
        ("--router", "ADDRESS,AS", "a router and its AS number; repeat for each"),
        (
            "--vip",
            "ADDRESS|PORT",
            "the virtual IP's addresses and ports, as in 192.0.2.1, 443, 53/udp; repeat",
        ),
        ("--server", "ADDRESS", "a real server; repeat for each"),
    ):
        verb.add_argument(option, action="append", metavar=metavar, help=words)
    verb.add_argument("--as", dest="asn", metavar="NUMBER", help="this node's AS number")
    verb.add_argument(
        "--router-id", type=_address4, metavar="ADDRESS", help="default: this node's IPv4 address"
    )
    verb.add_argument("--name", type=_name, default="web", help="the name of the VIP (default: %(default)s)")
    verb.add_argument(
        "--check",
        type=str.lower,
        choices=("tcp", "http", "https", "udp", "icmp", "relp", "syslog", "grpc"),
        help="how the real servers are checked (default: tcp, with /udp udp)",
    )
    verb.add_argument(
        "--forwarding",
        type=str.lower,
        choices=("dr", "nat", "tunnel"),
        default="dr",
        help="how packets reach them (default: %(default)s)",
    )


def _import(verb: _Parser) -> None:
    verb.takes_options_between = True
    verb.description = (
        "Make a configuration of another program's, and say of every line whether it was carried over, is different, or "
        "cannot be. Nothing is changed but the file that -o names."
    )
    verb.epilog = _IMPORT
    verb.formatter_class = argparse.RawDescriptionHelpFormatter
    verb.add_argument(
        "what",
        nargs="+",
        metavar="SOURCE|FILE",
        help="keepalived, ipvs, exabgp, anycast-healthchecker or ldirectord, and its files; without the source it is "
        "seen from them; ipvs alone is the running kernel",
    )
    verb.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="where to write it (default: standard output)"
    )
    verb.add_argument("--force", action="store_true", help="replace the file if it is there")
    verb.add_argument(
        "--address",
        action="append",
        type=_address,
        metavar="ADDRESS",
        help="the VIP of what gives none: a firewall mark, a healthcheck without --ip; repeat",
    )
    verb.add_argument("--mh", action="store_true", help="scheduler: mh in the place of rr, wrr, lc and wlc")
    verb.add_argument(
        "--strict", action="store_true", help="write nothing, with status 1, if a line cannot be carried over"
    )
    _with_json(verb)


def _name(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name (use letters, digits and _ . -)")
    return text


def options(command: argparse.ArgumentParser) -> list[str]:
    """What begins with - and may stand there."""
    return [option for action in command._actions for option in action.option_strings]  # noqa: SLF001 - argparse tells nobody


def _exabgp_reload(verb: argparse.ArgumentParser) -> None:
    verb.description = (
        "Put a file that ExaBGP has validated in its place, tell ExaBGP to read it, and see that it has: it drops a "
        "signal in silence while routes wait for a neighbor, so it is told again."
    )
    verb.add_argument("file", type=Path, metavar="FILE", help="what ExaBGP was started with")
    verb.add_argument("--new", type=Path, required=True, metavar="FILE", help="what is to take its place")
    verb.add_argument("--pid", type=_pid, required=True, metavar="PID", help="ExaBGP's process")
    verb.add_argument(
        "--within",
        type=_time,
        default=10.0,
        metavar="TIME",
        help="give up after so long (default: 10s)",
    )


def _pid(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,9}", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the number of a process (0 and less would be several)"
        )
    return int(text)


def _budget(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--max", type=_time, metavar="TIME", help="exit with 1 if a failure can last longer")
    verb.add_argument(
        "--router",
        type=_time,
        metavar="TIME",
        help="how long a router needs to change its kernel's table (default: 200ms)",
    )
    verb.add_argument(
        "--watchdog",
        type=_time,
        metavar="TIME",
        help="WatchdogSec of ExaBGP's unit; 0: it has none (default: 2500ms, as shipped)",
    )
    verb.add_argument(
        "--graceful-restart",
        type=_time,
        metavar="TIME",
        help="how long the routers keep the routes of an ExaBGP that is gone (default: 0, as rendered)",
    )
    verb.add_argument(
        "--bfd-receive",
        type=_time,
        metavar="TIME",
        help="the routers' least receive interval of BFD; 300ms where FRR has its own (default: the node's, as rendered)",
    )
    verb.add_argument(
        "--hash",
        choices=("ports", "addresses"),
        default="ports",
        help="what the routers hash to spread the flows (default: %(default)s)",
    )
    _with_config(verb)
    _with_json(verb)
    _with_colour(verb)


def _plan(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--nodes",
        type=_nodes,
        metavar="N",
        help="how many balancers there are (default: those that the file names)",
    )
    for option, words in (
        ("--clients", "how many addresses send"),
        ("--connections", "how many connections there are at once"),
        ("--new-connections", "how many begin each second"),
        ("--packets", "packets a second that come in"),
        ("--bits", "bits a second that come in"),
        ("--messages", "messages a second, as of syslog: gives packets and bits, without acknowledgements"),
        ("--capacity-packets", "packets a second that one balancer carries"),
        ("--capacity-bits", "bits a second that one balancer carries"),
        ("--capacity-new-connections", "new connections a second that one balancer carries"),
        ("--capacity-connections", "connections at once that one balancer carries"),
        ("--server-connections", "connections at once that one real server carries"),
    ):
        verb.add_argument(option, type=_amount, metavar="N", help=f"{words}: 500, 50k, 1.5M, 10G")
    verb.add_argument(
        "--message-size", type=_amount, default=300.0, metavar="BYTES", help="of a message (default: 300)"
    )
    verb.add_argument(
        "--busy",
        type=_share,
        metavar="PERCENT",
        help="the share of each node that is in use now, with all of them",
    )
    verb.add_argument(
        "--limit",
        type=_share,
        metavar="PERCENT",
        help="of what a node carries, which is not to be exceeded (default: 70%%)",
    )
    verb.add_argument(
        "--status",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="packets, bits, new connections and connections of a running node: what `anycast status --json` wrote; repeat for each",
    )
    verb.add_argument(
        "--hash",
        choices=("ports", "addresses"),
        default="ports",
        help="what the routers hash to spread the flows (default: %(default)s)",
    )
    verb.add_argument("--config", type=Path, metavar="FILE", help="of a node, or of the fleet")
    _with_node(verb, "this one (default: the first)")
    verb.add_argument("--svg", type=Path, metavar="FILE", help="write a picture of the loads")
    _with_json(verb)
    _with_colour(verb)


def _simulate(verb: _Parser) -> None:
    verb.takes_options_between = True
    verb.add_argument("steps", nargs="+", metavar="STEP", help="what happens, one after another")
    for option, default, words in (
        ("--flows", 100_000.0, "connections"),
        ("--nodes", 3.0, "balancers"),
        ("--drifted", 0.0, "balancers whose table was filled in another order, the last ones"),
    ):
        kind = _amount if default else _whole
        verb.add_argument(
            option, type=kind, default=default, metavar="N", help=f"{words} (default: {default:g})"
        )
    verb.add_argument(
        "--servers", type=_amount, metavar="N", help="real servers (default: as many as have weights, or 4)"
    )
    verb.add_argument(
        "--weights",
        type=_weights,
        metavar="N,N,...",
        help="of the real servers (default: 1 each)",
    )
    verb.add_argument(
        "--node-weights",
        type=_weights,
        metavar="N,N,...",
        help="of the routers' paths to the balancers (default: 1)",
    )
    verb.add_argument(
        "--router",
        choices=("hash-threshold", "modulo", "resilient", "hrw"),
        default="hash-threshold",
        help="how the routers choose (default: %(default)s, as Linux does)",
    )
    verb.add_argument(
        "--fill-again",
        action="store_true",
        help="with --router resilient: a balancer that returns gets its part at once (Linux waits until buckets are idle)",
    )
    verb.add_argument(
        "--scheduler", choices=("mh", "sh", "rr", "wlc"), default="mh", help="of IPVS (default: %(default)s)"
    )
    verb.add_argument("--sync", action="store_true", help="with connection_sync")
    verb.add_argument("--no-sloppy-tcp", action="store_true", help="with net.ipv4.vs.sloppy_tcp 0")
    verb.add_argument("--seed", type=int, default=1, metavar="N", help="of what is drawn (default: 1)")
    _with_json(verb)
    _with_colour(verb)


def _whole(text: str) -> float:
    return 0.0 if text == "0" else _amount(text)


def _weights(text: str) -> tuple[int, ...]:
    if re.fullmatch("[1-9][0-9]{0,4}(,[1-9][0-9]{0,4}){0,999}", text, re.ASCII):
        found = tuple(map(int, text.split(",")))
        if max(found) <= _MOST_WEIGHT:
            return found
    raise argparse.ArgumentTypeError(
        f"{text!r} is no list of weights from 1 to {_MOST_WEIGHT:,} (write 1,1,2)"
    )


def _amount(text: str) -> float:
    found = re.fullmatch(
        r"([0-9]{1,15}(?:\.[0-9]{1,6})?)([kmgt]?)", text.replace(",", ""), re.ASCII | re.IGNORECASE
    )
    if found is None or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 (write 500, 50k, 1.5M or 10G)")
    return float(found[1]) * MULTIPLES[found[2].lower()]


def _share(text: str) -> float:
    """A whole percent at least: 0.45 may be meant as 45 %."""
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%?", text, re.ASCII)
    if found is None or not 1 <= float(found[1]) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 1% to 100% (write 45%)")
    return float(found[1]) / 100


def _nodes(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]?", text, re.ASCII) or int(text) > _MOST_NODES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of nodes from 1 to {_MOST_NODES}")
    return int(text)


def _render(verb: argparse.ArgumentParser) -> None:
    daemons = verb.add_subparsers(dest="daemon", metavar="DAEMON", required=True)
    exabgp = daemons.add_parser("exabgp", help="ExaBGP's configuration, or its environment file")
    _with_config(exabgp)
    exabgp.add_argument(
        "--env",
        nargs="?",
        type=Path,
        const=True,
        metavar="FILE",
        help="the environment file instead; with FILE, that is written beside the configuration",
    )
    exabgp.add_argument(
        "--journal",
        metavar="FILE",
        help="where the plugin keeps what it may have announced (default: in node.runtime_dir)",
    )
    exabgp.add_argument(
        "--last-good",
        action="store_true",
        help="of the agent's last good configuration, if the file has problems",
    )
    _with_output(exabgp, "readable for node.exabgp_user")
    bfd = daemons.add_parser("frr-bfd", help="FRR's bfdd beside ExaBGP: bgp.bfd")
    _with_config(bfd)
    _with_output(bfd, "readable for FRR")
    bird = daemons.add_parser("bird", help="BIRD on this node, which learns the announcer's table: speaker")
    _with_config(bird)
    _with_output(bird, "readable for BIRD")
    table = daemons.add_parser("table-env", help="the environment of the announcer, for its unit")
    _with_config(table)
    table.add_argument(
        "--last-good",
        action="store_true",
        help="of the agent's last good configuration, if the file has problems",
    )
    _with_output(table, "readable for its owner")
    nftables = daemons.add_parser(
        "nftables", help="rules that keep the packets of the VIPs out of connection tracking"
    )
    _with_config(nftables)
    nftables.add_argument(
        "--accept",
        choices=("input", "forward", "output"),
        help="instead, rules to include in a chain of yours of this hook: they accept these packets",
    )
    _with_output(nftables, "readable for its owner")
    iptables = daemons.add_parser("iptables", help="the same for iptables-restore and ip6tables-restore")
    _with_config(iptables)
    iptables.add_argument(
        "--accept", action="store_true", help="accept these packets too, before all other rules"
    )
    iptables.add_argument(
        "--update",
        action="store_true",
        help="without the jumps to the chains, where these are loaded already",
    )
    _with_output(iptables, "readable for its owner")
    for daemon in Daemon:
        router = daemons.add_parser(
            f"router-{daemon}", help=f"what a router with {daemon.spelt} needs for this node"
        )
        router.add_argument(
            f"--{daemon}",
            dest="version",
            type=_version,
            metavar="VERSION",
            help=f"its version, as in {_LIKE[daemon]} (default: what bgp.software says, else what all versions take)",
        )
        router.add_argument(
            "--config",
            type=Path,
            action="append",
            metavar="FILE",
            help=f"a node's configuration; repeat for each node of the router (default: {default_config()})",
        )
        router.add_argument(
            "--node",
            action="append",
            metavar="NAME",
            help="of a fleet's file: this node; repeat for each node of the router (default: all)",
        )
        router.add_argument(
            "--neighbor",
            type=_address,
            action="append",
            default=[],
            metavar="ADDRESS",
            help="an address of this router, if the node has several routers; repeat for each (default: all)",
        )
        router.add_argument(
            "--range",
            type=_network,
            action="append",
            default=[],
            metavar="PREFIX",
            help="take every node of these addresses, as in 10.2.1.0/24, that is as the given ones are, without a line for "
            "each; repeat for each range",
        )
        router.add_argument(
            "--router-id",
            type=_address4,
            metavar="ADDRESS",
            help="the router's ID (default: its first IPv4 address)",
        )
        _with_output(router, "readable for its owner")


_LIKE = {Daemon.FRR: "10.4", Daemon.BIRD: "3.1", Daemon.GOBGP: "4.6", Daemon.OPENBGPD: "8.8"}


def _version(text: str) -> Version:
    if (found := version(text)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a version (write it as in 10.4)")
    return found


def _with_output(verb: argparse.ArgumentParser, mode: str) -> None:
    verb.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help=f"replace FILE, {mode} (default: standard output)",
    )


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an IP address") from None


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of addresses: {error}") from None


def _address4(text: str) -> IPv4Address:
    address = _address(text)
    if isinstance(address, IPv6Address):
        raise argparse.ArgumentTypeError(f"{text!r} is not an IPv4 address")
    return address


def _maintenance(verb: argparse.ArgumentParser) -> None:
    acts = verb.add_subparsers(dest="act", metavar="ACT", required=True)
    for act, words in (
        ("on", "drain, then withdraw"),
        ("off", "back in service (if its checks pass)"),
        ("status", "list what is in maintenance"),
    ):
        command = acts.add_parser(
            act,
            help=words,
            epilog=_MAINTENANCE_ON if act == "on" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--vip", metavar="NAME", help="this VIP only (default: the whole node)")
        if act == "on":
            end = command.add_mutually_exclusive_group()
            end.add_argument(
                "--for", dest="for_s", type=_bounded, metavar="TIME", help="it ends by itself: 30m, 2h, 1h30m"
            )
            end.add_argument(
                "--until",
                type=_instant,
                metavar="TIME",
                help="it ends by itself at a time: 18:30 (the next), 2026-10-07T18:30, or with a zone",
            )
            command.add_argument(
                "--on-expiry",
                choices=("resume", "hold"),
                help="at its end: back into service (default), or stay in maintenance and report that it is overdue",
            )
            _with_drain(command)
            command.add_argument(
                "--wait-turn",
                action="store_true",
                help="in a fleet: queue until the other nodes let it go (default: refuse, and say why)",
            )
            command.add_argument(
                "--force", action="store_true", help="without asking the other nodes of the fleet"
            )
        if act == "status":
            _with_colour(command)
        _with_json(command)
        _with_agent(command)


def _with_drain(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--reason", default="", metavar="TEXT", help="why, for people")
    verb.add_argument("--now", action="store_true", help="without a drain: withdraw at once")
    verb.add_argument(
        "--wait", action="store_true", help="return when it is down: withdrawn, and no more packets arrive"
    )
    verb.add_argument(
        "--timeout",
        type=_seconds,
        metavar="TIME",
        help="with --wait: give up after 30s, 5m, 2h (default: never); the drain goes on, and a place in the queue is given "
        "up",
    )


def lacking(args: argparse.Namespace) -> str | None:
    """What a given option needs but does not have. argparse cannot check this."""
    if getattr(args, "on_expiry", None) and args.for_s is None and args.until is None:
        return "--on-expiry needs --for or --until"
    if getattr(args, "wait_turn", False) and args.force:
        return "--wait-turn asks the other nodes, and --force does not: give one of them"
    waits = getattr(args, "wait", True) or getattr(args, "wait_turn", False)
    if getattr(args, "timeout", None) is not None and not waits:
        return "--timeout needs --wait"
    if getattr(args, "allow_removal", False) and (
        getattr(args, "confirm", False) or getattr(args, "undo", False)
    ):
        return "--allow-removal goes with a reload, not with --confirm or --undo"
    if args.verb == "reload" and args.json and not args.dry_run:
        return "--json goes with --dry-run"
    if args.verb == "check" and args.file is not None and args.config is not None:
        return f"two files are given: {args.file} and {args.config}"
    if args.verb == "check" and args.allow_removal and not args.against_running:
        return "--allow-removal goes with --against-running"
    return None


def _reload(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--allow-removal",
        action="store_true",
        help="even if no VIP is left, more than node.max_removed is removed, a guard of the fleet is lowered, or a file looks cut off",
    )
    verb.add_argument("--json", action="store_true", help="with --dry-run: for programs")
    how = verb.add_mutually_exclusive_group()
    how.add_argument(
        "--dry-run",
        action="store_true",
        help="show what would become of routes, services, real servers and sessions; change nothing",
    )
    how.add_argument(
        "--confirm-within",
        type=_bounded,
        metavar="TIME",
        help="go back to the configuration before after 30s, 5m, 2h, unless it is confirmed",
    )
    how.add_argument("--confirm", action="store_true", help="keep the configuration that is on trial")
    how.add_argument("--undo", action="store_true", help="go back to the configuration before")
    _with_agent(verb)


def _fleet(verb: argparse.ArgumentParser) -> None:
    _with_watch(verb)
    _with_json(verb)
    verb.add_argument(
        "--all",
        action="store_true",
        help="every VIP; without it, of many, those that some node does not announce",
    )
    _with_colour(verb)
    _with_agent(verb)


def _with_watch(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--watch",
        nargs="?",
        type=_interval,
        const=_WATCH,
        metavar="SECONDS",
        help=f"show it again and again, until Ctrl-C (default: every {_WATCH:g} s); with --json one on each line",
    )


def _status(verb: argparse.ArgumentParser) -> None:
    _with_watch(verb)
    shape = verb.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="for programs")
    shape.add_argument(
        "--nagios",
        action="store_true",
        help="one line with figures; exit status 0 ok, 1 warning, 2 critical, 3 unknown",
    )
    verb.add_argument(
        "--all",
        action="store_true",
        help="every VIP and real server; without it, of many, what is wrong and a few of the others",
    )
    verb.add_argument(
        "--vip",
        action="append",
        default=[],
        metavar="NAME",
        help="this VIP with all its real servers; * and ? stand for other letters; can be repeated",
    )
    _with_colour(verb)
    _with_agent(verb)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _LEAST_WATCH <= seconds <= _MOST_WATCH:
        raise argparse.ArgumentTypeError(
            f"expected seconds from {_LEAST_WATCH:g} to {_MOST_WATCH:g}, not {text!r}"
        )
    return seconds


def _doctor(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"without it and without {default_config()} only the node is checked",
    )
    _with_node(verb, _ITSELF)
    verb.add_argument(
        "--connections",
        type=_count,
        metavar="N",
        help="connections expected on this node at the same time (default: 100000)",
    )
    verb.add_argument(
        "--fix",
        action="store_true",
        help="show, ask, then write sysctls and files in sysctl.d, modules-load.d and modprobe.d",
    )
    verb.add_argument("--yes", action="store_true", help="with --fix: do not ask")
    _with_json(verb)
    _with_colour(verb)


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= number <= _MOST_CONNECTIONS:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {_MOST_CONNECTIONS:,}, not {text!r}")
    return number


def default_config() -> Path:
    return Path(os.environ.get("ANYCAST_CONFIG") or CONFIG)


def _default_socket() -> Path:
    return Path(os.environ.get("ANYCAST_SOCKET") or SOCKET)


def _with_config(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--config", type=Path, default=default_config(), metavar="FILE", help="default: %(default)s"
    )
    _with_node(verb, _ITSELF)


_ITSELF = "which one this is (default: as node.name says, then the host name)"


def _with_node(verb: argparse.ArgumentParser, words: str) -> None:
    verb.add_argument("--node", metavar="NAME", help=f"of a fleet's file: {words}")


def _with_server(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "server", type=_server, metavar="POOL/SERVER", help="its name in its pool, as in web/rs2"
    )


def _server(text: str) -> str:
    pool, slash, server = text.partition("/")
    if not (pool and slash and server) or "/" in server:
        raise argparse.ArgumentTypeError(f"{text!r} is not a real server (write POOL/SERVER, as in web/rs2)")
    return text


_TIME = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(ms|s|m|h)?\Z", re.ASCII)
_TIME_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def _time(text: str) -> float:
    match = _TIME.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time (write 500ms, 2s or 1m)")
    return float(match[1]) * _TIME_UNITS[match[2]]


def _seconds(text: str) -> float:
    return _read(duration, text)


def _bounded(text: str) -> float:
    return _read(bounded, text)


def _instant(text: str) -> float:
    return _read(lambda text: instant(text, datetime.now().astimezone()), text)


def _read(read: Callable[[str], float], text: str) -> float:
    try:
        return read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _moment(text: str) -> float:
    return _read(lambda text: past(text, datetime.now(UTC)), text)


def _with_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="for programs")


def _with_colour(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--color",
        choices=[str(when) for when in ColourWhen],
        default=str(ColourWhen.AUTO),
        help="auto: on a terminal, unless NO_COLOR is set (default: %(default)s)",
    )


def _with_agent(verb: argparse.ArgumentParser) -> None:
    where = verb.add_mutually_exclusive_group()
    where.add_argument(
        "--socket",
        type=Path,
        default=_default_socket(),
        metavar="PATH",
        help="the agent's control socket (default: %(default)s)",
    )
    where.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="use the control socket in this configuration's runtime_dir",
    )
    _with_node(verb, _ITSELF)
