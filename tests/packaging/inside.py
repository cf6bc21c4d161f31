"""Runs in a Debian that systemd has booted, with the package installed: works the services, writes what it saw.

Standard library only. The result is /inside.json: facts by name, which the test judges.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATIENCE = 90.0  # seconds until a state is given up

AGENT, EXABGP, ROUTER = "anycast-agent.service", "anycast-exabgp.service", "router.service"
OTHER_ROUTER, OTHER_ADDRESS = "other-router.service", "127.0.0.6"
CONFIG = Path("/etc/anycast/anycast.yaml")
GOOD = """\
node: {name: lb1}
bgp:
  local_as: 65001
  router_id: 127.0.0.1
  neighbors: [{address: 127.0.0.2, remote_as: 65000}]
checks:
  ping: {type: icmp}
  script: {type: command, argv: [/usr/local/bin/check]}
  both: {type: all, of: [ping, script]}
vips:
  web: {address: 192.0.2.1, port: 80, servers: [127.0.0.3], check: both}
"""
# Two servers, of which the VIP needs one, and time for a program to grow on a slow machine.
TWO = GOOD.replace("servers: [127.0.0.3]", "servers: [127.0.0.3, 127.0.0.4], quorum: 1").replace(
    "script: {type: command,", "script: {type: command, interval: 21s, timeout: 20s, rise: 1, fall: 1,"
)
LAST_GOOD = Path("/var/lib/anycast/last-good.conf")
STARTS = Path("/var/lib/anycast/starts.json")
# As somebody does it who wants another value; systemd's upgrade restarts the service that writes it.
OPERATORS_SYSCTL = Path("/etc/sysctl.d/99-operator.conf")
SLOPPY = Path("/proc/sys/net/ipv4/vs/sloppy_tcp")
GROW = Path("/run/grow")  # while it is there the check of 127.0.0.4 takes memory without end
GROWING = f"""\
if [ -e {GROW} ] && [ "$ANYCAST_ADDRESS" = 127.0.0.4 ]; then exec tail /dev/zero; fi
exit 0"""
ROOM = 32 * 1024 * 1024  # bytes that the agent's service may have more than it takes
AWAY = 3.0  # seconds
# The router is an ExaBGP too: it listens at 127.0.0.2 and writes down every route it is told of.
ROUTES = Path("/run/routes")
ROUTER_CONFIG = """\
process log { run /usr/local/bin/routes; encoder text; }
neighbor 127.0.0.1 {
    router-id 127.0.0.2;
    local-address 127.0.0.2;
    local-as 65000;
    peer-as 65001;
    passive true;
    family { ipv4 unicast; }
    api { processes [ log ]; receive { parsed; update; } }
}
"""
ROUTER_UNIT = """\
[Service]
Environment=exabgp_daemon_user=root exabgp_daemon_drop=false exabgp_daemon_daemonize=false exabgp_tcp_bind=127.0.0.2
Environment=exabgp_api_ack=false
ExecStart=/usr/lib/anycast/bin/exabgp /etc/router.conf
"""

# A second one, of which nothing is written down.
WITH_OTHER = GOOD.replace(
    "remote_as: 65000}]", f"remote_as: 65000}}, {{address: {OTHER_ADDRESS}, remote_as: 65000}}]"
)
OTHER_CONFIG = f"""\
neighbor 127.0.0.1 {{
    router-id {OTHER_ADDRESS};
    local-address {OTHER_ADDRESS};
    local-as 65000;
    peer-as 65001;
    passive true;
    family {{ ipv4 unicast; }}
}}
"""
OTHER_UNIT = ROUTER_UNIT.replace("127.0.0.2", OTHER_ADDRESS).replace("router.conf", "other-router.conf")

PROGRAMS = {
    Path("/usr/local/bin/check"): f"#!/bin/sh\n{GROWING}\n",
    Path("/usr/local/bin/routes"): f"#!/bin/sh\nexec cat 3>&1 >{ROUTES}\n",
}

facts: dict[str, Any] = {}


def run(*argv: str) -> tuple[int, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout + done.stderr


def shown(unit: str, name: str) -> str:
    return run("systemctl", "show", "--value", "-p", name, unit)[1].strip()


def at(unit: str, stamp: str) -> float:
    """When it was so last, in seconds since the boot."""
    return int(shown(unit, f"{stamp}TimestampMonotonic")) / 1e6


def status() -> dict[str, Any]:
    code, text = run("anycast", "status", "--json")
    document: dict[str, Any] = json.loads(text) if code == 0 else {}
    return document


def announced() -> bool:
    return any(vip["announced"] for vip in status().get("vips", []))


def until(what: str, holds: Callable[[], bool]) -> None:
    """Another process's state, which tells nobody when it changes."""
    end = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {PATIENCE:g} s")
        time.sleep(0.3)


