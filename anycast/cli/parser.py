"""The argument parser: every verb and option, and nothing they do."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from anycast import __version__

CONFIG = "/etc/anycast/anycast.yaml"
SOCKET = "/run/anycast/control.sock"

_MOST_CONNECTIONS = 10**9

_EPILOG = """\
exit statuses: 0 done; 1 a negative answer; 2 wrong usage; 3 no agent answers; 4 a check could not run;
78 the configuration has problems; of doctor 1 for any warning or error; of the agent also 70 a defect, 75 another
agent runs
"""

_PROBE = """\
SPEC is a URL or a mapping as in the configuration:
  tcp://10.9.2.1:80   https://www.example.net/health   icmp://10.9.2.1   relp://10.9.2.1:2514
  "dns://10.9.2.1/www.example.net?record=AAAA"   grpc://10.9.2.1:50051/shop.Orders
  '{type: banner, address: 10.9.2.1, port: 25, steps: [{expect: "^220 "}]}'
NAME is that of a check, a real server or a VIP of the configuration: all of its checks are run.

exit statuses: 0 all is well; 1 a check fails; 4 a check could not run; 78 the check or the configuration is wrong
"""


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="anycast",
        description="Announce a shared virtual IP over BGP while this node can serve it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"anycast {__version__}")
    verbs = root.add_subparsers(dest="verb", metavar="VERB", required=True)

    _with_config(verbs.add_parser("agent", help="run the agent in the foreground"))

    # Its options are its own: `main` hands them over before this parser is built.
    verbs.add_parser("announce", help="the process ExaBGP runs; not for people")

    check = verbs.add_parser("check", help="say everything that is wrong with a configuration")
    check.add_argument(
        "file", nargs="?", type=Path, default=_default_config(), metavar="FILE", help="default: %(default)s"
    )
    _with_json(check)

    _doctor(verbs.add_parser("doctor", help="say what of this node stands in the way, and how to change it"))
    probe = verbs.add_parser(
        "probe",
        help="run a check once and show every step",
        description="Run a check once and show every step with its time.",
        epilog=_PROBE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    probe.add_argument("what", metavar="SPEC|NAME", help="a check to write here, or the name of something")
    probe.add_argument("--at", metavar="ADDRESS[:PORT]", help="aim it there, not where it is used")
    probe.add_argument("--timeout", type=float, metavar="SECONDS", help="default: the check's own")
    _with_config(probe)
    _with_json(probe)

    verbs.add_parser("schema", help="print the JSON Schema of the configuration file")

    render = verbs.add_parser("render", help="write the configuration of another daemon")
    daemons = render.add_subparsers(dest="daemon", metavar="DAEMON", required=True)
    exabgp = daemons.add_parser("exabgp", help="ExaBGP's configuration, or its environment file")
    _with_config(exabgp)
    exabgp.add_argument("--env", action="store_true", help="the environment file instead")
    exabgp.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="replace FILE, readable for node.exabgp_user (default: standard output)",
    )

    maintenance = verbs.add_parser("maintenance", help="take the node or one VIP out, or back in")
    acts = maintenance.add_subparsers(dest="act", metavar="ACT", required=True)
    for act, text in (
        ("on", "drain, then withdraw"),
        ("off", "announce again what is healthy"),
        ("status", "what is in maintenance"),
    ):
        one = acts.add_parser(act, help=text)
        one.add_argument("--vip", metavar="NAME", help="this VIP only (default: the whole node)")
        if act == "on":
            one.add_argument("--reason", default="", metavar="TEXT", help="why, for people")
        _with_json(one)
        _with_agent(one)

    drain = verbs.add_parser(
        "drain-server", help="give a real server no new clients; it keeps the connections it has"
    )
    _with_server(drain)
    drain.add_argument("--reason", default="", metavar="TEXT", help="why, for people")
    drain.add_argument(
        "--force", action="store_true", help="even where a service then falls below its quorum"
    )
    drain.add_argument("--wait", action="store_true", help="return when its active connections are gone")
    drain.add_argument(
        "--timeout",
        type=_seconds,
        default=None,
        metavar="TIME",
        help="with --wait: give up after 30s, 5m, 2h (default: never)",
    )
    _with_json(drain)
    _with_agent(drain)
    undrain = verbs.add_parser("undrain-server", help="end that")
    _with_server(undrain)
    _with_json(undrain)
    _with_agent(undrain)

    status = verbs.add_parser("status", help="what the node knows and why it does what it does")
    _with_json(status)
    _with_agent(status)

    _with_agent(
        verbs.add_parser("reload", help="read the configuration again; the old one stays if it is invalid")
    )

    verbs.add_parser("version", help="print the version")
    return root


def _doctor(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"without it and without {_default_config()} only the node is checked",
    )
    verb.add_argument(
        "--connections",
        type=_count,
        metavar="N",
        help="expected at once on this node (default: 100000)",
    )
    verb.add_argument(
        "--fix",
        action="store_true",
        help="show, ask, then write sysctls and files in sysctl.d, modules-load.d and modprobe.d",
    )
    verb.add_argument("--yes", action="store_true", help="with --fix: do not ask")
    _with_json(verb)


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= number <= _MOST_CONNECTIONS:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {_MOST_CONNECTIONS:,}, not {text!r}")
    return number


def _default_config() -> Path:
    return Path(os.environ.get("ANYCAST_CONFIG") or CONFIG)


def _default_socket() -> Path:
    return Path(os.environ.get("ANYCAST_SOCKET") or SOCKET)


def _with_config(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--config", type=Path, default=_default_config(), metavar="FILE", help="default: %(default)s"
    )


def _with_server(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "server", type=_server, metavar="POOL/SERVER", help="its name in its pool, as in web/rs2"
    )


def _server(text: str) -> str:
    pool, slash, server = text.partition("/")
    if not (pool and slash and server) or "/" in server:
        raise argparse.ArgumentTypeError(f"{text!r} is not a real server (write POOL/SERVER, as in web/rs2)")
    return text


_UNITS = {"s": 1, "m": 60, "h": 3600}


def _seconds(text: str) -> float:
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    if not number.isdecimal() or len(number) > 6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time (write 30s, 5m or 2h)")
    return float(int(number) * unit)


def _with_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="for programs")


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
