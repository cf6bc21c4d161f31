"""Configurations of other people, which are no part of the project; nothing where they are not there."""

from __future__ import annotations

from pathlib import Path


def files(source: str = "*") -> list[Path]:
    """Of one source, or of all."""
    found = (above / "shared" / "corpus" for above in Path(__file__).parents)
    folder = next((one for one in found if one.is_dir()), None)
    return sorted(file for file in folder.rglob(f"{source}/*") if file.is_file()) if folder else []