def process(pid: str) -> dict[str, str]:
    lines = Path("/proc", pid, "status").read_text().splitlines()
    found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    names = ("Uid", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
    return {name: found[name].split()[0] for name in names}


def routes() -> list[str]:
    """What the router was told, in its order."""
    lines = ROUTES.read_text().splitlines() if ROUTES.exists() else []
    return [line for line in lines if "192.0.2.1/32" in line] or [""]


def children(pid: str) -> list[str]:
    return Path("/proc", pid, "task", pid, "children").read_text().split()


def prepare() -> None:
    for program, text in PROGRAMS.items():
        program.write_text(text)
        program.chmod(0o755)
    # A file that is made on the host's file system belongs to root, whoever makes it.
    Path("/var/lib/anycast").mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "tmpfs", "/var/lib/anycast")
    Path("/etc/router.conf").write_text(ROUTER_CONFIG)
    Path("/run/systemd/system").mkdir(exist_ok=True)
    Path("/run/systemd/system", ROUTER).write_text(ROUTER_UNIT)
    Path("/etc/other-router.conf").write_text(OTHER_CONFIG)
    Path("/run/systemd/system", OTHER_ROUTER).write_text(OTHER_UNIT)
    run("systemctl", "daemon-reload")


def neighbors() -> dict[str, str]:
    return {one["address"]: one["state"] for one in status().get("neighbors", [])}


def another_neighbor() -> None:
    """ExaBGP gets a neighbor by a reload, and loses it by one."""
    before, said = (shown(EXABGP, "MainPID"), children(shown(EXABGP, "MainPID"))), routes()
    run("systemctl", "start", OTHER_ROUTER)
    found: dict[str, Any] = {}
    for what, text in (("added", WITH_OTHER), ("removed", GOOD)):
        CONFIG.write_text(text)
        found[what] = [run("systemctl", "reload", unit) for unit in (AGENT, EXABGP)]
        until(
            f"the neighbor is {what}",
            lambda: (
                (neighbors().get(OTHER_ADDRESS) == "up") == (text is WITH_OTHER)  # noqa: B023 - called at once
                and neighbors().get("127.0.0.2") == "up"
            ),
        )
        found[f"standing once it is {what}"] = [one["kind"] for one in status()["standing"]]
    found["same"] = before == (shown(EXABGP, "MainPID"), children(shown(EXABGP, "MainPID")))
    found["the other router's routes"] = [line for line in routes() if line not in said]
    facts["another neighbor"] = found
    run("systemctl", "stop", OTHER_ROUTER)


def away(unit: str, what: str) -> None:
    """The file is away for 3 s, and meanwhile the service is killed."""
    before = shown(unit, "MainPID")
    aside = CONFIG.with_suffix(".aside")
    STARTS.unlink(missing_ok=True)  # or the crashes of before hold the VIPs down
    CONFIG.rename(aside)
    os.kill(int(before), signal.SIGKILL)
    time.sleep(AWAY)
    aside.rename(CONFIG)
    back = time.monotonic()
    until(
        f"{unit} {what}",
        lambda: shown(unit, "MainPID") not in ("0", before) and shown(unit, "ActiveState") == "active",
    )
    facts[f"{unit} {what}"] = {
        name: round(at(unit, stamp) - back, 2)
        for name, stamp in (("starting", "InactiveExit"), ("active", "ActiveEnter"))
    }
    until(f"announced {what}", announced)


