"""`experiments.bench`: contenders do the same work, wrong ones are refused, tables say what was
measured. Tiny shapes, one round; no time is judged."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from errors import UserError
from experiments import bench
from experiments.benchmarks import (
    contenders,
    decode,
    every,
    llama,
    lora,
    machine,
    peer,
    picture,
    prompt,
    start,
    timing,
    train,
)  # fmt: skip
from experiments.benchmarks.benchmark import table
from experiments.benchmarks.contenders import Shape
from model import ModelConfig, generation

SHAPE = Shape("A", ModelConfig(33, 32, 2, 2, 1, sliding_window=8), 32, 2, goal=2.5)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make shapes, texts and products tiny."""
    monkeypatch.setattr(train, "SHAPES", {"A": SHAPE})
    monkeypatch.setattr(train, "GROWTH_LENGTHS", [8, 16])
    monkeypatch.setattr(decode, "MODELS", {"2.4M": SHAPE.config})
    monkeypatch.setattr(decode, "CAPACITY", 40)
    monkeypatch.setattr(decode, "N_FIRST", 9)
    monkeypatch.setattr(machine, "PRODUCT_SIZE", 64)


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no process for the memory of each contender."""
    monkeypatch.setattr(contenders, "peaks", lambda name, shapes: [10**6] * len(shapes))


def rows_of(text: str) -> list[list[str]]:
    """Return the cells of all tables in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_contenders_take_turns() -> None:
    """All rounds of one contender, then all of another: a slow minute would hit only one."""
    calls = []

    def reading(name: str, seconds: float) -> Any:
        return lambda: calls.append(name) or seconds

    found = timing.interleaved({"a": reading("a", 1.0), "b": reading("b", 2.0)}, 2)
    assert calls == ["a", "b"] * 3  # the first round is the warm-up
    assert found == {"a": [1.0, 1.0], "b": [2.0, 2.0]}


def test_tables_are_markdown() -> None:
    """A table that no page could show."""
    lines = list(table(["name", "n"], [["a", "1"], ["bcdef", "20"]]))
    assert lines == ["| name  |  n |", "|-------|---:|", "| a     |  1 |", "| bcdef | 20 |"]


