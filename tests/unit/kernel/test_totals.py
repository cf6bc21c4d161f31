from __future__ import annotations

from pathlib import Path

import pytest

from anycast.core.dataplane.traffic import Received
from anycast.kernel.totals import parsed, read

# As Linux 6.1 says it.
TEXT = b"""\
       Total Incoming Outgoing         Incoming         Outgoing
CPU    Conns  Packets  Packets            Bytes            Bytes
  0       1E     1000        0            12345                0
  1        0       FF        0              FFF                0
  ~       1E     1001        0            12345                0

     Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s
           0        2        0              101                0
"""


def test_the_processors_are_added_up_and_the_kernels_own_sum_is_beside_it() -> None:
    assert parsed(TEXT) == Received(live=0x10FF, counted=0x1001)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n\n",
        TEXT.replace(b"  ~ ", b"  = "),
        TEXT.replace(b"  0  ", b"  x y"),
        TEXT[: TEXT.index(b"~")],
    ],
)
def test_what_is_not_known_is_nothing(text: bytes) -> None:
    assert parsed(text) is None


def test_a_kernel_without_the_file_says_nothing(tmp_path: Path) -> None:
    assert read(str(tmp_path / "none")) is None
