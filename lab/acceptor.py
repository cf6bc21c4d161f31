"""A target of checks that is as cheap as can be: accepts whatever comes, and closes it later. `python lab/acceptor.py PORT`.

Later than a check does: who closes first has failed. The standard library only. Says a line once it listens.
"""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections import deque

BACKLOG = 4096
HELD = 0.2  # seconds
NAP = 0.005  # seconds: many are taken at once, for waking up costs more than they do


def serve(port: int) -> None:
    with socket.create_server(("", port), backlog=BACKLOG) as listener:
        print("listening", flush=True)
        listener.setblocking(False)
        held: deque[tuple[float, socket.socket]] = deque()
        while True:
            try:
                held.append((time.monotonic() + HELD, listener.accept()[0]))
            except BlockingIOError:
                time.sleep(NAP)
                now = time.monotonic()
                while held and held[0][0] <= now:
                    held.popleft()[1].close()
            except OSError as error:  # reset before it was taken
                if error.errno not in (errno.ECONNABORTED, errno.ECONNRESET):
                    raise


if __name__ == "__main__":
    serve(int(sys.argv[1]))
