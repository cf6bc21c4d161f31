"""The fleet: where the other nodes are asked, and what does not go together."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

from anycast.config.assemble.context import Assembler, Context
from anycast.config.assemble.hooks import secret
from anycast.config.problem import Path
from anycast.config.schema import file as schema
from anycast.config.schema.scalars import any_address, listening
from anycast.config.warn import Warned
from anycast.core.fleet.values import Capacity
from anycast.core.values import fleet as model
from anycast.core.values.described import Percent
from anycast.core.values.fleet import PORT, Certificates, Etcd, FleetView, PeerAt, Velocity

if TYPE_CHECKING:
    from anycast.config.validate import Source, Whereabouts

HERE: Path = ("fleet",)
MOST_ENDPOINTS = 16
_FILES = ("certificate", "key", "ca")


class Fleet(Assembler):
    """What is written of the fleet to values of the core. `warned`: what is allowed and rarely meant."""

    def __init__(self, context: Context, source: Source) -> None:
        super().__init__(context)
        self._nodes = source.nodes
        self.warned: list[Warned] = []

    def fleet(self, own: str | None, router_id: IPv4Address | None) -> model.Fleet | None:
        """`own`: this node's name; None: it cannot be told, which is said elsewhere, as of the router id."""
        written = self._context.file.fleet
        if written is None:
            return None
        listen = self._listen(written, router_id)
        peers = self._peers(written, own, listen, router_id)
        etcd, token = (
            self._etcd(written),
            secret(self._context, HERE, "token", written.token_file, written.token_env),
        )
        tls = self._tls((*HERE, "tls"), written.tls, of_node=True)
        velocity, capacity = (
            self._velocity(written.velocity),
            self._built((*HERE, "capacity"), written.capacity, Capacity),
        )
        if velocity is not None and written.view is FleetView.NONE:
            what, do = "nobody is asked, so nothing is limited", "write view: peers or etcd, or remove it"
            self.warned.append(((*HERE, "velocity"), what, do))
        self._alone(written, own)
        self._guards(written)
        if written.view is FleetView.PEERS:
            self._open(tls, token is not None)
        return self._built(
            HERE,
            written,
            model.Fleet,
            listen=listen,
            peers=peers,
            etcd=etcd,
            token=token,
            tls=tls,
            velocity=velocity,
            capacity=capacity or Capacity(),
        )

    def _listen(self, written: schema.Fleet, router_id: IPv4Address | None) -> str:
        if written.listen is not None:
            return written.listen
        return "" if router_id is None or written.view is not FleetView.PEERS else f"{router_id}:{PORT}"

    def _peers(
        self, written: schema.Fleet, own: str | None, listen: str, router_id: IPv4Address | None
    ) -> tuple[PeerAt, ...]:
        others = [one for one in self._nodes if one.name != own]
        host, port = _apart(listen) if listen else ("", PORT)
        # Where it stands once for all it is each node's own address, or every address of each.
        shared = not any(one.listen for one in self._nodes) and written.listen is not None
        if shared and not _is_every(host) and others:
            what = f"every node would listen at {host}"
            do = 'write "0.0.0.0:9645" for the port alone, or listen of each node under nodes'
            self._say((*HERE, "listen"), what, do)
            return ()
        default = port if shared else PORT
        taken = {(str(router_id) if _is_every(host) else host, port): own}
        peers = []
        for one in others:
            peer = self._peer(one, default, needed=written.view is FleetView.PEERS)
            peers.append(peer)
            if not peer.host or written.view is not FleetView.PEERS:
                continue
            if (first := taken.setdefault((peer.host, peer.port), one.name)) != one.name:
                what = f"{one.name} would be asked where {first} is: {peer.host}, port {peer.port}"
                self._say(HERE, what, f"write fleet.listen under nodes.{one.name}", key=True)
        return tuple(peers)

    def _peer(self, node: Whereabouts, port: int, *, needed: bool) -> PeerAt:
        host = ""
        if (listen := _read(listening, node.listen)) is not None:
            host, port = _apart(listen)
        if not host or _is_every(host):
            address = _read(any_address, node.address)
            host = "" if address is None else str(address)
        if host or not needed:
            return PeerAt(name=node.name, host=host, port=port)
        do = f"write its address or fleet.listen under nodes.{node.name}"
        if node.address is None and node.listen is None:
            self._say(HERE, f"it is not known where {node.name} is asked", do, key=True)
        else:
            self.warned.append((HERE, f"{node.name} is not asked, for where is not known", do))
        return PeerAt(name=node.name, port=port)

    def _alone(self, written: schema.Fleet, own: str | None) -> None:
        if not self._nodes and written.view is FleetView.PEERS:
            if own is not None:
                what = "the file names no other node that could be asked"
                self._say(
                    (*HERE, "view") if self._context.stands((*HERE, "view")) else HERE,
                    what,
                    "write `nodes`, or view: etcd",
                )
        elif len(self._nodes) == 1 and written.view is not FleetView.NONE:
            self.warned.append(
                (
                    HERE,
                    "the fleet is this node alone: nobody takes over from it",
                    "name the others under nodes",
                )
            )

    def _guards(self, written: schema.Fleet) -> None:
        others = len(self._nodes) - 1
        if others < 1:
            return
        velocity = written.velocity
        if velocity is not None and velocity.nodes is not None and velocity.nodes > others:
            what = f"all {others + 1} nodes may take back a VIP at once, so it limits nothing"
            self.warned.append(((*HERE, "velocity"), what, f"write {others} at most, or remove it"))
        if velocity is not None and isinstance(velocity.percent, Percent):
            least = 100 // (others + 1) + (100 % (others + 1) > 0)
            if velocity.percent.value < least:
                what = f"it is less than one of {others + 1} nodes that carry alike: it lets none of them go"
                do = f"write {least}% at least, or nodes: 1"
                self.warned.append(((*HERE, "velocity", "percent"), what, do))
        if written.max_out > others:
            what = f"all {others + 1} nodes may be out at once"
            self.warned.append(((*HERE, "max_out"), what, f"write {others} at most"))
        if written.min_announcing > others:
            what = f"there are {others} others: no node ever gets its turn"
            self.warned.append(((*HERE, "min_announcing"), what, f"write {others} at most"))
        elif written.max_out <= others and written.max_out > (most := others + 1 - written.min_announcing):
            what = (
                f"no more than {most} of {others + 1} nodes are ever let out: min_announcing others must stay"
            )
            self.warned.append(((*HERE, "max_out"), what, f"write {most}, or a smaller min_announcing"))

    def _open(self, tls: Certificates | None, token: bool) -> None:  # noqa: FBT001 - whether there is one
        if tls is not None:
            return
        if token:
            what = "the token goes over the network as it is: whoever sees it can ask, and can say that he is another node"
            self.warned.append((HERE, what, "write tls, or leave the token to a network of the nodes' own"))
        else:
            what = "anybody can ask this node, and nothing proves who answers for the others"
            self.warned.append(
                (HERE, what, "write token_file, and tls unless the nodes have a network of their own")
            )

    def _tls(self, path: Path, written: Any, *, of_node: bool) -> Certificates | None:
        """`of_node`: it is shown to others as well."""
        if written is None:
            return None
        lacks = [name for name in _FILES if getattr(written, name) is None]
        one_of_two = ("certificate" in lacks) != ("key" in lacks)
        for name in _FILES:
            place: Path = (*path, name)
            self._need(place, getattr(written, name), {"ca": "authority"}.get(name, name))
            if name in lacks and (of_node or (one_of_two and name != "ca")) and self._whole(place):
                self._say_missing(place, "it is missing", f"write the {name} file")
        return self._built(path, written, Certificates)

    def _etcd(self, written: schema.Fleet) -> Etcd | None:
        path: Path = (*HERE, "etcd")
        etcd = written.etcd
        if etcd is None:
            if written.view is FleetView.ETCD:
                self._say_missing(path, "it is missing", "write endpoints in it")
            return None
        if written.view is FleetView.NONE:
            self.warned.append((path, "etcd is not asked", "write view: peers or etcd, or remove it"))
        if not etcd.endpoints:
            self._say_missing((*path, "endpoints"), "there is no endpoint", "write the members of etcd")
        if len(etcd.endpoints) > MOST_ENDPOINTS:
            self._say(
                (*path, "endpoints"),
                f"there are {len(etcd.endpoints)} endpoints",
                f"write {MOST_ENDPOINTS} at most",
            )
        plain = [one for one in etcd.endpoints if one.startswith("http://")]
        if plain and etcd.tls is not None:
            self._say((*path, "tls"), f"{plain[0]} speaks no TLS", "write https://, or remove tls", key=True)
        open_ = [one for one in plain if not _is_here(one)]
        if open_ and written.view is not FleetView.NONE:
            also = "" if etcd.user is None else ", the password too"
            what = f"what goes to {open_[0]} is not encrypted{also}: whoever is in between can read it, and take and end turns"
            do = "write https://, or leave it to a network of the nodes' own"
            self.warned.append(((*path, "endpoints"), what, do))
        password = secret(self._context, path, "password", etcd.password_file, etcd.password_env)
        if (password is None) != (etcd.user is None):
            lacks = "password_file" if password is None else "user"
            self._say_missing(
                (*path, lacks), "it is missing", "write both user and password_file, or neither"
            )
        tls = self._tls((*path, "tls"), etcd.tls, of_node=False)
        return self._built(path, etcd, Etcd, password=password, tls=tls)

    def _velocity(self, written: schema.Velocity | None) -> Velocity | None:
        if written is None:
            return None
        path: Path = (*HERE, "velocity")
        if written.nodes is not None and written.percent is not None:
            self._say((*path, "percent"), "nodes is written too", "keep one of them", key=True)
        found = self._built(path, written, Velocity)
        if found is None or found.nodes is not None or found.percent is not None:
            return found
        return Velocity(nodes=1, window=found.window)


def _is_here(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(read: Callable[[Any], Any], text: str | None) -> Any:
    """None: there is none, or none that can be used, which is said where it stands."""
    try:
        return None if text is None else read(text)
    except PydanticCustomError:
        return None


def _apart(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def _is_every(host: str) -> bool:
    return bool(host) and ip_address(host).is_unspecified
