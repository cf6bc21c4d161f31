"""Kinds of checks that are probed: what each must have, and what excludes each other."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import TypeAlias

from anycast.config import schema
from anycast.config.assemble.context import VERSION, Context
from anycast.config.problem import Path, shown
from anycast.core.values import checks as kinds
from anycast.core.values import configuration as model

_QUIET = 0.2  # seconds
_OWN_HEADERS = {
    "connection": "remove it: the check always asks to close",
    "content-length": "remove it",
    "expect": "remove it: the check sends no body",
    "host": "write host: beside headers",
    "transfer-encoding": "remove it",
    "upgrade": "remove it",
}

Probed: TypeAlias = (
    schema.TcpCheck
    | schema.HttpCheck
    | schema.UdpCheck
    | schema.BannerCheck
    | schema.SyslogCheck
    | schema.RelpCheck
    | schema.DnsCheck
    | schema.GrpcCheck
    | schema.IcmpCheck
    | schema.CommandCheck
    | schema.CarrierCheck
    | schema.GatewayCheck
    | schema.LoadCheck
    | schema.MemoryCheck
    | schema.FileCheck
    | schema.IpvsConnectionsCheck
)


class Kinds:
    """Kinds as written to kinds of the core."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def kind(self, path: Path, check: Probed) -> model.CheckKind | None:
        match check:
            case schema.TcpCheck():
                return self._tcp(path, check)
            case schema.HttpCheck():
                return self._http(path, check)
            case schema.UdpCheck():
                return self._udp(path, check)
            case schema.BannerCheck():
                return self._banner(path, check)
            case schema.SyslogCheck():
                return self._syslog(path, check)
            case schema.DnsCheck():
                return self._dns(path, check)
            case schema.GrpcCheck():
                return self._grpc(path, check)
            case schema.IcmpCheck():
                return kinds.IcmpCheck()
            case schema.RelpCheck():
                return kinds.RelpCheck(port=check.port, tls=self._tls((*path, "tls"), check.tls))
            case schema.CommandCheck():
                if not check.argv:
                    self._context.say_missing(
                        (*path, "argv"), "there is no program", "write [/path/of/program, argument]"
                    )
                    return None
                if not check.argv[0].startswith("/"):
                    if self._context.whole((*path, "argv")):
                        what = f"{shown(check.argv[0])} is not an absolute path"
                        self._context.say(
                            (*path, "argv", 0), what, "write where the program lies, as in /usr/bin/true"
                        )
                    return None
                self._context.need((*path, "argv", 0), check.argv[0], "program")
                return model.CommandCheck(argv=tuple(check.argv))
            case schema.CarrierCheck():
                if check.interface is None:
                    self._context.say_missing((*path, "interface"), "it is missing", "write the interface")
                    return None
                return kinds.CarrierCheck(interface=check.interface)
            case schema.GatewayCheck():
                return self._gateway(path, check)
            case schema.LoadCheck():
                if check.max is None:
                    self._context.say_missing((*path, "max"), "it is missing", "write the load that is fine")
                    return None
                return kinds.LoadCheck(most=check.max, minutes=check.minutes)
            case schema.MemoryCheck():
                if check.min_free is None:
                    self._context.say_missing((*path, "min_free"), "it is missing", "write it as in 256MiB")
                    return None
                if isinstance(check.min_free, schema.Percent):
                    return kinds.MemoryCheck(free_percent=check.min_free.value)
                return kinds.MemoryCheck(free=check.min_free)
            case schema.FileCheck():
                if check.path is None:
                    self._context.say_missing((*path, "path"), "it is missing", "write the path")
                    return None
                return kinds.FileCheck(path=check.path, present=check.present)
            case schema.IpvsConnectionsCheck():
                if check.max is None:
                    self._context.say_missing(
                        (*path, "max"), "it is missing", "write a number of connections"
                    )
                    return None
                if isinstance(check.max, schema.Percent):
                    return kinds.IpvsConnectionsCheck(most_percent=check.max.value)
                return kinds.IpvsConnectionsCheck(most=check.max)

    def _tcp(self, path: Path, check: schema.TcpCheck) -> model.TcpCheck | kinds.TcpVipCheck:
        if check.to == "server":
            return model.TcpCheck(port=check.port)
        if check.address is not None:
            what = "with to: vip the VIP is asked for at each real server"
            self._context.say((*path, "address"), what, "remove one of the two lines", key=True)
        return kinds.TcpVipCheck(port=check.port)

    def _gateway(self, path: Path, check: schema.GatewayCheck) -> kinds.GatewayCheck:
        if check.by == "neighbor" and check.address is not None and check.interface is None:
            self._context.say_missing(
                (*path, "interface"),
                "it is missing, and by: neighbor needs it",
                "write the gateway's interface",
            )
        if check.interface is not None and (check.address is None or check.by == "ping"):
            what = "it is for an address with by: neighbor"
            self._context.say((*path, "interface"), what, "remove the line", key=True)
        return kinds.GatewayCheck(
            address=check.address,
            family=VERSION[check.family],
            interface=check.interface,
            by_neighbor=check.by == "neighbor",
        )

    def _udp(self, path: Path, check: schema.UdpCheck) -> kinds.UdpCheck:
        if check.send is not None and check.send_hex is not None:
            self._context.say((*path, "send_hex"), "send is written too", "keep one of the two", key=True)
        if check.quiet is not None:
            if check.expect is not None or check.expect_hex is not None:
                what = "it is for checks that expect no reply"
                self._context.say((*path, "quiet"), what, "remove it: the timeout bounds the wait", key=True)
            elif check.quiet >= check.timeout and self._context.whole((*path, "timeout")):
                self._context.say(
                    (*path, "quiet"), "it is not shorter than the timeout", "write a shorter time"
                )
        return kinds.UdpCheck(
            port=check.port,
            send=check.send or check.send_hex or b"",
            expect=check.expect,
            prefix=check.expect_hex or b"",
            quiet=min(_QUIET, check.timeout / 2) if check.quiet is None else check.quiet,
        )

    def _banner(self, path: Path, check: schema.BannerCheck) -> kinds.BannerCheck | None:
        if not check.steps:
            what = "there is no step"
            self._context.say_missing((*path, "steps"), what, 'write [{expect: "^220 "}], for example')
        steps: list[kinds.Expect | kinds.Send] = []
        for n, step in enumerate(check.steps or []):
            if (step.expect is None) == (step.send is None):
                place = (*path, "steps", n)
                if self._context.whole(place):
                    self._context.say(
                        place, "a step is either expect or send", "write one of them in each step"
                    )
            elif step.expect is not None:
                steps.append(kinds.Expect(step.expect))
            elif step.send is not None:
                steps.append(kinds.Send(step.send if step.send.endswith(b"\n") else step.send + b"\r\n"))
        tls = self._tls((*path, "tls"), check.tls)
        return kinds.BannerCheck(steps=tuple(steps), port=check.port, tls=tls) if steps else None

    def _syslog(self, path: Path, check: schema.SyslogCheck) -> kinds.SyslogCheck | kinds.SyslogCanaryCheck:
        proofs = [name for name in ("proof_port", "proof_file") if getattr(check, name) is not None]
        if check.transport == "udp":
            if check.tls is not None:
                self._context.say(
                    (*path, "tls"), "UDP has no TLS", "write transport: tcp, or remove the line", key=True
                )
            if not proofs and self._context.whole((*path, "proof_port"), (*path, "proof_file")):
                what = "over UDP nothing tells that a message arrived"
                do = "write proof_port or proof_file, or use type: udp"
                self._context.say((*path, "transport"), what, do)
            if len(proofs) == 2:
                self._context.say(
                    (*path, "proof_file"), "proof_port is written too", "keep one of the two", key=True
                )
            return kinds.SyslogCanaryCheck(
                port=check.port, proof_port=check.proof_port, proof_file=check.proof_file
            )
        for name in proofs:
            if self._context.whole((*path, "transport")):
                what = "over TCP no message is sent"
                self._context.say((*path, name), what, "write transport: udp, or remove the line", key=True)
        return kinds.SyslogCheck(port=check.port, tls=self._tls((*path, "tls"), check.tls))

    def _dns(self, path: Path, check: schema.DnsCheck) -> kinds.DnsCheck | None:
        if check.name is None:
            self._context.say_missing((*path, "name"), "it is missing", "write the name to ask for")
            return None
        from dns.exception import DNSException
        from dns.name import root
        from dns.rdata import from_text

        answer: list[str] = []
        for n, text in enumerate(check.answer):
            try:
                record = from_text("IN", check.record, text, origin=root, relativize=False)
                answer.append(record.to_text())
            except (DNSException, ValueError) as error:
                if self._context.whole((*path, "record")):
                    what = f"{shown(text)} is not what a record of type {check.record} holds: {error}"
                    self._context.say((*path, "answer", n), what, "write it as a zone file does")
        if check.answer and check.rcode != "NOERROR":
            what = f"there are no answers with {check.rcode}"
            self._context.say((*path, "answer"), what, "remove one of the two lines", key=True)
        return kinds.DnsCheck(
            name=check.name,
            record=check.record,
            rcode=check.rcode,
            answer=tuple(answer),
            tcp=check.transport == "tcp",
            port=check.port,
        )

    def _grpc(self, path: Path, check: schema.GrpcCheck) -> kinds.GrpcCheck:
        if importlib.util.find_spec("h2") is None:
            what = "a grpc check needs h2, which is not installed"
            self._context.say((*path, "type"), what, "pip install 'anycast[grpc]'")
        tls = self._tls((*path, "tls"), check.tls)
        return kinds.GrpcCheck(service=check.service, authority=check.authority, port=check.port, tls=tls)

    def _tls(self, path: Path, tls: schema.Tls | None) -> kinds.Tls | None:
        if tls is None:
            return None
        self._key(path, tls)
        return kinds.Tls(
            verify=tls.verify,
            name=tls.sni,
            ca=tls.ca,
            certificate=tls.certificate,
            key=tls.key,
            expiry_warning=tls.expiry_warning,
        )

    def _http(self, path: Path, check: schema.HttpCheck) -> model.HttpCheck:
        if check.expect == []:
            self._context.say_missing(
                (*path, "expect"), "no status is success", 'write one, as in [200] or ["2xx"]'
            )
        for name in check.headers:
            if instead := _OWN_HEADERS.get(name.lower()):
                self._context.say(
                    (*path, "headers", name), "the check writes this header itself", instead, key=True
                )
        if check.body is not None and check.method == "HEAD":
            what = "the answer to HEAD has no body"
            self._context.say((*path, "body"), what, "write method: GET, or remove the line", key=True)
        if check.body is not None and check.keep_alive:
            what = "the connection is not kept where the body is read"
            self._context.say((*path, "keep_alive"), what, "remove this line, or body", key=True)
        kind = model.HttpCheck(
            tls=False,
            port=check.port,
            method=check.method,
            path=check.path,
            host=check.host,
            headers=tuple(check.headers.items()),
            expect=frozenset[int]().union(*check.expect) if check.expect else frozenset(range(200, 300)),
            keep_alive=check.keep_alive,
            body=check.body,
        )
        if not isinstance(check, schema.HttpsCheck):
            return kind
        self._key(path, check)
        return replace(
            kind,
            tls=True,
            verify=check.verify,
            sni=check.sni,
            ca=check.ca,
            certificate=check.certificate,
            key=check.key,
            expiry_warning=check.expiry_warning,
        )

    def _key(self, path: Path, check: schema.HttpsCheck | schema.Tls) -> None:
        self._context.need((*path, "ca"), check.ca, "authority")
        self._context.need((*path, "certificate"), check.certificate, "certificate")
        self._context.need((*path, "key"), check.key, "key")
        if check.key is not None and check.certificate is None:
            self._context.say_missing(
                (*path, "certificate"),
                "it is missing, and there is a key",
                "write the certificate's file too",
            )
        if check.ca is not None and not check.verify:
            what = "nothing is verified with verify: false"
            self._context.say((*path, "ca"), what, "remove one of the two lines", key=True)
