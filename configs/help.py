"""What `train.py --help` lists, and configs/schema.json, by which editors check the YAML files.

`python -m configs.help` writes schema.json.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.setting import spell
from configs.settings import SECTIONS, SETTINGS
from errors import command
from storage import atomic_write


def describe() -> str:
    """List every setting with its default, unit, range and meaning, as `--help` shows it."""
    lines = []
    section = ""
    for known in SETTINGS.values():
        head, _, key = known.name.rpartition(".")
        if head != section:
            lines.append(f"\n{head}: {SECTIONS[head].__doc__}")
            section = head
        unit = f" [{known.unit}]" if known.unit else ""
        lines.append(f"  {key:18} {spell(known.default):13} {known.meaning}")
        lines.append(f"  {'':32} {known.wanted}{unit}")
    return "\n".join(lines)


def json_schema() -> dict[str, Any]:
    """Describe a config file in JSON Schema, for editors and for whoever does not run Python."""
    parts: dict[str, Any] = {name: {} for name in SETTINGS if "." not in name}
    for name, section in SECTIONS.items():
        parts[name] = {
            "description": section.__doc__,
            "type": ["object", "null"],
            "properties": {},
            "additionalProperties": False,
        }
    for known in SETTINGS.values():
        head, _, key = known.name.rpartition(".")
        (parts[head]["properties"] if head else parts)[key] = known.json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A Breeze run",
        "type": "object",
        "properties": parts,
        "additionalProperties": False,
    }


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write configs/schema.json."""
    path = Path(__file__).with_name("schema.json")
    atomic_write(path, (json.dumps(json_schema(), indent=1) + "\n").encode())
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(None))
