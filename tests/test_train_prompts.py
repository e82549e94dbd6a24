"""Training with data.prompt_field, from a table to the commands that score and describe it.

Prompts are noise: four random letters. The answer, the last letter twice as a capital, follows from
the prompt. So the loss of the answers goes to nearly 0, and the loss of the whole text cannot.
"""

import json
import math
import random
import re
import shutil
from pathlib import Path

import pytest
import tiny

from inference.text import continue_text
from inference.trained import open_trained
from model import Sampling
from scripts import corpus, evaluate
from training.progress import Progress

LETTERS = "abcdefgh"
ANSWERS = ["data.split=document", "data.field=answer", "data.prompt_field=question"]
LONGER = ["train.max_steps=70", "train.eval_interval=70", "train.save_interval=50",
          "train.lr=0.03", "train.adamw_lr=0.01", "train.micro_batch_size=8"]  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of questions, answers, and both as one text."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with path.open("w") as file:
        for _ in range(2000):
            letters = "".join(draw.choice(LETTERS) for _ in range(4))
            question, answer = letters + "=", 2 * letters[-1].upper()
            record = {"question": question, "answer": answer, "both": question + answer}
            file.write(json.dumps(record) + "\n")
    return path


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory, rows: Path) -> Path:
    """A run that counts the answers only. Tests must not write to it."""
    run = tmp_path_factory.mktemp("answering") / "run"
    assert tiny.start(run, rows, *ANSWERS, *LONGER) == 0
    return run


def last_loss(run: Path) -> float:
    return next(line["val_loss"] for line in reversed(tiny.measured(run)) if "val_loss" in line)


