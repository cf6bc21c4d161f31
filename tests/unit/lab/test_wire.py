from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.wire import Decoder, Frame, Kind, WireError, credit, encode

FRAMES = st.builds(Frame, st.integers(0, 2**32 - 1), st.sampled_from(Kind), st.binary(max_size=64))


@given(frames=st.lists(FRAMES, max_size=6), cut=st.integers(1, 17))
def test_frames_arrive_whole_however_the_stream_is_cut(frames: list[Frame], cut: int) -> None:
    stream = b"".join(map(encode, frames))
    decoder = Decoder()
    assert [f for at in range(0, len(stream), cut) for f in decoder.feed(stream[at : at + cut])] == frames


@pytest.mark.parametrize("garbage", [b"\0\0\0\1\xff\0\0\0\0", b"login: somebody", b"\0\0\0\1\2\xff\0\0\0"])
def test_what_is_no_frame_is_refused(garbage: bytes) -> None:
    with pytest.raises(WireError, match="is not a frame"):
        Decoder().feed(garbage)


def test_a_credit_carries_its_count() -> None:
    assert int.from_bytes(credit(7, 70_000).body, "big") == 70_000
