"""experiments/groups.py: which runs of a sweep differ in the seed only."""

from pathlib import Path

import pytest

from errors import UserError
from experiments.groups import groups_of
from training.checkpoint import save


def make(folder: Path, *runs: str, step: int = 10, **metadata: int) -> None:
    """Make runs of 10 steps whose newest checkpoint is of `step`."""
    config = {"train": {"max_steps": 10, "eval_interval": 2, "patience": 2}}
    for run in runs:
        checkpoints = folder / run / "checkpoints"
        checkpoints.mkdir(parents=True)
        described = {"config": config, "data_hash": "", **metadata}
        save(checkpoints, step, weights={}, moments={}, tokenizer=b"x", metadata=described)


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
    found = [(group.name, *map(str, group.runs)) for group in groups_of(paths)]
    assert found == [("a/quickstart", paths[0]), ("b/quickstart", paths[1])]


def test_sweeps_with_the_same_windows_are_told_apart(tmp_path: Path) -> None:
    """Seeds of two sweeps, and a single run, would be three seeds of one window."""
    make(
        tmp_path,
        "sweep/window-8/seed-0",
        "sweep2/window-8/seed-0",
        "window-8",
        "sweep2/full/seed-0",
    )
    groups = groups_of([str(tmp_path / name) for name in ("sweep", "sweep2", "window-8")])
    assert [(group.name, len(group.runs)) for group in groups] == [
        ("sweep/window-8", 1), ("sweep2/window-8", 1), ("full", 1),
        (f"{tmp_path.name}/window-8", 1),
    ]  # fmt: skip


def test_a_seed_is_named_by_its_folder_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path could give a nameless group, or a second group of the same folder."""
    make(tmp_path, "window-8/seed-0", "window-8/seed-1")
    monkeypatch.chdir(tmp_path / "window-8")
    (group,) = groups_of(["seed-0", str(tmp_path / "window-8" / "seed-1")])
    assert (group.name, len(group.runs)) == ("window-8", 2)


def test_runs_of_a_stopped_sweep_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run stopped half way would be averaged as a seed. One ended by patience is finished."""
    make(tmp_path, "window-8/seed-0")
    make(tmp_path, "window-8/seed-1", "full/seed-0", step=8, best_step=6)
    make(tmp_path, "window-8/seed-2", step=6, best_step=2)
    (tmp_path / "window-8/seed-3/checkpoints").mkdir(parents=True)
    (group,) = groups_of([str(tmp_path)])
    assert [run.name for run in group.runs] == ["seed-0", "seed-2"]
    left_out = [str(tmp_path / f"window-8/seed-{n}") for n in (1, 3)]
    left_out.append(str(tmp_path / "full/seed-0"))
    note = f"note: not finished, so left out: {', '.join(left_out)}\n"
    assert capsys.readouterr().err == note
    (named,) = groups_of([left_out[0]])
    assert named.runs == (Path(left_out[0]),)
    assert capsys.readouterr().err == ""


def test_a_sweep_without_a_finished_run_is_refused(tmp_path: Path) -> None:
    """An empty table would be printed."""
    make(tmp_path, "window-8/seed-0", step=4)
    with pytest.raises(UserError, match=r"no run of .* is finished: continue the sweep"):
        groups_of([str(tmp_path)])
