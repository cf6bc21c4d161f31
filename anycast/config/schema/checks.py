"""Checks as the file writes them: the mapping of each kind, made of its class in the core, and the union of them all.

Where the file has another form than the class, the form is in here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union

from pydantic import BeforeValidator, Discriminator, model_validator
from pydantic import Tag as UnionTag

from anycast.config.problem import shown
from anycast.config.schema import scalars as of
from anycast.config.schema.part import WRITTEN, Alone, Part, entry, or_text, part, settings
from anycast.config.schema.scalars import Needed
from anycast.core.names import nearest
from anycast.core.values import checks as kinds
from anycast.core.values import configuration as model
from anycast.core.values.described import Doc, setting

_REFERENCE = "A name from `checks`, a type of check such as tcp, or a check."
_REFERENCES = "Names from `checks`, types of checks, or checks."


class _Tls(Part):
    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if of.truth(value) is True:
            return {}
        if not isinstance(value, dict):
            raise of.unlike(value, "a way to speak TLS", "write true, or a mapping, or remove the line")
        return value


class _HoldDown(Part):
    ALONE = Alone("half_life", (), "a way to hold down", "write true, or a mapping with half_life", true=True)


class _Probed(Part):
    @model_validator(mode="before")
    @classmethod
    def _host_among_headers(cls, value: Any) -> Any:
        """`headers: {Host: www.example.net}` says what `host` says."""
        headers = value.get("headers") if isinstance(value, dict) else None
        if not isinstance(headers, dict) or "host" in value:
            return value
        named = [name for name in headers if isinstance(name, str) and name.lower() == "host"]
        if len(named) != 1:
            return value
        rest = {name: one for name, one in headers.items() if name != named[0]}
        return value | {"host": headers[named[0]], "headers": rest}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tcp:
    quiet: of.Period | None = setting(
        "How long the server must leave the connection open. It must leave 50ms of `timeout`, or half of it if that is "
        "less. Default: a completed handshake is enough.",
        None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Udp:
    send: of.Text | None = setting("What is sent. Default: an empty datagram.", None)
    send_hex: of.Hex | None = setting("The same in hexadecimal.", None)
    expect: of.Expression | None = setting("Regular expression (RE2) to be found in the reply.", None)
    expect_hex: of.Hex | None = setting("The first bytes of the reply, in hexadecimal.", None)
    quiet: of.Period | None = setting(
        "With no reply expected: how long an ICMP unreachable is waited for; 50ms of `timeout` must be left. Default: "
        "200ms, or half of `timeout` if that is shorter.",
        None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BannerStep:
    """A line to expect, or a text to send."""

    expect: of.Expression | None = setting(
        "Regular expression (RE2) of a line. Lines before it are passed over.", None
    )
    send: of.Text | None = setting("Text to send. A line end (CR LF) is added where none is written.", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Banner:
    tls: kinds.Tls | None = setting(kinds.SPEAK_TLS, None)
    steps: Annotated[
        tuple[BannerStep, ...],
        Doc(
            "The dialogue, one step after another.",
            lacks="there is no step",
            write='write [{expect: "^220 "}], for example',
        ),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Syslog:
    transport: Literal["tcp", "udp"] = setting(
        "udp needs proof_port or proof_file, and writes a log line with every run.", "tcp"
    )
    tls: kinds.Tls | None = setting(kinds.SPEAK_TLS, None)
    quiet: of.Period | None = setting(
        "Over tcp: how long the server must leave the connection open before the check closes it; 50ms of `timeout` must "
        "be left. Default: 200ms, or half of `timeout` if that is shorter.",
        None,
    )
    proof_port: of.Port | None = setting("TCP port of the real server that sends the messages it gets.", None)
    proof_file: of.FileName | None = setting("File on this node in which the message must appear.", None)


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class BgpCheck(Part):
    """A BGP session of this node that is established, as ExaBGP reports it. There is nothing to probe."""

    type: Annotated[Literal["bgp"], BeforeValidator(_lower)]
    neighbor: of.AnyAddress | None = entry("The router's address. Default: any one.")


class Member(Part):
    """A check with a weight."""

    REQUIRED = ("check",)

    check: CheckReference | None = entry(_REFERENCE)
    weight: of.MemberWeight = entry("Its weight in the rule.", 1)


class AllCheck(Part):
    """Holds while every one of several checks does."""

    REQUIRED = ("type", "of")

    type: Annotated[Literal["all"], BeforeValidator(_lower)]
    of: list[CheckReference] | None = entry(_REFERENCES)


class AnyCheck(Part):
    """Holds while at least one of several checks does."""

    REQUIRED = ("type", "of")

    type: Annotated[Literal["any"], BeforeValidator(_lower)]
    of: list[CheckReference] | None = entry(_REFERENCES)


class AtLeastCheck(Part):
    """Holds while the weights of the checks that hold come to `needed`."""

    REQUIRED = ("type", "needed", "of")

    type: Annotated[Literal["at_least"], BeforeValidator(_lower)]
    needed: Needed | None = entry("The weight that must be reached. A check without a weight counts for 1.")
    of: list[OfMember] | None = entry("Names from `checks`, checks, or mappings with `check` and `weight`.")


Tls = part(kinds.Tls, _Tls)
WRITTEN[kinds.Tls] = Annotated[Tls, or_text({"const": True})]
HoldDown = part(model.HoldDown, _HoldDown)
WRITTEN[model.HoldDown] = Annotated[HoldDown, or_text({"const": True})]
part(BannerStep)
_FORMS: Mapping[type[kinds.Kind], type] = {
    kinds.TcpCheck: Tcp,
    kinds.UdpCheck: Udp,
    kinds.BannerCheck: Banner,
    kinds.SyslogCheck: Syslog,
}
_TO = (
    "vip: packets go to the VIP's address at the real server, by the way of clients' packets: over the link with "
    "forwarding: dr, by the tunnel with forwarding: tunnel. It proves that the real server takes them and holds the VIP. "
    "Needs CAP_NET_RAW."
)
_FULL_SIZE = (
    "With `to: vip`, forwarding: tunnel and TCP: a packet of the largest size must pass too, once in ten seconds. "
    "Default: true."
)
_OF_TLS = [field.name for field in fields(kinds.Tls)]


def asks_a_port(kind: type[kinds.Kind]) -> bool:
    """Whether it may be aimed at the VIP: the connection of an idle check is the kernel's, and this node has the VIP."""
    return issubclass(kind, kinds.AimedKind) and kind is not kinds.IdleCheck


