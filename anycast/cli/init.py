"""The verb init: a first configuration from five answers, which options give too. It never replaces a file."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, TypeAlias

from anycast import whole_file
from anycast.cli.configuration import report
from anycast.cli.exits import ExitCode
from anycast.cli.table import printable
from anycast.config.problem import ConfigError

Address: TypeAlias = IPv4Address | IPv6Address

_WORDS = re.compile(r"[\s,;=]+")
_STDOUT = Path("-")


class _AnswerError(Exception):
    """An answer that cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class _Question:
    """`option`: its name in the parsed arguments; `flag`: as it is written. `read` raises _AnswerError."""

    option: str
    flag: str
    words: str
    read: Callable[[Sequence[str]], Any]


def run(args: argparse.Namespace) -> int:
    file: Path = args.file
    if file != _STDOUT and os.path.lexists(file):
        return _exists(file)
    try:
        answers = _answers(args)
    except _AnswerError as error:
        print(f"anycast init: {printable(str(error))}", file=sys.stderr)
        return ExitCode.USAGE
    except EOFError:
        print("\nanycast init: nothing was written", file=sys.stderr)
        return ExitCode.INTERRUPTED
    text = _text(answers, args)
    from anycast.config.load import loads

    try:
        loads(text, "the new file")
    except ConfigError as error:
        code = report(error, Path("the new file"))
        print("anycast init: nothing was written (correct the answers)", file=sys.stderr)
        return code
    return _write(file, text)


def _exists(file: Path) -> int:
    print(
        f"anycast init: {file} is there already and stays as it is (name another file, or - to print it)",
        file=sys.stderr,
    )
    return ExitCode.NEGATIVE


def _write(file: Path, text: str) -> int:
    if file == _STDOUT:
        print(text, end="")
        return ExitCode.OK
    try:
        # It may hold passwords one day: not for everybody.
        whole_file.create(file, text, 0o640)
    except FileExistsError:
        return _exists(file)
    except OSError as error:
        print(
            f"anycast init: {file} cannot be written: {error.strerror} (name another file)", file=sys.stderr
        )
        return ExitCode.NEGATIVE
    print(f"{file} is written. Next:")
    for command, what in (
        (f"anycast check {file}", "says what is wrong with it"),
        ("anycast doctor", "what this node still needs"),
        ("anycast render router-frr", "or -bird, -gobgp, -openbgpd: what the routers need"),
        ("systemctl enable --now anycast-agent anycast-exabgp", ""),
        ("anycast status", "whether it is announced, and if not, why"),
    ):
        print(f"  {command:<52} {what}".rstrip())
    print(
        "With direct routing each real server holds the VIP on lo and answers no ARP for it: README, Run it, 3."
    )
    return ExitCode.OK


def _answers(args: argparse.Namespace) -> dict[str, Any]:
    """By option. What is not given is asked for on a terminal. Raises _AnswerError, EOFError."""
    asks = sys.stdin is not None and sys.stdin.isatty()
    missing = [one.flag for one in _QUESTIONS if not getattr(args, one.option)]
    if missing and not asks:
        what = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        raise _AnswerError(f"{what} (write them, or run it on a terminal, where it asks)")
    answers: dict[str, Any] = {}
    for one in _QUESTIONS:
        if given := getattr(args, one.option):
            answers[one.option] = one.read([given] if isinstance(given, str) else given)
        else:
            answers[one.option] = _ask(one)
    local: list[Address] = answers["address"]
    if args.router_id is None and all(address.version == 6 for address in local):
        if not asks:
            raise _AnswerError(
                "--router-id is missing (with IPv6 alone: an IPv4 number that no other node has)"
            )
        words = "Router ID, an IPv4 number that no other node has, as in 10.255.0.1"
        args.router_id = _ask(_Question("router_id", "--router-id", words, _router_id))
    return answers


