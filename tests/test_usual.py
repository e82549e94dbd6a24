"""usual.py: where a validation loss lies, and what is advised. By made-up curves and real runs."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import measured, start, words

import usual
from configs import band
from configs.band import deciding
from configs.load import load_config
from data.text import open_text
from training.run_folder import find
from usual import Marks, UsualLoss

MARKS = Marks(uniform=8.3, unigram=5.8, xz=3.3, xz_bpb=1.1)
RUN = UsualLoss(
    MARKS, {}, "no config has a band", warm=120, last=1500, rates="train.lr", is_pretrained=False
)
HEALTHY = {100: 7.0, 500: 1.1, 1000: 0.8, 1500: 0.7}


def curve(val: dict[int, float], train: dict[int, float] | None = None) -> list[dict[str, Any]]:
    """Return lines of metrics: at each step the training loss, by default that of val, then val."""
    lines = []
    for step, loss in val.items():
        lines.append({"step": step, "train_loss": (train or val)[step]})
        lines.append({"step": step, "val_loss": loss})
    return lines


@pytest.mark.parametrize(
    ("loss", "place"),
    [
        (9.0, "above ln V, 8.30"),
        (6.0, "below ln V, 8.30"),
        (5.0, "below the unigram entropy, 5.80"),
        (1.1, "below xz, 3.30"),
    ],
)
def test_the_lowest_mark_that_was_passed_is_named(loss: float, place: str) -> None:
    """A model could be said to be above a mark that it has passed."""
    assert RUN.place(500, loss) == place


def test_xz_may_need_more_than_the_unigram_entropy() -> None:
    """Texts without repeated strings, such as letters drawn at random."""
    run = replace(RUN, marks=replace(MARKS, xz=6.5))
    assert run.place(500, 6.0) == "below xz, 6.50"
    assert run.place(500, 5.0) == "below the unigram entropy, 5.80"


def test_the_band_of_this_step_counts() -> None:
    """A loss could be compared with the band of another step, or with marks that say less."""
    run = replace(RUN, band={500: (1.0, 1.2), 1500: (0.6, 0.75)})
    assert run.place(500, 1.1) == "usual: 1.0000 to 1.2000"
    assert run.place(1500, 1.1) == "above the usual 0.6000 to 0.7500"
    assert run.place(1500, 0.5) == "below the usual 0.6000 to 0.7500"
    assert run.place(1000, 1.1) == "below xz, 3.30"


ADVISED = {
    "a healthy run": (HEALTHY, None, None),
    "drills and warm-up are not over": ({100: 8.8}, None, None),
    "few steps after the warm-up": ({200: 7.0}, None, None),
    "no context": ({400: 5.9}, None, "not clearly below the unigram entropy: the model hardly"),
    "no context at the end of a short run": ({1500: 8.2}, None, "Raise train.lr, or train.max"),
    "thrown, still high": ({150: 60.0}, None, "too high. Lower train.lr"),
    "thrown, falling again": (
        {150: 7.0, 500: 6.1, 1000: 6.0, 1500: 5.9},
        {150: 17.0, 500: 6.1, 1000: 6.0, 1500: 5.9},
        "far above ln V, which is worse than guessing: the learning rate is too high. Lower train",
    ),
    "another language in val": (
        {500: 9.9, 1000: 9.5}, {500: 2.0, 1000: 1.5}, "the validation text is unlike",
    ),
    "another kind of text in val": ({500: 6.0}, {500: 2.0}, "the validation text is unlike"),
    "another language, early": ({150: 9.9}, {150: 7.0}, "the validation text is unlike"),
    "memorized": (
        {400: 2.0, 800: 1.5, 1200: 1.7, 1500: 1.9},
        {400: 1.9, 800: 1.2, 1200: 0.8, 1500: 0.4},
        "risen since step 800 while the training loss fell: the model memorizes the text",
    ),
    "one higher evaluation is noise": (
        {400: 2.0, 800: 1.5, 1200: 1.7}, {400: 1.9, 800: 1.2, 1200: 0.8}, None,
    ),
    "both losses rise": ({400: 2.0, 800: 1.5, 1200: 1.7, 1500: 1.9}, None, None),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVISED)
def test_advice(name: str) -> None:
    """Advice could be missing, wrong, or given to a healthy run."""
    val, train, expected = ADVISED[name]
    advice = RUN.advice(curve(val, train))
    assert advice is None if expected is None else advice and expected in advice


def test_drills_are_no_training_loss_of_the_text() -> None:
    """Their loss is higher, so the training loss would seem to have fallen."""
    lines = curve({400: 1.5, 800: 1.6, 1200: 1.7}, {400: 9.0, 800: 1.2, 1200: 1.3})
    assert "memorizes" in str(RUN.advice(lines))
    lines[0]["drill_share"] = 1.0
    lines.insert(1, {"step": 390, "train_loss": 1.1, "drill_share": 0.25})
    assert RUN.advice(lines) is None


def test_pretrained_weights_may_not_fit() -> None:
    """The learning rate alone would be blamed."""
    advice = replace(RUN, is_pretrained=True).advice(curve({150: 60.0}))
    assert advice and "train.init_from do not fit this text. Lower train.lr" in advice


def test_outside_the_band() -> None:
    """A leak of later tokens lowers the loss, and would look like success."""
    run = replace(RUN, band={500: (1.0, 1.2)})
    assert run.advice(curve({500: 1.1})) is None
    below, above = run.advice(curve({500: 0.1})), run.advice(curve({500: 1.3}))
    assert below and "check that no token sees a later one" in below
    assert above and "train.precision=fp32" in above
    assert all(advice and "scripts.verify" in advice for advice in (below, above))


def test_the_same_advice_is_given_once() -> None:
    """A long run would print it at every evaluation, and hide what changes."""
    lines = curve({400: 5.9, 800: 5.8, 1000: 1.5, 1200: 5.9})
    given = [bool(RUN.verdict(lines[:end]).advice) for end in (2, 4, 6, 8)]
    assert given == [True, False, False, True]


# ------------------------------------------------------------------- real runs

UNKNOWN = "usual      unknown: "


@pytest.mark.parametrize(
    ("factor", "advice"),
    [
        (1, "Raise"),
        (100, "the learning rate is too high"),
        (0.001, "hardly uses the context yet. Raise"),
    ],
)
def test_a_silly_learning_rate(
    factor: float, advice: str, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The thresholds could miss the real curves. The ten steps of the tiny run are too few."""
    rates = [f"train.lr={0.02 * factor}", f"train.adamw_lr={0.003 * factor}"]
    assert start(tmp_path / "run", text, *rates) == 0
    out, printed = capsys.readouterr()
    assert UNKNOWN in out
    (line,) = [line for line in printed.splitlines() if line.startswith("advice: ")]
    assert advice in line and "train.lr and train.adamw_lr" in line
    places = [line for line in printed.splitlines() if re.match(r"step \d+: val_loss", line)]
    assert len(places) == 3 and all(" ln V, " in place for place in places)


