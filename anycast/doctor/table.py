"""The connection table: its size against the connections expected, and the memory they take. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from anycast.analysis.connections import (
    BUCKET_SIZE,
    CHAIN,
    CONNECTION_SIZE,
    DEFAULT_BITS,
    FEWEST_BITS,
    MOST_BITS,
    MOST_BITS_SINCE_6_5,
    bits_for,
)
from anycast.core.dataplane.limit import CONN_MAX, NO_LIMIT
from anycast.core.values.configuration import Config, Forwarding
from anycast.doctor.demands import LFACTORS, services
from anycast.doctor.facts import Facts, Module
from anycast.doctor.finding import (
    OPTION_FILE,
    Change,
    Code,
    Finding,
    ModuleOption,
    Severity,
    set_back,
    size_of,
)

CONNECTIONS = 100_000  # expected, where nobody says how many
NEARLY = 80  # percent of conn_max that are taken, from which on it is told
_WIDE_TABLE_SINCE = (6, 5)
_RESIZABLE_SINCE = (7, 1)


def table(facts: Facts, config: Config | None, connections: int | None) -> Iterator[Finding]:
    expected = CONNECTIONS if connections is None else connections
    assumed = "" if connections is not None else " (a guess: say --connections)"
    loaded = facts.conn_tab_bits
    if loaded is None and facts.modules.works("ip_vs"):
        return  # it stands among what could not be read
    most = MOST_BITS_SINCE_6_5 if facts.version >= _WIDE_TABLE_SINCE else MOST_BITS
    option = facts.conn_tab_option
    # The kernel takes its default for a value that it does not allow.
    optional = option.bits if option is not None and FEWEST_BITS <= option.bits <= most else DEFAULT_BITS
    bits = optional if loaded is None else loaded
    memory = f"{expected:,} connections{assumed} take {size_of(expected * CONNECTION_SIZE)} at {CONNECTION_SIZE} B each"
    grows = facts.version >= _RESIZABLE_SINCE
    at_most = " at most" if grows else ""
    now = f"{2**bits:,} buckets{at_most} (conn_tab_bits {bits}{'' if loaded is not None else ' once loaded'})"
    places = expected
    if grows and _masquerades(config):
        places, now = 2 * expected, f"{now}, two places for each masqueraded connection"
    if places / 2**bits <= CHAIN:
        yield Finding(
            severity=Severity.INFO,
            code=Code.CONN_TAB,
            text=f"connection table: {now}, chains of {places / 2**bits:.1f}; {memory}",
        )
    else:
        wanted = bits_for(places, most)
        now = f"connection table: {now}, chains of {places / 2**bits:.1f}"
        if wanted <= bits:
            yield Finding(
                severity=Severity.WARNING,
                code=Code.CONN_TAB_SMALL,
                text=f"{now}, and {most} bits are the most for this kernel; {memory}",
                fix="more balancers"
                + ("" if most == MOST_BITS_SINCE_6_5 else ", or a kernel of 6.5 or later"),
            )
        else:
            more = f"{2**wanted:,} ({wanted} bits, {size_of(2**wanted * BUCKET_SIZE)})"
            yield _small_table(
                facts,
                text=f"{now}; {more} make it {places / 2**wanted:.1f}; {memory}",
                wanted=wanted,
                pending=loaded is not None and optional >= wanted,
            )
    limit = facts.number(CONN_MAX)
    held = facts.entries or 0
    if limit is not None and (limit < expected or held * 100 >= limit * NEARLY):
        taken = f", {held:,} of them taken now" if held else ""
        none = " (0 means none at all, not no limit)" if limit == 0 else ""
        yield Finding(
            severity=Severity.ERROR if limit == 0 else Severity.WARNING,
            code=Code.CONN_MAX,
            text=f"{CONN_MAX} is {limit:,}{none}{taken}, and {expected:,} connections{assumed} are expected: beyond it new "
            "connections, those that come from another balancer and one-packet datagrams are dropped, and nothing "
            "counts them. Closed connections and persistence count until they expire",
            fix=set_back(CONN_MAX, NO_LIMIT),
        )
    if facts.memory is not None and expected * CONNECTION_SIZE > facts.memory / 2:
        yield Finding(
            severity=Severity.WARNING,
            code=Code.CONN_MEMORY,
            text=f"{memory}: more than half of this node's {size_of(facts.memory)}",
            fix="more memory, or more balancers",
        )


def load_factors(facts: Facts) -> Iterator[Finding]:
    """From 7.1 on the tables of connections and services grow, but only so far as these allow."""
    for name, (what, default) in LFACTORS.items():
        factor = facts.number(name)
        if factor is not None and 2**factor > CHAIN:
            yield Finding(
                severity=Severity.WARNING,
                code=Code.LFACTOR,
                text=f"{name} is {factor}: the kernel's table of {what} grows only where a bucket holds more than "
                f"{2**factor} of them, and every packet searches one",
                fix=set_back(name, default),
            )


def _masquerades(config: Config | None) -> bool:
    return config is not None and any(one.forwarding is Forwarding.NAT for _, one in services(config))


def _small_table(facts: Facts, *, text: str, wanted: int, pending: bool) -> Finding:
    option = facts.conn_tab_option
    line = f"options ip_vs conn_tab_bits={wanted}"
    change: tuple[Change, ...] = ()
    again = _reload(facts)
    code = Code.CONN_TAB_SMALL
    if facts.modules.state("ip_vs") is Module.BUILT_IN:
        fix = (
            f"`ip_vs.conn_tab_bits={wanted}` on the kernel's command line (with GRUB: into GRUB_CMDLINE_LINUX of "
            "/etc/default/grub, then `update-grub`), then reboot"
        )
    elif pending and option is not None:
        code, fix = Code.CONN_TAB_PENDING, again
        text = f"{text}; {option.file} has {option.bits} bits, from the next loading of ip_vs on"
    elif option is not None and option.file.rpartition("/")[2] > OPTION_FILE.rpartition("/")[2]:
        # modprobe hands on all files' options in the order of their names; the kernel takes the last.
        fix = f"`{line}` in {option.file}, then {again}"
    else:
        fix = f"`{line}` in {OPTION_FILE}, then {again}"
        change = (ModuleOption(module="ip_vs", option="conn_tab_bits", value=str(wanted)),)
    return Finding(severity=Severity.WARNING, code=code, text=text, fix=fix, changes=change)


def _reload(facts: Facts) -> str:
    loaded = sorted(name for name in facts.modules.loaded if name == "ip_vs" or name.startswith("ip_vs_"))
    if not loaded:
        return "`modprobe ip_vs`"
    users_first = " ".join(reversed(loaded))
    return (
        "reboot, or in maintenance `systemctl stop anycast-agent && ipvsadm --clear && "
        f"modprobe -r {users_first} && modprobe -a {' '.join(loaded)} && systemctl start anycast-agent`"
    )
