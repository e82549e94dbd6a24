"""One setting and the values that it accepts: as a check, in words and as JSON Schema.

The dataclasses of `configs/settings.py` declare each setting once, with `setting(...)`; its type is
the annotation. Types are strict: `True` is not accepted as a number, and "3" is text. 2e3
and 1.0 are whole numbers, and a whole number is accepted for a fraction.
"""

import json
import operator
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from errors import UserError

LIMIT = 1e18  # no setting needs a larger number; the comparison also rejects inf and nan

_BOUNDS = {  # the keywords of JSON Schema, each with its sign and its test
    "minimum": (">=", operator.ge),
    "exclusiveMinimum": (">", operator.gt),
    "maximum": ("<=", operator.le),
    "exclusiveMaximum": ("<", operator.lt),
}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_JSON = {int: "integer", float: "number", bool: "boolean", str: "string", NoneType: "null"}


def setting(
    default: Any, meaning: str, *, unit: str = "", choices: tuple[Any, ...] = (), **bounds: float
) -> Any:
    """Declare a dataclass field as a setting; `bounds` have JSON Schema's names (`minimum=1`).

    `choices` are the accepted values; of a tuple, the accepted items.
    """
    assert bounds.keys() <= _BOUNDS.keys(), bounds
    metadata = {"meaning": meaning, "unit": unit, "choices": choices, "bounds": bounds}
    return field(default=default, metadata=metadata)


def spell(value: Any) -> str:
    """Write a value as YAML and JSON do, truncated so that it fits into a line."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 48 else text[:45] + "..."


@dataclass(frozen=True)
class Setting:
    """One declared setting; `name` is dotted (`train.lr`), `hint` is the annotation."""

    name: str
    hint: Any
    default: Any
    meaning: str
    unit: str
    choices: tuple[Any, ...]
    bounds: dict[str, float]

    @property
    def is_text(self) -> bool:
        """Whether any text is accepted."""
        return str in _kinds(self.hint) and not self.choices

    @property
    def is_nullable(self) -> bool:
        """Whether null is accepted."""
        return NoneType in _kinds(self.hint)

    @property
    def is_list_of_choices(self) -> bool:
        """Whether the value is a list, and `choices` are what it may contain."""
        return bool(self.choices) and get_origin(self.hint) is tuple

    @property
    def expected(self) -> str:
        """The accepted values in words: `a whole number >= 1 or null`."""
        if self.choices:
            every = "a list without repeats, each " if self.is_list_of_choices else ""
            return f"{every}one of " + ", ".join(str(c).lower() for c in self.choices)
        bounds = (f" {_BOUNDS[key][0]} {bound:g}" for key, bound in self.bounds.items())
        return _words(self.hint, " and".join(bounds))

    def accept(self, value: Any) -> Any:
        """Return `value` in the setting's type. Raises `UserError`, which says what is needed."""
        if self.is_list_of_choices:
            if self._are_choices(value):
                return tuple(value)
        elif self.choices:
            if self._is_choice(value):
                return value
        else:
            with suppress(ValueError, OverflowError):  # OverflowError: larger than any float
                converted = _convert(value, self.hint)
                if all(map(self._is_in_range, _numbers(converted))):
                    return converted
        remedy = _remedy(value, self)
        raise UserError(f"{self.name} is {spell(value)}, {self.expected} is needed{remedy}")

    def json_schema(self) -> dict[str, Any]:
        """Return the setting's JSON Schema, for editors."""
        unit = f" [{self.unit}]" if self.unit else ""
        default = list(self.default) if type(self.default) is tuple else self.default
        schema = {"description": self.meaning + unit, "default": default}
        if self.is_list_of_choices:
            items = {"enum": list(self.choices)}
            return {**schema, "type": "array", "items": items, "minItems": 1, "uniqueItems": True}
        if self.choices:
            return {**schema, "enum": list(self.choices)}
        return {**schema, **_json_type(self.hint, self.bounds)}

    def _is_choice(self, value: Any) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    def _are_choices(self, value: Any) -> bool:
        """Return whether `value` is a list of choices: at least one, and none twice."""
        return (
            type(value) in (list, tuple)
            and all(map(self._is_choice, value))
            and 0 < len(set(value)) == len(value)
        )

    def _is_in_range(self, number: float) -> bool:
        tests = ((_BOUNDS[key][1], bound) for key, bound in self.bounds.items())
        return abs(number) < LIMIT and all(holds(number, bound) for holds, bound in tests)


def declared(section: Any, prefix: str = "") -> Iterator[Setting]:
    """List the settings of a dataclass and of its sections, in the order of declaration."""
    for entry in fields(section):
        if is_dataclass(entry.type):
            yield from declared(entry.type, f"{prefix}{entry.name}.")
        else:
            yield Setting(prefix + entry.name, entry.type, entry.default, **entry.metadata)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Split `int | None` into (int, NoneType)."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _convert(value: Any, hint: Any) -> Any:
    """Return `value` in the type `hint`: lists as tuples, numbers as int or float.

    Raises `ValueError` if it is of another type.
    """
    for kind in _kinds(hint):
        if get_origin(kind) is tuple and type(value) in (list, tuple):
            return tuple(_convert(item, get_args(kind)[0]) for item in value)
        if get_origin(kind) is Mapping and type(value) is dict and value:
            key, item = get_args(kind)
            return {_convert(k, key): _convert(v, item) for k, v in value.items()}
        if type(value) is kind:
            return value
        if kind is int and type(value) is float and value.is_integer():
            return int(value)
        if kind is float and type(value) is int:
            return float(value)
    raise ValueError(value)


def _numbers(value: Any) -> list[float]:
    """List the numbers in a value: itself, or those in a list or a mapping."""
    inside = value.values() if isinstance(value, dict) else value
    items = inside if isinstance(value, list | tuple | dict) else [value]
    return [item for item in items if type(item) in (int, float)]


def _words(hint: Any, bounds: str) -> str:
    """Return the types of `hint` in words; `bounds` follows each type of number."""
    words = []
    for kind in _kinds(hint):
        if kind is NoneType:
            words.append("null")
        elif get_origin(kind) is tuple:
            is_number_too = int in _kinds(hint)
            words.append("a list of these" if is_number_too else f"a list of whole numbers{bounds}")
        elif get_origin(kind) is Mapping:
            words.append(f"names with a number{bounds} each")
        else:
            words.append(_WORDS[kind] + (bounds if kind in (int, float) else ""))
    return " or ".join(words)


def _json_type(hint: Any, bounds: dict[str, float]) -> dict[str, Any]:
    """Return `hint` with `bounds` in the keywords of JSON Schema."""
    names, items = [], {}
    for kind in _kinds(hint):
        if get_origin(kind) is tuple:
            names.append("array")
            items = {"items": _json_type(get_args(kind)[0], bounds), "minItems": 1}
        elif get_origin(kind) is Mapping:
            names.append("object")
            items = {"additionalProperties": _json_type(get_args(kind)[1], bounds)}
            items["minProperties"] = 1
        else:
            names.append(_JSON[kind])
    return {"type": names[0] if len(names) == 1 else names, **items, **bounds}


def _remedy(value: Any, setting: Setting) -> str:
    """Return advice for mistakes that are hard to see, or ""."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?0[0-9]+", value):
        return " (write it without leading zeros)"
    if setting.is_text and isinstance(value, int | float):
        return " (put it in quotes)"
    if any(not abs(number) < LIMIT for number in _numbers(value)):
        return f" (below {LIMIT:g})"
    return ""