def test_the_marks_of_a_text(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """V could be the configured size in place of the real one, xz that of another text."""
    assert start(tmp_path / "run", text, "train.max_steps=1", "train.warmup_steps=0") == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("marks")]
    numbers = [float(word.strip("(,")) for word in row.split() if word[-2:-1].isdigit()
               or word[-1].isdigit()]  # fmt: skip
    content = text.read_bytes()
    letters = [content.count(byte) / len(content) for byte in set(content)]
    uniform, unigram, xz, xz_bpb = numbers
    first = measured(tmp_path / "run")[0]["train_loss"]
    assert uniform == pytest.approx(first, abs=0.1)  # an untrained model guesses
    # <s> and </s> add little
    assert unigram == pytest.approx(-sum(p * math.log(p) for p in letters), abs=0.02)
    assert xz == pytest.approx(xz_bpb * math.log(2), abs=0.01)  # a byte is a token here


def test_marks_are_measured_once(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start would take a second longer; a torn or foreign file would stop it."""
    monkeypatch.setenv("BREEZE_CACHE", str(tmp_path))
    line = words(tmp_path / "run", text)
    config = load_config(line[0], line[1:])
    tokenizer, corpus = open_text(config.data, config.tokenizer)
    marks = usual.marks_of(corpus, tokenizer)
    (file,) = (tmp_path / "marks").iterdir()
    for content in (b"", b"[1]", b'{"unigram": 1}'):
        file.write_bytes(content)
        assert usual.marks_of(corpus, tokenizer) == marks
    monkeypatch.setattr(usual, "xz_size", lambda *_: pytest.fail("measured again"))
    assert usual.marks_of(corpus, tokenizer) == marks
    monkeypatch.setattr(usual, "COMPRESSED", 1000)
    with pytest.raises(pytest.fail.Exception):
        usual.marks_of(corpus, tokenizer)


def test_training_prints_where_the_loss_lies(
    finished: Path, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The band could be that of other steps, or never be found by a real run."""
    losses = {line["step"]: line["val_loss"] for line in measured(finished) if "val_loss" in line}
    line = words(tmp_path / "run", text)
    content = {
        "settings": deciding(load_config(line[0], line[1:])),
        "data_hash": find(finished).metadata["data_hash"],
        "runs": [{}, {}, {}],
        "steps": {
            4: {"low": losses[4] - 1, "high": losses[4] + 1},
            8: {"low": losses[8] + 1, "high": losses[8] + 2},
            10: {"low": losses[10] - 2, "high": losses[10] - 1},
        },
    }
    (tmp_path / "tiny.json").write_text(json.dumps(content))
    monkeypatch.setattr(band, "BANDS", tmp_path)
    assert start(tmp_path / "run", text, "seed=3", "train.lr=0.02") == 0
    out, printed = capsys.readouterr()
    assert " at step 10 (3 runs of configs/tiny.yaml)" in out
    shown = [line for line in printed.splitlines() if ": val_loss " in line or "advice" in line]
    expected = ["(usual: ", "(below the usual ", "advice: fewer than 1 in 100 such runs lie below",
                "(above the usual ", "advice: fewer than 1 in 100 such runs lie above"]  # fmt: skip
    assert len(shown) == 5
    assert all(part in line for part, line in zip(expected, shown, strict=True)), shown
