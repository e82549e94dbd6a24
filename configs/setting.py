"""One setting: what it may hold, said three ways: as a check, as words, as JSON Schema.

The dataclasses of `configs/settings.py` declare each setting once, with `setting(...)`; the type
comes from the annotation. Exact types are asked for: True is no number, 3.0 no whole number, and
"3" is text; only a whole number may stand where a number is meant.
"""

import json
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from errors import UserError

LIMIT = 1e18  # no setting means anything beyond it; the comparison also catches inf and nan

_BOUNDS = {  # JSON Schema's words, each with its sign and its test
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
    """Declare a dataclass field as a setting; `bounds` have JSON Schema's names (`minimum=1`)."""
    assert bounds.keys() <= _BOUNDS.keys(), bounds
    about = {"meaning": meaning, "unit": unit, "choices": choices, "bounds": bounds}
    return field(default=default, metadata=about)


def spell(value: Any) -> str:
    """Write a value as YAML and JSON do, cut to a length that fits an error's line."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 48 else text[:45] + "..."


@dataclass(frozen=True)
class Setting:
    """What is known of one setting; `hint` is its annotation, `name` is dotted."""

    name: str
    hint: Any
    default: Any
    meaning: str
    unit: str
    choices: tuple[Any, ...]
    bounds: dict[str, float]

    @property
    def is_text(self) -> bool:
        """Whether any text may stand here."""
        return str in _kinds(self.hint) and not self.choices

    @property
    def is_nullable(self) -> bool:
        return NoneType in _kinds(self.hint)

    @property
    def wanted(self) -> str:
        """What may stand here, in words: `a whole number >= 1 or null`."""
        if self.choices:
            return "one of " + ", ".join(str(c).lower() for c in self.choices)
        bounds = (f" {_BOUNDS[key][0]} {bound:g}" for key, bound in self.bounds.items())
        return _words(self.hint, " and".join(bounds))

    def accept(self, value: Any) -> Any:
        """Return `value` in the setting's own type. Raises `UserError` saying what is needed."""
        if self.choices:
            fitting = any(type(value) is type(c) and value == c for c in self.choices)
        else:
            fitting = _is(value, self.hint) and all(map(self._in_range, _numbers(value)))
        if not fitting:
            remedy = _remedy(value, self)
            raise UserError(f"{self.name} is {spell(value)}, {self.wanted} is needed{remedy}")
        if isinstance(value, list):
            return tuple(value)
        if isinstance(value, dict):
            return {key: float(number) for key, number in value.items()}
        return float(value) if type(value) is int and float in _kinds(self.hint) else value

    def json_schema(self) -> dict[str, Any]:
        """Describe the setting for editors."""
        unit = f" [{self.unit}]" if self.unit else ""
        about = {"description": self.meaning + unit, "default": self.default}
        if self.choices:
            return {**about, "enum": list(self.choices)}
        return {**about, **_json_type(self.hint, self.bounds)}

    def _in_range(self, number: float) -> bool:
        tests = ((_BOUNDS[key][1], bound) for key, bound in self.bounds.items())
        return abs(number) < LIMIT and all(holds(number, bound) for holds, bound in tests)


def declared(section: Any, prefix: str = "") -> Iterator[Setting]:
    """List the settings of a dataclass, those of its sections included, in their order."""
    for entry in fields(section):
        if is_dataclass(entry.type):
            yield from declared(entry.type, f"{prefix}{entry.name}.")
        else:
            yield Setting(prefix + entry.name, entry.type, entry.default, **entry.metadata)


def _kinds(hint: Any) -> tuple[Any, ...]:
    """Split `int | None` into (int, NoneType)."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _is(value: Any, hint: Any) -> bool:
    for kind in _kinds(hint):
        if get_origin(kind) is tuple:
            item = get_args(kind)[0]
            if type(value) in (list, tuple) and all(_is(each, item) for each in value):
                return True
        elif get_origin(kind) is Mapping:
            key, item = get_args(kind)
            if (
                type(value) is dict
                and value
                and all(_is(each, key) and _is(value[each], item) for each in value)
            ):
                return True
        elif type(value) is kind or (kind is float and type(value) is int):
            return True
    return False


def _numbers(value: Any) -> list[float]:
    """List the numbers in a value: itself, or those in a list or a mapping."""
    inside = value.values() if isinstance(value, dict) else value
    items = inside if isinstance(value, list | tuple | dict) else [value]
    return [item for item in items if type(item) in (int, float)]


def _words(hint: Any, bounds: str) -> str:
    words = []
    for kind in _kinds(hint):
        if kind is NoneType:
            words.append("null")
        elif get_origin(kind) is tuple:
            beside = int in _kinds(hint)
            words.append("a list of these" if beside else f"a list of whole numbers{bounds}")
        elif get_origin(kind) is Mapping:
            words.append(f"names with a number{bounds} each")
        else:
            words.append(_WORDS[kind] + (bounds if kind in (int, float) else ""))
    return " or ".join(words)


def _json_type(hint: Any, bounds: dict[str, float]) -> dict[str, Any]:
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


def _remedy(value: Any, wanted: Setting) -> str:
    """Add what to write instead, for the mistakes that are easily made and hardly seen."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?0[0-9]+", value):
        return " (write it without leading zeros)"
    if wanted.is_text and isinstance(value, int | float):
        return " (put it in quotes)"
    if any(not abs(number) < LIMIT for number in _numbers(value)):
        return f" (below {LIMIT:g})"
    return ""
