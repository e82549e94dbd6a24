"""experiments/position.py: all positions predict the same tokens, only the context differs."""

import math
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from data.text import open_text
from experiments import position, position_loss
from experiments.intervals import over_runs
from experiments.pages.page import page
from experiments.position_loss import RunLoss, Text, choose_pieces, column_edges, stretches
from experiments.position_page import section, tables
from experiments.position_results import PositionResult, group_loss
from experiments.result import load
from inference.trained import TrainedModel, open_trained

EDGES = (0, 1, 2, 4, 8, 16, 32, 64)
SHORT = ["train.max_steps=2", "train.warmup_steps=1"]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> Path:
    """A sweep: two seeds without a window."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in (0, 1):
        words = ["model.sliding_window=null", f"seed={seed}", *SHORT]
        assert tiny.start(folder / f"full/seed-{seed}", text, *words) == 0
    return folder


def tokens_of(run: TrainedModel) -> "np.ndarray":  # type: ignore[type-arg]
    return open_text(run.config.data, run.config.tokenizer)[1].tokens("test")


def by_hand(run: TrainedModel, text: Text, start: int, end: int) -> list[float]:
    """Bits of each piece at positions start to end - 1, one token and one text at a time."""
    bits = [0.0] * len(text.starts)
    for piece, first in enumerate(text.starts):
        for place in range(text.size):
            read = start + place % (end - start) + 1  # tokens in front of the predicted one
            at = first + place
            context = torch.tensor([text.tokens[at - read : at].astype(np.int64).tolist()])
            with torch.no_grad():
                logits = run.model(context)[0, -1].double()
            bits[piece] -= logits.log_softmax(-1)[int(text.tokens[at])].item() / math.log(2)
    return bits


def stored(folder: Path) -> PositionResult:
    return load(folder / "report" / "position.json", PositionResult)[1]


@pytest.mark.parametrize("trained_length, multiples", [(32, [1, 2, 4]), (24, [1, 3]), (1, [1, 2])])
def test_all_ranges_predict_the_same_tokens(trained_length: int, multiples: Sequence[int]) -> None:
    """More context compared on other, perhaps easier, tokens; a range that has gaps."""
    edges = column_edges(trained_length, multiples)
    assert edges[0] == 0 and trained_length in edges and edges[-1] == multiples[-1] * trained_length
    text = choose_pieces(np.arange(2000), edges, 500)
    predicted = {at + n for at in text.starts for n in range(text.size)}
    assert len(predicted) == text.size * len(text.starts) <= 500
    for start, end in pairwise(edges):
        cut = stretches(text, end - start)
        seen = [at + n for _, at, length in cut for n in range(length)]
        assert len(seen) == len(set(seen)) and set(seen) == predicted
        assert all(at - start - 1 >= 0 and length <= end - start for _, at, length in cut)


def test_pieces_are_taken_from_all_over_the_split() -> None:
    """The first pages of a book in place of the whole book; a piece over the end of the split."""
    edges = (0, 1, 2, 4, 8)
    every, part = (choose_pieces(np.arange(10_000), edges, n).starts for n in (10**6, 100))
    assert len(part) == 25 and set(part) < set(every)
    assert part[0] == every[0] == 5 and part[-1] > 9000
    assert max(every) + 4 <= 10_000 < max(every) + 8
    assert choose_pieces(np.arange(9), edges, 1).starts == (5,)


@pytest.mark.parametrize("scaling", ["none", "linear", "yarn"])
def test_each_number_by_hand(sweep: Path, scaling: str) -> None:
    """A range under another position, a neighbour's text, a factor without effect."""
    run = open_trained(sweep / "full/seed-0")
    text = choose_pieces(tokens_of(run), EDGES, 64)
    found = position_loss.measure_run(run, text, EDGES, scaling, "")
    assert found.tokens == 64
    pieces = [text.tokens[at : at + 32].tolist() for at in text.starts]
    assert found.n_bytes == sum(len(run.tokenizer.decode(piece).encode()) for piece in pieces)
    reused = RunLoss(0, 0, tuple((n / 8,) for n in range(len(EDGES) - 1)))
    again = position_loss.measure_run(run, text, EDGES, scaling, "", reused)
    assert again.bits == (*reused.bits[:6], found.bits[6])
    for n, (start, end) in enumerate(pairwise(EDGES)):
        model = run
        if scaling != "none" and end > 32:
            model = run.with_settings(
                rope_scaling=scaling, rope_factor=end / 32, rope_original_len=32
            )
        assert found.bits[n] == pytest.approx(by_hand(model, text, start, end), rel=1e-4), n


def test_within_the_reach_nothing_changes(finished: Path) -> None:
    """The windows of two layers reach 15 tokens: context that cannot matter changes the loss."""
    run = open_trained(finished)
    text = choose_pieces(tokens_of(run), EDGES, 300)
    bits = position_loss.measure_run(run, text, EDGES, "none", "").bits
    assert bits[6] == pytest.approx(bits[5], rel=1e-4)  # positions 32-63 and 16-31
    assert bits[2] != pytest.approx(bits[5], rel=1e-3)


