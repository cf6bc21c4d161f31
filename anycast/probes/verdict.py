"""Whose fault an exception of a run is: the target's, this node's, or a defect of ours. Decided here and nowhere else.

`verdict` takes any exception, so no kind of check needs rules of its own. The order is the policy:

1. What a kind raises on purpose says it itself: PeerError is the target's failure, UnusableError this node's fault.
2. TLS that goes wrong is the target's failure, unless it has said nothing yet: then our settings are no good.
3. Memory that is short is this node's fault. What a peer makes us read and keep has a bound.
4. An error of the kernel is judged by its number.
5. Anything else is a defect of ours. If the peer has said something, its bytes have set it off, and the target
   fails: a server must not stay in use because its answers confuse us. If it has said nothing, nothing is proven:
   such a defect may hit every server at once, and must not withdraw them all the moment it appears.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl

from anycast.core.health.phase import Fault
from anycast.core.values.configuration import Target
from anycast.probes.finding import Finding, PeerError, UnusableError, fail, one_line, unknown, unusable
from anycast.regex import RegexError

__all__ = ["fault_of", "judge", "judged", "tell", "tls_detail", "verdict"]

# The whole list of what the kernel makes of answers from the network (ICMP, ICMPv6, RST, silence) and of a
# missing route. IPVS would send along the same route, so no route is the target's failure too. EACCES is what
# a firewall's "administratively prohibited" becomes over IPv6. ENOTCONN: the peer has reset the connection before
# we asked something of the socket. Every other error is of this node's making: it proves nothing.
_FROM_THE_NETWORK = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "EMSGSIZE"),
        *("ENETUNREACH", "ENONET", "ENOPROTOOPT", "ENOTCONN", "EOPNOTSUPP", "EPIPE", "EPROTO", "ETIMEDOUT"),
    )
)

_FAULTS: dict[int, Fault] = {
    getattr(errno, name): fault
    for fault, names in {
        Fault.LINK: "ENETDOWN ENODEV ENXIO",
        Fault.DESCRIPTORS: "EMFILE ENFILE ENOBUFS ENOMEM ENOSR",
        Fault.PORTS: "EADDRINUSE EADDRNOTAVAIL",
        Fault.FORK: "EAGAIN",  # sockets are waited for: a process or a thread cannot be started
        Fault.PERMISSION: "EACCES EISDIR ELOOP ENOENT ENOTDIR EPERM",
        Fault.CONFIGURATION: "EAFNOSUPPORT EPROTONOSUPPORT ESPIPE",
    }.items()
    for name in names.split()
}

_WHAT_TO_DO = {
    errno.EADDRNOTAVAIL: "no free local port or no local address: see net.ipv4.ip_local_port_range",
    errno.EAGAIN: "raise TasksMax or LimitNPROC of the agent",
    errno.EMFILE: "raise LimitNOFILE of the agent",
    errno.ENFILE: "raise fs.file-max",
    errno.EPERM: "a security policy of this node forbids it",
}

_CERTIFICATE_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_NOT_TLS = frozenset(
    {"HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"}
)
_REFUSED_US = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)

_FORESEEN = (PeerError, UnusableError, RegexError, OSError, MemoryError)  # SSLError is an OSError


def verdict(error: Exception, *, heard: bool) -> Finding:
    """What a run has found out that ends with `error`. `heard`: its peer had said something. Never raises."""
    match error:
        case PeerError():
            return fail(str(error))
        case UnusableError():
            return unusable(error, error.fault)
        case RegexError():
            return unusable(error)
        case ssl.SSLError():
            return _of_tls(error, heard=heard)
        case MemoryError():
            return unusable("this node has no memory left (MemoryError)", Fault.DESCRIPTORS)
        case OSError():
            return judge(error)
        case _ if heard:
            return fail(f"its answer cannot be read: {_named(error)}")
        case _:
            return unknown(f"internal error, please report it: {_named(error)}", Fault.INTERNAL)


def judged(error: Exception, target: Target | None, *, heard: bool) -> Finding:
    """The verdict; a defect of ours is told as well. To be called inside the event loop."""
    finding = verdict(error, heard=heard)
    if not isinstance(error, _FORESEEN):
        tell(error, target, finding)
    return finding


def tell(error: BaseException, target: Target | None, finding: Finding | None = None) -> None:
    """Tell of a defect by way of the event loop, whose owner logs it: a probe logs nothing itself."""
    context = {"message": "a defect in a check", "exception": error, "target": target, "finding": finding}
    asyncio.get_running_loop().call_exception_handler(context)


def judge(error: OSError) -> Finding:
    """Whose fault an error of the kernel is: the target's or this node's."""
    code = error.errno
    if code is None:
        return unusable(error, Fault.INTERNAL)
    if isinstance(error, socket.gaierror):
        return _unresolved(error)
    text = os.strerror(code)
    text = text[:1].lower() + text[1:]
    where = error.filename
    if code in _FROM_THE_NETWORK and where is None:
        return fail(text)
    name = errno.errorcode.get(code, str(code))
    advice = f"; {_WHAT_TO_DO[code]}" if code in _WHAT_TO_DO else ""
    place = f"{where}: " if where is not None else ""
    return unusable(f"{place}{text} ({name}{advice})", fault_of(error))


def fault_of(error: OSError) -> Fault:
    """What this node lacks, by an error that is not the target's."""
    return _FAULTS.get(error.errno or 0, Fault.INTERNAL)


def _unresolved(error: socket.gaierror) -> Finding:
    """Checks have addresses, not names: all that is looked up is the interface in the zone of an IPv6 address."""
    if error.errno == socket.EAI_NONAME:
        return unusable("this node has no interface of the name after the address's %", Fault.LINK)
    return unusable(f"the resolver: {error.strerror}", Fault.RESOLVER)


def _of_tls(error: ssl.SSLError, *, heard: bool) -> Finding:
    if heard or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return fail(tls_detail(error))
    return unusable(f"the check's TLS settings cannot be used: {_reason(error)[1]}")


def tls_detail(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _CERTIFICATE_EXPIRED:
            return "certificate expired"
        return f"certificate not valid: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "closed within the TLS handshake"
    name, words = _reason(error)
    if name in _NOT_TLS:
        return "no TLS on this port"
    if name in _REFUSED_US:
        return f"the server refuses the client's certificate: {words}"
    return f"TLS failed: {words}"


def _reason(error: ssl.SSLError) -> tuple[str, str]:
    """OpenSSL's name for it, and words."""
    name: str | None = getattr(error, "reason", None)  # OpenSSL alone sets it
    return (name, name.replace("_", " ").lower()) if name else ("", one_line(str(error)))


def _named(error: Exception) -> str:
    """Its type and words. Its words may hold what the peer sent: whoever shows them makes one line of them."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - an exception that cannot say what it is
        return type(error).__name__
