"""scripts/verify.py: all checks run, reductions are reported, a failed check is exit code 1."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import reference
import torch

from checks import CHECKS, run_checks
from checks.models import random_model
from inference.trained import open_trained
from model import decoding, kernels, native
from model.config import ModelConfig
from model.native.build import refusal
from model.transformer import Transformer
from scripts import verify

ROOT = Path(__file__).parents[2]
SMALL = [
    str(ROOT / "configs/quickstart.yaml"), "data.seq_len=16", "tokenizer.vocab_size=61",
    "model.dim=16", "model.hidden_dim=24", "model.n_layers=3", "model.sliding_window=3",
]  # fmt: skip


def report(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run the command; returns what it printed."""
    capsys.readouterr()
    assert verify.main(list(words)) == code
    return capsys.readouterr().out


def verdicts(text: str) -> dict[str, str]:
    """The verdict of each check, by name."""
    found = (re.match(r"(holds|FAILS|-) +([a-z]+) ", line) for line in text.splitlines())
    return {match[2]: match[1] for match in found if match}


def expected_verdicts(inapplicable: set[str], head_dim: int) -> dict[str, str]:
    """All checks hold but those that do not apply, to the model or to this machine."""
    if head_dim % native.LANES or native.training_refusal():
        inapplicable = inapplicable | {"mask", "rounding"}
    if refusal("decode", bf16=False):
        inapplicable = inapplicable | {"step"}
    return {name: "-" if name in inapplicable else "holds" for name in CHECKS}


def bars(text: str) -> list[list[str]]:
    """Of each layer: the bar alone, its count, the bar through the stack, its count."""
    lines = text.partition("REACH")[2].splitlines()
    return [line.split()[2:] for line in lines if line.startswith("layer")]


def test_a_trained_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A check that is left out, or random weights in place of the trained ones."""
    text = report(capsys, str(finished))
    assert verdicts(text) == expected_verdicts({"sinks"}, head_dim=16)
    size = sum(weight.numel() for weight in open_trained(finished).model.parameters())
    assert f"{size:,} weights, 2 layers with windows 2 x 8; 2 query heads, 1 key" in text
    assert "random" not in text and "all checks that apply hold (20 checks" in text
    assert max(map(len, text.splitlines()[1:])) <= 100  # the first is the checkpoint's path


@pytest.mark.parametrize(
    ("settings", "described", "inapplicable"),
    [
        (["model.sliding_window=[5, null, 3]", "model.attention_sinks=2"],
         "windows 1 x 5, 1 x full, 1 x 3 and 2 sinks", set()),
        (["model.sliding_window=1"], "windows 3 x 1;", {"sinks"}),
        (["model.sliding_window=[1, null]", "model.attention_sinks=3"],
         "windows 2 x 1, 1 x full and 3 sinks", set()),
        (["model.sliding_window=24"], "so a window of 24 hides nothing in training", {"sinks"}),
        (["model.sliding_window=null"], "windows 3 x full;", {"sinks"}),
        (["model.sliding_window=[4, 9]", "model.sink_token=true", "model.sink_logits=true"],
         "windows 2 x 4, 1 x 9 and 1 sinks", set()),
    ],
)  # fmt: skip
def test_any_config_holds(
    settings: list[str], described: str, inapplicable: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A stack of layers that a check refuses, or mistakes for another."""
    text = report(capsys, *SMALL, *settings)
    assert verdicts(text) == expected_verdicts(inapplicable, head_dim=4)
    assert text.count("native attention needs heads of a multiple of 16 numbers") == 2
    assert described in text and "random weights" in text


def test_a_bug_is_exit_code_1_and_visible_in_the_picture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A window without effect: a report that reads only the config would not notice."""
    monkeypatch.setattr(kernels, "choose", lambda *_, **__: ("full", "the fastest"))
    text = report(capsys, *SMALL, "--only", "rule", "logits", "windows", code=1)
    assert verdicts(text) == {"rule": "holds", "logits": "FAILS", "windows": "FAILS"}
    assert "FAILED: logits, windows (3 checks" in text
    first = next(line for line in text.splitlines() if line.startswith("layer 0"))
    assert first.count("NOT 3") == 2 and "." not in first


def test_a_model_that_raises_has_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback in place of a verdict, and of all checks that follow."""

    def broken(*_: Any, **__: Any) -> None:
        raise IndexError("past the table's end")

    monkeypatch.setitem(kernels.KERNELS, "blocked", broken)
    model = random_model(ModelConfig(vocab_size=61, dim=16, sliding_window=3), 0)
    found = {check.name: check for check in run_checks(model, ["rule", "kernels"])}
    assert found["rule"].holds and not found["kernels"].holds
    assert found["kernels"].note == "IndexError: past the table's end"
    assert "FAILS  kernels" in verify._line(found["kernels"])


