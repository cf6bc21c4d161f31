"""Exit codes. Stable: scripts and service managers go by them."""

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    NEGATIVE = 1  # the answer is no, or a part of the work was not done
    USAGE = 2  # argparse's own
    UNREACHABLE = 3  # no agent answered
    UNKNOWN = 4  # a check could not run: it proves nothing
    CHANGES = 10  # a reload would change something
    CONFIG = 78  # EX_CONFIG of sysexits.h
    INTERRUPTED = 130
