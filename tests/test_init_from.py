"""train.init_from with a run of Breeze: commands take the shape of the trained model."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
from tiny import last, start

import train
from arguments import read_config
from experiments.train_runs import Training, is_finished
from inference.trained import open_trained
from scripts import plan

GROW = ["train.window_schedule=grow", "train.window_from=1", "train.window_steps=4",
        "train.max_steps=4", "train.warmup_steps=0"]  # fmt: skip


def words(tmp_path: Path, origin: Path, *more: str) -> list[str]:
    """Return a config that asks for one setting, and overrides."""
    path = tmp_path / "mine.yaml"
    path.write_text("data: {seq_len: 32}\n")
    return [str(path), f"train.init_from={origin}", *more]


def test_a_config_of_few_settings_starts_from_a_run(
    finished: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default shape, with an error about the architecture of a file; a plan that counts the
    vocabulary of the config."""
    run, more = tmp_path / "run", [f"data.path={text}", "train.max_steps=1", "train.device=cpu"]
    assert train.main([*words(tmp_path, finished, *more), f"run_dir={run}"]) == 0
    assert "model.dim is 32 instead of 256" in capsys.readouterr().err
    assert is_finished(Training(tuple(words(tmp_path, finished, *more)), run))  # of a sweep
    assert open_trained(run).model.config == open_trained(finished).model.config
    capsys.readouterr()
    assert plan.main(words(tmp_path, finished, "--json")) == 0
    planned = json.loads(capsys.readouterr().out)
    assert not any("vocab_size" in note for note in planned["notes"])  # it cannot be changed
    assert sum(planned["parameters"].values()) == sum(
        p.numel() for p in open_trained(run).model.parameters()
    )
    assert plan.main(words(tmp_path, tmp_path / "none")) == 2
    assert "there is no run" in capsys.readouterr().err


def test_the_windows_are_those_of_the_last_step(tmp_path: Path, text: Path) -> None:
    """A model that was stopped while its windows grew would look back further than it learned."""
    run = tmp_path / "run"
    assert start(run, text, *GROW, "train.save_interval=1", "train.keep_checkpoints=4") == 0
    second = next((run / "checkpoints").glob("step-00000002-*"))
    for origin in (second, last(run)):
        config = read_config(Namespace(words=words(tmp_path, origin)))
        assert config.model.sliding_window == open_trained(origin).model.config.windows
    assert config.model.sliding_window == (8, 8) != open_trained(second).model.config.windows