def test_the_model_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Checks change windows, write sink logits, cast to other dtypes: only in copies."""
    model = random_model(ModelConfig(vocab_size=61, dim=16, n_layers=2, sink_logits=True), 0)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    shape, threads = model.config, torch.get_num_threads()
    assert all(check.holds for check in run_checks(model, ["windows", "sinks", "precision"]))
    assert model.config == shape and all(p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(before[name], held) for name, held in model.state_dict().items())
    report(capsys, *SMALL, "--only", "rule")
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("reason", [None, "no C++ compiler was found (g++, clang++)"])
def test_native_checks_hold_or_say_why_not(
    reason: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine without a compiler could fail, or pass without a word."""
    if reason:
        monkeypatch.setattr(native, "training_refusal", lambda: reason)
        monkeypatch.setattr(decoding.build, "refusal", lambda *_, **__: reason)
    elif found := native.training_refusal():
        pytest.skip(found)
    names = ["mask", "rounding", "step"]
    text = report(capsys, *SMALL, "model.head_dim=16", "--only", *names)
    assert verdicts(text) == dict.fromkeys(names, "-" if reason else "holds")
    assert not reason or text.count(reason) == len(names)


@pytest.mark.parametrize("window", ["[5, null, 3]", "2", "[1, 4]"])
@pytest.mark.parametrize("sinks", [0, 2])
def test_the_measured_reach_is_the_loops(
    window: str, sinks: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture drawn from the config instead of the model, or shifted by a token."""
    text = report(capsys, *SMALL, f"model.sliding_window={window}",
                  f"model.attention_sinks={sinks}", "--only", "rule")  # fmt: skip
    pattern = {"[5, null, 3]": [5, None, 3], "2": [2, 2, 2], "[1, 4]": [1, 4, 1]}[window]
    drawn = bars(text)
    length = len(drawn[0][0])
    assert "a column is 1 token" in text and f"which of {length} tokens" in text
    for depth, (alone, n_alone, through, n_through) in enumerate(drawn):
        for bar, count, windows in (
            (alone, n_alone, pattern[depth : depth + 1]),
            (through, n_through, pattern[: depth + 1]),
        ):
            sources = reference.depends(windows, sinks, length)[-1]
            assert bar == "".join("#" if j in sources else "." for j in range(length))
            assert int(count) == len(sources)


def test_masks_are_drawn_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    """A picture of another mask than the rule's."""
    text = report(capsys, *SMALL, "model.sliding_window=[5, null]", "--only", "rule")
    assert "(a cell is a token)" in text
    start = next(
        n for n, line in enumerate(text.splitlines()) if line.startswith("W = 5 in 2 of 3")
    )
    for i, line in enumerate(text.splitlines()[start + 1 : start + 17]):
        for drawn, window in zip(line.split("   "), (5, None), strict=True):
            seen = (reference.visible(i, j, window) for j in range(16))
            assert drawn == " ".join("#" if yes else "." for yes in seen)


def test_a_wide_mask_is_drawn_smaller(capsys: pytest.CaptureFixture[str]) -> None:
    """A picture as large as its text, or a scale that is not printed."""
    text = report(capsys, *SMALL, "model.sliding_window=64", "--only", "rule")
    assert "(a cell is 8 tokens, rounded)" in text
    last = text.partition("W = 64 in 3 of 3 layers")[2].splitlines()[16]
    assert last == ". " * 8 + " ".join("#" * 8)


def test_a_large_model_is_reduced_and_its_settings_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seven billion weights in float64, or a small model checked under a large one's name."""
    path = str(ROOT / "configs/mistral-7b.yaml")
    more = ["model.sliding_window=[4096, null, 1024]", "model.attention_sinks=6"]
    text = report(capsys, path, *more, "--only", "rule", "reach")
    assert "4 layers with windows 2 x 64, 1 x full, 1 x 16 and 4 sinks; 8 query heads," in text
    listed = " ".join(text.partition("smaller settings:\n")[2].partition("\n\n")[0].split())
    assert listed.split("; ") == [
        "sliding_window 4,096, full, 1,024 -> 64, full, 16",
        "attention_sinks 6 -> 4",
        "dim 4,096 -> 128",
        "hidden_dim 14,336 -> 256",
        "vocab_size 32,000 -> 512",
        "n_layers 32 -> 4",
        "n_heads 32 -> 8",
        "n_kv_heads 8 -> 2",
    ]
    assert "too large" not in report(capsys, *SMALL, "--only", "rule")


@pytest.mark.parametrize("long", ["model.sliding_window=700", "model.attention_sinks=900"])
def test_a_wide_window_of_a_small_model(long: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts of ten windows that take minutes."""
    text = report(capsys, *SMALL, long, "--only", "rule")
    name, _, size = long.removeprefix("model.").partition("=")
    assert f"{name} {size} -> {64 if name == 'sliding_window' else 4}" in text
    with pytest.raises(ValueError, match="too wide to check"):
        list(
            run_checks(Transformer(ModelConfig(vocab_size=9, dim=16, sliding_window=700)), ["rule"])
        )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.yaml"], "no such file"),
        (["runs/none"], "there is no run"),
        ([*SMALL, "model.sliding_window=0"], "model.sliding_window is 0"),
        ([*SMALL, "--only", "luck"], "there is no check 'luck'"),
        ([*SMALL, "--seed", "-1"], "--seed is -1"),
        ([str(ROOT), "model.dim=8"], "is not a config, its settings are fixed"),
    ],
)
def test_a_mistake_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback for a typo, or checks of a model that was not named."""
    capsys.readouterr()
    assert verify.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1


def test_help_begins_with_what_it_shows_and_ends_with_an_example() -> None:
    """A command that has to be read to be used."""
    command = [sys.executable, "-m", "scripts.verify", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Check that a model obeys the rule of its window" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("example: python -m scripts.verify ")