def _ask(question: _Question) -> Any:
    """Until the answer can be used."""
    default = _own_address() if question.option == "address" else ""
    while True:
        sys.stderr.write(f"{question.words}{f' [{default}]' if default else ''}: ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        try:
            return question.read([line.strip() or default])
        except _AnswerError as error:
            print(f"  {printable(str(error))}", file=sys.stderr)


def _own_address() -> str:
    """The address packets to elsewhere would leave with; nothing is sent. Empty: there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
            return str(sock.getsockname()[0])
        except OSError:
            return ""


def _value(kind: Any, text: str) -> Any:
    """By the reader of the configuration's own values."""
    from pydantic_core import PydanticCustomError

    try:
        return kind(int(text) if text.isascii() and text.isdecimal() else text)
    except PydanticCustomError as error:
        raise _AnswerError(str(error)) from None


def _split(given: Iterable[str]) -> list[str]:
    words = [word for one in given for word in _WORDS.split(one.strip()) if word]
    if not words:
        raise _AnswerError("an answer is needed")
    return words


def _addresses(given: Sequence[str]) -> list[Address]:
    from anycast.config.schema import scalars

    return [_value(scalars.any_address, word) for word in _split(given)]


def _servers(given: Sequence[str]) -> list[Address]:
    for word in _split(given):
        host, _, port = word.rpartition(":")
        if "." in host and port.isdecimal():
            raise _AnswerError(
                f"write {host} alone: a real server serves the VIP's port; another one is for forwarding: nat, in the "
                f"file, as in servers: [{word}]"
            )
    return _addresses(given)


def _one_of_each(given: Sequence[str]) -> list[Address]:
    found = _addresses(given)
    if len({address.version for address in found}) < len(found):
        raise _AnswerError("write one address of each family at most")
    return found


def _router_id(given: Sequence[str]) -> Address:
    (found, *more) = _addresses(given)
    if more or found.version != 4:
        raise _AnswerError("write one IPv4 address")
    return found


def _as(given: Sequence[str]) -> int:
    from anycast.config.schema import scalars

    words = [word for word in _split(given) if word.lower() != "as"]
    if len(words) != 1:
        raise _AnswerError("write one AS number, as in 65001")
    return int(_value(scalars.as_number, words[0]))


def _routers(given: Sequence[str]) -> list[tuple[Address, int]]:
    from anycast.config.schema import scalars

    words = [word for word in _split(given) if word.lower() != "as"]
    if len(words) % 2:
        raise _AnswerError("write an address and an AS number for each, as in 10.2.1.254 AS65000")
    pairs = zip(words[::2], words[1::2], strict=True)
    return [
        (_value(scalars.any_address, address), int(_value(scalars.as_number, asn))) for address, asn in pairs
    ]


def _vip(given: Sequence[str]) -> tuple[list[Address], list[str]]:
    """The addresses, then the ports: `192.0.2.1 80 443`, `192.0.2.53 2001:db8::53 53/udp`."""
    from anycast.config.schema import scalars

    addresses: list[Address] = []
    ports: list[str] = []
    for word in _split(given):
        if word.lower() in ("port", "ports"):
            continue
        if "." in word or ":" in word:
            host, _, port = word.rpartition(":")
            if "." in host and port.isdecimal():
                raise _AnswerError(f"the address and the port are two words: write {host} {port}")
            addresses.append(_value(scalars.any_address, word))
        else:
            _value(scalars.any_ports, word)
            ports.append(word)
    if not addresses or not ports:
        raise _AnswerError("write its address and a port, as in 192.0.2.1 443")
    return addresses, ports


_QUESTIONS = (
    _Question(
        "address", "--address", "This node's address toward the routers, one of each family", _one_of_each
    ),
    _Question("asn", "--as", "This node's AS number, as in 65001", _as),
    _Question("router", "--router", "The routers, each with its AS, as in 10.2.1.254 AS65000", _routers),
    _Question(
        "vip", "--vip", "The virtual IP and its ports, as in 192.0.2.1 80 443 or 192.0.2.53 53/udp", _vip
    ),
    _Question("server", "--server", "The real servers, as in 10.9.2.1 10.9.2.2", _servers),
)


def _text(answers: dict[str, Any], args: argparse.Namespace) -> str:
    """The file. What it says is said in words that stay true when it is changed."""
    local: list[Address] = answers["address"]
    addresses, ports = answers["vip"]
    is_udp = any("/udp" in port.lower() for port in ports)
    check = args.check or ("udp" if is_udp else "tcp")
    own = [str(address) for address in local if address.version == 4]
    lines = [
        f"# yaml-language-server: $schema={_schema()}",
        "#",
        "# Written by `anycast init`. `anycast check` says what is wrong, `anycast budget` how long an outage can last,",
        "# `anycast doctor` what this node still needs. README.md and docs/ explain the rest.",
        "",
        "bgp:",
        f"  local_as: {answers['asn']}",
        f"  router_id: {args.router_id or own[0]}  # an IPv4 number of this node's own: its address, if it has one",
    ]
    if any(address.version == 6 for address in local):
        lines.append(f"  local_address: {_listed(local)}  # this node's end of the sessions")
    lines += [
        "  # password_file: /etc/anycast/bgp.password  # TCP MD5 with every router; nothing else reads the file",
        "  # bfd: true  # a dead node is noticed in a fraction of a second: docs/routers.md",
        "  neighbors:",
        *(
            f"    - {{address: {_quoted(str(router))}, remote_as: {asn}}}"
            for router, asn in answers["router"]
        ),
        "",
        "vips:",
        f"  {args.name}:",
        f"    address{'es' if len(addresses) > 1 else ''}: {_listed(addresses)}  # announced while enough servers are up",
        f"    port{'s' if len(ports) > 1 else ''}: {_listed(ports)}",
        f"    servers: {_listed(answers['server'])}",
        f"    check: {check}  # {_ABOUT.get(check, 'its settings: docs/checks.md')}",
        f"    forwarding: {args.forwarding}  # {_FORWARDING[args.forwarding]}",
        "    quorum: 1  # usable real servers that the VIP needs: a number, or a share such as 50%",
    ]
    return "\n".join(lines) + "\n"


_ABOUT = {
    "tcp": "a handshake; better is what proves the service, as in {type: http, path: /health}",
    "udp": 'only "port unreachable" fails; better is what proves the service, as in {type: dns, name: www.example.net}',
    "http": "a status 2xx of /; {type: http, host: www.example.net, path: /health} asks for more",
    "https": "the certificate must be valid: {type: https, host: www.example.net, path: /health} says for which name",
}
_FORWARDING = {
    "dr": "the real servers hold the VIP on lo and answer the clients themselves: README.md",
    "nat": "the answers come back through this node: it is the real servers' route to the clients",
    "tunnel": "the real servers take the packets out of IP in IP and hold the VIP",
}


def _schema() -> str:
    import anycast.config

    return str(Path(anycast.config.__file__).with_name("schema.json"))


def _listed(values: Iterable[object]) -> str:
    found = [_quoted(str(value)) for value in values]
    return found[0] if len(found) == 1 else f"[{', '.join(found)}]"


def _quoted(text: str) -> str:
    return f'"{text}"' if ":" in text else text