def test_documents_are_masked_and_refused(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that was trained with a document mask, measured without it; a loss by position of a
    text in which positions restart."""
    run, folder = tmp_path / "run", tmp_path / "texts"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.txt").write_text(tiny.english(120, seed=number))
    more = ["model.sliding_window=null", "data.document_mask=true", "data.test_fraction=0.2"]
    assert tiny.start(run, text, *more, *SHORT, f"data.path={folder}") == 0
    opened = open_trained(run)
    tokens = tokens_of(opened)
    chosen = Text(tokens, (130,), 64)
    found = position_loss.measure_run(opened, chosen, (0, 64, 128), "none", "").bits[1][0]
    bits = 0.0
    for at in range(130, 194):
        piece = tokens[65:at].tolist()
        start = max([n for n, id in enumerate(piece) if id == opened.tokenizer.bos_id], default=0)
        with torch.no_grad():
            logits = opened.model(torch.tensor([piece[start:]]))[0, -1].double()
        bits -= logits.log_softmax(-1)[int(tokens[at])].item() / math.log(2)
    assert opened.tokenizer.bos_id in tokens[65:194] and found == pytest.approx(bits, rel=1e-4)
    assert position.main([str(run)]) == 2
    error = f"error: {run} was trained with data.document_mask, so positions restart at each"
    assert capsys.readouterr().err.splitlines()[-1].startswith(error)


def test_losses_over_runs_and_over_pieces() -> None:
    """Bits per token in place of bits per byte, an unpaired change, the wrong range."""
    parts = [
        RunLoss(20, 40, ((30.0, 50.0), (10.0, 10.0), (20.0, 30.0))),
        RunLoss(20, 40, ((40.0, 60.0), (10.0, 18.0), (30.0, 38.0))),
    ]
    runs = [Path("a"), Path("b")]
    both = group_loss("full", runs, (None,), "none", parts, 1)
    assert both.loss[0].mean == pytest.approx((80 / 40 + 100 / 40) / 2) and both.loss[0].n == 2
    assert both.change[2] == over_runs([(50 - 20) / 40, (68 - 28) / 40])
    one = group_loss("full", runs[:1], (None,), "none", parts[:1], 1)
    assert one.loss[0].mean == pytest.approx(80 / 40) and one.loss[0].n == one.pieces == 2
    assert one.change[2] == over_runs([2 * (20 - 10) / 40, 2 * (30 - 10) / 40])
    assert one.change[1].mean == 0


def test_a_sweep_is_stored_printed_and_drawn(
    sweep: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that is not the stored one, a second call that measures again, a torn part."""
    options = [str(sweep), "--lengths", "2", "--max-tokens", "200", "--scaling", "none", "ntk"]
    assert position.main(options) == 0
    printed = capsys.readouterr().out
    result = stored(sweep)
    assert result.ranges == ["0", "1", "2-3", "4-7", "8-15", "16-31", "32-63"]
    assert result.ranges[result.last_trained] == "16-31"
    assert [(line.name, line.scaling, len(line.runs)) for line in result.lines] == [
        ("full", "none", 2), ("full", "ntk", 2)
    ]  # fmt: skip
    for table in tables(result):
        assert table.markdown() in printed
    none, ntk = result.lines
    assert none.loss[:6] == ntk.loss[:6] and none.loss[6] != ntk.loss[6]
    about, _ = load(sweep / "report" / "position.json", PositionResult)
    drawn = page("", [], [section(about, result)])
    assert drawn.count("<svg") == 1 and "trained length</text>" in drawn and "full, ntk" in drawn
    (chart,) = section(about, result).charts
    assert chart.caption.endswith("Means of 2 seeds, 95 % intervals of Student's t, over seeds.")

    def measured_again(*_: object) -> RunLoss:
        raise KeyError

    monkeypatch.setattr(position, "measure_run", measured_again)
    assert position.main(options) == 0  # all parts are there
    assert stored(sweep) == result
    with pytest.raises(KeyError):
        position.main([*options, "--split", "val"])


@pytest.mark.parametrize(
    "words, message",
    [
        (["--lengths", "0"], "--lengths 0: give multiples of the trained length from 1"),
        (["--lengths", "two"], "invalid int value: 'two'"),
        (["--scaling", "cubic"], "invalid choice: 'cubic'"),
        (["--max-tokens", "0"], "--max-tokens is 0: it must be at least 1"),
        (["--lengths", "1000"], "--lengths needs "),
    ],
)
def test_bad_arguments_are_refused(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback for a typo, or a score of nothing."""
    capsys.readouterr()
    assert position.main([str(run), *words]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last


def test_another_text_is_refused(
    tmp_path: Path, text: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores of a text that the model may have been trained on; lines of different tokens."""
    copy = Path(shutil.copy(text, tmp_path / "text.txt"))
    copy.write_text(copy.read_text().replace("king", "cook"))
    assert tiny.start(tmp_path / "other", copy, *SHORT) == 0
    assert position.main([str(run), str(tmp_path / "other")]) == 2
    assert "other has another text, tokenizer or data.seq_len than" in capsys.readouterr().err
    copy.write_text(text.read_text())
    assert position.main([str(tmp_path / "other")]) == 2
    assert "no longer what it was trained on" in capsys.readouterr().err


def test_a_trained_scaling_is_not_scaled_again(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line called linear that is neither what was trained nor linear."""
    run = tmp_path / "run"
    words = ["model.rope_scaling=linear", "model.rope_factor=2", "train.max_steps=1"]
    assert tiny.start(run, text, *words, "train.warmup_steps=0") == 0
    assert position.main([str(run), "--scaling", "ntk"]) == 2
    assert "was trained with RoPE scaling linear" in capsys.readouterr().err
    assert position.main([str(run), "--lengths", "1", "--max-tokens", "50"]) == 0
