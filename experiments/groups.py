"""Groups of runs that differ in the seed only, such as the runs of one window in a sweep.

    runs/sweep/window-8/seed-0   runs/sweep/window-8/seed-1      the group "window-8"
    runs/sweep/window-full/seed-0   ...                          the group "window-full"

A RUN of the command line is the folder of a run, or of a sweep, which stands for all its groups.
Reading groups needs no torch.
"""

import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.load import config_from_dict
from errors import UserError
from training.checkpoint import Checkpoint
from training.run_folder import newest


@dataclass(frozen=True)
class Group:
    """Runs of one config with different seeds, in the order of the seeds."""

    name: str
    runs: tuple[Path, ...]  # folders of runs, or checkpoint files


def groups_of(paths: Sequence[str]) -> list[Group]:
    """Return the groups of runs and sweeps; windows rise, full attention is last.

    Seeds are one group if they are in one folder, which names it. Any other run is a group of its
    own. Where two groups have the same name, folders in front tell them apart. A sweep's runs that
    are not finished are left out, with a note. Raises `UserError` if a path is neither a run nor a
    sweep, or if no run of a sweep is finished.
    """
    runs = dict.fromkeys(run for path in map(Path, paths) for run in _runs(path))
    groups: dict[Path, list[Path]] = {}  # by the folder of the seeds, or by the run
    for run in runs:
        place = Path(os.path.abspath(run))  # noqa: PTH100 (`resolve` would follow links)
        groups.setdefault(place.parent if _is_seed(run) else place, []).append(run)
    names = _names(groups)
    return [
        Group(names[place], tuple(sorted(members, key=_order))) for place, members in groups.items()
    ]


def _names(places: Iterable[Path]) -> dict[Path, str]:
    """Return the shortest end of each path that no other path has."""
    places, names = list(places), dict[Path, str]()
    for place in places:
        ends = (place.parts[-n:] for n in range(1, len(place.parts) + 1))
        end = next(end for end in ends if [p.parts[-len(end) :] for p in places].count(end) == 1)
        names[place] = Path(*end).as_posix()
    return names


def _is_seed(run: Path) -> bool:
    return run.name.startswith("seed-")


def _runs(path: Path) -> list[Path]:
    """Return the finished runs below the folder of a sweep, or `path` itself if it is a run."""
    if path.is_file() or (path / "checkpoints").is_dir():
        return [path]
    found = sorted(
        (run.parent for run in path.glob("*/seed-*/checkpoints")),
        key=lambda run: (_order(run.parent), _order(run)),
    )
    if not found:
        raise UserError(
            f"{path} is neither a run nor a sweep: train one with `python train.py` or "
            "`python -m experiments.sweep`"
        )
    finished = [run for run in found if _is_finished(run)]
    if not finished:
        raise UserError(f"no run of {path} is finished: continue the sweep, or name single runs")
    if left_out := ", ".join(str(run) for run in found if run not in finished):
        print(f"note: not finished, so left out: {left_out}", file=sys.stderr)
    return finished


def _is_finished(run: Path) -> bool:
    checkpoint = newest(run / "checkpoints")
    return checkpoint is not None and is_last(checkpoint)


def is_last(checkpoint: Checkpoint) -> bool:
    """Return whether the run has done all its steps, or was ended by `train.patience`."""
    train = config_from_dict(checkpoint.metadata["config"], str(checkpoint.path)).train
    since_best = checkpoint.step - checkpoint.metadata.get("best_step", checkpoint.step)
    out_of_patience = 0 < train.patience <= since_best // train.eval_interval
    return checkpoint.step >= train.max_steps or out_of_patience


def _order(path: Path) -> tuple[float, str]:
    """Order names by their first number; names without a number are last."""
    number = re.search(r"\d+", path.name)
    return (float(number[0]) if number else float("inf"), path.name)
