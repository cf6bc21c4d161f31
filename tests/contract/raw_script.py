"""A script for ExaBGP with no opinion: what comes in at a FIFO it says in one write, what it hears it keeps in a file."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path


def hear(answers: Path) -> None:
    with answers.open("ab", buffering=0) as file:
        while data := os.read(0, 65536):
            file.write(data)
    os._exit(0)


def say(orders: Path) -> None:
    while True:
        with orders.open("rb", buffering=0) as fifo:
            while data := fifo.read(65536):
                os.write(1, data)


if __name__ == "__main__":
    threading.Thread(target=hear, args=(Path(sys.argv[2]),), daemon=True).start()
    say(Path(sys.argv[1]))
