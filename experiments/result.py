"""Results as data: an experiment fills a dataclass, stores it as JSON, then prints and draws it.

    RUN/report/reach.json    {"about": {command, date, machine, ...}, "checkpoints": [...],
                              "result": {...}}

`experiments.report` reads these files again. So a table and a picture never show a number that was
not stored, and every number names the command and the machine that gave it.
"""

import dataclasses
import json
import shlex
import sys
import time
import types
import typing
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from errors import UserError
from experiments.benchmarks.machine import Machine, describe_machine
from storage import atomic_write, make_folder

T = TypeVar("T")

QUICK = "-quick"  # at the end of the names of quick results


@dataclass(frozen=True)
class About:
    """How a result came about."""

    command: str  # as it can be run again
    quick: bool  # whether --quick made it: fewer and smaller measurements
    date: str  # of the end, UTC
    seconds: float  # that the command took
    machine: Machine


class Clock:
    """Knows the command line and the start of an experiment; its `about` is called at the end."""

    def __init__(self, prog: str, argv: Sequence[str] | None) -> None:
        words = sys.argv[1:] if argv is None else argv
        self._command = shlex.join([*prog.split(), *words])
        self._start = time.perf_counter()

    def about(self, quick: bool = False) -> About:
        """Describe the experiment that ends now."""
        now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M")
        seconds = round(time.perf_counter() - self._start, 1)
        return About(self._command, quick, now, seconds, describe_machine())


def add_json(parser: ArgumentParser) -> None:
    """Declare `--json FILE`. A missing folder is an error before the experiment starts."""
    parser.add_argument(
        "--json", type=_in_a_folder, metavar="FILE", help="also write the results to FILE, as JSON"
    )


def add_quick(parser: ArgumentParser, less: str) -> None:
    """Declare `--quick`; `less` says what it measures less of, such as "100 questions"."""
    parser.add_argument("--quick", action="store_true", help=f"within 3 minutes: {less}")


def write_json(path: str | None, result: Any) -> None:
    """Write a dataclass to `path` as JSON, whole or not at all; None writes nothing."""
    if path is not None:
        atomic_write(Path(path), _json(asdict(result)))


def show_hint(path: Path) -> str:
    """Return the line that says how to see a result that `store` wrote about `path`."""
    return f"picture: python -m experiments.report {shlex.quote(str(report_folder(path).parent))}"


def report_folder(path: Path) -> Path:
    """Return the folder of the results about `path`: a run's or a sweep's folder, or a checkpoint.

    It is made if it is missing.
    """
    if path.is_file():
        path = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    folder = path / "report"
    make_folder(folder)
    return folder


def store(path: Path, name: str, about: About, result: Any) -> Path:
    """Write a result, a dataclass, to NAME.json in the report folder of `path`; return the file.

    A quick result goes to NAME-quick.json, so that it never replaces a full one.
    """
    folder = report_folder(path)
    file = folder / f"{name}{QUICK if about.quick else ''}.json"
    checkpoints = newest_checkpoints(folder.parent)
    data = {"about": asdict(about), "checkpoints": checkpoints, "result": asdict(result)}
    atomic_write(file, _json(data))
    return file


def stored(path: Path, name: str) -> Path | None:
    """Return the file of a result about `path`: a full one before a quick one; None if neither."""
    files = (path / "report" / f"{name}{quick}.json" for quick in ("", QUICK))
    return next((file for file in files if file.is_file()), None)


def newest_checkpoints(path: Path) -> list[str]:
    """Return the name of the last checkpoint of a run, or of each run of a sweep.

    A name has the hash of the content, so equal names mean equal weights.
    """
    folders = [path / "checkpoints", *sorted(path.glob("*/seed-*/checkpoints"))]
    files = (sorted(folder.glob("*.safetensors")) for folder in folders)
    return [names[-1].name for names in files if names]


def is_outdated(file: Path) -> bool:
    """Return whether the run or sweep of a stored result was trained on since, or is another."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))["checkpoints"]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return bool(known != newest_checkpoints(file.parent.parent))


def load(file: Path, kind: type[T]) -> tuple[About, T]:
    """Read what `store` wrote; `kind` is the dataclass of the result.

    Raises `UserError` if the file is damaged, or was written by another version of the experiment.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise TypeError("it is not a mapping")
        return _rebuild(About, data["about"]), _rebuild(kind, data["result"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is not a result of this version ({error}): run its experiment again"
        ) from None


def rebuild(kind: type[T], value: Any) -> T:
    """Turn the JSON values of a dataclass, from `dataclasses.asdict`, into `kind` again.

    Raises TypeError or KeyError if they have another shape.
    """
    rebuilt: T = _rebuild(kind, value)
    return rebuilt


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def _rebuild(kind: Any, value: Any) -> Any:
    """Turn plain JSON values into `kind`: dataclasses, tuples, lists, dicts, unions and scalars.

    Raises TypeError or ValueError if the value has another shape.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (list, tuple, Sequence) and not isinstance(value, list | tuple):
        raise TypeError(f"{value!r} is not a list")
    if (origin is dict or dataclasses.is_dataclass(kind)) and not isinstance(value, dict):
        raise TypeError(f"{value!r} is not a mapping")
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        if set(value) != set(hints):
            raise TypeError(f"{kind.__name__} has the fields {', '.join(hints)}")
        return kind(**{name: _rebuild(hints[name], part) for name, part in value.items()})
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _rebuild(next(part for part in inner if part is not type(None)), value)
    if origin is tuple and inner[-1] is not Ellipsis:
        return tuple(_rebuild(part, v) for part, v in zip(inner, value, strict=True))
    if origin in (list, tuple, Sequence):
        return (list if origin is list else tuple)(_rebuild(inner[0], part) for part in value)
    if origin is dict:
        return {inner[0](name): _rebuild(inner[1], part) for name, part in value.items()}
    if kind is float and isinstance(value, int):
        return float(value)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value


def _in_a_folder(path: str) -> str:
    if not Path(path).parent.is_dir():
        raise ArgumentTypeError(f"{path}: there is no folder {Path(path).parent}: make it first")
    return path
