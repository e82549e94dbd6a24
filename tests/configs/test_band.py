"""configs/band.py: to which runs a stored band applies."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import measured, start
from yaml_files import QUICKSTART, ROOT

from configs import band
from configs.band import FREE, band_of, deciding, differences, read_band
from configs.load import load_config
from configs.settings import SETTINGS

STORED = sorted((ROOT / "configs/bands").glob("*.json"))


def write_band(path: Path, **changed: Any) -> None:
    """Write a band of quickstart, of made-up losses."""
    content = {
        "settings": deciding(load_config(QUICKSTART)),
        "data_hash": "text",
        "runs": [{}, {}, {}],
        "steps": {"500": {"low": 1.0, "high": 2.0}, "1500": {"low": 0.5, "high": 0.75}},
    }
    path.write_text(json.dumps(content | changed))


@pytest.fixture(autouse=True)
def bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a band of quickstart in place of the stored bands."""
    write_band(tmp_path / "quickstart.json")
    monkeypatch.setattr(band, "BANDS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_band_belongs_to_its_config(path: Path) -> None:
    """A config that was changed after its runs: no run would have a band. Measure it again:
    docs/loss.md."""
    stored = read_band(path)
    config = load_config(ROOT / f"configs/{path.stem}.yaml")
    assert differences(stored.settings, deciding(config)) == []
    assert config.train.max_steps in stored.spans and stored.runs >= 3
    assert all(low < high for low, high in stored.spans.values())


def test_a_band_applies_to_other_seeds_and_machines() -> None:
    """A run on a GPU, in another folder or with half the memory would have no band."""
    for words in (
        [],
        ["seed=7", "run_dir=x", "train.device=cpu", "train.precision=fp32", "train.native=false"],
        ["train.eval_interval=100", "train.patience=3", "sample.prompt=A", "data.processes=1"],
        ["train.micro_batch_size=4", "train.grad_accum_steps=2"],  # the same sequences an update
    ):
        found, source = band_of(load_config(QUICKSTART, words), "text")
        assert found and found.spans == {500: (1.0, 2.0), 1500: (0.5, 0.75)}, words
        assert source == "3 runs of configs/quickstart.yaml"


def test_a_band_does_not_apply_to_another_run() -> None:
    """A loss would be called unusual because the model is larger."""
    for words, reason in {
        ("train.lr=0.004",): "train.lr differs from configs/quickstart.yaml",
        ("train.micro_batch_size=4",): "batch_size differs from configs/quickstart.yaml",
        ("train.max_steps=100", "train.window_steps=20"): "train.max_steps, train.window_steps, "
        "train.drill_steps differ from configs/quickstart.yaml",
        ("model.dim=64", "model.n_layers=2", "train.lr=1", "train.adamw_lr=1",
         "train.drill_share=0"): "only shipped configs as they are have a band",
    }.items():  # fmt: skip
        found, source = band_of(load_config(QUICKSTART, words), "text")
        assert found is None and set(source.split(", ")) == set(reason.split(", ")), words
    reason = "the text or its tokenizer is not that of configs/quickstart.yaml"
    assert band_of(load_config(QUICKSTART), "another text") == (None, reason)


def test_a_setting_that_is_younger_than_a_band_has_its_default(bands: Path) -> None:
    """Each setting that is added would make all bands useless."""
    settings = deciding(load_config(QUICKSTART))
    del settings["train.momentum"]
    write_band(bands / "quickstart.json", settings=settings)
    config = load_config(QUICKSTART)
    assert band_of(config, "text")[0]
    config = replace(config, train=replace(config.train, momentum=0.5))
    assert band_of(config, "text")[1] == "train.momentum differs from configs/quickstart.yaml"


def test_a_younger_setting_may_be_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default is a tuple, a stored value a list."""
    younger = replace(SETTINGS["train.momentum"], default=("a", "b"))
    monkeypatch.setattr(band, "SETTINGS", SETTINGS | {"train.younger": younger})
    assert differences({}, {"train.younger": ["a", "b"]}) == []
    assert differences({}, {"train.younger": ["a"]}) == ["train.younger"]


def test_without_bands(bands: Path) -> None:
    """No band stored yet: an error would stop every training."""
    (bands / "quickstart.json").unlink()
    assert band_of(load_config(QUICKSTART), "text") == (None, "no config has a band")


def test_free_settings_do_not_change_the_loss(tmp_path: Path, text: Path, finished: Path) -> None:
    """A setting in `FREE` that changes the loss; a name in it that does not exist."""
    assert set(SETTINGS) >= FREE
    free = ["train.eval_interval=2", "train.save_interval=5", "train.log_interval=3",
            "train.keep_checkpoints=3", "train.patience=9", "train.eval_batch_size=3",
            "data.processes=1", "sample.max_tokens=3", "sample.temperature=0.5"]  # fmt: skip
    assert start(tmp_path / "run", text, *free) == 0
    losses = [
        {line["step"]: line["val_loss"] for line in measured(run) if "val_loss" in line}
        for run in (tmp_path / "run", finished)
    ]
    assert sorted(losses[0]) == [2, 4, 6, 8, 10] and sorted(losses[1]) == [4, 8, 10]
    assert [losses[0][step] for step in losses[1]] == pytest.approx(list(losses[1].values()))
