"""The list of settings in `train.py --help`, and schema.json, with which editors check configs.

`python -m configs.help` writes schema.json.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from configs.setting import spell
from configs.settings import SECTIONS, SETTINGS
from errors import command
from storage import atomic_write

INDENT = " " * 35  # of the values that a setting accepts, in --help


def describe() -> str:
    """Return the list of settings with default, meaning, range and unit that `--help` prints."""
    lines = []
    section = ""
    for entry in SETTINGS.values():
        head, _, key = entry.name.rpartition(".")
        if head != section:
            lines.append(f"\n{head}: {SECTIONS[head].__doc__}")
            section = head
        unit = f" [{entry.unit}]" if entry.unit else ""
        lines.append(f"  {key:18} {spell(entry.default):13} {entry.meaning}")
        lines += (INDENT + line for line in wrap(f"{entry.expected}{unit}", 100 - len(INDENT)))
    return "\n".join(lines)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a config file, for editors."""
    properties: dict[str, Any] = {name: {} for name in SETTINGS if "." not in name}
    for name, section in SECTIONS.items():
        properties[name] = {
            "description": section.__doc__,
            "type": ["object", "null"],
            "properties": {},
            "additionalProperties": False,
        }
    for entry in SETTINGS.values():
        head, _, key = entry.name.rpartition(".")
        (properties[head]["properties"] if head else properties)[key] = entry.json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A Breeze run",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write configs/schema.json; return 0."""
    path = Path(__file__).with_name("schema.json")
    atomic_write(path, (json.dumps(json_schema(), indent=1) + "\n").encode())
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(None))
