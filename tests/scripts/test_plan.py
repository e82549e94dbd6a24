"""The numbers of the plan, counted again slowly: each pair, each weight and each slot."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.load import load_config
from model.config import ModelConfig
from model.cost import (
    attention_flops,
    cache_bytes,
    flops_per_token,
    forward_flops,
    full_attention,
    training_flops,
    training_memory,
)
from scripts.plan import main, plan, report

ROOT = Path(__file__).parents[2]
SHAPES = [
    ModelConfig(vocab_size=11, dim=8, n_layers=3, n_heads=4, n_kv_heads=2, sliding_window=w,
                attention_sinks=sinks, hidden_dim=20, head_dim=6, tie_embeddings=tied)
    for w in (1, 3, 7, 8, 9, None, [3, None], [1, 4, None])
    for sinks in (0, 1, 2, 9)
    for tied in (False, True)
]  # fmt: skip


def sees(i: int, j: int, window: int | None, sinks: int) -> bool:
    """The rule of model/window.py, written independently."""
    return j <= i and (window is None or i - j < window or j < sinks)


def matrices(shape: ModelConfig) -> list[tuple[int, int]]:
    """The shapes of all matrices that multiply a token."""
    d, dh, h, k, f = shape.dim, 6, shape.n_heads, shape.n_kv_heads, 20
    layer = [(d, h * dh), (d, k * dh), (d, k * dh), (h * dh, d), (d, f), (d, f), (f, d)]
    return layer * shape.n_layers + [(d, shape.vocab_size)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flops_are_those_of_each_multiplication(shape: ModelConfig) -> None:
    """Savings that the window does not make, or an MFU that is too high."""
    length, flops = 8, 0
    for i in range(length):
        flops += sum(2 * rows * columns for rows, columns in matrices(shape))
        for layer in range(shape.n_layers):
            for j in range(length):
                if sees(i, j, shape.windows[layer], shape.attention_sinks):
                    flops += shape.n_heads * (2 * 6 + 2 * 6)  # q . k, then weight * v
    assert forward_flops(shape, length) == flops
    assert training_flops(shape, length) == 3 * flops
    assert flops_per_token(shape, length) == 3 * flops / length


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cache_holds_what_a_later_token_may_still_see(shape: ModelConfig) -> None:
    """A cache size below what the cache must hold."""
    for length in range(1, 25):
        slots = 0
        for window in shape.windows:
            kept = length if window is None else window + shape.attention_sinks
            slots += len(range(length)[-kept:])
        assert cache_bytes(shape, length, 2) == slots * 2 * shape.n_kv_heads * 6 * 2
        assert cache_bytes(shape, length, 4) == 2 * cache_bytes(shape, length, 2)


def test_parameters_by_hand() -> None:
    """Weights that are not counted."""
    shape = SHAPES[0]
    per_layer = 8 * 24 + 8 * 12 + 8 * 12 + 24 * 8 + 3 * 8 * 20 + 2 * 8
    assert sum(shape.parameter_counts().values()) == 3 * per_layer + 8 + 2 * 11 * 8
    assert sum(SHAPES[1].parameter_counts().values()) == 3 * per_layer + 8 + 11 * 8


def test_memory_follows_optimizer_and_precision() -> None:
    """Moments that do not exist, or are counted twice."""
    shape = SHAPES[0]
    blocks = 3 * (8 * 24 + 8 * 12 + 8 * 12 + 24 * 8 + 3 * 8 * 20)
    rest = 3 * 2 * 8 + 8 + 2 * 11 * 8
    adamw = training_memory(shape, 2, 8, "adamw", 4)
    muon = training_memory(shape, 2, 8, "muon", 2)
    assert adamw.weights == adamw.gradients == 4 * (blocks + rest)
    assert adamw.moments == 8 * (blocks + rest)
    assert muon.moments == 4 * blocks + 8 * rest
    assert muon.checkpoint == 8 * blocks + 12 * rest
    assert adamw.activations == 2 * muon.activations > 0
    assert training_memory(shape, 4, 8, "adamw", 4).activations == 2 * adamw.activations
    parts = (adamw.weights, adamw.gradients, adamw.moments, adamw.activations)
    assert adamw.total == sum(parts)


def test_a_window_as_long_as_the_sequence_saves_nothing() -> None:
    """Savings by a window that hides nothing."""
    shape = ModelConfig(vocab_size=11, sliding_window=64)
    for length in (1, 63, 64):
        assert attention_flops(shape, length) == attention_flops(full_attention(shape), length)
    assert attention_flops(shape, 65) < attention_flops(full_attention(shape), 65)


def test_a_plan_multiplies_up() -> None:
    """A micro-batch or an accumulation that is not counted."""
    overrides = ["train.grad_accum_steps=3", "train.micro_batch_size=5", "train.max_steps=77"]
    config = load_config(ROOT / "configs/quickstart.yaml", overrides)
    result = plan(config)
    assert result.tokens_per_step == 3 * 5 * 256
    assert result.total_tokens == 77 * result.tokens_per_step
    assert result.flops_total == 77 * result.flops_per_step
    assert result.flops_per_step == pytest.approx(result.flops_per_token * result.tokens_per_step)


def test_a_plan_uses_the_precision_and_optimizer_of_the_config() -> None:
    """Memory that does not depend on the settings that decide it."""
    plans = {
        setting: plan(load_config(ROOT / "configs/quickstart.yaml", [setting])).memory
        for setting in ("train.precision=fp32", "train.precision=bf16", "train.optimizer=adamw")
    }
    fp32, bf16, adamw = plans.values()
    assert fp32.activations == 2 * bf16.activations
    assert adamw.moments == 2 * adamw.weights > fp32.moments


def test_a_plan_with_adapters_counts_what_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    """Memory and arithmetic of weights that are frozen."""
    words = ["train.init_from=runs/a", "train.lora_rank=8", "train.lora_targets=[wq, w2]"]
    config = load_config(ROOT / "configs/quickstart.yaml", words)
    full = plan(load_config(ROOT / "configs/quickstart.yaml", ["train.optimizer=adamw"]))
    result, adapters = plan(config), 4 * 8 * (192 + 192 + 512 + 192)
    assert result.parameters["adapters"] == adapters
    assert result.memory.weights == full.memory.weights + 4 * adapters
    assert (result.memory.gradients, result.memory.moments) == (4 * adapters, 8 * adapters)
    assert result.checkpoint_bytes == full.memory.weights + 12 * adapters
    assert result.memory.activations < full.memory.activations
    assert result.flops_per_token < 0.75 * full.flops_per_token
    assert "fp32, of the adapters" in report(result, config)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def test_mistral_7b_as_published(capsys: pytest.CaptureFixture[str]) -> None:
    """arXiv 2310.06825: 7.24 B weights, some 131K tokens of reach, an 8x smaller cache."""
    text = run(capsys, str(ROOT / "configs/mistral-7b.yaml"))
    assert "7,241,732,096  = 7.24 B" in text
    assert "1 + 32 x 4,095 = 131,041 tokens" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["32,768", "512.00", "MiB", "4.00", "GiB", "8x", "smaller"] in rows
    assert "NOTES" not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        (["model.sliding_window=256"], "in layers 0-3 the window is as long as data.seq_len"),
        (["model.sliding_window=[256, 8]"], "in 2 layers (0, 2) the window is as long"),
        (["model.sliding_window=64"], "the reach (253 tokens) is shorter than data.seq_len (256)"),
        (["model.sliding_window=[1, null, 8, 300]"], "in layer 3 the window"),
        (["model.attention_sinks=256"], "model.attention_sinks (256) covers all"),
        (
            ["tokenizer.vocab_size=32000", "model.dim=256", "model.tie_embeddings=false"],
            "85% of the weights are the vocabulary's",
        ),
        (
            ["train.max_steps=800", "train.save_interval=801"],
            "train.save_interval (801) is longer than the run",
        ),
        (["tokenizer.type=char"], "the plan counts all of tokenizer.vocab_size"),
        (["model.attention_sinks=2"], "does not depend on 1 earlier ones"),
    ],
)
def test_a_probable_mistake_is_noted(
    overrides: list[str], note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that teaches nothing because its window never hides a token."""
    config = load_config(ROOT / "configs/quickstart.yaml", overrides)
    assert any(note in line for line in plan(config).notes)
    text = run(capsys, str(ROOT / "configs/quickstart.yaml"), *overrides)
    assert note in " ".join(text.split())


