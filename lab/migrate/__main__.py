"""Moves sites over to anycast under load, and back: `python -m lab run -- python -m lab.migrate [WAY…]`.

Prints what is typed and answered at each step, and what clients notice. All of it is left in build/migrate.json, beside
what other runs have left there. `--write` plays nothing: it puts transcripts and figures from there into docs/migrate.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import configs
from lab.measuring import leave, options
from lab.migrate import healthcheck, pair
from lab.migrate.play import play
from lab.migrate.written import written

DOCUMENT = configs.checkout() / "docs" / "migrate.md"


def main(argv: Sequence[str] | None = None) -> int:
    parser: argparse.ArgumentParser = options("lab.migrate", __doc__, "migrate.json")
    every = [*pair.WAYS, *healthcheck.WAYS]
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"{', '.join(every)}; default: all of them")
    parser.add_argument("--connections", type=int, default=600)
    parser.add_argument("--write", action="store_true", help="into docs/migrate.md, and play nothing")
    given = parser.parse_args(argv)
    if wrong := set(given.ways) - set(every):
        parser.error(f"no such way: {', '.join(sorted(wrong))}")
    if given.write:
        found = json.loads(Path(given.json).read_text())
        DOCUMENT.write_text(written(DOCUMENT.read_text(), found))
        return 0
    for name in given.ways or every:
        found = play(name, given.connections)
        leave(given.json, {name: found}, f"{name}: {found['words']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
