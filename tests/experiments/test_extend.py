"""experiments/extend.py: every length predicts the same tokens, with more and more context."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from data.text import open_text
from experiments import extend
from inference.trained import open_trained

ROOT = Path(__file__).parents[2]
SHORT = ["train.max_steps=2", "train.warmup_steps=1"]


@pytest.fixture(scope="module")
def unlimited(tmp_path_factory: pytest.TempPathFactory, text: Path, cache: Path) -> Path:
    """A tiny run without a window."""
    run = tmp_path_factory.mktemp("unlimited") / "run"
    assert tiny.start(run, text, "model.sliding_window=null") == 0
    return run


def table(
    run: Path, *words: str, capsys: pytest.CaptureFixture[str]
) -> tuple[str, dict[str, list[float]]]:
    """Run the command; return its output, and bits per byte by scaling."""
    capsys.readouterr()
    assert extend.main([str(run), *words]) == 0
    out = capsys.readouterr().out
    lines = out[out.index(" scaling") :].splitlines()[1:]
    return out, {line.split()[0]: [float(n) for n in line.split()[1:]] for line in lines}


def by_hand(run: Path, times: int, longest: int, **changes: object) -> float:
    """Bits per byte of 16 tokens after 16 to 112 others, one text at a time; trained on 32."""
    opened = open_trained(run).with_settings(**changes)
    tokens = open_text(opened.config.data, opened.config.tokenizer)[1].tokens("test").tolist()
    bits, n_bytes, length = 0.0, 0, 32 * times
    for end in range(32 * longest + 1, len(tokens) + 1, 16):
        piece = torch.tensor(tokens[end - length - 1 : end])
        with torch.no_grad():
            log_probabilities = opened.model(piece[None, :-1])[0].double().log_softmax(-1)
        for place in range(length - 16, length):
            bits -= log_probabilities[place, piece[place + 1]].item() / math.log(2)
        n_bytes += len(opened.tokenizer.decode(piece[-16:].tolist()).encode())
    return bits / n_bytes


@pytest.mark.parametrize("longest, lengths", [(4, [1, 2, 4]), (3, [3, 1])])
def test_all_lengths_predict_the_same_tokens(longest: int, lengths: list[int]) -> None:
    """More context compared on other, perhaps easier, tokens."""
    tokens = np.arange(500, dtype=np.uint16)
    ends = extend.text_ends(len(tokens), 8 * longest, 4, 10**6)
    seen = []
    for times in lengths:
        x, y = extend.texts(tokens, ends, 8 * times)
        assert x.shape == y.shape == (len(ends), 8 * times)
        assert torch.equal(x + 1, y)  # a target follows its input
        seen.append(y[:, -4:].flatten().tolist())
    assert all(targets == seen[0] for targets in seen)
    assert len(set(seen[0])) == len(seen[0]) > 400  # each once, few left out
    assert min(seen[0]) == 8 * longest - 3 and 500 - max(seen[0]) <= 4


def test_a_sample_is_taken_from_all_over_the_split() -> None:
    """The first pages of a book in place of the whole book."""
    every = extend.text_ends(10_001, 64, 8, 10**6)
    part = extend.text_ends(10_001, 64, 8, 100)
    assert len(part) == 12 and set(part) < set(every)
    assert part[0] == every[0] and part[-1] > 9000
    assert extend.text_ends(10_001, 64, 8, 1) == every[:1]
    assert extend.text_ends(65, 64, 8, 100) == [65]


def test_within_the_reach_nothing_changes(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The windows of two layers reach 15 tokens and every target has 16 before it: context that
    cannot matter changes the score."""
    out, rows = table(finished, "--scaling", "none", capsys=capsys)
    assert "can depend on 15 tokens" in out
    assert rows["none"][0] == pytest.approx(by_hand(finished, 1, 4), abs=6e-5)
    assert rows["none"] == pytest.approx([rows["none"][0]] * 3, abs=1.01e-4)  # up to rounding


