"""experiments/train_runs.py: runs side by side that are stopped, continued and never repeated."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from errors import UserError
from experiments.train_runs import Training, _Process, is_finished, peak_memory, train_runs
from storage import lock

STEPS = 4000  # of a run that is stopped: it would take longer than any test


def training(folder: Path, text: Path, *more: str) -> Training:
    """A tiny run, trained as a sweep trains it."""
    words = (tiny.QUICKSTART, *tiny.SETTINGS, f"data.path={text}", *more)
    return Training(words, folder)


def in_child(trainings: list[Training]) -> subprocess.Popen[str]:
    """Start a process that trains these runs."""
    code = (
        "import sys; from pathlib import Path\n"
        "from experiments.train_runs import Training, train_runs\n"
        f"train_runs([Training(words, Path(folder)) for words, folder in "
        f"{[(each.words, str(each.folder)) for each in trainings]!r}], 2)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=tiny.ROOT, env=os.environ | {"PYTHONPATH": "."},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(happened: Callable[[], bool], seconds: float = 100) -> None:
    """Wait until something has happened."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def steps(run: Path) -> int:
    """The steps that a run has logged."""
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def is_free(run: Path) -> bool:
    """Whether no process trains in the folder."""
    try:
        with lock(run, wait=False):
            return True
    except UserError:
        return False


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM]
)
def test_a_signal_stops_all_runs_which_are_saved(number: int, tmp_path: Path, text: Path) -> None:
    """Children could go on without their parent, or lose the steps since the last checkpoint."""
    more = [f"train.max_steps={STEPS}", "train.save_interval=4000", "train.eval_interval=4000"]
    runs = [tmp_path / "seed-0", tmp_path / "seed-1"]
    both = [training(run, text, *more, f"seed={n}") for n, run in enumerate(runs)]
    parent = in_child(both)
    wait_for(lambda: all(steps(run) > 3 for run in runs))
    parent.send_signal(number)
    errors = parent.communicate(timeout=60)[1]
    assert parent.returncode == 128 + number
    assert "the same command continues" in errors
    for run in runs:
        assert is_free(run)
        assert 3 < tiny.step_of(tiny.last(run).name) < STEPS
    assert not any(map(is_finished, both))
    # The same command continues from there, and does not begin again.
    before = tiny.step_of(tiny.last(runs[0]).name)
    parent = in_child(both[:1])
    wait_for(lambda: steps(runs[0]) > before + 3)
    parent.send_signal(signal.SIGTERM)
    parent.communicate(timeout=60)
    assert f"step {before:,} of {STEPS:,}" in (runs[0] / "output.txt").read_text()


def test_orphans_of_a_killed_parent_are_reported(tmp_path: Path, text: Path) -> None:
    """Two processes could train in one folder, or the second call could end in a riddle."""
    run = training(tmp_path / "seed-0", text, f"train.max_steps={STEPS}")
    parent = in_child([run])
    wait_for(lambda: steps(run.folder) > 3)
    parent.kill()
    parent.communicate()
    children = (run.folder / "output.txt").read_text()
    try:
        with pytest.raises(UserError, match=r"another process is training .*seed-0.*SIGTERM"):
            train_runs([run])
        assert (run.folder / "output.txt").read_text().startswith(children)  # not started again
    finally:
        for status in Path("/proc").glob("[0-9]*/cmdline"):
            if str(run.folder).encode() in status.read_bytes():
                os.kill(int(status.parent.name), signal.SIGTERM)
        wait_for(lambda: is_free(run.folder))


def test_a_finished_run_is_not_trained_again(tmp_path: Path, text: Path) -> None:
    """A second call would write other files; the first measures the memory of the process."""
    run = training(tmp_path / "a", text, "train.max_steps=2", "train.warmup_steps=1")
    assert not is_finished(run)
    train_runs([run])
    peak = peak_memory(run.folder)
    assert is_finished(run) and peak is not None and 50e6 < peak < 5e9
    files = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    train_runs([run])
    assert files == {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}


def test_another_run_in_the_folder_is_refused(finished: Path, text: Path) -> None:
    """The results of another config would be taken for those of this one."""
    assert is_finished(training(finished, text))
    assert is_finished(training(finished, text, "data.processes=2"))  # decides no number
    for change in ("train.lr=0.03", "train.max_steps=20", "seed=1", "model.sliding_window=4"):
        with pytest.raises(UserError, match="other settings") as error:
            is_finished(training(finished, text, change))
        name, _, value = change.partition("=")
        assert f"{name} is " in str(error.value) and f"here {value}" in str(error.value)


def test_a_run_that_stopped_early_is_finished(tmp_path: Path, text: Path) -> None:
    """A sweep would start it again and again: it never reaches max_steps."""
    more = ["train.patience=1", "train.eval_interval=1", "train.lr=1e-9", "train.adamw_lr=1e-9"]
    run = training(tmp_path / "run", text, *more, "train.max_steps=200")
    assert tiny.start(run.folder, text, *more, "train.max_steps=200") == 0
    assert tiny.step_of(tiny.last(run.folder).name) < 200
    assert is_finished(run)


def test_a_failing_run_stops_the_others(tmp_path: Path, text: Path) -> None:
    """Its error could be lost among the outputs, and the others could run on."""
    good = training(tmp_path / "good", text, f"train.max_steps={STEPS}")
    bad = training(tmp_path / "bad", text, "data.seq_len=1000000")
    with pytest.raises(UserError, match=r"seq_len=1000000.* exit code 2: .*data\.seq_len"):
        train_runs([good, bad], 2)
    assert is_free(good.folder)


def test_a_killed_run_names_its_output(tmp_path: Path, text: Path) -> None:
    """The error of a run that the system kills ended in a colon, without a reason."""
    process = _Process(training(tmp_path / "run", text), 1)
    process._process.kill()
    process.wait()
    with pytest.raises(UserError, match=r"exit code -9; its output is in .*run/output\.txt$"):
        process.ended()


def test_damaged_numbers_of_memory_are_none(tmp_path: Path) -> None:
    """A torn file must not end a sweep."""
    for content in ("", "{}", "[]", '{"bytes": null}'):
        (tmp_path / "peak_memory.json").write_text(content)
        assert peak_memory(tmp_path) is None
    (tmp_path / "peak_memory.json").write_text(json.dumps({"bytes": 7}))
    assert peak_memory(tmp_path) == 7
