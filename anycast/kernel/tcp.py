"""What TCP connections of this network namespace have to send, and their end."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from functools import partial

from anycast.kernel import tcp_codec as codec
from anycast.kernel.netlink import Netlink, RefusedError
from anycast.kernel.tcp_codec import Connection, Sending

_ENDED = frozenset({errno.ENOENT, errno.ESTALE})  # there is none any more, or another one with the same ends


class Tcp:
    """Over a netlink socket of its own. Asking needs no rights, ending CAP_NET_ADMIN."""

    def __init__(self) -> None:
        self._netlink = Netlink(codec.NETLINK_SOCK_DIAG)

    def close(self) -> None:
        self._netlink.close()

    async def find(self, families: Iterable[int], ports: Iterable[int]) -> list[Sending]:
        """Established connections with one of these ports at either end. Families: 4, 6. Raises OSError, Malformed.

        The kernel goes through all its connections for that: milliseconds where there are many.
        """
        found: dict[bytes, Sending] = {}
        for family in (socket.AF_INET if each == 4 else socket.AF_INET6 for each in families):
            for port in ports:
                for ends in ({"local_port": port}, {"remote_port": port}):
                    framed = partial(codec.listed, family=family, **ends)
                    dump = await self._netlink.dump(framed, codec.parse)
                    found.update((one.connection.cookie, one) for one in dump.found if one is not None)
        return list(found.values())

    async def look(self, one: Connection) -> Sending | None:
        """As it is now; None: it has ended. Raises OSError, Malformed."""
        try:
            return await self._netlink.answer(lambda sequence: codec.asked(sequence, one), codec.parse)
        except RefusedError as error:
            if error.errno in _ENDED:
                return None
            raise

    async def end(self, one: Connection) -> None:
        """Raises OSError: EOPNOTSUPP where the kernel was built without it, EPERM without the right."""
        errors = await self._netlink.write(lambda sequence: codec.destroyed(sequence, one))
        if errors and (code := errors[0]) not in _ENDED:
            raise OSError(code, os.strerror(code))
