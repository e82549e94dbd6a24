"""Results as data: every experiment fills a dataclass, which is written as JSON and printed."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import Any

from errors import UserError
from storage import atomic_write


def add_json(parser: ArgumentParser) -> None:
    """Declare `--json FILE`."""
    parser.add_argument("--json", metavar="FILE", help="also write the results to FILE, as JSON")


def write_json(path: str | None, result: Any) -> None:
    """Write a dataclass to `path` as JSON, whole or not at all; None writes nothing.

    Raises `UserError` if the folder of `path` does not exist.
    """
    if path is None:
        return
    if not Path(path).parent.is_dir():
        raise UserError(f"--json {path}: there is no folder {Path(path).parent}: make it first")
    atomic_write(Path(path), (json.dumps(asdict(result), indent=1) + "\n").encode())
