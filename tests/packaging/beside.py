"""Runs in a Debian that systemd has booted, with the package, a bus, ipvsadm with AUTO=true and needrestart beside it.

What `inside.py` has is in the machine too. The result is /inside.json.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.packaging.inside import (
    AGENT,
    EXABGP,
    ROUTER,
    announced,
    at,
    codes,
    facts,
    main,
    routes,
    run,
    shown,
    until,
)

IPVSADM, OTHER, BOTH = "ipvsadm.service", "other.service", "both.target"
UNITS = Path("/run/systemd/system")
TABLE = Path("/proc/net/ip_vs")
OURS, THEIRS = "TCP  C0000201:0050", "TCP  C6336401:0050"
OTHER_UNIT = """\
[Service]
ExecStart=/usr/lib/anycast/bin/python -c "import time; time.sleep(1e6)"
"""


def booted() -> None:
    until("announced after the boot", announced)
    facts["systemd"] = run("systemctl", "--version")[1].split()[1]
    facts["programs"] = run("dpkg-query", "-W", "ipvsadm", "needrestart", "dbus")[1].splitlines()
    facts["ipvsadm"] = [shown(IPVSADM, name) for name in ("ActiveState", "Result")]
    facts["ipvsadm began before the agent"] = at(IPVSADM, "ActiveEnter") <= at(AGENT, "ExecMainStart")
    facts["table after the boot"] = TABLE.read_text()
    facts["doctor"] = codes()


def restarted() -> None:
    """As an upgrade of ipvsadm does it."""
    before = routes()
    facts["restart of ipvsadm"] = run("systemctl", "restart", IPVSADM)
    until("the table is whole again", lambda: all(one in TABLE.read_text() for one in (OURS, THEIRS)))
    until("announced after the restart of ipvsadm", announced)
    facts["routes of the restart"] = routes()[len(before) :]


def frozen() -> None:
    before = shown(AGENT, "MainPID")
    facts["freeze"] = run("systemctl", "freeze", AGENT)
    facts["frozen"] = {
        "doctor": codes(),
        "state": shown(AGENT, "ActiveState"),
        "freezer": shown(AGENT, "FreezerState"),
    }
    facts["restart of a frozen unit"] = (
        run("systemctl", "restart", AGENT) if facts["systemd"] != "252" else ()
    )
    facts["same agent while frozen"] = shown(AGENT, "MainPID") == before
    facts["thaw"] = run("systemctl", "thaw", AGENT)
    until("announced after the thaw", announced)
    facts["doctor after the thaw"] = codes()


def library_replaced() -> None:
    """As dpkg replaces it: another file of that name."""
    (UNITS / OTHER).write_text(OTHER_UNIT)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", OTHER)
    units = (AGENT, EXABGP, OTHER)
    before = {unit: shown(unit, "MainPID") for unit in units}
    (library,) = Path("/usr/lib").glob("*-linux-gnu/libc.so.6")
    new = library.with_name("libc.new")
    shutil.copy2(library, new)
    new.replace(library)
    facts["needrestart"] = run("needrestart", "-b", "-r", "l")[1].splitlines()
    facts["needrestart that restarts"] = run("needrestart", "-r", "a")[1].splitlines()
    facts["restarted"] = {unit: shown(unit, "MainPID") != before[unit] for unit in units}


def stopped() -> None:
    """Both in one transaction, as at a shutdown."""
    (UNITS / BOTH).write_text("[Unit]\n")
    for unit in (AGENT, IPVSADM):
        part = UNITS / f"{unit}.d/part.conf"
        part.parent.mkdir(exist_ok=True)
        part.write_text(f"[Unit]\nPartOf={BOTH}\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "start", BOTH)
    facts["stop"] = run("systemctl", "stop", BOTH)
    until(
        "both have stopped", lambda: {shown(one, "ActiveState") for one in (AGENT, IPVSADM)} == {"inactive"}
    )
    facts["ipvsadm ended after the agent"] = at(AGENT, "InactiveEnter") <= at(IPVSADM, "ActiveExit")


def story() -> None:
    run("systemctl", "start", ROUTER)
    booted()
    restarted()
    frozen()
    library_replaced()
    stopped()


if __name__ == "__main__":
    main(story)
