"""Training from end to end. That a stopped run ends with the same bytes as an undisturbed one is
shown by tests/torture/resumes.py for many settings, and here for kills of the real command."""

import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import (
    QUICKSTART,
    ROOT,
    english,
    last,
    leftovers,
    measured,
    resume,
    saved,
    start,
    step_of,
    words,
)

import train
from configs.load import load_config
from configs.settings import Config
from data.text import open_text
from errors import UserError
from inference.trained import open_trained
from model import native
from model.loss import next_token_loss
from run import TrainingRun
from scripts import evaluate, sample
from start import start_run

TRAIN_STEP = train.train_step


def signal_at(patch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """Send this process a signal in the middle of update `step` (from 1)."""

    def train_step(run: TrainingRun, *rest: Any) -> tuple[float, float]:
        if run.step + 1 == step:
            os.kill(os.getpid(), number)
        return TRAIN_STEP(run, *rest)

    patch.setattr(train, "train_step", train_step)


# ------------------------------------------------------------------- the same bytes


def test_the_name_is_the_hash_of_every_byte(finished: Path) -> None:
    """Names are compared in place of contents, so a name must depend on every byte."""
    for name in saved(finished):
        content = (finished / "checkpoints" / name).read_bytes()
        assert name.split("-")[2].split(".")[0] == hashlib.sha256(content).hexdigest()[:16]


def test_another_seed_gives_other_bytes(finished: Path, tmp_path: Path, text: Path) -> None:
    """If all runs were equal, the comparison of runs would show nothing."""
    assert start(tmp_path / "other", text, "seed=1") == 0
    assert last(tmp_path / "other").name != last(finished).name


def command(run: Path, text: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *words(run, text, *more)]


def wait_for(run: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    """Wait until a file of this name appears."""
    while not list(run.glob(pattern)):
        assert process.poll() is None, f"it ended with {process.returncode} before {pattern}"
        time.sleep(0.002)


LONG = ["train.max_steps=100", "train.save_interval=5", "train.eval_interval=50"]


@pytest.mark.slow
def test_real_kills_and_signals_of_the_real_command(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9, Ctrl-C and SIGTERM at any point of the process; a second process in the same folder.

    No run may be lost. Scripts depend on the exit codes."""
    assert start(tmp_path / "whole", text, *LONG) == 0
    run = tmp_path / "killed"
    capsys.readouterr()

    process = subprocess.Popen(command(run, text, *LONG), stderr=subprocess.PIPE, text=True)
    wait_for(run, "checkpoints/step-00000010-*", process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = saved(run)
    assert step_of(before[-1]) < 100

    assert start(run, text, *LONG) == 2  # without --resume
    assert "already holds a run" in capsys.readouterr().err and saved(run) == before

    for number in (signal.SIGINT, signal.SIGTERM):
        more = [*command(run, text, *LONG), "--resume"]
        process = subprocess.Popen(more, stderr=subprocess.PIPE, text=True)
        following = step_of(saved(run)[-1]) // 5 * 5 + 10
        wait_for(run, f"checkpoints/step-{following:08}-*", process)
        if number == signal.SIGINT:
            process.send_signal(
                signal.SIGSTOP
            )  # so that it cannot end before the second one starts
            assert resume(run, text, *LONG) == 2
            line = capsys.readouterr().err.splitlines()[-1]
            assert line.startswith(f"error: run_dir: another process works in {run}")
            process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        _, printed = process.communicate()
        assert process.returncode == 128 + number, printed
        assert "--resume" in printed and str(last(run)) in printed and "Traceback" not in printed
        assert signal.Signals(number).name in printed

    assert resume(run, text, *LONG) == 0
    assert last(run).name == last(tmp_path / "whole").name
    assert measured(run) == measured(tmp_path / "whole")
    assert (run / "samples.txt").read_bytes() == (tmp_path / "whole/samples.txt").read_bytes()
    assert not leftovers(run)


def test_a_second_signal_ends_at_once(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second Ctrl-C must end the process without saving; saved checkpoints stay valid."""

    def train_step(run: TrainingRun, *rest: Any) -> tuple[float, float]:
        if run.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return TRAIN_STEP(run, *rest)

    monkeypatch.setattr(train, "train_step", train_step)
    assert start(tmp_path / "run", text) == 128 + signal.SIGINT
    assert [step_of(name) for name in saved(tmp_path / "run")] == [3]
    monkeypatch.setattr(train, "train_step", TRAIN_STEP)
    assert resume(tmp_path / "run", text) == 0


def test_a_signal_at_the_last_step_changes_nothing(
    finished: Path, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has ended returns 0, without advice to resume it."""
    signal_at(monkeypatch, 10, signal.SIGTERM)
    assert start(tmp_path / "run", text) == 0
    assert saved(tmp_path / "run") == saved(finished)


# ------------------------------------------------------------------- the run's folder


def test_without_resume_an_existing_run_is_left_alone(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second start by mistake must not destroy a run of hours."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert start(run, text) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {run} already holds a run (step 10)") and "--resume" in line
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_resume_of_a_finished_run_trains_nothing(
    run: Path, finished: Path, text: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """`make train` twice: the same output again, no further step, the same files."""
    monkeypatch.setattr(train, "train_step", lambda *_: pytest.fail("an update"))
    assert resume(run, text) == 0
    out = capsys.readouterr().out
    assert "trained 10 steps" in out and str(last(run)) in out
    assert saved(run) == saved(finished) and measured(run) == measured(finished)
    assert (run / "samples.txt").read_bytes() == (finished / "samples.txt").read_bytes()


def test_resume_without_a_run_starts_one(finished: Path, tmp_path: Path, text: Path) -> None:
    """One command must serve for the first start and for every later one."""
    assert resume(tmp_path / "run", text) == 0
    assert saved(tmp_path / "run") == saved(finished)


def test_a_run_continues_where_its_folder_lies(
    run: Path, finished: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that was moved or copied records where it was started. When resumed, it could start
    from zero, or train in the original folder and delete its checkpoints."""
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    moved = run.rename(tmp_path / "moved")
    for config in (moved / "config.yaml", moved):
        last(moved).unlink()
        assert train.main([str(config), "--resume"]) == 0
        assert f"run        {moved}, step 9 of 10" in capsys.readouterr().out
        assert saved(moved) == saved(finished)
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert load_config(moved / "config.yaml").run_dir == str(moved)
    assert train.main([str(moved / "config.yaml")]) == 2  # without --resume
    assert f"error: {moved} already holds a run" in capsys.readouterr().err
    other = tmp_path / "other"
    assert train.main([str(moved), f"run_dir={other}", "train.max_steps=10", "--resume"]) == 0
    assert f"note: {other} has no checkpoint to resume" in capsys.readouterr().err
    assert saved(other) == saved(finished)


def test_nothing_left_to_do_is_reported(
    run: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command could end at once without a reason."""
    assert resume(run, text) == 0
    printed = capsys.readouterr().err
    assert (
        "note: nothing is left to do at step 10, because of train.max_steps: make it larger"
        in printed
    )


def test_the_files_of_a_run(finished: Path) -> None:
    """The README lists these files of a run. Each must be readable by its format."""
    assert {path.name for path in finished.iterdir()} == {
        "config.yaml", "tokenizer.model", "metrics.jsonl", "samples.txt", "checkpoints", ".lock"
    }  # fmt: skip
    config = load_config(finished / "config.yaml")
    assert config.run_dir == str(finished) and config.train.max_steps == 10
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    stepping = [line for line in lines if "train_loss" in line]
    validating = [line for line in lines if "val_loss" in line]
    assert [line["step"] for line in stepping] == list(range(1, 11))
    assert [line["step"] for line in validating] == [4, 8, 10]
    for line in stepping:
        assert line.keys() == {"step", "train_loss", "grad_norm", "lr", "tokens_per_s", "mfu"}
    for line in validating:
        assert line.keys() == {"step", "val_loss", "val_bpb", "stepping_s"}
    headers = re.findall(
        r"^=== step (\d+), [\d.]+ bits per byte ===$",
        (finished / "samples.txt").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert headers == ["4", "8", "10"]
    assert [step_of(name) for name in saved(finished)] == [9, 10]  # the best is the last


def test_the_saved_config_trains_the_same_run(finished: Path, tmp_path: Path, cache: Path) -> None:
    """config.yaml could lack the settings of the command line."""
    assert train.main([str(finished / "config.yaml"), f"run_dir={tmp_path / 'again'}"]) == 0
    assert last(tmp_path / "again").name == last(finished).name


def test_a_torn_file_of_a_killed_process_is_removed(run: Path, text: Path) -> None:
    """Each kill during a save leaves a torn file the size of a checkpoint: they would fill the
    disk."""
    torn = run / "checkpoints/.step-00000012-0123456789abcdef.safetensors.0a0a0a0a.part"
    torn.write_bytes(b"half")
    assert resume(run, text) == 0
    assert not torn.exists()


def test_samples_and_metrics_past_the_step_are_cut(run: Path, text: Path) -> None:
    """Steps that are repeated after a crash must not be in the files twice."""
    last(run).unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "train_loss": 1.0}\n{"step": 13, "tra')
    with (run / "samples.txt").open("a") as file:
        file.write("=== step 12, 1.0000 bits per byte ===\nhalf")
    assert resume(run, text) == 0
    assert [line["step"] for line in measured(run)] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8, 9, 10, 10]
    steps = re.findall(r"^=== step (\d+)", (run / "samples.txt").read_text(), re.MULTILINE)
    assert steps == ["4", "8", "10"]


# ------------------------------------------------------------------- stopping


def test_patience_ends_the_run_and_resume_agrees(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run could continue after its best step, or start again when it is resumed.

    The learning rate is too small to change a weight: no evaluation after the first is better."""
    more = ["train.lr=1e-17", "train.adamw_lr=1e-17", "train.weight_decay=0", "train.patience=2",
            "train.max_steps=50", "train.eval_interval=3"]  # fmt: skip
    assert start(tmp_path / "run", text, *more) == 0
    assert [line["step"] for line in measured(tmp_path / "run") if "val_loss" in line] == [3, 6, 9]
    assert step_of(last(tmp_path / "run").name) == 9
    out = capsys.readouterr().out
    assert "trained 9 steps. Stopped early: 2 evaluations in a row" in out
    before = saved(tmp_path / "run")
    assert resume(tmp_path / "run", text, *more) == 0
    assert saved(tmp_path / "run") == before
    assert "nothing is left to do at step 9, because of train.patience" in capsys.readouterr().err


def test_the_best_weights_are_kept_scored_and_opened(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was stopped because its loss rose could be used with its last, worst weights.

    From step 5 on each update adds noise to the weights, so step 4 is the best. It must be kept for
    that reason alone: it is not a multiple of save_interval."""

    def train_step(run: TrainingRun, *rest: Any) -> tuple[float, float]:
        result = TRAIN_STEP(run, *rest)
        if run.step >= 4:
            with torch.no_grad():
                for weight in run.model.parameters():
                    weight.add_(torch.randn_like(weight), alpha=0.3)
        return result

    monkeypatch.setattr(train, "train_step", train_step)
    run = tmp_path / "run"
    assert start(run, text, "train.patience=2", "train.max_steps=50", "train.eval_interval=2") == 0
    out = capsys.readouterr().out
    assert [step_of(name) for name in saved(run)] == [4, 6, 8]
    best = run / "checkpoints" / saved(run)[0]
    assert "trained 8 steps. Stopped early" in out
    assert "The best weights are those of step 4, used below." in out
    assert f"checkpoint   {best}\n" in out
    assert open_trained(run).checkpoint.path == best
    assert open_trained(run, "last").checkpoint.step == 8
    assert open_trained(run, "6").checkpoint.step == 6
    with pytest.raises(UserError, match=r"no checkpoint 5: choose best, last or .* 4, 6, 8"):
        open_trained(run, "5")
    capsys.readouterr()
    assert evaluate.main([str(best)]) == 0
    scored = capsys.readouterr().out.splitlines()[-1].split()[-1]
    test_bpb = re.search(r"On text it never saw: ([\d.]+) bits", out)
    assert test_bpb and float(test_bpb[1]) == pytest.approx(float(scored), abs=1e-3)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_divergence_saves_nothing(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], what: str,
) -> None:  # fmt: skip
    """NaN could be written to every later checkpoint, and replace the last valid ones."""
    original = TrainingRun.loss

    def loss(run: TrainingRun, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value = original(run, inputs, targets)
        if run.step != 7 or not torch.is_grad_enabled():
            return value
        if what == "loss":
            return value * math.inf
        value.register_hook(lambda gradient: gradient * math.nan)
        return value * 1.0

    weights: dict[str, torch.Tensor] = {}

    def train_step(run: TrainingRun, *rest: Any) -> tuple[float, float]:
        before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
        result = TRAIN_STEP(run, *rest)
        if run.step == 7:
            after = dict(run.model.named_parameters())
            weights.update({n: before[n] - after[n].detach() for n in before})
        return result

    monkeypatch.setattr(TrainingRun, "loss", loss)
    monkeypatch.setattr(train, "train_step", train_step)
    assert start(tmp_path / "run", text) == 3
    assert all((difference == 0).all() for difference in weights.values()) and weights
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: training diverged at step 7") and "lower train.lr" in line
    assert [step_of(name) for name in saved(tmp_path / "run")] == [3, 6]
    monkeypatch.setattr(TrainingRun, "loss", original)
    monkeypatch.setattr(train, "train_step", TRAIN_STEP)
    assert resume(tmp_path / "run", text) == 0


def test_a_huge_learning_rate_is_reported_as_divergence(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The most common cause of divergence."""
    huge = ["train.lr=1e17", "train.adamw_lr=1e17", "train.save_interval=100"]
    assert start(tmp_path / "run", text, *huge) == 3
    printed = capsys.readouterr().err
    assert "error: training diverged at step " in printed and "Traceback" not in printed
    assert saved(tmp_path / "run") == []


def test_weights_that_an_update_broke_are_not_saved(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The evaluation can be the first to find NaN. Sampling would then be a traceback of torch, and
    the checkpoint of this step would be useless."""

    def train_step(run: TrainingRun, *rest: Any) -> tuple[float, float]:
        result = TRAIN_STEP(run, *rest)
        if run.step == 7:
            with torch.no_grad():
                run.model.norm.weight.fill_(math.nan)
        return result

    monkeypatch.setattr(train, "train_step", train_step)
    assert start(tmp_path / "run", text, "train.save_interval=4") == 3
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: training diverged at step 8 (val_loss nan)")
    assert [step_of(name) for name in saved(tmp_path / "run")] == [4]
    assert [line["step"] for line in measured(tmp_path / "run") if "val_loss" in line] == [4]


# ------------------------------------------------------------------- every setting has an effect


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    names = ("moments/", "tokenizer")
    return {n: t for n, t in load_file(last(run)).items() if not n.startswith(names)}


BASE = ["train.max_steps=4", "train.warmup_steps=1", "train.eval_interval=100",
        "train.save_interval=100"]  # fmt: skip
GROW = ["train.window_schedule=grow", "train.window_from=1", "train.window_steps=4"]
CHANGES_WEIGHTS = {
    "train.max_steps": (["train.max_steps=5"], []),
    "train.micro_batch_size": (["train.micro_batch_size=3"], []),
    "train.grad_accum_steps": (["train.grad_accum_steps=2"], []),
    "train.optimizer": (["train.optimizer=adamw"], []),
    "train.lr": (["train.lr=0.01"], []),
    "train.adamw_lr": (["train.adamw_lr=0.001"], []),
    "train.momentum": (["train.momentum=0.5"], []),
    "train.weight_decay": (["train.weight_decay=0.5"], []),
    "train.grad_clip": (["train.grad_clip=0.01"], ["train.optimizer=adamw"]),
    "train.schedule": (["train.schedule=linear"], []),
    "train.warmup_steps": (["train.warmup_steps=2"], []),
    "train.decay_fraction": (["train.decay_fraction=0.7"], ["train.schedule=wsd"]),
    "train.min_lr_ratio": (["train.min_lr_ratio=0.9"], []),
    "train.precision": (["train.precision=bf16"], []),
    "seed": (["seed=1"], []),
    "data.seq_len": (["data.seq_len=16"], []),
    "model.sliding_window": (["model.sliding_window=4"], []),
    "model.attention_sinks": (["model.attention_sinks=2"], []),
    "model.sink_token": (["model.sink_token=true"], []),
    "model.sink_logits": (["model.sink_logits=true"], []),
    "model.rope_theta": (["model.rope_theta=100"], []),
    "model.rope_theta_local": (["model.rope_theta_local=100"], []),
    "model.rope_scaling": (
        ["model.rope_scaling=ntk"],
        ["model.rope_scaling=linear", "model.rope_factor=4"],
    ),
    "model.rope_factor": (["model.rope_factor=2"], ["model.rope_scaling=linear"]),
    "model.rope_original_len": (
        ["model.rope_original_len=9"],
        ["model.rope_scaling=yarn", "model.rope_original_len=999", "model.rope_factor=4"],
    ),
    "train.window_schedule": (["train.window_schedule=depth"], GROW),
    "train.window_from": (["train.window_from=4"], GROW),
    "train.window_steps": (["train.window_steps=2"], GROW),
    "train.drill_steps": (["train.drill_steps=1"], []),
    "train.drill_share": (["train.drill_share=0.5"], []),
    "train.window_choices": (
        ["train.window_choices=[1, 2]"],
        ["train.window_schedule=random", "train.window_choices=[1, null]"],
    ),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Callable[..., Any]:
    """A function that trains four steps under some settings, once, and returns the weights."""

    @cache
    def train_once(*settings: str) -> dict[str, torch.Tensor]:
        run = tmp_path_factory.mktemp("trained") / "run"
        assert start(run, text, *BASE, *settings) == 0
        return weights_of(run)

    return train_once


@pytest.mark.parametrize("name", CHANGES_WEIGHTS)
def test_setting_changes_the_weights(name: str, trained: Callable[..., Any]) -> None:
    """A setting could be read, checked, documented and then have no effect."""
    changed, base = CHANGES_WEIGHTS[name]
    a, b = trained(*base), trained(*base, *changed)
    assert a.keys() <= b.keys()  # sinks bring a weight of their own
    assert any(not torch.equal(a[n], b[n]) for n in a)


def test_document_mask_keeps_packed_documents_apart(tmp_path: Path) -> None:
    """Short documents in one sequence could be read as one."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for n, line in enumerate(english(3_000).split("\n")):
        (folder / f"{n:03}.txt").write_text(line)
    weights = []
    for mask in ("false", "true"):
        run = tmp_path / mask
        assert start(run, folder, *BASE, f"data.document_mask={mask}") == 0
        weights.append(weights_of(run))
        inputs = torch.from_numpy(
            open_text((config := open_trained(run).config).data, config.tokenizer)[1]
            .tokens("train")[:400]
            .astype("int64")
        )[None]
        opened = open_trained(run)
        bos = (inputs[0] == opened.tokenizer.bos_id).nonzero().flatten().tolist()
        assert len(bos) > 2
        second = inputs[:, bos[1] : bos[2]]  # the second document, once in its row and once alone
        loss = opened.loss(inputs[:, :-1], inputs[:, 1:]).item()
        joined = next_token_loss(opened.model, inputs[:, :-1], inputs[:, 1:]).item()
        assert (loss == joined) == (mask == "false")
        ids = 1 + (inputs == opened.tokenizer.bos_id).cumsum(dim=1)
        row = opened.model(inputs, documents=ids)[:, bos[1] : bos[2]]
        torch.testing.assert_close(row, opened.model(second), rtol=0, atol=1e-4)
    assert any(not torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


SCHEDULED = {
    "grow": (GROW, [1, 2, 4, 8], (8, 8)),
    "depth": ([*GROW, "train.window_schedule=depth"], [1, 8], (8, 8)),
    "random": (["train.window_schedule=random", "train.window_choices=[2, 5]"], [2, 5], (8, 8)),
}


@pytest.mark.parametrize("schedule", SCHEDULED)
def test_windows_follow_their_schedule(
    tmp_path: Path, text: Path, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A schedule could be printed and not followed; a checkpoint could be opened with other windows
    than those of its last step."""
    settings, expected, last_windows = SCHEDULED[schedule]
    used: list[int] = []

    def train_step(run: TrainingRun, *rest: Any) -> tuple[float, float]:
        used.extend(layer.attention.window for layer in run.model.layers)
        return TRAIN_STEP(run, *rest)

    monkeypatch.setattr(train, "train_step", train_step)
    assert start(tmp_path / "run", text, *settings, "train.max_steps=8") == 0
    assert sorted(set(used)) == expected and len(used) == 2 * 8  # two layers, eight steps
    assert open_trained(tmp_path / "run").model.config.windows == last_windows


def test_a_checkpoint_opens_with_the_windows_of_its_last_step(tmp_path: Path, text: Path) -> None:
    """A model of a run that was stopped would look back further than it was trained to."""
    more = ["train.window_steps=8", "train.max_steps=8", "train.save_interval=1"]
    assert start(tmp_path / "run", text, *GROW, *more, "train.keep_checkpoints=8") == 0
    for step, window in ((1, 1), (2, 1), (3, 2), (5, 4), (7, 8), (8, 8)):
        opened = open_trained(tmp_path / "run", str(step))
        assert opened.model.config.windows == (window, window)


def test_init_from_begins_with_weights_and_tokenizer(
    tmp_path: Path, finished: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training on longer sequences could draw new weights, train a new vocabulary, or, when
    resumed, start from the first run again."""
    other = tmp_path / "other.txt"
    other.write_text(text.read_text()[::-1])
    longer = ["data.seq_len=64", f"train.init_from={finished}", "train.lr=1e-9",
              "train.adamw_lr=1e-9", "train.max_steps=2", "train.warmup_steps=0",
              "tokenizer.type=bpe", "tokenizer.vocab_size=2048"]  # fmt: skip
    run = tmp_path / "longer"
    assert start(run, other, *longer) == 0
    before, after = weights_of(finished), weights_of(run)
    for name in before:
        torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-6)
    assert open_trained(run).tokenizer.model_bytes == open_trained(finished).tokenizer.model_bytes
    assert evaluate.main([str(run)]) == 0
    assert resume(run, other, *longer, "train.max_steps=3") == 0
    capsys.readouterr()
    assert start(tmp_path / "wider", other, *longer, "model.dim=64") == 2
    assert "model.dim is 64, but that of the trained model is 32" in capsys.readouterr().err


def test_eval_save_log_and_keep(tmp_path: Path, text: Path) -> None:
    """Intervals could be off by one, and checkpoints could accumulate."""
    run = tmp_path / "run"
    more = ["train.eval_interval=2", "train.save_interval=1", "train.log_interval=3",
            "train.keep_checkpoints=4", "train.max_steps=7"]  # fmt: skip
    assert start(run, text, *more) == 0
    assert [line["step"] for line in measured(run) if "val_loss" in line] == [2, 4, 6, 7]
    assert [line["step"] for line in measured(run) if "train_loss" in line] == [3, 6, 7]
    assert [step_of(name) for name in saved(run)] == [4, 5, 6, 7]


def test_eval_batch_size_is_the_rows_of_a_pass(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It bounds the memory of an evaluation. The loss must not depend on it."""
    rows: list[int] = []
    original = TrainingRun.loss

    def loss(run: TrainingRun, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            rows.append(len(inputs))
        return original(run, inputs, targets)

    monkeypatch.setattr(TrainingRun, "loss", loss)
    losses = []
    for size in (3, 16):
        rows.clear()
        assert start(tmp_path / str(size), text, *BASE, f"train.eval_batch_size={size}") == 0
        assert max(rows) == size
        losses.append([line["val_loss"] for line in measured(tmp_path / str(size))
                       if "val_loss" in line])  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_compile_compiles_every_block(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run could print 'compile: yes' and compute eagerly."""
    compiled: list[str] = []

    def record(module: torch.nn.Module, **_: Any) -> None:
        compiled.append(type(module).__name__)

    monkeypatch.setattr(torch.nn.Module, "compile", record)
    assert start(tmp_path / "no", text, *BASE) == 0
    assert not compiled and "compile    no" in capsys.readouterr().out
    assert start(tmp_path / "yes", text, *BASE, "train.compile=true") == 0
    assert compiled == ["TransformerBlock"] * 2 and "compile    yes" in capsys.readouterr().out


@pytest.mark.parametrize("refusal", [None, "no C++ compiler was found"])
def test_native_kernels_run_in_the_loss_unless_they_are_refused(
    refusal: str | None,
    tmp_path: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run could print 'native yes' and not use the kernels, in training or in evaluation."""
    asked: list[str | None] = []
    allowed: dict[bool, set[bool]] = {True: set(), False: set()}  # by whether gradients are needed

    def answer() -> str | None:
        asked.append(refusal)
        return refusal

    def loss(*arguments: Any) -> torch.Tensor:
        allowed[torch.is_grad_enabled()].add(native.is_enabled())
        return next_token_loss(*arguments)

    monkeypatch.setattr(native, "training_refusal", answer)
    monkeypatch.setattr("run.next_token_loss", loss)
    bf16 = [*BASE, "train.precision=bf16"]
    for setting, runs in (("auto", refusal is None), ("false", False)):
        assert start(tmp_path / setting, text, *bf16, f"train.native={setting}") == 0
        assert f"native     {'yes' if runs else 'no'} (" in capsys.readouterr().out
        assert allowed == {True: {runs}, False: {runs}} and not native.is_enabled()
        for found in allowed.values():
            found.clear()
    assert asked == [refusal]  # not for `false`, which needs no kernels
    if refusal is not None:
        assert start(tmp_path / "true", text, *bf16, "train.native=true") == 2
        error = capsys.readouterr().err
        assert f"train.native is true, but {refusal}: use auto or false" in error


def test_every_train_setting_is_tested_here() -> None:
    """A new setting could have no test of its effect. `elsewhere` lists those of other tests."""
    elsewhere = {"eval_interval", "save_interval", "log_interval", "keep_checkpoints", "patience",
                 "eval_batch_size", "compile", "native", "device", "init_from", "loggers",
                 "lora_rank", "lora_alpha", "lora_targets", "parallel"}  # fmt: skip
    named = {name.removeprefix("train.") for name in CHANGES_WEIGHTS} | elsewhere
    assert vars(Config().train).keys() <= named


# ------------------------------------------------------------------- learning


@pytest.mark.parametrize("optimizer", [[], ["train.optimizer=adamw", "train.lr=0.01"]])
def test_one_batch_is_learned_by_heart(tmp_path: Path, text: Path, optimizer: list[str]) -> None:
    """If a gradient does not reach some weights, or targets are shifted wrongly, the loss stays at
    the entropy of the text."""
    line = words(tmp_path, text, "data.seq_len=64", "model.dim=64", "model.sliding_window=32")
    config = load_config(line[0], [*line[1:], *optimizer])
    run = start_run(config, None)
    sequences = run.corpus.tokens("train")[: 4 * 65].reshape(4, 65).astype("int64")
    loss = math.inf
    for _ in range(300):
        loss, _ = train.train_step(run, sequences, 1.0)
        if loss < 0.1:
            break
    assert loss < 0.1


def test_quickstart_in_small_from_text_to_score(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands of every new user: train, sample, evaluate. The model must beat the entropy of
    the letters' frequencies, which needs no model."""
    run = tmp_path / "run"
    line = [QUICKSTART, "data.source=files", f"data.path={text}", "data.split=tail",
            f"run_dir={run}", "data.seq_len=64", "model.dim=64", "model.n_layers=2",
            "model.sliding_window=16", "tokenizer.vocab_size=320", "train.max_steps=60",
            "train.micro_batch_size=8", "train.warmup_steps=5", "train.eval_interval=20",
            "train.save_interval=20", "train.device=cpu", "train.compile=false",
            "sample.max_tokens=20"]  # fmt: skip
    assert train.main(line) == 0
    losses = [line["val_loss"] for line in measured(run) if "val_loss" in line]
    bpb = [line["val_bpb"] for line in measured(run) if "val_bpb" in line]
    assert losses == sorted(losses, reverse=True) and len(losses) == 3
    content = text.read_bytes()
    share = [count / len(content) for count in Counter(content).values()]
    assert bpb[-1] < -sum(p * math.log2(p) for p in share) - 0.5
    assert [step_of(name) for name in saved(run)] == [40, 60]
    test_bpb = re.search(r"On text it never saw: ([\d.]+) bits", capsys.readouterr().out)
    assert test_bpb

    assert sample.main([str(run), "--prompt", "The king ", "--max-tokens", "40"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("The king ") and len(out) > 20
    assert evaluate.main([str(run)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[-1].split()[0] == "trained"
    # training scores in bf16 if the machine is faster with it, evaluate.py in fp32
    assert float(table[-1].split()[-1]) == pytest.approx(float(test_bpb[1]), abs=0.01)


def test_an_opened_run_is_tied_as_it_was_trained(tmp_path: Path, text: Path) -> None:
    """Two parameters that share memory look alike, but each would get its own gradient."""
    steps = ["train.max_steps=2", "train.warmup_steps=1", "train.eval_interval=2"]
    assert start(tmp_path / "run", text, "model.tie_embeddings=true", *steps) == 0
    model = open_trained(tmp_path / "run").model
    assert model.output.weight is model.tok_embeddings.weight
