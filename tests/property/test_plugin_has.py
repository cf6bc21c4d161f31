"""What the plugin tells beside its journal: read back as it was written, and nothing that stands there does harm."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from anycast.plugin import has

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda each: (
        st.lists(each, max_size=4) | st.dictionaries(st.sampled_from(("exabgp", "mark", "down")), each)
    ),
    max_leaves=8,
)


@given(
    exabgp=st.integers(0, 2**31), mark=st.text(max_size=20), down=st.lists(st.text(max_size=40), max_size=5)
)
def test_what_was_written_is_read(exabgp: int, mark: str, down: list[str]) -> None:
    told = has.Has(exabgp=exabgp, mark=mark, down=tuple(down))
    with tempfile.TemporaryDirectory() as directory:
        path = has.path_beside(f"{directory}/plugin/journal.json")
        has.store(path, told)
        assert has.load(path) == told


@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_whatever_stands_there_is_something_or_nothing(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / has.NAME
        path.write_bytes(content)
        found = has.load(str(path))
    assert found is None or isinstance(found.exabgp, int)