def memory() -> None:
    """The kernel takes a check's program for its memory."""
    CONFIG.write_text(TWO)
    run("systemctl", "reload", AGENT)
    until("both servers are up", lambda: down() == [] and "7F000004" in Path("/proc/net/ip_vs").read_text())
    group = Path("/sys/fs/cgroup" + shown(AGENT, "ControlGroup"))
    before = (group / "memory.max").read_text()
    # As `systemctl set-property` does it, which needs a bus.
    (group / "memory.max").write_text(str(int((group / "memory.current").read_text()) + ROOM))
    pid, said = shown(AGENT, "MainPID"), routes()
    GROW.touch()
    until("the check fails", lambda: down() != [])
    facts["out of memory"] = {
        "detail": down(),
        "killed": (group / "memory.events").read_text().split("oom_kill ")[1].split()[0],
        "same agent": shown(AGENT, "MainPID") == pid,
        "state": [shown(AGENT, name) for name in ("ActiveState", "SubState", "Result")],
        "routes unchanged": routes() == said,
        "announced": announced(),
    }
    GROW.unlink()
    until("it is up again", lambda: down() == [])
    (group / "memory.max").write_text(before)


def down() -> list[str]:
    """What is said of each real server that is not up."""
    return [
        str(target.get("detail", ""))
        for vip in status().get("vips", [])
        for service in vip["services"]
        for target in service["servers"]
        if target["phase"] == "down"
    ]


def frozen() -> None:
    freeze = Path("/sys/fs/cgroup" + shown(AGENT, "ControlGroup"), "cgroup.freeze")
    freeze.write_text("1")  # as `systemctl freeze` does it, which needs a bus
    facts["doctor of a frozen agent"] = codes()
    facts["state of a frozen agent"] = shown(AGENT, "ActiveState")
    freeze.write_text("0")
    until("announced after the thaw", announced)
    facts["doctor after the thaw"] = codes()


def codes() -> list[str]:
    return [one["code"] for one in json.loads(run("anycast", "doctor", "--json")[1])["findings"]]


def sysctls() -> None:
    OPERATORS_SYSCTL.parent.mkdir(exist_ok=True)
    OPERATORS_SYSCTL.write_text("net.ipv4.vs.sloppy_tcp = 0\n")
    facts["doctor with a file that says otherwise"] = codes()
    run("systemctl", "restart", "systemd-sysctl.service")
    began = time.monotonic()
    facts["sysctl after systemd wrote it"] = SLOPPY.read_text().strip()
    until("the sysctl is put right", lambda: SLOPPY.read_text().strip() == "1")
    facts["seconds until it was right"] = round(time.monotonic() - began, 1)
    OPERATORS_SYSCTL.unlink()


