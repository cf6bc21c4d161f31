"""The JSON Schema of the file, for editors, and which keys a place of it knows."""

from __future__ import annotations

import json
import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import Tag as UnionTag
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from anycast.config.schema.file import File
from anycast.config.schema.part import Part


def keys_at(location: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys of the mapping at a pydantic location (union tags included), or nothing where any key goes."""
    kind: Any = File
    for part in location:
        kind = _inside(kind, part)
        if kind is None:
            return ()
    kind = _bare(kind)
    if _is_union(kind):
        kind = next((bare for bare in map(_bare, get_args(kind)) if _is_part(bare)), kind)
    return tuple(kind.model_fields) if _is_part(kind) else ()


def _bare(kind: Any) -> Any:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _inside(kind: Any, part: str | int) -> Any:
    """The type of what stands at `part` in a value of type `kind`."""
    if get_origin(kind) is Annotated:
        return _inside(get_args(kind)[0], part)
    if _is_union(kind):
        for member in get_args(kind):
            tagged = get_origin(member) is Annotated and any(
                isinstance(tag, UnionTag) and tag.tag == part for tag in member.__metadata__
            )
            if tagged:
                return get_args(member)[0]
        return next(
            (found for member in get_args(kind) if (found := _inside(member, part)) is not None), None
        )
    if get_origin(kind) is list:
        return get_args(kind)[0]
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    if _is_part(kind) and part in kind.model_fields:
        return kind.model_fields[part].annotation
    return None


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Part)


class _Generate(GenerateJsonSchema):
    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])  # a missing value is a missing line, never null

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is None or isinstance(schema["default"], Part):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False  # "Local As" tells an editor nothing


def schema_text() -> str:
    """The JSON Schema (draft 2020-12) of the file format, as `schema.json` holds it."""
    schema = _alike(File.model_json_schema(schema_generator=_Generate))
    head = {"$schema": _Generate.schema_dialect}
    return json.dumps(head | schema, indent=2, ensure_ascii=False) + "\n"


def _alike(schema: Any) -> Any:
    """Older versions of pydantic write some things in more words."""
    if isinstance(schema, list):
        return [_alike(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _alike(value) for key, value in schema.items()}
    if "const" in schema:
        schema.pop("enum", None)
    if len(schema.get("allOf", ())) == 1:
        schema |= schema.pop("allOf")[0]
    return dict(sorted(schema.items())) if "$ref" in schema or "const" in schema else schema
