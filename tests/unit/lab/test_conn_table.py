"""Chains of the kernel's table of connections."""

from __future__ import annotations

from lab.conn_table import chains, jhash_3words

ENDS = [(f"10.1.{n // 250}.{n % 250 + 1}", 1024 + n % 40000) for n in range(5000)]


def test_the_hash_is_the_kernels() -> None:
    """Of a program in C with include/linux/jhash.h."""
    assert jhash_3words(1, 2, 3, 0) == 0xA46158F5
    assert jhash_3words(0x0100A8C0, 0x5000, 6, 0x12345678) == 0x253A0D95


def test_one_bucket_is_one_chain() -> None:
    found = chains(ENDS[:4], 0, [1])
    assert (found.searched, found.longest) == (2.5, 4)


def test_a_table_with_room_has_short_chains() -> None:
    """As many connections as buckets: half of one more is looked at, as with balls thrown at random."""
    small, large = chains(ENDS, 12, range(3)), chains(ENDS, 18, range(3))
    assert 1.5 < small.searched < 1.7  # 1 + 5000 / 4096 / 2
    assert 4 < small.longest < 12
    assert large.searched < 1.05
