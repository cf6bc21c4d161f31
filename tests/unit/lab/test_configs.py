"""What the lab's programs are started with."""

from __future__ import annotations

import subprocess
import sys

from lab import configs


def test_the_labs_programs_have_no_rich_as_the_package_has_none() -> None:
    look = "import anycast.cli.main, structlog.dev; print(structlog.dev.rich)"
    done = subprocess.run(
        [sys.executable, "-c", look],
        env=configs.program_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "None\n"
