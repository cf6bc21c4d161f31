"""The entry: finds the verb and imports no more than that verb needs."""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command line (default: this process's). Returns the exit code; argparse may raise SystemExit(2)."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["announce"]:
        # ExaBGP starts it, again and again if need be, and routes wait for it: nothing else is imported.
        from anycast.plugin.main import main as announce

        return announce(argv[1:])
    if argv[:1] == ["announce-table"]:
        from anycast.announcer.main import main as announce_table

        return announce_table(argv[1:])
    from anycast.cli.run import run

    return run(argv)
