"""Groups of runs that differ in the seed only, such as the runs of one window in a sweep.

    runs/sweep/window-8/seed-0   runs/sweep/window-8/seed-1      the group "window-8"
    runs/sweep/full/seed-0       runs/sweep/full/seed-1          the group "full"

A RUN of the command line is the folder of a run, or of a sweep, which stands for all its groups.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import UserError


@dataclass(frozen=True)
class Group:
    """Runs of one config with different seeds, in the order of the seeds."""

    name: str
    runs: tuple[Path, ...]  # folders of runs, or checkpoint files


def groups_of(paths: Sequence[str]) -> list[Group]:
    """Return the groups of runs and sweeps; windows rise, full attention is last.

    A run that is not in a folder seed-N is a group of its own; its name is that of its folder, or
    the whole path if another run has the same name. Raises `UserError` if a path is neither a run
    nor a sweep.
    """
    runs = list(dict.fromkeys(run for path in map(Path, paths) for run in _runs(path)))
    alone = Counter(run.name for run in runs if not _is_seed(run))
    groups: dict[str, list[Path]] = {}
    for run in runs:
        name = run.name if alone[run.name] < 2 else str(run)
        groups.setdefault(run.parent.name if _is_seed(run) else name, []).append(run)
    return [Group(name, tuple(sorted(runs, key=_order))) for name, runs in groups.items()]


def _is_seed(run: Path) -> bool:
    return run.name.startswith("seed-")


def _runs(path: Path) -> list[Path]:
    """Return the runs below the folder of a sweep, or `path` itself if it is a run."""
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
    return found


def _order(path: Path) -> tuple[float, str]:
    """Order names by their first number; names without a number are last."""
    number = re.search(r"\d+", path.name)
    return (float(number[0]) if number else float("inf"), path.name)
