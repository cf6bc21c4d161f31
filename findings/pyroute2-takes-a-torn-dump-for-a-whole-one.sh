#!/bin/bash
# pyroute2 0.9.7 (PyPI): a list of addresses that was read while another program changed addresses.
#
# An interface has 2,000 addresses that nobody touches, and 40 more that come and go. The kernel sends a list in parts;
# where something has changed between two parts it says so by a flag on the messages (NLM_F_DUMP_INTR): the list may
# lack entries, and has to be read again.
#
# Expected before it was run: `get_addr()` reads again, or raises its own exception NetlinkDumpInterrupted.
#
# Seen:
#
#     20 lists that the kernel has marked: 20 returned, 0 raised
#     addresses that were there all the time and are not in the list: in some of these lists
#
# The exception is defined and caught, and nothing raises it.
#
# What it means: a program that removes, adds or reports what such a list lacks is wrong now and then on a host where
# addresses come and go (containers, a VRRP daemon). Look for the flag in the headers of the answer, and read again.
#
# Exits 0 if exactly this is seen, else 1 and says what differs. Needs root, python3 with venv, PyPI and iproute2. Half
# a minute.
set -euo pipefail

# All runs in namespaces of this script's own: they end with it, and nothing is left.
if [[ ${1-} != inside ]]; then
    folder=$(mktemp -d)
    job=
    clean() {
        [[ -z $job ]] || kill -KILL -- "-$job" 2>/dev/null || true
        rm -rf "$folder"
    }
    trap clean EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    python3 -m venv "$folder/venv"
    timeout 60 "$folder/venv/bin/pip" --quiet --disable-pip-version-check install pyroute2==0.9.7
    timeout --signal=KILL 110 unshare --net --mount --pid --fork --kill-child --mount-proc bash "$0" inside "$folder" &
    job=$!
    wait "$job"
    exit
fi
cd "$2"
ip link set lo up
# These come before the others in the kernel's list: the scope of the host is the first one.
for verb in add del; do for n in {1..40}; do echo "address $verb 10.7.0.$n/32 dev lo scope host"; done; done > changes
for a in {1..8}; do for n in {1..250}; do echo "address add 192.0.$a.$n/32 dev lo"; done; done > standing
ip -batch standing
(while ip -batch changes; do :; done) &
"$2/venv/bin/python" - <<'PYTHON'
import platform
import sys
from importlib.metadata import version

from pyroute2 import IPRoute

INTERRUPTED = 0x10  # NLM_F_DUMP_INTR
STANDING = {f"192.0.{a}.{n}" for a in range(1, 9) for n in range(1, 251)}
WANTED = 20  # marked lists

print(f"pyroute2 {version('pyroute2')}, Python {platform.python_version()}, Linux {platform.release()}")
marked = raised = lacking = 0
with IPRoute() as netlink:
    for _ in range(5000):
        try:
            found = list(netlink.get_addr())
        except Exception as error:
            raised += type(error).__name__ == "NetlinkDumpInterrupted"
            marked += 1
        else:
            if any(one["header"]["flags"] & INTERRUPTED for one in found):
                marked += 1
                lacking += not STANDING <= {one.get_attr("IFA_ADDRESS") for one in found}
        if marked == WANTED:
            break
print(f"{marked} lists that the kernel has marked: {marked - raised} returned, {raised} raised")
print(f"addresses that were there all the time and are not in the list: in {lacking} of these lists")
sys.exit(not (marked == WANTED and not raised and lacking))
PYTHON
