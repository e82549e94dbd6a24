"""Strict YAML: text in, plain values and their line numbers out.

PyYAML follows YAML 1.1, in which `3e-4` is a string, `on` is True, `012` is 10, `1:30` is 90, and
the last of two equal keys is used without a warning. This module reads plain scalars as YAML 1.2
does (yaml.org/spec/1.2.2, section 10.3), allows `_` inside numbers, and refuses features that no
setting needs: tags, anchors, aliases, deep nesting. It returns only dict, list, str, int, float,
bool and None.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from errors import UserError

MAX_DEPTH = 8  # levels; without a limit, 10,000 brackets exhaust the stack

_TAG = "tag:yaml.org,2002:"
# Patterns of the types of plain scalars. A whole number with a leading zero matches none, because
# some programs read 012 as 10 and some as 12: it stays text, and no number setting accepts text. A
# whole number has at most 100 digits, because Python refuses to read 5,000.
_PLAIN = {
    None: [
        (_TAG + "null", re.compile(r"(null|Null|~|)\Z")),
        (_TAG + "bool", re.compile(r"(true|True|false|False)\Z")),
        (_TAG + "int", re.compile(r"[-+]?(0|[1-9][0-9_]{0,99})\Z")),
        (
            _TAG + "float",
            re.compile(
                r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))"
                r"([eE][-+]?[0-9]+)?\Z"
            ),
        ),
    ]
}


class _Loader(yaml.SafeLoader):
    """Compose nodes and refuse unwanted features; `_value` constructs the values."""

    yaml_implicit_resolvers = _PLAIN
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise UserError(f"line {line}: anchors (&) and aliases (*) are not allowed here")
        if event.tag is not None:
            raise UserError(f"line {line}: the tag {event.tag} is not allowed here")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UserError(f"line {line}: nested deeper than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quote exactly the texts that `_Loader` would read as another type."""

    yaml_implicit_resolvers = _PLAIN


@dataclass
class Document:
    """The plain value of a text, the line of each dotted key, and errors about repeated keys."""

    value: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    duplicates: list[str] = field(default_factory=list)


def parse(text: str) -> Document:
    """Read one YAML document. Raises `UserError` with the line of the first error."""
    document = Document()
    try:
        node = yaml.compose(text, Loader=_Loader)
    except UserError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{line}not YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        row = text.count("\n", 0, error.position) + 1
        raise UserError(f"line {row}: not YAML: U+{ord(text[error.position]):04X} in it") from None
    except (
        ValueError,
        OverflowError,
    ):  # of PyYAML, for "\UFFFFFFFF" or %YAML with 5,000 digits
        raise UserError("not YAML: a number in an escape or a directive is too large") from None
    document.value = None if node is None else _value(node, "", document)
    return document


def dump(value: Any) -> str:
    """Write plain values so that `parse` reads the same values back."""
    # Characters beyond ASCII are escaped: PyYAML would write U+0085 as it is, and read a line end.
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def _value(node: yaml.Node, name: str, document: Document) -> Any:
    """Return the plain value of a node; record in `document` the lines of the keys below `name`."""
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, name, document)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, name, document) for item in node.value]
    assert isinstance(node, yaml.ScalarNode)
    kind = node.tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return node.value in ("true", "True")
    if kind in ("int", "float"):
        digits = node.value.replace("_", "")
        return int(digits) if kind == "int" else float(digits)
    return _characters(node.value)


def _characters(text: str) -> str:
    """Return `text` with each pair of surrogates as the character that it stands for.

    JSON writes a smiley as two escapes, and PyYAML reads them as two characters.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _mapping(node: yaml.MappingNode, name: str, document: Document) -> dict[str, Any]:
    """Return the plain value of a mapping; report repeated keys in `document`."""
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"line {line}: a key must be a word, not a list or a mapping")
        key = _characters(key_node.value)
        full = f"{name}.{key}" if name else key
        if key in mapping:
            earlier = document.lines[full]
            document.duplicates.append(
                f"line {line}: {full} is given twice (also on line {earlier})"
            )
            continue
        document.lines[full] = line
        mapping[key] = _value(value_node, full, document)
    return mapping
