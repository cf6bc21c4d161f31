"""sd_notify: messages to a service manager. Standard library only; nothing in here blocks or raises."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping

FEEDS = 5  # within the manager's limit: one that comes late for want of the processor has time to spare
STATUS_EVERY = 1.0  # seconds between two looks whether the line for people has changed


class ServiceManager:
    """READY once, WATCHDOG five times within the manager's limit, STATUS where it has changed.

    Who calls `passed` proves that work was done: there is no timer in here that could feed the watchdog of a
    process that hangs.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._path = f"\0{path[1:]}" if path.startswith("@") else path
        usec = environ.get("WATCHDOG_USEC", "")
        # WATCHDOG_PID is not looked at: for the plugin it names ExaBGP, which hands its environment on and
        # feeds no watchdog itself.
        self.interval = int(usec) / 1e6 / FEEDS if usec.isascii() and usec.isdigit() and self._path else None
        self._ready = False
        self._feed_at = 0.0
        self._status = ""
        self._status_at = 0.0

    def passed(self, now: float, *, ready: bool, status: Callable[[], str] | None = None) -> None:
        """A full pass of the loop is done. `status`: one line for people, asked for once a second at most."""
        if not self._path:
            return
        if ready and not self._ready:
            self._ready = self._send("READY=1")
        if self.interval is not None and now >= self._feed_at:
            self._feed_at = now + self.interval
            self._send("WATCHDOG=1")
        if status is not None and now >= self._status_at:
            self._status_at = now + STATUS_EVERY
            text = " ".join(status().split())
            if text != self._status and self._send(f"STATUS={text}"):
                self._status = text

    def stopping(self) -> None:
        """From now on the end is expected."""
        if self._path:
            self._send("STOPPING=1")

    def _send(self, message: str) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
            try:
                sender.sendto(message.encode("utf-8", "replace"), self._path)
            except OSError:
                return False
            return True
