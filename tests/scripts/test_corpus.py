"""scripts.corpus prints what is counted in a text, and warnings: each warning has a text or a
setting that causes it, and a clean text causes none."""

from pathlib import Path

import pytest
import tiny

from data import census
from data.documents import Document
from data.stories.telling import story
from scripts import corpus

STORIES = [story(0, index).text for index in range(150)]
SETTINGS = [*tiny.SETTINGS, "data.split=document", "data.val_fraction=0.15",
            "data.test_fraction=0.15", "data.seq_len=100"]  # fmt: skip


def check(
    folder: Path, texts: list[str], *more: str, capsys: pytest.CaptureFixture[str]
) -> tuple[dict[str, str], list[str]]:
    """Run the command over texts, one file each; return its rows by name, and its warnings."""
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_bytes(text.encode())
    words = [*SETTINGS, f"data.path={folder}", *more]
    assert corpus.main([*words, "--show", "0", "--no-time"]) == 0
    lines = capsys.readouterr().out.splitlines()
    warnings = [line[17:] for line in lines if line.startswith("warning ")]
    assert bool(warnings) != (lines[-1] == "no problems found")
    return {line[:16].strip(): line[17:] for line in lines}, warnings


def test_a_clean_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No warning; the counts are those made here by hand."""
    rows, warnings = check(tmp_path, STORIES, capsys=capsys)
    assert warnings == []
    n_bytes = sum(len(text.encode()) for text in STORIES)
    assert rows["documents"].startswith(f"150, {n_bytes:,} bytes")
    assert rows["repeated"] == "0 documents; 0 more differ in case and spaces only"
    assert 0.1 < float(rows["xz ratio"].split()[0]) < 0.5
    lengths = sorted(len(text) + 2 for text in STORIES)  # char: a token each, <s> and </s>
    assert rows["a document"].startswith(
        f"{lengths[75]:,} tokens (median), 10% below {lengths[15]:,}, 10% above {lengths[135]:,}; "
    )
    n_train = int(rows["train"].split()[0].replace(",", ""))
    assert n_train < sum(lengths) - 2 * census.FEW
    epochs = 10 * 4 * 100 / n_train
    assert rows["training"] == f"10 steps of 400 tokens: {epochs:.2f} epochs"


HTML = '<div class="x"><p>{}</p><br></div>'
FLAWED = {  # warning -> change of the first four stories
    "4 documents are empty": lambda text: " \n",
    "4 documents have U+FFFD": lambda text: text.replace("e", "\ufffd", 1),
    "4 documents have control characters": lambda text: text.replace(" ", "\x1b[", 1),
    "4 documents have UTF-8 read as Latin-1": lambda text: text + "\u00c3\u00a9",
    "4 documents have lines of 100,000 characters": lambda text: text + "ab" * 50_000,
}  # fmt: skip


@pytest.mark.parametrize("warning", FLAWED)
def test_flaws(warning: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each flaw is named, and nothing else but its consequences."""
    flawed = [FLAWED[warning](text) for text in STORIES[:4]]
    if "empty" in warning:
        flawed = [" " * (1 + number) for number in range(4)]
    _, warnings = check(tmp_path, flawed + STORIES[4:], capsys=capsys)
    assert warnings[0].startswith(warning) or warnings[1].startswith(warning)
    assert len(warnings) <= 2 and (len(warnings) == 1 or "empty" in warning)


