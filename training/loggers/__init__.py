"""Trackers that a run may write to, beside metrics.jsonl: TensorBoard, Weights & Biases, trackio.

`train.loggers` names them. Each is a `Tracker`; training/run_log.py writes to all of them. Their
libraries are optional and imported only if named. Each works offline and continues after
`--resume` without writing a step twice:

    tensorboard  writes at once; a resumed run hides the later steps (TensorBoard's `purge_step`)
    trackio      writes at once; a resumed run deletes the later steps
    wandb        cannot delete, so it gets a step only when a checkpoint that contains it is saved
"""

import os
import uuid
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from errors import UserError
from storage import atomic_write

PROJECT = "breeze"  # the group of runs, in trackers that have one


class Tracker(Protocol):
    """One place that shows a run.

    It is opened as `open(folder, config, step)`: the run's folder, all settings as nested values,
    and the step that training continues from. What it holds of later steps is not to be shown.
    """

    shown_by: str  # the command that shows it

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values measured at `step`, by name."""

    def sample(self, step: int, text: str) -> None:
        """Take the text that the model wrote at `step`."""

    def saved(self) -> None:
        """A checkpoint was saved: the steps so far will not be written again."""

    def close(self) -> None:
        """Write what is left, unless a resumed run will write it again."""


def refuse_unavailable(names: Iterable[str]) -> None:
    """Raise `UserError` about the field `loggers` if the library of one is not installed, or if
    wandb is to be online and has no API key. Nothing is asked on the terminal."""
    for name in names:
        spec = None if name == "jsonl" else find_spec(name)
        if name != "jsonl" and (spec is None or spec.origin is None):  # a folder has no origin
            raise UserError(
                f'loggers names {name}, which is not installed: pip install -e ".[{name}]", or '
                "remove it from the list",
                field="loggers",
            )
    if "wandb" in names:
        from training.loggers.wandb import refuse_without_login

        refuse_without_login()


def open_tracker(name: str, folder: Path, config: Mapping[str, Any], step: int) -> Tracker:
    """Open the tracker `name`, which is not jsonl, for a run that continues from `step`."""
    if name == "tensorboard":
        from training.loggers.tensorboard import TensorBoard

        return TensorBoard(folder, config, step)
    if name == "wandb":
        from training.loggers.wandb import WeightsAndBiases

        return WeightsAndBiases(folder, config)
    from training.loggers.trackio import Trackio

    return Trackio(folder, config, step)


def run_id(folder: Path) -> str:
    """Return the name of the run in `folder` that stays when the folder is moved; drawn once."""
    path = folder / "run_id"
    if not path.exists():
        atomic_write(path, uuid.uuid4().hex[:12].encode())
    return path.read_text(encoding="ascii")


def place(variable: str, folder: Path) -> str:
    """Return the folder that the environment names by `variable`, or else `folder`."""
    return os.environ.get(variable) or str(folder.resolve())
