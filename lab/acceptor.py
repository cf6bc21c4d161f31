"""A target of checks that is as cheap as can be: accepts whatever comes, and closes it. `python lab/acceptor.py PORT`.

The standard library only. Says a line once it listens.
"""

from __future__ import annotations

import errno
import socket
import sys
import time

BACKLOG = 4096
NAP = 0.005  # seconds: many are taken at once, for waking up costs more than they do


def serve(port: int) -> None:
    with socket.create_server(("", port), backlog=BACKLOG) as listener:
        print("listening", flush=True)
        listener.setblocking(False)
        while True:
            try:
                listener.accept()[0].close()
            except BlockingIOError:
                time.sleep(NAP)
            except OSError as error:  # reset before it was taken
                if error.errno not in (errno.ECONNABORTED, errno.ECONNRESET):
                    raise


if __name__ == "__main__":
    serve(int(sys.argv[1]))
