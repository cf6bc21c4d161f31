"""The kernel's table of connections: what it takes, and how large it should be."""

from __future__ import annotations

import math

CONNECTION_SIZE = 342  # bytes of kernel memory, measured with 100,000 of them
BUCKET_SIZE = 8  # bytes
CHAIN = 4  # connections in a bucket, above which looking one up begins to cost
DEFAULT_BITS = 12
FEWEST_BITS = 8
# More than the kernel knows makes it take its default. 27 came with 6.5, and to some older stable kernels.
MOST_BITS, MOST_BITS_SINCE_6_5 = 20, 27


def bits_for(places: float, most: int) -> int:
    """conn_tab_bits with which so many connections have chains of CHAIN at the most, as far as the kernel allows."""
    return min(max(FEWEST_BITS, math.ceil(math.log2(max(1.0, places) / CHAIN))), most)
