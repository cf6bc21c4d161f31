"""What it costs by itself to start programs: `python -I -S lab/spawn_load.py PROGRAM RATE`.

By posix_spawn, one at a time, evenly, each waited for. Nothing else: no output is read, nothing has a time limit. The
standard library only.
"""

from __future__ import annotations

import os
import sys
import time


def main() -> None:
    program, rate = sys.argv[1], float(sys.argv[2])
    due = time.monotonic()
    while True:
        pid = os.posix_spawn(program, [program], {"PATH": "/usr/bin:/bin"}, setsid=True)
        os.waitpid(pid, 0)
        due += 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
