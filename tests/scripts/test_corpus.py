"""scripts.corpus counts what is there and warns of what makes a training silently bad: each
warning has a text, or a setting, that calls it forth; a text that is as it should be, none."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import tiny

from configs.load import load_config
from data.documents import Document
from data.stories.telling import story
from scripts import corpus

STORIES = [story(0, index).text for index in range(150)]
SETTINGS = [*tiny.SETTINGS, "data.split=document", "data.val_fraction=0.15",
            "data.test_fraction=0.15", "data.seq_len=100"]  # fmt: skip
WINDOWS_1252 = "He said: caf\u00e9 \u201cna\u00efve\u201d.\n".encode().decode("cp1252", "ignore")


def check(
    folder: Path, texts: list[str], *more: str, capsys: pytest.CaptureFixture[str]
) -> tuple[dict[str, str], list[str]]:
    """Run the command over texts, a file each; returns its figures by name, and its warnings."""
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_bytes(text.encode())
    words = [*SETTINGS, f"data.path={folder}", *more]
    assert corpus.main([*words, "--show", "0", "--no-time"]) == 0
    lines = capsys.readouterr().out.splitlines()
    mark = "look at this"
    warnings = [line[17:] for line in lines if line.startswith(mark)]
    assert bool(warnings) != (lines[-1] == "nothing is amiss")
    return {line[:16].strip(): line[17:] for line in lines if not line.startswith(mark)}, warnings


def test_a_clean_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No warning; the figures are those that can be counted by hand."""
    figures, warnings = check(tmp_path, STORIES, capsys=capsys)
    assert warnings == []
    n_bytes = sum(len(text.encode()) for text in STORIES)
    assert figures["documents"].startswith(f"150, {n_bytes:,} bytes")
    assert figures["come twice"] == "0 documents; 0 but for case and spaces"
    assert 0.1 < float(figures["xz ratio"].split()[0]) < 0.5
    lengths = sorted(len(text) + 2 for text in STORIES)  # char: a token each, <s> and </s>
    assert figures["a document"].startswith(
        f"{lengths[75]:,} tokens (median), 10% below {lengths[15]:,}, 10% above {lengths[135]:,}; "
    )
    n_train = int(figures["train"].split()[0].replace(",", ""))
    assert n_train < sum(lengths) - 2 * corpus.FEW
    epochs = 10 * 4 * 100 / n_train
    assert figures["training"] == f"10 steps of 400 tokens: {epochs:.2f} epochs"


HTML = '<div class="x"><p>{}</p><br></div>'
FLAWED = {  # warning: what becomes of the first four stories
    "4 documents are empty": lambda text: " \n",
    "4 documents have U+FFFD": lambda text: text.replace("e", "\ufffd", 1),
    "4 documents have control characters": lambda text: text.replace(" ", "\x1b[", 1),
    "4 documents have UTF-8 read as Latin-1": lambda text: text + "\u00c3\u00a9",
    "4 documents have lines of 100,000 characters": lambda text: text + "ab" * 50_000,
}  # fmt: skip


