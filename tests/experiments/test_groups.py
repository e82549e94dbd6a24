"""experiments/groups.py: which runs of a sweep differ in the seed only."""

from pathlib import Path

import pytest

from errors import UserError
from experiments.groups import groups_of


def make(folder: Path, *runs: str) -> None:
    """Make folders as training makes them."""
    for run in runs:
        (folder / run / "checkpoints").mkdir(parents=True)


def test_windows_rise_and_full_is_last(tmp_path: Path) -> None:
    """By name, 128 would come before 32, and seed-10 before seed-2."""
    make(tmp_path, *(f"window-{window}/seed-{seed}" for window in ("full", "128", "8", "32")
                     for seed in (0, 2, 10)))  # fmt: skip
    groups = groups_of([str(tmp_path)])
    assert [group.name for group in groups] == ["window-8", "window-32", "window-128",
                                                "window-full"]  # fmt: skip
    for group in groups:
        assert [run.name for run in group.runs] == ["seed-0", "seed-2", "seed-10"]
        assert {run.parent.name for run in group.runs} == {group.name}


def test_seeds_given_one_by_one_are_one_group(tmp_path: Path) -> None:
    """Two seeds of one window would be shown as two windows without an interval."""
    make(tmp_path, "window-8/seed-1", "window-8/seed-0", "quickstart")
    paths = [str(tmp_path / name) for name in ("window-8/seed-1", "quickstart", "window-8/seed-0")]
    first, second = groups_of(paths)
    assert (first.name, [run.name for run in first.runs]) == ("window-8", ["seed-0", "seed-1"])
    assert second.runs == (tmp_path / "quickstart",) and second.name == "quickstart"


def test_a_checkpoint_is_a_group(tmp_path: Path) -> None:
    """A single file could be refused, or looked into as a folder."""
    make(tmp_path, "run")
    file = tmp_path / "run" / "checkpoints" / "step-1.safetensors"
    file.touch()
    (group,) = groups_of([str(file)])
    assert group.runs == (file,)


@pytest.mark.parametrize("name", ["missing", "empty", "report"])
def test_other_folders_are_refused(name: str, tmp_path: Path) -> None:
    """An empty table would be printed."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "report" / "seed-0").mkdir(parents=True)
    with pytest.raises(UserError, match=f"{name} is neither a run nor a sweep") as error:
        groups_of([str(tmp_path / name)])
    assert "\n" not in str(error.value)


def test_other_folders_of_a_sweep_are_left_out(tmp_path: Path) -> None:
    """The folder of reports could be read as a run."""
    make(tmp_path, "window-8/seed-0")
    (tmp_path / "report").mkdir()
    (tmp_path / "window-32" / "seed-0").mkdir(parents=True)  # not yet trained
    (group,) = groups_of([str(tmp_path)])
    assert group.runs == (tmp_path / "window-8" / "seed-0",)


def test_runs_of_equal_names_are_told_apart(tmp_path: Path) -> None:
    """Two runs of one name would be taken for two seeds of it."""
    make(tmp_path, "a/quickstart", "b/quickstart")
    paths = [str(tmp_path / name / "quickstart") for name in "ab"]
    assert [(group.name, len(group.runs)) for group in groups_of(paths)] == [(p, 1) for p in paths]
