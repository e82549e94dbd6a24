"""experiments/sweep.py: one run for each window, and a table of what these runs measured."""

import json
from pathlib import Path

import pytest
import tiny

from experiments import sweep
from inference.trained import open_trained


def last_values(run: Path) -> dict[str, float]:
    """The last value of each measurement in metrics.jsonl."""
    values: dict[str, float] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        values |= json.loads(line)
    return values


def test_a_row_holds_the_measurements_of_its_run(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows in another order, a window that is not trained, runs that are trained twice."""
    folder, path = tmp_path / "runs", tmp_path / "sweep.json"
    words = [tiny.QUICKSTART, *tiny.SETTINGS, f"data.path={text}", "train.warmup_steps=1"]
    options = ["--windows", "full", "4", "--steps", "2", "--folder", str(folder)]
    assert sweep.main([*words, *options, "--json", str(path)]) == 0
    first = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in first.splitlines()[2:4]
    ]
    cache_bytes = {"full": 2 * 2 * 8192 * 16 * 4, "4": 2 * 2 * 4 * 16 * 4}  # 2 layers, K and V
    for row, name, reach in zip(rows, ("full", "4"), ("all", "7"), strict=True):
        run = folder / f"window-{name}"
        measured = last_values(run)
        assert measured["step"] == 2
        assert row == [
            name, reach, f"{measured['val_bpb']:.4f}", f"{measured['tokens_per_s']:,.0f}",
            f"{cache_bytes[name] / 1e6:.2f} MB",
        ]  # fmt: skip
        window = None if name == "full" else 4
        assert set(open_trained(run).model.config.windows) == {window}
    result = json.loads(path.read_text())
    assert [row["cache_bytes"] for row in result["rows"]] == [*cache_bytes.values()]
    assert [row["window"] for row in result["rows"]] == [None, 4] and result["steps"] == 2
    # Training again would measure other speeds and write other checkpoints.
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    assert len(files) == 2
    assert sweep.main([*words, *options]) == 0
    assert capsys.readouterr().out == first
    assert files == {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--windows", "0"], "--windows 0: give numbers of keys from 1"),
        (["--windows", "wide"], "--windows wide"),
        (["--steps", "0"], "--steps is 0"),
        (["model.dims=3"], "model.dims is unknown"),
    ],
)
def test_bad_arguments_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback for a typo, or a run that starts all the same."""
    assert sweep.main([*words, "--folder", str(tmp_path / "runs")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message in printed.err and printed.out == "" and not (tmp_path / "runs").exists()
