"""scripts/evaluate.py: scores belong to the text, the split and the window that they name."""

import json
import math
import shutil
from pathlib import Path

import pytest
import tiny
import torch

from data.prepare import Corpus
from data.text import open_text
from inference.trained import open_trained
from scripts import evaluate


def table(*words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, list[float]]:
    """Run the command; returns loss, perplexity and bits per byte by window."""
    capsys.readouterr()
    assert evaluate.main(list(words)) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    return {row[0]: [float(number) for number in row[1:]] for row in rows}


def by_hand(run: Path, tokens: list[int], window: int | None, seq_len: int) -> float:
    """Nats per token, a sequence at a time, with torch's own softmax."""
    opened = open_trained(run).with_settings(sliding_window=window)
    nats = 0.0
    for start in range(0, len(tokens) - 1, seq_len):
        piece = torch.tensor(tokens[start : start + seq_len + 1])
        with torch.no_grad():
            chances = opened.model(piece[None, :-1])[0].double().log_softmax(-1)
        nats -= chances[torch.arange(len(piece) - 1), piece[1:]].sum().item()
    return nats / (len(tokens) - 1)


def corpus_of(run: Path) -> Corpus:
    return open_text((config := open_trained(run).config).data, config.tokenizer)[1]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_split_by_hand(finished: Path, split: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The score is that of the whole split that was named."""
    corpus = corpus_of(finished)
    loss, perplexity, bpb = table(str(finished), "--split", split, capsys=capsys)["trained"]
    tokens = corpus.tokens(split).tolist()
    expected = by_hand(finished, tokens, 8, 32)
    assert loss == pytest.approx(expected, abs=6e-5)
    assert perplexity == pytest.approx(math.exp(expected), abs=0.03)
    bits = expected * (len(tokens) - 1) / math.log(2) / corpus.n_bytes(split)
    assert bpb == pytest.approx(bits, abs=6e-5)


def test_validation_is_what_training_measured(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training and this command give the same score for the same model on the same text."""
    loss, _, bpb = table(str(finished), "--split", "val", capsys=capsys)["trained"]
    final = tiny.measured(finished)[-1]
    assert loss == pytest.approx(final["val_loss"], abs=6e-5)
    assert bpb == pytest.approx(final["val_bpb"], abs=6e-5)


def test_windows_in_any_order(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each row has its own window; `trained` after another window is still the trained one."""
    rows = table(str(finished), "--window", "2", "trained", "full", "8", capsys=capsys)
    tokens = corpus_of(finished).tokens("test").tolist()
    for word, window in (("2", 2), ("trained", 8), ("full", None), ("8", 8)):
        assert rows[word][0] == pytest.approx(by_hand(finished, tokens, window, 32), abs=6e-5)
    assert rows["trained"] == rows["8"] and len({row[0] for row in rows.values()}) == 3


def test_weights_are_a_column_of_their_own(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each row has its own window and format; without the option the table stays as it was."""
    words = ["--window", "trained", "2", "--weights", "int8", "fp32"]
    assert evaluate.main([str(finished), *words]) == 0
    title, *rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert title[:3] == ["window", "weights", "loss"]
    assert [row[:2] for row in rows] == [
        ["trained", "int8"], ["trained", "fp32"], ["2", "int8"], ["2", "fp32"],
    ]  # fmt: skip
    tokens = corpus_of(finished).tokens("test").tolist()
    for row, window in ((rows[1], 8), (rows[3], 2)):
        assert float(row[2]) == pytest.approx(by_hand(finished, tokens, window, 32), abs=6e-5)
    rounded = open_trained(finished).rounded()
    inputs = torch.tensor([tokens[:-1]]).split(32, dim=1)
    targets = torch.tensor([tokens[1:]]).split(32, dim=1)
    nats = sum(rounded.loss(x, y).item() * y.numel() for x, y in zip(inputs, targets, strict=True))
    assert float(rows[0][2]) == pytest.approx(nats / (len(tokens) - 1), abs=6e-5)
    assert evaluate.main([str(finished)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["window", "loss"]


def test_a_file_and_another_length(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any text can be scored, also characters outside the vocabulary; bytes are those of UTF-8."""
    path = tmp_path / "own.txt"
    path.write_text("The königin of 日本 walks.\n" * 3, encoding="utf-8")
    tokenizer = open_trained(finished).tokenizer
    ids = [tokenizer.bos_id, *tokenizer.encode(path.read_text("utf-8")), tokenizer.eos_id]
    loss, _, bpb = table(str(finished), "--file", str(path), "--seq-len", "5", capsys=capsys)[
        "trained"
    ]
    assert loss == pytest.approx(by_hand(finished, ids, 8, 5), abs=6e-5)
    n_bytes = len(path.read_bytes())
    assert bpb == pytest.approx(loss * (len(ids) - 1) / math.log(2) / n_bytes, abs=1e-3)


def test_a_text_that_changed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise the score of the test split would be that of another text. Only the end is changed,
    so that the tokenizer, trained on the training split, stays the same."""
    path = tmp_path / "text.txt"
    path.write_text(tiny.english(5000))
    short = ["train.max_steps=1", "train.warmup_steps=0", "train.micro_batch_size=1"]
    assert tiny.start(tmp_path / "run", path, *short) == 0
    path.write_text(path.read_text()[:-20] + "the the the the the ")
    capsys.readouterr()
    assert evaluate.main([str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the run's text is no longer what it was trained on")
    assert "--data-path" in error and "--file" in error


def test_a_split_that_is_not_there(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty split is an error of one line, not a division by zero."""
    short = ["train.max_steps=1", "train.warmup_steps=0", "data.test_fraction=0"]
    assert tiny.start(tmp_path / "run", text, *short) == 0
    assert "On text it never saw" not in capsys.readouterr().out
    assert evaluate.main([str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the run's text has no test split")


# ------------------------------------------------------------------- which text is read, and how


@pytest.fixture(scope="module")
def table_run(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run on the column `story` of a table, which is beside the run's folder."""
    folder = tmp_path_factory.mktemp("table")
    write_rows(folder / "stories.jsonl", "story", tiny.english(20_000).split("\n"))
    more = ["data.field=story", "data.documents=line"]
    assert tiny.start(folder / "run", folder / "stories.jsonl", *more) == 0
    return folder / "run"


def write_rows(path: Path, field: str, texts: list[str]) -> None:
    rows = [json.dumps({field: text, "other": "x"}) for text in texts]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def framed(run: Path, texts: list[str]) -> list[int]:
    """The tokens of documents, each between BOS and EOS."""
    tokenizer = open_trained(run).tokenizer
    return [
        id for text in texts for id in (tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id)
    ]


OWN = ["The king walks.", "A quiet river sings under the stone.", "Never."]


@pytest.mark.parametrize("option", [[], ["--field", "page"]])
def test_a_file_is_read_with_the_runs_field(
    table_run: Path, tmp_path: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The text is in the column that the run was trained on, or in that of --field."""
    path = tmp_path / "own.jsonl"
    write_rows(path, "page" if option else "story", OWN)
    words = [str(table_run), "--file", str(path), *option]
    loss = table(*words, capsys=capsys)["trained"][0]
    assert loss == pytest.approx(by_hand(table_run, framed(table_run, OWN), 8, 32), abs=6e-5)


def test_a_file_is_split_into_the_runs_documents(
    table_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run has `data.documents=line`, so each line stands between BOS and EOS."""
    path = tmp_path / "own.txt"
    path.write_text("\n".join(OWN) + "\n")
    assert evaluate.main([str(table_run), "--file", str(path)]) == 0
    n_tokens = len(framed(table_run, OWN))
    assert f", {n_tokens:,} tokens in sequences" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--file", "nowhere.txt"], ["--data-path", "nowhere.txt"]])
def test_errors_name_the_option_that_was_given(
    finished: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The error must not name a key of the config that the user did not write."""
    assert evaluate.main([str(finished), *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    shown = f"error: {words[0]}: {words[1]} does not exist: check the spelling"
    assert error.startswith(shown) and "data.path" not in error


def test_a_missing_column_is_an_error_about_the_option(
    table_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names `--field`, not `data.field`, which this command does not take."""
    path = tmp_path / "own.jsonl"
    write_rows(path, "page", OWN)
    assert evaluate.main([str(table_run), "--file", str(path)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        f"error: --field: {path} has no column story, but page, other: name the column of the text"
    )


def test_a_moved_text_is_named(
    table_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --data-path the score is the same as before. Without it, the error names the option.
    Another text is refused."""
    before = table(str(table_run), capsys=capsys)
    folder = tmp_path / "moved"
    shutil.copytree(table_run.parent, folder)
    (folder / "stories.jsonl").rename(folder / "renamed.jsonl")
    config = open_trained(folder / "run").config
    assert config.data.path == str(table_run.parent / "stories.jsonl")
    original = table_run.parent / "stories.jsonl"
    original.rename(original.with_suffix(".away"))
    try:
        assert evaluate.main([str(folder / "run")]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert str(original) in error and "--data-path" in error
        words = [str(folder / "run"), "--data-path", str(folder / "renamed.jsonl")]
        assert table(*words, capsys=capsys) == before
        write_rows(folder / "renamed.jsonl", "story", OWN * 200)
        assert evaluate.main(words) == 2
        assert "no longer what it was trained on" in capsys.readouterr().err
    finally:
        original.with_suffix(".away").rename(original)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--file", "a", "--data-path", "b"], "give --file or --data-path, not both"),
        (["--field", "x"], "--field names a column of --file: give --file as well"),
    ],
)
def test_options_that_contradict(
    finished: Path, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that would have no effect is refused."""
    assert evaluate.main([str(finished), *words]) == 2
    assert capsys.readouterr().err == f"error: {expected}\n"


def test_stories_cannot_be_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The text of such a run is not in files, so there is no path to name."""
    short = ["train.max_steps=1", "train.warmup_steps=0", "data.source=stories", "data.stories=20",
             "data.path=null", "data.split=document"]  # fmt: skip
    assert tiny.start(tmp_path / "run", tmp_path, *short) == 0
    assert evaluate.main([str(tmp_path / "run"), "--data-path", "x"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: --data-path needs a run with data.source=files: leave it out"


def test_other_settings_of_the_run_keep_their_keys(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's own setting, for which there is no option, without its section."""
    run = tmp_path / "run"
    text = tmp_path / "split.txt"
    text.write_text("<>".join(tiny.english(400, seed) for seed in range(40)))
    short = ["train.max_steps=1", "train.warmup_steps=0", "data.separator=<>"]
    assert tiny.start(run, text, *short) == 0
    (tmp_path / "own.txt").write_text("no separator")
    capsys.readouterr()
    assert evaluate.main([str(run), "--file", str(tmp_path / "own.txt")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: data.separator is '<>', which no text file of {tmp_path / 'own.txt'} has"
    )
