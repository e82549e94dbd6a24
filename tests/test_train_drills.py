"""Runs with drills: what they train on, what they print, and that they resume bit for bit."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import QUICKSTART, measured, resume, saved, start, step_of, words

import train
from configs.load import load_config
from data.batches import Batches
from run import TrainingRun
from scripts import plan
from start import start_run

DRILLED = ["train.drill_steps=3", "train.drill_share=0.3", "train.micro_batch_size=2",
           "train.grad_accum_steps=2", "train.save_interval=1", "train.keep_checkpoints=10",
           "train.eval_interval=5"]  # fmt: skip
TRAIN_STEP = train.train_step


def started(folder: Path, text: Path, *more: str) -> TrainingRun:
    line = words(folder, text, *more)
    folder.mkdir()
    return start_run(load_config(line[0], line[1:]), None)


def is_drill(row: np.ndarray) -> bool:
    """Return whether a row begins with three equal passes of 4 to 6 tokens (windows have 8)."""
    return any((row[: 2 * p] == row[p : 3 * p]).all() for p in range(4, 7))


def test_resumed_runs_end_with_the_same_bytes(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the drills, at their end, and later: other drills, or a gap in the text."""
    batches: dict[int, list[np.ndarray]] = {}

    def train_step(run: TrainingRun, sequences: Any, lr_ratio: float) -> tuple[float, float]:
        batches.setdefault(run.step, []).append(sequences)
        return TRAIN_STEP(run, sequences, lr_ratio)

    monkeypatch.setattr(train, "train_step", train_step)
    run = tmp_path / "run"
    assert start(run, text, *DRILLED) == 0
    names, lines = saved(run), measured(run)
    for step in (1, 2, 3, 4, 7):
        for path in (run / "checkpoints").iterdir():
            if step_of(path.name) > step:
                path.unlink()
        assert resume(run, text, *DRILLED) == 0
        assert saved(run) == names and measured(run) == lines  # a name has the content's hash
    assert all((each == found[0]).all() for found in batches.values() for each in found)
    plain = started(tmp_path / "plain", text).batches()
    stream = [row for step in range(10) for row in plain.batch(step)]
    read = [row for step in range(10) for row in batches[step][0] if not is_drill(row)]
    assert len(read) == 7 * 4 - 8 and all(map(np.array_equal, read, stream))
    assert [len(lines) for lines in batches.values()] == [1, 2, 3, 4, 5, 5, 5, 6, 6, 6]


def test_drills_are_counted_and_named(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss of drills could be taken for one of the text."""
    assert start(tmp_path / "run", text, *DRILLED) == 0
    printed = capsys.readouterr()
    shares = [line["drill_share"] for line in measured(tmp_path / "run") if "train_loss" in line]
    assert shares == [1, 1, 1, 0.25, 0.25, 0.5, 0.25, 0.25, 0.25, 0.25]
    lines = [line for line in printed.err.splitlines() if "tokens/s" in line]
    assert [line.split(": ")[1].split(",")[0].rpartition(" ")[0] for line in lines] == (
        ["loss of drills"] * 3 + ["loss with drills"] * 7
    )
    summary = next(line for line in printed.out.splitlines() if line.startswith("step "))
    # 20 of 40 sequences of 32 tokens, of which the training text has about 18,000
    assert summary.endswith(": 0.04 epochs and 640 tokens of drills")


def test_the_validation_loss_has_no_drills(tmp_path: Path, text: Path) -> None:
    """With weights that hardly change it must be that of a run without drills."""
    still = ["train.lr=1e-9", "train.adamw_lr=1e-9", "train.max_steps=4"]
    losses = []
    for name, more in {"text": [], "drills": ["train.drill_steps=3"]}.items():
        assert start(tmp_path / name, text, *still, *more) == 0
        losses.append(
            [line["val_loss"] for line in measured(tmp_path / name) if "val_loss" in line]
        )
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_without_drills_batches_are_those_of_the_text(tmp_path: Path, text: Path) -> None:
    """Defaults must change no run: batches, metrics (see test_the_files_of_a_run) and labels."""
    run = started(tmp_path / "run", text)
    batches = run.batches()
    assert type(batches) is Batches
    plain = Batches(run.corpus.tokens("train"), seq_len=32, batch_size=4, seed=0)
    assert all((batches.batch(step) == plain.batch(step)).all() for step in (0, 5, 99))
    assert [train.loss_label(share) for share in (0, 0.5, 1)] == [
        "loss", "loss with drills", "loss of drills"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("windows", "longest"),
    [
        (["model.sliding_window=[1, 8]"], 6),
        (["model.sliding_window=[2, null]"], 24),  # as wide as a sequence, 32
        (["model.sliding_window=[2, 2]"], 4),
        (["model.sliding_window=32", "train.window_schedule=grow", "train.window_from=8",
          "train.window_steps=9", "train.max_steps=20"], 6),
    ],
)  # fmt: skip
def test_segments_fit_into_the_widest_window(
    tmp_path: Path, text: Path, windows: list[str], longest: int
) -> None:
    """Segments that no layer can see could be drilled, or only those of the narrowest layer."""
    more = ["train.drill_steps=9", "train.micro_batch_size=200", *windows]
    rows = started(tmp_path / "run", text, *more).batches().batch(0)
    first = {next(p for p in range(4, 25) if row[p] == row[0]) for row in rows}
    assert first == set(range(4, longest + 1))


@pytest.mark.parametrize("drill_steps", [0, 1, 7])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_drills_before_a_step(drill_steps: int, share: float, batch_size: int) -> None:
    """A share that is missed for good; more drills than a step has sequences; a count of tokens in
    the plan that is not that of training."""
    more = [f"train.drill_steps={drill_steps}", f"train.drill_share={share}",
            f"train.micro_batch_size={batch_size}", "train.max_steps=400"]  # fmt: skip
    config = load_config(QUICKSTART, more)
    exact, total = Fraction(0), 0
    for step in range(400):
        assert config.drills_before(step) == total
        n = config.drills_before(step + 1) - total
        exact += batch_size * (1 if step < drill_steps else Fraction(str(share)))
        assert 0 <= n <= batch_size and (n == batch_size or step >= drill_steps)
        total += n
        assert abs(total - exact) <= Fraction(1, 2)
    assert plan.plan(config).drill_tokens == total * 256


def test_the_plan_names_drills(capsys: pytest.CaptureFixture[str]) -> None:
    """The text could be thought to be read more often than it is."""
    assert plan.main([QUICKSTART, "train.drill_steps=100", "train.drill_share=0.25"]) == 0
    assert "921,600  = the first 100 steps, then 0.25 of the seq" in capsys.readouterr().out
    narrow = ["model.sliding_window=3", "train.drill_steps=1", "train.drill_share=0"]
    assert plan.main([QUICKSTART, *narrow]) == 0
    assert "drills teach nothing: no window holds" in capsys.readouterr().out
    assert plan.main([QUICKSTART, *narrow, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["drill_tokens"] == 8 * 256
    assert plan.main([QUICKSTART, "train.drill_steps=0", "train.drill_share=0"]) == 0
    assert "\n  drills " not in capsys.readouterr().out


def test_a_vocabulary_without_pieces_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text of one letter (and space and newline, which every vocabulary has)."""
    (tmp_path / "a.txt").write_text("a" * 4000)
    assert start(tmp_path / "run", tmp_path / "a.txt", "train.drill_steps=1") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: drills need 4 tokens beside specials and bytes, the vocabulary")
