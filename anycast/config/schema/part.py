"""The mappings of the file, and how those are made that a class of the core describes (`core.values.described`)."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, ForwardRef, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from anycast.config.schema import scalars
from anycast.config.schema.scalars import Flag, Scalar, choice, truth, unlike, words, wrong
from anycast.core.values.described import Doc


def _require(schema: dict[str, Any], part: type[Part]) -> None:
    if part.REQUIRED:
        schema["required"] = list(part.REQUIRED)
    if part.ONE_OF:
        schema["oneOf"] = [{"required": [name]} for name in part.ONE_OF]


@dataclasses.dataclass(frozen=True, slots=True)
class Alone:
    """The field that is meant where no mapping is written. `kind`: what stands there then, else it is not `noun`.

    `true`: the word true stands for a mapping without a line.
    """

    field: str
    kind: type | tuple[type, ...] = object
    noun: str = ""
    do: str = ""
    true: bool = False


class Part(BaseModel):
    """A mapping of the file. Every field may be missing here: `assemble` says which may not.

    `REQUIRED`, `ONE_OF`: those that an editor should ask for. `ALONE`: what may stand in its place. `CORE`: the class
    of the core that describes it, and that `assemble` makes of it.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, json_schema_extra=_require, defer_build=True
    )

    REQUIRED: ClassVar[tuple[str, ...]] = ()
    ONE_OF: ClassVar[tuple[str, ...]] = ()
    ALONE: ClassVar[Alone | None] = None
    CORE: ClassVar[Any] = None

    @field_validator("*", mode="before")
    @classmethod
    def _has_a_value(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None:
            raise wrong("there is no value", "give one, or remove the line")
        if type(value) is list or info.field_name not in _lists(cls):
            return value
        # One where several may stand.
        return words(value) if info.field_name == "argv" and isinstance(value, str) else [value]

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        alone = cls.ALONE
        if alone is None or isinstance(value, dict):
            return value
        if alone.true and truth(value) is True:
            return {}
        if alone.kind is bool:
            value = truth(value)
        if not isinstance(value, alone.kind):
            raise unlike(value, alone.noun, alone.do)
        return {alone.field: value}


@functools.cache
def _lists(part: type[Part]) -> frozenset[str]:
    """The fields that hold lists."""
    fields = part.model_fields.items()
    return frozenset(
        name
        for name, field in fields
        if _is_list(field.annotation) and not any(isinstance(one, BeforeValidator) for one in field.metadata)
    )


def _is_list(hint: Any) -> bool:
    """Not of a list that has a reader of its own."""
    if isinstance(hint, ForwardRef):
        return hint.__forward_arg__.startswith("list[")
    if get_origin(hint) is Annotated:
        inner, *more = get_args(hint)
        return _is_list(inner) and not any(isinstance(one, BeforeValidator) for one in more)
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_list(one) for one in get_args(hint))
    return get_origin(hint) is list


def or_text(schema: Mapping[str, Any]) -> Any:
    """Annotation: JSON Schema lets the mapping also be the text `schema` describes."""

    class _OrText:
        def __get_pydantic_json_schema__(
            self, core: CoreSchema, handler: GetJsonSchemaHandler
        ) -> JsonSchemaValue:
            return {"anyOf": [dict(schema), handler(core)]}

    return _OrText()


def entry(text: str, default: Any = None, *, shown: Any = None) -> Any:
    """A field of a mapping, and what it means. `shown`: its default as the file writes it."""
    return Field(
        default=default,
        description=text,
        json_schema_extra=None if shown is None else {"default": shown},
    )


WRITTEN: dict[type, Any] = {}
"""Classes of the core that stand in fields of others, and how those are written."""


def part(
    core: type,
    base: type[Part] = Part,
    name: str = "",
    *,
    doc: str | None = None,
    first: Mapping[str, Any] = types.MappingProxyType({}),
    without: Iterable[str] = (),
) -> type[Part]:
    """The mapping that `core` describes. `base`: what it has besides, `first`: its first fields."""
    fields = {**first, **settings(core, (*first, *without))}
    made: type[Part] = create_model(
        name or core.__name__, __base__=base, __doc__=doc or core.__doc__, __module__=__name__, **fields
    )
    names = {*fields} - {*first}
    required = [
        field.name for field in dataclasses.fields(core) if field.name in names and lacks_default(field)
    ]
    made.CORE = core
    made.REQUIRED = (*(["type"] if "type" in first else []), *required)
    WRITTEN.setdefault(core, made)
    return made


def settings(core: type, without: Iterable[str] = ()) -> dict[str, Any]:
    """The fields of a mapping for what the class describes."""
    known = {field.name: field for field in dataclasses.fields(core)}
    return {
        name: _field(known[name], doc, hint)
        for name, (doc, hint) in described(core).items()
        if name not in without
    }


@functools.cache
def described(core: Any) -> dict[str, tuple[Doc, Any]]:
    """What each setting means, and its type with the bounds that `scalars` knows."""
    hints = get_type_hints(core, localns={"of": scalars}, include_extras=True)
    settings: dict[str, tuple[Doc, Any]] = {}
    for field in dataclasses.fields(core):
        docs = [field.metadata.get("doc"), *getattr(hints[field.name], "__metadata__", ())]
        if doc := next((doc for doc in docs if isinstance(doc, Doc)), None):
            settings[field.name] = doc, hints[field.name]
    return settings


def lacks_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING


def _field(field: dataclasses.Field[Any], doc: Doc, hint: Any) -> tuple[Any, Any]:
    kind, default = _kind(hint), field.default
    if lacks_default(field) or default is None or doc.shown is None or isinstance(default, frozenset):
        return kind | None, entry(doc.text)
    if default == ():
        return kind, entry(doc.text, {} if get_origin(kind) is dict else [])
    spell = next((scalar.spell for scalar in getattr(kind, "__metadata__", ()) if scalar.spell), None)
    return kind, entry(doc.text, default, shown=doc.shown or (spell(default) if spell else None))


def _kind(hint: Any) -> Any:
    """How a value of the core's type is written: lists for tuples and sets, mappings for pairs, words for enums."""
    if get_origin(hint) is Annotated:
        inner, *more = get_args(hint)
        bounds = [scalar for scalar in more if isinstance(scalar, Scalar)]
        return Annotated[inner, bounds[0]] if bounds else _kind(inner)
    arguments = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        (inner,) = (_kind(argument) for argument in arguments if argument is not type(None))
        return inner
    if get_origin(hint) is Literal:
        return Annotated[str, choice(list(arguments))]
    if get_origin(hint) is tuple and get_origin(arguments[0]) is tuple:
        return dict[get_args(arguments[0])]  # type: ignore[misc]
    if get_origin(hint) in (tuple, frozenset):
        return list[_kind(arguments[0])]  # type: ignore[misc]
    if hint is bool:
        return Flag
    if issubclass(hint, StrEnum):
        return Annotated[hint, choice(list(hint), hint)]
    return WRITTEN[hint]