def scored(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[float, float, int, int]:
    """Return loss, bits per byte, tokens and tokens that count, as scripts.evaluate prints them."""
    assert evaluate.main([*words]) == 0
    printed = capsys.readouterr().out
    loss, bpb = re.findall(r"trained +([\d.]+) +[\d.]+ +([\d.]+)", printed)[0]
    tokens = int(re.findall(r"([\d,]+) tokens in seq", printed)[0].replace(",", ""))
    counted = re.findall(r"([\d,]+) tokens count; the others are those of prompts", printed)
    n_counted = int(counted[0].replace(",", "")) if counted else tokens - 1
    return float(loss), float(bpb), tokens, n_counted


def test_answers_are_learned_although_prompts_are_noise(answering: Path) -> None:
    """Prompts could be in the loss, or answers left out; or the model could not read prompts. No
    model could have a loss below 4 ln 8 / 9 = 0.92 if all 9 tokens counted: 4 are random letters,
    nor below ln 8 / 4 = 0.52 without reading the prompts."""
    assert last_loss(answering) < 0.2
    trained = open_trained(answering)
    for question in ("abcd=", "hhha=", "dcbg="):
        pieces = continue_text(trained, [question], max_tokens=4, seed=0,
                               sampling=Sampling(temperature=0))  # fmt: skip
        text = "".join(piece.text for piece in pieces)
        assert text == 2 * question[-2].upper()


def test_a_resumed_run_ends_with_the_same_bytes(
    answering: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches could lose their marks after --resume; another prompt_field would be another run."""
    run = Path(shutil.copytree(answering, tmp_path / "run"))
    final = tiny.last(run)
    final.unlink()
    assert tiny.resume(run, rows, *ANSWERS, *LONGER) == 0
    assert tiny.last(run).name == final.name and tiny.measured(run) == tiny.measured(answering)
    capsys.readouterr()
    assert tiny.resume(run, rows, "data.split=document", "data.field=answer", *LONGER) == 2
    assert "prompt_field" in capsys.readouterr().err


def test_a_run_is_scored_on_its_answers(
    answering: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """scripts.evaluate could count prompts, feed marks to the model, or divide by other bytes."""
    loss, bpb, tokens, counted = scored(str(answering), "--split", "val", capsys=capsys)
    assert loss == pytest.approx(last_loss(answering), abs=1e-4)
    assert (tokens, counted) == (100 * 9, 100 * 4 - 1)  # of a row, <s>, 2 letters and </s> count
    assert bpb == pytest.approx(loss * counted / math.log(2) / 200, abs=1e-3)
    loss, bpb, tokens, counted = scored(str(answering), "--file", str(rows), capsys=capsys)
    assert (tokens, counted) == (2000 * 9, 2000 * 4 - 1) and loss < 0.2
    assert bpb == pytest.approx(loss * counted / math.log(2) / 4000, abs=1e-3)
    names = ["--file", str(rows), "--field", "both"]
    whole, _, tokens, counted = scored(str(answering), *names, capsys=capsys)
    assert whole > 1 and counted == tokens - 1
    names = ["--file", str(rows), "--field", "answer", "--prompt-field", "question"]
    assert scored(str(answering), *names, capsys=capsys)[0] == loss
    (tmp_path / "plain.txt").write_text("abc=CC")
    _, _, tokens, counted = scored(str(answering), "--file", str(tmp_path / "plain.txt"),
                                   capsys=capsys)  # fmt: skip
    assert (tokens, counted) == (8, 7)
    plain = ["--file", str(tmp_path / "plain.txt"), "--prompt-field", "question"]
    assert evaluate.main([str(answering), *plain]) == 2  # asked for, and without effect
    assert "error: --prompt-field is question, but no file" in capsys.readouterr().err


def test_the_shares_are_printed(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """scripts.corpus and train.py say how many tokens are prompts; for plain text, nothing."""
    words = [*tiny.SETTINGS, f"data.path={rows}", "--show", "0", "--no-time"]
    assert corpus.main([*words, *ANSWERS]) == 0
    printed = capsys.readouterr().out
    assert (
        "prompts          10,000 tokens, which are left out of the loss and of bytes per token: "
        "55.6% of train, 55.6% of val, 55.6% of test" in printed
    )
    assert "train            16,200 tokens of 0.50 bytes" in printed  # 2 bytes in 4 that count
    assert tiny.start(tmp_path / "run", rows, *ANSWERS, "train.max_steps=3") == 0
    printed = capsys.readouterr().out
    assert (
        "text       16,200 training tokens; 7,200 of them, of 0.50 bytes, are in the loss (44.4%), "
        "the others are prompts" in printed
    )
    assert corpus.main([*words, "data.split=document", "data.field=both"]) == 0
    assert "prompts  " not in capsys.readouterr().out


def test_updates_weigh_as_many_tokens_as_they_count() -> None:
    """An update inside one long prompt has a loss of 0, which would lower the mean in a line of
    metrics."""
    with Progress(0, 4, 8) as progress:
        for loss, weight in [(4.0, 0.5), (0.0, 0.0), (1.0, 0.25)]:
            progress.advance(loss, weight=weight)
    assert progress.mean_loss() == pytest.approx((4.0 * 0.5 + 1.0 * 0.25) / 0.75)


def test_prompts_may_be_longer_than_a_sequence(tmp_path: Path) -> None:
    """A sequence without a token that counts: 0 / 0 must not end the training, and is no loss of 0,
    from which `usual` would conclude that the validation text is unlike the training text."""
    path = tmp_path / "long.jsonl"
    row = json.dumps({"question": "why " * 60 + "? ", "answer": "so"})
    path.write_text(f"{row}\n" * 40)
    more = ["train.micro_batch_size=1", "train.grad_accum_steps=2", "train.log_interval=2"]
    assert tiny.start(tmp_path / "run", path, *ANSWERS, *more, "train.max_steps=8") == 0
    lines = [line for line in tiny.measured(tmp_path / "run") if "lr" in line]
    losses = [line["train_loss"] for line in lines if "train_loss" in line]
    assert len(lines) == 4 and 0 < len(losses) < 4 and min(losses) > 0.1


def test_a_misspelled_column_is_one_line(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the key, the columns that there are."""
    words = ["data.split=document", "data.field=answer", "data.prompt_field=questoin"]
    assert tiny.start(tmp_path / "run", rows, *words) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == (
        f"error: data.prompt_field: {rows} has no column questoin, but question, answer, both: "
        "name the column of the prompts"
    )
