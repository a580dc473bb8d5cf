"""From plain data to a checked value, and the errors on the way.

:mod:`msgspec` holds data against the definition; here its complaints get a place in the file and
the nearest right word, and texts with a unit are read once to see that they can be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar, get_args

import msgspec
from msgspec import Struct

from pyalloc.errors import ArgumentError
from pyalloc.nearest import near_word, nearest
from pyalloc.units import parse_duration, parse_size
from pyalloc.workload.scenario.origin import Origin, Path
from pyalloc.workload.scenario.spec import DURATION, SIZE

T = TypeVar("T", bound=Struct)

_PARSERS: Final = {SIZE: parse_size, DURATION: parse_duration}
_PLACE: Final = re.compile(r"(.*?)(?: - at `\$(.*)`)?", re.DOTALL)
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_WORD: Final = re.compile(r"Invalid enum value (.*)")
_KIND: Final = re.compile(r"Expected `(.*)`, got `(.*)`")
_SHAPE: Final = re.compile(r"Expected `str` matching regex .*")
_BOUND: Final = re.compile(r"Expected `(int|float)` (.*)")
_LEAST: Final = re.compile(r"Expected `array` of length >= 1")

_TYPES: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "an array",
    "object": "a table",
    "null": "nothing",
}


def convert(data: object, to: type[T], origin: Origin) -> T:
    """Return ``data`` as a ``to``.

    Raises
    ------
    ScenarioError
        It does not fit; the text says where, and names the nearest right word.
    """
    if not isinstance(data, Mapping):
        raise origin.error((), f"expected a table of keys (got {data!r})")
    try:
        value = msgspec.convert(data, to)
    except msgspec.ValidationError as error:
        path, what = _explained(str(error), data, to)
        raise origin.error(path, what, data) from None
    for path, what in unit_problems(value):
        raise origin.error(path, what, data)
    return value


def plain(value: Any) -> Any:  # noqa: ANN401 - whatever a field holds
    """Return a struct as dicts and lists, without what has its default."""
    if isinstance(value, Struct):
        return {
            name: plain(item)
            for name, field in fields_of(value).items()
            if (item := getattr(value, field.name)) != default_of(field)
        }
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


# --- msgspec's complaints --------------------------------------------------------------------


def _explained(text: str, data: Mapping[str, Any], to: type[Struct]) -> tuple[Path, str]:
    match = _PLACE.fullmatch(text)
    what, place = (match[1], match[2] or "") if match else (text, "")
    path = _path_of(place)
    if found := _UNKNOWN.fullmatch(what):
        return (*path, found[1]), "no such key" + nearest(found[1], keys_at(to, path))
    if found := _MISSING.fullmatch(what):
        return (*path, found[1]), "this key is needed"
    return path, _reworded(what, _value_at(data, path), field_at(to, path))


def _path_of(place: str) -> Path:
    """Return the path that msgspec writes as ``.process[1].start``."""
    parts = re.findall(r"\.([^.\[]+)|\[(\d+)\]|\[\.\.\.\]", place)
    return tuple(name or int(number) for name, number in parts if name or number)


def _reworded(what: str, got: object, field: msgspec.structs.FieldInfo | None) -> str:
    """Return a complaint of msgspec in the words of a scenario."""
    meta = unit_meta(field) if field else None
    if meta and meta.extra:
        return f"{_wanted(meta.extra['unit'], meta.extra.get('words', ()))} (got {got!r})"
    if _WORD.fullmatch(what):
        words = [str(word) for word in _choices(field)]
        return f"must be one of {', '.join(words)} (got {got!r}){near_word(str(got), words)}"
    if _LEAST.fullmatch(what):
        return "there must be one at least"
    return f"{_of_value(what)} (got {got!r})"


def _of_value(what: str) -> str:
    if _SHAPE.fullmatch(what):
        return "a name is a word without spaces, slashes and brackets"
    if found := _BOUND.fullmatch(what):
        return f"must be {found[2].replace('>=', 'at least').replace('<=', 'at most')}"
    if what.startswith("Expected `array`"):
        return "must be an array: write its name in double brackets"
    if found := _KIND.fullmatch(what):
        return f"must be {' or '.join(_TYPES.get(kind, kind) for kind in found[1].split(' | '))}"
    return f"{what[:1].lower()}{what[1:]}"


def _wanted(unit: str, words: tuple[str, ...]) -> str:
    rest = "".join(f", or {word!r}" for word in words)
    if unit == SIZE:
        return f"must be a number of bytes or text such as '256M'{rest}"
    return f"must be a number of seconds or text such as '90s', '5min' or '2h'{rest}"


def _value_at(data: object, path: Path) -> object:
    for part in path:
        try:
            data = data[part]  # type: ignore[index]  # data as a file has it
        except (TypeError, KeyError, IndexError):
            return None
    return data


# --- the definition --------------------------------------------------------------------------


def fields_of(struct: type[Struct] | Struct) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the fields of a struct by their names in a file."""
    return {field.encode_name: field for field in msgspec.structs.fields(struct)}