def _probed(kind: type[kinds.Kind], name: str, without: list[str]) -> type[Part]:
    """What all checks have, where it is aimed, its type, and what it has besides."""
    first = settings(model.Check, () if kind.CONNECTS and kind is not kinds.IdleCheck else ("tripwire",))
    if issubclass(kind, kinds.AimedKind | kinds.IcmpCheck):
        first["address"] = (of.AnyAddress | None, entry("Default: the real server's address."))
    if issubclass(kind, kinds.AimedKind):
        first["port"] = (of.Port | None, entry("Default: the port the real server is served on."))
    if asks_a_port(kind):
        first["to"] = (Annotated[str, of.choice(["server", "vip"])], entry(_TO, "server"))
        first["full_size"] = (of.Flag | None, entry(_FULL_SIZE))
    first["type"] = (Annotated[Literal[name], BeforeValidator(_lower)], ...)
    return part(
        _FORMS.get(kind, kind),
        _Probed if kind is kinds.HttpCheck else Part,
        name=kind.__name__.replace("Http", name.title()),
        doc="As http, over TLS." if name == "https" else kind.__doc__,
        first=first,
        without=without,
    )


def _checks() -> Mapping[str, type[Part]]:
    """The mapping of each kind, by its name."""
    mappings: dict[str, type[Part]] = {}
    for kind in kinds.KINDS:
        if kind is kinds.HttpCheck:
            mappings["http"] = _probed(kind, "http", ["tls", *_OF_TLS])
            mappings["https"] = _probed(kind, "https", ["tls"])
        elif kind.TYPE not in mappings:
            mappings[kind.TYPE] = _probed(kind, kind.TYPE, [])
    return mappings | {"bgp": BgpCheck, "all": AllCheck, "any": AnyCheck, "at_least": AtLeastCheck}


CHECKS: Mapping[str, type[Part]] = _checks()
_COMMON = "tcp, http, https, udp, dns"


_OTHER_NAMES = {
    **dict.fromkeys(
        ("smtp", "imap", "pop3", "ftp", "ssh", "redis", "mysql", "nntp", "sip"),
        '{type: banner, steps: [{expect: "^220 "}]}, with the words of the protocol (docs/checks.md)',
    ),
    **dict.fromkeys(("ping", "echo"), "{type: icmp}"),
    **dict.fromkeys(("script", "exec", "external", "misc"), "{type: command, argv: [/usr/local/bin/check]}"),
    **dict.fromkeys(("ssl", "tls"), "{type: https, host: www.example.net}"),
    "connect": "{type: tcp}",
}
"""Types by what people and other programs call them, with what is to be written."""


def of_another_name(kind: object) -> str:
    """What is to be written for a type of check that has another name here; empty: nothing is known."""
    return _OTHER_NAMES.get(kind.lower(), "") if isinstance(kind, str) else ""


def unknown_type(kind: Any) -> tuple[str, str]:
    """What is said of a type of check that there is not: what it is, and what to do."""
    what = f"{shown(kind)} is not a type of check"
    if meant := of_another_name(kind):
        return what, f"write {meant}"
    if isinstance(kind, str) and (near := nearest(kind, CHECKS)):
        return what, f"did you mean {near}?"
    return what, f"the most used are {_COMMON}; docs/checks.md has them all"


def _form_of_check(value: Any) -> str | None:
    kind = _lower(value.get("type") if isinstance(value, dict) else getattr(value, "type", None))
    return f"({kind})" if isinstance(kind, str) and kind in CHECKS else None


def _form_of_member(value: Any) -> str | None:
    if (isinstance(value, dict) and "check" in value) or isinstance(value, Member):
        return "(member)"
    return _form_of_reference(value)


def _form_of_reference(value: Any) -> str | None:
    return "(name)" if isinstance(value, str) else _form_of_check(value)


def _union(form: Callable[[Any], str | None], wrong: str, **more: Any) -> Any:
    """Every kind of check, and `more`, each with its tag."""
    members = [Annotated[kind, UnionTag(f"({name})")] for name, kind in {**more, **CHECKS}.items()]
    tag = Discriminator(form, custom_error_type="no_check", custom_error_message=wrong)
    return Annotated[Union[*members], tag]


_NO_CHECK = "this is no check (write a mapping with type)"
_NO_REFERENCE = "this is no check (write the name of one, a type such as tcp, or a mapping with type)"
if TYPE_CHECKING:
    Check: TypeAlias = Any  # a Part; what it has depends on its kind
    CheckReference: TypeAlias = str | Part
    OfMember: TypeAlias = str | Part
else:
    Check = _union(_form_of_check, _NO_CHECK)
    CheckReference = _union(_form_of_reference, _NO_REFERENCE, name=of.CheckName)
    OfMember = _union(_form_of_member, _NO_REFERENCE, name=of.CheckName, member=Member)
Require = list[CheckReference]