def test_a_factor_of_one_is_no_scaling(unlimited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A scaling that changes the model on texts of the trained length."""
    _, rows = table(unlimited, "--lengths", "1", capsys=capsys)
    assert list(rows) == ["none", "linear", "ntk", "yarn"]
    assert len({tuple(row) for row in rows.values()}) == 1


def test_each_number_by_hand(unlimited: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A column under another length, a row of another scaling, a factor without effect."""
    out, rows = table(
        unlimited, "--lengths", "2", "1", "--scaling", "none", "linear", "yarn", capsys=capsys
    )
    assert "on all tokens before it" in out and out.splitlines()[4].split()[1:] == ["64", "32"]
    assert rows["none"] == pytest.approx([by_hand(unlimited, n, 2) for n in (2, 1)], abs=6e-5)
    for scaling in ("linear", "yarn"):
        changed = {"rope_scaling": scaling, "rope_factor": 2.0, "rope_original_len": 32}
        assert rows[scaling][0] == pytest.approx(by_hand(unlimited, 2, 2, **changed), abs=6e-5)
    assert len({row[0] for row in rows.values()}) == 3


def test_documents_are_masked(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that was trained with a document mask, scored without it."""
    run, folder = tmp_path / "run", tmp_path / "texts"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.txt").write_text(tiny.english(120, seed=number))
    more = ["model.sliding_window=null", "data.document_mask=true", "data.test_fraction=0.2"]
    assert tiny.start(run, text, *more, f"data.path={folder}") == 0
    opened = open_trained(run)
    tokens = open_text(opened.config.data, opened.config.tokenizer)[1].tokens("test").tolist()
    bits, n_bytes = 0.0, 0
    for end in range(129, len(tokens) + 1, 16):
        piece = tokens[end - 129 : end]
        starts = [n for n, id in enumerate(piece[:-1]) if id == opened.tokenizer.bos_id]
        for place in range(112, 128):
            start = max([n for n in starts if n <= place], default=0)
            with torch.no_grad():
                logits = opened.model(torch.tensor([piece[start : place + 1]]))[0, -1]
            bits -= logits.double().log_softmax(-1)[piece[place + 1]].item() / math.log(2)
        n_bytes += len(opened.tokenizer.decode(piece[-16:]).encode())
    _, rows = table(run, "--lengths", "4", "--scaling", "none", capsys=capsys)
    assert rows["none"] == pytest.approx([bits / n_bytes], abs=6e-5)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--lengths", "0"], "--lengths 0: give multiples of the trained length from 1"),
        (["--lengths", "two"], "invalid int value: 'two'"),
        (["--scaling", "cubic"], "invalid choice: 'cubic'"),
        (["--max-tokens", "0"], "--max-tokens is 0: it must be at least 1"),
        (["--lengths", "1000"], "--lengths needs texts of 32,000 + 1"),
    ],
)
def test_bad_arguments_are_refused(
    finished: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback for a typo, or a score of nothing."""
    capsys.readouterr()
    assert extend.main([str(finished), *words]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and message in last


def test_a_changed_text_is_refused(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores of a text that the model may have been trained on."""
    copy = Path(shutil.copy(text, tmp_path / "text.txt"))
    assert tiny.start(tmp_path / "run", copy, *SHORT) == 0
    copy.write_text(copy.read_text().replace("king", "cook"))
    assert extend.main([str(tmp_path / "run")]) == 2
    assert "no longer what it was trained on" in capsys.readouterr().err


def test_json_holds_the_scores_of_the_table(
    unlimited: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers for a program that differ from those of the table, or lack their length."""
    path = tmp_path / "extend.json"
    words = ["--scaling", "none", "linear", "--lengths", "1", "2", "--json", str(path)]
    _, rows = table(unlimited, *words, capsys=capsys)
    result = json.loads(path.read_text())
    found = {(score["scaling"], score["length"]): score["bits_per_byte"]
             for score in result["scores"]}  # fmt: skip
    expected = {(name, 32 * (n + 1)): bits for name, row in rows.items()
                for n, bits in enumerate(row)}  # fmt: skip
    assert found == pytest.approx(expected, abs=6e-5) and len(found) == 4
    assert (result["trained_length"], result["reach"], result["split"]) == (32, None, "test")


def test_a_trained_scaling_is_not_scaled_again(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A row called linear that is neither what was trained nor linear."""
    run = tmp_path / "run"
    words = ["model.rope_scaling=linear", "model.rope_factor=2", "train.max_steps=1"]
    assert tiny.start(run, text, *words, "train.warmup_steps=0") == 0
    assert extend.main([str(run)]) == 2
    assert "trained with RoPE scaling linear" in capsys.readouterr().err
    _, rows = table(run, "--scaling", "none", "--lengths", "1", capsys=capsys)
    assert rows["none"] == pytest.approx([by_hand(run, 1, 1)], abs=6e-5)


def test_help_says_what_it_shows() -> None:
    """A command that has to be read to be used."""
    command = [sys.executable, "-m", "experiments.extend", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "What a trained model gains or loses on texts longer" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("example: python -m experiments.extend ")
