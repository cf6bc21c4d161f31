"""The main job under load: the common faults of `lab.chaos`, and what the clients notice.

Runs inside the lab's kernel: `python -m lab run -- python -m lab.demo`. Prints progress, then one table; the same
as JSON in `build/demo.json` and as a picture in `build/demo.svg`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from lab.chaos import BUILD, inside
from lab.chaos_plan import options

FAULTS = "steady,drain,agent-kill,exabgp-kill,server-death,server-return,server-add"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.demo", description=__doc__)
    parser.add_argument("--connections", type=int, default=600)
    parser.add_argument("--new", type=float, default=10.0, help="new connections a second")
    parser.add_argument("--json", type=Path, default=BUILD / "demo.json")
    given = parser.parse_args(argv)
    chosen = options(faults=FAULTS, connections=given.connections)
    return inside(dataclasses.replace(chosen, new=given.new), given.json, given.json.with_suffix(".svg"))


if __name__ == "__main__":
    sys.exit(main())