def test_html(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A few pages are tolerated, a tenth of the documents is not."""
    few, many = (
        [*map(HTML.format, STORIES[:n]), *STORIES[n:]] for n in (5, 15)
    )  # fmt: skip
    assert check(tmp_path, few, capsys=capsys)[1] == []
    (warning,) = check(tmp_path, many, capsys=capsys)[1]
    assert warning.startswith("15 documents have HTML tags")


def test_repeated_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Repeated texts are counted; those held out and trained on too, by split."""
    rows, warnings = check(tmp_path, STORIES * 2, capsys=capsys)
    assert rows["repeated"] == "150 documents; 0 more differ in case and spaces only"
    assert warnings[0] == "150 documents repeat an earlier one: keep one of each"
    assert len(warnings) == 3
    for warning, split in zip(warnings[1:], ("val", "test"), strict=True):
        both, total = warning.split(f" documents of {split} are also in train")[0].split(" of ")
        assert total == "45" and 20 < int(both) < 45


def test_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Documents that differ in case and spaces only."""
    changed = [text.upper().replace(" ", "  ") for text in STORIES[:3]]
    _, (warning,) = check(tmp_path, STORIES + changed, capsys=capsys)
    assert warning == "3 documents differ from an earlier one in case and spaces only"


@pytest.mark.parametrize(("separator", "setting"), [
    ("<|endoftext|>", "'data.separator=<|endoftext|>'"), ("***", "'data.separator=***'"),
    ("---", "data.separator=---"),
])  # fmt: skip
def test_separators(
    separator: str, setting: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """150 stories in one file: the separator between them is named, with the setting to add."""
    joined = f"\n{separator}\n".join(STORIES)
    _, warnings = check(tmp_path, [joined], "data.split=tail", capsys=capsys)
    assert f"{separator} occurs 149 times: if it separates documents, add {setting}" in warnings
    (tmp_path / "000.txt").unlink()
    _, warnings = check(tmp_path, STORIES, capsys=capsys)
    assert not warnings


def test_boilerplate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line under every document."""
    line = "Share this story with your friends, and read a thousand more of them on our page!"
    _, (warning,) = check(tmp_path, [f"{text}\n{line}" for text in STORIES], capsys=capsys)
    assert warning.endswith(f"% of the text, 150 times: {line[:60]}")


@pytest.mark.parametrize(("settings", "warning"), [
    (["train.max_steps=9000"], "training reads the text "),
    (["data.seq_len=3000"], "most documents are shorter than data.seq_len (3,000 tokens), half "),
    (["data.val_fraction=0.02"], "val has "),
    (["data.test_fraction=0.02"], "test has "),
    (["tokenizer.type=bpe", "tokenizer.vocab_size=4000", "data.test_fraction=0.45",
      "data.val_fraction=0.45"], "% of the pieces occur less than 10 times in train"),
])  # fmt: skip
def test_settings(
    settings: list[str], warning: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that do not fit the text; a run with `patience` may read it many times."""
    _, warnings = check(tmp_path, STORIES, *settings, capsys=capsys)
    assert any(warning in found for found in warnings)
    if "max_steps" in settings[0]:
        assert check(tmp_path, STORIES, *settings, "train.patience=3", capsys=capsys)[1] == []


def test_little_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, warnings = check(tmp_path, STORIES[:8], "data.seq_len=300", capsys=capsys)
    assert "fewer than 100 sequences of 300 tokens to train on" in warnings


def test_characters_that_training_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text of which every character has a piece."""
    rows, _ = check(tmp_path, STORIES, capsys=capsys)
    assert rows["spelled in bytes"].startswith("0.000% of the tokens; 0.000% of the tokens of val")


def test_documents_are_counted_as_the_user_counts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """200 documents, of which the split cuts two: 200, not 202, when they are tokenized too."""
    for number in range(200):
        (tmp_path / f"{number:03}.txt").write_text(tiny.english(300, seed=number))
    words = [*tiny.SETTINGS, f"data.path={tmp_path}", "--show", "0", "--no-time"]
    assert corpus.main(words) == 0
    printed = capsys.readouterr()
    assert "tokens of 200 documents:" in printed.err
    assert "documents        200, " in printed.out


def test_documents_that_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """The first, and others at equal distances; shortened if they are long."""
    words = [*SETTINGS, "data.source=stories", "data.stories=40", "data.path=null",
             "data.split=document", "data.val_fraction=0.05", "data.test_fraction=0.05",
             "--no-time"]  # fmt: skip
    assert corpus.main([*words, "--show", "4"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[-1] for line in printed.splitlines() if line.startswith("--- document")
            ] == ["story-0", "story-10", "story-20", "story-30"]  # fmt: skip
    assert STORIES[0] in printed or len(STORIES[0]) > corpus.EXCERPT
    assert corpus._excerpt(0, Document("name", "a\x1b[2J" * 999)).count("\ufffd") == 400


def test_how_long_it_would_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The time is measured with real updates, which leave no files; a model that is too large for
    any machine is not tried."""
    (tmp_path / "text.txt").write_text(tiny.english(20_000))
    run = tmp_path / "run"
    words = tiny.words(run, tmp_path / "text.txt")
    assert corpus.main([*words, "--show", "0"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("time ")]
    assert "seconds, on this machine as it is now (cpu): 10 steps of 0." in line
    assert "3 evaluations of" in line and not run.exists()
    assert corpus.main([*words, "model.dim=65536", "model.hidden_dim=200000"]) == 0
    assert "not measured: training needs " in capsys.readouterr().out


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus.main(["--show", "-1"]) == 2
    assert corpus.main(["data.source=files", "data.path=/nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
