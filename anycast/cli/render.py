"""`anycast render`: the configuration of other daemons, of this node and of its routers. Needs neither root nor network."""

from __future__ import annotations

import argparse
import errno
import os
import pwd
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anycast import whole_file
from anycast.cli.configuration import report
from anycast.cli.exits import ExitCode
from anycast.cli.parser import default_config
from anycast.config.problem import ConfigError
from anycast.core.rendering import LEARN

if TYPE_CHECKING:
    from anycast.core.values.configuration import Config
    from anycast.render.firewall import Hook

FRR_USER = "frr"
BIRD_USER = "bird"


def run(args: argparse.Namespace) -> int:
    files = _files(args)
    configs: list[Config] = []
    for file in files:
        try:
            configs += _configs(file, args.node, every=args.daemon.startswith("router-"))
        except ConfigError as error:
            code = report(error, file)
            kept = _last_good(file, args.node) if getattr(args, "last_good", False) else None
            if kept is None:
                return code
            print(f"{file}: rendered from the last good configuration of the agent", file=sys.stderr)
            configs.append(kept)
    try:
        text = _text(args, configs)
    except ValueError as error:
        print(f"{', '.join(map(str, files))}: {error}", file=sys.stderr)
        return ExitCode.CONFIG
    written = {} if args.output is None else {args.output: text}
    if isinstance(env := getattr(args, "env", None), Path):
        written[env] = _env(configs[0])
    if args.output is None:
        print(text, end="")
    for file, content in written.items():
        try:
            _replace(file, content, reader=_reader(args.daemon, configs[0]))
        except OSError as error:
            why = error.strerror or error
            print(f"{file}: cannot be written: {why} (check the directory and its mode)", file=sys.stderr)
            return ExitCode.NEGATIVE
    return ExitCode.OK


def _env(config: Config) -> str:
    from anycast.render.exabgp import exabgp_env

    return exabgp_env(config)


def _configs(file: Path, node: str | list[str] | None, *, every: bool) -> list[Config]:
    """Of the node, of those named, or of every one in the file. Raises ConfigError."""
    from anycast.config.load import load, load_every

    if isinstance(node, list):
        return [load(file, node=one).config for one in dict.fromkeys(node)]
    if node is not None or not every:
        return [load(file, node=node).config]
    found: list[Config] = []
    load_every(file, lambda loaded: found.append(loaded.config))
    return found


def _last_good(file: Path, node: str | None) -> Config | None:
    """What an agent with this file would start with. None: there is nothing of use."""
    from anycast.agent.last_good import directories, find
    from anycast.config.kept import DamagedError, contents
    from anycast.config.load import load_kept

    def damaged(why: str) -> None:
        print(why, file=sys.stderr)

    found = find(file, directories(file, given=None, environ=""), damaged)
    try:
        return None if found is None else load_kept(contents(found.path), node=node).config
    except (ConfigError, DamagedError):
        return None


def _files(args: argparse.Namespace) -> list[Path]:
    if isinstance(args.config, Path):
        return [args.config]
    return list(dict.fromkeys(args.config or [default_config()]))


def _text(args: argparse.Namespace, configs: list[Config]) -> str:
    from anycast.render.passwords import with_passwords

    match args.daemon:
        case "exabgp":
            from anycast.render.exabgp import exabgp_conf

            if args.env is True:
                return _env(configs[0])
            if configs[0].speaker.is_table:
                return _no_exabgp(args.output)
            return exabgp_conf(with_passwords(configs[0]), command=_command(), journal=args.journal)
        case "frr-bfd":
            from anycast.render.frr_bfd import frr_bfd_conf

            return frr_bfd_conf(configs[0])
        case "bird":
            from anycast.render.bird import bird_conf

            return bird_conf(with_passwords(configs[0]))
        case "table-env":
            from anycast.render.bird import table_env

            return table_env(configs[0])
        case "nftables":
            from anycast.render.nftables import nftables_accept, nftables_conf

            _warn_of_rules(configs[0], args.accept)
            return (
                nftables_conf(configs[0]) if args.accept is None else nftables_accept(configs[0], args.accept)
            )
        case "iptables":
            from anycast.render.iptables import iptables_rules

            _warn_of_rules(configs[0], "input" if args.accept else None)
            return iptables_rules(configs[0], accept=args.accept, update=args.update)
        case router:
            from anycast.core.values.software import Daemon
            from anycast.render.router import doubts, software
            from anycast.render.router import router as other_end
            from anycast.render.routers import ROUTERS

            daemon = Daemon(router.removeprefix("router-"))
            full = [with_passwords(config, args.neighbor) for config in configs]
            runs = software(full, daemon, only=args.neighbor, version=args.version)
            one = other_end(
                full, only=args.neighbor, router_id=args.router_id, software=runs, ranges=args.range
            )
            text = ROUTERS[daemon](one)
            for what in doubts(full, one):
                print(f"warning: {what}", file=sys.stderr)
            return text


def _no_exabgp(output: Path | None) -> str:
    """Nothing, with which ExaBGP does not start: two would announce. One that runs is not touched."""
    if output is None:
        raise ValueError(
            "speaker: kernel-table announces for this node, and ExaBGP nothing (anycast render bird)"
        )
    print(
        f"{output}: emptied, for speaker: kernel-table announces for this node, and ExaBGP nothing (BIRD gets its configuration "
        f"by {LEARN})",
        file=sys.stderr,
    )
    return ""


def _warn_of_rules(config: Config, hook: Hook | None) -> None:
    """Of what is not in the file of rules, and of packets that they do not fit."""
    from anycast.core.dataplane.passage import passage
    from anycast.render.firewall import doubts, needless

    why = needless(passage(config), hook)
    for what in (*([f"no rule was written: {why}"] if why else ()), *doubts(config)):
        print(f"warning: {what}", file=sys.stderr)


def _reader(daemon: str, config: Config) -> tuple[str, str] | None:
    """Whom else a file of this node is for, and what names that user. A router's is carried to the router."""
    match daemon:
        case "exabgp":
            return config.node.exabgp_user, "node.exabgp_user"
        case "frr-bfd":
            return FRR_USER, "of FRR"
        case "bird":
            return BIRD_USER, "of BIRD"
        case _:
            return None


def _command() -> str:
    """How ExaBGP can start this program."""
    program = os.path.abspath(sys.argv[0])
    if os.path.basename(program) == "anycast" and os.access(program, os.X_OK):
        return program
    return shutil.which("anycast") or f"{sys.executable} -m anycast"


def _replace(file: Path, text: str, *, reader: tuple[str, str] | None) -> None:
    """Its owner stays; it holds passwords.

    Written by root, it is readable for the group of the user `reader` too: ExaBGP reads it again on a reload, when it
    is no longer root, and a reload that cannot read it ends the plugin and leaves its routes.
    """
    file = Path(os.path.realpath(file))
    if file.exists() and not file.is_file():
        raise OSError(errno.EINVAL, "it is no regular file")

    def permit(descriptor: int) -> None:
        if file.exists():
            owner = file.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        if os.geteuid() == 0 and reader is not None:
            _let_read(descriptor, file, *reader)

    whole_file.replace(file, text, permit)


def _let_read(descriptor: int, file: Path, user: str, origin: str) -> None:
    try:
        group = pwd.getpwnam(user).pw_gid
    except KeyError:
        print(
            f"{file}: there is no user {user} ({origin}), so only its owner can read it",
            file=sys.stderr,
        )
        return
    os.fchown(descriptor, -1, group)
    os.fchmod(descriptor, 0o640)
