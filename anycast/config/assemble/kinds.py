"""Kinds of checks that are probed: what of each must fit together."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from anycast.config.assemble.context import Assembler
from anycast.config.assemble.hooks import secret
from anycast.config.problem import Path, shown
from anycast.config.schema import checks as forms
from anycast.config.schema.scalars import spell_duration
from anycast.core.values import checks as kinds

_QUIET = 0.2  # seconds
_LEFT = 0.05  # seconds of the timeout that a check needs beside its quiet: to connect, and for a busy moment of this node
_ONE_OF_TWO = "remove one of the two lines"
_OWN_HEADERS = {
    "connection": "remove it: the check always asks to close",
    "content-length": "remove it",
    "expect": "remove it: the check sends no body",
    "host": "write host: beside headers",
    "transfer-encoding": "remove it",
    "upgrade": "remove it",
}


class Kinds(Assembler):
    """Kinds as written to kinds of the core."""

    def kind(self, path: Path, check: forms.Check) -> kinds.Kind | None:
        known = {}
        if issubclass(check.CORE, kinds.AimedKind):
            known["port"] = check.port
        if check.CORE is kinds.HttpCheck:
            known["tls"] = check.type == "https"
        kind = self._built(path, check, check.CORE, **known)
        if isinstance(tls := getattr(kind, "tls", None), kinds.Tls):
            self._files((*path, "tls"), tls)
        match kind:
            case forms.Tcp():
                return self._tcp(path, kind, check)
            case forms.Udp():
                return self._udp(path, kind, check)
            case forms.Banner():
                return self._banner(path, kind, check.port)
            case forms.Syslog():
                return self._syslog(path, kind, check)
            case kinds.HttpCheck():
                self._http(path, kind, check)
            case kinds.DnsCheck():
                return self._dns(path, kind)
            case kinds.GrpcCheck() if importlib.util.find_spec("h2") is None:
                what = "a grpc check needs h2, which is not installed"
                self._say((*path, "type"), what, "pip install 'anycast[grpc]'")
            case kinds.CommandCheck():
                return self._command(path, kind)
            case kinds.GatewayCheck():
                self._gateway(path, kind)
        return kind

    def _tcp(self, path: Path, tcp: forms.Tcp, check: forms.Check) -> kinds.Kind:
        self._quiet(path, tcp.quiet, check)
        if tcp.quiet is None:
            return kinds.TcpCheck(port=check.port)
        return kinds.TcpQuietCheck(port=check.port, quiet=tcp.quiet)

    def _quiet(self, path: Path, quiet: float | None, check: forms.Check) -> float:
        """How long nothing may happen, which must be over within the timeout, and leave time for the rest."""
        timeout: float = check.timeout
        if quiet is None:
            return min(_QUIET, timeout / 2)
        longest = timeout - min(_LEFT, timeout / 2)
        if quiet > longest and self._whole((*path, "timeout")):
            what = (
                "it is not shorter than the timeout"
                if quiet >= timeout
                else f"it leaves {spell_duration(round(timeout - quiet, 6))} of the timeout: working servers would fail by chance"
            )
            do = f"write at most {spell_duration(round(longest, 6))}, or a longer timeout"
            self._say((*path, "quiet"), what, do)
        return quiet

    def _udp(self, path: Path, udp: forms.Udp, check: forms.Check) -> kinds.Kind:
        if udp.send is not None and udp.send_hex is not None:
            self._say((*path, "send_hex"), "send is written too", "keep one of the two", key=True)
        quiet = udp.quiet
        if quiet is not None and (udp.expect is not None or udp.expect_hex is not None):
            what = "it is for checks that expect no reply"
            self._say((*path, "quiet"), what, "remove it: the timeout bounds the wait", key=True)
            quiet = None
        return kinds.UdpCheck(
            port=check.port,
            send=udp.send or udp.send_hex or b"",
            expect=udp.expect,
            prefix=udp.expect_hex or b"",
            quiet=self._quiet(path, quiet, check),
        )

    def _banner(self, path: Path, banner: forms.Banner, port: int | None) -> kinds.Kind | None:
        steps: list[kinds.Expect | kinds.Send] = []
        for n, step in enumerate(banner.steps):
            if (step.expect is None) == (step.send is None):
                place = (*path, "steps", n)
                if self._whole(place):
                    self._say(place, "a step is either expect or send", "write one of them in each step")
            elif step.expect is not None:
                steps.append(kinds.Expect(step.expect))
            elif step.send is not None:
                steps.append(kinds.Send(step.send if step.send.endswith(b"\n") else step.send + b"\r\n"))
        if steps and not any(isinstance(step, kinds.Expect) for step in steps):
            what = "nothing is expected, so the check proves no more than tcp does"
            self._say((*path, "steps"), what, 'write a step with expect, as in {expect: "^220 "}')
        return kinds.BannerCheck(steps=tuple(steps), port=port, tls=banner.tls) if steps else None

    def _syslog(self, path: Path, syslog: forms.Syslog, check: forms.Check) -> kinds.Kind:
        port = check.port
        proofs = [name for name in ("proof_port", "proof_file") if getattr(syslog, name) is not None]
        if syslog.transport == "tcp":
            for name in proofs:
                if self._whole((*path, "transport")):
                    what = "over TCP no message is sent"
                    self._say((*path, name), what, "write transport: udp, or remove the line", key=True)
            return kinds.SyslogCheck(port=port, tls=syslog.tls, quiet=self._quiet(path, syslog.quiet, check))
        if syslog.tls is not None:
            do = "write transport: tcp, or remove the line"
            self._say((*path, "tls"), "UDP has no TLS", do, key=True)
        if syslog.quiet is not None:
            do = "write transport: tcp, or remove the line"
            self._say((*path, "quiet"), "over UDP there is no connection to leave open", do, key=True)
        if not proofs and self._whole((*path, "proof_port"), (*path, "proof_file")):
            what = "over UDP nothing confirms that a message arrived"
            self._say((*path, "transport"), what, "write proof_port or proof_file, or use type: udp")
        if len(proofs) == 2:
            self._say((*path, "proof_file"), "proof_port is written too", "keep one of the two", key=True)
        return kinds.SyslogCanaryCheck(port=port, proof_port=syslog.proof_port, proof_file=syslog.proof_file)

    def _dns(self, path: Path, check: kinds.DnsCheck) -> kinds.DnsCheck:
        from dns.exception import DNSException
        from dns.name import root
        from dns.rdata import from_text

        answer: list[str] = []
        for n, text in enumerate(check.answer):
            try:
                record = from_text("IN", check.record, text, origin=root, relativize=False)
                answer.append(record.to_text())
            except (DNSException, ValueError) as error:
                if self._whole((*path, "record")):
                    what = f"{shown(text)} is not what a record of type {check.record} holds: {error}"
                    self._say((*path, "answer", n), what, "write it as a zone file does")
        if check.answer and check.rcode != "NOERROR":
            what = f"there are no answers with {check.rcode}"
            self._say((*path, "answer"), what, _ONE_OF_TWO, key=True)
        return replace(check, answer=tuple(answer))

    def _command(self, path: Path, check: kinds.CommandCheck) -> kinds.CommandCheck | None:
        program = check.argv[0]
        if not program.startswith("/"):
            if self._whole((*path, "argv")):
                what = f"{shown(program)} is not an absolute path"
                self._say((*path, "argv", 0), what, "write its full path, as in /usr/bin/true")
            return None
        self._need((*path, "argv", 0), program, "program")
        return check

    def _gateway(self, path: Path, check: kinds.GatewayCheck) -> None:
        place = (*path, "interface")
        if check.by == "neighbor" and check.address is not None and check.interface is None:
            what = "it is missing, and by: neighbor needs it"
            self._say_missing(place, what, "write the gateway's interface")
        if check.interface is not None and (check.address is None or check.by == "ping"):
            self._say(place, "it is for an address with by: neighbor", "remove the line", key=True)

    def _http(self, path: Path, http: kinds.HttpCheck, check: forms.Check) -> None:
        if check.expect == []:
            do = 'write one, as in [200] or ["2xx"]'
            self._say_missing((*path, "expect"), "no status is success", do)
        token = secret(self._context, path, "token", http.token_file, http.token_env)
        secret(self._context, path, "headers", http.headers_file, http.headers_env)
        if token is not None and any(name.lower() == "authorization" for name in check.headers):
            what = "the token makes this header"
            self._say((*path, "headers"), what, "remove Authorization from it, or the token", key=True)
        for name in check.headers:
            if instead := _OWN_HEADERS.get(name.lower()):
                what = "the check writes this header itself"
                self._say((*path, "headers", name), what, instead, key=True)
        if http.body is not None and http.method == "HEAD":
            what = "the answer to HEAD has no body"
            self._say((*path, "body"), what, "write method: GET, or remove the line", key=True)
        if http.body is not None and http.keep_alive:
            what = "the connection is not kept if the body is read"
            self._say((*path, "keep_alive"), what, "remove this line, or body", key=True)
        self._files(path, http)

    def _files(self, path: Path, tls: kinds.TlsFields) -> None:
        self._need((*path, "ca"), tls.ca, "authority")
        self._need((*path, "certificate"), tls.certificate, "certificate")
        self._need((*path, "key"), tls.key, "key")
        if tls.key is not None and tls.certificate is None:
            what = "it is missing, and there is a key"
            self._say_missing((*path, "certificate"), what, "write the certificate's file too")
        if tls.ca is not None and not tls.verify:
            what = "nothing is verified with verify: false"
            self._say((*path, "ca"), what, _ONE_OF_TWO, key=True)