@pytest.mark.parametrize("warning", FLAWED)
def test_flaws(warning: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is named, and nothing else but what follows from it."""
    flawed = [FLAWED[warning](text) for text in STORIES[:4]]
    if "empty" in warning:
        flawed = [" " * (1 + number) for number in range(4)]
    _, warnings = check(tmp_path, flawed + STORIES[4:], capsys=capsys)
    assert warnings[0].startswith(warning) or warnings[1].startswith(warning)
    assert len(warnings) <= 2 and (len(warnings) == 1 or "empty" in warning)


def test_misread_windows_1252() -> None:
    """The other way to misread; and what only looks like it: capitals of Portuguese and French."""
    assert corpus._MISREAD.search(WINDOWS_1252)
    honest = "NÃO! «AMANHÃ\u00bb, «LÂCHE», AMANHÃ… “AMANHÃ\u201d, château, “â”, 20 Â"
    assert not corpus._MISREAD.search(honest)


def test_html(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A page or two are borne, a tenth of the documents is not."""
    few, many = (
        [*map(HTML.format, STORIES[:n]), *STORIES[n:]] for n in (5, 15)
    )  # fmt: skip
    assert check(tmp_path, few, capsys=capsys)[1] == []
    (warning,) = check(tmp_path, many, capsys=capsys)[1]
    assert warning.startswith("15 documents have HTML tags")


def test_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts that come twice are counted; those held out and trained on, too, by split."""
    figures, warnings = check(tmp_path, STORIES * 2, capsys=capsys)
    assert figures["come twice"] == "150 documents; 0 but for case and spaces"
    assert warnings[0] == "150 documents come twice: leave one of each"
    assert len(warnings) == 3
    for warning, split in zip(warnings[1:], ("val", "test"), strict=True):
        both, of = warning.split(f" documents of {split} stand in training")[0].split(" of ")
        assert of == "45" and 20 < int(both) < 45


def test_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same but for case and spaces."""
    shouted = [text.upper().replace(" ", "  ") for text in STORIES[:3]]
    _, (warning,) = check(tmp_path, STORIES + shouted, capsys=capsys)
    assert warning == "3 documents differ from another in case and spaces only"


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
      "data.val_fraction=0.45"], "% of the pieces come less than 10 times in training"),
])  # fmt: skip
def test_settings(
    settings: list[str], warning: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What does not fit the text; a run that stops by itself may read it as often as it likes."""
    _, warnings = check(tmp_path, STORIES, *settings, capsys=capsys)
    assert any(warning in found for found in warnings)
    if "max_steps" in settings[0]:
        assert check(tmp_path, STORIES, *settings, "train.patience=3", capsys=capsys)[1] == []


def test_little_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, warnings = check(tmp_path, STORIES[:8], "data.seq_len=300", capsys=capsys)
    assert "fewer than 100 sequences of 300 tokens to train on" in warnings


def test_characters_that_training_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The vocabulary is made of the first characters of the text; the rest is spelled in bytes."""
    figures, _ = check(tmp_path, STORIES, capsys=capsys)
    assert figures["spelled in bytes"].startswith("0.000% of the tokens; 0.000% of val")
    cut = {split: corpus.Cut(np.zeros(400, int), [1000], [b""]) for split in corpus.SPLITS}
    cut["train"].counts[3 + 0xC3] = 30
    found = list(corpus._token_warnings(load_config(tiny.QUICKSTART), cut))
    assert any("3% of the tokens are bytes of characters" in warning for warning in found)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
def test_tokens_are_cut_at_their_documents(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Wherever the chunks end that are read at once."""
    monkeypatch.setattr(corpus, "CHUNK", chunk)
    documents = [[1, 5, 5, 2], [1, 2], [1, 6, 2], [1, 5, 5, 2]]
    tokens = np.array([id for document in documents for id in document], np.uint16)
    cut = corpus._cut(tokens, 8, 1)
    assert cut.counts.tolist() == [0, 4, 4, 0, 0, 4, 1, 0]
    assert cut.lengths == [4, 2, 3, 4]
    assert cut.digests == [
        hashlib.blake2b(np.array(document, np.uint16).tobytes(), digest_size=12).digest()
        for document in documents
    ]
    assert corpus._cut(tokens[:0], 8, 1).lengths == []


def test_documents_that_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """From all parts of the text, the first among them; whole, if they are not too long."""
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
    """A number of seconds from real updates, and no trace of them; a model that is too large for
    any machine is not tried."""
    (tmp_path / "text.txt").write_text(tiny.english(20_000))
    run = tmp_path / "run"
    words = tiny.words(run, tmp_path / "text.txt")
    assert corpus.main([*words, "--show", "0"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("time ")]
    assert "seconds, on this machine as it is now (cpu): 10 steps of 0." in line
    assert "3 evaluations of" in line and not run.exists()
    assert corpus.main([*words, "model.dim=65536", "model.hidden_dim=200000"]) == 0
    assert "not measured: training needs some " in capsys.readouterr().out


def test_silly_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus.main(["--show", "-1"]) == 2
    assert corpus.main(["data.source=files", "data.path=/nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