def story() -> None:
    facts["without a configuration"] = [shown(unit, "ActiveState") for unit in (AGENT, EXABGP)]
    facts["failed units"] = run("systemctl", "--failed", "--no-legend", "--plain")[1]
    facts["systemd"] = run("systemctl", "--version")[1].split()[1]
    facts["modules"] = [
        name for name in ("ip_vs", "ip_vs_mh", "ip_vs_rr") if Path("/sys/module", name).exists()
    ]
    prepare()
    CONFIG.write_text(GOOD)
    run("systemctl", "start", ROUTER)
    facts["start"] = run("systemctl", "start", AGENT, EXABGP)
    facts["answers once it is started"] = run("anycast", "maintenance", "off")[0]
    until("announced", announced)
    facts["ready"] = status()["ready"]
    facts["active"] = [shown(unit, "ActiveState") for unit in (AGENT, EXABGP)]
    facts["seconds of a start"] = {
        unit: round(at(unit, "ActiveEnter") - at(unit, "InactiveExit"), 2) for unit in (AGENT, EXABGP)
    }
    until("status text", lambda: "announcing 1 of 1" in shown(AGENT, "StatusText"))
    facts["agent"] = process(shown(AGENT, "MainPID"))
    (ops,) = [
        one
        for one in children(shown(AGENT, "MainPID"))
        if Path("/proc", one, "comm").read_text() == "anycast-ops\n"
    ]
    facts["ops"] = process(ops)
    exabgp = shown(EXABGP, "MainPID")
    facts["exabgp"] = process(exabgp)
    (plugin,) = children(exabgp)
    facts["plugin"] = process(plugin)
    facts["uids"] = {name: str(os.stat(path).st_uid) for name, path in (
        ("anycast", "/var/lib/anycast"), ("anycast-exabgp", "/run/anycast-exabgp/plugin"))}  # fmt: skip
    facts["ipvs"] = Path("/proc/net/ip_vs").read_text()
    facts["sysctl"] = Path("/proc/sys/net/ipv4/vs/sloppy_tcp").read_text().strip()
    facts["modes"] = {path: oct(os.stat(path).st_mode & 0o7777) for path in (
        "/etc/anycast", "/run/anycast", "/run/anycast/control.sock", "/run/anycast/ops.sock", "/run/anycast/lease.sock",
        "/run/anycast-exabgp",
        "/run/anycast-exabgp/exabgp.conf", "/var/lib/anycast")}  # fmt: skip

    CONFIG.write_text(GOOD.replace("both}", "both, med: 50}"))
    facts["reload"] = run("systemctl", "reload", AGENT)[0]
    CONFIG.write_text("vips: {}\n")
    facts["bad reload"] = run("systemctl", "reload", AGENT)[0]
    facts["after a bad reload"] = announced()
    CONFIG.write_text(GOOD)
    run("systemctl", "reload", AGENT)
    another_neighbor()

    # Hung: both watchdogs at once.
    agent = shown(AGENT, "MainPID")
    os.kill(int(plugin), signal.SIGSTOP)
    os.kill(int(agent), signal.SIGSTOP)
    until("another agent", lambda: shown(AGENT, "MainPID") not in ("0", agent))
    until("another ExaBGP", lambda: shown(EXABGP, "MainPID") not in ("0", exabgp))
    until("announced after both hung", announced)
    facts["restarts"] = [shown(unit, "NRestarts") for unit in (AGENT, EXABGP)]

    # Killed: it is back before the lease runs out. The same ExaBGP; it is the second crash, so there is a hold.
    exabgp, agent = shown(EXABGP, "MainPID"), shown(AGENT, "MainPID")
    os.kill(int(agent), signal.SIGKILL)
    until("another agent after it was killed", lambda: shown(AGENT, "MainPID") not in ("0", agent))
    until("announced after the agent was killed", announced)
    facts["same ExaBGP"] = shown(EXABGP, "MainPID") == exabgp

    facts["maintenance"] = run("anycast", "maintenance", "on", "--reason", "disks")[0]
    facts["restart in maintenance"] = run("systemctl", "restart", AGENT)[0]
    until("the ops process listens", lambda: status() != {})
    facts["maintenance kept"] = [one["reason"] for one in status()["maintenance"]]
    run("anycast", "maintenance", "off")
    until("announced after maintenance", announced)

    for unit in (AGENT, EXABGP):
        away(unit, "with the last good file")
        LAST_GOOD.unlink()
        away(unit, "without a last good file")
    memory()
    sysctls()
    frozen()

    facts["stop"] = run("systemctl", "stop", AGENT)[0]
    facts["result"] = [shown(AGENT, name) for name in ("ActiveState", "Result", "ExecMainStatus")]
    facts["ipvs after the stop"] = Path("/proc/net/ip_vs").read_text()
    until("the router is told", lambda: "withdrawn" in routes()[-1])

    CONFIG.write_text("vips: {}\n")
    facts["start with the last good file"] = run("systemctl", "start", AGENT)[0]
    until("announced from the last good file", announced)
    facts["standing"] = [one["kind"] for one in status()["standing"]]
    facts["ExaBGP with the last good file"] = run("systemctl", "restart", EXABGP)[0]
    until("announced from the last good file again", announced)
    run("systemctl", "stop", AGENT)
    Path("/var/lib/anycast/last-good.conf").unlink()
    facts["start with a bad file"] = run("systemctl", "start", AGENT)[0]
    facts["failed"] = [shown(AGENT, name) for name in ("ActiveState", "ExecMainStatus")]
    facts["restart of ExaBGP with a bad file"] = run("systemctl", "restart", EXABGP)[0]
    CONFIG.write_text(GOOD)


def main(story: Callable[[], None]) -> None:
    try:
        story()
    except Exception:  # noqa: BLE001 - the test shows it
        facts["error"] = traceback.format_exc()
    facts["routes"] = routes()
    facts["journal"] = run("journalctl", "-b", "-o", "cat", "-u", AGENT, "-u", EXABGP)[1].splitlines()
    Path("/inside.json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main(story)
