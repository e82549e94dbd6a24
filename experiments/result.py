"""Results as data: an experiment fills a dataclass, prints it, and can write it as JSON."""

import json
from argparse import ArgumentParser, ArgumentTypeError
from dataclasses import asdict
from pathlib import Path
from typing import Any

from storage import atomic_write


def add_json(parser: ArgumentParser) -> None:
    """Declare `--json FILE`. A missing folder is an error before the experiment starts."""
    parser.add_argument(
        "--json", type=_in_a_folder, metavar="FILE", help="also write the results to FILE, as JSON"
    )


def write_json(path: str | None, result: Any) -> None:
    """Write a dataclass to `path` as JSON, whole or not at all; None writes nothing."""
    if path is not None:
        atomic_write(Path(path), (json.dumps(asdict(result), indent=1) + "\n").encode())


def _in_a_folder(path: str) -> str:
    if not Path(path).parent.is_dir():
        raise ArgumentTypeError(f"{path}: there is no folder {Path(path).parent}: make it first")
    return path
