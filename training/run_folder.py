"""The checkpoints in a run's folder: the newest, the best, and those that are deleted.

No file points to the newest checkpoint. The newest file or folder with a valid hash is used, and
each one that is skipped is named.
"""

import contextlib
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from errors import UserError, printable
from storage import remove
from training import sharded
from training.checkpoint import NAME, Checkpoint, read
from training.header import Tensors, read_header, val_loss


def find(run: Path, which: str = "best") -> Checkpoint:
    """Find the checkpoint that RUN means: a checkpoint file, or one in a run's folder.

    `which` chooses in a folder: `best` (the lowest validation loss; the newest if no loss was
    measured), `last` or a step. Damaged files are skipped and reported, as in `newest`. Raises
    `UserError` if there is no such checkpoint.
    """
    if not run.exists():
        raise UserError(f"there is no run {run}: train one with `python train.py`, or see runs/")
    if not run.is_dir() or NAME.fullmatch(run.name):
        return read(run)
    paths = _by_step(run / "checkpoints")
    if not paths and (run / "config.json").exists():
        raise UserError(
            f"{run} is a folder of Hugging Face: `python -m scripts.import_hf {run} --out "
            "runs/NAME` makes a run of it"
        )
    if not paths:
        raise UserError(f"{run} has no checkpoints yet: train it first")
    if which == "best":
        order = _best_first(paths)
    elif which == "last":
        order = paths[::-1]
    else:
        order = [path for path in paths if str(_step(path)) == which]
        steps = ", ".join(dict.fromkeys(str(_step(path)) for path in paths))
        if not order:
            raise UserError(
                f"{run} has no checkpoint {which}: choose best, last or one of the steps {steps}"
            )
    return _first_valid(order)


def newest(folder: Path) -> Checkpoint | None:
    """Find the newest valid checkpoint in `folder`; each damaged file is skipped and reported.

    Returns None if there is no file. Raises `UserError` if there are files and none is valid,
    because a run must never start from zero in the folder of another.
    """
    paths = _by_step(folder)
    return _first_valid(paths[::-1]) if paths else None


def _first_valid(paths: Sequence[Path]) -> Checkpoint:
    for path in paths:
        try:
            return read(path)
        except UserError as error:
            print(f"skipped: {printable(str(error))}", file=sys.stderr)
    raise UserError(
        f"none of the {len(paths)} checkpoints in {paths[0].parent} is valid: restore one, or "
        "remove the run's folder to start from the beginning"
    )


def _best_first(paths: Sequence[Path]) -> list[Path]:
    """Sort by validation loss; files without a loss come last, the newest of them first."""
    losses = _losses(paths)
    measured = [path for path in paths if losses.get(path, math.inf) < math.inf]
    others = [path for path in reversed(paths) if path not in measured]
    return sorted(measured, key=lambda path: losses[path]) + others


def _losses(paths: Iterable[Path]) -> dict[Path, float]:
    """Return the validation loss of each file, infinite if it was not measured.

    Files with a damaged header are left out.
    """
    losses = {}
    for path in paths:
        with contextlib.suppress(UserError):
            losses[path] = val_loss(_header(path)[0])
    return losses


def _by_step(folder: Path) -> list[Path]:
    """List the checkpoints in `folder`, the oldest first."""
    paths = (path for path in folder.glob("step-*") if NAME.fullmatch(path.name))
    return sorted(paths, key=lambda path: (_step(path), path.name))


def prune(last: Path, keep: int) -> None:
    """Delete checkpoints: keep the newest `keep` up to `last`, and the lowest validation loss.

    `last` is the file that was just saved. Files of later steps were skipped as damaged when the
    run was resumed. They are not counted, not read and not deleted.
    """
    losses = _losses(path for path in _by_step(last.parent) if _step(path) <= _step(last))
    lowest = min(losses.values())
    best = next(path for path in losses if losses[path] == lowest)
    for path in list(losses)[:-keep]:
        if path != best or lowest == math.inf:
            remove(path)


def _header(path: Path) -> tuple[dict[str, Any], Tensors]:
    return sharded.read_index(path) if path.is_dir() else read_header(path)


def _step(path: Path) -> int:
    return int(path.name.split("-")[1])