def test_training_is_measured_beside_transformers(
    no_memory: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ratio of other numbers than those shown, or a share of another product."""
    pytest.importorskip("transformers")
    path = tmp_path / "train.json"
    assert bench.main(["train", "--rounds", "1", "--growth", "--json", str(path)]) == 0
    (shape,) = json.loads(path.read_text())["shapes"]
    speeds = {each["name"]: each["tokens_per_s"] for each in shape["contenders"]}
    assert speeds.keys() >= {contenders.BREEZE, contenders.DEFAULT}
    best = max(speed for name, speed in speeds.items() if name.startswith("transformers"))
    rate = max(shape["product_flops"].values())
    for each in shape["contenders"]:
        (seconds,) = each["seconds"]
        assert each["tokens_per_s"] == pytest.approx(64 / seconds)
        assert each["ratio"] == pytest.approx(each["tokens_per_s"] / best)
        share = each["tokens_per_s"] * shape["flops_per_token"] / rate
        assert each["product_share"] == pytest.approx(share)
        # What 100 % of the product rate would give, from any contender's share and ratio.
        assert shape["limit"] == pytest.approx(each["ratio"] / each["product_share"])
    out = capsys.readouterr().out
    (breeze,) = [row for row in rows_of(out) if row[1:2] == [contenders.BREEZE]]
    assert breeze[2] == f"{speeds[contenders.BREEZE]:,.0f}" and breeze[4] == "2.5x"
    assert "the time of a step ~ T^" in out and "Checked before, float32" in out


def test_adapters_are_measured_beside_all_weights(
    no_memory: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A ratio of other numbers than those shown; or adapters that change the function are timed."""
    monkeypatch.setattr(lora, "SHAPES", (SHAPE,))
    path = tmp_path / "lora.json"
    assert bench.main(["lora", "--rounds", "1", "--json", str(path)]) == 0
    times = json.loads(path.read_text())["seconds"][SHAPE.name]
    (full,), (adapted,) = times[contenders.BREEZE], times[contenders.LORA]
    (row,) = [row for row in rows_of(capsys.readouterr().out) if "adapters of rank 8" in row]
    assert row[3] == f"{SHAPE.tokens / adapted:,.0f}" and row[4] == f"{full / adapted:.2f}x"

    def changed(*arguments: Any) -> contenders.Contender:
        built = build(*arguments)
        if built.name == contenders.LORA:
            built.model.set_windows(1)
        return built

    build = contenders.build
    monkeypatch.setattr(contenders, "build", changed)
    assert bench.main(["lora", "--rounds", "1"]) == 1
    assert "adapters change the model's function" in capsys.readouterr().err


def wider(contender: contenders.Contender) -> None:
    """One more key in each window."""
    if hasattr(contender.model, "set_windows"):
        contender.model.set_windows(9)
    else:
        for layer in contender.model.model.layers:
            layer.self_attn.sliding_window = 9
        contender.model.config.sliding_window = 9


def half(contender: contenders.Contender) -> None:
    """A loss of half the size, and so half a gradient."""
    loss = contender.loss
    contender.loss = lambda: 0.5 * loss()


def partial(contender: contenders.Contender) -> None:
    """No gradient for one matrix."""
    loss, weight = contender.loss, next(p for p in contender.model.parameters() if p.dim() == 2)

    def frozen() -> torch.Tensor:
        weight.requires_grad_(False)
        try:
            return loss()
        finally:
            weight.requires_grad_(True)

    contender.loss = frozen


@pytest.mark.parametrize("name", [contenders.BREEZE, contenders.DEFAULT])
@pytest.mark.parametrize(
    "bug, what",
    [(wider, "logits"), (half, "loss"), (partial, "gradient")],
    ids=["window", "loss", "gradient"],
)
def test_a_contender_that_does_other_work_has_no_speed(
    name: str, bug: Any, what: str, no_memory: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A contender that is fast because it computes less."""
    pytest.importorskip("transformers")
    original = contenders.build

    def broken(contender: str, shape: Shape, *rest: Any) -> contenders.Contender:
        built = original(contender, shape, *rest)
        if contender == name:
            bug(built)
        return built

    monkeypatch.setattr(contenders, "build", broken)
    monkeypatch.setattr(train, "interleaved", lambda *_: pytest.fail("measured"))
    assert bench.main(["train", "--rounds", "1"]) == 1
    printed = capsys.readouterr()
    assert f"wrong result: {name}, shape A: its {what} differs" in printed.err
    assert printed.out == ""


def test_the_peak_of_memory_grows_with_the_batch() -> None:
    """A peak of the imports, or of an earlier shape."""
    large = Shape("L", SHAPE.config, 512, 64)
    peaks = contenders.peaks(contenders.PLAIN, [SHAPE, large, SHAPE])
    assert peaks[1] > 10e6 and max(peaks[0], peaks[2]) < peaks[1] / 4


def test_decoding_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Speeds of another number of tokens, or a ratio to another library."""
    path = tmp_path / "decode.json"
    words = ["--rounds", "1", "--batches", "1", "3", "--tokens", "12"]
    assert bench.main(["decode", *words, "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    for row in result["rows"]:
        (seconds,) = row["seconds"]
        expected = row["batch_size"] * row["n_tokens"] / seconds
        assert row["tokens_per_s"] == pytest.approx(expected)
        assert row["n_tokens"] == 12 or row["contender"] == decode.LLAMA
        if row["contender"] == decode.TRANSFORMERS:
            assert row["ratio"] == 1
    assert [row["n_tokens"] for row in result["first"]] == [9, 9]
    found = [(row["batch_size"], row["contender"]) for row in result["rows"]]
    assert {(1, "Breeze"), (3, "Breeze")} <= set(found)
    out = capsys.readouterr().out
    assert "| 2.4M  | 1     | full attention" in out
    if decode.native_refusal() is None:
        assert (3, "Breeze, int8 weights") in found
        (rounding,) = result["rounding"]
        assert 0 < rounding["difference"] < 0.1
        assert f"logits differ by {rounding['difference']:.2%}" in out
    assert (llama.MISSING in out) != llama.has_llama()


def test_reading_a_prompt_is_measured(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Speeds of another number of tokens, or of look-up that is on, or off, in both columns."""
    path, found = tmp_path / "prompt.json", []
    generate = generation.generate

    def counted(*arguments: Any, look_up: bool, **options: Any) -> Any:
        found.append((look_up, arguments[2]))
        return generate(*arguments, look_up=look_up, **options)

    monkeypatch.setattr("model.generate", counted)
    monkeypatch.setattr(prompt, "N_TOKENS", 20)
    words = ["--rounds", "1", "--length", "30", "--json", str(path)]
    assert bench.main(["prompt", str(finished), *words]) == 0
    result = json.loads(path.read_text())
    for row in result["rows"]:
        assert row["tokens_per_s"] == pytest.approx(30 / row["seconds"][0])
    assert [row["n_equal"] for row in result["lookup"]] == [4, 4]
    assert found.count((True, 20)) == found.count((False, 20)) == 2 * 3 * 4  # samplings, passes
    assert "4 of 4" in capsys.readouterr().out
    assert bench.main(["prompt", "--rounds", "1", "--length", "9"]) == 0
    assert "add RUN" in capsys.readouterr().out


def test_a_text_that_is_not_the_most_likely_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A decoder that is fast because it writes something else."""
    original = generation.choose

    def second(logits: torch.Tensor, *rest: Any) -> torch.Tensor:
        return original(logits.scatter(1, logits.argmax(1, keepdim=True), -torch.inf), *rest)

    monkeypatch.setattr(generation, "choose", second)
    monkeypatch.setattr(decode, "interleaved", lambda *_: pytest.fail("measured"))
    assert bench.main(["decode", "--batches", "1", "--tokens", "6"]) == 1
    assert "wrong result: Breeze, 2.4M, batch 1: wrote a token" in capsys.readouterr().err


def test_missing_libraries_are_left_out(
    no_memory: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback for those who did not install transformers."""
    monkeypatch.setattr(peer, "find_spec", lambda name: None)
    monkeypatch.setattr(train, "has_transformers", lambda: False)
    monkeypatch.setattr(contenders, "has_transformers", lambda: False)
    assert bench.main(["train", "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert peer.MISSING in out and "transformers, bf16" not in out


def test_learning_is_measured_from_the_start_of_the_process(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clock that starts after the imports, or a mark that no evaluation reached."""
    path, run = tmp_path / "learn.json", tmp_path / "run"
    words = [*tiny.words(run, text), "--mark", "9", "0.001", "--json", str(path)]
    assert bench.main(["learn", *words]) == 0
    result = json.loads(path.read_text())
    metrics = [line for line in tiny.measured(run) if "val_loss" in line]
    assert [(p["step"], p["val_loss"]) for p in result["points"]] == [
        (line["step"], line["val_loss"]) for line in metrics
    ]
    assert [p["step"] for p in result["points"]] == [4, 8, 10]
    seconds = [p["seconds"] for p in result["points"]]
    assert seconds == sorted(seconds) and all(
        p["seconds"] > p["stepping_s"] for p in result["points"]
    )
    assert result["marks"][0] == {"loss": 9, "seconds": seconds[0], "step": 4}
    assert result["marks"][1] == {"loss": 0.001, "seconds": None, "step": None}
    assert "mark 0.001 nats per token was not reached" in capsys.readouterr().out


def test_a_training_that_fails_is_reported(
    text: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty table, or a traceback: here the folder already holds a run."""
    assert bench.main(["learn", *tiny.words(run, text)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "already holds a run" in error


def test_starting_is_measured(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that fails is not fast."""

    def once(readings: Any, *_: Any) -> Any:  # without a warm-up, which takes as long
        return {name: [reading()] for name, reading in readings.items()}

    monkeypatch.setattr(start, "interleaved", once)
    words = [word for word in tiny.words(tmp_path, text) if not word.startswith("run_dir=")]
    assert bench.main(["start", *words, "--rounds", "1"]) == 0
    rows = rows_of(capsys.readouterr().out)[2:]
    assert len(rows) == 5 and rows[0][0] == "train.py, to the first step" and rows[0][4] == "8"
    assert all(float(row[1]) > 0 for row in rows)
    with pytest.raises(UserError, match="no_such_script"):
        start._to_the_end(0, "-m", "scripts.no_such_script")


def test_all_runs_each_with_its_own_defaults(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option of one benchmark that another does not have."""
    seen: dict[str, dict[str, Any]] = {}
    parts = ("train", "decode", "prompt", "start", "attention", "learn")
    for name in parts:
        module = getattr(every, name)
        monkeypatch.setattr(
            module, "measure", lambda options, name=name: seen.update({name: vars(options)})
        )
        monkeypatch.setattr(module, "report", lambda result: iter(["measured"]))
    assert bench.main(["all", "--rounds", "2", "--compiled"]) == 0
    assert every.NO_TEXT in capsys.readouterr().out
    assert list(seen) == ["train", "decode", "prompt", "start", "attention"]
    assert seen["train"] == {"shapes": ["A"], "compiled": True, "growth": False, "rounds": 2}
    assert seen["attention"]["lengths"] == every.LENGTHS and seen["decode"]["rounds"] == 2
    assert bench.main(["all", "data.path=README.md"]) == 0
    assert seen["learn"]["words"] == ["data.path=README.md"]


def test_pictures_are_drawn(no_memory: None, tmp_path: Path) -> None:
    """A picture without its goals, or a crash after minutes of measuring."""
    pytest.importorskip(
        "matplotlib", reason="matplotlib is not installed: pip install -e '.[plots]'"
    )
    path = tmp_path / "bench.png"
    assert bench.main(["train", "--rounds", "1", "--png", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    picture.write_png(str(path), [picture.curves("loss", "s", {"a": ([1, 2], [3, 2])}, [2.5])])
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "the following arguments are required: NAME"),
        (["fly"], "invalid choice: 'fly'"),
        (["train", "--rounds", "0"], "--rounds is 0: give 1 or more"),
        (["train", "--shapes", "Z"], "invalid choice: 'Z'"),
        (["decode", "--batches", "0"], "--batches [0]: give numbers from 1"),
        (["prompt", "--length", "0"], "--length 0: give a number from 1"),
        (["decode", "--tokens", "0"], "--tokens 0: give numbers from 1"),
        (["learn"], "a text is needed: add data.path=FILE"),
        (["all", "train.lr=0.01"], "a text is needed"),
        (["learn", "data.path=README.md", "--mark", "-1"], "--mark -1: give losses above 0"),
        (["learn", "train.max_step=3"], "train.max_steps"),
        (["start", "train.max_steps=x"], "train.max_steps"),
        (["all", "--rounds", "0"], "--rounds is 0: give 1 or more"),
        (["train", "--json", "/nowhere/a.json"], "there is no folder /nowhere"),
    ],
)
def test_nonsense_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback for a typo, after minutes of measuring."""
    assert bench.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_picture_without_matplotlib_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Minutes of measuring for a picture that cannot be drawn."""
    monkeypatch.setattr(picture, "find_spec", lambda name: None)
    assert bench.main(["train", "--png", "a.png"]) == 2
    assert capsys.readouterr().err == ("error: --png needs matplotlib: pip install -e '.[plots]'\n")


@pytest.mark.parametrize("name", bench.BENCHMARKS)
def test_every_help_ends_in_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that has to be read to be used."""
    with pytest.raises(SystemExit):
        bench.main([name, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"example: python -m experiments.bench {name}") for line in lines)
