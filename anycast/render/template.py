"""The templates beside this file. Only `anycast render` imports it: jinja2 takes time at the start of a program."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from anycast.render.passwords import PASSWORD

_LINE = re.compile(r"[ -~]*\Z")


def render(template: str, **facts: object) -> str:
    """The complete text. Raises ValueError for a value that would not stay within its line."""
    return _environment().get_template(f"{template}.j2").render(facts)


@cache
def _environment() -> Environment:
    environment = Environment(  # noqa: S701 - these are no documents of HTML
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        finalize=_safe,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # A TOML basic string: JSON's escapes are among TOML's.
    environment.filters["text"] = json.dumps
    environment.filters["ms"] = lambda seconds: round(seconds * 1000)
    environment.filters["us"] = lambda seconds: round(seconds * 1_000_000)
    environment.filters["secret"] = _secret
    return environment


def _secret(password: str) -> str:
    """A password, which stands in double quotes, or alone to the end of its line, as it is."""
    if not PASSWORD.match(password):
        raise ValueError("a password cannot stand in this configuration")
    return password


def _safe(value: object) -> object:
    """Every value that is put into a template passes here. None of these languages can escape the end of a line."""
    if not _LINE.match(str(value)):
        raise ValueError(f"{str(value)!r} cannot stand in a configuration: use printable ASCII on one line")
    return value
