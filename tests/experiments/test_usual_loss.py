"""experiments/usual_loss.py: bands of finished runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from configs import band
from configs.band import band_of
from configs.load import load_config
from experiments import usual_loss
from training.checkpoint import save

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of bands, empty."""
    monkeypatch.setattr(band, "BANDS", tmp_path / "bands")
    return tmp_path / "bands"


def write_run(folder: Path, losses: dict[int, float], *words: str, **metadata: Any) -> str:
    """Write what a finished run of quickstart leaves, without its weights; return its folder."""
    config = load_config(ROOT / "configs/quickstart.yaml", words).to_dict()
    config.pop("run_dir")
    values = {"config": config, "data_hash": "text", "val_loss": losses[1500]} | metadata
    (folder / "checkpoints").mkdir(parents=True)
    step = metadata.get("step", 1500)
    save(folder / "checkpoints", step, weights={"w": torch.ones(1)}, moments={}, tokenizer=b"t",
         metadata=values)  # fmt: skip
    lines = [{"step": step, "val_loss": loss} for step, loss in losses.items()]
    lines.insert(0, {"step": 10, "train_loss": 8.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def three(folder: Path) -> list[str]:
    return [
        write_run(folder / f"{seed}", {500: 1.0 + seed, 1500: 0.6 + seed / 10}, f"seed={seed}")
        for seed in range(3)
    ]


def test_a_band_is_stored_and_applies(
    tmp_path: Path, bands: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The band could be of the mean, or not be found by the runs that it is for."""
    assert usual_loss.main([*three(tmp_path), "--store"]) == 0
    printed = capsys.readouterr().out
    # 9.925 is Student's t for 3 runs; the standard deviations are 1 and 0.1.
    half = 9.925 * (1 + 1 / 3) ** 0.5
    (row,) = [line for line in printed.splitlines() if line.startswith("| 500 ")]
    numbers = [float(cell) for cell in row.split("|")[2:-1]]
    assert numbers == pytest.approx([3, 1, 3, 2 - half, 2 + half], abs=1e-3)
    found, source = band_of(load_config(ROOT / "configs/quickstart.yaml", ["seed=9"]), "text")
    assert found and source == "3 runs of configs/quickstart.yaml"
    assert found.spans[500] == pytest.approx((2 - half, 2 + half), abs=1e-3)
    assert found.spans[1500] == pytest.approx((0.7 - half / 10, 0.7 + half / 10), abs=1e-3)


def test_runs_of_several_machines_are_joined(
    tmp_path: Path, bands: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runs of the first machine would be lost, or a run counted twice."""
    assert usual_loss.main([*three(tmp_path), "--store"]) == 0
    more = write_run(tmp_path / "gpu", {1500: 0.9}, "seed=1", "train.precision=fp32")
    assert usual_loss.main([str(tmp_path / "0"), "--store"]) == 0
    where = ["--machine", "a GPU, bfloat16", "--commit", "abc"]
    assert usual_loss.main([more, *where, "--store"]) == 0
    stored = json.loads((bands / "quickstart.json").read_text())
    assert [run["seed"] for run in stored["runs"]] == [0, 1, 2, 1]
    assert [stored["steps"][step]["n"] for step in ("500", "1500")] == [3, 4]
    gpu = stored["runs"][3]
    assert (gpu["machine"], gpu["commit"]) == ("a GPU, bfloat16", "abc")
    assert "1 on a GPU, bfloat16" in capsys.readouterr().out


def test_runs_of_an_earlier_config_are_replaced(
    tmp_path: Path, bands: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A band could mix runs before and after a change of the config or of the text."""
    assert usual_loss.main([*three(tmp_path), "--store"]) == 0
    stored = json.loads((bands / "quickstart.json").read_text())
    stored["settings"]["train.lr"] = 0.1
    (bands / "quickstart.json").write_text(json.dumps(stored))
    assert usual_loss.main([*three(tmp_path / "again"), "--store"]) == 0
    assert "are replaced: settings or text changed since" in capsys.readouterr().out
    stored = json.loads((bands / "quickstart.json").read_text())
    assert len(stored["runs"]) == 3 and stored["settings"]["train.lr"] == 0.005


@pytest.mark.parametrize(
    ("words", "metadata", "error"),
    [
        (["train.lr=0.1"], {}, "differs from {0} in train.lr: a band is of runs with equal"),
        ([], {"data_hash": "other"}, "was trained on another text than {0}"),
        ([], {"step": 750}, "is not finished: python train.py {1} --resume"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(
    words: list[str], metadata: dict[str, Any], error: str, tmp_path: Path, bands: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A band of different configs is too wide to say anything."""
    runs = three(tmp_path)
    runs.append(write_run(tmp_path / "other", {1500: 0.7}, *words, **metadata))
    assert usual_loss.main([*runs, "--store"]) == 2
    assert error.format(runs[0], runs[-1]) in capsys.readouterr().err
    assert not bands.exists()


def test_too_few_runs_and_folders_that_are_no_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A band of one run given three times, a traceback for a folder without a run."""
    runs = three(tmp_path)
    assert usual_loss.main([runs[0]] * 3) == 2
    assert "1 different runs are given: a band needs 3 or more" in capsys.readouterr().err
    assert usual_loss.main([*runs, str(tmp_path / "none")]) == 2
    assert f"{tmp_path / 'none'} is not a run" in capsys.readouterr().err
    other = [write_run(tmp_path / f"lr-{n}", {1500: 0.7}, "train.lr=0.1", f"seed={n}")
             for n in range(3)]  # fmt: skip
    assert usual_loss.main(other) == 2
    assert "they differ from configs/quickstart.yaml in train.lr" in capsys.readouterr().err