def default_of(field: msgspec.structs.FieldInfo) -> Any:  # noqa: ANN401
    """Return a field's default; NODEFAULT if it has to be given."""
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return field.default


def struct_in(annotation: object) -> type[Struct] | None:
    """Return the struct that a field's annotation is made of, if any."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation
    return next(filter(None, map(struct_in, get_args(annotation))), None)


def struct_at(to: type[Struct], path: Path) -> type[Struct] | None:
    """Return the struct that ``path`` leads to."""
    at: type[Struct] | None = to
    for part in path:
        if isinstance(part, str):
            field = fields_of(at).get(part) if at else None
            at = struct_in(field.type) if field else None
    return at


def keys_at(to: type[Struct], path: Path) -> list[str]:
    """Return the keys there may be at ``path``."""
    struct = struct_at(to, path)
    return list(fields_of(struct)) if struct else []


def field_at(to: type[Struct], path: Path) -> msgspec.structs.FieldInfo | None:
    """Return the field that ``path`` names."""
    names = [part for part in path if isinstance(part, str)]
    if not names:
        return None
    struct = struct_at(to, tuple(names[:-1]))
    return fields_of(struct).get(names[-1]) if struct else None


def _metas(annotation: object) -> Iterator[msgspec.Meta]:
    for part in getattr(annotation, "__metadata__", ()):
        if isinstance(part, msgspec.Meta):
            yield part
    for part in get_args(annotation):
        yield from _metas(part)


def unit_meta(field: msgspec.structs.FieldInfo) -> msgspec.Meta | None:
    """Return what names the unit of a field, if it has one."""
    return next((meta for meta in _metas(field.type) if meta.extra), None)


def _choices(field: msgspec.structs.FieldInfo | None) -> tuple[object, ...]:
    def search(annotation: object) -> tuple[object, ...]:
        parts = get_args(annotation)
        if parts and all(isinstance(part, str | int) for part in parts):
            return parts
        return next(filter(None, map(search, parts)), ())

    return search(field.type) if field else ()


# --- units -----------------------------------------------------------------------------------


def unit_problems(value: object, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Yield every text in ``value`` that cannot be read as what its field holds."""
    if isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from unit_problems(item, (*path, number))
    elif isinstance(value, Struct):
        for name, field in fields_of(value).items():
            item = getattr(value, field.name)
            meta = unit_meta(field)
            if meta and meta.extra and item is not None:
                yield from _unit_problem(item, (*path, name), meta.extra)
            else:
                yield from unit_problems(item, (*path, name))


def _unit_problem(
    value: Any,  # noqa: ANN401 - as a file has it
    path: Path,
    extra: Mapping[str, Any],
) -> Iterator[tuple[Path, str]]:
    if value in extra.get("words", ()):
        return
    try:
        _PARSERS[extra["unit"]](value)
    except (ArgumentError, TypeError):
        yield path, f"{_wanted(extra['unit'], extra.get('words', ()))} (got {value!r})"
