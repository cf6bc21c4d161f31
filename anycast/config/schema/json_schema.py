"""The JSON Schema of the file, for editors, and which keys a place of it knows."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from anycast.config.schema.file import File
from anycast.config.schema.part import Part


def keys_at(location: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys of the mapping at a pydantic location (union tags included), or nothing where any key goes."""
    document = _document()
    here = [document]
    for part in location:
        if isinstance(part, str) and part.startswith("("):
            here = [form for form in here if part.strip("()") in (_type(form), form.get("title", "").lower())]
        else:
            inner = [_inside(form, part) for form in here]
            here = [form for schema in inner if schema is not None for form in _forms(schema, document)]
    return tuple(key for form in here for key in form.get("properties", ()))


def _type(form: dict[str, Any]) -> str | None:
    return form.get("properties", {}).get("type", {}).get("const")  # type: ignore[no-any-return]


def _inside(form: dict[str, Any], part: str | int) -> dict[str, Any] | None:
    if isinstance(part, int):
        return form.get("items")
    return form.get("properties", {}).get(part) or form.get("additionalProperties") or None


def _forms(form: dict[str, Any], document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What may stand there."""
    if "$ref" in form:
        yield document["$defs"][form["$ref"].rpartition("/")[2]]
    elif choices := form.get("oneOf", form.get("anyOf")):
        for choice in choices:
            yield from _forms(choice, document)
    else:
        yield form


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
    head = {"$schema": _Generate.schema_dialect}
    document = _one_for_several(_document())
    shared: dict[str, Any] = {}
    document = _with_shared(document, shared)
    document["$defs"] |= shared
    return json.dumps(head | document, indent=2, ensure_ascii=False) + "\n"


_MANY = 10  # forms of a value: so long a choice is written once


def _with_shared(schema: Any, shared: dict[str, Any]) -> Any:
    """What may be one of many forms is a definition of its own, which `shared` gets."""
    if isinstance(schema, list):
        return [_with_shared(item, shared) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _with_shared(value, shared) for key, value in schema.items()}
    if len(schema.get("oneOf", ())) <= _MANY:
        return schema
    choice = {"oneOf": schema.pop("oneOf")}
    schema.pop("discriminator", None)
    name = next((name for name, known in shared.items() if known == choice), f"Choice{len(shared) + 1}")
    shared[name] = choice
    return {"$ref": f"#/$defs/{name}", **schema}


def _one_for_several(schema: Any) -> Any:
    """Where several values may stand in a list, one may stand alone."""
    if isinstance(schema, list):
        return [_one_for_several(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _one_for_several(value) for key, value in schema.items()}
    if schema.get("type") == "object" and "properties" in schema:
        schema["properties"] = {name: _or_one(value) for name, value in schema["properties"].items()}
    return schema


def _or_one(field: dict[str, Any]) -> dict[str, Any]:
    if field.get("type") != "array" or "items" not in field:
        return field
    rest = {key: value for key, value in field.items() if key not in ("type", "items")}
    return {"anyOf": [field["items"], {"type": "array", "items": field["items"]}], **rest}


@functools.cache
def _document() -> dict[str, Any]:
    return _alike(File.model_json_schema(schema_generator=_Generate))  # type: ignore[no-any-return]


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
