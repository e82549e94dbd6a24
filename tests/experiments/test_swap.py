"""experiments/swap.py: every run under every window, with intervals, and nothing scored twice."""

import json
import shutil
from pathlib import Path

import pytest
import tiny

from experiments import swap
from experiments.result import load
from experiments.sweeps.scores import Scorer
from scripts import evaluate


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> Path:
    """A sweep of two windows and two seeds."""
    folder = tmp_path_factory.mktemp("trained")
    for window in ("4", "null"):
        for seed in (0, 1):
            run = folder / f"window-{window.replace('null', 'full')}" / f"seed-{seed}"
            more = [f"model.sliding_window={window}", f"seed={seed}", "train.max_steps=6"]
            assert tiny.start(run, text, *more) == 0
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy, which a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "sweep"))


def test_cells_are_what_evaluate_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows and columns could be swapped, a difference could be taken from another run."""
    assert swap.main([str(folder)]) == 0
    printed = capsys.readouterr().out
    about, result = load(folder / "report" / "swap.json", swap.SwapResult)
    assert (result.trained, result.tested, result.seeds) == (("4", "full"), ("4", "full"), (2, 2))
    for name, row in zip(result.trained, result.cells, strict=True):
        values = []
        for seed in (0, 1):
            run = folder / f"window-{name}" / f"seed-{seed}"
            capsys.readouterr()
            assert evaluate.main([str(run), "--window", "4", "full"]) == 0
            lines = capsys.readouterr().out.splitlines()[2:]
            values.append([float(line.split()[-1]) for line in lines])
        for column, cell in enumerate(row):
            found = [of_seed[column] for of_seed in values]
            assert cell.bpb_of_seeds == pytest.approx(found, abs=6e-5)
            own = result.trained.index(name)
            mean = sum(of_seed[column] - of_seed[own] for of_seed in values) / 2
            assert cell.against.mean == pytest.approx(mean, abs=2e-4)
            assert cell.bpb.text() in printed
        assert row[result.trained.index(name)].against.mean == 0
    part = swap.section(about, result)
    (chart,) = part.charts
    assert f"{result.cells[0][1].bpb.mean:.3f}" in chart.svg() and chart.caption


def test_a_score_is_computed_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stopped command would begin again; a damaged file would end it."""
    measure, asked = Scorer._measure, []

    def counted(self: Scorer, trained: object, look: object, title: str) -> float:
        asked.append((title, str(look)))
        if len(asked) == 4:
            raise KeyboardInterrupt
        return measure(self, trained, look, title)  # type: ignore[arg-type]

    monkeypatch.setattr(Scorer, "_measure", counted)
    assert swap.main([str(folder)]) == 130  # Ctrl-C in the fourth of eight
    assert swap.main([str(folder)]) == 0
    assert len(asked) == 9 and len(set(asked)) == 8
    table = capsys.readouterr().out
    assert swap.main([str(folder)]) == 0
    assert len(asked) == 9 and capsys.readouterr().out == table
    kept = folder / "window-4" / "seed-0" / "scores.json"
    kept.write_text(kept.read_text()[:40])
    assert swap.main([str(folder)]) == 0
    assert len(asked) == 11 and capsys.readouterr().out == table


def test_quick_reads_less(folder: Path) -> None:
    """--quick could read all; its numbers could be taken for those of all tokens."""
    assert swap.main([str(folder), "--quick", "--tokens", "65"]) == 0
    about, result = load(folder / "report" / "swap-quick.json", swap.SwapResult)
    assert about.quick and result.seeds == (1, 1) and result.tokens == 65
    assert result.cells[0][0].bpb.low is None
    keys = json.loads((folder / "window-4" / "seed-0" / "scores.json").read_text())
    assert all(" test 65 " in key for key in keys)
    # 64 predictions, by hand: two sequences of 32 tokens, of bytes that the tokens encode.
    import torch

    from data.text import open_split
    from inference.trained import open_trained

    trained = open_trained(folder / "window-4" / "seed-0")
    tokens, _ = open_split(
        trained.config.data, trained.tokenizer, "test", trained.checkpoint.metadata["data_hash"]
    )
    ids = [int(id) for id in tokens[:65]]
    nats = torch.tensor(0.0)
    for start in (0, 32):
        part = torch.tensor(ids[start : start + 33])
        logits = trained.model(part[None, :-1])[0]
        nats += torch.nn.functional.cross_entropy(logits, part[1:], reduction="sum")
    n_bytes = len(trained.tokenizer.decode(ids).encode())
    expected = nats.item() / 0.6931471805599453 / n_bytes
    assert result.cells[0][0].bpb.mean == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "neither a run nor a sweep"),
        (["{}", "--tokens", "1"], "--tokens is 1"),
        (["{}/window-4/seed-0"], "has one window"),
        (["{}", "--split", "all"], "--split"),
    ],
)
def test_bad_arguments(
    words: list[str], message: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback, or a matrix of one cell."""
    assert swap.main([word.format(trained) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert message in printed.err and printed.out == ""
