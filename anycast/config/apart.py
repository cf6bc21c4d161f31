"""Loading in a separate process, for a program that runs for long.

Reading takes 30 MB for pydantic and the trees of 5,000 real servers, most of which would stay with the agent for ever,
and seconds of Python, in which its event loop would be short of time. All of it goes with the process.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

from anycast.config.loaded import Loaded
from anycast.config.problem import ConfigError


def load(path: Path) -> Loaded:
    """As `anycast.config.load.load`. Raises ConfigError; RuntimeError: the process failed, and has said why."""
    # -P: what lies in the working directory is not to be run.
    argv = [sys.executable, "-P", "-m", "anycast.config.apart", str(path)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise RuntimeError(f"reading {path} failed: the process for it ended with status {done.returncode}")
    answer = pickle.loads(done.stdout)  # noqa: S301 - from ourselves
    if isinstance(answer, Loaded):
        return answer
    raise ConfigError(answer)


def main(path: Path) -> None:
    from anycast.config.load import load as read

    answer: object
    try:
        answer = read(path)
    except ConfigError as error:
        answer = error.problems
    pickle.dump(answer, sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