def test_a_sound_config_has_no_notes() -> None:
    """Notes about settings that are right."""
    config = load_config(ROOT / "configs/quickstart.yaml", ["model.sliding_window=65"])
    assert plan(config).notes == []
    config = load_config(ROOT / "configs/quickstart.yaml", ["model.attention_sinks=3"])
    assert plan(config).notes == []


def test_masks_are_drawn_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    """A picture of another mask than the rule's."""
    text = run(
        capsys, str(ROOT / "configs/quickstart.yaml"), "data.seq_len=4",
        "model.sliding_window=[1, 2, null]", "model.attention_sinks=1",
    )  # fmt: skip
    start = text.splitlines().index("  W = 1      W = 2      full")
    drawn = [line[2:] for line in text.splitlines()[start + 1 : start + 5]]
    expected = [
        "    ".join(
            " ".join("#" if sees(i, j, window, 1) else "." for j in range(4))
            for window in (1, 2, None)
        )
        for i in range(4)
    ]
    assert drawn == expected


def test_json_holds_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers for a program that differ from those for a person."""
    words = [str(ROOT / "configs/quickstart.yaml"), "--json", "model.sliding_window=[64, null]"]
    values = json.loads(run(capsys, *words))
    result = plan(load_config(words[0], words[2:]))
    assert values["parameters"] == result.parameters
    assert values["flops_total"] == result.flops_total
    assert values["reach"] is None and values["windows"] == [64, None, 64, None]
    assert values["cache_bytes"]["1024"] == 2 * 2 * 48 * 2 * (2 * 64 + 2 * 1024)


@pytest.mark.parametrize(
    "words", [["none.yaml"], ["configs/quickstart.yaml", "seed=x"], ["train.max_step=3"]]
)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str]) -> None:
    """A traceback for a typo."""
    command = [sys.executable, "-m", "scripts.plan", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_help_begins_with_what_it_shows_and_ends_with_an_example() -> None:
    """A command that has to be read to be used."""
    command = [sys.executable, "-m", "scripts.plan", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "What does a config cost?" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("example: python -m scripts.plan ")
