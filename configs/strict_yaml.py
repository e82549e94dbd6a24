"""YAML without its traps: text in, plain values and their line numbers out.

PyYAML follows YAML 1.1, in which `3e-4` is a string, `on` is True, `012` is 10, `1:30` is 90 and
the last of two equal keys wins in silence. Here the plain scalars of YAML 1.2 hold (yaml.org/spec/
1.2.2, section 10.3), with `_` allowed inside numbers, and what a setting does not need is refused:
tags, anchors, aliases, deep nesting. Nothing is built but dict, list, str, int, float, bool, None.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from errors import UserError

MAX_DEPTH = 8  # a file of 10,000 brackets would otherwise exhaust the stack

_TAG = "tag:yaml.org,2002:"
# Which plain scalar is what. A whole number with a leading zero matches none and stays text: some
# read 012 as 10 and some as 12, so the schema asks. Python refuses to read 5,000 digits: 100 do.
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
    """Compose nodes, refusing what could surprise; this file constructs the values itself."""

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
    """Quote exactly the texts that `_Loader` would take for something else."""

    yaml_implicit_resolvers = _PLAIN


@dataclass
class Document:
    """A text's plain value, the line of each dotted key, and the keys that were given twice."""

    value: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)


def parse(text: str) -> Document:
    """Read one YAML document. Raises `UserError` with the line where it is none or not allowed."""
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
    except (ValueError, OverflowError):  # PyYAML on "\UFFFFFFFF" and on %YAML with 5,000 digits
        raise UserError("not YAML: a number in an escape or a directive is too large") from None
    document.value = None if node is None else _value(node, "", document)
    return document


def dump(value: Any) -> str:
    """Write plain values so that `parse` reads the same values back."""
    # Non-ASCII is escaped: unescaped, PyYAML writes U+0085, which it then reads as a line's end.
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def _value(node: yaml.Node, name: str, document: Document) -> Any:
    """Turn a node into its plain value, noting the lines of the keys beneath `name`."""
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
    return node.value


def _mapping(node: yaml.MappingNode, name: str, document: Document) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError(f"line {line}: a key must be a word, not a list or a mapping")
        key = key_node.value
        full = f"{name}.{key}" if name else key
        if key in mapping:
            earlier = document.lines[full]
            document.twice.append(f"line {line}: {full} is given twice (also on line {earlier})")
            continue
        document.lines[full] = line
        mapping[key] = _value(value_node, full, document)
    return mapping
